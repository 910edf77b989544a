"""Rounding errors of stored values, derived from the types of their columns in schema.sql."""

import re
from functools import cache

from annotate_transformer.store.catalogue import catalogue
from annotate_transformer.store.layout import STEPS_A_LOGIT

# ROUNDED maps the name of a query of read.sql to the table from which the query takes rounded values,
# followed by the columns with these values. If a column has another name in the answer, it is written as
# `name in the table > name in the answer`.
ROUNDED = {
    "by_term": ("neuron", "toward_next", "toward_top"),
    "by_component": ("contribution", "attn_next > toward_next", "attn_top > toward_top"),
    "by_head": ("head", "toward_next", "toward_top", "attention > top_source_attention", "output_norm"),
    "by_neuron": ("neuron", "activation", "toward_next", "toward_top"),
    "text_by_neuron": ("neuron", "activation > value"),
    "text_by_head": ("head", "toward_next > value"),
    "by_source": ("head_source", "attention", "toward_next", "toward_top"),
    "sends": ("head_source", "attention", "toward_next", "toward_top"),
    "head_contexts": ("head", "attention > top_source_attention"),
    "quantiles": ("sample_unit", "values > value"),
    "interval": ("sample_unit", "values > value"),
    "neuron_tokens": ("neuron", "activation > mean_kept_activation", "activation > max_activation"),
    "neuron_effects": ("neuron", "toward_next > mean_kept_effect"),
    "head_tokens": ("head", "attention > mean_attention", "toward_next > mean_effect"),
    "head_destinations": ("head", "attention > mean_attention", "toward_next > mean_effect"),
    "head_effects": ("head", "toward_next > mean_effect"),
}


@cache
def rounding(query: str) -> dict[str, float]:
    """Return the largest rounding error of each rounded column in the answer to a query of read.sql.

    >>> rounding("by_neuron")
    {'activation': 0.0005, 'toward_next': 0.0005, 'toward_top': 0.0005}
    """
    if query not in ROUNDED:
        return {}
    table, *columns = ROUNDED[query]
    names = (column.split(" > ") for column in columns)
    return {name[-1]: half_step(table, name[0]) for name in names}


def half_step(table: str, column: str) -> float:
    """Return a column's largest rounding error: half the distance between adjacent values of its type."""
    [kind] = [known.type for known in catalogue()[table].columns if known.name == column]
    if kind == "BIGINT":
        return 0.5 / STEPS_A_LOGIT
    digits = re.match(r"DECIMAL\(\d+, (\d+)\)", kind)
    assert digits, f"base.{table}.{column} is not rounded"
    return float(f"5e-{int(digits[1]) + 1}")
