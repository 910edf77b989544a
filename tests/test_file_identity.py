"""Two names of one file are one store: never two writers, never a number given twice."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from annotate_transformer import store
from annotate_transformer.store.database import connection
from annotate_transformer.store.location import temporary_folder, turn_lock, writers_lock
from annotate_transformer.store.writer import Writer, status
from answers import sql
from handmade import MODEL, RUN, VOCABULARY, insert
from processes import annotate, start
from small import SETTINGS, corpus, until_committed

# Names


def folder_link(folder: Path) -> Path:
    (folder / "other").symlink_to(folder / "in")
    return folder / "other" / "s.duckdb"


def link(folder: Path, name: str, target: str | Path) -> Path:
    made = folder / name
    made.parent.mkdir(exist_ok=True)
    made.symlink_to(target)
    return made


NAMES: dict[str, Callable[[Path], str | Path]] = {  # of the file in/s.duckdb of a folder
    "a link": lambda folder: link(folder, "in/l.duckdb", "s.duckdb"),
    "an absolute link": lambda folder: link(folder, "l.duckdb", folder / "in" / "s.duckdb"),
    "a link to a link": lambda folder: link(folder, "m", link(folder, "l.duckdb", "in/s.duckdb")),
    "a link of another ending": lambda folder: link(folder, "in/latest", "s.duckdb"),
    "a link in another folder": lambda folder: link(folder, "out/s.duckdb", "../in/s.duckdb"),
    "a parent that is a link": folder_link,
    "a link to the parent's parent": lambda folder: link(folder, "out/up", "..") / "in" / "s.duckdb",
    "a relative path": lambda folder: os.path.relpath(folder / "in" / "s.duckdb"),
    "a path with dots": lambda folder: f"{folder}/in/../in/./s.duckdb",
    "slashes twice": lambda folder: f"{folder}//in//s.duckdb",
    "a path by way of the process": lambda folder: Path(f"/proc/self/root{folder}/in/s.duckdb"),
}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without a row: a copy of it costs less than to make one."""
    db = tmp_path_factory.mktemp("empty") / "s.duckdb"
    with connection(db, read_only=False):
        return db


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


@pytest.mark.some(3)
@pytest.mark.parametrize("there", [True, False], ids=["there", "not there yet"])
@pytest.mark.parametrize("name", NAMES)
def test_a_second_writer_is_refused_by_every_name(name: str, there: bool, home: Path, empty: Path) -> None:
    """Where the file is not there yet, a link to it dangles."""
    file = home / "in" / "s.duckdb"
    if there:
        shutil.copy(empty, file)
    other = NAMES[name](home)
    with Writer(file), pytest.raises(store.IngestRunning, match="Another ingest"), Writer(other):
        pass
    with Writer(other), pytest.raises(store.IngestRunning), Writer(file):
        pass
    with Writer(other):
        assert status(file, "running") == status(other, "running") == "running"
    assert status(file, "running") == status(other, "running") == "unfinished"
    for named in (turn_lock, writers_lock):
        assert named(file).lock_file == named(other).lock_file
    assert temporary_folder(file) == temporary_folder(other)


@pytest.mark.parametrize("name", ["a link", "a link in another folder", "a parent that is a link"])
def test_what_one_name_wrote_every_name_reads(name: str, home: Path) -> None:
    other = NAMES[name](home)
    with Writer(other) as writer:
        writer.begin(RUN, VOCABULARY, fresh=False)
        writer.commit({})
    assert not (home / "in" / "s.duckdb").is_symlink()
    assert sql(home / "in" / "s.duckdb", "SELECT run_id FROM base.run") == [(1,)]
    assert store.open(other).sql("SELECT run_id FROM base.run").run_id.tolist() == [1]
    beside = {path.name for path in home.rglob("*") if path.name.endswith((".wal", ".lock", ".turn", ".tmp"))}
    assert beside <= {"s.duckdb.lock", "s.duckdb.turn"}, "named after the link"


