"""The page of look-ups: what it shows is what a plain reading of the store's views gives."""

import re
import shutil
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
import scipy

pytest.importorskip("streamlit.testing.v1")

import browsing as browser
from annotate_transformer import store
from annotate_transformer.app.browser import answers
from annotate_transformer.app.present.words import p_value
from annotate_transformer.store.names import head_name, neuron_name, source_name
from pages import Show, html, odd_store, titles

CHOSEN, DRAWN = "L3N359", "L3N90"
KEY = "run_id = 2 AND layer = 3 AND neuron = "


def table(test: Any, heading: str) -> list[list[str]]:
    """The cells, as text, of the table that has this column."""
    for found in re.findall(r"<table>.*?</table>", html(test), re.DOTALL):
        if f">{heading}</button></th>" in found:
            rows = re.findall(r"<tr>(.*?)</tr>", found.split("<tbody>")[1], re.DOTALL)
            cells = (re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows)
            return [[unescape(re.sub(r"<[^>]*>", "", cell)) for cell in row] for row in cells]
    raise AssertionError(f"no table has a column {heading!r}")


def of_neuron(db: Path, view: str, neuron: int = 359) -> pd.DataFrame:
    return store.open(db).sql(f"FROM {view} WHERE {KEY} {neuron}")


# What is shown ------------------------------------------------------------------------------------


def test_neurons_and_beside_them_those_drawn_by_chance(show: Show, two_steps: Path) -> None:
    test, lookups = (
        show("next_token", run=2),
        store.open(two_steps).sql("FROM next_token_neurons WHERE run_id = 2"),
    )
    shown = unescape(html(test))
    parts = shown.split("next-token</button></th>")
    assert {"Next-token neurons", "Random sample: the baseline"} <= {*titles(test)}
    for row in lookups.itertuples():
        link = f"/next_token?run=2&neuron={neuron_name(row.layer, row.neuron)}"
        assert link in parts[2 if row.is_baseline else 1]
        assert link not in parts[1 if row.is_baseline else 2]
    published = store.open(two_steps).sql("FROM published_scores")
    for row in published.itertuples():
        assert f"published: {row.model}" in shown and f"{row.balanced_accuracy:.3f}" in shown


def test_a_token_chooses_its_neurons(show: Show) -> None:
    test = show("next_token", run=2)
    test.selectbox(key="token").select('" Minister"').run()
    assert not test.exception
    assert test.query_params["token"] == '" Minister"'
    rows = table(test, "next-token")
    assert [(row[0], row[1]) for row in rows] == [("·Minister", CHOSEN)]


def test_prompts_are_coloured_by_what_is_stored(show: Show, two_steps: Path) -> None:
    s, prompts = store.open(two_steps), of_neuron(two_steps, "prompts")
    test = show("next_token", run=2, neuron=CHOSEN)
    rows = table(test, "activation, prompt alone")
    different = prompts[prompts.duplicate_of.isna()].set_index("prompt").sort_index()
    assert [int(row[0]) for row in rows] == different.index.tolist() != prompts.prompt.tolist()
    for row, (number, prompt) in zip(rows, different.iterrows(), strict=True):
        assert row[1] == prompt.text
        assert row[2:4] == [f"{prompt.activation:+.3f}", f"{prompt.window_activation:+.3f}"]
        assert int(row[4]) == 1 + (prompts.duplicate_of == number).sum()
    kept = s.sql(f"FROM neurons WHERE {KEY} 359").set_index("position_id").activation.round(3)
    bounds = (
        s.sql("FROM neuron_bounds WHERE run_id = 2 AND layer = 3").set_index("position_id").activation_bound
    )
    told = re.findall(r"L3N359 in the corpus: (.*?)\nposition (\d+)", unescape(html(test)))
    last = {*different.position_id}
    assert last < {int(at) for _, at in told}
    for words, at in told:
        here = int(at)
        if here in last:
            most = different.set_index("position_id").window_activation[here]
            assert words == f"{most:.3f}" and kept.get(here, most) == pytest.approx(most, abs=1e-3)
        elif here in kept.index:
            assert words == f"{kept[here]:.3f}"
        else:
            assert words == f"at most {bounds[here]:.3f} in size"


