"""Compute attention scores from queries and keys, as a layer of the model does."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from annotate_transformer.ingest.models.families.base import Family, Parts


class Scoring(Parts, Protocol):
    """The attributes and methods of a model that are needed to compute attention scores."""

    @property
    def family(self) -> Family: ...
    @property
    def score_cap(self) -> float | None: ...
    def head_normed(self, name: str, vectors: Tensor, layer: int) -> Tensor: ...


@dataclass(frozen=True)
class QK:
    """How a layer of the model turns queries and keys into attention scores before the softmax."""

    model: Scoring
    layer: int

    def queries(self, query: Tensor) -> Tensor:
        """Apply the norm of queries, if the model has one, to queries of shape (…, d_head)."""
        return self.model.head_normed("q_norm", query, self.layer)

    def keys(self, key: Tensor) -> Tensor:
        return self.model.head_normed("k_norm", key, self.layer)

    def scores(self, product: Tensor, distance: int, head: int | slice = slice(None)) -> Tensor:
        """Return attention scores from products of a rotated query and a key `distance` positions earlier.

        `head`: the head of all products, or a slice if the last axis of `product` has one entry per head.
        """
        scores, cap = self.uncapped(product, distance, head), self.model.score_cap
        return scores if cap is None else (scores / cap).tanh() * cap

    def uncapped(self, product: Tensor, distance: int, head: int | slice = slice(None)) -> Tensor:
        """Return the scores before the soft-cap; in a model without a soft-cap, the same as `scores`."""
        family = self.model.family
        bias = family.distance_bias(self.model, distance)
        scores = product * family.attention_scale(self.model)
        return scores + (bias[head].to(scores) if isinstance(bias, Tensor) else bias)
