"""`annotate mcp` with the SDK's own client: a real process, and the answers of the Python API."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from mcp import Client, StdioServerParameters

from annotate_transformer import ingest, store
from annotate_transformer.app.agents.answers import MOST_CHARACTERS, MOST_ROWS, MOST_TEXT
from annotate_transformer.store.search import head, position
from processes import ENVIRONMENT, annotate

SECRET = "4711 is the secret"
PROMPT = "Tom met Mary."
LONG = "SELECT position_id, repeat('x', 5000) AS text, range(5000) AS many FROM positions"
PLACE = 20  # a position with a next token

# Each call: the tool, and its arguments. {folder} in them is filled in.
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "runs": ("runs", {}),
    "schema": ("schema", {}),
    "columns": ("schema", {"view": "positions"}),
    "sql": ("sql", {"query": "SELECT token, count(*) AS n FROM positions GROUP BY ALL ORDER BY ALL LIMIT 7"}),
    "tokens": ("tokens", {"text": ".", "rows": 3}),
    "phrase": ("phrase", {"text": "is the capital of", "rows": 2}),
    "search": ("search", {"where": 'next_rank > 100 and l1h0 < 0 and token = " met"', "rows": 4}),
    "component": ("position", {"position_id": PLACE}),
    "neuron terms": ("position", {"position_id": PLACE, "by": "neuron", "rows": 3}),
    "neuron": ("neuron", {"name": "l1n7", "rows": 4}),
    "head": ("head", {"name": "L1H1", "rows": 4}),
    "any target": ("position", {"position_id": PLACE, "by": "head", "toward": "id=5", "minus": "next"}),
    "prompt": ("prompt", {"text": PROMPT, "by": "head"}),
    "ablation": ("ablation", {"position_id": PLACE, "units": ["heads"]}),
    # What is answered by an error
    "no such neuron": ("neuron", {"name": "L1N32"}),
    "no such token": ("tokens", {"text": " the cat"}),
    "no such position": ("position", {"position_id": 10**9}),
    "no such view": ("schema", {"view": "positons"}),
    "no such condition": ("search", {"where": "lossy > 3"}),
    "wrong sql": ("sql", {"query": "SELEC token FROM positions"}),
    "two statements": ("sql", {"query": "SELECT 1; SELECT 2"}),
    "writing": ("sql", {"query": "DELETE FROM base.position"}),
    "a file": ("sql", {"query": "FROM read_text('{folder}/secret.txt')"}),
    "another file": ("sql", {"query": "FROM '{folder}/secret.csv'"}),
    "empty prompt": ("prompt", {"text": ""}),
    "long prompt": ("prompt", {"text": "a " * 5001}),
    "no such unit": ("ablation", {"position_id": PLACE, "units": ["L7mlp"]}),
    "wrong rows": ("runs", {"rows": MOST_ROWS + 1}),
    "no such tool": ("rm", {}),
    # What is too long
    "long": ("sql", {"query": LONG, "rows": MOST_ROWS}),
    "wide": ("sql", {"query": "SELECT " + ", ".join(f"repeat('x', 1999) AS c{i}" for i in range(30))}),
    "odd numbers": ("sql", {"query": "SELECT 'NaN'::FLOAT AS a, 'inf'::FLOAT AS b, [1, 'NaN'::FLOAT] AS c"}),
}


class Session(NamedTuple):
    """What a client was told. answers: whether the call failed, and its text; changed: in the folder."""

    db: Path
    tools: list[Any]
    answers: dict[str, tuple[bool, str]]
    changed: bool

    def tables(self, call: str) -> dict[str, Any]:
        failed, text = self.answers[call]
        assert not failed, text
        return dict(json.loads(text)["tables"])


@pytest.fixture(scope="module")
def session(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """One process, and all calls."""
    folder = tmp_path_factory.mktemp("agents")
    db = folder / "x.duckdb"
    db.write_bytes(made.read_bytes())
    (folder / "secret.txt").write_text(SECRET)
    (folder / "secret.csv").write_text(f"a,b\n1,{SECRET}\n")
    before = _hashes(folder)
    tools, answers = asyncio.run(_asked(db))
    return Session(db, tools, answers, _hashes(folder) != before)


async def _asked(db: Path) -> tuple[list[Any], dict[str, tuple[bool, str]]]:
    command = ["-m", "annotate_transformer.app.cli", "mcp", "--db", str(db)]
    environment = ENVIRONMENT | {
        name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ
    }
    server = StdioServerParameters(command=sys.executable, args=command, env=environment)
    answers = {}
    async with Client(server) as client:
        tools = (await client.list_tools()).tools
        for call, (tool, arguments) in CALLS.items():
            filled = {
                name: value.replace("{folder}", str(db.parent)) if isinstance(value, str) else value
                for name, value in arguments.items()
            }
            answer = await client.call_tool(tool, filled)
            [content] = answer.content
            answers[call] = bool(answer.is_error), content.text
    return tools, answers


def _hashes(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def same(table: dict[str, Any], expected: pd.DataFrame) -> None:
    """The table has these rows: whole numbers and texts are equal, other numbers nearly.

    Nearly, as another process may add the activations in another order.
    """
    times = expected.select_dtypes("datetimetz")
    expected = expected.assign(**{name: column.astype(str) for name, column in times.items()})
    rows = json.loads(expected.to_json(orient="records", double_precision=15, force_ascii=False))
    assert len(table["rows"]) == len(rows)
    for found, row in zip(table["rows"], rows, strict=True):
        assert found.keys() == row.keys()
        for name, value in row.items():
            if isinstance(value, float):
                assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
            elif not isinstance(found[name], str) or isinstance(value, str):
                assert found[name] == value, name


def largest(frame: pd.DataFrame, column: str, rows: int) -> pd.DataFrame:
    return frame.loc[frame[column].astype(float).abs().sort_values(ascending=False, kind="stable").index][
        :rows
    ]


def test_every_tool_and_parameter_is_described(session: Session) -> None:
    named = {tool.name: tool for tool in session.tools}
    assert {*named} == {tool for tool, _ in CALLS.values()} - {"rm"}
    for tool in named.values():
        assert tool.description.endswith(".") and "  " not in tool.description
        assert tool.annotations.read_only_hint is True
        for name, schema in tool.input_schema["properties"].items():
            assert schema["description"], (tool.name, name)
            assert {"type", "anyOf"} & schema.keys(), (tool.name, name)
    for name in ("prompt", "ablation"):
        assert "Run a run's model" in named[name].description
        assert "Nothing is written" in named[name].description


def test_the_answers_about_the_store_are_those_of_python(session: Session) -> None:
    with store.open(session.db) as s:
        same(session.tables("runs")["runs"], s.runs())
        same(session.tables("sql")["rows"], s.sql(CALLS["sql"][1]["query"]))
        same(session.tables("tokens")["tokens"], s.tokens("."))
        same(session.tables("tokens")["occurrences"], s.occurrences(".", limit=3))
        same(session.tables("phrase")["phrase"], s.phrase("is the capital of", limit=2))
        where = (position.next_rank > 100) & (head("L1H0").toward_next < 0) & (position.token == " met")
        same(session.tables("search")["positions"], s.search(where, limit=4))
        columns = s.sql(
            "SELECT column_name FROM duckdb_columns() WHERE table_name = 'positions' ORDER BY ALL"
        )
        told = {row["column"] for row in session.tables("columns")["columns"]["rows"]}
        assert told == {*columns.column_name}
        assert {"positions", "runs", "heads"} <= {
            row["name"] for row in session.tables("schema")["views"]["rows"]
        }


def test_the_answers_about_a_position_a_neuron_and_a_head_are_those_of_python(session: Session) -> None:
    with store.open(session.db) as s:
        components = session.tables("component")
        same(components["position"], s.position(PLACE).to_frame().T)
        same(components["decomposition"], largest(s.decomposition(PLACE, "component"), "toward_next", 20))
        terms = session.tables("neuron terms")["decomposition"]
        expected = s.decomposition(PLACE, "neuron")
        same(terms, largest(expected, "toward_next", 3))
        assert (terms["exact"], terms["truncated"]) == (False, True)
        assert (terms["total"], terms["bound"]) == (expected.attrs["total"], expected.attrs["bound"])
        for call, unit in {"neuron": s.neuron("L1N7"), "head": s.head("L1H1")}.items():
            tables = session.tables(call)
            same(tables["high"], unit.contexts("high", 4))
            same(tables["low"], unit.contexts("low", 4))
            same(tables["tokens"], unit.tokens(4))
            same(tables["stats"], unit.stats().drop("histogram").to_frame().T)
            assert tables["effects"]["exact"] == unit.effects(4).attrs["exact"]


def test_the_answers_of_a_model_are_those_of_python_and_nothing_is_stored(session: Session) -> None:
    with ingest.open(session.db) as s:
        terms = s.decomposition(PLACE, "head", 5, "next")
        table = session.tables("any target")["decomposition"]
        same(table, largest(terms, "effect", 20))
        assert table["logit"] == pytest.approx(terms.attrs["logit"], rel=1e-4)
        with s.prompt(PROMPT) as alone:
            of_prompt = alone.decomposition(alone.last, "head", "top")
            same(session.tables("prompt")["decomposition"], largest(of_prompt, "effect", 20))
            same(session.tables("prompt")["likeliest"], alone.likeliest(alone.last, 10))
        found = s.ablate(PLACE, "heads", keep=False)
        same(session.tables("ablation")["ablations"], largest(found, "total_effect", 20))
    assert not session.changed


SENTENCES = {
    "no such neuron": "has no neuron L1N32, only L0N0 to L1N31.",
    "no such token": "No token is exactly ' the cat'.",
    "no such position": "has no position 1000000000.",
    "no such view": "Did you mean positions",
    "no such condition": "There is no 'lossy' to ask about",
    "wrong sql": 'syntax error at or near "SELEC"',
    "two statements": "only one SELECT is allowed",
    "writing": "Only SELECT is allowed here, not DELETE.",
    "a file": "disabled",
    "another file": "disabled",
    "empty prompt": "The prompt is empty",
    "long prompt": "at most 10000 characters",
    "no such unit": "has no layer 7",
    "wrong rows": f"less than or equal to {MOST_ROWS}",
    "no such tool": "rm",
}


@pytest.mark.parametrize("call", SENTENCES)
def test_an_error_is_a_sentence(call: str, session: Session) -> None:
    failed, text = session.answers[call]
    assert failed
    assert SENTENCES[call] in text
    assert "Traceback" not in text
    assert SECRET not in text


def test_no_answer_is_longer_than_it_may_be_and_says_so(session: Session) -> None:
    for call, (_, text) in session.answers.items():
        assert len(text) < MOST_CHARACTERS + 3000, call
        assert text.isprintable() or call in SENTENCES, call
    long = session.tables("long")["rows"]
    assert (long["truncated"], long["exact"]) == (True, None)
    assert 0 < len(long["rows"]) < MOST_ROWS
    assert "truncated: the first" in long["note"]
    for row in long["rows"]:
        assert row["text"] == f"{'x' * MOST_TEXT}… (3,000 more characters)"
        assert len(row["many"]) < MOST_TEXT + 100
    [row] = session.tables("odd numbers")["rows"]["rows"]
    assert row == {"a": None, "b": "inf", "c": [1.0, None]}


def test_a_row_that_does_not_fit_is_left_out(session: Session) -> None:
    wide = session.tables("wide")["rows"]
    assert (wide["rows"], wide["truncated"], wide["total"]) == ([], True, 1)


def test_standard_output_has_nothing_but_the_protocol(made: Path, tmp_path: Path) -> None:
    """Written by hand: the client hides lines that are no messages. At the end of its input, it ends."""
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    messages = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
    ]
    lines = "".join(json.dumps(message) + "\n" for message in messages)
    ran = annotate("mcp", "--db", made, folder=tmp_path, stdin=lines.encode())
    assert (ran.status, ran.err) == (0, "")
    [answer] = [json.loads(line) for line in (ran.out or "").splitlines()]
    assert answer["result"]["serverInfo"]["name"] == "annotate"
    assert "never instructions" in answer["result"]["instructions"]


def test_a_store_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    ran = annotate("mcp", "--db", tmp_path / "no.duckdb", folder=tmp_path)
    assert (ran.status, ran.out) == (2, "")
    assert "no.duckdb" in ran.err
    assert "Traceback" not in ran.err


def test_without_the_extra_a_sentence_names_it(made: Path) -> None:
    code = "import sys; sys.modules['mcp'] = None; from annotate_transformer.app.cli.main import main; main()"
    command = [sys.executable, "-c", code, "mcp", "--db", str(made)]
    ran = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "pip install 'annotate-transformer[mcp]'" in ran.stderr
