"""Copy a run into a lake (`store.elsewhere.lake`), with the model, tokenizer and texts that it needs.

The copy is one transaction that only adds rows. A lake has runs of many stores, so the run gets a number that
is free there: its own if possible. Models, tokenizers and texts that the lake has already are recognised by
their hashes. Several processes may copy into one lake at once. They agree on numbers through locks (`Turns`),
and each chooses with a view of the lake that is younger than its locks.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb

from annotate_transformer.store.catalogue import Table, catalogue
from annotate_transformer.store.checksum import Change, Sums, differing, recorded, whole
from annotate_transformer.store.database import WAIT_SECONDS, connection, is_disk_full
from annotate_transformer.store.elsewhere.lake import TABLES, Lake
from annotate_transformer.store.elsewhere.overlay import as_plain
from annotate_transformer.store.elsewhere.place import Place, place
from annotate_transformer.store.elsewhere.turns import MAKING, OWNERS, Turns, of_identity
from annotate_transformer.store.errors import BadQuestion, DamagedStore, DiskFull, StoreBusy
from annotate_transformer.store.layout import DOCUMENTS_A_CORPUS, PASSAGES_A_DOCUMENT, POSITIONS_A_RUN
from annotate_transformer.store.parts import ONCE, moving
from annotate_transformer.store.queries import named

SHARED = (
    "tokenizer",
    "model",
    "corpus",
)  # the kinds of objects that several runs of a lake may share
ROWS = 100_000  # number of rows that are read from the store at a time
TIMES = 5  # maximum number of attempts to copy a run while other processes change the lake
LISTS_AS = "SET arrow_output_version = '1.5'"  # see `store.writer.Writer`

Tell = Callable[[str], None]


@dataclass(frozen=True)
class SharedRun:
    """The result of `share_run`. run_id: the run's number in the lake; rows: the number of rows added"""

    run_id: int
    rows: int


def share_run(
    path: str | Place,
    run: int,
    address: str | Lake,
    data: str | Path | None = None,
    wait: float = WAIT_SECONDS,
    tell: Tell = lambda sentence: None,
) -> SharedRun:
    """Copy one finished run of the store at `path` into a lake; after an error the lake has none of it.

    data: the folder of the data files, for a new lake with its catalogue in PostgreSQL; wait: seconds to wait
    while another process has the store, or the catalogue's file, open; tell: called with a sentence if the
    copy has to wait for another one.

    Raises:
        BadQuestion: the lake has the run already, or the run is not finished, or an option is wrong.
        DamagedStore: rows of the store are not what was written.
        NotAStore, OtherSchemaVersion, StoreBusy: the store or the lake cannot be opened.
        DiskFull: the disk of the lake is full.
    """
    lake = address if isinstance(address, Lake) else _lake(address)
    with connection(path, read_only=True, wait=wait) as source, _errors_as_sentences(lake):
        source.execute(LISTS_AS)
        given = _given(source, path, run)
        with closing(_opened(lake, data, wait)) as con, Turns(lake) as turns:
            if not turns.take(of_identity(given["run"]["identity"])):
                raise StoreBusy(f"Another process is copying this run into {lake} now. Nothing was written.")
            copy = _Copy(source, con, lake, given, turns, tell)
            copy.check_is_new()
            _check_source(source, path, given)
            return copy.made()


def _lake(address: str) -> Lake:
    found = place(address)
    if not isinstance(found, Lake):
        raise BadQuestion(
            f"{address} is no lake. Give ducklake:FILE, or ducklake:postgres:dbname=NAME host=HOST."
        )
    return found


@contextmanager
def _errors_as_sentences(lake: Lake) -> Iterator[None]:
    try:
        yield
    except duckdb.IOException as error:
        why = " ".join(str(error).split())
        if is_disk_full(error):
            raise DiskFull(
                f"The disk of {lake} is full. Nothing of the run is in the lake. Make room."
            ) from error
        raise BadQuestion(f"{lake} cannot be written ({why}). Nothing of the run is in the lake.") from error


def _given(source: duckdb.DuckDBPyConnection, path: str | Place, run: int) -> dict[str, dict[str, Any]]:
    """Return four rows of the store, by table name: the run, its model, its tokenizer and its corpus.

    Raises:
        BadQuestion: the run is not finished.
    """
    [ids] = source.execute(named("export.sql")["owners"], {"run": run}).to_arrow_table().to_pylist()
    rows = {
        owner: source.execute(catalogue()[owner].select, {"id": number}).to_arrow_table().to_pylist()[0]
        for owner, number in ids.items()
    }
    if rows["run"]["status"] != "finished":
        raise BadQuestion(
            f"Run {run} of {path} is not finished, or is a part of a run. Finish it with the same `annotate "
            "ingest`, or merge the parts with `annotate merge`; then export it."
        )
    return rows


