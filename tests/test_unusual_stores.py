"""A valid store passes every check of verify, whatever its text, its model and its settings are."""

import itertools
import json
from functools import partial
from pathlib import Path

import duckdb
import pytest
import torch
from transformers import GPTNeoXForCausalLM

import small
from annotate_transformer import store
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.weights.tables import annotate_weights
from annotate_transformer.store.export import export_run

TEXTS = {
    "a word again and again": [
        "the the the the the the the the the the the the the the the the the the the the"
    ],
    "one token": ["a"],
    "equal documents": ["The city council met."] * 9,
    "no ASCII": ["Αθήνα é é 東京 🜁🜂 \u0301\u0302 x", "\u200b\ufeff", "e\u0301e\u0301e\u0301"],
    "special tokens": ["<|endoftext|> one <|endoftext|><|endoftext|>", "<|endoftext|>", "two <|endoftext|>"],
    "long": [small.text(40, 7)],
}
SETTINGS = {
    "default": Settings(context=16, batch_tokens=16, shard_tokens=20, top=3, samples=7),
    "everything": Settings(
        context=16, batch_tokens=32, keep_neurons=None, keep_sources=None, lens=True, top=2
    ),
    "strides": Settings(context=9, stride=1, bos=True, parse_special=True, special_in_lists=True, top=500),
    "nothing": Settings(context=16, keep_neurons=0, keep_sources=0, samples=0, first_in_lists=True),
    "limited": Settings(context=16, limit_tokens=11, shard_tokens=1, lens=True),
}
ZERO = 2  # index of the model whose weights are 0
CASES = list(itertools.product(TEXTS, SETTINGS))


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """The tiny model, one with weights of which some are huge, and one whose weights are all 0."""
    made = {"tiny": Model(resolve(str(tiny_model)))}
    for name, factor in (("huge", 30.0), ("zero", 0.0)):
        folder = small.model(tmp_path_factory.mktemp(name) / name)
        model = GPTNeoXForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            for weight in model.gpt_neox.layers.parameters():
                weight.mul_(factor)
        model.save_pretrained(folder)
        made[name] = Model(resolve(str(folder)))
    return made


@pytest.mark.some(16)
@pytest.mark.parametrize(("text", "settings"), CASES)
def test_verify_finds_nothing(text: str, settings: str, models: dict[str, Model], tmp_path: Path) -> None:
    """Two runs of different models, of which the second is stopped and resumed; then its export."""
    number = CASES.index((text, settings))
    first, second = [*models.values()][number % 3], [*models.values()][(number + 1) % 3]
    corpus, db = tmp_path / "a.jsonl", tmp_path / "x.duckdb"
    corpus.write_text("".join(json.dumps({"text": part}) + "\n" for part in TEXTS[text]))
    for model, stops in ((first, []), (second, [False, True]), (second, [])):
        with Corpus([str(corpus)]) as documents:
            stop = partial(next, iter(stops), False)
            ingest(documents, model, str(db), SETTINGS[settings], stop=stop)
    if number % 3 != ZERO - 1:  # heads whose weights are 0 have no composition
        annotate_weights(second, str(db), top=3)
    assert wrong(db) == {}
    with store.open(db) as s:
        run = s.run()
    export_run(db, run, tmp_path / "exported", "store")
    again = tmp_path / "again.duckdb"
    with duckdb.connect(str(again)) as con:
        con.execute(f"IMPORT DATABASE '{tmp_path}/exported'")
    assert wrong(again) == {}


def wrong(db: Path) -> dict[str, list[str]]:
    return {finding.check: finding.examples for finding in store.verify(db) if finding.broken}
