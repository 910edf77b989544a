"""Search: each way of asking finds what plain SQL finds, and whatever is asked wrongly is a sentence."""

import html as entities
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from annotate_transformer import store
from annotate_transformer.app.browser import VARIABLE, answers
from annotate_transformer.app.browser.conditions import Condition, quoted, read, unquoted, written
from annotate_transformer.app.browser.pages import search as page_search
from annotate_transformer.store import neuron, position
from pages import Show, html

KEYS = {"topic", "loss"}


def places(test: Any) -> list[int]:
    """The positions of the lines on the page, in their order."""
    return [int(n) for n in re.findall(r'class="kwic" href="/token\?run=\d+&amp;position=(\d+)"', html(test))]


def searches(test: Any) -> list[dict[str, str]]:
    """The parameters of each link to this page."""
    found = re.findall(r'href="(/search\?[^"]*)"', html(test))
    queries = (parse_qs(urlsplit(entities.unescape(address)).query) for address in found)
    return [{name: values[0] for name, values in query.items()} for query in queries]


def badges(test: Any) -> str:
    return " ".join(each.value for each in test.markdown)


def positions(db: Path, where: str) -> list[int]:
    frame = store.open(db).sql(f"SELECT position_id FROM positions WHERE run_id = 1 AND {where} ORDER BY ALL")
    return [int(number) for number in frame.position_id]


# Conditions as text -------------------------------------------------------------------------------


def test_conditions_are_read_and_written() -> None:
    text = 'l3n07>2 AND L1H2 <= -.5e1 and topic != "a \\"b\\" and c" and next_rank = 3 and "loss" = 1'
    assert read(text, KEYS) == [
        Condition("L3N7", ">", 2),
        Condition("L1H2", "<=", -5.0),
        Condition("topic", "!=", 'a "b" and c', metadata=True),
        Condition("next_rank", "=", 3),
        Condition("loss", "=", "1", metadata=True),
    ]
    assert read(written(read(text, KEYS)), KEYS) == read(text, KEYS)