@pytest.mark.soak
def test_prompts_of_a_hostile_corpus_with_a_bos_and_strides(
    show: Show, tmp_path: Path, tiny_model: Path
) -> None:
    from annotate_transformer.ingest.models.model import Model
    from annotate_transformer.ingest.models.names import resolve
    from annotate_transformer.ingest.next_token.ablation import ablate
    from annotate_transformer.ingest.next_token.prompts import PromptSettings, look_up

    db, model = odd_store(tmp_path, tiny_model), Model(resolve(str(tiny_model)))
    look_up(
        model,
        str(db),
        1,
        [(1, n) for n in range(3)],
        PromptSettings(windows=5, max_tokens=40, std_threshold=0.5),
    )
    ablate(model, str(db), 1)
    prompts = store.open(db).sql("FROM prompts WHERE duplicate_of IS NULL")
    tokens = 0
    for neuron, of_neuron in prompts.sort_values("prompt").groupby("neuron"):
        asked = {"run": 1, "layer": 1, "neuron": neuron}
        found = store.open(db).sql(answers.queries()["prompt_tokens"], asked).groupby("prompt")
        assert found.size().tolist() == (of_neuron.tokens - 1).tolist(), "all but the BOS"
        test = show("next_token", db, run=1, neuron=f"L1N{neuron}")
        assert len(table(test, "activation, prompt alone")) == len(of_neuron)
        assert not re.search("<(script|img)|[\u202e\x07\x00]", html(test))
        tokens += of_neuron.tokens.max()
    assert tokens > 20


@pytest.mark.parametrize("neuron", [359, 90])
def test_active_heads_are_marked_and_relevant_ones_come_first(
    show: Show, two_steps: Path, neuron: int
) -> None:
    """Against the paper's rule in NumPy: mean and standard deviation over all earlier heads of a prompt."""
    inputs, prompts = of_neuron(two_steps, "prompt_inputs", neuron), of_neuron(two_steps, "prompts", neuron)
    shares = inputs[
        (inputs.component == "head") & inputs.prompt.isin(prompts.prompt[prompts.duplicate_of.isna()])
    ]
    grid = shares.pivot(index="prompt", columns=["source_layer", "source_head"], values="value")
    values = grid.to_numpy(dtype="float64")
    active = values > values.mean(1, keepdims=True) + 1.5 * values.std(1, keepdims=True)
    share = active.mean(0)
    names = [head_name(*head) for head in grid.columns]
    relevant = {name: of for name, of in zip(names, share, strict=True) if 0.25 <= of <= 0.75}
    test = show("next_token", run=2, neuron=f"L3N{neuron}")
    headings = re.findall(r"<th[^>]*><button>(L\dH\d[^<]*)</button></th>", html(test))
    first, others = headings[: len(relevant)], headings[len(relevant) :]
    assert {heading.split()[0]: heading.split()[1] for heading in first} == {
        name: f"{of:.0%}" for name, of in relevant.items()
    }
    assert sorted(heading.split()[0] for heading in headings) == sorted(names)
    assert not any("%" in heading for heading in others)
    rows = table(test, headings[0])
    for row, wanted, marks in zip(rows, values, active, strict=True):
        for heading, cell in zip(headings, row[1:], strict=True):
            at = names.index(heading.split()[0])
            assert cell == ("●" if marks[at] else "") + f"{wanted[at]:+.2f}"


