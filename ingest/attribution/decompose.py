"""Decompose one forward pass into the exact direct logit attribution of every component.

With the norms folded and `W_U` centred, the centred logit of token t at position p is

    z_t(p) = b_U[t] + (1/σ_p) Σ_c ⟨x_c(p), W_U[:, t]⟩                (docs/concepts.md)

over the embeddings, all heads, attention biases, neurons and MLP biases. σ_p is frozen at its value, so the
terms sum to the logit. The norm may also remove the mean of x_c (models.families). If there is a norm after a
sublayer, its weight is part of the sublayer's writing weights, and its scale at p divides x_c like σ_p.

1. Each position has two targets: the next token and the top prediction.
2. The column of `W_U` of each distinct target is multiplied by each layer's `W_O` and `W_out` once
   (`Directions`), because these products depend on the token, not on the position.
3. A head's term is ⟨z, W_O W_U[:, t]⟩/σ, and a neuron's term is post · ⟨W_out, W_U[:, t]⟩/σ. No tensor of
   shape (component, position, d_model) is needed (Elhage et al. 2021).
4. In each layer the strongest neurons and sources are selected on the device; only their values are copied
   to the host.

tests/test_exact.py compares the terms with Hugging Face's own forward pass, also in float64.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from annotate_transformer.ingest.attribution.codes import Coded
from annotate_transformer.ingest.attribution.loops import Loops, loops_for
from annotate_transformer.ingest.attribution.selection import (
    AttentionTerms,
    HeadSources,
    Keep,
    Neurons,
    Selection,
)
from annotate_transformer.ingest.attribution.stored import Stored, as_stored
from annotate_transformer.ingest.attribution.summaries import LayerSummary, Thresholds, summarize_heads
from annotate_transformer.ingest.attribution.unembed import Prediction, predict
from annotate_transformer.ingest.corpus.windows import Batch
from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.hooks import Forward
from annotate_transformer.ingest.models.model import Model


@dataclass(frozen=True)
class Directions:
    """The `W_U` columns of all next tokens and top predictions, and the index of each position's columns.

    `tokens`, of shape (2, P): the targets of each position, next token and top prediction;
    `u`, of shape (d_model, distinct): the columns, centred over d_model, which removes a component's mean;
    `index`, of shape (2, P): index of each target's column in `u`;
    `scale`, of shape (P,): σ.
    """

    tokens: Tensor
    u: Tensor
    index: Tensor
    scale: Tensor

    @staticmethod
    def of(model: Model, targets: Tensor, scale: Tensor) -> "Directions":
        distinct, index = torch.unique(targets, return_inverse=True)
        u = model.W_U[:, distinct]
        return Directions(targets, model.centred(u, dim=0), index, scale)

    def project(self, vectors: Tensor) -> Tensor:
        """Return the direct effects of one vector per position on the next token and on the top prediction.

        The effects are ⟨vector, u⟩/σ. `vectors` has the shape (P, d_model), and the result the shape (2, P).
        """
        return torch.stack([(vectors * self.u.T[side]).sum(-1) for side in self.index]) / self.scale

    def scaled(self, post_scale: Tensor | None) -> Tensor:
        """Return the divisor of a sublayer's terms: σ, times the scale of a norm after the sublayer, if any.

        `post_scale`: scale of the norm after the sublayer, or None. The shapes are (P,).
        """
        return self.scale if post_scale is None else self.scale * post_scale


@dataclass(frozen=True)
class Layer:
    """The terms of one layer at P stored positions.

    On an axis of length 2, index 0 is the next token and index 1 the top prediction.

    `heads`, of shape (2, P, head): the terms of the heads;
    `attn_bias`, `mlp_bias`, `mlp_remainder`, `mlp_remainder_abs`: all of shape (2, P);
    `top_source`, `top_attention`, `norm`, of shape (P, head): index of the most attended source, the
    attention to this source, and ‖z W_O‖;
    `activation_bound`, of shape (P,), and `effect_bound`, of shape (2, P): upper bounds of |activation| and
    |effect| of the neurons that are not kept;
    `coded`: with --keep-neurons all, the neurons except the strongest ones;
    `mlp_scale`, of shape (P,): the scale of the norm after the MLP, or None without this norm;
    `size`, of shape (2, P): Σ |term| of heads, neurons and biases, to which rounding errors are proportional.
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
    mlp_scale: Tensor | None
    size: Tensor
    # `sampled` holds two tensors about the S positions that are in the sample: the neurons' activations, of
    # shape (S, d_mlp), and the heads' direct effects on the next token, of shape (S, head).
    sampled: tuple[Tensor, Tensor]
    summary: LayerSummary

    @property
    def attn(self) -> Tensor:
        return self.heads.sum(-1) + self.attn_bias


