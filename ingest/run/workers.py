"""Annotate several batches at the same time, and return their results in order."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from annotate_transformer.ingest.attribution.decompose import Decomposition, decompose
from annotate_transformer.ingest.attribution.selection import Keep
from annotate_transformer.ingest.attribution.summaries import LayerSummary, Thresholds
from annotate_transformer.ingest.corpus.windows import Batch
from annotate_transformer.ingest.errors import ModelError, SettingsError
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.run.memory import is_out_of_memory
from annotate_transformer.ingest.run.rows import Identity, rows_of
from annotate_transformer.store.closure import closure_bound

MOST_WORKERS = 4  # maximum number of batches annotated at the same time; each takes hundreds of MB


@dataclass(frozen=True)
class Annotated:
    """The results of one batch: rows by table, and one summary per layer.

    `closure_ratio`: largest closure error |sum of terms − logit|, relative to the error that rounding
    explains.
    """

    rows: dict[str, pa.Table]
    summaries: list[LayerSummary]
    closure_ratio: float


@dataclass(frozen=True)
class Annotator:
    """A callable that annotates a batch.

    `chosen`: function that tells which positions are in the sample.
    """

    model: Model
    keep: Keep
    identity: Identity
    chosen: Callable[[NDArray[np.int64]], NDArray[np.bool_]]

    def __call__(self, batch: Batch, thresholds: Thresholds) -> list[Annotated]:
        """Return the results of the batch; if memory is exhausted, annotate it in two halves."""
        sampled = self.chosen(batch.positions[batch.stored])
        try:
            result = decompose(self.model, batch, self.keep, thresholds, sampled)
            ratio = _closure_ratio(result, self.model)
            rows = rows_of(result, batch, sampled, self.identity)
            return [Annotated(rows, [layer.summary for layer in result.layers], ratio)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch.windows) == 1:
                raise SettingsError(
                    f"One window of {batch.tokens.shape[1]} tokens does not fit into memory. "
                    "Give a smaller --context; committed shards stay."
                ) from error
        return [part for half in batch.halves() for part in self(half, thresholds)]


class Workers:
    """Threads that annotate batches; results are taken in the order in which batches were submitted."""

    def __init__(self, annotate: Annotator, pool: ThreadPoolExecutor, count: int) -> None:
        self._annotate, self._pool, self._count = annotate, pool, count
        self._waiting = deque[Future[list[Annotated]]]()

    def submit(self, batch: Batch, thresholds: Thresholds) -> None:
        self._waiting.append(self._pool.submit(self._annotate, batch, thresholds))

    def __len__(self) -> int:
        """Return the number of submitted batches whose results were not yet taken."""
        return len(self._waiting)

    @property
    def are_busy(self) -> bool:
        return len(self) > self._count

    def take(self) -> list[Annotated]:
        """Wait for the oldest batch, and return its results."""
        return self._waiting.popleft().result()


@contextmanager
def workers_for(annotate: Annotator) -> Iterator[Workers]:
    """Context manager: start one thread per core, at most MOST_WORKERS, or one thread for a GPU.

    On a CPU, one batch per core is faster than one batch on all cores; a GPU gets one batch at a time.
    """
    cores = torch.get_num_threads()  # all cores, unless OMP_NUM_THREADS or the CPU affinity allows fewer
    count = min(MOST_WORKERS, cores) if annotate.model.device == "cpu" else 1
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(cores // count,)) as pool:
            yield Workers(annotate, pool, count)
    finally:
        torch.set_num_threads(cores)


def _closure_ratio(result: Decomposition, model: Model) -> float:
    """Return a batch's largest closure error, relative to the error that rounding explains.

    Raises:
        ModelError: the error exceeds what rounding explains, so the terms do not sum to the logit.
    """
    ratio = result.closure.abs() / closure_bound(len(result.contributions), result.size.double())
    worst = float(ratio.max())
    if not worst <= 1:
        off = float(result.closure.abs().max())
        raise ModelError(
            f"The terms of a prediction of {model.checkpoint.name} differ from its logit by {off:.1e} "
            f"logits, {worst:,.1f} times what rounding explains, so they are not stored. "
            "Give another model, or --dtype float64; committed shards stay."
        )
    return worst
