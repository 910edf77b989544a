"""Search for positions: turn a condition in Python into one SQL statement, with SQLAlchemy Core.

>>> from store import head, neuron, position
>>> where = (neuron("L3N7").activation > 2) & (position.next_token == " the")
>>> where &= head("L1H2").toward_next < 0

`position` has the columns of the view `positions` and `metadata["key"]`. Every comparison of SQLAlchemy works
(`==`, `.in_`, `.regexp_match`, `.is_(None)`), combined by `&`, `|` and `~`. Only the strongest neurons are
stored at a position. If a neuron is not stored, the layer's bound may still decide a comparison. Otherwise
the comparison is NULL, and SQL's three-valued logic decides whether that matters for the condition.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import duckdb
import sqlalchemy as sa
from sqlalchemy.sql import visitors

from annotate_transformer.store.errors import BadQuestion, NoSuchUnit
from annotate_transformer.store.names import head_name, neuron_name, parse
from annotate_transformer.store.queries import AFTER, BEFORE, plain, schema

Condition = sa.ColumnElement[bool]
SORTED = "sorted_by"  # name of the column by which the positions are sorted; it is not returned


@cache
def view(name: str) -> sa.TableClause:
    """Return a view of schema.sql as a SQLAlchemy table."""
    with duckdb.connect() as con:
        con.execute(schema())
        columns = con.execute(f"DESCRIBE {name}").fetchall()
    return sa.table(name, *(sa.column(column[0]) for column in columns))


@cache
def _alias(of: str, name: str) -> Any:
    """Return a view under another name: the same object for the same name, or SQLAlchemy would join it twice.

    So one condition may name a head twice, or two neurons of a layer, which share the table of their bounds.
    """
    return view(of).alias(name)


class _Position:
    """The columns of the view `positions` for SQLAlchemy: `position.token`, `position.next_logprob`, …"""

    def __getattr__(self, name: str) -> sa.ColumnClause[Any]:
        columns = view("positions").c
        if name.startswith("__") or name not in columns:
            raise AttributeError(f"positions has no column {name}; it has {', '.join(columns.keys())}")
        return columns[name]

    @property
    def metadata(self) -> "_Metadata":
        """The document's metadata: `position.metadata["party"]` is its field `party`."""
        return _Metadata()


class _Metadata:
    """The fields of a document's metadata as text; a field is NULL if the document does not have it."""

    def __getitem__(self, key: str) -> sa.ColumnElement[str]:
        path = "/" + key.replace("~", "~0").replace("/", "~1")  # the key as a JSON pointer (RFC 6901)
        return sa.func.json_extract_string(view("documents").c.metadata, path)

    def __call__(self, key: str) -> sa.ColumnElement[str]:
        return self[key]


position = _Position()


@dataclass(frozen=True)
class Kept:
    """A neuron's value at each position. Where the neuron is not stored, only |value| ≤ bound is known."""

    value: sa.ColumnElement[float]
    bound: sa.ColumnElement[float]

    def __gt__(self, limit: float) -> Condition:
        return self._compared(self.value > limit, self.bound <= limit, -self.bound > limit)

    def __ge__(self, limit: float) -> Condition:
        return self._compared(self.value >= limit, self.bound < limit, -self.bound >= limit)

    def __lt__(self, limit: float) -> Condition:
        return self._compared(self.value < limit, -self.bound >= limit, self.bound < limit)

    def __le__(self, limit: float) -> Condition:
        return self._compared(self.value <= limit, -self.bound > limit, self.bound <= limit)

    def _compared(self, known: Condition, surely_not: Condition, surely: Condition) -> Condition:
        """Return the SQL comparison of a value with a limit; it is NULL if the stored rows do not decide it.

        Where the value is stored, `known` decides. Elsewhere the bound can show that the comparison is surely
        true (`surely`) or surely false (`surely_not`).
        If the bound is NULL, there is no value, because the position has no next token.
        """
        nothing = surely_not | self.bound.is_(None)
        return sa.case((self.value.is_not(None), known), (nothing, sa.false()), (surely, sa.true()))


@dataclass(frozen=True)
class NeuronValues:
    """The values of one neuron at each position: its activation, and its direct effects in logits."""

    activation: Kept
    toward_next: Kept
    toward_top: Kept


def neuron(name: str) -> NeuronValues:
    """Return a neuron's values for conditions, as in `neuron("L3N7").activation > 2`."""
    letter, layer, number = parse(name)
    if letter != "N":
        raise BadQuestion(f"{name} is a head: write head({name!r}).")
    values = _alias("neurons", neuron_name(layer, number))
    bounds = _alias("neuron_bounds", f"bounds_{layer}")
    return NeuronValues(
        activation=Kept(values.c.activation, bounds.c.activation_bound),
        toward_next=Kept(values.c.toward_next, bounds.c.next_bound),
        toward_top=Kept(values.c.toward_top, bounds.c.top_bound),
    )


def head(name: str) -> Any:
    """Return the columns of the view `heads` for one head, as in `head("L1H2").toward_next < 0`."""
    letter, layer, number = parse(name)
    if letter != "H":
        raise BadQuestion(f"{name} is a neuron: write neuron({name!r}).")
    return _alias("heads", head_name(layer, number)).c


