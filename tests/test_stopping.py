"""Ctrl-C and SIGTERM: one sentence that says what is safe, exit status 130 or 143, at any moment."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest
from filelock import FileLock

from answers import sql
from processes import ENVIRONMENT, Result, Running, annotate, start, start_function, until
from small import SETTINGS, until_committed

ENDLESS = "SELECT count(*) FROM range(100000000000) a, range(1000000) b"
READ = "the store was only read, and nothing in it has changed"
COMMITTED = "what was committed is safe, and the same command resumes from there"
PROGRESS = ("annotate: reading", "annotate: loading", "annotate: finishing")  # lines that come before


@pytest.fixture
def endless(made: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The store, but that to read one table of it keeps DuckDB at work for ever."""
    db, table = Path(shutil.copy(made, tmp_path)), request.param
    with duckdb.connect(str(db)) as con:
        con.execute(f"CREATE TABLE base.real AS FROM base.{table}")
        con.execute(f"DROP TABLE base.{table}")
        con.execute(f"CREATE VIEW base.{table} AS SELECT r.* FROM base.real r, ({ENDLESS})")
    return db


def assert_stopped(result: Result, safe: str, number: int = signal.SIGINT) -> None:
    assert result.status == 128 + number, result
    said = [line for line in result.err.splitlines() if not line.startswith(PROGRESS)]
    assert said == [f"annotate: stopped; {safe}."]


def at_work(running: Running, db: Path) -> None:
    """Wait until the process has the store open, and a moment longer, so that DuckDB is at work."""
    files = Path(f"/proc/{running.process.pid}/fd")
    if not files.exists():  # no Linux
        time.sleep(2)
        return

    def is_open(file: Path) -> bool:
        with suppress(FileNotFoundError):  # closed since it was listed
            return file.readlink() == db
        return False

    until(lambda: any(map(is_open, files.iterdir())) or not running.alive)
    time.sleep(0.3)


def listening(running: Running) -> None:
    """Wait until the process heeds signals: of Python's own start it is not asked."""
    status = Path(f"/proc/{running.process.pid}/status")
    if not status.exists():  # no Linux
        time.sleep(2)
        return
    until(lambda: _caught(status.read_text()) >> signal.SIGTERM - 1 & 1 or not running.alive)


def _caught(status: str) -> int:
    """The signals that a process handles, a bit each."""
    return int(re.search(r"^SigCgt:\s+(\w+)", status, re.MULTILINE)[1], 16)  # type: ignore[index]


# command: the table that has no end for it, and what is safe
AT_WORK = {
    "verify": ("position", ("verify", "x.duckdb"), READ),
    "verify at once": ("run", ("verify", "x.duckdb"), READ),
    "export": ("position", ("export", "out", "--db", "x.duckdb"), READ),
    "runs": ("run", ("runs", "--db", "x.duckdb"), READ),
    "neuron": ("unit_stat", ("neuron", "L1N2", "--db", "x.duckdb"), READ),
    "neurons": ("run", ("neurons", "--token", "the", "--db", "x.duckdb"), READ),
    "head": ("attention_stat", ("head", "L1H0", "--db", "x.duckdb"), READ),
    "token": ("token", ("token", " cat", "--db", "x.duckdb"), READ),
    "phrase": ("document", ("phrase", "the cat", "--db", "x.duckdb"), READ),
    "position": ("position", ("position", 3, "--db", "x.duckdb"), READ),
    "compare": ("run", ("compare", 1, 1, "--db", "x.duckdb"), READ),
    "expand": ("run", ("expand", "The cat", "--db", "x.duckdb"), READ),
    "sql": ("position", ("sql", "FROM positions", "--db", "x.duckdb"), READ),
    "sql to a file": ("run", ("sql", "FROM runs", "--output", "out.csv", "--db", "x.duckdb"), READ),
    "restricted sql": ("run", ("sql", "--restricted", "FROM runs", "--db", "x.duckdb"), READ),
    "runs in JSON": ("run", ("runs", "--json", "--db", "x.duckdb"), READ),
    "next-token": ("run", ("next-token", "--db", "x.duckdb"), COMMITTED),
    "explain": ("run", ("explain", "--db", "x.duckdb"), COMMITTED),
}  # fmt: skip


