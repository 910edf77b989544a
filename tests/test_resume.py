"""Killed, interrupted, asked twice: a run comes out as one that nothing ever happened to."""

import hashlib
import json
import random
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from answers import differences, sql
from processes import Result, Running, annotate, start, until
from small import SETTINGS, committed, corpus, until_committed


@dataclass(frozen=True)
class Command:
    """`annotate ingest` of one text with one model; further options come last and prevail."""

    text: Path
    settings: tuple[object, ...]

    def start(self, folder: Path, *options: object) -> Running:
        return start("ingest", self.text, "--db", "x.duckdb", *self.settings, *options, folder=folder)

    def run(self, folder: Path, *options: object) -> Result:
        result = self.start(folder, *options).wait()
        assert "Traceback" not in result.err, result.err
        return result

    def finish(self, folder: Path, *options: object) -> None:
        """Run it to the end, and find the store sound."""
        result = self.run(folder, *options)
        assert result.status == 0, result.err
        assert_sound(folder / "x.duckdb")


SENTENCES = (3, 1, 7, 2, 30, 4, 6, 1, 3, 8, 2, 1, 24, 6)  # of each document: some are long


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("text") / "small.jsonl", SENTENCES)


@pytest.fixture(scope="module")
def command(text: Path, tiny_model: Path) -> Command:
    return Command(text, ("--model", tiny_model, *SETTINGS))


