"""Select the positions of a batch that are stored, and round terms to the values that the store returns."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from annotate_transformer.ingest.corpus.windows import Batch

# TERM_STEP: terms are stored as multiples of this number of logits (schema.sql, base.units), except the terms
# of single neurons and of single sources.
TERM_STEP = 2.0**-23


def as_stored(terms: Tensor) -> Tensor:
    """Round terms to the values that the store returns: float32, in whole steps of 2^-23 logits."""
    return torch.round(terms.float() / TERM_STEP) * TERM_STEP


@dataclass(frozen=True)
class Stored:
    """The P stored positions of a batch, and their indices in the batch.

    `row`, `column`, of shape (P,): index of the window, and of the position in the window, ascending;
    `flat`, of shape (P,): row · positions + column;
    `next_ids`, of shape (P,): ids of the next tokens, or -1 where there is no next token;
    `counted`, of shape (P,): whether lists and statistics include the position;
    `all_counted`: whether lists and statistics include all positions.
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
        """Return a batch's stored positions; `left_out` has the ids of tokens that statistics exclude."""

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
        """Select the stored positions of a tensor, from shape (window, position, …) to shape (P, …)."""
        every = tensor.flatten(0, 1)
        return every if len(every) == len(self.flat) else every.index_select(0, self.flat)

    def counted_rows(self, values: Tensor) -> Tensor:
        """Select the positions that top lists and statistics include, from a tensor of shape (P, …)."""
        return values if self.all_counted else values[self.counted]

    @property
    def has_next(self) -> Tensor:
        return self.next_ids >= 0
