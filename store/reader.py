"""The questions that a store answers: about its runs, its text, one position, units and weights.

An answer is a DataFrame; `attrs` says whether it is exact and which SQL it came from (see `store.question`).
"""

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import sqlalchemy as sa

from annotate_transformer.store.database import WAIT_SECONDS
from annotate_transformer.store.errors import (
    BadQuestion,
    NoInputs,
    NoSuchPosition,
    NoSuchToken,
    not_negative,
    one_of,
)
from annotate_transformer.store.ids import run_of
from annotate_transformer.store.names import parse
from annotate_transformer.store.notation import Expression, Prediction
from annotate_transformer.store.queries import AFTER, BEFORE
from annotate_transformer.store.question import Question, qualify
from annotate_transformer.store.scores import with_intervals
from annotate_transformer.store.search import search
from annotate_transformer.store.session import Session
from annotate_transformer.store.units import Head, Neuron
from annotate_transformer.store.weights import Weights

WAYS = ("component", "layer", "term", "head", "neuron", "source")
BOUNDS = {  # decompositions of which not every term is kept: the query of their bounds, and what those say
    "neuron": (
        "neuron_bounds",
        "lower bound: the strongest neurons of each layer, no other exceeds these bounds in absolute value",
    ),
    "source": (
        "source_bound",
        "lower bound: the strongest sources, no other exceeds this effect in logits",
    ),
}
CODED = "rounded: the activations beyond the strongest, by at most this much, and their effects in proportion"
MOST_AROUND = 1000  # characters: with a token they stay within what a passage reaches beyond (store.writer)
MATCHES = ("exact", "like", "prefix", "regex", "id")


