"""Exact over every position of a run, whatever rows are kept: top lists, statistics, samples.

Taken from all activations while they are in memory, a batch at a time.

1. Here, on the device: partial sums, and the few candidates that reach a list's present threshold
   (`Thresholds`); a list once full lets almost nothing through.
2. In `ingest.run_summary`, on the host: the running totals and lists that absorb them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ingest.decompose import Stored, _Repeats

# Histogram edges: 0 and ±2^e, ±1.5·2^e for e = -5 … 5. A value on an edge goes to the bin farther
# from zero. The first and last bins are open-ended.
LOWEST_EXPONENT, HIGHEST_EXPONENT = -5, 5
MAGNITUDES = 2 * (HIGHEST_EXPONENT - LOWEST_EXPONENT + 1)
BINS = 2 * (MAGNITUDES + 1)
HIGH, LOW, WINDOWS = 0, 1, 2  # kinds of list a unit has; heads have no list of windows


@dataclass(frozen=True)
class Candidates:
    """Values that may enter a list: flat arrays, one entry a candidate."""

    unit: Tensor
    value: Tensor
    position: Tensor


@dataclass(frozen=True)
class Sums:
    """Partial sums over P positions for each of a layer's units, float64 or int64 of shape (unit,).

    `count` (unit,) positions have a value, `effect_count` an effect; histogram (unit, BINS).
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
    effect_squares: Tensor


@dataclass(frozen=True)
class AttentionSums:
    """Sums of attention and how many positions each is over: (behaviour, head) and (behaviour,).

    Behaviours: self, previous, first, entropy (over positions after a window's first);
    duplicate, induction (over the positions that have such a source).
    """

    total: Tensor
    count: Tensor


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
    """Per kind of list and unit, the value to reach: (3, d_mlp) and (2, n_heads)."""

    neurons: Tensor
    heads: Tensor
    k: int
    include_first: bool


@dataclass(frozen=True)
class Thresholds:
    neurons: Tensor  # (3, layer, d_mlp)
    heads: Tensor  # (2, layer, head)
    k: int
    include_first: bool = False

    def layer(self, i: int) -> LayerThresholds:
        return LayerThresholds(self.neurons[:, i], self.heads[:, i], self.k, self.include_first)


def summarize_neurons(
    post: Tensor, effect: Tensor, stored: "Stored", thresholds: LayerThresholds
) -> UnitSummary:
    """post (P, d_mlp): activations; effect: theirs on the next token."""
    post = post.float() + 0.0  # -0.0 becomes 0.0: one zero in lists and histograms
    eligible = _eligible(stored, thresholds)
    listed, positions = post[eligible], stored.position_ids[eligible]
    has_next = stored.has_next
    effect = effect if bool(has_next.all()) else effect[has_next]
    return UnitSummary(
        sums=_sums(post, effect),
        lists=[
            _reaching(listed, positions, thresholds.neurons[HIGH], thresholds.k),
            _negated(_reaching(-listed, positions, thresholds.neurons[LOW], thresholds.k)),
            _window_maxima(listed, positions, stored.row[eligible], thresholds.neurons[WINDOWS]),
        ],
    )


def summarize_heads(
    effect: Tensor,
    attention: Tensor,
    same: "_Repeats",
    stored: "Stored",
    thresholds: LayerThresholds,
) -> UnitSummary:
    """effect (P, head): on the next token; attention (P, head, source)."""
    has_next = stored.has_next
    effect = effect.float() + 0.0
    eligible = _eligible(stored, thresholds) & has_next
    listed, positions = effect[eligible], stored.position_ids[eligible]
    return UnitSummary(
        sums=_sums(effect[has_next], effect[has_next]),
        lists=[
            _reaching(listed, positions, thresholds.heads[HIGH], thresholds.k),
            _negated(_reaching(-listed, positions, thresholds.heads[LOW], thresholds.k)),
        ],
        attention=_attention_sums(attention, same, stored),
    )


def _eligible(stored: "Stored", thresholds: LayerThresholds) -> Tensor:
    """A window's first position is an attention sink: left out of lists unless asked for."""
    return (stored.column > 0) | thresholds.include_first


