"""A store's file, opened for reading: SQL, and the facts about a run that its questions are composed from.

Each answer opens the file, reads, and soon closes it again. So an ingest into the same file continues
meanwhile, and a notebook left open blocks nobody.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa
from duckdb_sqlalchemy import ConnectionWrapper

from annotate_transformer.store.database import WAIT_SECONDS, Reading, connect, damage_as_sentence, is_damage
from annotate_transformer.store.errors import NoSuchRun
from annotate_transformer.store.queries import named, plain

FACTS = ("tokenizer", "context")  # the columns of the query `facts` in read.sql


class Session:
    """A store, read-only; safe to share between threads.

    `run` is everywhere the number of a run; None is the run that was finished last.
    """

    def __init__(self, path: str | Path, wait: float = WAIT_SECONDS) -> None:
        self.path, self.wait = Path(path), wait
        self._reading = Reading(self.path, wait)
        self._here = threading.local()  # the connection of a thread that asks several questions
        self.sql("SELECT 1")  # a file that is not a store is refused at once

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._reading.close()

    # SQL

    def sql(self, query: str, parameters: dict[str, Any] | list[Any] | None = None) -> pd.DataFrame:
        """Return the answer to any SQL over the views of schema.sql.

        Raises:
            duckdb.Error: the query is wrong.
            StoreBusy: an ingest held the file for longer than `wait` seconds.
        """
        with self.connection() as con:
            return con.execute(query, plain(parameters)).df()

    def arrow(
        self, query: str, parameters: dict[str, Any] | None = None, *, rows: int = 100_000
    ) -> Iterator[pa.RecordBatch]:
        """Yield the answer in Arrow batches of `rows` rows: memory does not grow with the answer.

        The file stays open, and an ingest waits, until the last batch is taken.
        """
        # A connection of its own: another question on it would end the stream.
        with self._reading.cursor() as con:
            yield from con.execute(query, plain(parameters)).to_arrow_reader(rows)

    @cached_property
    def engine(self) -> sa.Engine:
        """An engine for `pandas.read_sql` and other users of SQLAlchemy, open only while in use."""

        def open_one() -> ConnectionWrapper:
            return ConnectionWrapper(connect(self.path, self.wait))

        engine = sa.create_engine("duckdb://", creator=open_one, poolclass=sa.NullPool)
        sa.event.listen(engine, "handle_error", self._raise_damage)
        return engine

    def _raise_damage(self, context: sa.ExceptionContext) -> None:
        """Raise DamagedStore instead of SQLAlchemy's error."""
        if is_damage(context.original_exception):
            with damage_as_sentence(self.path):
                raise context.original_exception

    @contextmanager
    def together(self) -> Iterator[None]:
        """Keep the file open for several questions of this thread; an ingest waits until the end."""
        with self.connection():
            yield

    @contextmanager
    def connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the file, or use the connection that `together` holds."""
        held = getattr(self._here, "con", None)
        if held is not None:
            yield held
            return
        with self._reading.cursor() as con:
            self._here.con = con
            try:
                yield con
            finally:
                self._here.con = None

    # Facts that are read once and kept while the file stays as it is

    def run(self, run: int | None = None) -> int:
        """Return the number of the run that a question is about: `run`, or the run that was finished last.

        Raises:
            NoSuchRun: there is no such run, or none is finished.
        """
        latest, runs, *_ = self._runs()
        if run is None and latest is None:
            there = f"it has unfinished ones: {', '.join(map(str, runs))}" if runs else "it has none at all"
            raise NoSuchRun(f"{self.path} has no finished run ({there}). Finish one, or name its number.")
        if run is not None and run not in runs:
            raise NoSuchRun(f"{self.path} has no run {run}; it has {', '.join(map(str, runs)) or 'none'}.")
        chosen = latest if run is None else run
        assert chosen is not None
        return int(chosen)

    def is_finished(self, run: int) -> bool:
        """Return whether the run is finished: its lists and statistics are final."""
        return run in self._runs()[2]

    def has_coded(self) -> bool:
        """Return whether any run keeps all neurons, most of them in few bits."""
        return self._runs()[3]

    def model_of(self, run: int) -> "pd.Series[Any]":
        """Return the row of `models` of a run's model."""
        row: pd.Series[Any] = self._kept(
            ("model", run), lambda: self.sql(named("read.sql")["shape"], {"run": run}).iloc[0]
        )
        return row

    def facts(self, run: int) -> dict[str, int | None]:
        """Return the run's $tokenizer and $context; None for a run that does not exist."""
        values = self._kept(("facts", run), lambda: self._row("facts", {"run": run}))
        return dict(zip(FACTS, values, strict=True))

    def _runs(self) -> tuple[int | None, list[int], list[int], bool]:
        """Return the latest finished run, all runs, the finished runs, and whether any keeps all neurons."""
        found: tuple[int | None, list[int], list[int], bool] = self._kept(
            "runs", lambda: self._row("chosen_run")
        )
        return found

    def _row(self, query: str, parameters: dict[str, Any] | None = None) -> Any:
        with self.connection() as con:
            return con.execute(named("read.sql")[query], parameters).fetchone()

    def _kept(self, key: Any, read: Callable[[], Any]) -> Any:
        """Return what `read` gives, read again only when the file was opened anew."""
        with self.connection():
            known = self._reading.known
            if key not in known:
                known[key] = read()
            return known[key]
