"""Print tables and lines of context on a terminal."""

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from annotate_transformer.app.present.words import one_line


def marked(console: Console, before: str, text: str, after: str, *, width: int = 58) -> str:
    """Return a line of context with the token in the middle: highlighted on a terminal, elsewhere in «…»."""
    half = (width - len(text)) // 2
    left, right = escape(one_line(before)[-half:]), escape(one_line(after)[:half])
    token = escape(one_line(text))
    return f"{left}[bold reverse]{token}[/]{right}" if console.is_terminal else f"{left}«{token}»{right}"


def table(console: Console, title: str, columns: dict[str, str], rows: Iterable[list[str]]) -> None:
    """Print a table. Headings wrap at spaces, and inside words only if the table is too wide otherwise.

    `columns` maps each heading to the column's alignment.
    """
    rows = list(rows)
    widest = console.width // 2  # maximum width of a column; longer cells wrap
    cells = [min(_width(row[i] for row in rows), widest) for i in range(len(columns))]
    headings, widths = _fitted([*columns], cells, console.width)
    shown = Table(box=None, pad_edge=False)
    for heading, justify, width in zip(headings, columns.values(), widths, strict=True):
        shown.add_column(
            heading,
            justify="right" if justify == "right" else "left",
            min_width=width,
            overflow="fold",
        )
    for row in rows:
        shown.add_row(*row)
    console.print(title, style="bold", markup=False)
    console.print(shown)
    console.print()


def _width(texts: Iterable[str]) -> int:
    """Return the width, in terminal cells, of the longest line of texts that contain Rich's markup."""
    lines = (line for text in texts for line in Text.from_markup(text).split("\n"))
    return max((line.cell_len for line in lines), default=0)


def _fitted(headings: list[str], cells: list[int], room: int) -> tuple[list[str], list[int]]:
    """Return each column's heading and minimum width; break words only if `room` characters are too few.

    Then headings are broken first after hyphens, and if that is not enough, anywhere.
    """
    for broken in (headings, [heading.replace("-", "-\n") for heading in headings]):
        widths = [max(width, _width(of.split())) for of, width in zip(broken, cells, strict=True)]
        if sum(widths) + 2 * (len(widths) - 1) <= room:
            return broken, widths
    return broken, cells


def room_for_context(console: Console, rows: list[list[str]], headings: Iterable[str]) -> int:
    """Return the number of characters on a line that a table's columns leave for the text around a token.

    A heading is as wide as its longest word, because headings wrap at spaces.
    """
    words = [_width(heading.split()) for heading in headings]
    cells = [max(word, _width(row[i] for row in rows)) for i, word in enumerate(words)]
    return max(30, min(100, console.width - sum(cells) - 2 * len(cells)))
