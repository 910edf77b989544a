"""The page Patch: two prompts, a target, and what each patch recovers."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("streamlit.testing.v1")

from annotate_transformer import ingest
from annotate_transformer.app.browser import charts
from annotate_transformer.app.present.heat_maps import HeatMap
from pages import Show, button, html, titles

PROMPTS = {"clean": "The Congress of the city met.", "corrupted": "The people of the city met."}
TARGET = {"of": " the", "minus": " a"}


def test_patches_are_shown_as_a_heat_map_and_a_table(
    show: Show, two_steps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, heat_map = list[HeatMap](), charts.heat_map
    monkeypatch.setattr(charts, "heat_map", lambda shown: drawn.append(shown) or heat_map(shown))
    test = show("patch", two_steps, run=2, **PROMPTS, **TARGET, kind="head", way="noising")
    expected = ingest.open(two_steps).patch(
        *PROMPTS.values(), toward=" the", minus=" a", direction="noising", run=2
    )
    assert {"Patch", "What each patch recovers", "Patches, the largest first"} <= {*titles(test)}
    shown = html(test)
    largest = expected.loc[(expected.recovered - 1).abs().idxmax()]
    assert f"{largest.logit:+.3f}" in shown and f"{largest.recovered:+.1%}" in shown
    assert f"{expected.attrs['clean']:+.3f} logits after the clean prompt" in shown
    [chart] = drawn
    assert chart.cells.logit.tolist() == expected.logit.tolist()
    assert chart.columns == ["H0", "H1", "H2", "H3"] and chart.row_title == "layer"


@pytest.mark.parametrize("target", [TARGET, {}])
def test_direct_effects_after_both_prompts_are_compared(
    show: Show, two_steps: Path, target: dict[str, str]
) -> None:
    shown = html(show("patch", two_steps, run=2, **PROMPTS, **target))
    s, of, minus, found = ingest.open(two_steps), target.get("of"), target.get("minus"), []
    for prompt in PROMPTS.values():
        with s.prompt(prompt, 2) as alone:
            at = alone.position(alone.last)
            of = of or int(at.top_token_id)
            found.append(
                alone.decomposition(alone.last, "component", of, minus).set_index(["component", "layer"])
            )
    difference = found[0].effect - found[1].effect
    assert len(difference) == 10
    for value in difference:
        assert f'data-value="{value}"' in shown or f"{value:+.3f}" in shown
    of_patch = s.patch(*PROMPTS.values(), toward=target.get("of", "top"), minus=minus, run=2).attrs
    assert difference.sum() == pytest.approx(of_patch["clean"] - of_patch["corrupted"], abs=1e-4)


def test_paths_to_a_head_are_shown(show: Show, two_steps: Path) -> None:
    test = show("patch", two_steps, run=2, **PROMPTS, **TARGET, kind="path", to="L3H2.v")
    expected = ingest.open(two_steps).patch(*PROMPTS.values(), toward=" the", minus=" a", to="L3H2.v", run=2)
    shown = html(test)
    assert "path from one head to L3H2.v" in shown
    assert f"{expected.logit[expected.recovered.abs().idxmax()]:+.3f}" in shown
    assert "path from one head to logits" in html(show("patch", run=2, **PROMPTS, **TARGET, kind="path"))
    wrong = show("patch", run=2, **PROMPTS, kind="path", to="L3H2")
    assert "write L3H2.q" in html(wrong)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({}, "Write two prompts that differ"),
        ({"clean": "The city"}, "Write two prompts that differ"),
        (PROMPTS | {"clean": "The city"}, "they must have equally many"),
        (PROMPTS | {"clean": PROMPTS["corrupted"]}, "Both prompts have the same tokens"),
        (PROMPTS | {"clean": "x" * 401}, "a prompt of 401 characters; this page takes at most 400"),
        (PROMPTS | {"kind": "layer"}, "kind is one of resid"),
        (PROMPTS | {"of": " Venticasse"}, "tokens of this vocabulary"),
    ],
)
def test_what_cannot_be_patched_is_a_sentence(show: Show, parameters: dict[str, Any], sentence: str) -> None:
    assert sentence in html(show("patch", run=2, **parameters))


def test_what_is_written_in_the_boxes_comes_into_the_address(show: Show) -> None:
    test = show("patch", run=2)
    for box, text in zip(test.main.text_input, (*PROMPTS.values(), *TARGET.values()), strict=True):
        box.input(text)
    button(test, "Patch").click().run()
    assert not test.exception
    found = {name: test.query_params[name] for name in (*PROMPTS, *TARGET)}
    assert found == PROMPTS | TARGET
    assert "What each patch recovers" in titles(test)


def test_a_prompts_page_leads_here(show: Show) -> None:
    shown = html(show("prompt", run=2, text="Dublin is"))
    assert 'href="/patch?run=2&amp;clean=Dublin+is"' in shown
