"""Write tokens, lines of context and tables as HTML. All text of a corpus is escaped here, and only here.

A colour is a hue with an opacity, so it works on a light and on a dark background: blue for positive values,
orange for negative ones, purple for values without a sign. Colour-blind people can tell these hues apart. The
hues are defined in linked.py; on a dark background they are lighter.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any, NamedTuple
from unicodedata import category

import pandas as pd

from annotate_transformer.app.browser.links import link
from annotate_transformer.app.present.columns import Column, Columns
from annotate_transformer.app.present.words import chance, counted, in_text, one_line, signed, visible
from annotate_transformer.store.display import DARKEST
from annotate_transformer.store.names import head_name, neuron_name
from annotate_transformer.store.notation import Term, Written

CAP, MANY = 0.98, 50  # of MANY values or more, those above this quantile have one colour
Row = Mapping[str, Any]
NOTHING: Mapping[str, Any] = {}


# Tokens -------------------------------------------------------------------------------------------


def token(text: Any, spaces: str = "·") -> str:
    """Return a token as HTML, with its spaces, newlines and control characters made visible.

    >>> token(" <b>"), token("\\u202e\\n")
    ('<i>·</i>&lt;b&gt;', '<i>\\\\x202e</i><i>↵</i>')
    """
    if text is None or pd.isna(text):
        return "—"
    return "".join(_character(c, spaces) for c in str(text))


def _character(c: str, spaces: str) -> str:
    if c == " ":
        return f"<i>{spaces}</i>" if spaces != " " else " "
    if c in "\n\t":
        return "<i>↵</i>" if c == "\n" else "<i>⇥</i>"
    return escape(c) if c.isprintable() else f"<i>\\x{ord(c):02x}</i>"


def running(text: Any) -> str:
    """Return a token as HTML for running text: spaces stay spaces, a newline becomes ↵ and a line break."""
    return token(text, spaces=" ").replace("<i>↵</i>", "<i>↵</i>\n").replace("<i>⇥</i>", "<i>⇥</i>\t")


def message(text: str) -> str:
    """Return the HTML of a message; the parts of the message between backticks are shown as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def line(text: Any) -> str:
    """Return a text as HTML on one line."""
    return "" if text is None or pd.isna(text) else escape(one_line(str(text)))


