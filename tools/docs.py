"""Write the tables of docs/ and benchmarks/RESULTS.md from the code, the schema and the figures.

python -m tools.docs            rewrites the parts between `<!-- name -->` and `<!-- /name -->`
python -m tools.docs --check    says whether these parts are up to date (exit status 1 if not)
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import typer

from annotate_transformer.store.database import create
from annotate_transformer.store.whole import whole

ROOT = Path(__file__).parent.parent
FILES = {
    ROOT / "docs" / "commands.md": ("commands",),
    ROOT / "docs" / "sql.md": ("views",),
    ROOT / "docs" / "performance.md": ("goals",),
    ROOT / "benchmarks" / "RESULTS.md": ("goals",),
}


def views() -> str:
    """Return every public view and macro with its question, from the comments of schema.sql."""
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
    """Return every command with the first sentence of its help and its example."""
    from annotate_transformer.app.cli.commands import app

    lines = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        says = (command.help or "").split("\n")[0]
        lines.append(f"| `annotate {name}` | {says} | `{command.epilog.removeprefix('Example: ')}` |")
    return "\n".join(["| command | what it is for | example |", "|---|---|---|", *lines])


def goals() -> str:
    """Return the goals and the figures measured, from the benchmarks' results."""
    sys.path.insert(0, str(ROOT))  # the benchmarks are in the checkout, not in a package
    from benchmarks.goals import table

    return table()


PARTS: dict[str, Callable[[], str]] = {"views": views, "commands": commands, "goals": goals}


def fresh(file: Path) -> str:
    """Return a file's text with each of its parts generated again."""
    text = file.read_text(encoding="utf-8")
    for name in FILES[file]:
        part = f"<!-- {name} -->\n{PARTS[name]()}\n<!-- /{name} -->"
        text, n = re.subn(rf"<!-- {name} -->\n.*?<!-- /{name} -->", lambda _: part, text, flags=re.DOTALL)  # noqa: B023
        assert n == 1, f"{file.name} has no part {name}"
    return text


def stale() -> dict[Path, str]:
    """Return the files whose generated parts are out of date, each with its new text."""
    made = {file: fresh(file) for file in FILES}
    return {file: text for file, text in made.items() if text != file.read_text(encoding="utf-8")}


if __name__ == "__main__":
    changed = stale()
    if "--check" in sys.argv and changed:
        sys.exit(f"{' and '.join(file.name for file in changed)}: run `python -m tools.docs`.")
    for file, text in changed.items():
        with whole(file) as part:
            part.write_text(text, encoding="utf-8")
