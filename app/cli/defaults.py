"""Find the store and the run of a command that names none: ANNOTATE_DB, then .annotate.toml.

The file may come with a repository that somebody else wrote. So it can only name a store, which is opened as
any --db, and a run. It must be a small regular file in the working folder; parent folders are not searched.
"""

import re
import stat
import tomllib
from collections import UserDict
from pathlib import Path
from typing import Any, NamedTuple

import typer

VARIABLE, FILE = "ANNOTATE_DB", Path(".annotate.toml")
LARGEST = 4096  # maximum bytes of .annotate.toml, which may be a link to an endless file such as /dev/zero
ADDRESS = re.compile(r"[A-Za-z][\w+.-]+:")
TYPES = {"db": (str, "a text"), "run": (int, "a whole number")}


class Named(NamedTuple):
    """The store and the run that .annotate.toml names; None for a name that the file does not give."""

    db: str | None = None
    run: int | None = None


class Defaults(UserDict[str, Any]):
    """The default of --db from .annotate.toml, for Typer's `default_map`; the file is read on demand."""

    def get(self, name: str, otherwise: Any = None) -> Any:
        return named_in_file().db if name == "db" else otherwise


def named_in_file() -> Named:
    """Return the store and the run that .annotate.toml in the working folder names.

    Raises:
        AnnotateError: the file cannot be read, is no TOML, has another key or a value of a wrong type, or
            names a store that is no file.
    """
    try:
        content = _content()
        found = {} if content is None else tomllib.loads(content.decode())
    except OSError as error:
        raise _wrong(f"cannot be read ({error.strerror})") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise _wrong(f"is no TOML file ({error})") from error
    for name, value in found.items():
        if name not in TYPES:
            raise _wrong(f"has the key {name!r}, which is neither db nor run")
        wanted, kind = TYPES[name]
        if type(value) is not wanted:  # not isinstance, because True is an int
            raise _wrong(f"has {name} = {value!r}, which is not {kind}")
    _check_is_file(found.get("db"))
    return Named(**found)


def _check_is_file(db: str | None) -> None:
    """Check that the store is a file: to open an address asks another machine; a folder is written into."""
    if db is not None and ADDRESS.match(db):
        raise _wrong(f"has db = {db!r}, which is an address and no file on this machine")
    if db is not None and Path(db).is_dir():
        raise _wrong(f"has db = {db!r}, which is a folder and no file")


def _content() -> bytes | None:
    """Return the bytes of .annotate.toml; None if there is no such file."""
    try:
        is_file = stat.S_ISREG(FILE.stat().st_mode)  # checked before opening, because opening a pipe waits
    except FileNotFoundError:
        return None
    if not is_file:
        raise _wrong("is not a regular file")
    with FILE.open("rb") as opened:
        content = opened.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise _wrong(f"is larger than {LARGEST:,} bytes")
    return content


def _wrong(what: str) -> Exception:
    """Return the error that says what is wrong with .annotate.toml."""
    # Imported here, because the store imports DuckDB, and `annotate doctor` must start without it.
    from annotate_transformer.store.errors import AnnotateError

    return AnnotateError(
        f'{FILE} {what}. Correct or remove it: it may have the lines db = "x.duckdb" and run = 2, and '
        "nothing else."
    )


def is_from_file(context: typer.Context) -> bool:
    """Return whether the command's store comes from .annotate.toml."""
    source = context.get_parameter_source("db")
    return source is not None and source.name == "DEFAULT_MAP"


def tell_store(context: typer.Context, db: Path) -> Path:
    """Return `db`; first print its name if it comes from .annotate.toml, since the command writes into it."""
    if is_from_file(context) and not context.resilient_parsing:
        from annotate_transformer.app.present.console import Console

        told = f"annotate: writing into {db}, which {FILE} names"
        Console(stderr=True, highlight=False).print(told, markup=False, soft_wrap=True)
    return db


def run_in_file(context: typer.Context, run: int | None) -> int | None:
    """Return `run`, or the run in .annotate.toml unless the command asks about another store or a model."""
    if run is not None or context.resilient_parsing or context.params.get("model") is not None:
        return run
    found = named_in_file()
    return found.run if found.db is None or is_from_file(context) else None
