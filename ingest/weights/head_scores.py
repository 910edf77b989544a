"""Decompose a head's attention score, before the softmax, into one term for each pair of components.

With the norm folded into the weights, the query at position p is (1/σ_p) Σ_c x_c(p) W_Q + b_Q, and the key at
source s is (1/σ_s) Σ_c x_c(s) W_K + b_K. The score is their product after the rotary embedding, times a
factor, so it is a sum over pairs (c at p, c at s) of components before the layer, with the biases as one more
component on either side (Elhage et al. 2021). σ is the scale of the norm before attention, frozen at its
value; so are the scales of the norms of queries and keys in families that have them. ALiBi adds a term that
depends on the distance alone. tests/test_head_scores.py compares the scores with Hugging Face's attention.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from annotate_transformer.ingest.attribution.toward import numbers
from annotate_transformer.ingest.models.hooks import Forward
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.scores import QK
from annotate_transformer.store.running import Component, HeadScore


@torch.inference_mode()
def head_score(model: Model, tokens: Sequence[int], layer: int, head: int, source: int | None) -> HeadScore:
    """Return a head's decomposed attention score from the last of `tokens` to the token at index `source`.

    `source`: None for the token to which the head attends most.
    """
    ids = torch.tensor([list(tokens)], device=model.device)
    forward, residual = model.forward(ids), model.residual_before(layer, ids)[0]
    here, attention = len(tokens) - 1, forward.pattern[layer][0, head, -1]
    there = int(attention.argmax()) if source is None else source
    names, at_query = written_before(model, forward, ids, layer, here)
    _, at_key = written_before(model, forward, ids, layer, there)
    qk = QK(model, layer)
    W_Q, b_Q = model.W_Q[layer, head], model.b_Q[layer, head]
    W_K, b_K = model.W_K[layer, head], model.b_K[layer, head]
    scale = model.scale(residual)
    queries = torch.cat([model.normalized(at_query, scale[here]) @ W_Q, b_Q[None]])
    keys = torch.cat([model.normalized(at_key, scale[there]) @ W_K, b_K[None]])
    query = model.normalized(residual[here], scale[here]) @ W_Q + b_Q
    every = model.normalized(residual, scale) @ W_K + b_K
    factor = model.family.attention_scale(model)
    rotated = model.rotated(_normed(qk.queries, query, queries), here - there, layer)
    pairs = rotated @ _normed(qk.keys, every[there], keys).T * factor
    scores = [
        float(qk.uncapped(model.rotated(qk.queries(query), here - s, layer) @ qk.keys(key), here - s, head))
        for s, key in enumerate(every)
    ]
    distance_bias = float(qk.uncapped(pairs.new_zeros(()), here - there, head))
    return HeadScore(
        there, [*names, Component("b_Q")], [*names, Component("b_K")], numbers(pairs), distance_bias,
        scores[there], numbers(attention), np.array(scores), model.score_cap,
    )  # fmt: skip


def written_before(
    model: Model, forward: Forward, ids: Tensor, layer: int, position: int
) -> tuple[list[Component], Tensor]:
    """Return the components before a layer, and their outputs at a position: shape (component, d_model)."""
    token, place = ids[0, position], torch.tensor(position, device=model.device)
    terms = {Component(name): vector for name, vector in model.embedding(token, place).items()}
    for i in range(layer):
        after_attn, after_mlp = forward.post_scales(i, 0, position)
        heads = torch.einsum("hd,hdm->hm", forward.z[i][0, position], model.W_O[i]) / after_attn
        terms |= {Component("head", i, head): vector for head, vector in enumerate(heads)}
        terms[Component("attn_bias", i)] = model.b_O[i] / after_attn
        terms[Component("mlp", i)] = forward.post[i][0, position] @ model.W_out[i] / after_mlp
        terms[Component("mlp_bias", i)] = model.b_out[i] / after_mlp
    return [*terms], torch.stack([*terms.values()])


def _normed(norm: Callable[[Tensor], Tensor], whole: Tensor, parts: Tensor) -> Tensor:
    """Apply the norm of queries or keys to the terms `parts`, with the frozen scale of their sum `whole`."""
    return parts * torch.where(whole == 0, 0, norm(whole) / whole)