def _check_source(
    source: duckdb.DuckDBPyConnection, path: str | Place, given: dict[str, dict[str, Any]]
) -> None:
    """Check the run's rows in the store against the checksums that were recorded when they were written.

    Raises:
        DamagedStore: rows were changed.
    """
    for owner, row in given.items():
        for table, *_ in differing(source, owner, row[f"{owner}_id"]):
            raise DamagedStore(
                f"{path} is damaged: the rows of base.{table} are not what was written (`annotate verify "
                f"{path}`). Nothing was copied."
            )


def _opened(lake: Lake, data: str | Path | None, wait: float) -> duckdb.DuckDBPyConnection:
    """Return a connection to a lake for writing, in which schema.sql is laid; make the lake if it is new."""
    options = ["DATA_INLINING_ROW_LIMIT 0"]
    if data is not None:
        options.append(lake.data_path(data))
    lake.check_kind()
    with Turns(lake) as turns:
        turns.take(MAKING, wait=True)
        con = lake.attached(*options, wait=wait)
        try:
            is_new = lake.is_new(con)
            if is_new:
                lake.make(con)
            lake.check_version(con)
            lake.lay(con)
            con.execute(LISTS_AS)
            if is_new:
                _record(con, [(change, change.sums(con)) for change in whole(con, "store", 0)])
            # One thread writes one file for each table, with the rows in their order.
            con.execute("SET threads = 1")
        except BaseException:
            con.close()
            raise
    return con


def _record(con: duckdb.DuckDBPyConnection, found: list[tuple[Change, Sums]]) -> None:
    """Record checksums in the lake's base.checksum. found: each set of added rows, its size and checksum"""
    rows = [(c.table.owner, c.owner_id, c.table.name, c.shard, *sums) for c, sums in found]
    if rows:
        values = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(rows))
        con.execute(f"INSERT INTO {TABLES}.checksum VALUES {values}", [*chain.from_iterable(rows)])


