"""The annotated store: `import store; s = store.open("x.duckdb")`, then ask.

>>> import store
>>> with store.open("demo.duckdb") as s:  # doctest: +SKIP
...     s.sql("SELECT token, next_token, next_logprob FROM positions LIMIT 3")
"""

from store.errors import (
    AnnotateError,
    DiskFull,
    IngestRunning,
    NoSuchRun,
    NotAStore,
    OtherSchemaVersion,
    StoreBusy,
    StoreError,
)
from store.reader import Store, open
from store.verify import Finding, verify

__all__ = [
    "AnnotateError",
    "DiskFull",
    "Finding",
    "IngestRunning",
    "NoSuchRun",
    "NotAStore",
    "OtherSchemaVersion",
    "Store",
    "StoreBusy",
    "StoreError",
    "open",
    "verify",
]
