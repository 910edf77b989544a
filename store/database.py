"""Open a store's DuckDB file, or create a new file with the tables of schema.sql.

DuckDB allows either one writing process or several reading processes. Therefore no process keeps the file
open: an ingest opens it to commit a shard, a reader to answer a query, and each waits while the other has the
file open. A writer holds the lock FILE.turn while it waits and writes. A reader acquires and releases that
lock before it opens the file; otherwise a few readers without pauses would never let a writer in.
"""

import atexit
import os
import random
import resource
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
from filelock import Timeout

from annotate_transformer.store.elsewhere.place import Address, Elsewhere, Place, place
from annotate_transformer.store.errors import (
    DamagedStore,
    DiskFull,
    EmptyStore,
    NotAStore,
    OtherSchemaVersion,
    OutOfMemory,
    StoreBusy,
    Unreachable,
)
from annotate_transformer.store.location import (
    is_taken,
    kind_of,
    located,
    shown,
    temporary_folder,
    turn_lock,
    writers_lock,
)
from annotate_transformer.store.queries import literal, schema

SCHEMA_VERSION, OLDEST_VERSION = 17, 8  # `annotate upgrade` converts stores of OLDEST_VERSION and later
WAIT_SECONDS = 60.0
TURN_SECONDS = 0.5  # maximum seconds that a reader waits for a writer, which may itself be blocked
KEEP_SECONDS = 0.2  # seconds for which a reader keeps the file open after a query, for the next query
AGO_SECONDS = 0.02  # minimum seconds between two checks for a waiting writer
LEAST_BYTES = 16 * 2**20  # minimum bytes of memory with which DuckDB can open a store
THREAD_BYTES = 256 * 2**20  # bytes of address space for one thread: its stack, buffers and C library arena

# LONGEST_PAUSE: maximum seconds between two attempts to open a file that is in use. It is less than
# writer.READERS_SECONDS, so that a waiting reader tries at least once between two writes.
LONGEST_PAUSE = 0.02

# WRITING: the options with which a writer attaches a file. Writers use ATTACH, because only ATTACH accepts
# ROW_GROUP_SIZE.
# In each row group, each column ends in a block of 256 KB that is only partly filled. With DuckDB's default
# of 122,880 rows in a row group, these blocks made up a quarter of a store.
# A shard has slightly more than 16,384 positions. If a table has 24 rows per position, the rows of one shard
# almost fill a row group of 409,600 rows; with 48 rows per position they fill two, and so on.
# STORAGE_VERSION lets DuckDB 1.2 and all later versions read the file.
WRITING = "TYPE duckdb, ROW_GROUP_SIZE 409600, STORAGE_VERSION 'v1.2.0'"
READING = "TYPE duckdb, READ_ONLY"

# Settings that a connection gets before a file is attached, so that DuckDB never downloads an extension to
# read the file.
NO_EXTENSIONS: dict[str, Any] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}

# SETTINGS: set after the file is opened, not in the configuration of the connection. Within one process,
# DuckDB opens a file a second time only if both configurations are equal, and a user's
# `duckdb.connect(FILE, read_only=True)` must work while a store is open.
# late_materialization is off, because with it DuckDB 1.5 does not use zone maps, and a lookup took 40 ms
# instead of 1 ms.
# dynamic_or_filter_threshold is the maximum number of values for which DuckDB finds the rows of a join with
# an index (position_by_id, passage_by_id). With more values DuckDB scans the whole table. The default is 50.
SETTINGS = (
    "SET enable_progress_bar = false",  # otherwise DuckDB prints a bar to stdout if Python runs no script
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET disabled_optimizers = 'late_materialization'",
    "SET GLOBAL dynamic_or_filter_threshold = 2000",
    "SET GLOBAL TimeZone = 'UTC'",
)
# _opening: held while this process reads a file's first bytes and then DuckDB opens the file. Without this
# lock, another thread could read the first bytes of the same file after DuckDB has opened the file. By
# closing the file after reading, that thread would release DuckDB's lock on it.
_opening = threading.Lock()

# DAMAGE: parts of the messages, in lower case, of DuckDB's errors about a file whose bytes were changed after
# DuckDB had written them.
DAMAGE = (
    "io error: corrupt",
    "corrupt database",
    "computed checksum",
    "could not read enough bytes",
    "could not read all",
    "failed to load metadata",
    "deserializ",
)
# Errors after which a DuckDB connection cannot be used any more
BROKEN = (duckdb.FatalException, duckdb.InternalException, duckdb.SerializationException)

