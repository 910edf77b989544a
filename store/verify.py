"""Verify a store: recompute the recorded sums, counts and sort orders from the stored rows."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import duckdb

from annotate_transformer.store.catalogue import catalogue, every_block
from annotate_transformer.store.checksum import Sums, differing, owners
from annotate_transformer.store.database import WAIT_SECONDS, Reading, no_room_as_sentence
from annotate_transformer.store.elsewhere.place import Address
from annotate_transformer.store.errors import DamagedStore, NoSuchRun, NotAStore
from annotate_transformer.store.queries import named

TOLERANCE = 1e-4  # maximum closure error of a float32 run, in logits
# QUICK: checks that count rows or read small tables; they take about 3 % of the time of all
QUICK = {
    *("identity", "identity of the model", "shard windows", "each position once", "rows per position"),
    *("shard records", "whole corpus", "leftovers", "lists complete", "statistics complete"),
}
SHOWN = 10  # maximum number of broken rows that a `Finding` describes

Broken = tuple[int, list[str]]  # (number of broken rows, descriptions of the first of these rows)
Subject = dict[str, int]  # {"run_id": …} or {"model_id": …}: what is checked; empty for the whole store
Look = Callable[[duckdb.DuckDBPyConnection, Subject], Broken]


@dataclass(frozen=True)
class Finding:
    """The result of one check of a run, a model or the store: the number of broken rows, and examples."""

    check: str
    broken: int
    examples: list[str]
    run_id: int | None = None
    model_id: int | None = None

    @property
    def of(self) -> str:
        """The name of the checked store, model or run, for output."""
        if self.run_id is not None:
            return f"run {self.run_id}"
        return "store" if self.model_id is None else f"model {self.model_id}"


def verify(path: Address, run_id: int | None = None, *, quick: bool = False) -> Iterator[Finding]:
    """Check the store, each model and each run; yield one finding per check.

    A finding's `broken` is 0 if the check passed.

    run_id: check only this run, its model and the store.
    quick: only the checks that count rows (`QUICK`), for a first look

    Raises:
        NoSuchRun: the store does not have this run.
        NotAStore, OtherSchemaVersion, StoreBusy: the store cannot be opened.
    """
    reading = Reading(path, WAIT_SECONDS)
    for subject in _subjects(reading, run_id):
        for check, look in _checks(subject).items():
            if not quick or check in QUICK:
                yield _finding(reading, subject, check, look)
    reading.close()


def _subjects(reading: Reading, run_id: int | None) -> list[Subject]:
    """Return what to verify: the store, each model, and each run with a base.run row, shard or checksum.

    run_id: return only the store, this run and its model.
    """
    with reading.cursor() as con:
        try:
            found = con.execute(named("read.sql")["subjects"]).fetchall()
        except duckdb.Error as error:
            raise NotAStore(f"{reading.path} cannot be read: {str(error).splitlines()[0]}") from error
    runs = sorted({run for run, _ in found if run is not None})
    if run_id is not None and run_id not in runs:
        raise NoSuchRun(f"{reading.path} has no run {run_id}; it has {', '.join(map(str, runs)) or 'none'}.")
    asked = [row for row in found if run_id in (None, row[0])]
    models = sorted({model for _, model in asked if model is not None})
    runs = runs if run_id is None else [run_id]
    return [{}, *({"model_id": model} for model in models), *({"run_id": run} for run in runs)]


def _checks(subject: Subject) -> dict[str, Look]:
    """Return a dictionary from name to function, with the checks of the store, a model or a run."""
    checks: dict[str, Look] = {} if subject else {"every block can be read": partial(_rows, every_block())}
    checks["checksums"] = _checksums
    checks |= {
        check: partial(_rows, query)
        for check, query in named("verify.sql").items()
        if {*re.findall(r"\$(\w+_id)\b", query)} == {*subject}
    }
    checks |= {"corpus hash": _corpus_hash} if "run_id" in subject else {}
    return checks | ({"texts of tokens": _token_texts} if "model_id" in subject else {})


def _finding(reading: Reading, subject: Subject, check: str, look: Look) -> Finding:
    try:
        with reading.cursor() as con, no_room_as_sentence(reading.path):
            broken, examples = look(con, subject)
    except (duckdb.Error, DamagedStore, ValueError) as error:
        cause = error.__cause__ if isinstance(error, DamagedStore) else error
        broken, examples = 1, [f"cannot be read: {str(cause).splitlines()[0]}"]
    return Finding(check, broken, examples, subject.get("run_id"), subject.get("model_id"))


def _rows(query: str, con: duckdb.DuckDBPyConnection, subject: Subject) -> Broken:
    parameters = subject | ({"tolerance": TOLERANCE} if "$tolerance" in query else {})
    con.execute(f"CREATE TEMP TABLE broken AS {query}", parameters)
    broken = con.execute("SELECT count(*) FROM broken").fetchall()[0][0]
    rows = con.execute(f"SELECT problem FROM broken ORDER BY problem LIMIT {SHOWN}").fetchall()
    return broken, [row[0] for row in rows]


def _checksums(con: duckdb.DuckDBPyConnection, subject: Subject) -> Broken:
    """Compare the rows of a run, a model or the store with their recorded checksums.

    Rows of tokenizers and corpora are compared when the subject is the store.
    """
    problems = list[str]()
    for owner, owner_id in owners(con):
        if subject == ({f"{owner}_id": owner_id} if owner in ("run", "model") else {}):
            problems += [_differs(f"{owner} {owner_id}", *found) for found in differing(con, owner, owner_id)]
    return len(problems), problems[:SHOWN]


def _differs(owner: str, table: str, shard: int, recorded: Sums, present: Sums) -> str:
    where = f"base.{table} ({owner}" + (f", shard {shard})" if catalogue()[table].is_sharded else ")")
    if recorded[0] == present[0]:
        return f"{where}: the content of its {present[0]} rows is not what was written"
    return f"{where} has {present[0]} rows, and {recorded[0]} were written"


def _token_texts(con: duckdb.DuckDBPyConnection, subject: Subject) -> Broken:
    """Check that the bytes of each token decode to the text of the token.

    The bytes are decoded as in `ingest.corpus.tokens.Tokenizer.vocabulary`.
    """
    tokens = con.execute(named("read.sql")["bytes_of_tokens"], subject).fetchall()
    broken = [
        f"token {token_id} is recorded as {token!r}, but its bytes are {spelt!r}"
        for token_id, token, bytes_ in tokens
        if token != (spelt := bytes(bytes_).decode("utf-8", errors="backslashreplace"))
    ]
    return len(broken), broken[:SHOWN]


def _corpus_hash(con: duckdb.DuckDBPyConnection, subject: Subject) -> Broken:
    """Check the recorded sha256 of a corpus that is stored in full.

    The hash is computed as in `ingest.corpus.sources.Scan.sha256`; SQL cannot compute it.
    """
    digest, recorded = hashlib.sha256(), None
    documents = con.execute(named("read.sql")["whole_corpus"], {"run": subject["run_id"]})
    while row := documents.fetchone():
        recorded, text, metadata = row
        canonical = json.dumps(
            json.loads(metadata), sort_keys=True, ensure_ascii=False, separators=(",", ":")
        )
        for part in (text.encode(), canonical.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    if recorded in (None, digest.hexdigest()):
        return 0, []
    return 1, [f"the corpus of run {subject['run_id']} does not have the recorded sha256 {recorded}"]
