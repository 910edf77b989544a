"""One writes, others read: neither fails, neither waits for the other's end, and two never write."""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from annotate_transformer import store
from annotate_transformer.store.database import KEEP_SECONDS, WAIT_SECONDS, Reading, connection
from annotate_transformer.store.location import turn_lock
from annotate_transformer.store.writer import Writer, status
from answers import differences, sql
from processes import CHECKOUT, ENVIRONMENT, Result, Running, annotate, start, start_function, until
from small import SETTINGS, committed, corpus, until_committed

LONGEST_ANSWER = 10.0  # seconds; a commit takes a tenth of one, a slow machine is allowed for
LONGEST_PAUSE = 10.0  # seconds between two commits; alone it is half of one
HELD = 3.0  # seconds for which a reader keeps the file open
CONSISTENT = """
    SELECT (SELECT count(*) FROM positions) AS positions,
           (SELECT coalesce(sum(positions), 0) FROM base.shard) AS recorded,
           (SELECT count(*) FROM heads) AS heads,
           (SELECT coalesce(sum(heads), 0) FROM base.shard) AS heads_recorded,
           (SELECT count(*) FROM neuron_stats WHERE count <> (SELECT count(*) FROM positions)) AS wrong
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[object, ...]:
    text = corpus(tmp_path_factory.mktemp("text") / "small.jsonl", (4, 1, 30, 2, 9, 1, 20, 3))
    return ("ingest", text, "--model", tiny_model, *SETTINGS)


@pytest.fixture(scope="module")
def alone(options: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an ingest that had its file to itself."""
    db = tmp_path_factory.mktemp("alone") / "x.duckdb"
    assert_done(begin(options, db).wait())
    return db


def begin(options: tuple[object, ...], db: Path) -> Running:
    return start(*options, "--db", db, folder=db.parent)


def assert_done(result: Result) -> None:
    assert (result.status, "Traceback" in result.err) == (0, False), result.err


# What runs in the other processes


def ask(db: str, until_there: str) -> None:
    """Ask, and ask again: an answer a line, until there is a file of that name."""
    while not Path(until_there).exists():
        asked = time.monotonic()
        try:
            answer = store.open(db).sql(CONSISTENT).iloc[0].to_dict()
        except store.NotAStore as error:
            answer = {"none": str(error)}
        print(json.dumps(answer | {"waited": time.monotonic() - asked}, default=int), flush=True)


def hold(db: str, seconds: float, read_only: bool) -> None:
    """Keep the file open, as a DuckDB shell does."""
    with connection(db, read_only=read_only):
        print("held", flush=True)
        time.sleep(seconds)


def holding(db: Path, seconds: float, *, read_only: bool) -> Running:
    running = start_function(hold, db, seconds, read_only, folder=db.parent)
    until(lambda: "held" in running.printed())
    return running


def write_alone(db: str, folder: str, seconds: float) -> None:
    """Enter and leave the writer's block over and over; inside it nobody else may be."""
    end = time.monotonic() + seconds
    times = 0
    while time.monotonic() < end:
        try:
            with Writer(db):
                (Path(folder) / "inside").mkdir()  # FileExistsError: another one is in there
                (Path(folder) / "inside").rmdir()
                times += 1
        except store.IngestRunning:
            continue
    print(times)


# Reading


def test_questions_are_answered_during_an_ingest(
    options: tuple[object, ...], alone: Path, tmp_path: Path
) -> None:
    """Each loop asks again as soon as it is answered: no moment is left in which nobody reads."""
    db, over = tmp_path / "x.duckdb", tmp_path / "over"
    readers = [start_function(ask, db, over, folder=tmp_path) for _ in range(3)]
    result = begin(options, db).wait()
    time.sleep(0.3)
    over.touch()
    assert_done(result)
    assert longest_pause(db) < LONGEST_PAUSE, "readers kept the ingest waiting"
    for reader in readers:
        result = reader.wait()
        assert (result.status, result.err) == (0, "")
        answers = [json.loads(line) for line in result.out.splitlines()]
        assert max(answer["waited"] for answer in answers) < LONGEST_ANSWER
        refused = {answer["none"] for answer in answers if "none" in answer}
        assert all("There is no store at" in sentence for sentence in refused), refused
        given = [answer for answer in answers if "none" not in answer]
        assert all(a["positions"] == a["recorded"] for a in given), "part of a shard was seen"
        assert all(a["heads"] == a["heads_recorded"] for a in given), "part of a shard was seen"
        assert all(a["wrong"] == 0 for a in given), "statistics and rows of different shards"
        seen = [answer["positions"] for answer in given]
        assert seen == sorted(seen)
        assert len(set(seen)) >= 4, "it waited for the ingest's end"
        assert seen[-1] == sql(alone, "SELECT count(*) FROM positions")[0][0]
    assert differences(alone, db) == {}


def longest_pause(db: Path) -> float:
    """Seconds between two commits of the run, its start included."""
    pauses = """SELECT epoch(committed - lag(committed, 1, started) OVER (ORDER BY shard)) AS pause
                FROM base.shard JOIN base.run USING (run_id)"""
    return float(sql(db, f"SELECT max(pause) FROM ({pauses})")[0][0])


