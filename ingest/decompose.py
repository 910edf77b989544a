"""One forward pass taken apart: direct logit attribution of every component, exactly, in slices.

With LayerNorm folded and `W_U` centred, the centred logit of token t at position p is

    z_t(p) = b_U[t] + (1/σ_p) Σ_c ⟨x_c(p), W_U[:, t]⟩                (docs: README, "The decomposition")

over the embedding, every head, attention bias, neuron and MLP bias (x_c is centred: the writing
weights are). σ_p is frozen at its value, so the terms sum to the logit.

1. Both targets of every position are known: the token that follows and the first choice.
2. Their distinct columns of `W_U` meet each layer's `W_O` and `W_out` once (`Directions`): these
   products depend on the token, not on the position.
3. A head's term is ⟨z, W_O W_U[:, t]⟩/σ, a neuron's post · ⟨W_out, W_U[:, t]⟩/σ: nothing of shape
   (component, position, d_model) is ever made (Elhage et al. 2021; factorised as in README).
4. Per layer the strongest neurons and sources are selected on the device; only those leave it.

Checked against Hugging Face's own forward pass and in float64 in tests/test_exact.py.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ingest.model import Forward, Model
from ingest.summaries import LayerSummary, Repeats, Thresholds, summarize_heads, summarize_neurons
from ingest.tokens import Batch
from ingest.unembed import Prediction, normalize, predict

EFFECT_DECIMALS = 3  # single neurons, stored rounded; their layer's remainder makes up for it
SOURCE_DECIMALS = 4  # single sources of a head, likewise


@dataclass(frozen=True)
class Keep:
    """What is stored of each position; None keeps all.

    neurons: of a layer, the strongest by |activation| and by |effect| on either target;
    sources: of a position, the strongest head-and-source terms over all heads.
    """

    neurons: int | None = 8
    sources: int | None = 24
    lens: bool = False


@dataclass(frozen=True)
class Stored:
    """The positions of a batch that are stored, P of them, and where they lie in it.

    row, column (P,): window and position within the batch, in this order; flat: both in one;
    next_ids: -1 where nothing follows.
    """

    mask: Tensor
    flat: Tensor
    row: Tensor
    column: Tensor
    tokens: Tensor
    next_ids: Tensor
    position_ids: Tensor

    @staticmethod
    def of(batch: Batch, device: str) -> "Stored":
        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device)

        mask = tensor(batch.stored)
        row, column = mask.nonzero(as_tuple=True)
        flat = row * mask.shape[1] + column
        picked = (tensor(array)[mask] for array in (batch.tokens, batch.next_ids, batch.positions))
        return Stored(mask, flat, row, column, *picked)

    def pick(self, tensor: Tensor) -> Tensor:
        """(window, position, …) → (P, …)"""
        every = tensor.flatten(0, 1)
        return every if len(every) == len(self.flat) else every.index_select(0, self.flat)

    @property
    def has_next(self) -> Tensor:
        return self.next_ids >= 0


@dataclass(frozen=True)
class Directions:
    """The targets' columns of `W_U`, each distinct token once, and how positions point at them.

    u (d_model, distinct): centred over d_model, so that a component's mean drops out;
    index (2, P): for each side (next, top) a position's column in u; scale (P,): σ.
    """

    u: Tensor
    index: Tensor
    scale: Tensor

    @staticmethod
    def of(model: Model, targets: Tensor, scale: Tensor) -> "Directions":
        distinct, index = torch.unique(targets, return_inverse=True)
        u = model.W_U[:, distinct]
        return Directions(u - u.mean(0, keepdim=True), index, scale)

    def project(self, vectors: Tensor) -> Tensor:
        """⟨vector, u⟩/σ of one vector a position (P, d_model) or one for all (d_model,): (2, P)"""
        if vectors.ndim == 1:
            return (vectors @ self.u)[self.index] / self.scale
        return torch.stack([(vectors * self.u.T[side]).sum(-1) for side in self.index]) / self.scale


@dataclass(frozen=True)
class Neurons:
    """Kept neurons of one layer: flat arrays, one entry a row; `at` is the position's index in P."""

    at: Tensor
    neuron: Tensor
    activation: Tensor
    effects: Tensor  # (2, rows)