@pytest.mark.some(4)
@pytest.mark.parametrize(
    ("endless", "words", "safe"), AT_WORK.values(), ids=AT_WORK.keys(), indirect=["endless"]
)
def test_ctrl_c_while_duckdb_works(endless: Path, words: tuple[object, ...], safe: str) -> None:
    running = start(*words, folder=endless.parent)
    at_work(running, endless)
    began = time.monotonic()
    running.send(signal.SIGINT)
    assert_stopped(running.wait(), safe)
    assert time.monotonic() - began < 10
    assert not [*endless.parent.glob("out*")]


@pytest.mark.some(2)
@pytest.mark.parametrize("endless", ["position"], indirect=True)
@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT] * 5, [signal.SIGTERM, signal.SIGINT]])
def test_other_signals_and_more_than_one(endless: Path, signals: list[signal.Signals]) -> None:
    running = start("export", "out", "--db", "x.duckdb", folder=endless.parent)
    at_work(running, endless)
    for number in signals:
        running.send(number)
        time.sleep(0.02)
    result = running.wait()
    assert_stopped(result, READ, signals[0])
    assert not [*endless.parent.glob("out*")]


BUSY = {
    "verify": (("verify", "x.duckdb"), READ),
    "runs": (("runs", "--db", "x.duckdb"), READ),
    "schema": (("schema", "--db", "x.duckdb"), READ),
    "app": (("app", "--no-open", "--db", "x.duckdb"), READ),
    "weights": (("weights", "--db", "x.duckdb"), COMMITTED),
    "ingest": (("ingest", "-", "--db", "x.duckdb"), COMMITTED),
}


@pytest.mark.some(2)
@pytest.mark.parametrize(("words", "safe"), BUSY.values(), ids=BUSY.keys())
def test_ctrl_c_while_waiting_for_a_busy_store(
    words: tuple[str, ...], safe: str, made: Path, tmp_path: Path
) -> None:
    db = Path(shutil.copy(made, tmp_path))
    other = start_function(_hold, str(db), folder=tmp_path)
    until(lambda: (tmp_path / "held").exists())
    running = start(*words, folder=tmp_path)
    listening(running)
    time.sleep(0.7)
    assert running.alive, running.said()
    running.send(signal.SIGINT)
    assert_stopped(running.wait(), safe)
    other.send(signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_served_app_ends_with_a_sentence(number: signal.Signals, made: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = start("app", "--no-open", "--port", port, "--db", made, folder=tmp_path)
    until(lambda: _listens(port) or not running.alive, every=0.1)
    running.send(number)
    assert_stopped(running.wait(), READ, number)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _hold(db: str) -> None:
    with duckdb.connect(db):
        Path("held").touch()
        time.sleep(100)


@pytest.mark.soak
@pytest.mark.parametrize("delay", [0.0, 0.1])
def test_twice_at_the_first_commit_of_an_ingest(
    delay: float, source: Path, tiny_model: Path, tmp_path: Path
) -> None:
    db = tmp_path / "x.duckdb"
    command = ("ingest", source, "--db", "x.duckdb", "--model", tiny_model, *SETTINGS)
    running = start(*command, folder=tmp_path)
    until(db.exists, every=0.001)
    time.sleep(delay)
    running.send(signal.SIGINT)
    time.sleep(0.01)
    running.send(signal.SIGINT)
    result = running.wait()
    assert result.status == 130, result
    assert "Traceback" not in result.err
    assert "stopped; what was committed is safe" in result.err or "resumes from here" in result.out
    result = annotate(*command, folder=tmp_path)
    assert result.status == 0, result.err
    assert annotate("verify", db, folder=tmp_path).status == 0


@pytest.mark.some(3)
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15])
def test_ctrl_c_while_the_model_loads(delay: float, source: Path, tiny_model: Path, tmp_path: Path) -> None:
    """There is nothing to finish yet, so the first one stops."""
    running = start("ingest", source, "--db", "x.duckdb", "--model", tiny_model, *SETTINGS, folder=tmp_path)
    until(lambda: "loading" in running.said() or not running.alive, every=0.001)
    time.sleep(delay)
    running.send(signal.SIGINT)
    result = running.wait()
    if "finishing" not in result.err:  # it had not got further than that
        assert_stopped(result, COMMITTED)
    assert result.status == 130


