"""A damaged store, or a file of another kind, gets a sentence: no question raises DuckDB's own exceptions."""

import gzip
import json
import pickle
import shutil
import sqlite3
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from annotate_transformer import store
from annotate_transformer.store import neuron, position
from annotate_transformer.store.database import connection
from annotate_transformer.store.export import export_run
from annotate_transformer.store.restricted import restricted
from annotate_transformer.store.writer import Writer
from handmade import RUN, VOCABULARY

HEADERS, BLOCK = 3 * 4096, 262_144  # bytes: DuckDB's three headers, and a block
SHARES = 16  # of each damaged store another part of the blocks is damaged
ASKED = 150  # questions at least
Question = Callable[[store.Store, Path], object]


def of_unit(name: str, method: str) -> Question:
    return lambda s, db: getattr(s.unit(name), method)()


def of_weights(method: str, *asked: str) -> Question:
    return lambda s, db: getattr(s.weights(), method)(*asked)


def begin(s: store.Store, db: Path) -> None:
    with Writer(db) as writer:
        writer.begin(RUN, VOCABULARY, fresh=False)


def exported(s: store.Store, db: Path) -> None:
    folder = db.with_name("exported")
    shutil.rmtree(folder, ignore_errors=True)
    export_run(db, 1, folder)


UNITS = ("contexts", "random", "quantiles", "stats", "histogram", "tokens", "effects")
QUESTIONS: dict[str, Question] = {
    **{name: lambda s, db, name=name: getattr(s, name)() for name in ("runs", "stats", "documents")},
    **{name: lambda s, db, name=name: getattr(s, name)() for name in ("explanations", "ablations")},
    **{
        f"by {way}": lambda s, db, way=way: s.decomposition(100, way)
        for way in ("component", "layer", "term", "head", "neuron", "source")
    },
    **{f"neuron's {method}": of_unit("L3N359", method) for method in (*UNITS, "companions", "windows")},
    **{f"head's {method}": of_unit("L2H1", method) for method in (*UNITS, "destinations", "distances")},
    **{
        method: of_weights(method, "L3N359")
        for method in ("neuron_vocabulary", "neuron_reads", "neuron_stats")
    },
    **{method: of_weights(method, "L2H1") for method in ("head_vocabulary", "head_pairs", "skip_trigrams")},
    **{method: of_weights(method) for method in ("behaviour", "compositions", "bigram_agreement")},
    "direct path": of_weights("direct_path", " the"),
    "tokens": lambda s, db: s.tokens("the", "like"),
    "occurrences": lambda s, db: s.occurrences(" the"),
    "phrase": lambda s, db: s.phrase("is the"),
    "position": lambda s, db: s.position(100),
    "expression": lambda s, db: s.expression(100).sum(),
    "sends": lambda s, db: s.sends(100),
    "search": lambda s, db: s.search((position.next_logprob < -1) & (neuron("L3N359").activation > 0)),
    "compare": lambda s, db: s.compare(1, 2, "neurons"),
    "sql": lambda s, db: s.sql("SELECT sum(next_logprob), max(length(token)) FROM positions"),
    "pandas": lambda s, db: pd.read_sql("SELECT * FROM head_stats", s.engine),
    "arrow": lambda s, db: list(s.arrow("FROM heads")),
    "restricted": lambda s, db: restricted(db, "FROM lens"),
    "export": exported,
    "resume": begin,
}


def damaged(sound: bytes) -> Iterator[bytes]:
    """Zeros, another end, flipped bits in every second block of a part of the file."""
    half, part = len(sound) // 2, len(sound) // SHARES
    yield sound[:half] + bytes(BLOCK) + sound[half + BLOCK :]
    yield sound[: 9 * part]
    for share in range(SHARES):
        flipped = bytearray(sound)
        for start in range(HEADERS + share * part, HEADERS + (share + 1) * part, 2 * BLOCK):
            flipped[min(start - start % BLOCK + HEADERS + 1000, len(sound) - 1)] ^= 1 << share % 8
        yield bytes(flipped)


