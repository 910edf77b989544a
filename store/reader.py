"""Asking a store: every answer opens the file, reads, and lets go of it again.

So an ingest into the same file goes on meanwhile, and a notebook left open stops nobody.
"""

from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from store.database import WAIT_SECONDS, connection
from store.queries import named


class Store:
    """A store, read-only; safe to share between threads, since it holds nothing open."""

    def __init__(self, path: str | Path, wait: float = WAIT_SECONDS) -> None:
        self.path, self.wait = Path(path), wait
        self.sql("SELECT 1")  # a file that is no store is told at once

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def sql(self, query: str, parameters: dict[str, Any] | list[Any] | None = None) -> pd.DataFrame:
        """The answer to any SQL over the views of schema.sql.

        Raises:
            duckdb.Error: the query is wrong.
            StoreBusy: an ingest held the file for longer than `wait` seconds.
        """
        with connection(self.path, read_only=True, wait=self.wait) as con:
            return con.execute(query, parameters).df()

    def runs(self) -> pd.DataFrame:
        """What is in the store: one row per run, with provenance, tokens and worst closure error."""
        return self.sql("FROM runs ORDER BY run_id")

    def decomposition(self, position_id: int) -> pd.DataFrame:
        """Every stored term of one prediction, in logits; each target's column sums to its logit."""
        return self.sql("FROM decomposition($position_id)", {"position_id": position_id})

    def neuron_contexts(self, layer: int, neuron: int, run: int | None = None) -> pd.DataFrame:
        """Where the neuron is at its most extreme, with its text: exact over the whole run."""
        return self._named("neuron_contexts", layer=layer, neuron=neuron, run=run)

    def head_contexts(self, layer: int, head: int, run: int | None = None) -> pd.DataFrame:
        """Where the head pushes hardest for or against the next token, and where it looks there."""
        return self._named("head_contexts", layer=layer, head=head, run=run)

    def _named(self, query: str, **parameters: Any) -> pd.DataFrame:
        return self.sql(named("read.sql")[query], parameters)


def open(path: str | Path, *, wait: float = WAIT_SECONDS) -> Store:
    """The store at `path`, for reading.

    Raises:
        NotAStore, OtherSchemaVersion, StoreBusy: see store.errors.
    """
    return Store(path, wait)
