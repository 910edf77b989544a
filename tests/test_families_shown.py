"""What is shown of models of other families than GPT-NeoX: expressions, inputs, weights, pages."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("streamlit.testing.v1")

from annotate_transformer import store
from annotate_transformer.app.browser import charts
from annotate_transformer.app.example_queries import examples
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.next_token.prompts import PromptSettings, annotate_inputs, look_up
from annotate_transformer.ingest.weights.tables import annotate_weights
from annotate_transformer.store import Store
from asking import Asking
from families import tiny
from models import annotated
from pages import Show, html, showing, titles
from small import text

SHOWN = ("gpt2", "llama", "gemma2")
each = pytest.mark.parametrize("family", SHOWN)
NEURON = (2, 3)
NAME = "L2N3"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """By family: a store with a run, weights, a neuron's inputs and prompts, and the model."""
    folder = tmp_path_factory.mktemp("shown")

    @cache
    def made(family: str) -> tuple[Store, Model]:
        model = Model(resolve(str(tiny(family, folder / family))))
        s = annotated([text(12, 1)], model, folder / f"{family} store", context=24, samples=30, top=4)
        annotate_weights(model, str(s.path), top=4)
        annotate_inputs(model, str(s.path), 1, at(s), NEURON)
        look_up(model, str(s.path), 1, [NEURON], PromptSettings(windows=4))
        return s, model

    return made


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """`annotate …` in this process, on a given store."""
    return lambda s, *words: Asking(capsys, monkeypatch, s.path)(*words)


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Show:
    return showing(monkeypatch, tmp_path)


def at(s: Store) -> int:
    """A position in the middle of the first window."""
    return int(s.sql("SELECT min(position_id) + 15 AS p FROM positions").p[0])


def opened(s: Store) -> store.notation.Expression:
    return s.expression(at(s), "top").expand("L2H1", "L2mlp")


@each
def test_an_expression_has_the_symbols_of_its_family(family: str, stores: Any) -> None:
    s, _ = stores(family)
    expression = opened(s)
    first, *_ = expression.terms
    symbols = {term.component: term.symbol for term in expression.terms if term.layer in (None, 2)}
    learned, post = family == "gpt2", family == "gemma2"
    assert (first.component, first.symbol) == ("embed", "⟨W_E[s], u⟩" if learned else "⟨x[0], u⟩")
    assert symbols.get("pos_embed") == ("⟨W_pos[p], u⟩" if learned else None)
    assert symbols["head"].endswith("u⟩/σ_attn[2]" if post else "u⟩")
    assert symbols["neuron"].endswith("u⟩/σ_mlp[2]" if post else "u⟩")
    assert symbols["source_remainder"].endswith("u⟩/σ_attn[2]" if post else "u⟩")
    kinds = [term.component for term in expression.terms]
    assert kinds.index("layer") == (2 if learned else 1)
    assert kinds[-1] == "final_bias"  # the only term outside the brackets
    assert expression.sum() == pytest.approx(s.position(at(s)).top_logit, abs=1e-4)
    assert expression.frame.value.sum() == pytest.approx(expression.sum())
    assert len(s.sql(expression.sql)) == len(expression.terms)


@each
def test_an_expression_defines_gate_norm_and_cap(family: str, stores: Any) -> None:
    s, _ = stores(family)
    expression, layers = opened(s), s.expression(at(s), "top")
    gate = {"llama": "a = SILU(x W_gate) · (x W_in)", "gemma2": "a = GELU_PYTORCH_TANH(x W_gate) · (x W_in)"}
    assert ("W_gate" in expression.text()) == (family != "gpt2")
    assert gate.get(family, "") in expression.text()
    assert "W_gate" not in layers.text(), "no neuron is among the terms"
    assert ("frozen scales of the norms after" in expression.text()) == (family == "gemma2")
    assert ("softmax of 3 tanh((logit + m)/3)" in layers.text()) == (family == "gemma2")
    written = expression.latex()
    assert (r"W_{\mathrm{gate}}" in written) == (family != "gpt2")
    assert (r"3 \tanh((\mathrm{logit} + m) / 3)" in written) == (family == "gemma2")
    for row in written.split("\n")[1:-1]:
        bare = row.replace(r"\_", "")
        assert (bare.count("&"), bare.count("{")) == (3, bare.count("}"))


