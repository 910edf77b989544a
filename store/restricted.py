"""Run one SELECT from an untrusted author, with access to nothing but the store.

DuckDB's own settings do not suffice (measured with 1.5.5 and limits of 1 s and 512 MB):
`SELECT len(range(300000000))` ran for 41 s and took 19 GB, because a single function call neither checks for
interrupts nor counts towards DuckDB's memory; `FROM enable_logging(storage='file', …)` aborted the whole
process. A second DuckDB instance in one process would also release the file lock of the first, because POSIX
locks belong to a process. Therefore each query runs in a process of its own, and the kernel enforces the
limits:

1. The caller opens the store as every reader does: it waits for an ingest, checks the version, and
   keeps writers out until it has the answer.
2. The child attaches the store read-only to an empty database in memory and makes it the default;
   file access, extensions, spilling and further settings are disabled.
3. From then on the child cannot open a file or socket, extend a file, or take more memory than allowed,
   and a timer ends it.
4. Only then does the child parse the query. The query must be one statement, a SELECT or an EXPLAIN of a
   SELECT. Its plan may read tables, but nothing that reveals facts about the machine, such as the location of
   the store.
5. The answer comes back as a line of JSON and Arrow data, with at most one row more than requested.

The limits of step 3 need POSIX, and the limit on memory needs Linux; elsewhere only DuckDB's own memory limit
applies.
"""

import json
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import duckdb
import pyarrow as pa

from annotate_transformer.store.arrow import for_arrow, quoted
from annotate_transformer.store.database import (
    NO_EXTENSIONS,
    READING,
    SETTINGS,
    WAIT_SECONDS,
    connection,
    damage_as_sentence,
    is_damage,
)
from annotate_transformer.store.elsewhere.place import Address, Elsewhere, Place, place
from annotate_transformer.store.errors import StoreError
from annotate_transformer.store.location import located
from annotate_transformer.store.queries import literal

if TYPE_CHECKING:
    import pandas as pd

THREADS = 2
# ANSWER_BYTES: maximum size of an answer as Arrow data. The process that asked holds several copies of the
# answer, so the limit is low.
ANSWER_BYTES = 64_000_000
# UNCOUNTED_BYTES: how much memory a query may use in addition to DuckDB's own memory limit. DuckDB does not
# count everything, such as vectors and hash tables while they grow.
UNCOUNTED_BYTES = 128_000_000
START_SECONDS = 60.0  # maximum seconds for the child process to start; the query's time limit is separate

# CHILD: the program of the child process. It imports modules of `store` without running store/__init__.py,
# because that would import pandas, which would triple the time that the process takes to start.
CHILD = """
import sys, types
for name, folders in (("annotate_transformer", []), ("annotate_transformer.store", [sys.argv[1]])):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = folders
from annotate_transformer.store.restricted import _child
_child(sys.stdin.buffer, sys.stdout.buffer)
"""
ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
EXPLAIN = re.compile(r"\s*EXPLAIN\s+(ANALYZE\s+)?", re.IGNORECASE)
# FUNCTION matches the name of a table function in a query plan that DuckDB has written as JSON. The ^ matches
# only at the start of a line of the plan, never inside a text from the query: JSON writes a line break inside
# a string as the two characters \n.
FUNCTION = re.compile(r'^\s*"Function": "(\w+)', re.MULTILINE)
# HARMLESS: the table functions of DuckDB that a query may use. They read only the store or their own
# arguments. Other table functions show where files are (duckdb_databases), log queries, read files, or take
# memory addresses.
HARMLESS = {
    *("range", "generate_series", "unnest", "repeat", "repeat_row", "seq_scan", "json_each", "json_tree"),
    *("test_all_types", "test_vector_types", "icu_calendar_names", "pg_timezone_names"),
    *("duckdb_columns", "duckdb_constraints", "duckdb_dependencies", "duckdb_functions", "duckdb_indexes"),
    *("duckdb_keywords", "duckdb_memory", "duckdb_optimizers", "duckdb_schemas", "duckdb_sequences"),
    *("duckdb_settings", "duckdb_tables", "duckdb_types", "duckdb_variables", "duckdb_views"),
    *("pragma_collations", "pragma_database_size", "pragma_metadata_info", "pragma_platform"),
    *("pragma_show", "pragma_storage_info", "pragma_table_info", "pragma_version"),
}
ABSOLUTE_PATH = re.compile(r"(?<![\w.])(?:/[\w.+-]+){2,}/?")

# UNNAMED: the message for an error of which DuckDB did not report the cause. In DuckDB 1.5.5 this happens to
# about 1 % of the errors that are raised after the first rows: DuckDB reports the "Interrupted!" of another
# thread, which was stopped because of the error, instead of the error itself.
UNNAMED = "DuckDB found an error in the query but did not report it. Run the query again to see the error."


