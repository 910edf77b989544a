"""Read and write stores (DuckDB files of annotations): `annotate_transformer.open("x.duckdb")` opens one."""

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
    NoWeights,
    OtherSchemaVersion,
    OutOfMemory,
    StoreBusy,
    StoreChanged,
    StoreError,
)
from annotate_transformer.store.notation import Expression, Term
from annotate_transformer.store.question import Question
from annotate_transformer.store.reader import Prompt, Store, open
from annotate_transformer.store.search import head, neuron, position
from annotate_transformer.store.units import Head, Neuron
from annotate_transformer.store.upgrade import upgrade
from annotate_transformer.store.verify import Finding, verify
from annotate_transformer.store.weights import Weights

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
    "OtherSchemaVersion",
    "OutOfMemory",
    "Prompt",
    "Question",
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