@pytest.mark.parametrize("text", [" the", '"', "a\\b", "\n", "and", "עברית", "😀"])
def test_quotes_keep_a_text(text: str) -> None:
    assert unquoted(quoted(text)) == text
    assert read(written([Condition("token", "=", text)]), ()) == [Condition("token", "=", text)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not a condition: write a name"),
        ("loss", "is not a condition: write a name"),
        ("token = the", "text in double quotes"),
        ("loss > 1 or loss < 0", "join conditions by `and`"),
        ("loss > 1 and", "is not a condition"),
        ("loss > 1; DROP TABLE x", "join conditions by `and`"),
        ('loss > "1"', "loss is a number: write it without quotes"),
        ("token = 3", "token is a text: write it in double quotes"),
        ('token < "a"', "compare it by = or !="),
        ("L3N7 = 2", "hardly ever equals a given number: ask L3N7 > 2"),
        ('tokn = "x"', "There is no 'tokn' to ask about; the names are L3N7, L1H2, loss"),
        ("L" + "9" * 5000 + "N1 > 2", "There is no 'L999"),
        ("loss > 1e999", "too large a number"),
        ('token = "\\x"', "within quotes write"),
        ('token = "\\ud800"', "a character that no stored text has"),
        ("token = \"a\0\"", "a character that no stored text has"),
        (" and ".join(["loss > 1"] * 21), "ask at most 20 at once"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(store.BadQuestion, match=re.escape(sentence)):
        read(text, KEYS)


def test_twenty_conditions_may_be_asked_at_once() -> None:
    assert len(read(" and ".join(["loss > 1"] * 20), KEYS)) == 20


# The ways of asking -------------------------------------------------------------------------------


def test_without_a_question_there_are_examples_that_work(show: Show) -> None:
    examples = searches(show("search", run=1))
    assert {example["as"] for example in examples} == {"text", "token", "regex", "conditions"}
    for example in examples:
        show("search", **example)


@pytest.mark.parametrize(("name", "page"), [("l3n7", "neuron"), ("L1H2", "head")])
def test_a_name_leads_to_its_page_and_strongest_contexts(
    show: Show, two_steps: Path, name: str, page: str
) -> None:
    test = show("search", run=1, q=name)
    assert f'href="/{page}?run=1&amp;{page}={name.upper()}"' in html(test)
    unit = getattr(store.open(two_steps), page)(name, 1)
    assert places(test) == [*unit.contexts("high", 12).position_id]


def test_a_text_is_found_over_the_borders_of_tokens(show: Show, two_steps: Path) -> None:
    found = store.open(two_steps).phrase("he cap", 1, limit=1000)
    test = show("search", run=1, q="he cap", limit=1000)
    assert places(test) == [*found.first_position_id]
    assert len(found)
    assert "<mark>he cap</mark>" in html(test)


def test_quotes_keep_a_texts_spaces(show: Show, two_steps: Path) -> None:
    spaced = store.open(two_steps).phrase(" the ", 1, limit=1000)
    test = show("search", run=1, q='" the "', limit=1000)
    assert places(test) == [*spaced.first_position_id]


def test_a_token_is_found_exactly_and_those_like_it_are_listed(show: Show, two_steps: Path) -> None:
    test = show("search", run=1, **{"as": "token"}, q='" the"', limit=1000)
    assert places(test) == positions(two_steps, "token = ' the'")
    like = store.open(two_steps).tokens(" the", "like", 1)
    assert len(like) > 1
    assert {quoted(token) for token in like.token} <= {each.get("q") for each in searches(test)}


def test_a_token_that_is_none_leads_to_those_like_it(show: Show) -> None:
    test = show("search", run=1, **{"as": "token"}, q=" tHe")
    assert "No token is exactly ·tHe" in html(test)
    assert '" the"' in [each.get("q") for each in searches(test)]


def test_a_regular_expression_lists_tokens(show: Show, two_steps: Path) -> None:
    test = show("search", run=1, **{"as": "regex"}, q="^ th")
    tokens = store.open(two_steps).tokens("^ th", "regex", 1)
    shown = [each["q"] for each in searches(test)]
    assert shown == [quoted(token) for token in tokens.token.head(200)]
    assert {each["as"] for each in searches(test)} == {"token"}


def test_conditions_find_what_sql_finds(show: Show, two_steps: Path) -> None:
    text = 'L1H2 > 0.05 and next_rank <= 3 and loss > 0.5 and topic = "capitals" and position >= 5'
    test = show("search", run=1, **{"as": "conditions"}, q=text, limit=1000)
    query = """
        SELECT p.position_id FROM positions p JOIN heads h USING (run_id, position_id)
        JOIN documents d USING (document_id)
        WHERE p.run_id = 1 AND h.layer = 1 AND h.head = 2 AND h.toward_next > 0.05 AND p.next_rank <= 3
          AND -p.next_logprob > 0.5 AND (d.metadata ->> 'topic') = 'capitals' AND p.position >= 5
        ORDER BY position_id"""
    expected = [*store.open(two_steps).sql(query).position_id]
    assert expected
    assert places(test) == expected
    assert "exact" in badges(test)


def often_kept(db: Path) -> str:
    """The neuron that is kept at most positions, though not at all."""
    query = """SELECT format('L{}N{}', layer, neuron) FROM neurons WHERE run_id = 1
               GROUP BY layer, neuron ORDER BY count(*) DESC LIMIT 1"""
    return str(store.open(db).sql(query).iloc[0, 0])


def test_where_a_neuron_was_not_kept_the_answer_is_a_lower_bound(show: Show, two_steps: Path) -> None:
    name = often_kept(two_steps)
    asked = {"as": "conditions", "q": f"{name} > 0.01 and next_rank <= 3", "limit": 1000}
    test = show("search", run=1, **asked)
    where = (store.neuron(name).activation > 0.01) & (store.position.next_rank <= 3)
    found = store.open(two_steps).search(where, 1, 1000)
    assert len(found)
    assert not found.attrs["exact"]
    assert places(test) == [*found.position_id]
    assert "lower bound" in badges(test)


def test_a_filtered_text_is_a_lower_bound_too(show: Show, two_steps: Path) -> None:
    """The condition is decided where the text begins; what was not kept there is counted and told."""
    name, s = often_kept(two_steps), store.open(two_steps)
    everywhere = s.phrase("the", 1, limit=1000)
    begins = store.position.position_id.in_([*everywhere.first_position_id])
    held = s.search(begins & (store.neuron(name).activation > 0.01), 1, 1000)
    assert 0 < len(held) < len(everywhere) and not held.attrs["exact"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(two_steps))
        found = answers.phrase("the", f"{name} > 0.01", 1, 1000)
        decided = answers.phrase("the", "position >= 5", 1, 1000)
        cut = answers.phrase("the", "position >= 5", 1, 20)
    assert [*found.first_position_id] == [*held.position_id]
    told = {name: found.attrs[name] for name in ("exact", "complete", "total", "bound", "note")}
    assert told == {"exact": False, "complete": True, "total": len(held)} | {
        name: held.attrs[name] for name in ("bound", "note")
    }
    assert (decided.attrs["exact"], decided.attrs["complete"]) == (True, True)
    assert (decided.attrs["total"], decided.attrs["note"]) == (len(decided), "")
    assert (cut.attrs["exact"], cut.attrs["complete"], cut.attrs["total"]) == (True, False, None)
    assert cut.attrs["note"] == f"truncated: the first 20 of {len(everywhere):,}"
    test = show("search", run=1, q="the", filters=f"{name} > 0.01", limit=1000)
    assert places(test) == [*held.position_id]
    assert "lower bound" in badges(test) and "exact" not in badges(test)


def test_where_nothing_is_found_it_may_not_have_been_kept(show: Show) -> None:
    test = show("search", run=1, q="L2N7 > -0.01", **{"as": "conditions"})
    assert re.search(r"\d+ more positions may match, where the neuron is not stored", html(test))


# Facets, filters, pages ---------------------------------------------------------------------------


def test_facets_count_what_sql_counts_and_their_links_find_as_many(show: Show, two_steps: Path) -> None:
    test = show("search", run=1, q="the", limit=1000)
    shown = places(test)
    s = store.open(two_steps)
    rows = re.findall(r'<a href="(/search\?[^"]*)">.*?data-value="(\d+)"', html(test))
    counts = {
        parse_qs(urlsplit(entities.unescape(address)).query)["filters"][0]: int(count)
        for address, count in rows
    }
    topics = s.sql(
        """SELECT d.metadata ->> 'topic' AS topic, count(*) AS found
           FROM (SELECT unnest($p) AS position_id) JOIN positions USING (position_id)
           JOIN documents d USING (document_id) GROUP BY ALL""",
        {"p": shown},
    )
    assert len(topics) > 1
    by_topic = {f'topic = "{row.topic}"': row.found for row in topics.itertuples()}
    assert by_topic.items() <= counts.items()
    kinds = {where.split()[0] for where in counts}
    assert kinds == {"topic", "document", "token", "position"}
    for kind in kinds:  # the smallest of each
        where = min((where for where in counts if where.startswith(kind)), key=lambda each: counts[each])
        narrowed = places(show("search", run=1, q="the", filters=where, limit=1000))
        assert len(narrowed) == counts[where], where
        assert {*narrowed} <= {*shown}


def test_a_filter_can_be_added_and_taken_out_again(show: Show) -> None:
    both = 'topic = "capitals" and position >= 0 and position < 100'
    test = show("search", run=1, **{"as": "token"}, q='" the"', filters=both)
    assert "<p>Only where</p>" in html(test) and "<li>topic = &quot;capitals&quot; <a" in html(test)
    without = [each.get("filters") for each in searches(test)]
    assert 'topic = "capitals"' in without  # positions out
    assert "position >= 0 and position < 100" in without  # the topic out
    assert 'topic = "capitals" and position >= 10 and position < 20' in without  # a facet in its place


def test_facets_count_everything_found_not_only_what_is_listed(
    show: Show, two_steps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_search, "MOST", 20)
    s = store.open(two_steps)
    for way, asked, where in (
        ("conditions", "next_rank > 10 and L1H2 < 0", "next_rank > 10 AND toward_next < 0"),
        ("token", '" the"', "token = ' the'"),
    ):
        topics = s.sql(
            "SELECT d.metadata ->> 'topic' AS topic, count(*) AS found FROM documents d "
            "JOIN positions USING (document_id) JOIN heads USING (run_id, position_id) "
            f"WHERE run_id = 1 AND layer = 1 AND head = 2 AND {where} GROUP BY ALL"
        )
        shown = html(show("search", run=1, q=asked, **{"as": way}))
        assert f"counted over all {topics.found.sum():,} occurrences found" in shown
        assert topics.found.sum() > 20
        for row in topics.itertuples():
            assert f'>{row.topic}</a></td><td class="n" data-value="{row.found}">' in shown


def test_what_is_found_is_sorted_by_its_value(show: Show, two_steps: Path) -> None:
    s = store.open(two_steps)
    for asked, view, where, by in (
        ("L1H2 > 0.05", "heads", "layer = 1 AND head = 2 AND toward_next > 0.05", "toward_next DESC"),
        ("loss < 0.5 and position > 3", "positions", "-next_logprob < 0.5 AND position > 3", "next_logprob"),
    ):
        query = f"SELECT position_id FROM {view} WHERE run_id = 1 AND {where} ORDER BY {by}, position_id"
        expected = [*s.sql(query).position_id]
        by_value = {"as": "conditions", "sort": "value"}
        assert places(show("search", run=1, q=asked, limit=1000, **by_value)) == expected[:1000]
        assert len(expected) > 10
        by_place = places(show("search", run=1, q=asked, limit=1000, **{"as": "conditions"}))
        assert by_place == sorted(expected)[:1000]
    kept = often_kept(two_steps)
    values = s.search(neuron(kept).activation > 0, 1, 50, neuron(kept).activation)[f"{kept}_activation"]
    assert values.is_monotonic_decreasing and values.notna().all()
    assert not {"sorted_by"} & {*s.search(position.entropy > 1, 1, 5, position.entropy).columns}


def test_each_condition_is_a_chip_and_the_builder_adds_one(show: Show) -> None:
    test = show("search", run=1, q="next_rank > 10 and L1H2 < 0", **{"as": "conditions"})
    assert "<li>next_rank &gt; 10 <a" in html(test) and "<li>L1H2 &lt; 0 <a" in html(test)
    assert {"next_rank > 10", "L1H2 < 0"} <= {each.get("q") for each in searches(test)}
    for name, compare, value, added in (
        ("topic", "=", "capitals", 'topic = "capitals"'), ("entropy", ">", " 0.5 ", "entropy > 0.5"),
        ("token", "!=", ' "', r'token != " \""'),
    ):  # fmt: skip
        test = show("search", run=1, q="next_rank > 10", **{"as": "conditions"})
        test.selectbox(key="builder name").select(name)
        test.selectbox(key="builder operator").select(compare)
        test.text_input(key="builder value").input(value)
        [add] = [button for button in test.button if button.label == "Add"]
        add.click().run()
        assert not test.exception
        assert test.query_params["q"] == f"next_rank > 10 and {added}"
        assert "is not a condition" not in html(test)
    test = show("search", run=1, q="next_rank > 10", **{"as": "conditions"})
    [add] = [button for button in test.button if button.label == "Add"]
    add.click().run()
    assert "There is no" in html(test) or "is not a condition" in html(test)


def test_the_sql_shown_gives_a_tokens_places(show: Show, two_steps: Path) -> None:
    test = show("search", run=1, q='" the"', limit=1000, **{"as": "token"})
    tokens, rows, _ = (store.open(two_steps).sql(code.value) for code in test.code)
    assert " the" in {*tokens.token}
    assert [*rows.position_id] == places(test)


@pytest.mark.parametrize("way", ["text", "conditions"])
def test_the_sql_shown_gives_the_rows_shown(show: Show, two_steps: Path, way: str) -> None:
    asked = {"text": "the", "conditions": f"{often_kept(two_steps)} > 0.01 and next_rank < 9"}[way]
    test = show("search", run=1, q=asked, limit=1000, filters="document < 5", **{"as": way})
    rows, facets = (store.open(two_steps).sql(code.value) for code in test.code)
    key = "first_position_id" if "first_position_id" in rows else "position_id"
    assert [*rows[key]] == places(test)
    assert int(facets[facets.facet == "position"].found.sum()) == len(rows)


def test_pages_follow_one_another(show: Show, two_steps: Path) -> None:
    everywhere = positions(two_steps, "token = ' the'")
    first = show("search", run=1, **{"as": "token"}, q='" the"', limit=7)
    assert places(first) == everywhere[:7]
    (after,) = (each for each in searches(first) if "from" in each)
    assert after == {"run": "1", "as": "token", "q": '" the"', "limit": "7", "from": "7"}
    second = show("search", run=1, **{"as": "token"}, q='" the"', limit=7, **{"from": 7})
    assert places(second) == everywhere[7:14]
    last = show("search", run=1, **{"as": "token"}, q='" the"', limit=7, **{"from": 10**9})
    assert places(last) == everywhere[(len(everywhere) - 1) // 7 * 7 :]


@pytest.mark.parametrize(
    ("asked", "found", "shown"),
    [
        (0, 14, (0, 7)),
        (7, 14, (7, 14)),
        (13, 14, (13, 14)),
        (14, 14, (7, 14)),
        (99, 15, (14, 15)),
        (0, 3, (0, 3)),
    ],
)
def test_a_page_past_the_end_is_the_last_one(
    asked: int, found: int, shown: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_search.links, "number", {"from": asked, "limit": 7}.get)
    monkeypatch.setattr(page_search, "_here", lambda from_: f"from {from_}")
    assert page_search._page(found) == shown
    assert ("later" in page_search._turns(*shown, found)) == (shown[1] < found)
    assert ("earlier" in page_search._turns(*shown, found)) == (shown[0] > 0)


def test_more_places_than_are_shown_are_said(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annotate_transformer.app.browser.pages.search.MOST", 20)
    test = show("search", run=1, q="the")
    assert len(places(test)) == 20
    assert "truncated" in badges(test)
    assert "counted over the 20 occurrences found" in html(test)


# What cannot be -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"q": "xyzzy <b>"}, "The text xyzzy·&lt;b&gt; is not in what run 1 has read"),
        ({"q": "the", "filters": "document = 99999"}, "Remove a filter."),
        ({"q": "the", "filters": "<script>"}, "is not a condition"),
        ({"q": "the", "filters": 'colour = "red"'}, "There is no &#x27;colour&#x27; to ask about"),
        ({"q": "the", "from": "x"}, "from is a whole number"),
        ({"q": "the", "limit": "-1"}, "limit is a whole number"),
        ({"q": "the", "as": "guess"}, "as is one of text, token, regex, conditions"),
        ({"q": "the", "run": "9"}, "There is no run 9"),
        ({"q": '"\\u0000"'}, "a character that no stored text has"),
        ({"q": "L99N0"}, "no neuron L99N0"),
        ({"q": "L99N0 > 1", "as": "conditions"}, "no neuron L99N0"),
        ({"q": "L0H99 > 1", "as": "conditions"}, "no head L0H99"),
        ({"q": "loss", "as": "conditions"}, "is not a condition: write a name"),
        ({"q": "loss > 1e9", "as": "conditions"}, "No position fulfils all conditions"),
        ({"q": "(", "as": "regex"}, "is no regular expression"),
        ({"q": "xyzzy", "as": "regex"}, "Tokens that match the expression"),
        ({"q": "no such token", "as": "token"}, "No token is exactly no·such·token"),
        ({"q": " ", "as": "conditions"}, "is not a condition"),
    ],
)
def test_what_cannot_be_found_is_a_sentence(show: Show, parameters: dict[str, str], sentence: str) -> None:
    test = show("search", **({"run": 1} | parameters))
    assert sentence in html(test) + " ".join(each.value for each in test.subheader)
    assert "<script>" not in html(test)


@pytest.mark.some(2)
@pytest.mark.parametrize("run", [1, 2])
def test_an_odd_corpus_is_searched_and_narrowed_down(show: Show, odd: Path, run: int) -> None:
    for asked in ({"q": "<script>alert"}, {"q": "position >= 0", "as": "conditions"}, {"q": " "}):
        test = show("search", odd, run=run, limit=1000, **asked)
        assert places(test)
        assert not re.search("[\u202e\u202c\x07\x00]|<(script|img)", html(test))
        narrower = [each for each in searches(test) if "filters" in each]
        for each in narrower[:: max(1, len(narrower) // 3)]:
            assert places(show("search", odd, **each)), each


def test_a_box_writes_the_address(show: Show) -> None:
    test = show("search", run=1, q="the", filters="document = 1", **{"from": 5})
    test.text_input(key="q").set_value("capital of").run()
    assert not test.exception
    assert {name: test.query_params[name] for name in test.query_params} == {"run": "1", "q": "capital of"}


# In a browser -------------------------------------------------------------------------------------


@pytest.fixture
def page(two_steps: Path) -> Iterator[Any]:
    """A tab; skipped where there is no Chromium."""
    import browsing

    if browsing.CHROMIUM is None:
        pytest.skip("there is no chromium")
    playwright = browsing.playwright.sync_playwright
    with browsing.serving(two_steps) as address, playwright() as started:
        browser = started.chromium.launch(executable_path=browsing.CHROMIUM, args=browsing.QUIET)
        tab = browser.new_page(base_url=address)
        tab.set_default_timeout(20_000)
        yield tab
        browser.close()


def test_a_search_is_narrowed_down_and_leads_to_a_token(page: Any) -> None:
    from browsing import title

    page.goto("/search?run=1")
    title(page, "Search")
    page.get_by_label("Search for").fill("the")
    page.get_by_label("Search for").press("Enter")
    page.wait_for_url("**q=the**")
    page.locator("td a", has_text="capitals").first.click()
    page.wait_for_url("**filters=topic**")
    page.wait_for_selector("text=Only where")
    page.locator("a.more", has_text="remove").click()
    page.wait_for_selector("text=Only where", state="hidden")
    page.go_back()
    page.wait_for_selector("text=Only where")
    page.get_by_text("token", exact=True).first.click()
    page.wait_for_url("**as=token**")
    page.go_back()
    page.locator("a.kwic").nth(2).click()
    title(page, "Token")