# HELD: parts of the messages of DuckDB's errors about a file that is already open, in another process or in
# this process.
HELD = ("lock on file", "different configuration", "Unique file handle conflict")


@contextmanager
def connection(
    path: str | Place,
    *,
    read_only: bool,
    wait: float = WAIT_SECONDS,
    memory_limit: str | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Context manager: open the store's file and yield a connection, which is closed after the block.

    Raises:
        NotAStore, OtherSchemaVersion: the file is not a store of this version.
        DamagedStore: the file is corrupt, that is, its bytes differ from the bytes that were written.
        StoreBusy: another process had the file open for `wait` seconds.
        DiskFull, OutOfMemory: there was too little disk space or memory; committed data is safe.
    """
    if isinstance(path, Elsewhere):
        if not read_only:
            raise path.refusal()
        with damage_as_sentence(path), no_room_as_sentence(path), closing(path.connect()) as con:
            yield con
        return
    if read_only:
        _check_there(path)
    path = Path(path)
    with damage_as_sentence(path), no_room_as_sentence(path), _turn(path, read_only, wait):
        con = _checked(path, read_only, wait, memory_limit)
        try:
            yield con
        finally:
            con.close()


def _checked(path: Path, read_only: bool, wait: float, memory_limit: str | None) -> duckdb.DuckDBPyConnection:
    """Open a store of the current schema version; the caller must close the returned connection."""
    con = _opened(path, read_only, wait, memory_limit)
    try:
        check_version(con, path, read_only)
    except BaseException as error:
        con.close()
        if isinstance(error, duckdb.Error):
            raise _why_not(path, error) from error
        raise
    return con


def _check_there(path: str | Path) -> None:
    if not located(path).exists():
        name = shown(path)
        raise NotAStore(f"There is no store at {name}. `annotate ingest … --db {name}` makes one.")


class Reading:
    """A store's file that is opened for a query and stays open for a short time if no writer waits.

    Opening the file takes longer than most queries. Threads share the open file; each has its own `cursor`.
    """

    def __init__(self, path: Address, wait: float) -> None:
        self.path, self.wait = place(path), wait
        self._changed = threading.Condition()
        self._con: duckdb.DuckDBPyConnection | None = None
        self._users, self._free_since, self._closed = 0, 0.0, 0  # _closed: how often the file was closed
        # _wanted: whether a writer was waiting for the file at the last check; _looked: the time of this
        # check.
        self._wanted, self._looked = False, 0.0
        self.known: dict[Any, Any] = {}  # facts about the runs, which stay true while the file is open
        _readings.add(self)

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Context manager: yield a DuckDB cursor on the open file; raise the same errors as `connection`."""
        with self._changed:
            wanted = self._con is not None and self._is_wanted()
            if wanted and self._changed.wait_for(lambda: not self._users, TURN_SECONDS):
                self._close()
            if self._con is None:
                self._open()
            cursor = self._cursor()
            self._users += 1
        broken = False
        try:
            with damage_as_sentence(self.path):
                yield cursor
        except (DamagedStore, Unreachable):
            broken = True
            raise
        finally:
            cursor.close()
            with self._changed:
                self._users, self._free_since = self._users - 1, time.monotonic()
                if broken and not self._users:
                    self._close()
                self._changed.notify_all()

    def _open(self) -> None:
        self._con, self.known = connect(self.path, self.wait), {}
        if not isinstance(self.path, Elsewhere):  # elsewhere no writer waits
            self._turn, self._is_attached = turn_lock(self.path), _is_ambiguous(located(self.path))
            threading.Thread(target=self._close_when_idle, args=(self._closed,), daemon=True).start()

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a cursor of the open connection, which does not inherit the default database."""
        assert self._con is not None
        cursor = self._con.cursor()
        if isinstance(self.path, Elsewhere):
            cursor.execute(f"USE {self.path.database}")
        elif self._is_attached:
            cursor.execute("USE store")
        return cursor

    def _is_wanted(self) -> bool:
        """Return whether a writer waits for the file; the result of a check is reused for AGO_SECONDS."""
        now = time.monotonic()
        if now >= self._looked + AGO_SECONDS and not isinstance(self.path, Elsewhere):
            self._looked, self._wanted = now, is_taken(self._turn)
        return self._wanted

    def close(self) -> None:
        """Close the file now, unless a query is running."""
        with self._changed:
            if not self._users:
                self._close()

    def _close(self) -> None:
        if self._con is not None:
            self._con.close()
            self._closed += 1
        self._con, self._wanted = None, False
        self._changed.notify_all()

    def _close_when_idle(self, closed: int) -> None:
        """Close the file after KEEP_SECONDS without a query; this method runs in its own thread.

        The thread polls, because waking it at each query would cost the query 0.1 ms. It has no reference to
        the connection, which would otherwise be destroyed where the thread ends, outside of the lock.

        closed: the value of `_closed` while the file is open that this thread is to close
        """
        while self._closed == closed:
            time.sleep(KEEP_SECONDS / 4)
            with self._changed:
                idle = not self._users and time.monotonic() > self._free_since + KEEP_SECONDS
                if idle and self._closed == closed:
                    self._close()


_readings: weakref.WeakSet[Reading] = weakref.WeakSet()


@atexit.register
def _close_readings() -> None:
    """Close all files before Python exits.

    Python ends a daemon thread at its next attempt to take the interpreter's lock. If that attempt is inside
    DuckDB, which the thread of `_close_when_idle` may have called, the C++ runtime aborts the process.
    """
    for reading in [*_readings]:
        reading.close()


def connect(path: str | Place, wait: float = WAIT_SECONDS) -> duckdb.DuckDBPyConnection:
    """Return a read-only connection, which the caller must close; raise the same errors as `connection`."""
    if isinstance(path, Elsewhere):
        return path.connect()
    _check_there(path)
    path = Path(path)
    with damage_as_sentence(path), no_room_as_sentence(path), _turn(path, True, wait):
        return _checked(path, True, wait, None)


@contextmanager
def _turn(path: Path, read_only: bool, wait: float) -> Iterator[None]:
    turn = turn_lock(path)
    if read_only:
        if os.path.exists(turn.lock_file):
            with suppress(Timeout, OSError), turn.acquire(timeout=min(wait, TURN_SECONDS)):
                pass
        yield
        return
    # If the turn lock cannot be acquired, continue without it: if another process is writing, DuckDB raises
    # an error when it opens the file.
    with suppress(Timeout, OSError):
        turn.acquire(timeout=wait)
    try:
        yield
    finally:
        turn.release()


def _opened(path: Path, read_only: bool, wait: float, memory_limit: str | None) -> duckdb.DuckDBPyConnection:
    config: dict[str, Any] = {"memory_limit": memory_limit} if memory_limit else {}
    deadline = time.monotonic() + wait
    pause = 0.005
    while True:
        try:
            if read_only:
                con = _opened_to_read(path, config)
            else:
                con = attached(path, WRITING, config | {"temp_directory": temporary_folder(path)})
            break
        except duckdb.Error as error:
            if not is_held(error):
                raise _why_not(path, error) from error
            if time.monotonic() > deadline:
                raise StoreBusy(_why_busy(path, wait)) from error
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(LONGEST_PAUSE, pause * 1.5)
    for setting in SETTINGS:
        con.execute(setting)
    _fit_into_memory(con)
    return con


def _why_busy(path: Path, wait: float) -> str:
    if is_taken(writers_lock(path)):
        return (
            f"An annotate command is writing into {path}, and held it for {wait:.0f} s. Run the same command "
            "again in a moment: the file is free between two commits."
        )
    return (
        f"{path} has been held open by another process for {wait:.0f} s. Close it there (a DuckDB shell, a "
        "notebook) and run the same command again."
    )


def _opened_to_read(path: Path, config: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    """Open a file for reading with duckdb.connect, so that connections of this process share one database.

    Two databases of one process that attach the same file would not share the file's lock: the database that
    is closed first would release the lock for both.
    """
    file = located(path)
    if _is_ambiguous(file):
        return attached(file, READING, config, f":memory:{file}")
    with _opening:
        # `_check_kind` comes first, because DuckDB would download an extension to open a SQLite file.
        _check_kind(path)
        return duckdb.connect(str(file), read_only=True, config=config)


def _is_ambiguous(file: Path) -> bool:
    """Return whether the file is named `base`, which DuckDB would confuse with the schema `base`."""
    return file.name.partition(".")[0].casefold() == "base"


def _fit_into_memory(con: duckdb.DuckDBPyConnection) -> None:
    """Limit DuckDB's memory and threads to what `ulimit -v` leaves; DuckDB itself ignores that limit.

    With these limits DuckDB raises an error if memory is too small. Without them an allocation fails in one
    of DuckDB's threads, where nothing catches the error, and the process aborts.
    """
    left = _bytes_left()
    if left is None:
        return
    least = "SELECT least(parse_formatted_bytes(current_setting('memory_limit')), $left)"
    found = con.execute(least, {"left": max(left // 2, LEAST_BYTES)}).fetchone()
    assert found is not None
    con.execute(f"SET memory_limit = '{found[0]}B'")
    con.execute(f"SET threads = {max(1, min(os.cpu_count() or 1, left // THREAD_BYTES))}")


def _bytes_left() -> int | None:
    """Return how many more bytes RLIMIT_AS and RLIMIT_DATA allow; None if there is no limit or no /proc."""
    statm = Path("/proc/self/statm")
    limits = {0: resource.RLIMIT_AS, 5: resource.RLIMIT_DATA}
    asked = {field: resource.getrlimit(limit)[0] for field, limit in limits.items()}
    limited = {field: most for field, most in asked.items() if most != resource.RLIM_INFINITY}
    if not limited or not statm.exists():
        return None
    taken = [int(pages) * resource.getpagesize() for pages in statm.read_text().split()]
    return max(0, min(most - taken[field] for field, most in limited.items()))


def attached(
    path: str | Path, options: str, config: dict[str, Any], database: str = ":memory:"
) -> duckdb.DuckDBPyConnection:
    """Return a connection to an in-memory database in which the store is attached as the default database.

    Connections of one process share the in-memory database if it has a name (`:memory:NAME`).
    """
    con = duckdb.connect(database, config=NO_EXTENSIONS | config)
    try:
        con.execute(f"ATTACH IF NOT EXISTS {literal(str(located(path)))} AS store ({options})")
        con.execute("USE store")
    except duckdb.Error:
        con.close()
        raise
    return con


def is_held(error: duckdb.Error) -> bool:
    """Return whether an error says that a file is open already, in another process or in this one."""
    text = str(error)
    return any(sign in text for sign in HELD)


def _check_kind(path: Path) -> None:
    """Raise NotAStore if the file is not a DuckDB database; the message says what kind of file it is."""
    try:
        kind = kind_of(path)
    except OSError as error:
        raise NotAStore(f"{path} cannot be read: {error.strerror}.") from error
    if kind == "empty":
        raise EmptyStore(f"{path} is empty. `annotate ingest … --db {path}` fills it.")
    if kind:
        raise NotAStore(
            f"{path} cannot be opened as a DuckDB database: it is {kind}. "
            "Give a store made by `annotate ingest`, or a new file name."
        )


def _why_not(path: Path, error: duckdb.Error) -> Exception:
    if is_disk_full(error):
        return _disk_full(path)
    _check_kind(path)
    first_line, opened = str(error).splitlines()[0], f"{path} cannot be opened as a DuckDB database"
    if "replaying WAL" in first_line:
        return DamagedStore(
            f"{opened}: its last write, which was interrupted and is in {located(path)}.wal, is damaged "
            f"({first_line}). Move that file away to open the store as it was before that write."
        )
    if "version number" in first_line:
        return NotAStore(
            f"{opened} by DuckDB {duckdb.__version__}: a newer version made it ({first_line}). "
            "Run `pip install -U duckdb`, then the same command again."
        )
    if is_damage(error):
        return DamagedStore(
            f"{opened}: it is damaged ({first_line}). Restore a copy, or annotate into a new file."
        )
    return NotAStore(f"{opened} ({first_line}). Give a store made by `annotate ingest`, or a new file name.")


def version_of(path: str | Path, wait: float = WAIT_SECONDS) -> int:
    """Return the store's schema version, even if this program does not support the version.

    The errors are those of `connection`, except OtherSchemaVersion.
    """
    _check_there(path)
    path = Path(path)
    with damage_as_sentence(path), no_room_as_sentence(path):
        con = _opened(path, True, wait, None)
        try:
            return _version(con, path, True)
        finally:
            con.close()


def check_version(con: duckdb.DuckDBPyConnection, path: Place, read_only: bool) -> None:
    """Raise NotAStore, EmptyStore or OtherSchemaVersion if the database is not a store of this version."""
    version = _version(con, path, read_only)
    if version != SCHEMA_VERSION:
        raise OtherSchemaVersion(_other_version(path, version))


def _version(con: duckdb.DuckDBPyConnection, path: Place, read_only: bool) -> int:
    """Return the store's schema version; if the file is new, create the tables first."""
    found = con.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'base' AND table_name = 'version'"
    ).fetchone()
    if found == (0,):
        empty = con.execute("SELECT count(*) FROM duckdb_tables()").fetchone() == (0,)
        if empty and read_only:
            raise EmptyStore(f"{path} has no tables yet. `annotate ingest … --db {path}` fills it.")
        if not empty:
            raise NotAStore(
                f"{path} is a DuckDB database, but not a store. `annotate ingest … --db FILE` makes one."
            )
        create(con)
    version = con.execute("SELECT version FROM base.version").fetchone()
    return int(version[0]) if version else 0


