"""What a neuron's weights say: the tokens it writes towards.

All on the processed weights (LayerNorm folded, what writes and `W_U` centred), layer by layer.
"""

import torch
from torch import Tensor

from ingest.model import Model
from ingest.slices import largest, slices


def vocabulary(model: Model, layer: int, k: int) -> tuple[Tensor, Tensor]:
    """The k tokens that each neuron of `layer` promotes most, and the k it suppresses most.

    By congruence ⟨W_out[l,n], W_U[:,t]⟩ (Neo, Cohen and Barez 2024), real tokens only, ties by
    token id. Congruences and token ids, both (neuron, direction, k): promoted first, the strongest first.
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