@dataclass(frozen=True)
class Decomposition:
    """All direct effects and predictions at the stored positions of a batch; the shapes are as in `Layer`.

    `embedding`: the terms of the embeddings, by name of the component.
    """

    stored: Stored
    prediction: Prediction
    logit: Tensor
    logit_offset: Tensor
    scale: Tensor
    embedding: dict[str, Tensor]
    final_bias: Tensor
    layers: list[Layer]
    sources: HeadSources
    source_bound: Tensor
    lens: list[Prediction]

    @cached_property
    def contributions(self) -> list[Tensor]:
        """The terms of the view `contributions`: effects on next token and top prediction, shape (2, P)."""
        of_layers = (part for x in self.layers for part in (x.attn, x.mlp))
        return [*self.embedding.values(), self.final_bias, *of_layers]

    @property
    def total(self) -> Tensor:
        """The sum of all terms in the model's precision; it equals `logit` up to rounding.

        The shape is (2, P).
        """
        return torch.stack(self.contributions).sum(0)

    @cached_property
    def closure(self) -> Tensor:
        """The closure error with its sign: the sum of the stored terms minus the stored logit, in float64.

        The shape is (2, P).
        """
        return torch.stack([as_stored(x).double() for x in self.contributions]).sum(0) - self.logit.float()

    @property
    def size(self) -> Tensor:
        """The sum of |term| in logits over embedding, heads, neurons and biases.

        The shape is (2, P).
        """
        layers = torch.stack([layer.size for layer in self.layers]).sum(0)
        return sum((x.abs() for x in self.embedding.values()), self.final_bias.abs()) + layers


@torch.inference_mode()
def decompose(
    model: Model, batch: Batch, keep: Keep, thresholds: Thresholds, sampled: NDArray[np.bool_]
) -> Decomposition:
    """Decompose the predictions of one batch into direct effects.

    `thresholds`: the smallest values that enter the top lists;
    `sampled`, of shape (P,): whether a stored position belongs to the sample, for which all activations are
    stored.

    Raises:
        ModelError: an activation is NaN or infinite.
    """
    tokens = torch.from_numpy(batch.tokens).to(model.device)
    forward = model.forward(tokens, resid_post=keep.lens)
    stored = Stored.of(batch, model.device, thresholds.left_out)
    scale = stored.pick(forward.scale)
    _check_finite(model, batch, stored, scale)
    normalized = model.normalized(stored.pick(forward.final), scale)
    loops = loops_for(model)
    prediction = predict(model, normalized, stored.next_ids, loops.prediction)
    # The last position of a window has no next token. There, compute with the top prediction in its place.
    # The result is not stored: the columns about the next token are NULL at this position.
    next_ids = torch.where(stored.has_next, stored.next_ids, prediction.top_id)
    targets = torch.stack([next_ids, prediction.top_id])
    directions = Directions.of(model, targets, scale)
    selection = loops.selection(tokens, stored, scale, keep, thresholds)
    in_sample = torch.from_numpy(sampled).to(model.device)
    parts = BatchParts(model, forward, stored, directions, selection, in_sample)
    layers = [parts.layer(i) for i in range(model.n_layers)]
    kept_sources, source_bound = selection.sources()
    next_logit = torch.where(stored.has_next, prediction.next_logit, prediction.top_logit)
    return Decomposition(
        stored=stored,
        prediction=prediction,
        logit=torch.stack([next_logit, prediction.top_logit]),
        logit_offset=model.mean_logit(normalized),
        scale=scale,
        embedding={
            name: directions.project(vectors)
            for name, vectors in model.embedding(stored.tokens, stored.column).items()
        },
        final_bias=model.b_U[targets],
        layers=layers,
        sources=kept_sources,
        source_bound=source_bound,
        lens=[_lens(model, stored.pick(x), stored.next_ids, loops) for x in forward.resid_post],
    )


