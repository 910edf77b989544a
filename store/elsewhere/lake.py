"""A lake: the runs of many stores in one DuckLake, which is Parquet files and a catalogue that lists them.

The catalogue is a DuckDB file (`ducklake:FILE`, with the Parquet files in FILE.files), or a database of a
PostgreSQL server (`ducklake:postgres:dbname=… host=…`), into which several processes may write at once.
"""

import os
import re
import time
from pathlib import Path

import duckdb

from annotate_transformer.store.catalogue import Table, catalogue
from annotate_transformer.store.database import (
    NO_EXTENSIONS,
    SCHEMA_VERSION,
    SETTINGS,
    WAIT_SECONDS,
    is_held,
)
from annotate_transformer.store.elsewhere.extensions import load
from annotate_transformer.store.elsewhere.overlay import from_plain, lay, making
from annotate_transformer.store.elsewhere.place import Elsewhere
from annotate_transformer.store.errors import (
    BadQuestion,
    NotAStore,
    OtherSchemaVersion,
    StoreBusy,
    StoreError,
    Unreachable,
)
from annotate_transformer.store.location import located
from annotate_transformer.store.queries import literal, named

PREFIX, SERVED, EXTRA = "ducklake:", "postgres:", "lake"
TABLES = "lake.base"  # the SQL schema of the lake's tables, once the lake is attached
ANSWER_SECONDS = 10  # maximum seconds to wait for a connection to a PostgreSQL server
PAUSE_SECONDS = 0.1  # seconds between two attempts to open a catalogue that another process has open
PASSWORD = re.compile(r"password\s*=|://[^/@]*:[^/@]*@", re.IGNORECASE)
KIND = re.compile(r"([a-z]\w+):")  # the prefix of a catalogue that is not a file, such as mysql:
# OPTIONS: settings of a new lake. Rows are never inlined in the catalogue, because PostgreSQL refuses a
# text with a NUL character, and a vocabulary may contain one.
OPTIONS = {"parquet_compression": "zstd", "data_inlining_row_limit": "0"}
# SETTINGS_OF_LAKE: see `store.database.SETTINGS`
SETTINGS_OF_LAKE = ("SET ducklake_max_retry_count = 100",)