# Colours ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """A mapping from values to background colours.

    largest: the value of the strongest colour, in `unit`
    signed: whether negative values have a colour of their own; otherwise they have no colour
    log: whether the opacity grows with the logarithm of the value
    falls: whether negative values are blue, for quantities that are better when they decrease
    most: the largest value, if some values are larger than `largest`; they have the strongest colour, too
    """

    largest: float
    unit: str
    signed: bool = False
    log: bool = False
    falls: bool = False
    most: float | None = None

    def colour(self, value: float | None) -> str:
        """Return the CSS for the background colour of a value; an empty string if the value is missing."""
        if value is None or math.isnan(value) or not self.largest:
            return ""
        size = abs(value) if self.signed else max(value, 0.0)
        return f"background:rgba({self._hue(value)}, {DARKEST * self._share(size):.3f})"

    def legend(self) -> str:
        """Return a legend as HTML: the range of colours, the values at its two ends, and the unit."""
        low, high = (-self.largest, self.largest) if self.signed else (1.0 * self.log, self.largest)
        values = [low + (high - low) * step / 8 for step in range(9)]
        if self.log:
            values = [self.largest ** (step / 8) for step in range(9)]
        stops = ", ".join(self.colour(value).removeprefix("background:") or "transparent" for value in values)
        write = _signed if self.signed else _plain
        middle = " · 0 in the middle" if self.signed else " · logarithmic" if self.log else ""
        if self.most is not None:
            middle += f" · {100 * (1 - CAP):.0f} % have the strongest colour, up to {_plain(self.most)}"
        ramp = f'<span class="ramp" style="background:linear-gradient(to right, {stops})"></span>'
        ends = f"<span>{write(low)}</span>{ramp}<span>{write(high)}</span>"
        return f'<div class="legend">{ends}<span>{escape(self.unit + middle)}</span></div>'

    def _hue(self, value: float) -> str:
        if not self.signed:
            return "var(--amount)"
        return "var(--raises)" if (value >= 0) != self.falls else "var(--lowers)"

    def _share(self, size: float) -> float:
        if self.log:
            return min(1.0, math.log(max(size, 1.0)) / math.log(max(self.largest, 2.0)))
        return min(1.0, size / self.largest)


def scale(
    values: "pd.Series[Any]", unit: str, *, signed: bool = False, log: bool = False, falls: bool = False
) -> Scale:
    """Return a colour scale for `values`, in which the largest |value| has the strongest colour.

    Of many values, a few outliers do not make the others pale: all above the percentile CAP are alike.
    """
    numbers = pd.to_numeric(values).dropna()
    sizes = numbers.abs() if signed else numbers.clip(lower=0)
    largest = float(sizes.max()) if len(sizes) else 0.0
    cap = float(sizes.quantile(CAP)) if len(sizes) >= MANY and not log else largest
    if 0 < cap < largest:
        return Scale(cap, unit, signed, log, falls, most=largest)
    return Scale(largest, unit, signed, log, falls)


def _signed(value: float) -> str:
    return signed(value, 2)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


# Text ---------------------------------------------------------------------------------------------


def text(
    rows: Iterable[Row],
    *,
    value: Callable[[Row], float | None],
    colours: Scale,
    hover: Callable[[Row], str],
    href: Callable[[Row], str],
    here: int | None = None,
    scroll: bool = False,
) -> str:
    """Return running text as HTML: each token is a coloured link; the token at position `here` is framed.

    A character that is split into several tokens is drawn across all of them; hovering over one of these
    tokens shows its bytes.
    """

    def linked(row: Row, inner: str, note: str = "") -> str:
        amount = value(row)
        classes = "unknown" if amount is None or math.isnan(amount) else ""
        mark = ""
        if row["position_id"] == here:
            classes, mark = "here", " data-scroll" if scroll else ""
        return (
            f'<a href="{escape(href(row))}" class="{classes}" style="{colours.colour(amount)}" '
            f'title="{escape(note + hover(row))}"{mark}>{inner}</a>'
        )

    parts = []
    for shown, tokens in characters(rows):
        if len(tokens) == 1:
            parts.append(linked(tokens[0], running(shown)))
            continue
        notes = [
            f"bytes {visible(row['token'])}, token {i} of {len(tokens)} of {visible(shown)}\n"
            for i, row in enumerate(tokens, 1)
        ]
        slices = "".join(linked(row, "", note) for row, note in zip(tokens, notes, strict=True))
        parts.append(
            f'<span class="split" style="min-width:{0.6 * len(tokens):.1f}em">'
            f'<span class="slices">{slices}</span><span class="whole">{running(shown)}</span></span>'
        )
    return f'<div class="text">{"".join(parts)}</div>'


def characters(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Split a text into pieces, usually one per token; return each piece with the rows of its tokens.

    A character whose bytes are in several tokens is one piece with several rows. A token that is not in the
    text, such as a BOS, is a piece of its own.
    """
    found: list[tuple[str, list[Row]]] = []
    begun, reached = 0, 0
    for row in rows:
        if pd.isna(row["char_start"]) or not row["text"]:
            found.append((str(row["token"]), [row]))
            continue
        start, end = int(row["char_start"]), int(row["char_end"])
        # If a token starts before the previous token, it is in a new document, so the two tokens share no
        # characters.
        shared = max(0, reached - start) if start >= begun else 0
        _share(found, row, shared)
        if row["text"][shared:]:
            found.append((row["text"][shared:], [row]))
        begun, reached = start, end
    return _with_marks(found)


