"""The page that compares two runs: its numbers are plain SQL's, and what cannot be compared is said."""

import re
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytest.importorskip("streamlit.testing.v1")

import browsing as browser
import small
from annotate_transformer import store
from annotate_transformer.app.browser import answers
from annotate_transformer.app.present.words import signed
from annotate_transformer.store.means import intervals
from pages import Show, html, position, titles

SAME_PLACE = ["document_id", "window_id", "position"]


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Run 1; 2 of a model of another shape; 3 over another corpus; 4 with other windows."""
    from annotate_transformer.ingest.corpus.sources import Corpus
    from annotate_transformer.ingest.models.model import Model
    from annotate_transformer.ingest.models.names import resolve
    from annotate_transformer.ingest.run.pipeline import ingest
    from annotate_transformer.ingest.run.settings import Settings

    folder = tmp_path_factory.mktemp("unlike")
    db, deeper = folder / "unlike.duckdb", small.model(folder / "deeper", num_hidden_layers=3)
    one = small.corpus(folder / "one.jsonl", (6, 9))
    other = small.corpus(folder / "other.jsonl", (3, 2, 4))
    for source, model, context in (
        (one, tiny_model, 32), (one, deeper, 32), (other, tiny_model, 32), (one, tiny_model, 16),
    ):  # fmt: skip
        with Corpus([str(source)]) as documents:
            ingest(
                documents, Model(resolve(str(model))), str(db), Settings(context=context, samples=20, top=5)
            )
    return db


def both(db: Path) -> pd.DataFrame:
    """Both runs' rows of one place beside each other, joined in pandas."""
    a, b = (store.open(db).sql(f"FROM positions WHERE run_id = {run}") for run in (1, 2))
    return a.merge(b, on=SAME_PLACE, suffixes=("_a", "_b"), validate="one_to_one")


# What is shown ------------------------------------------------------------------------------------


def test_the_change_of_the_loss_is_plain_sqls(show: Show, two_steps: Path) -> None:
    rows = both(two_steps).dropna(subset="next_logprob_a")
    found = answers.queries()["loss_of_both"]
    told = store.open(two_steps).sql(found, {"run": 1, "other": 2}).iloc[0]
    assert told.positions == len(rows)
    assert told.loss_a == pytest.approx(-rows.next_logprob_a.astype(float).mean())
    assert told.change == pytest.approx((rows.next_logprob_a - rows.next_logprob_b).astype(float).mean())
    assert told.better == pytest.approx((rows.next_logprob_b > rows.next_logprob_a).mean())
    shown = html(show("compare", run=1, other=2))
    for number in (f"{told.loss_a:.3f}", f"{told.loss_b:.3f}", f"{told.change:+.3f}", f"{len(rows):,}"):
        assert f"<b>{number}</b>" in shown
    changes = (rows.next_logprob_a - rows.next_logprob_b).astype(float).groupby(rows.document_id)
    [low], [high], _ = intervals(changes.sum().to_numpy()[:, None], changes.size().to_numpy())
    assert f"<b>{signed(low)} to {signed(high)}</b>" in shown
    assert low < told.change < high


def test_the_tokens_that_changed_most_lead_to_both_runs(show: Show, two_steps: Path) -> None:
    rows = both(two_steps).dropna(subset="next_logprob_a")
    change = (rows.next_logprob_a - rows.next_logprob_b).astype(float)
    most = rows.loc[change.abs().idxmax()]
    shown = unescape(html(show("compare", run=1, other=2)))
    assert f'data-value="{change[most.name]}"' in shown or f"{change[most.name]:+.3f}" in shown
    assert f"/compare?run=1&other=2&position={most.position_id_a}" in shown
    assert f"/token?run=1&position={most.position_id_a}" in shown
    assert f"/token?run=2&position={most.position_id_b}" in shown


