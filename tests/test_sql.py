"""`annotate sql` and `annotate schema`, as commands; every format read back."""

import csv
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from annotate_transformer import store
from annotate_transformer.app.present import formats
from annotate_transformer.app.present.formats import FORMATS, write
from annotate_transformer.store import AnnotateError
from annotate_transformer.store.database import create
from annotate_transformer.store.queries import named
from annotate_transformer.store.restricted import UNNAMED, distinct
from processes import Result, annotate, start, until
from small import SETTINGS, corpus

ROWS = """
SELECT position_id, token, next_token, next_rank, next_logprob, is_first, encode(token) AS bytes,
       [next_rank, NULL] AS list, started, NULL AS nothing, position AS token
FROM positions JOIN runs USING (run_id) ORDER BY position_id
"""
NAMES = ["position_id", "token", "next_token", "next_rank", "next_logprob", "is_first", "bytes", "list"]
NAMES += ["started", "nothing", "token_1"]


@pytest.fixture(scope="module")
def db(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sql")
    source = corpus(folder / "small.jsonl", (3, 1, 9, 2))
    made = annotate("ingest", source, "--db", "x.duckdb", "--model", tiny_model, *SETTINGS, folder=folder)
    assert made.status == 0, made.err
    (folder / "rows.sql").write_text(ROWS)
    return folder / "x.duckdb"


def ask(db: Path, *words: object, stdin: bytes = b"") -> Result:
    result = annotate("sql", *words, "--db", db.name, folder=db.parent, stdin=stdin)
    assert "Traceback" not in result.err
    return result


@pytest.fixture(scope="module")
def rows(db: Path) -> pd.DataFrame:
    frame = store.open(db).sql(ROWS)
    assert len(frame) > 100
    assert frame["next_token"].isna().any()
    assert [*frame.columns] == NAMES
    return frame


# Every format, by the command


def test_csv(db: Path, rows: pd.DataFrame) -> None:
    """Written as it is computed; NULL has no quotes, text has."""
    result = ask(db, "-f", "rows.sql", "--format", "csv", "--raw")
    assert (result.status, result.err) == (0, "")
    reading = arrow_csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False)
    parsing = arrow_csv.ParseOptions(newlines_in_values=True)
    table = arrow_csv.read_csv(io.BytesIO(result.out.encode()), None, parsing, reading).to_pydict()
    assert_same(rows, table, str)


def test_json(db: Path, rows: pd.DataFrame) -> None:
    result = ask(db, "--file", "rows.sql", "--json")
    assert (result.status, result.err) == (0, "")
    assert_same(rows, by_column(json.loads(result.out)), list)


def test_jsonl(db: Path, rows: pd.DataFrame) -> None:
    result = ask(db, "-f", "-", "--format", "jsonl", stdin=ROWS.encode())
    assert (result.status, result.err) == (0, "")
    assert_same(rows, by_column([json.loads(line) for line in result.out.splitlines()]), list)


def test_parquet(db: Path, rows: pd.DataFrame) -> None:
    result = ask(db, "-f", "rows.sql", "--output", "rows.parquet")
    assert result == Result(0, "", "")
    table = parquet.read_table(db.parent / "rows.parquet")
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        pd.testing.assert_frame_equal(con.from_arrow(table).df(), rows)
    assert not [*db.parent.glob("*.part")]


def test_markdown(db: Path, rows: pd.DataFrame) -> None:
    result = ask(db, "-f", "rows.sql", "--output", "rows.md")
    assert result == Result(0, "", "")
    heading, rule, *lines = (db.parent / "rows.md").read_text().splitlines()
    assert heading == f"| {' | '.join(NAMES)} |"
    assert rule.startswith("| ---: | --- | --- | ---: |")
    assert len(lines) == len(rows)
    assert all(len(line.replace("\\|", "").split(" | ")) >= len(NAMES) for line in lines)


def by_column(records: list[dict[str, object]]) -> dict[str, list[object]]:
    return {name: [record[name] for record in records] for name in records[0]}


