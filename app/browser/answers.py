"""Questions to the store, cached until the file changes; the SQL of an answer is in its attrs["sql"].

A question that is not cached opens the file, and a moment later it is let go of, so an ingest goes on
beside the app. What that has committed is seen with the next page: the file's time and size are part of
what an answer is kept under.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import pandas as pd
import streamlit as st

from annotate_transformer import store
from annotate_transformer.app.browser import VARIABLE, conditions
from annotate_transformer.store.ids import run_of
from annotate_transformer.store.names import parse
from annotate_transformer.store.notation import Expression
from annotate_transformer.store.queries import AFTER, BEFORE, named, schema, statement
from annotate_transformer.store.restricted import restricted

WAIT = 10.0  # seconds for an ingest's commit
FOLLOWERS = 10  # of a token, by its embedding and in the corpus
CONTEXTS, FIFTHS, TOKENS = 12, 5, 50  # rows of each kind on a neuron's or head's page
P = ParamSpec("P")
Answer = TypeVar("Answer", pd.DataFrame, dict[str, pd.DataFrame])

_reading: ContextVar[Path | None] = ContextVar("_reading", default=None)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Questions asked in here are asked of another store: that of a prompt."""
    token = _reading.set(file)
    try:
        yield
    finally:
        _reading.reset(token)


def path() -> Path:
    """The store that the app shows."""
    return _reading.get() or Path(os.environ.get(VARIABLE, "demo.duckdb"))


def _stamp(file: Path) -> tuple[int, int]:
    found = file.stat() if file.exists() else None
    return (found.st_mtime_ns, found.st_size) if found else (0, 0)


@cache
def _store(file: str) -> store.Store:
    return store.open(file, wait=WAIT)


def question(ask: Callable[Concatenate[store.Store, P], Answer], entries: int = 300) -> Callable[P, Answer]:
    """A function of the store that is asked once for each file as it stands and each set of arguments."""

    @st.cache_data(show_spinner=False, max_entries=entries)
    @wraps(ask)
    def kept(file: str, stamp: tuple[int, int], *arguments: Any, **named: Any) -> Answer:
        return ask(_store(file), *arguments, **named)

    @wraps(ask)
    def asked(*arguments: P.args, **named: P.kwargs) -> Answer:
        answer: Answer = kept(str(path()), _stamp(path()), *arguments, **named)
        return answer

    return asked


# What SQL was asked -------------------------------------------------------------------------------


def pages() -> dict[str, str]:
    """The queries of pages.sql by name."""
    return named("pages.sql", "annotate_transformer.app.browser")


def _told(frame: pd.DataFrame, query: str, **parameters: Any) -> pd.DataFrame:
    """The answer, and in its attrs the SQL it came from."""
    frame.attrs["sql"] = statement(query, parameters)
    return frame


# Questions ----------------------------------------------------------------------------------------


@question
def runs(s: store.Store) -> pd.DataFrame:
    """A row a run."""
    return _told(s.runs(), "FROM runs ORDER BY run_id")


@question
def asked(s: store.Store, name: str, /, **parameters: Any) -> pd.DataFrame:
    """A query of pages.sql: about everything there is, so exact."""
    frame = s.sql(pages()[name], parameters)
    frame.attrs["exact"] = True
    return _told(frame, pages()[name], **parameters)


@question
def stats(s: store.Store, run: int) -> pd.DataFrame:
    """A run in one row."""
    return _told(s.stats(run), s.query("stats"), run=run)


@question
def shape(s: store.Store, run: int) -> pd.DataFrame:
    """The run's model in one row."""
    return s.sql(s.query("shape"), {"run": run})


@question
def position(s: store.Store, position_id: int) -> pd.DataFrame:
    """A position in one row, with its text."""
    found = s.position(position_id).to_frame().T
    return _told(found, s.query("position"), position_id=position_id, before=BEFORE, after=AFTER)


