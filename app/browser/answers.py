"""Questions to the store, cached until the file changes; the SQL of an answer is in its attrs["sql"].

A page opens the file with its first question that is not cached, and lets go of it at its end, so an
ingest goes on beside the app. What that has committed is seen with the next page: the file's time and
size are part of what an answer is kept under.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from importlib.resources import files
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import pandas as pd
import streamlit as st

import store
from app.browser import VARIABLE
from store.names import parse
from store.queries import AFTER, BEFORE, named

WAIT = 10.0  # seconds for an ingest's commit
CONTEXTS, FIFTHS, TOKENS = 12, 5, 50  # rows of each kind on a neuron's or head's page
P = ParamSpec("P")
Answer = TypeVar("Answer", pd.DataFrame, dict[str, pd.DataFrame])


def path() -> Path:
    """The store that the app shows."""
    return Path(os.environ.get(VARIABLE, "demo.duckdb"))


def _stamp(file: Path) -> tuple[int, int]:
    found = file.stat() if file.exists() else None
    return (found.st_mtime_ns, found.st_size) if found else (0, 0)


_opened: ContextVar[tuple[ExitStack, set[str]] | None] = ContextVar("_opened", default=None)


@contextmanager
def together() -> Iterator[None]:
    """One page's questions: all after the first find the file open, which takes half the time."""
    with ExitStack() as until_the_end:
        token = _opened.set((until_the_end, set()))
        try:
            yield
        finally:
            _opened.reset(token)


@cache
def _store(file: str) -> store.Store:
    return store.open(file, wait=WAIT)


def _open(file: str) -> None:
    here = _opened.get()
    if here and file not in here[1]:
        here[0].enter_context(_store(file).together())
        here[1].add(file)


def question(ask: Callable[Concatenate[store.Store, P], Answer]) -> Callable[P, Answer]:
    """A function of the store that is asked once for each file as it stands and each set of arguments."""

    @st.cache_data(show_spinner=False, max_entries=300)
    @wraps(ask)
    def kept(file: str, stamp: tuple[int, int], *arguments: Any, **named: Any) -> Answer:
        _open(file)
        return ask(_store(file), *arguments, **named)

    @wraps(ask)
    def asked(*arguments: P.args, **named: P.kwargs) -> Answer:
        answer: Answer = kept(str(path()), _stamp(path()), *arguments, **named)
        return answer

    return asked


# What SQL was asked -------------------------------------------------------------------------------


@cache
def pages() -> dict[str, str]:
    """The queries of pages.sql by name."""
    text = (files("app.browser") / "pages.sql").read_text(encoding="utf-8")
    parts = (part.split("\n", 1) for part in text.split("\n-- name: ")[1:])
    return {name.strip(): query.strip() for name, query in parts}


def statement(query: str, parameters: dict[str, Any]) -> str:
    """A query with its parameters written out, to be run as it stands.

    >>> statement("SELECT $a, $b", {"a": 1, "b": "it's"})
    "SELECT 1, 'it''s'"
    """
    return re.sub(r"\$(\w+)", lambda name: _literal(parameters[name[1]]), query)


def _literal(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return "NULL" if value is None else str(value)


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
    return _told(s.stats(run), named("read.sql")["stats"], run=run)


@question
def shape(s: store.Store, run: int) -> pd.DataFrame:
    """The run's model in one row."""
    return s.sql(named("read.sql")["shape"], {"run": run})


@question
def position(s: store.Store, position_id: int) -> pd.DataFrame:
    """A position in one row, with its text."""
    found = s.position(position_id).to_frame().T
    return _told(found, named("read.sql")["position"], position_id=position_id, before=BEFORE, after=AFTER)


@question
def decomposition(s: store.Store, position_id: int, by: str) -> pd.DataFrame:
    """The terms of a prediction, as `Store.decomposition`."""
    return _told(s.decomposition(position_id, by), named("read.sql")[f"by_{by}"], position_id=position_id)


@question
def sends(s: store.Store, position_id: int, limit: int) -> pd.DataFrame:
    """What later positions take from this one."""
    query = named("read.sql")["sends"]
    return _told(s.sends(position_id, limit), query, position_id=position_id, limit=limit)


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
    return _about(found) | {"distances": _of(found, "distances")}


@question
def exists(s: store.Store, name: str, run: int) -> pd.DataFrame:
    """One row for a neuron or head that there is.

    Raises:
        NoSuchUnit: the run's model has none of this name.
    """
    letter, layer, number = parse(name)
    (s.neuron if letter == "N" else s.head)(name, run)
    return pd.DataFrame({"letter": [letter], "layer": [layer], "number": [number]})


def _of(unit: store.Neuron | store.Head, what: str, **arguments: Any) -> pd.DataFrame:
    answer = getattr(unit, what)(**arguments)
    frame = answer.to_frame().T if isinstance(answer, pd.Series) else answer
    frame.attrs.setdefault("exact", True)
    identity = {"run": unit.run, "layer": unit.layer, "unit": unit.number, "before": 80, "after": 40}
    identity |= {"is_head": unit.kind == "head", "bins": 1}
    return _told(frame, _unit_query(unit.kind, what), **identity | arguments)


def _unit_query(kind: str, what: str) -> str:
    queries = named("read.sql")
    if what in ("random", "quantiles"):
        return queries["sample_contexts"].format(samples=queries[f"{kind}_samples"])
    if what == "histogram":
        return queries["histogram"].format(unit_stats=queries[f"{kind}_stats"])
    return queries.get(f"{kind}_{what}") or queries[what]
