"""Compute the largest closure error (sum of terms − logit) that rounding alone can cause at a position.

The macro `closure_bound` of schema.sql defines the bound for SQL and for `annotate verify`; this module
evaluates the same macro for Python. Above its minimum the bound is linear in both arguments, so three values
determine the bound.
"""

import re
from functools import cache
from typing import Any

import duckdb

from annotate_transformer.store.queries import schema


def closure_bound(terms: int, size: Any) -> Any:
    """Return the largest closure error (sum of terms − logit) that rounding alone can cause, in logits.

    terms: the number of stored terms in the sum; size: Σ |term|, in logits, over embedding, heads, neurons
    and biases, as a float, or as an array or tensor of any shape. The result has the shape of `size`.

    >>> [f"{closure_bound(14, size):.1e}" for size in (5.0, 50.0)]
    ['1.0e-04', '3.8e-04']
    """
    least, a_term, a_logit = _coefficients()
    bound = terms * a_term + a_logit * size
    return max(bound, least) if isinstance(bound, float) else bound.clip(least)


@cache
def _coefficients() -> tuple[float, float, float]:
    """Return the coefficients of `closure_bound`: its minimum, increase per term and increase per logit."""
    macro = re.search(r"CREATE MACRO closure_bound.*?;", schema())
    assert macro, "schema.sql defines closure_bound"
    with duckdb.connect() as con:
        con.execute(macro[0])
        values = "SELECT closure_bound(0, 0), closure_bound(1e9, 0) / 1e9, closure_bound(0, 1e9) / 1e9"
        [(least, a_term, a_logit)] = con.execute(values).fetchall()
    return float(least), float(a_term), float(a_logit)