@dataclass(frozen=True)
class Found:
    """The SQL queries of a search: the matching positions, and two counts.

    `statement`: the matching positions; `every`: the position_id of all of them; `total`: their number;
    `unknown`: the number of undecided positions.
    A position is undecided if the stored values do not determine whether it matches.
    """

    statement: sa.Select[Any]
    every: sa.Select[Any]
    total: sa.Select[Any]
    unknown: sa.Select[Any]
    units: list[str]  # names of the neurons and heads in the condition

    @property
    def sql(self) -> str:
        return _written(self.statement)

    @property
    def every_sql(self) -> str:
        return _written(self.every)


def _written(statement: sa.Select[Any]) -> str:
    from duckdb_sqlalchemy import Dialect

    dialect = Dialect(paramstyle="named")  # with any other style, SQLAlchemy would double each %
    return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def search(where: Condition, run: int, limit: int, largest: Any = None) -> Found:
    """Return the SQL that finds the positions of a run for which a condition holds.

    largest: the number by which the positions are sorted, the largest first; None for their place in the text

    Raises:
        BadQuestion: `where` is not a condition, or names other tables.
    """
    if not isinstance(where, sa.ColumnElement):
        raise BadQuestion(
            "Search needs a condition such as (position.next_rank > 10): join several with & and |."
        )
    positions, documents = view("positions"), view("documents")
    joined: sa.FromClause = positions
    by = largest.value if isinstance(largest, Kept) else largest
    shown: list[sa.ColumnElement[Any]] = []
    tables: dict[str, Any] = {}
    for element in (*visitors.iterate(where), *(visitors.iterate(by) if by is not None else ())):
        if isinstance(element, sa.BindParameter):
            _make_plain(element)
        if isinstance(element, sa.ColumnClause) and element.table is not None:
            tables[str(getattr(element.table, "name", element.table))] = element.table
    named = sorted(tables.keys() - {"positions", "documents"})
    for name in named:
        on, values = _join(tables[name], name, positions)
        joined = joined.outerjoin(tables[name], on)
        shown += values
    if "documents" in tables:  # each document is in a corpus once, so this join adds no row
        joined = joined.outerjoin(documents, documents.c.document_id == positions.c.document_id)
    in_run = positions.c.run_id == run
    missing = [table.c.neuron.is_(None) for table in tables.values() if "neuron" in table.c]
    undecided = sa.type_coerce(where, sa.Boolean).is_(None) & sa.or_(sa.false(), *missing)
    # The text around a position is read only for the positions that are returned (`hits`), not for all that
    # match.
    chosen = sa.select(*positions.c, *shown).select_from(joined).where(in_run, where)
    if by is not None:
        chosen = chosen.add_columns(by.label(SORTED)).order_by(by.desc().nulls_last())
    hits = chosen.order_by(positions.c.position_id).limit(limit).cte("hits")
    passage = sa.table("passage", sa.column("passage_id"), sa.column("text"), schema="base")
    first = sa.func.greatest(hits.c.char_start - BEFORE, 0)
    here = passage.c.passage_id == sa.func.base.passage_id(hits.c.document_id, first)
    read = hits.outerjoin(passage, here)
    listed = [column for column in hits.c if column.name != SORTED]
    statement = sa.select(*listed, *_context(hits, passage.c.text, first)).select_from(read)
    if by is not None:
        statement = statement.order_by(hits.c[SORTED].desc().nulls_last())
    every = sa.select(positions.c.position_id).select_from(joined).where(in_run, where)
    total = sa.select(sa.func.count()).select_from(joined).where(in_run, where)
    unknown = sa.select(sa.func.count()).select_from(joined).where(in_run, undecided)
    units = [name for name in named if not name.startswith("bounds_")]
    return Found(statement.order_by(hits.c.position_id), every, total, unknown, units)


def _make_plain(value: sa.BindParameter[Any]) -> None:
    """Convert the numpy numbers in a parameter to Python numbers, and set the parameter's SQL type."""
    value.value = plain(value.value)
    values = value.value if value.expanding else [value.value]
    if isinstance(value.type, sa.types.NullType) and values:
        value.type = sa.literal(values[0]).type


def _context(
    hits: sa.CTE, passage: sa.ColumnElement[str], first: sa.ColumnElement[int]
) -> list[sa.ColumnElement[str]]:
    """Return the columns before, text and after: the text of a matching position and the text around it.

    first: offset in the document of the first character that is shown
    """
    here, length = hits.c.char_start - first, hits.c.char_end - hits.c.char_start
    line = sa.func.base.excerpt(passage, first, here + length + AFTER)
    parts = {"before": (1, here), "text": (here + 1, length), "after": (here + length + 1, AFTER)}
    return [sa.func.substring(line, *part).label(name) for name, part in parts.items()]


def _join(table: Any, name: str, positions: sa.TableClause) -> tuple[Condition, list[sa.ColumnElement[Any]]]:
    """Return the condition that joins a neuron's or head's view to `positions`, and the columns to show."""
    same = (table.c.run_id == positions.c.run_id) & (table.c.position_id == positions.c.position_id)
    if name.startswith("bounds_"):
        return same & (table.c.layer == int(name.removeprefix("bounds_"))), []
    try:
        letter, layer, number = parse(name)
    except NoSuchUnit as error:
        raise BadQuestion(
            f"The condition names {name}: use store.position, neuron(…) and head(…)."
        ) from error
    unit, values = ("neuron", ["activation"]) if letter == "N" else ("head", [])
    shown = [table.c[value].label(f"{name}_{value}") for value in (*values, "toward_next", "toward_top")]
    return same & (table.c.layer == layer) & (table.c[unit] == number), shown
