"""Convert a store of an older schema version to the current version, completely or not at all.

The new file is made beside the old file and takes the old file's name when it is complete, so a killed
process leaves the old store unchanged. migrations/to_N.sql has a query for each table of version N that
differs from version N − 1. During the conversion, each version is a schema of views over the schema of the
version before; the first schema has views over the old file. So each table is read once and written once, in
the order in which it was stored.
"""

import os
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from annotate_transformer.store.catalogue import catalogue
from annotate_transformer.store.checksum import record_all
from annotate_transformer.store.database import (
    OLDEST_VERSION,
    READING,
    SCHEMA_VERSION,
    SETTINGS,
    WAIT_SECONDS,
    WRITING,
    attached,
    connection,
    create,
    damage_as_sentence,
    no_room_as_sentence,
    version_of,
)
from annotate_transformer.store.errors import DamagedStore
from annotate_transformer.store.location import temporary_folder
from annotate_transformer.store.queries import literal, named
from annotate_transformer.store.whole import remove
from annotate_transformer.store.writer import Writer


def upgrade(path: str | Path, wait: float = WAIT_SECONDS) -> int:
    """Convert the store at `path` to SCHEMA_VERSION, and return its previous version.

    During the conversion, additional disk space of about the store's size is needed.

    Raises:
        NotAStore, DamagedStore: there is no store, or a part of it is unreadable or against its schema.
        OtherSchemaVersion: the store's version is older than OLDEST_VERSION or newer than SCHEMA_VERSION.
        StoreBusy, IngestRunning: another process has the file open.
        DiskFull, OutOfMemory: there is no room for the new file; the old file is unchanged.
    """
    with Writer(path, wait) as writer:
        version = version_of(path, wait)
        if not OLDEST_VERSION <= version < SCHEMA_VERSION:
            # Opening the file raises an error if its version is too old or too new. Without an error, the
            # file has the newest version already, and there is nothing to convert.
            with connection(path, read_only=True, wait=wait):
                return version
        new = writer.path.with_name(f"{writer.path.name}.upgrade")
        try:
            with damage_as_sentence(writer.path), no_room_as_sentence(writer.path):
                _include_last_write(writer.path)
                _convert(writer.path, new, version)
        except duckdb.ConstraintException as error:
            told = f"{writer.path} breaks a rule of its schema version {version} ({error})"
            raise DamagedStore(f"{told}. Nothing was converted: restore a copy of the file.") from error
        else:
            os.replace(new, writer.path)
        finally:
            _remove(new)
    return version


def _include_last_write(old: Path) -> None:
    """If a write was interrupted, let DuckDB replay its write-ahead log into the old file.

    Otherwise DuckDB would later replay the log into the new file.
    """
    if old.with_name(f"{old.name}.wal").exists():
        con = attached(old, WRITING, {})
        con.execute("CHECKPOINT store")
        con.close()


def _convert(old: Path, new: Path, version: int) -> None:
    _remove(new)
    con = attached(new, WRITING, {"temp_directory": temporary_folder(new)})
    try:
        for setting in SETTINGS:
            con.execute(setting)
        create(con)
        con.execute(f"ATTACH {literal(str(old))} AS old ({READING})")
        tables = _views(con, version)
        con.execute("BEGIN")
        for table in _tables(con, "store"):
            if table in tables and table not in ("version", "catalogue", "checksum"):
                con.execute(f"INSERT INTO store.base.{table} BY NAME FROM v{SCHEMA_VERSION}.{table}")
        con.execute("USE store")
        for reached in range(version + 1, SCHEMA_VERSION + 1):
            if step := AFTERWARDS.get(reached):
                step(con)
        record_all(con)
        con.execute("COMMIT")
        con.execute("CHECKPOINT store")
    finally:
        con.close()


def _views(con: duckdb.DuckDBPyConnection, version: int) -> set[str]:
    """Create views of each version's tables, up to the newest version; return the newest tables' names."""
    con.execute("USE memory")
    tables = {table: f"FROM old.base.{table}" for table in _tables(con, "old")}
    for reached in range(version, SCHEMA_VERSION + 1):
        if reached > version:
            changed = named(f"migrations/to_{reached}.sql")
            same = (table for table in tables if table not in changed)
            tables = {table: f"FROM v{reached - 1}.{table}" for table in same} | changed
        con.execute(f"CREATE SCHEMA v{reached}")
        for table, query in tables.items():
            con.execute(f"CREATE VIEW v{reached}.{table} AS {query}")
    return {*tables}


def _tables(con: duckdb.DuckDBPyConnection, database: str) -> list[str]:
    query = "SELECT table_name FROM duckdb_tables() WHERE database_name = $of AND schema_name = 'base'"
    return [name for (name,) in con.execute(query, {"of": database}).fetchall()]


def _test_ablations(con: duckdb.DuckDBPyConnection) -> None:
    """Compute the permutation p-values of ablations from stored prompts; version 8 did not have p-values."""
    from annotate_transformer.store.scores import permutation_p  # imports pandas, which is slow

    heads = con.execute(named("write.sql")["falls_of_heads"]).to_arrow_table().to_pylist()
    rows = []
    for head in heads:
        is_active = np.array(head.pop("is_active"))
        falls = {name: np.array(head.pop(name), np.float32) for name in ("activation", "probability")}
        rows.append(head | {f"{name}_p": permutation_p(fall, is_active) for name, fall in falls.items()})
    if rows:
        con.register("rows", pa.Table.from_pylist(rows))
        con.execute(catalogue()["ablation"].insert)


# AFTERWARDS maps a schema version to a function that adds the rows which are new in this version and which
# SQL alone cannot compute. The function is called after all tables were copied into the new file.
AFTERWARDS: dict[int, Callable[[duckdb.DuckDBPyConnection], None]] = {9: _test_ablations}


def _remove(new: Path) -> None:
    """Remove the conversion's new file, if it is still there, and DuckDB's files beside it."""
    for file in (new, f"{new}.wal", temporary_folder(new)):
        remove(Path(file))
