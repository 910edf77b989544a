"""Summarise a batch for the top lists and statistics of the run, which are exact over all positions.

All activations are included while they are in memory, whether or not they are stored.

1. This module computes, on the device, partial sums and the candidates for the top lists: values that reach
   the current threshold of their list (`Thresholds`). Once a list is full, few values reach it.
2. `run.run_summary` adds sums and candidates, on the host, to the running sums and lists.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from annotate_transformer.ingest.attribution.behaviours import AttentionSums
from annotate_transformer.ingest.attribution.steps import A_SQUARE, A_VALUE, in_steps
from annotate_transformer.ingest.attribution.stored import Stored

# The edges of the histograms' bins are 0, ±2^e and ±1.5·2^e for e = -5 … 5. A value on an edge is counted in
# the bin farther from zero, and 0 in the bin above 0. The first and the last bin have no outer edge.
LOWEST_EXPONENT, HIGHEST_EXPONENT = -5, 5
MAGNITUDES = 2 * (HIGHEST_EXPONENT - LOWEST_EXPONENT + 1)
BINS = 2 * (MAGNITUDES + 1)
# Indices of the top lists of a neuron or head: the list of its highest values (HIGH), of its lowest values
# (LOW), and of its maximum in each window (WINDOWS), which only neurons have.
HIGH, LOW, WINDOWS = 0, 1, 2


@dataclass(frozen=True)
class Candidates:
    """Values that may enter a top list, as flat arrays with one entry per value.

    Types are as small as possible, because nearly half of all values in a run's first batches are candidates:
    unit (uint16), value (float32), position (int32, or int64 beyond its range).
    """

    unit: NDArray[np.uint16]
    value: NDArray[np.float32]
    position: NDArray[np.integer[Any]]

    @staticmethod
    def of(unit: Tensor, value: Tensor, position: Tensor) -> "Candidates":
        """Build candidates from tensors on any device; `unit` and `position` may have any integer type."""
        few = position.numel() == 0 or int(position.max()) < 2**31
        return Candidates(
            unit.cpu().numpy().astype(np.uint16),
            value.float().cpu().numpy(),
            position.to(torch.int32 if few else torch.int64).cpu().numpy(),
        )


@dataclass(frozen=True)
class Sums:
    """Sums over the positions of a batch, as tensors with one entry for each neuron or head of a layer.

    `total`, `squares`, `effect` and `effect_abs` are int64, in whole steps (`in_steps`), so that the order in
    which positions are added does not change them. A step is 2^-26 for values and effects, 2^-20 for squares.
    `count`: number of positions with a value; `effect_count`: number of positions with an effect;
    `histogram` has the shape (unit, BINS).
    """

    count: Tensor
    total: Tensor
    squares: Tensor
    minimum: Tensor
    maximum: Tensor
    positive: Tensor
    histogram: Tensor
    effect_count: Tensor
    effect: Tensor
    effect_abs: Tensor


@dataclass(frozen=True)
class UnitSummary:
    sums: Sums
    lists: list[Candidates]
    attention: AttentionSums | None = None


@dataclass(frozen=True)
class LayerSummary:
    neurons: UnitSummary
    heads: UnitSummary


@dataclass(frozen=True)
class LayerThresholds:
    """The smallest values that enter the top lists of one layer's neurons and heads.

    `neurons`, of shape (3, neuron): the thresholds of the three lists of each neuron;
    `heads`, of shape (2, head): the thresholds of the two lists of each head.
    """

    neurons: Tensor
    heads: Tensor
    k: int
    include_first: bool


@dataclass(frozen=True)
class Thresholds:
    """The smallest values that enter the top lists of all neurons and heads.

    `left_out`: ids of the tokens that lists and sums exclude.
    """

    neurons: Tensor  # shape (3, layer, d_mlp); the first axis is HIGH, LOW and WINDOWS
    heads: Tensor  # shape (2, layer, head): thresholds of the 2 top lists of each head
    k: int
    include_first: bool = False
    left_out: NDArray[np.int64] | None = None

    def layer(self, i: int) -> LayerThresholds:
        return LayerThresholds(self.neurons[:, i], self.heads[:, i], self.k, self.include_first)


def summarize_neurons(
    post: Tensor, effect: Tensor, effect_size: Tensor, stored: Stored, thresholds: LayerThresholds
) -> UnitSummary:
    """Compute the sums of a layer's neurons, and the candidates for the neurons' top lists.

    `post`, of shape (P, d_mlp): activations;
    `effect`, `effect_size`, of the same shape: effects on the next token, and their absolute values.
    """
    post = post.float() + 0.0  # turns -0.0 into 0.0, so that lists and histograms have one zero
    eligible = eligible_for_lists(stored, thresholds)
    following = stored.has_next & stored.counted
    steps, steps_abs = (in_steps(x[following], A_VALUE).sum(0) for x in (effect, effect_size))
    return UnitSummary(
        sums=_sums(stored.counted_rows(post), steps, steps_abs, int(following.sum())),
        lists=[
            _reaching(post, 1, eligible, stored, thresholds.neurons[HIGH], thresholds.k),
            _reaching(post, -1, eligible, stored, thresholds.neurons[LOW], thresholds.k),
            _window_maxima(post, eligible, stored, thresholds.neurons[WINDOWS]),
        ],
    )


def summarize_heads(
    effect: Tensor, attention: AttentionSums, stored: Stored, thresholds: LayerThresholds
) -> UnitSummary:
    """Compute the sums of a layer's heads, and the candidates for the heads' top lists.

    `effect`, of shape (P, head): direct effects on the next token as stored, in multiples of 2^-23 logits.
    """
    has_next = stored.has_next
    effect = effect.float() + 0.0
    eligible = eligible_for_lists(stored, thresholds) & has_next
    counted = effect[has_next & stored.counted]
    steps = in_steps(counted, A_VALUE)
    return UnitSummary(
        sums=_sums(counted, steps.sum(0), steps.abs().sum(0), len(counted)),
        lists=[
            _reaching(effect, 1, eligible, stored, thresholds.heads[HIGH], thresholds.k),
            _reaching(effect, -1, eligible, stored, thresholds.heads[LOW], thresholds.k),
        ],
        attention=attention,
    )


def eligible_for_lists(stored: Stored, thresholds: LayerThresholds) -> Tensor:
    """Return which positions may enter top lists: all except special tokens and the first of each window.

    The first positions may enter if `include_first` is set. The positions left out are attention sinks.
    """
    return ((stored.column > 0) | thresholds.include_first) & stored.counted


def _sums(values: Tensor, effect: Tensor, effect_abs: Tensor, effect_count: int) -> Sums:
    """Return sums, extremes and histograms of `values` over positions.

    `values` has the shape (P, unit). `effect` and `effect_abs`, of shape (unit,), are already sums, in steps.
    """
    units, ones = values.shape[1], values.new_ones(len(values))

    def extreme(name: str, empty: float) -> Tensor:
        found: Tensor = getattr(values, name)(0) if len(values) else ones.new_full((units,), empty)
        return found.cpu()

    return Sums(
        count=torch.full((units,), len(values)),
        total=in_steps(values, A_VALUE).sum(0).long().cpu(),
        squares=in_steps(values.double() ** 2, A_SQUARE).sum(0).long().cpu(),
        minimum=extreme("amin", torch.inf),
        maximum=extreme("amax", -torch.inf),
        positive=(ones @ values.clamp(min=0).sign_()).long().cpu(),
        histogram=_histogram(values).cpu(),
        effect_count=torch.full((units,), effect_count),
        effect=effect.long().cpu(),
        effect_abs=effect_abs.long().cpu(),
    )


def _histogram(values: Tensor) -> Tensor:
    """Return a histogram of the values of each neuron or head.

    `values` has the shape (P, unit), and the result the shape (unit, BINS). The first ten bits of a float32
    (sign, exponent, first bit of the mantissa) give the number's half-octave, and thus the number's bin.
    """
    units, device = values.shape[1], values.device
    # Read the first ten bits of each value as a signed integer, and add 512. The result is 0 … 511 for a
    # negative value and 512 … 1023 for any other value.
    codes = (values.contiguous().view(torch.int32) >> 22).add_(512)
    bins = _bin_of_code().to(device).index_select(0, codes.flatten()).view(codes.shape)
    bins.add_(torch.arange(0, units * BINS, BINS, dtype=torch.int32, device=device))
    return torch.bincount(bins.flatten(), minlength=units * BINS).view(units, BINS)


@cache
def _bin_of_code() -> Tensor:
    """Return the histogram bin of a float32 for each of the 1024 values that its first ten bits may have."""
    half_octave = torch.arange(512, dtype=torch.int32) - (2 * (127 + LOWEST_EXPONENT) - 1)
    magnitude = half_octave.clamp(0, MAGNITUDES)
    return torch.cat([MAGNITUDES - magnitude, MAGNITUDES + 1 + magnitude])


def _reaching(
    values: Tensor, sign: int, eligible: Tensor, stored: Stored, threshold: Tensor, k: int
) -> Candidates:
    """Return the values for which value · `sign` reaches the threshold of the neuron's or head's top list.

    `values` has the shape (P, unit), where a unit is a neuron or a head.
    """
    threshold = entry_threshold(values, sign, eligible, threshold, k)
    reached = values >= threshold if sign > 0 else values <= -threshold
    at, unit = reached.nonzero(as_tuple=True)
    kept = eligible[at]
    at, unit = at[kept], unit[kept]
    return Candidates.of(unit, values[at, unit], stored.position_ids[at])


def entry_threshold(values: Tensor, sign: int, eligible: Tensor, threshold: Tensor, k: int) -> Tensor:
    """Return, for each top list, the threshold that a value of a batch must reach to enter the list.

    While a list is not full, this is at least the k-th largest value of the batch.
    """
    if bool(torch.isinf(threshold).any()) and int(eligible.sum()) > k:
        best = (sign * values[eligible].T).topk(k, dim=1).values[:, -1]
        return torch.maximum(threshold, best)
    return threshold


def _window_maxima(values: Tensor, eligible: Tensor, stored: Stored, threshold: Tensor) -> Candidates:
    """Return each neuron's maximum in each window if it reaches the threshold; of equal maxima, the first."""
    lengths = torch.unique_consecutive(stored.row, return_counts=True)[1].tolist()
    windows = zip(*(part.split(lengths) for part in (values, eligible, stored.position_ids)), strict=True)
    found = []
    for of_window, listed, positions in windows:
        # Usually all positions of the window are eligible, or all but its first. Then select them with a
        # slice, which does not copy the values.
        kept = slice(0 if bool(listed[0]) else 1, None) if bool(listed[1:].all()) else listed
        if len(positions[kept]):
            found.append(_maxima_of_one(of_window[kept], positions[kept], threshold))
    if not found:
        return Candidates.of(*(torch.empty(0, dtype=t) for t in (torch.long, torch.float32, torch.long)))
    return Candidates.of(*(torch.cat(part) for part in zip(*found, strict=True)))


def _maxima_of_one(values: Tensor, positions: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    maxima = values.amax(0)
    unit = (maxima >= threshold).nonzero().squeeze(1)
    # If several positions have the maximum, take the earliest of them. It has the largest value in
    # `before_end`.
    before_end = torch.arange(len(values), 0, -1, dtype=values.dtype, device=values.device)
    # If few units reach their thresholds, selecting the columns of these units first is faster.
    few = len(unit) < values.shape[1] // 4
    column = values[:, unit] if few else values
    place = (column == column.amax(0)).to(values.dtype).mul_(before_end[:, None]).amax(0)
    first = len(values) - (place if few else place[unit]).long()
    return unit.cpu(), maxima[unit].cpu(), positions[first].cpu()
