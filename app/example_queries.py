"""The queries of examples/queries, which the SQL page lists and `annotate sql --file` runs."""

import re
from pathlib import Path


def defaults(text: str) -> dict[str, str]:
    """Return a query's default parameters, from its header `-- parameters: run = NULL; token = ' the'`."""
    header = re.match(r"(?:--.*\n)*?-- parameters: (.*)", text)
    return dict(item.split(" = ", 1) for item in header[1].split("; ") if " = " in item) if header else {}


def examples() -> list[str]:
    """Return the contents of the .sql files in examples/queries; in a wheel, they are in app/queries."""
    here = Path(__file__).parent
    installed, checkout = here / "queries", here.parent / "examples" / "queries"
    files = (installed if installed.exists() else checkout).glob("*.sql")
    return [file.read_text(encoding="utf-8") for file in sorted(files)]
