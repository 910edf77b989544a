"""A decomposition as rows: Arrow tables with the columns of schema.sql's tables of that name."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from annotate_transformer.ingest.codes import PART
from annotate_transformer.ingest.decompose import Decomposition
from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.model import Model
from annotate_transformer.ingest.selection import EFFECT_DECIMALS, SOURCE_DECIMALS, Neurons
from annotate_transformer.ingest.tokens import Batch

# What rows of a shard are ordered by
ORDER = {
    "position": ("position_id",),
    "contribution": ("position_id", "layer"),
    "head_source": ("position_id", "layer", "head", "source_offset"),
    "lens": ("position_id", "layer"),
}
BY_UNIT = {"head": "head", "neuron": "neuron"}  # and those of a layer's units


@dataclass(frozen=True)
class Identity:
    """What a run's ordinals become in the store: the ids of its first position and document."""

    run_id: int
    position_id: int
    document_id: int


class Shard:
    """Rows waiting for their commit, by table, from the run's position `first` (an ordinal) on."""

    def __init__(self, identity: Identity, first: int) -> None:
        self.run_id, self.first_position_id = identity.run_id, identity.position_id + first
        self.rows = {name: _Waiting() for name in (*ORDER, *BY_UNIT)}
        self.lists: dict[str, list[pa.Table]] = {"sample_row": [], "neuron_code": []}

    def add(self, tables: Mapping[str, pa.Table]) -> None:
        for name, rows in tables.items():
            if name in self.lists:
                self.lists[name].append(rows)
            elif rows.num_rows:
                self.rows[name].append(rows, self.first_position_id)

    def tables(self) -> dict[str, Iterator[pa.Table]]:
        """Each table in the order it is stored in, made when it is asked for; its rows are given back."""
        rows = {name: self._in_order(name) for name in self.rows if self.count(name)}
        return rows | {name: self._in_parts(name) for name, parts in self.lists.items() if parts}

    def _in_parts(self, name: str) -> Iterator[pa.Table]:
        rows = pa.concat_tables(self.lists.pop(name))
        yield rows.append_column("run_id", pa.array(np.full(rows.num_rows, self.run_id, dtype=np.int32)))

    def targets(self) -> NDArray[np.int64]:
        """The tokens that are a position's next or first choice, each once."""
        both = [self.rows["position"][name] for name in ("next_token_id", "top_token_id")]
        return np.unique(np.concatenate(both)).astype(np.int64)

    def _in_order(self, name: str) -> Iterator[pa.Table]:
        rows = self.rows.pop(name)
        order = rows.by_unit(BY_UNIT[name]) if name in BY_UNIT else rows.by_columns(ORDER[name])
        run = np.full(rows.n, self.run_id, dtype=np.int32)
        yield pa.table({"run_id": run} | dict(rows.columns(order, self.first_position_id)))

    def count(self, table: str) -> int:
        return self.rows[table].n


class _Waiting:
    """A table's rows: copied, since between arrays of a batch's own no memory could be given back (glibc).

    position_id counts from the shard's first.
    """

    def __init__(self) -> None:
        self.n, self._values, self._nulls = 0, dict[str, NDArray[Any]](), dict[str, NDArray[Any]]()

    def __getitem__(self, column: str) -> NDArray[Any]:
        """Its values; what stands where there is none means nothing."""
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
        """Which row comes first, second, …"""
        return np.lexsort([self[key] for key in reversed(keys)])

    def by_unit(self, kind: str) -> NDArray[np.int64]:
        """The same: of a layer the units with the most rows first, positions up in one and down in the next.

        So a row is near the one before it, by about as much as its neighbours: DuckDB packs the differences.
        """
        unit = self["layer"].astype(np.int64) << 16 | self[kind]
        rows = np.bincount(unit)
        there = rows.nonzero()[0]
        place = np.empty_like(rows)
        place[there[np.lexsort([-rows[there], there >> 16])]] = np.arange(len(there))
        place, position = place[unit], self["position_id"]
        del unit  # of millions of rows
        towards = np.where(place % 2, -position, position)
        place <<= 32
        place += towards
        return np.argsort(place)

    def columns(self, order: NDArray[np.int64], first_position_id: int) -> Iterator[tuple[str, pa.Array]]:
        """In this order; each is given back before the next."""
        for name in list(self._values):
            values = self._values.pop(name)[: self.n][order]
            nulls = self._nulls.pop(name)[: self.n][order] if name in self._nulls else None
            if name == "position_id":
                values = values + np.int64(first_position_id)
            yield name, pa.array(values, mask=nulls)


