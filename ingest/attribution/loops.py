"""The one place that chooses between torch operations and compiled loops.

Torch serves any device and precision. Its chains of operations pass through memory a dozen times; the
compiled loops read each activation, attention weight and logit while its row is in the cache, for float32
on a CPU. tests/test_fused.py holds both to the same answers.
"""

from typing import Protocol

import torch
from torch import Tensor

from annotate_transformer.ingest.attribution.fast.compiled import CompiledPrediction, CompiledSelection
from annotate_transformer.ingest.attribution.selection import Keep, Selection
from annotate_transformer.ingest.attribution.stored import Stored
from annotate_transformer.ingest.attribution.summaries import Thresholds
from annotate_transformer.ingest.attribution.unembed import RunningPrediction
from annotate_transformer.ingest.models.model import Model


class Loops(Protocol):
    """What the decomposition of a batch needs that comes in two kinds."""

    def selection(
        self, tokens: Tensor, stored: Stored, scale: Tensor, keep: Keep, thresholds: Thresholds, /
    ) -> Selection:
        """Return what selects and sums over a batch, layer by layer."""

    def prediction(self, following: Tensor, threshold: Tensor, /) -> RunningPrediction:
        """Return what takes the figures of a prediction from slices of the logits."""


class PlainLoops:
    selection, prediction = Selection, RunningPrediction


class CompiledLoops:
    selection, prediction = CompiledSelection, CompiledPrediction


PLAIN: Loops = PlainLoops()
COMPILED: Loops = CompiledLoops()


def loops_for(model: Model) -> Loops:
    """Return the compiled loops where they can do, else the plain ones."""
    return COMPILED if model.device == "cpu" and model.dtype == torch.float32 else PLAIN