@pytest.fixture(scope="module")
def unbroken(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("unbroken")
    command.finish(folder)
    assert committed(folder / "x.duckdb") >= 6
    return folder / "x.duckdb"


@pytest.fixture
def finished(unbroken: Path, tmp_path: Path) -> Path:
    """A copy of it, for what is done to a finished run."""
    return Path(shutil.copy(unbroken, tmp_path))


def assert_sound(db: Path) -> None:
    check = annotate("verify", db, folder=db.parent)
    assert check.status == 0, check.out


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# Killed


@pytest.mark.some(2)
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments(seed: int, command: Command, unbroken: Path, tmp_path: Path) -> None:
    db, draw, kills = tmp_path / "x.duckdb", random.Random(seed), 0
    for more in draw.sample([0, 1, 2], 3):
        wanted, running = committed(db) + more, command.start(tmp_path)
        wait_for(running, db, wanted)
        time.sleep(draw.uniform(0, 0.7))
        kills += killed(running)
    assert kills >= 2, "the run was over before it could be killed"
    command.finish(tmp_path)
    assert differences(unbroken, db) == {}


def test_killed_while_a_shard_is_written(command: Command, unbroken: Path, tmp_path: Path) -> None:
    db, kills = tmp_path / "x.duckdb", 0
    for pause in (0, 0.002, 0.01, 0.02, 0.05):
        written = _written(tmp_path)
        running = command.start(tmp_path)
        until(lambda: _written(tmp_path) > written or not running.alive, every=0.002)  # noqa: B023
        time.sleep(pause)
        kills += killed(running)
        if committed(db):
            assert_sound(db)
    assert kills >= 2, "the run was over before it could be killed"
    command.finish(tmp_path)
    assert differences(unbroken, db) == {}


def _written(folder: Path) -> int:
    """When DuckDB last wrote its log, which is there from a transaction's first write to its checkpoint."""
    times = [0]
    for log in folder.glob("*.wal"):
        with suppress(FileNotFoundError):
            times.append(log.stat().st_mtime_ns)
    return max(times)


def wait_for(running: Running, db: Path, shards: int) -> None:
    """Until so many shards are in the store, or the run is over."""
    until_committed(db, shards, lambda: not running.alive)


def killed(running: Running) -> bool:
    """Kill it; False if it had ended by itself."""
    running.send(signal.SIGKILL)
    result = running.wait()
    assert result.status in (0, -signal.SIGKILL), result.err
    return result.status == -signal.SIGKILL


def test_resumed_in_the_middle_of_a_long_document(command: Command, tmp_path: Path) -> None:
    """With all that makes windows less than plain: a BOS, a stride, a limit."""
    command = replace(command, text=corpus(tmp_path / "long.jsonl", (90, 3)))
    options = ("--bos", "--stride", 7, "--limit-tokens", 801, "--first-in-lists")
    once, twice = tmp_path / "once", tmp_path / "twice"
    for folder in (once, twice):
        folder.mkdir()
    command.finish(once, *options)
    running, db = command.start(twice, *options), twice / "x.duckdb"
    wait_for(running, db, 2)
    assert killed(running)
    at = sql(db, "SELECT next_document, next_window FROM base.shard ORDER BY shard DESC LIMIT 1")
    assert at[0][0] == 0
    assert at[0][1] > 5
    command.finish(twice, *options)
    assert differences(once / "x.duckdb", db) == {}


def test_a_limit_is_met_exactly(command: Command, tmp_path: Path) -> None:
    command.finish(tmp_path, "--limit-tokens", 203)
    db = tmp_path / "x.duckdb"
    assert sql(db, "SELECT tokens, status FROM runs") == [(203, "finished")]
    assert sql(db, "SELECT count(*) FROM positions") == [(203,)]


# Interrupted


def test_interrupted_then_finished(command: Command, unbroken: Path, tmp_path: Path) -> None:
    db, running = tmp_path / "x.duckdb", command.start(tmp_path)
    wait_for(running, db, 2)
    running.send(signal.SIGINT)
    result = running.wait()
    assert (result.status, "Traceback" in result.err) == (130, False), result.err
    assert "finishing this shard" in result.err
    assert "same command resumes from here" in result.out
    [(status, tokens)] = sql(db, "SELECT status, tokens FROM runs")
    assert status == "running"
    assert f"{tokens:,} in all" in result.out
    assert_sound(db)
    assert "(resumed)" in command.run(tmp_path).out
    assert differences(unbroken, db) == {}


def test_interrupted_twice_before_the_first_shard(command: Command, tmp_path: Path) -> None:
    running = command.start(tmp_path, "--batch-tokens", 4096)
    until(lambda: "loading" in running.said())
    interrupt_twice(running)
    result = running.wait()
    assert (result.status, "Traceback" in result.err) == (130, False), result.err
    assert "annotate: stopped" in result.err
    assert not (tmp_path / "x.duckdb").exists()


def interrupt_twice(running: Running) -> None:
    running.send(signal.SIGINT)
    until(lambda: "Ctrl-C again" in running.said() or not running.alive)
    running.send(signal.SIGINT)


# Asked again


def test_a_finished_run_is_left_as_it_is(command: Command, finished: Path) -> None:
    before = digest(finished)
    result = command.run(finished.parent)
    assert result.status == 0
    assert "finished already" in result.out
    assert "nothing was added" in result.out
    assert digest(finished) == before


def test_the_same_text_elsewhere_is_the_same_run(command: Command, finished: Path) -> None:
    moved = Path(shutil.copy(command.text, finished.parent / "moved.jsonl"))
    assert "nothing was added" in replace(command, text=moved).run(finished.parent).out


@pytest.mark.soak
def test_fresh_replaces_the_equal_run_and_no_other(command: Command, unbroken: Path, finished: Path) -> None:
    other = ("--keep-neurons", 3)
    command.finish(finished.parent, *other)
    views = ("runs", "positions", "neurons", "neuron_top", "head_stats", "head_samples", "lens")
    asked = [f"SELECT * FROM {view} WHERE run_id = 2 ORDER BY ALL" for view in views]
    before = [sql(finished, query) for query in asked]
    command.finish(finished.parent, "--fresh")
    assert [sql(finished, query) for query in asked] == before
    runs = "SELECT tokens, status, settings FROM runs WHERE run_id <> 2"
    assert sql(finished, runs) == sql(unbroken, runs)
    for view in views:
        count = f"SELECT count(*) FROM {view} WHERE run_id <> 2"
        assert sql(finished, count) == sql(unbroken, count), view
    assert "nothing was added" in command.run(finished.parent, *other).out


def test_fresh_keeps_the_old_run_until_its_first_shard(command: Command, finished: Path) -> None:
    before = digest(finished)
    running = command.start(finished.parent, "--fresh")
    until(lambda: "loading" in running.said())
    assert killed(running)
    assert digest(finished) == before


@pytest.mark.soak
def test_another_setting_is_another_run_over_the_same_documents(command: Command, finished: Path) -> None:
    documents = "SELECT corpus_id, document_id FROM documents ORDER BY ALL"
    before = sql(finished, documents)
    command.finish(finished.parent, "--keep-neurons", 3)
    runs = sql(finished, "SELECT run_id, corpus_id, model_id FROM runs ORDER BY ALL")
    assert runs == [(1, 1, 1), (2, 1, 1)]
    assert sql(finished, documents) == before
    ids = "SELECT count(DISTINCT position_id) = count(*) FROM positions"
    assert sql(finished, ids) == [(True,)]


@pytest.mark.soak
def test_revisions_join_on_document_window_and_position(text: Path, tmp_path: Path) -> None:
    command = Command(text, ("--context", 64, "--top", 5, "--limit-tokens", 300, "--no-weights"))
    for revision in ((), ("--revision", "step1000")):
        command.finish(tmp_path, *revision)
    db = tmp_path / "x.duckdb"
    joined = sql(
        db,
        """SELECT count(*), bool_and(a.token_id = b.token_id AND a.char_start = b.char_start),
                  bool_or(a.top_logit <> b.top_logit)
           FROM positions a JOIN positions b USING (document_id, window_id, position)
           WHERE a.run_id = 1 AND b.run_id = 2""",
    )
    assert joined == [(300, True, True)]
    assert sql(db, "SELECT model_id, step FROM models ORDER BY ALL") == [(1, 6110), (2, 1000)]
    assert sql(db, "SELECT count(DISTINCT model_id) FROM vocabulary") == [(2,)]
    assert sql(db, "SELECT count(*) FROM base.tokenizer") == [(1,)]


@pytest.mark.soak
def test_an_unfinished_run_that_differs_is_named(command: Command, tmp_path: Path) -> None:
    running, db = command.start(tmp_path), tmp_path / "x.duckdb"
    wait_for(running, db, 1)
    assert killed(running)
    result = command.run(tmp_path, "--top", 6, "--limit-tokens", 50)
    assert result.status == 0
    assert "run 1 is unfinished but differs" in result.err
    assert "top 5 → 6" in result.err
    assert "limit_tokens None → 50" in result.err
    command.finish(tmp_path)
    runs = sql(db, "SELECT run_id, status FROM runs ORDER BY ALL")
    assert runs == [(1, "finished"), (2, "finished")]


@pytest.mark.soak
def test_a_corpus_that_changes_meanwhile_is_told(command: Command, tmp_path: Path) -> None:
    growing, db = Path(shutil.copy(command.text, tmp_path / "growing.jsonl")), tmp_path / "x.duckdb"
    command = replace(command, text=growing)
    running = command.start(tmp_path)
    wait_for(running, db, 1)
    with growing.open("a") as file:
        file.write(json.dumps({"text": "One line more."}) + "\n")
    result = running.wait()
    assert (result.status, "Traceback" in result.err) == (2, False), result.err
    assert "changed while it was being annotated" in result.err
    assert sql(db, "SELECT status FROM runs") == [("running",)]
    command.finish(tmp_path)


# Cut otherwise


@pytest.mark.soak
@pytest.mark.parametrize("shard_tokens", [1, 100_000])
def test_the_size_of_shards_changes_nothing(
    shard_tokens: int, command: Command, unbroken: Path, tmp_path: Path
) -> None:
    command.finish(tmp_path, "--shard-tokens", shard_tokens)
    db = tmp_path / "x.duckdb"
    assert committed(db) == 1 or shard_tokens == 1
    assert differences(unbroken, db) == {}


@pytest.mark.soak
@pytest.mark.parametrize("samples", [0, 1])
def test_shards_without_a_sampled_position(samples: int, command: Command, tmp_path: Path) -> None:
    command.finish(tmp_path, "--samples", samples)
    sampled = "SELECT count(DISTINCT position_id) FROM neuron_samples"
    assert sql(tmp_path / "x.duckdb", sampled) == [(samples,)]
