"""Make the index of a run in parts: the merged lists and statistics, as `annotate merge` would store them.

The index is a DuckDB file with the tables of schema.sql. Of the tables with rows of positions it has only
`position`, which nearly every question reads; the others are empty in it, and their rows stay in the parts.
The table made_of.part_file says from which files it was made.
"""

import hashlib
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from annotate_transformer.store.catalogue import Table, catalogue
from annotate_transformer.store.checksum import whole
from annotate_transformer.store.database import NO_EXTENSIONS, READING, SETTINGS, WRITING
from annotate_transformer.store.elsewhere import overlay
from annotate_transformer.store.errors import NotOneRun
from annotate_transformer.store.location import located, temporary_folder
from annotate_transformer.store.parts import OF_POSITIONS, StoredPart, checked, copying, read_part
from annotate_transformer.store.queries import literal, named, schema
from annotate_transformer.store.whole import remove

IN_INDEX = "position"
IN_PARTS = tuple(name for name in OF_POSITIONS if name != IN_INDEX)
OF_FIRST = ("tokenizer", "token", "model", "corpus", "run", "layer_bias", "neuron_direction")
OF_EACH = ("shard", "document", "passage", "token_direction", "sample_position", IN_INDEX)


class PartFile(NamedTuple):
    """What the index records about the file of one part.

    `changed`: when it was changed, in nanoseconds; `made_by`: a hash of the SQL that has made the index.
    """

    name: str
    bytes: int
    changed: int
    first_position_id: int
    last_position_id: int
    made_by: str


class Record(NamedTuple):
    """The files from which an index was made, as the index records them."""

    files: list[PartFile]

    def is_true(self, files: Sequence[Path]) -> bool:
        """Return whether the index is up to date: made from these files, which have not changed since."""
        return [(*row[:3], row.made_by) for row in self.files] == stamps(files)


def stamps(files: Sequence[Path]) -> list[tuple[str, int, int, str]]:
    """Return name, size, time of change and hash of the SQL per file; an up-to-date index has the same."""
    made_by = hashlib.sha256(f"{schema()}{named('parts.sql')}".encode()).hexdigest()
    found = [(file.name, file.stat()) for file in files]
    return [(name, stat.st_size, stat.st_mtime_ns, made_by) for name, stat in found]


def recorded(index: Path) -> Record | None:
    """Return the files that an index records; None if the index is missing or incomplete."""
    if not index.exists():
        return None
    try:
        with closing(duckdb.connect(config=NO_EXTENSIONS)) as con:
            con.execute(f"ATTACH {literal(str(index))} AS store ({READING})")
            return Record([PartFile(*row) for row in con.execute(named("parts.sql")["recorded"]).fetchall()])
    except duckdb.Error:
        return None


def opening(index: Path, record: Record, files: Sequence[Path]) -> list[str]:
    """Return the SQL statements that attach the parts, and their index as the default database."""
    of = dict(zip(files, record.files, strict=True))
    parts = _attaching(sorted(files, key=lambda file: of[file].first_position_id))
    return [*parts, f"ATTACH {literal(str(located(index)))} AS store ({READING})", "USE store"]


def _attaching(files: Sequence[Path]) -> list[str]:
    """Return the SQL statements that attach the files, for reading only, as part_1, part_2, …."""
    return [
        f"ATTACH {literal(str(located(file)))} AS part_{number} ({READING})"
        for number, file in enumerate(files, 1)
    ]


def make(files: Sequence[Path], index: Path) -> Record:
    """Make the index of the parts in `files`, whole or not at all, and return its record.

    Raises:
        NotOneRun: the parts do not make one whole run, or have it under different numbers.
        StoreError: a file cannot be read.
        OSError: the index cannot be written.
    """
    before = stamps(files)
    parts = checked([read_part(file) for file in files])
    for part in parts[1:]:
        if part.ids != parts[0].ids:
            raise NotOneRun(
                f"{parts[0].path} and {part.path} have the run, its model or its corpus under different "
                "numbers, because one of them has other runs too. Merge the parts with `annotate merge`."
            )
    new = index.with_name(f"{index.name}.new")
    _remove(new)
    try:
        config = NO_EXTENSIONS | {"temp_directory": temporary_folder(new)}
        with closing(duckdb.connect(config=config)) as con:
            attached = f"ATTACH {literal(str(new))} AS store ({WRITING})"
            for statement in (*_attaching([part.path for part in parts]), attached, "USE store", *SETTINGS):
                con.execute(statement)
            _Filling(con, parts).fill()
            _record(con, files, parts, before)
        record = recorded(new)
        assert record is not None
        os.replace(new, index)
    finally:
        _remove(new)
    return record


def _remove(new: Path) -> None:
    for name in (new, Path(f"{new}.wal"), Path(temporary_folder(new))):
        remove(name)


