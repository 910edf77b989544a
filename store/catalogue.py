"""The catalogue of tables (base.catalogue in schema.sql), and the statements generated from it.

schema.sql records each table's owner, key and sort order beside the table's CREATE statement. The statements
for inserts, deletions, export and the check of every block have the same form for all tables, so they are
generated here; write.sql and export.sql have the statements that differ.
"""

from dataclasses import dataclass
from functools import cache

import duckdb

from annotate_transformer.store.queries import schema


@dataclass(frozen=True)
class Table:
    """A row of base.catalogue; `owned` is the SQL condition for the rows of the owner with id $id."""

    name: str
    owner: str
    key: tuple[str, ...]
    ordered_by: tuple[str, ...]
    is_replaced: bool
    owned: str

    @property
    def insert(self) -> str:
        """The SQL statement that inserts the Arrow table `rows`, sorted by the columns `ordered_by`."""
        order = f" ORDER BY {', '.join(self.ordered_by)}" if self.ordered_by else ""
        return f"INSERT INTO base.{self.name} BY NAME SELECT * FROM rows{order}"

    @property
    def select(self) -> str:
        """The SQL query for the rows of one owner (such as a run), whose id is $id, in their stored order."""
        return f"SELECT * FROM base.{self.name} WHERE {self.owned}"

    @property
    def delete(self) -> str:
        """The SQL statement that deletes the rows of one owner (such as a run), whose id is $id."""
        return f"DELETE FROM base.{self.name} WHERE {self.owned}"


@cache
def catalogue() -> dict[str, Table]:
    """Return a dictionary from name to `Table` with all tables of schema base, in the order of schema.sql."""
    with duckdb.connect() as con:
        con.execute(_definition())
        rows = con.execute("FROM base.catalogue").fetchall()
    return {name: _table(name, *columns) for name, *columns in rows}


def _table(name: str, owner: str, key: list[str], ordered_by: list[str], replaced: bool, owned: str) -> Table:
    by_number = "true" if owner == "store" else f"{owner}_id = $id"
    return Table(name, owner, tuple(key), tuple(ordered_by), replaced, owned or by_number)


def _definition() -> str:
    """Return only those statements of schema.sql that create and fill the catalogue.

    To execute all of schema.sql would take ten times as long.
    """
    lines = schema().splitlines()
    start = lines.index("CREATE TABLE base.catalogue (")
    table = lines[start : lines.index(");", start) + 1]
    owner = next(line for line in lines if line.startswith("CREATE TYPE owner "))
    rows = [line for line in lines if line.startswith("INSERT INTO base.catalogue ")]
    return "\n".join(["CREATE SCHEMA base;", owner, *table, *rows])


def tables_of(owner: str) -> list[Table]:
    """Return the tables of one kind of owner (such as `run`), in the order in which to delete their rows.

    A table comes before the tables that its condition `owned` reads.
    """
    return [table for table in reversed(catalogue().values()) if table.owner == owner]


def every_block() -> str:
    """Return a query that makes DuckDB read and check every block of every table; it returns no rows."""
    reads = (f"SELECT '{name}' AS problem, max(hash(t)) AS h FROM base.{name} t" for name in catalogue())
    return f"SELECT problem FROM ({' UNION ALL '.join(reads)}) WHERE h < 0"
