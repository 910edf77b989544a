"""The commands that ask, as a person types them, beside what the same question gives in Python."""

import json
import runpy
import shutil
import sys
from io import BytesIO, FileIO, TextIOWrapper
from pathlib import Path
from typing import Any

import duckdb
import pytest

from annotate_transformer import store
from annotate_transformer.store.database import connection
from answers import differences
from asking import COMMANDS, Asking
from processes import start_function


@pytest.fixture(scope="module")
def s(two_steps: Path) -> store.Store:
    return store.open(two_steps)


@pytest.mark.some(2)
@pytest.mark.parametrize("command", COMMANDS)
def test_each_prints_a_table_and_json(command: str, ask: Asking) -> None:
    shown = ask.example(command)
    assert (shown.status, shown.err) == (0, "")
    assert len(shown.out.splitlines()) >= 4
    assert max(map(len, shown.out.splitlines())) <= 200
    as_json = ask.example(command, "--json")
    assert (as_json.status, as_json.err) == (0, "")
    answer = json.loads(as_json.out)
    assert answer
    if isinstance(answer, dict):
        tables = [part for part in answer.values() if isinstance(part, dict)]
        assert tables and all(part["rows"] for part in tables)


def test_json_is_what_python_gives(s: store.Store, ask: Asking) -> None:
    answer = json.loads(ask.example("neuron", "--json", "-k", 4).out)
    unit = s.neuron("L1N7")
    assert answer["run"] == 2
    assert [row["position_id"] for row in answer["high"]["rows"]] == unit.contexts(
        "high", 4
    ).position_id.tolist()
    assert answer["stats"]["rows"][0]["mean"] == pytest.approx(unit.stats()["mean"])
    assert answer["high"]["exact"] is True
    assert answer["tokens"]["exact"] is False
    assert "stored" in answer["tokens"]["note"]


def test_means_are_printed_with_their_intervals(s: store.Store, ask: Asking) -> None:
    loss, effect = s.mean("-next_logprob").iloc[0], s.head("L3H2").mean_effect().iloc[0]
    [totals] = json.loads(ask.example("stats", "--json").out)["totals"]["rows"]
    assert [totals[name] for name in ("loss_low", "loss_high")] == pytest.approx([loss.low, loss.high])
    [shown] = json.loads(ask.example("head", "--json").out)["mean_effect"]["rows"]
    assert shown == pytest.approx(effect.to_dict())
    assert f"{loss.low:.3f} to {loss.high:.3f}" in " ".join(ask.example("stats").out.split())
    assert f"{effect.low:+.4f} to {effect.high:+.4f}" in " ".join(ask.example("head").out.split())


def test_another_run_is_named(ask: Asking) -> None:
    assert "Run 1: neox-2m step1000" in ask.example("stats", "--run", 1).out
    assert "Run 2: neox-2m main" in ask.example("stats").out


@pytest.mark.parametrize(("command", "name"), [("neuron", "L1N7"), ("head", "L3H2")])
def test_a_models_weights_alone(command: str, name: str, ask: Asking) -> None:
    whole = json.loads(ask(command, name, "--json", "-k", 3).out)
    alone = json.loads(ask(command, name, "--model", 2, "--json", "-k", 3).out)
    assert (alone.pop("run"), alone["model"], "stats" in alone) == (None, "neox-2m main", False)
    assert alone.items() <= whole.items()
    shown = ask(command, name, "--model", "neox-2m main", "-k", 3).out
    assert shown.startswith("By the weights of neox-2m main")
    assert shown in ask(command, name, "-k", 3).out


def test_the_token_is_marked_in_its_text(ask: Asking) -> None:
    shown = ask.example("token", "-k", 3).out
    assert shown.count("« the»") == 3
    assert "first 3" in shown


def test_a_tokens_likes_are_listed(ask: Asking) -> None:
    shown = ask.example("token").out
    assert "Also in the vocabulary" in shown
    assert "·The" in shown


