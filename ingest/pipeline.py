"""The whole path on one page: corpus → tokens → model → decomposition → rows → store.

1. The corpus is read once to be hashed and checked; the model is loaded and hashed. Together with
   the settings and library versions that is a run's identity (`Provenance`).
2. The store says whether that run is new, unfinished or finished; an unfinished one is restored.
   Tokens are counted, which says what positions are sampled.
3. Documents become windows, windows groups, groups batches; every batch is decomposed, its rows
   gathered, its values taken into the run's exact summaries.
4. Whole groups make a shard; a shard is one transaction. Where batches are cut depends on nothing
   but the corpus and the settings, so a run killed and resumed gives what an unbroken one gives.

Beside ingest.weights the only file here that touches the store.
"""

import ctypes
import hashlib
import importlib.metadata
import json
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from annotate_transformer.ingest.codes import STRONGEST
from annotate_transformer.ingest.decompose import Decomposition, decompose
from annotate_transformer.ingest.errors import ModelError, SettingsError, SourceError
from annotate_transformer.ingest.model import PROCESSING, Model
from annotate_transformer.ingest.rows import (
    Identity,
    Shard,
    check_storable,
    layer_biases,
    neuron_directions,
    rows_of,
    token_directions,
)
from annotate_transformer.ingest.run_summary import NONE, RunSummary, samples_by_unit
from annotate_transformer.ingest.selection import Keep
from annotate_transformer.ingest.sources import Corpus, Document, Scan
from annotate_transformer.ingest.summaries import LayerSummary, Thresholds
from annotate_transformer.ingest.tokens import (
    GROUP_BATCHES,
    Batch,
    Cursor,
    Tokenizer,
    Window,
    Windowing,
    batches,
    cut_to,
)
from annotate_transformer.store.closure import closure_bound
from annotate_transformer.store.writer import (
    Begun,
    Provenance,
    Vocabulary,
    Writer,
    limits,
    passages,
    portions,
)

LIBRARIES = ("torch", "transformer-lens", "transformers", "tokenizers", "numpy", "duckdb")
DEFAULT_CONTEXT = 256
MOST_WORKERS = 4  # batches in work at once, at most: each holds some hundred MB
BATCH_VALUES = 25_000_000  # that wait in memory for a batch's decomposition, about
SHARD_ROWS = 2_000_000  # kept neuron rows in a shard: what waits in memory for its commit
MERGED_SHARDS = 8  # what these add to a table without an index goes into common groups of rows at once
MOST_CONTEXT = 2**16  # a source's distance has two bytes (schema.sql, source_offset)
LEAST = {"limit_tokens": 1, "keep_neurons": 0, "keep_sources": 0, "top": 1, "samples": 0}
LEAST |= {"batch_tokens": 1, "shard_tokens": 1}
MOST = {"top": 2**16 - 1, "samples": 2**31 - 1}  # what the store's ranks and counts can hold
CURSOR_FIELDS = ("document", "position", "window", "next_window")
CURSOR_COLUMNS = ("next_document", "document_position", "document_window", "next_window")
M_MMAP_THRESHOLD, LARGE = -3, 5 * 2**19  # of malloc.h; half a layer's activations of a batch at pythia-70m
COUNTS = {  # column of base.shard: table it counts
    "positions": "position",
    "contributions": "contribution",
    "heads": "head",
    "head_sources": "head_source",
    "neurons": "neuron",
    "lens": "lens",
}
DOCUMENT = pa.schema(
    [("corpus_id", pa.int32()), ("document_id", pa.int64())]
    + [(name, pa.string()) for name in ("source", "text", "sha256", "metadata")]
)


