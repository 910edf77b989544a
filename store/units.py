"""The classes `Neuron` and `Head`: queries about one neuron or head of a run."""

from typing import Any, ClassVar

import pandas as pd

from annotate_transformer.store import display
from annotate_transformer.store.errors import BadQuestion, NoSuchUnit, one_of
from annotate_transformer.store.means import COUNTED, mean_over_positions
from annotate_transformer.store.names import unit_name
from annotate_transformer.store.queries import AFTER, BEFORE, named
from annotate_transformer.store.question import OneUnit, Question, qualify, truncate
from annotate_transformer.store.session import Session

SIDES = ("high", "low", "both")
TEXT = {"before": BEFORE, "after": AFTER}
SHOWN = 5  # number of contexts that a notebook shows


class Unit:
    """The queries that neurons and heads have in common; `layer` and `number` count from 0."""

    kind: ClassVar[str]  # `neuron` or `head`
    letter: ClassVar[str]
    per_layer: ClassVar[str]  # name of the column of `models` with the number of neurons or heads per layer
    top: ClassVar[str]  # what a notebook shows
    shown: ClassVar[tuple[str, str]]  # the column that it shows, and the prefix of the columns with the text
    sql_type: ClassVar[str]  # SQL type of `number` in the store; parameters of this type let DuckDB skip rows

    def __init__(self, session: Session, letter: str, layer: int, number: int, run: int) -> None:
        self.session, self.layer, self.number, self.run = session, layer, number, run
        self.check(session.model_of(run), letter, layer, number)

    @classmethod
    def check(cls, model: "pd.Series[Any]", letter: str, layer: int, number: int) -> None:
        """Raise NoSuchUnit if `model`, a row of the view `models`, has no such neuron or head."""
        layers, units = int(model.n_layers), int(model[cls.per_layer])
        names = " to ".join(unit_name(cls.letter, *end) for end in ((0, 0), (layers - 1, units - 1)))
        asked = unit_name(letter, layer, number)
        if letter != cls.letter:
            raise NoSuchUnit(f"{asked} is not a {cls.kind}: those are named {names}.")
        if not (0 <= layer < layers and 0 <= number < units):
            raise NoSuchUnit(f"{model.model} has no {cls.kind} {asked}, only {names}.")

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name} of run {self.run}>"

    def _repr_html_(self) -> str:
        stats = self.stats().drop("histogram").to_frame(repr(self)).T
        top = self.contexts("high", SHOWN)
        return str(stats.to_html()) + display.contexts(self.top, top, *self.shown)

    @property
    def name(self) -> str:
        return unit_name(self.letter, self.layer, self.number)

    def contexts(self, side: str = "high", k: int = 20) -> pd.DataFrame:
        """Return the run's positions where the unit's value is largest or smallest, with their context."""
        one_of("side", side, SIDES)
        frame = self._ask("contexts", side=side, k=k, **TEXT)
        self._note_length(frame, k * (2 if side == "both" else 1))
        return frame

    def random(self, k: int = 20) -> pd.DataFrame:
        """Return `k` positions of the run's random sample, which is uniform over the run's positions."""
        return self._samples(1, k)

    def quantiles(self, bins: int = 5, k: int = 5) -> pd.DataFrame:
        """Divide the random sample into `bins` quantiles; return `k` positions of each, highest bin first."""
        return self._samples(bins, k)

    def stats(self) -> pd.Series:
        """Return exact statistics over the run's positions, such as the mean and the mean direct effect.

        Special tokens are left out, unless the run has --special-in-lists.
        """
        return self._ask("stats").iloc[0]

    def histogram(self) -> pd.DataFrame:
        """Return the exact number of positions per bin of values; the first and last bins are open-ended."""
        return self._ask("histogram")

    def interval(self, bin: int, k: int = 20) -> pd.DataFrame:
        """Return positions whose value lies in the given bin of the histogram; bins are counted from 1."""
        frame = self._ask("interval", bin=bin, k=k, **TEXT)
        qualify(frame, "sample: only positions of the random sample and of top lists; the histogram has all")
        return frame

    def companions(self, k: int = 20) -> pd.DataFrame:
        """Return the most correlated neurons and heads: Pearson's r on the random sample, largest |r| first.

        The value of a neuron is its activation; the value of a head is its direct effect on the next token.
        largest_permuted: the largest |r| with any of the `candidates` over 19 permutations of this unit's
        values. A larger |r| has p < .05, corrected for the number of candidates.
        """
        frame = self._ask("companions", k=k)
        qualify(frame, "sample: correlations over the run's random sample, empty before the run is finished")
        return frame

    def _samples(self, bins: int, k: int) -> pd.DataFrame:
        if bins < 1 or not 1 <= k < 10**6:  # DuckDB's arg_min returns fewer than a million values
            raise BadQuestion("Give at least one bin, and from 1 to 999,999 contexts per bin.")
        frame = self._ask("quantiles", bins=bins, k=k, **TEXT)
        truncate(frame, self._positions(), what="a uniform sample,")
        return frame

    def _positions(self) -> int:
        """Return the number of positions over which the unit's statistics are computed."""
        return int(self.question("stats").rows()[0]["count"])

    def _note_length(self, frame: pd.DataFrame, wanted: int) -> None:
        """Mark the answer as truncated if the stored list has fewer contexts than were asked for."""
        if len(frame) < wanted and len(frame) < (positions := self._positions()):
            truncate(frame, positions, what="the stored lists have")

    def question(self, what: str, **parameters: Any) -> Question:
        """Return the named query `what` about this unit; prefer a variant for its kind (`neuron_what`)."""
        own = f"{self.kind}_{what}"
        query = own if own in named("read.sql") else what
        unit = OneUnit(self.kind, int(self.layer), int(self.number), self.sql_type)
        return Question(self.session, query, self.run, parameters, unit)

    def _ask(self, what: str, **parameters: Any) -> pd.DataFrame:
        return self.question(what, **parameters).ask()


