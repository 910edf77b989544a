"""Make the schema of schema.sql over tables that lie elsewhere: each table becomes a view.

The types, views, macros and comments are those of schema.sql itself, so every query of a store works.
"""

import re
from collections.abc import Callable, Collection
from functools import cache

import duckdb

from annotate_transformer.store.catalogue import Table, catalogue
from annotate_transformer.store.queries import schema

OWN = {"version", "catalogue"}  # their rows depend on schema.sql alone, so they are made as tables
# OF_TABLE: the beginning of a statement that makes a table, an index on a table, or a row in a table
OF_TABLE = re.compile(r"(CREATE TABLE|CREATE INDEX \w+ ON|INSERT INTO) base\.(\w+)")


def lay(
    con: duckdb.DuckDBPyConnection, rows: Callable[[Table], str | None], own: Collection[str] = OWN
) -> None:
    """Make the schema in the default database of `con`, which has to be empty.

    rows: a function that returns the query for all rows of a table, with the table's columns in order, or
    None if the table is to be made as a table. The query may refer to the types of schema.sql; a column that
    it does not cast has to have the table's type.
    own: names of tables that are made as tables, with their rows
    """
    con.execute("BEGIN")
    for statement in _statements():
        of_table = OF_TABLE.match(statement)
        query = rows(catalogue()[of_table[2]]) if of_table and of_table[2] not in own else None
        if of_table is None or query is None:
            con.execute(statement)
        elif of_table[1] == "CREATE TABLE":
            con.execute(f"CREATE VIEW base.{of_table[2]} AS {query}")
    con.execute("COMMIT")


@cache
def _statements() -> list[str]:
    """Return the statements of schema.sql in order, without comments before them."""
    return [re.sub(r"\A(\s+|--.*\n)+", "", one.query) for one in duckdb.extract_statements(schema())]
