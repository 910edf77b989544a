"""Writes the README's tables from what they describe, so that they cannot lie.

python -m app.readme            rewrites the parts between `<!-- name -->` and `<!-- /name -->`
python -m app.readme --check    says whether they are up to date (exit status 1 if not)
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import typer

from store.database import create

README = Path(__file__).parent.parent / "README.md"


def views() -> str:
    """Every public view and macro with its question, from the database's own comments."""
    con = duckdb.connect()
    create(con)
    rows = con.execute(
        """SELECT view_name, comment FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal
           ORDER BY view_oid"""
    ).fetchall()
    macros = con.execute(
        """SELECT function_name || '(' || array_to_string(parameters, ', ') || ')', comment
           FROM duckdb_functions() WHERE schema_name = 'main' AND NOT internal ORDER BY function_oid"""
    ).fetchall()
    lines = [f"| `{name}` | {comment} |" for name, comment in rows + macros]
    return "\n".join(["| view or macro | the question it answers |", "|---|---|", *lines])


def commands() -> str:
    """Every command with its first sentence and example, from the command line itself."""
    from app.cli import app

    lines = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        says = (command.help or "").split("\n")[0]
        lines.append(f"| `annotate {name}` | {says} | `{command.epilog.removeprefix('Example: ')}` |")
    return "\n".join(["| command | what it does | example |", "|---|---|---|", *lines])


PARTS: dict[str, Callable[[], str]] = {"views": views, "commands": commands}


def fresh(text: str) -> str:
    """`text` with each marked part made anew."""
    for name, make in PARTS.items():
        part = f"<!-- {name} -->\n{make()}\n<!-- /{name} -->"
        text, n = re.subn(rf"<!-- {name} -->\n.*?<!-- /{name} -->", lambda _: part, text, flags=re.DOTALL)  # noqa: B023
        assert n == 1, f"the README has no part {name}"
    return text


if __name__ == "__main__":
    now = README.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        sys.exit(0 if fresh(now) == now else "README.md is stale: run `python -m app.readme`.")
    README.write_text(fresh(now), encoding="utf-8")