def assert_same(rows: pd.DataFrame, table: dict[str, list[object]], kept: type) -> None:
    """What was read back, by column, is what the store holds. kept: how a list comes back."""
    assert [*table] == NAMES
    for name in ("position_id", "token", "next_token", "is_first", "token_1"):
        assert table[name] == rows[name].astype(object).where(rows[name].notna(), None).tolist(), name
    for name in ("next_rank", "next_logprob"):
        read = pd.Series(table[name], name=name).astype(rows[name].dtype)
        pd.testing.assert_series_equal(read, rows[name])
    assert table["bytes"] == [bytes(value).hex() for value in rows["bytes"]]
    ranks = [None if pd.isna(rank) else int(rank) for rank in rows["next_rank"]]
    lists = table["list"] if kept is list else [json.loads(str(text)) for text in table["list"]]
    assert lists == [[rank, None] for rank in ranks]
    assert {pd.Timestamp(str(text)) for text in table["started"]} == {*rows["started"]}
    assert {*table["nothing"]} == {None}


# Tables


def test_a_table_fits_and_says_what_it_left_out(db: Path, rows: pd.DataFrame) -> None:
    query = "SELECT position_id, next_logprob, repeat(token, 99) AS long, p.* FROM positions p ORDER BY 1"
    result = ask(db, query, "--limit", 50)
    lines = result.out.splitlines()
    assert all(len(line) <= 120 for line in lines)  # COLUMNS in processes.py
    assert len([line for line in lines if line.lstrip()[0].isdigit()]) == 50
    assert lines[2].startswith(f"{'1':>{len('position_id')}}  ")
    assert "…" in lines[2]
    assert any(line.startswith("Columns that do not fit: ") for line in lines)
    assert result.err == "annotate: only the first 50 rows; --limit N gives more.\n"


def test_a_thousand_rows_unless_asked_for_more(db: Path) -> None:
    cut = ask(db, "FROM range(1001)")
    assert (cut.out.splitlines()[-1], cut.out.count("\n")) == ("  999", 1001)
    assert "only the first 1,000 rows" in cut.err
    whole = ask(db, "FROM range(1000)")
    assert (whole.out, whole.err) == (cut.out, "")


def test_nothing_found(db: Path) -> None:
    assert ask(db, "FROM runs WHERE run_id = 7", "--json") == Result(
        0, "[\n]\n", "No rows. `annotate runs` lists the runs.\n"
    )
    assert "start at 0; `FROM models` says" in ask(db, "FROM neuron_contexts(99, 0)").err
    assert "leading space matters" in ask(db, "FROM token_occurrences('Zzyzx')").err


# Parameters


def test_parameters(db: Path) -> None:
    query = "SELECT $a AS a, typeof($b) AS b, $c AS c, $d IS NULL AS d, $e AS e, $f AS f"
    given = ("a=-3", "b=2.5", "c='7'", "d=null", "e= the = sign", "f=it's")
    words = [word for item in given for word in ("--param", item)]
    told = json.loads(ask(db, query, *words, "--json").out)
    assert told == [{"a": -3, "b": "DOUBLE", "c": "7", "d": True, "e": " the = sign", "f": "it's"}]


# What is wrong


@pytest.mark.parametrize("options", [[], ["--restricted"]])
def test_an_error_shows_its_place(options: list[str], db: Path) -> None:
    result = ask(db, "SELECT token,\n nonsense FROM positions", *options)
    assert (result.status, result.out) == (2, "")
    first, *_, line, caret = result.err.splitlines()
    assert first.startswith("annotate: Binder Error: ")
    assert line == "LINE 2:  nonsense FROM positions"
    assert caret.index("^") == line.index("nonsense")


def test_an_error_after_many_rows_leaves_no_file(db: Path) -> None:
    query = "SELECT CASE WHEN range = 400000 THEN 'x' ELSE '1' END::INTEGER FROM range(500000)"
    result = ask(db, query, "--output", "half.csv")
    assert (result.status, result.out) == (2, "")
    assert ("Conversion Error" in result.err and "^" in result.err) or UNNAMED in result.err
    assert not [*db.parent.glob("half.csv*")]


