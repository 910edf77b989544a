"""SQL that a person wrote, asked within limits of time, memory and rows (store/restricted.py)."""

import threading

import pandas as pd

from annotate_transformer.app.browser.answers import question
from annotate_transformer.store import AnnotateError, Store
from annotate_transformer.store.restricted import restricted

ROWS, SECONDS, MEMORY = 10_000, 10.0, "512MB"
AT_ONCE = 2  # queries of all users: each takes a core or two, and its memory
PATIENCE = 3.0  # seconds that another query waits for its turn
places = threading.BoundedSemaphore(AT_ONCE)


class TooManyAtOnce(AnnotateError):
    """Other people's queries take all the places."""


def _ask(s: Store, query: str) -> pd.DataFrame:
    """Return the rows of one SELECT; attrs: the seconds it took, whether there were more rows, and the SQL.

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


ask = question(_ask, entries=8)  # few: an answer may have 64 MB