def test_the_formula_of_the_soft_cap_gives_the_stored_probabilities(stores: Any) -> None:
    """The difference of two log-probabilities is that of the capped logits."""
    s, model = stores("gemma2")
    found = s.sql("FROM positions WHERE next_token_id IS NOT NULL")
    cap = s.model_of(1).logit_cap
    assert cap == model.logit_cap == 3
    capped = [cap * np.tanh((found[name] + found.logit_offset) / cap) for name in ("top_logit", "next_logit")]
    gap = (found.top_logprob - found.next_logprob) - (capped[0] - capped[1])
    assert gap.abs().max() < 1e-4


@each
def test_the_chart_begins_with_the_embeddings(family: str, stores: Any) -> None:
    s, _ = stores(family)
    frame, logit = s.decomposition(at(s), "component"), float(s.position(at(s)).top_logit)
    names = charts.waterfall(frame, "toward_top", logit).rows.component.tolist()
    embeddings = ["embed", "pos_embed"] if family == "gpt2" else ["embed"]
    layers = [f"L{i}{part}" for i in range(3) for part in ("attn", "mlp")]
    assert names == [*embeddings, *layers, "final_bias", "= logit"]


@each
def test_inputs_are_shown_by_reading(family: str, stores: Any, ask: Any) -> None:
    s, _ = stores(family)
    found = s.neuron_inputs(at(s), NAME)
    sums = found.groupby("reading").value.sum()
    assert sums["pre"] == pytest.approx(found.attrs["pre_activation"], abs=1e-4)
    printed = ask(s, "inputs", at(s), NAME, "--limit", 100).out
    tables = printed.strip().split("\n\n")
    assert f"they sum to the pre-activation {found.attrs['pre_activation']:+.3f} " in printed
    assert len(tables) == (1 if family == "gpt2" else 2)
    assert ("pos_embed" in printed) == (family == "gpt2")
    for rows, reading in zip(tables, ("pre", "pre_linear"), strict=False):
        assert len(rows.splitlines()) == 2 + (found.reading == reading).sum()
    if family != "gpt2":
        assert sums["pre_linear"] == pytest.approx(found.attrs["pre_linear"], abs=1e-4)
        assert f"they sum to the linear input {found.attrs['pre_linear']:+.3f} " in printed
        assert ("b_gate" in tables[0], "b_in" in tables[0]) == (True, False)
        assert ("b_gate" in tables[1], "b_in" in tables[1]) == (False, True)


def test_a_gated_neuron_is_the_product_of_its_two_inputs(stores: Any) -> None:
    s, _ = stores("llama")
    of = s.neuron_inputs(at(s), NAME).attrs
    silu = of["pre_activation"] / (1 + math.exp(-of["pre_activation"]))
    assert of["activation"] == pytest.approx(silu * of["pre_linear"], rel=1e-5)


@each
def test_the_weights_of_a_neuron_show_its_gate(family: str, stores: Any, ask: Any) -> None:
    s, model = stores(family)
    printed = ask(s, "neuron", NAME).out
    gated = family != "gpt2"
    assert ("‖W_gate‖" in printed, "can read most through W_gate" in printed) == (gated, gated)
    assert printed.count("Earlier components that the neuron can read most") == (2 if gated else 1)
    about, weights = s.weights(1).neuron_stats(NAME).iloc[0], model.W_gate[2, :, 3]
    assert about.in_norm == pytest.approx(float(model.W_in[2, :, 3].norm()), rel=1e-5)
    if gated:
        out = model.W_out[2, 3]
        assert about.gate_norm == pytest.approx(float(weights.norm()), rel=1e-5)
        cosine = float(weights @ out / weights.norm() / out.norm())
        assert about.gate_cosine == pytest.approx(cosine, abs=1e-5)
    reads = s.weights(1).neuron_reads(NAME)
    assert {*reads.reading} == ({"pre", "pre_linear"} if gated else {"pre"})


