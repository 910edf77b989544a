"""The queries of examples/queries, which the SQL page and `annotate examples` list and run."""

import re
from difflib import get_close_matches
from pathlib import Path

from annotate_transformer.store.errors import AnnotateError


def defaults(text: str) -> dict[str, str]:
    """Return a query's default parameters, from its header `-- parameters: run = NULL; token = ' the'`."""
    header = re.match(r"(?:--.*\n)*?-- parameters: (.*)", text)
    return dict(item.split(" = ", 1) for item in header[1].split("; ") if " = " in item) if header else {}


def files() -> dict[str, Path]:
    """Return the .sql files of examples/queries by name, such as 01-neurons-for-a-token.

    In a wheel, they are in app/queries.
    """
    here = Path(__file__).parent
    installed, checkout = here / "queries", here.parent / "examples" / "queries"
    found = (installed if installed.exists() else checkout).glob("*.sql")
    return {file.stem: file for file in sorted(found)}


def examples() -> list[str]:
    """Return the texts of all example queries, in the order of their names."""
    return [file.read_text(encoding="utf-8") for file in files().values()]


def example(name: str) -> str:
    """Return the text of the example query with this name or number; the name may lack its number.

    Raises:
        AnnotateError: there is no such example; the message lists those with the most similar names.
    """
    known = files()
    short = {part: full for full in known for part in full.split("-", 1)}
    found = known.get(short.get(name, name))
    if found is None:
        near = get_close_matches(name.casefold(), [*known, *short], n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise AnnotateError(f"There is no example {name!r}. {hint}`annotate examples` lists them.")
    return found.read_text(encoding="utf-8")


def title_of(text: str) -> str:
    """Return the title of a query: its first line, `-- title: …`."""
    return text.partition("\n")[0].removeprefix("-- title: ")