def _with_marks(found: list[tuple[str, list[Row]]]) -> list[tuple[str, list[Row]]]:
    """Join each combining mark to the character that it modifies, even if the two are in different tokens."""
    joined: list[tuple[str, list[Row]]] = []
    for shown, tokens in found:
        rest = shown.lstrip("".join(c for c in shown if category(c).startswith("M")))
        marks = shown[: len(shown) - len(rest)]
        if marks and joined and not pd.isna(joined[-1][1][-1]["char_start"]):
            before, holders = joined.pop()
            base = _last_character(before)
            if before[:-base]:
                joined.append((before[:-base], holders))
            joined.append((before[-base:] + marks, [*holders, *(t for t in tokens if t not in holders)]))
            shown = rest
        if shown:
            joined.append((shown, tokens))
    return joined


def _last_character(text: str) -> int:
    """Return the length of the text's last character, including its combining marks."""
    marks = next((i for i, c in enumerate(reversed(text)) if not category(c).startswith("M")), len(text) - 1)
    return marks + 1


def _share(found: list[tuple[str, list[Row]]], row: Row, shared: int) -> None:
    """Add the token `row` to those of the last pieces in `found` whose characters the token shares.

    shared: the number of characters that the token shares; a piece with more characters is split in two
    """
    at = len(found)
    while shared and at:
        at -= 1
        shown, tokens = found[at]
        if len(shown) > shared:
            found[at : at + 1] = [(shown[:-shared], tokens), (shown[-shared:], [*tokens, row])]
            return
        found[at] = (shown, [*tokens, row])
        shared -= len(shown)


def placed(row: Row) -> str:
    """Return a token's text as HTML; if the token is only a part of a character, hovering shows its bytes."""
    if pd.isna(row["text"]) or not row["text"]:
        return running(row["token"])
    piece = in_text(row["token"], row["text"]) != visible(row["token"])
    title = f' title="{escape("bytes " + visible(row["token"]))}"' if piece else ""
    return f"<span{title}>{running(row['text'])}</span>"


def written(lines: Iterable[Written], href: Callable[[Term], str | None]) -> str:
    """Return the lines of a written-out sum of terms as HTML; a term links to the URL that `href` returns."""
    shown = "\n".join(escape(line.before) + _label(line, href) + escape(line.after) for line in lines)
    return f'<div class="written" tabindex="0">{shown}</div>'


def _label(line: Written, href: Callable[[Term], str | None]) -> str:
    where = href(line.term) if line.term else None
    return f'<a class="more" href="{escape(where)}">{escape(line.label)}</a>' if where else escape(line.label)


# Contexts -----------------------------------------------------------------------------------------


class Beside(NamedTuple):
    """A link beside a line of context; `hover` says where it leads."""

    text: str
    href: str
    hover: str


def context(row: Row, value: str, href: str, before: str | None = None, beside: Beside | None = None) -> str:
    """Return a line of context as HTML: a link in which the token is marked, and `beside`, a second link.

    before: HTML of the text on the left of the token; None for the text in `row`
    """
    left = line(row["before"]) if before is None else before
    text = line(row["text"])
    # The text is empty (of a BOS) or only spaces: show the token instead, with visible spaces.
    if not text.strip():
        text = token(row["token"])
    hover = escape(f"position {row['position_id']}, document {row['document_id']}: open this token")
    shown = (
        f'<a class="kwic" href="{escape(href)}" title="{hover}"><span class="value">{escape(value)}</span>'
        f'<span class="before"><span>{left}</span></span><mark>{text}</mark>'
        f'<span class="after">{line(row["after"])}</span></a>'
    )
    if beside is None:
        return shown
    told, href, hover = (escape(part) for part in beside)
    return f'<div class="beside">{shown}<a class="more" href="{href}" title="{hover}">{told}</a></div>'


