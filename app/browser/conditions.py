"""Parse search conditions such as `L3N7 > 2 and topic = "capitals"` into arguments for `Store.search`.

    conditions = condition { "and" condition }
    condition  = name operator value
    name       = L3N7 (its activation) | L1H2 (its effect toward the next token)
               | loss | next_rank | entropy | position | document | token | next_token
               | a key of the documents' metadata, in quotes if it is one of these words
    operator   = "=" | "!=" | "<" | "<=" | ">" | ">="
    value      = a number | "a text" with JSON's escapes

Each condition becomes a comparison of store.position, store.neuron or store.head; its text never becomes SQL.
"""

import json
import math
import operator
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from annotate_transformer.store import BadQuestion, head, neuron, position
from annotate_transformer.store.names import parse as parse_unit
from annotate_transformer.store.names import unit_name
from annotate_transformer.store.search import Condition as Clause

EXAMPLE = 'L3N7 > 2 and next_rank <= 3 and token = " the"'
MOST = 20  # maximum number of conditions in one search, because each neuron or head adds a join to the SQL
COMPARE = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
    ">=": operator.ge,
}  # fmt: skip

# NUMBERS maps the name of a number that can be used in a condition to the column of the view `positions` that
# has the number, and to a description with its unit.
NUMBERS = {
    "loss": ("next_logprob", "loss (nats)"),
    "next_rank": ("next_rank", "rank of the next token"),
    "entropy": ("entropy", "entropy (nats)"),
    "position": ("position", "position in the window"),
    "document": ("document_id", "document"),
}
TEXTS = ("token", "next_token")

_TEXT = r'"(?:[^"\\]|\\.)*"'
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_WORD = r"[^\W\d][\w.-]*"
_UNIT = re.compile(r"[Ll][0-9]{1,6}[HhNn][0-9]{1,6}")
_ONE = re.compile(
    rf"\s*(?P<name>{_TEXT}|{_WORD})\s*(?P<operator><=|>=|!=|<|>|=)\s*(?P<value>{_TEXT}|{_NUMBER})\s*",
    re.DOTALL,
)
_AND = re.compile(r"and\b", re.IGNORECASE)


@dataclass(frozen=True)
class Condition:
    """One comparison in a search. `metadata` says whether `name` is a key of the documents' metadata."""

    name: str
    operator: str
    value: str | float
    metadata: bool = False

    @property
    def about_unit(self) -> bool:
        """Whether the condition compares a value of a neuron or head."""
        return not self.metadata and is_unit(self.name)

    @property
    def subject(self) -> str:
        """The field `name` as written in a condition: in quotes if the parser would otherwise misread it."""
        plain = re.fullmatch(_WORD, self.name) and self.name not in (*NUMBERS, *TEXTS, "and")
        if not self.metadata or (plain and not is_unit(self.name)):
            return self.name
        return quoted(self.name)

    def __str__(self) -> str:
        value = quoted(self.value) if isinstance(self.value, str) else str(self.value)
        return f"{self.subject} {self.operator} {value}"

    @property
    def unit(self) -> str | None:
        """A description of the compared number, with its unit; None if the condition compares a text."""
        if self.about_unit:
            kind = "activation" if "N" in self.name else "direct effect on the next token (logits)"
            return f"{self.name}: {kind}"
        return None if self.metadata or self.name in TEXTS else NUMBERS[self.name][1]

    def number(self, row: Mapping[str, Any]) -> float:
        """Return the compared number from a row that `Store.search` returned; NaN if it is not stored."""
        if self.about_unit:
            value = row[f"{self.name}_{'activation' if 'N' in self.name else 'toward_next'}"]
        else:
            value = row[NUMBERS[self.name][0]]
        number = math.nan if value is None else float(value)
        return -number if self.name == "loss" else number

    def clause(self) -> Clause:
        """Return the comparison as a SQLAlchemy condition for `Store.search`."""
        compared: Clause = COMPARE[self.operator](self.compared(), self.value)
        return compared

    def compared(self) -> Any:
        """Return what the condition compares, for `Store.search`."""
        if self.metadata:
            return position.metadata(self.name)
        if self.about_unit:
            return neuron(self.name).activation if "N" in self.name else head(self.name).toward_next
        if self.name == "loss":
            return -position.next_logprob
        return getattr(position, NUMBERS[self.name][0] if self.name in NUMBERS else self.name)


def clause(conditions: Sequence[Condition]) -> Clause:
    """Join all conditions by AND into one SQLAlchemy condition for `Store.search`."""
    return reduce(operator.and_, (condition.clause() for condition in conditions))


