"""Terms toward any target: against plain hooks on Hugging Face's model, and against stored terms."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from annotate_transformer import ingest, store
from annotate_transformer.ingest.attribution.toward import likeliest, ranks, toward
from annotate_transformer.ingest.errors import ModelError, SettingsError
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.store.reader import Store
from annotate_transformer.store.running import Direction
from asking import Asking
from families import CONTEXT, LAYERS, Read, in_float64, tiny
from models import EMBEDDED_PATH, TEXTS, TOKENIZER, annotated, token_ids

TEXT = "The Congress of the United States met in the city; the Congress of the United States met again."
IDS = token_ids(TEXT)[:CONTEXT]
EXACT = 1e-9
FLOAT32 = 2e-5  # logits: terms computed twice in float32, in other batches


# Against Hugging Face ------------------------------------------------------------------------------


@pytest.mark.some(2)
@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama", "qwen3", "gemma2"])
def test_terms_toward_a_difference_are_those_of_hugging_face(family: str, tmp_path: Path) -> None:
    plus, minus = (7, 300, 41), (12,)
    with in_float64():
        folder = tiny(family, tmp_path / family)
        read = Read(family, folder, IDS)
        model = Model(resolve(str(folder)), dtype=torch.float64)
        found = toward(model, IDS, Direction(plus, minus))

        def effect(written: torch.Tensor) -> torch.Tensor:
            """The mean effect on `plus` minus that on `minus`, at the last position."""
            targets = (torch.full((len(IDS),), token) for token in (*plus, *minus))
            each = [read.toward(written, of)[..., -1] for of in targets]
            return torch.stack(each[:3]).mean(0) - each[3]

        written = read.written(model.n_heads)
        biases = [read.final_bias(torch.full((len(IDS),), token))[-1] for token in (*plus, *minus)]
        expected = {name: effect(vectors) for name, vectors in written.items()}
    of_layers = {"heads": found.heads, "neurons": found.neurons, "attn_bias": found.attn_bias}
    of_layers["mlp_bias"] = found.mlp_bias
    seen = {f"{name} {i}": values[i] for name, values in of_layers.items() for i in range(LAYERS)}
    seen |= found.embedding
    assert seen.keys() == expected.keys()
    gaps = {name: float(np.abs(seen[name] - expected[name].numpy()).max()) for name in seen}
    assert {name: gap for name, gap in gaps.items() if gap > EXACT} == {}
    assert abs(found.final_bias - float(torch.stack(biases[:3]).mean() - biases[3])) < EXACT
    logits = read.raw_logits[-1]
    assert abs(found.total - float(logits[[*plus]].mean() - logits[12])) < EXACT
    assert abs(found.closure) < EXACT
    np.testing.assert_allclose(found.attention.sum(-1), 1, atol=EXACT)


def test_a_direction_reads_the_normalised_residual_stream(tmp_path: Path) -> None:
    folder = tiny("llama", tmp_path / "llama")
    model = Model(resolve(str(folder)), dtype=torch.float64)
    column = model.W_U[:, 77].double().numpy()
    along, to_token = (toward(model, IDS, d) for d in (Direction(vector=column), Direction((77,))))
    np.testing.assert_allclose(along.neurons, to_token.neurons, atol=1e-12)
    assert along.final_bias == 0
    assert along.total == pytest.approx(to_token.total - to_token.final_bias, abs=1e-12)
    with pytest.raises(SettingsError, match=r"has the shape \(3,\).*needs \(24,\)"):
        toward(model, IDS, Direction(vector=np.ones(3)))


@pytest.mark.parametrize("family", ["gpt_neox", "gemma2"])
def test_terms_of_a_logprob_are_along_its_gradient(family: str, tmp_path: Path) -> None:
    with in_float64():
        folder = tiny(family, tmp_path / family)
        read = Read(family, folder, IDS)
        model = Model(resolve(str(folder)), dtype=torch.float64)
        found = toward(model, IDS, Direction((77,), is_logprob=True))
        out = read.final_norm(read.seen["final"][-1]).detach().requires_grad_()
        logits = read.model.get_output_embeddings()(out)
        cap = getattr(read.model.config, "final_logit_softcapping", None)
        logits = logits if cap is None else cap * (logits / cap).tanh()
        logits.log_softmax(-1)[77].backward()
        assert out.grad is not None
        written = read.written(model.n_heads)
        scale = read.scale(read.final_norm, read.seen["final"][-1:])
        gradient = out.grad * read.multiplier(read.final_norm)
        for i in range(LAYERS):
            vectors = written[f"neurons {i}"][:, -1]
            centred = vectors - vectors.mean(-1, keepdim=True) if read.is_layer_norm else vectors
            expected = centred @ gradient / scale
            np.testing.assert_allclose(found.neurons[i], expected.numpy(), atol=EXACT)
    assert abs(found.closure) < EXACT


@pytest.mark.parametrize("family", ["gpt_neox", "gemma2"])
def test_the_likeliest_tokens_are_hugging_faces(family: str, tmp_path: Path) -> None:
    with in_float64():
        folder = tiny(family, tmp_path / family)
        read = Read(family, folder, IDS)
        ids, logits, probabilities = likeliest(Model(resolve(str(folder)), dtype=torch.float64), IDS, 10)
    expected = read.seen["logits"][-1].softmax(-1).topk(10)
    assert ids.tolist() == expected.indices.tolist()
    torch.testing.assert_close(probabilities, expected.values, atol=EXACT, rtol=0)
    raw = read.raw_logits[-1]
    torch.testing.assert_close(logits, raw[ids] - raw.mean(), atol=EXACT, rtol=0)


# Against stored terms ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a BOS and windows that overlap; all neurons and sources are rows."""
    everything: dict[str, Any] = {"keep_neurons": 10**6, "keep_sources": None}
    made = annotated(
        [" ".join(TEXTS * 3)], Model(resolve("neox-2m")), tmp_path_factory.mktemp("toward") / "made",
        context=24, stride=12, bos=True, samples=0, top=1, **everything,
    )  # fmt: skip
    return Path(made.path)