@dataclass(frozen=True)
class Settings:
    """What is asked of a run; every field changes a stored value, but the last.

    context, stride: None is the default (256 or the model's, whichever is less; the context);
    parse_special: a special token written out in a text is that token; keep_neurons, keep_sources: None
    keeps all, neurons in few bits (ingest.codes); top: length of a list a side; special_in_lists: lists,
    statistics and the sample are of special tokens' positions too; samples: positions whose every
    activation is stored; batch_tokens: most tokens a forward pass reads at once (None: by the values it
    leaves); shard_tokens: about how many positions a transaction writes (None: by the rows they make).
    """

    context: int | None = None
    stride: int | None = None
    bos: bool = False
    parse_special: bool = False
    limit_tokens: int | None = None
    keep_neurons: int | None = 8
    keep_sources: int | None = 24
    top: int = 100
    first_in_lists: bool = False
    special_in_lists: bool = False
    samples: int = 1000
    seed: int = 0
    lens: bool = False
    batch_tokens: int | None = None
    shard_tokens: int | None = None

    def check(self) -> None:
        """What can be told without a model.

        Raises:
            SettingsError: a value that no model or another option does not allow.
        """
        context = DEFAULT_CONTEXT if self.context is None else self.context
        if context < 2:
            raise SettingsError(f"--context {context} leaves nothing to predict. Give 2 or more.")
        if context > MOST_CONTEXT:
            raise SettingsError(
                f"--context {context} is more than the {MOST_CONTEXT:,} positions whose distances the store "
                f"can hold. Give {MOST_CONTEXT} or less."
            )
        new_tokens = context - (1 if self.bos else 0)
        if self.stride is not None and not 1 <= self.stride <= new_tokens:
            raise SettingsError(
                f"--stride {self.stride} must lie between 1 and {new_tokens}, a window's tokens."
            )
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= MOST.get(name, value):
                most = f" and {MOST[name]} or less" if name in MOST else ""
                raise SettingsError(f"--{name.replace('_', '-')} {value} must be {least} or more{most}.")

    def resolved(self, model: Model) -> "Settings":
        """With the defaults filled in from the model, and checked against it.

        To keep as many sources as there are, or more, is to keep all; as many neurons: each in a row.

        Raises:
            SettingsError: a value the model or another option does not allow.
        """
        context = min(DEFAULT_CONTEXT, model.n_ctx) if self.context is None else self.context
        if context > model.n_ctx:
            raise SettingsError(
                f"--context {context} is more than the {model.n_ctx} positions that "
                f"{model.source.name} can read. Give {model.n_ctx} or less."
            )
        replace(self, context=context).check()
        return replace(
            self,
            context=context,
            stride=self.stride or context - (1 if self.bos else 0),
            batch_tokens=self.batch_tokens or _batch_tokens(model, context),
            keep_neurons=self.keep_neurons and min(self.keep_neurons, model.d_mlp),
            keep_sources=_fewer(self.keep_sources, model.n_layers * model.n_heads * context),
        )


def _fewer(kept: int | None, there_are: int) -> int | None:
    return None if kept is None or kept >= there_are else kept


def _batch_tokens(model: Model, context: int) -> int:
    """512, or 256 where several batches' activations and attention would fill memory: no slower there."""
    values = model.n_layers * (model.d_mlp + model.n_heads * context)
    return 512 if 512 * values <= BATCH_VALUES or model.device != "cpu" else 256


def _shard_tokens(model: Model, keep: Keep) -> int:
    """The power of two that keeps a shard's neuron rows near SHARD_ROWS."""
    kept = model.d_mlp if keep.neurons is None else min(model.d_mlp, 2 * keep.neurons + 1)
    kept += model.d_mlp // 19 if keep.coded else 0  # a row waits as 19 bytes, a code as one
    tokens = SHARD_ROWS // (model.n_layers * kept)
    return int(min(65_536, max(1024, 2 ** (max(tokens, 1).bit_length() - 1))))


