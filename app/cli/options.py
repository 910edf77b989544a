"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from annotate_transformer.app.cli.defaults import FILE, VARIABLE, run_in_file, tell_store

MOST_ROWS = 10**9  # largest value of --limit

# --db and --model are eager, that is, parsed before --run, whose default depends on them.
_DB: dict[str, Any] = {"envvar": VARIABLE, "is_eager": True}
_STORE = f"The store, a DuckDB file [default: db in {FILE}]"
Db = Annotated[Path, typer.Option("--db", help=f"{_STORE}.", **_DB)]
WrittenDb = Annotated[Path, typer.Option("--db", help=f"{_STORE}.", callback=tell_store, **_DB)]
NewDb = Annotated[
    Path,
    typer.Option("--db", help=f"{_STORE}; created if it does not exist.", callback=tell_store, **_DB),
]
DbToDescribe = Annotated[
    Path | None,
    typer.Option("--db", help=f"{_STORE[:-1]}, or a new, empty store].", **_DB),
]
DbToRun = Annotated[Path | None, typer.Option("--db", help=f"{_STORE}.", **_DB)]
File = Annotated[Path, typer.Argument(metavar="FILE", help=f"{_STORE}.", **_DB)]
WrittenFile = Annotated[Path, typer.Argument(metavar="FILE", help=f"{_STORE}.", callback=tell_store, **_DB)]
Run = Annotated[
    int | None,
    typer.Option(
        "--run",
        help=f"Number of the run [default: run in {FILE}, or the last finished one].",
        callback=run_in_file,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Ask only about the weights of this model: its name, or its number if several models have the "
        "name.",
        metavar="MODEL",
        is_eager=True,
    ),
]
Limit = Annotated[int, typer.Option("--limit", "-k", help="Rows of each table.", min=1, max=MOST_ROWS)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: the rows, and whether they are exact.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help=f"Print only errors, and the store if {FILE} names it.")
]
