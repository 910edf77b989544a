"""What the weights alone say of a model: read once, written in one transaction.

1. The model's tables are made layer by layer and slice by slice (`ingest.neurons`).
2. They are written with the model's row, where the store has none of it, and a record of them in
   `base.weights`: all or nothing. A model that has that record is left as it is.
"""

import importlib.metadata
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from ingest import circuits, neurons
from ingest.errors import SettingsError
from ingest.model import Model
from ingest.run_summary import BEHAVIOURS
from ingest.tokens import Tokenizer
from store.writer import Writer

LIBRARIES = ("torch", "transformer-lens", "transformers", "numpy")
DIRECTIONS = pa.array(["promotes", "suppresses"])
LONGEST = 1000  # of a list
FREQUENT = 256  # tokens that heads' circuits are asked about
DISTANCES = 64  # from 0, that heads' preferences are asked about
SKIP = 4  # tokens between a skip-trigram's source and its destination


@dataclass(frozen=True)
class Report:
    """What was added. annotated: the model's tables are new; seconds: by part."""

    model_id: int
    annotated: bool
    top: int
    seconds: dict[str, float] = field(default_factory=dict)


def annotate_weights(model: Model, path: str, *, top: int = 20, fresh: bool = False) -> Report:
    """Write what the weights of `model` say into the store at `path`, if that is not there yet.

    top: length of each list; fresh: what is there is made anew.

    Raises:
        AnnotateError: a sentence for whatever a person can put right.
    """
    if not 1 <= top <= min(LONGEST, model.n_tokens):
        raise SettingsError(f"--top {top} must lie between 1 and {min(LONGEST, model.n_tokens)}.")
    with Writer(path) as writer, torch.inference_mode():
        tokenizer = Tokenizer(model.tokenizer)
        begun = writer.begin_model(model.provenance, tokenizer.sha256, tokenizer.vocabulary())
        if begun.top is not None and not fresh:
            return Report(begun.model_id, False, begun.top)
        tables = _Tables(begun.model_id)
        _neurons(model, top, tables)
        own_rank = _circuits(model, _frequent(writer, model, tokenizer), top, tables)
        _heads(model, own_rank, tables)
        _composition(model, tables)
        tables.add("weights", **_record(top, tables.seconds))
        writer.commit(tables.made(), model_id=begun.model_id)
        return Report(begun.model_id, True, top, tables.seconds)


def _neurons(model: Model, top: int, tables: "_Tables") -> None:
    for layer in range(model.n_layers):
        with tables.timed("neurons' vocabularies"):
            congruence, token_id = neurons.vocabulary(model, layer, top)
            neuron, direction, rank = _grid(*congruence.shape)
            tables.add(
                "neuron_token",
                layer=layer,
                neuron=neuron,
                direction=DIRECTIONS.take(_column(direction)),
                rank=rank + 1,
                token_id=token_id,
                congruence=congruence,
            )


def _frequent(writer: Writer, model: Model, tokenizer: Tokenizer) -> Tensor:
    """The commonest tokens of the texts in the store; where it has none, the tokenizer's first merges.

    Byte-level BPE numbers its merges as it made them, the most frequent pair first.
    """
    ordinary = set(circuits.ordinary_tokens(model).tolist())
    merges = (i for i, _, raw in tokenizer.vocabulary() if len(raw) > 1 and i in ordinary)
    common = writer.frequent_tokens(tokenizer.sha256, FREQUENT) or list(islice(merges, FREQUENT))
    return torch.tensor(common, device=model.device)


