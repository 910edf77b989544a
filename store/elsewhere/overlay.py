"""Make the schema of schema.sql over tables that lie elsewhere: each table becomes a view.

The types, views, macros and comments are those of schema.sql itself, so every query of a store works.
"""

import re
from collections.abc import Callable
from functools import cache

import duckdb

from annotate_transformer.store.catalogue import Table, catalogue
from annotate_transformer.store.queries import schema

OWN = {"version", "catalogue"}  # their rows depend on schema.sql alone, so they are made as tables
# OF_TABLE: the beginning of a statement that makes a table, an index on a table, or a row in a table
OF_TABLE = re.compile(r"(CREATE TABLE|CREATE INDEX \w+ ON|INSERT INTO) base\.(\w+)")


def lay(con: duckdb.DuckDBPyConnection, rows: Callable[[Table], str]) -> None:
    """Make the schema in the default database of `con`, which has to be empty.

    rows: a function that returns the query for all rows of a table, with the table's columns in order. The
    query may refer to the types of schema.sql; a column that it does not cast has to have the table's type.
    """
    con.execute("BEGIN")
    for statement in _statements():
        of_table = OF_TABLE.match(statement)
        if of_table is None or of_table[2] in OWN:
            con.execute(statement)
        elif of_table[1] == "CREATE TABLE":
            con.execute(f"CREATE VIEW base.{of_table[2]} AS {rows(catalogue()[of_table[2]])}")
    con.execute("COMMIT")


def make_tables(con: duckdb.DuckDBPyConnection) -> None:
    """Make the tables of schema.sql, with their types and indexes, in the default database of `con`."""
    for statement in _statements():
        if re.match(r"CREATE (SCHEMA|TYPE|TABLE|INDEX)", statement):
            con.execute(statement)


@cache
def _statements() -> list[str]:
    """Return the statements of schema.sql in order, without comments before them."""
    return [re.sub(r"\A(\s+|--.*\n)+", "", one.query) for one in duckdb.extract_statements(schema())]
