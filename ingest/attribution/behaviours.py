"""The behaviours of attention heads: what each head attends to, measured at every position.

To add a behaviour, write a `Measure` and name it in `MEASURES`; its name goes into schema.sql (the view
head_stats), and the loop of `attribution.fast.attention` computes it for float32 on a CPU.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from annotate_transformer.ingest.attribution.steps import OF_ATTENTION, in_steps
from annotate_transformer.ingest.attribution.stored import Stored


@dataclass(frozen=True)
class Repeats:
    """Where windows repeat themselves, at the stored positions: (P, source) as 0 and 1.

    duplicate: the source is an earlier occurrence of the same token; induction: the source follows
    one (Olsson et al. 2022; TransformerLens's head_detector). present (P,): there is one.
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
    """One layer's attention at the stored positions: pattern (P, head, source), and each position's own
    column (P,)."""

    pattern: Tensor
    column: Tensor
    repeats: Repeats

    def toward(self, source: Tensor) -> Tensor:
        """Return the attention (P, head) to one source (P,) of each position."""
        index = source.clamp(min=0)[:, None, None].expand(-1, self.pattern.shape[1], 1)
        return self.pattern.gather(2, index).squeeze(2)

    def mass(self, sources: Tensor) -> Tensor:
        """Return the attention (P, head) to all sources (P, source) that are 1."""
        return torch.einsum("phq,pq->ph", self.pattern, sources.to(self.pattern.dtype))

    def entropy(self) -> Tensor:
        """Return −Σ p log p in nats (P, head); 0 · log 0 = 0."""
        tiny = torch.finfo(self.pattern.dtype).tiny  # in place of 0: changes nothing that can be seen
        return -(self.pattern.clamp(min=tiny).log_().mul_(self.pattern)).sum(-1)


@dataclass(frozen=True)
class Measure:
    """How a behaviour is measured.

    of: attention → (P, head); over_repeats: the mean is over the positions whose token occurred before in
    the window, else over all positions but a window's first.
    """

    of: Callable[[Attention], Tensor]
    over_repeats: bool = False


# Olsson et al. (2022); duplicate and induction as in TransformerLens's head_detector
MEASURES = {
    "self": Measure(lambda attention: attention.toward(attention.column)),
    "previous": Measure(lambda attention: attention.toward(attention.column - 1)),
    "first": Measure(lambda attention: attention.pattern[:, :, 0]),
    "entropy": Measure(Attention.entropy),
    "duplicate": Measure(lambda attention: attention.mass(attention.repeats.duplicate), over_repeats=True),
    "induction": Measure(lambda attention: attention.mass(attention.repeats.induction), over_repeats=True),
}
BEHAVIOURS = tuple(MEASURES)  # the order of all arrays of behaviours


@dataclass(frozen=True)
class AttentionSums:
    """Sums of the behaviours, in whole steps, and how many positions each is over.

    total (behaviour, head), count (behaviour,); both int64.
    """

    total: Tensor
    count: Tensor


def attention_sums(pattern: Tensor, repeats: Repeats, stored: Stored) -> AttentionSums:
    """Return the sums of each behaviour over the counted positions; pattern (P, head, source)."""
    attention = Attention(pattern, stored.column, repeats)
    later, repeated = (stored.column > 0) & stored.counted, repeats.present & stored.counted
    measured = [
        (measure.of(attention), repeated if measure.over_repeats else later) for measure in MEASURES.values()
    ]
    total = [in_steps(values[rows], OF_ATTENTION).sum(0).long() for values, rows in measured]
    return AttentionSums(torch.stack(total).cpu(), torch.stack([rows.sum() for _, rows in measured]).cpu())
