"""Compute 95 % intervals of an explanation's scores, and whether the explanation beats the baseline.

In each class (head active, head not active), k of n held-out prompts are predicted correctly. Values of the
lower end of this fraction are sampled from Beta(k, n − k + 1) and values of the upper end from
Beta(k + 1, n − k); quantiles of these distributions are the ends of the Clopper-Pearson interval. A score
increases with the fractions of both classes, so the ends of its interval are computed from the ends of both
fractions, draw by draw (Fay, Proschan and Brittain 2015). Such an interval contains the true score in at
least 95 % of cases, however few the prompts are: with one prompt per class it is wide, and it never has zero
width. Precision, NPV and F1 depend on how frequent the classes are; here it is their frequency
among the held-out prompts.

The baseline is a mean over neurons drawn at random, with its own standard error (the view
explanation_means). Samples of this mean from Student's t are subtracted from samples of the score: an
explanation beats the baseline only if the interval of the difference is above 0.

The intervals are computed on request and not stored: a seed and the counts of explanation_scores give the
same interval every time, and stored intervals could contradict their rows.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

LEVEL, DRAWS, SEED = 0.95, 5_000, 0
FIGURES = ("balanced_accuracy", "precision", "npv", "f1")
COUNTS = ("true_active", "false_inactive", "true_inactive", "false_active")
NOT_KNOWN = (np.nan, np.nan)
Interval = tuple[float, float]
Draws = dict[str, np.ndarray]  # maps the name of a score to random values of the score


def with_intervals(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with added columns …_low and …_high: the ends of each score's 95 % interval.

    scores: rows of explanation_scores

    Also added are `difference` (balanced accuracy minus the baseline), its interval, and `beats_baseline`,
    which is None without an interval and in the baseline's own rows.
    """
    rows = scores.to_dict("records")
    answer = scores.assign(**_columns([_intervals(row) for row in rows]))
    answer.attrs = scores.attrs
    return answer


@lru_cache(maxsize=4096)  # cached because many explanations have the same four counts
def intervals(
    true_active: int, false_inactive: int, true_inactive: int, false_active: int
) -> dict[str, Interval]:
    """Return the 95 % interval of each score. Its ends are NaN if the score is 0 / 0.

    All ends are NaN if there is no prompt on which the head is active, or none on which it is not active.
    """
    counts = (true_active, false_inactive, true_inactive, false_active)
    if not (true_active + false_inactive and true_inactive + false_active):
        return dict.fromkeys(FIGURES, NOT_KNOWN)
    (low, high), known = _ends(*counts), _known(*counts)
    return {name: _range(low[name], high[name]) if known[name] else NOT_KNOWN for name in FIGURES}


def above_baseline(
    counts: tuple[int, int, int, int], baseline: float, error: float, neurons: int
) -> Interval:
    """Return the interval of the balanced accuracy minus the baseline; NaN if either is undefined.

    error: the standard error of the baseline; neurons: the number of neurons in the baseline.
    """
    true_active, false_inactive, true_inactive, false_active = counts
    known = true_active + false_inactive and true_inactive + false_active and neurons > 1
    if not known or np.isnan(error):
        return NOT_KNOWN
    low, high = (ends["balanced_accuracy"] for ends in _ends(*counts))
    drawn = baseline + error * np.random.default_rng([SEED, 1]).standard_t(neurons - 1, DRAWS)
    return _range(low - drawn, high - drawn)


def _intervals(row: dict[str, Any]) -> dict[str, Any]:
    """Return a dictionary from column to value, with the columns to add to a row of explanation_scores."""
    tp, fn, tn, fp, neurons = (
        0 if pd.isna(row[name]) else int(row[name]) for name in (*COUNTS, "baseline_neurons")
    )
    baseline, error = (
        np.nan if pd.isna(row[name]) else float(row[name]) for name in ("baseline", "baseline_error")
    )
    gained: dict[str, Any] = {"difference": row["balanced_accuracy"] - baseline}
    difference = above_baseline((tp, fn, tn, fp), baseline, error, neurons)
    ends = intervals(tp, fn, tn, fp) | {"difference": difference}
    if row["is_baseline"]:
        gained, ends["difference"] = {"difference": np.nan}, NOT_KNOWN
    for name, (low, high) in ends.items():
        gained |= {f"{name}_low": low, f"{name}_high": high}
    low = gained["difference_low"]
    return gained | {"beats_baseline": None if np.isnan(low) else bool(low > 0)}


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one array per column that `_intervals` adds to the rows; without rows the arrays are empty."""
    ends = [f"{name}_{end}" for name in (*FIGURES, "difference") for end in ("low", "high")]
    numbers = {name: [row[name] for row in rows] for name in (*ends, "difference")}
    columns: dict[str, Any] = {name: np.array(values, dtype=float) for name, values in numbers.items()}
    return columns | {"beats_baseline": np.array([row["beats_baseline"] for row in rows], dtype=object)}


@lru_cache(maxsize=32)  # not more than 32, because each cached result takes 320 kB
def _ends(
    true_active: int, false_inactive: int, true_inactive: int, false_active: int
) -> tuple[Draws, Draws]:
    """Return sampled values of the lower end and of the upper end of each score's interval."""
    draw = np.random.default_rng(SEED)
    active, inactive = true_active + false_inactive, true_inactive + false_active
    ends = zip(_shares(draw, true_active, active), _shares(draw, true_inactive, inactive), strict=True)
    low, high = (_figures(active * tpr, active, inactive * tnr, inactive) for tpr, tnr in ends)
    return low, high


