"""The inputs of a neuron by reading; a neuron of a gated MLP has two readings, which have separate sums."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

# For each reading: the value to which its terms sum, and in a gated MLP the input weights
VALUES = {"pre": "pre-activation", "pre_linear": "linear input"}
WEIGHTS = {"pre": "W_gate", "pre_linear": "W_in"}


class Inputs(NamedTuple):
    """The terms of one value of a neuron.

    `value`: name of the value, pre-activation or linear input; `frame`: one row per source;
    `total`: the value; `closure`: the sum of the terms minus the value.
    """

    value: str
    frame: pd.DataFrame
    total: float
    closure: float


def by_reading(frame: pd.DataFrame, of: Mapping[str, Any]) -> list[Inputs]:
    """Split the inputs of one neuron by reading; `of` has the totals and closure errors (neuron_inputs)."""
    totals = {"pre": ("pre_activation", "closure"), "pre_linear": ("pre_linear", "linear_closure")}
    found = readings(frame)
    if len(found) > 1:  # a gated MLP: b_in is the bias of the linear input, b_gate of the pre-activation
        found[0] = "pre", _renamed(found[0][1], {"b_in": "b_gate"})
    return [
        Inputs(VALUES[reading], rows, *(float(of[name]) for name in totals[reading]))
        for reading, rows in found
    ]


def _renamed(frame: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Return a copy of the frame in which components have other names."""
    return frame.assign(component=frame.component.astype(str).replace(names))


def readings(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return each reading that a frame has, the pre-activation first, with its rows."""
    found = []
    for reading in VALUES:
        rows = frame[frame.reading == reading]
        rows.attrs = frame.attrs
        if len(rows):
            found.append((reading, rows))
    return found


def through(reading: str, is_gated: bool) -> str:
    """Return the end of a title that says through which weights a neuron reads; empty without a gate.

    >>> through("pre", True), through("pre_linear", True), through("pre", False)
    (' through W_gate', ' through W_in', '')
    """
    return f" through {WEIGHTS[reading]}" if is_gated else ""
