"""A model's statistics over its training steps: curves, the step at which a curve rises, and what changes.

A series is the set of runs that differ only in the training step of the model. `annotate sweep` makes one.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from annotate_transformer.store.errors import BadQuestion, one_of
from annotate_transformer.store.means import COUNTED, LEVEL, NOTE, intervals, resampled
from annotate_transformer.store.names import KINDS, LETTERS, parse, unit_name
from annotate_transformer.store.question import Question, add_note, describe, qualify
from annotate_transformer.store.session import Session

Floats = NDArray[np.float64]

# STATISTICS maps what a statistic describes to the names that the view `emergence` has for it. The first is
# the default.
STATISTICS = {
    "model": ("loss", "bigram_rank_correlation", "bigram_divergence", "bigram_overlap"),
    "head": (
        *(
            "mean_abs_effect",
            "mean_effect",
            "corpus_previous",
            "corpus_first",
            "corpus_self",
            "corpus_entropy",
        ),
        *("corpus_duplicate", "corpus_induction", "random_previous", "random_first", "random_self"),
        *("random_entropy", "random_duplicate", "random_induction", "copying", "composition_q"),
        *("composition_k", "composition_v"),
    ),
    "neuron": ("mean_abs_effect", "mean_effect", "mean", "std", "fraction_positive", "congruence"),
}
# VALUES: the statistics that are means over stored rows, so that documents can be resampled: (what the
# statistic describes, its name) → the view and the value of a row.
VALUES = {
    ("model", "loss"): ("base.position", "-next_logprob"),
    ("head", "mean_effect"): ("heads", "toward_next"),
    ("head", "mean_abs_effect"): ("heads", "abs(toward_next)"),
}
LEAST_FALL = 1.0  # nats by which a token's loss must fall in training, so that the token counts as learned


@dataclass(frozen=True)
class Curve:
    """A statistic of the model (`unit` is None), a head or a neuron, over the series of a run."""

    session: Session
    run: int
    unit: str | None = None
    statistic: str | None = None

    @property
    def kind(self) -> str:
        return "model" if self.unit is None else KINDS[parse(self.unit)[0]]

    @property
    def name(self) -> str:
        """The name of the statistic.

        Raises:
            BadQuestion: there is no such statistic.
        """
        return chosen_statistic(self.kind, self.statistic)

    @cached_property
    def _stored(self) -> tuple[pd.DataFrame, str]:
        """The value at each step, one row per run of the series; and the SQL of the query."""
        _, layer, number = parse(self.unit) if self.unit else ("", None, None)
        units = {"layer": layer} | {
            kind: number if self.kind == kind else None for kind in ("head", "neuron")
        }
        question = Question(self.session, "emergence", self.run, units | {"statistic": self.name})
        found = question.ask()
        _check_series(self.session, found, self.run)
        return found, question.sql

    def values(self) -> pd.DataFrame:
        """Return one row per step: step, revision, run_id, value, low, high, count, token.

        low, high: ends of the 95 % interval of a mean over positions, which resamples documents; NaN for a
        statistic that is not computed from stored rows of every position
        """
        stored, sql = self._stored
        low = high = np.full(len(stored), np.nan)
        if self._sums is not None:
            low, high, _ = intervals(*self._sums)
        found = stored.copy()
        found.insert(4, "low", low)
        found.insert(5, "high", high)
        describe(found, sql)
        missing = int(found.value.isna().sum())
        if missing:
            qualify(found, f"{missing} of {len(found)} steps have no {self.name}: {_why(self.name)}")
        if self._sums is not None:
            add_note(found, NOTE)
        return found

    def rise(self) -> pd.Series:
        """Return where the curve rises or falls: the step at which it has made half of its change.

        Entries: first and extreme (the values at the first step and where the curve is farthest from it),
        half (their mean), after and until (annotated steps: the curve reaches `half` after the one and not
        after the other), step (where it does if the curve is a straight line over log(1 + step) between
        annotated steps), low and high (ends of the 95 % interval of `step`, which resamples documents; NaN
        for a statistic that is not computed from stored rows), documents.

        Raises:
            BadQuestion: the statistic has values at fewer than two steps, or never changes.
        """
        stored, _ = self._stored
        is_known = stored.value.notna().to_numpy()
        found = stored[is_known]
        steps, curve = found.step.to_numpy(float), found.value.to_numpy(float)
        if len(curve) < 2:
            raise BadQuestion(f"{self.name} has values at {len(curve)} steps; at least two are needed.")
        extreme, step = curve[np.abs(curve - curve[0]).argmax()], half_height(steps, curve[None])[0]
        if np.isnan(step):
            raise BadQuestion(f"{self.name} is {curve[0]:.4g} at every step: it never rises or falls.")
        row = {"first": curve[0], "extreme": extreme, "half": (curve[0] + extreme) / 2}
        row |= {"after": steps[steps < step].max(), "until": steps[steps >= step].min(), "step": step}
        row |= {"low": np.nan, "high": np.nan, "documents": np.nan}
        if self._sums is not None:
            sums, sizes = self._sums
            halves = half_height(steps, resampled(sums[:, is_known], sizes))
            row["low"], row["high"] = np.nanquantile(halves, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            row["documents"] = len(sizes)
        return pd.Series(row)

    @cached_property
    def _sums(self) -> tuple[Floats, NDArray[np.int64]] | None:
        """Each document's sum of values at each step, and its number of positions.

        The shapes are (document, step) and (document,). None if rows are not stored, or one document is.
        """
        if (self.kind, self.name) not in VALUES:
            return None
        view, value = VALUES[self.kind, self.name]
        _, layer, head = parse(self.unit) if self.unit else ("", None, None)
        chosen = f"layer = {layer} AND head = {head} AND {COUNTED}" if self.unit else "true"
        pieces = {"value": value, "rows_of": view, "condition": chosen, "groups": ""}
        runs = self._stored[0].run_id
        sums = [Question(self.session, "sums_by_document", run, pieces=pieces).ask() for run in runs]
        totals = pd.concat([of_run.set_index("document_id").total for of_run in sums], axis=1)
        if len(totals) < 2:
            return None
        return totals.to_numpy(float), sums[0].positions.to_numpy(np.int64)


def half_height(steps: Floats, curves: Floats) -> Floats:
    """Return the step at which each curve first is half-way between its first and its most distant value.

    Between two steps a straight line over log(1 + step) is assumed. NaN for a curve that never changes.

    steps: ascending, of shape (step,); curves: of shape (curve, step)

    >>> half_height(np.array([0.0, 1, 3, 7]), np.array([[10.0, 10, 6, 2], [1, 1, 1, 1]]))
    array([ 3., nan])
    """
    places = np.log1p(steps)
    heights = np.abs(curves - curves[:, :1])
    half = heights.max(axis=1, keepdims=True) / 2
    # The curve may cross its first value on the way to the most distant one, so heights have a sign.
    sign = np.sign(np.take_along_axis(curves, heights.argmax(axis=1)[:, None], 1) - curves[:, :1])
    signed = sign * (curves - curves[:, :1])
    at = (signed >= half).argmax(axis=1)
    rows, before = np.arange(len(curves)), np.maximum(at - 1, 0)
    low, high = signed[rows, before], signed[rows, at]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = (half[:, 0] - low) / (high - low)
    crossed: Floats = np.expm1(places[before] + part * (places[at] - places[before]))
    return crossed


def changes(
    session: Session, run: int, kind: str, statistic: str | None, steps: tuple[int, int], limit: int
) -> pd.DataFrame:
    """Return the heads or neurons whose statistic differs most between two steps of a run's series."""
    one_of("kind", kind, ("head", "neuron"))
    name, [first, second] = chosen_statistic(kind, statistic), [run_at(session, run, step) for step in steps]
    asked = {"other": second, "kind": kind, "statistic": name, "limit": limit}
    found, _ = Question(session, "emergence_changes", first, asked).first()
    if found.empty:
        raise BadQuestion(f"One of the steps {steps[0]} and {steps[1]} has no {name}: {_why(name)}.")
    names = [unit_name(LETTERS[kind], *unit) for unit in zip(found.layer, found.unit, strict=True)]
    found.insert(0, kind, names)
    return found.drop(columns=["layer", "unit", *(["token_a", "token_b"] if kind == "head" else [])])


