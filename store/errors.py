"""The errors whose messages are shown to the user, as one class hierarchy.

    AnnotateError                    the message says what is wrong and what to do; exit status 2
    ├── StoreError                   the database file
    │   ├── NotAStore                not a DuckDB file, or not a store
    │   │   ├── EmptyStore           no tables yet: an ingest was killed before its first commit
    │   │   └── DamagedStore         the file is corrupt: its bytes have changed
    │   ├── OtherSchemaVersion       written by another version of this package
    │   ├── NoSuchRun                the store does not have the run
    │   ├── NotOneRun                the parts of a run do not make one whole run
    │   ├── NoSuchModel              the store does not have the model, or has several of this name
    │   ├── NoSuchUnit               the run's model does not have the neuron or head
    │   ├── NoSuchPosition           the store does not have the position
    │   ├── NoSuchToken              the vocabulary does not have the token
    │   ├── NoWeights                the model's weights were not read yet
    │   ├── NoInputs                 the inputs of a neuron were not computed at a position
    │   ├── NoModel                  the store was opened without the models of its runs
    │   ├── BadQuestion              a query has an invalid option
    │   ├── Unreachable              a store elsewhere does not answer, or not as it has to
    │   ├── StoreBusy                another process held the file open for longer than the maximum wait
    │   ├── IngestRunning            another ingest writes into the same file
    │   ├── StoreChanged             another program wrote during an ingest
    │   ├── DiskFull                 no room for the next write
    │   └── OutOfMemory              DuckDB had too little memory
    └── ingest.errors.IngestError    the corpus, the model, the settings (see that module)

The message of an error is written where it is raised, because only there the wrong value is known. A broken
invariant of the program is an `assert`, never one of these errors.
"""

from collections.abc import Collection, Mapping
from typing import Any


class AnnotateError(Exception):
    """An error that the user can correct; its message is shown to the user unchanged."""


class StoreError(AnnotateError):
    """The store cannot be read or written as requested."""


class NotAStore(StoreError):
    """The file is not a DuckDB database, or not one that `annotate ingest` made."""


class EmptyStore(NotAStore):
    """The DuckDB file has no tables, because an ingest was killed before its first commit."""


class DamagedStore(NotAStore):
    """DuckDB cannot read a part of the file: it was truncated or overwritten, or its disk fails."""


class OtherSchemaVersion(StoreError):
    """The store was written with another version of schema.sql."""


class NoSuchRun(StoreError):
    """The store has no run with this id."""


class NotOneRun(StoreError):
    """Some parts belong to different runs, overlap, are incomplete or are missing."""


class NoSuchModel(StoreError):
    """No model of the store, or more than one, has this id or name; the message lists the store's models."""


class NoSuchUnit(StoreError):
    """The run's model has no neuron or head with this name."""


class NoSuchPosition(StoreError):
    """The store has no position with this id."""


class NoSuchToken(StoreError):
    """The vocabulary has no such token; the message lists similar tokens."""


class NoWeights(StoreError):
    """`annotate weights` has not read a model's weights, or has not compared a run's bigrams with them."""


class NoInputs(StoreError):
    """The inputs of the neuron were not computed at this position."""


class NoModel(StoreError):
    """The answer needs a run's model, but the store was opened without the models of its runs."""


class BadQuestion(StoreError):
    """An option of a query is invalid."""


class Unreachable(StoreError):
    """The server of a store does not answer, or its answer is not a valid one."""


class StoreBusy(StoreError):
    """Another process held the file open for longer than the maximum wait."""


class IngestRunning(StoreError):
    """Another ingest is writing into the same store."""


class StoreChanged(StoreError):
    """Another program wrote into the file, or replaced it, while a `Writer` used the file."""


class DiskFull(StoreError):
    """The disk has no room for the next write; committed data is safe."""


class OutOfMemory(StoreError):
    """DuckDB had too little memory for a query or a write; committed data is safe."""


def not_negative(asked: Mapping[str, Any]) -> None:
    """Raise BadQuestion if a parameter that counts rows or characters is negative."""
    for name in ("k", "limit", "offset", "bins", "before", "after"):
        if asked.get(name, 0) < 0:
            raise BadQuestion(f"{name} is {asked[name]}; it must be 0 or more.")


def one_of(name: str, value: str, allowed: Collection[str]) -> None:
    """Raise BadQuestion if a value is not one of the allowed values."""
    if value not in allowed:
        raise BadQuestion(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")
