"""Every family's terms are those that plain hooks on Hugging Face's own model read (tests/families.py)."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import annotate_transformer.ingest.attribution.selection as product
from annotate_transformer.ingest.attribution.decompose import Decomposition, decompose
from annotate_transformer.ingest.attribution.selection import Keep
from annotate_transformer.ingest.attribution.summaries import Thresholds
from annotate_transformer.ingest.corpus.windows import Batch, Window
from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models import model as model_file
from annotate_transformer.ingest.models.families import FAMILIES as SUPPORTED
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.next_token.inputs import neuron_inputs
from annotate_transformer.ingest.weights.circuits import qk_circuit
from families import CONTEXT, FAMILIES, LAYERS, OTHERS, Read, in_float64, tiny
from models import annotated, token_ids
from processes import annotate

TEXT = "The Congress of the United States met in the city; the Congress of the United States met again."
IDS = token_ids(TEXT)[:CONTEXT]
EXACT = 1e-9
WHOLE = ("gpt_neox", "gpt2", "llama", "qwen3", "gemma2")  # the families that are tested in every respect
each = pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
whole = pytest.mark.parametrize("family", WHOLE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


def made(family: str, folder: Path) -> Path:
    return folder / family if (folder / family).exists() else tiny(family, folder / family)


def decomposed(model: Model, *windows: list[int]) -> Decomposition:
    """All terms, not rounded; several windows are one batch, the shorter ones padded."""
    batch = Batch.of([window_of(ids, number) for number, ids in enumerate(windows)])
    thresholds = Thresholds(
        torch.full((3, model.n_layers, model.d_mlp), torch.inf),
        torch.full((2, model.n_layers, model.n_heads), torch.inf),
        k=1,
    )
    everything = np.ones(int(batch.stored.sum()), dtype=bool)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(product, "EFFECT_DECIMALS", 14)
        return decompose(model, batch, Keep(None, None), thresholds, everything)


def window_of(ids: list[int], number: int) -> Window:
    n = len(ids)
    return Window(
        window=number,
        document=0,
        context_cut=False,
        ids=np.array(ids),
        positions=np.arange(n) + 100 * number,
        starts=np.zeros(n, np.int64),
        ends=np.zeros(n, np.int64),
        stored=np.ones(n, dtype=bool),
    )


def gaps(result: Decomposition, read: Read, side: int, targets: Tensor) -> dict[str, float]:
    """How far each term is from Hugging Face's."""
    heads = result.layers[0].heads.shape[-1]
    expected = {name: read.toward(x, targets) for name, x in read.written(heads).items()}
    found = {name: effects[side] for name, effects in result.embedding.items()}
    for i, layer in enumerate(result.layers):
        found[f"heads {i}"] = layer.heads[side].T
        found[f"attn_bias {i}"] = layer.attn_bias[side]
        neurons = torch.zeros_like(expected[f"neurons {i}"])
        neurons[layer.neurons.neuron, layer.neurons.at] = layer.neurons.effects[side]
        found[f"neurons {i}"] = neurons
        found[f"mlp_bias {i}"] = layer.mlp_bias[side]
    assert found.keys() == expected.keys()
    found["final_bias"], expected["final_bias"] = result.final_bias[side], read.final_bias(targets)
    raw, at = read.raw_logits, torch.arange(len(targets))
    found["raw logit"] = result.logit[side] + result.logit_offset
    expected["raw logit"] = raw[at, targets]
    found["sum"], expected["sum"] = result.total[side], raw[at, targets] - raw.mean(-1)
    logprob = (result.prediction.next_logprob, result.prediction.top_logprob)[side]
    found["logprob"] = logprob
    expected["logprob"] = read.seen["logits"].log_softmax(-1)[at, targets]
    sources = torch.zeros(LAYERS, heads, len(targets), dtype=result.sources.effects.dtype)
    s = result.sources
    sources.index_put_((s.layer, s.head, s.at), s.effects[side], accumulate=True)
    found["sources"] = sources
    expected["sources"] = torch.stack([expected[f"heads {i}"] for i in range(LAYERS)])
    return {name: float((found[name] - expected[name]).abs().max()) for name in found}