@pytest.mark.soak
def test_a_stopped_ingest_reads_no_weights(source: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Asked to finish while it ends its run, it does not begin something new."""
    settings = [word for word in SETTINGS if word != "--no-weights"]
    command = ("ingest", source, "--db", "x.duckdb", "--model", tiny_model, *settings)
    running = start(*command, folder=tmp_path)
    until_committed(tmp_path / "x.duckdb")
    running.send(signal.SIGTERM)
    result = running.wait()
    assert (result.status, "Traceback" in result.err) == (143, False), result
    assert "SIGTERM again to stop at once" in result.err
    assert sql(tmp_path / "x.duckdb", "SELECT count(*) FROM base.weights") == [(0,)]


# library: a command that imports it, and a file that shows that its import is under way
IMPORTS = {"numpy": (("verify", "x.duckdb"), "_multiarray_umath"), "torch": (("ingest",), "libtorch_cpu")}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="libraries are looked for as Linux has them")
@pytest.mark.some(2)
@pytest.mark.parametrize("library", IMPORTS)
def test_ctrl_c_while_python_imports(library: str, made: Path, source: Path, tiny_model: Path) -> None:
    words, file = IMPORTS[library]
    if words == ("ingest",):
        words = ("ingest", str(source), "--db", "x.duckdb", "--model", str(tiny_model))
    with importing(words, made.parent) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        until(lambda: file in maps.read_text() or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    safe = COMMITTED if words[0] == "ingest" else READ
    assert_stopped(Result(process.returncode, out, err), safe)


def importing(words: tuple[str, ...], folder: Path) -> subprocess.Popen[str]:
    """A command in a Python of its own, which imports everything anew."""
    return subprocess.Popen(
        [sys.executable, "-m", "annotate_transformer.app.cli.main", *words],
        cwd=folder,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.some(2)
@pytest.mark.parametrize("where", ["a destructor", "a bare except", "a library that computes", "a thread"])
def test_what_swallows_an_interrupt_does_not_keep_the_process(where: str, tmp_path: Path) -> None:
    running = start_function(_swallow, where, folder=tmp_path)
    until(lambda: "at work" in running.printed())
    running.send(signal.SIGINT)
    assert_stopped(running.wait(20), READ)
    assert not [*tmp_path.glob("out*")], "a file that is not whole was left"


def _swallow(where: str) -> None:
    """In the child: main, but that the command loses the KeyboardInterrupt, while it writes a file."""
    from annotate_transformer.app.cli import main
    from annotate_transformer.store.whole import whole

    def lose(command: str) -> None:
        with whole(Path("out.csv")):
            print("at work", flush=True)
            {"a destructor": _in_destructors, "a bare except": _in_a_bare_except}.get(where, _elsewhere)(
                where
            )

    main._run = lose
    sys.argv = ["annotate", "verify"]
    main.main()


class _Slow:
    def __del__(self) -> None:
        time.sleep(0.05)


def _in_destructors(_: str) -> None:
    while True:
        _Slow()


def _in_a_bare_except(_: str) -> None:
    while True:
        with suppress(BaseException):
            time.sleep(0.05)


def _elsewhere(where: str) -> None:
    if where == "a thread":  # which is waited for when Python ends
        import threading

        threading.Thread(target=time.sleep, args=(60,)).start()
        time.sleep(60)
    import ctypes

    ctypes.CDLL(None).usleep.restype = None
    while True:
        ctypes.PyDLL(None).getpid()
        ctypes.CDLL(None).poll(None, 0, 60_000)


def test_a_signal_that_the_parent_ignores_stays_ignored(made: Path, tmp_path: Path) -> None:
    """As with `nohup`, or in the background of a script."""
    running = start_function(_deaf, str(made), folder=tmp_path)
    until(lambda: "deaf" in running.printed())
    running.send(signal.SIGINT)
    assert running.wait().status == 0


def _deaf(db: str) -> None:
    from processes import run_command

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("deaf", flush=True)
    time.sleep(0.3)
    run_command(["runs", "--db", db])


@pytest.fixture(autouse=True)
def _no_lock_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    for lock in tmp_path.glob("*.lock"):
        with FileLock(lock, timeout=1):
            pass