def _check_finite(model: Model, batch: Batch, stored: Stored, scale: Tensor) -> None:
    """Raise ModelError if σ is NaN or infinite; the message names the first position with such a σ.

    σ is NaN or infinite wherever the residual stream has such a value.
    """
    wrong = (~scale.isfinite()).nonzero()
    if len(wrong):
        first = wrong[0, 0]
        window = batch.windows[int(stored.row[first])].window
        raise ModelError(
            f"{model.checkpoint.name} gives values that are no numbers (NaN or infinite), first at position "
            f"{int(stored.column[first]):,} of window {window:,}. Its weights are broken, or too large for "
            "--dtype: give another revision or model."
        )


def _lens(model: Model, residual: Tensor, next_ids: Tensor, loops: Loops) -> Prediction:
    """Return the logit lens (nostalgebraist 2020): the prediction from one layer's residual stream.

    The residual stream is normalised by its own scale, not by the final scale σ.
    """
    normalized = model.normalized(residual, model.scale(residual))
    return predict(model, normalized, next_ids, loops.prediction)


@dataclass(frozen=True)
class BatchParts:
    """A decomposer of one batch, layer by layer. The fields hold the data that all layers need."""

    model: Model
    forward: Forward
    stored: Stored
    directions: Directions
    selection: Selection
    in_sample: Tensor

    def layer(self, i: int) -> Layer:
        model, directions = self.model, self.directions
        W_O, W_out = model.writing(i)
        after_attn, after_mlp = self._post_scales(i)
        attn_scale, mlp_scale = directions.scaled(after_attn), directions.scaled(after_mlp)
        heads, norm, attention = self._heads(i, W_O, attn_scale)
        post = self.stored.pick(self.forward.post[i])
        self.forward.forget(i)
        W_out_u = directions.u.T @ W_out.T  # shape (distinct next token or top prediction, d_mlp)
        neurons = self.selection.neurons(i, post, W_out_u, directions.index, mlp_scale)
        neurons_size = neurons.size
        coded = None
        if self.selection.keep.coded:
            read = [W_out_u[side] / mlp_scale[:, None] for side in directions.index]
            coded = Coded.of(post, read, neurons.kept)
            neurons = neurons.less(coded.effect)
        attn_bias, mlp_bias = model.bias_toward[:, i, directions.tokens]
        attn_bias, mlp_bias = attn_bias / attn_scale, mlp_bias / mlp_scale
        # Round the heads' effects before they enter the top lists, the statistics and the sample, because
        # these must agree with the stored effects.
        toward_next = as_stored(heads[0])
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
            mlp_scale=after_mlp,
            size=heads.abs().sum(-1) + neurons_size + attn_bias.abs() + mlp_bias.abs(),
            sampled=(post[self.in_sample], toward_next[self.in_sample]),
            summary=LayerSummary(neurons.summary, of_heads),
        )

    def _post_scales(self, i: int) -> tuple[Tensor | None, Tensor | None]:
        """Return the scales of the norms after attention and after the MLP, or None without such norms."""
        if not self.forward.attn_scale:
            return None, None
        return self.stored.pick(self.forward.attn_scale[i]), self.stored.pick(self.forward.mlp_scale[i])

    def _heads(self, i: int, W_O: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, AttentionTerms]:
        """Return, for a layer's heads, direct effects, norms of output vectors, and a summary of attention.

        The effects have the shape (2, P, head), and the lengths the shape (P, head). `scale`, of shape (P,):
        the divisor of the effects.
        """
        forward, directions = self.forward, self.directions
        # Multiply each head's W_O by the W_U column of each distinct target token only once. Then select for
        # each position the products with its two targets, the next token and the top prediction. The result
        # has the shape (2, P, head, d_head).
        read = torch.einsum("hdm,mu->uhd", W_O, directions.u)[directions.index]
        read = read / scale[:, None, None]
        z = self.stored.pick(forward.z[i])
        gram = torch.einsum("hdm,hem->hde", W_O, W_O)
        norm = torch.einsum("phd,hde,phe->ph", z, gram, z).clamp(min=0).sqrt()
        # In Gemma 2 and 3, a norm after attention divides the outputs of heads, too. `scale` is the divisor
        # of this norm times the final scale σ, so divide by `scale` / σ. In other models, `scale` / σ is 1.
        norm = norm * (directions.scale / scale)[:, None]
        attention = self.selection.attention(i, forward.pattern[i], forward.v[i], read)
        return torch.einsum("phd,sphd->sph", z, read), norm, attention