@dataclass(frozen=True)
class Sources:
    """Kept head-and-source terms: flat arrays, one entry a row; `column` is the source's."""

    at: Tensor
    layer: Tensor
    head: Tensor
    column: Tensor
    attention: Tensor
    effects: Tensor  # (2, rows)


@dataclass(frozen=True)
class Layer:
    """One layer's terms at every stored position; (2, …) is (next, top).

    heads (2, P, head); attn_bias, mlp_bias, mlp_rest, mlp_rest_abs (2, P);
    top_source, top_attention, norm (P, head): strongest source's column, its attention, |z W_O|;
    activation_bound (P,), effect_bound (2, P): no neuron left out is above, in absolute value.
    """

    heads: Tensor
    attn_bias: Tensor
    top_source: Tensor
    top_attention: Tensor
    norm: Tensor
    neurons: Neurons
    mlp: Tensor
    mlp_bias: Tensor
    mlp_rest: Tensor
    mlp_rest_abs: Tensor
    activation_bound: Tensor
    effect_bound: Tensor
    sampled: tuple[Tensor, Tensor]  # (S, d_mlp) activations and (S, head) effects on the next token
    summary: LayerSummary

    @property
    def attn(self) -> Tensor:
        return self.heads.sum(-1) + self.attn_bias


@dataclass(frozen=True)
class Decomposition:
    """A batch taken apart, before storage, in the model's own precision; shapes as in `Layer`."""

    stored: Stored
    prediction: Prediction
    logit: Tensor
    logit_offset: Tensor
    scale: Tensor
    embed: Tensor
    final_bias: Tensor
    layers: list[Layer]
    sources: Sources
    source_bound: Tensor
    lens: list[Prediction]

    @property
    def total(self) -> Tensor:
        """Σ of all terms (2, P); equals `logit` but for rounding: the closure."""
        layers = sum((layer.attn + layer.mlp for layer in self.layers), torch.zeros_like(self.embed))
        return self.embed + layers + self.final_bias


@torch.inference_mode()
def decompose(
    model: Model, batch: Batch, keep: Keep, thresholds: Thresholds, sampled: NDArray[np.bool_]
) -> Decomposition:
    """Annotate one batch.

    thresholds: what a value must reach to enter a top list; sampled (P,): stored positions whose
    every activation is wanted.
    """
    tokens = torch.from_numpy(batch.tokens).to(model.device)
    forward = model.forward(tokens, resid_post=keep.lens)
    stored = Stored.of(batch, model.device)
    scale = stored.pick(forward.scale)
    normalized = normalize(stored.pick(forward.final), scale)
    prediction = predict(model, normalized, stored.next_ids)
    # Where nothing follows, the first choice stands in for the next token; it is stored as NULL.
    next_ids = torch.where(stored.has_next, stored.next_ids, prediction.top_id)
    targets = torch.stack([next_ids, prediction.top_id])
    directions = Directions.of(model, targets, scale)
    sources = _SourceSelection(stored, keep.sources)
    same = Repeats.of(tokens, stored)
    in_sample = torch.from_numpy(sampled).to(model.device)
    layers = [
        _layer(model, forward, i, stored, directions, keep, sources, same, thresholds, in_sample)
        for i in range(model.n_layers)
    ]
    kept_sources, source_bound = sources.result()
    next_logit = torch.where(stored.has_next, prediction.next_logit, prediction.top_logit)
    return Decomposition(
        stored=stored,
        prediction=prediction,
        logit=torch.stack([next_logit, prediction.top_logit]),
        logit_offset=normalized @ model.offset_direction + model.offset_bias,
        scale=scale,
        embed=directions.project(model.W_E[stored.tokens]),
        final_bias=model.b_U[targets],
        layers=layers,
        sources=kept_sources,
        source_bound=source_bound,
        lens=[_lens(model, stored.pick(x), stored.next_ids) for x in forward.resid_post],
    )


