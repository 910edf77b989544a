"""Keep the exact summaries of a run: running sums, top lists and the sample.

Lists are sorted by value, then by position, so that ties have the same order in every run. Each shard's
transaction writes what the shard added, and `restore` reads it back when a run is resumed or its parts are
merged. Memory does not grow with the corpus.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from annotate_transformer.ingest.attribution.behaviours import BEHAVIOURS
from annotate_transformer.ingest.attribution.fast.lists import insert_into_lists
from annotate_transformer.ingest.attribution.summaries import BINS, LayerSummary, Thresholds, UnitSummary
from annotate_transformer.store.layout import members

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

NONE = np.empty(0, dtype=np.int64)
MERGING = {"minimum": np.minimum, "maximum": np.maximum}  # all other statistics are added
LOW_WORD, DECIMAL = np.int64(2**32 - 1), pa.decimal128(38, 0)
HASHES = 2**20  # number of positions that are hashed at a time
SAMPLE_UNIT = pa.schema(
    [
        ("run_id", pa.int32()), ("kind", pa.string()), ("layer", pa.uint8()), ("unit", pa.uint32()),
        ("values", pa.list_(pa.float32())),
    ]
)  # fmt: skip

# LISTS: (kind of unit, name of a top list) → (index of the list in UnitSummary.lists, factor of its values).
# The factor is -1 for the lowest values, because a list keeps the values that are largest after this
# multiplication.
LISTS = {
    ("neuron", "high"): (0, 1),
    ("neuron", "low"): (1, -1),
    ("neuron", "window"): (2, 1),
    ("head", "high"): (0, 1),
    ("head", "low"): (1, -1),
}


class RunSummary:
    """The statistics and top lists of a run, exact over all positions, and the run's sample."""

    def __init__(
        self, layers: int, d_mlp: int, n_heads: int, positions: int, top: int, samples: int, seed: int,
        first_in_lists: bool, left_out: Ints = NONE, unsampled: Ints = NONE,
    ) -> None:  # fmt: skip
        """Create empty lists and sums; the sample is drawn when it is first used.

        `left_out`: ids of the tokens that lists and statistics leave out;
        `unsampled`: ordinals of the positions of these tokens, which the sample leaves out.
        """
        self.layers, self.units = layers, {"neuron": d_mlp, "head": n_heads}
        self.top, self.first_in_lists, self.left_out = min(top, positions), first_in_lists, left_out
        self.lists = {
            (kind, name): TopLists(layers * self.units[kind], self.top, positions) for kind, name in LISTS
        }
        self.statistics = {kind: Statistics(layers, n) for kind, n in self.units.items()}
        self._sampling = (samples, seed, positions, unsampled)

    @cached_property
    def sample(self) -> "Sample":
        """The positions for which all activations are stored"""
        return Sample(*self._sampling)

    def thresholds(self, device: str) -> Thresholds:
        """Return the current threshold of each list: the smallest value that enters the list."""

        def of(kind: str) -> torch.Tensor:
            stacked = np.stack([lists.threshold for (of, _), lists in self.lists.items() if of == kind])
            return torch.from_numpy(stacked).view(len(stacked), self.layers, -1).to(device)

        return Thresholds(of("neuron"), of("head"), self.top, self.first_in_lists, self.left_out)

    def absorb(self, layers: list[LayerSummary]) -> None:
        """Add the summaries of one batch: one per layer."""
        of = {"neuron": [x.neurons for x in layers], "head": [x.heads for x in layers]}
        for kind, summaries in of.items():
            self.statistics[kind].absorb(summaries)
        for (kind, name), (place, sign) in LISTS.items():
            for layer, summary in enumerate(of[kind]):
                found = summary.lists[place]
                lists = found.unit.astype(np.int64) + layer * self.units[kind]
                self.lists[kind, name].offer(lists, sign * found.value, found.position)

    def statistics_tables(self, run_id: int) -> dict[str, pa.Table]:
        """Return the sums of all neurons and heads so far, as a dictionary from table name to Arrow table."""
        return {
            "unit_stat": pa.concat_tables([x.table(run_id, kind) for kind, x in self.statistics.items()]),
            "attention_stat": self.statistics["head"].attention_table(run_id),
        }

    def list_entries(self, run_id: int, origin: int, since: int = 0) -> Iterator[pa.Table]:
        """Yield the current entries of all top lists: one table per kind of unit, list and layer.

        `since`: leave out entries at positions with a smaller ordinal; `origin`: position_id of ordinal 0.
        """
        for (kind, name), (_, sign) in LISTS.items():
            for layer in range(self.layers):
                first = layer * self.units[kind]
                lists = slice(first, first + self.units[kind])
                unit, rank, value, ordinal = self.lists[kind, name].entries(lists, since)
                yield pa.table(
                    {
                        "run_id": np.full(len(unit), run_id, dtype=np.int32),
                        "kind": repeated(kind, len(unit)),
                        "list": repeated(name, len(unit)),
                        "layer": np.full(len(unit), layer, dtype=np.uint8),
                        "unit": unit.astype(np.uint32),
                        "rank": (rank + 1).astype(np.uint16),
                        "position_id": ordinal + np.int64(origin),
                        "value": sign * value,
                    }
                )

    def restore(self, fetch: Callable[..., pa.Table], run_id: int, origin: int) -> None:
        """Add the top-k lists and sums that a store has for a run or part.

        `fetch(name, …)` runs the query `name`.
        """
        for (kind, name), (_, sign) in LISTS.items():
            rows = fetch("candidates", run_id=run_id, kind=kind, list=name)
            layer, unit, position, value = (
                rows[column].to_numpy() for column in ("layer", "unit", "position_id", "value")
            )
            lists = layer.astype(np.int64) * self.units[kind] + unit
            self.lists[kind, name].offer(lists, sign * value, position - origin)
        stats, attention = (fetch(query, run_id=run_id) for query in ("unit_stats", "attention_stats"))
        for kind, statistics in self.statistics.items():
            statistics.restore(stats.filter(pc.equal(stats["kind"], kind)))
        self.statistics["head"].restore_attention(attention)