def _record(
    con: duckdb.DuckDBPyConnection,
    files: Sequence[Path],
    parts: Sequence[StoredPart],
    before: Sequence[tuple[str, int, int, str]],
) -> None:
    """Record in the index each file's name, size and time of change as they were before it was read."""
    con.execute(named("parts.sql")["make_record"])
    of = {part.path: part.record for part in parts}
    for number, (file, (name, size, changed, made_by)) in enumerate(zip(files, before, strict=True)):
        first, last = (of[file][f"{end}_position_id"] for end in ("first", "last"))
        row = PartFile(name, size, changed, first, last, made_by)
        con.execute(named("parts.sql")["record"], {"number": number, **row._asdict()})


class _Filling:
    """Fill a new index. In `con` the index is the default database, and the parts are attached."""

    def __init__(self, con: duckdb.DuckDBPyConnection, parts: Sequence[StoredPart]) -> None:
        self.con, self.parts, self.ids = con, parts, parts[0].ids

    def fill(self) -> None:
        overlay.lay(self.con, self._view, own={"catalogue"})
        self.con.execute("BEGIN")
        for number in range(1, len(self.parts) + 1):
            for name in (*(OF_FIRST if number == 1 else ()), *OF_EACH):
                self._copy(name, f"part_{number}")
        self._merge()
        self._finish()
        self._record_checksums()
        self.con.execute("COMMIT")

    def _view(self, table: Table) -> str | None:
        """Return the query of the view on a table whose rows stay in the parts; None for other tables."""
        if table.name == "version":  # a view, so that the index cannot be opened as a store without the parts
            return "FROM part_1.base.version"
        if table.name not in IN_PARTS or not self._has_rows(table):
            return None
        # Each branch has the range of its part as constants, so DuckDB leaves out the parts that cannot have
        # a position. The columns are qualified, because macros have parameters of the same names.
        ends = (
            tuple(int(part.record[f"{end}_position_id"]) for end in ("first", "last")) for part in self.parts
        )
        return " UNION ALL ".join(
            f"SELECT t_.* FROM part_{number}.base.{table.name} t_ "
            f"WHERE t_.position_id BETWEEN {first} AND {last}"
            for number, (first, last) in enumerate(ends, 1)
        )

    def _has_rows(self, table: Table) -> bool:
        return bool(self.con.execute(f"FROM ({self._rows(table.name)}) LIMIT 1").fetchone())

    def _copy(self, name: str, part: str) -> None:
        """Copy the rows of a table from a part into the index, without rows that the index has already."""
        table = catalogue()[name]
        owner = {f"part_{table.owner}_id": self.ids[f"{table.owner}_id"]}
        self._run(copying(table, part, moved={}), **owner)

    def _merge(self) -> None:
        """Merge the lists, the statistics and the sample of the parts."""
        queries = named("parts.sql")
        for table in ("unit_stat", "attention_stat"):
            self._run(queries[table].replace("{rows}", self._rows(table)))
        for table, source, keys in (
            ("top_entry", "top_candidate", ("kind", "list", "layer")),
            ("sample_unit", "sample_row", ("kind", "layer")),
        ):
            rows = self._rows(source)
            texts = ", ".join(key if key == "layer" else f"{key}::VARCHAR" for key in keys)
            found = self.con.execute(
                f"SELECT {texts} FROM ({rows}) GROUP BY {', '.join(keys)} ORDER BY "
                f"{', '.join(f'any_value({key})' for key in keys)}"
            ).fetchall()
            for values in found:
                self._run(queries[table].replace("{rows}", rows), **dict(zip(keys, values, strict=True)))

    def _finish(self) -> None:
        """Mark the run as finished, and store the tables that an ingest fills at the end of a run."""
        self._run(named("parts.sql")["finish_run"].replace("{rows}", self._rows("run")))
        for query in ("finish_top_sources", "finish_head_offsets"):
            self._run(named("write.sql")[query], run_id=self.ids["run_id"])

    def _record_checksums(self) -> None:
        queries = named("parts.sql")
        copied = queries["checksums_of_positions"].replace("{rows}", self._rows("checksum"))
        self._run(copied, names=[*OF_POSITIONS])
        for owner in ("store", "tokenizer", "model", "corpus", "run"):
            for change in whole(self.con, owner, self.ids.get(f"{owner}_id", 0)):
                if change.table.name in OF_POSITIONS or (sums := change.sums(self.con)) == (0, 0):
                    continue
                key = {"owner": owner, "owner_id": change.owner_id, "name": change.table.name}
                self._run(queries["checksum"], **key, shard=change.shard, rows=sums[0], checksum=sums[1])

    def _rows(self, table: str) -> str:
        """Return the query for the rows of a table in all parts together."""
        columns = {column.name for column in catalogue()[table].columns}
        where = f" WHERE run_id = {self.ids['run_id']}" if "run_id" in columns else ""
        parts = range(1, len(self.parts) + 1)
        return " UNION ALL ".join(f"FROM part_{number}.base.{table}{where}" for number in parts)

    def _run(self, query: str, **parameters: Any) -> None:
        self.con.execute(query, parameters)
