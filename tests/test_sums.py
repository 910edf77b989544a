"""Sums of statistics are whole numbers of steps: exact, and the same in whatever order positions come."""

from fractions import Fraction

import numpy as np
import pyarrow as pa
import torch

from annotate_transformer.ingest.attribution.fast.compiled import LOWEST
from annotate_transformer.ingest.attribution.fast.neurons import unit_sums
from annotate_transformer.ingest.attribution.steps import in_steps
from annotate_transformer.ingest.attribution.summaries import MAGNITUDES
from annotate_transformer.ingest.run.run_summary import WideSums
from annotate_transformer.store.layout import STEPS_A_SQUARE, STEPS_A_VALUE

VALUES = (np.random.default_rng(0).standard_normal((500, 7)) * 10.0 ** np.arange(-3, 4)).astype(np.float32)


def summed(values: np.ndarray) -> tuple[list[int], list[int]]:
    total, squares, *_ = unit_sums(values, LOWEST, MAGNITUDES)
    return [int(x) for x in total], [int(x) for x in squares]


def exactly(values: np.ndarray, steps: int, power: int) -> list[int]:
    """The sums of rounded values in fractions, which never round (round: to even, as floats do)."""
    return [sum(round(Fraction(float(x)) ** power * steps) for x in column) for column in values.T]


def test_sums_are_exact() -> None:
    assert summed(VALUES) == (exactly(VALUES, STEPS_A_VALUE, 1), exactly(VALUES, STEPS_A_SQUARE, 2))
    values = torch.from_numpy(VALUES)
    assert in_steps(values, STEPS_A_VALUE).sum(0).long().tolist() == exactly(VALUES, STEPS_A_VALUE, 1)


def test_the_order_of_positions_does_not_matter() -> None:
    order = np.random.default_rng(1).permutation(len(VALUES))
    assert summed(VALUES[order]) == summed(VALUES)
    parts = np.array([summed(part) for part in np.array_split(VALUES[order], 9)])
    assert tuple(parts.sum(0).tolist()) == summed(VALUES)


def test_wide_sums_hold_more_than_64_bits() -> None:
    draw, sums, expected = np.random.default_rng(2), WideSums((2, 3)), [0] * 6
    for _ in range(200):
        values = draw.integers(-(2**62), 2**63, (2, 3), dtype=np.int64)
        sums.add(values)
        expected = [one + int(other) for one, other in zip(expected, values.ravel(), strict=True)]
    assert max(map(abs, expected)) > 2**64
    assert [int(x) for x in sums.column().to_pylist()] == expected
    again = WideSums((2, 3))
    again.restore(pa.chunked_array([sums.column()]))
    again.add(np.full((2, 3), -5))
    assert [int(x) for x in again.column().to_pylist()] == [x - 5 for x in expected]