class Store(Session):
    """A store, read-only; safe to share between threads.

    `run` is everywhere the number of a run; None is the run that was finished last.
    """

    def question(self, query: str, run: int | None = None, **parameters: Any) -> Question:
        """Return a question of read.sql by its name, or one in SQL: to be asked, or shown."""
        return Question(self, query, run, parameters)

    # Runs, documents, text

    def runs(self) -> pd.DataFrame:
        """What is in the store: one row per run, with provenance, tokens and worst closure error."""
        return self.question("FROM runs ORDER BY run_id").ask()

    def stats(self, run: int | None = None) -> pd.DataFrame:
        """One row: positions, documents, mean loss (nats), share of first choices, worst closure."""
        return self._ask("stats", run)

    def documents(self, run: int | None = None) -> pd.DataFrame:
        """The documents of the run's corpus that a run has reached."""
        return self._ask("documents", run)

    def tokens(self, text: str | int, match: str = "exact", run: int | None = None) -> pd.DataFrame:
        """The vocabulary's tokens and how often each occurs in the run.

        match: `exact` (the leading space counts), `like` (spaces at its ends and case do not), `prefix`,
        `regex`, or `id`.
        """
        one_of("match", match, MATCHES)
        try:
            return self._ask("tokens", run, text=str(text), match=match)
        except duckdb.InvalidInputException as error:
            raise BadQuestion(f"{text!r} is no regular expression that can be read: {error}.") from error

    def occurrences(
        self,
        token: str | int,
        run: int | None = None,
        *,
        limit: int = 100,
        offset: int = 0,
        before: int = BEFORE,
        after: int = AFTER,
    ) -> pd.DataFrame:
        """Where a token (its text exactly, or its id) stands: a row of `positions` and its context.

        before, after: characters around it, 1,000 at most.

        Raises:
            NoSuchToken: there is no such token; those that differ in spaces and case are named.
        """
        window = _window(limit, offset, before, after)
        with self.together():
            number, token_id = self.run(run), self._token_id(token, run)
            return self.question("occurrences", number, token_id=token_id, **window).first()[0]

    def phrase(
        self,
        text: str,
        run: int | None = None,
        *,
        limit: int = 100,
        offset: int = 0,
        before: int = BEFORE,
        after: int = AFTER,
    ) -> pd.DataFrame:
        """Where a text stands, across token borders: first and last token that hold it.

        However its characters are composed: é is one character or two; `text` is as it stands there.
        whole_tokens: it begins and ends where tokens do. Occurrences that overlap count once. before, after:
        characters around it, 1,000 at most.
        """
        if not text:
            raise BadQuestion("An empty phrase stands everywhere: give at least one character.")
        window = _window(limit, offset, before, after)
        with self.together():
            return self.question("phrase", self.run(run), text=text, **window).first()[0]

    # One position

    def position(self, position_id: int) -> pd.Series:
        """A row of `positions`, with its document's metadata and the text around it.

        Raises:
            NoSuchPosition: there is none of this number.
        """
        found = self._of_position("position", position_id, before=BEFORE, after=AFTER)
        return found.iloc[0]

    def decomposition(self, position_id: int, by: str = "term") -> pd.DataFrame:
        """The stored terms of one prediction, in logits.

        by: `term` (all: each target's column sums to its logit), `component` and `layer` (the same
        sums, coarser), `head` (all heads), `neuron` (those kept), `source` (head and source, those kept).
        """
        one_of("by", by, WAYS)
        with self.together():
            terms = self._of_position(f"by_{by}", position_id)
            if by in ("term", "neuron") and self.has_coded():
                error = _number(self._of_position("activation_error", position_id).error[0])
                if error:
                    qualify(terms, CODED, activation_error=error)
                    return terms
            if by not in BOUNDS:
                return terms
            query, note = BOUNDS[by]
            found = self._of_position(query, position_id).iloc[0]
        bounds = {str(name): _number(value) for name, value in found.items()}
        if not bounds or any(bounds.values()):  # where every bound is 0 nothing was left out
            qualify(terms, note, **bounds)
        return terms

    def expression(self, position_id: int, toward: str = "next") -> Expression:
        """The same as an expression in the literature's notation: see `store.notation`.

        toward: `next`, the token that follows, or `top`, the model's first choice.

        Raises:
            BadQuestion: nothing follows there.
        """
        return Expression(Prediction(self, self.position(position_id), toward))

    def sends(self, position_id: int, limit: int = 100) -> pd.DataFrame:
        """Which later positions of its window read from this one, and what that did to their predictions.

        Annotate Transformer's "attract attention" and "change later token predictions": the effect, in
        logits, of what a head took from here on the later position's next token and first choice. A
        lower bound: of each later position only the strongest sources are kept.
        """
        with self.together():
            first, found = self._at("sends", position_id, limit=limit).first()
            bounds = found.effect_bound
            if found.empty:
                self._check_is_there(position_id)
                bounds = self._of_position("sends_bound", position_id).effect_bound
        first = first.drop(columns="effect_bound")
        bound = _number(bounds[0])
        if not bound:  # every source is kept
            return first
        if not first.attrs["exact"]:  # the strongest come first
            left_out = found.loc[limit:, ["toward_next", "toward_top"]].abs().max(axis=None)
            bound = max(bound, float(left_out))
        note = "lower bound: the strongest sources of each later position, source_bound bounds the others"
        qualify(first, note, effect_bound=bound)
        return first

    def neuron_inputs(self, position_id: int, name: str) -> pd.DataFrame:
        """What feeds a neuron, such as L3N7, at a position, the strongest first.

        value: share of the pre-activation at frozen LayerNorm scale; they sum to `attrs["pre_activation"]`
        within `attrs["closure"]`; `attrs["activation"]` is what GELU makes of it.

        Raises:
            NoSuchPosition, NoSuchUnit: the store or the run's model has none of these.
            NoInputs: `annotate inputs` has not computed it.
        """
        with self.together():
            unit = self.neuron(name, int(self.position(position_id).run_id))
            found = self._of_position("neuron_inputs", position_id, layer=unit.layer, neuron=unit.number)
        if found.empty:
            raise NoInputs(
                f"What feeds {unit.name} at position {position_id} was not computed yet. "
                f"`annotate inputs {position_id} {unit.name} --db {self.path}` does it."
            )
        same = found[["pre_activation", "activation", "closure"]]
        found = found.drop(columns=same.columns)
        found.attrs |= {str(column): float(value) for column, value in same.iloc[0].items()}
        return found

    # Neurons and heads

    def neuron(self, name: str, run: int | None = None) -> Neuron:
        """A neuron by its name, such as L3N7.

        Raises:
            NoSuchUnit: the run's model has none of that name; the sentence gives the range.
        """
        with self.together():
            return Neuron(self, *parse(name), self.run(run))

    def head(self, name: str, run: int | None = None) -> Head:
        """A head by its name, such as L1H2."""
        with self.together():
            return Head(self, *parse(name), self.run(run))

    def unit(self, name: str, run: int | None = None) -> Neuron | Head:
        """Whichever of the two the name is of."""
        return (self.neuron if parse(name)[0] == "N" else self.head)(name, run)

    def neuron_contexts(self, layer: int, neuron: int, run: int | None = None) -> pd.DataFrame:
        """Where the neuron is at its most extreme, with its text: exact over the whole run."""
        with self.together():
            return Neuron(self, "N", layer, neuron, self.run(run)).contexts("both", k=65535)

    def head_contexts(self, layer: int, head: int, run: int | None = None) -> pd.DataFrame:
        """Where the head pushes hardest for or against the next token, and where it looks there."""
        with self.together():
            return Head(self, "H", layer, head, self.run(run)).contexts("both", k=65535)

    # Weights

    def weights(self, run: int | None = None, model: int | str | None = None) -> Weights:
        """What the weights of a run's model say, without any corpus.

        model: instead of a run, its `model_id` or its name, with its revision where there are several
        (`"neox-2m step1000"`): it may have no run. With neither and no finished run, the one read last.

        Raises:
            NoSuchModel: there is none such, or there are several; the sentence lists them.
            NoWeights: `annotate weights` has not read them.
        """
        with self.together():
            return Weights(self, run, model)

    # What fires next-token neurons, as `annotate lookups` has stored it

    def explanations(self, run: int | None = None) -> pd.DataFrame:
        """When each relevant head is active, in words, with its scores beside the baseline's.

        A row of the views explanations and explanation_scores; of balanced_accuracy, precision, npv and f1
        also …_low and …_high, the 95 % interval of `store.scores`. NaN where nothing was scored.
        """
        return with_intervals(self._ask("explanations", run))

    def ablations(self, run: int | None = None) -> pd.DataFrame:
        """What each neuron loses without a relevant head: a row of the view ablations."""
        return self._ask("ablations", run)

    # Several at once

    def search(self, where: sa.ColumnElement[bool], run: int | None = None, limit: int = 100) -> pd.DataFrame:
        """Positions for which a condition holds, composed from `store.position`, `store.neuron(…)` and
        `store.head(…)`; see `store.search`. `attrs["sql"]` is the statement.
        """
        number = self.run(run)
        not_negative({"limit": limit})
        found, one_more = (search(where, number, rows) for rows in (limit, limit + 1))
        for name in found.units:
            self.unit(name, number)
        try:
            with self.engine.connect() as con:
                read = pd.read_sql(one_more.statement, con)
                unknown = int(con.execute(found.unknown).scalar_one())
        except (sa.exc.DBAPIError, pd.errors.DatabaseError) as error:
            cause = getattr(error.__cause__, "orig", None) or error.__cause__ or error
            raise BadQuestion(f"DuckDB cannot answer the condition: {cause}") from error
        rows = read.head(limit)
        rows.attrs = {"exact": True, "sql": found.sql}
        if len(read) > limit:
            qualify(rows, f"truncated: the first {limit:,}, there are more")
        layers = [layer for letter, layer, _ in map(parse, found.units) if letter == "N"]
        if layers and self.has_coded():
            wrong_by = _number(self._ask("activation_error_of_run", number, layers=layers).error[0])
            if wrong_by:
                qualify(rows, CODED, activation_error=wrong_by)
        if unknown:
            note = f"lower bound: {unknown} more positions may belong, where the neuron was not kept"
            qualify(rows, note, more_positions=unknown)
        return rows

    def compare(self, run: int, other: int, what: str = "positions", k: int = 100) -> pd.DataFrame:
        """Two runs over one corpus: what changed most from `run` (a) to `other` (b).

        what: `positions` (loss, in nats), `neurons` or `heads` (mean |effect|, in logits). Where both runs
        are of the same weights, the answer's attrs["note"] says so.

        Raises:
            BadQuestion: the runs are of different corpora, or their windows are cut differently.
        """
        one_of("what", what, ("positions", "neurons", "heads"))
        with self.together():
            run, other = self.run(run), self.run(other)
            same_weights = self._check_comparable(run, other, what)
            found = self._ask(f"compare_{what}", run, other=other, k=k)
            if same_weights:
                found.attrs["note"] = f"runs {run} and {other} are of the same weights"
            return found

    def _check_comparable(self, run: int, other: int, what: str) -> bool:
        """Return whether they are of the same weights; raise BadQuestion where they cannot be compared."""
        same = self._ask("comparable", run, other=other).iloc[0]
        if what == "positions" and not same.corpus:
            raise BadQuestion(f"Runs {run} and {other} read different corpora: their positions do not match.")
        if what != "positions" and not same.shape_of_model:
            raise BadQuestion(f"Runs {run} and {other} are of models of different shapes: compare positions.")
        return bool(same.weights)

    # How it is asked

    def _ask(self, query: str, run: int | None, **parameters: Any) -> pd.DataFrame:
        """Ask one of read.sql's questions about a run."""
        with self.together():
            return self.question(query, self.run(run), **parameters).ask()

    def _at(self, query: str, position_id: int, **parameters: Any) -> Question:
        """Return one of read.sql's questions about a position."""
        number = int(position_id)
        return self.question(query, run_of(number), position_id=number, **parameters)

    def _of_position(self, query: str, position_id: int, **parameters: Any) -> pd.DataFrame:
        with self.together():
            answer = self._at(query, position_id, **parameters).ask()
            if answer.empty:
                self._check_is_there(position_id)
        return answer

    def _check_is_there(self, position_id: int) -> None:
        """
        Raises:
            NoSuchPosition: the store has no such position.
        """
        here = "SELECT count(*) FROM base.position WHERE position_id = $p"
        if not self.sql(here, {"p": int(position_id)}).iloc[0, 0]:
            raise NoSuchPosition(f"{self.path} has no position {position_id}. Search for one first.")

    def _token_id(self, token: str | int, run: int | None) -> int:
        match = "exact" if isinstance(token, str) else "id"
        found = self._ask("token_id", run, text=str(token), match=match)
        if len(found):
            return int(found.token_id[0])
        if match == "id":
            last = int(self.model_of(self.run(run)).d_vocab) - 1
            raise NoSuchToken(f"No token has the id {token}: they are numbered from 0, to {last} at most.")
        like = self.tokens(token, "like", run)
        nearest = ", ".join(f"{row.token!r} ({row.occurrences}×)" for row in like.head(8).itertuples())
        hint = f"There are {nearest}." if nearest else "It may be of several tokens: look for it as a phrase."
        raise NoSuchToken(f"No token is exactly {token!r}. {hint}")


def _window(limit: int, offset: int, before: int, after: int) -> dict[str, int]:
    """
    Raises:
        BadQuestion: more text around an occurrence than is read with it.
    """
    if max(before, after) > MOST_AROUND:
        raise BadQuestion(
            f"before and after are at most {MOST_AROUND:,} characters: `documents` has the whole texts."
        )
    return {"limit": limit, "offset": offset, "before": before, "after": after}


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def open(path: str | Path, *, wait: float = WAIT_SECONDS) -> Store:
    """The store at `path`, for reading.

    Raises:
        NotAStore, OtherSchemaVersion, StoreBusy: see store.errors.
    """
    return Store(path, wait)
