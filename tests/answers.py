"""What a store answers: every row of every view, to be compared with what another one answers."""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from store.database import connection

TIMES = {  # the columns in which equal runs may differ
    "runs": ("started", "finished"), "explanations": ("made", "seconds")
}  # fmt: skip
SHOWN = 3


def sql(db: Path, query: str) -> list[tuple[Any, ...]]:
    """The rows of an answer, NULL as None."""
    with connection(db, read_only=True) as con:
        return con.execute(query).fetchall()


def views(db: Path) -> list[str]:
    names = "SELECT view_name FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal"
    return sorted(name for (name,) in sql(db, names))


def rows(db: Path, view: str) -> pa.Table:
    left_out = ", ".join(TIMES.get(view, ()))
    columns = f"* EXCLUDE ({left_out})" if left_out else "*"
    with connection(db, read_only=True) as con:
        return con.execute(f"SELECT {columns} FROM {view}").to_arrow_table()


def differences(one: Path, other: Path) -> dict[str, str]:
    """Views that do not hold the same rows equally often, with the first that are in one alone."""
    assert views(one) == views(other)
    found = {}
    for view in views(one):
        tables = {"one": rows(one, view), "other": rows(other, view)}
        with duckdb.connect() as con:
            for name, table in tables.items():
                con.register(name, table)
            here, there = (
                con.execute(f"FROM {a} EXCEPT ALL FROM {b} ORDER BY ALL").fetchall()
                for a, b in (("one", "other"), ("other", "one"))
            )
        if here or there:
            found[view] = (
                f"{len(here)} only in one: {here[:SHOWN]}; {len(there)} only in the other: {there[:SHOWN]}"
            )
    return found
