"""The benchmark of total effects: its ablation is Hugging Face's, its correlation is SciPy's."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray
from torch import Tensor

from annotate_transformer.ingest.corpus.windows import Batch, Window
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from benchmarks.total_effect import Effects, ablation_effects, agreement, correlation, resampled
from models import N_TOKENS, random_model, token_ids
from reference import Reference

CLOSE = 1e-9  # logits, in float64


def batch_of(*windows: list[int]) -> Batch:
    """Windows of one document each, with positions numbered one after another."""
    made, position = [], 0
    for number, ids in enumerate(windows):
        n = len(ids)
        places = np.arange(position, position + n)
        nowhere, stored = np.full(n, -1), np.ones(n, np.bool_)
        made.append(Window(number, number, False, np.array(ids), places, nowhere, nowhere, stored))
        position += n
    return Batch.of(made)


@contextmanager
def zeroed(reference: Reference, layer: int, head: int) -> Iterator[None]:
    """Hugging Face's model with the head's slice set to 0 where `attention.dense` reads it.

    The value of a head is W_V (x̂ ∘ γ + β) + b_V. The part W_V β + b_V is the same everywhere and belongs to
    the layer's attention bias, not to the head, so it stays in the slice.
    """
    block, heads = reference.model.gpt_neox.layers[layer], reference.n_heads
    qkv = block.attention.query_key_value
    W_V = qkv.weight.view(heads, 3, -1, qkv.in_features)[head, 2]
    constant = W_V @ block.input_layernorm.bias + qkv.bias.view(heads, 3, -1)[head, 2]

    def without(module: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        z = inputs[0].clone().view(*inputs[0].shape[:2], heads, -1)
        z[:, :, head] = constant
        return (z.view(inputs[0].shape),)

    hook = block.attention.dense.register_forward_pre_hook(without)
    try:
        yield
    finally:
        hook.remove()


@torch.inference_mode()
def centred(reference: Reference, ids: list[int]) -> Tensor:
    """The next tokens' centred logits, at every position that has a next token."""
    logits = reference.model(torch.tensor([ids]), use_cache=False).logits[0]
    logits = logits - logits.mean(-1, keepdim=True)
    return logits[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_the_ablation_is_hugging_faces(tmp_path: Path) -> None:
    """Every weight, bias and LayerNorm is drawn at random; one window is padded."""
    folder = random_model("pythia-14m", tmp_path / "model")
    model, reference = Model(resolve(str(folder)), dtype=torch.float64), Reference(folder, N_TOKENS)
    windows = [token_ids("The Congress met in the city; the Congress met again."), token_ids("naïve 漢字")]
    positions, effects = ablation_effects(model, batch_of(*windows))
    assert effects.shape == (len(positions), model.n_layers, model.n_heads)
    ends = np.cumsum([len(ids) for ids in windows]) - 1
    assert positions.tolist() == [i for i in range(ends[-1]) if i not in ends], "the last ones have no next"
    whole = torch.cat([centred(reference, ids) for ids in windows])
    for layer, head in ((0, 0), (1, 3), (5, 2)):
        with zeroed(reference, layer, head):
            lowered = whole - torch.cat([centred(reference, ids) for ids in windows])
        assert lowered.abs().max() > 1e-3, "the head has an effect"
        assert (effects[:, layer, head] - lowered).abs().max() < CLOSE


def effects_of(documents: NDArray[np.int64]) -> Effects:
    """Two layers of three heads; the ablation effect is partly the direct effect."""
    draw = np.random.default_rng(3)
    direct = draw.normal(size=(len(documents), 2, 3)) + 0.5
    return Effects(direct, direct + 2 * draw.normal(size=direct.shape), documents)


def test_the_statistics_are_those_of_the_drawn_documents() -> None:
    """A document that a resample draws twice counts twice."""
    documents = np.array([7, 7, 7, 9, 9, 12, 12, 12, 12])
    effects, drawn = effects_of(documents), np.array([[1.0, 1, 1], [2, 0, 1]])
    for row, index in enumerate((np.arange(9), np.array([0, 1, 2, 0, 1, 2, 5, 6, 7, 8]))):
        of = Effects(effects.direct[index], effects.ablation[index], documents[index])
        for layer in range(2):
            expected = scipy.stats.pearsonr(of.direct[:, layer].ravel(), of.ablation[:, layer].ravel())
            assert correlation(effects, layer, drawn)[row] == pytest.approx(expected.statistic)
        direct, ablation = of.tops()
        assert agreement(effects, drawn)[row] == pytest.approx((direct == ablation).mean())


def test_resamples_draw_as_many_documents_as_there_are() -> None:
    weights = resampled(5)
    assert (weights[0] == 1).all(), "the first row is the sample itself"
    assert (weights.sum(1) == 5).all()
    assert weights[1:].mean(0) == pytest.approx(1, abs=0.05)
    assert (weights == resampled(5)).all(), "and the draw is seeded"
