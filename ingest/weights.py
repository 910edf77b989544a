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
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from ingest import neurons
from ingest.errors import SettingsError
from ingest.model import Model
from ingest.tokens import Tokenizer
from store.writer import Writer

LIBRARIES = ("torch", "transformer-lens", "transformers", "numpy")
DIRECTIONS = pa.array(["promotes", "suppresses"])
LONGEST = 1000  # of a list


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
                layer=_constant(layer, congruence.numel(), pa.uint8()),
                neuron=neuron,
                direction=DIRECTIONS.take(_column(direction)),
                rank=rank + 1,
                token_id=token_id,
                congruence=congruence,
            )


def _record(top: int, seconds: dict[str, float]) -> dict[str, Any]:
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"top": [top], "libraries": [json.dumps(libraries)], "seconds": [sum(seconds.values())]}


class _Tables:
    """Arrow tables of a model in the making, by name, and the seconds each part took."""

    def __init__(self, model_id: int) -> None:
        self.model_id, self.seconds = model_id, dict[str, float]()
        self._parts: dict[str, list[pa.Table]] = {}

    def add(self, table: str, **columns: Any) -> None:
        """Rows of a table in schema `base`: columns are tensors of one size, or what Arrow takes."""
        arrays = {name: _column(values) for name, values in columns.items()}
        size = len(next(iter(arrays.values())))
        arrays["model_id"] = _constant(self.model_id, size, pa.int32())
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


def _column(values: Any) -> Any:
    return values.flatten().cpu().numpy() if isinstance(values, Tensor) else values


def _constant(value: int, size: int, kind: pa.DataType) -> pa.Array:
    return pa.repeat(pa.scalar(value, kind), size)