def written(conditions: Sequence[Condition]) -> str:
    """Return the conditions as text that `read` can parse."""
    return " and ".join(map(str, conditions))


def read(text: str, keys: Collection[str]) -> list[Condition]:
    """Parse a text into conditions. `keys` are the keys of the documents' metadata.

    >>> [str(condition) for condition in read('l3n7>2 and topic="a b" and "loss" = 1', {"topic", "loss"})]
    ['L3N7 > 2', 'topic = "a b"', '"loss" = "1"']

    Raises:
        BadQuestion: the text cannot be parsed; the message says how to write conditions.
    """
    found: list[Condition] = []
    place = 0
    while True:
        one = _ONE.match(text, place)
        if one is None:
            raise BadQuestion(
                f"{_short(text[place:])} is not a condition: write a name, one of {' '.join(COMPARE)} and a "
                f"number or a text in double quotes, and join several by `and`, as in {EXAMPLE}."
            )
        found.append(_condition(one["name"], one["operator"], one["value"], keys))
        if one.end() == len(text):
            break
        joined = _AND.match(text, one.end())
        if joined is None:
            raise BadQuestion(
                f"After {one[0].strip()} comes {_short(text[one.end() :])}: join conditions by `and`, "
                f"as in {EXAMPLE}."
            )
        place = joined.end()
    if len(found) > MOST:
        raise BadQuestion(f"These are {len(found)} conditions; ask at most {MOST} at once.")
    return found


def _condition(name: str, compare: str, value: str, keys: Collection[str]) -> Condition:
    given = unquoted(value) if value.startswith('"') else _number(value)
    if name.startswith('"'):
        return _about_metadata(unquoted(name), compare, given, keys)
    if is_unit(name):
        return _about_unit(unit_name(*parse_unit(name)), compare, given)
    if name in NUMBERS:
        return Condition(name, compare, _a_number(name, given))
    if name in TEXTS:
        return Condition(name, compare, _a_text(name, compare, given))
    return _about_metadata(name, compare, given, keys)


def _about_unit(name: str, compare: str, given: str | float) -> Condition:
    if "N" in name and compare in ("=", "!="):
        raise BadQuestion(
            f"The activation {name} is a float, which hardly ever equals a given number: ask {name} > 2 or "
            f"{name} <= 0."
        )
    return Condition(name, compare, _a_number(name, given))


def _about_metadata(key: str, compare: str, given: str | float, keys: Collection[str]) -> Condition:
    if key not in keys:
        known = ", ".join(("L3N7", "L1H2", *NUMBERS, *TEXTS, *sorted(keys)))
        raise BadQuestion(f"There is no {_short(key)} to ask about; the names are {known}.")
    return Condition(key, compare, _a_text(key, compare, str(given)), metadata=True)


def _a_number(name: str, given: str | float) -> float:
    if isinstance(given, str):
        raise BadQuestion(f"{name} is a number: write it without quotes, as in {name} > 2.")
    return given


def _a_text(name: str, compare: str, given: str | float) -> str:
    if not isinstance(given, str):
        raise BadQuestion(f'{name} is a text: write it in double quotes, as in {name} = " the".')
    if compare not in ("=", "!="):
        raise BadQuestion(f'{name} is a text: compare it by = or !=, as in {name} = "the".')
    return given


def _number(text: str) -> float:
    """Parse a number: a whole number as int, any other number as float."""
    number = float(text)
    if abs(number) > 1e15:
        raise BadQuestion(f"{_short(text)} is too large a number: nothing here exceeds 1e15.")
    return int(text) if re.fullmatch(r"[+-]?[0-9]+", text) else number


def is_unit(name: str) -> bool:
    """Return whether `name` has the form of a neuron's or head's name, such as L3N7 or L1H2."""
    return _UNIT.fullmatch(name) is not None


def quoted(text: str) -> str:
    """Return the text in double quotes, escaped so that `unquoted` restores it.

    >>> unquoted(quoted(' "the"'))
    ' "the"'
    """
    return json.dumps(text, ensure_ascii=False)


def unquoted(text: str) -> str:
    """Return the text inside double quotes, with its escapes resolved; return any other text unchanged.

    Raises:
        BadQuestion: the text has an invalid escape, or a character that no stored text has.
    """
    if re.fullmatch(_TEXT, text, re.DOTALL):
        try:
            text = json.loads(text, strict=False)
        except ValueError as error:
            raise BadQuestion(
                f'{_short(text)} cannot be read: within quotes write \\" for a quote, \\\\ for a backslash '
                "and \\n for a new line."
            ) from error
    if "\0" in text or re.search("[\ud800-\udfff]", text):
        raise BadQuestion(f"{_short(text)} has a character that no stored text has.")
    return text


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
