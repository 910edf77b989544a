"""Is the store what it says it is? Every sum, count, order and record recomputed from stored rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb

from store.database import connection
from store.errors import NoSuchRun, NotAStore
from store.queries import named

TOLERANCE = 1e-4  # logits: the bound promised for rows read back from a float32 run
SHOWN = 10  # broken rows told of a check


@dataclass(frozen=True)
class Finding:
    """What one check found in one run: `broken` rows, and the first of them in words."""

    run_id: int
    check: str
    broken: int
    examples: list[str]


def verify(path: str | Path, run_id: int | None = None) -> Iterator[Finding]:
    """Each check of each run as it is made; a sound store yields only findings with `broken` 0.

    Raises:
        NoSuchRun: there is no such run;
        NotAStore, OtherSchemaVersion, StoreBusy: there is nothing to check.
    """
    runs = _runs(path)
    if run_id is not None and run_id not in runs:
        raise NoSuchRun(f"{path} has no run {run_id}; it has {', '.join(map(str, runs)) or 'none'}.")
    for run in runs if run_id is None else [run_id]:
        for check, query in named("verify.sql").items():
            yield _check(path, run, check, query)


def _runs(path: str | Path) -> list[int]:
    """Every run that has a row or a shard."""
    with connection(path, read_only=True) as con:
        try:
            return [row[0] for row in con.execute(named("read.sql")["run_ids"]).fetchall()]
        except duckdb.Error as error:
            raise NotAStore(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def _check(path: str | Path, run_id: int, check: str, query: str) -> Finding:
    parameters = {"run_id": run_id} | ({"tolerance": TOLERANCE} if "$tolerance" in query else {})
    try:
        with connection(path, read_only=True) as con:
            con.execute(f"CREATE TEMP TABLE broken AS {query}", parameters)
            broken = con.execute("SELECT count(*) FROM broken").fetchall()[0][0]
            rows = con.execute(f"SELECT problem FROM broken ORDER BY problem LIMIT {SHOWN}").fetchall()
        return Finding(run_id, check, broken, [row[0] for row in rows])
    except duckdb.Error as error:
        return Finding(run_id, check, 1, [f"cannot be read: {str(error).splitlines()[0]}"])