def _other_version(path: Place, version: int) -> str:
    told = f"{path} has schema version {version or 'none'}, and this program needs {SCHEMA_VERSION}"
    if OLDEST_VERSION <= version < SCHEMA_VERSION:
        if isinstance(path, Elsewhere):
            return f"{told}: `annotate upgrade FILE` converts a copy on this machine."
        return f"{told}: `annotate upgrade {path}` converts it."
    if version > SCHEMA_VERSION:
        return f"{told}: a newer version of this program made it. Run `pip install -U annotate-transformer`."
    return f"{told}. Ingest into a new file, or use the version of this program that made it."


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Create the tables, views and macros of schema.sql, in one transaction."""
    con.execute("BEGIN")
    con.execute(schema())
    con.execute("COMMIT")


def is_damage(error: BaseException) -> bool:
    """Return whether an error means that the file is corrupt, or that DuckDB had an internal failure."""
    if is_disk_full(error) or not isinstance(error, (duckdb.Error, OSError)):
        return False
    return isinstance(error, BROKEN) or _names_damage(error)


def _names_damage(error: BaseException) -> bool:
    text = str(error).lower()
    return any(sign in text for sign in DAMAGE)


def _damaged(path: Place, error: BaseException) -> DamagedStore:
    first_line = str(error).splitlines()[0]
    if not _names_damage(error):
        return DamagedStore(
            f"DuckDB failed on {path} ({first_line}). If `annotate verify {path}` finds a problem, the "
            "file is damaged. If not, the fault is DuckDB's: ask again, or write the query in another way "
            "(`OVER ()` fails now and then; a subquery does not)."
        )
    return DamagedStore(
        f"{path} is damaged: not all of it can be read ({first_line}). `annotate verify {path}` lists what "
        "can still be read. Restore a copy, or annotate into a new file."
    )


@contextmanager
def damage_as_sentence(path: Place) -> Iterator[None]:
    """Context manager: raise DamagedStore instead of DuckDB's errors about a corrupt file."""
    try:
        yield
    except (duckdb.Error, OSError, UnicodeError) as error:
        if isinstance(path, Elsewhere) and (explained := path.explained(error)):
            raise explained from error
        if not is_damage(error):
            raise
        raise _damaged(path, error) from error


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error says that a disk is full or that a file has reached its size limit."""
    text = str(error)
    return any(sign in text for sign in ("No space left", "Disk full", "File too large", "disk quota"))


def _disk_full(path: Place) -> DiskFull:
    return DiskFull(
        f"The disk under {path} is full. What was committed is safe: make room and run the same "
        "command again, which resumes there."
    )


@contextmanager
def no_room_as_sentence(path: Place) -> Iterator[None]:
    """Context manager: raise OutOfMemory or DiskFull instead of DuckDB's errors about memory or the disk."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise OutOfMemory(
            f"DuckDB found too little memory for {path}. What was committed is safe: close other programs, "
            "or ask for less at once."
        ) from error
    except (duckdb.Error, OSError) as error:
        if is_disk_full(error):
            raise _disk_full(path) from error
        raise
