"""The results of a replication: quantities computed here, and the reference values of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from torch import Tensor

LEVEL = 0.95  # confidence level of all intervals


@dataclass(frozen=True)
class Quantity:
    """A quantity computed here.

    `name`, `unit`: the quantity's name and unit;
    `value`: None if the model cannot have a value, for example because a word is not one token;
    `n`, `of`: number and kind of the independent samples; None for a quantity that is not an estimate;
    `low`, `high`: ends of the 95 % interval of a mean; None without an interval.
    """

    name: str
    unit: str
    value: float | None
    n: int | None = None
    of: str | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Reference:
    """The known values of a model, published unless `source` says otherwise, by name of the quantity.

    A value is a number in the quantity's unit, or a text if only a class is known, such as "name mover".
    """

    model: str
    source: str
    values: Mapping[str, float | str]


def head(layer: int, index: int) -> str:
    """Return a head's name, such as L5H1."""
    return f"L{layer}H{index}"


def mean(name: str, unit: str, samples: Tensor, of: str) -> Quantity:
    """Return the mean of independent samples, of shape (n,), with its 95 % interval (Student's t)."""
    n, value = len(samples), float(samples.double().mean())
    if n < 2:
        return Quantity(name, unit, value, n, of)
    margin = _student_t(n - 1) * float(samples.double().std()) / n**0.5
    return Quantity(name, unit, value, n, of, value - margin, value + margin)


def fraction(name: str, hits: Tensor, of: str) -> Quantity:
    """Return the fraction of samples that are True, with Wilson's 95 % interval; `hits` has shape (n,)."""
    n, p, z = len(hits), float(hits.double().mean()), NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle, margin = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    low, high = ((middle + side * margin) / (1 + z**2 / n) for side in (-1, 1))
    return Quantity(name, "fraction", p, n, of, low, high)


def _student_t(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t, within 0.1 % from 10 degrees of freedom on.

    The expansion is Abramowitz and Stegun (1964), 26.7.5.
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
