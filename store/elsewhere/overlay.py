"""Make the schema of schema.sql over tables of another database: each table becomes a view on one of them.

The types, views, macros and comments are those of schema.sql itself, so every query of a store works. The
statements for tables in a database without enums, such as a lake, are generated here from the catalogue.
"""

import re
from collections.abc import Callable, Collection
from functools import cache

import duckdb

from annotate_transformer.store.catalogue import Table, catalogue
from annotate_transformer.store.layout import enums
from annotate_transformer.store.queries import schema

OWN = {"version", "catalogue"}  # tables whose rows depend on schema.sql alone, so they need no view
# OF_TABLE: the beginning of a statement that makes a table, an index on a table, or a row in a table
OF_TABLE = re.compile(r"(CREATE TABLE|CREATE INDEX \w+ ON|INSERT INTO) base\.(\w+)")


def lay(
    con: duckdb.DuckDBPyConnection, rows: Callable[[Table], str | None], own: Collection[str] = OWN
) -> None:
    """Make the schema of schema.sql in the default database of `con`, which has to be empty.

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


def plain_columns(table: Table) -> dict[str, str]:
    """Return the plain type of each column, for a database without enums and 128-bit integers.

    >>> plain_columns(catalogue()["checksum"])["owner"]
    'VARCHAR'
    """
    return {column.name: _plain(column.type) for column in table.columns}


def _plain(kind: str) -> str:
    return "VARCHAR" if kind in enums() else {"HUGEINT": "DECIMAL(38, 0)"}.get(kind, kind)


def making(table: Table, schema: str) -> str:
    """Return the CREATE TABLE statement for a table in `schema`, with plain types (`plain_columns`)."""
    kinds = plain_columns(table)
    declared = (f'"{name}" {kinds[name]}{"" if null else " NOT NULL"}' for name, _, null in table.columns)
    return f"CREATE TABLE {schema}.{table.name} ({', '.join(declared)})"


def as_plain(table: Table, rows: str) -> str:
    """Return a query that casts the rows of the query `rows` to plain types (`plain_columns`)."""
    return _cast(table, plain_columns(table), f"({rows})")


def from_plain(table: Table, schema: str) -> str:
    """Return a query for all rows of a table stored with plain types, cast to the types in schema.sql."""
    return _cast(table, {column.name: column.type for column in table.columns}, f"{schema}.{table.name}")


def _cast(table: Table, kinds: dict[str, str], rows: str) -> str:
    """Return a query that casts to `kinds` each column whose type in schema.sql is not its plain type.

    No column stands without its table's name, because a macro may have a parameter of the column's name.
    """
    plain = plain_columns(table)
    casts = [f't_."{n}"::{kinds[n]} AS "{n}"' for n, kind, _ in table.columns if kind != plain[n]]
    replaced = f" REPLACE ({', '.join(casts)})" if casts else ""
    return f"SELECT *{replaced} FROM {rows} t_"


@cache
def _statements() -> list[str]:
    """Return the statements of schema.sql in order, without comments before them."""
    return [re.sub(r"\A(\s+|--.*\n)+", "", one.query) for one in duckdb.extract_statements(schema())]