@pytest.mark.soak
def test_questions_about_damaged_stores_get_sentences(two_steps: Path, tmp_path: Path) -> None:
    """Whatever is not answered is refused with one, and nothing else is raised."""
    asked, refused = 0, list[str]()
    for number, content in enumerate(damaged(two_steps.read_bytes())):
        if asked >= ASKED:
            break
        db = tmp_path / f"{number}.duckdb"
        db.write_bytes(content)
        try:
            opened = store.open(db)
        except store.DamagedStore as error:
            refused.append(str(error))
            continue
        with opened as s:
            for question in QUESTIONS.values():
                asked += 1
                try:
                    question(s, db)
                except store.DamagedStore as error:  # any other exception ends the test
                    refused.append(str(error))
        db.unlink()
    assert asked >= ASKED
    assert len(refused) >= 10
    assert all("damaged" in sentence and "Stack" not in sentence for sentence in refused)


@pytest.mark.soak
def test_after_a_fatal_error_the_file_is_opened_anew(two_steps: Path, tmp_path: Path) -> None:
    """DuckDB's connection answers nothing more; that of a sound file in its place does."""
    sound = two_steps.read_bytes()
    db, first = tmp_path / "x.duckdb", sound[HEADERS : HEADERS + BLOCK]
    blocks = range(HEADERS + BLOCK, len(sound) - BLOCK, BLOCK)
    db.write_bytes(sound)
    with store.open(db) as s:
        failed = 0
        for start in blocks[:: max(1, len(blocks) // 20)]:  # a block elsewhere: its checksum is right
            s.__exit__(None, None, None)
            db.write_bytes(sound[:start] + first + sound[start + BLOCK :])
            for question in ("FROM neuron_stats", "FROM positions", "FROM head_stats"):
                try:
                    s.sql(f"SELECT max(x)::VARCHAR FROM ({question}) x")
                except store.StoreError:
                    failed += 1
        s.__exit__(None, None, None)
        db.write_bytes(sound)
        assert len(s.runs()) == 2
    assert failed


@pytest.mark.soak
def test_restricted_sql_does_not_tell_where_a_damaged_store_lies(two_steps: Path, tmp_path: Path) -> None:
    told = []
    for number, content in enumerate(damaged(two_steps.read_bytes())):
        (db := tmp_path / f"{number}.duckdb").write_bytes(content)
        try:
            with connection(db, read_only=True):
                pass
        except store.DamagedStore:  # it cannot be opened, so nobody's SQL is asked of it
            continue
        try:
            restricted(db, "SELECT sum(hash(h)) FROM base.head h")
        except store.DamagedStore as error:
            told.append(str(error))
        db.unlink()
    assert told
    assert not [sentence for sentence in told if str(tmp_path) in sentence]


def test_verify_goes_on_past_what_is_damaged(two_steps: Path, tmp_path: Path) -> None:
    db, unread = tmp_path / "x.duckdb", 0
    for content in damaged(two_steps.read_bytes()):
        db.write_bytes(content)
        with suppress(store.DamagedStore):  # where not even what there is to verify can be read
            findings = list(store.verify(db, 2))
            texts = ["".join(finding.examples) for finding in findings]
            unread = sum("cannot be read" in text for text in texts)
            assert unread < len(findings)
        if unread:
            return
    raise AssertionError("verify has met no damage")


# Files of other kinds


def sqlite(path: Path) -> None:
    with sqlite3.connect(path) as con:
        con.execute("CREATE TABLE x (i INTEGER)")
    con.close()


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.txt", "x" * 1000)


def arrow(path: Path) -> None:
    table = pa.table({"x": [1]})
    with pa.ipc.new_file(str(path), table.schema) as out:
        out.write_table(table)


def newer(path: Path) -> None:
    """With the version of DuckDB's first header raised, and the header's checksum as DuckDB computes it."""
    with connection(path, read_only=False):
        pass
    file = bytearray(path.read_bytes())
    file[12:20] = struct.pack("<Q", 200)
    checksum = 5381
    for (word,) in struct.iter_unpack("<Q", file[8:4096]):
        checksum ^= word * 0xBF58476D1CE4E5B9 % 2**64
    file[:8] = struct.pack("<Q", checksum)
    path.write_bytes(file)


def bytes_of(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


KINDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "SQLite": (sqlite, "a SQLite database"),
    "SQLite, cut off": (bytes_of(b"SQLite format 3\0"), "a SQLite database"),
    "a newer DuckDB": (newer, "a newer version made it"),
    "Parquet": (lambda path: pa.parquet.write_table(pa.table({"x": [1]}), path), "a Parquet file"),
    "Arrow": (arrow, "an Arrow file"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x" * 9000)), "gzip (unpack it first)"),
    "zstd": (bytes_of(b"\x28\xb5\x2f\xfd" + bytes(range(200))), "zstd (unpack it first)"),
    "zip": (zipped, "a zip archive"),
    "PNG": (bytes_of(b"\x89PNG\r\n\x1a\n" + bytes(range(200))), "a PNG picture"),
    "PDF": (bytes_of(b"%PDF-1.7\n" + bytes(range(200))), "a PDF document"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps([1], protocol=2)), "a pickle"),
    "text": (lambda path: path.write_text("Whatever it was.\n" * 400), "a text"),
    "text cut within a character": (lambda path: path.write_bytes("…x".encode() * 1025), "a text"),
    "JSON lines": (lambda path: path.write_text(json.dumps({"text": "x"}) + "\n"), "a text"),
    "a pointer of Git LFS": (bytes_of(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "zeros": (bytes_of(bytes(20_000)), "zero bytes"),
    "nothing": (bytes_of(b""), "is empty"),
    "noise": (bytes_of(bytes((i * i * 7919 + i) % 251 for i in range(20_000))), "an unknown kind"),
    "a header alone": (bytes_of(b"\1\2\3\4\5\6\7\10DUCK" + bytes(9000)), "is damaged"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_named(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB would fetch an extension for some: the sentence would tell, and so would a folder for it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    db, (make, words) = tmp_path / "x.duckdb", KINDS[kind]
    make(db)
    before = db.read_bytes()
    asks: list[Callable[[], object]] = [
        lambda: store.open(db),
        lambda: list(store.verify(db)),
        lambda: restricted(db, "SELECT 1"),
        lambda: export_run(db, 1, tmp_path / "out"),
    ]
    if before:  # an empty one is filled
        asks += [lambda: begin_new(db), lambda: written(db)]
    for ask in asks:
        with pytest.raises(store.NotAStore) as told:
            ask()
        assert words in str(told.value)
        assert "xtension" not in str(told.value)
    assert db.read_bytes() == before
    assert not (tmp_path / "home").exists()


def begin_new(db: Path) -> None:
    with Writer(db) as writer:
        writer.unfinished()


def written(db: Path) -> None:
    with connection(db, read_only=False):
        pass


def test_another_connection_of_the_process_keeps_its_lock(two_steps: Path, tmp_path: Path) -> None:
    """To look at a file's first bytes must not let go of it for a DuckDB connection beside it."""
    db = Path(shutil.copy(two_steps, tmp_path))
    locks = Path("/proc/locks")
    if not locks.exists():
        pytest.skip("only Linux lists locks")
    file = f":{db.stat().st_ino} "
    with duckdb.connect(str(db), read_only=True) as mine:
        assert file in locks.read_text()
        with store.open(db) as s:
            s.runs()
            assert file in locks.read_text()
        with pytest.raises(store.StoreError), connection(tmp_path / "none.duckdb", read_only=True):
            pass
        assert file in locks.read_text()
        assert mine.execute("SELECT count(*) FROM runs").fetchone() == (2,)


WAL: dict[str, Callable[[bytes], bytes]] = {
    "flipped": lambda wal: wal[:200] + bytes([wal[200] ^ 255]) + wal[201:],
    "cut off": lambda wal: wal[: len(wal) // 2],
    "text": lambda wal: b"not what DuckDB wrote " * 100,
    "zeros": lambda wal: bytes(len(wal)),
    "empty": lambda wal: b"",
}


@pytest.mark.parametrize("how", WAL)
def test_a_damaged_wal(how: str, tmp_path: Path) -> None:
    """It holds what was committed and is not in the file yet; DuckDB passes over half of one."""
    db, wal = tmp_path / "x.duckdb", tmp_path / "x.duckdb.wal"
    written(db)
    with duckdb.connect(str(db)) as con:
        con.execute("PRAGMA disable_checkpoint_on_shutdown")
        con.execute("INSERT INTO base.sample_position SELECT 1, i FROM range(1000) t(i)")
    wal.write_bytes(WAL[how](wal.read_bytes()))
    try:
        found = store.open(db).sql("SELECT count(*) FROM base.sample_position").iloc[0, 0]
    except store.DamagedStore as error:
        assert how == "flipped"
        assert f"{wal}, is damaged" in str(error)
        assert "Move that file away" in str(error)
        wal.unlink()
        found = store.open(db).sql("SELECT count(*) FROM base.sample_position").iloc[0, 0]
    assert found == 0