def test_ctrl_c_ends_a_query_at_once(db: Path) -> None:
    """This one is a single task of DuckDB's, between whose tasks Python would hear of it."""
    endless = "SELECT count(*) FROM range(100000000000) a, range(1000000) b"
    running = start("sql", endless, "--output", "endless.csv", "--db", db.name, folder=db.parent)
    until(lambda: [*db.parent.glob("endless.csv.*.part")])
    time.sleep(0.5)
    running.send(signal.SIGINT)
    result = running.wait()
    assert (result.status, result.out) == (130, "")
    assert "Traceback" not in result.err
    assert not [*db.parent.glob("endless.csv*")]


@pytest.mark.some(4)
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "either as QUERY or with --file"),
        (["SELECT 1", "-f", "rows.sql"], "either as QUERY or with --file"),
        (["-f", "missing.sql"], "missing.sql cannot be read"),
        (["-f", "rows.sql", "--format", "xml"], "table, csv, json, jsonl, parquet, markdown"),
        (["SELECT 1", "--param", "x"], "NAME=VALUE"),
        (["SELECT 1", "--format", "csv", "--output", "x.duckdb"], "is the store itself"),
        (["SELECT 1", "--output", "missing/x.csv"], "cannot be written"),
        (["SELECT 1", "--output", "x.xlsx"], "x.xlsx does not say the format"),
        (["DROP VIEW positions"], "read-only"),
        (["/**/"], "no statement"),
        (["FROM read_text('rows.sql')", "--restricted"], "disabled by configuration"),
    ],
)
def test_a_mistake_is_a_sentence(words: list[str], told: str, db: Path) -> None:
    before = db.read_bytes()
    result = ask(db, *words)
    assert (result.status, result.out) == (2, "")
    assert told in result.err
    assert db.read_bytes() == before


def test_restricted(db: Path) -> None:
    counted = "SELECT count(*) AS n FROM positions"
    assert ask(db, counted, "--restricted", "--json").out == ask(db, counted, "--json").out
    cut = ask(db, "FROM range(20000)", "--restricted", "--format", "csv")
    assert cut.out.count("\n") == 10_001
    assert "only the first 10,000 rows" in cut.err


def test_files_are_read_without_it(db: Path) -> None:
    assert "next_rank" in ask(db, "SELECT content FROM read_text('rows.sql')", "--format", "csv").out


# Formats by themselves

ODD = """
SELECT 'NaN'::FLOAT AS nan, 0.1::FLOAT AS float, 'inf'::DOUBLE AS inf, sum(1) AS huge,
       1.50::DECIMAL(5, 2) AS decimal, DATE '2020-01-02' AS date, TIMESTAMP '2020-01-02 03:04:05' AS second,
       TIMESTAMP 'infinity' AS never, TIMESTAMPTZ '2020-01-02 03:04:05.678+00' AS instant,
       {'a': ['x'::BLOB, NULL]} AS struct, MAP {1: 'NaN'::FLOAT} AS map, '' AS empty,
       ' a|b' || chr(10) || '"c"' AS text, true AS yes, 'x'::BLOB AS blob, NULL::VARCHAR AS nothing
"""
ODD_JSON = {
    "nan": None,
    "float": 0.1,
    "inf": None,
    "huge": 1,
    "decimal": 1.5,
    "date": "2020-01-02",
    "second": "2020-01-02T03:04:05",
    "never": "infinity",
    "instant": "2020-01-02T03:04:05.678000Z",
    "struct": {"a": ["78", None]},
    "map": [[1, None]],
    "empty": "",
    "text": ' a|b\n"c"',
    "yes": True,
    "blob": "78",
    "nothing": None,
}


@pytest.fixture
def odd() -> pa.Table:
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        return con.execute(ODD).to_arrow_table()


def written(answer: object, format: str) -> str:
    out = io.BytesIO()
    write(answer, format, out)  # type: ignore[arg-type]
    return out.getvalue().decode()


