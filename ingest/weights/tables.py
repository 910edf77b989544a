"""Write tables about the weights of a model, and compare its direct path with the bigrams of its runs.

1. The tables of the model are computed layer by layer, in slices (`weights.neurons`, `weights.circuits`).
2. One transaction writes them with a record in `base.weights`. A model that has such a record is skipped.
3. For each finished run of the model that was not yet compared, its bigrams are compared with the direct path
   (`weights.bigrams`). The results of each run are written in one transaction.
"""

import importlib.metadata
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from annotate_transformer.ingest.attribution.behaviours import BEHAVIOURS
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.errors import SettingsError
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.weights import bigrams, circuits, neurons, rotations
from annotate_transformer.ingest.weights.slices import largest, slices
from annotate_transformer.store.writer import Vocabulary, Writer

LIBRARIES = ("torch", "transformer-lens", "transformers", "numpy")
DIRECTIONS = pa.array(["promotes", "suppresses"])
LONGEST = 1000  # maximum of --top, the number of entries in a list
FREQUENT = 256  # heads' circuits are computed for this number of the most frequent tokens
DISTANCES = 64  # attention scores are computed for distances 0 … 63 between query and key


@dataclass
class WeightsReport:
    """The result of `annotate_weights`.

    `annotated`: whether the model's tables are new;
    `top`: length of the model's lists;
    `equal_weights`: a sentence about other names of the same weights in the store;
    `runs`: ids of the runs whose bigrams were compared;
    `unasked`: number of frequent tokens of the store that are missing from existing circuits of heads;
    `seconds`: duration in seconds of each part of the computation.
    """

    model_id: int
    annotated: bool
    top: int
    equal_weights: str | None
    unasked: int = 0
    runs: list[int] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def annotate_weights(
    model: Model, path: str, *, top: int = 20, distance: int = 4, fresh: bool = False
) -> WeightsReport:
    """Write the tables about the weights of `model` into the store at `path`, unless the store has them.

    `top`: length of each list;
    `distance`: number of positions from source to destination in QK circuits, which depend on the distance
    through rotary embeddings;
    `fresh`: compute existing tables again.

    Raises:
        AnnotateError: an error that a person can correct.
    """
    if not 1 <= top <= min(LONGEST, model.n_tokens):
        raise SettingsError(f"--top {top} must lie between 1 and {min(LONGEST, model.n_tokens)}.")
    if not 1 <= distance < model.n_ctx:
        raise SettingsError(f"--distance {distance} must lie between 1 and {model.n_ctx - 1}.")
    with Writer(path) as writer, torch.inference_mode():
        tokenizer = Tokenizer(model.tokenizer)
        equal_weights = writer.equal_weights(model.provenance)
        vocabulary = Vocabulary(tokenizer.vocabulary(), tokenizer.special_ids.tolist(), tokenizer.spells)
        begun = writer.begin_model(model.provenance, tokenizer.sha256, vocabulary)
        there = None if fresh else begun.top
        report = WeightsReport(begun.model_id, there is None, there or top, equal_weights)
        frequent = _frequent(writer, model, tokenizer)
        if report.annotated:
            tables = _Tables(report, model_id=begun.model_id)
            _neurons(model, top, tables)
            _direct_path(model, top, tables)
            own_rank = _circuits(model, frequent, top, distance, tables)
            _heads(model, own_rank, tables)
            _composition(model, tables)
            tables.add("weights", **_record(report), **_nulls(model), distance=[distance])
            writer.commit(tables.made(), model_id=begun.model_id)
        else:
            asked = writer.fetch("tokens_of_circuits", model_id=begun.model_id)["source"]
            report.unasked = len({*frequent.tolist()} - {*asked.to_pylist()})
        for run in writer.fetch("runs_of_model", model_id=begun.model_id).to_pylist():
            if fresh or not run["compared"]:
                _compare(model, writer, run["run_id"], report)
        return report


def _neurons(model: Model, top: int, tables: "_Tables") -> None:
    written = rotations.Written.of(model)
    for layer in range(model.n_layers):
        of_layer = {"layer": pa.scalar(layer, pa.uint8())}
        with tables.timed("neurons' vocabularies"):
            congruence, token_id = neurons.vocabulary(model, layer, top)
            neuron, direction, rank = _grid(congruence)
            directions = DIRECTIONS.take(pa.array(direction.flatten().numpy()))
            ranked = {"neuron": neuron, "direction": directions, "rank": rank + 1}
            tables.add("neuron_vocabulary", **ranked, token_id=token_id, congruence=congruence, **of_layer)
        with tables.timed("neurons' statistics"):
            statistics = neurons.statistics(model, layer)
            tables.add("neuron_weight", neuron=torch.arange(model.d_mlp), **statistics, **of_layer)
        with tables.timed("neurons' sources"):
            for reading, W in neurons.readings(model).items():
                for found in _sources(model, written, W[layer], layer, top):
                    tables.add("neuron_read", **found, reading=pa.scalar(reading), **of_layer)


