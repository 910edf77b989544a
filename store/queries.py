"""Read named queries from .sql files, and replace their parameters by values."""

import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from annotate_transformer.store.errors import BadQuestion

# BEFORE, AFTER: the default numbers of characters of the document that are shown before and after a token.
BEFORE, AFTER = 80, 40


@cache
def named(file: str, package: str = "annotate_transformer.store") -> dict[str, str]:
    """Read a SQL file with a line `-- name: …` before each query; return a dictionary from name to query."""
    return composed(sections((files(package) / file).read_text(encoding="utf-8")))


def composed(queries: dict[str, str]) -> dict[str, str]:
    """Replace each {name} by the query of that name; return only the queries that no other query includes."""
    pieces = set(re.findall(r"\{(\w+)\}", "".join(queries.values())))

    def whole(query: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda x: whole(queries[x[1]]) if x[1] in queries else x[0], query)

    return {name: whole(query) for name, query in queries.items() if name not in pieces}


def sections(text: str) -> dict[str, str]:
    """Return the queries in the text of a SQL file as a dictionary from name to query, without headings."""
    text = re.sub(r"\n-- .* -{5,}(?=\n)", "", text)
    parts = (part.split("\n", 1) for part in text.split("\n-- name: ")[1:])
    return {name.strip(): query.strip() for name, query in parts}


def statement(query: str, parameters: dict[str, Any]) -> str:
    """Return a query in which each $parameter is replaced by its value, so that it runs without parameters.

    A $name that is no parameter stays: it is part of a text in a user's condition.

    >>> statement("SELECT $a, $b", {"a": 1, "b": "it's"})
    "SELECT 1, 'it''s'"
    """
    return re.sub(
        r"\$(\w+)", lambda name: literal(parameters[name[1]]) if name[1] in parameters else name[0], query
    )


def plain(value: Any) -> Any:
    """Convert a query parameter for DuckDB: numpy numbers, which DataFrames contain, become Python numbers.

    Raises:
        BadQuestion: a string has half of a surrogate pair.
    """
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
        raise BadQuestion(
            f"{value!r} is no text: it has half of a surrogate pair, or bytes that are not UTF-8."
        )
    return value.item() if getattr(value, "ndim", None) == 0 else value


def literal(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return "NULL" if value is None else str(value)


@cache
def schema() -> str:
    """Return the text of schema.sql, a file at the top of a checkout or in the folder `store` of a wheel."""
    installed = Path(str(files("annotate_transformer.store") / "schema.sql"))
    checkout = Path(__file__).parent.parent / "schema.sql"
    return (installed if installed.exists() else checkout).read_text(encoding="utf-8")