def test_odd_values(odd: pa.Table) -> None:
    assert json.loads(written(odd, "json")) == [ODD_JSON]
    assert json.loads(written(odd, "jsonl")) == ODD_JSON
    [names, cells] = csv.reader(io.StringIO(written(odd, "csv")))
    told = dict(zip(names, cells, strict=True))
    assert told["text"] == ODD_JSON["text"]
    assert (told["float"], told["nan"], told["inf"], told["decimal"]) == ("0.1", "nan", "inf", "1.50")
    assert json.loads(told["struct"]) == ODD_JSON["struct"]
    assert ',"",' in written(odd, "csv")
    assert r'|  a\|b<br>"c" |' in written(odd, "markdown")
    table = written(odd.select(["float", "text", "nothing"]), "table")
    assert [line.rstrip() for line in table.splitlines()] == [
        "float  text      nothing",
        '  0.1  ·a|b "c"  —',
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_a_frame_and_no_row_at_all(format: str) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    for some in (frame, frame.head(0)):
        out = io.BytesIO()
        assert write(some, format, out) == len(some)
    assert write(pa.table({}), format, io.BytesIO()) == 0


def test_parquet_is_not_for_a_terminal() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "wb", buffering=0) as out, pytest.raises(AnnotateError, match="--output FILE"):
        formats.check("parquet", out)
    os.close(ours)


def test_a_type_that_parquet_does_not_know() -> None:
    interval = duckdb.sql("SELECT INTERVAL 1 DAY AS i").to_arrow_table()
    with pytest.raises(AnnotateError, match="VARCHAR"):
        written(interval, "parquet")


@pytest.mark.parametrize("names", [["a", "b"], ["a", "A", "a"], ["a", "a_1", "a"], []])
def test_names_differ_as_in_duckdb(names: list[str]) -> None:
    wanted = duckdb.sql(f"SELECT {', '.join(f'1 AS {name}' for name in names)}").df() if names else {}
    assert distinct(names) == [*wanted]


# The schema


PUBLIC = "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal AND schema_name = 'main'"


def test_every_view_and_macro_is_listed(db: Path) -> None:
    listed = annotate("schema", folder=db.parent)
    assert (listed.status, listed.err) == (0, "")
    assert listed.out == annotate("schema", "--db", db.name, folder=db.parent).out
    lines = listed.out.splitlines()[1:]
    with duckdb.connect() as con:
        create(con)
        views = con.execute(PUBLIC).fetchall()
    for name, comment in views:
        [line] = [line for line in lines if line.split()[0] == name]
        assert line.rstrip().endswith(comment)
    assert any(re.match(r"context\(position_id, before, after\) +What is the text ", line) for line in lines)


def test_one_views_columns(db: Path) -> None:
    told = json.loads(annotate("schema", "Neurons", "--json", folder=db.parent).out)
    described = store.open(db).sql("DESCRIBE neurons")
    assert [row["column"] for row in told] == described["column_name"].tolist()
    assert [row["type"] for row in told] == described["column_type"].tolist()
    [activation] = [row for row in told if row["column"] == "activation"]
    assert "hook_post" in activation["comment"]
    shown = annotate("schema", "neurons", folder=db.parent).out
    assert shown.startswith("neurons: Which neurons were active or had an effect at a position? ")
    assert activation["comment"] in shown


def test_a_macros_columns_and_an_unknown_name(db: Path) -> None:
    told = annotate("schema", "phrase", "--db", db.name, folder=db.parent).out
    assert told.startswith("phrase(text, run): Where does this text occur? One row per occurrence")
    assert "first_position_id  BIGINT" in told
    result = annotate("schema", "nuerons", folder=db.parent)
    assert (result.status, result.out) == (2, "")
    assert "no view or macro 'nuerons'. Did you mean neurons" in result.err


def test_its_queries_can_be_planned() -> None:
    with duckdb.connect() as con:
        create(con)
        for name, query in named("describe.sql").items():
            values = {"name": "runs"} if "$name" in query else {"schema": ""}
            assert con.execute(f"EXPLAIN {query}", values).fetchall(), name


def test_the_help_needs_no_model() -> None:
    """And so comes at once."""
    heavy = {"torch", "transformers", "streamlit", "scipy"}
    assert not heavy & imported_by("annotate_transformer.app.cli.commands")


def imported_by(module: str) -> set[str]:
    code = f"import {module}, sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {*ran.stdout.split()}