@dataclass
class Progress:
    """How far a run is, for whoever watches.

    share: of the positions there will be; bytes_written: the file's.
    """

    tokens: int = 0
    share: float = 0.0
    worst_closure: float = 0.0
    shards: int = 0
    bytes_written: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What an ingest did. status: `finished`, `stopped` (go on with the same command) or `nothing
    to do` (the run was finished before). equal_weights: under what other names the store has them."""

    run_id: int
    status: str
    tokens: int
    new_tokens: int
    shards: int
    scan: Scan
    resumed: bool
    differs: str | None
    seconds: dict[str, float]
    equal_weights: str | None = None


def ingest(
    corpus: Corpus,
    model: Model,
    path: str,
    settings: Settings,
    *,
    scan: Scan | None = None,
    fresh: bool = False,
    watch: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Annotate `corpus` with `model` into the store at `path`; resumes an equal, unfinished run.

    scan: `corpus.scan()`, if the caller has made it already; watch is told of progress after each
    batch; stop is asked after each group of batches, and ends the run early with everything so far
    committed.

    Raises:
        AnnotateError: a sentence for whatever a person can put right (see ingest.errors).
    """
    settings = settings.resolved(model)
    _give_memory_back()  # what loading the model left
    with _memory_from_system(), Writer(path) as writer:
        scan = scan or corpus.scan()
        tokenizer = Tokenizer(model.tokenizer, parse_special=settings.parse_special)
        if settings.bos and tokenizer.bos_id is None:
            raise SettingsError(f"{model.source.name} has no BOS token: leave --bos out.")
        provenance = _provenance(corpus, scan, model, tokenizer, settings)
        equal_weights = writer.equal_weights(model.provenance)
        vocabulary = Vocabulary(tokenizer.vocabulary(), tokenizer.special_ids.tolist(), tokenizer.spells)
        begun = writer.begin(provenance, vocabulary, fresh=fresh)
        done = 0 if begun.last_shard is None else int(begun.last_shard["positions"])
        if begun.status == "finished":
            return Report(begun.run_id, "nothing to do", done, 0, 0, scan, False, None, {}, equal_weights)
        differs = _difference(writer, provenance) if begun.status == "new" and not fresh else None
        run = _Run(corpus, scan, model, tokenizer, settings, writer, begun, watch)
        finished = run.go(stop)
        return Report(
            run_id=begun.run_id,
            status="finished" if finished else "stopped",
            tokens=run.progress.tokens,
            new_tokens=run.progress.tokens - done,
            shards=run.progress.shards,
            scan=scan,
            resumed=begun.last_shard is not None,
            differs=differs,
            seconds=run.progress.seconds,
            equal_weights=equal_weights,
        )


def _provenance(
    corpus: Corpus, scan: Scan, model: Model, tokenizer: Tokenizer, settings: Settings
) -> Provenance:
    changes_values = {k: v for k, v in asdict(settings).items() if k != "shard_tokens"}
    device = torch.device(model.device).type
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return Provenance(
        model=model.provenance,
        tokenizer_sha256=tokenizer.sha256,
        corpus={
            "sha256": scan.sha256,
            "documents": scan.documents,
            "characters": scan.characters,
            "sources": list(corpus.sources),
        },
        settings=changes_values | {"dtype": str(model.dtype).removeprefix("torch."), "device": device},
        libraries=libraries | {"python": platform.python_version()},
        processing=PROCESSING,
    )


def _difference(writer: Writer, provenance: Provenance) -> str | None:
    """Why an unfinished run of the same model and corpus is not the one asked for."""
    for run in writer.unfinished():
        same = run["corpus_sha256"] == provenance.corpus["sha256"]
        of_model = any(run[name] == provenance.model[name] for name in ("model", "weights_sha256"))
        if not (same and of_model):
            continue
        then = json.loads(run["settings"]) | json.loads(run["libraries"])
        now = provenance.settings | provenance.libraries
        changed = [f"{k} {then.get(k)} → {v}" for k, v in now.items() if then.get(k) != v]
        if run["weights_sha256"] != provenance.model["weights_sha256"]:
            changed.append(f"revision {run['revision']} → {provenance.model['revision']}")
        return f"run {run['run_id']} is unfinished but differs: {', '.join(changed)}"
    return None


@dataclass(frozen=True)
class _Annotated:
    """A batch's rows by table, and a summary a layer."""

    rows: dict[str, pa.Table]
    summaries: list[LayerSummary]
    closure_ratio: float


