"""Read a store's file: run SQL on it, and cache the facts about runs that other queries need.

Each query opens the file, which is closed again soon after. So an ingest into the same file can continue, and
an open notebook blocks nobody.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import duckdb
import pandas as pd
import pyarrow as pa

from annotate_transformer.store.database import WAIT_SECONDS, Reading, connect, damage_as_sentence, is_damage
from annotate_transformer.store.elsewhere.place import Address, place
from annotate_transformer.store.errors import BadQuestion, NoModel, NoSuchRun
from annotate_transformer.store.queries import named, plain
from annotate_transformer.store.running import Runner

if TYPE_CHECKING:
    import sqlalchemy as sa

FACTS = ("tokenizer", "context")  # the columns of the query `facts` in read.sql


class Session:
    """A store that is open for reading; several threads can share one `Session`.

    The parameter `run` is always the id of a run; None stands for the run that was finished last.
    """

    def __init__(
        self, path: Address, wait: float = WAIT_SECONDS, runner: Callable[[], Runner] | None = None
    ) -> None:
        """`runner`: a function that returns a `Runner` for the runs' models; it is called at first use."""
        self.path, self.wait, self._make_runner = place(path), wait, runner
        self._reading = Reading(self.path, wait)
        self._here = threading.local()  # its `con` is the connection that `together` holds in this thread
        self.sql("SELECT 1")  # so that an error is raised now if the file is not a store

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._reading.close()

    def __repr__(self) -> str:
        return f"<store {self.path}>"

    def _repr_html_(self) -> str:
        """Return the runs as a table, for a notebook."""
        names = ["run_id", "model", "revision", "status", "tokens"]
        runs = self.sql(f"SELECT {', '.join(names)} FROM runs ORDER BY run_id")
        return f"<p>{escape(str(self.path))}</p>{runs.to_html(index=False)}"

    # SQL

    def sql(self, query: str, parameters: dict[str, Any] | list[Any] | None = None) -> pd.DataFrame:
        """Run a SQL query, which may use all views of schema.sql, and return the answer.

        Raises:
            BadQuestion: there is no statement, or no statement that returns rows.
            duckdb.Error: the query is wrong.
            StoreBusy: an ingest held the file for longer than `wait` seconds.
        """
        with self.connection() as con:
            return _with_rows(con.execute(query, plain(parameters))).df()

    def arrow(
        self, query: str, parameters: dict[str, Any] | None = None, *, rows: int = 100_000
    ) -> pa.RecordBatchReader:
        """Return a reader of Arrow batches of `rows` rows, so that memory does not grow with the answer.

        The file stays open, and an ingest waits, until the last batch is read or the reader is deleted.

        Raises:
            BadQuestion, duckdb.Error, StoreBusy: as for `sql`.
        """
        stream = self._stream(query, parameters, rows)
        schema = next(stream)
        assert isinstance(schema, pa.Schema)
        return pa.RecordBatchReader.from_batches(schema, stream)

    def _stream(
        self, query: str, parameters: dict[str, Any] | None, rows: int
    ) -> Iterator[pa.Schema | pa.RecordBatch]:
        """Yield the Arrow schema of the answer, and then its record batches."""
        # The stream has a cursor of its own, because the next query on a cursor ends the stream of the query
        # before.
        with self._reading.cursor() as con:
            reader = _with_rows(con.execute(query, plain(parameters))).to_arrow_reader(rows)
            yield reader.schema
            yield from reader

    @cached_property
    def engine(self) -> "sa.Engine":
        """A SQLAlchemy engine, such as for `pandas.read_sql`; the file is open only while a query runs."""
        # Imported here, because to import SQLAlchemy takes as long as pandas, and few questions need it.
        import sqlalchemy as sa
        from duckdb_sqlalchemy import ConnectionWrapper

        def open_one() -> ConnectionWrapper:
            return ConnectionWrapper(connect(self.path, self.wait))

        engine = sa.create_engine("duckdb://", creator=open_one, poolclass=sa.NullPool)
        sa.event.listen(engine, "handle_error", self._raise_damage)
        return engine

    def _raise_damage(self, context: "sa.ExceptionContext") -> None:
        """Raise DamagedStore instead of SQLAlchemy's error if the file is corrupt."""
        if is_damage(context.original_exception):
            with damage_as_sentence(self.path):
                raise context.original_exception

    @contextmanager
    def together(self) -> Iterator[None]:
        """Context manager: keep the file open for several queries of this thread; an ingest must wait."""
        with self.connection():
            yield

    @contextmanager
    def connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Context manager: yield the connection that `together` holds; if there is none, open the file."""
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

    @cached_property
    def runner(self) -> Runner:
        """The `Runner` that runs the models of this store's runs.

        Raises:
            NoModel: the store was opened without models.
        """
        if self._make_runner is None:
            raise NoModel(
                f"{self.path} was opened without its runs' models, which this answer needs. Open it with "
                "annotate_transformer.ingest.open(…), or ask `annotate position` and `annotate expand`."
            )
        return self._make_runner()

    # The methods below return facts about the runs. They are read once and cached while the file is open.

    def run(self, run: int | None = None) -> int:
        """Return the id of the run that a query is about: `run`, or the run that was finished last.

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
        """Return whether the run is finished; only then are its top-k lists and statistics final."""
        return run in self._runs()[2]

    def has_coded(self) -> bool:
        """Return whether at least one run stores all neurons, most of them as codes of a few bits."""
        return self._runs()[3]

    def model_of(self, run: int) -> "pd.Series[Any]":
        """Return the row of the view `models` for a run's model."""
        row: pd.Series[Any] = self._kept(
            ("model", run), lambda: self.sql(named("read.sql")["shape"], {"run": run}).iloc[0]
        )
        return row

    def about(self, run: int) -> "pd.Series[Any]":
        """Return the row of the view `runs` for a run."""
        return self.sql("FROM runs WHERE run_id = $run", {"run": run}).iloc[0]

    def facts(self, run: int) -> dict[str, int | None]:
        """Return a run's query parameters $tokenizer and $context; both are None if there is no such run."""
        values = self._kept(("facts", run), lambda: self._row("facts", {"run": run}))
        return dict(zip(FACTS, values, strict=True))

    def _runs(self) -> tuple[int | None, list[int], list[int], bool]:
        """Return which runs there are, which are finished, and whether at least one run has coded neurons.

        The values are the id of the latest finished run, the ids of all runs, the ids of the finished runs,
        and the answer of `has_coded`.
        """
        found: tuple[int | None, list[int], list[int], bool] = self._kept(
            "runs", lambda: self._row("chosen_run")
        )
        return found

    def _row(self, query: str, parameters: dict[str, Any] | None = None) -> Any:
        with self.connection() as con:
            return con.execute(named("read.sql")[query], parameters).fetchone()

    def _kept(self, key: Any, read: Callable[[], Any]) -> Any:
        """Return the result of `read`, cached under `key` for as long as the file is open."""
        with self.connection():
            known = self._reading.known
            if key not in known:
                known[key] = read()
            return known[key]


def _with_rows(executed: duckdb.DuckDBPyConnection | None) -> duckdb.DuckDBPyConnection:
    """Return an executed query; raise BadQuestion if the SQL has no statement that returns rows."""
    if executed is None or not executed.description:
        raise BadQuestion('The SQL has no statement that returns rows. Write one, such as "FROM runs".')
    return executed
