"""Annotate every token of a corpus with the direct effects of each layer, head and neuron on the prediction.

>>> import annotate_transformer as at
>>> with at.open("demo.duckdb") as s:  # doctest: +SKIP
...     s.sql("SELECT token, next_token, next_logprob FROM positions LIMIT 3")

The public names are those of `annotate_transformer.store`. They are imported when the first of them is used,
so that the command line and the workers of an ingest can start without them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from annotate_transformer.store import *  # noqa: F403


def __getattr__(name: str) -> Any:
    store = import_module("annotate_transformer.store")
    if name == "__all__" or name in store.__all__:
        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*import_module("annotate_transformer.store").__all__]