@each
def test_shares_of_heads_are_of_the_pre_activation(family: str, stores: Any, show: Show) -> None:
    s, _ = stores(family)
    shown = html(show("next_token", db=s.path, run=1, neuron=NAME))
    first = "SELECT min(prompt) FROM prompts WHERE layer = 2 AND neuron = 3"
    heads = s.sql(
        "SELECT value FROM prompt_inputs WHERE layer = 2 AND neuron = 3 AND component = 'head' "
        f"AND reading = 'pre' AND prompt = ({first})"
    )
    assert len(heads) == 12, "sequential blocks: four heads of each of three layers"
    for row in heads.itertuples():
        assert f"{row.value:+.3f}" in shown
    linear = "share of the linear input" in shown
    assert linear == (family != "gpt2")


@each
def test_a_run_says_which_kind_of_model_it_has(family: str, stores: Any, show: Show, ask: Any) -> None:
    s, _ = stores(family)
    kinds = {
        "gpt2": "gpt2: LayerNorm, learned position embeddings, GELU_NEW",
        "llama": "llama: RMSNorm, rotary position embeddings, 4 heads with 2 key-value heads, SILU with a "
        "gate",
        "gemma2": "gemma2: RMSNorm (also after each sublayer), rotary position embeddings, 4 heads with 2 "
        "key-value heads, GELU_PYTORCH_TANH with a gate, logits capped at ±3",
    }
    printed = " ".join(ask(s, "stats").out.split())
    assert kinds[family] in printed
    assert "Hugging" in printed  # the heading is wrapped
    assert kinds[family] in html(show("model", db=s.path))
    assert s.stats(1).hf_difference[0] == s.runs().hf_difference[0] < 1e-4


@each
def test_every_page_is_shown(family: str, stores: Any, show: Show) -> None:
    s, _ = stores(family)
    token = show(
        "token", db=s.path, position=at(s), neuron=NAME, notation="text", expand="L2mlp", toward="top"
    )
    shown, gated = html(token), family != "gpt2"
    assert ("⟨W_pos[p], u⟩" in shown) == (family == "gpt2")
    assert ("W_gate" in shown) == gated
    assert (f"Inputs of {NAME}: linear input" in titles(token)) == gated
    captions = " ".join(caption.value for caption in token.caption)
    assert ("caps its logits at ±3" in captions) == (family == "gemma2")
    assert ("They sum to the linear input" in captions) == gated
    neuron = show("neuron", db=s.path, run=1, neuron=NAME)
    assert ("Earlier components it can read most through W_in" in titles(neuron)) == gated
    assert ("cosine(W_gate, W_out)" in html(neuron)) == gated
    for page in ("head", "text", "search", "compare", "prompt"):
        show(page, db=s.path, run=1, **({"head": "L1H1"} if page == "head" else {}))


def test_a_prompt_is_annotated_with_each_model(stores: Any, ask: Any) -> None:
    s, _ = stores("gemma2")
    printed = ask(s, "expand", "Tom saw Mary").out
    assert "caps its logits at ±3: the terms sum to the logit before the cap" in printed
    assert "softmax of 3 tanh" in printed


@each
def test_an_example_counts_each_input_once(family: str, stores: Any) -> None:
    """The shares of one prompt sum to the pre-activation."""
    s, _ = stores(family)
    query = next(query for query in examples() if "How much context" in query)
    found: pd.DataFrame = s.sql(query, {"run": 1})
    total = found[["embed", "heads", "mlps", "biases"]].sum(axis=1)
    assert (total - found.pre_activation).abs().max() < 0.003