def _sources(
    model: Model, written: rotations.Written, W: Tensor, layer: int, top: int
) -> Iterator[dict[str, Any]]:
    """Yield columns of base.neuron_read, for the heads and then the neurons that the weights W read most."""
    for name, read, null, units in (
        ("source_head", neurons.from_heads, written.by_heads, model.n_heads),
        ("source_neuron", neurons.from_neurons, written.by_neurons, model.d_mlp),
    ):
        weight, source = read(model, W, layer, top)
        neuron, rank = _grid(weight)
        found = {"weight": weight, "z": _known(null(weight, source, W.norm(dim=0)))}
        found |= {"source_layer": source // units, name: source % units}
        yield {"neuron": neuron, "rank": rank + 1} | found


def _direct_path(model: Model, top: int, tables: "_Tables") -> None:
    with tables.timed("direct path"):
        for rows in slices(model.n_tokens, model.d_vocab):
            token_ids = torch.arange(rows.start, rows.stop, device=model.device)
            logits, normalizer = bigrams.direct_path(model, token_ids)
            highest, next_ids = largest(logits[:, : model.n_tokens], top)
            token, rank = _grid(highest)
            logprob = highest - normalizer[:, None]
            identity = {"token_id": token + rows.start, "rank": rank + 1, "next_token_id": next_ids}
            tables.add("direct_path", **identity, logprob=logprob)


def _frequent(writer: Writer, model: Model, tokenizer: Tokenizer) -> Tensor:
    """Return the most frequent tokens in the store, or the tokenizer's first merges if the store has no text.

    Byte-level BPE assigns ids in the order of the merges, the most frequent pair first.
    """
    ordinary = set(circuits.ordinary_tokens(model).tolist())
    common = [i for i in writer.frequent_tokens(tokenizer.sha256, FREQUENT) if i in ordinary]
    if not common:
        common = [i for i, _, raw in tokenizer.vocabulary() if len(raw) > 1 and i in ordinary][:FREQUENT]
    return torch.tensor(common, device=model.device)


def _circuits(model: Model, tokens: Tensor, top: int, distance: int, tables: "_Tables") -> Tensor:
    """Add each head's OV and QK circuits to `tables`; return each head's median of `Outputs.own_rank`."""
    own_rank = torch.empty(model.n_layers, model.n_heads)
    for layer, head in product(range(model.n_layers), range(model.n_heads)):
        with tables.timed("heads' circuits"):
            place = {"layer": pa.scalar(layer, pa.uint8()), "head": pa.scalar(head, pa.uint8())}
            outputs = circuits.ov_circuit(model, layer, head, tokens, top)
            own_rank[layer, head] = outputs.own_rank.double().quantile(0.5)
            source, rank = _grid(outputs.token)
            found = {"source": tokens[source], "rank": rank + 1, "output": outputs.token}
            tables.add("head_vocabulary", **place, **found, effect=outputs.effect)
            attention = circuits.qk_circuit(model, layer, head, tokens, tokens, distance).softmax(1)
            pairs = circuits.strongest_pairs(attention, tokens, top)
            tables.add("head_pair", **place, rank=_ranks(pairs.source), **vars(pairs))
            trigrams = circuits.skip_trigrams(attention, tokens, outputs, top)
            tables.add("skip_trigram", **place, rank=_ranks(trigrams.source), **vars(trigrams))
    return own_rank


def _heads(model: Model, own_rank: Tensor, tables: "_Tables") -> None:
    """Add each head's scores to `tables`, and each head's behaviours on repeated random tokens."""
    with tables.timed("heads' scores"):
        ov_norm, qk_norm = circuits.Factors.of(model).norms()
        layer, head = _grid(ov_norm)
        masses = circuits.behaviour(model, circuits.repeated_tokens(model)).unbind(1)
        copying, matching = circuits.copying(model), circuits.matching(model)
        tables.add(
            "head_weight", layer=layer, head=head, ov_norm=ov_norm, qk_norm=qk_norm,
            copying=copying.score, copying_z=_known(copying.z), copying_rank=own_rank,
            matching=matching.score, matching_z=_known(matching.z),
            **{f"random_{name}": mass for name, mass in zip(BEHAVIOURS, masses, strict=True)},
        )  # fmt: skip
        score = circuits.distance_scores(model, DISTANCES)
        layer, head, distance = _grid(score)
        tables.add("head_distance", layer=layer, head=head, distance=distance, score=score)


def _composition(model: Model, tables: "_Tables") -> None:
    with tables.timed("heads' composition"):
        scores = circuits.Factors.of(model).composition().cpu()
        z, p = circuits.composition_null(model, scores)
        there = ~scores.isnan()
        kind, earlier_layer, earlier_head, layer, head = (index[there] for index in _grid(scores))
        tables.add(
            "head_composition", kind=pa.array(circuits.COMPOSITIONS).take(_column(kind)),
            earlier_layer=earlier_layer, earlier_head=earlier_head, layer=layer, head=head,
            score=scores[there], z=_known(z[there]), p=_known(p[there]),
        )  # fmt: skip


def _compare(model: Model, writer: Writer, run_id: int, report: WeightsReport) -> None:
    """Compare the bigrams of a run with the direct path, and write the results to the store."""
    counts = writer.fetch("bigram_counts", run_id=run_id)
    if not counts.num_rows:
        return
    first, second, count = (column.to_numpy() for column in counts.columns)
    found = bigrams.Bigrams(first, second, count, model.n_tokens)
    tables = _Tables(report, run_id=run_id)
    with tables.timed("bigrams"):
        occurring = {"token_id": found.tokens, "count": found.total, "next_tokens": found.next_tokens}
        tables.add("bigram_agreement", **occurring, **bigrams.agreement(model, found))
        tables.add("bigram_distance", **bigrams.distances(model, found))
    writer.commit(tables.made(), run_id=run_id)
    report.runs.append(run_id)


def _record(report: WeightsReport) -> dict[str, Any]:
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    seconds = sum(report.seconds.values())
    return {"top": [report.top], "libraries": [json.dumps(libraries)], "seconds": [seconds]}


def _nulls(model: Model) -> dict[str, Any]:
    """Return the values of the columns of base.weights that describe null distributions."""
    mean, std = rotations.largest_congruence(model)
    return {
        "dimensions": [rotations.dimensions(model)],
        "rotations": [rotations.ROTATIONS],
        "directions": [rotations.RANDOM_DIRECTIONS],
        "congruence_mean": [mean],
        "congruence_std": [std],
    }


class _Tables:
    """A collector of Arrow tables of a model or run; `add` adds rows, and `timed` measures durations."""

    def __init__(self, report: WeightsReport, **key: int) -> None:
        self.report, self._key = report, {name: pa.scalar(value, pa.int32()) for name, value in key.items()}
        self._parts: dict[str, list[pa.Table]] = {}

    def add(self, table: str, **columns: Any) -> None:
        """Add rows to a table of schema `base`; `columns` are tensors or arrays of equal size, or scalars."""
        arrays = {name: _column(values) for name, values in (self._key | columns).items()}
        size = max(len(values) for values in arrays.values() if not isinstance(values, pa.Scalar))
        filled = {
            name: pa.repeat(values, size) if isinstance(values, pa.Scalar) else values
            for name, values in arrays.items()
        }
        self._parts.setdefault(table, []).append(pa.table(filled))

    def made(self) -> dict[str, pa.Table]:
        """Return a dictionary from name to table; a column is NULL in rows added without this column."""
        return {
            name: pa.concat_tables(parts, promote_options="default") for name, parts in self._parts.items()
        }

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        start, seconds = time.perf_counter(), self.report.seconds
        yield
        seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - start


def _grid(values: Tensor) -> list[Tensor]:
    """Return, for each dimension of `values`, a tensor with the index of every cell along this dimension."""
    sizes = (torch.arange(size, dtype=torch.int32) for size in values.shape)
    return list(torch.meshgrid(*sizes, indexing="ij"))


def _ranks(listed: Tensor) -> Tensor:
    return torch.arange(1, len(listed) + 1)


def _known(values: Tensor) -> Any:
    """Return an Arrow array with NULL for NaN, such as the z-score of a head whose weights are 0."""
    return pa.array(_column(values.float()), from_pandas=True)


def _column(values: Any) -> Any:
    return values.flatten().cpu().numpy() if isinstance(values, Tensor) else values
