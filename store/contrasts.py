"""Compute mean direct effects on the logit of a right answer minus the logit of a wrong answer.

The mean is over a run's documents. Each document is one observation, so an interval is that of Student's t.
Heads are ranked only where the model does the task: effects on a choice that the model does not make mean
nothing.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from annotate_transformer.store.errors import BadQuestion
from annotate_transformer.store.means import LEVEL
from annotate_transformer.store.question import add_note, describe, largest_first, qualify

KINDS = ("component", "head", "neuron")
LEAST_ACCURACY = 0.8
CHARACTERS = 40  # maximum number of characters of a group's name in a message
NAMED = 5  # maximum number of groups of documents that are listed by name in a message
Ask = Callable[[str], pd.DataFrame]  # a function that takes the name of a query and returns its answer


def accuracy(ask: Ask, by: str | None) -> pd.DataFrame:
    """Return per group of documents the accuracy, with its interval, and the mean logit difference.

    Raises:
        BadQuestion: the run has no contrasts, or no document has the column `by`.
    """
    found = ask("contrast_accuracy")
    if found.empty:
        raise BadQuestion(
            "This run has no contrasts: `annotate ingest … --answer-column A --distractor-column B` adds "
            "them."
        )
    if by is not None and found.group_name.tolist() == ["(none)"]:
        raise BadQuestion(f"No document with a contrast has the column {by!r}. Is the name right?")
    from scipy import stats  # imported only here, because importing scipy.stats takes a second

    ends = [
        stats.binomtest(int(right), int(n)).proportion_ci(LEVEL, method="wilson")
        for right, n in zip(found.right_answers, found.documents, strict=True)
    ]
    after = int(found.columns.get_loc("accuracy")) + 1
    found.insert(after, "accuracy_low", [end.low for end in ends])
    found.insert(after + 1, "accuracy_high", [end.high for end in ends])
    return found


def means(ask: Ask, kind: str, by: str | None, least_accuracy: float) -> pd.DataFrame:
    """Return the mean effect of each component, head or neuron per group of documents, largest |mean| first.

    Raises:
        BadQuestion: a parameter is invalid, the run has no contrasts, or the accuracy of every group is
            below `least_accuracy`. `attrs["left_out"]` has the names of the groups that are left out.
    """
    if kind not in KINDS:
        raise BadQuestion(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}.")
    if not 0 <= least_accuracy <= 1:
        raise BadQuestion(f"The least accuracy is {least_accuracy:g}; it must be a fraction from 0 to 1.")
    groups = accuracy(ask, by)
    is_done = groups.accuracy >= least_accuracy
    failed = [
        f"{group.group_name[:CHARACTERS]!r} ({group.accuracy:.1%} of {group.documents:,} documents)"
        for group in groups[~is_done].itertuples()
    ]
    if not is_done.any():
        raise BadQuestion(
            f"The model prefers the answer too rarely: {_shortened(failed)}. To rank {kind}s, "
            f"{least_accuracy:.0%} are needed: effects in a task that the model does not do say nothing "
            "about it. A smaller least accuracy (--least-accuracy) ranks them all the same."
        )
    from scipy import stats

    found = ask(f"contrast_means_{kind}")
    made = found.merge(groups.loc[is_done, ["group_name", "documents"]], on="group_name")
    made["mean"], made["max_error"] = made.total / made.documents, made.limits / made.documents
    # The standard error of a unit's mean effect is unknown if the unit's effect is not stored for every
    # document of the group.
    made.loc[made.rows < made.documents, "standard_error"] = np.nan
    reach = stats.t.ppf((1 + LEVEL) / 2, made.documents - 1) * made.standard_error
    made["low"], made["high"] = made["mean"] - reach, made["mean"] + reach
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(made["mean"]) / made.standard_error, made.documents - 1)
    made["q"] = pd.Series(p, made.index).groupby(made.group_name).transform(discovery_rate)
    names = ["group_name", "component", "layer", "unit", "documents", "mean", "standard_error", "low", "high"]
    answer = largest_first(made[[*names, "q", "max_error"]], made["mean"])
    answer = answer.sort_values("group_name", kind="stable").reset_index(drop=True)
    describe(answer, found.attrs["sql"])
    if kind == "neuron":
        note = "bound: a mean over documents in which the neuron has no row is known within ± max_error"
        qualify(answer, note, max_error=float(answer.max_error.max()))
    if failed:
        share = f"accuracy below {least_accuracy:.0%} in {len(failed):,} of {len(groups):,} groups"
        add_note(answer, f"groups left out: {share}")
    answer.attrs["left_out"] = groups.group_name[~is_done].tolist()
    return answer


def _shortened(groups: list[str]) -> str:
    others = f" and {len(groups) - NAMED:,} others" if len(groups) > NAMED else ""
    return ", ".join(groups[:NAMED]) + others


def discovery_rate(p: "pd.Series[float]") -> "pd.Series[float]":
    """Adjust p-values by the method of Benjamini and Hochberg (1995); unknown p-values stay NaN."""
    from scipy import stats

    known = p.notna()
    adjusted = pd.Series(np.nan, p.index)
    if known.any():
        adjusted[known] = stats.false_discovery_control(p[known])
    return adjusted