class Statistics:
    """Running sums over positions for all neurons or all heads.

    The sums have the fields of `Sums`, as arrays of shape (layer, unit, …).
    """

    def __init__(self, layers: int, units: int) -> None:
        self.layers, self.units = layers, units
        of_unit = (layers, units)
        counts = ("count", "positive", "effect_count")
        self.sums: dict[str, NDArray[Any]] = {
            **{name: np.zeros(of_unit, dtype=np.int64) for name in counts},
            "minimum": np.full(of_unit, np.inf, dtype=np.float32),
            "maximum": np.full(of_unit, -np.inf, dtype=np.float32),
            "histogram": np.zeros((*of_unit, BINS), dtype=np.int64),
        }
        self.steps = {name: WideSums(of_unit) for name in ("total", "squares", "effect", "effect_abs")}
        self.attention_total = WideSums((layers, len(BEHAVIOURS), units))
        self.attention_count = np.zeros((layers, len(BEHAVIOURS)), dtype=np.int64)

    def absorb(self, summaries: list[UnitSummary]) -> None:
        """Add the summaries of one batch: one per layer, in order."""
        for name, running in self.sums.items():
            for of_layer, summary in zip(running, summaries, strict=True):
                MERGING.get(name, np.add)(of_layer, getattr(summary.sums, name).numpy(), out=of_layer)
        for name, sums in self.steps.items():
            sums.add(np.stack([getattr(summary.sums, name).numpy() for summary in summaries]))
        parts = [summary.attention for summary in summaries if summary.attention]
        if parts:
            self.attention_total.add(np.stack([part.total.numpy() for part in parts]))
            self.attention_count += np.stack([part.count.numpy() for part in parts])

    def table(self, run_id: int, kind: str) -> pa.Table:
        n = self.layers * self.units
        flat = {name: values.reshape(n) for name, values in self.sums.items() if name != "histogram"}
        offsets = np.arange(0, n * BINS + 1, BINS, dtype=np.int32)
        return pa.table(
            {
                "run_id": np.full(n, run_id, dtype=np.int32),
                "kind": repeated(kind, n),
                "layer": np.repeat(np.arange(self.layers, dtype=np.uint8), self.units),
                "unit": np.tile(np.arange(self.units, dtype=np.uint32), self.layers),
                **flat,
                **{name: sums.column() for name, sums in self.steps.items()},
                "histogram": pa.ListArray.from_arrays(offsets, self.sums["histogram"].reshape(-1)),
            }
        )

    def restore(self, rows: pa.Table) -> None:
        """Add the sums of a table that the method `table` returned, or nothing if it has no rows."""
        if not rows.num_rows:
            return
        for name, running in self.sums.items():
            column = rows[name].combine_chunks()
            values = column.flatten() if name == "histogram" else column
            added = values.to_numpy().astype(running.dtype).reshape(running.shape)
            MERGING.get(name, np.add)(running, added, out=running)
        for name, sums in self.steps.items():
            sums.restore(rows[name])

    def attention_table(self, run_id: int) -> pa.Table:
        layer, behaviour, head = np.indices(self.attention_total.shape).reshape(3, -1)
        return pa.table(
            {
                "run_id": np.full(len(layer), run_id, dtype=np.int32),
                "layer": layer.astype(np.uint8),
                "head": head.astype(np.uint8),
                "behaviour": pa.array(BEHAVIOURS).take(pa.array(behaviour)),
                "total": self.attention_total.column(),
                "count": self.attention_count[layer, behaviour],
            }
        ).sort_by([("layer", "ascending"), ("head", "ascending")])

    def restore_attention(self, rows: pa.Table) -> None:
        """Add the sums of a table that the method `attention_table` returned, or nothing without rows."""
        if not rows.num_rows:
            return
        order = pc.index_in(rows["behaviour"], pa.array(BEHAVIOURS))
        rows = rows.append_column("place", order).sort_by(
            [(name, "ascending") for name in ("layer", "place", "head")]
        )
        self.attention_total.restore(rows["total"])
        self.attention_count += rows["count"].to_numpy().reshape(self.attention_total.shape)[:, :, 0]


