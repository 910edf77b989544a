"""Read and write the URLs of pages. A URL holds the whole state of a page, so it always opens the same view.

    /text?run=1&document=3&from=812&position=900&colour=neuron&neuron=L3N7&toward=top
    /token?run=1&position=900&toward=next&head=L1H2&notation=tree&expand=L3,L2H1&below=0.1
    /neuron?run=1&neuron=L3N7          /head?run=1&head=L1H2          /head?model=2&head=L1H2
    /next_token?run=1&neuron=L3N7&prompt=4&head=L1H2
    /prompt?run=1&text=Dublin+is&at=1&toward=top

A wrong URL is a user's mistake: it gives an error message, never a traceback. Messages call a URL an address.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from annotate_transformer.store import AnnotateError

LARGEST = 2**63 - 1  # largest value of DuckDB's type BIGINT, so the largest number allowed in a URL


class BadLink(AnnotateError):
    """A parameter in the URL has a value that is not allowed."""


_model: ContextVar[str | None] = ContextVar("_model", default=None)
_prompt: ContextVar[dict[str, Any] | None] = ContextVar("_prompt", default=None)


@contextmanager
def on_prompt(**place: Any) -> Iterator[None]:
    """Context manager for the page Prompt: links to tokens open the page Prompt instead of the page Token.

    Links to heads and neurons open the pages of the run whose model read the prompt.

    place: the parameters of the URL of the prompt's page
    """
    token = _prompt.set(place)
    try:
        yield
    finally:
        _prompt.reset(token)


@contextmanager
def on_model(model: str) -> Iterator[None]:
    """Context manager for a page about a model's weights: all links get the URL parameter `model`."""
    token = _model.set(model)
    try:
        yield
    finally:
        _model.reset(token)


def is_on_prompt() -> bool:
    """Return whether the page Prompt is shown: its model is already loaded."""
    return _prompt.get() is not None


def link(page: str, **what: Any) -> str:
    """Return the URL of a page; parameters that are None are left out.

    >>> link("neuron", run=1, neuron="L3N7", side=None)
    '/neuron?run=1&neuron=L3N7'
    >>> with on_prompt(run=3, text="Dublin is"):
    ...     link("token", run=1, position=0)
    '/prompt?run=3&text=Dublin+is&at=0'
    >>> with on_model("2"):
    ...     link("head", run=None, head="L1H2")
    '/head?head=L1H2&model=2'
    """
    place = _prompt.get()
    if _model.get():
        what["model"] = _model.get()
    if place:
        what["run"] = place["run"]
        if page == "token":
            at = what.pop("position")
            page, what = "prompt", place | what | {"at": at}
    given = {name.rstrip("_"): value for name, value in what.items() if value is not None}
    return f"/{page}" + (f"?{urlencode(given)}" if given else "")


def number(name: str) -> int | None:
    """Return the value of a URL parameter as a whole number; None if the URL does not have it.

    Raises:
        BadLink: the value is not a whole number from 0 to LARGEST.
    """
    text = st.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()) or int(text[:20]) > LARGEST:
        raise BadLink(f"The address says {name}={_short(text)}: {name} is a whole number from 0 on.")
    return int(text)


def one_of(name: str, options: Sequence[str]) -> str:
    """Return the value of a URL parameter, which must be one of `options`; by default the first option."""
    text = st.query_params.get(name, options[0])
    if text not in options:
        raise BadLink(f"The address says {name}={_short(text)}: {name} is one of {', '.join(options)}.")
    return text


def text(name: str) -> str | None:
    """Return the value of a URL parameter as text; None if it is missing or empty."""
    return st.query_params.get(name) or None


def put(**what: Any) -> None:
    """Set parameters in this page's URL; a value of None or an empty text removes the parameter."""
    for name, value in what.items():
        written = "" if value is None else str(value).strip()
        if written:
            st.query_params[name.rstrip("_")] = written
        else:
            st.query_params.pop(name.rstrip("_"), None)


def put_text(name: str, text: str) -> None:
    """Set a URL parameter to a text, without removing spaces at the ends of the text."""
    st.query_params[name] = text


def _short(text: str) -> str:
    return repr(text if len(text) <= 30 else text[:30] + "…")
