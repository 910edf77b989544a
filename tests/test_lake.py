"""A lake answers as the store does; several processes write into one at once, and none of them half."""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import duckdb
import pytest

from annotate_transformer import store
from annotate_transformer.app.example_queries import defaults as defaults_of
from annotate_transformer.app.example_queries import examples
from annotate_transformer.store.catalogue import catalogue
from annotate_transformer.store.checksum import differing, owners
from annotate_transformer.store.database import connection, create
from annotate_transformer.store.elsewhere.lake import Lake, statements
from annotate_transformer.store.elsewhere.overlay import plain_columns
from annotate_transformer.store.elsewhere.place import Place, place
from annotate_transformer.store.share import share_run
from answers import differences, table_differences
from asking import Asking
from postgres import PASSWORD, Served, programs, serving
from processes import Result, Running, annotate, start, until
from small import SETTINGS

pytestmark = pytest.mark.skipif(
    not find_spec("duckdb_extension_ducklake"), reason="duckdb-extension-ducklake is not installed"
)
needs_server = pytest.mark.skipif(
    not programs() or not find_spec("duckdb_extension_postgres_scanner"),
    reason="PostgreSQL or duckdb-extension-postgres-scanner is not installed",
)


@pytest.fixture(scope="module")
def of_steps(two_steps: Path, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake in a file with both runs of the store."""
    lake = Lake(f"ducklake:{tmp_path_factory.mktemp('lake') / 'steps.ducklake'}")
    for run in (1, 2):
        assert share_run(two_steps, run, lake).run_id == run
    return lake


@pytest.fixture(scope="module")
def others(
    made: Path, source: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Stores of three runs: of the same model and text, and of the same model alone."""
    folder = tmp_path_factory.mktemp("others")
    cut = folder / "cut.jsonl"
    cut.write_text("".join(source.read_text().splitlines(keepends=True)[:3]))
    for name, text, more in (("top", source, ("--top", 4)), ("cut", cut, ())):
        command = ("ingest", text, "--db", f"{name}.duckdb", "--model", tiny_model, *SETTINGS, *more)
        assert annotate(*command, folder=folder).status == 0
    return [made, *(folder / f"{name}.duckdb" for name in ("top", "cut"))]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving() as found:
        yield found


@pytest.fixture
def served(server: Served, tmp_path: Path) -> str:
    """The address of a lake that does not exist yet, in a database of its own."""
    server.make(tmp_path.name)
    return server.address(tmp_path.name)


def assert_sound(lake: Place) -> None:
    """Check every row of the lake against the checksum that was written with it."""
    with connection(lake, read_only=True) as con:
        con.execute("SET arrow_output_version = '1.5'")
        assert {owner: [*differing(con, *owner)] for owner in owners(con)} == {o: [] for o in owners(con)}


def rows(db: Place, query: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
    with connection(db, read_only=True) as con:
        return con.execute(query, parameters).fetchall()


# The tables that are generated from the catalogue of schema.sql


def described(con: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[Any, ...]]]:
    """What a database has in the schemas base and main: columns, comments and macros."""
    here = "database_name = current_database() AND NOT internal"
    return {
        "columns": con.execute(
            "SELECT schema_name, table_name, column_name, data_type, column_index FROM duckdb_columns() "
            f"WHERE {here} ORDER BY ALL"
        ).fetchall(),
        "comments": con.execute(
            "SELECT table_name, column_name, comment FROM duckdb_columns() "
            f"WHERE {here} AND schema_name = 'main' UNION ALL "
            "SELECT view_name, NULL, comment FROM duckdb_views() "
            f"WHERE {here} AND schema_name = 'main' ORDER BY ALL"
        ).fetchall(),
        "macros": con.execute(
            "SELECT schema_name, function_name, parameters, macro_definition, comment "
            f"FROM duckdb_functions() WHERE {here} ORDER BY ALL"
        ).fetchall(),
        "types": con.execute(
            f"SELECT type_name, labels FROM duckdb_types() WHERE {here} AND labels IS NOT NULL ORDER BY ALL"
        ).fetchall(),
    }


def test_a_lake_has_the_schema_of_schema_sql(of_steps: Lake) -> None:
    with duckdb.connect() as plain, closing(of_steps.connect()) as con:
        create(plain)
        assert described(con) == described(plain)


def test_the_tables_of_a_lake_are_those_of_schema_sql(of_steps: Lake) -> None:
    declared = (
        "SELECT table_name, column_name, data_type, is_nullable FROM duckdb_columns() "
        "SEMI JOIN duckdb_tables() USING (database_name, schema_name, table_name) WHERE schema_name = 'base'"
    )
    with duckdb.connect() as plain, closing(of_steps.connect()) as con:
        create(plain)
        wanted = {tuple(row) for row in plain.execute(declared).fetchall()}
        found = {tuple(row) for row in con.execute(f"{declared} AND database_name = 'lake'").fetchall()}
    as_plain = {
        (
            table,
            name,
            "VARCHAR" if kind.startswith("ENUM") else kind.replace("HUGEINT", "DECIMAL(38,0)"),
            null,
        )
        for table, name, kind, null in wanted
    }
    assert found == as_plain
    partitioned = {
        one.split()[2].split(".")[-1] for one in statements() if one.endswith("PARTITIONED BY (run_id)")
    }
    assert partitioned == {table for table, name, *_ in wanted if name == "run_id"}
    assert {name for table in catalogue().values() for name in plain_columns(table)} == {
        n for _, n, *_ in wanted
    }


# Every answer is that of the store

MACROS = {  # calls of every table macro
    "context": "(1000000000777, 8, 4)", "decomposition": "(777)", "neuron_contexts": "(1, 7)",
    "head_contexts": "(3, 2, run := 1)", "head_effects_by_document": "(3, 2)",
    "token_occurrences": "(' the')",
    "phrase": "('capital of')", "active_heads": "()", "relevant_heads": "(run := 2)",
}  # fmt: skip
COMMANDS = ("runs", "stats", "phrase", "neuron", "head", "heads", "position", "compare", "bigrams", "token")
# The number of an explanation is counted within its run; in a lake it is unique.
EXPLAINED = {"explanations", "explanation_scores", "explanation_answers"}
EXPLAINED_TABLES = {"explanation", "explanation_answer", "checksum"}


def test_every_view_and_table_has_the_same_rows(two_steps: Path, of_steps: Lake) -> None:
    assert {*differences(two_steps, of_steps)} <= EXPLAINED
    assert {*table_differences(two_steps, of_steps)} <= EXPLAINED_TABLES
    for view in EXPLAINED:
        number = "explanation_id % 1_000_000_000_000 AS explanation_id"
        query = f"SELECT * REPLACE ({number}) FROM {view} ORDER BY ALL"
        found = [rows(db, query) for db in (two_steps, of_steps)]
        assert found[0] and repr(found[0]) == repr(found[1])


def test_every_macro_and_example_query_gives_the_same_bytes(two_steps: Path, of_steps: Lake) -> None:
    with store.open(two_steps) as near, store.open(of_steps) as far:
        named = (
            "SELECT function_name FROM duckdb_functions() WHERE NOT internal AND schema_name = 'main' AND "
        )
        assert {*near.sql(f"{named} function_type = 'table_macro'").function_name} == {*MACROS}
        for name, given in MACROS.items():
            found = [s.sql(f"FROM {name}{given} ORDER BY ALL").to_csv() for s in (near, far)]
            assert found[0] == found[1] and found[0].count("\n") > 1, name
        for text in examples():
            query = text
            for name, value in defaults_of(text).items():
                query = query.replace(f"${name}", value)
            found = [s.sql(query).to_csv() for s in (near, far)]
            assert found[0] == found[1] and found[0].count("\n") > 1, text.partition("\n")[0]


def test_commands_print_the_same(ask: Asking, of_steps: Lake) -> None:
    far = Asking(ask.capsys, ask.patch, Path(of_steps.address))
    for command in COMMANDS:
        assert far.example(command, "--json") == ask.example(command, "--json"), command
    assert far("schema", "positions").out == ask("schema", "positions").out


@pytest.mark.soak
def test_every_check_of_a_store_passes(of_steps: Lake) -> None:
    assert [finding for finding in store.verify(of_steps) if finding.broken] == []


def test_commands_that_write_are_refused(ask: Asking, of_steps: Lake, tmp_path: Path) -> None:
    far = Asking(ask.capsys, ask.patch, Path(of_steps.address))
    ask.patch.chdir(tmp_path)
    for words in (("ingest", "x.jsonl"), ("weights",), ("effects",), ("sql", "--restricted", "FROM runs")):
        said = far(*words)
        assert said.status == 2 and "needs a file on this machine" in " ".join(said.err.split()), words
    assert not [*tmp_path.iterdir()]


# Numbers that are taken


def test_a_run_from_another_store_gets_a_free_number(others: list[Path], tmp_path: Path) -> None:
    lake = Lake(f"ducklake:{tmp_path / 'all.ducklake'}")
    assert [share_run(db, 1, lake).run_id for db in others] == [1, 2, 3]
    assert rows(lake, "SELECT run_id, model_id, corpus_id FROM base.run ORDER BY 1") == [
        (1, 1, 1), (2, 1, 1), (3, 1, 2)
    ]  # fmt: skip
    assert_sound(lake)
    for number, db in enumerate(others, 1):
        query = """
            SELECT p.* EXCLUDE (run_id, position_id, document_id),
                   p.position_id - (run_id - 1) * 1000000000000 AS ordinal, c.* EXCLUDE (run_id, position_id)
            FROM positions p JOIN contributions c USING (run_id, position_id)
            WHERE run_id = $run ORDER BY ALL
        """
        assert repr(rows(lake, query, {"run": number})) == repr(rows(db, query, {"run": 1}))
        with store.open(lake) as far, store.open(db) as near:
            text = "SELECT before, token, after FROM context($p, 5, 5)"
            there = far.sql(text, {"p": (number - 1) * 10**12 + 5})
            assert there.equals(near.sql(text, {"p": 5}))


# Several processes


def exporting(db: Path, address: str, folder: Path, *more: object) -> Running:
    return start("export", "--to", address, "--data", folder / "files", "--db", db, *more, folder=folder)


@pytest.mark.soak
@needs_server
def test_processes_that_write_at_once_all_succeed(others: list[Path], served: str, tmp_path: Path) -> None:
    processes = [exporting(db, served, tmp_path) for db in others]
    ended = [process.wait() for process in processes]
    assert [result.status for result in ended] == [0] * len(others), [result.err for result in ended]
    lake = place(served)
    assert rows(lake, "SELECT run_id FROM base.run ORDER BY 1") == [(1,), (2,), (3,)]
    for table, number in (("model", 1), ("tokenizer", 1), ("corpus", 2)):
        assert rows(lake, f"SELECT count(*) FROM base.{table}") == [(number,)], table
    assert_sound(lake)
    identities = {rows(db, "SELECT identity FROM base.run")[0] for db in others}
    assert {*rows(lake, "SELECT identity FROM base.run")} == identities


@needs_server
def test_of_two_processes_with_the_same_run_one_is_told(made: Path, served: str, tmp_path: Path) -> None:
    processes = [exporting(made, served, tmp_path) for _ in range(2)]
    ended = {result.status: result.err for result in (process.wait() for process in processes)}
    assert {*ended} == {0, 2}
    assert "this run" in ended[2] and "Nothing was written" in ended[2]
    assert rows(place(served), "SELECT run_id FROM base.run") == [(1,)]
    assert_sound(place(served))


def assert_killed_leaves_nothing(address: str, files: Path, begin: Callable[[], Running]) -> None:
    process = begin()
    until(lambda: not process.alive or [*files.glob("base/token/*.parquet")], every=0.002)
    process.send(signal.SIGKILL)
    assert process.wait().status == -signal.SIGKILL
    for table in ("run", "model", "corpus", "tokenizer", "position"):
        assert rows(place(address), f"SELECT count(*) FROM base.{table}") == [(0,)], table
    again = begin().wait()
    assert again.status == 0, again.err
    assert rows(place(address), "SELECT run_id FROM base.run") == [(1,)]
    assert_sound(place(address))


@needs_server
def test_a_killed_export_leaves_nothing_and_can_be_repeated(made: Path, served: str, tmp_path: Path) -> None:
    assert_killed_leaves_nothing(served, tmp_path / "files", lambda: exporting(made, served, tmp_path))


@pytest.mark.soak
def test_an_export_into_a_file_that_is_killed_can_be_repeated(made: Path, tmp_path: Path) -> None:
    address = f"ducklake:{tmp_path / 'x.ducklake'}"
    assert_killed_leaves_nothing(
        address,
        tmp_path / "x.ducklake.files",
        lambda: start("export", "--to", address, "--db", made, folder=tmp_path),
    )


def test_a_file_that_another_process_writes_is_waited_for_and_then_told(made: Path, tmp_path: Path) -> None:
    lake = Lake(f"ducklake:{tmp_path / 'x.ducklake'}")
    share_run(made, 1, lake)
    with closing(lake.attached()), pytest.raises(store.StoreBusy, match="held open by another"):
        lake.attached("READ_ONLY", wait=0.2)


# Bad input


def refused(ask: Callable[[], object]) -> str:
    """Return the message of the error that an action raises."""
    with pytest.raises(store.AnnotateError) as raised:
        ask()
    assert PASSWORD not in str(raised.value)
    return " ".join(str(raised.value).split())


def told(*words: object, folder: Path) -> str:
    """What a command that cannot do it says: one sentence or two, without a traceback."""
    result: Result = annotate(*words, folder=folder)
    assert result.status == 2 and result.out == "", result.err
    assert "Traceback" not in result.err and PASSWORD not in result.err
    return " ".join(result.err.split())


def test_what_cannot_be_read_is_told(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(made, tmp_path / "store.duckdb")
    (tmp_path / "text.txt").write_text("no lake")
    lake = Lake(f"ducklake:{tmp_path / 'x.ducklake'}")
    share_run(made, 1, lake)
    before = (tmp_path / "store.duckdb").read_bytes()
    for address, said in (
        ("ducklake:none.ducklake", "There is no lake at ducklake:none.ducklake."),
        ("ducklake:store.duckdb", "is not the catalogue of a lake"),
        ("ducklake:text.txt", "is not the catalogue of a lake"),
        ("ducklake:", "names no lake"),
        ("ducklake:mysql:db=x", "names no lake"),
        (f"ducklake:postgres:dbname=x password={PASSWORD}", "PGPASSWORD"),
        (f"ducklake:postgres:postgresql://me:{PASSWORD}@localhost/x", "PGPASSWORD"),
    ):
        assert said in refused(lambda: store.open(address)), address  # noqa: B023 (called at once)
        if "none" not in address:
            assert said in refused(lambda: share_run("store.duckdb", 1, address)), address  # noqa: B023
    assert (tmp_path / "store.duckdb").read_bytes() == before
    assert "has this run already, as run 1" in told("export", "--to", lake, "--db", made, folder=tmp_path)
    assert "Leave --data out" in refused(lambda: share_run(made, 1, lake, "y"))
    assert "FOLDER, or a lake" in told("export", "--db", made, folder=tmp_path)
    assert "is no lake" in told("export", "--to", "x.duckdb", "--db", made, folder=tmp_path)
    assert_sound(lake)
    (tmp_path / "x.ducklake.files").rename(tmp_path / "moved")
    assert "which is not here" in refused(lambda: store.open(lake))
    (tmp_path / "moved").rename(tmp_path / "x.ducklake.files")
    with closing(lake.attached()) as con:
        con.execute("UPDATE lake.base.version SET version = 3")
    assert "has schema version 3" in refused(lambda: store.open(lake))
    assert "has schema version 3" in refused(lambda: share_run(made, 1, lake))


def test_a_damaged_run_is_not_exported(made: Path, tmp_path: Path) -> None:
    db, lake = Path(shutil.copy(made, tmp_path)), Lake(f"ducklake:{tmp_path / 'x.ducklake'}")
    change = "UPDATE base.head SET attention = attention / 2 WHERE position_id = 3"
    duckdb.connect(str(db)).execute(change).close()
    assert "is damaged: the rows of base.head" in told("export", "--to", lake, "--db", db, folder=tmp_path)
    assert rows(lake, "SELECT count(*) FROM base.run") == [(0,)]


def test_a_lake_and_its_files_can_be_moved(made: Path, tmp_path: Path) -> None:
    lake = Lake(f"ducklake:{tmp_path / 'x.ducklake'}")
    share_run(made, 1, lake)
    (tmp_path / "there").mkdir()
    for file in tmp_path.glob("x.ducklake*"):
        file.rename(tmp_path / "there" / file.name)
    moved = Lake(f"ducklake:{tmp_path / 'there' / 'x.ducklake'}")
    assert rows(moved, "FROM runs") == rows(made, "FROM runs")
    assert rows(moved, "SELECT count(*), sum(hash(h)) FROM base.head h") == rows(
        made, "SELECT count(*), sum(hash(h)) FROM base.head h"
    )


@needs_server
def test_a_server_that_cannot_be_used_is_told(
    made: Path, server: Served, served: str, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text(f"*:*:*:*:{PASSWORD[::-1]}")
    wrong.chmod(0o600)
    for address, said in (
        (server.address("nowhere"), 'database "nowhere" does not exist'),
        (server.address("postgres", port=1), "Connection refused"),
        (server.address("postgres", passfile=wrong), "password authentication failed"),
        (server.address("postgres", nonsense=1), "nonsense"),
    ):
        assert said in refused(lambda: store.open(address)), address  # noqa: B023 (called at once)
        assert said in refused(lambda: share_run(made, 1, address)), address  # noqa: B023
    assert "There is no lake" in told("runs", "--db", served, folder=tmp_path)
    assert "--data FOLDER" in told("export", "--to", served, "--db", made, folder=tmp_path)
    share_run(made, 1, served, tmp_path / "files")
    assert "Leave --data out" in refused(lambda: share_run(made, 1, served, tmp_path / "others"))
    assert_sound(place(served))
