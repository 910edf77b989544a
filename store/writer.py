"""Write a store, one process at a time; a transaction writes a shard, a neuron or a model's weights.

Each transaction also writes a record of its rows. The file is open only during a commit. Before the first
commit nothing is written, not even the row of the run. After each commit, the file has only whole windows,
and the record of these windows.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import duckdb
import pyarrow as pa
from filelock import Timeout

from annotate_transformer.store.catalogue import catalogue, tables_of
from annotate_transformer.store.changes import change_of
from annotate_transformer.store.checksum import FORGET_RUN, Change, kept
from annotate_transformer.store.database import WAIT_SECONDS, connection
from annotate_transformer.store.elsewhere.place import Elsewhere, Place
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
from annotate_transformer.store.queries import named
from annotate_transformer.store.windows import Context, contexts

NAMES_OF_MODEL = ("model", "revision", "step")
# KIND_OF_MODEL: the columns of base.model whose values follow from the model's config.json.
KIND_OF_MODEL = (
    "family", "norm", "activation", "n_kv_heads", "is_gated", "position_embedding", "logit_cap",
    "has_post_norms",
)  # fmt: skip
MEMORY_LIMIT = "200MB"  # DuckDB's memory limit for a writer; a shard needs less
BATCH = 204_800  # number of rows in a batch; DuckDB's threads insert several batches at once

# PORTION: about this many entries of top-k lists are written in one transaction. A transaction with values of
# the random sample has about 4 * PORTION values.
PORTION = 1_000_000
LOOK_SECONDS = 0.2  # maximum seconds to wait for FILE.lock; after that, another ingest is taken to hold it
READERS_SECONDS = 0.04  # minimum seconds between two writes, in which waiting readers can open the file


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer data that a store keeps.

    `tokens` has the token_id, readable text and bytes of each token; `spells` is as in base.tokenizer.
    """

    tokens: list[tuple[int, str, bytes]]
    special_ids: Collection[int]
    spells: str


@dataclass(frozen=True)
class Provenance:
    """The model, corpus, settings and library versions of a run, by which an equal run is recognised.

    A model is identified by its weights, the entries of its config.json that affect values, and its
    tokenizer, under any name, path or link. The revision counts too if both models have one: two training
    steps with equal weights stay two models and two runs, so a user who requests both finds both, and reads
    that their weights are equal (`Writer.equal_weights`). A folder has no revision, so it matches any model
    with its weights, and a model from a folder takes the first name and revision under which it is requested.
    Otherwise a model keeps the name under which it was first stored.

    model: a row of base.model without its ids; corpus: sha256, documents, characters and sources;
    settings, libraries, processing: values by name;
    hf_difference: as in base.run; it is no part of the run's identity.
    """

    model: dict[str, Any]
    tokenizer_sha256: str
    corpus: dict[str, Any]
    settings: dict[str, Any]
    libraries: dict[str, str]
    processing: dict[str, bool]
    hf_difference: float | None = None

    @property
    def identity(self) -> str:
        """The hash that identifies the run; it ignores names (model name and revision, corpus location)."""
        parts = asdict(self)
        del parts["hf_difference"]
        parts["model"] = {k: v for k, v in self.model.items() if k not in (*NAMES_OF_MODEL, *KIND_OF_MODEL)}
        # Only the hash of the texts counts: equal texts are the same corpus, wherever their files are.
        parts["corpus"] = self.corpus["sha256"]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Begun:
    """The new or existing run that `Writer.begin` has chosen.

    status: `new`, `running` (some shards are committed) or `finished`;
    last_shard: the row of base.shard for the last shard; None if the run has no shard;
    part: the row of base.part if the store has only a part of the run; None if the run is whole or new.
    """

    run_id: int
    model_id: int
    corpus_id: int
    status: str
    last_shard: dict[str, Any] | None
    part: dict[str, Any] | None = None

    @property
    def first_position_id(self) -> int:
        return (self.run_id - 1) * POSITIONS_A_RUN

    @property
    def first_document_id(self) -> int:
        return (self.corpus_id - 1) * DOCUMENTS_A_CORPUS


def portions(lists: Iterable[pa.Table]) -> Iterator[tuple[dict[str, list[Any]], pa.Table]]:
    """Merge small tables of entries of top-k lists into larger ones; yield each with its lists' keys.

    `lists` has one table for each kind, name and layer of lists. Yields pairs: a dictionary with the
    arrays kinds, lists and layers, which together identify the lists in the table, and the table.
    """
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
    """Split documents (rows of base.document) into passages; return the rows of base.passage."""
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
    """Check that a `Writer` could write this file now, so that errors come before a long computation."""
    with Writer(path) as writer:
        writer.unfinished()