@contextmanager
def _workers(device: str) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Threads that annotate batches side by side, and how many.

    On a CPU several batches on a core each beat one batch on all cores; a GPU works on one at a time.
    """
    cores = torch.get_num_threads()  # OMP_NUM_THREADS and the processors allowed count here
    count = min(MOST_WORKERS, cores) if device == "cpu" else 1
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(cores // count,)) as pool:
            yield pool, count
    finally:
        torch.set_num_threads(cores)


class _Run:
    """One run from where it stands to its end."""

    def __init__(
        self,
        corpus: Corpus,
        scan: Scan,
        model: Model,
        tokenizer: Tokenizer,
        settings: Settings,
        writer: Writer,
        begun: Begun,
        watch: Callable[[Progress], None],
    ) -> None:
        self.corpus, self.scan, self.model, self.tokenizer = corpus, scan, model, tokenizer
        self.settings, self.writer, self.begun, self.watch = settings, writer, begun, watch
        assert settings.context and settings.stride and settings.batch_tokens, "resolved settings"
        self.batch_tokens = settings.batch_tokens
        bos = tokenizer.bos_id if settings.bos else None
        self.windowing = Windowing(settings.context, settings.stride, bos)
        coded = settings.keep_neurons is None
        neurons = STRONGEST if settings.keep_neurons is None else settings.keep_neurons
        self.keep = Keep(neurons, settings.keep_sources, settings.lens, coded)
        self.shard_tokens = settings.shard_tokens or _shard_tokens(model, self.keep)
        self.identity = Identity(begun.run_id, begun.first_position_id, begun.first_document_id)
        there = writer.path.exists()
        self.progress = Progress(bytes_written=writer.path.stat().st_size if there else 0)
        with self._timed("counting"):
            self.positions, special = self._count()
        counts_all = settings.special_in_lists
        self.summary = RunSummary(
            model.n_layers,
            model.d_mlp,
            model.n_heads,
            self.positions,
            top=settings.top,
            samples=settings.samples,
            seed=settings.seed,
            first_in_lists=settings.first_in_lists,
            left_out=NONE if counts_all else tokenizer.special_ids,
            unsampled=NONE if counts_all else special,
        )
        self.cursor = Cursor()
        self.shard_number, self.committed = 0, 0  # shards and positions in the store
        self.waiting = deque[Future[list[_Annotated]]]()  # batches in work, in their order
        if begun.last_shard:
            self._resume(begun.last_shard)
        self._new_shard()

    def _resume(self, last: dict[str, Any]) -> None:
        self.shard_number, self.committed = int(last["shard"]) + 1, int(last["positions"])
        self.cursor = Cursor(*(int(last[name]) for name in CURSOR_COLUMNS))
        self.summary.restore(self.writer.fetch, self.begun.run_id, self.identity.position_id)
        self.progress.tokens = self.committed

    def _new_shard(self) -> None:
        self.shard, self.documents = Shard(self.identity, self.committed), list[dict[str, Any]]()
        self.shard_windows, self.shard_positions = 0, 0
        self.worst_closure, self.worst_closure_ratio = 0.0, 0.0
        self.shard_special, self.shard_started = 0, time.monotonic()

    def go(self, stop: Callable[[], bool]) -> bool:
        """Annotate to the end, or until `stop`; True when the run is finished."""
        stopping = False
        with _workers(self.model.device) as (pool, workers):
            for group, cursor in self._groups():
                self._annotate(group, pool, workers)
                self.cursor = cursor
                stopping = stop()
                if stopping or self.shard_positions >= self.shard_tokens:
                    self._commit()
                if stopping:
                    break
            else:
                if self.shard_positions:
                    self._commit()
        if stopping:
            return False
        if self.corpus.scan() != self.scan:
            raise SourceError(
                "The corpus changed while it was being annotated, so the run is left unfinished. "
                "Run the same command again to annotate it as it is now."
            )
        with self._timed("finish"):
            run_id = self.begun.run_id
            lists = self.summary.list_entries(run_id, self.identity.position_id)
            samples = (samples_by_unit(rows, run_id) for rows in self.writer.samples(run_id))
            self.writer.finish(run_id, samples, lists)
        return True

    # corpus → windows → groups

    def _count(self) -> tuple[int, NDArray[np.int64]]:
        """The positions there will be, and the ordinals of special tokens' among them.

        So the sample is known before the first is read.
        """
        limit, positions, special = self.settings.limit_tokens, 0, [NONE]
        for document in self.corpus:
            counted = self.tokenizer.count_special(document.text)
            special.append(positions + self.windowing.special(counted))
            positions += self.windowing.positions(counted.tokens, counted.begins_with_bos)
            if limit and positions >= limit:
                positions = limit
                break
        if positions == 0:
            raise SourceError("The corpus has no tokens to annotate. Give one with text in it.")
        ordinals = np.concatenate(special)
        return positions, ordinals[ordinals < positions]

    def _groups(self) -> Iterator[tuple[list[Window], Cursor]]:
        """Windows by the group, each with the cursor that follows it."""
        room = GROUP_BATCHES * self.batch_tokens
        group, held, cursor = list[Window](), 0, self.cursor
        for window, cursor in self._limited():
            group.append(window)
            held += len(window.ids)
            if held >= room:
                yield group, cursor
                group, held = [], 0
        if group:
            yield group, cursor

    def _limited(self) -> Iterator[tuple[Window, Cursor]]:
        """The windows up to --limit-tokens stored positions."""
        if self.settings.limit_tokens is None:
            yield from self._windows()
            return
        left = self.settings.limit_tokens - self.progress.tokens
        if left <= 0:
            return
        for window, cursor in self._windows():
            n = int(window.stored.sum())
            if n >= left:
                yield cut_to(window, left), cursor
                return
            left -= n
            yield window, cursor

    def _windows(self) -> Iterator[tuple[Window, Cursor]]:
        """Every window from the cursor on, each with the cursor that follows it."""
        at = self.cursor
        for ordinal, document in enumerate(self.corpus):
            if ordinal < at.document:
                continue
            self._note(ordinal, document)
            position, number = at.position, at.window
            for window in self.windowing.windows(self.tokenizer.encode(document.text), at):
                position, number = int(window.positions[-1]) + 1, window.window + 1
                if window.window >= at.next_window:
                    yield window, replace(at, next_window=number)
            at = Cursor(ordinal + 1, position, number)

    def _note(self, ordinal: int, document: Document) -> None:
        """A document's row goes into the shard that first reaches it."""
        self.documents.append(
            {
                "corpus_id": self.begun.corpus_id,
                "document_id": self.begun.first_document_id + ordinal,
                "source": document.source,
                "text": document.text,
                "sha256": hashlib.sha256(document.text.encode()).hexdigest(),
                "metadata": json.dumps(document.metadata, ensure_ascii=False),
            }
        )

    # groups → batches → rows and summaries

    def _annotate(self, group: list[Window], pool: ThreadPoolExecutor, workers: int) -> None:
        """Batches go through the model side by side, and into the shard in their order."""
        self.shard_windows += len(group)
        self.shard_positions += sum(int(window.stored.sum()) for window in group)
        for batch in batches(group, self.batch_tokens):
            thresholds = self.summary.thresholds(self.model.device)
            self.waiting.append(pool.submit(self._annotated, batch, thresholds))
            if len(self.waiting) > workers:
                self._take()

    def _annotated(self, batch: Batch, thresholds: Thresholds) -> list["_Annotated"]:
        """The batch's rows and summaries; where memory does not suffice, its halves'."""
        sampled = self.summary.sample.chosen(batch.positions[batch.stored])
        try:
            result = decompose(self.model, batch, self.keep, thresholds, sampled)
            ratio = _closure_ratio(result, self.model)
            rows = rows_of(result, batch, sampled, self.identity)
            return [_Annotated(rows, [layer.summary for layer in result.layers], ratio)]
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(batch.windows) == 1:
                raise SettingsError(
                    f"One window of {batch.tokens.shape[1]} tokens does not fit into memory. "
                    "Give a smaller --context; what is committed stays."
                ) from error
        return [part for half in batch.halves() for part in self._annotated(half, thresholds)]

    def _take(self) -> None:
        """The batch that was sent off first."""
        with self._timed("waiting for the model"):
            parts = self.waiting.popleft().result()
        for part in parts:
            check_storable(part.rows, limits(), self.model.source.name)
            self.shard.add(part.rows)
            with self._timed("summaries"):
                self.summary.absorb(part.summaries)
            ids = part.rows["position"]["token_id"].to_numpy()
            self.shard_special += int(np.isin(ids, self.tokenizer.special_ids).sum())
            closure = [part.rows["position"][name].to_numpy() for name in ("closure_next", "closure_top")]
            self.worst_closure = max(self.worst_closure, float(np.nanmax(np.abs(closure))))
            self.worst_closure_ratio = max(self.worst_closure_ratio, part.closure_ratio)
            self.progress.tokens += part.rows["position"].num_rows
            self._report()

    def _report(self) -> None:
        self.progress.share = min(1.0, self.progress.tokens / self.positions)
        self.progress.worst_closure = max(self.progress.worst_closure, self.worst_closure)
        self.watch(self.progress)

    # shard → store

    def _commit(self) -> None:
        """Write the shard, and do nothing else: beside batches it took 4 % less time and 300 MB more."""
        while self.waiting:
            self._take()
        _give_memory_back()
        run_id, origin = self.begun.run_id, self.identity.position_id
        candidates = portions(self.summary.list_entries(run_id, origin, self.committed))
        tables: dict[str, Any] = {"top_candidate": (rows for _, rows in candidates)}
        tables |= self.summary.statistics_tables(run_id)
        tables["sample_position"] = self._sampled()
        if self.shard_number == 0:
            tables["layer_bias"] = layer_biases(self.model, self.begun.model_id)
        if self.keep.coded:
            tables |= self._directions()
        tables["document"] = pa.Table.from_pylist(self.documents, schema=DOCUMENT)
        tables["passage"] = passages(self.documents)
        tables["shard"] = pa.Table.from_pylist([self._record()])
        with self._timed("database"):
            # Codes fill their groups; the few rows beyond would have DuckDB write all groups before them anew
            merge = self.shard_number % MERGED_SHARDS == 0 and not self.keep.coded
            self.writer.commit(self.shard.tables() | tables, merge=merge, run_id=run_id)
            if self._is_for_rewriting():
                self.writer.drop_candidates(run_id, self.summary.list_entries(run_id, origin))
        _give_memory_back()
        self.progress.shards += 1
        self.progress.bytes_written = self.writer.path.stat().st_size
        self.committed, self.shard_number = self.progress.tokens, self.shard_number + 1
        self._new_shard()

    def _directions(self) -> dict[str, Any]:
        """What the effects of coded neurons are computed from."""
        model, model_id = self.model, self.begun.model_id
        of_neurons = (
            {"neuron_direction": neuron_directions(model, model_id)} if self.shard_number == 0 else {}
        )
        return of_neurons | {"token_direction": token_directions(model, model_id, self.shard.targets())}

    def _is_for_rewriting(self) -> bool:
        """After shards 4, 16, 64 … lists are written whole: of older entries few still count."""
        return self.shard_number in (4**i for i in range(1, 16))

    def _sampled(self) -> pa.Table:
        """The shard's part of the sample."""
        ordinals = self.summary.sample.ordinals
        reached = ordinals[(ordinals >= self.committed) & (ordinals < self.progress.tokens)]
        position_ids = reached + self.identity.position_id
        run_id = np.full(len(position_ids), self.begun.run_id, dtype=np.int32)
        return pa.table({"run_id": run_id, "position_id": position_ids})

    def _record(self) -> dict[str, Any]:
        counts = {column: self.shard.count(table) for column, table in COUNTS.items()}
        cursor = (getattr(self.cursor, name) for name in CURSOR_FIELDS)
        return {
            "run_id": self.begun.run_id,
            "shard": self.shard_number,
            "first_position_id": self.identity.position_id + self.committed,
            "last_position_id": self.identity.position_id + self.progress.tokens - 1,
            "windows": self.shard_windows,
            "special_positions": self.shard_special,
            **counts,
            "worst_closure": self.worst_closure,
            "worst_closure_ratio": self.worst_closure_ratio,
            **dict(zip(CURSOR_COLUMNS, cursor, strict=True)),
            "seconds": time.monotonic() - self.shard_started,
        }

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.progress.seconds[stage] = self.progress.seconds.get(stage, 0.0) + spent


