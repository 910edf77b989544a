"""Compute attention patterns and the logit lens over the last tokens of a window, without storing them.

The lens (nostalgebraist 2020) is that of `attribution.decompose`. The direct effect of a head from a source s
on the next token t of a destination d is A[d, s] ⟨v[s] W_O, W_U[:, t]⟩/σ[d], as in `attribution.toward`.
tests/test_patterns.py compares both with Hugging Face's own forward pass.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from annotate_transformer.ingest.attribution.toward import numbers
from annotate_transformer.ingest.attribution.unembed import unembedded
from annotate_transformer.ingest.models.hooks import Forward
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.store.running import LensTop, Patterns


@torch.inference_mode()
def lens(model: Model, tokens: Sequence[int], last: int, k: int) -> LensTop:
    """Return the k most likely next tokens by each layer's residual stream, at the last `last` tokens."""
    forward = model.forward(torch.tensor([list(tokens)], device=model.device), resid_post=True)
    ids, logprobs = [], []
    for residual in forward.resid_post:
        here = residual[0, -last:]
        logits, all_logprobs = unembedded(model, model.normalized(here, model.scale(here)))
        top = logits[:, : model.n_tokens].topk(min(k, model.n_tokens)).indices
        ids.append(top)
        logprobs.append(all_logprobs.gather(-1, top))
    return LensTop(torch.stack(ids).cpu().numpy(), numbers(torch.stack(logprobs)))


@torch.inference_mode()
def patterns(model: Model, tokens: Sequence[int], last: int, next_ids: Sequence[int | None]) -> Patterns:
    """Return attention and direct effects of all heads between the last `last` tokens of a window.

    next_ids: the next token of each of these tokens, or None, where the effects are NaN
    """
    forward = model.forward(torch.tensor([list(tokens)], device=model.device))
    targets = torch.tensor([0 if token is None else token for token in next_ids], device=model.device)
    u = model.centred(model.W_U[:, targets], dim=0) / forward.scale[0, -last:]  # (d_model, destination)
    u[:, [token is None for token in next_ids]] = torch.nan
    attention, effects = zip(
        *(_layer(model, forward, i, last, u) for i in range(model.n_layers)), strict=True
    )
    return Patterns(numbers(torch.stack(attention)), numbers(torch.stack(effects)))


def _layer(model: Model, forward: Forward, i: int, last: int, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return attention and direct effects of a layer's heads, of shape (head, destination, source)."""
    W_O, _ = model.writing(i)
    after_attn, _ = forward.post_scales(i, 0, slice(-last, None))
    read = torch.einsum("hdm,mp->hpd", W_O, u / after_attn)
    attention = forward.pattern[i][0, :, -last:, -last:]
    return attention, attention * torch.einsum("shd,hpd->hps", forward.v[i][0, -last:], read)