@each
def test_every_term_is_that_of_hugging_face(family: str, folder: Path) -> None:
    with in_float64():
        read = Read(family, made(family, folder), IDS)
        model = Model(resolve(str(folder / family)), dtype=torch.float64)
        result = decomposed(model, IDS)
        top = read.seen["logits"][:, : model.n_tokens].argmax(-1)
        assert result.prediction.top_id.tolist() == top.tolist()
        assert model.hf_difference < EXACT
        following = torch.tensor([*IDS[1:], int(top[-1])])
        worst = gaps(result, read, 1, top)
        to_next = gaps(result, read, 0, following)
        del to_next["logprob"]  # undefined at the last position
    assert {name: gap for name, gap in (worst | to_next).items() if gap > EXACT} == {}


@whole
def test_inputs_of_neurons_are_those_of_hugging_face(family: str, folder: Path) -> None:
    with in_float64():
        read = Read(family, made(family, folder), IDS)
        model = Model(resolve(str(folder / family)), dtype=torch.float64)
        for layer in range(LAYERS):
            inputs = neuron_inputs(model, layer, [3, 30], [IDS])
            pre = [read.seen[name, layer][-1, [3, 30]] for name in read.names.pre]
            assert (inputs.pre[0] - pre[0]).abs().max() < EXACT
            assert (inputs.values[0].sum(-1) - pre[0]).abs().max() < EXACT
            assert (inputs.post[0] - read.seen["post", layer][-1, [3, 30]]).abs().max() < EXACT
            assert model.is_gated == (len(pre) == 2)
            if inputs.linear_values is not None:
                assert (inputs.linear_values[0].sum(-1) - pre[1]).abs().max() < EXACT


@pytest.mark.parametrize("family", [name for name in FAMILIES if not FAMILIES[name].pos_embed])
def test_the_qk_circuit_of_layer_0_gives_the_models_own_scores(family: str, folder: Path) -> None:
    """Up to what softmax ignores: of two positions, the attention to the first one and to the second one.

    Hugging Face computes the angles of rotary embeddings in float32.
    """
    pair = IDS[3:5]
    with in_float64():
        model = Model(resolve(str(made(family, folder))), dtype=torch.float64)
        with torch.inference_mode():
            pattern = model.forward(torch.tensor([pair])).pattern[0][0]  # (head, position, source)
            destination = torch.tensor(pair[1:])
            for head in range(model.n_heads):
                to_first = qk_circuit(model, 0, head, destination, torch.tensor(pair[:1]), 1)
                to_itself = qk_circuit(model, 0, head, destination, destination, 0)
                expected = torch.cat([to_first, to_itself], dim=1).softmax(1)
                assert (pattern[head, 1] - expected[0]).abs().max() < 1e-6


@whole
def test_batches_and_padding_change_nothing(family: str, folder: Path) -> None:
    windows = [IDS, IDS[2:9], IDS[:1]]
    with in_float64():
        model = Model(resolve(str(made(family, folder))), dtype=torch.float64)
        together, alone = decomposed(model, *windows), [decomposed(model, ids) for ids in windows]
    for name in ("logit", "logit_offset", "scale", "final_bias", "total"):
        expected = torch.cat([getattr(part, name) for part in alone], -1)
        assert (getattr(together, name) - expected).abs().max() < EXACT, name


@whole
def test_stored_values_are_those_of_hugging_face(family: str, folder: Path, tmp_path: Path) -> None:
    """In float32, read back from the store: the sums close, and logit and offset give the raw logit."""
    read = Read(family, made(family, folder), IDS)
    model = Model(resolve(str(folder / family)))
    store = annotated([TEXT], model, tmp_path / "s", context=len(IDS), limit_tokens=len(IDS))
    found = store.sql("FROM positions ORDER BY position_id")
    raw, at = read.raw_logits, torch.arange(len(IDS))
    top = torch.tensor(found.top_token_id.to_numpy())
    logit = torch.tensor((found.top_logit + found.logit_offset).to_numpy(dtype=np.float64))
    assert (logit - raw[at, top]).abs().max() < 1e-4
    logprob = torch.tensor(found.top_logprob.to_numpy(dtype=np.float64))
    assert (logprob - read.seen["logits"].log_softmax(-1)[at, top]).abs().max() < 1e-4
    sums = store.sql(
        "SELECT sum(toward_top) AS total FROM contributions GROUP BY position_id ORDER BY position_id"
    )
    assert np.abs(sums.total - found.top_logit).max() < 1e-4
    has_pos = store.sql("SELECT count(*) AS n FROM contributions WHERE component = 'pos_embed'").n[0]
    assert has_pos == (len(IDS) if read.names.pos_embed else 0)
    run = store.sql("FROM runs").iloc[0]
    assert run.worst_closure_ratio < 1
    assert run.hf_difference < 1e-4
    about = store.sql("FROM models").iloc[0]
    assert (about.family, bool(about.is_gated)) == (family, model.is_gated)


