"""Each replication against plain Hugging Face, and against reference values if their weights are there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from annotate_transformer import store
from annotate_transformer.app.cli.replicate import HUB, NAMES, beside
from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.replications.dublin import PROMPT, dublin
from annotate_transformer.ingest.replications.induction_heads import (
    BLOCK,
    NAMED,
    doubled_tokens,
    induction_heads,
    induction_scores,
)
from annotate_transformer.ingest.replications.ioi import (
    NAME_MOVERS,
    NEGATIVE,
    direct_effects,
    ioi,
    make_prompts,
)
from annotate_transformer.ingest.replications.listed import REPLICATIONS
from annotate_transformer.ingest.replications.next_token_scores import mean_scores, next_token_scores
from annotate_transformer.ingest.replications.quantity import Quantity, Reference, fraction, mean
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.weights.circuits import behaviour
from families import Read, tiny
from models import EMBEDDED_PATH, of_the_hub, token_ids
from processes import annotate


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(resolve("neox-2m"))


@pytest.fixture(scope="module")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny("gpt2", tmp_path_factory.mktemp("gpt2"))


def plain(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def by_name(quantities: list[Quantity]) -> dict[str, Quantity]:
    return {quantity.name: quantity for quantity in quantities}


# Quantities


def test_the_interval_of_a_mean_is_students() -> None:
    samples = torch.tensor([1.0, 2.0, 4.0, 5.0, 8.0, 9.0, 9.0, 10.0, 11.0, 12.0, 14.0])
    found = mean("x", "logits", samples, "prompts")
    assert found.value == pytest.approx(85 / 11)
    assert found.low is not None
    assert found.high is not None
    margin = 2.2281 * float(samples.std()) / 11**0.5  # the 97.5 % quantile for 10 degrees of freedom
    assert (found.high - found.low) / 2 == pytest.approx(margin, rel=1e-3)
    assert mean("x", "logits", samples[:1], "prompts").low is None


def test_the_interval_of_a_fraction_is_wilsons() -> None:
    found = fraction("x", torch.tensor([True] * 8 + [False] * 2), "prompts")
    assert (found.value, found.n) == (0.8, 10)
    assert (found.low, found.high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


def test_published_values_are_of_quantities_that_are_computed(model: Model) -> None:
    assert set(REPLICATIONS) == set(NAMES)
    assert {p.model for chosen in REPLICATIONS.values() for p in chosen.references} == {*HUB}
    assert {*REPLICATIONS["dublin"].references[0].values} == {quantity.name for quantity in dublin(model)}


def test_a_difference_needs_the_same_model_and_two_numbers() -> None:
    quantities = [Quantity("a", "logits", 3.0), Quantity("b", "logits", 1.0), Quantity("c", "logits", None)]
    reference = Reference("M", "paper", {"a": 2.5, "b": "positive", "c": 1.0})
    same = beside(quantities, reference, same_model=True)
    assert same.difference.fillna(-1).tolist() == [0.5, -1, -1]
    assert same.claim.fillna("").tolist() == ["", "positive", ""]
    assert beside(quantities, reference, same_model=False).difference.isna().all()


# Dublin


def test_dublin_is_what_hugging_face_computes(model: Model) -> None:
    found, hf = by_name(dublin(model)), plain(EMBEDDED_PATH)
    for how, before in (("with BOS", [model.tokenizer.bos_token_id]), ("without BOS", [])):
        with torch.no_grad():
            logits = hf(torch.tensor([before + token_ids(PROMPT)])).logits[0, -1].double()
        for token in (" the", " Ireland"):
            [token_id] = token_ids(token)
            centred = float(logits[token_id] - logits.mean())
            assert found[f"logit of {token!r}, {how}"].value == pytest.approx(centred, abs=1e-3)
            probability = float(logits.softmax(0)[token_id])
            assert found[f"probability of {token!r}, {how}"].value == pytest.approx(probability, rel=1e-3)


def test_a_model_without_bos_has_no_value_with_bos(model: Model) -> None:
    bos = model.tokenizer.bos_token
    model.tokenizer.bos_token = None
    try:
        found = by_name(dublin(model))
    finally:
        model.tokenizer.bos_token = bos
    assert {name for name, quantity in found.items() if quantity.value is None} == {
        name for name in found if "with BOS" in name
    }


# Induction heads


def plain_induction(folder: Path, tokens: Tensor) -> Tensor:
    """Mean attention to the token after the first occurrence, of shape (sequence, layer, head)."""
    hf, scores = plain(folder), []
    for sequence in tokens:
        ids = sequence.tolist()
        with torch.no_grad():
            attentions = hf(sequence[None], output_attentions=True).attentions
        second = [i for i in range(len(ids)) if ids[i] in ids[:i]]
        seen = [
            torch.stack([layer[0, :, i, ids.index(ids[i]) + 1] for i in second]).mean(0)
            for layer in attentions
        ]
        scores.append(torch.stack(seen))
    return torch.stack(scores)


def test_induction_scores_are_hugging_faces_attention(model: Model) -> None:
    tokens = doubled_tokens(model)[:3]
    assert tokens.shape == (3, 1 + 2 * BLOCK)
    assert (tokens[:, 0] == model.tokenizer.bos_token_id).all()
    assert (tokens[:, 1 : 1 + BLOCK] == tokens[:, 1 + BLOCK :]).all()
    assert len(set(tokens[0].tolist())) == 1 + BLOCK
    found = induction_scores(model, tokens)
    torch.testing.assert_close(found, plain_induction(EMBEDDED_PATH, tokens), atol=1e-5, rtol=1e-4)
    measured = behaviour(model, tokens)[:, -1]  # as `annotate weights` measures it
    torch.testing.assert_close(found.mean(0).double(), measured.double(), atol=1e-5, rtol=1e-4)


def test_induction_scores_of_gpt2s_shape(tiny_gpt2: Path) -> None:
    model = Model(resolve(str(tiny_gpt2)))
    tokens = doubled_tokens(model)
    assert tokens.shape[1] == 1 + 2 * 31  # half of the context of 64
    found = induction_scores(model, tokens[:7])
    torch.testing.assert_close(found, plain_induction(tiny_gpt2, tokens[:7]), atol=1e-5, rtol=1e-4)


def test_the_induction_head_of_the_embedded_model_is_the_highest(model: Model) -> None:
    found = induction_heads(model)
    assert found[0].name == "induction score of L3H2"
    assert found[0].value is not None
    assert found[1].value is not None
    assert found[0].value > 0.5 > 0.1 > found[1].value
    assert (found[0].n, found[-1].value) == (50, 0)
    values = [quantity.value for quantity in found[:-1]]
    assert values == sorted(values, key=lambda value: -(value or 0))


# Indirect objects


def test_prompts_name_the_subject_twice_and_the_indirect_object_once(model: Model) -> None:
    prompts = make_prompts(model)
    assert len(prompts) == 200
    first = 0
    for prompt in prompts:
        assert (prompt.token_ids.count(prompt.s), prompt.token_ids.count(prompt.io)) == (2, 1)
        assert prompt.token_ids[-1:] == token_ids(" to")
        first += prompt.token_ids.index(prompt.s) < prompt.token_ids.index(prompt.io)
    assert 70 < first < 130
    assert len({prompt.io for prompt in prompts}) > 5


def test_direct_effects_are_hugging_faces(tiny_gpt2: Path) -> None:
    model = Model(resolve(str(tiny_gpt2)), dtype=torch.float64)
    prompts = make_prompts(model, 25)  # more than one batch, of several lengths
    assert len({len(prompt.token_ids) for prompt in prompts}) > 2
    effects, differences = direct_effects(model, prompts)
    for i in (0, 7, 24):
        prompt = prompts[i]
        read = Read("gpt2", tiny_gpt2, prompt.token_ids)
        io, s = (torch.full((len(prompt.token_ids),), token) for token in (prompt.io, prompt.s))
        for layer in range(model.n_layers):
            written = read.written(model.n_heads)[f"heads {layer}"]
            expected = (read.toward(written, io) - read.toward(written, s))[:, -1]
            torch.testing.assert_close(effects[i, layer], expected, atol=1e-9, rtol=0)
        logits = read.raw_logits[-1]
        assert float(differences[i]) == pytest.approx(float(logits[prompt.io] - logits[prompt.s]), abs=1e-9)


def test_the_shown_heads_are_the_extremes(model: Model) -> None:
    found, prompts = by_name(ioi(model)), make_prompts(model)
    effects, differences = direct_effects(model, prompts)
    assert found["logit of IO minus logit of S"].value == pytest.approx(float(differences.mean()), abs=1e-5)
    hits = float((differences > 0).double().mean())
    assert found["prompts on which the logit of IO is higher"].value == pytest.approx(hits)
    shown = [quantity for name, quantity in found.items() if name.startswith("direct effect of ")]
    ordered = effects.mean(0).flatten().sort(descending=True).values
    expected = [*ordered[:3].tolist(), *ordered[-2:].tolist()]  # a model of four layers has no named head
    assert [quantity.value for quantity in shown] == pytest.approx(expected, abs=1e-6)
    assert {quantity.n for quantity in shown} == {200}


def test_a_tokenizer_without_names_is_told(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annotate_transformer.ingest.replications.ioi.NAMES", ("Zebulon", "John"))
    with pytest.raises(ModelError, match="1 of 2 names as one token, and 4 are needed"):
        make_prompts(model)


# Next-token neurons


@pytest.mark.soak
def test_mean_scores_are_those_of_the_answers(model: Model, tmp_path: Path) -> None:
    path = str(tmp_path / "x.duckdb")
    settings = Settings(keep_neurons=1, keep_sources=1, samples=0, limit_tokens=6000)
    means = mean_scores(model, path, settings, 20)
    assert means
    with store.open(path) as s:
        answers = s.sql("SELECT * FROM explanation_answers JOIN explanations USING (run_id, explanation_id)")
        neurons = s.sql("SELECT is_baseline, count(*) AS n FROM next_token_neurons GROUP BY ALL")
    assert set(neurons.n) == {20}
    for is_baseline, row in means.items():
        scores = []
        for _, of_head in answers[answers.is_baseline == is_baseline].groupby("explanation_id"):
            right = of_head.answer == of_head.is_active
            scores.append((right[of_head.is_active].mean() + right[~of_head.is_active].mean()) / 2)
        assert row["mean"] == pytest.approx(sum(scores) / len(scores))
        assert row["heads"] == len(scores)


def test_means_become_quantities(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"mean": 0.6, "neurons": 9, "heads": 12, "low": 0.5, "high": 0.7}
    monkeypatch.setattr(f"{next_token_scores.__module__}.mean_scores", lambda *asked: {False: row})
    found = by_name(next_token_scores(model))
    chosen = found["mean balanced accuracy, next-token neurons"]
    assert (chosen.value, chosen.n, chosen.low, chosen.high) == (0.6, 9, 0.5, 0.7)
    assert found["explained heads of this mean, next-token neurons"].value == 12
    assert found["mean balanced accuracy, random neurons"].value is None
    reference = {p.model: p.values for p in REPLICATIONS["next-token"].references}
    assert reference["Pythia-160m"][chosen.name] == 0.621
    assert reference["GPT-2 small"][chosen.name] == 0.650


# The command


def test_the_command_prints_published_values_of_another_model(tmp_path: Path) -> None:
    result = annotate("replicate", "induction-heads", "--model", "neox-2m", folder=tmp_path)
    assert result.status == 0, result.err
    assert "ours are of neox-2m, reference values of GPT-2 small" in " ".join(result.out.split())
    assert "induction score of L3H2" in result.out
    result = annotate("replicate", "dublin", "--model", "neox-2m", "--json", folder=tmp_path)
    told = json.loads(result.out)
    assert told["reference_model"] == "Pythia-70m-deduped"
    assert told["same_model"] is False
    assert {row["reference"] is None for row in told["rows"]} == {False}
    assert {row["difference"] for row in told["rows"]} == {None}


@pytest.mark.some(2)
@pytest.mark.parametrize("name", NAMES)
def test_weights_that_cannot_be_had_end_in_a_sentence(name: str, tmp_path: Path) -> None:
    result = annotate("replicate", name, folder=tmp_path)  # with HF_HUB_OFFLINE
    if result.status == 0:
        pytest.skip("the weights are in the local cache")
    assert (result.status, result.out) == (2, "")
    assert "cannot be reached" in result.err
    assert "Traceback" not in result.err


def test_an_unknown_name_is_told(tmp_path: Path) -> None:
    result = annotate("replicate", "nonsense", folder=tmp_path)
    assert result.status == 2
    assert all(name in result.err for name in NAMES)


# With the reference models


def reference_model(name: str) -> Model:
    return of_the_hub(HUB[name])


def test_dublin_of_pythia_70m() -> None:
    found = by_name(dublin(reference_model("Pythia-70m-deduped")))
    for name, value in REPLICATIONS["dublin"].references[0].values.items():
        assert found[name].value == pytest.approx(value, abs=0.01 if "logit" in name else 1e-4), name


def test_induction_heads_of_gpt2_small() -> None:
    found = by_name(induction_heads(reference_model("GPT-2 small")))
    assert found["named heads among the 5 highest scores"].value == 5
    for layer, head in NAMED:
        assert (found[f"induction score of L{layer}H{head}"].value or 0) > 0.5


def test_name_movers_of_gpt2_small() -> None:
    found = by_name(ioi(reference_model("GPT-2 small")))
    assert (found["logit of IO minus logit of S"].low or 0) > 1
    for layer, head in NAME_MOVERS:
        assert (found[f"direct effect of L{layer}H{head}"].low or 0) > 0
    for layer, head in NEGATIVE:
        assert (found[f"direct effect of L{layer}H{head}"].high or 0) < 0


@pytest.mark.soak
@pytest.mark.parametrize("name", ["Pythia-160m", "GPT-2 small"])
def test_next_token_scores_of_the_published_models(name: str) -> None:
    """Rules explain here, so no reference value is expected: only that heads are explained and scored."""
    found = by_name(next_token_scores(reference_model(name)))
    chosen = found["mean balanced accuracy, next-token neurons"]
    assert chosen.value is not None
    assert 0.4 < chosen.value < 0.9
    assert (chosen.n or 0) > 1