@pytest.mark.parametrize("command", ["phrase", "token"])
def test_it_says_whether_there_are_more(command: str, s: store.Store, ask: Asking) -> None:
    n = len(s.phrase(" of", limit=1000)) if command == "phrase" else int(s.tokens(" of").occurrences[0])
    assert 3 < n < 1000
    more = {"phrase": f"truncated: the first {n - 1} of {n}", "token": f"{n} occurrences, the first {n - 1}"}
    assert more[command] in ask(command, " of", "--limit", n - 1).out
    whole = ask(command, " of", "--limit", n).out
    assert "truncated" not in whole and "the first" not in whole


def test_expand_is_what_an_ingest_of_the_prompt_stores(s: store.Store, ask: Asking) -> None:
    """The beginning of a document as a prompt: nothing after it can have mattered."""
    first = s.sql("FROM positions WHERE run_id = 2 AND position = 9 ORDER BY position_id").iloc[0]
    text = s.documents().set_index("document_id").text[first.document_id][: first.char_end]
    live = json.loads(ask("expand", text, "--json").out)
    assert live["position"]["rows"][0]["top_token"] == first.top_token
    stored = s.decomposition(first.position_id, "component")
    rows = {(row["component"], row["layer"]): row["toward_top"] for row in live["component"]["rows"]}
    assert len(rows) == len(stored)
    for row in stored.to_dict("records"):
        layer = None if row["layer"] != row["layer"] or row["layer"] is None else row["layer"]
        assert rows[row["component"], layer] == pytest.approx(row["toward_top"], abs=1e-4)
    assert live["neuron"]["exact"] is True


def test_an_exported_run_opens_as_a_store(
    s: store.Store, ask: Asking, two_steps: Path, tmp_path: Path
) -> None:
    folder, again = tmp_path / "late", tmp_path / "again.duckdb"
    result = ask("export", folder, "--run", 2, "--format", "store")
    assert (result.status, result.err) == (0, "")
    with duckdb.connect(str(again)) as con:
        con.execute(f"IMPORT DATABASE '{folder}'")
    assert not [finding for finding in store.verify(again) if finding.broken]
    alone = tmp_path / "alone.duckdb"
    shutil.copy(two_steps, alone)
    with connection(alone, read_only=False) as con:
        for statement in duckdb.extract_statements(_forget_run_1()):
            con.execute(statement)
    assert differences(alone, again) == {}
    rows = duckdb.execute(f"SELECT count(*) FROM '{folder}/position.parquet'").fetchone()
    assert rows == (len(s.sql("FROM positions WHERE run_id = 2")),)
    refused = ask("export", folder, "--run", 2)
    assert refused.status == 2
    assert "exists already" in refused.err


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_a_run_is_exported_for_other_programs(
    s: store.Store, ask: Asking, tmp_path: Path, format: str
) -> None:
    told = ask("export", tmp_path / "run", "--run", 2, "--format", format, "--json")
    assert f"{tmp_path}/run/heads.{format}" in json.loads(told.out)["files"]
    names = """SELECT view_name FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal
               AND database_name = current_database()"""
    assert {path.stem for path in (tmp_path / "run").iterdir()} == {*s.sql(names).view_name}
    query = f"SELECT position_id, token FROM '{tmp_path}/run/positions.{format}'"
    stored = s.sql("SELECT position_id, token FROM positions WHERE run_id = 2 ORDER BY position_id")
    assert duckdb.execute(query).fetchall() == list(stored.itertuples(index=False, name=None))
    read = f"FROM '{tmp_path}/run/heads.{format}'"
    found = duckdb.execute(f"SELECT count(*), sum(toward_top::DOUBLE) {read}").fetchone()
    query = "SELECT count(*) AS n, sum(toward_top::DOUBLE) AS total FROM heads WHERE run_id = 2"
    assert found == pytest.approx(tuple(s.sql(query).iloc[0]))
    assert "format is 'xlsx'" in ask("export", tmp_path / "other", "--format", "xlsx").err


