"""Functions that query the store and cache the results. A returned DataFrame has its SQL in `attrs["sql"]`.

A function whose result is not cached opens the file and soon closes it, so an ingest can continue while the
app runs. The file's modification time and size are part of each cache key, so the next page that is shown
has what an ingest has committed.
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
from annotate_transformer.store.elsewhere.place import Place, place
from annotate_transformer.store.notation import Expression
from annotate_transformer.store.queries import composed, named, schema, sections
from annotate_transformer.store.question import Question
from annotate_transformer.store.running import Runner
from annotate_transformer.store.weights import models_read

WAIT = 10.0  # maximum seconds for which a query waits for an ingest, which locks the store during a commit

# CONTEXTS: maximum number of contexts in a list. FIFTHS: the random sample of a neuron or head is split by
# value into this many groups of equal size. TOKENS: maximum number of rows in a table, such as the table of a
# neuron's tokens.
CONTEXTS, FIFTHS, TOKENS = 12, 5, 50
P = ParamSpec("P")
Answer = TypeVar("Answer")

_reading: ContextVar[Place | None] = ContextVar("_reading", default=None)


@contextmanager
def reading(file: Place) -> Iterator[None]:
    """Context manager: inside the block, queries read a prompt's store, `file`, and not the app's store."""
    token = _reading.set(file)
    try:
        yield
    finally:
        _reading.reset(token)


def path() -> Place:
    """Return the path of the store to query: the app's store, or the one set by `reading`."""
    return _reading.get() or place(os.environ.get(VARIABLE, "demo.duckdb"))


def _stamp(file: Place) -> tuple[int, int]:
    found = file.stat() if isinstance(file, Path) and file.exists() else None
    return (found.st_mtime_ns, found.st_size) if found else (0, 0)


@st.cache_resource(show_spinner=False)
def runner() -> Runner:
    """Return the `ModelRunner`, which loads and runs models; only this call imports torch."""
    from annotate_transformer.ingest.live.runner import ModelRunner

    return ModelRunner()


@cache
def _store(file: str) -> Store:
    return Store(file, WAIT, runner)


def question(ask: Callable[Concatenate[Store, P], Answer], entries: int = 300) -> Callable[P, Answer]:
    """Decorate a function that queries a store: cache its results until the store's file changes.

    The cache key is the arguments, and the modification time and size of the file.

    entries: maximum number of cached results
    """

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
contrast_accuracy = question(Store.contrast_accuracy)
contrast_means = question(Store.contrast_means)
decomposition = question(Store.decomposition)
likeliest = question(Store.likeliest)
lens = question(Store.lens)
attention = question(Store.attention, 20)
around = question(Store.around)
ablate = question(Store.ablate)
patch = question(Store.patch)
head_inputs = question(Store.head_inputs)
sends = question(Store.sends)
neuron_inputs = question(Store.neuron_inputs)
tokens = question(Store.tokens)
occurrences = question(Store.occurrences)
compare = question(Store.compare)
emergence = question(Store.emergence)
rise = question(Store.rise)
emergence_changes = question(Store.emergence_changes)
learned = question(Store.learned)
explanations = question(Store.explanations)
ablations = question(Store.ablations)
models = question(models_read)


@question
def weights(
    s: Store, /, run: int | None, model: str | None, **asked: dict[str, Any]
) -> dict[str, pd.DataFrame]:
    """Call methods of `Weights`; return a dictionary from method name to result, {} if there are no weights.

    asked: a mapping from each method's name to the method's keyword arguments
    """
    try:
        found = s.weights(run, model)
        return {method: getattr(found, method)(**arguments) for method, arguments in asked.items()}
    except store.NoWeights:
        return {}


def prompt(text: str, run: int) -> Place:
    """Annotate a prompt with the run's model; return the path of the temporary store with the results."""
    return _store(str(path())).prompt(text, run).path


def on_text(text: str, name: str, run: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Let the run's model read a text; return its tokens, and a neuron's or head's value at each of them."""
    file = prompt(text, run)
    with reading(file):
        tokens = asked("tokens", run=1, first=0, last=2**63 - 1)
        last = int(tokens.position_id.max())
        return tokens, around(name, [last], last, 0, 1)


def expression(
    position_id: int, toward: str, expand: list[str], below: float, minus: str | None = None
) -> Expression:
    """Return a logit as an `Expression`: a sum of terms, each of which is loaded only when it is shown."""
    whole = _store(str(path())).expression(position_id, toward, minus)
    return whole.expand(*expand).drop_below(below)


# Questions of the pages ---------------------------------------------------------------------------


@cache
def queries() -> dict[str, str]:
    """Return a dictionary from name to SQL query, for all queries in the .sql files of the folder `pages`."""
    folder = files("annotate_transformer.app.browser.pages")
    texts = (file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".sql"))
    return composed({name: query for text in texts for name, query in sections(text).items()})


