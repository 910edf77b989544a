"""The positions of a batch that are stored, and values as the store gives them back."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from annotate_transformer.ingest.corpus.windows import Batch

TERM_STEP = 2.0**-23  # of all other terms, as schema.sql's base.units has it


def as_stored(terms: Tensor) -> Tensor:
    """Contributions, or heads' effects, as the store gives them back: float32, in whole steps."""
    return torch.round(terms.float() / TERM_STEP) * TERM_STEP


@dataclass(frozen=True)
class Stored:
    """The positions of a batch that are stored, P of them, and where they lie in it.

    row, column (P,): window and position within the batch, in this order; flat: both in one;
    next_ids: -1 where nothing follows; counted: lists and statistics are of these, which `all_counted`
    says are all.
    """

    mask: Tensor
    flat: Tensor
    row: Tensor
    column: Tensor
    tokens: Tensor
    next_ids: Tensor
    position_ids: Tensor
    counted: Tensor
    all_counted: bool

    @staticmethod
    def of(batch: Batch, device: str, left_out: NDArray[np.int64] | None = None) -> "Stored":
        """left_out: ids of the tokens whose positions are not counted."""

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device)

        mask = tensor(batch.stored)
        row, column = mask.nonzero(as_tuple=True)
        flat = row * mask.shape[1] + column
        tokens, next_ids, positions = (
            tensor(array)[mask] for array in (batch.tokens, batch.next_ids, batch.positions)
        )
        counted = np.isin(batch.tokens[batch.stored], [] if left_out is None else left_out, invert=True)
        every = bool(counted.all())
        return Stored(mask, flat, row, column, tokens, next_ids, positions, tensor(counted), every)

    def pick(self, tensor: Tensor) -> Tensor:
        """(window, position, …) → (P, …)"""
        every = tensor.flatten(0, 1)
        return every if len(every) == len(self.flat) else every.index_select(0, self.flat)

    def counted_rows(self, values: Tensor) -> Tensor:
        """Of (P, …) the rows of the counted positions."""
        return values if self.all_counted else values[self.counted]

    @property
    def has_next(self) -> Tensor:
        return self.next_ids >= 0
