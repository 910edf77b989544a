"""Checksums of stored rows, with which `annotate verify` finds any cell that has changed.

A row's hash is a linear combination of its columns as integers, modulo a prime; each column has its own
factor. A checksum is the sum of the squares of these hashes. It does not depend on the order of the rows, and
the checksum of two sets of rows together is the sum of the two sets' checksums. Without the square, two rows
could exchange the values of a column unnoticed. The arithmetic uses only integers and not `hash()`, so every
version of DuckDB computes the same checksum.

base.checksum has one row for each owner and table, with the number of rows and their checksum. For a table
with a row per position, it has one row for each shard. A checksum is written in the transaction that writes
the rows. The transaction adds the difference that it makes (after minus before, over the rows that it may
change), so a change that another program made before remains detectable.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import duckdb

from annotate_transformer.store.catalogue import Column, Table, catalogue
from annotate_transformer.store.list_sums import PRIME, list_sums, remainder

NULL = 1_123_581_321  # the integer by which a NULL is replaced in the hash of a row

# FACTOR_BITS: the hash of a row is a sum of terms, one per column: the column's value times a factor of this
# many bits. A value has at most 32 bits, so the sum over 32 columns is below 2^63 and fits into a BIGINT.
FACTOR_BITS = 24
# OUTSIDE: the tables without a checksum. The table base.checksum needs none, because `annotate verify`
# computes all checksums again and compares them with the rows of base.checksum.
OUTSIDE = {"checksum"}

# LISTS: the types of list columns. `list_sums` hashes their values in Python; SQL hashes the values of all
# other columns.
LISTS = ("UTINYINT[]", "FLOAT[]", "DECIMAL(9, 3)[]", "BIGINT[]")
ROWS = 128  # number of rows that `_with_lists` reads at a time

# INTEGERS maps the type of a column to the SQL expression that turns its values into integers of at most 32
# bits. A type that is not listed here is an enum, for which ENUM is the expression.
INTEGERS = {
    **dict.fromkeys(("BOOLEAN", "UTINYINT", "USMALLINT", "UINTEGER", "INTEGER"), "{0}::BIGINT"),
    "BIGINT": "{0} % {prime}",
    "HUGEINT": "({0} % {prime})::BIGINT",
    # The 32 bits of a float are read as an integer. Zero is handled apart, because 0 and -0 have different
    # bits.
    "FLOAT": "CASE WHEN {0} = 0 THEN 0 ELSE {0}::BIT::INTEGER::BIGINT END",
    "DOUBLE": "CASE WHEN {0} = 0 THEN 0 ELSE {0}::BIT::BIGINT % {prime} END",
    "DECIMAL(5, 4)": "({0} * 10000)::BIGINT",
    "DECIMAL(9, 4)": "({0} * 10000)::BIGINT",
    "DECIMAL(9, 3)": "({0} * 1000)::BIGINT",
    "TIMESTAMPTZ": "epoch_us({0}) % {prime}",
    "BLOB": "(md5_number_lower({0}) % {prime})::BIGINT",
    "VARCHAR[]": "(md5_number_lower(array_to_string({0}, chr(31))) % {prime})::BIGINT",
    **dict.fromkeys(
        ("VARCHAR", "JSON", "DECIMAL(38, 4)"),
        "(md5_number_lower({0}::VARCHAR) % {prime})::BIGINT",
    ),
}
ENUM = "enum_code({0})::BIGINT"

Sums = tuple[int, int]  # (number of rows, checksum of these rows)


@dataclass(frozen=True)
class Change:
    """The rows of one table that a transaction may change, and the key of the checksum that covers them.

    where: SQL condition, in addition to the owner's condition; parameters: the parameters of `where`.
    is_new: the transaction replaces all of the owner's rows, so the checksum from before does not count.
    """

    table: Table
    owner_id: int
    shard: int = 0
    where: str = "true"
    parameters: dict[str, Any] = field(default_factory=dict)
    is_new: bool = False

    def sums(self, con: duckdb.DuckDBPyConnection) -> Sums:
        """Return the current number of the rows that the transaction may change, and their checksum."""
        query = f"{hashes_of(self.table)} AND {self.where}"
        factors = [_factor(self.table, column) for column in self.table.columns if column.type in LISTS]
        if not factors:
            query = f"SELECT count(*), coalesce(sum(h * h), 0) FROM (SELECT h % {PRIME} AS h FROM ({query}))"
        found = con.execute(query, _used(query, {"id": self.owner_id, **self.parameters}))
        return _with_lists(found, factors) if factors else found.fetchall()[0]


@dataclass(frozen=True)
class CopiedChange(Change):
    """New rows that are copied unchanged from another store, with the checksum that is recorded there.

    The checksum is not computed again, so a change of the rows since they were written remains detectable.
    """

    copied: Sums = (0, 0)

    def sums(self, con: duckdb.DuckDBPyConnection) -> Sums:
        return self.copied


@cache
def hashes_of(table: Table) -> str:
    """Return a SQL query that hashes each row of one owner (such as a run), without the list columns.

    The query also returns the list columns, which `_with_lists` adds to the hash. WHERE is its last clause,
    so DuckDB applies further conditions before it computes hashes.
    """
    terms = " + ".join(_term(table, column) for column in table.columns if column.type not in LISTS)
    lists = (f'"{column.name}"' for column in table.columns if column.type in LISTS)
    return f"SELECT {', '.join([f'{terms} AS h', *lists])} FROM base.{table.name} WHERE {table.owned}"


def _with_lists(found: duckdb.DuckDBPyConnection, factors: list[int]) -> Sums:
    """Return the number of rows of `found` and their checksum, which includes the values in list columns.

    factors: the factor of each list column in a row's hash
    """
    rows, checksum = 0, 0
    for batch in found.to_arrow_reader(ROWS):
        hashes, *lists = batch.columns
        terms = (list_sums(column) * factor for column, factor in zip(lists, factors, strict=True))
        squares = remainder(sum(terms, start=hashes.to_numpy())) ** 2
        rows, checksum = rows + batch.num_rows, checksum + sum(squares.tolist())
    return rows, checksum


def _term(table: Table, column: Column) -> str:
    value = INTEGERS.get(column.type, ENUM).format(f'"{column.name}"', prime=PRIME)
    if column.is_nullable:
        value = f"coalesce({value}, {NULL})"
    return f"({value}) * {_factor(table, column)}"


def _factor(table: Table, column: Column) -> int:
    """Return the factor by which a column's value is multiplied in the hash of a row.

    The factor is an odd number of at most FACTOR_BITS bits, derived from the names of the table and column.
    """
    name = f"{table.name}.{column.name}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> (64 - FACTOR_BITS) | 1


def _used(query: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if f"${name}" in query}


FORGET_RUN = "DELETE FROM base.checksum WHERE owner = 'run' AND owner_id = $run_id"


@contextmanager
def kept(con: duckdb.DuckDBPyConnection, changes: Iterable[Change]) -> Iterator[None]:
    """Context manager: update the checksums of the rows that the block changes, in the same transaction."""
    changes = [*changes, *_of_new_store(con)]
    before = [(0, 0) if change.is_new else change.sums(con) for change in changes]
    yield
    for change, sums in zip(changes, before, strict=True):
        _add(con, change, sums)


def _of_new_store(con: duckdb.DuckDBPyConnection) -> list[Change]:
    """Return the rows that schema.sql inserts into a new store; none if they already have checksums."""
    if con.execute("SELECT 1 FROM base.checksum WHERE owner = 'store' LIMIT 1").fetchone():
        return []
    return [replace(change, is_new=True) for change in whole(con, "store", 0)]


def _add(con: duckdb.DuckDBPyConnection, change: Change, before: Sums) -> None:
    """Add the difference between the current values and `before` to the recorded row count and checksum."""
    after = change.sums(con)
    if change.is_new:
        _record(con, change, after)
    elif after != before:
        rows, checksum = recorded(con, change)
        _record(con, change, (rows + after[0] - before[0], checksum + after[1] - before[1]))


OWNER = "owner = $owner AND owner_id = $owner_id"
KEY = f"{OWNER} AND name = $name AND shard = $shard"


def _key(change: Change) -> dict[str, Any]:
    return {
        "owner": change.table.owner,
        "owner_id": change.owner_id,
        "name": change.table.name,
        "shard": change.shard,
    }


def recorded(con: duckdb.DuckDBPyConnection, change: Change) -> Sums:
    """Return the recorded row count and checksum; both are 0 if nothing is recorded."""
    found = con.execute(f"SELECT rows, checksum FROM base.checksum WHERE {KEY}", _key(change)).fetchone()
    return (found[0], found[1]) if found else (0, 0)


def _record(con: duckdb.DuckDBPyConnection, change: Change, sums: Sums) -> None:
    con.execute(f"DELETE FROM base.checksum WHERE {KEY}", _key(change))
    if sums != (0, 0):
        row = "INSERT INTO base.checksum VALUES ($owner, $owner_id, $name, $shard, $rows, $checksum)"
        con.execute(row, _key(change) | {"rows": sums[0], "checksum": sums[1]})


def whole(con: duckdb.DuckDBPyConnection, owner: str, owner_id: int) -> Iterator[Change]:
    """Yield all rows of an owner (such as a run): one `Change` per table, or per shard of a sharded table."""
    for table in catalogue().values():
        if table.owner != owner or table.name in OUTSIDE:
            continue
        if not table.is_sharded:
            yield Change(table, owner_id)
            continue
        ranges = "SELECT shard, first_position_id, last_position_id FROM base.shard WHERE run_id = $run"
        for shard, first, last in con.execute(f"{ranges} ORDER BY shard", {"run": owner_id}).fetchall():
            yield of_shard(table, owner_id, shard, first, last)


def of_shard(table: Table, run_id: int, shard: int, first: int, last: int) -> Change:
    """Return the rows of one shard in a table whose rows have a position_id."""
    return Change(table, run_id, shard, f"position_id BETWEEN {first} AND {last}")


def differing(
    con: duckdb.DuckDBPyConnection, owner: str, owner_id: int
) -> Iterator[tuple[str, int, Sums, Sums]]:
    """Yield each difference in a row count or checksum: table, shard, recorded values, current values."""
    of_owner = {"owner": owner, "owner_id": owner_id}
    query = f"SELECT name, shard, rows, checksum FROM base.checksum WHERE {OWNER}"
    recorded = {(name, shard): sums for name, shard, *sums in con.execute(query, of_owner).fetchall()}
    present = {(rows.table.name, rows.shard): [*rows.sums(con)] for rows in whole(con, owner, owner_id)}
    for key in sorted({*recorded, *present}):
        before, now = recorded.get(key, [0, 0]), present.get(key, [0, 0])
        if before != now:
            yield *key, (before[0], before[1]), (now[0], now[1])


def owners(con: duckdb.DuckDBPyConnection) -> list[tuple[str, int]]:
    """Return the kind and id of each owner of rows, such as a run, even if only its checksums are left."""
    named = ("tokenizer", "model", "corpus", "run")
    rows = [f"SELECT '{name}'::owner, {name}_id FROM base.{name}" for name in named]
    recorded = "SELECT owner, owner_id FROM base.checksum UNION SELECT 'store', 0"
    return con.execute(f"{recorded} UNION {' UNION '.join(rows)} ORDER BY ALL").fetchall()


def record_all(con: duckdb.DuckDBPyConnection) -> None:
    """Record the checksums of all rows, as they are now."""
    con.execute("DELETE FROM base.checksum")
    for owner, owner_id in owners(con):
        for change in whole(con, owner, owner_id):
            _record(con, change, change.sums(con))
