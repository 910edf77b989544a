"""Compute, with the models of a store's runs, the answers that stored rows cannot give (`store.running`)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from annotate_transformer.ingest.attribution.patterns import lens, patterns
from annotate_transformer.ingest.attribution.toward import likeliest, toward
from annotate_transformer.ingest.attribution.unit_values import unit_values
from annotate_transformer.ingest.interventions.ablate import ablate
from annotate_transformer.ingest.interventions.patch import patch
from annotate_transformer.ingest.live.prompt import Prompts, check_weights, load, revision
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.weights.head_scores import head_score
from annotate_transformer.ingest.weights.moved import moved
from annotate_transformer.store.running import (
    Ablation,
    Direction,
    HeadScore,
    LensTop,
    Moved,
    Outcome,
    Patched,
    Patching,
    Patterns,
    Piece,
    Terms,
)

Result = TypeVar("Result")
KEPT = 2  # maximum number of models in memory


class ModelRunner:
    """An implementation of `store.running.Runner`, with models loaded by name or with one given model."""

    def __init__(self, model: Model | None = None) -> None:
        """`model`: the model for all runs; if it is None, models are loaded, and the last KEPT are cached."""
        self._given, self._lock = model, Lock()
        self._loaded: dict[tuple[str, str | None], Model] = {}
        self._computed: dict[object, Any] = {}
        self._prompts = Prompts(self._load)

    def model(self, about: "pd.Series[Any]") -> Model:
        """Return the model of a run.

        Raises:
            ModelError: the model cannot be loaded, or has other weights than when the run was made.
        """
        found = self._load(about.model, revision(about))
        check_weights(found, about)
        return found

    def _load(self, name: str, revision: str | None) -> Model:
        if self._given is not None:
            return self._given
        with self._lock:
            if (name, revision) not in self._loaded:
                for oldest in [*self._loaded][: len(self._loaded) + 1 - KEPT]:
                    del self._loaded[oldest]
                self._loaded[name, revision] = load(name, revision)
            return self._loaded[name, revision]

    def _once(
        self, about: "pd.Series[Any]", tokens: Sequence[int], what: object, compute: Callable[[Model], Result]
    ) -> Result:
        """Return the last result if the question is the same; otherwise compute and remember a new result."""
        key = (about.weights_sha256, tuple(tokens), what)
        # Read `self._computed` only once, because the thread of another page may replace it at any moment.
        computed = self._computed
        if key not in computed:
            computed = self._computed = {key: compute(self.model(about))}
        found: Result = computed[key]
        return found

    def pieces(self, about: "pd.Series[Any]", text: str) -> list[Piece]:
        tokenizer = self.model(about).tokenizer
        return [
            Piece(token_id, tokenizer.decode([token_id]))
            for token_id in tokenizer.encode(text, add_special_tokens=False)
        ]

    def terms(self, about: "pd.Series[Any]", tokens: Sequence[int], direction: Direction) -> Terms:
        return self._once(about, tokens, direction.key, lambda model: toward(model, tokens, direction))

    def likeliest(self, about: "pd.Series[Any]", tokens: Sequence[int], k: int) -> pd.DataFrame:
        ids, logits, probabilities = likeliest(self.model(about), tokens, k)
        return pd.DataFrame(
            {"token_id": ids.tolist(), "logit": logits.tolist(), "probability": probabilities.tolist()}
        )

    def lens(self, about: "pd.Series[Any]", tokens: Sequence[int], last: int, k: int) -> LensTop:
        return lens(self.model(about), tokens, last, k)

    def patterns(
        self, about: "pd.Series[Any]", tokens: Sequence[int], last: int, next_ids: Sequence[int | None]
    ) -> Patterns:
        return patterns(self.model(about), tokens, last, next_ids)

    def ablate(
        self,
        about: "pd.Series[Any]",
        tokens: Sequence[int],
        ablations: Sequence[Ablation],
        direction: Direction,
    ) -> list[Outcome]:
        return ablate(self.model(about), tokens, ablations, direction)

    def head_score(
        self, about: "pd.Series[Any]", tokens: Sequence[int], layer: int, head: int, source: int | None
    ) -> HeadScore:
        place = (layer, head, source)
        return self._once(about, tokens, place, lambda model: head_score(model, tokens, *place))

    def moved(
        self, about: "pd.Series[Any]", tokens: Sequence[int], layer: int, head: int, source: int | None,
        direction: Direction,
    ) -> Moved:  # fmt: skip
        return moved(self.model(about), tokens, layer, head, source, direction)

    def patch(
        self,
        about: "pd.Series[Any]",
        clean: Sequence[int],
        corrupted: Sequence[int],
        direction: Direction,
        patching: Patching,
    ) -> list[Patched]:
        return patch(self.model(about), clean, corrupted, direction, patching)

    def unit_values(
        self,
        about: "pd.Series[Any]",
        tokens: Sequence[int],
        places: Sequence[int],
        next_ids: Sequence[int | None],
    ) -> dict[str, NDArray[np.float32]]:
        return unit_values(self.model(about), tokens, places, next_ids)

    def prompt(self, about: "pd.Series[Any]", text: str) -> Path:
        return self._prompts.annotated(text, about)
