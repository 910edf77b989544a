"""SQL of strangers does not learn where the store lies, however it asks."""

from pathlib import Path

import pytest

from annotate_transformer.store.database import connection
from annotate_transformer.store.restricted import RefusedQuery, restricted

FOLDER, NAME = "a folder-of.somebody's", "their secret.duckdb"


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without a run, under a name that must not be heard of."""
    path = tmp_path_factory.mktemp("paths") / FOLDER / NAME
    path.parent.mkdir()
    with connection(path, read_only=False):
        pass
    return path


SETTINGS = ("temp_directory", "home_directory", "extension_directory", "secret_directory", "profile_output",
            "log_query_path", "custom_user_agent", "schema", "search_path")  # fmt: skip
LOGGED = """WITH a AS MATERIALIZED (SELECT 1 AS x FROM enable_logging('FileSystem', level := 'trace')),
b AS MATERIALIZED (SELECT count(*) AS n FROM base.version, a) SELECT l.* FROM duckdb_logs l, b"""
ASKING = [
    "FROM duckdb_databases()",
    "FROM duckdb_databases",
    "FROM system.main.duckdb_databases()",
    'FROM "DuckDB_Databases"()',
    "SELECT hex(path) FROM duckdb_databases()",
    "SELECT min(reverse(path)), count(*) FROM duckdb_databases() GROUP BY type",
    "SELECT (SELECT max(path) FROM duckdb_databases())",
    "WITH a AS MATERIALIZED (FROM duckdb_databases()) FROM a, a AS b",
    "WITH RECURSIVE t(n) AS (SELECT '' UNION ALL SELECT path FROM t, duckdb_databases() WHERE n = '') FROM t",
    "FROM range(3) r, LATERAL (SELECT path FROM duckdb_databases() WHERE database_oid > r.range)",
    "FROM query('FROM duckdb' || '_databases()')",
    "FROM query_table('duckdb_databases')",
    "FROM json_execute_serialized_sql(json_serialize_sql('FROM duckdb_databases()'))",
    "SUMMARIZE FROM duckdb_databases()",
    "PIVOT duckdb_databases() ON type IN ('duckdb') USING max(path)",
    "EXPLAIN ANALYZE FROM duckdb_databases() WHERE path LIKE '%a%'",
    "FROM duckdb_tables() UNION ALL BY NAME FROM duckdb_databases()",
    "/* */ PRAGMA database_list",
    "FROM pragma_database_list",
    "FROM pragma_database_size()",
    "SHOW DATABASES",
    "FROM pg_catalog.pg_database",
    "FROM pg_catalog.pg_settings",
    "FROM duckdb_settings()",
    "SELECT current_setting('allowed_paths'), current_setting('allowed_directories')",
    "SELECT hex(current_setting('allowed_paths')::VARCHAR)",
    "SELECT system.main.current_setting('allowed_' || 'paths')",
    "SELECT " + ", ".join(f"current_setting('{name}')" for name in SETTINGS),
    "FROM duckdb_extensions()",
    LOGGED,
    "FROM enable_logging('FileSystem', level := 'trace')",
    "SELECT current_database(), current_catalog(), current_schemas(true), current_query()",
    "EXPLAIN ANALYZE FROM base.version",
    "FROM pragma_storage_info('base.version')",
    "FROM glob('**')",
    "FROM read_text('/proc/self/maps')",
    "SELECT 'x'::BIGINT FROM base.version",
    "SELECT error(current_setting('allowed_paths')::VARCHAR)",
    "FROM checkpoint('store')",
]


@pytest.mark.some(4)
@pytest.mark.parametrize("query", ASKING)
def test_the_stores_path_is_not_told(query: str, db: Path) -> None:
    try:
        told = restricted(db, query).frame.to_csv()
    except RefusedQuery as error:
        told = str(error)
    if query in ASKING[: ASKING.index("FROM pragma_database_size()")]:
        assert "() is not allowed here: it is no part of the store" in told
    said = told + "".join(_unhexed(word) for word in told.replace(",", " ").split())
    for piece in (FOLDER, NAME, NAME.split(".")[0], db.parent.parent.name, str(Path.home())):
        assert piece not in said, told
        assert piece[::-1] not in said, told


def _unhexed(word: str) -> str:
    try:
        return bytes.fromhex(word).decode("utf-8", "replace")
    except ValueError:
        return ""


@pytest.mark.some(4)
@pytest.mark.parametrize(
    "query",
    [
        "SHOW TABLES",
        "DESCRIBE positions",
        "PRAGMA table_info('positions')",
        "SELECT 'duckdb_databases()' AS text -- FROM duckdb_databases()",
        'SELECT 1 AS "Function", \'\n"Function": "DUCKDB_DATABASES"\' AS fake',
        "FROM duckdb_columns() LIMIT 1",
        "FROM range(2) r, generate_series(1, r.range), json_each('[1]')",
        "FROM phrase('a b')",
        "EXPLAIN SELECT 1",
    ],
)
def test_other_questions_are_answered(query: str, db: Path) -> None:
    restricted(db, query)


def test_a_path_that_the_asker_wrote_is_shown(db: Path) -> None:
    with pytest.raises(RefusedQuery, match="/etc/hostname"):
        restricted(db, "SELECT '/etc/hostname'::INTEGER")
