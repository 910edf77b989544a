"""Decompose a head's term from one source into terms of the components that the head reads there.

The term of head h from source s in a logit is A ⟨v W_O, u⟩/σ, where v is the value at s without the value
bias, which is part of b_O. With the norm folded, v is (1/σ_s) Σ_c x_c(s) W_V, a sum over the components c
before the layer. So the term is a sum over these components: each summand is a path from a neuron or head at
s through head h to the logit (Elhage et al. 2021). The attention A and the scales σ and σ_s of the norms are
frozen. tests/test_moved.py compares the terms with Hugging Face's model.
"""

from collections.abc import Sequence

import numpy as np
import torch

from annotate_transformer.ingest.attribution.toward import direction_of, numbers, reading
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.weights.head_scores import written_before
from annotate_transformer.store.running import Direction, Moved


@torch.inference_mode()
def moved(
    model: Model, tokens: Sequence[int], layer: int, head: int, source: int | None, direction: Direction
) -> Moved:
    """Decompose a head's term from a source to the last of `tokens`, as an effect along a direction.

    `source`: index of the source in the window; None for the token to which the head attends most.
    """
    ids = torch.tensor([list(tokens)], device=model.device)
    forward, residual = model.forward(ids), model.residual_before(layer, ids)[0]
    attention = forward.pattern[layer][0, head, -1]
    at = int(attention.argmax()) if source is None else source
    u, _ = direction_of(model, direction)
    of_attn, _ = reading(model, forward, u, layer)
    through = model.W_O[layer, head] @ of_attn * attention[at]
    read = model.centred(model.W_V[layer, head] @ through) / model.scale(residual[at])
    names, written = written_before(model, forward, ids, layer, at)
    # Leave out the terms of whole MLPs, because each of their neurons gets a value of its own.
    effects = dict(zip(names, (written * read).double().sum(-1), strict=True))
    values = {name: effect for name, effect in effects.items() if name.component != "mlp"}
    neurons = [
        numbers(forward.post[i][0, at] * (model.W_out[i] @ read) / forward.post_scales(i, 0, at)[1])
        for i in range(layer)
    ]
    term = float((forward.v[layer][0, at, head] * through).double().sum())
    every = np.stack(neurons) if neurons else np.zeros((0, model.d_mlp))
    of_components = numbers(torch.stack([*values.values()]))
    return Moved(at, float(attention[at]), term, [*values], of_components, every)