@pytest.fixture(scope="module")
def s(path: Path) -> Store:
    return ingest.open(path)


def some(s: Store) -> list[int]:
    found = s.sql("FROM positions WHERE next_token IS NOT NULL ORDER BY position_id").position_id
    return [int(found[i]) for i in (0, 5, 11, 13, 30, len(found) - 1)]


def sorted_by_unit(frame: pd.DataFrame) -> pd.DataFrame:
    units = [name for name in ("component", "layer", "head", "neuron", "source_position_id") if name in frame]
    return frame.sort_values(units).reset_index(drop=True)


@pytest.mark.some(2)
@pytest.mark.parametrize("by", ["component", "layer", "head", "neuron", "source", "term"])
def test_terms_toward_an_id_are_the_stored_ones(s: Store, by: str) -> None:
    for number in some(s):
        following = int(s.position(number).next_token_id)
        stored = sorted_by_unit(s.decomposition(number, by, toward="next"))
        found = sorted_by_unit(s.decomposition(number, by, toward=following))
        if by == "term":  # stored terms have remainders, which are 0 here
            stored = sorted_by_unit(stored[~stored.component.isin(["mlp_remainder", "mlp_remainder_abs"])])
        assert len(stored) == len(found)
        for name in {"component", "layer", "head", "neuron", "source_position_id", "source_token"} & {*found}:
            names = [frame[name].astype(object).fillna(-1).tolist() for frame in (stored, found)]
            assert names[0] == names[1]
        rounding = 1e-3 if by in ("neuron", "source", "term") else FLOAT32
        assert np.abs(stored.effect - found.effect).max() < rounding
        assert found.attrs["exact"]
        assert "computed" in found.attrs["note"]
        assert found.attrs["logit"] == pytest.approx(s.position(number).next_logit, abs=FLOAT32)
        if by in ("component", "layer", "term"):
            assert found.effect.sum() == pytest.approx(found.attrs["logit"], abs=FLOAT32)
        if by == "source":
            heads = found.groupby(["layer", "head"]).effect.sum().to_numpy()
            np.testing.assert_allclose(heads, s.decomposition(number, "head", following).effect, atol=FLOAT32)


def test_a_difference_is_stored_and_computed_alike(s: Store) -> None:
    plain = store.open(s.path)  # needs no model
    for number in some(s):
        at = s.position(number)
        stored = plain.expression(number, "top", "next").expand("L3mlp", "L3H2", "L2attn")
        found = s.expression(number, int(at.top_token_id), int(at.next_token_id))
        found = found.expand("L3mlp", "L3H2", "L2attn")
        assert stored.logit == pytest.approx(at.top_logit - at.next_logit, abs=1e-6)
        assert found.logit == pytest.approx(stored.logit, abs=FLOAT32)
        assert stored.sum() == pytest.approx(stored.logit, abs=FLOAT32)
        assert found.sum() == pytest.approx(found.logit, abs=FLOAT32)
        assert stored.prediction.label == found.prediction.label
        assert stored.prediction.formula == found.prediction.formula
        values = {term.name: term.value for term in found.terms}
        for term in stored.terms:
            if term.component not in ("mlp_remainder", "source_remainder"):
                assert term.value == pytest.approx(values[term.name], abs=1e-3)
        assert plain.sql(stored.sql).value.sum() == pytest.approx(stored.logit, abs=FLOAT32)


