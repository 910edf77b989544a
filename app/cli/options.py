"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

MOST_ROWS = 10**9  # largest value of --limit

Db = Annotated[Path, typer.Option("--db", help="The store, a DuckDB file.")]
NewDb = Annotated[Path, typer.Option("--db", help="The store, a DuckDB file; created if it does not exist.")]
Run = Annotated[int | None, typer.Option("--run", help="Number of the run [default: the last finished one].")]
Model = Annotated[
    str | None,
    typer.Option(
        help="Ask only about the weights of this model: its name, or its number if several models have the "
        "name.",
        metavar="MODEL",
    ),
]
Limit = Annotated[int, typer.Option("--limit", "-k", help="Rows of each table.", min=1, max=MOST_ROWS)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: the rows, and whether they are exact.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")]
