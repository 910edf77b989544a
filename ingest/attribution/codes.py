"""Store the activation of every neuron of a layer in five bits (--keep-neurons all).

The strongest neurons are stored exactly, as by default. The other neurons of a layer are divided into groups
of PART neurons. At each position, an activation is rounded to one of LEVELS evenly spaced values between the
min and max of its group. The neuron's effect, activation · ⟨W_out, u⟩/σ, is computed from the rounded
activation and from vectors stored once (schema.sql, base.neuron_direction and base.token_direction). The
effect has the same relative error as the activation. The sum of the effects' errors is added to the layer's
remainder.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from annotate_transformer.ingest.attribution.selection import Neurons
from annotate_transformer.store.layout import CODE_OF_KEPT, NEURONS_A_PART

# With --keep-neurons all, these neurons of a layer are stored exactly at a position: the STRONGEST neurons
# with the largest |activation|, as many with the largest |effect| on the next token, and as many with the
# largest |effect| on the top prediction. All others are rounded.
STRONGEST = 8
KEPT = CODE_OF_KEPT  # the code that marks a neuron as stored exactly, in a row of its own
LEVELS = KEPT  # number of values to which an activation is rounded; their codes are 0 … 30, below KEPT
PART = NEURONS_A_PART  # a row holds the codes of so many neurons that a shard fills about one row group
LOW_DECIMALS, STEP_DECIMALS = 3, 4


@dataclass(frozen=True)
class Coded:
    """A layer's activations at P positions, each rounded to `low` + `step` · code and stored as the code.

    `low`, `step`, of shape (P, part): one value per group of PART neurons, rounded so that the codes cover
    all activations;
    `codes`, uint8 of shape (P, d_mlp): KEPT for neurons that are stored exactly;
    `effect`, of shape (2, P): sum, computed from the codes, of the coded neurons' effects on each target.
    """

    low: Tensor
    step: Tensor
    codes: Tensor
    effect: Tensor

    @staticmethod
    def of(post: Tensor, read: list[Tensor], strongest: Neurons) -> "Coded":
        """Encode the activations `post` of one layer, except those of the strongest neurons.

        `read` holds ⟨W_out, u⟩/σ for each of the two targets. `post` and the tensors in `read` have the shape
        (P, d_mlp).
        """
        kept = torch.zeros_like(post, dtype=torch.bool)
        kept[strongest.at, strongest.neuron] = True
        low, step = _scale(post, kept)
        low_of, step_of = (x.repeat_interleave(PART, dim=1)[:, : post.shape[1]] for x in (low, step))
        codes = ((post - low_of) / step_of).round().clamp(0, LEVELS - 1)
        stored = (low_of + step_of * codes).masked_fill(kept, 0)
        effect = torch.stack([(stored * side).sum(1) for side in read])
        return Coded(low, step, codes.to(torch.uint8).masked_fill(kept, KEPT), effect)


def _scale(post: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each group of PART neurons, the min of the coded activations and the quantisation step.

    Neurons that are stored exactly are left out. Both results have the shape (P, part).
    """
    parts = list(zip(post.split(PART, dim=1), kept.split(PART, dim=1), strict=True))
    low = torch.stack([x.masked_fill(of_rows, torch.inf).amin(1) for x, of_rows in parts], dim=1)
    high = torch.stack([x.masked_fill(of_rows, -torch.inf).amax(1) for x, of_rows in parts], dim=1)
    # If all neurons of a group are stored exactly, the group has no activation to round. Then `low` is +inf
    # and `high` is -inf, so set both to 0.
    low, high = (torch.where(low > high, 0, end) for end in (low, high))
    low = (low * 10**LOW_DECIMALS).floor() / 10**LOW_DECIMALS
    steps = ((high - low) / (LEVELS - 1) * 10**STEP_DECIMALS).ceil().clamp(min=1)
    return low, steps / 10**STEP_DECIMALS
