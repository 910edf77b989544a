"""Writing: one process at a time, a shard, a model's weights or a neuron a transaction, its record inside it.

The file is open only while a shard is committed. Until the first commit nothing is written at
all, not even the run; after it, what is in the file is whole windows and the record of them.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa
from filelock import Timeout

from annotate_transformer.store.catalogue import catalogue, tables_of
from annotate_transformer.store.database import WAIT_SECONDS, connection
from annotate_transformer.store.errors import EmptyStore, IngestRunning, NotAStore, StoreChanged
from annotate_transformer.store.layout import (
    DOCUMENTS_A_CORPUS,
    PASSAGE,
    PASSAGES_A_DOCUMENT,
    POSITIONS_A_RUN,
    REACH,
    STEPS_A_LOGIT,
)
from annotate_transformer.store.location import is_taken, located, names_of, writers_lock
from annotate_transformer.store.queries import named, schema

NAMES_OF_MODEL = ("model", "revision", "step")
KIND_OF_MODEL = ("family", "norm", "activation")  # which its config.json says already
MEMORY_LIMIT = "200MB"  # a shard needs less
BATCH = 204_800  # rows: a thread of DuckDB's inserts one, while another inserts the next
PORTION = 1_000_000  # entries of lists, or sampled values by four, that are written at once
LOOK_SECONDS = 0.2  # an ingest waits for whoever holds FILE.lock only to see whether it is held
READERS_SECONDS = 0.04  # between two writes, so that whoever waits for the file gets in


@dataclass(frozen=True)
class Vocabulary:
    """What is kept of a tokenizer.

    tokens: (token_id, text for people, bytes); spells: as in base.tokenizer.
    """

    tokens: list[tuple[int, str, bytes]]
    special_ids: Collection[int]
    spells: str


@dataclass(frozen=True)
class Provenance:
    """Everything that makes a run the run it is: two runs are the same only if all of it is equal.

    A model is its weights, the settings of its config.json that change values, and its tokenizer: by these
    it is found again, under whatever name, path or link. A revision counts too where both sides have one:
    two training steps with equal weights stay two models and two runs, so that a person who asks for both
    finds both, and is told that they are equal (`Writer.equal_weights`). A folder has no revision, so it
    is whichever model has its weights; and a model that came from a folder takes the name and revision
    under which it is asked for first. Otherwise a model keeps the name that it was stored under first.

    model: a row of base.model but for its numbers; tokenizer_sha256; corpus: sha256, documents,
    characters, sources; settings, libraries, processing: names to values.
    """

    model: dict[str, Any]
    tokenizer_sha256: str
    corpus: dict[str, Any]
    settings: dict[str, Any]
    libraries: dict[str, str]
    processing: dict[str, bool]

    @property
    def identity(self) -> str:
        """A hash of all of it but names: of the model, its revision, and where the corpus lies."""
        parts = asdict(self)
        parts["model"] = {k: v for k, v in self.model.items() if k not in (*NAMES_OF_MODEL, *KIND_OF_MODEL)}
        parts["corpus"] = self.corpus["sha256"]  # the same text is the same corpus, wherever it lies
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Begun:
    """A run to write into.

    status: `new`, `running` (some shards are committed) or `finished`;
    last_shard: the row of its last shard, where there is one.
    """

    run_id: int
    model_id: int
    corpus_id: int
    status: str
    last_shard: dict[str, Any] | None

    @property
    def first_position_id(self) -> int:
        return (self.run_id - 1) * POSITIONS_A_RUN

    @property
    def first_document_id(self) -> int:
        return (self.corpus_id - 1) * DOCUMENTS_A_CORPUS


def portions(lists: Iterable[pa.Table]) -> Iterator[tuple[dict[str, list[Any]], pa.Table]]:
    """Lists' tables, of a kind, list and layer each: small ones together, with what each is of."""
    held, rows = list[pa.Table](), 0
    for table in lists:
        if table.num_rows:
            held.append(table)
            rows += table.num_rows
        if rows > PORTION:
            yield _portion(held)
            held, rows = [], 0
    if held:
        yield _portion(held)


def _portion(held: list[pa.Table]) -> tuple[dict[str, list[Any]], pa.Table]:
    of = {f"{name}s": [table[name][0].as_py() for table in held] for name in ("kind", "list", "layer")}
    return of, pa.concat_tables(held)


