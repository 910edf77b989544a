"""Every error a person can cause or meet, as one tree with one base.

    AnnotateError                    a sentence that says what is wrong and what to do; exit status 2
    ├── StoreError                   the database file
    │   ├── NotAStore                not a DuckDB file, or not one of ours
    │   │   ├── EmptyStore           no table yet: an ingest was killed before its first commit
    │   │   └── DamagedStore         its bytes are not those that were written
    │   ├── OtherSchemaVersion       written by another version of this package
    │   ├── NoSuchRun                a run the store does not have
    │   ├── NoSuchModel              a model the store does not have, or several of the name
    │   ├── NoSuchUnit               a neuron or head the run's model does not have
    │   ├── NoSuchPosition           a position the store does not have
    │   ├── NoSuchToken              a token that is none of the vocabulary's
    │   ├── NoWeights                nothing was made from the model's weights yet
    │   ├── NoInputs                 what feeds a neuron was not asked for there
    │   ├── BadQuestion              an option of a question that has no meaning
    │   ├── StoreBusy                held open by another process for longer than we wait
    │   ├── IngestRunning            a second ingest into the same file
    │   ├── StoreChanged             somebody else wrote while an ingest was at work
    │   ├── DiskFull                 no room for the next shard
    │   └── OutOfMemory              DuckDB had too little memory
    └── ingest.errors.IngestError    the corpus, the model, the settings (see there)

The text of an error is written where it is raised, because only there the value
that is wrong is known. An invariant of ours is an `assert`, never one of these.
"""

from collections.abc import Collection, Mapping
from typing import Any


class AnnotateError(Exception):
    """Something a person can put right; its text is the sentence to print."""


class StoreError(AnnotateError):
    """The database file cannot be used as asked."""


class NotAStore(StoreError):
    """The file is not a DuckDB database, or not one that `annotate ingest` made."""


class EmptyStore(NotAStore):
    """A DuckDB file without a table: an ingest was killed before its first commit."""


class DamagedStore(NotAStore):
    """DuckDB cannot read a part of the file: it was cut off, overwritten, or its disk fails."""


class OtherSchemaVersion(StoreError):
    """The store was written under another version of schema.sql."""


class NoSuchRun(StoreError):
    """The store has no run of this number."""


class NoSuchModel(StoreError):
    """The store has no model of this number or name, or several; the sentence lists them."""


class NoSuchUnit(StoreError):
    """The run's model has no neuron or head of this name."""


class NoSuchPosition(StoreError):
    """The store has no position of this number."""


class NoSuchToken(StoreError):
    """The vocabulary has no such token; the sentence lists those like it."""


class NoWeights(StoreError):
    """The store has nothing of the model's weights, or of the run's bigrams beside them."""


class NoInputs(StoreError):
    """What feeds the neuron was not computed for that position."""


class BadQuestion(StoreError):
    """A question cannot be asked like this."""


class StoreBusy(StoreError):
    """Another process held the file for longer than we wait."""


class IngestRunning(StoreError):
    """Another ingest is writing into the same store."""


class StoreChanged(StoreError):
    """The file is no longer as its writer left it: another program wrote into it, or replaced it."""


class DiskFull(StoreError):
    """The disk has no room for the next shard; committed shards are safe."""


class OutOfMemory(StoreError):
    """DuckDB had too little memory for a question or a shard; committed shards are safe."""


def not_negative(asked: Mapping[str, Any]) -> None:
    """Raises BadQuestion for a parameter that counts rows or characters and is below 0."""
    for name in ("k", "limit", "offset", "bins", "before", "after"):
        if asked.get(name, 0) < 0:
            raise BadQuestion(f"{name} is {asked[name]}; it must be 0 or more.")


def one_of(name: str, value: str, allowed: Collection[str]) -> None:
    """Raises BadQuestion for a value that is none of those allowed."""
    if value not in allowed:
        raise BadQuestion(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")
