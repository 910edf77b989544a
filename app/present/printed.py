"""Print answers: a frame as a table, with or without lines of context, or several frames as JSON."""

import json
import sys
from textwrap import fill
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.markup import escape

from annotate_transformer.app.present.columns import Column, Columns
from annotate_transformer.app.present.console import Console
from annotate_transformer.app.present.formats import unseen_escaped
from annotate_transformer.app.present.tables import marked, room_for_context, table
from annotate_transformer.app.present.words import Row, limits, next_in_text

if TYPE_CHECKING:
    from annotate_transformer.store import Weights

# `out` uses the width of the terminal. A pipe or a file has no width, so lines there may have 160 characters.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False)


def print_json(frames: dict[str, pd.DataFrame], run: int | None, weights: "Weights | None" = None) -> None:
    """Print a JSON object with the rows and the `attrs` of each frame."""
    answer: dict[str, Any] = {"run": run} | ({"model": weights.name} if weights else {})
    for name, frame in frames.items():
        answer[name] = dict(frame.attrs) | {"rows": records(frame)}
    dump(answer)


def dump(answer: Any) -> None:
    """Print a value as JSON; all characters that could control a terminal are escaped."""
    print(unseen_escaped(json.dumps(answer, ensure_ascii=False, indent=1, default=_plain)))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as dictionaries for JSON: a missing value is None, which JSON writes as null."""
    rows: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return rows


def _plain(value: Any) -> Any:
    """Convert a numpy number or array to Python's own types; any other value, such as a time, to text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def print_table(title: str, frame: pd.DataFrame, columns: Columns) -> None:
    """Print these columns of a frame as a table; if the answer is not exact, print the reasons under it."""
    rows = [[_cell(column, row) for column in columns] for row in frame.to_dict("records")]
    table(out, title, _alignments(columns), rows)
    print_limits(frame)


def print_limits(frame: pd.DataFrame) -> None:
    """Print the reasons why an answer is not exact or complete, if there are any."""
    if told := limits(frame.attrs):
        out.print(f"{told[0].upper()}{told[1:]}.\n", style="dim", markup=False, soft_wrap=not out.is_terminal)


def print_contexts(title: str, frame: pd.DataFrame, columns: Columns, prefix: str = "") -> None:
    """Print these columns of a frame as a table, with a last column that shows the marked token in context.

    prefix: the beginning of the names of the columns with the context, such as `source_` in `source_before`.
    """
    headings, records = _alignments(columns), frame.to_dict("records")
    rows = [[_cell(column, row, prefix) for column in columns] for row in records]
    width = room_for_context(out, rows, headings)
    for cells, row in zip(rows, records, strict=True):
        before, text, after = (known_text(row[f"{prefix}{part}"]) for part in ("before", "text", "after"))
        cells.append(marked(out, before, text, after, width=width))
    table(out, title, headings | {"context, token marked": "left"}, rows)


def _alignments(columns: Columns) -> dict[str, str]:
    return {column.heading: "right" if column.is_number else "left" for column in columns}


def _cell(column: Column, row: Row, prefix: str = "") -> str:
    """Return a cell as Rich markup; if a next token is part of a character, the whole character is added."""
    shown = next_in_text(row, prefix) if column.name == "next_token" else column.write(row)
    return escape(fill(shown, column.width) if column.width else shown)


def known_text(text: Any) -> str:
    """Return `text`, or an empty string if it is missing: a BOS token, for example, has no text."""
    return "" if pd.isna(text) else str(text)
