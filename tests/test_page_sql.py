"""The SQL page: what one asks is in the address, runs within limits, and is shown as text alone."""

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import duckdb
import pytest

pytest.importorskip("streamlit.testing.v1")

import browsing as browser
from annotate_transformer.app.browser import limited, parts
from annotate_transformer.store.restricted import restricted
from pages import Show, box, button, html

EVERY_TYPE = """
    SELECT i AS number, NULL::INTEGER AS nothing, NULL::VARCHAR AS no_text, 1.5::DECIMAL(5, 2) AS decimal,
           DATE '2020-01-02' AS date, [1, 2] AS list, {'a': 1} AS struct, '\\xAA'::BLOB AS blob,
           'NaN'::FLOAT AS nan, 'inf'::DOUBLE AS infinite, i > 1 AS yes, 7::UTINYINT AS small,
           TIMESTAMPTZ '2020-01-02 03:04:05+00' AS instant, uuid() AS id, MAP {'a': 1} AS map,
           170141183460469231731687303715884105727::HUGEINT AS huge, INTERVAL 3 DAY AS days,
           NULL::BIGINT AS position_id, ' t' AS token
    FROM range(3) r(i)"""


def links_of(shown: str) -> list[dict[str, str]]:
    """The parameters of every link to this page."""
    found = re.findall(r'href="(/sql\?[^"]*)"', shown)
    return [
        {name: value[0] for name, value in parse_qs(urlsplit(unescape(href)).query).items()} for href in found
    ]


def chart(test: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(test._tree.get("vega_lite_chart")[0].proto.spec)
    return found


# What is shown ------------------------------------------------------------------------------------


def test_nothing_runs_before_it_is_asked(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "ask", None)
    test = show("sql")
    assert "Result" not in [heading.value for heading in test.subheader]
    assert any("10,000 rows, 10 seconds and 512 MB" in caption.value for caption in test.caption)


def test_the_views_are_at_hand_with_their_comments(show: Show, two_steps: Path) -> None:
    shown = unescape(html(show("sql", run=1)))
    with duckdb.connect(str(two_steps), read_only=True) as con:
        views = "SELECT view_name, comment FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal"
        for name, comment in con.execute(views).fetchall():
            assert f"<b>{name}</b> {comment}" in shown
            assert {"run": "1", "query": f"FROM {name} LIMIT 100"} in links_of(html(show("sql", run=1)))
    assert "<b>decomposition(position_id)</b>" in shown


def test_every_example_is_a_link_that_runs(show: Show, two_steps: Path) -> None:
    queries = [
        link["query"] for link in links_of(html(show("sql", run=2))) if link["query"].startswith("-- ")
    ]
    files = sorted((Path(__file__).parent.parent / "examples" / "queries").glob("*.sql"))
    assert len(queries) == len(files) > 20
    for query, file in zip(queries, files, strict=True):
        assert query.startswith(file.read_text().split("\n")[0].replace("title: ", ""))
        with duckdb.connect(str(two_steps), read_only=True) as con:
            assert con.execute(query).fetchall(), file.name


def test_a_query_is_run_from_its_link(show: Show, two_steps: Path) -> None:
    query = (
        "SELECT position_id, token FROM positions WHERE run_id = 2 AND token LIKE ' %' ORDER BY ALL LIMIT 3"
    )
    test = show("sql", query=query)
    assert box(test, "SQL").value == query
    assert query in [code.value for code in test.code]
    for position, token in restricted(two_steps, query).frame.itertuples(index=False):
        assert f'<a href="/token?position={position}">{position}</a>' in html(test)
        assert f'<span class="token"><i>·</i>{token.strip()}</span>' in html(test)


def test_run_puts_the_query_into_the_address(show: Show) -> None:
    test = show("sql", query="SELECT 1 AS a, 2 AS b FROM range(2)", x="b", y="a")
    box(test, "SQL").input("SELECT 41 + 1 AS answer")
    button(test, "Run").click().run()
    assert not test.exception
    assert test.query_params["query"] == "SELECT 41 + 1 AS answer"
    assert "x" not in test.query_params
    assert 'data-value="42"' in html(test)


def test_html_in_an_answer_is_text(show: Show) -> None:
    attack = "'<img src=x onerror=alert(1)>'"
    columns = f'{attack} AS "<script>a</script>", {attack} AS token, [{attack}] AS list, 1 AS n'
    query = f"SELECT {columns} FROM range(2)"
    test = show("sql", query=query)
    assert not re.search("<(script|img)", html(test))
    assert html(test).count("&lt;img src=x onerror=alert(1)&gt;") >= 4
    for text in (*test.markdown, *test.caption, *test.title, *test.subheader):
        assert "onerror" not in text.value


@pytest.mark.parametrize("x", ["number", "nothing", "list", "nan", "instant", "days", "infinite", "token"])
def test_any_type_is_shown_drawn_and_downloaded(show: Show, x: str) -> None:
    test = show("sql", query=EVERY_TYPE, x=x)
    assert chart(test)
    assert "nan" not in html(test).split("</table>")[-2].replace("<button>nan", "").lower()
    frame = limited.ask(EVERY_TYPE)
    assert parts._csv(frame).startswith(b"number,nothing")
    assert parts._parquet(frame)


@pytest.mark.parametrize(
    ("query", "mark"),
    [
        ("SELECT range AS a, 2 * range AS b FROM range(5)", "line"),
        ("SELECT range::VARCHAR AS a, range AS b FROM range(5)", "bar"),
        ("SELECT 'same' AS a, range AS b FROM range(5)", "point"),
    ],
)
def test_the_chart_fits_what_is_across(show: Show, query: str, mark: str) -> None:
    drawn = chart(show("sql", query=query))
    assert drawn["mark"]["type"] == mark
    assert [drawn["encoding"][axis]["title"] for axis in "xy"] == ["a", "b"]


def test_a_choice_of_columns_is_in_the_address(show: Show) -> None:
    test = show("sql", query="SELECT range AS a, 2 * range AS b, -range AS c FROM range(5)", x="b")
    test.selectbox(key="y").select("c").run()
    assert (test.query_params["x"], test.query_params["y"]) == ("b", "c")
    assert chart(test)["encoding"]["y"]["title"] == "c"


def test_a_cut_answer_says_so(show: Show) -> None:
    test = show("sql", query="FROM range(20_000)")
    assert any("cut at 10,000 rows" in badge.value for badge in test.markdown)
    assert any("The query has more rows than these" in caption.value for caption in test.caption)
    whole = show("sql", query="FROM range(10_000)")
    assert not any("cut at" in badge.value for badge in whole.markdown)


def test_an_answer_is_asked_once(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(path: Path, query: str, **limits: Any) -> Any:
        asked.append(query)
        return restricted(path, query, **limits)

    monkeypatch.setattr(limited, "restricted", counted)
    for _ in range(2):
        show("sql", query="SELECT 'asked once' AS it")
    assert asked == ["SELECT 'asked once' AS it"]


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.some(4)
@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("SELECT 1; SELECT 2", "The query has 2 statements; only one SELECT is allowed."),
        ("COPY runs TO '/tmp/out.csv'", "Only SELECT is allowed here, not COPY."),
        ("ATTACH '/tmp/x.duckdb'", "Only SELECT is allowed here, not ATTACH."),
        ("SET memory_limit = '9GB'", "Only SELECT is allowed here, not SET."),
        ("DELETE FROM base.run", "Only SELECT is allowed here, not DELETE."),
        ("FROM read_text('/etc/passwd')", "Permission Error"),
        ("FROM '/etc/passwd.csv'", "Error"),
        ("-- nothing", "There is no statement in this query."),
        ("SELECT $run", "Error"),
        ("SELEC <b>1</b>", "Parser Error: syntax error"),
        ("SELECT 1" + " " * 20_000 + "--", "is longer than 20,000 characters"),
    ],
)
def test_what_is_refused_is_a_sentence(show: Show, query: str, sentence: str) -> None:
    test = show("sql", query=query)
    assert sentence in unescape(html(test))
    assert "root:" not in html(test)
    assert "<b>1</b>" not in html(test)
    assert "Result" not in [heading.value for heading in test.subheader]