@question
def decomposition(s: store.Store, position_id: int, by: str) -> pd.DataFrame:
    """The terms of a prediction, as `Store.decomposition`."""
    query = s.query(f"by_{by}")
    asked_for = {"position_id": position_id} | s.facts(query, run_of(position_id))
    return _told(s.decomposition(position_id, by), query, **asked_for)


@question
def neuron_inputs(s: store.Store, position_id: int, name: str) -> pd.DataFrame:
    """What feeds a neuron at a position, as `Store.neuron_inputs`; its figures are in attrs.

    Raises:
        NoSuchUnit, NoInputs: there is no such neuron, or this was not computed.
    """
    found = s.neuron_inputs(position_id, name)
    _, layer, neuron = parse(name)
    query = s.query("neuron_inputs")
    return _told(found, query, position_id=position_id, layer=layer, neuron=neuron)


def expression(position_id: int, toward: str, expand: list[str], below: float) -> Expression:
    """A prediction in the literature's notation; its terms are fetched as they are looked at."""
    return _store(str(path())).expression(position_id, toward).expand(*expand).drop_below(below)


@question
def sends(s: store.Store, position_id: int, limit: int) -> pd.DataFrame:
    """What later positions take from this one."""
    query = s.query("sends")
    asked_for = {"position_id": position_id, "limit": limit} | s.facts(query, run_of(position_id))
    return _told(s.sends(position_id, limit), query, **asked_for)


def _about(found: store.Neuron | store.Head) -> dict[str, pd.DataFrame]:
    """What neurons and heads are asked alike."""
    return {
        "stats": _of(found, "stats"),
        "histogram": _of(found, "histogram"),
        "high": _of(found, "contexts", side="high", k=CONTEXTS),
        "low": _of(found, "contexts", side="low", k=CONTEXTS),
        "random": _of(found, "random", k=CONTEXTS),
        "quantiles": _of(found, "quantiles", bins=FIFTHS, k=3),
        "tokens": _of(found, "tokens", k=TOKENS),
        "effects": _of(found, "effects", k=TOKENS),
        "companions": _of(found, "companions", k=TOKENS),
    }


@question
def neuron(s: store.Store, name: str, run: int) -> dict[str, pd.DataFrame]:
    """All that a neuron's page shows, by what was asked."""
    return _about(s.neuron(name, run))


@question
def head(s: store.Store, name: str, run: int) -> dict[str, pd.DataFrame]:
    """All that a head's page shows, by what was asked."""
    found = s.head(name, run)
    more = {"distances": _of(found, "distances"), "destinations": _of(found, "destinations", k=TOKENS)}
    return _about(found) | more


@question
def interval(s: store.Store, name: str, run: int, bin: int) -> pd.DataFrame:
    """Contexts with a value in one bin of a neuron's or head's histogram."""
    return _of(s.unit(name, run), "interval", bin=bin, k=CONTEXTS)


@question
def exists(s: store.Store, name: str, run: int) -> pd.DataFrame:
    """One row for a neuron or head that there is.

    Raises:
        NoSuchUnit: the run's model has none of this name.
    """
    found = s.unit(name, run)
    return pd.DataFrame({"letter": [found.letter], "layer": [found.layer], "number": [found.number]})


def _of(unit: store.Neuron | store.Head, what: str, **arguments: Any) -> pd.DataFrame:
    answer = getattr(unit, what)(**arguments)
    frame = answer.to_frame().T if isinstance(answer, pd.Series) else answer
    frame.attrs.setdefault("exact", True)
    known: dict[str, Any] = {"run": unit.run, "layer": unit.layer, "unit": unit.number, "kind": unit.kind}
    known |= {"bins": 1, "before": BEFORE, "after": AFTER}
    query = unit.query(what)
    return _told(frame, query, **known | unit.store.facts(query, unit.run) | arguments)


