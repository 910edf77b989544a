"""Read and write stores (DuckDB files of annotations): `annotate_transformer.open("x.duckdb")` opens one."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from annotate_transformer.store.errors import (
    AnnotateError,
    BadQuestion,
    DamagedStore,
    DiskFull,
    EmptyStore,
    IngestRunning,
    NoInputs,
    NoModel,
    NoSuchModel,
    NoSuchPosition,
    NoSuchRun,
    NoSuchToken,
    NoSuchUnit,
    NotAStore,
    NotOneRun,
    NoWeights,
    OtherSchemaVersion,
    OutOfMemory,
    StoreBusy,
    StoreChanged,
    StoreError,
    Unreachable,
)

# These two are imported now: their modules have the same names, and would hide functions imported later.
from annotate_transformer.store.upgrade import upgrade
from annotate_transformer.store.verify import Finding, verify

if TYPE_CHECKING:
    from annotate_transformer.store.display import Text
    from annotate_transformer.store.notation import Expression, Term
    from annotate_transformer.store.question import Question
    from annotate_transformer.store.reader import Prompt, Store, open
    from annotate_transformer.store.search import head, neuron, position
    from annotate_transformer.store.units import Head, Neuron
    from annotate_transformer.store.weights import Weights

# The modules with the other names, which are imported when they are first used: pandas takes half of the time
# of a command, and SQLAlchemy, which only `search` needs, takes as long.
_LATER = {
    "display": ("Text",),
    "notation": ("Expression", "Term"),
    "question": ("Question",),
    "reader": ("Prompt", "Store", "open"),
    "search": ("head", "neuron", "position"),
    "units": ("Head", "Neuron"),
    "weights": ("Weights",),
}

__all__ = [
    "AnnotateError",
    "BadQuestion",
    "DamagedStore",
    "DiskFull",
    "EmptyStore",
    "Expression",
    "Finding",
    "Head",
    "IngestRunning",
    "Neuron",
    "NoInputs",
    "NoModel",
    "NoSuchModel",
    "NoSuchPosition",
    "NoSuchRun",
    "NoSuchToken",
    "NoSuchUnit",
    "NoWeights",
    "NotAStore",
    "NotOneRun",
    "OtherSchemaVersion",
    "OutOfMemory",
    "Prompt",
    "Question",
    "Store",
    "StoreBusy",
    "StoreChanged",
    "StoreError",
    "Term",
    "Text",
    "Unreachable",
    "Weights",
    "head",
    "neuron",
    "open",
    "position",
    "upgrade",
    "verify",
]


def __getattr__(name: str) -> Any:
    for module, names in _LATER.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
