"""Convert a decomposition to Arrow tables, with the names and columns of the tables in schema.sql."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from annotate_transformer.ingest.attribution.codes import PART
from annotate_transformer.ingest.attribution.decompose import Decomposition
from annotate_transformer.ingest.attribution.selection import EFFECT_DECIMALS, SOURCE_DECIMALS, Neurons
from annotate_transformer.ingest.corpus.windows import Batch
from annotate_transformer.ingest.run.run_summary import repeated


@dataclass(frozen=True)
class Identity:
    """The id of a run, the id of its first position, and the id of its corpus's first document."""

    run_id: int
    position_id: int
    document_id: int


def rows_of(
    result: Decomposition, batch: Batch, sampled: np.ndarray, identity: Identity
) -> dict[str, pa.Table]:
    """Return a batch's rows: one Arrow table for each table of the store, without the column run_id.

    `sampled`, of shape (P,): whether a position is in the sample.
    """
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
        self.last = ~_numpy(result.stored.has_next)  # True for a position that has no next token

    def _both(self, name: str, effects: Tensor, last: np.ndarray) -> dict[str, pa.Array]:
        """Return the columns `…_next` and `…_top` of effects; `…_next` is NULL without a next token."""
        following, top = (float32(side) for side in effects)
        return {f"{name}_next": pa.array(following, mask=last), f"{name}_top": pa.array(top)}

    def positions(self) -> pa.Table:
        r, windows = self.result, self.batch.windows
        starts, ends = (self._of_window(name) for name in ("starts", "ends"))
        closure = _numpy(r.closure)
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
            top_logit=float32(r.logit[1]),
            logit_offset=float32(r.logit_offset),
            next_logprob=self._nullable(r.prediction.next_logprob.float()),
            top_logprob=float32(r.prediction.top_logprob),
            next_rank=self._nullable(r.prediction.next_rank.int()),
            entropy=float32(r.prediction.entropy),
            final_scale=float32(r.scale),
            context_cut=np.array([w.context_cut for w in windows])[self.row],
            **self._both("embed", r.embedding["embed"], self.last),
            **self._pos_embed(),
            **self._both("bias", r.final_bias, self.last),
            closure_next=pa.array(closure[0].astype(np.float32), mask=self.last),
            closure_top=closure[1].astype(np.float32),
            source_bound=_rounded_up(r.source_bound, SOURCE_DECIMALS),
        )

    def _pos_embed(self) -> dict[str, pa.Array]:
        """Return the columns of the position embedding, which are NULL in a model without one."""
        effects = self.result.embedding.get("pos_embed")
        if effects is None:
            return dict.fromkeys(("pos_embed_next", "pos_embed_top"), pa.nulls(len(self.row), pa.float32()))
        return self._both("pos_embed", effects, self.last)

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
            return _numpy(torch.stack(tensors).flatten())  # ordered by layer, then position, then head

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
            attention=_rounded(float32(s.attention), SOURCE_DECIMALS),
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
            activation=float32(neurons.activation),
            toward_next=pa.array(float32(neurons.effects[0]), mask=self.last[at]),
            toward_top=float32(neurons.effects[1]),
        )

    def neuron_codes(self) -> pa.Table:
        """Return the rows of base.neuron_code, sorted as they are stored; they hold rounded activations."""
        coded = [x.coded for x in self.result.layers if x.coded]
        low, step, codes = (
            _numpy(torch.stack([getattr(x, name) for x in coded], dim=1)) for name in ("low", "step", "codes")
        )  # shape (position, layer, group of neurons) for low and step, (position, layer, neuron) for codes
        (P, L, parts), U = low.shape, codes.shape[2]
        ends = np.minimum(np.arange(PART, PART * parts + 1, PART), U)
        offsets = np.append(0, (U * np.arange(P * L)[:, None] + ends).ravel())
        scales = [x.mlp_scale for x in self.result.layers if x.mlp_scale is not None]
        scale = np.repeat(float32(torch.stack(scales, dim=1)).ravel(), parts) if scales else None
        return _table(
            position_id=np.repeat(self.position_ids, L * parts),
            layer=np.tile(np.repeat(np.arange(L, dtype=np.uint8), parts), P),
            part=np.tile(np.arange(parts, dtype=np.uint16), P * L),
            low=low.astype(np.float32).ravel(),
            step=step.astype(np.float32).ravel(),
            codes=pa.ListArray.from_arrays(offsets.astype(np.int32), codes.ravel()),
            mlp_scale=pa.nulls(P * L * parts, pa.float32()) if scale is None else scale,
        )

    def lens(self) -> pa.Table:
        layers, P = self.result.lens, len(self.row)
        last = np.tile(self.last, len(layers))

        def flat(name: str) -> Tensor:
            return torch.cat([getattr(x, name) for x in layers])

        return _table(
            position_id=np.tile(self.position_ids, len(layers)),
            layer=np.repeat(np.arange(len(layers), dtype=np.uint8), P),
            top_token_id=_numpy(flat("top_id").int()),
            top_logprob=float32(flat("top_logprob")),
            next_logprob=pa.array(float32(flat("next_logprob")), mask=last),
            next_rank=pa.array(_numpy(flat("next_rank").int()), mask=last),
        )

    def sample_rows(self, sampled: np.ndarray) -> pa.Table:
        """Return one row of activations and one row of head effects per sampled position and layer."""
        parts = []
        for layer, x in enumerate(self.result.layers):
            for kind, tensor in zip(("neuron", "head"), x.sampled, strict=True):
                S, units = tensor.shape
                missing = np.repeat(self.last[sampled], units) & (kind == "head")
                values = pa.array(_rounded(float32(tensor).ravel(), EFFECT_DECIMALS), mask=missing)
                offsets = np.arange(0, S * units + 1, units, dtype=np.int32)
                columns = {
                    "kind": repeated(kind, S),
                    "layer": np.full(S, layer, dtype=np.uint8),
                    "position_id": self.position_ids[sampled],
                    "values": pa.ListArray.from_arrays(offsets, values),
                }
                parts.append(pa.table(columns))
        return pa.concat_tables(parts)

    def _nullable(self, values: Tensor) -> pa.Array:
        return pa.array(_numpy(values), mask=self.last)

    def _of_window(self, name: str) -> np.ndarray:
        """Return the windows' attribute `name`, such as `starts`, at the batch's stored positions."""
        padded = np.full(self.batch.tokens.shape, -1, dtype=np.int32)
        for row, window in enumerate(self.batch.windows):
            padded[row, : len(window.ids)] = getattr(window, name)
        stored: np.ndarray = padded[self.row, self.column]
        return stored

    def _offset(self, at: np.ndarray, source_column: np.ndarray) -> np.ndarray:
        source = self.batch.positions[self.row[at], source_column]
        offset: np.ndarray = self.position_ids[at] - self.identity.position_id - source
        return offset.astype(np.uint16)


def _table(**columns: pa.Array | np.ndarray) -> pa.Table:
    return pa.table(columns)


def _numpy(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


def float32(tensor: Tensor) -> np.ndarray:
    return _numpy(tensor.float())


def _rounded(values: NDArray[np.float32], decimals: int) -> NDArray[np.float32]:
    scale = 10.0**decimals
    return cast("NDArray[np.float32]", (np.rint(values * scale) / scale).astype(np.float32))


def _rounded_up(tensor: Tensor, decimals: int) -> NDArray[np.float32]:
    """Round up, so that an upper bound remains an upper bound."""
    scale = 10.0**decimals
    return cast("NDArray[np.float32]", (np.ceil(float32(tensor) * scale) / scale).astype(np.float32))
