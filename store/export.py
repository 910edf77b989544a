"""Export a run as a folder of Parquet, CSV or JSON files; Parquet files can be imported as a store again."""

import os
from collections.abc import Iterable
from pathlib import Path

import duckdb

from annotate_transformer.store.catalogue import catalogue
from annotate_transformer.store.database import WAIT_SECONDS, connection, is_disk_full
from annotate_transformer.store.errors import AnnotateError, BadQuestion, DiskFull, one_of
from annotate_transformer.store.queries import literal, named, schema, statement
from annotate_transformer.store.whole import whole

FORMATS = {"parquet": "FORMAT parquet, COMPRESSION zstd", "csv": "FORMAT csv, HEADER", "jsonl": "FORMAT json"}


def export_run(
    path: str | Path,
    run: int,
    folder: str | Path,
    format: str = "parquet",
    wait: float = WAIT_SECONDS,
) -> list[Path]:
    """Write run `run` of the store at `path` into `folder`, one file per table, and return the files' paths.

    format: `parquet` has the stored tables (terms in steps of 2^-23 logits) and schema.sql, and
    `duckdb new.duckdb "IMPORT DATABASE 'folder'"` makes a store from it; `csv` and `jsonl` have terms in
    logits. The files are written into a temporary folder, which is renamed to `folder` when it is complete.

    Raises:
        BadQuestion: the folder exists and is not empty, or cannot be made; nothing is overwritten.
        DiskFull: the folder's disk has no room; the incomplete folder is removed.
    """
    one_of("format", format, tuple(FORMATS))
    folder = Path(os.path.realpath(folder))
    _check_is_new(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with connection(path, read_only=True, wait=wait) as con, whole(folder, folder=True) as part:
            names = _write(con, run, part, folder, format)
    except OSError as error:
        raise _cannot_be_written(folder, error) from error
    return [folder / name for name in names]


def _check_is_new(folder: Path) -> None:
    """Check that the export would overwrite nothing.

    Raises:
        BadQuestion: the folder exists and is not empty, or a disk is mounted there.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BadQuestion(f"{folder} exists already. Give the name of a new folder.")
    except OSError as error:
        raise _cannot_be_written(folder, error) from error
    if os.path.ismount(folder):  # the temporary folder beside it would be on another disk
        raise BadQuestion(f"A disk is mounted at {folder}. Give the name of a new folder in it.")


def _write(con: duckdb.DuckDBPyConnection, run: int, part: Path, folder: Path, format: str) -> Iterable[str]:
    """Write the run's files into `part`, a temporary folder that becomes `folder`, and return their names."""
    names, load = [], []
    queries = named("export.sql")
    owners = con.execute(queries["owners"], {"run": run}).to_arrow_table().to_pylist()[0]
    for table, of in catalogue().items():
        if of.owner not in owners and table != "checksum":
            continue
        rows = queries["checksums"] if table == "checksum" else of.select
        if wide := [column.name for column in of.columns if column.type == "HUGEINT"]:
            # Parquet has no integers of 128 bits, and DuckDB would write them as DOUBLE.
            casts = ", ".join(f"{name}::DECIMAL(38, 0) AS {name}" for name in wide)
            rows = f"SELECT * REPLACE ({casts}) FROM ({rows})"
        if format != "parquet":
            rows = queries.get(f"{table} in logits", rows)
        rows = statement(rows, {"id": owners.get(of.owner), **owners})  # DuckDB's COPY accepts no parameters
        names.append(f"{table}.{format}")
        _copy(con, rows, part / names[-1], format, folder)
        load.append(f"COPY base.{table} FROM {literal(str(folder / names[-1]))} (FORMAT parquet);")
    if format != "parquet":
        return names
    (part / "schema.sql").write_text(schema(), encoding="utf-8")
    (part / "load.sql").write_text("\n".join(load) + "\n", encoding="utf-8")
    return [*names, "schema.sql", "load.sql"]


def _copy(con: duckdb.DuckDBPyConnection, rows: str, file: Path, format: str, folder: Path) -> None:
    """Write the rows of a query into a file; if the file cannot be written, the error names `folder`."""
    try:
        con.execute(f"COPY ({rows}) TO {literal(str(file))} ({FORMATS[format]})")
    except duckdb.IOException as error:
        if file.name not in str(error):
            raise
        raise _cannot_be_written(folder, error) from error


def _cannot_be_written(folder: Path, error: Exception) -> AnnotateError:
    if is_disk_full(error):
        return DiskFull(
            f"The disk of {folder} is full: nothing was left there, and the store is as it was. Make room, "
            "or give a folder on another disk."
        )
    why = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return BadQuestion(f"{folder} cannot be made ({why}). Give another folder.")
