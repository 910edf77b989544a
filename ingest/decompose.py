"""One forward pass taken apart: direct logit attribution of every component, exactly, in slices.

With LayerNorm folded and `W_U` centred, the centred logit of token t at position p is

    z_t(p) = b_U[t] + (1/σ_p) Σ_c ⟨x_c(p), W_U[:, t]⟩                (docs/concepts.md)

over the embedding, every head, attention bias, neuron and MLP bias (x_c is centred: the writing
weights are). σ_p is frozen at its value, so the terms sum to the logit.

1. Both targets of every position are known: the token that follows and the first choice.
2. Their distinct columns of `W_U` meet each layer's `W_O` and `W_out` once (`Directions`): these
   products depend on the token, not on the position.
3. A head's term is ⟨z, W_O W_U[:, t]⟩/σ, a neuron's post · ⟨W_out, W_U[:, t]⟩/σ: nothing of shape
   (component, position, d_model) is ever made (Elhage et al. 2021).
4. Per layer the strongest neurons and sources are selected on the device; only those leave it.

Checked against Hugging Face's own forward pass and in float64 in tests/test_exact.py.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from annotate_transformer.ingest.codes import Coded
from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.fused import FusedSelection
from annotate_transformer.ingest.model import Forward, Model
from annotate_transformer.ingest.selection import (
    AttentionTerms,
    Keep,
    Neurons,
    Selection,
    Sources,
    Stored,
    as_stored,
)
from annotate_transformer.ingest.summaries import LayerSummary, Thresholds, summarize_heads
from annotate_transformer.ingest.tokens import Batch
from annotate_transformer.ingest.unembed import Prediction, normalize, predict


@dataclass(frozen=True)
class Directions:
    """The targets' columns of `W_U`, each distinct token once, and how positions point at them.

    tokens (2, P): for each side (next, top) a position's target; u (d_model, distinct): centred over
    d_model, so that a component's mean drops out; index (2, P): a position's column in u; scale (P,): σ.
    """

    tokens: Tensor
    u: Tensor
    index: Tensor
    scale: Tensor

    @staticmethod
    def of(model: Model, targets: Tensor, scale: Tensor) -> "Directions":
        distinct, index = torch.unique(targets, return_inverse=True)
        u = model.W_U[:, distinct]
        return Directions(targets, u - u.mean(0, keepdim=True), index, scale)

    def project(self, vectors: Tensor) -> Tensor:
        """⟨vector, u⟩/σ of one vector a position (P, d_model): (2, P)"""
        return torch.stack([(vectors * self.u.T[side]).sum(-1) for side in self.index]) / self.scale


@dataclass(frozen=True)
class Layer:
    """One layer's terms at every stored position; (2, …) is (next, top).

    heads (2, P, head); attn_bias, mlp_bias, mlp_remainder, mlp_remainder_abs (2, P);
    top_source, top_attention, norm (P, head): strongest source's column, its attention, |z W_O|;
    activation_bound (P,), effect_bound (2, P): no neuron left out is above, in absolute value;
    coded: where all neurons are stored, those beyond the strongest;
    size (2, P): Σ |term| of heads, neurons and biases, what float32's rounding grows with.
    """

    heads: Tensor
    attn_bias: Tensor
    top_source: Tensor
    top_attention: Tensor
    norm: Tensor
    neurons: Neurons
    mlp: Tensor
    mlp_bias: Tensor
    mlp_remainder: Tensor
    mlp_remainder_abs: Tensor
    activation_bound: Tensor
    effect_bound: Tensor
    coded: Coded | None
    size: Tensor
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

    @cached_property
    def contributions(self) -> list[Tensor]:
        """The terms of a position as rows of the view `contributions`, each (2, P)."""
        return [self.embed, self.final_bias, *(part for x in self.layers for part in (x.attn, x.mlp))]

    @property
    def total(self) -> Tensor:
        """Σ of all terms (2, P), in the model's precision; equals `logit` but for rounding."""
        return torch.stack(self.contributions).sum(0)

    @cached_property
    def closure(self) -> Tensor:
        """Σ of the contributions as stored minus the logit as stored, (2, P), in float64."""
        return torch.stack([as_stored(x).double() for x in self.contributions]).sum(0) - self.logit.float()

    @property
    def size(self) -> Tensor:
        """Σ |term| over embedding, heads, neurons and biases (2, P), logits."""
        layers = torch.stack([layer.size for layer in self.layers]).sum(0)
        return self.embed.abs() + self.final_bias.abs() + layers