class Neuron(Unit):
    """Queries about one neuron of a run: `at.open(…).neuron("L3N7")` returns a `Neuron`."""

    kind, letter, per_layer, sql_type = "neuron", "N", "d_mlp", "UINTEGER"
    top, shown = "Top activations", ("activation", "")

    def windows(self, k: int = 20) -> pd.DataFrame:
        """Return the windows in which the neuron's maximum activation is largest. The answer is exact.

        The maximum in a window is φ in Neo, Cohen and Barez (2024).
        """
        return self._ask("windows", k=k, **TEXT)

    def tokens(self, k: int = 20) -> pd.DataFrame:
        """Return the tokens at which the neuron is most often among its layer's strongest, with mean values.

        The mean is only over positions where the neuron is stored as one of the strongest of its layer, so it
        exceeds the mean over all positions.
        """
        return self._kept(self._ask("tokens", k=k))

    def effects(self, k: int = 20) -> pd.DataFrame:
        """Return the next tokens on which the neuron's summed direct effect is largest in absolute value.

        The sum is only over positions where the neuron is stored as one of the strongest of its layer.
        """
        return self._kept(self._ask("effects", k=k))

    def mean_activation(self) -> pd.DataFrame:
        """Return the mean activation over the random sample, with its 95 % interval over documents.

        The columns are those of `Store.mean`. Only the sample has the activation at every position; the mean
        over the whole run is in `stats`, and has no interval.
        """
        chosen = f"layer = {self.layer} AND neuron = {self.number}"
        found = mean_over_positions(self.session, self.run, "value", "neuron_samples", chosen, ())
        qualify(found, "estimate: a mean over the run's random sample of positions")
        return found

    def _kept(self, frame: pd.DataFrame) -> pd.DataFrame:
        qualify(frame, "lower bound: only positions where the neuron is stored, as one of the strongest")
        return frame


class Head(Unit):
    """Queries about one head: `at.open(…).head("L1H2")`. Heads are stored at every position."""

    kind, letter, per_layer, sql_type = "head", "H", "n_heads", "UTINYINT"
    top = "Largest direct effects on the next token (logits); the source of most attention is marked"
    shown = ("toward_next", "source_")

    def tokens(self, k: int = 20) -> pd.DataFrame:
        """Return the tokens that the head most often attends to most, with mean attention and effect."""
        return self._ask("tokens", k=k)

    def destinations(self, k: int = 20) -> pd.DataFrame:
        """Return the tokens at which the head's summed direct effect is largest in absolute value."""
        return self._ask("destinations", k=k)

    def effects(self, k: int = 20) -> pd.DataFrame:
        """Return the next tokens on which the head's summed direct effect is largest in absolute value."""
        return self._ask("effects", k=k)

    def mean_effect(self) -> pd.DataFrame:
        """Return the mean direct effect on the next token (logits) with its 95 % interval over documents.

        The columns are those of `Store.mean`; special tokens are excluded as in `stats`.
        """
        chosen = f"layer = {self.layer} AND head = {self.number} AND {COUNTED}"
        return mean_over_positions(self.session, self.run, "toward_next", "heads", chosen, ())

    def distances(self) -> pd.DataFrame:
        """Return position count, mean attention and mean effect per distance to the most attended source."""
        return self._ask("distances")
