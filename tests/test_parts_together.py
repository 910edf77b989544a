"""The parts of a run that are opened together answer what the run answers that one process makes."""

import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from annotate_transformer import store
from annotate_transformer.app.example_queries import defaults
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.plan import PartOf
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.store.database import connection
from annotate_transformer.store.elsewhere.place import place
from annotate_transformer.store.restricted import RefusedQuery, restricted
from annotate_transformer.store.writer import Writer
from answers import TIMES, differences, sql, table_differences
from processes import annotate, start, until
from small import corpus

SENTENCES = (3, 1, 7, 2, 30, 4, 6, 1, 24, 6)  # of each document: two are longer than a shard
PLAIN = Settings(
    context=16,
    batch_tokens=8,
    shard_tokens=100,
    top=5,
    samples=300,
    keep_neurons=2,
    keep_sources=4,
    lens=True,
)
KINDS = {
    "plain": PLAIN,
    "all": replace(PLAIN, keep_neurons=None, keep_sources=None, samples=20, lens=False, bos=True, stride=7),
}
EXAMPLES = sorted((Path(__file__).parent.parent / "examples" / "queries").glob("*.sql"))


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return Model(resolve(str(tiny_model)))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("text") / "small.jsonl", SENTENCES)


Annotated = Callable[..., Path]


@pytest.fixture(scope="module")
def annotated(model: Model, text: Path) -> Annotated:
    """What annotates the text, or a part of it, in this process."""

    def run(db: Path, settings: Settings = PLAIN, part: PartOf | None = None, **options: Any) -> Path:
        with Corpus([str(text)]) as documents:
            ingest(documents, model, str(db), settings, part=part, **options)
        return db

    return run