def test_the_ingest_waits_for_a_reader_and_goes_on(
    options: tuple[object, ...], alone: Path, tmp_path: Path
) -> None:
    db = tmp_path / "x.duckdb"
    ingest = begin(options, db)
    until_committed(db)
    shards = committed(db)
    reader = holding(db, HELD, read_only=True)
    began, written = time.monotonic(), db.stat().st_mtime_ns
    while time.monotonic() < began + HELD / 2:
        assert ingest.alive
        assert db.stat().st_mtime_ns == written
        time.sleep(0.01)
    reader.wait()
    assert_done(ingest.wait())
    assert committed(db) > shards
    assert differences(alone, db) == {}


def test_both_give_up_with_a_sentence(alone: Path, tmp_path: Path) -> None:
    db = Path(shutil.copy(alone, tmp_path))
    reader = holding(db, 60, read_only=True)
    with (
        pytest.raises(store.StoreBusy, match="held open by another process for 0 s"),
        connection(db, read_only=False, wait=0.4),
    ):
        pass
    assert committed(db) == committed(alone), "readers do not hinder each other"
    reader.send(signal.SIGKILL)
    reader.wait()
    writer = holding(db, 60, read_only=False)
    with pytest.raises(store.StoreBusy, match="run the same command again"):
        store.open(db, wait=0.4)
    writer.send(signal.SIGKILL)
    writer.wait()
    assert committed(db) == committed(alone), "a killed process holds nothing"


def test_a_reader_lets_a_writer_before_it_for_half_a_second(tmp_path: Path) -> None:
    """Not for as long as the writer waits: that may be blocked by a program that never ends."""
    db = tmp_path / "x.duckdb"
    with connection(db, read_only=False):
        pass  # makes an empty store
    s = store.open(db)
    with s.together(), turn_lock(db):  # a writer waits, and a query of another thread is still running
        waited = []
        for ask in (lambda: store.open(db), lambda: s.sql("SELECT 1")):
            began = time.monotonic()
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join(LONGEST_ANSWER)
            waited.append(time.monotonic() - began)
    assert min(waited) > 0.2, "it did not let the writer go first"
    assert max(waited) < LONGEST_ANSWER / 2


def test_threads_of_one_process_wait_too(alone: Path, tmp_path: Path) -> None:
    """An app that asks while the same process writes: DuckDB refuses two kinds of connection."""
    db, answers = Path(shutil.copy(alone, tmp_path)), list[int]()
    with connection(db, read_only=False, memory_limit="1GB"):
        thread = threading.Thread(target=lambda: answers.append(committed(db)))
        thread.start()
        thread.join(0.3)
        assert answers == []
    thread.join(10)
    assert answers == [committed(alone)]


# Writing


def exit_while_closing(db: str) -> None:
    """Ask a store, then exit while the thread that closes idle files is closing this one."""
    exiting = threading.Event()

    @atexit.register  # after the store's own handler is registered, this one would be called before it
    def exit_soon() -> None:
        exiting.set()
        time.sleep(0.0005)

    reading = Reading(db, WAIT_SECONDS)
    close = reading._close

    def closing_at_exit() -> None:
        if threading.current_thread() is not threading.main_thread():
            exiting.wait()
        close()

    with reading.cursor() as cursor:
        print(cursor.execute("SELECT count(*) FROM base.run").fetchall())
    reading._close = closing_at_exit  # type: ignore[method-assign]
    time.sleep(2 * KEEP_SECONDS)


def test_a_process_may_exit_while_its_idle_file_is_closed(alone: Path) -> None:
    """Once in some thousand commands the C++ runtime aborted here, after a complete answer."""
    script = f"from test_concurrency import exit_while_closing as f; f({str(alone)!r})"
    environment = os.environ | ENVIRONMENT
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "[(1,)]\n"), done.stderr


def test_a_second_ingest_is_refused(options: tuple[object, ...], alone: Path, tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    first = begin(options, db)
    until_committed(db)
    assert status(db, "running") == "running"
    second = begin((*options, "--top", 7), db).wait()
    assert first.alive, "the first was over too early"
    assert second.status == 2
    assert "Another ingest is writing into" in second.err
    assert "Traceback" not in second.err
    assert_done(first.wait())
    assert differences(alone, db) == {}


@pytest.mark.soak
def test_the_lock_goes_with_a_killed_ingest(options: tuple[object, ...], tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    first = begin(options, db)
    until_committed(db)
    first.send(signal.SIGKILL)
    assert first.wait().status == -signal.SIGKILL
    assert " unfinished " in annotate("runs", "--db", db, folder=tmp_path).out
    assert_done(begin(options, db).wait())


def test_nothing_but_the_store_is_left(alone: Path) -> None:
    left = {path.name for path in alone.parent.iterdir() if not path.name.startswith("process-")}
    assert left <= {"x.duckdb", "x.duckdb.lock", "x.duckdb.turn"}


def test_two_are_never_inside_together(tmp_path: Path) -> None:
    """Many enter and leave at once: the lock's file must not be taken away under the next one."""
    db = tmp_path / "x.duckdb"
    several = [start_function(write_alone, db, tmp_path, 2.0, folder=tmp_path) for _ in range(4)]
    for running in several:
        result = running.wait()
        assert (result.status, "Traceback" in result.err) == (0, False), result.err
        assert int(result.out) > 0


def test_the_checkout_is_what_runs(tmp_path: Path) -> None:
    """Else everything here would test another installation; and what takes time was there already."""
    where, preloaded = start_function(_where, folder=tmp_path).wait().out.splitlines()
    assert Path(where).is_relative_to(CHECKOUT)
    assert preloaded == "True"


def _where() -> None:
    print(store.__file__)
    print("preloaded" in sys.modules)
