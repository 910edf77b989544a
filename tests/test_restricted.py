"""SQL of strangers: it gets the store's answers and nothing else, whatever it tries."""

import hashlib
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from annotate_transformer import store
from annotate_transformer.store.database import connection
from annotate_transformer.store.restricted import RefusedQuery, restricted
from processes import annotate
from small import SETTINGS, corpus

SECRET = "4711 is the secret"
QUICK = 0.4  # seconds that a query without end is given here
SLACK = 2.5  # seconds for its process to start and end, on a busy machine
LITTLE = "50MB"
LITTLE_IN_ALL = 350e6  # bytes: with Python, DuckDB, Arrow, and what DuckDB does not count


@pytest.fixture(scope="module")
def db(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store, and beside it a file that nobody may read."""
    folder = tmp_path_factory.mktemp("store")
    source = corpus(folder / "small.jsonl", (3, 1, 9, 2))
    made = annotate("ingest", source, "--db", "x.duckdb", "--model", tiny_model, *SETTINGS, folder=folder)
    assert made.status == 0, made.err
    (folder / "secret.txt").write_text(SECRET)
    (folder / "secret.csv").write_text(f"a,b\n1,{SECRET}\n")
    return folder / "x.duckdb"


@pytest.fixture(autouse=True)
def nothing_changes(db: Path) -> Iterator[None]:
    """Whatever a test tries: the store keeps its bytes, and no file appears or goes."""
    before = _folder(db)
    yield
    assert _folder(db) == before


def _folder(db: Path) -> tuple[list[str], str]:
    return sorted(path.name for path in db.parent.iterdir()), hashlib.sha256(db.read_bytes()).hexdigest()


def refusal(db: Path, query: str, **limits: object) -> str:
    """The sentence with which a query is refused. {folder} and {db} in it are filled in."""
    with pytest.raises(RefusedQuery) as refused:
        restricted(db, query.format(folder=db.parent, db=db), **limits)  # type: ignore[arg-type]
    told = str(refused.value)
    assert SECRET not in told
    assert str(Path.home()) not in told
    assert "Stack Trace" not in told
    return told


# What it is for

ANSWERED = (
    "FROM runs",
    "FROM neuron_contexts(1, 5, run := 1) WHERE side = 'high'::side",
    "FROM decomposition(5) ORDER BY ALL",
    "FROM context(5, 2, 2)",
    "SELECT run_id, token, count(*) AS n, sum(next_rank) FROM positions GROUP BY ALL ORDER BY ALL LIMIT 9",
    "WITH p AS (FROM positions) SELECT avg(next_logprob) FROM p -- ; done",
    "DESCRIBE positions",
    "SHOW TABLES",
    "SUMMARIZE SELECT layer, toward_next FROM heads",
    "SELECT version, 1 AS a, 2 AS a FROM base.version",
    "PIVOT positions ON is_first IN (true, false) USING count(*) GROUP BY run_id",
    """SELECT NULL::INTEGER AS nothing, 1.5::DECIMAL(5, 2) AS decimal, DATE '2020-01-02' AS date,
       [1, 2] AS list, {'a': 1} AS struct, '\\xAA'::BLOB AS blob, 'NaN'::FLOAT AS nan, true AS yes,
       7::UTINYINT AS small, TIMESTAMPTZ '2020-01-02 03:04:05+00' AS instant, 'low'::side AS side,
       '{"a": 1}'::JSON AS json""",
)


@pytest.mark.some(3)
@pytest.mark.parametrize("query", ANSWERED)
def test_a_select_is_answered_as_by_store_sql(query: str, db: Path) -> None:
    answer = restricted(db, query)
    pd.testing.assert_frame_equal(answer.frame, store.open(db).sql(query))
    assert answer.table.num_rows == len(answer.frame)
    assert not answer.truncated
    assert 0 < answer.seconds < SLACK


def test_parameters(db: Path) -> None:
    named = restricted(db, "SELECT $a + 1 AS a, $t AS t, $n IS NULL AS n", {"a": 1, "t": "'; --", "n": None})
    assert named.frame.to_dict("records") == [{"a": 2, "t": "'; --", "n": True}]
    instant = datetime(2020, 1, 2, tzinfo=UTC)
    assert restricted(db, "SELECT ? AS at", [instant]).frame["at"][0] == instant
    assert "not provided" in refusal(db, "SELECT $a")


@pytest.mark.parametrize("explain", ["EXPLAIN", "explain analyze\n"])
def test_a_plan_is_shown(explain: str, db: Path) -> None:
    [plan] = restricted(db, f"{explain} SELECT max(entropy) FROM positions").frame["explain_value"]
    assert "max" in plan


def test_as_many_rows_as_asked_for(db: Path) -> None:
    for rows, truncated in ((9, True), (10, False), (11, False)):
        answer = restricted(db, "FROM range(10)", rows=rows)
        assert (len(answer.frame), answer.truncated) == (min(rows, 10), truncated)
    endless = restricted(db, "FROM range(1000000000000)", rows=3)
    assert (endless.frame["range"].tolist(), endless.truncated) == ([0, 1, 2], True)


def test_several_at_once(db: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        answers = [*pool.map(lambda n: restricted(db, "SELECT $n AS n FROM runs", {"n": n}), range(3))]
    assert [answer.frame["n"].tolist() for answer in answers] == [[0], [1], [2]]


# Files and the network

READING = (
    "FROM '{folder}/secret.csv'",
    "FROM read_text('{folder}/secret.txt')",
    "FROM read_blob('{folder}/secret.txt')",
    "FROM read_csv('{folder}/secret.csv')",
    "FROM sniff_csv('{folder}/secret.csv')",
    "FROM read_json('{folder}/small.jsonl')",
    "FROM read_parquet('{folder}/secret.csv')",
    "FROM parquet_metadata('{folder}/secret.csv')",
    "FROM glob('{folder}/*')",
    "FROM read_blob('{db}')",
    "FROM read_duckdb('{db}')",
    "FROM read_text('file://{folder}/secret.txt')",
    "FROM read_text('/proc/self/environ')",
    "FROM read_csv('/dev/stdin')",
    "FROM 'https://example.com/x.csv'",
    "FROM query('FROM read_text(''{folder}/secret.txt'')')",
    "FROM query_table('{folder}/secret.csv')",
    "FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''{folder}/secret.txt'')'))",
    "WITH a AS (WITH b AS (FROM read_text('{folder}/secret.txt')) FROM b) SELECT content FROM a",
    "SELECT (SELECT content FROM read_text('{folder}/secret.txt'))",
    "DESCRIBE FROM '{folder}/secret.csv'",
    "SUMMARIZE '{folder}/secret.csv'",
    "EXPLAIN ANALYZE FROM read_text('{folder}/secret.txt')",
    "/* SELECT 1; */ FROM read_text(/**/'{folder}/secret.txt') --",
    "IMPORT DATABASE '{folder}'",
    "SELECT getenv('HOME')",
    "FROM duckdb_secrets()",
    "FROM duckdb_extensions()",
)


@pytest.mark.some(2)
@pytest.mark.parametrize("query", READING)
def test_no_file_is_read(query: str, db: Path) -> None:
    told = refusal(db, query)
    assert "Error" in told


# Anything but one SELECT

STATEMENTS = (
    "COPY (SELECT 1) TO '{folder}/out.csv'",
    "EXPORT DATABASE '{folder}/out'",
    "ATTACH '{folder}/new.duckdb'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "SET VARIABLE a = 1",
    "PRAGMA enable_profiling",
    "PRAGMA threads = 8",
    "CALL enable_logging()",
    "CHECKPOINT",
    "CREATE TABLE x AS SELECT 1",
    "CREATE TABLE memory.main.x AS SELECT 1",
    "CREATE SECRET (TYPE s3)",
    "INSERT INTO base.version VALUES (2)",
    "UPDATE base.version SET version = 2",
    "DROP VIEW positions",
    "ALTER TABLE base.version ADD COLUMN x INTEGER",
    "PREPARE x AS SELECT 1",
    "-- SELECT 1\nDROP VIEW positions",
    "/* SELECT 1 */ DROP VIEW positions /* */",
    "EXPLAIN DROP VIEW positions",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{folder}/out.csv'",
)


@pytest.mark.some(3)
@pytest.mark.parametrize("query", STATEMENTS)
def test_only_a_select(query: str, db: Path) -> None:
    assert refusal(db, query).startswith("Only SELECT is allowed here, not ")


@pytest.mark.some(4)
@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT 1; DROP VIEW positions", "2 statements"),
        ("SELECT 1;;\n/* ; */ SELECT 2;", "2 statements"),
        ("SELECT ';' --;\n; COPY (SELECT 1) TO '{folder}/out.csv'", "2 statements"),
        ("COPY FROM DATABASE store TO memory", "4 statements"),
        ("PIVOT positions ON token", "ON column IN"),
        ("", "no statement"),
        (" ; -- nothing", "no statement"),
        ("SELECT 1； DROP VIEW positions", "LINE 1"),
        ("ＤＲＯＰ VIEW positions", "LINE 1"),
        ("DR\u200bOP VIEW positions", "LINE 1"),
        ("EXPLAIN EXPLAIN SELECT 1", "LINE 1"),
        ("SELECT '\ud800'", "not text"),
        ("SELECT " + "(" * 50_000 + "1" + ")" * 50_000, "Error"),
    ],
)
def test_one_statement_that_can_be_read(query: str, told: str, db: Path) -> None:
    assert told in refusal(db, query)


@pytest.mark.parametrize(
    "end", ["; -- DROP VIEW positions", " -- \u2028DROP VIEW positions", "\0; DROP VIEW runs"]
)
def test_what_looks_like_a_second_statement_is_none(end: str, db: Path) -> None:
    assert restricted(db, f"SELECT 1 AS one{end}").frame["one"].tolist() == [1]


@pytest.mark.some(3)
@pytest.mark.parametrize(
    "query",
    [
        "FROM enable_logging(storage = 'file', storage_path = '{folder}/log')",  # else ends its process
        "FROM enable_profiling()",
        "FROM checkpoint('store')",
        "FROM force_checkpoint('store')",
        "SELECT write_log('x', level := 'error')",
        "PRAGMA database_list",
    ],
)
def test_what_has_effects_has_none_here(query: str, db: Path) -> None:
    try:
        restricted(db, query.format(folder=db.parent))
    except RefusedQuery as error:
        assert "Stack Trace" not in str(error)


def test_settings_tell_nothing_of_the_machine(db: Path) -> None:
    settings = restricted(db, "SELECT name, value FROM duckdb_settings()").frame.set_index("name")["value"]
    assert not settings.astype(str).str.contains(str(Path.home()), regex=False).any()
    assert (settings["enable_external_access"], settings["lock_configuration"]) == ("false", "true")


# Limits

ENDLESS = (
    "SELECT count(*) FROM range(100000000000) a, range(1000000) b",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
    "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))",  # a single call: no interrupt is seen
    "SELECT list_reduce(range(10000000), (a, b) -> a + b)",
    "SELECT sleep_ms(60000)",
    "SELECT max(a.entropy + b.entropy + c.entropy) FROM positions a, positions b, positions c, positions d",
)
GREEDY = (
    "SELECT list(a.range) FROM range(1000000000) a",
    "SELECT a.range FROM range(1000000) a, range(1000) b ORDER BY hash(a.range * b.range)",
    "SELECT string_agg(repeat('a', 100000)) FROM range(100000)",
    "SELECT repeat('a', 3000000000)",  # what follows is not counted by DuckDB's own limit
    "SELECT len(range(300000000))",
    "SELECT repeat('x', 1000000) FROM range(1000)",
)


@pytest.mark.some(3)
@pytest.mark.parametrize("query", ENDLESS)
def test_too_slow(query: str, db: Path) -> None:
    began = time.monotonic()
    told = refusal(db, query, seconds=QUICK)
    assert QUICK < time.monotonic() - began < QUICK + SLACK
    assert told.startswith("The query took longer than 0.4 s and was stopped. Ask for less")


@pytest.mark.some(3)
@pytest.mark.parametrize("query", GREEDY)
def test_too_much_memory(query: str, db: Path) -> None:
    before = _most_memory_of_a_child()
    told = refusal(db, query, memory=LITTLE, seconds=5)
    assert told.startswith("The query needed more than 50MB of memory and was stopped. Ask for less")
    assert _most_memory_of_a_child() <= max(before, LITTLE_IN_ALL)


def _most_memory_of_a_child() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024.0


def test_too_large_an_answer(db: Path) -> None:
    assert "larger than 64 MB" in refusal(db, "SELECT repeat('x', 1000000) FROM range(70)", rows=100)


# Sentences


def test_an_error_shows_its_place(db: Path) -> None:
    told = refusal(db, "SELECT token,\n  nonsense\nFROM positions")
    line, caret = told.splitlines()[-2:]
    assert line == "LINE 2:   nonsense"
    assert caret.index("^") == line.index("nonsense")


def test_the_store_itself(db: Path, tmp_path: Path) -> None:
    with pytest.raises(store.NotAStore, match="There is no store at"):
        restricted(tmp_path / "none.duckdb", "SELECT 1")
    with connection(db, read_only=False), pytest.raises(store.StoreBusy):
        restricted(db, "SELECT 1", wait=0.1)


def test_another_reader_of_this_process_keeps_its_lock(db: Path) -> None:
    """POSIX locks belong to a process: closing the file a second time would let go of the first."""
    write = [sys.executable, "-c", "import duckdb, sys; duckdb.connect(sys.argv[1])", str(db)]
    with connection(db, read_only=True):
        restricted(db, "SELECT 1")
        refused = subprocess.run(write, capture_output=True, text=True)
    assert "Could not set lock on file" in refused.stderr
