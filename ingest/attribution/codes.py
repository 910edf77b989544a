"""All neurons of a layer in five bits each: --keep-neurons all.

The strongest are kept as by default; of the others an activation is one of LEVELS even steps between the
smallest and largest of its PART neurons, at that position and layer. An effect is activation · ⟨W_out, u⟩/σ,
and what does not depend on the position is stored once (schema.sql, base.neuron_direction and
base.token_direction), so it is wrong by the same share as the activation; what that takes from the layer's
sum goes to its remainder.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from annotate_transformer.ingest.attribution.selection import Neurons
from annotate_transformer.store.layout import CODE_OF_KEPT, NEURONS_A_PART

STRONGEST = 8  # kept exactly, by |activation| and by |effect| on either target: the default's
KEPT = CODE_OF_KEPT  # the code of a neuron that is kept exactly
LEVELS = KEPT  # codes 0 … 30
PART = NEURONS_A_PART  # neurons in a row: so a shard fills about one of DuckDB's groups of rows
LOW_DECIMALS, STEP_DECIMALS = 3, 4


@dataclass(frozen=True)
class Coded:
    """One layer at P positions; an activation is low + step · code, within step / 2.

    low, step (P, part), rounded so that all lie between; codes (P, d_mlp), uint8; kept: those with the code
    KEPT; effect (2, P): the sum of the coded ones' effects as they are stored.
    """

    low: Tensor
    step: Tensor
    codes: Tensor
    effect: Tensor

    @staticmethod
    def of(post: Tensor, read: list[Tensor], strongest: Neurons) -> "Coded":
        """post (P, d_mlp): activations; read, each side's (P, d_mlp): ⟨W_out, u⟩/σ."""
        kept = torch.zeros_like(post, dtype=torch.bool)
        kept[strongest.at, strongest.neuron] = True
        low, step = _scale(post, kept)
        low_of, step_of = (x.repeat_interleave(PART, dim=1)[:, : post.shape[1]] for x in (low, step))
        codes = ((post - low_of) / step_of).round().clamp(0, LEVELS - 1)
        stored = (low_of + step_of * codes).masked_fill(kept, 0)
        effect = torch.stack([(stored * side).sum(1) for side in read])
        return Coded(low, step, codes.to(torch.uint8).masked_fill(kept, KEPT), effect)


def _scale(post: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Of each part the least and a step that leads to the largest, (P, part), of those not kept."""
    parts = list(zip(post.split(PART, dim=1), kept.split(PART, dim=1), strict=True))
    low = torch.stack([x.masked_fill(of_rows, torch.inf).amin(1) for x, of_rows in parts], dim=1)
    high = torch.stack([x.masked_fill(of_rows, -torch.inf).amax(1) for x, of_rows in parts], dim=1)
    low, high = (torch.where(low > high, 0, end) for end in (low, high))  # all are kept
    low = (low * 10**LOW_DECIMALS).floor() / 10**LOW_DECIMALS
    steps = ((high - low) / (LEVELS - 1) * 10**STEP_DECIMALS).ceil().clamp(min=1)
    return low, steps / 10**STEP_DECIMALS