def _circuits(model: Model, tokens: Tensor, top: int, tables: "_Tables") -> Tensor:
    """Each head's OV and QK circuit among `tokens`; the median rank of a token among its own outputs."""
    own_rank = torch.empty(model.n_layers, model.n_heads)
    for layer, head in product(range(model.n_layers), range(model.n_heads)):
        with tables.timed("heads' circuits"):
            place = {"layer": layer, "head": head}
            outputs = circuits.ov_circuit(model, layer, head, tokens, top)
            own_rank[layer, head] = outputs.own_rank.double().quantile(0.5)
            source, rank = _grid(*outputs.token.shape)
            found = {"source": tokens[source], "rank": rank + 1, "output": outputs.token}
            tables.add("head_output", **place, **found, effect=outputs.effect)
            attention = circuits.qk_circuit(model, layer, head, tokens, tokens, SKIP).softmax(1)
            pairs = circuits.strongest_pairs(attention, tokens, top)
            tables.add("head_pair", **place, rank=_ranks(pairs.source), **vars(pairs))
            trigrams = circuits.skip_trigrams(attention, tokens, outputs, top)
            tables.add("skip_trigram", **place, rank=_ranks(trigrams.source), **vars(trigrams))
    return own_rank


def _heads(model: Model, own_rank: Tensor, tables: "_Tables") -> None:
    """Each head's scores, and what it does on random tokens."""
    with tables.timed("heads' scores"):
        ov_norm, qk_norm = circuits.Factors.of(model).norms()
        layer, head = _grid(*ov_norm.shape)
        masses = circuits.behaviour(model, circuits.repeated_tokens(model)).unbind(1)
        tables.add(
            "head_weight", layer=layer, head=head, ov_norm=ov_norm, qk_norm=qk_norm,
            copying=circuits.copying(model), copying_rank=own_rank, matching=circuits.matching(model),
            **{f"random_{name}": mass for name, mass in zip(BEHAVIOURS, masses, strict=True)},
        )  # fmt: skip
        score = circuits.distance_scores(model, DISTANCES)
        layer, head, distance = _grid(*score.shape)
        tables.add("head_distance", layer=layer, head=head, distance=distance, score=score)


def _composition(model: Model, tables: "_Tables") -> None:
    with tables.timed("heads' composition"):
        scores = circuits.Factors.of(model).composition()
        baseline = circuits.composition_baseline(model).view(-1, 1, 1, 1, 1).expand_as(scores)
        there = ~scores.isnan()
        kind, earlier_layer, earlier_head, layer, head = (index[there] for index in _grid(*scores.shape))
        tables.add(
            "composition", kind=pa.array(circuits.KINDS).take(_column(kind)),
            earlier_layer=earlier_layer, earlier_head=earlier_head, layer=layer, head=head,
            score=scores[there], baseline=baseline[there],
        )  # fmt: skip


def _record(top: int, seconds: dict[str, float]) -> dict[str, Any]:
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"top": [top], "libraries": [json.dumps(libraries)], "seconds": [sum(seconds.values())]}


class _Tables:
    """Arrow tables of a model in the making, by name, and the seconds each part took."""

    def __init__(self, model_id: int) -> None:
        self.model_id, self.seconds = model_id, dict[str, float]()
        self._parts: dict[str, list[pa.Table]] = {}

    def add(self, table: str, **columns: Any) -> None:
        """Rows of a table in schema `base`: columns are tensors of one size, or what Arrow takes; a
        number alone is every row's."""
        arrays = {name: _column(values) for name, values in columns.items()}
        size = max(len(values) for values in arrays.values() if not isinstance(values, int))
        arrays["model_id"] = self.model_id
        for name, value in arrays.items():
            arrays[name] = pa.repeat(value, size) if isinstance(value, int) else value
        self._parts.setdefault(table, []).append(pa.table(arrays))

    def made(self) -> dict[str, pa.Table]:
        return {name: pa.concat_tables(parts) for name, parts in self._parts.items()}

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start


def _grid(*shape: int) -> list[Tensor]:
    """The index of each cell along each dimension."""
    return list(torch.meshgrid(*(torch.arange(size, dtype=torch.int32) for size in shape), indexing="ij"))


def _ranks(listed: Tensor) -> Tensor:
    return torch.arange(1, len(listed) + 1)


def _column(values: Any) -> Any:
    return values.flatten().cpu().numpy() if isinstance(values, Tensor) else values
