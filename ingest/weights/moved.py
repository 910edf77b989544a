"""Decompose a head's term from one source into the components that the head reads at the source.

The term of head h from source s in a logit is A ⟨v W_O, u⟩/σ, where v is the value at s without the value
bias, which is part of b_O. With the norm folded, v is (1/σ_s) Σ_c x_c(s) W_V, a sum over the components c
before the layer. So the term is a sum over these components: each summand is a path from a neuron or head at
s through head h to the logit (Elhage et al. 2021). The attention A and the scales σ and σ_s of the norms are
frozen. tests/test_moved.py compares the terms with Hugging Face's model.
"""

from collections.abc import Sequence

import numpy as np
import torch

from annotate_transformer.ingest.attribution.toward import direction_of
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.store.running import Component, Direction, Moved


@torch.inference_mode()
def moved(
    model: Model, tokens: Sequence[int], layer: int, head: int, source: int | None, direction: Direction
) -> Moved:
    """Decompose a head's term from a source to the last of `tokens`, toward a direction.

    `source`: index of the source in the window; None for the token to which the head attends most.
    """
    ids = torch.tensor([list(tokens)], device=model.device)
    forward, residual = model.forward(ids), model.residual_before(layer, ids)[0]
    attention = forward.pattern[layer][0, head, -1]
    at = int(attention.argmax()) if source is None else source
    u, _ = direction_of(model, direction)
    scale = forward.scale[0, -1] * (forward.attn_scale[layer][0, -1] if forward.attn_scale else 1)
    through = model.W_O[layer, head] @ model.centred(u) / scale * attention[at]
    read = model.centred(model.W_V[layer, head] @ through) / model.scale(residual[at])
    names, values = list[Component](), list[float]()

    def add(name: Component, vector: torch.Tensor) -> None:
        names.append(name)
        values.append(float((vector * read).double().sum()))

    for name, vector in model.embedding(ids[0, at], torch.tensor(at, device=model.device)).items():
        add(Component(name), vector)
    neurons = []
    for i in range(layer):
        after_attn, after_mlp = (
            scales[i][0, at] if scales else 1.0 for scales in (forward.attn_scale, forward.mlp_scale)
        )
        for h, z in enumerate(forward.z[i][0, at]):
            add(Component("head", i, h), z @ model.W_O[i, h] / after_attn)
        add(Component("attn_bias", i), model.b_O[i] / after_attn)
        add(Component("mlp_bias", i), model.b_out[i] / after_mlp)
        neurons.append((forward.post[i][0, at] * (model.W_out[i] @ read) / after_mlp).double().cpu().numpy())
    term = float((forward.v[layer][0, at, head] * through).double().sum())
    every = np.stack(neurons) if neurons else np.zeros((0, model.d_mlp))
    return Moved(at, float(attention[at]), term, names, np.array(values), every)