def status(path: str | Place, recorded: str) -> str:
    """Return a run's current status: `unfinished` if it is recorded as `running` but no ingest is active."""
    stopped = recorded == "running" and (isinstance(path, Elsewhere) or not is_taken(writers_lock(path)))
    return "unfinished" if stopped else recorded


@dataclass(frozen=True)
class BegunModel:
    """The new or existing model that `Writer.begin_model` has chosen.

    top: the number of entries in each stored top-k list; None if the model's weights were not read yet.
    """

    model_id: int
    top: int | None


@cache
def limits() -> dict[str, dict[str, float]]:
    """Return, for each table and column, the limit below which |value| must be to fit into the column.

    The bounds follow from the types in schema.sql: a DECIMAL(9, 3) holds six digits before the point after
    rounding; a logit in a BIGINT counts steps of 2^-23 (base.units); a FLOAT holds every finite number.
    """
    return {
        table.name: {
            column.name: limit for column in table.columns if (limit := _limit(column.type)) is not None
        }
        for table in catalogue().values()
    }


def _limit(kind: str) -> float | None:
    if digits := re.match(r"DECIMAL\((\d+), (\d+)\)", kind):
        return 10.0 ** (int(digits[1]) - int(digits[2])) - 0.5 * 10.0 ** -int(digits[2])
    return {"BIGINT": 2.0**63 / STEPS_A_LOGIT, "FLOAT": inf}.get(kind.removesuffix("[]"))


class Copied(Protocol):
    """Protocol of `store.parts.Copy`: rows of another store that a `Writer` copies in one commit.

    covers: names of the commit's tables whose new rows are among `changes`.
    """

    @property
    def covers(self) -> Collection[str]: ...

    def changes(self) -> Iterable[Change]:
        """Yield the sets of rows that the copy adds, for their checksums."""

    def write(self, con: duckdb.DuckDBPyConnection) -> None:
        """Copy the rows within the transaction that `con` has begun."""


