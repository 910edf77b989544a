"""One neuron or one head of a run, and the questions about it."""

from typing import Any, ClassVar

import pandas as pd

from annotate_transformer.store.errors import BadQuestion, NoSuchUnit, one_of
from annotate_transformer.store.names import unit_name
from annotate_transformer.store.queries import AFTER, BEFORE, named
from annotate_transformer.store.question import OneUnit, Question, qualify
from annotate_transformer.store.session import Session

SIDES = ("high", "low", "both")
TEXT = {"before": BEFORE, "after": AFTER}


class Unit:
    """What neurons and heads have in common; `layer` and `number` count from 0."""

    kind: ClassVar[str]  # as in read.sql
    letter: ClassVar[str]
    per_layer: ClassVar[str]  # the model's column that says how many a layer has
    sql_type: ClassVar[str]  # the stored number's: DuckDB skips blocks only if a parameter has that type

    def __init__(self, session: Session, letter: str, layer: int, number: int, run: int) -> None:
        self.session, self.layer, self.number, self.run = session, layer, number, run
        self.check(session.model_of(run), letter, layer, number)

    @classmethod
    def check(cls, model: "pd.Series[Any]", letter: str, layer: int, number: int) -> None:
        """Raises NoSuchUnit if `model`, a row of `models`, has no such unit."""
        layers, units = int(model.n_layers), int(model[cls.per_layer])
        names = " to ".join(unit_name(cls.letter, *end) for end in ((0, 0), (layers - 1, units - 1)))
        asked = unit_name(letter, layer, number)
        if letter != cls.letter:
            raise NoSuchUnit(f"{asked} is no {cls.kind}: those are named {names}.")
        if not (0 <= layer < layers and 0 <= number < units):
            raise NoSuchUnit(f"{model.model} has no {cls.kind} {asked}, only {names}.")

    @property
    def name(self) -> str:
        return unit_name(self.letter, self.layer, self.number)

    def contexts(self, side: str = "high", k: int = 20) -> pd.DataFrame:
        """The most extreme positions with the text around them; exact over the whole run."""
        one_of("side", side, SIDES)
        return self._ask("contexts", side=side, k=k, **TEXT)

    def random(self, k: int = 20) -> pd.DataFrame:
        """`k` positions of the run's uniform sample: what the maxima do not show."""
        return self._samples(1, k)

    def quantiles(self, bins: int = 5, k: int = 5) -> pd.DataFrame:
        """The sample in `bins` of equal size by value, the highest first, `k` contexts of each."""
        return self._samples(bins, k)

    def stats(self) -> pd.Series:
        """Mean, deviation, extremes, effects: exact over every position of the run."""
        return self._ask("stats").iloc[0]

    def histogram(self) -> pd.DataFrame:
        """Positions by value; an edge NULL is open. Exact."""
        return self._ask("histogram")

    def interval(self, bin: int, k: int = 20) -> pd.DataFrame:
        """Contexts with a value in the histogram's n-th bin, from 1: of the sample and of its lists."""
        frame = self._ask("interval", bin=bin, k=k, **TEXT)
        qualify(
            frame, "sample: of the run's random sample and top lists, the histogram counts every position"
        )
        return frame

    def companions(self, k: int = 20) -> pd.DataFrame:
        """The neurons and heads that rise and fall with it: Pearson's r over the run's uniform sample.

        Of a neuron the activation, of a head the direct effect on the next token; the largest |r| first.
        largest_permuted: the largest |r| with any of the `candidates` in 19 permutations of its values; a |r|
        above that has p < .05, however many there are to choose from.
        """
        frame = self._ask("companions", k=k)
        frame.attrs["note"] = "over a uniform sample of the run's positions; none before the run is finished"
        return frame

    def _samples(self, bins: int, k: int) -> pd.DataFrame:
        if bins < 1 or not 1 <= k < 10**6:  # DuckDB's arg_min gives fewer than a million
            raise BadQuestion("Give at least one bin, and in each one context or more, fewer than 1,000,000.")
        frame = self._ask("quantiles", bins=bins, k=k, **TEXT)
        frame.attrs["note"] = "a uniform sample of the run's positions, the same each time"
        return frame

    def question(self, what: str, **parameters: Any) -> Question:
        """Return the question of read.sql named after this kind of unit (`neuron_tokens`) or after both."""
        own = f"{self.kind}_{what}"
        query = own if own in named("read.sql") else what
        unit = OneUnit(self.kind, int(self.layer), int(self.number), self.sql_type)
        return Question(self.session, query, self.run, parameters, unit)

    def _ask(self, what: str, **parameters: Any) -> pd.DataFrame:
        return self.question(what, **parameters).ask()


class Neuron(Unit):
    """A neuron: `at.open(…).neuron("L3N7")`."""

    kind, letter, per_layer, sql_type = "neuron", "N", "d_mlp", "USMALLINT"

    def windows(self, k: int = 20) -> pd.DataFrame:
        """The windows with its highest maxima, each once (φ of Neo, Cohen and Barez 2024); exact."""
        return self._ask("windows", k=k, **TEXT)

    def tokens(self, k: int = 20) -> pd.DataFrame:
        """The tokens at which it was among the kept, how often, and its mean activation there.

        A mean over the kept is no mean over all: where it was weak it was not kept.
        """
        return self._kept(self._ask("tokens", k=k))

    def effects(self, k: int = 20) -> pd.DataFrame:
        """The next tokens it did most for and against, summed over the positions where it was kept."""
        return self._kept(self._ask("effects", k=k))

    def _kept(self, frame: pd.DataFrame) -> pd.DataFrame:
        qualify(frame, "lower bound: counted where the neuron was kept, among the strongest of its layer")
        return frame


class Head(Unit):
    """A head: `at.open(…).head("L1H2")`. All heads are kept, so all answers are exact."""

    kind, letter, per_layer, sql_type = "head", "H", "n_heads", "UTINYINT"

    def tokens(self, k: int = 20) -> pd.DataFrame:
        """The tokens it most attends to: how often one was its strongest source, and with what effect."""
        return self._ask("tokens", k=k)

    def destinations(self, k: int = 20) -> pd.DataFrame:
        """The tokens at which it does most, by total effect in logits; attention: to its strongest source."""
        return self._ask("destinations", k=k)

    def effects(self, k: int = 20) -> pd.DataFrame:
        """The next tokens it does most for and against, by total effect in logits."""
        return self._ask("effects", k=k)

    def distances(self) -> pd.DataFrame:
        """How far back its strongest source is: positions, share, mean attention and effect by distance."""
        return self._ask("distances")