class RefusedQuery(StoreError):
    """The SQL is wrong, is not allowed, or needs more time, memory or rows than the limits allow."""


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer to a restricted query.

    frame: the rows, as Store.sql returns them. truncated: whether there are more rows than requested.
    seconds: the time of the query, without the start of its process. table: the same rows as an Arrow
    table, in which a column of integers keeps its type even if it has a NULL.
    """

    frame: "pd.DataFrame"
    truncated: bool
    seconds: float
    table: pa.Table


@dataclass(frozen=True)
class _Request:
    """The query and its limits, as they are sent to the child process."""

    path: str
    opening: list[str]
    query: str
    parameters: dict[str, Any] | list[Any] | None
    seconds: float
    memory: str
    rows: int
    target: str


def restricted(
    path: Address,
    query: str,
    parameters: dict[str, Any] | list[Any] | None = None,
    *,
    seconds: float = 10.0,
    memory: str = "512MB",
    rows: int = 10_000,
    target: str = "arrow",
    wait: float = WAIT_SECONDS,
) -> Answer:
    """Run one SELECT from an untrusted author and return the answer.

    memory: the memory that DuckDB may use; with Python and what DuckDB does not count, the process takes
    about 150 MB more (measured), at most 300 MB. The caller must limit how many queries run at the same time.
    target: text, parquet or arrow; values that this format cannot hold become text (store/arrow.py).

    Raises:
        RefusedQuery: several statements, no SELECT, wrong SQL, or too much time or memory.
        NotAStore, OtherSchemaVersion, StoreBusy: as for every reader.
    """
    opened = place(path)
    opening = _opening(opened)
    hidden = str(opened if isinstance(opened, Elsewhere) else located(opened))
    request = _Request(hidden, opening, query, parameters, seconds, memory, rows, target)
    with connection(opened, read_only=True, wait=wait):
        said = _run(request)
    line, _, rest = said.partition(b"\n")
    told = json.loads(line)
    if "damaged" in told:
        # The message says FILE instead of the store's path, which the author of the query must not learn.
        with damage_as_sentence(Path("FILE")):
            raise duckdb.IOException(_without_secrets(told["damaged"], query, request.path))
    if "refused" in told:
        raise RefusedQuery(told["refused"])
    table = pa.ipc.open_stream(rest).read_all()
    return Answer(_frame(table), told["truncated"], told["seconds"], table)


@contextmanager
def in_sentences(query: str, path: str = "") -> Iterator[None]:
    """Context manager: turn DuckDB's errors into RefusedQuery, with DuckDB's message but without file paths.

    path: the location of the store, if the author of the query must not learn this location.

    After the first rows, DuckDB's errors arrive through Arrow as an OSError. Ctrl-C and too little memory are
    not errors in the SQL, so their exceptions pass unchanged.
    """
    try:
        query.encode()
        yield
    except duckdb.OutOfMemoryException:
        raise
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        if is_damage(error) and not isinstance(error, duckdb.InternalException):
            raise
        # After Ctrl-C, Python raises KeyboardInterrupt as soon as it executes Python code again, so at the
        # latest in the next line. An INTERRUPT error that is found after that line therefore does not come
        # from Ctrl-C.
        text = str(error)
        if text.startswith("INTERRUPT"):
            raise RefusedQuery(UNNAMED) from error
        if text.startswith("Out of Memory"):
            raise duckdb.OutOfMemoryException(text) from error
        raise RefusedQuery(_without_secrets(text, query, path)) from error
    except RuntimeError as error:
        # DuckDB may turn the KeyboardInterrupt of Ctrl-C into a RuntimeError, of which it is the cause.
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    except UnicodeEncodeError as error:
        raise RefusedQuery("The query has half of a surrogate pair, which is not text: remove it.") from error


def _without_secrets(text: str, known: str, path: str) -> str:
    """Return DuckDB's message without its stack trace and without paths that are not in the query."""
    text = re.split(r"\n+(?:This error signals|Stack Trace)", text.strip())[0]
    if path and path not in known:
        text = text.replace(path, "…")
    return ABSOLUTE_PATH.sub(lambda found: found[0] if found[0] in known else "…", text)


def distinct(names: Iterable[str]) -> list[str]:
    """Return column names that are made distinct by suffixes, as in DuckDB's own .df().

    >>> distinct(["a", "b", "A"])
    ['a', 'b', 'A_1']
    """
    given: dict[str, str] = {}
    for name in names:
        tried, n = name, 0
        while tried.casefold() in given:
            n += 1
            tried = f"{name}_{n}"
        given[tried.casefold()] = tried
    return list(given.values())


