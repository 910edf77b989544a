"""What a store answers: every row of every view, to be compared with what another one answers."""

from typing import Any

import duckdb
import pyarrow as pa

from annotate_transformer.store.catalogue import catalogue
from annotate_transformer.store.database import connection
from annotate_transformer.store.elsewhere.place import Place

TIMES = {  # the columns in which equal runs may differ
    "runs": ("started", "finished"), "explanations": ("made", "seconds")
}  # fmt: skip
SHOWN = 3


def sql(db: Place, query: str) -> list[tuple[Any, ...]]:
    """The rows of an answer, NULL as None."""
    with connection(db, read_only=True) as con:
        return con.execute(query).fetchall()


def views(db: Place) -> list[str]:
    here = "database_name = current_database() AND schema_name = 'main' AND NOT internal"
    names = f"SELECT view_name FROM duckdb_views() WHERE {here}"
    return sorted(name for (name,) in sql(db, names))


def rows(db: Place, view: str) -> pa.Table:
    with connection(db, read_only=True) as con:
        return _rows(con, view)


def _rows(con: duckdb.DuckDBPyConnection, view: str) -> pa.Table:
    left_out = ", ".join(TIMES.get(view, ()))
    columns = f"* EXCLUDE ({left_out})" if left_out else "*"
    return con.execute(f"SELECT {columns} FROM {view}").to_arrow_table()


def differences(one: Place, other: Place) -> dict[str, str]:
    """Views that do not hold the same rows equally often, with the first that are in one alone."""
    assert views(one) == views(other)
    with connection(one, read_only=True) as here, connection(other, read_only=True) as there:
        compared = {view: _difference(_rows(here, view), _rows(there, view)) for view in views(one)}
    return {view: difference for view, difference in compared.items() if difference}


def _difference(one: pa.Table, other: pa.Table) -> str:
    if one.equals(other):  # in the same order, even
        return ""
    with duckdb.connect() as con:
        con.register("one", one)
        con.register("other", other)
        here, there = (
            con.execute(f"FROM {a} EXCEPT ALL FROM {b} ORDER BY ALL").fetchall()
            for a, b in (("one", "other"), ("other", "one"))
        )
    if not here and not there:
        return ""
    return f"{len(here)} only in one: {here[:SHOWN]}; {len(there)} only in the other: {there[:SHOWN]}"


# The columns and tables in which equal runs may differ: times, and the checksums of the rows that hold times
TIMED = {"run": "started, finished", "shard": "seconds, committed"}


def table_differences(one: Place, other: Place) -> dict[str, str]:
    """Tables of the schema `base` that do not hold the same rows, times aside."""
    with connection(one, read_only=True) as here, connection(other, read_only=True) as there:
        compared = {
            table: _difference(*(con.execute(_stored(table)).to_arrow_table() for con in (here, there)))
            for table in catalogue()
        }
    return {table: difference for table, difference in compared.items() if difference}


def _stored(table: str) -> str:
    left_out = f" EXCLUDE ({TIMED[table]})" if table in TIMED else ""
    timed = ", ".join(f"'{name}'" for name in TIMED)
    which = f" WHERE name NOT IN ({timed})" if table == "checksum" else ""
    return f"SELECT *{left_out} FROM base.{table}{which}"
