"""A neuron's inputs: terms of its pre-activation and, in a gated MLP, also terms of its linear input."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

# VALUES maps a value of the column `reading` to the name of the number to which the terms sum. WEIGHTS maps
# it to the name of the weights with which a neuron in a gated MLP reads.
VALUES = {"pre": "pre-activation", "pre_linear": "linear input"}
WEIGHTS = {"pre": "W_gate", "pre_linear": "W_in"}


class Inputs(NamedTuple):
    """The terms that sum to a neuron's pre-activation or, in a gated MLP, to its linear input.

    `value`: name of the value, pre-activation or linear input; `frame`: one row per source;
    `total`: the value; `closure`: the sum of the terms minus the value.
    """

    value: str
    frame: pd.DataFrame
    total: float
    closure: float


def by_reading(frame: pd.DataFrame, of: Mapping[str, Any]) -> list[Inputs]:
    """Split a neuron's inputs into those of its pre-activation and, in a gated MLP, of its linear input.

    of: the two sums and their closure errors, named as in the view neuron_inputs
    """
    totals = {"pre": ("pre_activation", "closure"), "pre_linear": ("pre_linear", "linear_closure")}
    found = readings(frame)
    # In a gated MLP, the bias of the pre-activation is b_gate, and b_in is the bias of the linear input. So
    # b_in is renamed among the inputs of the pre-activation.
    if len(found) > 1:
        found[0] = "pre", _renamed(found[0][1], {"b_in": "b_gate"})
    return [
        Inputs(VALUES[reading], rows, *(float(of[name]) for name in totals[reading]))
        for reading, rows in found
    ]


def _renamed(frame: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Return a copy of the frame with renamed components; `names` maps each old name to the new one."""
    return frame.assign(component=frame.component.astype(str).replace(names))


def readings(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split a frame by its column `reading`; return pairs of a value, `pre` or `pre_linear`, and its rows."""
    found = []
    for reading in VALUES:
        rows = frame[frame.reading == reading]
        rows.attrs = frame.attrs
        if len(rows):
            found.append((reading, rows))
    return found


def through(reading: str, is_gated: bool) -> str:
    """Return the end of a title: the weights with which a gated neuron reads; empty for other neurons.

    >>> through("pre", True), through("pre_linear", True), through("pre", False)
    (' through W_gate', ' through W_in', '')
    """
    return f" through {WEIGHTS[reading]}" if is_gated else ""
