"""The pages Token and Prompt take any logit apart, and pages show total effects when asked."""

import hashlib
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

pytest.importorskip("streamlit.testing.v1")

from annotate_transformer import ingest, store
from annotate_transformer.app.browser.pages import token as page_token
from annotate_transformer.ingest.interventions.unit_effects import Plan, measure
from annotate_transformer.ingest.live.runner import ModelRunner
from annotate_transformer.store.names import neuron_name
from pages import Show, html, navigation, titles

PLACE = {"run": 2, "position": 1_000_000_000_777}
PLAN = Plan(sample=5, seed=0, replaced_by="zero", exact=2)
ABLATED = "Total effects of units, whose outputs are zero at all tokens"
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
    assert ABLATED in titles(test) and "Ablate each head" not in html(test)
    expected = ingest.open(two_steps).ablate(PLACE["position"], "L3H2", keep=False)
    assert f"{expected.total_effect[0]:+.3f}" in html(test)
    assert sha256(two_steps) == before


def ablating(test: Any) -> set[str]:
    """The addresses on the page that ablate something."""
    return {unescape(address) for address in re.findall(r'href="([^"]*ablate=[^"]*)"', html(test))}


def test_a_neuron_is_ablated_by_a_click(show: Show, two_steps: Path) -> None:
    s = ingest.open(two_steps)
    number, top = PLACE["position"], s.decomposition(PLACE["position"], "neuron").iloc[0]
    name = neuron_name(int(top.layer), int(top.neuron))
    href = f"/token?run=2&position={number}&ablate={name}"
    assert href in ablating(show("token", two_steps, **PLACE))
    test = show("token", two_steps, **PLACE, ablate=name)
    expected = s.ablate(number, name, keep=False)
    assert ABLATED in titles(test) and "Ablate each head" in html(test)
    shown = f"{expected.total_effect[0]:+.3f}"
    assert html(test).count(shown) >= 2  # in the table of ablated units, and beside the neuron
    links = ablating(test)
    assert href not in links
    assert any(link.startswith(f"{href}%2CL") for link in links)  # one more unit
    assert f"{href}%2Cheads" in links
    test = show("token", two_steps, **PLACE, ablate=f"{name},L3H2,{name}")
    assert f"{s.ablate(number, 'L3H2', keep=False).total_effect[0]:+.3f}" in html(test)
    assert shown in html(test)
    wrong = show("token", two_steps, **PLACE, ablate="L9N1")
    assert "has no neuron L9N1" in html(wrong)


def test_the_likeliest_tokens_are_targets_and_can_be_subtracted(show: Show, two_steps: Path) -> None:
    plain = html(show("token", two_steps, **PLACE))
    assert "Show the most likely next tokens</a>: the run&#x27;s model reads the window again" in plain
    found = ingest.open(two_steps).likeliest(PLACE["position"])
    test = show("token", two_steps, **PLACE, likely=1)
    [listed] = re.findall('<ul class="choices">(.*?)</ul>', html(test))
    assert [float(p) for p in re.findall(r"</a> ([\d.e-]+) <a", listed)] == pytest.approx(
        found.probability.tolist(), abs=6e-4
    )
    hrefs = [unescape(href) for href in re.findall('href="([^"]*)"', listed)]
    asked = [dict(parse_qsl(urlsplit(href).query)) for href in hrefs]
    place = {"run": "2", "position": str(PLACE["position"]), "likely": "1", "toward": "other"}
    for token, of, minus in zip(found.token, asked[::2], asked[1::2], strict=True):
        assert of == place | {"of": token}
        assert minus == place | {"of": "next", "minus": token}
    test = show("token", two_steps, **asked[3])
    logit = ingest.open(two_steps).expression(PLACE["position"], "next", found.token[1]).logit
    next_logit = store.open(two_steps).position(PLACE["position"]).next_logit
    assert logit == pytest.approx(next_logit - found.logit[1], abs=1e-4)
    assert "Most likely next tokens" in titles(test)


def test_the_index_lists_the_sections_in_their_order(show: Show, two_steps: Path) -> None:
    test = show("token", two_steps, **PLACE, likely=1)
    [index] = re.findall('<nav aria-label="Sections of this page".*?</nav>', navigation(test), re.DOTALL)
    listed = [unescape(title) for title in re.findall("<button data-section>(.*?)</button>", index)]
    shown = [title for title in titles(test) if title in listed]
    assert listed == shown and listed[0] == "Most likely next tokens"
    assert "Sections of this page" not in navigation(show("sql", two_steps))


@pytest.mark.parametrize(("page", "unit"), [("neuron", "L3N7"), ("head", "L3H2")])
def test_contexts_offer_the_total_effect_there(
    page: str, unit: str, show: Show, two_steps: Path, tmp_path: Path
) -> None:
    db = Path(shutil.copy(two_steps, tmp_path / "x.duckdb"))
    s = ingest.open(db)
    contexts = s.unit(unit, 2).contexts("high", 12)
    if page == "neuron":  # equal contexts are one line
        contexts = contexts.drop_duplicates(["before", "text", "after"])
    with_next = [number for number in contexts.position_id if s.position(number).next_token is not None]
    hrefs = {number: f"/token?run=2&position={number}&ablate={unit}" for number in with_next}
    before = show(page, db, run=2, **{page: unit})
    assert {*hrefs.values()} <= ablating(before)
    first = int(with_next[0])
    s.ablate(first, unit, by="mean")
    s.ablate(first, unit, toward=" of", minus=" a")
    assert not re.search(">total [+-]", html(show(page, db, run=2, **{page: unit})))
    effect = s.ablate(first, unit).total_effect[0]
    after = html(show(page, db, run=2, **{page: unit}))
    assert after.count(f">total {effect:+.3f}</a>") >= 1
    assert f"ablate {unit} here" in after  # the other contexts


@pytest.mark.soak
def test_stored_effects_are_shown_with_their_targets(show: Show, two_steps: Path, tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    db.write_bytes(two_steps.read_bytes())
    ingest.open(db).ablate(PLACE["position"], "L2H1", toward=" the", minus=" a", by="mean")
    test = show("token", db, **PLACE)
    assert "Total effects that are stored" in titles(test)
    assert "L2H1" in html(test) and "mean" in html(test)
    ingest.open(db).ablate(PLACE["position"], "L2H1")
    known = ingest.open(db).sql("FROM ablation_effects WHERE replaced_by = 'zero'").total_effect[0]
    test = show("token", db, **PLACE)
    assert html(test).count(f"{known:+.3f}") >= 2  # in the table of stored effects, and beside the head


def test_a_prompt_is_taken_apart_toward_another_token(show: Show, two_steps: Path) -> None:
    test = show("prompt", two_steps, run=2, text="Dublin is the capital of", **OTHER, ablate="heads")
    assert "The terms are those of logit(&quot; the&quot;) - logit(&quot; a&quot;)." in html(test)
    assert ABLATED in titles(test)


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
