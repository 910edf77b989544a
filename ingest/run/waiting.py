"""Collect the rows of a shard in memory until its transaction."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from annotate_transformer.ingest.run.rows import Identity

# ORDER: name of a table → the columns by which its rows are sorted.
ORDER = {
    "position": ("position_id",),
    "contribution": ("position_id", "layer"),
    "head_source": ("position_id", "layer", "head", "source_offset"),
    "lens": ("position_id", "layer"),
}
BY_UNIT = {"head": "head", "neuron": "neuron"}  # table sorted by layer and unit → the column of the unit


class WaitingRows:
    """The rows of a shard, by table.

    `first`: ordinal of the shard's first position in the run.
    """

    def __init__(self, identity: Identity, first: int) -> None:
        self.run_id, self.first_position_id = identity.run_id, identity.position_id + first
        self.rows = {name: _WaitingTable() for name in (*ORDER, *BY_UNIT)}
        self.lists: dict[str, list[pa.Table]] = {"sample_row": [], "neuron_code": []}

    def add(self, tables: Mapping[str, pa.Table]) -> None:
        for name, rows in tables.items():
            if name in self.lists:
                self.lists[name].append(rows)
            elif rows.num_rows:
                self.rows[name].append(rows, self.first_position_id)

    def tables(self) -> dict[str, Iterator[pa.Table]]:
        """Return one iterator per table; an iterator sorts the table's rows, yields them and frees them."""
        rows = {name: self._in_order(name) for name in self.rows if self.count(name)}
        return rows | {name: self._in_parts(name) for name, parts in self.lists.items() if parts}

    def _in_parts(self, name: str) -> Iterator[pa.Table]:
        rows = pa.concat_tables(self.lists.pop(name))
        yield rows.append_column("run_id", pa.array(np.full(rows.num_rows, self.run_id, dtype=np.int32)))

    def targets(self) -> NDArray[np.int64]:
        """Return the distinct tokens that are the next token or top prediction of a position."""
        both = [self.rows["position"][name] for name in ("next_token_id", "top_token_id")]
        return np.unique(np.concatenate(both)).astype(np.int64)

    def _in_order(self, name: str) -> Iterator[pa.Table]:
        rows = self.rows.pop(name)
        order = rows.by_unit(BY_UNIT[name]) if name in BY_UNIT else rows.by_columns(ORDER[name])
        run = np.full(rows.n, self.run_id, dtype=np.int32)
        yield pa.table({"run_id": run} | dict(rows.columns(order, self.first_position_id)))

    def count(self, table: str) -> int:
        return self.rows[table].n


class _WaitingTable:
    """The rows of one table, copied from all batches into one array per column, to free the batches' memory.

    glibc could not free the memory between the arrays of the batches. position_id is counted from the shard's
    first position.
    """

    def __init__(self) -> None:
        self.n, self._values, self._nulls = 0, dict[str, NDArray[Any]](), dict[str, NDArray[Any]]()

    def __getitem__(self, column: str) -> NDArray[Any]:
        """Return the values of a column; where the column is NULL, the value has no meaning."""
        return self._values[column][: self.n]

    def append(self, rows: pa.Table, first_position_id: int) -> None:
        for name, column in zip(rows.column_names, rows.columns, strict=True):
            values = column.fill_null(0).to_numpy() if column.null_count else column.to_numpy()
            if name == "position_id":
                values = (values - first_position_id).astype(np.int32)
            self._put(self._values, name, values)
            if column.null_count or name in self._nulls:
                self._put(self._nulls, name, column.is_null().to_numpy())
        self.n += rows.num_rows

    def _put(self, held: dict[str, NDArray[Any]], name: str, values: NDArray[Any]) -> None:
        end, room = self.n + len(values), held.get(name, values[:0])
        if len(room) < end:
            held[name] = np.zeros(end + end // 4, values.dtype)
            held[name][: len(room)] = room
        held[name][self.n : end] = values

    def by_columns(self, keys: tuple[str, ...]) -> NDArray[np.int64]:
        """Return the row indices that sort the rows by the columns `keys`."""
        return np.lexsort([self[key] for key in reversed(keys)])

    def by_unit(self, kind: str) -> NDArray[np.int64]:
        """Return the row indices that sort the rows by layer, then by unit, then by position.

        A unit is a head or a neuron. Within a layer, the units are in the order of their numbers of rows,
        largest first. Positions ascend in one unit and descend in the next, so each row differs little from
        the previous row, which DuckDB compresses well.
        """
        unit = self["layer"].astype(np.int64) << 16 | self[kind]
        rows = np.bincount(unit)
        there = rows.nonzero()[0]
        place = np.empty_like(rows)
        place[there[np.lexsort([-rows[there], there >> 16])]] = np.arange(len(there))
        place, position = place[unit], self["position_id"]
        del unit  # free the memory of this array, which has millions of entries
        towards = np.where(place % 2, -position, position)
        place <<= 32
        place += towards
        return np.argsort(place)

    def columns(self, order: NDArray[np.int64], first_position_id: int) -> Iterator[tuple[str, pa.Array]]:
        """Yield each column, sorted by the row indices `order`; free its memory before the next column."""
        for name in list(self._values):
            values = self._values.pop(name)[: self.n][order]
            nulls = self._nulls.pop(name)[: self.n][order] if name in self._nulls else None
            if name == "position_id":
                values = values + np.int64(first_position_id)
            yield name, pa.array(values, mask=nulls)
