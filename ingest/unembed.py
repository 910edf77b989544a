"""What the model predicts: the unembedding in slices of the vocabulary, every figure taken on the way.

Never more than (position, SLICE) logits at once: the running maximum and the sums below are those
of an online softmax (Milakov and Gimelshein 2018), so one pass over `W_U` gives them all.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ingest.model import Model

SLICE = 256


@dataclass(frozen=True)
class Prediction:
    """Per position, all of shape (position,); logits are centred over the vocabulary.

    top_id: first choice among real tokens; next_rank: 1 + real tokens above the next one;
    normalizer: log Σ exp(logit) in nats over all d_vocab rows; entropy in nats.
    Where nothing follows (`next_id` -1), next_logit and next_rank mean nothing.
    """

    top_id: Tensor
    top_logit: Tensor
    next_logit: Tensor
    next_rank: Tensor
    normalizer: Tensor
    entropy: Tensor


def normalize(residual: Tensor, scale: Tensor) -> Tensor:
    """(x − mean x) / σ, what the final LayerNorm hands to `W_U` once its weights are folded in."""
    return (residual - residual.mean(-1, keepdim=True)) / scale[..., None]


def predict(model: Model, normalized: Tensor, next_ids: Tensor) -> Prediction:
    """Predictions from `normalized` (position, d_model) for the tokens that follow, `next_ids`."""
    rows, device = len(normalized), normalized.device
    following = next_ids.clamp(min=0)
    # Rank counts the logits above this one; the next token's own column is taken out below, since
    # a product taken alone may differ from the same one within a slice by a rounding.
    threshold = (normalized * model.W_U[:, following].T).sum(-1) + model.b_U[following]
    best = torch.full((rows,), -torch.inf, dtype=normalized.dtype, device=device)
    maximum, top_id = best.clone(), torch.zeros(rows, dtype=torch.long, device=device)
    next_logit, total, weighted, above = (torch.zeros_like(best) for _ in range(4))
    for start in range(0, model.d_vocab, SLICE):
        stop = min(start + SLICE, model.d_vocab)
        logits = torch.addmm(model.b_U[start:stop], normalized, model.W_U[:, start:stop])
        here = (following >= start) & (following < stop)
        own = logits.gather(1, (following - start).clamp(0, stop - start - 1)[:, None]).squeeze(1)
        next_logit = torch.where(here, own, next_logit)
        real = logits[:, : max(0, model.n_tokens - start)]
        if real.shape[1]:
            # 1 where a logit is above the threshold, else 0: summing booleans is four times slower
            above += (real - threshold[:, None]).clamp_(min=0).sign_().sum(-1)
            above -= (here & (own > threshold)).to(above.dtype)
            value = real.amax(-1)
            better = (value > best).nonzero().squeeze(1)
            top_id[better] = real[better].argmax(-1) + start
            best = torch.maximum(best, value)
        raised = torch.maximum(maximum, logits.amax(-1) if stop > model.n_tokens else value)
        shrink = (maximum - raised).exp()
        weights = (logits - raised[:, None]).exp_()
        total = total * shrink + weights.sum(-1)
        weighted = weighted * shrink + weights.mul_(logits).sum(-1)
        maximum = raised
    normalizer = maximum + total.log()
    # Near ties may round apart between `threshold` and a slice; first choice and rank 1 are one fact.
    rank = torch.where(top_id == following, 1, (above.long() + 1).clamp(min=2))
    return Prediction(top_id, best, next_logit, rank, normalizer, normalizer - weighted / total)
