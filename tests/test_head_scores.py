"""Attention scores as sums over pairs of components, against Hugging Face's attention probabilities."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from annotate_transformer import ingest, store
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.weights.head_scores import head_score
from annotate_transformer.store.running import Component
from asking import Asking
from families import FAMILIES, LAYERS, in_float64, tiny
from models import annotated, token_ids
from planted import INDUCTION_HEAD, N_TOKENS, PREVIOUS_HEAD, induction, planted

IDS = token_ids("The Congress of the United States met in the city of")[:9]


@pytest.mark.some(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_hugging_faces_and_terms_sum_to_them(family: str, tmp_path: Path) -> None:
    """Hugging Face computes the angles of rotary embeddings in float32, hence the tolerance of 1e-6."""
    from transformers import AutoModelForCausalLM

    with in_float64():
        folder = tiny(family, tmp_path / family)
        hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
        with torch.no_grad():
            attentions = hf.eval()(torch.tensor([IDS]), output_attentions=True).attentions
        model = Model(resolve(str(folder)), dtype=torch.float64)
        for layer in range(LAYERS):
            for head in range(model.n_heads):
                attention = attentions[layer][0, head, -1]
                source = int(attention.argmax()) if head % 2 else len(IDS) - 2
                found = head_score(model, IDS, layer, head, source)
                assert abs(found.closure) < 1e-9
                capped = torch.from_numpy(found.scores)
                capped = capped if found.cap is None else found.cap * (capped / found.cap).tanh()
                seen = attention > 0  # a sliding window hides earlier tokens
                expected = torch.where(seen, capped, -torch.inf).softmax(0)
                torch.testing.assert_close(attention, expected, atol=1e-6, rtol=0)
                assert found.score == found.scores[source]
    assert len(found.queries) == len(found.keys) == found.pairs.shape[0]


def test_the_planted_pair_comes_first(tmp_path: Path) -> None:
    """Induction: the token here (query) matches what the previous-token head wrote at the source (key)."""
    model = Model(resolve(str(planted(tmp_path / "planted", induction))), dtype=torch.float64)
    order = torch.randperm(N_TOKENS, generator=torch.Generator().manual_seed(5)).tolist()
    found = head_score(model, [*order[:10], order[3]], *INDUCTION_HEAD, None)
    assert found.source == 4
    query, key = np.unravel_index(np.abs(found.pairs).argmax(), found.pairs.shape)
    assert found.queries[query] == Component("embed")
    assert found.keys[key] == Component("head", *PREVIOUS_HEAD)
    assert found.pairs[query, key] > 0.9 * found.score


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = ["The Congress of the United States met. The Congress of the United States met again."]
    folder = tmp_path_factory.mktemp("scores") / "made"
    return Path(annotated(texts, Model(resolve("neox-2m")), folder, bos=True, context=14, stride=7).path)


def test_scores_of_a_stored_position(path: Path) -> None:
    s = ingest.open(path)
    for number in (5, 9, 15):
        pairs = s.head_inputs(number, "L3H2")
        score, source = pairs.attrs["score"], pairs.attrs["source_position_id"]
        assert pairs.value.sum() == pytest.approx(score, abs=1e-4)
        assert pairs.value.abs().is_monotonic_decreasing
        for by in ("query", "key"):
            sums = pairs.groupby([f"{by}_component", f"{by}_layer", f"{by}_head"], dropna=False).value.sum()
            found = s.head_inputs(number, "L3H2", by=by)
            assert sorted(found.value) == pytest.approx(sorted(sums), abs=1e-4)
        sources = s.head_inputs(number, "L3H2", by="source")
        stored = s.decomposition(number, "source")
        stored = stored[(stored.layer == 3) & (stored["head"] == 2)].set_index("source_position_id")
        read = sources.set_index("position_id")
        assert read.attention[stored.index].tolist() == pytest.approx(stored.attention.tolist(), abs=1e-3)
        assert (sources.position_id[0], sources.score[0]) == (source, pytest.approx(score))
        first = int(sources.position_id.iloc[-1])
        other = s.head_inputs(number, "L3H2", source=first)
        assert other.attrs["score"] == pytest.approx(sources.score.iloc[-1], abs=1e-5)
    with pytest.raises(store.NoSuchPosition, match="not in the window"):
        s.head_inputs(5, "L3H2", source=9)
    with pytest.raises(store.NoSuchUnit, match="no head L9H0"):
        s.head_inputs(5, "L9H0")


def test_the_command(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Asking(capsys, monkeypatch, path)
    said = ask("inputs", 9, "L3H2", "--limit", 3)
    assert said.status == 0, said.err
    assert "Its score before the softmax is" in said.out and "Sources that compete in the softmax" in said.out
    told = json.loads(ask("inputs", 9, "L3H2", "--source", 8, "--json").out)
    assert {*told} >= {"pair", "query", "key", "source"}
    refused = ask("inputs", 9, "L3N7", "--source", 8)
    assert refused.status == 2 and "--source is for a head" in refused.err