def test_neurons_and_heads_that_changed_most(show: Show, two_steps: Path) -> None:
    s = store.open(two_steps)
    shown = unescape(html(show("compare", run=1, other=2)))
    for kind in ("neuron", "head"):
        a, b = (s.sql(f"FROM {kind}_stats WHERE run_id = {run}") for run in (1, 2))
        rows = a.merge(b, on=["layer", kind], suffixes=("_a", "_b"))
        most = rows.loc[(rows.mean_abs_effect_b - rows.mean_abs_effect_a).abs().idxmax()]
        name = f"L{most.layer:.0f}{kind[0].upper()}{most[kind]:.0f}"
        assert f"/compare?run=1&other=2&unit={name}" in shown
        assert f"{most.mean_abs_effect_b - most.mean_abs_effect_a:+.3f}" in shown


@pytest.mark.parametrize(("unit", "kind"), [("l3n7", "neuron"), ("L1H2", "head")])
def test_one_unit_in_both_runs(show: Show, two_steps: Path, unit: str, kind: str) -> None:
    test = show("compare", run=1, other=2, unit=unit)
    name = unit.upper()
    assert f"{kind.capitalize()} {name}" in titles(test)
    a, b = (getattr(store.open(two_steps), kind)(name, run).stats() for run in (1, 2))
    for value in (f"{a['mean']:,.4f}", f"{b['mean']:,.4f}", f"{b['mean'] - a['mean']:+.4f}"):
        assert value in html(test)
    assert ("induction" in html(test).split("own page")[1].split("</table>")[0]) == (kind == "head")
    for run in (1, 2):
        assert f"/{kind}?run={run}&{kind}={name}" in unescape(html(test))


@pytest.mark.parametrize("toward", ["next", "top"])
@pytest.mark.parametrize("belongs", [1, 2])
def test_one_position_in_both_runs(show: Show, two_steps: Path, belongs: int, toward: str) -> None:
    s, number = store.open(two_steps), position(two_steps, 1)
    rows = both(two_steps).set_index("position_id_a")
    other = int(rows.position_id_b[number])
    asked = number if belongs == 1 else other
    test = show("compare", run=1, other=2, position=asked, toward=toward)
    a, b = (s.decomposition(n, "component") for n in (number, other))
    terms = a.merge(b, on=["component", "layer"], suffixes=("_a", "_b"))
    assert len(terms) == len(a)
    shown = unescape(html(test))
    for difference in terms[f"toward_{toward}_b"] - terms[f"toward_{toward}_a"]:
        assert f"{difference:+.3f}" in shown
    logits = [s.position(n)[f"{toward}_logit"] for n in (number, other)]
    assert f"{logits[1] - logits[0]:+.3f}" in shown
    assert f"/token?run=1&position={number}" in shown
    assert f"/token?run=2&position={other}" in shown


def test_without_another_run_in_the_address_the_other_one_is_taken(show: Show) -> None:
    assert show("compare", run=1).selectbox(key="other").value == 2
    assert show("compare", run=2).selectbox(key="other").value == 1
    assert show("compare").selectbox(key="run").value == 2


def test_choosing_the_other_run_swaps_them(show: Show, two_steps: Path) -> None:
    number = position(two_steps, 1)
    test = show("compare", run=1, other=2, position=number)
    test.selectbox(key="run").select(2).run()
    assert not test.exception
    assert (test.query_params["run"], test.query_params["other"]) == ("2", "1")
    assert "One token in both runs" in titles(test)


def test_the_sql_shown_gives_the_rows_shown(show: Show, two_steps: Path) -> None:
    s = store.open(two_steps)
    test = show("compare", run=1, other=2, unit="L1H2", position=position(two_steps, 1))
    assert len(test.code) == 7
    for code in test.code:
        assert "$" not in code.value
        assert len(s.sql(code.value)), code.value


# What cannot be -----------------------------------------------------------------------------------


def test_one_run_says_how_to_make_another(show: Show, tmp_path: Path, tiny_model: Path) -> None:
    from annotate_transformer.ingest.corpus.sources import Corpus
    from annotate_transformer.ingest.models.model import Model
    from annotate_transformer.ingest.models.names import resolve
    from annotate_transformer.ingest.run.pipeline import ingest
    from annotate_transformer.ingest.run.settings import Settings

    db, corpus = tmp_path / "one.duckdb", small.corpus(tmp_path / "a b.jsonl", (3,))
    with Corpus([str(corpus)]) as documents:
        ingest(documents, Model(resolve(str(tiny_model))), str(db), Settings(context=16, samples=5, top=2))
    shown = unescape(html(show("compare", db)))
    assert f"annotate ingest '{corpus}' --db {db} --model" in shown
    assert "--revision step1000" in shown