def test_a_link_that_leads_elsewhere_meanwhile_changes_nothing(home: Path) -> None:
    """A writer stays with the file that its name led to at first."""
    made = link(home, "l.duckdb", "in/s.duckdb")
    with Writer(made) as writer:
        writer.begin(RUN, VOCABULARY, fresh=False)
        made.unlink()
        made.symlink_to("in/other.duckdb")
        writer.commit({})
    assert {path.name for path in (home / "in").glob("*.duckdb")} == {"s.duckdb"}


@pytest.mark.parametrize("when", ["before", "while another writes"])
def test_a_file_of_two_hard_links_is_read_and_not_written(when: str, home: Path, empty: Path) -> None:
    """DuckDB keeps an interrupted write beside one of the names; through the other it would be missing."""
    file, other = Path(shutil.copy(empty, home / "in")), home / "other.duckdb"
    if when == "before":
        os.link(file, other)
        names = (file, other)
    else:
        writer = Writer(file).__enter__()
        os.link(file, other)
        names = (other,)
    for name in names:
        with pytest.raises(store.NotAStore, match=r"hard links.*Remove the other names"), Writer(name):
            pass
        assert store.open(name).sql("SELECT count(*) FROM base.run").iloc[0, 0] == 0
    if when != "before":
        writer.__exit__(None, None, None)
    other.unlink()
    with Writer(file):
        pass


@pytest.mark.soak
def test_two_ingests_by_two_names_at_once(tmp_path: Path, tiny_model: Path) -> None:
    """The commands themselves: both said 0 once, and both runs had the number 1."""
    text = corpus(tmp_path / "small.jsonl", 3 * (4, 1, 30, 2, 9, 1, 20, 3))
    options = ("ingest", text, "--model", tiny_model, *SETTINGS)
    db, other = tmp_path / "s.duckdb", tmp_path / "l.duckdb"
    other.symlink_to("s.duckdb")
    first = start(*options, "--db", other, folder=tmp_path)
    until_committed(db)
    second = annotate(*options, "--top", 7, "--db", db, folder=tmp_path)
    assert first.alive, "the first was over too early"
    assert (second.status, "Traceback" in second.err) == (2, False), second.err
    assert "Another ingest is writing into" in second.err
    result = first.wait()
    assert result.status == 0, result.err
    assert sql(db, "SELECT run_id, status::VARCHAR FROM base.run") == [(1, "finished")]


# Numbers

PLACE = {"position_id": 7}
RUNNING = {"identity": "other", "status": "running"}
FOREIGN: dict[str, tuple[str, dict[str, object]]] = {  # rows that another program writes meanwhile
    "run": ("run", RUNNING | {"run_id": 1}),
    "a run of another number": ("run", RUNNING | {"run_id": 5}),
    "model": ("model", {"model_id": 1, "weights_sha256": "other"}),
    "corpus": ("corpus", {"corpus_id": 1, "sha256": "other"}),
    "tokenizer": ("tokenizer", {"tokenizer_id": 1, "sha256": "other"}),
    "token": ("token", {"tokenizer_id": 1, "token_id": 0}),
    "position": ("position", {"run_id": 1} | PLACE),
    "a position under another run": ("position", {"run_id": 9} | PLACE),
    "document": ("document", {"corpus_id": 1, "document_id": 3}),
    "a document of another corpus": ("document", {"corpus_id": 9, "document_id": 3}),
    "shard": ("shard", {"run_id": 1, "shard": 0}),
    "weights": ("weights", {"model_id": 1, "top": 3}),
    "ablation": ("head_prompt", {"run_id": 1, "layer": 1, "neuron": 1}),
    "a p-value": ("ablation", {"run_id": 1, "layer": 1, "neuron": 1}),
    "next_token_neuron": ("next_token_neuron", {"run_id": 1, "layer": 1, "neuron": 1}),
}


