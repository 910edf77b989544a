"""Decompose a prediction along any residual-stream direction into terms of heads, neurons and sources.

The formula is that of `attribution.decompose`, for one position and one direction u. The direction is a
column of W_U, a mean of columns, a difference of two of these, or any vector in place of a column of W_U. All
terms are returned and none is rounded, so they sum to the logit up to the float errors of the forward pass.
tests/test_toward.py compares the terms with Hugging Face's own forward pass.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from annotate_transformer.ingest.attribution.unembed import unembedded
from annotate_transformer.ingest.errors import SettingsError
from annotate_transformer.ingest.models.hooks import Forward
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.store.running import Direction, Terms, Values


@torch.inference_mode()
def toward(
    model: Model, tokens: Sequence[int], direction: Direction, forward: Forward | None = None
) -> Terms:
    """Return all terms of the prediction after the last of `tokens`, along a direction.

    `forward`: the forward pass over `tokens`, if there was one already.

    Raises:
        SettingsError: the vector of `direction` does not have d_model numbers.
    """
    u, bias = direction_of(model, direction)
    forward = forward or model.forward(torch.tensor([list(tokens)], device=model.device))
    scale = forward.scale[0, -1]
    normalized = model.normalized(forward.final[0, -1], scale)
    if direction.is_logprob:
        u, bias = _of_logprob(model, normalized, *direction.token_ids)
    positions = torch.tensor([len(tokens) - 1], device=model.device)
    embedded = model.embedding(torch.tensor([tokens[-1]], device=model.device), positions)
    layers: list[tuple[Tensor, ...]] = []
    for i in range(model.n_layers):
        W_O, W_out = model.writing(i)
        of_attn, of_mlp = reading(model, forward, u, i)
        # Take both tensors at the last token: `pattern`, of shape (head, source), and `post`, of shape
        # (neuron,).
        pattern, post = forward.pattern[i][0, :, -1], forward.post[i][0, -1]
        through = torch.einsum("shd,hd->hs", forward.v[i][0], W_O @ of_attn)
        layers.append(
            (
                pattern,
                pattern * through,
                post,
                post * (W_out @ of_mlp),
                model.b_O[i] @ of_attn,
                model.b_out[i] @ of_mlp,
            )
        )
    attention, sources, activations, neurons, attn_bias, mlp_bias = (
        numbers(torch.stack(part)) for part in zip(*layers, strict=True)
    )
    return Terms(
        total=float(normalized.double() @ u.double()) + bias,
        scale=float(scale),
        offset=float(model.mean_logit(normalized)),
        embedding={
            name: float(vector[0].double() @ (model.centred(u) / scale).double())
            for name, vector in embedded.items()
        },
        final_bias=bias,
        attn_bias=attn_bias,
        mlp_bias=mlp_bias,
        activations=activations,
        neurons=neurons,
        attention=attention,
        sources=sources,
    )


def reading(model: Model, forward: Forward, u: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Return the vectors whose inner products with a layer's attention and MLP outputs are direct effects.

    They are for the outputs at the last token: u, of shape (d_model,), divided by σ and, in Gemma 2 and 3, by
    the scale of the norm after attention or after the MLP.
    """
    after_attn, after_mlp = forward.post_scales(layer, 0, -1)
    read = model.centred(u) / forward.scale[0, -1]
    return read / after_attn, read / after_mlp


@torch.inference_mode()
def predicted(model: Model, tokens: Sequence[int], forward: Forward | None = None) -> tuple[Tensor, Tensor]:
    """Return centred logits and log-probabilities after the last of `tokens`, both of shape (d_vocab,)."""
    forward = forward or model.forward(torch.tensor([list(tokens)], device=model.device))
    return unembedded(model, model.normalized(forward.final[0, -1], forward.scale[0, -1]))


def ranks(model: Model, logits: Tensor, token: int) -> Tensor:
    """Return the rank of `token`, which is 1 + the number of real tokens with a larger logit.

    `logits` has the shape (…, d_vocab), and the result the shape (…).
    """
    return 1 + (logits[..., : model.n_tokens] > logits[..., token, None]).sum(-1)


def likeliest(model: Model, tokens: Sequence[int], k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, centred logits and probabilities of the k most likely tokens after the last of `tokens`."""
    logits, logprobs = predicted(model, tokens)
    ids = logits[: model.n_tokens].topk(min(k, model.n_tokens)).indices
    return ids, logits[ids], logprobs[ids].exp()


def direction_of(model: Model, direction: Direction) -> tuple[Tensor, float]:
    """Return the direction as a vector u, of shape (d_model,), and the constant term from the bias b_U."""
    if direction.vector is not None:
        if direction.vector.shape != (model.d_model,):
            raise SettingsError(
                f"The direction has the shape {direction.vector.shape}; {model.checkpoint.name} needs "
                f"({model.d_model},), one number for each dimension of the residual stream."
            )
        return torch.from_numpy(direction.vector).to(model.device, model.dtype), 0.0
    plus, minus = (list(ids) for ids in (direction.token_ids, direction.minus_ids))
    u, bias = model.W_U[:, plus].mean(-1), float(model.b_U[plus].double().mean())
    if not minus:
        return u, bias
    return u - model.W_U[:, minus].mean(-1), bias - float(model.b_U[minus].double().mean())


def _of_logprob(model: Model, normalized: Tensor, token: int) -> tuple[Tensor, float]:
    """Return a log-probability's gradient with respect to the normalised residual stream, and the bias term.

    The gradient is W_U[:, t] − Σ_v p_v W_U[:, v]; a soft-cap multiplies each column by its own derivative.
    The log-probability is not linear, so terms along the gradient are first-order (docs/concepts.md).
    """
    logits, logprobs = unembedded(model, normalized)
    weights = -logprobs.exp()
    weights[token] += 1
    if model.logit_cap is None:
        return model.W_U @ weights, float((model.b_U * weights).double().sum())
    # With a soft-cap, adding the same number to all logits before the cap changes the log-probability. So the
    # log-probability also depends on the mean logit. Centring subtracted it, so add it again.
    weights *= 1 - ((logits + model.mean_logit(normalized)) / model.logit_cap).tanh() ** 2
    whole = weights.sum()
    u, bias = model.W_U @ weights, float((model.b_U * weights).double().sum())
    return u + whole * model.offset_direction, bias + float(whole) * model.offset_bias


def numbers(tensor: Tensor) -> Values:
    return np.asarray(tensor.double().cpu().numpy())
