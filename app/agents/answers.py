"""Answers for agents: tables as JSON of bounded length, which say whether they are exact and truncated.

An answer is a JSON object: `run`, and `tables`, which maps a name to a table. A table has

    rows       the rows, each a dictionary from column to value
    exact      whether the values are exact; null for SQL of the agent's own
    truncated  whether the complete answer has more rows than these, or texts here were shortened
    total      the number of rows of the complete answer; null if it was not counted

and, where the question has them, `note`, `bound`, `rounded` and its own numbers, such as `logit` and
`closure` (see `store.question`).
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from annotate_transformer.app.present.formats import unseen_escaped
from annotate_transformer.app.present.printed import records

MOST_CHARACTERS = 40_000  # maximum length of an answer, without the parts that tell what it is
MOST_ROWS = 200  # maximum number of rows of a table
MOST_TEXT = 2_000  # maximum length of one value


class Rows(NamedTuple):
    """The rows of a table that fit into an answer. cut: whether a value in them was shortened."""

    rows: list[dict[str, Any]]
    cut: bool
    characters: int


def written(run: int | None, tables: Mapping[str, pd.DataFrame], rows: int = MOST_ROWS) -> str:
    """Return tables as JSON, each with at most `rows` rows, and all with at most MOST_CHARACTERS characters.

    Each table may take an equal share of the characters, and what the tables before it have left over.
    """
    room, made = MOST_CHARACTERS, {}
    for done, (name, frame) in enumerate(tables.items()):
        fit = _fitting(frame.head(rows), room // (len(tables) - done))
        made[name] = _about(frame, fit) | {"rows": fit.rows}
        room -= fit.characters
    return dumped({"run": run, "tables": made})


def dumped(value: Any) -> str:
    """Return a value as JSON, in which characters that could control a terminal are escaped."""
    return unseen_escaped(json.dumps(value, ensure_ascii=False, allow_nan=False))


def shortened(text: str) -> str:
    """Return a text that is at most MOST_TEXT characters long; the end tells how many are missing."""
    missing = len(text) - MOST_TEXT
    return text if missing <= 0 else f"{text[:MOST_TEXT]}… ({missing:,} more characters)"


def _fitting(frame: pd.DataFrame, room: int) -> Rows:
    """Return the first rows that take at most `room` characters, with long values shortened."""
    kept, cut, taken = list[dict[str, Any]](), False, 0
    for record in records(frame):
        plain = {str(name): _plain(value) for name, value in record.items()}
        row = {name: _short(value) for name, value in plain.items()}
        taken += len(dumped(row))
        if taken > room:
            return Rows(kept, cut, room)
        kept.append(row)
        cut = cut or row != plain
    return Rows(kept, cut, taken)


def _about(frame: pd.DataFrame, fit: Rows) -> dict[str, Any]:
    """Return what an answer says about itself."""
    about = {name: _plain(value) for name, value in frame.attrs.items() if name not in ("complete", "sql")}
    total = about.get("total", len(frame))
    is_longer = not frame.attrs.get("complete", True) or len(fit.rows) < (total or len(frame))
    about |= {"exact": about.get("exact"), "truncated": is_longer or fit.cut, "total": total}
    notes = [about.get("note"), *_left_out(len(frame), fit)]
    if note := "; ".join(filter(None, notes)):
        about["note"] = note
    return about


def _left_out(found: int, fit: Rows) -> list[str]:
    told = []
    if len(fit.rows) < found:
        told.append(f"truncated: the first {len(fit.rows):,} of the {found:,} rows found are here")
    if fit.cut:
        told.append(f"values longer than {MOST_TEXT:,} characters are shortened")
    return told


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return shortened(value)
    if isinstance(value, list | dict) and len(text := dumped(value)) > MOST_TEXT:
        return shortened(text)
    return value


def _plain(value: Any) -> Any:
    """Convert a value to what JSON has; a number that is not finite and any other value become text or null.

    >>> _plain({"a": (1, float("nan")), "b": float("-inf")})
    {'a': [1, None], 'b': '-inf'}
    """
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