class Writer:
    """A context manager that writes a store; only one process at a time can have a writer of the same file.

    Raises:
        IngestRunning: another process has a writer of the same file, under any of its names.
        NotAStore: the file or its folder cannot be written, or the file has several names (hard links).
    """

    def __init__(self, path: str | Place, wait: float = WAIT_SECONDS) -> None:
        self.path, self.wait = located(path), wait
        self._lock = writers_lock(self.path)
        self._queries = _statements()
        self._free_since = -READERS_SECONDS
        self._leaves_lock = True
        self._pending: list[tuple[str, dict[str, Any] | pa.Table]] = []
        # `_chosen` maps a kind of object (run, corpus, model or tokenizer) to the id chosen for a new object
        # of this kind, which the next commit will write. Kinds without a new object are missing.
        self._chosen: dict[str, int | None] = {}
        # `_owners` maps a kind of object (as in `_chosen`) to the id of the new or old object to which the
        # written rows belong.
        self._owners: dict[str, int] = {}
        self._state: list[tuple[Any, ...]] | None = (
            None  # not read yet; later, the result of the query `state` when this writer last used the file
        )

    def __enter__(self) -> "Writer":
        if not self.path.parent.is_dir():
            raise NotAStore(
                f"{self.path} cannot be made: there is no folder {self.path.parent}. Make the folder first."
            )
        if names_of(self.path) > 1:
            raise NotAStore(_several_names(self.path))
        self._leaves_lock = os.path.exists(self._lock.lock_file)
        try:
            self._lock.acquire(timeout=LOOK_SECONDS)
        except Timeout as error:
            raise IngestRunning(
                f"Another ingest is writing into {self.path}. Wait until it ends, or give another --db."
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
        """Release the lock. The lock file stays, unless this writer created the lock file and wrote nothing.

        A process that still has the removed lock file open notices (through filelock) that it was removed.
        """
        if not self._leaves_lock:
            Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()

    def begin(
        self, provenance: Provenance, vocabulary: Vocabulary, *, fresh: bool, any_revision: bool = False
    ) -> Begun:
        """Find an equal run to resume, or choose an id for a new run.

        Nothing is written, unless the equal run is finished and its model gets a name (see `_name`).
        fresh: start an equal run again; the first commit removes the stored rows of this run.
        any_revision: a run of equal weights is equal, whatever its revision is called.
        """
        self._pending, self._chosen = [], {}
        if not self._has_rows():
            self._state = []
            return self._new(provenance, vocabulary, None)
        with self._open() as con:
            named = {name: provenance.model[name] for name in ("revision", "step")}
            equal = self._one(
                con, "equal_run", {"identity": provenance.identity, "any_revision": any_revision} | named
            )
            if equal is None or fresh:
                return self._new(provenance, vocabulary, con, replaced=equal["run_id"] if equal else None)
            last = self._one(con, "last_shard", {"run_id": equal["run_id"]})
            part = self._one(con, "part_of_run", {"run_id": equal["run_id"]})
        self._owners = {name: equal[f"{name}_id"] for name in ("run", "model", "corpus")}
        self._name(equal, provenance.model)
        if equal["status"] == "finished" and self._pending:
            self.commit({}, merge=False)
        return Begun(equal["run_id"], equal["model_id"], equal["corpus_id"], equal["status"], last, part)

    def _new(
        self,
        provenance: Provenance,
        vocabulary: Vocabulary,
        con: duckdb.DuckDBPyConnection | None,
        replaced: int | None = None,
    ) -> Begun:
        """Choose the ids of a new run; the first commit will write its rows."""
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
        self._owners |= {"run": free["run"], "model": model_id, "corpus": corpus_id}
        return Begun(free["run"], model_id, corpus_id, "new", None)

    def begin_model(self, model: dict[str, Any], tokenizer_sha256: str, vocabulary: Vocabulary) -> BegunModel:
        """Find a model, or choose an id for a new model; write nothing yet. Parameters as in `Provenance`."""
        self._pending, self._chosen = [], {}
        has_rows = self._has_rows()
        if not has_rows:
            self._state = []
        with self._open() if has_rows else nullcontext() as con:
            model_id = self._model(con, self._free(con), model, tokenizer_sha256, vocabulary)
            self._owners["model"] = model_id
            return BegunModel(model_id, self._known(con, "weights", {"model_id": model_id}))

    def _free(self, con: duckdb.DuckDBPyConnection | None) -> dict[str, int]:
        """Return the next free id for a run, a corpus, a model and a tokenizer."""
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
        """Return the id of a model; the first commit will write the rows of a new model and tokenizer."""
        tokenizer = {"sha256": tokenizer_sha256}
        tokenizer_id = self._known(con, "tokenizers", tokenizer)
        if tokenizer_id is None:
            tokenizer_id = self._chosen["tokenizer"] = self._owners["tokenizer"] = free["tokenizer"]
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
        """Give a stored model without a revision the requested name and revision, if a revision is requested.

        A stored model without a revision was read from a folder.
        """
        if found["revision"] is None and model["revision"] is not None:
            named = {name: model[name] for name in NAMES_OF_MODEL} | {"model_id": found["model_id"]}
            self._pending.append(("name_model", named))

    def _add(self, table: str, row: dict[str, Any]) -> None:
        self._pending.append((f"insert_{table}", pa.Table.from_pylist([row])))

    def commit(
        self,
        tables: dict[str, pa.Table | Iterable[pa.Table]],
        *,
        merge: bool = True,
        copied: Copied | None = None,
        **key: Any,
    ) -> None:
        """Write the rows of a shard, a model or a neuron in one transaction, with the row that records them.

        tables: Arrow tables by the name of the table in schema `base`; a value may be several Arrow tables.
        Each value is removed from the dictionary when it is inserted, to free memory. key: the run_id,
        model_id or neuron of the rows that these tables replace. merge: DuckDB may merge small row groups of
        any table; otherwise it rewrites only the last row groups of tables with an index. copied: rows of
        another store that are copied in the same transaction.

        Raises:
            StoreBusy, DiskFull: see `store.database.connection`; nothing is written.
            StoreChanged: another program has written into the file; nothing is written.
        """
        covered = copied.covers if copied else ()
        changes = self._changes({name: rows for name, rows in tables.items() if name not in covered}, key)
        changes += copied.changes() if copied else ()
        with self._writing(merge, changes) as con:
            self._check_unused(con)
            for query, rows in self._pending:
                self._run(con, query, rows)
            if copied:
                copied.write(con)
            for name in list(tables):
                if f"delete_{name}" in self._queries:
                    self._run(con, f"delete_{name}", key)
                table = tables.pop(name)
                for rows in [table] if isinstance(table, pa.Table) else table:
                    self._run(con, f"insert_{name}", rows)
        self._pending, self._chosen = [], {}

    def drop_candidates(self, run_id: int, lists: Iterable[pa.Table]) -> None:
        """Delete an unfinished run's candidates for top-k lists, except the candidates in `lists`.

        `lists` has one table per kind, list and layer. Several tables are replaced in one transaction; later
        transactions reuse the space that earlier transactions free.
        """
        for of, table in portions(lists):
            key = {"run_id": run_id, **of}
            with self._writing(changes=self._changes({"top_entry": table}, key)) as con:
                self._run(con, "delete_top_entry", key)
                self._run(con, "insert_top_candidate", table)

    def samples(self, run_id: int) -> Iterator[pa.Table]:
        """Yield the rows of an unfinished run's random sample, a few layers at a time."""
        found = self.fetch("sampled_layers", run_id=run_id, values=4 * PORTION)
        for layers in found["layers"].to_pylist():
            yield self.fetch("sample_rows", run_id=run_id, layers=layers)

    def finish(self, run_id: int, samples: Iterable[pa.Table], lists: Iterable[pa.Table]) -> None:
        """Replace a run's top-k candidates and sampled rows by the final rows, and mark the run finished.

        This takes several transactions, as in `drop_candidates`. If the process is killed between two of
        them, the same command finishes the run.
        """
        for of, table in portions(lists):
            self.commit({"top_entry": table}, merge=False, copied=None, run_id=run_id, **of)
        for table in samples:
            layers = table["layer"].unique().to_pylist()
            self.commit({"sample_unit": table}, merge=False, run_id=run_id, layers=layers)
        queries = ("finish_top_sources", "finish_head_offsets", "finish_run")
        written = {name for query in queries for name in self._written(query)}
        with self._writing(changes=[Change(catalogue()[name], run_id) for name in written]) as con:
            for query in queries:
                self._run(con, query, {"run_id": run_id})

    def _changes(self, tables: dict[str, Any], key: dict[str, Any]) -> list[Change]:
        """Return the stored rows that may change when `tables` and the pending rows are committed."""
        # The pending statement `forget` changes no checksum, because it deletes the checksums together with
        # the rows. So it is left out.
        pending = (query for query, _ in self._pending if query != "forget")
        queries = [*pending, *(f"insert_{name}" for name in tables)]
        queries += [query for name in tables if (query := f"delete_{name}") in self._queries]
        written = {name for query in queries for name in self._written(query)}
        owners = self._owners | {name.removesuffix("_id"): value for name, value in key.items()}
        return [change_of(name, owners, tables, key) for name in sorted(written)]

    def _written(self, query: str) -> set[str]:
        """Return the tables into which a statement writes."""
        return {*re.findall(r"\b(?:INSERT INTO|DELETE FROM|UPDATE) base\.(\w+)", self._queries[query])}

    def fetch(self, query: str, **parameters: Any) -> pa.Table:
        """Run a SELECT of write.sql and return its rows as an Arrow table."""
        with self._open() as con:
            return con.execute(self._queries[query], parameters).to_arrow_table()

    def contexts(self, position_ids: Sequence[int]) -> list[Context]:
        """Return the tokens that the model reads up to each of these positions, in the order given."""
        with self._open() as con:
            return contexts(con, position_ids)

    def unfinished(self) -> list[dict[str, Any]]:
        """Return the unfinished runs, with their settings and provenance."""
        return self.fetch("unfinished_runs").to_pylist() if self._has_rows() else []

    def parts(self) -> list[dict[str, Any]]:
        """Return the rows of base.part, each with the identity and the ids of its run."""
        return self.fetch("stored_parts").to_pylist() if self._has_rows() else []

    def equal_weights(self, model: dict[str, Any]) -> str | None:
        """Return a sentence that names the other stored models with equal weights; None if there are none."""
        names = {name: model[name] for name in ("weights_sha256", "model", "revision")}
        found = self.fetch("equal_weights", **names).to_pylist() if self._has_rows() else []
        if not found:
            return None
        others = ", ".join(f"{_name_of(row)} ({row['first_of']})" for row in found)
        return f"The weights of {_name_of(model)} equal those of {others}"

    def frequent_tokens(self, tokenizer_sha256: str, k: int) -> list[int]:
        """Return the ids of the k most frequent tokens, over all positions of runs with this tokenizer."""
        if not self._has_rows():
            return []
        found = self.fetch("frequent_tokens", sha256=tokenizer_sha256, k=k)
        token_ids: list[int] = found["token_id"].to_pylist()
        return token_ids

    def _has_rows(self) -> bool:
        """Return whether the file contains a store; False if an ingest was killed while it made the file."""
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
        """Return a summary of the store, by which `_check_unchanged` notices writes of other programs."""
        return con.execute(self._queries["state"]).fetchall()

    def _make_way(self) -> None:
        """Remove an empty file, which a killed process may leave, because DuckDB creates only new files."""
        if self.path.exists() and self.path.stat().st_size > 0:
            return
        if self._state:
            raise StoreChanged(
                f"{self.path} is gone since this command read it: it was moved, deleted or emptied. Put it "
                "back, or run the same command again to start from the beginning."
            )
        self.path.unlink(missing_ok=True)

    def _check_unchanged(self, con: duckdb.DuckDBPyConnection) -> None:
        """Raise StoreChanged if another program has written into the file or replaced it."""
        found = self._recorded(con)
        if self._state in (None, found):
            return
        differ = {(what, number) for what, number, _ in {*found} ^ {*(self._state or [])}}
        raise StoreChanged(
            f"Another program has written into {self.path}, or replaced it, since this command read it "
            f"({_listed(differ)}). Nothing was overwritten. Run the same command again."
        )

    def _check_unused(self, con: duckdb.DuckDBPyConnection) -> None:
        """Raise StoreChanged if an id that was chosen for pending rows is already used in the store."""
        if not self._chosen:
            return
        chosen = dict.fromkeys(("run", "corpus", "model", "tokenizer")) | self._chosen
        sizes = {"positions": POSITIONS_A_RUN, "documents": DOCUMENTS_A_CORPUS}
        taken = con.execute(self._queries["taken"], chosen | sizes).fetchall()
        if taken:
            raise StoreChanged(
                f"{self.path} has rows already under numbers that were free ({_listed(taken)}): another "
                "program wrote them. Nothing was overwritten. Check the store with `annotate verify`; then "
                "run the same command again, or give another --db."
            )

    @contextmanager
    def _writing(
        self, merge: bool = False, changes: Iterable[Change] = ()
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Context manager: run the block in one transaction, so that all its writes are stored or none.

        changes: the rows that the block may change; their checksums are written too.
        """
        self._leaves_lock = True
        time.sleep(max(0.0, self._free_since + READERS_SECONDS - time.monotonic()))
        self._make_way()
        with connection(self.path, read_only=False, wait=self.wait, memory_limit=MEMORY_LIMIT) as con:
            if not merge:
                con.execute("SET max_vacuum_tasks = 0")
            # With arrow_output_version = 1.5, DuckDB exports decimals to Arrow in 32 bits each, for the
            # checksums of lists (`list_sums`).
            con.execute("SET arrow_output_version = '1.5'")
            con.execute("BEGIN")
            self._check_unchanged(con)
            with kept(con, changes):
                yield con
            state = self._recorded(con)
            con.execute("COMMIT")
        self._state = state
        self._free_since = time.monotonic()

    def _run(self, con: duckdb.DuckDBPyConnection, query: str, rows: dict[str, Any] | pa.Table) -> None:
        """Run a statement of write.sql. rows: the statement's parameters, or the table that it inserts."""
        if isinstance(rows, pa.Table):
            # Give DuckDB a reader instead of the table. Arrow reads a table ahead in threads, and would hang
            # if no thread can start.
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
    """Return a dictionary from name to SQL statement: those of write.sql and those made for each table."""
    made = {f"insert_{table.name}": table.insert for table in catalogue().values()}
    for table in catalogue().values():
        if table.is_replaced:
            made[f"delete_{table.name}"] = table.delete.replace("$id", f"${table.owner}_id")
    forget = [*(table.delete for table in tables_of("run")), FORGET_RUN]
    made["forget"] = ";\n".join(forget).replace("$id", "$run_id")
    return made | named("write.sql")


def _name_of(model: dict[str, Any]) -> str:
    return f"{model['model']} {model['revision']}" if model["revision"] else str(model["model"])


def _listed(what: Iterable[tuple[str, int]]) -> str:
    """Return names with their ids as a sorted list for a message.

    >>> _listed({("run", 2), ("model", 1)})
    'model 1, run 2'
    """
    return ", ".join(f"{name} {number}" for name, number in sorted(what))


def _several_names(path: Path) -> str:
    """Return the error message for a file that has several names (hard links).

    DuckDB keeps an interrupted write (the .wal file) beside one name; by another name it would not find it.
    """
    return (
        f"{path} is one of {names_of(path)} names of the same file (hard links), but a store that is written "
        f"into must have one name, because an interrupted write is kept beside it. Remove the other names "
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
        "hf_difference": provenance.hf_difference,
    }