def example(
    row: Row, value: str, href: str, tokens: list[Row], colours: Scale, copies: int, beside: Beside | None
) -> str:
    """Return a line of context as HTML, in which each token is coloured by its value.

    tokens: rows with position_id, text, token, char_start, char_end and value, None if it is not known;
    copies: how many equal contexts the line stands for; beside: a second link
    """
    shown = []
    for text, of in characters(tokens):
        amount = next((one["value"] for one in of if not pd.isna(one["value"])), None)
        hover = "not stored" if amount is None else signed(amount)
        is_here = any(one["position_id"] == row["position_id"] for one in of)
        inner = f"<b>{line(text)}</b>" if is_here else line(text)
        shown.append(f'<span style="{colours.colour(amount)}" title="{hover}">{inner}</span>')
    times = f' <small title="equal contexts">×{copies}</small>' if copies > 1 else ""
    link = (
        f'<a class="example" href="{escape(href)}"><span class="value">{escape(value)}</span>'
        f"<span>{''.join(shown)}{times}</span></a>"
    )
    if beside is None:
        return link
    told, to, note = (escape(part) for part in beside)
    return f'<div class="beside">{link}<a class="more" href="{to}" title="{note}">{told}</a></div>'


def panel(title: str, note: str, lines: list[str]) -> str:
    """Return lines of context under a heading, as HTML."""
    body = "".join(lines) or "<p>None.</p>"
    return f"<section><h4>{escape(title)} <small>{escape(note)}</small></h4>{body}</section>"


def panels(sections: Iterable[str]) -> str:
    """Return panels as HTML, side by side as far as the page is wide enough."""
    return f'<div class="panels">{"".join(sections)}</div>'


def marked_source(row: Row, spans: dict[int, tuple[int, int]]) -> str:
    """Return the text before a token as HTML, and mark the source to which a head attends most.

    If the source is farther back than this text, the source comes first, then how many tokens are between.
    spans: for each source's position_id, the start and end (exclusive) of its characters in the document
    """
    before = "" if pd.isna(row["before"]) else str(row["before"])
    source = spans.get(int(row["top_source_position_id"]))
    if source is None or pd.isna(row["char_start"]) or pd.isna(source[0]):
        return line(before)
    start = len(before) - (int(row["char_start"]) - int(source[0]))
    end = start + int(source[1]) - int(source[0])
    if row["top_source_position_id"] == row["position_id"]:
        return line(before)
    if start < 0:
        back = int(row["position_id"]) - int(row["top_source_position_id"])
        return f"<u>{line(row['source_text'])}</u> … {counted(back, 'token')} later … {line(before)}"
    return f"{line(before[:start])}<u>{line(before[start:end])}</u>{line(before[end:])}"


# Tables -------------------------------------------------------------------------------------------


# Links maps the name of a column to a function. The function takes a row and returns the URL of the row's
# cell in this column, or None for no link.
Links = Mapping[str, Callable[[Row], str | None]]
# Tints maps the name of a column to the colour scale of its numbers.
Tints = Mapping[str, Scale]
# Cells maps the name of a column to a function. The function takes a row and returns the row's cell in this
# column as HTML.
Cells = Mapping[str, Callable[[Row], str]]


def units(run: int | None) -> dict[str, Callable[[Row], str | None]]:
    """Return a value for the argument `links` of `table`, by which neurons and heads link to their pages."""

    def a_head(of: str) -> Callable[[Row], str]:
        return lambda row: link("head", run=run, head=head_of(row, of))

    return {"neuron": partial(_neuron_page, run), "head": a_head(""), "earlier_head": a_head("earlier_")}


def _neuron_page(run: int | None, row: Row) -> str:
    return link("neuron", run=run, neuron=neuron_name(int(row["layer"]), int(row["neuron"])))


def head_of(row: Row, of: str = "") -> str:
    return head_name(int(row[f"{of}layer"]), int(row[f"{of}head"]))


