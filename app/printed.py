"""How answers are printed: a frame's columns as a table, lines of context, or all of it as JSON."""

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from annotate_transformer.app.console import Console
from annotate_transformer.app.formats import unseen_escaped
from annotate_transformer.app.tables import marked, next_in_text, room_for_context, table, visible

if TYPE_CHECKING:
    import pandas as pd

    from annotate_transformer.store import Weights

out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)  # a pipe has no edge
err = Console(stderr=True, highlight=False)

# heading: a column, and how its values are written
Columns = dict[str, tuple[str, Callable[[Any], str]]]


def decimals(digits: int) -> Callable[[Any], str]:
    return lambda value: "—" if missing(value) else f"{value:,.{digits}f}"


def missing(value: Any) -> bool:
    import pandas as pd

    return bool(pd.isna(value))


def whole(value: Any) -> str:
    return "—" if missing(value) else f"{int(value):,}"


def print_json(frames: "dict[str, pd.DataFrame]", run: int | None, weights: "Weights | None" = None) -> None:
    answer: dict[str, Any] = {"run": run} | ({"model": weights.name} if weights else {})
    for name, frame in frames.items():
        answer[name] = dict(frame.attrs) | {"rows": records(frame)}
    dump(answer)


def dump(answer: Any) -> None:
    print(unseen_escaped(json.dumps(answer, ensure_ascii=False, indent=1, default=_plain)))


def records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Rows as JSON has them: what is missing is null."""
    rows: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return rows


def _plain(value: Any) -> Any:
    """A numpy number or array as Python's; anything else, a time, say, as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def print_table(title: str, frame: "pd.DataFrame", columns: Columns) -> None:
    """Some columns of a frame under their headings: {heading: (column, how to write it)}."""
    headings = {
        heading: "left" if how in (visible, str) else "right" for heading, (_, how) in columns.items()
    }
    rows = [[how(row[column]) for column, how in columns.values()] for row in frame.to_dict("records")]
    table(out, title, headings, rows)
    if frame.attrs.get("exact") is False:
        bounds = (f"{name} {value:.3g}" for name, value in frame.attrs["bound"].items() if value is not None)
        what = " (" + ", ".join(bounds) + ")" if frame.attrs["bound"] else ""
        out.print(f"[dim]Not all: {frame.attrs['note']}{what}.[/]\n", soft_wrap=not out.is_terminal)


def print_contexts(title: str, frame: "pd.DataFrame", columns: Columns, prefix: str = "") -> None:
    """The same, each row with its line of context, the token marked in it."""
    headings = {heading: "left" if how is visible else "right" for heading, (_, how) in columns.items()}
    records = frame.to_dict("records")
    rows = [[_cell(row, column, how, prefix) for column, how in columns.values()] for row in records]
    width = room_for_context(out, rows, headings)
    for cells, row in zip(rows, records, strict=True):
        before, text, after = (visible_text(row[f"{prefix}{part}"]) for part in ("before", "text", "after"))
        cells.append(marked(out, before, text, after, width=width))
    table(out, title, headings | {"where, marked": "left"}, rows)


def _cell(row: dict[str, Any], column: str, how: Callable[[Any], str], prefix: str) -> str:
    """A value as it is written; a piece of a character with the character of the text."""
    if column == "next_token" and how is visible:
        return next_in_text(row, prefix)
    return how(row[column])


def visible_text(text: Any) -> str:
    """A BOS stands nowhere in the text."""
    return "" if missing(text) else str(text)
