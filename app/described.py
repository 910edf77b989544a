"""The public views and macros of a store, with the comments of schema.sql."""

from difflib import get_close_matches
from typing import TYPE_CHECKING

from annotate_transformer.store.errors import AnnotateError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


def names(con: "duckdb.DuckDBPyConnection") -> "pa.Table":
    """Return the views and macros: their names, with parameters, and the questions that they answer."""
    from annotate_transformer.store.queries import named, schema

    return con.execute(named("describe.sql")["names"], {"schema": schema()}).to_arrow_table()


def columns(con: "duckdb.DuckDBPyConnection", name: str) -> tuple[str, "pa.Table"]:
    """Return a title, and a table of the columns that a view has or a macro returns.

    Raises:
        AnnotateError: there is no such view or macro; the message lists those with the most similar names.
    """
    from annotate_transformer.store.queries import named

    public = {row["name"].partition("(")[0]: row for row in names(con).to_pylist()}
    found = name.casefold()
    if found not in public:
        near = get_close_matches(found, public, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise AnnotateError(f"There is no view or macro {name!r}. {hint}`annotate schema` lists them.")
    signature, comment = public[found]["name"], public[found]["comment"]
    if signature == found:
        query = named("describe.sql")["columns"]
        return f"{found}: {comment}", con.execute(query, {"name": found}).to_arrow_table()
    nothing = ", ".join("NULL" for _ in signature.split(","))
    query = f"SELECT column_name AS column, column_type AS type FROM (DESCRIBE FROM {found}({nothing}))"
    return f"{signature}: {comment}", con.execute(query).to_arrow_table()
