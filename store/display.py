"""What a notebook shows of a store: HTML that stands alone, with inline styles, no scripts and no addresses.

All texts are escaped, since those of a corpus may hold HTML. A colour is a hue with an opacity, so it works
on a light and on a dark background: blue for positive values, orange for negative ones, purple for values
without a sign.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

RAISES, LOWERS, AMOUNT = "33, 113, 181", "217, 95, 14", "117, 91, 177"
DARKEST = 0.65  # maximum opacity of the background colour of a text, so that the text stays readable
RUNNING = "white-space:pre-wrap;line-height:1.7;text-align:left"
LINE = "white-space:pre;text-align:{}"
Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Text:
    """The text of a window, in which each token has a value; a notebook shows it in colours.

    frame: a row per token: position_id, token, text (its characters in the document), char_start, char_end,
    value; position_id: the token that is underlined; of: what the value is, with its unit; signed: whether
    values may be negative
    """

    frame: pd.DataFrame
    position_id: int
    of: str
    signed: bool

    def __repr__(self) -> str:
        return f"<text of {len(self.frame)} tokens around position {self.position_id}: {self.of}>"

    def _repr_html_(self) -> str:
        largest = float(self.frame.value.abs().max()) if self.frame.value.notna().any() else 0.0
        parts = [self._token(shown, row, largest) for shown, row in pieces(self.frame.to_dict("records"))]
        note = self.frame.attrs.get("note")
        told = f"{self.of}; the darkest colour is {largest:.3f}" + (f". {note}" if note else "")
        return f'<div style="{RUNNING}">{"".join(parts)}</div><p><small>{escape(told)}</small></p>'

    def _token(self, shown: str, row: Row, largest: float) -> str:
        value = row["value"]
        hover = f"position {row['position_id']}, {'not known' if pd.isna(value) else f'{value:.4f}'}"
        style = tint(value, largest, signed=self.signed)
        style += ";text-decoration:underline" if row["position_id"] == self.position_id else ""
        return f'<span style="{style}" title="{escape(hover)}">{readable(shown)}</span>'


def pieces(rows: Iterable[Row]) -> list[tuple[str, Row]]:
    """Return the characters that each token adds to the text, with its row; a BOS adds its own name.

    A character whose bytes are in several tokens belongs to the first of them.
    """
    found, reached = [], 0
    for row in rows:
        if pd.isna(row["char_start"]) or not row["text"]:
            found.append((str(row["token"]), row))
            continue
        shown = row["text"][max(0, reached - int(row["char_start"])) :]
        reached = max(reached, int(row["char_end"]))
        if shown:
            found.append((shown, row))
    return found


def tint(value: float | None, largest: float, *, signed: bool = True) -> str:
    """Return the style of a value's background; nothing if it is unknown or zero."""
    if value is None or pd.isna(value) or not value or not largest:
        return ""
    hue = AMOUNT if not signed else RAISES if value > 0 else LOWERS
    return f"background:rgba({hue}, {DARKEST * min(1.0, abs(value) / largest):.2f})"


def readable(text: Any) -> str:
    """Return text as HTML; control characters, which are invisible, are written as their codes.

    >>> readable("<b>\\u202e a")
    '&lt;b&gt;\\\\u202e a'
    """
    if text is None or pd.isna(text):
        return ""
    return escape("".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in str(text)))


def tree(lines: Iterable[tuple[str, str, float | None]]) -> str:
    """Return lines of (branch, text, value) as HTML; the larger the value among all, the darker the text."""
    shown = [*lines]
    largest = max((abs(value) for _, _, value in shown if value is not None), default=0.0)
    parts = []
    for branch, text, value in shown:
        style, told = tint(value, largest), readable(text)
        parts.append(readable(branch) + (f'<span style="{style}">{told}</span>' if style else told))
    joined = "\n".join(parts)
    return f"<pre>{joined}</pre>"


def contexts(title: str, rows: pd.DataFrame, value: str, prefix: str) -> str:
    """Return lines of context as a table: the position, the value in colour, and the text, token marked.

    prefix: the beginning of the names of the columns with the text, such as `source_` in `source_before`
    """
    largest = float(rows[value].abs().max()) if len(rows) else 0.0
    lines = []
    for row in rows.to_dict("records"):
        cells = (
            f"<td>{row['position_id']}</td>",
            f'<td style="{tint(row[value], largest)}">{row[value]:+.3f}</td>',
            f'<td style="{LINE.format("right")}">{_line(row[f"{prefix}before"])}</td>',
            f'<td style="{LINE.format("left")}"><b>{_line(row[f"{prefix}text"])}</b></td>',
            f'<td style="{LINE.format("left")}">{_line(row[f"{prefix}after"])}</td>',
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("position", escape(value), "", "token", ""))
    note = rows.attrs.get("note")
    told = f"<p><small>{escape(note)}</small></p>" if note else ""
    return f"<p>{escape(title)}</p><table><tr>{head}</tr>{''.join(lines)}</table>{told}"


def _line(text: Any) -> str:
    """Return text on one line: a line break is shown as ↵."""
    return readable(text).replace("\n", "↵").replace("\t", "⇥")
