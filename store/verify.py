"""Is the store what it says it is? Every sum, count, order and record recomputed from stored rows."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb

from store.database import WAIT_SECONDS, Reading, no_room_as_sentence
from store.errors import NoSuchRun, NotAStore
from store.queries import named

TOLERANCE = 1e-4  # logits: the bound promised for rows read back from a float32 run
SHOWN = 10  # broken rows told of a check

Broken = tuple[int, list[str]]  # how many rows, and the first of them in words
Look = Callable[[duckdb.DuckDBPyConnection, int], Broken]  # at one run


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
    reading = Reading(path, WAIT_SECONDS)
    runs = _runs(reading)
    if run_id is not None and run_id not in runs:
        raise NoSuchRun(f"{path} has no run {run_id}; it has {', '.join(map(str, runs)) or 'none'}.")
    checks: dict[str, Look] = {
        check: partial(_rows, query) for check, query in named("verify.sql").items()
    } | {"corpus hash": _corpus_hash}
    for run in runs if run_id is None else [run_id]:
        for check, look in checks.items():
            yield _finding(reading, run, check, look)
    reading.close()


def _runs(reading: Reading) -> list[int]:
    """Every run that has a row or a shard."""
    with reading.cursor() as con:
        try:
            return [row[0] for row in con.execute(named("read.sql")["run_ids"]).fetchall()]
        except duckdb.Error as error:
            raise NotAStore(f"{reading.path} cannot be read: {str(error).splitlines()[0]}") from error


def _finding(reading: Reading, run_id: int, check: str, look: Look) -> Finding:
    try:
        with reading.cursor() as con, no_room_as_sentence(reading.path):
            return Finding(run_id, check, *look(con, run_id))
    except (duckdb.Error, ValueError) as error:
        return Finding(run_id, check, 1, [f"cannot be read: {str(error).splitlines()[0]}"])


def _rows(query: str, con: duckdb.DuckDBPyConnection, run_id: int) -> Broken:
    parameters = {"run_id": run_id} | ({"tolerance": TOLERANCE} if "$tolerance" in query else {})
    con.execute(f"CREATE TEMP TABLE broken AS {query}", parameters)
    broken = con.execute("SELECT count(*) FROM broken").fetchall()[0][0]
    rows = con.execute(f"SELECT problem FROM broken ORDER BY problem LIMIT {SHOWN}").fetchall()
    return broken, [row[0] for row in rows]


def _corpus_hash(con: duckdb.DuckDBPyConnection, run_id: int) -> Broken:
    """The one check that SQL cannot make: of a corpus stored whole, `ingest.sources.Scan.sha256`."""
    digest, recorded = hashlib.sha256(), None
    documents = con.execute(named("read.sql")["whole_corpus"], {"run": run_id})
    while row := documents.fetchone():
        recorded, text, metadata = row
        canonical = json.dumps(
            json.loads(metadata), sort_keys=True, ensure_ascii=False, separators=(",", ":")
        )
        for part in (text.encode(), canonical.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    if recorded in (None, digest.hexdigest()):
        return 0, []
    return 1, [f"the corpus of run {run_id} has another sha256 than its record, {recorded}"]