def test_a_prompts_shares_sum_to_its_pre_activation(show: Show, two_steps: Path) -> None:
    test = show("next_token", run=2, neuron=CHOSEN, prompt=4, head="l1h3")
    inputs, prompts = of_neuron(two_steps, "prompt_inputs"), of_neuron(two_steps, "prompts")
    wanted = {
        source_name(row): f"{row['value']:+.3f}" for row in inputs[inputs.prompt == 4].to_dict("records")
    }
    rows = table(test, "share of the pre-activation")
    assert dict(rows) == wanted and len(rows) == len(wanted)
    assert all(abs(float(a[1])) >= abs(float(b[1])) for a, b in pairwise(rows))
    whole = prompts.set_index("prompt").pre_activation[4]
    assert np.isclose(inputs[inputs.prompt == 4].value.astype(float).sum(), whole, atol=1e-4)
    assert any(
        f"They sum to the pre-activation {whole:+.3f} within" in caption.value for caption in test.caption
    )
    assert '/next_token?run=2&neuron=L3N359&prompt=5&head=L1H3" class="cell"' in unescape(html(test))
    assert test.selectbox(key="head").value == "L1H3"


@pytest.mark.parametrize("name", [CHOSEN, DRAWN])
def test_explanations_stand_beside_their_baseline_and_ablations(
    show: Show, two_steps: Path, name: str
) -> None:
    s, test, neuron = store.open(two_steps), show("next_token", run=2, neuron=name), int(name[3:])
    told, lost = (frame[frame.neuron == neuron] for frame in (s.explanations(2), s.ablations(2)))
    for row, of in zip(table(test, "active when"), told.itertuples(), strict=True):
        beats = {True: "yes", False: "no", None: "—"}[of.beats_baseline]
        score = (
            f"{of.balanced_accuracy:.3f} ({of.balanced_accuracy_low:.2f} to {of.balanced_accuracy_high:.2f})"
        )
        head = head_name(of.source_layer, of.source_head)
        assert row[:3] == [head, "rules", of.text]
        assert row[3:5] == [f"{of.active_prompts:.0f} + {of.inactive_prompts:.0f}", score]
        assert row[5].startswith(f"{of.baseline:.3f} (") and row[7] == beats
        assert f"{of.baseline_neurons:.0f} neuron" in row[5]
    prompts = s.sql(f"FROM head_prompts WHERE {KEY} {neuron}")
    for row, of in zip(table(test, "active prompts (n)"), lost.itertuples(), strict=True):
        here = prompts[(prompts.source_layer == of.source_layer) & (prompts.source_head == of.source_head)]
        falls = here.activation.astype(float) - here.ablated_activation
        for cell, kind in zip(row[3:5], (here.is_active, ~here.is_active), strict=True):
            low, high = scipy.stats.t.interval(0.95, kind.sum() - 1, falls[kind].mean(), falls[kind].sem())
            margin = "—" if kind.sum() == 1 else f"{(high - low) / 2:.3f}"
            assert cell == f"{falls[kind].mean():+.3f} ± {margin}"
        assert row[1:3] == [f"{here.is_active.sum()}", f"{(~here.is_active).sum()}"]
        assert row[5] == f"{of.activation_distance:.2f}" and row[9] == f"{of.probability_distance:.2f}"
        assert [row[6], row[10]] == [p_value(of.activation_p), p_value(of.probability_p)]
    first = table(test, "active prompts (n)")[0][0]
    here = prompts[
        [head_name(*head) == first for head in zip(prompts.source_layer, prompts.source_head, strict=True)]
    ]
    rows = table(test, "held out")
    assert {(int(row[0].split()[0]), row[1], row[2]) for row in rows} == {
        (of.prompt, "active" if of.is_active else "inactive", "yes" if of.is_held_out else "no")
        for of in here.itertuples()
    }
    assert f"Prompts with and without {first}" in titles(test)