def _forget_run_1() -> str:
    from annotate_transformer.store.catalogue import tables_of

    forgotten = ";".join(table.delete for table in tables_of("run")).replace("$id", "1")
    return f"{forgotten}; DELETE FROM base.model WHERE model_id = 1"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("neuron", "L9N7"), "only L0N0 to L3N511"),
        (("head", "L0N7"), "is not a head"),
        (("position", 5 * 10**9), "has no position"),
        (("token", "Qwertz"), "No token is exactly"),
        (("stats", "--run", 7), "has no run 7; it has 1, 2"),
        (("compare", 1, 7), "has no run 7"),
        (("compare", 1, 2, "--what", "losses"), "positions, neurons, heads"),
        (("token", "a", "--match", "sound"), "one of exact, like"),
        (("token", "(", "--match", "regex"), "no regular expression"),
        (("neurons", "--token", " the", "--erasing"), "not both"),
        (("heads", "--kind", "X"), "one of Q, K, V"),
        (("neurons", "--model", "neox-2m"), "several models"),
        (("heads", "--model", "pythia-70m"), "it has 1 (neox-2m step1000), 2 (neox-2m main)"),
        (("bigrams", "--model", 1), "no weights of neox-2m step1000"),
        (("neuron", "L3N7", "--model", 2, "--run", 1), "Give either a run or a model, not both."),
        (("head", "L4H0", "--model", 2), "only L0H0 to L3H3"),
        (("weights", "--device", "nonsense"), "Device 'nonsense' cannot be used"),
        (("weights", "--dtype", "float16"), "--dtype float16"),
        (("weights", "--model", "neox-2n"), "neox-2m"),
        (("app", "--port", 99999), "65535"),
        (("export", "/dev/null/folder"), "/dev/null/folder cannot be made"),
        (("expand", "\udcff"), "is no text"),
        (("token", " the", "--limit", 10**20), "less than or equal to 1000000000"),
    ],
)
def test_a_mistake_is_a_sentence(words: tuple[Any, ...], told: str, ask: Asking) -> None:
    result = ask(*words)
    assert result.status == 2
    assert told in " ".join(result.err.split())
    assert "Traceback" not in result.err


def test_tokens_are_written_whatever_the_terminals_encoding(
    ask: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(written, encoding="ascii"))
    assert ask("token", " the").status == 0
    assert written.getvalue().decode().startswith("·the (token ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's")
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_full_disk_is_told(more: tuple[str, ...], ask: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    with TextIOWrapper(FileIO("/dev/full", "w"), write_through=True) as full:
        monkeypatch.setattr(sys, "stdout", full)
        result = ask("runs", *more)
    monkeypatch.undo()
    ask("runs")  # prints what is left in the console's buffer, which the next test would print otherwise
    assert (result.status, "No space left" in result.err) == (2, True)


def test_no_rows_say_why(ask: Asking) -> None:
    result = ask("phrase", "Zzyzx Road")
    assert (result.status, result.out) == (0, "")
    assert "is in no document" in result.err
    none = ask("token", "^zzz", "--match", "regex")
    assert "no such token" in none.err
    assert "next-token of no neuron of neox-2m main" in ask("neurons", "--token", "the").err


@pytest.mark.soak
def test_the_study_finds_the_induction_head(tmp_path: Path) -> None:
    """examples/analysis.py as a user runs it, on a part of the corpus."""
    script = Path(__file__).parent.parent / "examples" / "analysis.py"
    words = [str(script), "--db", "steps.duckdb", "--out", "pictures", "--limit-tokens", "1000"]
    result = start_function(run_script, words, folder=tmp_path).wait(300)
    assert result.status == 0, result.err
    assert "The head that looks at what followed last time is L3H2" in result.out
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == ["effect.png", "induction.png", "loss.png"]


def run_script(words: list[str]) -> None:
    """In a process of its own: what `python script.py …` does."""
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
