"""Select each position's strongest neurons and attention sources; compute statistics of neurons and heads.

This is the version in torch, for any device and precision; only selected values are copied from the device.
For float32 on a CPU, `attribution.fast.compiled` computes the same in fewer passes (`attribution.loops`).
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from annotate_transformer.ingest.attribution.behaviours import AttentionSums, Repeats, attention_sums
from annotate_transformer.ingest.attribution.stored import Stored
from annotate_transformer.ingest.attribution.summaries import Thresholds, UnitSummary, summarize_neurons

# EFFECT_DECIMALS: number of decimals to which the activation and the effects of a stored neuron are rounded.
# The rounding errors of the effects are added to the remainder.
EFFECT_DECIMALS = 3
SOURCE_DECIMALS = 4  # number of decimals to which the stored effect of one head from one source is rounded


@dataclass(frozen=True)
class Keep:
    """The number of terms stored per position; None means all.

    `neurons`: number of neurons per layer by |activation|, and by |effect| on each target;
    `sources`: number of head-and-source terms over all heads;
    `lens`: whether to compute the logit lens;
    `coded`: whether to store the other neurons too, in a few bits each (`attribution.codes`).
    """

    neurons: int | None = 8
    sources: int | None = 24
    lens: bool = False
    coded: bool = False


@dataclass(frozen=True)
class Neurons:
    """The neurons of one layer that are stored, as flat arrays with one entry per position and neuron."""

    at: Tensor
    neuron: Tensor
    activation: Tensor
    effects: Tensor  # shape (2, entry); row 0: effects on the next token, row 1: on the top prediction


@dataclass(frozen=True)
class HeadSources:
    """The terms that are stored, each of one head and one source, as flat arrays with one entry per term.

    `column`: index of the source in its window; `rounded`: whether the effects are rounded. If all terms are
    kept, the effects are not rounded, so that they sum to the head's effect.
    """

    at: Tensor
    layer: Tensor
    head: Tensor
    column: Tensor
    attention: Tensor
    effects: Tensor  # shape (2, entry); row 0: effects on the next token, row 1: on the top prediction
    rounded: bool


@dataclass(frozen=True)
class NeuronTerms:
    """One layer's stored neurons, sums of effects over the other neurons, and statistics of every neuron.

    `total`, of shape (2, P): Σ effect of all neurons;
    `rest`, `rest_abs`, of shape (2, P): Σ effect and Σ |effect| of the neurons that are not kept;
    `bounds`, of shape (3, P): upper bounds of these neurons' |activation| and |effect| on both targets.
    """

    kept: Neurons
    total: Tensor
    rest: Tensor
    rest_abs: Tensor
    bounds: Tensor
    summary: UnitSummary

    @staticmethod
    def of(
        at: Tensor, neuron: Tensor, activation: Tensor, effects: Tensor,
        total: Tensor, total_abs: Tensor, bounds: Tensor, summary: UnitSummary,
    ) -> "NeuronTerms":  # fmt: skip
        """Round the values of the kept neurons, and compute the remainder, which includes rounding errors."""
        activation, rounded = (torch.round(x, decimals=EFFECT_DECIMALS) for x in (activation, effects))
        rest = total - torch.zeros_like(total).index_add_(1, at, rounded)
        rest_abs = total_abs - torch.zeros_like(total).index_add_(1, at, effects.abs())
        kept = Neurons(at, neuron, activation, rounded)
        return NeuronTerms(kept, total, rest, rest_abs.clamp(min=0), bounds, summary)

    @property
    def size(self) -> Tensor:
        """The sum of |effect| over all neurons, of shape (2, P).

        The effects of kept neurons are rounded before they are added.
        """
        kept = torch.zeros_like(self.rest_abs).index_add_(1, self.kept.at, self.kept.effects.abs())
        return self.rest_abs + kept

    def less(self, effect: Tensor) -> "NeuronTerms":
        """Return a copy whose remainder leaves out the neurons stored as codes (`attribution.codes`).

        `effect`, of shape (2, P): sum of the effects of these neurons, computed from the codes.
        """
        none, bounds = torch.zeros_like(self.rest_abs), torch.zeros_like(self.bounds)
        return replace(self, rest=self.rest - effect, rest_abs=none, bounds=bounds)


@dataclass(frozen=True)
class AttentionTerms:
    """The most attended sources of a layer's heads, and the sums of each behaviour's measure over positions.

    `top_source`, `top_attention`, of shape (P, head): index of the most attended source, and its attention.
    """

    top_source: Tensor
    top_attention: Tensor
    sums: AttentionSums


class Selection:
    """Selects which neurons and attention sources of a batch are stored.

    Call `neurons` and `attention` once for each layer, in the order of the layers.

    `tokens`, of shape (window, position): token ids; `scale`, of shape (P,): σ.
    """

    def __init__(
        self, tokens: Tensor, stored: Stored, scale: Tensor, keep: Keep, thresholds: Thresholds
    ) -> None:
        self.tokens, self.stored = tokens, stored
        self.keep, self.thresholds = keep, thresholds
        self.parts: list[tuple[Tensor, ...]] = []
        self.source_bound = torch.zeros_like(scale)

    @cached_property
    def same(self) -> Repeats:
        return Repeats.of(self.tokens, self.stored)

    def neurons(self, layer: int, post: Tensor, W_out_u: Tensor, index: Tensor, scale: Tensor) -> NeuronTerms:
        """Return a layer's strongest neurons at each position, and sums and statistics of all its neurons.

        `post`, of shape (P, d_mlp): activations;
        `W_out_u`, of shape (target, d_mlp): inner products of W_out with each target's column;
        `index`, of shape (2, P): the targets of each position;
        `scale`, of shape (P,): the divisor of the effects.
        """
        scaled = post / scale[:, None]
        effects = [W_out_u.index_select(0, side).mul_(scaled) for side in index]
        sizes = [effect.abs() for effect in effects]
        at, neuron, bounds = _strongest_neurons([post.abs(), *sizes], self.keep.neurons)
        ones = post.new_ones(post.shape[1])  # a matrix product with ones sums faster than `sum` does
        return NeuronTerms.of(
            at,
            neuron,
            post[at, neuron],
            torch.stack([effect[at, neuron] for effect in effects]),
            total=torch.stack([effect @ ones for effect in effects]),
            total_abs=torch.stack([size @ ones for size in sizes]),
            bounds=bounds,
            summary=summarize_neurons(post, effects[0], sizes[0], self.stored, self.thresholds.layer(layer)),
        )

    def attention(self, layer: int, pattern: Tensor, v: Tensor, read: Tensor) -> AttentionTerms:
        """Return each head's most attended sources and behaviours; keep strong terms for method `sources`.

        `pattern`, of shape (window, head, position, source): attention probabilities;
        `v`, of shape (window, source, head, d_head): values;
        `read`, of shape (2, P, head, d_head): ⟨W_O, u⟩/σ for each target; its inner product with a source's
        value is the source's effect at attention 1.
        """
        stored = self.stored
        attention = stored.pick(pattern.transpose(1, 2))  # shape (stored position, head, source)
        self.offer(layer, attention, source_products(stored, v, read))
        top_attention, top_source = attention.max(-1)
        return AttentionTerms(top_source, top_attention, attention_sums(attention, self.same, stored))

    def offer(self, layer: int, attention: Tensor, products: Tensor) -> None:
        """Remember a layer's strongest head-and-source terms, from which `sources` selects the stored ones.

        The effect of a term is the attention to the source, times the entry of `products`.
        """
        sides = products.permute(2, 0, 3, 1, 4)
        shares = [self.stored.pick(side).mul(attention) for side in sides]
        # `strength` has the shape (stored position, pair of head and source).
        strength = torch.maximum(shares[0].abs(), shares[1].abs()).flatten(1)
        strength, flat, left_out = _top(strength, self.keep.sources)
        self.source_bound = torch.maximum(self.source_bound, left_out)
        head, column = flat // attention.shape[-1], flat % attention.shape[-1]
        picked = [values.flatten(1).gather(1, flat) for values in (attention, *shares)]
        self.parts.append((strength, torch.full_like(head, layer), head, column, *picked))

    def sources(self) -> tuple[HeadSources, Tensor]:
        """Return the strongest head-and-source terms of all layers, and the largest |effect| of the others.

        The largest |effect| is given for each position, in the shape (P,).
        """
        strength, *columns = (torch.cat(part, dim=1) for part in zip(*self.parts, strict=True))
        _, index, left_out = _top(strength, self.keep.sources)
        layer, head, source, attention, *shares = (part.gather(1, index) for part in columns)
        at, kept = (source <= self.stored.column[:, None]).nonzero(as_tuple=True)
        effects = torch.stack([share[at, kept] for share in shares])
        rounded = self.keep.sources is not None
        if rounded:
            effects = torch.round(effects, decimals=SOURCE_DECIMALS)
        layer, head, source, attention = (part[at, kept] for part in (layer, head, source, attention))
        kept_sources = HeadSources(at, layer, head, source, attention, effects, rounded)
        return kept_sources, torch.maximum(self.source_bound, left_out)


def source_products(stored: Stored, v: Tensor, read: Tensor) -> Tensor:
    """Return the effect that each source would have if the head's attention to it were 1.

    It is the inner product of `read` and the source's value vector.

    `v` and `read` are as in `Selection.attention`. The result has the shape (window, head, 2, position,
    source).
    """
    b, positions, heads, d_head = v.shape
    sides = v.new_zeros(b, heads, 2, positions, d_head)
    sides.permute(0, 3, 2, 1, 4)[stored.row, stored.column] = read.transpose(0, 1)
    products = sides.flatten(2, 3) @ v.permute(0, 2, 3, 1)
    return products.view(b, heads, 2, positions, positions)


def _strongest_neurons(sizes: list[Tensor], k: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the neurons of each position that are among the top k of at least one tensor in `sizes`.

    The tensors in `sizes` have the shape (P, d_mlp). The first two results are flat tensors of positions and
    neurons. The third, of shape (len(sizes), P), holds the largest size that is not among the top k.
    """
    P, d_mlp = sizes[0].shape
    if k is None or k >= d_mlp:
        index = torch.arange(d_mlp, device=sizes[0].device).expand(P, d_mlp)
        bounds = sizes[0].new_zeros(len(sizes), P)
    else:
        tops = [_top(size, k) for size in sizes]
        index = torch.cat([index for _, index, _ in tops], dim=1).sort(dim=1).values
        bounds = torch.stack([bound for _, _, bound in tops])
    keep = torch.ones_like(index, dtype=torch.bool)
    keep[:, 1:] = index[:, 1:] != index[:, :-1]
    at, column = keep.nonzero(as_tuple=True)
    return at, index[at, column], bounds


def _top(values: Tensor, k: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return each row's k largest values with indices, and the largest value left out; k = None takes all."""
    if k is None or k >= values.shape[1]:
        everything = torch.arange(values.shape[1], device=values.device).expand_as(values)
        return values, everything, values.new_zeros(len(values))
    top, index = _largest(values, k + 1)
    return top[:, :k], index[:, :k], top[:, k]


def _largest(values: Tensor, k: int, group: int = 8) -> tuple[Tensor, Tensor]:
    """Return each row's k largest values and indices; search only groups of columns with large maxima.

    The k groups with the largest maxima contain the k largest values. On a CPU this is a third faster than
    `topk` alone.
    """
    rows, n = values.shape
    groups = n // group
    if n % group or groups <= k:
        top = values.topk(k)
        return top.values, top.indices
    best = values.view(rows, group, groups).amax(1).topk(k, sorted=False).indices
    members = torch.arange(0, n, groups, device=values.device)
    index = (best[:, :, None] + members).flatten(1)
    top = values.gather(1, index).topk(k)
    return top.values, index.gather(1, top.indices)