def test_a_language_models_explanations_stand_beside_the_rules(
    show: Show, two_steps: Path, tmp_path: Path
) -> None:
    """One that is right about every prompt held out, and one that was not given; no baseline of its own."""
    db = shutil.copy(two_steps, tmp_path / "words.duckdb")
    with duckdb.connect(str(db)) as con:
        for number, head, text, why in ((90, 0, "<b>Names</b>", None), (91, 1, None, "asked twice")):
            con.execute(
                """INSERT INTO base.explanation BY NAME SELECT ? AS explanation_id, 2 AS run_id, 3 AS layer,
                   359 AS neuron, ? AS source_layer, 3 AS source_head, 'language_model' AS method,
                   'words' AS language_model, 1 AS prompt_version, ? AS text, ? AS why_none,
                   1 AS seconds, now() AS made""",
                [number, head, text, why],
            )
        con.execute(
            f"""INSERT INTO base.explanation_answer SELECT 90, prompt, is_active, NULL, NULL, NULL, 1
                FROM base.head_prompt WHERE {KEY} 359 AND source_layer = 0 AND is_held_out"""
        )
    test = show("next_token", db, run=2, neuron=CHOSEN)
    rows = [row for row in table(test, "active when") if row[1] == "words"]
    assert [row[:3] for row in rows] == [
        ["L0H3", "words", "<b>Names</b>"],
        ["L1H3", "words", "none: asked twice"],
    ]
    assert rows[1][3:] == ["—"] * 8 and rows[0][5:8] == ["—"] * 3
    assert all(re.fullmatch(r"1\.000 \(0\.\d\d to 1\.00\)", rows[0][i]) for i in (4, 8, 9, 10))
    assert "<b>Names" not in html(test)
    one = ["words", "next-token", "1", "1", rows[0][3], *["1.000 (no interval)"] * 2]
    assert one in table(test, "neurons (n)")


def test_where_no_head_tells_the_prompts_apart_it_is_said(show: Show) -> None:
    test = show("next_token", run=2, neuron="L3N492")
    assert any("none is active on a quarter" in caption.value for caption in test.caption)
    assert "Ablation of each relevant head" not in titles(test)


def test_choosing_a_prompt_and_a_head_is_in_the_address(show: Show) -> None:
    test = show("next_token", run=2, neuron=CHOSEN)
    test.selectbox(key="prompt").select(5).run()
    test.selectbox(key="head").select("L2H2").run()
    assert not test.exception
    assert (test.query_params["prompt"], test.query_params["head"]) == ("5", "L2H2")
    assert "Inputs on prompt 5" in titles(test)
    assert any("L2H2 is active on too few" in caption.value for caption in test.caption)


def test_the_neurons_page_leads_here_and_back(show: Show) -> None:
    here, there = "/next_token?run=2&neuron=L3N359", "/neuron?run=2&neuron=L3N359"
    assert here in unescape(html(show("neuron", run=2, neuron=CHOSEN)))
    assert there in unescape(html(show("next_token", run=2, neuron=CHOSEN)))
    assert "/next_token?run=2&neuron" not in unescape(html(show("neuron", run=2, neuron="L3N7")))


def test_the_sql_shown_gives_the_rows_shown(show: Show, two_steps: Path) -> None:
    s = store.open(two_steps)
    for parameters in ({}, {"neuron": CHOSEN, "prompt": 4, "head": "L1H3"}):
        test = show("next_token", run=2, **parameters)
        assert len(test.code) == (8 if parameters else 3)
        for code in test.code:
            assert "$" not in code.value
            assert len(s.sql(code.value)), code.value


# What feeds a neuron, on its own page and on a token's ------------------------------------------------


def test_what_feeds_a_neuron_is_shown_where_it_was_computed(
    show: Show, two_steps: Path, tmp_path: Path
) -> None:
    from annotate_transformer.ingest.models.model import Model
    from annotate_transformer.ingest.models.names import resolve
    from annotate_transformer.ingest.next_token.prompts import annotate_inputs

    db = shutil.copy(two_steps, tmp_path / "x y.duckdb")
    at = int(store.open(db).neuron("L3N7", 2).contexts("high", 1).position_id[0])
    asked = f"`annotate inputs {at} L3N7 --db '{db}'` computes"
    assert asked in unescape(html(show("neuron", db, run=2, neuron="L3N7")))
    assert asked in unescape(html(show("token", db, position=at, neuron="l3n7")))
    kept = next(store.open(db).decomposition(at, "neuron").itertuples())
    assert f"inputs {at} {neuron_name(kept.layer, kept.neuron)}" in html(show("token", db, position=at))
    annotate_inputs(Model(resolve("neox-2m")), str(db), 2, at, (3, 7))
    inputs = store.open(db).neuron_inputs(at, "L3N7")
    wanted = [[source_name(row), f"{row['value']:+.3f}"] for row in inputs.to_dict("records")]
    for parameters in ({}, {"neuron": "l3n7"}):
        test = show("token", db, position=at, **parameters)
        assert table(test, "share of the pre-activation") == wanted
        assert "Inputs of L3N7" in titles(test)
    of_neuron = show("neuron", db, run=2, neuron="L3N7")
    assert table(of_neuron, "largest input from")[0][1:] == [f"{inputs.attrs['activation']:+.3f}", *wanted[0]]
    assert f"/token?run=2&position={at}&neuron=L3N7" in unescape(html(of_neuron))