class WideSums:
    """An array of sums of whole numbers, each in 96 bits as high · 2^32 + low, where low is in [0, 2^32).

    A sum in int64 would overflow after some 10^11 squares of a neuron's activations.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.high, self.low = shape, np.zeros(shape, np.int64), np.zeros(shape, np.int64)

    def add(self, values: Ints) -> None:
        self.low += values & LOW_WORD
        self.high += (values >> 32) + (self.low >> 32)
        self.low &= LOW_WORD

    def column(self) -> pa.Array:
        """Return the sums as Arrow decimals without a fraction, which DuckDB converts to HUGEINT."""
        # In memory, each Arrow decimal consists of two words of 64 bits, the low word first.
        words = np.stack([(self.high << 32) + self.low, self.high >> 32], axis=-1)
        return pa.Array.from_buffers(DECIMAL, self.high.size, [None, pa.py_buffer(words.tobytes())])

    def restore(self, column: pa.ChunkedArray) -> None:
        """Add the sums of a column that the method `column` returned."""
        values = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], DECIMAL)
        words = np.frombuffer(values.buffers()[1], np.int64)[2 * values.offset :][: 2 * len(values)].reshape(
            -1, 2
        )
        low, high = words.T.reshape(2, *self.shape)
        self.low += low & LOW_WORD
        self.high += (high << 32) + ((low >> 32) & LOW_WORD) + (self.low >> 32)
        self.low &= LOW_WORD


def repeated(word: str, n: int) -> pa.Array:
    """Return a column with the same word n times."""
    return pa.DictionaryArray.from_arrays(np.zeros(n, dtype=np.int8), [word])


class TopLists:
    """Several exact lists of the k largest values each; equal values are ordered by position.

    `threshold`, of shape (lists,): the smallest value that enters each list, -inf while the list is not full.
    """

    def __init__(self, lists: int, k: int, positions: int) -> None:
        self.threshold = np.full(lists, -np.inf, dtype=np.float32)
        self._count = np.zeros(lists, dtype=np.int64)
        self._value = np.empty((lists, k), dtype=np.float32)
        self._position = np.empty((lists, k), dtype=np.int32 if positions <= 2**31 else np.int64)

    def offer(self, lists: Ints, values: Floats, positions: NDArray[np.integer[Any]]) -> None:
        insert_into_lists(
            lists, values.astype(np.float32, copy=False), positions.astype(self._position.dtype, copy=False),
            self._count, self._value, self._position, self.threshold,
        )  # fmt: skip

    def entries(self, lists: slice, since: int = 0) -> tuple[Ints, Ints, Floats, Ints]:
        """Return list, rank, value and position of all entries of `lists` at or after position `since`."""
        values, positions = self._value[lists], self._position[lists]
        there = np.arange(values.shape[1]) < self._count[lists, None]
        unit, rank = (there & (positions >= since)).nonzero()
        return unit, rank, values[unit, rank], positions[unit, rank]


class Sample:
    """A uniform sample of a run's positions: the n positions with the smallest hashes of (seed, ordinal).

    `left_out`: ordinals that are never drawn, ascending.
    """

    def __init__(self, n: int, seed: int, positions: int, left_out: Ints = NONE) -> None:
        self.seed, held = seed, np.empty(0, dtype=np.int64)
        for first in range(0, positions, HASHES):
            drawn = np.ones(min(HASHES, positions - first), dtype=np.bool_)
            low, high = np.searchsorted(left_out, [first, first + len(drawn)])
            drawn[left_out[low:high] - first] = False
            held = np.concatenate([held, first + drawn.nonzero()[0]])
            held = held[np.argsort(self._hash(held))[:n]]
        self.ordinals: Ints = np.sort(held)

    def chosen(self, ordinals: Ints) -> NDArray[np.bool_]:
        return np.isin(ordinals, self.ordinals)

    def _hash(self, ordinals: Ints) -> NDArray[np.uint64]:
        """Return the splitmix64 hash of each ordinal (Steele, Lea and Flood 2014)."""
        with np.errstate(over="ignore"):
            x = ordinals.astype(np.uint64) + np.uint64(self.seed + 1) * np.uint64(0x9E3779B97F4A7C15)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            return x ^ (x >> np.uint64(31))


def samples_by_unit(rows: pa.Table, run_id: int) -> pa.Table:
    """Transpose sampled rows: from one row per position and layer to one row per neuron or head.

    `rows` is ordered by kind, layer, position_id.
    """
    parts = []
    for kind in members("unit_kind"):
        of_kind = rows.filter(pc.equal(rows["kind"], kind))
        for layer in pc.unique(of_kind["layer"]).to_pylist():
            values = of_kind.filter(pc.equal(of_kind["layer"], layer))["values"].combine_chunks()
            flat = values.flatten()
            missing = flat.is_null().to_numpy(zero_copy_only=False).reshape(len(values), -1)
            S, units = missing.shape
            by_unit = flat.to_numpy(zero_copy_only=False).reshape(S, units).T.ravel()
            offsets = np.arange(0, S * units + 1, S, dtype=np.int32)
            columns = {
                "run_id": np.full(units, run_id, dtype=np.int32),
                "kind": repeated(kind, units),
                "layer": np.full(units, layer, dtype=np.uint8),
                "unit": np.arange(units, dtype=np.uint32),
                "values": pa.ListArray.from_arrays(offsets, pa.array(by_unit, mask=missing.T.ravel())),
            }
            parts.append(pa.table(columns))
    return pa.concat_tables(parts) if parts else SAMPLE_UNIT.empty_table()
