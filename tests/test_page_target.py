"""The pages Token and Prompt take any logit apart, and show total effects of heads when asked."""

import hashlib
from pathlib import Path

import pytest

pytest.importorskip("streamlit.testing.v1")

from annotate_transformer import ingest, store
from annotate_transformer.app.browser.pages import token as page_token
from annotate_transformer.ingest.interventions.unit_effects import Plan, measure
from annotate_transformer.ingest.live.runner import ModelRunner
from pages import Show, html, titles

PLACE = {"run": 2, "position": 1_000_000_000_777}
PLAN = Plan(sample=5, seed=0, replaced_by="zero", exact=2)
OTHER = {"toward": "other", "of": " the", "minus": " a"}


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_difference_is_taken_apart(show: Show, two_steps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    waterfall = page_token.charts.waterfall
    monkeypatch.setattr(
        page_token.charts, "waterfall", lambda *asked: drawn.append(asked) or waterfall(*asked)
    )
    test = show("token", two_steps, **PLACE, **OTHER)
    assert "The terms are those of logit(&quot; the&quot;) - logit(&quot; a&quot;)." in html(test)
    assert "Most likely next tokens" in titles(test)
    [(components, column, logit)] = drawn
    expected = ingest.open(two_steps).expression(PLACE["position"], " the", " a")
    assert (column, logit) == ("effect", pytest.approx(expected.logit, abs=1e-5))
    assert components.effect.sum() == pytest.approx(logit, abs=1e-5)
    first = ingest.open(two_steps).likeliest(PLACE["position"]).token[0].replace(" ", "+")
    assert f"toward=other&amp;of={first}" in html(test)


def test_a_text_of_several_tokens_is_shown_in_pieces(show: Show, two_steps: Path) -> None:
    test = show("token", two_steps, **PLACE, toward="other", of=" Venticasse")
    assert "tokens of this vocabulary" in html(test)
    test = show("token", two_steps, **PLACE, toward="other", of="the")
    assert "With a leading space, &quot; the&quot; is a token too." in html(test)


def test_heads_are_ablated_when_asked_and_nothing_is_stored(show: Show, two_steps: Path) -> None:
    before = sha256(two_steps)
    test = show("token", two_steps, **PLACE)
    assert "Ablate each head" in html(test) and "the model runs 16 times" in html(test)
    test = show("token", two_steps, **PLACE, ablate="heads")
    assert "Total effects of heads: each head's output is set to zero at all tokens" in titles(test)
    expected = ingest.open(two_steps).ablate(PLACE["position"], "L3H2", keep=False)
    assert f"{expected.total_effect[0]:+.3f}" in html(test)
    assert sha256(two_steps) == before


@pytest.mark.soak
def test_stored_effects_are_shown_with_their_targets(show: Show, two_steps: Path, tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    db.write_bytes(two_steps.read_bytes())
    ingest.open(db).ablate(PLACE["position"], "L2H1", toward=" the", minus=" a", by="mean")
    test = show("token", db, **PLACE)
    assert "Total effects that are stored" in titles(test)
    assert "L2H1" in html(test) and "mean" in html(test)


def test_a_prompt_is_taken_apart_toward_another_token(show: Show, two_steps: Path) -> None:
    test = show("prompt", two_steps, run=2, text="Dublin is the capital of", **OTHER, ablate="heads")
    assert "The terms are those of logit(&quot; the&quot;) - logit(&quot; a&quot;)." in html(test)
    assert "Total effects of heads: each head's output is set to zero at all tokens" in titles(test)


def test_an_attention_score_is_taken_apart_when_asked(show: Show, two_steps: Path) -> None:
    test = show("token", two_steps, **PLACE, head="L3H2")
    assert "The attention score of L3H2 before the softmax" in titles(test)
    assert "Take it apart" in html(test)
    test = show("token", two_steps, **PLACE, head="L3H2", why=1)
    assert "Sources that compete in the softmax" in titles(test)
    expected = ingest.open(two_steps).head_inputs(PLACE["position"], "L3H2")
    assert f"Score {expected.attrs['score']:+.3f} to position" in html(test)
    assert f"{expected.value[0]:+.3f}" in html(test)


def test_total_effects_over_a_sample_are_shown_beside_direct_ones(
    show: Show, two_steps: Path, tmp_path: Path
) -> None:
    assert "`annotate effects`" in " ".join(
        c.value for c in show("head", two_steps, run=2, head="L3H2").caption
    )
    db = tmp_path / "x.duckdb"
    db.write_bytes(two_steps.read_bytes())
    measure(
        ModelRunner().model(store.open(db).runs().set_index("run_id", drop=False).loc[2]), str(db), 2, PLAN
    )
    for page, unit in (("head", "L3H2"), ("neuron", "L3N7")):
        test = show(page, db, run=2, **{page: unit})
        assert "Direct and total effect on the next token, over a sample" in titles(test)
        assert "attribution patching (first-order estimate)" in html(test)