# What cannot be -----------------------------------------------------------------------------------


def test_a_run_without_look_ups_says_which_command_makes_them(show: Show, two_steps: Path) -> None:
    for parameters in ({}, {"neuron": CHOSEN}):
        shown = unescape(html(show("next_token", run=1, **parameters)))
        assert f"<code>annotate next-token --run 1 --db {two_steps}</code> makes them" in shown


def test_what_was_not_done_yet_says_which_command_does_it(
    show: Show, two_steps: Path, tmp_path: Path
) -> None:
    db = shutil.copy(two_steps, tmp_path / "half.duckdb")
    with duckdb.connect(str(db)) as con:
        for made in ("head_prompt", "explanation", "explanation_answer"):
            con.execute(f"DELETE FROM base.{made}")
    shown = unescape(html(show("next_token", db, run=2, neuron=CHOSEN)))
    assert f"`annotate explain --run 2 --db {db}`" in shown
    assert f"`annotate next-token --run 2 --db {db}`" in shown


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"run": 99}, "There is no run 99; the store has 1, 2."),
        ({"token": "<script>"}, "token is one of"),
        ({"neuron": "<script>"}, "names neither a neuron nor a head"),
        ({"neuron": "L99N0"}, "no neuron L99N0, only L0N0 to L3N511"),
        ({"neuron": "L1H2"}, "L1H2 is not a neuron"),
        ({"neuron": "L3N7"}, "L3N7 is not among the 4 neurons of run 2 that have prompts"),
        ({"neuron": CHOSEN, "prompt": "two"}, "prompt is a whole number from 0 on"),
        (
            {"neuron": CHOSEN, "prompt": 9},
            "has no prompt 9; its distinct prompts are 1, 2, 3, 4, 5, 6, 7, 8, 10",
        ),
        (
            {"neuron": CHOSEN, "head": "L3H0"},
            "'L3H0' is not a head before L3N359; the heads before it are L0H0 to L2H3",
        ),
        ({"neuron": CHOSEN, "head": "<script>"}, "is not a head before L3N359"),
    ],
)
def test_a_wrong_address_is_a_sentence(show: Show, parameters: dict[str, Any], sentence: str) -> None:
    shown = html(show("next_token", **{"run": 2} | parameters))
    assert sentence in unescape(shown)
    assert "<script>" not in shown


# In a browser -------------------------------------------------------------------------------------


@pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no chromium")
def test_from_a_token_to_what_a_head_takes_from_its_neuron(page: Any) -> None:
    page.goto("/next_token?run=2")
    browser.title(page, "Next-token neurons")
    page.get_by_role("link", name=CHOSEN, exact=True).click()
    page.wait_for_url("**neuron=L3N359")
    browser.quiet(page)
    page.locator("tr", has_text="Lacey").get_by_text("●+0.78").click()
    page.wait_for_url("**prompt=4&head=L1H3")
    browser.quiet(page)
    browser.playwright.expect(
        page.get_by_role("heading", name="Prompts with and without L1H3")
    ).to_be_visible()
    browser.playwright.expect(page.locator(".cell.here")).to_be_in_viewport()
    page.get_by_role("link", name="the neuron's own page").click()
    browser.title(page, f"Neuron {CHOSEN}")
    page.get_by_role("link", name="prompts of this next-token neuron").click()
    browser.title(page, "Next-token neurons")
