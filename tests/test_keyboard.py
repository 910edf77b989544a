"""The app by keyboard alone, in a real browser; and axe-core, which checks each page for accessibility."""

from collections.abc import Iterator
from typing import Any

import pytest

from browsing import CHROMIUM, parameters, playwright, quiet, tab, title

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
PAGES = (
    "/?run=2",
    "/text?run=1&document=1&colour=loss",
    "/token?run=1&position=300",
    "/token?run=1",
    "/neuron?run=1&neuron=L3N7",
    "/head?run=1&head=L1H2",
    "/head?run=1",
    "/next_token?run=2",
    "/contrasts?run=1",
    "/search?run=1&q=capital",
    "/search?run=1",
    "/compare?run=1&other=2",
    "/training",
    "/sql?run=1&query=SELECT%20token,%20next_rank%20FROM%20positions%20LIMIT%2020",
    "/prompt?run=1",
    "/patch?run=1",
)


@pytest.fixture
def themed(chromium: Any, server: str, theme: str) -> Iterator[Any]:
    with tab(chromium, server, color_scheme=theme) as page:
        yield page


@pytest.mark.parametrize(("theme", "paths"), [("light", PAGES), ("dark", PAGES[:4])])
def test_axe_finds_nothing_serious(themed: Any, paths: tuple[str, ...]) -> None:
    found = []
    for path in paths:
        themed.goto(path)
        themed.wait_for_selector("h1")
        quiet(themed)
        violations = axe.Axe().run(themed, options={"runOnly": RULES}).response["violations"]
        found += [
            (path, each["id"], node["target"], node["failureSummary"])
            for each in violations
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]
    assert found == []


def search(page: Any, text: str) -> None:
    box = page.get_by_test_id("stSidebar").get_by_label("Search", exact=True)
    box.fill(text)
    box.press("Enter")


def focused(page: Any) -> str:
    """The name of the element that has the focus, in whatever component it is."""
    return str(
        page.evaluate(
            "() => { let e = document.activeElement;"
            " while (e.shadowRoot?.activeElement) e = e.shadowRoot.activeElement;"
            " return e.localName + ' ' + e.textContent.trim() }"
        )
    )


def test_from_the_search_box_to_a_token_and_its_head(page: Any) -> None:
    page.goto("/?run=1")
    title(page, "Overview")
    search(page, "1:9")
    page.wait_for_url("**/token?**")
    title(page, "Token")
    page.wait_for_function("() => document.activeElement.localName === 'h1'")
    position = int(parameters(page)["position"])
    page.keyboard.press("ArrowRight")
    page.wait_for_url(f"**position={position + 1}")
    playwright.expect(page.get_by_text("1:10 (document:token)")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(f"**position={position}")
    head = page.locator('td a[href^="/head"]').first
    quiet(page)
    head.focus()
    page.keyboard.press("Enter")
    title(page, "Head")
    page.wait_for_function("() => document.activeElement.localName === 'h1'")
    assert page.title() == f"{page.locator('h1').inner_text().removeprefix('Head ')} · run 1"


def test_the_sidebar_keeps_what_was_looked_at(page: Any) -> None:
    page.goto("/token?run=1&position=300")
    title(page, "Token")
    search(page, "l1h2")
    title(page, "Head L1H2")
    for name, kept in (("Token", "position=300"), ("Head", "head=L1H2"), ("Text", "position=300")):
        page.get_by_test_id("stSidebar").get_by_role("link", name=name, exact=True).click()
        page.wait_for_url(f"**/{name.lower()}?**{kept}**")
        title(page, name)
    seen = page.get_by_role("navigation", name="Seen last").get_by_role("link").all_inner_texts()
    assert seen[0] == "L1H2" and len(seen) == 2  # the text at a position is the token's own


def test_arrow_keys_go_through_a_text_that_one_tab_reaches(page: Any) -> None:
    page.goto("/text?run=1&document=1")
    title(page, "Text")
    tokens = page.locator(".text a")
    playwright.expect(tokens.nth(50)).to_be_visible()
    assert page.locator('.text a[tabindex="0"]').count() == 1
    tokens.first.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert focused(page) == f"a {tokens.nth(3).inner_text().strip()}"
    page.keyboard.press("ArrowLeft")
    assert (
        page.locator('.text a[tabindex="0"]').evaluate("e => [...e.parentElement.children].indexOf(e)") == 2
    )


def test_a_table_is_sorted_and_walked_by_keys(page: Any) -> None:
    page.goto("/token?run=1&position=300")
    title(page, "Token")
    table = page.locator("table", has=page.locator("th", has_text="activation")).first
    table.locator("th", has_text="activation").get_by_role("button").focus()
    page.keyboard.press("Enter")
    values = [float(cell.get_attribute("data-value")) for cell in table.locator("td:nth-child(2)").all()]
    assert values == sorted(values, reverse=True) and len(values) > 2
    assert table.locator("th", has_text="activation").get_attribute("aria-sort") == "descending"
    links = table.locator("td:first-child a")
    links.first.focus()
    page.keyboard.press("ArrowDown")
    assert focused(page) == f"a {links.nth(1).inner_text().strip()}"


def test_back_returns_to_where_the_page_was_left(page: Any) -> None:
    page.goto("/neuron?run=1&neuron=L3N7")
    title(page, "Neuron")
    main = page.get_by_test_id("stMain")
    context = page.locator("a.example").last
    context.scroll_into_view_if_needed()
    left = main.evaluate("e => e.scrollTop")
    assert left > 100
    context.click()
    title(page, "Token")
    assert main.evaluate("e => e.scrollTop") == 0
    page.go_back()
    title(page, "Neuron")
    page.wait_for_function(
        "left => Math.abs(document.querySelector('[data-testid=stMain]').scrollTop - left) < 60", arg=left
    )


def test_after_fast_steps_the_page_is_that_of_the_address(page: Any) -> None:
    page.goto("/token?run=1&position=300")
    title(page, "Token")
    playwright.expect(page.locator("a[data-key=ArrowRight]")).to_be_visible()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(60)
    playwright.expect(page.locator(".linked", has_text="(document:token)")).to_contain_text("position 3")
    quiet(page)
    page.wait_for_timeout(500)
    quiet(page)
    position = parameters(page)["position"]
    assert int(position) > 300
    playwright.expect(page.get_by_text(f"position {position} ·")).to_be_visible()


def test_the_index_of_sections_stays_in_view_and_leads_to_them(page: Any) -> None:
    page.goto("/token?run=1&position=300")
    title(page, "Token")
    quiet(page)
    index = page.get_by_role("navigation", name="Sections of this page")
    button = index.get_by_role("button", name="Logit lens", exact=True)
    button.focus()
    page.keyboard.press("Enter")
    assert focused(page) == "h3 Logit lens"
    playwright.expect(index).to_be_in_viewport(ratio=1)
    playwright.expect(page.locator("h3", has_text="Logit lens")).to_be_in_viewport(ratio=1)
    playwright.expect(page.locator("h1")).not_to_be_in_viewport()
