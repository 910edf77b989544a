"""Run a user's SQL query within limits of time, memory and number of rows (see store/restricted.py)."""

import threading

import pandas as pd

from annotate_transformer.app.browser.answers import question
from annotate_transformer.store import AnnotateError, Store
from annotate_transformer.store.restricted import restricted

ROWS, SECONDS, MEMORY = 10_000, 10.0, "512MB"
# AT_ONCE: maximum number of queries that run at the same time, counted over all users. Each query takes 1 or
# 2 CPU cores, and up to MEMORY of memory.
AT_ONCE = 2
PATIENCE = 3.0  # if no running query ends within this many seconds, a waiting query is refused
places = threading.BoundedSemaphore(AT_ONCE)


class TooManyAtOnce(AnnotateError):
    """Too many queries of other users are running at the moment."""


def _ask(s: Store, query: str) -> pd.DataFrame:
    """Run one SELECT and return its rows.

    attrs: `seconds`, the query's duration; `truncated`, whether the query has more rows; `sql`, the query

    Raises:
        RefusedQuery: the query is wrong, not allowed, or exceeds a limit.
        TooManyAtOnce: too many other queries are running.
    """
    if not places.acquire(timeout=PATIENCE):
        raise TooManyAtOnce(f"{AT_ONCE} other queries are running. Run yours again in a moment.")
    try:
        answer = restricted(
            s.path, query, seconds=SECONDS, memory=MEMORY, rows=ROWS, target="text", wait=s.wait
        )
    finally:
        places.release()
    frame = answer.frame
    frame.attrs = {"seconds": answer.seconds, "truncated": answer.truncated, "sql": query}
    return frame


ask = question(_ask, entries=8)  # keeps only the last 8 answers, because one answer can take 64 MB