def _lens(model: Model, residual: Tensor, next_ids: Tensor) -> Prediction:
    """The logit lens (nostalgebraist 2020): the residual stream read out early, with its own σ."""
    eps = model.bridge.cfg.eps
    scale = (residual.var(-1, unbiased=False) + eps).sqrt()
    return predict(model, normalize(residual, scale), next_ids)


def _layer(
    model: Model,
    forward: Forward,
    layer: int,
    stored: Stored,
    directions: Directions,
    keep: Keep,
    sources: "_SourceSelection",
    same: Repeats,
    thresholds: Thresholds,
    in_sample: Tensor,
) -> Layer:
    z, v, pattern = forward.z[layer], forward.v[layer], forward.pattern[layer]
    W_O = model.W_O[layer]
    # ⟨W_O[h], u⟩ for each distinct target, then one gather a position: (2, P, head, d_head)
    read = torch.einsum("hdm,mu->uhd", W_O, directions.u)[directions.index]
    read = read / directions.scale[:, None, None]
    z_stored = stored.pick(z)
    heads = torch.einsum("phd,sphd->sph", z_stored, read)
    attention = stored.pick(pattern.transpose(1, 2))  # (P, head, source)
    sources.offer(layer, v, attention, read)
    top_attention, top_source = attention.max(-1)
    gram = torch.einsum("hdm,hem->hde", W_O, W_O)
    norm = torch.einsum("phd,hde,phe->ph", z_stored, gram, z_stored).clamp(min=0).sqrt()

    post = stored.pick(forward.post[layer])
    scaled = post / directions.scale[:, None]
    W_out_u = directions.u.T @ model.W_out[layer].T  # (distinct, d_mlp)
    effects = [W_out_u.index_select(0, index).mul_(scaled) for index in directions.index]
    sizes = [effect.abs() for effect in effects]
    neurons, bounds = _strongest_neurons(post, effects, sizes, keep.neurons)
    ones = post.new_ones(post.shape[1])  # a product with ones sums faster than `sum` does
    all_neurons = torch.stack([effect @ ones for effect in effects])
    all_abs = torch.stack([size @ ones for size in sizes])
    kept = torch.zeros_like(all_neurons).index_add_(1, neurons.at, neurons.effects)
    kept_sizes = torch.stack([size[neurons.at, neurons.neuron] for size in sizes])
    kept_abs = torch.zeros_like(all_abs).index_add_(1, neurons.at, kept_sizes)
    mlp_bias = directions.project(model.b_out[layer])
    summary = LayerSummary(
        neurons=summarize_neurons(post, effects[0], sizes[0], stored, thresholds.layer(layer)),
        heads=summarize_heads(heads[0], attention, same, stored, thresholds.layer(layer)),
    )
    return Layer(
        heads=heads,
        attn_bias=directions.project(model.b_O[layer]),
        top_source=top_source,
        top_attention=top_attention,
        norm=norm,
        neurons=neurons,
        mlp=all_neurons + mlp_bias,
        mlp_bias=mlp_bias,
        mlp_rest=all_neurons - kept,
        mlp_rest_abs=(all_abs - kept_abs).clamp(min=0),
        activation_bound=bounds[0],
        effect_bound=bounds[1:],
        sampled=(post[in_sample], heads[0][in_sample]),
        summary=summary,
    )


