"""Export a run as a folder of Parquet, CSV or JSON files, or as tables that DuckDB imports as a new store."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from annotate_transformer.store.catalogue import catalogue
from annotate_transformer.store.database import WAIT_SECONDS, connection, is_disk_full
from annotate_transformer.store.elsewhere.place import Place
from annotate_transformer.store.errors import AnnotateError, BadQuestion, DiskFull, one_of
from annotate_transformer.store.queries import literal, named, schema, statement
from annotate_transformer.store.whole import whole

FORMATS = {
    "parquet": "FORMAT parquet, COMPRESSION zstd",
    "csv": "FORMAT csv, HEADER",
    "jsonl": "FORMAT json",
    "store": "FORMAT parquet, COMPRESSION zstd",
}
SUFFIXES = {"store": "parquet"}  # maps a format to its file name suffix, if that is not the format's name

# OWNERS: the exported rows of a view are those of the run, of its model or of its corpus. The first of the
# columns run_id, model_id and corpus_id that the view has is used as the filter.
OWNERS = ("run", "model", "corpus")


def export_run(
    path: str | Place,
    run: int,
    folder: str | Path,
    format: str = "parquet",
    wait: float = WAIT_SECONDS,
) -> list[Path]:
    """Export one run of the store at `path` into a new folder, and return the paths of the files.

    format: `parquet`, `csv` and `jsonl` write the public views, one file each, with the rows of the run, of
    its model and of its corpus. `store` writes the stored tables as Parquet (terms in steps of 2^-23 logits)
    with schema.sql, and `duckdb new.duckdb "IMPORT DATABASE 'folder'"` makes a store from it. While it is
    written, the folder has a temporary name.

    Raises:
        BadQuestion: the folder exists and is not empty, or cannot be made; nothing is overwritten.
        DiskFull: the folder's disk has no room; the incomplete folder is removed.
    """
    one_of("format", format, tuple(FORMATS))
    folder = Path(os.path.realpath(folder))
    with new_folder(folder) as part, connection(path, read_only=True, wait=wait) as con:
        names = _write(con, run, part, folder, format)
    return [folder / name for name in names]


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Context manager: yield a temporary folder that becomes the new folder `folder` after the block.

    Raises:
        BadQuestion: the folder exists and is not empty, or cannot be made; nothing is overwritten.
        DiskFull: the folder's disk has no room; the temporary folder is removed.
    """
    folder = Path(os.path.realpath(folder))
    _check_is_new(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole(folder, folder=True) as part:
            yield part
    except OSError as error:
        raise _cannot_be_written(folder, error) from error


def _check_is_new(folder: Path) -> None:
    """Check that the folder is new or empty, so that the export overwrites nothing.

    Raises:
        BadQuestion: the folder exists and is not empty, or a disk is mounted there.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BadQuestion(f"{folder} exists already. Give the name of a new folder.")
    except OSError as error:
        raise _cannot_be_written(folder, error) from error
    # The export is written into a temporary folder beside `folder`, which is renamed at the end. If a disk is
    # mounted at `folder`, the temporary folder is on another disk and cannot be renamed to `folder`.
    if os.path.ismount(folder):
        raise BadQuestion(f"A disk is mounted at {folder}. Give the name of a new folder in it.")


def _write(con: duckdb.DuckDBPyConnection, run: int, part: Path, folder: Path, format: str) -> list[str]:
    """Write the run's files into `part`, a temporary folder that becomes `folder`, and return their names."""
    [owners] = con.execute(named("export.sql")["owners"], {"run": run}).to_arrow_table().to_pylist()
    queries = _tables(owners) if format == "store" else _views(con)
    names = {name: f"{name}.{SUFFIXES.get(format, format)}" for name in queries}
    for name, query in queries.items():
        # COPY accepts no parameters, so `statement` writes the values of the parameters into the query.
        _copy(con, statement(query, owners), part / names[name], format, folder)
    if format != "store":
        return [*names.values()]
    files = {name: literal(str(folder / file)) for name, file in names.items()}
    load = [f"COPY base.{name} FROM {file} (FORMAT parquet);" for name, file in files.items()]
    (part / "schema.sql").write_text(schema(), encoding="utf-8")
    (part / "load.sql").write_text("\n".join(load) + "\n", encoding="utf-8")
    return [*names.values(), "schema.sql", "load.sql"]


def _tables(owners: dict[str, int]) -> dict[str, str]:
    """Return one query per table, for the rows that belong to the run, its model, tokenizer or corpus."""
    queries = {}
    for name, table in catalogue().items():
        if table.owner in owners:
            rows = table.select.replace("$id", f"${table.owner}")
        elif name == "checksum":
            rows = named("export.sql")["checksums"]
        else:
            continue
        # Cast HUGEINT columns: Parquet has no integers of 128 bits, and DuckDB would write them as DOUBLE.
        wide = [column.name for column in table.columns if column.type == "HUGEINT"]
        casts = ", ".join(f"{column}::DECIMAL(38, 0) AS {column}" for column in wide)
        queries[name] = f"SELECT * REPLACE ({casts}) FROM ({rows})" if wide else rows
    return queries


def _views(con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Return one query per public view, for the rows about the run or about its model or corpus."""
    queries = {}
    for name, columns in con.execute(named("export.sql")["views"]).fetchall():
        owner = next((owner for owner in OWNERS if f"{owner}_id" in columns), None)
        queries[name] = f"FROM {name}" + (f" WHERE {owner}_id = ${owner}" if owner else "")
    queries["positions"] += " ORDER BY position_id"
    return queries


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
            f"The disk of {folder} is full. The incomplete export was removed, and the store is unchanged. "
            "Make room, or give a folder on another disk."
        )
    why = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return BadQuestion(f"{folder} cannot be made ({why}). Give another folder.")
