"""The catalogue of tables (base.catalogue in schema.sql), and the statements generated from it.

schema.sql records each table's owner, key and sort order beside the table's CREATE statement. The statements
for inserts, deletions, export and the check of every block have the same form for all tables, so they are
generated here; write.sql and export.sql have the statements that differ.
"""

import ast
import re
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from annotate_transformer.store.queries import schema

# Regular expressions for the text of schema.sql: ROW matches an INSERT of one row into base.catalogue, and
# COLUMN matches the name and type of a column in a CREATE TABLE.
ROW = (
    r"^INSERT INTO base\.catalogue VALUES "
    r"\('(\w+)', '(\w+)', (\[.*?\]), (\[.*?\]), (\w+), (?:NULL|'(.*)')\);$"
)
COLUMN = r"\s*([a-zA-Z]\w*) +(\w+(?:\([\d, ]+\))?(?:\[\])?)"


class Column(NamedTuple):
    """A column of a table, as schema.sql declares it."""

    name: str
    type: str
    is_nullable: bool


@dataclass(frozen=True)
class Table:
    """A table, as base.catalogue describes it.

    owned: the SQL condition that selects the rows of one owner, such as a run
    """

    name: str
    owner: str
    key: tuple[str, ...]
    ordered_by: tuple[str, ...]
    is_replaced: bool
    owned: str
    columns: tuple[Column, ...]

    @property
    def is_sharded(self) -> bool:
        """Whether each row belongs to a position of a run, and thereby to a shard (a range of positions)."""
        return self.owner == "run" and self.key[0] == "position_id"

    @property
    def insert(self) -> str:
        """The SQL statement that inserts the Arrow table `rows`, sorted by the columns `ordered_by`."""
        order = f" ORDER BY {', '.join(self.ordered_by)}" if self.ordered_by else ""
        return f"INSERT INTO base.{self.name} BY NAME SELECT * FROM rows{order}"

    @property
    def select(self) -> str:
        """The SQL query for the rows of one owner, such as the run with the id $id, in their stored order."""
        return f"SELECT * FROM base.{self.name} WHERE {self.owned}"

    @property
    def delete(self) -> str:
        """The SQL statement that deletes the rows of one owner, such as the run with the id $id."""
        return f"DELETE FROM base.{self.name} WHERE {self.owned}"


@cache
def catalogue() -> dict[str, Table]:
    """Return a dictionary from name to `Table` for the schema `base`, in the order of schema.sql."""
    return {row[0]: _table(*row) for row in re.findall(ROW, schema(), re.MULTILINE)}


def _table(name: str, owner: str, key: str, ordered_by: str, is_replaced: str, owned: str) -> Table:
    by_number = "true" if owner == "store" else f"{owner}_id = $id"
    order = tuple(ast.literal_eval(ordered_by))
    columns = _columns(name)
    return Table(
        name, owner, tuple(ast.literal_eval(key)), order, is_replaced == "true", owned or by_number, columns
    )


def _columns(table: str) -> tuple[Column, ...]:
    body = re.sub(r"--.*", "", _bodies()[table])
    # Split at commas between columns, but not at commas in parentheses, as in DECIMAL(9, 3).
    declared = (re.match(COLUMN, part) for part in re.split(r",(?![^()]*\))", body))
    return tuple(Column(match[1], match[2], "NOT NULL" not in match.string) for match in declared if match)


@cache
def _bodies() -> dict[str, str]:
    tables = re.findall(r"^CREATE TABLE base\.(\w+) \((.*?)\);$", schema(), re.DOTALL | re.MULTILINE)
    return dict(tables)


def tables_of(owner: str) -> list[Table]:
    """Return the tables of one kind of owner (such as `run`), in the order in which to delete their rows.

    A table comes before the tables that its condition `owned` reads.
    """
    return [table for table in reversed(catalogue().values()) if table.owner == owner]


def every_block() -> str:
    """Return a query that makes DuckDB read and check every block of every table; it returns no rows."""
    reads = (f"SELECT '{name}' AS problem, max(hash(t)) AS h FROM base.{name} t" for name in catalogue())
    return f"SELECT problem FROM ({' UNION ALL '.join(reads)}) WHERE h < 0"
