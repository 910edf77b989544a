"""How sure the scores of an explanation are: bootstrap intervals (Efron 1979), from the counts of a view.

Computed when they are asked for: a seed and four counts of explanation_scores give the same interval
every time, so stored ones could only come to contradict their rows.
"""

import numpy as np
import pandas as pd

LEVEL, DRAWS, SEED = 0.95, 2000, 0
FIGURES = ("balanced_accuracy", "precision", "npv", "f1")
Interval = tuple[float, float]


def with_intervals(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows of explanation_scores, with …_low and …_high beside each figure."""
    counts = ["true_active", "false_inactive", "true_inactive", "false_active"]
    found = [intervals(*row) for row in scores[counts].fillna(0).astype(int).to_numpy().tolist()]
    ends = {
        f"{figure}_{end}": [of_row[figure][i] for of_row in found]
        for figure in FIGURES
        for i, end in enumerate(("low", "high"))
    }
    answer = scores.assign(**ends)
    answer.attrs = scores.attrs
    return answer


def intervals(
    true_active: int, false_inactive: int, true_inactive: int, false_active: int
) -> dict[str, Interval]:
    """Of each figure the range that holds LEVEL of the draws; NaN where none has the figure.

    A draw takes as many prompts of each class as there are, with replacement: how many of them were
    told rightly is then binomial.
    """
    draw = np.random.default_rng(SEED)
    active, inactive = true_active + false_inactive, true_inactive + false_active
    if not (active and inactive):
        return dict.fromkeys(FIGURES, (np.nan, np.nan))
    tp = draw.binomial(active, true_active / active, DRAWS).astype(float)
    tn = draw.binomial(inactive, true_inactive / inactive, DRAWS).astype(float)
    fn, fp = active - tp, inactive - tn
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing was told to be so
        accuracy, f1 = (tp / active + tn / inactive) / 2, 2 * tp / (2 * tp + fp + fn)
        figures = (accuracy, tp / (tp + fp), tn / (tn + fn), f1)
    return {figure: _range(values) for figure, values in zip(FIGURES, figures, strict=True)}


def _range(values: np.ndarray) -> Interval:
    known = values[~np.isnan(values)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
