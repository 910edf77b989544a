"""The app in a real browser: text → token → neuron → another context, by the mouse.

With ANNOTATE_PICTURES=1 in the environment each page is also saved as docs/pictures/PAGE.png.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from browsing import CHROMIUM, parameters, playwright, quiet, serving, title
from pages import empty_store

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
PAGES = {
    "overview": "/?run=2",
    "text": "/text?run=2&document=1&colour=loss",
    "text-neuron": "/text?run=2&document=1&colour=neuron&neuron=L0N186",
    "token": "/token?run=1&position=300",
    "neuron": "/neuron?run=2&neuron=L3N7",
    "head": "/head?run=2&head=L1H2",
    "next_token": "/next_token?run=2&neuron=L3N359&prompt=3&head=L1H3",
    "search": "/search?run=2&q=capital",
    "compare": "/compare?run=1&other=2",
    "sql": "/sql?run=2&query=SELECT%20token,%20next_rank%20FROM%20positions%20LIMIT%2020",
    "prompt": "/prompt?run=2&text=Dublin%20is%20the%20capital%20of&at=4",
    "patch": "/patch?run=2&clean=The%20Congress%20of%20the&corrupted=The%20people%20of%20the&of=%20city",
}

LOOKUPS = "Next-token neurons"
TITLES = (
    "Search",
    "Text",
    "Token",
    "Neuron",
    "Head",
    LOOKUPS,
    "Compare",
    "SQL",
    "Prompt",
    "Patch",
    "Overview",
)
PATHS = {name: name.lower() for name in TITLES} | {"Overview": "", LOOKUPS: "next_token"}


def test_the_walk_from_a_text_to_other_contexts(page: Any) -> None:
    page.goto("/?run=2")
    title(page, "Overview")
    page.get_by_role("link", name="Text", exact=True).click()
    title(page, "Text")
    page.locator(".text a").nth(40).click()
    title(page, "Token")
    first = parameters(page)["position"]
    page.locator('td a[href^="/neuron"]').first.click()
    title(page, "Neuron")
    name = parameters(page)["neuron"]
    playwright.expect(page.locator("h1")).to_contain_text(name)
    page.locator("a.example").nth(3).click()
    title(page, "Token")
    assert parameters(page)["position"] != first
    page.locator('td a[href^="/head"]').first.click()
    title(page, "Head")


@pytest.mark.soak
def test_the_back_button_goes_the_walk_backwards(page: Any) -> None:
    page.goto("/token?run=1&position=300")
    title(page, "Token")
    page.locator(".more", has_text="token after").click()
    page.wait_for_url("**position=301**")
    playwright.expect(page.locator("text=position 301 ·")).to_be_visible()
    page.locator('td a[href^="/neuron"]').first.click()
    title(page, "Neuron")
    page.go_back()
    title(page, "Token")
    playwright.expect(page.locator("text=position 301 ·")).to_be_visible()
    page.go_back()
    playwright.expect(page.locator("text=position 300 ·")).to_be_visible()
    page.go_forward()
    playwright.expect(page.locator("text=position 301 ·")).to_be_visible()


@pytest.mark.soak
def test_a_choice_is_in_the_address_and_back_undoes_it(page: Any) -> None:
    page.goto("/token?run=1&position=300")
    title(page, "Token")
    page.get_by_text("the model's top prediction", exact=True).click()
    page.wait_for_url("**toward=top**")
    page.go_back()
    chosen = page.get_by_test_id("stButtonGroup").get_by_role("radio", checked=True)
    playwright.expect(chosen.last).to_contain_text("the next token")  # an old one may still be there


@pytest.mark.soak
def test_an_expression_opens_by_clicks(page: Any) -> None:
    page.goto("/token?run=1&position=300")
    title(page, "Token")
    page.get_by_text("The logit as an expression, term by term").click()
    for part in ("L3", "L3attn", "L3H2"):
        page.locator(".written").get_by_text(part, exact=True).click()
        page.wait_for_url(f"**expand={part}")
        quiet(page)
    playwright.expect(page.locator(".written")).to_contain_text("L3H2 other sources")
    page.get_by_text("LaTeX", exact=True).click()
    playwright.expect(page.locator(".katex")).to_contain_text("L3H2 other sources")
    page.go_back()
    playwright.expect(page.locator(".katex")).to_have_count(0)
    quiet(page)
    page.locator(".written").get_by_text("L3", exact=True).click()
    playwright.expect(page.locator(".written")).not_to_contain_text("L3attn")
    assert "expand" not in parameters(page)


def test_a_link_shows_the_same_again(page: Any) -> None:
    page.goto("/text?run=1&document=2&colour=mlp&layer=2&toward=top")
    title(page, "Text")
    playwright.expect(page.locator(".legend")).to_contain_text("layer 2's MLP on the top prediction (logits)")
    assert parameters(page) == {"run": "1", "document": "2", "colour": "mlp", "layer": "2", "toward": "top"}


def test_hovering_tells_the_numbers(page: Any) -> None:
    page.goto("/text?run=1&document=1")
    title(page, "Text")
    told = page.locator(".text a").nth(5).get_attribute("title")
    assert re.search(r"loss: \d+\.\d{3}\nnext .* \(p 0\.\d{3}, rank \d+\); top prediction", told)


def test_the_pointer_on_a_token_shows_its_attention(page: Any) -> None:
    page.goto("/token?run=1&position=300&pattern=L1H2")
    page.wait_for_selector(".pattern", timeout=60_000)  # the model is loaded the first time
    title(page, "Token")
    box = page.locator(".pattern")
    tokens, told = box.locator(".text a"), box.locator("output")
    rows = json.loads(box.get_attribute("data-rows"))
    tokens.nth(20).hover()
    source = max(range(21), key=lambda j: rows[20][j])
    playwright.expect(told).to_contain_text(f"{20 - source} token")
    playwright.expect(told).to_contain_text(f": {rows[20][source]:.3f}")
    shade = "token => +token.style.background.split(',').at(-1).replace(')', '')"
    largest = float(box.get_attribute("data-largest"))
    for j in (3, 19, 25):
        value = rows[20][j] if j <= 20 else rows[j][20]
        assert tokens.nth(j).evaluate(shade) == pytest.approx(0.65 * value / largest, abs=0.01)
    picture = box.locator("img")
    side = picture.bounding_box()["width"] / len(rows)
    picture.hover(position={"x": 5.5 * side, "y": 30.5 * side})
    playwright.expect(told).to_contain_text(f"25 tokens back: {rows[30][5]:.3f}")


@pytest.mark.soak
def test_a_click_on_a_heading_sorts(page: Any) -> None:
    page.goto("/token?run=1&position=300")
    title(page, "Token")
    table = page.locator("table", has=page.locator("th", has_text="activation")).first
    table.locator("th", has_text="activation").click()
    values = [float(cell.get_attribute("data-value")) for cell in table.locator("td:nth-child(2)").all()]
    assert values == sorted(values, reverse=True)


@pytest.mark.soak
def test_another_run_shows_the_same_place(page: Any) -> None:
    page.goto("/token?run=1&position=300")
    title(page, "Token")
    before = page.locator("mark").first.inner_text()
    page.get_by_test_id("stSelectbox").first.click()
    page.get_by_role("option").nth(1).click()
    page.wait_for_url("**run=2**")
    quiet(page)
    assert page.locator("mark").first.inner_text() == before
    assert int(parameters(page)["position"]) != 300


def test_a_hostile_corpus_does_nothing(chromium: Any, odd: Path) -> None:
    with serving(odd) as address:
        tab = chromium.new_page(base_url=address)
        alerts: list[str] = []
        tab.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
        for path in (
            "/?run=1",
            "/text?run=1&document=0",
            "/token?run=1&position=12",
            "/neuron?run=1&neuron=L1N3",
        ):
            tab.goto(path)
            tab.wait_for_selector("h1")
            quiet(tab)
            assert tab.locator(".linked script, .linked img").count() == 0
        tab.goto("/text?run=1&document=0")
        title(tab, "Text")
        assert "<script>alert('x')</script>" in tab.locator(".text").inner_text()
        assert alerts == []
        tab.close()


def follow(page: Any, href: str) -> None:
    """As app/browser/linked.py follows a link."""
    page.evaluate("href => history.pushState({}, '', href)", href)
    page.evaluate("dispatchEvent(new PopStateEvent('popstate'))")


def test_every_page_of_two_runs_and_its_wrong_addresses(page: Any) -> None:
    page.goto("/")
    title(page, "Overview")
    for number, name in enumerate((*TITLES, *TITLES)):
        follow(page, f"/{PATHS[name]}?run={1 + number // len(TITLES)}")
        title(page, name)
        assert page.get_by_test_id("stException").count() == 0
    for run, name in enumerate(TITLES, 90):
        follow(page, f"/{PATHS[name]}?run={run}")
        playwright.expect(page.get_by_text(f"There is no run {run}; the store has 1, 2.")).to_be_visible()


@pytest.mark.soak
def test_every_page_of_an_empty_store(chromium: Any, tmp_path: Path) -> None:
    with serving(empty_store(tmp_path)) as address:
        tab = chromium.new_page(base_url=address)
        tab.goto("/")
        title(tab, "Overview")
        for name in TITLES:
            follow(tab, f"/{PATHS[name]}")
            title(tab, name)
            playwright.expect(tab.get_by_text("has no run yet")).to_be_visible()
        tab.close()


@pytest.mark.skipif("ANNOTATE_PICTURES" not in os.environ, reason="ANNOTATE_PICTURES=1 makes the pictures")
@pytest.mark.parametrize("name", PAGES)
def test_pictures(page: Any, name: str) -> None:
    page.goto(PAGES[name])
    page.wait_for_selector("h1")
    quiet(page)
    page.wait_for_timeout(1500)  # charts draw after the script has ended
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")
    assert (PICTURES / f"{name}.png").stat().st_size < 400_000