def add(empty: Path, db: Path, table: str, row: dict[str, object]) -> None:
    """Write a row as a program does that knows nothing of our locks."""
    if not db.exists():
        shutil.copy(empty, db)
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{db}' AS store")
        con.execute("USE store")
        insert(con, table, [row])


@pytest.mark.some(3)
@pytest.mark.parametrize("what", FOREIGN)
def test_numbers_are_unused_when_they_are_first_written(what: str, tmp_path: Path, empty: Path) -> None:
    """Another program, that knows of no lock, writes between their choice and the first commit."""
    db, (table, row) = tmp_path / "s.duckdb", FOREIGN[what]
    if what not in ("run", "position"):  # with these the file is not there when the numbers are chosen
        shutil.copy(empty, db)
    with Writer(db) as writer:
        writer.begin(RUN, VOCABULARY, fresh=False)
        add(empty, db, table, row)
        before = db.read_bytes()
        with pytest.raises(store.StoreChanged, match="Nothing was overwritten"):
            writer.commit({})
    assert db.read_bytes() == before


@pytest.mark.some(3)
@pytest.mark.parametrize(
    "what", ["run", "a run of another number", "model", "shard", "weights", "next_token_neuron", "a p-value"]
)
def test_nobody_else_writes_between_two_commits(what: str, tmp_path: Path, empty: Path) -> None:
    """As a second writer would that no lock keeps away: one of another machine, over a network's disk."""
    db, (table, row) = Path(shutil.copy(empty, tmp_path)), FOREIGN[what]
    with Writer(db) as writer:
        writer.begin(RUN, VOCABULARY, fresh=False)
        writer.commit({})
        writer.commit({})  # its own rows are no reason to stop
        add(empty, db, table, row)
        with pytest.raises(store.StoreChanged, match="Another program has written into"):
            writer.commit({})


REPLACED: dict[str, Callable[[Path, Path], object]] = {
    "taken away": lambda db, other: db.unlink(),
    "moved": lambda db, other: db.rename(db.with_name("moved.duckdb")),
    "another in its place": lambda db, other: os.replace(other, db),
    "overwritten": lambda db, other: shutil.copyfile(other, db),
    "emptied": lambda db, other: db.write_bytes(b""),
}


@pytest.mark.parametrize("how", REPLACED)
def test_a_file_replaced_between_two_commits(how: str, tmp_path: Path, empty: Path) -> None:
    db, other = Path(shutil.copy(empty, tmp_path)), tmp_path / "other.duckdb"
    add(empty, other, *FOREIGN["run"])
    with Writer(db) as writer:
        writer.begin(RUN, VOCABULARY, fresh=False)
        writer.commit({})
        REPLACED[how](db, other)
        before = db.read_bytes() if db.exists() else None
        with pytest.raises(store.StoreChanged, match=r"or replaced it|is gone since"):
            writer.commit({})
        assert before == (db.read_bytes() if db.exists() else None)


def test_an_empty_file_is_filled(tmp_path: Path) -> None:
    """As `mktemp` makes one, or a kill at the wrong moment: DuckDB itself refuses it."""
    db = tmp_path / "s.duckdb"
    db.touch()
    with Writer(db) as writer:
        writer.begin(RUN, VOCABULARY, fresh=False)
        writer.commit({})
    assert sql(db, "SELECT run_id FROM base.run") == [(1,)]


def test_a_model_read_twice_at_once(tmp_path: Path, empty: Path) -> None:
    """`annotate weights` numbers a model as an ingest does."""
    db = tmp_path / "s.duckdb"
    with Writer(db) as writer:
        writer.begin_model(MODEL, "t", VOCABULARY)
        add(empty, db, *FOREIGN["model"])
        with pytest.raises(store.StoreChanged, match="model 1"):
            writer.commit({}, model_id=1)
