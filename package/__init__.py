"""Every token of a corpus, annotated with what each layer, head and neuron contributed to the prediction.

>>> import annotate_transformer as at
>>> with at.open("demo.duckdb") as s:  # doctest: +SKIP
...     s.sql("SELECT token, next_token, next_logprob FROM positions LIMIT 3")

The public names are those of `annotate_transformer.store`, which is imported when the first of them is used:
the command line and the workers of an ingest start without it.
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