@question
def asked(s: Store, name: str, /, **parameters: Any) -> pd.DataFrame:
    """Run the query called `name` in the pages' .sql files, and return its rows."""
    return s.question(queries()[name], **parameters).ask()


@question
def views(s: Store) -> pd.DataFrame:
    """Return the names and comments of the store's views and macros."""
    return s.sql(named("describe.sql")["names"], {"schema": schema()})


# Neurons and heads --------------------------------------------------------------------------------


@question
def exists(s: Store, name: str, run: int) -> tuple[str, int, int]:
    """Check that the run's model has this neuron or head; return its letter (N or H), layer and number.

    Raises:
        NoSuchUnit: the run's model has no neuron or head of this name.
    """
    found = s.unit(name, run)
    return found.letter, found.layer, found.number


@question
def unit_stats(s: Store, name: str, run: int) -> pd.DataFrame:
    """Return the statistics of a neuron or head as a table of one row."""
    return s.unit(name, run).stats().to_frame().T


@question
def neuron(s: Store, name: str, run: int) -> dict[str, pd.DataFrame]:
    """Return the tables that the page of a neuron shows; the keys are the tables' names."""
    found = s.neuron(name, run)
    return _about(found) | {"mean_activation": found.mean_activation()}


@question
def head(s: Store, name: str, run: int) -> dict[str, pd.DataFrame]:
    """Return the tables that the page of a head shows; the keys are the tables' names."""
    found = s.head(name, run)
    more = {"distances": found.distances(), "destinations": found.destinations(TOKENS)}
    return _about(found) | more | {"mean_effect": found.mean_effect()}


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
    """Return contexts in which a neuron's or head's value lies in the given bin of its histogram."""
    return s.unit(name, run).interval(bin, CONTEXTS)


# Search -------------------------------------------------------------------------------------------


@question
def search(s: Store, where: str, run: int, limit: int, by_value: bool = False) -> pd.DataFrame:
    """Return the first `limit` positions that fulfil the conditions in `where` (see `Store.search`).

    by_value: sort by the number that the first condition about a number compares, the largest first
    """
    asked = _conditions(s, where, run)
    largest = next((one.compared() for one in asked if one.unit), None) if by_value else None
    return s.search(conditions.clause(asked), run, limit, largest)


@question
def facets(s: Store, run: int, every: str) -> pd.DataFrame:
    """Count the positions of a query by document, metadata, token and place (see search.sql)."""
    return Question(s, queries()["facets"], run, pieces={"every": every}).ask()


@question
def phrase(s: Store, text: str, where: str | None, run: int, limit: int) -> pd.DataFrame:
    """Find the first `limit` occurrences of a text; return those whose first token fulfils `where`."""
    found = s.phrase(text, run, limit=limit)
    if where is None or found.empty:
        return found
    among = store.position.position_id.in_([int(number) for number in found.first_position_id])
    held = s.search(among & conditions.clause(_conditions(s, where, run)), run, limit)
    kept = found[found.first_position_id.isin(held.position_id)].reset_index(drop=True)
    notes = (about["note"] for about in (found.attrs, held.attrs) if "note" in about)
    kept.attrs = found.attrs | {
        "exact": held.attrs["exact"],
        "complete": found.attrs["complete"],
        "total": len(kept) if found.attrs["complete"] else None,
        "bound": held.attrs.get("bound", {}),
        "note": "; ".join(notes),
    }
    kept.attrs["sql"] = (
        f"FROM (\n{found.attrs['sql']}\n)\nWHERE first_position_id IN (\n"
        f"SELECT position_id FROM (\n{held.attrs['sql']}\n))\nORDER BY document_id, char_start"
    )
    return kept


@question
def hardest(s: Store, run: int, limit: int) -> pd.DataFrame:
    """Return the positions with the largest loss (nats), the largest first, with their contexts."""
    found = s.question(queries()["hardest"], run=run, limit=limit).ask()
    among = store.position.position_id.in_([int(number) for number in found.position_id])
    rows = s.search(among, run, limit) if len(found) else found.assign(next_logprob=0.0)
    listed = rows.assign(loss=-rows.next_logprob).sort_values("loss", ascending=False, kind="stable")
    listed.attrs = found.attrs
    return listed


def _conditions(s: Store, where: str, run: int) -> list[conditions.Condition]:
    keys = s.question(queries()["metadata_keys"], run=run).ask().key
    return conditions.read(where, [*keys])