def passages(documents: list[dict[str, Any]]) -> pa.Table:
    """Rows of base.passage for rows of base.document: see schema.sql."""
    rows = [
        {
            "passage_id": document["document_id"] * PASSAGES_A_DOCUMENT + start // PASSAGE,
            "text": document["text"][start : start + PASSAGE + REACH],
        }
        for document in documents
        for start in range(0, len(document["text"]), PASSAGE)
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([("passage_id", pa.int64()), ("text", pa.string())]))


def check(path: str | Path) -> None:
    """Raises what would keep a `Writer` from this file, before there is anything to write."""
    with Writer(path) as writer:
        writer.unfinished()


def status(path: str | Path, recorded: str) -> str:
    """What a run's `runs.status` means now: one `running` is `unfinished` where no ingest is at work."""
    stopped = recorded == "running" and not is_taken(writers_lock(path))
    return "unfinished" if stopped else recorded


@dataclass(frozen=True)
class BegunModel:
    """A model to write into. top: how long its lists are; None where its weights were not read yet."""

    model_id: int
    top: int | None


@cache
def limits() -> dict[str, dict[str, float]]:
    """For each table and column what a number put into it must be smaller than, without its sign.

    As schema.sql has the columns: a DECIMAL(9, 3) holds six digits before the point, once rounded; a logit
    in a BIGINT is counted in steps of 2^-23 (base.units); a FLOAT holds every number that is not infinite.
    """
    found = {}
    for table, columns in re.findall(
        r"^CREATE TABLE base\.(\w+) \(\n(.*?)\n\);", schema(), re.DOTALL | re.MULTILINE
    ):
        typed = re.findall(r"^ +(\w+) +(?:(BIGINT|FLOAT)|DECIMAL\((\d+), (\d+)\))", columns, re.MULTILINE)
        found[table] = {
            name: {"BIGINT": 2.0**63 / STEPS_A_LOGIT, "FLOAT": inf}.get(kind)
            or 10.0 ** (int(p) - int(s)) - 0.5 * 10.0 ** -int(s)
            for name, kind, p, s in typed
        }
    return found


