"""Measure the behaviours of attention heads, such as previous-token and induction attention.

To add a behaviour, add a `Measure` to `MEASURES`, compute the same values in the loop of
`attribution.fast.attention`, and add the behaviour's name to the view head_stats in schema.sql.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from annotate_transformer.ingest.attribution.steps import OF_ATTENTION, in_steps
from annotate_transformer.ingest.attribution.stored import Stored


@dataclass(frozen=True)
class Repeats:
    """Masks of the earlier occurrences of each position's token, and of the tokens after these occurrences.

    `duplicate`, of shape (P, source): 1 if the source is an earlier occurrence of the same token;
    `induction`, of the same shape: 1 if the source follows such an occurrence (Olsson et al. 2022;
    TransformerLens's head_detector);
    `present`, of shape (P,): whether the position's token occurred before in its window.
    """

    duplicate: Tensor
    induction: Tensor
    present: Tensor

    @staticmethod
    def of(tokens: Tensor, stored: Stored) -> "Repeats":
        equal = stored.pick((tokens[:, :, None] == tokens[:, None, :]).tril(-1))
        after = torch.zeros_like(equal)
        after[:, 1:] = equal[:, :-1]
        return Repeats(equal.float(), after.float(), equal.any(-1))


@dataclass(frozen=True)
class Attention:
    """The attention of one layer at the P stored positions of a batch.

    `pattern` has the shape (P, head, source); `column`, of shape (P,): index of each position in its window.
    """

    pattern: Tensor
    column: Tensor
    repeats: Repeats

    def toward(self, source: Tensor) -> Tensor:
        """Return each head's attention from every position to the source that is given for this position.

        `source`, of shape (P,): index of each position's source. The result has the shape (P, head).
        """
        index = source.clamp(min=0)[:, None, None].expand(-1, self.pattern.shape[1], 1)
        return self.pattern.gather(2, index).squeeze(2)

    def mass(self, sources: Tensor) -> Tensor:
        """Return each head's total attention from every position to the sources marked in `sources`.

        `sources`, of shape (P, source): 1 for the sources to sum over, else 0. The result has the shape
        (P, head).
        """
        return torch.einsum("phq,pq->ph", self.pattern, sources.to(self.pattern.dtype))

    def entropy(self) -> Tensor:
        """Return the entropy −Σ p log p in nats of each attention distribution.

        A source with p = 0 adds 0 to the entropy. The result has the shape (P, head).
        """
        tiny = torch.finfo(self.pattern.dtype).tiny  # replaces probabilities of 0, because log 0 is infinite
        return -(self.pattern.clamp(min=tiny).log_().mul_(self.pattern)).sum(-1)


@dataclass(frozen=True)
class Measure:
    """The function that measures one behaviour of attention heads, and the positions to average over.

    `of`: function from attention to values of shape (P, head);
    `over_repeats`: whether to average only over the positions whose token occurred before in the window;
    otherwise the mean is over all positions except the first of a window.
    """

    of: Callable[[Attention], Tensor]
    over_repeats: bool = False


# MEASURES follow Olsson et al. (2022). The measures `duplicate` and `induction` are those of the module
# head_detector in TransformerLens.
MEASURES = {
    "self": Measure(lambda attention: attention.toward(attention.column)),
    "previous": Measure(lambda attention: attention.toward(attention.column - 1)),
    "first": Measure(lambda attention: attention.pattern[:, :, 0]),
    "entropy": Measure(Attention.entropy),
    "duplicate": Measure(lambda attention: attention.mass(attention.repeats.duplicate), over_repeats=True),
    "induction": Measure(lambda attention: attention.mass(attention.repeats.induction), over_repeats=True),
}
BEHAVIOURS = tuple(MEASURES)  # names of the behaviours; in every array, the axis of behaviours has this order


@dataclass(frozen=True)
class AttentionSums:
    """Sums of each behaviour's measure over positions, in units of 2^-30, and the number of positions summed.

    `total` has the shape (behaviour, head), and `count` the shape (behaviour,); both are int64.
    """

    total: Tensor
    count: Tensor


def attention_sums(pattern: Tensor, repeats: Repeats, stored: Stored) -> AttentionSums:
    """Sum each behaviour's measure over those positions of a batch that the run's statistics include.

    `pattern` has the shape (P, head, source).
    """
    attention = Attention(pattern, stored.column, repeats)
    later, repeated = (stored.column > 0) & stored.counted, repeats.present & stored.counted
    measured = [
        (measure.of(attention), repeated if measure.over_repeats else later) for measure in MEASURES.values()
    ]
    total = [in_steps(values[rows], OF_ATTENTION).sum(0).long() for values, rows in measured]
    return AttentionSums(torch.stack(total).cpu(), torch.stack([rows.sum() for _, rows in measured]).cpu())
