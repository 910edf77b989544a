"""The tokens that a model reads up to a position, for analyses that run a run's model again."""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from annotate_transformer.store.errors import NoSuchPosition
from annotate_transformer.store.queries import named


@dataclass(frozen=True)
class Context:
    """The tokens of a window up to and including a position, with their position ids.

    `bos`, `bos_position_ids`: lists with the token id and the position id of the BOS before these tokens;
    empty lists if the run has no BOS.
    """

    bos: list[int]
    token_ids: list[int]
    position_ids: list[int]
    bos_position_ids: list[int]

    @property
    def tokens(self) -> list[int]:
        """Return the token ids that the model reads, with the BOS."""
        return self.bos + self.token_ids

    @property
    def places(self) -> list[int]:
        """Return the position ids of `tokens`."""
        return self.bos_position_ids + self.position_ids

    def end(self, tokens: int) -> list[int]:
        """Return the last `tokens` tokens as a prompt, with the BOS if there is one."""
        return self.bos + self.token_ids[len(self.token_ids) - tokens :]


def contexts(con: duckdb.DuckDBPyConnection, position_ids: Sequence[int]) -> list[Context]:
    """Return the context of each position, in the order given.

    Raises:
        NoSuchPosition: the window of a position begins in another part of the run, which another store has.
    """
    query = named("write.sql")["contexts"]
    rows = con.execute(query, {"position_ids": [*position_ids]}).to_arrow_table().to_pylist()
    for row in rows:
        if row.pop("missing"):
            raise NoSuchPosition(
                f"The window of position {row['position_id']} begins in another part of its run. Merge the "
                "parts (`annotate merge`), and ask the merged store."
            )
    found = {row.pop("position_id"): Context(**row) for row in rows}
    return [found[number] for number in position_ids]
