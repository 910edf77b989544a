"""Annotate a prompt with a run's model, into a temporary store; the run's own store is only read."""

import atexit
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, mkdtemp
from threading import Lock
from typing import Any

import pandas as pd

from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.store.errors import BadQuestion

KEPT = 8  # maximum number of prompts in the cache
KEPT_SETTINGS = ("bos", "parse_special")  # settings of a run that also hold for prompts to its model
ROWS = 10_000_000  # maximum number of rows stored for a prompt: one per neuron or source, of 200 bytes each


def revision(about: "pd.Series[Any]") -> str | None:
    """Return the revision of a run's model, or None; a model in a folder has no revision."""
    return about.revision if isinstance(about.revision, str) else None


def load(name: str, revision: str | None) -> Model:
    """Load a run's model by its name and revision.

    Raises:
        ModelError: the model no longer exists, or cannot be reached.
    """
    return Model(resolve(name, revision))


def check_weights(model: Model, about: "pd.Series[Any]") -> None:
    """Raise ModelError unless the model has the weights with which a run was made."""
    if model.weights_sha256 != about.weights_sha256:
        raise ModelError(
            f"{model.checkpoint.name} has other weights now than when run {about.run_id} was made with it: "
            "restore the run's model, or ingest with the new one."
        )


def annotated(prompt: str, about: "pd.Series[Any]", model: Model, folder: Path) -> Path:
    """Annotate a prompt with the run's model into a new store in `folder`; return the path of this store.

    The run's settings for special tokens are used. The store has one run, with run_id 1, and its position_ids
    count from 0. Every neuron and source is stored; if that would take more than ROWS rows, only as many are
    stored as an ingest stores by default.

    Raises:
        BadQuestion: the prompt has no token, or more tokens than the model's context.
        ModelError: the model of this name has other weights than the model with which the run was made.
    """
    check_weights(model, about)
    bos, parse_special = (_setting(about, name) for name in KEPT_SETTINGS)
    counted = Tokenizer(model.tokenizer, parse_special=parse_special).count_special(prompt)
    tokens, bos_before = counted.tokens, bos and not counted.begins_with_bos
    if not tokens:
        raise BadQuestion("The prompt is empty: give it a few words.")
    if tokens + bos_before > model.n_ctx:
        most = model.n_ctx - bos_before
        raise BadQuestion(f"The prompt has {tokens:,} tokens; {about.model} reads at most {most:,} at once.")
    (folder / "prompt.jsonl").write_text(json.dumps({"text": prompt}), encoding="utf-8")
    settings = Settings(
        context=model.n_ctx, bos=bos, parse_special=parse_special, top=1, samples=0, lens=True
    )
    if tokens * model.n_layers * (model.d_mlp + model.n_heads * tokens / 2) <= ROWS:
        settings = replace(settings, keep_neurons=model.d_mlp, keep_sources=None)
    with Corpus([str(folder / "prompt.jsonl")]) as corpus:
        ingest(corpus, model, str(folder / "prompt.duckdb"), settings)
    return folder / "prompt.duckdb"


class Prompts:
    """A cache of the stores of the most recent prompts. It annotates one prompt at a time."""

    def __init__(self, load: Callable[[str, str | None], Model] = load) -> None:
        self._load, self._lock = load, Lock()
        self._kept: OrderedDict[tuple[Any, ...], Path] = OrderedDict()
        folder = TemporaryDirectory(prefix="annotate-prompts-")
        atexit.register(folder.cleanup)
        self._folder = folder.name

    def annotated(self, prompt: str, about: "pd.Series[Any]") -> Path:
        """Return the path of the prompt's store; if it is not cached, call `annotated` to make it."""
        settings = (_setting(about, name) for name in KEPT_SETTINGS)
        key = (prompt, about.model, revision(about), *settings)
        with self._lock:
            if key not in self._kept:
                model = self._load(about.model, revision(about))
                self._kept[key] = annotated(prompt, about, model, Path(mkdtemp(dir=self._folder)))
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                rmtree(self._kept.popitem(last=False)[1].parent)
            return self._kept[key]


def _setting(about: "pd.Series[Any]", name: str) -> bool:
    return bool(json.loads(about.settings).get(name))
