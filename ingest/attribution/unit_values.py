"""Compute the values of all neurons and heads at some tokens of a window, without storing them.

The formula is that of `attribution.decompose`: a neuron's value is its activation, and a head's value is its
direct effect on the next token, ⟨z, W_O W_U[:, t]⟩/σ.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from annotate_transformer.ingest.models.model import Model


@torch.inference_mode()
def unit_values(
    model: Model, tokens: Sequence[int], places: Sequence[int], next_ids: Sequence[int | None]
) -> dict[str, NDArray[np.float32]]:
    """Return activations, of shape (layer, place, neuron), and effects of heads, (layer, place, head).

    places: indexes in `tokens`; next_ids: the next token of each place, or None, where effects are NaN
    """
    forward = model.forward(torch.tensor([list(tokens)], device=model.device))
    at = torch.tensor(places, device=model.device)
    targets = torch.tensor([0 if token is None else token for token in next_ids], device=model.device)
    u = model.centred(model.W_U[:, targets], dim=0) / forward.scale[0, at]  # (d_model, place)
    u[:, [token is None for token in next_ids]] = torch.nan
    neurons, heads = [], []
    for i in range(model.n_layers):
        W_O, _ = model.writing(i)
        after_attn, _ = forward.post_scales(i, 0, at)
        read = torch.einsum("hdm,mp->phd", W_O, u / after_attn)
        heads.append((forward.z[i][0, at] * read).sum(-1))
        neurons.append(forward.post[i][0, at])
    return {"neuron": _floats(neurons), "head": _floats(heads)}


def _floats(layers: list[Tensor]) -> NDArray[np.float32]:
    return np.asarray(torch.stack(layers).float().cpu())