def _shares(draw: np.random.Generator, right: int, of: int) -> tuple[np.ndarray, np.ndarray]:
    """Sample the lower and the upper Clopper-Pearson bound of a fraction from their Beta distributions."""
    low = draw.beta(right, of - right + 1, DRAWS) if right else np.zeros(DRAWS)
    high = draw.beta(right + 1, of - right, DRAWS) if right < of else np.ones(DRAWS)
    return low, high


def _figures(tp: np.ndarray, active: int, tn: np.ndarray, inactive: int) -> Draws:
    fn, fp = active - tp, inactive - tn
    with np.errstate(invalid="ignore"):  # no warning about 0 / 0, if no prompt is predicted to be in a class
        figures = (
            (tp / active + tn / inactive) / 2,
            tp / (tp + fp),
            tn / (tn + fn),
            2 * tp / (2 * tp + fp + fn),
        )
    return dict(zip(FIGURES, figures, strict=True))


def _known(true_active: int, false_inactive: int, true_inactive: int, false_active: int) -> dict[str, bool]:
    """Return for each score whether it is defined, that is, its denominator is not 0."""
    said = {"precision": true_active + false_active, "npv": true_inactive + false_inactive}
    return {name: bool(said.get(name, 1)) for name in FIGURES}


def _range(low: np.ndarray, high: np.ndarray) -> Interval:
    """Return the (1 − LEVEL) / 2 quantile of `low` and the (1 + LEVEL) / 2 quantile of `high`."""
    ends = np.quantile(low, (1 - LEVEL) / 2), np.quantile(high, (1 + LEVEL) / 2)
    return float(ends[0]), float(ends[1])


def permutation_p(falls: np.ndarray, is_active: np.ndarray) -> float:
    """Return the permutation p-value of the Kolmogorov-Smirnov distance between two groups of prompts.

    falls: the decrease on each prompt when the head is ablated; the groups are the active and the inactive
    prompts. The p-value is a fraction: among all ways to label the same number of prompts as active, those
    that give at least the observed distance. It is exact also with ties; it is NaN if a group is empty.
    The loop visits the decreases in ascending order; `mass[a]` is the probability that `a` of the decreases
    so far are active and that the observed distance was not reached yet (Schröer and Trenkler 1995).
    """
    order = np.argsort(falls, kind="stable")
    sorted_falls, kinds = falls[order], is_active[order]
    # `ends` is True at the last of several equal decreases: they count as one step.
    ends = np.append(sorted_falls[1:] != sorted_falls[:-1], True)
    active, every = np.arange(kinds.sum() + 1), len(kinds)
    n_active, n_inactive = len(active) - 1, every - len(active) + 1
    if not (n_active and n_inactive):
        return float("nan")

    def apart(of_active: np.ndarray, so_far: np.ndarray | int) -> np.ndarray:
        """Return the scaled distance between the groups' distributions after the `so_far` smallest decreases.

        The distance is |F_active − F_inactive| · n_active · n_inactive, where F is the empirical distribution
        function of a group's decreases; the product makes values integers.
        """
        found: np.ndarray = np.abs(of_active * n_inactive - (so_far - of_active) * n_active)
        return found

    reached = apart(np.cumsum(kinds), np.arange(1, every + 1))[ends].max()
    mass, p = np.where(active == 0, 1.0, 0.0), 0.0
    for so_far in range(every):
        next_active = np.clip((n_active - active) / (every - so_far), 0, 1)
        mass = mass * (1 - next_active) + np.append(0, (mass * next_active)[:-1])
        if ends[so_far]:
            out = apart(active, so_far + 1) >= reached
            p, mass = p + float(mass[out].sum()), np.where(out, 0, mass)
    return min(p, 1.0)
