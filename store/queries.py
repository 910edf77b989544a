"""SQL lives in .sql files: this hands it out by name."""

from functools import cache
from importlib.resources import files
from pathlib import Path

# Characters of the document around a token: a line of context, if nothing else is asked.
BEFORE, AFTER = 80, 40


@cache
def named(file: str) -> dict[str, str]:
    """The queries of store/`file`, each introduced by a line `-- name: …`."""
    text = (files("store") / file).read_text(encoding="utf-8")
    parts = text.split("\n-- name: ")[1:]
    return {name.strip(): query.strip() for name, query in (part.split("\n", 1) for part in parts)}


@cache
def schema() -> str:
    """schema.sql: beside the packages in a checkout, inside `store` in an installed wheel."""
    installed = Path(str(files("store") / "schema.sql"))
    checkout = Path(__file__).parent.parent / "schema.sql"
    return (installed if installed.exists() else checkout).read_text(encoding="utf-8")
