"""The class `Question`: a query with its run, unit (neuron or head) and parameters. It can be run or shown.

Every query about a run is made here: those of `Store`, `Neuron`, `Head`, `Weights`, `Expression`, the command
line and the pages. An answer is a DataFrame with these `attrs`:

    exact     whether the values are exact; if not, they are lower bounds or estimates from a sample
    bound     only in an inexact answer: upper bounds of the values that were left out, by name
    complete  whether the answer has all of its rows; if not, it was truncated
    total     the number of rows of the complete answer
    rounded   the largest error of each column whose stored values are rounded, by name
    note      why the answer is not exact or not complete; it begins with the kind of reason: truncated,
              lower bound, rounded or sample
    sql       the query with values instead of parameters, so that it can be run as it is

A query may contain placeholders in braces. Their text depends on the store and the unit: see `_piece`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import pandas as pd
import pyarrow as pa

from annotate_transformer.store.errors import BadQuestion, not_negative
from annotate_transformer.store.queries import named, plain, statement
from annotate_transformer.store.rounding import rounding
from annotate_transformer.store.session import FACTS, Session

if TYPE_CHECKING:
    import polars as pl

# FINISHED and UNFINISHED map the name of a placeholder in a query to the table or view that the query reads.
# FINISHED is for finished runs and UNFINISHED for all others. UNFINISHED would be correct for every run, but
# DuckDB takes 3 ms to plan a query with it.
FINISHED = {"lists": "base.top_entry", "list_sources": "base.top_source", "samples": "base.finished_sample"}
UNFINISHED = {"lists": "base.ranked", "list_sources": "base.head", "samples": "base.sample"}
PIECE = re.compile(r"\{([a-z_]+)\}")


class OneUnit(NamedTuple):
    """The neuron or head that a question is about."""

    kind: str  # `neuron` or `head`
    layer: int
    number: int
    sql_type: str  # SQL type of `number` in the store; parameters of this type let DuckDB skip blocks of rows


@dataclass(frozen=True, eq=False)
class Question:
    """A query to a store, with its run, unit (neuron or head) and parameters.

    query: the name of a query in read.sql, or SQL of the same form
    run: fills $run, $tokenizer and $context, and the placeholders that depend on whether the run is finished
    unit: fills $layer, $unit and $kind, and the placeholders {unit_samples} and {unit_stats}
    parameters: the query's other parameters; a parameter that the query does not use is left out
    pieces: the text for further placeholders of the query
    """

    session: Session
    query: str
    run: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    unit: OneUnit | None = None
    pieces: Mapping[str, str] = field(default_factory=dict)

    def ask(self) -> pd.DataFrame:
        """Run the query and return the answer.

        Raises:
            BadQuestion: a parameter that counts rows or characters is negative.
        """
        not_negative(self.parameters)
        with self.session.connection() as con:
            frame = con.execute(self.text, plain(self.arguments)).df()
            describe(frame, self.sql, rounding(self.query))
        return frame

    def arrow(self) -> pa.Table:
        """Run the query and return the answer as an Arrow table, with the types of the store."""
        not_negative(self.parameters)
        with self.session.connection() as con:
            return con.execute(self.text, plain(self.arguments)).to_arrow_table()

    def polars(self) -> "pl.DataFrame":
        """Run the query and return the answer as a polars DataFrame.

        Raises:
            BadQuestion: polars is not installed.
        """
        try:
            import polars as pl
        except ImportError as error:
            raise BadQuestion("polars is not installed: run pip install polars.") from error
        found = pl.from_arrow(self.arrow())
        assert isinstance(found, pl.DataFrame)
        return found

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.sql)}</pre>"

    def first(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the first $limit rows, and the same rows with one more, which shows whether more exist."""
        limit = self.parameters["limit"]
        not_negative(self.parameters)
        one_more = replace(self, parameters={**self.parameters, "limit": limit + 1}).ask()
        first = one_more.head(limit)
        describe(first, self.sql, rounding(self.query))
        before = self.parameters.get("offset", 0)
        if before or len(one_more) > limit:
            [in_all] = replace(self, query=f"{self.query}_total").rows()
            truncate(first, in_all["total"], before)
        return first, one_more

    def rows(self) -> list[dict[str, Any]]:
        """Return the answer as a list of dictionaries, which is faster than a DataFrame for few rows."""
        with self.session.connection() as con:
            found = con.execute(self.text, plain(self.arguments))
            names = [name for name, *_ in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    @property
    def sql(self) -> str:
        """The query with values in place of its parameters, so that it can be run unchanged."""
        return statement(self.text, self.values)

    @cached_property
    def text(self) -> str:
        """The query with its {placeholders} replaced, but with its $parameters unchanged."""
        return self._filled(named("read.sql").get(self.query, self.query))

    @cached_property
    def values(self) -> dict[str, Any]:
        """A dictionary from name to value, for the parameters that occur in the query."""
        known: dict[str, Any] = {"run": self.run}
        wanted = names_in(self.text)
        if self.run is not None and wanted.intersection(FACTS):
            known |= self.session.facts(self.run)
        if self.unit:
            known |= {"layer": self.unit.layer, "unit": self.unit.number, "kind": self.unit.kind}
        known |= self.parameters
        return {name: value for name, value in known.items() if name in wanted}

    @property
    def arguments(self) -> dict[str, Any]:
        """The query's parameter values; a unit's layer and number have the SQL types of the columns."""
        if self.unit is None:
            return self.values
        types = {"layer": "UTINYINT", "unit": self.unit.sql_type}
        named_here = types.keys() & self.values.keys()
        return self.values | {
            name: duckdb.Value(int(self.values[name]), duckdb.type(types[name])) for name in named_here
        }

    def _filled(self, text: str) -> str:
        # The text of `pieces` is not searched for placeholders: a user's condition may contain braces.
        return PIECE.sub(
            lambda piece: (
                self.pieces[piece[1]] if piece[1] in self.pieces else self._filled(self._piece(piece[1]))
            ),
            text,
        )

    def _piece(self, name: str) -> str:
        """Return the text that replaces the placeholder {name} in a query.

        {neurons}: the view `neurons`, or base.kept_neuron if no neuron is coded (5 ms faster to plan)
        {lists}, {list_sources}, {samples}: the tables of a finished or of an unfinished run
        {unit_samples}, {unit_stats}: the queries for this kind of unit, neuron or head
        """
        if name == "neurons":
            return "neurons" if self.session.has_coded() else "base.kept_neuron"
        if name in FINISHED:
            assert self.run is not None
            return (FINISHED if self.session.is_finished(self.run) else UNFINISHED)[name]
        assert self.unit is not None, name
        return named("read.sql")[f"{self.unit.kind}_{name.removeprefix('unit_')}"]


@cache
def names_in(text: str) -> frozenset[str]:
    """Return the names of a query's parameters.

    >>> sorted(names_in("SELECT $a, $b, $a"))
    ['a', 'b']
    """
    return frozenset(re.findall(r"\$(\w+)", text))


def describe(frame: pd.DataFrame, sql: str, rounded: Mapping[str, float] | None = None) -> None:
    """Set the `attrs` of an answer, and mark the answer as exact and complete."""
    frame.attrs = {
        "exact": True,
        "complete": True,
        "total": len(frame),
        "rounded": {name: error for name, error in (rounded or {}).items() if name in frame},
        "sql": sql,
    }


def largest_first(frame: pd.DataFrame, size: "pd.Series[Any]") -> pd.DataFrame:
    """Return the rows sorted by |size|, largest first, with unchanged `attrs`; ties keep their order."""
    found = frame.loc[size.abs().sort_values(ascending=False, kind="stable").index]
    found.attrs = frame.attrs
    return found


def qualify(frame: pd.DataFrame, note: str, **bound: float | None) -> None:
    """Mark an answer as not exact. The note begins with the kind of inexactness, as in `lower bound: …`."""
    add_note(frame, note)
    frame.attrs |= {"exact": False, "bound": frame.attrs.get("bound", {}) | bound}


def truncate(frame: pd.DataFrame, total: int, before: int = 0, what: str = "the first") -> None:
    """Mark an answer as truncated, that is, not complete.

    total: the number of rows of the complete answer; before: how many of them precede these rows.
    """
    which = f"rows {before + 1:,} to {before + len(frame):,}" if before else f"{what} {len(frame):,}"
    add_note(frame, f"truncated: {which} of {total:,}")
    frame.attrs |= {"complete": False, "total": int(total)}


def add_note(frame: pd.DataFrame, note: str) -> None:
    """Add a sentence to the note that is shown under an answer."""
    frame.attrs["note"] = "; ".join(filter(None, [frame.attrs.get("note"), note]))
