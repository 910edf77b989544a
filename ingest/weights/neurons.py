"""Compute from neurons' weights which tokens they promote, which components they read, and their norms.

All functions use processed weights (norms folded, writing weights and `W_U` centred), one layer at a time.
"""

import torch
from torch import Tensor

from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.weights.slices import largest, slices


def vocabulary(model: Model, layer: int, k: int) -> tuple[Tensor, Tensor]:
    """Return the k tokens that each neuron of `layer` promotes most, and the k that it suppresses most.

    Tokens are ranked by congruence ⟨W_out[l,n], W_U[:,t]⟩ (Neo, Cohen and Barez 2024), ties by token id;
    padding rows are left out. Returns congruences and token ids, both of shape (neuron, direction, k); the
    promoted tokens are first.
    """
    W_U = model.W_U[:, : model.n_tokens]
    congruences, token_ids = [], []
    for rows in slices(model.d_mlp, model.n_tokens):
        congruence = model.W_out[layer, rows] @ W_U  # (neuron, token)
        high, promoted = largest(congruence, k)
        low, suppressed = largest(congruence.neg_(), k)
        congruences.append(torch.stack([high, -low], 1))
        token_ids.append(torch.stack([promoted, suppressed], 1))
    return torch.cat(congruences), torch.cat(token_ids)


def statistics(model: Model, layer: int) -> dict[str, Tensor]:
    """Return norms, cosine and bias of the weights of each neuron of `layer`, as tensors of shape (neuron,).

    `in_norm`, `out_norm`: ‖W_in[l,:,n]‖ and ‖W_out[l,n]‖;
    `cosine`: cosine of both vectors' angle, near -1 for a neuron that erases the direction it reads;
    `bias`: b_in in units of pre-activation, including the norm's bias.
    """
    W_in, W_out = model.W_in[layer].T, model.W_out[layer]
    in_norm, out_norm = W_in.norm(dim=-1), W_out.norm(dim=-1)
    cosine = (W_in * W_out).sum(-1) / (in_norm * out_norm)
    return {"in_norm": in_norm, "out_norm": out_norm, "cosine": cosine, "bias": model.b_in[layer]}


def from_heads(model: Model, layer: int, k: int) -> tuple[Tensor, Tensor]:
    """Return for each neuron of `layer` the k earlier heads with the largest virtual weights to the neuron.

    The virtual weight is ‖W_O[h] W_in[l,:,n]‖ (Elhage et al. 2021), in pre-activation units per unit of
    z, if the norm between head and neuron has σ = 1. Returns weights and sources, both of shape (neuron, k);
    source = head's layer · n_heads + head.
    """
    # In a parallel block a head cannot feed the neurons of its own layer.
    heads = model.W_O[: layer if model.parallel_residual else layer + 1].flatten(0, 1)
    weight = heads.new_empty(model.d_mlp, len(heads))
    for head, W_O in enumerate(heads):
        weight[:, head] = (W_O @ model.W_in[layer]).norm(dim=0)
    return largest(weight, min(k, len(heads)))


def from_neurons(model: Model, layer: int, k: int) -> tuple[Tensor, Tensor]:
    """Return for each neuron of `layer` the k neurons of earlier layers with the largest |virtual weight|.

    The virtual weight is W_out[m,i] W_in[l,:,n], in pre-activation units per unit of activation at σ = 1.
    Returns weights and sources, both of shape (neuron, k); source = m · d_mlp + i.
    """
    W_out = model.W_out[:layer].flatten(0, 1)
    weights, sources = [], []
    for rows in slices(model.d_mlp, len(W_out)):
        weight = model.W_in[layer, :, rows].T @ W_out.T  # (neuron, source)
        _, source = largest(weight.abs(), min(k, len(W_out)))
        weights.append(weight.gather(1, source))
        sources.append(source)
    return torch.cat(weights), torch.cat(sources)
