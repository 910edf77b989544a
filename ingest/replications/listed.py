"""All replications, as a dictionary from name to replication."""

from collections.abc import Callable
from dataclasses import dataclass

from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.replications import dublin, induction_heads, ioi, next_token_scores
from annotate_transformer.ingest.replications.quantity import Quantity, Reference


@dataclass(frozen=True)
class Replication:
    """A known result that can be computed again.

    `measure`: function that computes the quantities for a model;
    `references`: the reference values of each model that has them; the first model is the default.
    """

    measure: Callable[[Model], list[Quantity]]
    references: tuple[Reference, ...]


REPLICATIONS = {
    "dublin": Replication(dublin.dublin, dublin.REFERENCES),
    "induction-heads": Replication(induction_heads.induction_heads, induction_heads.REFERENCES),
    "ioi": Replication(ioi.ioi, ioi.REFERENCES),
    "next-token": Replication(next_token_scores.next_token_scores, next_token_scores.REFERENCES),
}