def _sums(values: Tensor, effects: Tensor) -> Sums:
    units = values.shape[1]

    def count(rows: Tensor) -> Tensor:
        return torch.full((units,), len(rows), dtype=torch.long)

    def extreme(name: str, empty: float) -> Tensor:
        if not len(values):
            return torch.full((units,), empty)
        found: Tensor = getattr(values, name)(0)
        return found.cpu()

    return Sums(
        count=count(values),
        total=values.sum(0).double().cpu(),
        squares=(values * values).sum(0).double().cpu(),
        minimum=extreme("amin", torch.inf),
        maximum=extreme("amax", -torch.inf),
        positive=(values > 0).sum(0).cpu(),
        histogram=_histogram(values).cpu(),
        effect_count=count(effects),
        effect=effects.sum(0).double().cpu(),
        effect_abs=torch.linalg.vector_norm(effects, 1, dim=0).double().cpu(),
        effect_squares=(effects * effects).sum(0).double().cpu(),
    )


def _histogram(values: Tensor) -> Tensor:
    """(P, unit) → counts (unit, BINS).

    A float32's exponent and first mantissa bit are its half-octave, so the bin is a shift away.
    """
    bits = values.contiguous().view(torch.int32)
    half_octave = ((bits & 0x7FFFFFFF) >> 22) - (2 * (127 + LOWEST_EXPONENT) - 1)
    magnitude = half_octave.clamp_(0, MAGNITUDES)
    bins = torch.where(bits < 0, MAGNITUDES - magnitude, MAGNITUDES + 1 + magnitude)
    units = values.shape[1]
    flat = bins.add_(torch.arange(0, units * BINS, BINS, dtype=torch.int32, device=bits.device))
    return torch.bincount(flat.flatten(), minlength=units * BINS).view(units, BINS)


def _reaching(values: Tensor, positions: Tensor, threshold: Tensor, k: int) -> Candidates:
    """The entries of (P, unit) that reach their unit's threshold, or the batch's own k-th value."""
    if len(values) > k and bool(torch.isinf(threshold).any()):
        threshold = torch.maximum(threshold, values.T.contiguous().topk(k, dim=1).values[:, -1])
    at, unit = (values >= threshold).nonzero(as_tuple=True)
    return Candidates(unit.cpu(), values[at, unit].cpu(), positions[at].cpu())


def _negated(candidates: Candidates) -> Candidates:
    return Candidates(candidates.unit, -candidates.value, candidates.position)


def _window_maxima(values: Tensor, positions: Tensor, row: Tensor, threshold: Tensor) -> Candidates:
    """Per window its highest activation and the first position that has it."""
    parts = [
        _maxima_of_one(window, positions[rows], threshold)
        for rows, window in ((row == r, values[row == r]) for r in row.unique().tolist())
    ]
    if not parts:
        return Candidates(*(torch.empty(0, dtype=t) for t in (torch.long, torch.float32, torch.long)))
    units, maxima, where = (torch.cat(part) for part in zip(*parts, strict=True))
    return Candidates(units, maxima, where)


def _maxima_of_one(values: Tensor, positions: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    maxima = values.amax(0)
    unit = (maxima >= threshold).nonzero().squeeze(1)
    # argmax of a boolean is its first True: ties go to the earlier position
    first = (values[:, unit] == maxima[unit]).byte().argmax(0)
    return unit.cpu(), maxima[unit].cpu(), positions[first].cpu()


def _attention_sums(attention: Tensor, same: "_Repeats", stored: "Stored") -> AttentionSums:
    row, column = stored.row, stored.column
    later = column > 0
    duplicate, induction = same.duplicate[row, column], same.induction[row, column]
    entropy = torch.special.entr(attention).sum(-1)

    def toward(source: Tensor) -> Tensor:
        index = source.clamp(min=0)[:, None, None].expand(-1, attention.shape[1], 1)
        return attention.gather(2, index).squeeze(2)

    def mass(where: Tensor) -> Tensor:
        return torch.einsum("phq,pq->ph", attention, where.to(attention.dtype))

    measured = [
        (toward(column), later),
        (toward(column - 1), later),
        (attention[:, :, 0], later),
        (entropy, later),
        (mass(duplicate), duplicate.any(-1)),
        (mass(induction), induction.any(-1)),
    ]
    total = torch.stack([values[rows].sum(0).double() for values, rows in measured]).cpu()
    return AttentionSums(total, torch.stack([rows.sum() for _, rows in measured]).cpu())