def test_a_difference_of_few_rows_states_its_bound(tmp_path: Path) -> None:
    made = annotated([TEXT], Model(resolve("neox-2m")), tmp_path / "few", keep_neurons=2, keep_sources=4)
    for by, n in (("neuron", 8), ("source", 4)):
        found, both = made.decomposition(5, by, "next", "top"), made.decomposition(5, by)
        assert not found.attrs["exact"] and len(found) == len(both) >= n
        assert found.attrs["rounded"]["effect"] == 2 * both.attrs["rounded"]["toward_next"]
    at = made.position(5)
    ids = int(at.next_token_id), int(at.top_token_id)
    whole = ingest.open(made.path).decomposition(5, "neuron", *ids)
    few = made.decomposition(5, "neuron", "next", "top")
    merged = whole.merge(few[["layer", "neuron"]], how="left", indicator=True)
    left_out = merged.query("_merge == 'left_only'")
    assert 0 < left_out.effect.abs().max() <= few.attrs["bound"]["effect_bound"] + 1e-4
    remainder = made.expression(5, "next", "top").expand("L3mlp").terms[-3]
    assert remainder.component == "mlp_remainder" and remainder.bound is not None
    assert abs(remainder.value) <= remainder.bound


# Targets -------------------------------------------------------------------------------------------


def test_a_text_that_is_no_token_is_shown_in_pieces(s: Store) -> None:
    number = some(s)[2]
    with pytest.raises(store.BadQuestion, match=r'is \d tokens of this vocabulary: " V", .*Give one token'):
        s.expression(number, " Venticasse")
    with pytest.raises(store.BadQuestion, match="An empty text is no token"):
        s.expression(number, "")
    with pytest.raises(store.NoSuchToken, match="no token with the id 4096"):
        s.expression(number, 4096)
    with pytest.raises(store.BadQuestion, match="at least one"):
        s.expression(number, [])
    with pytest.raises(store.BadQuestion, match="subtract vectors yourself"):
        s.expression(number, np.ones(128), " the")
    assert s.expression(number, "the").prediction.hint == 'With a leading space, " the" is a token too.'
    assert s.expression(number, " the").prediction.hint == ""
    mean = s.expression(number, [" the", " a"], " of")
    assert mean.prediction.label == 'mean logit(" the", " a") - logit(" of")'
    each = [s.expression(number, token).logit for token in (" the", " a", " of")]
    assert mean.logit == pytest.approx((each[0] + each[1]) / 2 - each[2], abs=1e-5)
    assert r"\operatorname{mean\,logit}" in mean.latex()


def test_ranks_leave_out_the_padding_of_the_vocabulary() -> None:
    model: Any = SimpleNamespace(n_tokens=3)
    logits = torch.tensor([[0.1, 0.5, 0.3, 9.0], [0.1, 0.0, 0.3, 9.0]])
    assert ranks(model, logits, 2).tolist() == [2, 1]
    assert int(ranks(model, logits[0], 0)) == 3


def test_a_logprob_is_called_first_order(s: Store) -> None:
    number = some(s)[3]
    found = s.expression(number, " the", logprob=True)
    assert found.prediction.label == 'first-order terms of log p(" the")'
    likeliest = s.likeliest(number, 4096)
    mean = float((likeliest.probability * likeliest.logit).sum())
    assert found.logit == pytest.approx(s.expression(number, " the").logit - mean, abs=1e-4)
    assert s.decomposition(number, "layer", "next", logprob=True).effect.sum() == pytest.approx(
        s.expression(number, "next", logprob=True).logit, abs=FLOAT32
    )
    for plus, minus, told in ((" the", " a", "leave `minus` out"), ([" the", " a"], None, "name one")):
        with pytest.raises(store.BadQuestion, match=told):
            s.expression(number, plus, minus, logprob=True)


def test_without_a_model_a_sentence_says_what_to_do(path: Path) -> None:
    plain = store.open(path)
    for ask in (
        lambda: plain.expression(3, " the"),
        lambda: plain.decomposition(3, "head", " the"),
        lambda: plain.likeliest(3),
        lambda: plain.prompt("a b"),
    ):
        with pytest.raises(store.NoModel, match=r"ingest\.open"):
            ask()