@question
def models(s: store.Store) -> pd.DataFrame:
    """Those whose weights were read, the last one last."""
    return s.sql(f"FROM ({named('weights.sql')['models']}) WHERE is_read")


@question
def neuron_weights(s: store.Store, name: str, run: int | None, model: str | None) -> dict[str, pd.DataFrame]:
    """What a neuron's weights say, by what was asked; nothing where the run's were not read."""
    asked_for = ("neuron_stats", "neuron_vocabulary", "neuron_reads")
    _, layer, number = parse(name)
    asked = {what: {"name": name} for what in asked_for}
    return _of_weights(s, run, model, asked, layer=layer, neuron=number)


@question
def head_weights(s: store.Store, name: str, run: int | None, model: str | None) -> dict[str, pd.DataFrame]:
    """The same of a head."""
    listed = ("head_compositions", "head_vocabulary", "head_pairs", "skip_trigrams", "head_distances")
    asked_for: dict[str, dict[str, Any]] = {"head_behaviour": {"name": name}, "head_stats": {"name": name}}
    asked_for |= {what: {"name": name, "k": TOKENS} for what in listed}
    _, layer, number = parse(name)
    return _of_weights(s, run, model, asked_for, layer=layer, head=number)


@question
def kinds_of_neurons(s: store.Store, run: int | None, model: str | None) -> dict[str, pd.DataFrame]:
    """Neurons that stand out by their weights alone."""
    asked_for: dict[str, dict[str, Any]] = {"next_token_neurons": {"k": 5}, "erasing_neurons": {"k": TOKENS}}
    return _of_weights(s, run, model, asked_for)


@question
def kinds_of_heads(s: store.Store, run: int | None, model: str | None) -> dict[str, pd.DataFrame]:
    """What every head does and its weights say; which read which."""
    asked_for: dict[str, dict[str, Any]] = {"behaviour": {}, "compositions": {"kind": None, "k": TOKENS}}
    return _of_weights(s, run, model, asked_for)


@question
def direct_path(s: store.Store, token: str, token_id: int, run: int) -> dict[str, pd.DataFrame]:
    """What a token's embedding alone puts after it, and how far the run's bigrams agree."""
    asked_for: dict[str, dict[str, Any]] = {"direct_path": {"k": FOLLOWERS}, "bigram_agreement": {"k": 1}}
    asked_for = {what: arguments | {"token": token} for what, arguments in asked_for.items()}
    return _of_weights(s, run, None, asked_for, token_id=token_id)


@question
def bigrams(s: store.Store, run: int) -> dict[str, pd.DataFrame]:
    """The run's bigrams beside the direct path."""
    asked_for = {"bigram_summary": {}, "bigram_agreement": {"k": TOKENS}, "bigram_distances": {}}
    return _of_weights(s, run, None, asked_for, token_id=None)


def _of_weights(
    s: store.Store, run: int | None, model: str | None, asked_for: dict[str, dict[str, Any]], **known: Any
) -> dict[str, pd.DataFrame]:
    """Answers of `Store.weights` by method; nothing where the weights have not been read."""
    try:
        weights = s.weights(run, model)
        found = {what: getattr(weights, what)(**arguments) for what, arguments in asked_for.items()}
    except store.NoWeights:
        return {}
    known |= {"model_id": int(weights.model.model_id), "run": weights.run}
    queries = named("weights.sql")
    return {what: _told(frame, queries[what], **known | asked_for[what]) for what, frame in found.items()}


@question
def tokens(s: store.Store, text: str, match: str, run: int) -> pd.DataFrame:
    """The vocabulary's tokens that match, and how often each occurs."""
    found = s.tokens(text, match, run)
    return _told(found, s.query("tokens"), text=text, match=match, run=run)


@question
def occurrences(s: store.Store, token_id: int, run: int, limit: int) -> pd.DataFrame:
    """The first places of a token."""
    found = s.occurrences(token_id, run, limit=limit)
    query = s.query("occurrences")
    asked_for = {"token_id": token_id, "run": run, "limit": limit, "offset": 0} | s.facts(query, run)
    return _told(found, query, **asked_for, before=BEFORE, after=AFTER)


