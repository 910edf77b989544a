"""Locks for processes that write into one lake: which of them uses a run's number, or adds a model.

They agree through advisory locks of the lake's PostgreSQL server, which end with the process that holds them.
A lake whose catalogue is a file has one writer at a time, and needs no locks.
"""

from types import TracebackType
from typing import Self

import duckdb

from annotate_transformer.store.elsewhere.lake import Lake
from annotate_transformer.store.queries import literal, named

LOCKS = 0x616E6E6F  # the first of a lock's two numbers; locks of other programs have another one
# The second number of a lock is the number of a run, or one of these. An identity has a number below them.
MAKING, OWNERS, IDENTITIES = 0, -1, -2


class Turns:
    """Context manager: the locks that one writer takes in the block; they are released after it."""

    def __init__(self, lake: Lake) -> None:
        self.lake, self.held = lake, set[int]()
        self._con: duckdb.DuckDBPyConnection | None = None

    def __enter__(self) -> Self:
        if self.lake.is_served:
            self._con = self.lake.server()
            self._con.execute("BEGIN")  # the server keeps the locks until the transaction ends
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._con is not None:
            self._con.close()

    def take(self, lock: int, *, wait: bool = False) -> bool:
        """Take a lock; return whether this writer has it. `wait`: wait until another writer releases it."""
        if lock not in self.held and (self._con is None or self._asked(lock, wait)):
            self.held.add(lock)
        return lock in self.held

    def _asked(self, lock: int, wait: bool) -> bool:
        assert self._con is not None
        query = named("share.sql")["wait_for_lock" if wait else "try_lock"]
        asked = query.replace("$locks", str(LOCKS)).replace("$lock", str(lock))
        [(has,)] = self._con.execute(f"FROM postgres_query('server', {literal(asked)})").fetchall()
        return wait or bool(has)


def of_identity(identity: str) -> int:
    """Return the number of the lock for a run with this identity.

    >>> of_identity("00000001" + 56 * "0")
    -2
    """
    return IDENTITIES - int(identity[:7], 16)
