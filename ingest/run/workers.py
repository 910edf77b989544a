"""Batches in work side by side: through the model, into rows and summaries, back in their order."""

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

MOST_WORKERS = 4  # batches in work at once, at most: each holds some hundred MB


@dataclass(frozen=True)
class Annotated:
    """A batch's rows by table, a summary of each layer, and its largest closure error ÷ its bound."""

    rows: dict[str, pa.Table]
    summaries: list[LayerSummary]
    closure_ratio: float


@dataclass(frozen=True)
class Annotator:
    """What a batch is annotated with; chosen: which of these ordinals of positions are sampled."""

    model: Model
    keep: Keep
    identity: Identity
    chosen: Callable[[NDArray[np.int64]], NDArray[np.bool_]]

    def __call__(self, batch: Batch, thresholds: Thresholds) -> list[Annotated]:
        """Return the batch's rows and summaries; those of its halves where memory does not suffice."""
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
                    "Give a smaller --context; what is committed stays."
                ) from error
        return [part for half in batch.halves() for part in self(half, thresholds)]


class Workers:
    """Threads that annotate batches side by side; what they made is taken in the order of the batches."""

    def __init__(self, annotate: Annotator, pool: ThreadPoolExecutor, count: int) -> None:
        self._annotate, self._pool, self._count = annotate, pool, count
        self._waiting = deque[Future[list[Annotated]]]()

    def submit(self, batch: Batch, thresholds: Thresholds) -> None:
        self._waiting.append(self._pool.submit(self._annotate, batch, thresholds))

    def __len__(self) -> int:
        """Batches that were submitted and not taken."""
        return len(self._waiting)

    @property
    def are_busy(self) -> bool:
        return len(self) > self._count

    def take(self) -> list[Annotated]:
        """Wait for the batch that was submitted first."""
        return self._waiting.popleft().result()


@contextmanager
def workers_for(annotate: Annotator) -> Iterator[Workers]:
    """Start the workers, as many as the processor has cores for.

    On a CPU several batches on a core each beat one batch on all cores; a GPU works on one at a time.
    """
    cores = torch.get_num_threads()  # OMP_NUM_THREADS and the processors allowed count here
    count = min(MOST_WORKERS, cores) if annotate.model.device == "cpu" else 1
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(cores // count,)) as pool:
            yield Workers(annotate, pool, count)
    finally:
        torch.set_num_threads(cores)


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
            f"The terms of a prediction of {model.checkpoint.name} are {off:.1e} logits off its logit, "
            f"{worst:,.1f} times what rounding explains, so they are not stored. "
            "Give another model, or --dtype float64; what is committed stays."
        )
    return worst
