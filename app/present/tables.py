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
    """Print a table. Headings wrap at spaces, and after hyphens if the column's cells are narrow.

    `columns` maps each heading to the column's alignment.
    """
    rows = list(rows)
    cells = [_width(row[i] for row in rows) for i in range(len(columns))]
    headings = [_hyphens_broken(heading, width) for heading, width in zip(columns, cells, strict=True)]
    whole = [max(width, _width(heading.split())) for heading, width in zip(headings, cells, strict=True)]
    # If the columns do not fit with whole words in the headings, the words of headings are broken, too.
    fits = sum(whole) + 2 * len(whole) <= console.width + 2
    shown = Table(box=None, pad_edge=False)
    for heading, justify, width in zip(headings, columns.values(), whole if fits else cells, strict=True):
        shown.add_column(
            heading,
            justify="right" if justify == "right" else "left",
            min_width=min(width, console.width // 2),
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


def _hyphens_broken(heading: str, width: int) -> str:
    """Return a heading with line breaks after its hyphens if one of its words is wider than `width`."""
    return heading.replace("-", "-\n") if _width(heading.split()) > width else heading


def room_for_context(console: Console, rows: list[list[str]], headings: Iterable[str]) -> int:
    """Return the number of characters on a line that a table's columns leave for the text around a token.

    A heading is as wide as its longest word, because headings wrap at spaces.
    """
    words = [max(map(len, heading.split()), default=0) for heading in headings]
    cells = [
        max([word, *(Text.from_markup(row[i]).cell_len for row in rows)]) for i, word in enumerate(words)
    ]
    return max(30, min(100, console.width - sum(cells) - 2 * len(cells)))
