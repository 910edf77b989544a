"""Express values as whole multiples of a fixed step, so that sums are exact in any order of addition.

The step is 2^-26 for activations and direct effects, 2^-20 for squares, and 2^-30 for attention (schema.sql,
"Constants of the layout"). The sums are whole numbers, which float64 represents exactly up to 2^53.
"""

from torch import Tensor

from annotate_transformer.store.layout import STEPS_A_SQUARE, STEPS_A_VALUE, STEPS_OF_ATTENTION

A_VALUE, A_SQUARE, OF_ATTENTION = float(STEPS_A_VALUE), float(STEPS_A_SQUARE), float(STEPS_OF_ATTENTION)


def in_steps(values: Tensor, steps: float) -> Tensor:
    """Return values as whole numbers of steps, in float64; a value of 1 is `steps` steps."""
    return (values.double() * steps).round()
