"""Terms sum to the logit within what rounding explains, whatever the sizes; `verify` finds nothing wrong.

Each model is a real GPT-NeoX with some weights changed, so that terms, activations or norms are of
unusual size; each text repeats itself, is very short or ordinary.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch

import small
from annotate_transformer import store
from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.store.closure import closure_bound
from annotate_transformer.store.queries import schema
from answers import sql
from models import TOKENIZER, annotated

TEXT = small.text(12, seed=3)
SETTINGS: dict[str, Any] = {"context": 16, "top": 5, "samples": 20, "keep_neurons": 2, "keep_sources": 4}


def layers(model: Any) -> Any:
    return model.gpt_neox.layers


def large_logits(model: Any) -> None:
    """Logits in the thousands."""
    model.lm_head.weight.mul_(1000)


def large_activations(model: Any) -> None:
    """Activations far above 2^13, where float32's step exceeds a thousandth."""
    for block in layers(model):
        block.mlp.dense_h_to_4h.weight.mul_(3e4)


def activations_above_256(model: Any) -> None:
    for block in layers(model):
        block.mlp.dense_h_to_4h.weight.mul_(400)


def neurons_that_cancel(model: Any) -> None:
    """Half of the neurons undo what the other half writes, but for a thousandth."""
    for block in layers(model):
        read, write = block.mlp.dense_h_to_4h, block.mlp.dense_4h_to_h
        half = len(read.bias) // 2
        read.weight[half:], read.bias[half:] = read.weight[:half], read.bias[:half]
        write.weight[:, half:] = -1.001 * write.weight[:, :half]
        write.weight.mul_(1000)


def massive_bias(model: Any) -> None:
    layers(model)[0].mlp.dense_4h_to_h.bias[5] = 3000.0


def massive_bias_undone(model: Any) -> None:
    """What the first layer writes, the last one takes away: massive terms, ordinary logits."""
    layers(model)[0].mlp.dense_4h_to_h.bias[5] = 30_000.0
    layers(model)[-1].mlp.dense_4h_to_h.bias[5] = -30_000.0


def heads_that_cancel(model: Any) -> None:
    """The second head writes about the opposite of the first."""
    for block in layers(model):
        write = block.attention.dense.weight
        write[:, 8:] = -1.001 * write[:, :8]
        write.mul_(1000)


def small_norms(model: Any) -> None:
    """Everything written is tiny: LayerNorm's ε takes part in σ."""
    model.gpt_neox.embed_in.weight.mul_(1e-4)
    for block in layers(model):
        for layer in (block.mlp.dense_4h_to_h, block.attention.dense):
            layer.weight.mul_(1e-4)
            layer.bias.mul_(1e-4)


def huge_embedding(model: Any) -> None:
    model.gpt_neox.embed_in.weight.mul_(1e5)


def flat_logits(model: Any) -> None:
    """All tokens are about equally likely."""
    model.lm_head.weight.mul_(1e-4)


def nothing(model: Any) -> None:
    """Leave the weights as they were drawn."""


CHANGES: list[Callable[[Any], None]] = [
    nothing, large_logits, large_activations, activations_above_256, neurons_that_cancel, massive_bias,
    massive_bias_undone, heads_that_cancel, small_norms, huge_embedding, flat_logits,
]  # fmt: skip


def changed(change: Callable[[Any], None], folder: Path, tiny_model: Path) -> Path:
    """A folder with the tiny model after `change`."""
    from transformers import GPTNeoXForCausalLM

    model = GPTNeoXForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)
    for file in TOKENIZER.parent.glob("tokenizer*.json"):
        shutil.copy(file, folder)
    return folder


def assert_sound(s: store.Store) -> None:
    """Nothing is reported, and the stored terms' own sum keeps the bound."""
    assert [(f.check, f.examples) for f in store.verify(s.path) if f.broken] == []
    [(ratio,)] = sql(s.path, "SELECT worst_closure_ratio FROM runs")
    assert 0 < ratio <= 1
    rows = s.sql(
        """SELECT p.position_id, any_value(p.top_logit) AS logit, count(*) AS n,
                  sum(c.toward_top::DOUBLE) AS total, sum(abs(c.toward_top::DOUBLE)) AS size
           FROM positions p JOIN contributions c USING (run_id, position_id) GROUP BY p.position_id"""
    )
    inside = s.sql(  # terms within a layer that cancel add to the size, as do those of its remainder
        """SELECT position_id, sum(abs(toward_top::DOUBLE)) AS size FROM (
               SELECT position_id, toward_top FROM heads
               UNION ALL SELECT position_id, toward_top FROM neurons
               UNION ALL SELECT position_id, toward_top FROM contribution_details) GROUP BY position_id"""
    )
    size = rows.merge(inside, on="position_id")
    bound = closure_bound(int(rows.n.max()), (size.size_x + size.size_y).to_numpy())
    assert (np.abs(rows.total - rows.logit).to_numpy() <= bound).all()


