"""A text is found however its characters are composed: against brute force over canonical equivalence."""

import unicodedata
from collections.abc import Iterator

import duckdb
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from annotate_transformer.store.database import connection
from handmade import insert

DOCUMENTS = [
    "cafe\u0301 noir café nai\u0308ve naïve",
    "\u1112\u1161\u11ab 한글",
    "x\u0323\u0302 ệ e\u0323\u0302 ẹ\u0302",
    "αβγ \u212b Å A\u030a",
    "e\u0301",
    "\u0301e",
    "cafe noir",
    "東京 か\u3099 が",
    "q\u0307\u0323 q\u0323\u0307",
]
PARTS = [
    "é",
    "e\u0301",
    "e",
    "\u0301",
    "\u0323",
    "\u0302",
    "ệ",
    "한",
    "\u1112\u1161",
    "\u11ab",
    "Å",
    " ",
    "東",
]


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """A store without positions: what is asked is where the documents have a text."""
    with connection(tmp_path_factory.mktemp("phrase") / "s.duckdb", read_only=False) as con:
        insert(con, "run", [{"run_id": 1, "corpus_id": 1, "status": "finished"}])
        yield con


def found(con: duckdb.DuckDBPyConnection, text: str, documents: list[str]) -> set[tuple[int, int, int]]:
    con.execute("DELETE FROM base.document")
    insert(con, "document", [{"corpus_id": 1, "document_id": i, "text": t} for i, t in enumerate(documents)])
    return set(con.execute("FROM base.found($text, 1)", {"text": text}).fetchall())


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def is_border(text: str, at: int) -> bool:
    """Whether what stands before and after composes with nothing across this place."""
    nfc, nfd = composed(text), unicodedata.normalize("NFD", text)
    halves = text[:at], text[at:]
    marks = at < len(text) and unicodedata.combining(text[at]) > 0
    return not marks and nfc == "".join(map(composed, halves)) and len(nfd) > 0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=3).map("".join),
    st.lists(st.sampled_from(PARTS), max_size=8).map("".join),
)
@example("café", DOCUMENTS[0])
@example("e\u0323\u0302", DOCUMENTS[2])
def test_every_equivalent_stretch_is_found(con: duckdb.DuckDBPyConnection, text: str, drawn: str) -> None:
    documents = [*DOCUMENTS, drawn]
    places = found(con, text, documents)
    for document, low, high in places:
        assert composed(documents[document][low:high]) == composed(text)
    for i, document in enumerate(documents):
        covered = {at for number, low, high in places if number == i for at in range(low, high)}
        for low in range(len(document)):
            for high in range(low + 1, len(document) + 1):
                borders = is_border(document, low) and is_border(document, high)
                if text.isascii():
                    equal = document[low:high] == text
                else:
                    equal = borders and composed(document[low:high]) == composed(text)
                if equal:  # or it overlaps one that is
                    assert covered & {*range(low, high)}, (text, document, low, high)


def test_an_ascii_text_is_found_as_it_is_written(con: duckdb.DuckDBPyConnection) -> None:
    assert found(con, "cafe", DOCUMENTS) == {(0, 0, 4), (6, 0, 4)}
    assert found(con, "", DOCUMENTS) == set()


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("café", {(0, 0, 5), (0, 11, 15)}),
        ("cafe\u0301", {(0, 0, 5), (0, 11, 15)}),
        ("na\u00efve", {(0, 16, 22), (0, 23, 28)}),
        ("\ud55c", {(1, 0, 3), (1, 4, 5)}),
        ("ẹ\u0302", {(2, 4, 5), (2, 6, 9), (2, 10, 12)}),
        ("Å", {(3, 4, 5), (3, 6, 7), (3, 8, 10)}),
        ("が", {(7, 3, 5), (7, 6, 7)}),
        ("q\u0307\u0323", {(8, 0, 3), (8, 4, 7)}),
    ],
)
def test_both_ways_of_writing_a_character(
    con: duckdb.DuckDBPyConnection, text: str, places: set[tuple[int, int, int]]
) -> None:
    assert found(con, text, DOCUMENTS) == places


def test_the_macro_gives_the_tokens_of_a_character(con: duckdb.DuckDBPyConnection) -> None:
    """Of bytes as of whole characters, also where the text begins or ends within a token."""
    text = "aα e\u0301b"
    found(con, "a", [text])
    insert(con, "passage", [{"passage_id": 0, "text": text}])
    spans = [(0, 1), (1, 2), (1, 2), (2, 3), (3, 5), (5, 6)]
    insert(
        con,
        "position",
        [{"run_id": 1, "position_id": i, "char_start": a, "char_end": b} for i, (a, b) in enumerate(spans)],
    )

    def tokens(wanted: str) -> list[tuple[int, int]]:
        rows = con.execute(
            "SELECT first_position_id, last_position_id FROM phrase($t, run := 1)", {"t": wanted}
        )
        return [(first, last) for first, last in rows.fetchall()]

    assert tokens("α") == [(1, 2)]
    assert tokens("éb") == tokens("e\u0301b") == [(4, 5)]
    assert tokens("α é") == [(1, 4)]
    assert tokens("aα") == [(0, 2)]
    assert tokens("e") == [(4, 4)]