Both = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def both(annotated: Annotated, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """What gives the folder with three parts of a kind, and the store that one process makes; to be read."""
    made: dict[str, tuple[Path, Path]] = {}

    def of(kind: str) -> tuple[Path, Path]:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            (folder / "parts").mkdir()
            for number in (1, 2, 3):
                # by name, the last part is the first
                annotated(folder / "parts" / f"part-{4 - number}.duckdb", KINDS[kind], PartOf(number, 3))
            made[kind] = folder / "parts", annotated(folder / "whole.duckdb", KINDS[kind])
        return made[kind]

    return of


@pytest.fixture
def parts(both: Both, tmp_path: Path) -> Path:
    """A folder with a copy of the three parts, without an index."""
    left_out = shutil.ignore_patterns("*.index*", "*.lock", "*.turn")
    return Path(shutil.copytree(both("plain")[0], tmp_path / "parts", ignore=left_out))


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.duckdb"))


# The same answers


@pytest.mark.some(2)
@pytest.mark.parametrize("kind", KINDS)
def test_every_table_and_every_view_has_the_same_rows(kind: str, both: Both) -> None:
    folder, whole = both(kind)
    assert table_differences(place(folder), whole) == {}
    assert differences(place(folder), whole) == {}
    [(coded,)] = sql(place(folder), "SELECT count(*) FROM base.neuron_code")
    assert (coded > 0) == (kind == "all")


QUESTIONS: dict[str, Callable[[store.Store], pd.DataFrame]] = {
    **{
        f"decomposition by {by}": lambda s, by=by: s.decomposition(313, by)
        for by in ("term", "component", "layer", "head", "neuron", "source")
    },
    "position": lambda s: s.position(313).to_frame(),
    "sends": lambda s: s.sends(310),
    "documents": lambda s: s.documents(),
    "tokens": lambda s: s.tokens("", "prefix"),
    "occurrences": lambda s: s.occurrences(s.tokens("", "prefix").token[3]),
    "phrase": lambda s: s.phrase("the cat"),
    "neuron contexts": lambda s: s.neuron("L1N3").contexts(),
    "neuron stats": lambda s: s.neuron("L1N3").stats().to_frame(),
    "neuron quantiles": lambda s: s.neuron("L1N3").quantiles(),
    "neuron histogram": lambda s: s.neuron("L1N3").histogram(),
    "neuron tokens": lambda s: s.neuron("L1N3").tokens(),
    "neuron effects": lambda s: s.neuron("L1N3").effects(),
    "head contexts": lambda s: s.head("L1H0").contexts(),
    "head distances": lambda s: s.head("L1H0").distances(),
    "head tokens": lambda s: s.head("L1H0").tokens(),
    "head destinations": lambda s: s.head("L1H0").destinations(),
    "companions": lambda s: s.neuron("L1N3").companions(),
    "units": lambda s: s.units(on="a"),
    "units over rows": lambda s: s.units(on="a", over="rows"),
    "search": lambda s: s.search((store.head("L1H0").toward_next > 0.0) & (store.position.next_rank > 2)),
    "context": lambda s: s.sql("FROM context(313, 20, 20)"),
    "text of neurons": lambda s: s.sql("FROM neuron_contexts(1, 3)"),
    "text of heads": lambda s: s.sql("FROM head_contexts(1, 1)"),
    "text of tokens": lambda s: s.sql(
        "FROM token_occurrences((SELECT token FROM positions WHERE position_id = 313))"
    ),
    "text of phrases": lambda s: s.sql("FROM phrase('the cat')"),
    "terms": lambda s: s.sql("FROM decomposition(313) ORDER BY ALL"),
    "by document": lambda s: s.sql("FROM head_effects_by_document(0, 1)"),
}


@pytest.fixture(scope="module")
def opened(both: Both) -> Iterator[tuple[store.Store, store.Store]]:
    folder, whole = both("plain")
    with store.open(folder) as together, store.open(whole) as one:
        yield together, one


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_has_the_same_answer_in_the_same_order(
    question: str, opened: tuple[store.Store, store.Store]
) -> None:
    together, one = (QUESTIONS[question](s) for s in opened)
    assert len(one)
    pd.testing.assert_frame_equal(together, one)
    assert {k: v for k, v in together.attrs.items() if k != "sql"} == {
        k: v for k, v in one.attrs.items() if k != "sql"
    }


def test_every_example_query_has_the_same_answer(opened: tuple[store.Store, store.Store]) -> None:
    for file in EXAMPLES:
        query = file.read_text(encoding="utf-8")
        values = {
            name: duckdb.sql(f"SELECT {value}").fetchone()[0] for name, value in defaults(query).items()
        }  # type: ignore[index]
        together, one = (
            s.sql(query, values or None).drop(columns=[*TIMES["runs"]], errors="ignore") for s in opened
        )
        pd.testing.assert_frame_equal(together, one, obj=file.stem)


def test_the_store_is_sound(both: Both) -> None:
    """Everything is recomputed over the parts, and compared with the checksums of their rows."""
    findings = [*store.verify(both("all")[0])]
    assert len(findings) > 50
    assert [finding for finding in findings if finding.broken] == []


# The schema


DESCRIBED = {  # over tables and views alike
    "columns": "SELECT schema_name, table_name, column_name, data_type FROM duckdb_columns() "
    "WHERE {here} ORDER BY table_name, column_index",
    "comments on columns": "SELECT table_name, column_name, comment FROM duckdb_columns() "
    "WHERE {here} AND comment IS NOT NULL ORDER BY ALL",
    "comments": "SELECT schema_name, table_name, comment FROM duckdb_tables() WHERE {here} "
    "UNION ALL SELECT schema_name, view_name, comment FROM duckdb_views() WHERE {here} ORDER BY ALL",
    "macros": "SELECT schema_name, function_name, function_type, parameters, macro_definition, comment "
    "FROM duckdb_functions() WHERE {here} ORDER BY ALL",
    "types": "SELECT type_name, labels FROM duckdb_types() WHERE {here} ORDER BY ALL",
}


@pytest.mark.parametrize("what", DESCRIBED)
def test_the_schema_is_that_of_a_file(what: str, both: Both) -> None:
    query = DESCRIBED[what].replace(
        "{here}", "database_name = current_database() AND NOT internal AND schema_name IN ('main', 'base')"
    )
    together, one = (sql(db, query) for db in (place(both("plain")[0]), both("plain")[1]))
    assert together == one and len(one) > 5


@pytest.mark.parametrize("table", ["contribution", "head", "head_source", "neuron", "lens"])
def test_a_position_is_read_from_its_part_alone(table: str, opened: tuple[store.Store, store.Store]) -> None:
    for query, values in (
        (f"FROM base.{table} WHERE position_id = 313", None),
        (f"FROM base.{table} WHERE position_id = $position_id", {"position_id": 313}),
    ):
        [plan] = opened[0].sql(f"EXPLAIN {query}", values).explain_value
        assert len(re.findall(r"part_\d", plan)) == 1, plan


# Opening


def test_a_folder_or_a_list_in_any_order(parts: Path, both: Both) -> None:
    files, wanted = files_of(parts), both("plain")[1]
    for given in (parts, str(parts), files, [str(file) for file in files[::-1]], tuple(files)):
        with store.open(given) as s:
            assert s.sql("SELECT count(*) AS n FROM positions").n[0] == len(sql(wanted, "FROM positions"))
            assert s.sql("SELECT status::VARCHAR AS status FROM runs").status.tolist() == ["finished"]
            assert len(s.sql("FROM parts")) == 0
    assert repr(s) == f"<store {', '.join(map(str, files))}>"
    assert len([*parts.glob("*.index")]) == 2, "one for the folder, and one for the list in any order"


def test_connections_share_what_is_open(parts: Path) -> None:
    with store.open(parts) as one, store.open(parts) as other:
        found = [pd.read_sql("SELECT * FROM runs", s.engine).run_id.tolist() for s in (one, other, one)]
    assert found == [[1]] * 3


def test_the_commands(parts: Path, both: Both, tmp_path: Path) -> None:
    first = annotate("runs", "--db", parts, folder=tmp_path)
    assert (first.status, first.err.count("is done once")) == (0, 1), first.err
    for command in (
        ("position", 313), ("sql", "SELECT sum(activation) FROM neurons", "--restricted", "--format", "csv"),
    ):  # fmt: skip
        together, one = (annotate(*command, "--db", db, folder=tmp_path) for db in (parts, both("plain")[1]))
        assert (together.status, together.err) == (0, ""), together.err
        assert together.out == one.out


def test_it_is_read_only(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(store.NotAStore, match=r"is a run in parts.*annotate merge .*/\*\.duckdb --db FILE"):
        Writer(place(parts))
    for command in (("inputs", 313, "L1N3", "--db", parts), ("weights", "--db", parts), ("upgrade", parts)):
        result = annotate(*command, folder=tmp_path)
        assert (result.status, "Traceback" in result.err) == (2, False), result.err
        assert "annotate merge" in result.err or "is a folder" in result.err


# SQL from a stranger


def test_restricted_sql_reads_the_parts_and_nothing_else(parts: Path) -> None:
    with store.open(parts) as s:
        query = "SELECT layer, sum(toward_next) AS effect FROM heads GROUP BY layer ORDER BY layer"
        pd.testing.assert_frame_equal(restricted(parts, query).frame, s.sql(query), check_exact=False)
    for query, words in (
        (f"FROM read_text('{__file__}')", "disabled|not allowed|Permission"),
        ("FROM duckdb_databases()", "not allowed"),
        ("ATTACH 'x.duckdb'", "Only SELECT"),
        ("DELETE FROM base.head", "Only SELECT"),
    ):
        with pytest.raises(RefusedQuery, match=words) as refused:
            restricted(parts, query)
        assert str(parts) not in str(refused.value)
    with pytest.raises(RefusedQuery, match="longer than 1 s"):
        restricted(parts, "SELECT len(range(300000000)), count(*) FROM neurons", seconds=1, memory="10GB")


# The index


def index_of(folder: Path) -> Path:
    return folder / "parts.index"


def made_when(folder: Path) -> int:
    with store.open(folder):
        return index_of(folder).stat().st_mtime_ns


def test_the_index_is_made_once_and_again_after_a_change(parts: Path, both: Both) -> None:
    first = made_when(parts)
    assert made_when(parts) == first
    # A part is annotated again with other values: here, with another token's text in its vocabulary.
    with duckdb.connect(str(parts / "part-3.duckdb")) as con:
        con.execute("UPDATE base.token SET token = 'changed' WHERE token_id = 7")
    assert made_when(parts) > first
    assert sql(place(parts), "SELECT token FROM base.token WHERE token_id = 7") == [("changed",)]


@pytest.mark.parametrize("damage", [b"", b"no index", b"\0" * 20_000])
def test_an_index_that_is_none_is_made_again(damage: bytes, parts: Path) -> None:
    index_of(parts).write_bytes(damage)
    assert sql(place(parts), "SELECT count(*) FROM base.part") == [(0,)]


def test_killed_while_the_index_is_made(parts: Path, both: Both, tmp_path: Path) -> None:
    kills, new = 0, parts / "parts.index.new"
    for _ in range(3):
        running = start("runs", "--db", parts, folder=tmp_path)
        until(lambda: new.exists() or not running.alive, every=0.002)  # noqa: B023
        running.send(signal.SIGKILL)
        kills += running.wait().status == -signal.SIGKILL
        assert not index_of(parts).exists()
    assert kills
    assert table_differences(place(parts), both("plain")[1]) == {}
    assert not new.exists()


def test_two_at_once_make_one_index(parts: Path, tmp_path: Path) -> None:
    running = [start("runs", "--db", parts, folder=tmp_path) for _ in range(2)]
    results = [one.wait() for one in running]
    assert [result.status for result in results] == [0, 0]
    assert sum(result.err.count("is done once") for result in results) == 1
    threads = [threading.Thread(target=made_when, args=(parts,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(parts: Path, both: Both, tmp_path: Path) -> None:
    parts.chmod(0o500)
    result = annotate("runs", "--db", parts, folder=tmp_path)
    assert (result.status, "cannot be written" in result.err) == (0, True), result.err
    assert table_differences(place(parts), both("plain")[1]) == {}
    assert not index_of(parts).exists()


# Refusals


def refused(db: Path, folder: Path) -> str:
    """The sentence with which a folder is refused; nothing may have been written."""
    before = {file: file.read_bytes() for file in db.iterdir()}
    result = annotate("runs", "--db", db, folder=folder)
    assert (result.status, "Traceback" in result.err) == (2, False), result.err
    left = {file: file.read_bytes() for file in db.iterdir() if file.suffix not in (".lock", ".turn")}
    assert left == {file: content for file, content in before.items() if file in left}
    return re.sub(r"\s+", " ", result.err).strip()


def test_what_is_no_whole_run_is_refused(
    parts: Path, annotated: Annotated, both: Both, tmp_path: Path
) -> None:
    last, two, one = files_of(parts)
    twice = shutil.copy(two, parts / "copy.duckdb")
    assert "have the same shards. Leave one of them out" in refused(parts, tmp_path)
    os.remove(twice)
    foreign = shutil.copy(both("plain")[1], parts / "foreign.duckdb")
    assert f"{foreign} has no part of a run" in refused(parts, tmp_path)
    os.remove(foreign)
    (parts / "text.duckdb").write_text("no database")
    assert "it is a text file" in refused(parts, tmp_path)
    os.remove(parts / "text.duckdb")
    two.rename(tmp_path / "two.duckdb")
    assert "A part is missing (2/3)" in refused(parts, tmp_path)
    annotated(two, PLAIN, PartOf(2, 3), stop=lambda: True)
    assert f"{two} has part 2 of 3 only to shard " in refused(parts, tmp_path)
    (tmp_path / "empty").mkdir()
    assert "has no file *.duckdb" in refused(tmp_path / "empty", tmp_path)
    with pytest.raises(store.NotOneRun, match=f"{one} is given twice"):
        store.open([one, last, one])
    with pytest.raises(store.NotAStore, match="There is no store at"):
        store.open([one, tmp_path / "none.duckdb"])
    with pytest.raises(store.NotAStore, match="An empty list"):
        store.open([])


def test_parts_under_different_numbers_are_refused(parts: Path, annotated: Annotated, tmp_path: Path) -> None:
    two = parts / "part-2.duckdb"
    os.remove(two)
    annotated(two, replace(PLAIN, top=3, limit_tokens=150))
    annotated(two, PLAIN, PartOf(2, 3))
    assert "under different numbers" in refused(parts, tmp_path)
    [(model,)] = sql(two, "SELECT count(*) FROM base.model")
    assert model == 1


def test_a_part_that_is_gone_or_damaged_is_told(parts: Path) -> None:
    with store.open(parts):
        pass
    part = parts / "part-1.duckdb"
    content = bytearray(part.read_bytes())
    content[:40_000] = b"\xff" * 40_000
    part.write_bytes(content)
    with pytest.raises(store.NotAStore, match=str(part)):
        store.open(parts)
    with connection(parts / "part-2.duckdb", read_only=True) as con:
        assert con.execute("SELECT count(*) FROM base.part").fetchone() == (1,)
