"""The class `Store`: queries about runs, documents, positions, neurons, heads and weights.

An answer is a DataFrame; its `attrs` say whether it is exact and which SQL query returned it (see
`store.question`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd

from annotate_transformer.store import contrasts, patterns
from annotate_transformer.store.ablations import REPLACEMENTS, Ablating, names_of
from annotate_transformer.store.computed import (
    STORED,
    ComputedLogit,
    Reading,
    Target,
    Toward,
    frame,
    is_stored,
    moved_frame,
    score_frame,
)
from annotate_transformer.store.database import WAIT_SECONDS
from annotate_transformer.store.display import Text
from annotate_transformer.store.distinguish import KINDS, POSITIONS, SOURCES, Asked, distinguishing, kinds_of
from annotate_transformer.store.elsewhere.place import Address
from annotate_transformer.store.emergence import Curve, at_all_steps, changes, learned
from annotate_transformer.store.errors import (
    BadQuestion,
    NoInputs,
    NoSuchPosition,
    NoSuchToken,
    NoSuchUnit,
    not_negative,
    one_of,
)
from annotate_transformer.store.ids import run_of
from annotate_transformer.store.means import mean_over_positions
from annotate_transformer.store.metadata import of_positions
from annotate_transformer.store.names import parse
from annotate_transformer.store.notation import Architecture, Expression, StoredLogit
from annotate_transformer.store.patches import patched
from annotate_transformer.store.queries import AFTER, BEFORE
from annotate_transformer.store.question import Question, describe, qualify, truncate
from annotate_transformer.store.rounding import rounding
from annotate_transformer.store.scores import with_intervals
from annotate_transformer.store.session import Session
from annotate_transformer.store.units import Head, Neuron
from annotate_transformer.store.weights import Weights

if TYPE_CHECKING:
    import sqlalchemy as sa

WAYS = ("component", "layer", "term", "head", "neuron", "source")
# BOUNDS has the ways to decompose for which only the strongest terms are stored. It maps such a way to the
# query for the bound of the other terms, and to the note that is added to the answer.
BOUNDS = {
    "neuron": (
        "neuron_bounds",
        "lower bound: only the strongest neurons of each layer; the bounds are for all other neurons",
    ),
    "source": (
        "source_bound",
        "lower bound: only the strongest sources; the bound, in logits, is for all other sources",
    ),
}
# MOST_AROUND: maximum number of characters of context on each side of a token. The store keeps a document as
# overlapping passages. The token and both contexts must fit into the overlap, base.passage_reach()
# characters; otherwise the excerpt could be cut at the end of a passage.
MOST_AROUND = 1000
MOST_DRAWS = 1000
MATCHES = ("exact", "like", "prefix", "regex", "id")


class Store(Session):
    """A store that is open for reading; several threads can share one `Store`.

    The parameter `run` is always the id of a run; None stands for the run that was finished last.
    """

    def question(self, query: str, run: int | None = None, **parameters: Any) -> Question:
        """Return a query that can be run or shown. query: SQL, or the name of a query in read.sql."""
        return Question(self, query, run, parameters)

    # Runs, documents, text

    def runs(self) -> pd.DataFrame:
        """Return one row per run, with provenance, number of tokens and max closure error.

        The closure error of a position is the sum of its terms minus its logit, as an absolute value.
        """
        return self.question("FROM runs ORDER BY run_id").ask()

    def stats(self, run: int | None = None) -> pd.DataFrame:
        """Return one row about a run: positions, documents, mean loss (nats), accuracy, max closure error.

        loss_low, loss_high: ends of the 95 % interval of the loss, as in `mean`
        """
        with self.together():
            found, loss = self._ask("stats", run), self.mean("-next_logprob", "base.position", run=run)
        found.insert(int(found.columns.get_loc("loss")) + 1, "loss_low", loss.low.iloc[0])
        found.insert(int(found.columns.get_loc("loss")) + 2, "loss_high", loss.high.iloc[0])
        return found

    def mean(
        self,
        value: str,
        view: str = "positions",
        where: str = "true",
        *,
        by: str | Sequence[str] = (),
        metadata: bool = False,
        run: int | None = None,
    ) -> pd.DataFrame:
        """Return the mean of a value over positions, with a 95 % interval and the number of positions.

        Columns: mean, low, high (ends of the interval, which resamples documents, because positions of one
        document are not independent; NaN with one document), positions, documents. With `by`, there is one
        row per group.

        value: a column or a SQL expression, such as `-next_logprob`; rows where it is NULL do not count
        view: a view with one row per position, or per position and unit; or views joined with JOIN … USING
        where: a condition in SQL, such as `layer = 1 AND head = 2`; use it to choose one row per position
        by: columns or SQL expressions whose values make groups
        metadata: whether the keys of the documents' metadata are columns too, as in `year // 10 * 10`; a key
        whose texts are all numbers is a number

        Raises:
            BadQuestion: a text is wrong SQL, or the view has no column run_id or position_id.
        """
        groups = [by] if isinstance(by, str) else [*by]
        with self.together():
            number = self.run(run)
            if not metadata:
                return mean_over_positions(self, number, value, view, where, groups)
            relation, keys = of_positions(self, number)
            joined = f"{view} JOIN {relation} USING (position_id)"
            try:
                return mean_over_positions(self, number, value, joined, where, groups)
            except BadQuestion as error:
                raise BadQuestion(f"{error} The metadata of the documents has {keys}.") from error

    def documents(self, run: int | None = None) -> pd.DataFrame:
        """Return the stored documents of the run's corpus: those that at least one run has read."""
        return self._ask("documents", run)

    def tokens(self, text: str | int, match: str = "exact", run: int | None = None) -> pd.DataFrame:
        """Return the tokens of the vocabulary that match `text`, and how often each token occurs in the run.

        match: `exact` (the leading space matters), `like` (ignoring case and spaces at the ends), `prefix`,
        `regex`, or `id`.
        """
        one_of("match", match, MATCHES)
        try:
            return self._ask("tokens", run, text=str(text), match=match)
        except duckdb.InvalidInputException as error:
            raise BadQuestion(f"{text!r} is no regular expression: {error}.") from error

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
        """Return the occurrences of a token (exact text, or id): rows of `positions` with their context.

        before, after: number of characters of context on each side (at most 1,000).

        Raises:
            NoSuchToken: there is no such token; the message lists tokens that differ only in spaces and case.
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
        """Return the occurrences of a text, which may span several tokens, with first and last position.

        Canonically equivalent texts match (é as one character or two); the column `text` has the spelling in
        the document. whole_tokens: whether the occurrence begins and ends at token boundaries. If occurrences
        overlap, only the first is returned. before, after: number of characters of context on each side (at
        most 1,000).
        """
        if not text:
            raise BadQuestion("The phrase is empty: give a phrase of at least one character.")
        window = _window(limit, offset, before, after)
        with self.together():
            return self.question("phrase", self.run(run), text=text, **window).first()[0]

    # One position

    def position(self, position_id: int) -> pd.Series:
        """Return a position's row of `positions`, with the document's metadata and the surrounding text.

        Raises:
            NoSuchPosition: the store has no such position.
        """
        found = self._of_position("position", position_id, before=BEFORE, after=AFTER)
        return found.iloc[0]

    def text(self, position_id: int, by: str = "loss") -> Text:
        """Return the text of a position's window with a value for each token; a notebook shows it in colours.

        by: `loss` (nats) of the token itself, the name of a neuron (its activation) or of a head (its direct
        effect on the next token, in logits). A neuron's activation is known only where it is stored; `frame`
        has the values.

        Raises:
            NoSuchPosition, NoSuchUnit: the store has no such position, or the model no such neuron or head.
        """
        with self.together():
            at = self.position(position_id)
            first, run = int(at.position_id - at.position), int(at.run_id)
            longest = self.facts(run)["context"] or 0
            window = {"first": first, "last": first + longest, "window": int(at.window_id)}
            if by == "loss":
                found = self.question("text_by_loss", run, **window).ask()
                return Text(found, int(position_id), "loss of the token (nats)", False)
            unit = self.unit(by, run)
            number = {"layer": unit.layer, "unit": unit.number}
            found = self.question(f"text_by_{unit.kind}", run, **window, **number).ask()
            wrong_by = self._error_of_codes(run, [unit.layer]) if unit.kind == "neuron" else None
        if wrong_by:
            found.attrs["rounded"]["value"] = wrong_by
            qualify(found, f"rounded: activations that are stored in few bits, ±{wrong_by:.3g} at most")
        missing = int(found.value.isna().sum()) if unit.kind == "neuron" else 0
        if missing:
            where = f"at {missing} of {len(found)} tokens"
            qualify(found, f"lower bound: {unit.name} is not among the stored neurons {where}")
        of = "activation" if unit.kind == "neuron" else "direct effect on the next token (logits)"
        return Text(found, int(position_id), f"{unit.name}: {of}", True)

    def decomposition(
        self,
        position_id: int,
        by: str = "term",
        toward: Toward | None = None,
        minus: Toward | None = None,
        *,
        logprob: bool = False,
    ) -> pd.DataFrame:
        """Return the decomposition of one prediction into terms, in logits.

        by: `term` (all terms; the columns toward_next and toward_top each sum to a logit), `component` and
        `layer` (sums of terms), `head` (all heads), `neuron` (the stored neurons), `source` (the stored pairs
        of head and source).

        toward, minus: instead of both stored targets, a target as in `expression`; the terms are then in the
        column effect. If the run's model computes them, they are all terms (`attrs["logit"]` is their sum up
        to `attrs["closure"]`).

        Raises:
            NoSuchPosition: the store has no such position.
            BadQuestion, NoModel: as for `expression`.
        """
        one_of("by", by, WAYS)
        if toward is not None:
            return self._toward(position_id, by, toward, minus, logprob)
        with self.together():
            terms = self._of_position(f"by_{by}", position_id)
            if by in ("term", "neuron") and self.has_coded():
                error = _number(self._of_position("activation_error", position_id).error[0])
                if error:
                    _note_codes(terms, error)
                    return terms
            if by not in BOUNDS:
                return terms
            query, note = BOUNDS[by]
            found = self._of_position(query, position_id).iloc[0]
        total = int(found.pop("total"))
        bounds = {str(name): _number(value) for name, value in found.items()}
        if total > len(terms):
            truncate(terms, total, what="the strongest")
        if any(bounds.values()):  # if all bounds are 0, every term that was left out is 0
            qualify(terms, note, **bounds)
        return terms

    def expression(
        self,
        position_id: int,
        toward: Toward = "next",
        minus: Toward | None = None,
        *,
        logprob: bool = False,
    ) -> Expression:
        """Return a prediction as an `Expression`, which is a sum of terms (see `store.notation`).

        toward: `next` for the logit of the next token, `top` for the logit of the top prediction, a token's
        text or id, a list of tokens for the mean of their logits, or a direction as an array of d_model
        numbers.
        minus: a token or list whose logit is subtracted; then the terms sum to a difference of two logits.
        logprob: take the terms along the gradient of the token's log-probability instead of its logit. They
        are first-order: they sum to the logit minus the mean logit under the prediction, not to the
        log-probability.

        Terms toward `next` and `top`, and their difference, are stored. For other targets the run's model
        reads the position's window again (`annotate_transformer.ingest.open`).

        Raises:
            BadQuestion: the position has no next token, or a text is several tokens; the message shows them.
            NoModel: the store was opened without models.
        """
        at = self.position(position_id)
        if is_stored(toward, minus) and not logprob:
            return Expression(StoredLogit(self, at, *_sides(toward, minus)))
        reading = Reading(self, self.runner, at)
        target = _target(reading, toward, minus, logprob)
        terms, architecture = reading.terms(target.direction), Architecture.of(self.model_of(reading.run))
        return Expression(ComputedLogit(target, terms, reading.window, architecture))

    def _toward(
        self, position_id: int, by: str, toward: Toward, minus: Toward | None, logprob: bool
    ) -> pd.DataFrame:
        """Return the terms toward one target, in the column `effect`; compute them if they are not stored."""
        if logprob or not is_stored(toward, minus):
            reading = Reading(self, self.runner, self.position(position_id))
            direction = _target(reading, toward, minus, logprob).direction
            return frame(reading.terms(direction), by, reading.window)
        logit = StoredLogit(self, self.position(position_id), *_sides(toward, minus))
        return _one_column(self.decomposition(position_id, by), logit)

    def likeliest(self, position_id: int, k: int = 10) -> pd.DataFrame:
        """Return the k most likely next tokens at a position; the run's model computes them.

        Raises:
            NoModel: the store was opened without models.
        """
        not_negative({"k": k})
        return Reading(self, self.runner, self.position(position_id)).likeliest(k)

    def lens(self, position_id: int, k: int = 5, tokens: int = 16) -> pd.DataFrame:
        """Return the logit lens: the next tokens that each layer's residual stream predicts.

        The run's model computes it, also for a run without `--lens`. Columns: layer, position_id, rank,
        token_id, token, logprob (nats).

        k: number of tokens per layer and position; tokens: number of tokens of the window, up to the position

        Raises:
            NoModel: the store was opened without models.
        """
        not_negative({"k": k})
        return patterns.lens(Reading(self, self.runner, self.position(position_id)), k, tokens)

    def attention(self, position_id: int, name: str | None = None, tokens: int = 48) -> pd.DataFrame:
        """Return the attention pattern of a head, or of all heads, over the tokens up to a position.

        The run's model computes it. A row is a destination (position_id) with one of its sources, and has
        attention (probability) and toward_next (direct effect from this source on the destination's next
        token, in logits; NaN where there is none).

        name: a head; None for all heads; tokens: number of tokens of the window, up to the position

        Raises:
            NoModel: the store was opened without models.
            NoSuchUnit: the model has no head of this name.
        """
        at = self.position(position_id)
        head = None if name is None else self.head(name, run=int(at.run_id))
        return patterns.attention(Reading(self, self.runner, at), head, tokens)

    def around(
        self, name: str, positions: Sequence[int], before: int = 12, after: int = 8, run: int | None = None
    ) -> pd.DataFrame:
        """Return a neuron's activations, or a head's direct effects on next tokens, around some positions.

        The run's model computes them, one window for each position. Columns: example (the position),
        position_id, value (NaN for a head where there is no next token).

        Raises:
            NoModel: the store was opened without models.
            NoSuchUnit: the model has no such neuron or head.
        """
        not_negative({"before": before, "after": after})
        return patterns.around(self, self.unit(name, run), positions, before, after)

    def ablate(
        self,
        position_id: int,
        units: str | Sequence[str],
        *,
        by: str = "zero",
        at: int | None = None,
        toward: Toward | None = None,
        minus: Toward | None = None,
        draws: int = 10,
        seed: int = 0,
        keep: bool = True,
    ) -> pd.DataFrame:
        """Return the total and the direct effect of ablated units on a prediction, one row per unit.

        The run's model runs again with the units' outputs replaced. Effects on one token or a difference of
        two are stored (view `ablation_effects`, which describes the columns), and not computed twice.

        units: a name such as L3H2, L3N7, L3attn or L3mlp, or several, each ablated by itself; names joined by
        + are ablated together; `heads` stands for every head, each by itself
        by: `zero`; `mean`, the mean over positions of the run; `resample`, the outputs at random positions
        at: position_id of the token where outputs are replaced; None for all tokens of the window
        toward, minus: the target, as in `expression`; None for the next token or, without one, the top
        prediction
        draws: number of random draws of `resample`; seed: of the positions for `mean` and `resample`
        keep: whether new effects are stored

        Raises:
            BadQuestion, NoSuchUnit, NoSuchPosition: the question cannot be answered.
            NoModel: the store was opened without models.
        """
        one_of("by", by, REPLACEMENTS)
        if not 1 <= draws <= MOST_DRAWS:
            raise BadQuestion(f"draws is {draws}; it must be from 1 to {MOST_DRAWS:,}.")
        row = self.position(position_id)
        names = names_of(units, self.model_of(int(row.run_id)))
        reading = Reading(self, self.runner, row)
        toward = toward if toward is not None else "top" if pd.isna(row.next_token_id) else "next"
        target, index = reading.target(toward, minus), None if at is None else reading.index_of(at)
        asked = Ablating(reading, target, by, index, draws if by == "resample" else 1, seed)
        return asked.effects(names, keep=keep)

    def patch(
        self,
        clean: str,
        corrupted: str,
        *,
        toward: Toward = "top",
        minus: Toward | None = None,
        kind: str = "head",
        direction: str = "denoising",
        to: str | None = None,
        run: int | None = None,
    ) -> pd.DataFrame:
        """Patch activations between a clean and a corrupted prompt; return the final logit for each patch.

        Both prompts must have as many tokens. Columns: the place of the patch, the logit with the patch, and
        recovered, which is (logit - corrupted) / (clean - corrupted): 0 is the corrupted prompt's logit, 1
        the clean one's. `attrs` has both logits, and what is patched. Nothing is stored.

        toward, minus: the target, as in `expression`; `top` is the clean prompt's top prediction
        kind: what is patched: `head` (one head, at all positions), `head_position` (one head at one
        position), `resid` (the input of a layer), `attn` or `mlp` (all heads or neurons of a layer), at one
        position
        direction: `denoising` puts clean activations into the corrupted prompt's run, `noising` the reverse
        to: path patching: only the path from each earlier head to this receiver is patched, an input of a
        head (L3H2.q, L3H2.k or L3H2.v) or the logits; everything else is frozen. `kind` is then `head`

        Raises:
            BadQuestion: the prompts do not align token by token, or an option is invalid.
            NoModel: the store was opened without models.
        """
        with self.prompt(clean, run) as first, self.prompt(corrupted, run) as second:
            one, two = (Reading(s, self.runner, s.position(s.last)) for s in (first, second))
            return patched(one, two, toward, minus, kind, direction, to)

    def prompt(self, text: str, run: int | None = None) -> "Prompt":
        """Annotate a text with a run's model, and return the result as a temporary store.

        Raises:
            BadQuestion: the text has no token, or more tokens than the model's context.
            NoModel: the store was opened without models.
        """
        return Prompt(self.runner.prompt(self.about(self.run(run)), text), self.wait, lambda: self.runner)

    def sends(self, position_id: int, limit: int = 100) -> pd.DataFrame:
        """Return the effects that heads carry from this position to later predictions in the same window.

        One row per head and later position: the head's direct effect (logits) from this source on the later
        position's next token and top prediction. The answer is a lower bound, because only the strongest
        sources of each position are stored.
        """
        with self.together():
            first, found = self._at("sends", position_id, limit=limit).first()
            bounds = found.effect_bound
            if found.empty:
                self._check_is_there(position_id)
                bounds = self._of_position("sends_bound", position_id).effect_bound
        first = first.drop(columns="effect_bound")
        bound = _number(bounds[0])
        if not bound:  # no bound, or a bound of 0: all sources are stored, so the answer is exact
            return first
        # The answer was cut after `limit` rows. The next row has the largest |effect| of all rows that were
        # cut off.
        if not first.attrs["complete"]:
            left_out = found.loc[limit:, ["toward_next", "toward_top"]].abs().max(axis=None)
            bound = max(bound, float(left_out))
        note = "lower bound: only the strongest sources of each later position; source_bound bounds others"
        qualify(first, note, effect_bound=bound)
        return first

    def neuron_inputs(self, position_id: int, name: str) -> pd.DataFrame:
        """Return a neuron's inputs at a position, one row per component that the neuron reads, largest first.

        value: term of the pre-activation, with the scale of the norm frozen. The terms sum to
        `attrs["pre_activation"]` with the error `attrs["closure"]`; `attrs["activation"]` is the value after
        the nonlinearity. In a gated MLP, rows with the reading `pre_linear` sum to `attrs["pre_linear"]`, the
        factor of the nonlinearity's result, with the error `attrs["linear_closure"]`.

        Raises:
            NoSuchPosition, NoSuchUnit: the store has no such position, or the model no such neuron.
            NoInputs: `annotate inputs` has not computed these inputs.
        """
        with self.together():
            unit = self.neuron(name, int(self.position(position_id).run_id))
            found = self._of_position("neuron_inputs", position_id, layer=unit.layer, neuron=unit.number)
        if found.empty:
            raise NoInputs(
                f"The inputs of {unit.name} at position {position_id} were not computed yet. "
                f"`annotate inputs {position_id} {unit.name} --db {self.path}` does it."
            )
        same = found[["pre_activation", "activation", "closure", "pre_linear", "linear_closure"]]
        found = found.drop(columns=same.columns)
        of_neuron = same.iloc[0].dropna()
        found.attrs |= {str(column): float(value) for column, value in of_neuron.items()}
        return found

    def head_inputs(
        self, position_id: int, name: str, source: int | None = None, by: str = "pair"
    ) -> pd.DataFrame:
        """Return a head's attention score at a position, before the softmax, as a sum over components.

        A row is a pair of a component that the query reads at the position and one that the key reads at the
        source; the largest |value| is first. The values sum to `attrs["score"]` with the error
        `attrs["closure"]`, at frozen scales of the norms; ALiBi adds `attrs["distance_bias"]`. If the model
        has a soft-cap of scores (`attrs["cap"]`), the score is the one before it.

        source: position_id of the source; None for the source with the most attention
        by: `pair`; `query` or `key`, the sums over the other side; `source`, instead of terms, the scores and
        attention probabilities of all sources, which compete in the softmax

        Raises:
            NoSuchPosition, NoSuchUnit: there is no such position or head, or the source is not in its window.
            NoModel: the store was opened without models.
        """
        one_of("by", by, ("pair", "query", "key", "source"))
        at = self.position(position_id)
        unit = self.head(name, int(at.run_id))
        reading = Reading(self, self.runner, at)
        index = None if source is None else reading.index_of(source)
        found = self.runner.head_score(reading.about, reading.tokens, unit.layer, unit.number, index)
        return score_frame(found, by, reading.window)

    def moved(
        self,
        position_id: int,
        name: str,
        source: int | None = None,
        toward: Toward = "top",
        minus: Toward | None = None,
    ) -> pd.DataFrame:
        """Decompose a head's direct effect from one source into the components that the head reads there.

        A row is a component before the head's layer (single neurons included); effect is the direct effect
        that it has on the target through this head from this source, in logits, with attention and the norms'
        scales frozen. The effects sum to the head's term from this source, `attrs["term"]`, with the error
        `attrs["closure"]`.

        source: position_id of the source; None for the source with the most attention
        toward, minus: the target, as in `expression`

        Raises:
            NoSuchPosition, NoSuchUnit: there is no such position or head, or the source is not in its window.
            NoModel: the store was opened without models.
        """
        at = self.position(position_id)
        unit = self.head(name, int(at.run_id))
        reading = Reading(self, self.runner, at)
        index, target = None if source is None else reading.index_of(source), reading.target(toward, minus)
        found = self.runner.moved(
            reading.about, reading.tokens, unit.layer, unit.number, index, target.direction
        )
        return moved_frame(found, reading.window, target)

    # Neurons and heads

    def neuron(self, name: str | int, *numbers: int | None, run: int | None = None) -> Neuron:
        """Return a neuron: `neuron("L3N7")`, `neuron("L3N7", run)`, `neuron(3, 7)` or `neuron(3, 7, run)`.

        Raises:
            NoSuchUnit: the run's model has no such neuron; the message gives the first and the last name.
        """
        with self.together():
            unit, run = _unit_and_run("N", name, numbers, run)
            return Neuron(self, *unit, self.run(run))

    def head(self, name: str | int, *numbers: int | None, run: int | None = None) -> Head:
        """Return a head: `head("L1H2")`, `head("L1H2", run)`, `head(1, 2)` or `head(1, 2, run)`."""
        with self.together():
            unit, run = _unit_and_run("H", name, numbers, run)
            return Head(self, *unit, self.run(run))

    def unit(self, name: str, run: int | None = None) -> Neuron | Head:
        """Return the neuron or head with this name."""
        return (self.neuron if parse(name)[0] == "N" else self.head)(name, run)

    def units(
        self,
        on: str | None = None,
        on_token: str | int | Sequence[str | int] = (),
        where: str | None = None,
        *,
        over: str = "sample",
        kind: str | None = None,
        limit: int = 20,
        positions: int = POSITIONS,
        seed: int = 0,
        run: int | None = None,
    ) -> pd.DataFrame:
        """Return the neurons and heads that distinguish a group of positions from all other positions.

        A position is in the group if all given conditions hold. Its token is the one that the model has just
        read there, not the next one. A neuron's value is its activation, a head's its direct effect on the
        next token (logits). The largest |auroc − 0.5| is first. Columns: name, kind, layer, unit; mean_in,
        mean_out (means of the value in the group and outside); auroc (the probability that a value in the
        group is larger than one outside); cohens_d (Cohen's d: the difference of the means in pooled standard
        deviations); p (of the Mann–Whitney test); n_in, n_out (positions), documents_in, documents_out; q
        (false discovery rate over all compared neurons and heads). `attrs["sql"]` is the query for the
        positions.

        on: a regular expression (RE2) that is searched in the text of the token, which has its leading space
        on_token: exact texts or ids of tokens, any of which may be the token
        where: a condition in SQL on the keys of the documents' metadata. If nothing else is given, the group
        is of whole documents, and p compares the documents' means; else p compares positions.
        over: `sample`, the run's random sample; `rows`, all positions, for heads alone; `model`: the run's
        model reads up to `positions` positions again, drawn with `seed`, half of them in the group if it has
        so many
        kind: `neuron`, `head` or `both`; None for all kinds that `over` has

        Raises:
            BadQuestion: a condition or an option is wrong, or too few positions are in the group or outside.
            NoSuchToken: there is no such token.
            NoModel: `over` is `model`, and the store was opened without models.
        """
        one_of("over", over, SOURCES)
        if kind is not None:
            one_of("kind", kind, KINDS)
        not_negative({"limit": limit})
        tokens = [on_token] if isinstance(on_token, str | int) else [*on_token]
        if on is None and where is None and not tokens:
            raise BadQuestion(
                "Which positions are meant? Give --on, --on-token or --where, or several of them."
            )
        with self.together():
            number = self.run(run)
            token_ids = [self._token_id(token, number) for token in tokens] or None
            kinds = kinds_of(kind, over)
            asked = Asked(self, number, on, token_ids, where, over, kinds, positions, seed)
            return distinguishing(asked, limit)

    def neuron_contexts(self, layer: int, neuron: int, run: int | None = None) -> pd.DataFrame:
        """Return the exact largest and smallest activations of a neuron, each with its context."""
        with self.together():
            return Neuron(self, "N", layer, neuron, self.run(run)).contexts("both", k=65535)

    def head_contexts(self, layer: int, head: int, run: int | None = None) -> pd.DataFrame:
        """Return the exact largest and smallest direct effects of a head, each with source and context."""
        with self.together():
            return Head(self, "H", layer, head, self.run(run)).contexts("both", k=65535)

    # Weights

    def weights(self, run: int | None = None, model: int | str | None = None) -> Weights:
        """Return a `Weights` object for queries about the weights of a run's model.

        model: instead of a run, the model's `model_id` or name, followed by the revision if several models
        have the name (`"neox-2m step1000"`). The model need not have a run. If neither is given and no run is
        finished, take the model whose weights were read last.

        Raises:
            NoSuchModel: there is no such model, or more than one; the message lists the models.
            NoWeights: `annotate weights` has not read the weights.
        """
        with self.together():
            return Weights(self, run, model)

    # The methods below return what `annotate next-token` stored about next-token neurons.

    def explanations(self, run: int | None = None) -> pd.DataFrame:
        """Return the explanations of when heads are active, with their scores and the baseline's score.

        A row has the columns of the views explanations and explanation_scores. For balanced_accuracy,
        precision, npv and f1, the columns …_low and …_high are the ends of the 95 % interval from
        `store.scores`. The scores of an explanation that was not scored are NaN.
        """
        return with_intervals(self._ask("explanations", run))

    def ablations(self, run: int | None = None) -> pd.DataFrame:
        """Return what ablating heads changes in next-token and baseline neurons (view `ablations`)."""
        return self._ask("ablations", run)

    # The methods below return results about contrasts, which `annotate ingest --answer-column` stores.

    def contrast_accuracy(self, by: str | None = None, run: int | None = None) -> pd.DataFrame:
        """Return how often the model prefers the answer to the distractor, a wrong answer (view `contrasts`).

        There is one row per value of the metadata key `by`, or one row in all. Columns: group_name,
        documents, right_answers, accuracy (with a 95 % Wilson interval), mean_difference (logits, with its
        standard_error), answer_is_top (fraction of documents in which the answer is the top prediction).

        Raises:
            BadQuestion: the run has no contrasts.
        """
        return contrasts.accuracy(lambda query: self._ask(query, run, by=by), by)

    def contrast_means(
        self,
        kind: str = "head",
        by: str | None = None,
        run: int | None = None,
        least_accuracy: float = contrasts.LEAST_ACCURACY,
    ) -> pd.DataFrame:
        """Return mean direct effects of components, heads or neurons on logit(answer) − logit(distractor).

        Columns: group_name (a value of the metadata key `by`), component, layer, unit, documents, mean,
        standard_error, low and high (95 % interval over documents), q (false discovery rate over the units
        of the group), max_error (of a neuron's mean, because only the strongest neurons are stored).

        Raises:
            BadQuestion: the run has no contrasts, or the accuracy of every group is below `least_accuracy`.
                Other groups below it are left out, and named in a note of the answer.
        """
        with self.together():
            return contrasts.means(lambda query: self._ask(query, run, by=by), kind, by, least_accuracy)

    # Searches and comparisons

    def search(
        self,
        where: "sa.ColumnElement[bool]",
        run: int | None = None,
        limit: int = 100,
        largest: Any = None,
    ) -> pd.DataFrame:
        """Return the positions for which a condition holds, in the order of the text.

        `attrs["every_sql"]` is a query for the position_id of all of them, without the limit.

        where: made from `store.position`, `store.neuron(…)` and `store.head(…)`; see `store.search`.
        largest: a number such as `store.neuron("L3N7").activation`; positions where it is largest come first
        """
        import sqlalchemy as sa  # here, as in `Session.engine`

        from annotate_transformer.store.search import search

        number = self.run(run)
        not_negative({"limit": limit})
        found, one_more = (search(where, number, rows, largest) for rows in (limit, limit + 1))
        for name in found.units:
            self.unit(name, number)
        try:
            with self.engine.connect() as con:
                read = pd.read_sql(one_more.statement, con)
                unknown = int(con.execute(found.unknown).scalar_one())
                total = int(con.execute(found.total).scalar_one()) if len(read) > limit else len(read)
        except (sa.exc.DBAPIError, pd.errors.DatabaseError) as error:
            cause = getattr(error.__cause__, "orig", None) or error.__cause__ or error
            raise BadQuestion(f"DuckDB cannot answer the condition: {cause}") from error
        rows = read.head(limit)
        describe(rows, found.sql, _rounding_of_units(found.units))
        rows.attrs["every_sql"] = found.every_sql
        if total > limit:
            truncate(rows, total)
        layers = [layer for letter, layer, _ in map(parse, found.units) if letter == "N"]
        if layers and (wrong_by := self._error_of_codes(number, layers)):
            _note_codes(rows, wrong_by)
        if unknown:
            note = f"lower bound: {unknown} more positions may match, where the neuron is not stored"
            qualify(rows, note, more_positions=unknown)
        return rows

    def compare(self, run: int, other: int, what: str = "positions", k: int = 100) -> pd.DataFrame:
        """Return the largest changes from `run` to `other`; columns …_a are about `run`, …_b about `other`.

        what: `positions` (loss, in nats), `neurons` or `heads` (mean |effect|, in logits). If both runs have
        the same weights, attrs["note"] says so.

        Raises:
            BadQuestion: for `positions`, the runs have different corpora; for `neurons` or `heads`, the runs'
                models have different shapes.
        """
        one_of("what", what, ("positions", "neurons", "heads"))
        with self.together():
            run, other = self.run(run), self.run(other)
            if run == other:
                raise BadQuestion(f"Run {run} is compared with itself. Give two different runs.")
            same_weights = self._check_comparable(run, other, what)
            found = self._ask(f"compare_{what}", run, other=other, k=k, before=BEFORE, after=AFTER)
            if same_weights:
                found.attrs["note"] = f"runs {run} and {other} are of the same weights"
            return found

    # Training steps

    def emergence(
        self, unit: str | None = None, statistic: str | None = None, run: int | None = None
    ) -> pd.DataFrame:
        """Return a statistic at every training step: step, revision, run_id, value, low, high, count, token.

        The steps are those of the runs that differ from `run` only in the step, as `annotate sweep` makes
        them. low, high: ends of the 95 % interval of a mean over positions; NaN for other statistics.

        unit: a head (`L3H2`) or neuron (`L3N7`); None for statistics of the whole model
        statistic: one of those of the view `emergence`; None for the loss, or for mean_abs_effect of a unit

        Raises:
            BadQuestion: there is no such statistic, or the run's training step is not known.
        """
        with self.together():
            return self.curve(unit, statistic, run).values()

    def rise(
        self, unit: str | None = None, statistic: str | None = None, run: int | None = None
    ) -> "pd.Series[float]":
        """Return the step at which a statistic has changed by half, with an interval over documents.

        The arguments are those of `emergence`; `store.emergence.Curve.rise` describes the entries.
        """
        with self.together():
            return self.curve(unit, statistic, run).rise()

    def curve(self, unit: str | None = None, statistic: str | None = None, run: int | None = None) -> Curve:
        """Return the object that answers `emergence` and `rise`, and asks the store once for both."""
        number = self.run(run)
        if unit is not None:
            self.unit(unit, number)
        return Curve(self, number, unit, statistic)

    def emergence_changes(
        self,
        step: int,
        other: int,
        kind: str = "head",
        statistic: str | None = None,
        k: int = 20,
        run: int | None = None,
    ) -> pd.DataFrame:
        """Return the heads or neurons whose statistic differs most between two training steps.

        Columns: head or neuron (its name), value_a (at `step`), value_b (at `other`), change (b − a); for
        neurons also the tokens that they promote most.
        """
        with self.together():
            return changes(self, self.run(run), kind, statistic, (step, other), k)

    def position_at_steps(self, position_id: int) -> pd.DataFrame:
        """Return the prediction at one position of a text at every training step, one row per step.

        Columns: step, run_id, position_id (of that run), token, next_token, loss (nats), probability,
        next_rank, top_token.
        """
        with self.together():
            at = self.position(position_id)
            return at_all_steps(self, int(at.run_id), position_id, position_id).drop(columns="here")

    def learned(self, first: int, last: int) -> pd.DataFrame:
        """Return the training step at which each next token was learned, from one position to another.

        Columns: position_id, step (of half height of the token's loss; NaN if the loss falls by less than
        1 nat), loss_first and loss_last (nats, at the first and at the last step).

        first, last: position_ids of one run
        """
        with self.together():
            return learned(self, int(self.position(first).run_id), first, last)

    def _check_comparable(self, run: int, other: int, what: str) -> bool:
        """Raise BadQuestion if the runs cannot be compared; return whether both runs have equal weights."""
        same = self._ask("comparable", run, other=other).iloc[0]
        if what == "positions" and not same.corpus:
            raise BadQuestion(f"Runs {run} and {other} read different corpora: their positions do not match.")
        if what != "positions" and not same.shape_of_model:
            raise BadQuestion(f"Runs {run} and {other} have models of different shapes: compare positions.")
        return bool(same.weights)

    # The private methods below run the queries of read.sql for the public methods.

    def _ask(self, query: str, run: int | None, **parameters: Any) -> pd.DataFrame:
        """Run a query of read.sql about a run, and return the answer."""
        with self.together():
            return self.question(query, self.run(run), **parameters).ask()

    def _error_of_codes(self, run: int, layers: list[int]) -> float | None:
        """Return the largest rounding error of the stored activations of layers; None if none is coded."""
        if not self.has_coded():
            return None
        return _number(self._ask("activation_error_of_run", run, layers=layers).error[0])

    def _at(self, query: str, position_id: int, **parameters: Any) -> Question:
        """Return the `Question` for a query of read.sql about a position."""
        number = int(position_id)
        return self.question(query, run_of(number), position_id=number, **parameters)

    def _of_position(self, query: str, position_id: int, **parameters: Any) -> pd.DataFrame:
        with self.together():
            answer = self._at(query, position_id, **parameters).ask()
            if answer.empty:
                self._check_is_there(position_id)
        return answer

    def _check_is_there(self, position_id: int) -> None:
        """Raise NoSuchPosition if the store has no such position."""
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
        several = "The text may be several tokens: search for it as a phrase."
        hint = f"There are {nearest}." if nearest else several
        raise NoSuchToken(f"No token is exactly {token!r}. {hint}")


def _unit_and_run(
    letter: str, name: str | int, numbers: tuple[int | None, ...], run: int | None
) -> tuple[tuple[str, int, int], int | None]:
    """Parse the arguments of `Store.neuron` or `Store.head` into a unit (letter, layer, number) and a run.

    `numbers` holds the unit's number if `name` is a layer, and then the run if `run` is not given.
    """
    rest = list(numbers)
    if isinstance(name, str):
        unit = parse(name)
    elif rest and (number := rest.pop(0)) is not None:
        unit = letter, int(name), int(number)
    else:
        raise NoSuchUnit(f"Layer {name} alone names no unit: give its number too, or a name such as L3N7.")
    if len(rest) > (run is None):
        raise BadQuestion(f"Give one run, not {run if run is not None else rest[0]} and {rest[-1]}.")
    return unit, rest[0] if rest else run


def _window(limit: int, offset: int, before: int, after: int) -> dict[str, int]:
    """Return the query parameters for one page of occurrences.

    Raises:
        BadQuestion: `before` or `after` exceeds MOST_AROUND.
    """
    if max(before, after) > MOST_AROUND:
        raise BadQuestion(
            f"before and after are at most {MOST_AROUND:,} characters: `documents` has the whole texts."
        )
    return {"limit": limit, "offset": offset, "before": before, "after": after}


def _target(reading: Reading, toward: Toward, minus: Toward | None, logprob: bool) -> Target:
    """Return the target that the run's model decomposes: a logit, a difference of logits or a direction."""
    if not logprob:
        return reading.target(toward, minus)
    if minus is not None:
        raise BadQuestion("A log-probability cannot be combined with `minus`: leave `minus` out.")
    return reading.logprob(toward)


def _sides(toward: Toward, minus: Toward | None) -> tuple[str, str | None]:
    """Return the names (`next` or `top`) of a stored target's logit and of the logit to subtract, if any."""
    return str(toward), None if minus is None else str(minus)


def _one_column(terms: pd.DataFrame, logit: StoredLogit) -> pd.DataFrame:
    """Replace the columns `toward_next` and `toward_top` by a column `effect`, with the terms of `logit`."""
    plus, *minus = columns = [f"toward_{side}" for side in logit.sides]
    made = terms.drop(columns=[f"toward_{side}" for side in STORED])
    made["effect"] = terms[plus] - terms[minus[0]] if minus else terms[plus]
    made.attrs = terms.attrs | {"logit": logit.whole.value, "closure": logit.closure}
    rounded = terms.attrs["rounded"]
    made.attrs["rounded"] = {name: error for name, error in rounded.items() if name in made}
    if error := sum(rounded.get(column, 0) for column in columns):
        made.attrs["rounded"]["effect"] = error
    if bound := terms.attrs.get("bound"):
        of_sides = [bound.get(f"{side}_bound", bound.get("effect_bound")) or 0 for side in logit.sides]
        kept = {name: value for name, value in bound.items() if name == "activation_bound"}
        made.attrs["bound"] = kept | {"effect_bound": sum(of_sides)}
    return made


class Prompt(Store):
    """An annotated prompt: a temporary store with one run, deleted when the process ends."""

    @property
    def last(self) -> int:
        """The position_id of the prompt's last token."""
        return int(self.sql("SELECT max(position_id) FROM base.position").iloc[0, 0])


def _note_codes(rows: pd.DataFrame, error: float) -> None:
    """Record in `attrs` the largest rounding error of activations that are stored in a few bits."""
    of_activations = {str(name): error for name in rows if str(name).endswith("activation")}
    rows.attrs["rounded"] |= of_activations or {"activation": error}
    why = "activations beyond the strongest are stored in few bits; their effects are as inaccurate"
    qualify(rows, f"rounded: {why}")


def _rounding_of_units(units: list[str]) -> dict[str, float]:
    """Return a dictionary from column to rounding error, for the columns that a search adds for `units`.

    A search for `L3N7` returns columns such as L3N7_activation.
    """
    kinds = {"N": "by_neuron", "H": "by_head"}
    return {
        f"{unit}_{column}": error
        for unit in units
        for column, error in rounding(kinds[parse(unit)[0]]).items()
    }


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def open(path: Address, *, wait: float = WAIT_SECONDS) -> Store:
    """Open the store at `path` for reading.

    `path`: the store's file, the folder or a list of the files with the parts of a run, or an address

    Raises:
        NotAStore, OtherSchemaVersion, StoreBusy: see store.errors.
    """
    return Store(path, wait)