def _closure_ratio(result: Decomposition, model: Model) -> float:
    """Return the largest closure error of a batch as a fraction of its bound.

    Raises:
        ModelError: it is more than rounding explains, so the terms do not make up the logit.
    """
    ratio = result.closure.abs() / closure_bound(len(result.contributions), result.size.double())
    worst = float(ratio.max())
    if not worst <= 1:
        off = float(result.closure.abs().max())
        raise ModelError(
            f"The terms of a prediction of {model.source.name} are {off:.1e} logits off its logit, "
            f"{worst:,.1f} times what rounding explains, so they are not stored. "
            "Give another model, or --dtype float64; what is committed stays."
        )
    return worst


@contextmanager
def _memory_from_system() -> Iterator[None]:
    """What is freed goes back to the system: Arrow's own memory would keep it, and so would glibc's.

    Of LARGE bytes or more glibc is to map each array by itself: between others a batch's leave holes, 200 MB.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def _give_memory_back() -> None:
    """What the batches freed, and the C library keeps for the next ones, is half of all there is (glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


# PyTorch's allocator, oneDNN (which says no more than that) and the system's own words
OUT_OF_MEMORY = ("can't allocate memory", "could not create a primitive", "Cannot allocate memory")


def _is_out_of_memory(error: BaseException) -> bool:
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or any(sign in str(error) for sign in OUT_OF_MEMORY)
