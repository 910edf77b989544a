"""What --db and store.open may be given: any name of a file, and a sentence for what is none."""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from annotate_transformer import store
from annotate_transformer.app.cli.commands import app
from annotate_transformer.store.database import connection
from annotate_transformer.store.restricted import restricted
from annotate_transformer.store.writer import Writer
from handmade import RUN, VOCABULARY

NAMES = (
    *("base.duckdb", "BASE", "Base.x.duckdb", "base", "main.duckdb", "temp.db", "system", "store.duckdb"),
    *("~x.duckdb", "md:x", "sqlite:x.db", "duckdb:x", "file:x.duckdb", "a'b.duckdb", 'a"b.duckdb'),
    *("a?b=c.duckdb", "a#b.duckdb", "100%20.duckdb", "a\nb.duckdb", "a b .duckdb", "ünï 東京 😀.duckdb"),
    *("*.duckdb", "[a].duckdb", "$HOME", "-", ".duckdb", "information_schema.duckdb", "x;y--.duckdb"),
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.some(3)
@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_a_file_is_that_file(name: str, here: Path) -> None:
    with Writer(name) as writer:
        writer.begin(RUN, VOCABULARY, fresh=False)
        writer.commit({})
    assert {path.name for path in here.iterdir()} == {name, f"{name}.lock", f"{name}.turn"}
    question = "SELECT r.run_id, t.sha256 FROM base.run r, base.tokenizer t"
    with store.open(name) as s:
        assert s.sql(question).run_id.tolist() == [1]
        assert [batch.num_rows for batch in s.arrow(question)] == [1]
        assert pd.read_sql("SELECT * FROM runs", s.engine).run_id.tolist() == [1]
        s.runs()
    for words in (["sql", "SELECT run_id FROM runs", "--format", "jsonl"], ["runs", "--json"]):
        told = CliRunner().invoke(app, [*words, f"--db={name}"])
        assert told.exit_code == 0 and '"run_id": 1' in told.output, told.output


def test_a_store_named_base_is_shared_as_others_are(here: Path) -> None:
    """Its readers have one connection to it, which keeps writers out as long as one of them reads."""
    with connection("base.duckdb", read_only=False):
        pass
    assert restricted("base.duckdb", "FROM runs").table.num_rows == 0
    with connection("base.duckdb", read_only=True) as first:
        with connection("base.duckdb", read_only=True) as second:
            assert (
                second.execute("FROM base.version").fetchall()
                == first.execute("FROM base.version").fetchall()
            )
        locks = Path("/proc/locks")
        assert not locks.exists() or f":{Path('base.duckdb').stat().st_ino} " in locks.read_text()


def made(path: Path, make: Callable[[str], object]) -> str:
    make(str(path))
    return str(path)


def piped(path: str) -> None:
    os.mkfifo(f"{path}.pipe")
    os.symlink(f"{path}.pipe", path)


def bound(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


NONE: dict[str, tuple[Callable[[Path], str], str]] = {
    "nothing": (lambda folder: "", "empty"),
    "memory": (lambda folder: ":memory:", "without a file"),
    "S3": (lambda folder: "s3://bucket/x.duckdb", "an address"),
    "HTTP": (lambda folder: "https://example.invalid/x.duckdb", "a file on a web server"),
    "a URL of a file": (lambda folder: "file:///tmp/x.duckdb", "an address"),
    "the hub": (lambda folder: "hf://datasets/x/y.duckdb", "an address"),
    "a folder": (lambda folder: str(folder), "a folder"),
    "the folder": (lambda folder: ".", "a folder"),
    "a pipe": (lambda folder: made(folder / "pipe", os.mkfifo), "a pipe"),
    "a link to a pipe": (lambda folder: made(folder / "l", piped), "a pipe"),
    "a socket": (lambda folder: made(folder / "s", bound), "a socket"),
    "a device": (lambda folder: "/dev/null", "a device"),
    "a device without end": (lambda folder: "/dev/zero", "a device"),
    "5,000 characters": (lambda folder: "x" * 5000, "5,000 characters"),
    "a folder of 300 characters": (lambda folder: "x" * 300 + "/y.duckdb", "too long"),
    "a NUL": (lambda folder: "a\0b", "null"),
    "bytes that are no UTF-8": (lambda folder: os.fsdecode(b"a\xff.duckdb"), "utf-8"),
    "links in a ring": (lambda folder: made(folder / "ring", lambda p: os.symlink(p, p)), "symbolic links"),
    "below a file": (lambda folder: f"{made(folder / 'f', lambda p: Path(p).touch())}/x.duckdb", "no folder"),
    "below nothing": (lambda folder: "nowhere/x.duckdb", "no folder"),
    "a folder of the kernel's": (lambda folder: "/sys/x.duckdb", "cannot be written"),
    "a name without room for the lock's": (lambda folder: "x" * 252, "too long"),
}  # fmt: skip


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_file_is_refused_at_once(name: str, here: Path) -> None:
    """A pipe kept the program waiting for ever."""
    make, words = NONE[name]
    path = make(here)
    before, told = {*here.iterdir()}, list[str]()

    def ask() -> None:
        for question in (lambda: Writer(path).__enter__(), lambda: store.open(path)):
            try:
                question()
            except store.StoreError as error:
                told.append(str(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(20)
    assert len(told) == 2, "it waits, or was not refused"
    assert words in told[0].lower()
    assert len(told[0]) < 600
    assert {*here.iterdir()} == before
