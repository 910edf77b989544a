"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from annotate_transformer.app.cli.defaults import FILE, VARIABLE, run_in_file, tell_store

if TYPE_CHECKING:
    from annotate_transformer.store.elsewhere.place import Place

    OptionalPlace = Place | None
else:
    Place = OptionalPlace = type("path", (), {})  # Typer accepts no union; its help shows the name `path`

MOST_ROWS = 10**9  # largest value of --limit

# --db and --model are eager, that is, parsed before --run, whose default depends on them.
_DB: dict[str, Any] = {"envvar": VARIABLE, "is_eager": True}


def _place(address: str) -> Place:
    """Convert a user's address of a store, which will only be read, to a path or an `Elsewhere`."""
    from annotate_transformer.store.elsewhere.place import Elsewhere, place  # only now: it imports DuckDB

    found = place(address)
    if isinstance(found, Elsewhere):
        found.tell = _tell
    return found


def _tell(sentence: str) -> None:
    """Print a sentence about a slow step to standard error."""
    from annotate_transformer.app.present.console import Console

    Console(stderr=True, highlight=False).print(f"annotate: {sentence}", markup=False, soft_wrap=True)


_STORE = f"The store, a DuckDB file [default: db in {FILE}]"
_READABLE = (
    "The store: a DuckDB file, a folder with the parts of a run, an address https://… or ducklake:… "
    f"[default: db in {FILE}"
)
_READ: dict[str, Any] = _DB | {"parser": _place, "metavar": "PATH"}
Db = Annotated[Place, typer.Option("--db", help=f"{_READABLE}].", **_READ)]
WrittenDb = Annotated[Path, typer.Option("--db", help=f"{_STORE}.", callback=tell_store, **_DB)]
NewDb = Annotated[
    Path,
    typer.Option("--db", help=f"{_STORE}; created if it does not exist.", callback=tell_store, **_DB),
]
DbToDescribe = Annotated[
    OptionalPlace,
    typer.Option("--db", help=f"{_READABLE}, or a new, empty store].", **_READ),
]
DbToRun = Annotated[OptionalPlace, typer.Option("--db", help=f"{_READABLE}].", **_READ)]
File = Annotated[Place, typer.Argument(help=f"{_READABLE}].", **_READ | {"metavar": "FILE"})]
WrittenFile = Annotated[Path, typer.Argument(metavar="FILE", help=f"{_STORE}.", callback=tell_store, **_DB)]
Run = Annotated[
    int | None,
    typer.Option(
        "--run",
        help=f"Number of the run [default: run in {FILE}, or the last finished one].",
        callback=run_in_file,
    ),
]
By = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Show means by groups of documents: a key of their metadata, or an expression in SQL, such as "
        '"year // 10 * 10".',
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
Plot = Annotated[
    list[Path] | None,
    typer.Option(
        help="Draw the main figure of the answer in this .png, .svg or .html file; may be repeated. Drawing "
        "needs matplotlib, which the extra `figures` installs.",
        metavar="FILE",
    ),
]
Limit = Annotated[int, typer.Option("--limit", "-k", help="Rows of each table.", min=1, max=MOST_ROWS)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: the rows, and whether they are exact.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help=f"Print only errors, and the store if {FILE} names it.")
]
