"""Format names and values for error messages about a model's files."""

import json
from typing import Any

NAMED = 5  # maximum number of names that a message lists
LONGEST = 300  # maximum number of characters that a message quotes from a library's error


def in_a_line(error: BaseException) -> str:
    """Return the text of a library's error in one line, without its full stop."""
    return short(" ".join(str(error).split()) or type(error).__name__, LONGEST).rstrip(".:")


def short(value: object, longest: int = 60) -> str:
    """Return the value as text; of a longer text, return the first `longest` characters and an ellipsis."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= longest else f"{text[:longest]}…"


def listed(names: Any) -> str:
    """Return a text with the alphabetically first names, at most NAMED, and with the number of the others."""
    every = sorted(names)
    more = f" and {len(every) - NAMED:,} more" if len(every) > NAMED else ""
    return ", ".join(short(name, LONGEST) for name in every[:NAMED]) + more


def is_text(value: object) -> bool:
    return isinstance(value, str)
