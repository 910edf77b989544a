"""A run as a folder of files that any program reads; those of Parquet open as a store again."""

from pathlib import Path

from store.database import WAIT_SECONDS, connection
from store.errors import BadQuestion, one_of
from store.queries import literal, named, schema

FORMATS = {"parquet": "FORMAT parquet, COMPRESSION zstd", "csv": "FORMAT csv, HEADER", "jsonl": "FORMAT json"}


def export_run(
    path: str | Path,
    run: int,
    folder: str | Path,
    format: str = "parquet",
    wait: float = WAIT_SECONDS,
) -> list[Path]:
    """Write run `run` of the store at `path` into `folder`: a file a table. Returns the files.

    format: `parquet`, the tables as schema.sql beside them has them (terms are whole numbers of 2^-23
    logits): `duckdb new.duckdb "IMPORT DATABASE 'folder'"` makes a store of it again; or `csv` or
    `jsonl`, in logits.

    Raises:
        BadQuestion: the folder is there already and not empty, or cannot be made; nothing is overwritten.
    """
    one_of("format", format, tuple(FORMATS))
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadQuestion(f"{folder} is there already: give the name of a new folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadQuestion(f"{folder} cannot be made ({error.strerror}): give another folder.") from error
    files, load = [], []
    with connection(path, read_only=True, wait=wait) as con:
        queries = named("export.sql")
        for table in (name for name in queries if " " not in name):
            file = folder / f"{table}.{format}"
            rows = queries[table]
            if format != "parquet":
                rows = queries.get(f"{table} in logits", rows)
            rows = rows.replace("$run", str(int(run)))  # COPY takes no parameters
            con.execute(f"COPY ({rows}) TO {literal(str(file))} ({FORMATS[format]})")
            files.append(file)
            load.append(f"COPY base.{table} FROM {literal(str(file))} (FORMAT parquet);")
    if format != "parquet":
        return files
    (folder / "schema.sql").write_text(schema(), encoding="utf-8")
    (folder / "load.sql").write_text("\n".join(load) + "\n", encoding="utf-8")
    return [*files, folder / "schema.sql", folder / "load.sql"]
