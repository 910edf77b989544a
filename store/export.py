"""A run as a folder of Parquet files that any program reads, and that opens as a store again."""

from pathlib import Path

from store.database import WAIT_SECONDS, connection
from store.errors import BadQuestion
from store.queries import named, schema


def export_run(path: str | Path, run: int, folder: str | Path, wait: float = WAIT_SECONDS) -> list[Path]:
    """Write run `run` of the store at `path` into `folder`: one .parquet a table, with schema.sql.

    `duckdb new.duckdb "IMPORT DATABASE 'folder'"` makes a store of it again. Returns the files.

    Raises:
        BadQuestion: the folder is there already and not empty, or cannot be made; nothing is overwritten.
    """
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadQuestion(f"{folder} is there already: give the name of a new folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadQuestion(f"{folder} cannot be made ({error.strerror}): give another folder.") from error
    files, load = [], []
    with connection(path, read_only=True, wait=wait) as con:
        for table, query in named("export.sql").items():
            file = folder / f"{table}.parquet"
            rows = query.replace("$run", str(int(run)))  # COPY takes no parameters
            con.execute(f"COPY ({rows}) TO '{_quoted(file)}' (FORMAT parquet, COMPRESSION zstd)")
            files.append(file)
            load.append(f"COPY base.{table} FROM '{_quoted(file)}' (FORMAT parquet);")
    (folder / "schema.sql").write_text(schema(), encoding="utf-8")
    (folder / "load.sql").write_text("\n".join(load) + "\n", encoding="utf-8")
    return [*files, folder / "schema.sql", folder / "load.sql"]


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