def test_a_slow_query_is_stopped(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "SECONDS", 0.3)
    assert "took longer than 0.3 s" in html(
        show("sql", query="SELECT count(*) FROM range(1_000_000_000_000)")
    )


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"x": "z"}, "x is one of a, b"),
        ({"y": "z"}, "y is one of b, a"),
        ({"run": 99}, "There is no run 99"),
    ],
)
def test_a_wrong_address_is_a_sentence(show: Show, parameters: dict[str, Any], sentence: str) -> None:
    query = "SELECT range AS a, range AS b FROM range(3)"
    assert sentence in html(show("sql", query=query, **parameters))


# How many at once ---------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Queries that run until the event is set."""
    until = threading.Event()

    def waits(path: Path, query: str, **limits: Any) -> Any:
        until.wait(30)
        return restricted(path, query, **limits)

    monkeypatch.setattr(limited, "restricted", waits)
    monkeypatch.setattr(limited, "PATIENCE", 0.2)
    yield until
    until.set()


def test_a_third_query_at_once_is_a_sentence(show: Show, slow: threading.Event) -> None:
    show("sql")  # the store is known from here
    with ThreadPoolExecutor(2) as two:
        running = [two.submit(limited.ask, f"SELECT {n} AS slow") for n in range(2)]
        deadline = time.monotonic() + 20
        while limited.places._value and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "2 other queries are running. Run yours again" in html(show("sql", query="SELECT 3 AS slow"))
        slow.set()
        assert [len(query.result()) for query in running] == [1, 1]
    assert 'data-value="3"' in html(show("sql", query="SELECT 3 AS slow"))
    assert limited.places._value == limited.AT_ONCE


def test_a_refused_query_gives_its_place_back(show: Show) -> None:
    for n in range(3):
        show("sql", query=f"SELECT no_such_column_{n}")
    assert limited.places._value == limited.AT_ONCE


# In a browser -------------------------------------------------------------------------------------


@pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no chromium")
def test_a_query_is_typed_run_and_gone_back_from(page: Any) -> None:
    expect = browser.playwright.expect
    page.goto("/sql?" + urlencode({"run": 1, "query": "SELECT 'one' AS which"}))
    browser.title(page, "SQL")
    expect(page.get_by_role("cell", name="one", exact=True)).to_be_visible()
    page.locator("textarea").fill("SELECT 'another' AS which")
    page.locator("textarea").press("Control+Enter")
    page.wait_for_url("**another**")
    expect(page.get_by_role("cell", name="another", exact=True)).to_be_visible()
    page.go_back()
    expect(page.get_by_role("cell", name="one", exact=True)).to_be_visible()
    expect(page.locator("textarea")).to_have_value("SELECT 'one' AS which")
    page.get_by_role("tab", name="Example queries").click()
    page.get_by_role("link", name="Loss by position in the window").click()
    page.wait_for_url("**Loss+by+position**")
    expect(page.locator("textarea")).to_have_value(re.compile("-- Loss by position in the window"))
    expect(page.locator("th", has_text="mean_loss")).to_be_visible()
    expect(page.locator('[data-testid="stVegaLiteChart"]')).to_be_visible()
