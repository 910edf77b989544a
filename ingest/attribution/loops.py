"""Choose between torch operations and compiled loops; no other module makes this choice.

Torch works on any device and in any precision, but its operations read the same data from memory a dozen
times. The compiled loops, for float32 on a CPU, do all steps while a row is in the cache.
tests/test_fused.py checks that both give the same results.
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
    """The two steps of a decomposition, selection and prediction, in a torch or a compiled version."""

    def selection(
        self, tokens: Tensor, stored: Stored, scale: Tensor, keep: Keep, thresholds: Thresholds, /
    ) -> Selection:
        """Return an object that selects the strongest neurons and attention sources of a batch."""

    def prediction(self, following: Tensor, threshold: Tensor, /) -> RunningPrediction:
        """Return an object that computes predictions from logits, one slice of the vocabulary at a time."""


class PlainLoops:
    selection, prediction = Selection, RunningPrediction


class CompiledLoops:
    selection, prediction = CompiledSelection, CompiledPrediction


PLAIN: Loops = PlainLoops()
COMPILED: Loops = CompiledLoops()


def loops_for(model: Model) -> Loops:
    """Return the compiled loops for a float32 model on a CPU, else the torch versions."""
    return COMPILED if model.device == "cpu" and model.dtype == torch.float32 else PLAIN
