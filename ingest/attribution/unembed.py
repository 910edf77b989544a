"""What the model predicts: the unembedding in slices of the vocabulary, every figure taken on the way.

Never more than (position, SLICE) logits at once: the running maximum and the sums below are those
of an online softmax (Milakov and Gimelshein 2018), so one pass over `W_U` gives them all.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from annotate_transformer.ingest.models.model import Model

SLICE = 768


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


def predict(
    model: Model, normalized: Tensor, next_ids: Tensor, running_of: Callable[..., "RunningPrediction"]
) -> Prediction:
    """Return predictions from `normalized` (position, d_model) for the next tokens, `next_ids`.

    running_of: `RunningPrediction`, or what stands in for it (`attribution.loops`).
    """
    following = next_ids.clamp(min=0)
    # Rank counts the logits above this one; the next token's own column is not counted, since a
    # product taken alone may differ from the same one within a slice by a rounding.
    threshold = (normalized * model.W_U[:, following].T).sum(-1) + model.b_U[following]
    running = running_of(following, threshold)
    logits = normalized.new_empty(len(normalized), SLICE)
    for start in range(0, model.d_vocab, SLICE):
        stop = min(start + SLICE, model.d_vocab)
        logits = logits if stop - start == SLICE else normalized.new_empty(len(normalized), stop - start)
        torch.addmm(model.b_U[start:stop], normalized, model.W_U[:, start:stop], out=logits)
        running.absorb(logits, start, real=min(max(0, model.n_tokens - start), stop - start))
    return running.prediction()


class RunningPrediction:
    """The figures of `Prediction` over the slices so far, each (position,).

    total, weighted: Σ exp(logit − maximum), and the same weighted with the logit.
    """

    def __init__(self, following: Tensor, threshold: Tensor) -> None:
        self.following, self.threshold = following, threshold
        self.best, self.maximum = (torch.full_like(threshold, -torch.inf) for _ in range(2))
        self.own, self.total, self.weighted = (torch.zeros_like(threshold) for _ in range(3))
        self.top_id, self.above = torch.zeros_like(following), torch.zeros_like(following)

    def absorb(self, logits: Tensor, start: int, real: int) -> None:
        """logits (position, slice) of tokens from `start` on, of which `real` are not padding."""
        here = (self.following >= start) & (self.following < start + logits.shape[1])
        place = (self.following - start).clamp(0, logits.shape[1] - 1)[:, None]
        own = logits.gather(1, place).squeeze(1)
        self.own = torch.where(here, own, self.own)
        if real:
            tokens = logits[:, :real]
            above = tokens > self.threshold[:, None]
            self.above += above.sum(-1) - (here & (own > self.threshold)).long()
            value, index = tokens.max(-1)
            better = value > self.best
            self.top_id = torch.where(better, index + start, self.top_id)
            self.best = torch.where(better, value, self.best)
        raised = torch.maximum(self.maximum, logits.amax(-1))
        shrink = (self.maximum - raised).exp()
        weights = (logits - raised[:, None]).exp()
        self.total = self.total * shrink + weights.sum(-1)
        self.weighted = self.weighted * shrink + (weights * logits).sum(-1)
        self.maximum = raised

    def prediction(self) -> Prediction:
        normalizer = self.maximum + self.total.log()
        # Near ties may round apart between `threshold` and a slice; first choice and rank 1 are one
        # fact.
        rank = torch.where(self.top_id == self.following, 1, (self.above + 1).clamp(min=2))
        entropy = normalizer - self.weighted / self.total
        return Prediction(self.top_id, self.best, self.own, rank, normalizer, entropy)