def test_every_supported_family_is_tested_and_in_the_docs() -> None:
    assert {family.name for family in SUPPORTED} == set(FAMILIES)
    told = (Path(__file__).parent.parent / "docs" / "families.md").read_text(encoding="utf-8")
    assert [family.name for family in SUPPORTED if f"`{family.architecture}`" not in told] == []


def test_a_model_that_does_not_close_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that TransformerLens would process wrongly: here, without folding its norms."""
    monkeypatch.setitem(model_file.PROCESSING, "fold_ln", False)
    with pytest.raises(
        ModelError, match=r"differ by up to \d.* nats from Hugging Face's \(0\.0001 is allowed\)"
    ):
        Model(resolve(str(made("gpt2", folder))))


@pytest.mark.parametrize(("architecture", "words"), [
    ("olmo2", r"as Olmo2ForCausalLM .* log-probabilities .* differ by up to \d"),
    ("hunyuan_v1_dense", r"attention of heads in layer 0 differ by up to 0\.0\d+ .* \(1e-04 is allowed\)"),
])  # fmt: skip
def test_another_architecture_that_fails_a_check_is_refused(
    architecture: str, words: str, folder: Path
) -> None:
    with pytest.raises(ModelError, match=words):
        Model(resolve(str(made(architecture, folder))))


def test_a_command_names_an_architecture_without_a_class(folder: Path, tmp_path: Path) -> None:
    result = annotate("weights", "--model", made("smollm3", folder), "--db", "x.duckdb", folder=tmp_path)
    assert result.status == 0
    told = r"is SmolLM3ForCausalLM, which has no class of its own here; .* differ by at most \de-0\d nats"
    assert re.search(told, result.err), result.err


def test_the_form_of_the_rotary_embedding_is_found_by_layer(folder: Path) -> None:
    """Cohere 2 rotates neighbours in layers with a sliding window, and SmolLM3 leaves some layers out."""
    forms = {name: Model(resolve(str(made(name, folder)))).family.forms for name in ("cohere2", "smollm3")}
    assert forms["cohere2"] == ["neighbours", "none", "neighbours"]
    assert forms["smollm3"] == ["halves", "halves", "none"]


@pytest.mark.parametrize(("changed", "words"), [
    ({"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}, "experts"),
    ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, "encoder"),
    ({"architectures": ["MambaForCausalLM"], "model_type": "mamba"}, "state-space"),
    ({"architectures": ["HeliumForCausalLM"], "model_type": "helium"}, "HeliumForCausalLM, which cannot"),
    ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "BertForMaskedLM, which cannot"),
    ({"num_key_value_heads": 3}, "a divisor of the 4 heads"),
    ({"rms_norm_eps": -1}, "rms_norm_eps in its config.json is -1"),
])  # fmt: skip
def test_other_models_are_refused(
    changed: dict[str, object], words: str, folder: Path, tmp_path: Path
) -> None:
    copy = tiny("llama", tmp_path / "m")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(ModelError, match=words) as raised:
        Model(resolve(str(copy)))
    assert str(raised.value).endswith(".")


@pytest.mark.parametrize(("name", "words"), [
    ("gpt-2", "The nearest: gpt2, "),
    ("gemma-2-2b", "The nearest: google/gemma-2-2b, "),
    ("pythia-7m", "The nearest: pythia-70m, "),
])  # fmt: skip
def test_the_nearest_names_of_a_misspelt_one(name: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        resolve(name)


def test_gpt2_is_found_on_the_hub() -> None:
    assert [resolve(name).path for name in ("gpt2", "gpt2-xl")] == [
        "openai-community/gpt2",
        "openai-community/gpt2-xl",
    ]
