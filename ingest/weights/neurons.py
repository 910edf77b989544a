"""Compute weight norms of neurons, the tokens that neurons promote, and the components that they read.

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
        congruence = model.W_out[layer, rows] @ W_U  # shape (neuron, token)
        high, promoted = largest(congruence, k)
        low, suppressed = largest(congruence.neg_(), k)
        congruences.append(torch.stack([high, -low], 1))
        token_ids.append(torch.stack([promoted, suppressed], 1))
    return torch.cat(congruences), torch.cat(token_ids)


def statistics(model: Model, layer: int) -> dict[str, Tensor]:
    """Return each neuron's weight norms, bias, and cosine of input and output weights, of shape (neuron,).

    `in_norm`, `out_norm`: ‖W_in[l,:,n]‖ and ‖W_out[l,n]‖;
    `cosine`: cosine of both vectors' angle, near -1 for a neuron that erases the direction it reads;
    `bias`: b_in in units of pre-activation, including the norm's bias;
    `gate_norm`, `gate_cosine`, `gate_bias`: the same of W_gate and b_gate, only in a gated MLP.
    """
    W_out = model.W_out[layer]
    out_norm = W_out.norm(dim=-1)

    def read(W: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        norm = W[layer].norm(dim=0)
        return norm, (W[layer].T * W_out).sum(-1) / (norm * out_norm), b[layer]

    found = dict(zip(("in_norm", "cosine", "bias"), read(model.W_in, model.b_in), strict=True))
    if model.is_gated:
        gate = read(model.W_gate, model.b_gate)
        found |= dict(zip(("gate_norm", "gate_cosine", "gate_bias"), gate, strict=True))
    return found | {"out_norm": out_norm}


def readings(model: Model) -> dict[str, Tensor]:
    """Return the neurons' input weights as a dictionary with the key `pre`, and `pre_linear` in a gated MLP.

    The shapes are (layer, d_model, d_mlp).
    """
    return {"pre": model.W_gate} | ({"pre_linear": model.W_in} if model.is_gated else {})


def from_heads(model: Model, W: Tensor, layer: int, k: int) -> tuple[Tensor, Tensor]:
    """Return for each neuron of `layer` the k earlier heads with the largest virtual weights to the neuron.

    `W`, of shape (d_model, neuron): input weights of the layer's neurons (`readings`).

    The virtual weight is ‖W_O[h] W[:,n]‖ (Elhage et al. 2021), per unit of z, if the norm between head and
    neuron has σ = 1. Returns weights and sources, both of shape (neuron, k);
    source = head's layer · n_heads + head.
    """
    # In a parallel block, the MLP does not read the output of attention. So a head cannot feed the neurons of
    # its own layer.
    heads = model.W_O[: layer if model.parallel_residual else layer + 1].flatten(0, 1)
    weight = heads.new_empty(model.d_mlp, len(heads))
    for head, W_O in enumerate(heads):
        weight[:, head] = (W_O @ W).norm(dim=0)
    return largest(weight, min(k, len(heads)))


def from_neurons(model: Model, W: Tensor, layer: int, k: int) -> tuple[Tensor, Tensor]:
    """Return for each neuron of `layer` the k neurons of earlier layers with the largest |virtual weight|.

    `W`, of shape (d_model, neuron): input weights of the layer's neurons (`readings`).

    The virtual weight is W_out[m,i] W[:,n], per unit of activation, if the norm between has σ = 1. Returns
    weights and sources, both of shape (neuron, k); source = m · d_mlp + i.
    """
    W_out = model.W_out[:layer].flatten(0, 1)
    weights, sources = [], []
    for rows in slices(model.d_mlp, len(W_out)):
        weight = W[:, rows].T @ W_out.T  # shape (neuron, earlier neuron)
        _, source = largest(weight.abs(), min(k, len(W_out)))
        weights.append(weight.gather(1, source))
        sources.append(source)
    return torch.cat(weights), torch.cat(sources)
