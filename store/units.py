"""One neuron or one head of a run, and what can be asked of it."""

import re
from typing import TYPE_CHECKING, Any, ClassVar

import duckdb
import pandas as pd

from annotate_transformer.store.errors import BadQuestion, NoSuchUnit, one_of
from annotate_transformer.store.names import unit_name
from annotate_transformer.store.queries import AFTER, BEFORE, named

if TYPE_CHECKING:
    from annotate_transformer.store.reader import Store

SIDES = ("high", "low", "both")
FINISHED = {"lists": "base.top_entry", "list_sources": "base.top_source", "samples": "base.finished_sample"}
GOING_ON = {"lists": "base.ranked", "list_sources": "base.head", "samples": "base.sample"}
TEXT = {"before": BEFORE, "after": AFTER}


class Unit:
    """What neurons and heads have in common; `layer` and `number` count from 0."""

    kind: ClassVar[str]  # as in read.sql
    letter: ClassVar[str]
    per_layer: ClassVar[str]  # the model's column that says how many a layer has
    sql_type: ClassVar[str]  # the stored number's: DuckDB skips blocks only if a parameter has that type

    def __init__(self, store: "Store", letter: str, layer: int, number: int, run: int) -> None:
        self.store, self.layer, self.number, self.run = store, layer, number, run
        self.check(store._shape(run), letter, layer, number)

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
        frame = self._ask("interval", kind=self.kind, bin=bin, k=k, **TEXT)
        note = "of the run's uniform sample and of the lists of extremes; the histogram counts every position"
        frame.attrs = {"exact": False, "bound": {}, "note": note}
        return frame

    def companions(self, k: int = 20) -> pd.DataFrame:
        """The neurons and heads that rise and fall with it: Pearson's r over the run's uniform sample.

        Of a neuron the activation, of a head the direct effect on the next token; the largest |r| first.
        largest_permuted: the largest |r| with any of the `candidates` in 19 permutations of its values; a |r|
        above that has p < .05, however many there are to choose from.
        """
        frame = self._ask("companions", kind=self.kind, k=k)
        frame.attrs["note"] = "over a uniform sample of the run's positions; none before the run is finished"
        return frame

    def _samples(self, bins: int, k: int) -> pd.DataFrame:
        if bins < 1 or not 1 <= k < 10**6:  # DuckDB's arg_min gives fewer than a million
            raise BadQuestion("Give at least one bin, and in each one context or more, fewer than 1,000,000.")
        frame = self._ask("quantiles", bins=bins, k=k, **TEXT)
        frame.attrs["note"] = "a uniform sample of the run's positions, the same each time"
        return frame

    def query(self, what: str) -> str:
        """The SQL of read.sql behind a method's answer; {unit_samples} and {unit_stats} are its kind's,
        {lists}, {list_sources} and {samples} the run's."""
        queries = named("read.sql")
        what = "quantiles" if what == "random" else what
        text = queries.get(f"{self.kind}_{what}") or queries[what]
        text = re.sub(r"\{unit_(\w+)\}", lambda piece: queries[f"{self.kind}_{piece[1]}"], text)
        # Views that hold of a run going on too what it has so far take 3 ms to plan.
        for piece, table in (FINISHED if self.store._is_finished(self.run) else GOING_ON).items():
            text = text.replace(f"{{{piece}}}", table)
        return self.store.query(text)

    def _ask(self, what: str, **parameters: Any) -> pd.DataFrame:
        text = self.query(what)
        identity = {
            "layer": duckdb.Value(int(self.layer), duckdb.type("UTINYINT")),
            "unit": duckdb.Value(int(self.number), duckdb.type(self.sql_type)),
        }
        used = {name: value for name, value in identity.items() if f"${name}" in text}
        return self.store._ask(text, self.run, **used, **parameters)


class Neuron(Unit):
    """A neuron: `at.open(…).neuron("L3N7")`."""

    kind, letter, per_layer, sql_type = "neuron", "N", "d_mlp", "UINTEGER"

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
        note = "counted where the neuron was kept: among the strongest of its layer at the position"
        frame.attrs = {"exact": False, "bound": {}, "note": note}
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
