"""Answers as tables that fit a terminal: numbers aligned, signed, with units in the heading."""

import re
from collections.abc import Iterable
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text


def visible(token: Any) -> str:
    """A token so that its spaces, newlines and control characters can be seen.

    >>> visible(" Ireland"), visible("\\n")
    ('·Ireland', '↵')
    """
    if pd.isna(token):
        return "—"
    shown = str(token).replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in shown)


PIECE = re.compile(
    r"(?:\\x[89a-f][0-9a-f])+"
)  # bytes that are no character of their own, as schema.sql writes them


def in_text(token: Any, characters: Any) -> str:
    """A token so that it can be seen; of a piece of a character, that character of the text, and the bytes.

    >>> in_text(" Ireland", " Ireland"), in_text("\\\\xce", "α"), in_text("\\\\xce", None)
    ('·Ireland', 'α‹\\\\xce›', '\\\\xce')
    """
    if pd.isna(token) or pd.isna(characters) or not characters or not PIECE.search(str(token)):
        return visible(token)
    return visible(token) if token == characters else f"{visible(characters)}‹{visible(token)}›"


def next_in_text(row: dict[str, Any], prefix: str = "") -> str:
    """The same of the next token, of a row that has the text of its token and what stands after it."""
    token, text, after = (row.get(name) for name in ("next_token", f"{prefix}text", f"{prefix}after"))
    if pd.isna(token) or pd.isna(text) or pd.isna(after) or not (piece := PIECE.search(str(token))):
        return visible(token)
    goes_on = piece.start() == 0 and str(token)[2] in "89ab"  # with a character that the token before began
    size = len(PIECE.sub("?", str(token)))
    return in_text(token, text[-1:] + after[: size - 1] if goes_on else after[:size])


def explained(explanations: pd.DataFrame) -> pd.DataFrame:
    """Rows of `Store.explanations` with what people read of them: who explained, what, and is it any good."""
    words = explanations.assign(
        by=explanations.language_model.fillna("rules"),
        told=explanations.text.fillna("none: " + explanations.why_none),
        beats=explanations.beats_baseline.map({True: "yes", False: "no"}).fillna("—"),
    )
    words.attrs = explanations.attrs
    return words


def counted(number: int, thing: str) -> str:
    """
    >>> counted(1, "bad row"), counted(2000, "token")
    ('1 bad row', '2,000 tokens')
    """
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def one_line(text: str | None) -> str:
    """Running text on one line, without what would disturb a terminal."""
    shown = " ".join((text or "").split("\n")).replace("\t", " ").replace("\r", " ")
    return "".join(c if c.isprintable() else "·" for c in shown)


def marked(console: Console, before: str, text: str, after: str, *, width: int = 58) -> str:
    """A line of context with its token in the middle: highlighted, or in «…» where it cannot be."""
    half = (width - len(text)) // 2
    left, right = escape(one_line(before)[-half:]), escape(one_line(after)[:half])
    token = escape(one_line(text))
    return f"{left}[bold reverse]{token}[/]{right}" if console.is_terminal else f"{left}«{token}»{right}"


def table(console: Console, title: str, columns: dict[str, str], rows: Iterable[list[str]]) -> None:
    """Print rows under headings, which may break; `columns` maps a heading to its alignment."""
    rows = list(rows)
    shown = Table(box=None, pad_edge=False)
    for i, (heading, justify) in enumerate(columns.items()):
        widest = max((Text.from_markup(row[i]).cell_len for row in rows), default=0)
        shown.add_column(
            heading,
            justify="right" if justify == "right" else "left",
            min_width=min(widest, console.width // 2),
            overflow="fold",
        )
    for row in rows:
        shown.add_row(*row)
    console.print(title, style="bold", markup=False)
    console.print(shown)
    console.print()


def room_for_context(console: Console, rows: list[list[str]], headings: Iterable[str]) -> int:
    """Characters left on a line beside these cells; a heading breaks at its spaces."""
    words = [max(map(len, heading.split()), default=0) for heading in headings]
    cells = [
        max([word, *(Text.from_markup(row[i]).cell_len for row in rows)]) for i, word in enumerate(words)
    ]
    return max(30, min(100, console.width - sum(cells) - 2 * len(cells)))


def signed(value: float | None, digits: int = 3) -> str:
    """A number with its sign, or a dash where there is none."""
    return "—" if pd.isna(value) else f"{value:+.{digits}f}"
