"""What a head moves, by the components at the source, against Hugging Face's own modules."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from annotate_transformer import ingest, store
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.weights.moved import moved
from annotate_transformer.store.running import Direction
from asking import Asking
from families import Intervened, in_float64, tiny
from models import annotated, token_ids

IDS = token_ids("The Congress of the United States met in the city of")[:9]
LAYER, HEAD, SOURCE, TARGET = 2, 1, 4, 77


def values_of(family: str, read: Intervened, model: Model, normed: Tensor) -> Tensor:
    """The head's value of a normalised vector, by Hugging Face's weights and without a bias."""
    if family == "gpt_neox":
        fused = read.module(LAYER, "attention.query_key_value").weight
        weight = fused.view(model.n_heads, 3, model.d_head, -1)[HEAD, 2]
    else:
        group = HEAD // (model.n_heads // model.n_kv_heads)
        rows = slice(group * model.d_head, (group + 1) * model.d_head)
        weight = read.module(LAYER, "self_attn.v_proj").weight[rows]
    return normed @ weight.T


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "qwen3"])
def test_paths_through_a_head_are_those_of_hugging_face(family: str, tmp_path: Path) -> None:
    with in_float64():
        folder = tiny(family, tmp_path / family)
        read = Intervened(family, folder, IDS)
        read.model.config.output_attentions = True
        with torch.no_grad():
            attention = read.model(read.ids[None], output_attentions=True).attentions[LAYER][
                0, HEAD, -1, SOURCE
            ]
        model = Model(resolve(str(folder)), dtype=torch.float64)
        found = moved(model, IDS, LAYER, HEAD, SOURCE, Direction((TARGET,)))
        norm = read.module(LAYER, read.names.norm)
        sigma = read.scale(norm, read.input_of(LAYER)[SOURCE])
        W_O, _ = read.writing(read.module(LAYER, read.names.attention))
        rows = slice(HEAD * model.d_head, (HEAD + 1) * model.d_head)

        def effect(written: Tensor) -> float:
            centred = written - written.mean() if read.is_layer_norm else written
            z = attention * values_of(family, read, model, centred * read.multiplier(norm) / sigma)
            everywhere = (z @ W_O[rows]).expand(len(IDS), -1)
            return float(read.toward(everywhere, torch.full((len(IDS),), TARGET))[-1])

        written = read.written(model.n_heads)
        for name, value in zip(found.components, found.values, strict=True):
            vectors = (
                written["embed"]
                if name.layer is None
                else written[
                    f"heads {name.layer}" if name.head is not None else f"{name.component} {name.layer}"
                ]
            )
            vector = vectors[name.head, SOURCE] if name.head is not None else vectors[SOURCE]
            assert value == pytest.approx(effect(vector), abs=1e-9), name
        for layer, neuron in ((0, 3), (1, 17)):
            assert found.neurons[layer, neuron] == pytest.approx(
                effect(written[f"neurons {layer}"][neuron, SOURCE]), abs=1e-9
            )
    assert found.attention == pytest.approx(float(attention), abs=1e-6)
    assert abs(found.closure) < 1e-9


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = ["The Congress of the United States met. The Congress of the United States met again."]
    folder = tmp_path_factory.mktemp("moved") / "made"
    return Path(annotated(texts, Model(resolve("neox-2m")), folder, keep_sources=None).path)


def test_what_is_moved_sums_to_the_stored_source(path: Path) -> None:
    s = ingest.open(path)
    for number in (9, 14):
        found = s.moved(number, "L3H2", toward="next")
        stored = s.decomposition(number, "source")
        of_head = stored[(stored.layer == 3) & (stored["head"] == 2)].set_index("source_position_id")
        at = found.attrs["source_position_id"]
        assert found.effect.sum() == pytest.approx(found.attrs["term"], abs=1e-5)
        assert found.attrs["term"] == pytest.approx(of_head.toward_next[at], abs=1e-3)
        assert {*found.component} >= {"embed", "head", "neuron", "attn_bias", "mlp_bias"}
        assert len(found[found.component == "neuron"]) == 3 * 512
    with pytest.raises(store.NoSuchPosition, match="not in the window"):
        s.moved(5, "L3H2", source=9)


def test_the_command(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Asking(capsys, monkeypatch, path)
    said = ask("moved", 9, "L3H2", "--toward", " the", "--minus", " a", "--limit", 3)
    assert said.status == 0, said.err
    assert 'logits of logit(" the") - logit(" a") from position' in said.out
    told = json.loads(ask("moved", 9, "L3H2", "--source", 3, "--json").out)
    assert told["moved"]["exact"]
    assert ask("moved", 9, "L3N7").status == 2
