"""The results of a replication: quantities computed here, and the reference values of a model."""

from collections.abc import Mapping
from dataclasses import dataclass

from scipy import stats
from torch import Tensor

LEVEL = 0.95  # confidence level of all intervals


@dataclass(frozen=True)
class Quantity:
    """A quantity that a replication computes.

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
    """Known values of a model, as a mapping from quantity name to value, and their source, such as a paper.

    A value is a number in the quantity's unit, or a text if only a class is known, such as "name mover".
    """

    model: str
    source: str
    values: Mapping[str, float | str]


def mean(name: str, unit: str, samples: Tensor, of: str) -> Quantity:
    """Return the mean of independent samples, of shape (n,), with its 95 % interval (Student's t)."""
    n, value = len(samples), float(samples.double().mean())
    if n < 2:
        return Quantity(name, unit, value, n, of)
    margin = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * float(samples.double().std()) / n**0.5
    return Quantity(name, unit, value, n, of, value - margin, value + margin)


def fraction(name: str, hits: Tensor, of: str) -> Quantity:
    """Return the fraction of samples that are True, with Wilson's 95 % interval; `hits` has shape (n,)."""
    found = stats.binomtest(int(hits.sum()), len(hits))
    ends = found.proportion_ci(LEVEL, method="wilson")
    return Quantity(name, "fraction", found.statistic, len(hits), of, float(ends.low), float(ends.high))