class _Copy:
    """Copy one run into a lake. `given` is what the function `_given` returned."""

    def __init__(
        self,
        source: duckdb.DuckDBPyConnection,
        con: duckdb.DuckDBPyConnection,
        lake: Lake,
        given: dict[str, dict[str, Any]],
        turns: Turns,
        tell: Tell,
    ) -> None:
        self.source, self.con, self.lake, self.given = source, con, lake, given
        self.turns, self.tell = turns, tell
        self.from_ids = {owner: row[f"{owner}_id"] for owner, row in given.items()}
        self.queries = named("write.sql") | named("share.sql")

    def check_is_new(self) -> None:
        """Raise BadQuestion if the lake has the run already."""
        names = {name: self.given["model"][name] for name in ("revision", "step")}
        found = self._first(
            "equal_run", {"identity": self.given["run"]["identity"], "any_revision": False} | names
        )
        if found is not None:
            raise BadQuestion(f"{self.lake} has this run already, as run {found}. Nothing was written.")

    def made(self) -> SharedRun:
        """Copy the run; start the copy again if another process changed the lake during it."""
        for _ in range(TIMES):
            ids = self._begun()
            try:
                rows = sum(self._written(owner, ids) for owner in (*SHARED, "run"))
                self.con.execute("COMMIT")
                return SharedRun(ids["run"], rows)
            except duckdb.TransactionException:  # DuckDB has ended the transaction
                continue
            except BaseException:
                with suppress(duckdb.Error):
                    self.con.execute("ROLLBACK")
                raise
        raise StoreBusy(
            f"Other processes changed {self.lake} {TIMES} times meanwhile. Run the same command again."
        )

    def _begun(self) -> dict[str, int]:
        """Begin a transaction; return the lake's numbers for the run, its tokenizer, model and corpus.

        The transaction sees the lake as it is after this writer has taken all locks that its numbers need.
        """
        refused = set[int]()  # run numbers that other writers have locked
        while True:
            self.con.execute("BEGIN")
            self.check_is_new()
            ids = self._chosen(refused)
            lacking = {ids["run"], *((OWNERS,) if self._is_lacking(ids) else ())} - self.turns.held
            if not lacking:
                return ids
            self.con.execute("ROLLBACK")
            for lock in lacking:
                if self.turns.take(lock):
                    continue
                if lock == OWNERS:
                    self.tell("Another process adds a model or a text to the lake; this one waits for it.")
                    self.turns.take(lock, wait=True)
                else:
                    refused.add(lock)

    def _chosen(self, refused: set[int]) -> dict[str, int]:
        """Return the numbers of the run, its tokenizer, model and corpus in the lake; new ones are free."""
        taken: dict[str, set[int]] = {"tokenizer": set(), "model": set(), "corpus": set(), "run": {*refused}}
        for owner, number in self.con.execute(self.queries["numbers"]).fetchall():
            taken[owner].add(number)
        ids = dict[str, int]()
        for owner in (*SHARED, "run"):
            known = self._known(owner, self.given[owner], ids)
            ids[owner] = _free(self.from_ids[owner], taken[owner]) if known is None else known
        return ids

    def _known(self, owner: str, row: dict[str, Any], ids: dict[str, int]) -> int | None:
        """Return the number of an equal tokenizer, model or corpus in the lake; None if there is none."""
        if owner == "run":
            return None
        if owner != "model":
            return self._first(
                {"tokenizer": "tokenizers", "corpus": "corpora"}[owner], {"sha256": row["sha256"]}
            )
        names = ("weights_sha256", "config", "revision", "step")
        return self._first("models", {n: row[n] for n in names} | {"tokenizer_id": ids["tokenizer"]})

    def _first(self, query: str, parameters: dict[str, Any]) -> int | None:
        found = self.con.execute(self.queries[query], parameters).fetchone()
        return int(found[0]) if found else None

    def _is_lacking(self, ids: dict[str, int]) -> bool:
        """Return whether the lake lacks rows of the model, the tokenizer or the corpus."""
        return any(
            self._inserted(table, ids, "SELECT count(*) FROM")
            for owner in SHARED
            for table in catalogue().values()
            if table.owner == owner
        )

    def _inserted(self, table: Table, ids: dict[str, int], into: str) -> int:
        """Insert or count the rows of a table that the lake lacks. into: the statement before `FROM rows`"""
        query, moved = moving(table), _moved(self.from_ids, ids)
        if into.startswith("SELECT"):
            query = f"SELECT {', '.join(_once(table))} FROM ({query})"
        else:
            query = as_plain(table, query)
        used = {name: value for name, value in moved.items() if f"${name}" in query}
        rows = self.source.execute(query, used).to_arrow_reader(ROWS)
        self.con.register("rows", rows)
        once = f" ANTI JOIN {TABLES}.{table.name} USING ({', '.join(_once(table))})" if _once(table) else ""
        [(count,)] = self.con.execute(f"{into} rows{once}").fetchall()
        self.con.unregister("rows")
        return int(count)

    def _written(self, owner: str, ids: dict[str, int]) -> int:
        """Copy the rows of one owner, such as a model, with their checksums; return the number of added rows.

        Raises:
            DamagedStore: the run's rows in the lake differ from those in the store.
        """
        con, number = self.con, ids[owner]
        before = {} if owner == "run" else {_key(c): c.sums(con) for c in whole(con, owner, number)}
        rows = 0
        for table in catalogue().values():
            if table.owner == owner:
                rows += self._inserted(table, ids, f"INSERT INTO {TABLES}.{table.name} SELECT * FROM")
        added = list[tuple[Change, Sums]]()
        for change in whole(con, owner, number):
            earlier, now = before.get(_key(change), (0, 0)), change.sums(con)
            if owner == "run":
                self._check(change, ids, now)
            if now != earlier:
                added.append((change, (now[0] - earlier[0], now[1] - earlier[1])))
        _record(con, added)
        return rows

    def _check(self, change: Change, ids: dict[str, int], now: Sums) -> None:
        """Check that the copy has as many rows as the store and, if ids did not change, the same checksum."""
        there = recorded(self.source, Change(change.table, self.from_ids["run"], change.shard))
        are_moved = ids != self.from_ids or "explanation_id" in change.table.key
        if now[0] != there[0] or (now != there and not are_moved):
            raise DamagedStore(
                f"The rows of base.{change.table.name} in {self.lake} are not those of the store. Nothing of "
                "the run was kept."
            )


def _key(change: Change) -> tuple[str, int]:
    return change.table.name, change.shard


def _free(number: int, taken: set[int]) -> int:
    """Return `number` if it is free, else the largest taken number plus 1.

    >>> _free(2, {1}), _free(2, {2, 5})
    (2, 6)
    """
    return number if number not in taken else max(taken) + 1


def _once(table: Table) -> tuple[str, ...]:
    """Return the key columns that tell whether the lake has a row already; none for the rows of a run."""
    return () if table.owner == "run" else ONCE.get(table.name, (f"{table.owner}_id",))


def _moved(from_ids: dict[str, int], ids: dict[str, int]) -> dict[str, int]:
    """Return the SQL parameters that convert ids of the store to ids of the lake (`store.parts.moving`)."""
    documents = (ids["corpus"] - from_ids["corpus"]) * DOCUMENTS_A_CORPUS
    return {
        **{f"part_{owner}_id": number for owner, number in from_ids.items()},
        **{f"{owner}_id": number for owner, number in ids.items()},
        "positions": (ids["run"] - from_ids["run"]) * POSITIONS_A_RUN,
        "documents": documents,
        "passages": documents * PASSAGES_A_DOCUMENT,
    }
