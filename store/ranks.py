"""Compare values at a group of positions with the values at the other positions, by ranks and means."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

ROWS = 512  # number of units whose ranks are computed at once, to save memory


def compared(values: NDArray[np.floating], inside: Flags) -> dict[str, Floats]:
    """Compare each unit's values inside a group with those outside; each array has the shape (unit,).

    mean_in, mean_out: means of the values inside and outside
    auroc: the probability that a value inside is larger than a value outside; equal values count half
    cohens_d: Cohen's d, the difference of the means divided by the pooled standard deviation (with n − 1);
    NaN if all values inside are equal and all values outside are equal
    p: of the Mann–Whitney test, two-sided, by the normal approximation with continuity and tie correction; 1
    if all values are equal

    values: of shape (unit, position); inside: of shape (position,)
    """
    blocks = [_compared(values[i : i + ROWS].astype(float), inside) for i in range(0, len(values), ROWS)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _compared(values: Floats, inside: Flags) -> dict[str, Floats]:
    from scipy import stats  # imported only here, because importing scipy.stats takes a second

    n_in, n_out = int(inside.sum()), int((~inside).sum())
    n = n_in + n_out
    within, without = values[:, inside], values[:, ~inside]
    means = within.mean(1), without.mean(1)
    squares = sum(
        ((of - mean[:, None]) ** 2).sum(1) for of, mean in zip((within, without), means, strict=True)
    )
    ranks = stats.rankdata(values, axis=1)
    larger = ranks[:, inside].sum(1) - n_in * (n_in + 1) / 2  # U: pairs in which the value inside is larger
    # The variance of U over all ways to choose the group is that of the ranks, so ties need no further term.
    error = np.sqrt(n_in * n_out / (n * (n - 1)) * ((ranks - (n + 1) / 2) ** 2).sum(1))
    distance = np.abs(larger - n_in * n_out / 2) - 0.5  # 0.5: continuity correction
    with np.errstate(divide="ignore", invalid="ignore"):
        d = (means[0] - means[1]) / np.sqrt(squares / (n - 2))
        p = np.where(error > 0, np.minimum(2 * stats.norm.sf(distance / error), 1), 1.0)
    return {
        "mean_in": means[0], "mean_out": means[1], "auroc": larger / (n_in * n_out),
        "cohens_d": np.where(np.isfinite(d), d, np.nan), "p": p,
    }  # fmt: skip


def means_by(values: NDArray[np.floating], groups: NDArray[np.int64]) -> Floats:
    """Return the means of each unit's values over the positions of each document, of shape (unit, document).

    values: of shape (unit, position); groups: each position's document, ascending, of shape (position,)
    """
    _, starts, sizes = np.unique(groups, return_index=True, return_counts=True)
    return np.asarray(np.add.reduceat(values.astype(float), starts, axis=1) / sizes)
