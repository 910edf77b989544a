"""Sums as whole numbers of steps: exact, and the same in whatever order positions are added.

A value is rounded to a step before it is added: to 2^-26 of a neuron's activation or a direct effect, to
2^-20 of a square, to 2^-30 of attention (schema.sql, "Constants of the layout"). Such sums are whole numbers,
which float64 holds exactly up to 2^53.
"""

from torch import Tensor

from annotate_transformer.store.layout import STEPS_A_SQUARE, STEPS_A_VALUE, STEPS_OF_ATTENTION

A_VALUE, A_SQUARE, OF_ATTENTION = float(STEPS_A_VALUE), float(STEPS_A_SQUARE), float(STEPS_OF_ATTENTION)


def in_steps(values: Tensor, steps: float) -> Tensor:
    """Return values as whole numbers of 1/steps, float64, in the same shape."""
    return (values.double() * steps).round()
