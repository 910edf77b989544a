"""The search box of every page: how it understands what is typed, and the object that the sidebar keeps."""

from pathlib import Path
from typing import Any

import pytest

from annotate_transformer import store
from annotate_transformer.app.browser import VARIABLE
from annotate_transformer.app.browser.readings import Reading, readings
from pages import Show, html, navigation


@pytest.fixture
def read(two_steps: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The readings of a text in run 1."""
    monkeypatch.setenv(VARIABLE, str(two_steps))
    return lambda text: readings(text, 1)


def pages(found: list[Reading]) -> list[str]:
    return [reading.page for reading in found]


@pytest.mark.parametrize(("text", "name"), [("L1N7", "L1N7"), (" l1h2 ", "L1H2")])
def test_a_neuron_or_head_is_read_first_and_may_be_a_text(read: Any, text: str, name: str) -> None:
    first, *others = read(text)
    kind = "neuron" if "N" in name else "head"
    assert first == Reading(f"{kind} {name}", kind, {"run": 1, kind: name})
    assert pages(others) == ["search"] and others[-1].parameters["as"] == "text"


def test_a_neuron_that_the_model_lacks_is_only_a_text(read: Any) -> None:
    assert [reading.parameters["as"] for reading in read("L90N7")] == ["text"]


def test_a_position_by_its_document_and_number(read: Any, two_steps: Path) -> None:
    query = """
        SELECT document_id, position_id, token,
               row_number() OVER (PARTITION BY document_id ORDER BY position_id) AS number
        FROM positions WHERE run_id = 1
    """
    for row in store.open(two_steps).sql(query).sample(5, random_state=1).itertuples():
        first = read(f" {row.document_id} : {row.number}")[0]
        assert (first.page, first.parameters["position"]) == ("token", row.position_id)
        shown = row.token.replace(" ", "·").replace("\n", "↵")
        assert first.what == f"token {row.number} of document {row.document_id}: {shown}"


@pytest.mark.parametrize("text", ["0:0", "0:999999", "999999:1", "0:-1", "1:2:3", f"0:{10**19}"])
def test_a_place_that_is_not_there_is_only_a_text(read: Any, text: str) -> None:
    assert "token" not in pages(read(text)) and pages(read(text))[-1] == "search"


def test_a_number_is_a_position_and_a_document(read: Any) -> None:
    assert pages(read("3"))[:2] == ["token", "text"]
    assert pages(read("999999999")) == ["search"]


def test_conditions_tokens_queries_and_texts(read: Any, two_steps: Path) -> None:
    first, *_ = read("L1H2 > 0.5 and next_rank = 1")
    assert (first.page, first.parameters["as"]) == ("search", "conditions")
    assert read("FROM runs")[0] == Reading("a query in SQL", "sql", {"run": 1, "query": "FROM runs"})
    [(occurrences,)] = store.open(two_steps).sql(
        "SELECT count(*) FROM positions WHERE run_id = 1 AND token = ' the'"
    ).values.tolist()  # fmt: skip
    tokens = [reading for reading in read(" the") if reading.parameters.get("as") == "token"]
    assert tokens[0].what == f"the token ·the ({occurrences:,} occurrences)"
    assert tokens[0].parameters["q"] == '" the"'
    *_, text = read("of the people")
    assert text == Reading(
        "the text of the people", "search", {"run": 1, "as": "text", "q": '"of the people"'}
    )


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE x", '"', "\\", "(((", "😀", "\u202e", "a" * 900, "L1N7 >", "%"]
)
def test_whatever_is_typed_is_at_least_a_text(read: Any, text: str) -> None:
    assert read(text)[-1].parameters["as"] == "text"


# What the sidebar keeps


def test_the_title_and_the_path_name_the_object(show: Show) -> None:
    shown = navigation(show("head", run=1, head="l1h2"))
    assert "<span>L1H2</span></nav>" in shown and 'href="/head?run=1">Head</a>' in shown
    test = show("token", run=1, position=5)
    assert 'href="/text?run=1&amp;position=5">document 0</a>' in navigation(test)
    assert "· position 5 ·" in html(test)


def test_a_page_without_an_object_offers_places_to_start(show: Show, two_steps: Path) -> None:
    shown = html(show("token", run=1))
    query = "SELECT position_id FROM positions WHERE run_id = 1 ORDER BY next_logprob LIMIT 1"
    [(hardest,)] = store.open(two_steps).sql(query).values.tolist()
    assert shown.index(f"/token?run=1&amp;position={hardest}") == shown.index("/token?run=1&amp;position=")