def at_all_steps(session: Session, run: int, first: int, last: int) -> pd.DataFrame:
    """Return the predictions at positions of a run, from `first` to `last`, at every step of the series.

    Column here: the position_id in this run; position_id: that in the run of the step.
    """
    question = Question(session, "at_all_steps", run, {"first": first, "last": last})
    found = question.ask()
    _check_series(session, found, run)
    return found


def learned(session: Session, run: int, first: int, last: int) -> pd.DataFrame:
    """Return the step at which each next token was learned, one row per position from `first` to `last`.

    A next token is learned at the step of half height of its loss (`half_height`) if its loss falls by at
    least LEAST_FALL nats below its loss at the first step; else the column `step` is NaN.
    """
    found = at_all_steps(session, run, first, last)
    losses = found.dropna(subset="loss").pivot(index="here", columns="step", values="loss")
    curves = losses.to_numpy(float)
    has_fallen = curves[:, 0] - curves.min(axis=1, initial=np.inf) >= LEAST_FALL
    # Only the way down counts, also for a loss that first rises far above its first value.
    falling = np.minimum(curves, curves[:, :1])
    step = np.where(has_fallen, half_height(losses.columns.to_numpy(float), falling), np.nan)
    answer = pd.DataFrame({"position_id": losses.index, "step": step})
    answer["loss_first"], answer["loss_last"] = curves[:, 0], curves[:, -1]
    describe(answer, found.attrs["sql"])
    return answer


def run_at(session: Session, run: int, step: int) -> int:
    """Return the run of the series at a step.

    Raises:
        BadQuestion: no run of the series has this step; the message lists the steps.
    """
    found = Question(session, "training_steps", run).rows()
    of_steps = {row["step"]: row["run_id"] for row in found}
    if step not in of_steps:
        _check_series(session, pd.DataFrame(found), run)
        there = ", ".join(f"{known:,}" for known in of_steps)
        raise BadQuestion(f"No run like run {run} has step {step:,}; these steps are there: {there}.")
    return int(of_steps[step])


def chosen_statistic(kind: str, statistic: str | None) -> str:
    """Return the statistic, or the default one of this kind.

    Raises:
        BadQuestion: `kind` has no such statistic; the message lists those that it has.
    """
    if statistic is not None:
        one_of("statistic", statistic, STATISTICS[kind])
    return statistic or STATISTICS[kind][0]


def _check_series(session: Session, found: pd.DataFrame, run: int) -> None:
    if found.empty:
        model = session.model_of(run)
        raise BadQuestion(
            f"Run {run} has no known training step ({model.model} {model.revision or ''}), or has no such "
            "position. `annotate sweep` makes one run for each of many steps."
        )


def _why(statistic: str) -> str:
    of_weights = statistic.startswith(("random_", "copying", "composition_", "congruence"))
    return (
        "`annotate weights --run RUN` reads the weights" if of_weights else "the run has no positions for it"
    )