@pytest.mark.some(3)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_terms_of_any_size_close(change: Callable[[Any], None], tiny_model: Path, tmp_path: Path) -> None:
    model = Model(resolve(str(changed(change, tmp_path / "model", tiny_model))))
    assert_sound(annotated([TEXT], model, tmp_path / "store", lens=True, **SETTINGS))


@pytest.mark.parametrize("keep", [None, 32], ids=["coded", "each neuron in a row"])
def test_all_neurons_close(keep: int | None, tiny_model: Path, tmp_path: Path) -> None:
    model = Model(resolve(str(changed(neurons_that_cancel, tmp_path / "model", tiny_model))))
    settings = SETTINGS | {"keep_neurons": keep, "keep_sources": None}
    assert_sound(annotated([TEXT], model, tmp_path / "store", **settings))


TEXTS = {
    "one word again and again": "word " * 200,
    "two tokens in turn": "ab" * 200,
    "one character": "a",
    "spaces": " " * 300,
    "no spaces": "x" * 300,
    "many scripts": "naïve 漢字 😀 " * 20,
}


def test_texts_of_any_kind_close(tiny_model: Path, tmp_path: Path) -> None:
    model = Model(resolve(str(tiny_model)))
    assert_sound(annotated(TEXTS, model, tmp_path / "store", **SETTINGS | {"context": 64}))


def test_a_word_again_and_again_closes_in_the_embedded_model(tmp_path: Path) -> None:
    settings = {"samples": 20, "top": 5, "limit_tokens": 1500}
    assert_sound(annotated(["word " * 1500], Model(resolve("neox-2m")), tmp_path / "store", **settings))


def test_float64_closes(tiny_model: Path, tmp_path: Path) -> None:
    model = Model(resolve(str(changed(large_logits, tmp_path / "model", tiny_model))), dtype=torch.float64)
    assert_sound(annotated([TEXT], model, tmp_path / "store", **SETTINGS))


def test_the_inputs_of_large_neurons_close(tiny_model: Path, tmp_path: Path) -> None:
    from annotate_transformer.ingest.next_token.prompts import annotate_inputs

    model = Model(resolve(str(changed(large_activations, tmp_path / "model", tiny_model))))
    s = annotated([TEXT], model, tmp_path / "store", **SETTINGS)
    annotate_inputs(model, str(s.path), 1, 40, (1, 7))
    assert_sound(s)


def test_a_model_whose_terms_do_not_make_up_its_logit_is_refused(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one would be that scales its embedding, if the decomposition did not know of it."""
    model = Model(resolve(str(tiny_model)))
    monkeypatch.setattr(Model, "embedding", lambda self, ids, positions: {"embed": 1.01 * self.W_E[ids]})
    with pytest.raises(ModelError, match=r"times what rounding explains") as refused:
        annotated([TEXT], model, tmp_path / "store", **SETTINGS)
    assert "--dtype float64" in str(refused.value)
    assert not (tmp_path / "store" / "store.duckdb").exists()


def test_the_bound_is_the_macros() -> None:
    terms, size = 14, np.array([0.0, 1.0, 31.5, 2e4])
    with duckdb.connect() as con:
        con.execute(schema())
        rows = con.execute("SELECT closure_bound($1, unnest($2))", [terms, size.tolist()]).fetchnumpy()
    np.testing.assert_allclose(closure_bound(terms, size), next(iter(rows.values())), rtol=1e-15)
    assert closure_bound(10, 13.0) == 1e-4 < closure_bound(10, 13.1), "docs/concepts.md says up to which size"


@pytest.fixture(scope="module")
def of_large_logits(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    model = Model(resolve(str(changed(large_logits, folder / "model", tiny_model))))
    with annotated([TEXT], model, folder / "store", **SETTINGS) as s:
        return Path(s.path)


@pytest.mark.parametrize(
    ("table", "column", "amount", "check"),
    [
        ("position", "embed_top", "base.units(0.1)", "closure"),
        ("contribution", "mlp_top", "base.units(0.1)", "closure"),
        ("head", "toward_top", "base.units(5)", "heads add up"),
        ("neuron", "toward_top", "5", "neurons add up"),
    ],
)
def test_a_change_beyond_the_rounding_is_still_found(
    table: str, column: str, amount: str, check: str, of_large_logits: Path, tmp_path: Path
) -> None:
    """With logits in the thousands a tenth of a logit is still found in the sums of stored terms."""
    copy = shutil.copy(of_large_logits, tmp_path)
    with duckdb.connect(str(copy)) as con:
        con.execute(
            f"UPDATE base.{table} SET {column} = {column} + {amount} "
            f"WHERE rowid = (SELECT min(rowid) FROM base.{table} WHERE position_id = 40)"
        )
    assert check in [found.check for found in store.verify(copy) if found.broken]