def marked(text: str, href: str, *, bold: bool, here: bool) -> str:
    """Return a table cell that is a link.

    bold: whether the text is bold, after a dot
    here: whether the cell has a frame, and the page scrolls to the cell
    """
    shown = f"<b>●{escape(text)}</b>" if bold else escape(text)
    classes = 'class="cell here" data-scroll' if here else 'class="cell"'
    return f'<a href="{escape(href)}" {classes}>{shown}</a>'


def table(
    frame: pd.DataFrame,
    columns: Columns,
    *,
    links: Links = NOTHING,
    tints: Tints = NOTHING,
    cells: Cells = NOTHING,
) -> str:
    """Return a table as HTML; a click on a heading sorts the rows by that column."""

    def cell(column: Column, row: Row) -> str:
        inner = cells[column.name](row) if column.name in cells else _inner(column, row)
        where = links[column.name](row) if column.name in links else None
        shown = f'<a href="{escape(where)}">{inner}</a>' if where else inner
        return f"<td{_side(column)}{_sorted_by(column, row)}{_tint(tints, column, row)}>{shown}</td>"

    head = "".join(
        f'<th scope="col"{_side(column)}><button>{escape(column.heading)}</button></th>' for column in columns
    )
    rows = frame.to_dict("records")
    body = "".join(f"<tr>{''.join(cell(column, row) for column in columns)}</tr>" for row in rows)
    inner = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="table" tabindex="0"><table>{inner}</table></div>'


def _inner(column: Column, row: Row) -> str:
    if column.is_token:
        return f'<span class="token">{token(row[column.name])}</span>'
    return escape(column.write(row))


def _side(column: Column) -> str:
    return ' class="n"' if column.is_number else ""


def _sorted_by(column: Column, row: Row) -> str:
    if not column.is_number:
        return ""
    value = row[column.name]
    return f' data-value="{escape(str(None if pd.isna(value) else value))}"'


def _tint(tints: Tints, column: Column, row: Row) -> str:
    if column.name not in tints:
        return ""
    value = row[column.name]
    return f' style="{tints[column.name].colour(None if pd.isna(value) else value)}"'


def ways(steps: dict[str, str], about: str = "") -> str:
    """Return a line of links as HTML, and a text after them. `steps` maps each link's label to its URL."""
    shown = (f'<a class="more" href="{escape(href)}">{escape(words)}</a>' for words, href in steps.items())
    return f"<p>{' · '.join(shown)}{escape(about)}</p>"


def choices(frame: pd.DataFrame, of: Callable[[Row], str], minus: Callable[[Row], str]) -> str:
    """Return tokens with their probabilities as HTML, side by side.

    of: returns the URL of the link on a token; minus: returns the URL of the link on the minus beside it
    """
    shown = "".join(
        f'<li><a class="token" href="{escape(of(row))}" title="take its logit apart: {row["logit"]:+.3f}">'
        f"{token(row['token'])}</a> {chance(row['probability'])} "
        f'<a class="more" href="{escape(minus(row))}" title="minus its logit" '
        f'aria-label="minus the logit of {escape(visible(row["token"]))}">−</a></li>'
        for row in frame.to_dict("records")
    )
    return f'<ul class="choices">{shown}</ul>'


def title(text: str) -> str:
    """Return the heading of a section as HTML, for a text that a person has written."""
    return f"<h3>{line(text)}</h3>"


def sections(headings: Iterable[str]) -> str:
    """Return the index of a page's sections as HTML: a button for each heading, which scrolls to it."""
    shown = "".join(f"<button data-section>{escape(heading)}</button>" for heading in headings)
    return f'<nav aria-label="Sections of this page" class="sections">{shown}</nav>'


def facts(values: Mapping[str, str]) -> str:
    """Return named values side by side, as HTML. `values` maps each name to its value, written as text."""
    shown = (
        f"<div><span>{escape(name)}</span><b>{escape(value)}</b></div>" for name, value in values.items()
    )
    return f'<div class="facts">{"".join(shown)}</div>'