def rows_of(
    result: Decomposition, batch: Batch, sampled: np.ndarray, identity: Identity
) -> dict[str, pa.Table]:
    """All position-keyed rows of a batch, less run_id; sampled (P,): positions stored with every value."""
    builder = _Rows(result, batch, identity)
    tables = {
        "contribution": builder.contributions(),
        "head": builder.heads(),
        "head_source": builder.head_sources(),
        "neuron": builder.neurons(),
        "position": builder.positions(),
        "sample_row": builder.sample_rows(sampled),
    }
    if result.layers[0].coded:
        tables["neuron_code"] = builder.neuron_codes()
    return tables | ({"lens": builder.lens()} if result.lens else {})


class _Rows:
    def __init__(self, result: Decomposition, batch: Batch, identity: Identity) -> None:
        self.result, self.batch, self.identity = result, batch, identity
        self.row, self.column = (_numpy(x) for x in (result.stored.row, result.stored.column))
        self.position_ids = identity.position_id + _numpy(result.stored.position_ids)
        self.last = ~_numpy(result.stored.has_next)  # nothing follows: NULL toward the next token

    def _both(self, name: str, effects: Tensor, last: np.ndarray) -> dict[str, pa.Array]:
        """Both sides' column pair, as stored: float32, NULL toward a next token there is not."""
        following, top = (_float32(side) for side in effects)
        return {f"{name}_next": pa.array(following, mask=last), f"{name}_top": pa.array(top)}

    def positions(self) -> pa.Table:
        r, windows = self.result, self.batch.windows
        starts, ends = (self._of_window(name) for name in ("starts", "ends"))
        closure = _numpy(r.closure)
        next_logprob = r.prediction.next_logit - r.prediction.normalizer
        return _table(
            position_id=self.position_ids,
            document_id=self.identity.document_id + np.array([w.document for w in windows])[self.row],
            window_id=np.array([w.window for w in windows])[self.row],
            position=self.column.astype(np.int32),
            token_id=_numpy(r.stored.tokens).astype(np.int32),
            char_start=pa.array(starts, mask=starts < 0),
            char_end=pa.array(ends, mask=ends < 0),
            next_token_id=self._nullable(r.stored.next_ids.int()),
            top_token_id=_numpy(r.prediction.top_id).astype(np.int32),
            next_logit=self._nullable(r.logit[0].float()),
            top_logit=_float32(r.logit[1]),
            logit_offset=_float32(r.logit_offset),
            next_logprob=self._nullable(next_logprob.float()),
            top_logprob=_float32(r.prediction.top_logit - r.prediction.normalizer),
            next_rank=self._nullable(r.prediction.next_rank.int()),
            entropy=_float32(r.prediction.entropy),
            final_scale=_float32(r.scale),
            context_cut=np.array([w.context_cut for w in windows])[self.row],
            **self._both("embed", r.embed, self.last),
            **dict.fromkeys(("pos_embed_next", "pos_embed_top"), pa.nulls(len(self.row), pa.float32())),
            **self._both("bias", r.final_bias, self.last),
            closure_next=pa.array(closure[0].astype(np.float32), mask=self.last),
            closure_top=closure[1].astype(np.float32),
            source_bound=_rounded_up(r.source_bound, SOURCE_DECIMALS),
        )

    def contributions(self) -> pa.Table:
        layers, P = self.result.layers, len(self.row)
        last = np.tile(self.last, len(layers))

        def both(name: str, of: str) -> dict[str, pa.Array]:
            return self._both(name, torch.cat([getattr(x, of) for x in layers], dim=1), last)

        rest_abs = torch.cat([x.mlp_remainder_abs for x in layers], dim=1).round(decimals=SOURCE_DECIMALS)
        bounds = torch.cat([x.effect_bound for x in layers], dim=1)
        following, top = (_rounded_up(side, EFFECT_DECIMALS) for side in bounds)
        activation = torch.cat([x.activation_bound for x in layers])
        return _table(
            position_id=np.tile(self.position_ids, len(layers)),
            layer=np.repeat(np.arange(len(layers), dtype=np.uint8), P),
            **both("attn", "attn"),
            **both("mlp", "mlp"),
            **both("mlp_remainder", "mlp_remainder"),
            **self._both("mlp_remainder_abs", rest_abs, last),
            activation_bound=_rounded_up(activation, EFFECT_DECIMALS),
            next_bound=pa.array(following, mask=last),
            top_bound=top,
        )

    def heads(self) -> pa.Table:
        layers, P, H = self.result.layers, len(self.row), self.result.layers[0].norm.shape[1]

        def flat(tensors: list[Tensor]) -> np.ndarray:
            return _numpy(torch.stack(tensors).flatten())  # layer, position, head

        toward = [flat([x.heads[side].float() for x in layers]) for side in (0, 1)]
        source = flat([x.top_source for x in layers])
        at = np.tile(np.repeat(np.arange(P), H), len(layers))
        return _table(
            position_id=self.position_ids[at],
            layer=np.repeat(np.arange(len(layers), dtype=np.uint8), P * H),
            head=np.tile(np.arange(H, dtype=np.uint8), len(layers) * P),
            toward_next=pa.array(toward[0], mask=self.last[at]),
            toward_top=toward[1],
            source_offset=self._offset(at, source),
            attention=_rounded(flat([x.top_attention.float() for x in layers]), SOURCE_DECIMALS),
            output_norm=_rounded(flat([x.norm.float() for x in layers]), EFFECT_DECIMALS),
        )

    def head_sources(self) -> pa.Table:
        s = self.result.sources
        at = _numpy(s.at)
        return _table(
            position_id=self.position_ids[at],
            layer=_numpy(s.layer).astype(np.uint8),
            head=_numpy(s.head).astype(np.uint8),
            source_offset=self._offset(at, _numpy(s.column)),
            attention=_rounded(_float32(s.attention), SOURCE_DECIMALS),
            **self._both("toward" if s.rounded else "unrounded", s.effects, self.last[at]),
        )

    def neurons(self) -> pa.Table:
        return pa.concat_tables(
            [self._neurons_of(layer, x.neurons) for layer, x in enumerate(self.result.layers)]
        )

    def _neurons_of(self, layer: int, neurons: Neurons) -> pa.Table:
        at = _numpy(neurons.at)
        return _table(
            position_id=self.position_ids[at],
            layer=np.full(len(at), layer, dtype=np.uint8),
            neuron=_numpy(neurons.neuron).astype(np.uint16),
            activation=_float32(neurons.activation),
            toward_next=pa.array(_float32(neurons.effects[0]), mask=self.last[at]),
            toward_top=_float32(neurons.effects[1]),
        )

    def neuron_codes(self) -> pa.Table:
        """In the order they are stored in."""
        coded = [x.coded for x in self.result.layers if x.coded]
        low, step, codes = (
            _numpy(torch.stack([getattr(x, name) for x in coded], dim=1)) for name in ("low", "step", "codes")
        )  # (P, layer, part) twice, and (P, layer, d_mlp)
        (P, L, parts), U = low.shape, codes.shape[2]
        ends = np.minimum(np.arange(PART, PART * parts + 1, PART), U)
        offsets = np.append(0, (U * np.arange(P * L)[:, None] + ends).ravel())
        return _table(
            position_id=np.repeat(self.position_ids, L * parts),
            layer=np.tile(np.repeat(np.arange(L, dtype=np.uint8), parts), P),
            part=np.tile(np.arange(parts, dtype=np.uint16), P * L),
            low=low.astype(np.float32).ravel(),
            step=step.astype(np.float32).ravel(),
            codes=pa.ListArray.from_arrays(offsets.astype(np.int32), codes.ravel()),
        )

    def lens(self) -> pa.Table:
        layers, P = self.result.lens, len(self.row)
        last = np.tile(self.last, len(layers))

        def flat(name: str) -> Tensor:
            return torch.cat([getattr(x, name) for x in layers])

        normalizer = flat("normalizer")
        return _table(
            position_id=np.tile(self.position_ids, len(layers)),
            layer=np.repeat(np.arange(len(layers), dtype=np.uint8), P),
            top_token_id=_numpy(flat("top_id").int()),
            top_logprob=_float32(flat("top_logit") - normalizer),
            next_logprob=pa.array(_float32(flat("next_logit") - normalizer), mask=last),
            next_rank=pa.array(_numpy(flat("next_rank").int()), mask=last),
        )

    def sample_rows(self, sampled: np.ndarray) -> pa.Table:
        """Every activation and every head's effect at the sampled positions, a row a layer."""
        parts = []
        for layer, x in enumerate(self.result.layers):
            for kind, tensor in zip(("neuron", "head"), x.sampled, strict=True):
                S, units = tensor.shape
                missing = np.repeat(self.last[sampled], units) & (kind == "head")
                values = pa.array(_rounded(_float32(tensor).ravel(), EFFECT_DECIMALS), mask=missing)
                offsets = np.arange(0, S * units + 1, units, dtype=np.int32)
                columns = {
                    "kind": pa.DictionaryArray.from_arrays(np.zeros(S, dtype=np.int8), [kind]),
                    "layer": np.full(S, layer, dtype=np.uint8),
                    "position_id": self.position_ids[sampled],
                    "values": pa.ListArray.from_arrays(offsets, values),
                }
                parts.append(pa.table(columns))
        return pa.concat_tables(parts)

    def _nullable(self, values: Tensor) -> pa.Array:
        return pa.array(_numpy(values), mask=self.last)

    def _of_window(self, name: str) -> np.ndarray:
        """A window's array at the stored positions (P,)."""
        padded = np.full(self.batch.tokens.shape, -1, dtype=np.int32)
        for row, window in enumerate(self.batch.windows):
            padded[row, : len(window.ids)] = getattr(window, name)
        stored: np.ndarray = padded[self.row, self.column]
        return stored

    def _offset(self, at: np.ndarray, source_column: np.ndarray) -> np.ndarray:
        source = self.batch.positions[self.row[at], source_column]
        offset: np.ndarray = self.position_ids[at] - self.identity.position_id - source
        return offset.astype(np.uint16)