def test_the_likeliest_tokens_of_a_position(s: Store) -> None:
    for number in some(s):
        at, found = s.position(number), s.likeliest(number, 5)
        assert found["rank"].tolist() == [1, 2, 3, 4, 5]
        assert (found.token_id[0], found.token[0]) == (at.top_token_id, at.top_token)
        assert found.logit[0] == pytest.approx(at.top_logit, abs=FLOAT32)
        assert np.log(found.probability[0]) == pytest.approx(at.top_logprob, abs=FLOAT32)
        assert found.logit.is_monotonic_decreasing


def test_a_prompt_is_a_store_of_its_own(s: Store) -> None:
    with s.prompt(TEXT) as prompt:
        assert prompt.position(prompt.last).text == "."
        assert prompt.documents().text.tolist() == [TEXT]
        found = prompt.expression(prompt.last, " the", " a")
        assert found.sum() == pytest.approx(found.logit, abs=FLOAT32)
        top = prompt.expression(prompt.last, "top").logit
        assert top == pytest.approx(prompt.likeliest(prompt.last).logit[0], abs=1e-4)
    assert len(s.runs()) == 1


# Models in memory ----------------------------------------------------------------------------------


def embedded_tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER))


def test_a_model_in_memory_answers(path: Path, s: Store) -> None:
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(EMBEDDED_PATH)
    tokenizer = embedded_tokenizer()
    before = hf.gpt_neox.layers[1].mlp.dense_h_to_4h.weight.clone()
    number = some(s)[3]
    mine = ingest.open(path, model=hf, tokenizer=tokenizer).expression(number, " the")
    assert mine.logit == s.expression(number, " the").logit
    assert torch.equal(before, hf.gpt_neox.layers[1].mlp.dense_h_to_4h.weight)  # it was copied
    with pytest.raises(ModelError, match="no fast tokenizer"):
        ingest.open(path, model=hf)
    with torch.no_grad():
        hf.gpt_neox.layers[1].mlp.dense_h_to_4h.weight.add_(0.01)
    with pytest.raises(ModelError, match="other weights"):
        ingest.open(path, model=hf, tokenizer=tokenizer).expression(number, " the")


def test_a_bridge_in_memory_answers(path: Path, s: Store) -> None:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(EMBEDDED_PATH)
    bridge = TransformerBridge.boot_transformers(
        "GPTNeoXForCausalLM", hf_model=hf, tokenizer=embedded_tokenizer()
    )
    number = some(s)[3]
    found = ingest.open(path, model=bridge).expression(number, " the")
    assert found.logit == s.expression(number, " the").logit


# The command line ----------------------------------------------------------------------------------


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, path: Path) -> Asking:
    return Asking(capsys, monkeypatch, path)


def test_position_toward_a_difference(ask: Asking, s: Store, tmp_path: Path) -> None:
    number = some(s)[3]
    said = ask("position", number, "--toward", " the", "--minus", " a", "--limit", 3)
    assert said.status == 0, said.err
    assert 'logit(" the") - logit(" a") =' in said.out
    assert "Most likely next tokens" in said.out and "none is rounded" in said.out
    told = json.loads(ask("position", number, "--toward", "the", "--json").out)
    [(_, component), *_] = [(name, part) for name, part in told.items() if name == "component"]
    assert {"effect"} <= {*component["rows"][0]}
    assert "With a leading space" in ask("position", number, "--toward", "the").err
    stored = ask("position", number, "--toward", "next", "--minus", "top")
    assert stored.status == 0 and "Most likely" not in stored.out
    np.save(tmp_path / "probe.npy", np.ones(128))
    assert "⟨x, u⟩/σ =" in ask("position", number, "--direction", tmp_path / "probe.npy").out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--minus", " a"], "name it with --toward"),
        (["--direction", "none.npy"], "none.npy cannot be read"),
        (["--direction", __file__], "is no .npy file of numbers"),
        (["--direction", "x.npy", "--toward", " a"], "leave --toward and --minus out"),
        (["--toward", " Venticasse"], "tokens of this vocabulary"),
        (["--toward", "id=99999"], "no token with the id 99999"),
    ],
)
def test_targets_that_cannot_be(ask: Asking, s: Store, options: list[str], sentence: str) -> None:
    said = ask("position", some(s)[3], *options)
    assert said.status == 2 and sentence in " ".join(said.err.split()) and "Traceback" not in said.err


def test_a_prompt_toward_a_difference(ask: Asking) -> None:
    said = ask("expand", "Dublin is the capital of", "--toward", " Ireland", "--minus", " the")
    assert said.status == 0, said.err
    assert 'logit(" Ireland") - logit(" the") =' in said.out and "Most likely next tokens" in said.out