@question
def search(s: store.Store, where: str, run: int, limit: int) -> pd.DataFrame:
    """The first positions for which conditions hold, as `Store.search`."""
    asked_for = conditions.clause(_conditions(s, where, run))
    return s.search(asked_for, run, limit)


@question
def phrase(s: store.Store, text: str, where: str | None, run: int, limit: int) -> pd.DataFrame:
    """The first places of a text, and of them those for whose first token conditions hold."""
    found = s.phrase(text, run, limit=limit)
    query = s.query("phrase")
    _told(found, query, text=text, run=run, limit=limit, offset=0, before=BEFORE, after=AFTER)
    if where is None or found.empty:
        return found
    among = store.position.position_id.in_([int(number) for number in found.first_position_id])
    held = s.search(among & conditions.clause(_conditions(s, where, run)), run, limit)
    kept = found[found.first_position_id.isin(held.position_id)].reset_index(drop=True)
    kept.attrs = found.attrs if held.attrs["exact"] else held.attrs
    kept.attrs["sql"] = (
        f"FROM (\n{found.attrs['sql']}\n)\nWHERE first_position_id IN (\n"
        f"SELECT position_id FROM (\n{held.attrs['sql']}\n))\nORDER BY document_id, char_start"
    )
    return kept


def _conditions(s: store.Store, where: str, run: int) -> list[conditions.Condition]:
    return conditions.read(where, [*s.sql(pages()["metadata_keys"], {"run": run}).key])


@question
def of_lookups(s: store.Store, run: int, what: str) -> pd.DataFrame:
    """`Store.explanations`, with intervals that its SQL has not, or `Store.ablations`."""
    return _told(getattr(s, what)(run), s.query(what), run=run)


# SQL that a person wrote --------------------------------------------------------------------------

ROWS, SECONDS, MEMORY = 10_000, 10.0, "512MB"
AT_ONCE = 2  # queries of all who look: each takes a core or two, and its memory
PATIENCE = 3.0  # seconds that another waits for its turn
_places = threading.BoundedSemaphore(AT_ONCE)


class TooManyAtOnce(store.AnnotateError):
    """Others' queries take all the places."""


def _restricted(s: store.Store, query: str) -> pd.DataFrame:
    """The rows of one SELECT, and in attrs the seconds it took and whether there were more rows.

    Raises:
        RefusedQuery, TooManyAtOnce: it is wrong, not allowed or too much; or it is not its turn.
    """
    if not _places.acquire(timeout=PATIENCE):
        raise TooManyAtOnce(f"{AT_ONCE} other queries are running. Run yours again in a moment.")
    try:
        answer = restricted(
            s.path, query, seconds=SECONDS, memory=MEMORY, rows=ROWS, target="text", wait=s.wait
        )
    finally:
        _places.release()
    frame = answer.frame
    frame.attrs = {"seconds": answer.seconds, "truncated": answer.truncated}
    return _told(frame, query)


of_a_person = question(_restricted, entries=8)  # few: an answer may have 64 MB


@question
def views(s: store.Store) -> pd.DataFrame:
    """The views and macros, and for people what each is."""
    return _told(s.sql(named("describe.sql")["names"], {"schema": schema()}), "SHOW TABLES")


# Two runs -----------------------------------------------------------------------------------------


@question
def compare(s: store.Store, run: int, other: int, what: str, k: int) -> pd.DataFrame:
    """What changed most from one run to another, as `Store.compare`."""
    query = s.query(f"compare_{what}")
    return _told(s.compare(run, other, what, k), query, run=run, other=other, k=k)


@question
def unit_stats(s: store.Store, name: str, run: int) -> pd.DataFrame:
    """A neuron or head in one row."""
    return _of(s.unit(name, run), "stats")
