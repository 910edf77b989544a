"""Constants of the store's layout and members of SQL enums, read from schema.sql, which defines them."""

import re
from functools import cache

from annotate_transformer.store.queries import schema


@cache
def constant(name: str) -> int:
    """Return a constant of the store's layout, which schema.sql defines as a macro without parameters.

    >>> constant("neurons_a_part")
    128
    """
    found = re.search(rf"^CREATE MACRO base\.{name}\(\) AS (\d+);", schema(), re.MULTILINE)
    assert found, f"schema.sql defines base.{name}()"
    return int(found[1])


@cache
def members(enum: str) -> tuple[str, ...]:
    """Return the members of a SQL enum type, in the order in which schema.sql lists them.

    >>> members("unit_kind")
    ('neuron', 'head', 'feature')
    """
    found = re.search(rf"^CREATE TYPE {enum} AS ENUM \((.*)\);", schema(), re.MULTILINE)
    assert found, f"schema.sql defines the enum {enum}"
    return tuple(re.findall(r"'(\w+)'", found[1]))


@cache
def enums() -> frozenset[str]:
    """Return the names of the SQL enum types."""
    return frozenset(re.findall(r"^CREATE TYPE (\w+) AS ENUM", schema(), re.MULTILINE))


POSITIONS_A_RUN = constant("positions_a_run")
DOCUMENTS_A_CORPUS = constant("documents_a_corpus")
PASSAGES_A_DOCUMENT = constant("passages_a_document")
PASSAGE, REACH = constant("passage_characters"), constant("passage_reach")
STEPS_A_LOGIT = constant("steps_a_logit")
NEURONS_A_PART, CODE_OF_KEPT = constant("neurons_a_part"), constant("code_of_kept")
STEPS_A_VALUE, STEPS_A_SQUARE = constant("steps_a_value"), constant("steps_a_square")
STEPS_OF_ATTENTION = constant("steps_of_attention")
