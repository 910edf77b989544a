"""Store all neurons of a layer in five bits each (--keep-neurons all).

The strongest neurons are stored exactly, as by default. The activation of any other neuron is rounded to one
of LEVELS even steps between the min and max of the PART neurons around it, at that position and layer. Its
effect, activation · ⟨W_out, u⟩/σ, is computed from the rounded activation and from vectors stored once
(schema.sql, base.neuron_direction and base.token_direction), and has the same relative error. The sum of
these errors goes to the layer's remainder.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from annotate_transformer.ingest.attribution.selection import Neurons
from annotate_transformer.store.layout import CODE_OF_KEPT, NEURONS_A_PART

STRONGEST = 8  # neurons kept exactly, by |activation| and by |effect| on either target, as by default
KEPT = CODE_OF_KEPT  # code of a neuron that is kept exactly
LEVELS = KEPT  # codes 0 … 30
PART = NEURONS_A_PART  # neurons per stored row: a shard then fills about one row group of DuckDB
LOW_DECIMALS, STEP_DECIMALS = 3, 4


@dataclass(frozen=True)
class Coded:
    """The coded neurons of one layer at P positions; an activation is low + step · code, within step / 2.

    low, step (P, part): rounded so that they cover all values; codes (P, d_mlp): uint8, KEPT for neurons kept
    exactly; effect (2, P): sum of the stored effects of the coded neurons.
    """

    low: Tensor
    step: Tensor
    codes: Tensor
    effect: Tensor

    @staticmethod
    def of(post: Tensor, read: list[Tensor], strongest: Neurons) -> "Coded":
        """Code activations post (P, d_mlp); read: ⟨W_out, u⟩/σ (P, d_mlp) for each of the two targets."""
        kept = torch.zeros_like(post, dtype=torch.bool)
        kept[strongest.at, strongest.neuron] = True
        low, step = _scale(post, kept)
        low_of, step_of = (x.repeat_interleave(PART, dim=1)[:, : post.shape[1]] for x in (low, step))
        codes = ((post - low_of) / step_of).round().clamp(0, LEVELS - 1)
        stored = (low_of + step_of * codes).masked_fill(kept, 0)
        effect = torch.stack([(stored * side).sum(1) for side in read])
        return Coded(low, step, codes.to(torch.uint8).masked_fill(kept, KEPT), effect)


def _scale(post: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return min and step of each part (P, part), over the neurons that are not kept exactly."""
    parts = list(zip(post.split(PART, dim=1), kept.split(PART, dim=1), strict=True))
    low = torch.stack([x.masked_fill(of_rows, torch.inf).amin(1) for x, of_rows in parts], dim=1)
    high = torch.stack([x.masked_fill(of_rows, -torch.inf).amax(1) for x, of_rows in parts], dim=1)
    low, high = (torch.where(low > high, 0, end) for end in (low, high))  # if all are kept exactly
    low = (low * 10**LOW_DECIMALS).floor() / 10**LOW_DECIMALS
    steps = ((high - low) / (LEVELS - 1) * 10**STEP_DECIMALS).ceil().clamp(min=1)
    return low, steps / 10**STEP_DECIMALS