def check_storable(
    tables: Mapping[str, pa.Table], limits: Mapping[str, Mapping[str, float]], name: str
) -> None:
    """Look for a number that is none (NaN or infinite), or that its column cannot hold.

    limits: by table and column, what a number must be smaller than without its sign (store.writer.limits).

    Raises:
        ModelError: the first one found; the sentence says which, where, and what the column holds.
    """
    for table, rows in tables.items():
        for column in rows.column_names:
            if not pa.types.is_floating(_leaf(rows[column].type)):
                continue
            limit, values = limits[table][column], _numbers(rows[column])
            # NaN is the largest and smallest of values that it is among, and less than nothing.
            if len(values) and not (-limit < values.min() and values.max() < limit):
                raise _not_storable(tables, table, column, limit, name)


def _leaf(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_list(kind) else kind


def _numbers(column: pa.ChunkedArray) -> NDArray[Any]:
    """All of a column's numbers, 0 for those that are NULL."""
    flat = column.combine_chunks().flatten() if pa.types.is_list(column.type) else column
    numbers: NDArray[Any] = (flat.fill_null(0) if flat.null_count else flat).to_numpy()
    return numbers


def _not_storable(
    tables: Mapping[str, pa.Table], table: str, column: str, limit: float, name: str
) -> ModelError:
    """The sentence for the first number of a column that it cannot hold."""
    rows, values = tables[table], _numbers(tables[table][column])
    first = int(np.argmin(np.abs(values) < limit))
    value = float(values[first])
    row = rows.slice(first // (len(values) // rows.num_rows), 1).to_pylist()[0]
    positions = tables["position"]
    at = positions.filter(pc.equal(positions["position_id"], row["position_id"])).to_pylist()[0]
    layer = f" of layer {row['layer']}" if "layer" in row else ""
    unit = next((f", {kind} {row[kind]}" for kind in ("head", "neuron") if kind in row), "")
    holds = "numbers, not NaN nor infinity" if np.isinf(limit) else f"numbers below {limit:,.0f}"
    return ModelError(
        f"{name} gives {value:.7g} for {table}.{column}{layer}{unit} at position {at['position']:,} of "
        f"window {at['window_id']:,}, and that column of the store holds {holds}. Its weights are broken, or "
        "too large: give another revision or model. Nothing of this shard was written."
    )


def _table(**columns: pa.Array | np.ndarray) -> pa.Table:
    return pa.table(columns)


def layer_biases(model: Model, model_id: int) -> pa.Table:
    """Every token's row of base.layer_bias."""
    attn, mlp = model.bias_toward[:, :, : model.n_tokens]
    n = attn.numel()
    return pa.table(
        {
            "model_id": np.full(n, model_id, dtype=np.int32),
            "layer": np.repeat(np.arange(model.n_layers, dtype=np.uint8), model.n_tokens),
            "token_id": np.tile(np.arange(model.n_tokens, dtype=np.int32), model.n_layers),
            "attn": _float32(attn).ravel(),
            "mlp": _float32(mlp).ravel(),
        }
    )


def neuron_directions(model: Model, model_id: int) -> Iterator[pa.Table]:
    """Every neuron's row of base.neuron_direction, a layer at a time."""
    for layer in range(model.n_layers):
        W_out = _float32(model.writing(layer)[1])
        yield pa.table(
            {
                "model_id": np.full(model.d_mlp, model_id, dtype=np.int32),
                "layer": np.full(model.d_mlp, layer, dtype=np.uint8),
                "neuron": np.arange(model.d_mlp, dtype=np.uint16),
                "W_out": _vectors(W_out),
            }
        )


def token_directions(model: Model, model_id: int, tokens: NDArray[np.int64]) -> pa.Table:
    """These tokens' rows of base.token_direction."""
    u = model.W_U[:, torch.from_numpy(tokens).to(model.device)].T
    return pa.table(
        {
            "model_id": np.full(len(tokens), model_id, dtype=np.int32),
            "token_id": tokens.astype(np.int32),
            "u": _vectors(_float32(u - u.mean(1, keepdim=True))),
        }
    )


def _vectors(rows: NDArray[np.float32]) -> pa.Array:
    n, size = rows.shape
    return pa.ListArray.from_arrays(np.arange(0, n * size + 1, size, dtype=np.int32), rows.ravel())


def _numpy(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


def _float32(tensor: Tensor) -> np.ndarray:
    return _numpy(tensor.float())


def _rounded(values: NDArray[np.float32], decimals: int) -> NDArray[np.float32]:
    scale = 10.0**decimals
    return cast("NDArray[np.float32]", (np.rint(values * scale) / scale).astype(np.float32))


def _rounded_up(tensor: Tensor, decimals: int) -> NDArray[np.float32]:
    """A bound stays a bound."""
    scale = 10.0**decimals
    return cast("NDArray[np.float32]", (np.ceil(_float32(tensor) * scale) / scale).astype(np.float32))