class Lake(Elsewhere):
    """A DuckLake at an address that begins with ducklake:."""

    what, can_be_verified = "a lake", True

    def __init__(self, address: str) -> None:
        """Raise BadQuestion if the address contains a password or names no catalogue of a known kind."""
        super().__init__(address)
        self.catalogue = address.removeprefix(PREFIX)
        self.is_served = self.catalogue.startswith(SERVED)
        if PASSWORD.search(address):
            raise BadQuestion(
                "The address of the lake has a password, which other users of this machine could read. Leave "
                "it out, and give it in the environment variable PGPASSWORD or in the file ~/.pgpass."
            )
        kind = KIND.match(self.catalogue)
        if not self.catalogue or (kind and not self.is_served):
            raise BadQuestion(
                f"{address} names no lake. Give ducklake:FILE, or ducklake:postgres:dbname=NAME host=HOST."
            )

    @property
    def file(self) -> Path:
        """The path of the lake's catalogue, which must be a file, not a PostgreSQL database"""
        return located(self.catalogue)

    def connect(self) -> duckdb.DuckDBPyConnection:
        con = self.attached("READ_ONLY", "CREATE_IF_NOT_EXISTS false")
        try:
            self.check_version(con)
            self.lay(con)
        except BaseException:
            con.close()
            raise
        return con

    def attached(self, *options: str, wait: float = WAIT_SECONDS) -> duckdb.DuckDBPyConnection:
        """Return a connection in which the lake is attached as `lake`; the caller must close it.

        options: of ATTACH; wait: seconds to wait while another process has the catalogue's file open

        Raises:
            NoExtension: the extension of DuckDB is not installed.
            NotAStore: there is no lake.
            Unreachable: the PostgreSQL server does not answer, or refuses.
            StoreBusy: another process had the catalogue's file open for `wait` seconds.
        """
        deadline = time.monotonic() + wait
        while True:
            try:
                return self._attached(options)
            except duckdb.Error as error:
                if not is_held(error):
                    raise self._why_not(error) from error
                if time.monotonic() > deadline:
                    raise StoreBusy(
                        f"{self.file} has been held open by another process for {wait:.0f} s. A lake whose "
                        "catalogue is a file has either one writer or readers; with a catalogue in "
                        "PostgreSQL all may work at once. Run the same command again."
                    ) from error
            time.sleep(PAUSE_SECONDS)

    def _attached(self, options: tuple[str, ...]) -> duckdb.DuckDBPyConnection:
        con = _empty()
        try:
            for name in ("ducklake", *(("postgres_scanner",) if self.is_served else ())):
                load(con, name, EXTRA)
            con.execute(f"ATTACH {literal(self._attached_as)} AS lake ({', '.join(self._options(options))})")
            for setting in (*SETTINGS, *SETTINGS_OF_LAKE):
                con.execute(setting)
        except BaseException:
            con.close()
            raise
        return con

    @property
    def _attached_as(self) -> str:
        if not self.is_served:
            return f"{PREFIX}{self.file}"
        is_uri, has_limit = "://" in self.catalogue, "connect_timeout" in self.catalogue
        return self.address + ("" if is_uri or has_limit else f" connect_timeout={ANSWER_SECONDS}")

    def _options(self, options: tuple[str, ...]) -> tuple[str, ...]:
        if self.is_served:
            return options
        # The path of the data files is given, so that the file and the folder can be moved together.
        return *options, f"DATA_PATH {literal(f'{self.file}.files')}", "OVERRIDE_DATA_PATH true"

    def explained(self, error: BaseException) -> StoreError | None:
        why = " ".join(str(error).split())
        if not isinstance(error, duckdb.Error) or not re.search("ducklake|postgres|parquet", why.casefold()):
            return None
        if not isinstance(error, duckdb.IOException | duckdb.HTTPException):
            return None
        return Unreachable(
            f"{self} cannot be read ({why}). Check whether PostgreSQL and the folder of the data files can "
            "be reached, and ask again."
        )

    def _why_not(self, error: duckdb.Error) -> StoreError:
        text = str(error)
        make = f"`annotate export --to {literal(self.address)} …` makes one."
        if "does not match existing data path" in text:
            return BadQuestion(
                f"The lake {self} keeps its data files in another folder than --data says. Leave --data out."
            )
        if "data_path is not set" in text:
            return BadQuestion(
                f"There is no lake at {self} yet. Say with --data FOLDER where its data files go: a folder "
                "that all its users can read under the same path."
            )
        is_no_lake = "Existing DuckLake at" in text
        if is_no_lake if self.is_served else not self.file.exists():
            if not self.is_served and not self.file.parent.is_dir():
                make = f"Make the folder {self.file.parent} first."
            return NotAStore(f"There is no lake at {self}. {make}")
        why = " ".join(text.rpartition("failed: " if self.is_served else '"')[2].split())
        if self.is_served:
            return Unreachable(
                f"{self} cannot be opened ({why}). Check the address, whether PostgreSQL answers there, and "
                "the password in PGPASSWORD or ~/.pgpass."
            )
        why = "it is another DuckDB database" if is_no_lake else why
        return NotAStore(f"{self.catalogue} is not the catalogue of a lake ({why}). {make}")

    def server(self) -> duckdb.DuckDBPyConnection:
        """Return a connection in which the PostgreSQL database of the catalogue is attached as `server`."""
        con = _empty()
        try:
            load(con, "postgres_scanner", EXTRA)
            address = self._attached_as.removeprefix(PREFIX).removeprefix(SERVED)
            con.execute(f"ATTACH {literal(address)} AS server (TYPE postgres)")
        except BaseException as error:
            con.close()
            if isinstance(error, duckdb.Error):
                raise self._why_not(error) from error
            raise
        return con

    def data_path(self, folder: str | Path) -> str:
        """Return the option of ATTACH that says in which folder the lake's Parquet files are.

        Raises:
            BadQuestion: the catalogue is a file.
        """
        if not self.is_served:
            raise BadQuestion(f"{self} keeps its data files in {self.file}.files. Leave --data out.")
        return f"DATA_PATH {literal(os.path.realpath(folder))}"

    def check_kind(self) -> None:
        """Raise NotAStore if the lake's catalogue is an existing file that is not a DuckLake catalogue."""
        if not self.is_served and self.file.exists():
            self.attached("READ_ONLY", "CREATE_IF_NOT_EXISTS false").close()

    def is_new(self, con: duckdb.DuckDBPyConnection) -> bool:
        """Return whether the lake has no tables yet."""
        query = "SELECT count(*) FROM duckdb_tables() WHERE database_name = 'lake' AND schema_name = 'base'"
        return con.execute(query).fetchall() == [(0,)]

    def check_version(self, con: duckdb.DuckDBPyConnection) -> None:
        """Raise an error if the lake lacks its tables or data files, or has another schema version."""
        if self.is_new(con):
            raise NotAStore(
                f"{self} has no runs yet. `annotate export --to {literal(self.address)} …` adds one."
            )
        self._check_files(con)
        try:
            [(version,)] = con.execute(f"SELECT version FROM {TABLES}.version").fetchall()
        except (duckdb.Error, ValueError) as error:
            raise NotAStore(f"{self} is a lake, but without the version of a store's schema.") from error
        if version != SCHEMA_VERSION:
            raise OtherSchemaVersion(
                f"{self} has schema version {version}, and this program needs {SCHEMA_VERSION}. A lake is "
                "not converted: upgrade the stores (`annotate upgrade`), and export their runs to a new one."
            )

    def _check_files(self, con: duckdb.DuckDBPyConnection) -> None:
        """Raise NotAStore if the folder of the lake's Parquet files does not exist on this machine."""
        query = "SELECT value FROM ducklake_options('lake') WHERE option_name = 'data_path'"
        [(recorded,)] = con.execute(query).fetchall()
        folder = recorded if self.is_served else f"{self.file}.files"
        if "://" not in folder and not os.path.isdir(folder):
            raise NotAStore(
                f"The data files of {self} are in {folder}, which is not here. Mount that folder."
            )

    def lay(self, con: duckdb.DuckDBPyConnection) -> None:
        """Make the views and macros of schema.sql on the lake's tables, in `con`'s default database."""
        lay(con, rows_of)

    def make(self, con: duckdb.DuckDBPyConnection) -> None:
        """Make the lake's tables, in one transaction."""
        con.execute("BEGIN")
        con.execute(f"CREATE SCHEMA {TABLES}")
        for statement in statements():
            con.execute(statement)
        con.execute(f"INSERT INTO {TABLES}.version VALUES ({SCHEMA_VERSION})")
        con.execute("COMMIT")
        for name, value in OPTIONS.items():
            con.execute(f"CALL lake.set_option({literal(name)}, {literal(value)})")


def _empty() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config=NO_EXTENSIONS)


def rows_of(table: Table) -> str:
    """Return the query for all rows of a lake's table, with each column cast to its type in schema.sql."""
    return named("share.sql")["checksums_of_lake"] if table.name == "checksum" else from_plain(table, TABLES)


def statements() -> list[str]:
    """Return the SQL statements that make the tables of a new lake, from the list of tables in schema.sql."""
    made = list[str]()
    for table in catalogue().values():
        made.append(making(table, TABLES))
        if any(column.name == "run_id" for column in table.columns):
            made.append(f"ALTER TABLE {TABLES}.{table.name} SET PARTITIONED BY (run_id)")
        if table.ordered_by:
            order = ", ".join(table.ordered_by)
            made.append(f"ALTER TABLE {TABLES}.{table.name} SET SORTED BY ({order})")
    return made