def test_models_of_two_shapes_are_compared_by_their_tokens(show: Show, unlike: Path) -> None:
    test = show("compare", unlike, run=1, other=2)
    assert any("different shapes: compare positions" in caption.value for caption in test.caption)
    assert "Tokens with the largest change in loss" in titles(test)
    assert "Neurons with the largest changes" not in titles(test)
    number = position(unlike, 1) - 40
    terms = html(show("compare", unlike, run=1, other=2, position=number)).split("component")[1]
    assert re.search(r"L2attn</td><td[^>]*>—</td>", terms)
    assert "no neuron L2N0" in html(show("compare", unlike, run=1, other=2, unit="L2N0"))


def test_two_corpora_are_not_compared_by_their_tokens(show: Show, unlike: Path) -> None:
    test = show("compare", unlike, run=1, other=3)
    captions = " ".join(caption.value for caption in test.caption)
    assert "no token in common" in captions
    assert "read different corpora: their positions do not match" in captions
    assert "Neurons with the largest changes" in titles(test)


def test_only_what_stands_at_the_same_place_of_both_windows_is_compared(show: Show, unlike: Path) -> None:
    told = store.open(unlike).sql(answers.queries()["loss_of_both"], {"run": 1, "other": 4}).iloc[0]
    query = """
        SELECT count(*) FROM positions a JOIN positions b USING (document_id, char_start, position, window_id)
        WHERE a.run_id = 1 AND b.run_id = 4 AND a.next_token_id = b.next_token_id"""
    assert told.positions == store.open(unlike).sql(query).iloc[0, 0] > 0
    assert "is not in the other" in html(show("compare", unlike, run=1, other=4, position=20))


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"run": 99}, "There is no run 99; the store has 1, 2."),
        ({"run": 1, "other": 99}, "There is no run 99; the store has 1, 2."),
        ({"run": 1, "other": 1}, "compares run 1 with itself"),
        ({"run": 1, "other": "<b>"}, "other is a whole number from 0 on"),
        ({"run": 1, "with": 99}, "There is no run 99; the store has 1, 2."),
        ({"run": 1, "with": "<b>"}, "with is a whole number from 0 on"),
        ({"position": "abc"}, "position is a whole number from 0 on"),
        ({"position": 10**17}, "has no position 100000000000000000"),
        ({"position": 5, "toward": "east"}, "toward is one of next, top"),
        ({"unit": "<script>"}, "names neither a neuron nor a head"),
        ({"unit": "L99N0"}, "no neuron L99N0"),
        ({"unit": "L0H99"}, "no head L0H99"),
    ],
)
def test_a_wrong_address_is_a_sentence(show: Show, parameters: dict[str, Any], sentence: str) -> None:
    shown = html(show("compare", **parameters))
    assert sentence in shown
    assert "<script>" not in shown


def test_a_position_of_a_third_run_is_a_sentence(show: Show, unlike: Path) -> None:
    number = position(unlike, 3)
    shown = html(show("compare", unlike, run=1, other=2, position=number))
    assert f"Position {number} belongs to run 3, not to run 1 or 2." in shown


# In a browser -------------------------------------------------------------------------------------


@pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no chromium")
def test_from_what_changed_to_one_token_in_both_runs(page: Any) -> None:
    expect = browser.playwright.expect
    page.goto("/compare?run=1")
    browser.title(page, "Compare")
    page.locator('td a[href^="/compare"][href*="position"]').first.click()
    page.wait_for_url("**position=**")
    expect(page.get_by_role("heading", name="One token in both runs")).to_be_visible()
    expect(page.locator("td", has_text="= logit")).to_be_visible()
    page.locator('td a[href*="unit=L"]').first.click()
    page.wait_for_url("**unit=**")
    expect(page.locator("th", has_text="over all positions")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="One token in both runs")).to_be_visible()
    page.get_by_role("link", name="in run 2").click()
    browser.title(page, "Token")
    assert browser.parameters(page)["run"] == "2"
