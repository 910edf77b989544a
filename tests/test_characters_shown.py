"""A character is shown across the tokens that make it up, and each tells its bytes on hover."""

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotate_transformer.app.browser import markup
from annotate_transformer.app.present.words import in_text, next_in_text


def rows(text: str, cuts: list[int], first: int = 0) -> list[dict[str, Any]]:
    """Tokens of the text's bytes cut at these places, as pages.sql gives them."""
    raw, bounds = (
        text.encode(),
        [0, *sorted({cut for cut in cuts if 0 < cut < len(text.encode())}), len(text.encode())],
    )
    begins = [i for i, byte in enumerate(raw) if byte & 0xC0 != 0x80]
    found = []
    for i, (low, high) in enumerate(pairwise(bounds)):
        start, end = (sum(begin <= at for begin in begins) for at in (low, high - 1))
        token = raw[low:high].decode(errors="backslashreplace")
        place = {"char_start": start - 1, "char_end": end, "text": text[start - 1 : end]}
        found.append({"position_id": first + i, "token": token, **place})
    return found


def shown(tokens: list[dict[str, Any]]) -> str:
    return markup.text(
        tokens, value=lambda row: 1.0, colours=markup.Scale(1.0, "u"),
        hover=lambda row: f"hover {row['position_id']}",
        href=lambda row: f"/token?position={row['position_id']}",
    )  # fmt: skip


@pytest.mark.parametrize(
    "text", ["α", "aα b", "東京", "😀👩\u200d🚀", "é", "x 東", "ﷺ", "e\u0301", "<b>α</b>", "\u202eא"]
)
def test_a_character_stands_once_over_all_its_tokens(text: str) -> None:
    tokens = rows(text, [*range(1, len(text.encode()))])  # a token a byte
    html = shown(tokens)
    assert "\\x" not in re.sub(r'title="[^"]*"', "", html).replace("\\x202e", "").replace("\\x200d", "")
    assert html.count("<a ") == len(tokens)
    for row in tokens:
        assert html.count(f'/token?position={row["position_id"]}"') == 1
    for i, byte in enumerate(text.encode()):
        if byte >= 0x80:
            assert f"bytes \\x{byte:02x}" in html
            assert f'hover {tokens[i]["position_id"]}"' in html
    assert [part for part, _ in markup.characters(tokens)] == re.findall(".\u0301?", text)


@given(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), st.lists(st.integers(1, 40), max_size=12)
)
def test_stretches_are_the_text_and_name_each_token_that_holds_them(text: str, cuts: list[int]) -> None:
    tokens = rows(text, cuts)
    place = 0
    stretches = markup.characters(tokens)
    for part, holders in stretches:
        end = place + len(part)
        want = [row for row in tokens if row["char_start"] < end and row["char_end"] > place]
        assert holders == want
        place = end
    assert "".join(part for part, _ in stretches) == text


def test_a_mark_stands_on_the_character_before_it() -> None:
    """Not on what follows, where it has a token of its own: x with a dot below and a circumflex."""
    text = "ax\u0323\u0302<"
    [before, marked, after] = markup.characters(rows(text, [2, 4, 6]))
    assert (before[0], marked[0], after[0]) == ("a", "x\u0323\u0302", "<")
    assert [row["token"] for row in marked[1]] == ["ax", "\u0323", "\u0302"]


def test_what_stands_nowhere_is_a_stretch_of_its_own_and_documents_do_not_mix() -> None:
    bos = {"position_id": 0, "token": "<|endoftext|>", "char_start": None, "char_end": None, "text": None}
    first, second = rows("αβ", [1, 2], first=1), rows("é", [1], first=7)
    stretches = markup.characters([bos, *first, bos, *second])
    assert [part for part, _ in stretches] == ["<|endoftext|>", "α", "β", "<|endoftext|>", "é"]
    assert [len(holders) for _, holders in stretches] == [1, 2, 1, 1, 2]
    added = {"position_id": 1, "token": " ", "char_start": 0, "char_end": 0, "text": ""}  # a space added
    assert [part for part, _ in markup.characters([added, *rows("a", [])])] == [" ", "a"]


@pytest.mark.parametrize(
    ("token", "text", "after", "told"),
    [
        ("\\xce", "a", "α b", "α‹\\xce›"),
        ("\\xb1", "α", " b", "α‹\\xb1›"),
        (" \\xe6", "a", " 東 b", "·東‹·\\xe6›"),
        ("\\x9d\\xb1", "東", "京", "東‹\\x9d\\xb1›"),
        ("\\xb1b", "α", "b c", "αb‹\\xb1b›"),
        (" the", "a", " the b", "·the"),
        ("\\xce", None, None, "\\xce"),
    ],
)
def test_a_next_token_is_told_with_its_character(token: str, text: Any, after: Any, told: str) -> None:
    assert next_in_text({"next_token": token, "text": text, "after": after}) == told
    assert in_text("\\xce", "α") == "α‹\\xce›"
    assert in_text("\\xce", "\\xce") == "\\xce"  # the text has it so