@torch.inference_mode()
def decompose(
    model: Model, batch: Batch, keep: Keep, thresholds: Thresholds, sampled: NDArray[np.bool_]
) -> Decomposition:
    """Annotate one batch.

    thresholds: what a value must reach to enter a top list; sampled (P,): stored positions whose
    every activation is wanted.

    Raises:
        ModelError: the model's values are no numbers.
    """
    tokens = torch.from_numpy(batch.tokens).to(model.device)
    forward = model.forward(tokens, resid_post=keep.lens)
    stored = Stored.of(batch, model.device, thresholds.left_out)
    scale = stored.pick(forward.scale)
    _check_finite(model, batch, stored, scale)
    normalized = normalize(stored.pick(forward.final), scale)
    prediction = predict(model, normalized, stored.next_ids)
    # Where nothing follows, the first choice stands in for the next token; it is stored as NULL.
    next_ids = torch.where(stored.has_next, stored.next_ids, prediction.top_id)
    targets = torch.stack([next_ids, prediction.top_id])
    directions = Directions.of(model, targets, scale)
    selection = (FusedSelection if model.fused else Selection)(tokens, stored, scale, keep, thresholds)
    in_sample = torch.from_numpy(sampled).to(model.device)
    parts = _Batch(model, forward, stored, directions, selection, in_sample)
    layers = [parts.layer(i) for i in range(model.n_layers)]
    kept_sources, source_bound = selection.sources()
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


def _check_finite(model: Model, batch: Batch, stored: Stored, scale: Tensor) -> None:
    """Raises ModelError for the first position where the residual stream, and so σ, is no number."""
    wrong = (~scale.isfinite()).nonzero()
    if len(wrong):
        first = wrong[0, 0]
        window = batch.windows[int(stored.row[first])].window
        raise ModelError(
            f"{model.source.name} gives values that are no numbers (NaN or infinite), first at position "
            f"{int(stored.column[first]):,} of window {window:,}. Its weights are broken, or too large for "
            "--dtype: give another revision or model."
        )


def _lens(model: Model, residual: Tensor, next_ids: Tensor) -> Prediction:
    """The logit lens (nostalgebraist 2020): the residual stream read out early, with its own σ."""
    eps = model.bridge.cfg.eps
    scale = (residual.var(-1, unbiased=False) + eps).sqrt()
    return predict(model, normalize(residual, scale), next_ids)


@dataclass(frozen=True)
class _Batch:
    """What the layers of a batch are decomposed from."""

    model: Model
    forward: Forward
    stored: Stored
    directions: Directions
    selection: Selection
    in_sample: Tensor

    def layer(self, i: int) -> Layer:
        model, directions = self.model, self.directions
        W_O, W_out = model.writing(i)
        heads, norm, attention = self._heads(i, W_O)
        post = self.stored.pick(self.forward.post[i])
        self.forward.forget(i)
        W_out_u = directions.u.T @ W_out.T  # (distinct, d_mlp)
        neurons = self.selection.neurons(i, post, W_out_u, directions.index)
        neurons_size = neurons.size
        coded = None
        if self.selection.keep.coded:
            read = [W_out_u[side] / directions.scale[:, None] for side in directions.index]
            coded = Coded.of(post, read, neurons.kept)
            neurons = neurons.less(coded.effect)
        attn_bias, mlp_bias = model.bias_toward[:, i, directions.tokens] / directions.scale
        toward_next = as_stored(heads[0])  # lists, statistics and sample are of what the rows say
        thresholds = self.selection.thresholds.layer(i)
        of_heads = summarize_heads(toward_next, attention.sums, self.stored, thresholds)
        return Layer(
            heads=heads,
            attn_bias=attn_bias,
            top_source=attention.top_source,
            top_attention=attention.top_attention,
            norm=norm,
            neurons=neurons.kept,
            mlp=neurons.total + mlp_bias,
            mlp_bias=mlp_bias,
            mlp_remainder=neurons.rest,
            mlp_remainder_abs=neurons.rest_abs,
            activation_bound=neurons.bounds[0],
            effect_bound=neurons.bounds[1:],
            coded=coded,
            size=heads.abs().sum(-1) + neurons_size + attn_bias.abs() + mlp_bias.abs(),
            sampled=(post[self.in_sample], toward_next[self.in_sample]),
            summary=LayerSummary(neurons.summary, of_heads),
        )

    def _heads(self, i: int, W_O: Tensor) -> tuple[Tensor, Tensor, AttentionTerms]:
        """Effects (2, P, head), norms (P, head) and what the heads attended to."""
        forward, directions = self.forward, self.directions
        # ⟨W_O[h], u⟩ for each distinct target, then one gather a position: (2, P, head, d_head)
        read = torch.einsum("hdm,mu->uhd", W_O, directions.u)[directions.index]
        read = read / directions.scale[:, None, None]
        z = self.stored.pick(forward.z[i])
        gram = torch.einsum("hdm,hem->hde", W_O, W_O)
        norm = torch.einsum("phd,hde,phe->ph", z, gram, z).clamp(min=0).sqrt()
        attention = self.selection.attention(i, forward.pattern[i], forward.v[i], read)
        return torch.einsum("phd,sphd->sph", z, read), norm, attention