def _strongest_neurons(
    post: Tensor, effects: list[Tensor], sizes: list[Tensor], k: int | None
) -> tuple[Neurons, Tensor]:
    """The union of the top k by |activation| and by |effect| on either side, and what bounds the rest.

    Returns the neurons and, (3, P), the largest absolute values that each of the three left out.
    """
    P, d_mlp = post.shape
    if k is None or k >= d_mlp:
        index = torch.arange(d_mlp, device=post.device).expand(P, d_mlp)
        bounds = post.new_zeros(3, P)
    else:
        tops = [_top(x, k) for x in (post.abs(), *sizes)]
        index = torch.cat([index for _, index, _ in tops], dim=1).sort(dim=1).values
        bounds = torch.stack([bound for _, _, bound in tops])
    keep = torch.ones_like(index, dtype=torch.bool)
    keep[:, 1:] = index[:, 1:] != index[:, :-1]
    at, column = keep.nonzero(as_tuple=True)
    neuron = index[at, column]
    values = (torch.round(x[at, neuron], decimals=EFFECT_DECIMALS) for x in (post, *effects))
    activation, *rounded = values
    return Neurons(at, neuron, activation, torch.stack(rounded)), bounds


def _top(values: Tensor, k: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """(values, indices) of the k largest of each row (all for None) and the largest left out."""
    if k is None or k >= values.shape[1]:
        everything = torch.arange(values.shape[1], device=values.device).expand_as(values)
        return values, everything, values.new_zeros(len(values))
    top, index = _largest(values, k + 1)
    return top[:, :k], index[:, :k], top[:, k]


def _largest(values: Tensor, k: int, group: int = 8) -> tuple[Tensor, Tensor]:
    """`topk` of each row, a third faster on a CPU: the k largest lie in the k groups of largest maxima."""
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


class _SourceSelection:
    """The strongest head-and-source terms of each position, layer after layer.

    A head's share from source q is A[p,q] ⟨v[q] W_O, W_U[:,t]⟩/σ; strength is the larger |share|
    of the two sides. Of each layer no more than k can be among a position's k.
    """

    def __init__(self, stored: Stored, k: int | None) -> None:
        self.stored, self.k = stored, k
        self.parts: list[tuple[Tensor, ...]] = []
        self.bound = torch.zeros_like(stored.row, dtype=torch.float32)

    def offer(self, layer: int, v: Tensor, attention: Tensor, read: Tensor) -> None:
        shares = self._shares(v, attention, read)
        strength = torch.maximum(shares[0].abs(), shares[1].abs()).flatten(1)  # (P, head·source)
        strength, flat, left_out = _top(strength, self.k)
        self.bound = torch.maximum(self.bound, left_out)
        head, column = flat // attention.shape[-1], flat % attention.shape[-1]
        picked = [values.flatten(1).gather(1, flat) for values in (attention, *shares)]
        self.parts.append((strength, torch.full_like(head, layer), head, column, *picked))

    def _shares(self, v: Tensor, attention: Tensor, read: Tensor) -> list[Tensor]:
        """Both sides' (P, head, source), computed window by window as two batched products."""
        sides = v.new_zeros(2, *v.shape)
        sides[:, self.stored.row, self.stored.column] = read
        products = torch.einsum("sbphd,bqhd->sbphq", sides, v)
        return [self.stored.pick(product).mul_(attention) for product in products]

    def result(self) -> tuple[Sources, Tensor]:
        """The kept terms, rounded unless all are, and per position (P,) the largest left out."""
        strength, *columns = (torch.cat(part, dim=1) for part in zip(*self.parts, strict=True))
        _, index, left_out = _top(strength, self.k)
        layer, head, source, attention, *shares = (part.gather(1, index) for part in columns)
        at, kept = (source <= self.stored.column[:, None]).nonzero(as_tuple=True)
        effects = torch.stack([share[at, kept] for share in shares])
        if self.k is not None:
            effects = torch.round(effects, decimals=SOURCE_DECIMALS)
        layer, head, source, attention = (part[at, kept] for part in (layer, head, source, attention))
        return Sources(at, layer, head, source, attention, effects), torch.maximum(self.bound, left_out)
