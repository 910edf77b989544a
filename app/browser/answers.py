"""Questions to the store, cached until the file changes; the SQL of an answer is in its attrs["sql"].

A question that is not cached opens the file and soon closes it, so an ingest continues beside the app. The
file's time and size are part of an answer's key: what an ingest commits is seen with the next page.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from importlib.resources import files
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import pandas as pd
import streamlit as st

from annotate_transformer import store
from annotate_transformer.app.browser import VARIABLE, conditions
from annotate_transformer.store import Head, Neuron, Store
from annotate_transformer.store.notation import Expression
from annotate_transformer.store.queries import composed, named, schema, sections
from annotate_transformer.store.weights import models_read

WAIT = 10.0  # seconds to wait while an ingest commits
CONTEXTS, FIFTHS, TOKENS = 12, 5, 50  # rows of the tables on a neuron's or head's page
P = ParamSpec("P")
Answer = TypeVar("Answer")

_reading: ContextVar[Path | None] = ContextVar("_reading", default=None)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Ask the questions of this block about another store: that of a prompt."""
    token = _reading.set(file)
    try:
        yield
    finally:
        _reading.reset(token)


def path() -> Path:
    """Return the store that the app shows."""
    return _reading.get() or Path(os.environ.get(VARIABLE, "demo.duckdb"))


def _stamp(file: Path) -> tuple[int, int]:
    found = file.stat() if file.exists() else None
    return (found.st_mtime_ns, found.st_size) if found else (0, 0)


@cache
def _store(file: str) -> Store:
    return store.open(file, wait=WAIT)


def question(ask: Callable[Concatenate[Store, P], Answer], entries: int = 300) -> Callable[P, Answer]:
    """Cache a function of a store by its arguments and the state of the file."""

    @st.cache_data(show_spinner=False, max_entries=entries)
    @wraps(ask)
    def kept(file: str, stamp: tuple[int, int], *arguments: Any, **named: Any) -> Answer:
        return ask(_store(file), *arguments, **named)

    @wraps(ask)
    def asked(*arguments: P.args, **named: P.kwargs) -> Answer:
        answer: Answer = kept(str(path()), _stamp(path()), *arguments, **named)
        return answer

    return asked


# Questions of the store ---------------------------------------------------------------------------

runs = question(Store.runs)
stats = question(Store.stats)
model_of = question(Store.model_of)
position = question(Store.position)
decomposition = question(Store.decomposition)
sends = question(Store.sends)
neuron_inputs = question(Store.neuron_inputs)
tokens = question(Store.tokens)
occurrences = question(Store.occurrences)
compare = question(Store.compare)
explanations = question(Store.explanations)
ablations = question(Store.ablations)
models = question(models_read)


@question
def weights(
    s: Store, /, run: int | None, model: str | None, **asked: dict[str, Any]
) -> dict[str, pd.DataFrame]:
    """Return the answers of these methods of `Store.weights`; nothing where no weights were read."""
    try:
        found = s.weights(run, model)
        return {method: getattr(found, method)(**arguments) for method, arguments in asked.items()}
    except store.NoWeights:
        return {}


def expression(position_id: int, toward: str, expand: list[str], below: float) -> Expression:
    """Return a prediction as an expression; its terms are fetched when they are shown."""
    return _store(str(path())).expression(position_id, toward).expand(*expand).drop_below(below)


# Questions of the pages ---------------------------------------------------------------------------


@cache
def queries() -> dict[str, str]:
    """Return the queries of all pages by name: those of pages/NAME.sql."""
    folder = files("annotate_transformer.app.browser.pages")
    texts = (file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".sql"))
    return composed({name: query for text in texts for name, query in sections(text).items()})


@question
def asked(s: Store, name: str, /, **parameters: Any) -> pd.DataFrame:
    """Return the answer to a query of a page."""
    return s.question(queries()[name], **parameters).ask()


@question
def views(s: Store) -> pd.DataFrame:
    """Return the views and macros with their comments."""
    return s.sql(named("describe.sql")["names"], {"schema": schema()})


# Neurons and heads --------------------------------------------------------------------------------


@question
def exists(s: Store, name: str, run: int) -> tuple[str, int, int]:
    """Return the letter, layer and number of a neuron or head of the run's model.

    Raises:
        NoSuchUnit: the run's model has none of this name.
    """
    found = s.unit(name, run)
    return found.letter, found.layer, found.number


@question
def unit_stats(s: Store, name: str, run: int) -> pd.DataFrame:
    """Return a neuron's or head's statistics in one row."""
    return s.unit(name, run).stats().to_frame().T


@question
def neuron(s: Store, name: str, run: int) -> dict[str, pd.DataFrame]:
    """Return the answers that a neuron's page shows, by name."""
    return _about(s.neuron(name, run))


@question
def head(s: Store, name: str, run: int) -> dict[str, pd.DataFrame]:
    """Return the answers that a head's page shows, by name."""
    found = s.head(name, run)
    return _about(found) | {"distances": found.distances(), "destinations": found.destinations(TOKENS)}


def _about(unit: Neuron | Head) -> dict[str, pd.DataFrame]:
    return {
        "stats": unit.stats().to_frame().T,
        "histogram": unit.histogram(),
        "high": unit.contexts("high", CONTEXTS),
        "low": unit.contexts("low", CONTEXTS),
        "random": unit.random(CONTEXTS),
        "quantiles": unit.quantiles(FIFTHS, 3),
        "tokens": unit.tokens(TOKENS),
        "effects": unit.effects(TOKENS),
        "companions": unit.companions(TOKENS),
    }


@question
def interval(s: Store, name: str, run: int, bin: int) -> pd.DataFrame:
    """Return contexts with a value in one bin of a neuron's or head's histogram."""
    return s.unit(name, run).interval(bin, CONTEXTS)


# Search -------------------------------------------------------------------------------------------


@question
def search(s: Store, where: str, run: int, limit: int) -> pd.DataFrame:
    """Return the first positions for which conditions hold, as `Store.search`."""
    return s.search(conditions.clause(_conditions(s, where, run)), run, limit)


@question
def phrase(s: Store, text: str, where: str | None, run: int, limit: int) -> pd.DataFrame:
    """Return the first occurrences of a text, or those of them at whose first token conditions hold."""
    found = s.phrase(text, run, limit=limit)
    if where is None or found.empty:
        return found
    among = store.position.position_id.in_([int(number) for number in found.first_position_id])
    held = s.search(among & conditions.clause(_conditions(s, where, run)), run, limit)
    kept = found[found.first_position_id.isin(held.position_id)].reset_index(drop=True)
    kept.attrs = dict(found.attrs if held.attrs["exact"] else held.attrs)
    kept.attrs["sql"] = (
        f"FROM (\n{found.attrs['sql']}\n)\nWHERE first_position_id IN (\n"
        f"SELECT position_id FROM (\n{held.attrs['sql']}\n))\nORDER BY document_id, char_start"
    )
    return kept


def _conditions(s: Store, where: str, run: int) -> list[conditions.Condition]:
    keys = s.question(queries()["metadata_keys"], run=run).ask().key
    return conditions.read(where, [*keys])