# The caller's side -------------------------------------------------------------------------------


def _opening(opened: Place) -> list[str]:
    """Return the statements with which the child opens the store."""
    if isinstance(opened, Elsewhere):
        return opened.opening()
    return [f"ATTACH {literal(str(located(opened)))} AS store ({READING})", "USE store"]


def _run(request: _Request) -> bytes:
    """Run the child process and return its output: a line of JSON, then Arrow data."""
    command = [sys.executable, "-P", "-c", CHILD, str(Path(__file__).parent)]
    try:
        child = subprocess.run(
            command,
            input=pickle.dumps(request.__dict__),
            capture_output=True,
            env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
            cwd="/",
            timeout=request.seconds + START_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise RefusedQuery(_too_slow(request)) from None
    if child.returncode == 0:
        return child.stdout
    raise _why(child, request)


def _why(child: subprocess.CompletedProcess[bytes], request: _Request) -> Exception:
    if child.returncode == -signal.SIGALRM:
        return RefusedQuery(_too_slow(request))
    if child.returncode < 0 or b"MemoryError" in child.stderr or b"bad_alloc" in child.stderr:
        return RefusedQuery(_too_much_memory(request))
    return RuntimeError(f"the process of a restricted query ended: {child.stderr.decode()[-2000:]}")


def _too_slow(request: _Request) -> str:
    return (
        f"The query took longer than {request.seconds:g} s and was stopped. Ask for less at once: one run, "
        "one layer, one document; or join on run_id and position_id."
    )


def _too_much_memory(request: _Request) -> str:
    return (
        f"The query needed more than {request.memory} of memory and was stopped. Ask for less at once: "
        "fewer columns, a WHERE before the ORDER BY, an aggregate instead of a list."
    )


def _frame(table: pa.Table) -> "pd.DataFrame":
    """Convert an Arrow table to a DataFrame through DuckDB, so that columns have the types of Store.sql."""
    import pandas as pd

    # One thread, because DuckDB would hang if there was too little memory for a second thread.
    with duckdb.connect(config={"threads": 1}) as con:
        for setting in SETTINGS:
            con.execute(setting)
        rows = con.from_arrow(table.to_reader())  # Arrow would read a table in threads, and can hang
        try:
            frame = rows.df()
        except duckdb.ConversionException:  # pandas has no infinite dates and none before year 1: use text
            dates = [name for name, kind in zip(rows.columns, rows.types, strict=True) if "DATE" in str(kind)]
            casts = ", ".join(f"{quoted(name)}::VARCHAR AS {quoted(name)}" for name in dates)
            frame = con.from_arrow(table.to_reader()).project(f"* REPLACE ({casts})").df()
    for name in table.column_names:
        column = table[name]
        if pa.types.is_dictionary(column.type) and column.num_chunks:  # an ENUM, which .df() returned as text
            values = column.chunk(0).dictionary.to_pylist()
            frame[name] = pd.Categorical(frame[name], values, ordered=True)
    return frame


# The child's side --------------------------------------------------------------------------------


def _child(asked: BinaryIO, told: BinaryIO) -> None:
    request = _Request(**pickle.loads(asked.read()))
    sys.modules.setdefault("pandas", None)  # type: ignore[arg-type]  # keeps DuckDB from importing pandas
    try:
        table, seconds = _answer(request)
    except (RefusedQuery, duckdb.Error, OSError) as error:
        kind = "refused" if isinstance(error, RefusedQuery) else "damaged"
        told.write(json.dumps({kind: str(error)}).encode() + b"\n")
        told.flush()
        os._exit(0)
    header = {"seconds": seconds, "truncated": table.num_rows > request.rows}
    told.write(json.dumps(header).encode() + b"\n")
    with pa.ipc.new_stream(told, table.schema) as stream:
        stream.write_table(table.slice(0, request.rows))
    told.flush()
    os._exit(0)  # exit without Python's cleanup, which is not needed and in which DuckDB may fail


def _answer(request: _Request) -> tuple[pa.Table, float]:
    """Run the query; return its rows (at most one row more than requested) and its time in seconds."""
    try:
        with in_sentences(request.query, request.path):
            con = _attached(request)
            _wall_in(request.seconds, _bytes(con, request.memory))
            began = time.monotonic()
            result = _select(con, request)
            table = _first(result.to_arrow_reader(min(2048, request.rows + 1)), request.rows + 1)
            return table.rename_columns(distinct(table.column_names)), time.monotonic() - began
    except (duckdb.OutOfMemoryException, MemoryError):
        raise RefusedQuery(_too_much_memory(request)) from None


def _attached(request: _Request) -> duckdb.DuckDBPyConnection:
    """Return a connection to an in-memory database with the store attached and all other access disabled.

    A query can read DuckDB's setting allowed_paths, which lists every file attached before external access is
    disabled. So external access is disabled first, except for the directory /, which reveals nothing, and the
    file system itself is disabled after the store is attached.
    """
    config: dict[str, Any] = {
        "memory_limit": request.memory,
        "threads": THREADS,
        "temp_directory": "",
        "allow_community_extensions": False,
        "python_enable_replacements": False,
    }
    con = duckdb.connect(config=NO_EXTENSIONS | config)
    for statement in (
        "SET allowed_directories = ['/']",
        "SET enable_external_access = false",
        *request.opening,
        "SET disabled_filesystems = 'LocalFileSystem'",
        *SETTINGS,
        "SET lock_configuration = true",
    ):
        con.execute(statement)
    # A first query is run here so that DuckDB imports the Python modules it needs. Later `_wall_in` forbids
    # this process to open files.
    con.execute("SELECT 1").to_arrow_reader().read_all()
    return con


def _bytes(con: duckdb.DuckDBPyConnection, memory: str) -> int:
    found = con.execute("SELECT parse_formatted_bytes($memory)", {"memory": memory}).fetchone()
    assert found is not None
    return int(found[0])


def _wall_in(seconds: float, memory: int) -> None:
    """Set the kernel's limits on memory, files and time for this process."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        taken = int(statm.read_text().split()[5]) * resource.getpagesize()
        _limit(resource.RLIMIT_DATA, taken + memory + UNCOUNTED_BYTES)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _limit(what: int, value: int) -> None:
    resource.setrlimit(what, (value, value))


def _select(con: duckdb.DuckDBPyConnection, request: _Request) -> duckdb.DuckDBPyConnection:
    """Start the query if it is a single SELECT, or an EXPLAIN of a SELECT, and reads only the store.

    The query is parsed after the limits are set, because IMPORT DATABASE opens a file during parsing.
    """
    query = request.query
    statements = con.extract_statements(query)
    if not statements:
        raise RefusedQuery("There is no statement in this query. Write one SELECT.")
    if len(statements) > 1:
        pivot = " (PIVOT needs its values here: ON column IN (…).)" if "pivot" in query.lower() else ""
        raise RefusedQuery(f"The query has {len(statements)} statements; only one SELECT is allowed.{pivot}")
    kind, select = statements[0].type, statements[0].query
    if kind == duckdb.StatementType.EXPLAIN:
        select = EXPLAIN.sub("", select, count=1)
        explained = con.extract_statements(select)
        kind = explained[0].type if len(explained) == 1 else kind
    if kind != duckdb.StatementType.SELECT:
        name = "something else" if "?" in kind.name else kind.name.replace("_", " ")
        raise RefusedQuery(f"Only SELECT is allowed here, not {name}.")
    plan = _plan(con, select, request.parameters)
    if plan is None:
        con.execute(statements[0], request.parameters)  # usually raises DuckDB's error about the statement
        raise RefusedQuery("DuckDB cannot plan this statement before it runs. Write one SELECT.")
    cast = for_arrow(con, statements[0].query, request.parameters, target=request.target)
    return con.execute(cast, request.parameters)


def _plan(con: duckdb.DuckDBPyConnection, select: str, parameters: Any) -> str | None:
    """Return the query plan of the statement as JSON; None if DuckDB cannot plan the statement.

    Raises:
        RefusedQuery: the statement reads something that is not part of the store.
    """
    try:
        row = con.execute(f"EXPLAIN (FORMAT json)\n{select}", parameters).fetchone()
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error:
        return None
    assert row is not None
    for name in map(str.lower, FUNCTION.findall(row[1])):
        if name not in HARMLESS:
            raise RefusedQuery(f"Permission Error: {name}() is not allowed here: it is no part of the store.")
    return str(row[1])


def _first(reader: pa.RecordBatchReader, rows: int) -> pa.Table:
    """Return at most `rows` rows; raise RefusedQuery if they take more than ANSWER_BYTES."""
    batches: list[pa.RecordBatch] = []
    found = size = 0
    for batch in reader:
        batches.append(batch.slice(0, rows - found))
        found, size = found + batches[-1].num_rows, size + batches[-1].nbytes
        if size > ANSWER_BYTES:
            raise RefusedQuery(
                f"The answer is larger than {ANSWER_BYTES // 10**6} MB. Ask for fewer rows or columns."
            )
        if found >= rows:
            break
    return pa.Table.from_batches(batches, reader.schema)
