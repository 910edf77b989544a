"""Compute a model's predictions: log-probabilities, ranks and entropy, in slices of the vocabulary.

Probabilities are computed after the model's soft-cap of the logits, if it has one; the logits are those
before it. Only logits of shape (position, SLICE) are in memory at a time. The running maximum and sums are
those of an online softmax (Milakov and Gimelshein 2018), so one pass over `W_U` gives all results.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from annotate_transformer.ingest.models.model import Model

SLICE = 768


@dataclass(frozen=True)
class Prediction:
    """The prediction at each position. All tensors have shape (position,).

    `top_logit`, `next_logit`: centred logits, before a soft-cap;
    `top_logprob`, `next_logprob`: log-probabilities in nats, after a soft-cap.
    `top_id`: id of the top prediction among real tokens (not padding);
    `next_rank`: 1 + number of real tokens with a larger logit than the next token;
    `entropy`: entropy of the prediction over all d_vocab rows, in nats.
    Without a next token (`next_id` -1), the values of the next token are undefined.
    """

    top_id: Tensor
    top_logit: Tensor
    next_logit: Tensor
    top_logprob: Tensor
    next_logprob: Tensor
    next_rank: Tensor
    entropy: Tensor


def predict(
    model: Model, normalized: Tensor, next_ids: Tensor, running_of: Callable[..., "RunningPrediction"]
) -> Prediction:
    """Compute the prediction at each position.

    `normalized`, of shape (position, d_model): the normalised residual stream;
    `next_ids`: ids of the next tokens;
    `running_of`: `RunningPrediction` or its compiled version (`attribution.loops`).
    """
    following = next_ids.clamp(min=0)
    offset = model.mean_logit(normalized)
    # The rank of the next token is 1 + the number of other tokens with a logit above `next_logit`. The next
    # token itself must not be counted: its logit is computed a second time, in a slice of the vocabulary, and
    # may then exceed `next_logit` by a rounding error.
    next_logit = _logits_of(model, normalized, following)
    running = running_of(following, model.capped(next_logit, offset))
    logits = normalized.new_empty(len(normalized), SLICE)
    for start in range(0, model.d_vocab, SLICE):
        stop = min(start + SLICE, model.d_vocab)
        logits = logits if stop - start == SLICE else normalized.new_empty(len(normalized), stop - start)
        torch.addmm(model.b_U[start:stop], normalized, model.W_U[:, start:stop], out=logits)
        running.absorb(
            model.capped(logits, offset[:, None]),
            start,
            real=min(max(0, model.n_tokens - start), stop - start),
        )
    prediction = running.prediction()
    if model.logit_cap is None:
        return prediction
    top_logit = _logits_of(model, normalized, prediction.top_id)
    return replace(prediction, top_logit=top_logit, next_logit=next_logit)


def unembedded(model: Model, normalized: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centred logits and the log-probabilities, in nats, of the whole vocabulary at once.

    Use it only for a few positions, as it needs much memory. `normalized`, of shape (…, d_model): the
    normalised residual stream. The results have the shape (…, d_vocab).
    """
    logits = normalized @ model.W_U + model.b_U
    return logits, model.capped(logits, model.mean_logit(normalized)[..., None]).log_softmax(-1)


def _logits_of(model: Model, normalized: Tensor, token_ids: Tensor) -> Tensor:
    """Return, for each position, the centred logit of the token that `token_ids` gives for the position."""
    logits: Tensor = (normalized * model.W_U[:, token_ids].T).sum(-1) + model.b_U[token_ids]
    return logits


class RunningPrediction:
    """The running values from which a `Prediction` is computed, updated slice by slice of the vocabulary.

    Each attribute is a tensor of shape (position,), computed from the slices added so far.
    `total`: Σ exp(logit − maximum); `weighted`: the same sum with each term multiplied by its logit.
    """

    def __init__(self, following: Tensor, threshold: Tensor) -> None:
        self.following, self.threshold = following, threshold
        self.best, self.maximum = (torch.full_like(threshold, -torch.inf) for _ in range(2))
        self.own, self.total, self.weighted = (torch.zeros_like(threshold) for _ in range(3))
        self.top_id, self.above = torch.zeros_like(following), torch.zeros_like(following)

    def absorb(self, logits: Tensor, start: int, real: int) -> None:
        """Update the running values with the logits of consecutive token ids, the first of which is `start`.

        `logits` has the shape (position, token); `real`: number of these tokens that are not padding.
        """
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
        # `above` is the number of tokens with a larger logit than the next token. By a rounding error it may
        # contradict `top_id`. So set the rank to 1 if the next token is the top prediction, and otherwise to
        # at least 2.
        rank = torch.where(self.top_id == self.following, 1, (self.above + 1).clamp(min=2))
        return Prediction(
            self.top_id, self.best, self.own, self.best - normalizer, self.own - normalizer, rank,
            entropy=normalizer - self.weighted / self.total,
        )  # fmt: skip
