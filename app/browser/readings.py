"""How the search box understands what is typed: as a neuron, a position, conditions, a token, a text or SQL.

L3N7            a neuron (or L3H2, a head)      3:812      token 812 of document 3
L3H2 > 3        conditions (see conditions.py)  900        the position_id 900, and document 900
the             a token, and a text             FROM runs  a query
"""

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from annotate_transformer.app.browser import answers, conditions, focus
from annotate_transformer.app.present.words import counted, visible
from annotate_transformer.store import AnnotateError
from annotate_transformer.store.names import parse, unit_name

LONGEST = 1000  # maximum number of characters in the search box
TOKENS = 3  # maximum number of tokens among the readings of a text
_PLACE = re.compile(r"\s*([0-9]{1,18})\s*:\s*([0-9]{1,18})\s*")
_NUMBER = re.compile(r"\s*([0-9]{1,18})\s*")
_QUERY = re.compile(r"\s*(select|from|with)\s+\S", re.IGNORECASE)


class Reading(NamedTuple):
    """One way to understand the text in the search box, with the page that shows it.

    what: a description such as `neuron L3N7`; page, parameters: the page, and the parameters of its URL
    """

    what: str
    page: str
    parameters: dict[str, Any]


def readings(text: str, run: int) -> list[Reading]:
    """Return all ways to understand a text in a run: the most specific one first, a plain text last."""
    ways: tuple[Callable[[str, int], list[Reading]], ...] = (_unit, _place, _number, _where, _query, _tokens)
    return [reading for way in ways for reading in way(text, run)] + _text(text, run)


def _unit(text: str, run: int) -> list[Reading]:
    if not conditions.is_unit(text.strip()):
        return []
    name = unit_name(*parse(text.strip()))
    with suppress(AnnotateError):
        kind = "neuron" if answers.exists(name, run)[0] == "N" else "head"
        return [Reading(f"{kind} {name}", kind, {"run": run, kind: name})]
    return []


def _place(text: str, run: int) -> list[Reading]:
    written = _PLACE.fullmatch(text)
    if written is None:
        return []
    document, number = int(written[1]), int(written[2])
    found = answers.asked("at_place", run=run, document=document, number=number)
    what = f"token {number} of document {document}"
    return [_position(what, run, int(position)) for position in found.position_id]


def _number(text: str, run: int) -> list[Reading]:
    if not (written := _NUMBER.fullmatch(text)):
        return []
    number, found = int(written[1]), []
    with suppress(AnnotateError):
        at = answers.position(number)
        found.append(_position(f"position {number}", int(at.run_id), number))
    if answers.asked("document", run=run, document=number).tokens.sum():
        found.append(Reading(f"document {number}", "text", {"run": run, "document": number}))
    return found


def _position(what: str, run: int, position: int) -> Reading:
    token = visible(answers.position(position).token)
    return Reading(f"{what}: {token}", "token", {"run": run, "position": position})


def _where(text: str, run: int) -> list[Reading]:
    with suppress(AnnotateError):
        conditions.read(text, [*answers.asked("metadata_keys", run=run).key])
        return [Reading("conditions", "search", {"run": run, "as": "conditions", "q": text})]
    return []


def _query(text: str, run: int) -> list[Reading]:
    return [Reading("a query in SQL", "sql", {"run": run, "query": text})] if _QUERY.match(text) else []


def _tokens(text: str, run: int) -> list[Reading]:
    """Return the tokens that differ from the text only in spaces and case, if the run has read them.

    The token that is exactly the text comes first, then the most frequent ones.
    """
    with suppress(AnnotateError):
        like = answers.tokens(conditions.unquoted(text), "like", run)
        read = like[like.occurrences > 0].drop_duplicates("token")
        order = (read.token != conditions.unquoted(text)).sort_values(kind="stable").index
        return [
            Reading(
                f"the token {visible(row.token)} ({counted(int(row.occurrences), 'occurrence')})",
                "search",
                {"run": run, "as": "token", "q": conditions.quoted(row.token)},
            )
            for row in read.loc[order].head(TOKENS).itertuples()
        ]
    return []


def _text(text: str, run: int) -> list[Reading]:
    written = text if text.startswith('"') and text.endswith('"') else conditions.quoted(text)
    return [Reading(f"the text {focus.short(text)}", "search", {"run": run, "as": "text", "q": written})]
