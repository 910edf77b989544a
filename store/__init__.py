"""The annotated store: `import store; s = store.open("x.duckdb")`, then ask.

>>> import store
>>> with store.open("demo.duckdb") as s:  # doctest: +SKIP
...     s.sql("SELECT token, next_token, next_logprob FROM positions LIMIT 3")
"""

from store.errors import (
    AnnotateError,
    BadQuestion,
    DamagedStore,
    DiskFull,
    EmptyStore,
    IngestRunning,
    NoInputs,
    NoSuchModel,
    NoSuchPosition,
    NoSuchRun,
    NoSuchToken,
    NoSuchUnit,
    NotAStore,
    NoWeights,
    OtherSchemaVersion,
    OutOfMemory,
    StoreBusy,
    StoreChanged,
    StoreError,
)
from store.notation import Expression, Term
from store.reader import Store, open
from store.search import head, neuron, position
from store.units import Head, Neuron
from store.upgrade import upgrade
from store.verify import Finding, verify
from store.weights import Weights

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
    "NoSuchModel",
    "NoSuchPosition",
    "NoSuchRun",
    "NoSuchToken",
    "NoSuchUnit",
    "NoWeights",
    "NotAStore",
    "OtherSchemaVersion",
    "OutOfMemory",
    "Store",
    "StoreBusy",
    "StoreChanged",
    "StoreError",
    "Term",
    "Weights",
    "head",
    "neuron",
    "open",
    "position",
    "upgrade",
    "verify",
]