class Writer:
    """The only writer of a store, from `with` to the end of the block.

    Raises:
        IngestRunning: another process is in such a block for the same file, by whatever name.
        NotAStore: the file or its folder cannot be written, or the file has several names (hard links).
    """

    def __init__(self, path: str | Path, wait: float = WAIT_SECONDS) -> None:
        self.path, self.wait = located(path), wait
        self._lock = writers_lock(self.path)
        self._queries = _statements()
        self._free_since = -READERS_SECONDS
        self._leaves_lock = True
        self._pending: list[tuple[str, dict[str, Any] | pa.Table]] = []
        self._chosen: dict[str, int | None] = {}  # numbers of what is pending, by what they number
        self._state: list[tuple[Any, ...]] | None = None  # of the file, as this writer read or left it

    def __enter__(self) -> "Writer":
        if not self.path.parent.is_dir():
            raise NotAStore(
                f"{self.path} cannot be made: there is no folder {self.path.parent}. Make it first."
            )
        if names_of(self.path) > 1:
            raise NotAStore(_several_names(self.path))
        self._leaves_lock = os.path.exists(self._lock.lock_file)
        try:
            self._lock.acquire(timeout=LOOK_SECONDS)
        except Timeout as error:
            raise IngestRunning(
                f"Another ingest is writing into {self.path}. Wait for its end, or give another --db."
            ) from error
        except OSError as error:
            raise NotAStore(f"{self.path} cannot be written: {error.strerror or error}.") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """The lock's file stays, but where it was made for nothing: an ingest that wrote nothing.

        Whoever has opened it by then sees (filelock does) that it is no longer the one of that name.
        """
        if not self._leaves_lock:
            Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()

    def begin(self, provenance: Provenance, vocabulary: Vocabulary, *, fresh: bool) -> Begun:
        """Find the equal run to go on with, or number a new one; nothing is written yet, but a name.

        fresh: an equal run's rows are removed in the first commit, and it starts again.
        """
        self._pending, self._chosen = [], {}
        if not self._has_rows():
            self._state = []
            return self._new(provenance, vocabulary, None)
        with self._open() as con:
            named = {name: provenance.model[name] for name in ("revision", "step")}
            equal = self._one(con, "equal_run", {"identity": provenance.identity} | named)
            if equal is None or fresh:
                return self._new(provenance, vocabulary, con, replaced=equal["run_id"] if equal else None)
            last = self._one(con, "last_shard", {"run_id": equal["run_id"]})
        self._name(equal, provenance.model)
        if equal["status"] == "finished" and self._pending:
            self.commit({}, merge=False)
        return Begun(equal["run_id"], equal["model_id"], equal["corpus_id"], equal["status"], last)

    def _new(
        self,
        provenance: Provenance,
        vocabulary: Vocabulary,
        con: duckdb.DuckDBPyConnection | None,
        replaced: int | None = None,
    ) -> Begun:
        """Number what is new; its rows wait for the first commit."""
        free = self._free(con)
        if replaced is not None:
            self._pending.append(("forget", {"run_id": replaced}))
        model_id = self._model(con, free, provenance.model, provenance.tokenizer_sha256, vocabulary)
        corpus_id = self._known(con, "corpora", {"sha256": provenance.corpus["sha256"]})
        if corpus_id is None:
            corpus_id = self._chosen["corpus"] = free["corpus"]
            self._add("corpus", provenance.corpus | {"corpus_id": corpus_id})
        self._chosen["run"] = free["run"]
        self._add("run", _run_row(provenance, free["run"], model_id, corpus_id))
        return Begun(free["run"], model_id, corpus_id, "new", None)

    def begin_model(self, model: dict[str, Any], tokenizer_sha256: str, vocabulary: Vocabulary) -> BegunModel:
        """Find a model, or number a new one; nothing is written yet. Parameters as in `Provenance`."""
        self._pending, self._chosen = [], {}
        has_rows = self._has_rows()
        if not has_rows:
            self._state = []
        with self._open() if has_rows else nullcontext() as con:
            model_id = self._model(con, self._free(con), model, tokenizer_sha256, vocabulary)
            return BegunModel(model_id, self._known(con, "weights", {"model_id": model_id}))

    def _free(self, con: duckdb.DuckDBPyConnection | None) -> dict[str, int]:
        """The next numbers."""
        first = {"run": 1, "corpus": 1, "model": 1, "tokenizer": 1}
        return (self._one(con, "next_id", {}) if con else None) or first

    def _model(
        self,
        con: duckdb.DuckDBPyConnection | None,
        free: dict[str, int],
        model: dict[str, Any],
        tokenizer_sha256: str,
        vocabulary: Vocabulary,
    ) -> int:
        """A model's number; where it is new, its rows and its tokenizer's wait for the first commit."""
        tokenizer = {"sha256": tokenizer_sha256}
        tokenizer_id = self._known(con, "tokenizers", tokenizer)
        if tokenizer_id is None:
            tokenizer_id = self._chosen["tokenizer"] = free["tokenizer"]
            tokens = [
                {"tokenizer_id": tokenizer_id, "token_id": i, "token": text, "bytes": raw}
                | {"is_special": i in vocabulary.special_ids}
                for i, text, raw in vocabulary.tokens
            ]
            self._add("tokenizer", tokenizer | {"tokenizer_id": tokenizer_id, "spells": vocabulary.spells})
            self._pending.append(("insert_token", pa.Table.from_pylist(tokens)))
        keys = ("weights_sha256", "config", "revision", "step")
        known = {key: model[key] for key in keys} | {"tokenizer_id": tokenizer_id}
        found = self._one(con, "models", known) if con else None
        if found is None:
            model_id = self._chosen["model"] = free["model"]
            self._add("model", model | {"model_id": model_id, "tokenizer_id": tokenizer_id})
            return model_id
        self._name(found, model)
        return int(found["model_id"])

    def _name(self, found: dict[str, Any], model: dict[str, Any]) -> None:
        """A model from a folder takes the name and revision by which it is asked for; see `Provenance`."""
        if found["revision"] is None and model["revision"] is not None:
            named = {name: model[name] for name in NAMES_OF_MODEL} | {"model_id": found["model_id"]}
            self._pending.append(("name_model", named))

    def _add(self, table: str, row: dict[str, Any]) -> None:
        self._pending.append((f"insert_{table}", pa.Table.from_pylist([row])))

    def commit(
        self, tables: dict[str, pa.Table | Iterable[pa.Table]], *, merge: bool = True, **key: Any
    ) -> None:
        """Write a shard, or a model's or neuron's tables, with its record; or nothing.

        `tables`: by the name of the table in schema `base`, some in parts; each is taken out (and its memory
        given back) once it is in. key: of what these replace, the run_id, model_id or a run's neuron.
        merge: DuckDB may put small groups of rows together, of any table; else none is written anew but the
        last ones of tables with an index.

        Raises:
            StoreBusy, DiskFull: see `store.database.connection`; nothing is written.
            StoreChanged: another program wrote into the file meanwhile; nothing is written.
        """
        with self._writing(merge) as con:
            self._check_unused(con)
            for query, rows in self._pending:
                self._run(con, query, rows)
            for name in list(tables):
                if f"delete_{name}" in self._queries:
                    self._run(con, f"delete_{name}", key)
                table = tables.pop(name)
                for rows in [table] if isinstance(table, pa.Table) else table:
                    self._run(con, f"insert_{name}", rows)
        self._pending, self._chosen = [], {}

    def drop_candidates(self, run_id: int, lists: Iterable[pa.Table]) -> None:
        """Keep of the lists of a run going on these entries, a table each kind and layer.

        In steps, which find the room of what those before dropped, as shards to come do.
        """
        for of, table in portions(lists):
            with self._writing() as con:
                self._run(con, "delete_top_entry", {"run_id": run_id, **of})
                self._run(con, "insert_top_candidate", table)

    def samples(self, run_id: int) -> Iterator[pa.Table]:
        """The sampled rows of a run going on, some layers at a time."""
        found = self.fetch("sampled_layers", run_id=run_id, values=4 * PORTION)
        for layers in found["layers"].to_pylist():
            yield self.fetch("sample_rows", run_id=run_id, layers=layers)

    def finish(self, run_id: int, samples: Iterable[pa.Table], lists: Iterable[pa.Table]) -> None:
        """Put a run's samples, and lists by kind and layer, in their final form in their parts' place.

        In steps, as above; a run killed between them is finished by the same command.
        """
        for of, table in portions(lists):
            self.commit({"top_entry": table}, merge=False, run_id=run_id, **of)
        for table in samples:
            layers = table["layer"].unique().to_pylist()
            self.commit({"sample_unit": table}, merge=False, run_id=run_id, layers=layers)
        with self._writing() as con:
            for query in ("finish_top_sources", "finish_head_offsets", "finish_run"):
                self._run(con, query, {"run_id": run_id})

    def fetch(self, query: str, **parameters: Any) -> pa.Table:
        """The answer of one of write.sql's SELECTs (what a resumed run restores)."""
        with self._open() as con:
            return con.execute(self._queries[query], parameters).to_arrow_table()

    def unfinished(self) -> list[dict[str, Any]]:
        """Runs that were started and not finished, with what tells them apart."""
        return self.fetch("unfinished_runs").to_pylist() if self._has_rows() else []

    def equal_weights(self, model: dict[str, Any]) -> str | None:
        """The other names, or revisions, under which this model's weights are stored, in a sentence."""
        names = {name: model[name] for name in ("weights_sha256", "model", "revision")}
        found = self.fetch("equal_weights", **names).to_pylist() if self._has_rows() else []
        if not found:
            return None
        others = ", ".join(f"{_name_of(row)} ({row['first_of']})" for row in found)
        return f"The weights of {_name_of(model)} equal those of {others}"

    def frequent_tokens(self, tokenizer_sha256: str, k: int) -> list[int]:
        """The k commonest tokens of all positions read with a tokenizer, the commonest first."""
        if not self._has_rows():
            return []
        found = self.fetch("frequent_tokens", sha256=tokenizer_sha256, k=k)
        token_ids: list[int] = found["token_id"].to_pylist()
        return token_ids

    def _has_rows(self) -> bool:
        """False too where an ingest was killed while it made the file."""
        if not self.path.exists() or self.path.stat().st_size == 0:
            return False
        try:
            with self._open():
                return True
        except EmptyStore:
            return False

    @contextmanager
    def _open(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with connection(self.path, read_only=True, wait=self.wait) as con:
            if self._state is None:
                self._state = self._recorded(con)
            yield con

    def _recorded(self, con: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
        """Return what every writer changes: the numbers given so far, and how much is recorded of each."""
        return con.execute(self._queries["state"]).fetchall()

    def _make_way(self) -> None:
        """Remove an empty file: DuckDB makes one only where there is none, and may be killed as it does."""
        if self.path.exists() and self.path.stat().st_size > 0:
            return
        if self._state:
            raise StoreChanged(
                f"{self.path} is gone since this command read it: moved, deleted or emptied. Put it back, or "
                "run the same command again to begin anew."
            )
        self.path.unlink(missing_ok=True)

    def _check_unchanged(self, con: duckdb.DuckDBPyConnection) -> None:
        """Raises StoreChanged where another program wrote into the file, or put another one in its place."""
        found = self._recorded(con)
        if self._state in (None, found):
            return
        differ = {(what, number) for what, number, _ in {*found} ^ {*(self._state or [])}}
        raise StoreChanged(
            f"Another program has written into {self.path}, or replaced it, since this command read it "
            f"({_listed(differ)}). Nothing was written over: run the same command again."
        )

    def _check_unused(self, con: duckdb.DuckDBPyConnection) -> None:
        """Raises StoreChanged where a number chosen for what is pending has rows already."""
        if not self._chosen:
            return
        chosen = dict.fromkeys(("run", "corpus", "model", "tokenizer")) | self._chosen
        sizes = {"positions": POSITIONS_A_RUN, "documents": DOCUMENTS_A_CORPUS}
        taken = con.execute(self._queries["taken"], chosen | sizes).fetchall()
        if taken:
            raise StoreChanged(
                f"{self.path} has rows already under numbers that were free ({_listed(taken)}): another "
                "program wrote them. Nothing was written over: `annotate verify` says whether the store is "
                "sound; give another --db, or run the same command again."
            )

    @contextmanager
    def _writing(self, merge: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """One transaction: all of the block is written, or nothing."""
        self._leaves_lock = True
        time.sleep(max(0.0, self._free_since + READERS_SECONDS - time.monotonic()))
        self._make_way()
        with connection(self.path, read_only=False, wait=self.wait, memory_limit=MEMORY_LIMIT) as con:
            if not merge:
                con.execute("SET max_vacuum_tasks = 0")
            con.execute("BEGIN")
            self._check_unchanged(con)
            yield con
            state = self._recorded(con)
            con.execute("COMMIT")
        self._state = state
        self._free_since = time.monotonic()

    def _run(self, con: duckdb.DuckDBPyConnection, query: str, rows: dict[str, Any] | pa.Table) -> None:
        """rows: a query's parameters, or what it inserts."""
        if isinstance(rows, pa.Table):
            # A reader, because Arrow reads a table ahead in threads, and hangs where none can start.
            con.register("rows", pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches(BATCH)))
            con.execute(self._queries[query])
            con.unregister("rows")
            return
        for statement in duckdb.extract_statements(self._queries[query]):
            con.execute(statement, rows)

    def _one(
        self, con: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, Any]
    ) -> dict[str, Any] | None:
        found = con.execute(self._queries[query], parameters).to_arrow_table().to_pylist()
        return found[0] if found else None

    def _known(
        self, con: duckdb.DuckDBPyConnection | None, query: str, parameters: dict[str, Any]
    ) -> int | None:
        row = self._one(con, query, parameters) if con else None
        return next(iter(row.values())) if row else None


@cache
def _statements() -> dict[str, str]:
    """Return the writer's statements by name: those of write.sql, and those that the catalogue gives."""
    made = {f"insert_{table.name}": table.insert for table in catalogue().values()}
    for table in catalogue().values():
        if table.is_replaced:
            made[f"delete_{table.name}"] = table.delete.replace("$id", f"${table.owner}_id")
    made["forget"] = ";\n".join(table.delete for table in tables_of("run")).replace("$id", "$run_id")
    return made | named("write.sql")


def _name_of(model: dict[str, Any]) -> str:
    return f"{model['model']} {model['revision']}" if model["revision"] else str(model["model"])


def _listed(what: Iterable[tuple[str, int]]) -> str:
    """
    >>> _listed({("run", 2), ("model", 1)})
    'model 1, run 2'
    """
    return ", ".join(f"{name} {number}" for name, number in sorted(what))


def _several_names(path: Path) -> str:
    """DuckDB keeps an interrupted write (the .wal) beside one name: under the others it would be missing."""
    return (
        f"{path} is one of {names_of(path)} names of the same file (hard links), and a store that is written "
        f"into has one name, for an interrupted write is kept beside it. Remove the other names "
        f"(`find FOLDER -samefile {path}` lists them), or give a copy of the file to --db."
    )


def _run_row(provenance: Provenance, run_id: int, model_id: int, corpus_id: int) -> dict[str, Any]:
    from datetime import UTC, datetime

    settings = provenance.settings
    return {
        "run_id": run_id,
        "model_id": model_id,
        "corpus_id": corpus_id,
        "identity": provenance.identity,
        "settings": json.dumps(settings),
        "libraries": json.dumps(provenance.libraries),
        "processing": json.dumps(provenance.processing),
        "list_size": settings["top"],
        "samples": settings["samples"],
        "status": "running",
        "started": datetime.now(UTC),
        "finished": None,
    }
