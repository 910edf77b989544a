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
    names = ("next_token", f"{prefix}text", f"{prefix}after")
    token, text, after = (row.get(name) for name in names)  # type: Any, Any, Any
    if pd.isna(token) or pd.isna(text) or pd.isna(after) or not (piece := PIECE.search(str(token))):
        return visible(token)
    goes_on = piece.start() == 0 and str(token)[2] in "89ab"  # with a character that the token before began
    size = len(PIECE.sub("?", str(token)))
    return in_text(token, text[-1:] + after[: size - 1] if goes_on else after[:size])


def explained(explanations: pd.DataFrame) -> pd.DataFrame:
    """Rows of `Store.explanations` with what people read of them: who explained, what, and is it any good.

    Each score stands with its interval, and beside n: the held-out prompts of each class.
    """
    rows = explanations.to_dict("records")
    words = explanations.assign(
        by=explanations.language_model.fillna("rules"),
        told=explanations.text.fillna("none: " + explanations.why_none),
        beats=explanations.beats_baseline.map({True: "yes", False: "no"}).fillna("—"),
        held_out=[of_classes(row) for row in rows],
        **{f"{name}_told": [ranged(row, name) for row in rows] for name in ("precision", "npv", "f1")},
        difference_told=[ranged(row, "difference") for row in rows],
        score_told=[_score(row) for row in rows],
    )
    words.attrs = explanations.attrs
    return words


def of_classes(row: dict[str, Any]) -> str:
    """How many held-out prompts a score is of: active + inactive ones."""
    counts = row["active_prompts"], row["inactive_prompts"]
    return "—" if any(map(pd.isna, counts)) else " + ".join(str(int(count)) for count in counts)


def ranged(row: dict[str, Any], name: str) -> str:
    """A figure with the ends of its interval, which may be missing.

    >>> ranged({"f1": 0.75, "f1_low": 0.412, "f1_high": 1.0}, "f1")
    '0.750 (0.41 to 1.00)'
    """
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if pd.isna(value):
        return "—"
    interval = "no interval" if pd.isna(low) else f"{low:.2f} to {high:.2f}"
    return f"{value:.3f} ({interval})"


def give_or_take(value: float, margin: float, digits: int = 3) -> str:
    """A mean with half of its interval, which may be missing.

    >>> give_or_take(0.61234, 0.2), give_or_take(0.61234, float("nan"))
    ('+0.612 ± 0.200', '+0.612 ± —')
    """
    return f"{signed(value, digits)} ± {'—' if pd.isna(margin) else f'{margin:.{digits}f}'}"


def p_value(value: float) -> str:
    """
    >>> p_value(0.02857), p_value(0.00005)
    ('0.029', '< 0.001')
    """
    if pd.isna(value):
        return "—"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _score(row: dict[str, Any]) -> str:
    """Why a score is missing, where it is."""
    unscored = pd.isna(row["balanced_accuracy"]) and pd.notna(row["text"])
    return "none: no answer for a class" if unscored else ranged(row, "balanced_accuracy")


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
        lines = (line for row in rows for line in Text.from_markup(row[i]).split("\n"))
        widest = max((line.cell_len for line in lines), default=0)
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


def expected(value: float | None) -> str:
    """An expected number, which may be tiny, or a dash where there is none."""
    return "—" if pd.isna(value) else f"{value:.2g}"


def beside_rotated(compositions: pd.DataFrame) -> str:
    """What compositions are held against, as a sentence."""
    if compositions.empty:
        return "A model of one layer has none."
    n = f"n = {compositions.pairs.iloc[0]:,} pairs and kinds"
    return f"Beside randomly rotated weights: their score, z, and how many of {n} are so far off by chance."


def correlated(companions: pd.DataFrame) -> str:
    """The largest |r| that correlated neurons and heads have by chance, as a sentence."""
    if companions.empty:
        return "Nothing else varies over the sample, or the run is not finished."
    chance = companions.iloc[0]
    return (
        f"By chance: over {chance.permutations} permutations of its values the largest |r| with any of "
        f"{chance.candidates:,} others is {chance.largest_permuted:.2f}."
    )
