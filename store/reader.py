"""Asking a store: an answer opens the file, reads, and soon lets go of it again.

So an ingest into the same file goes on meanwhile, and a notebook left open stops nobody. An answer
is a DataFrame; whether it is complete stands in its `attrs`: `exact` (bool), and where it is not,
`bound`, what nothing left out exceeds (a name and number each), and `note`, the same in words.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa
from duckdb_sqlalchemy import ConnectionWrapper

from annotate_transformer.store.database import WAIT_SECONDS, Reading, connect, damage_as_sentence, is_damage
from annotate_transformer.store.errors import (
    BadQuestion,
    NoInputs,
    NoSuchPosition,
    NoSuchRun,
    NoSuchToken,
    not_negative,
    one_of,
)
from annotate_transformer.store.ids import run_of
from annotate_transformer.store.names import parse
from annotate_transformer.store.notation import Expression, Prediction
from annotate_transformer.store.queries import AFTER, BEFORE, named, plain
from annotate_transformer.store.scores import with_intervals
from annotate_transformer.store.search import search
from annotate_transformer.store.units import Head, Neuron
from annotate_transformer.store.weights import Weights

WAYS = ("component", "layer", "term", "head", "neuron", "source")
BOUNDS = {  # ways of which not every term is kept: the query of their bounds, and what those say
    "neuron": ("neuron_bounds", "no neuron left out of a layer exceeds these bounds, in absolute value"),
    "source": ("source_bound", "no source left out exceeds this effect, in logits"),
}
CODED = "neurons beyond the strongest are rounded, none by more, and their effects by the same share"
MOST_AROUND = 1000  # characters: with a token they stay within what a passage reaches beyond (store.writer)
FACTS = ("tokenizer", "context")  # the columns of read.sql's `facts`
MATCHES = ("exact", "like", "prefix", "regex", "id")


class Store:
    """A store, read-only; safe to share between threads.

    `run` is everywhere the number of a run; None is the run that was finished last.
    """

    def __init__(self, path: str | Path, wait: float = WAIT_SECONDS) -> None:
        self.path, self.wait = Path(path), wait
        self._reading = Reading(self.path, wait)
        self._here = threading.local()  # the connection of a thread that asks several questions
        self.sql("SELECT 1")  # a file that is no store is told at once

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._reading.close()

    # Anything

    def sql(self, query: str, parameters: dict[str, Any] | list[Any] | None = None) -> pd.DataFrame:
        """The answer to any SQL over the views of schema.sql.

        Raises:
            duckdb.Error: the query is wrong.
            StoreBusy: an ingest held the file for longer than `wait` seconds.
        """
        with self._open() as con:
            return con.execute(query, plain(parameters)).df()

    def arrow(
        self, query: str, parameters: dict[str, Any] | None = None, *, rows: int = 100_000
    ) -> Iterator[pa.RecordBatch]:
        """The same in Arrow batches of so many rows: memory does not grow with the answer.

        The file stays open, and an ingest waits, until the last batch is taken.
        """
        # A connection of its own: another question on it would end the stream.
        with self._reading.cursor() as con:
            yield from con.execute(query, plain(parameters)).to_arrow_reader(rows)

    @cached_property
    def engine(self) -> sa.Engine:
        """For `pandas.read_sql` and whatever speaks SQLAlchemy; a connection is open while in use."""

        def open_one() -> ConnectionWrapper:
            return ConnectionWrapper(connect(self.path, self.wait))

        engine = sa.create_engine("duckdb://", creator=open_one, poolclass=sa.NullPool)
        sa.event.listen(engine, "handle_error", self._tell_damage)
        return engine

    def _tell_damage(self, context: sa.ExceptionContext) -> None:
        """Raise DamagedStore in the place of SQLAlchemy's error."""
        if is_damage(context.original_exception):
            with damage_as_sentence(self.path):
                raise context.original_exception

    # Runs, documents, text

    def runs(self) -> pd.DataFrame:
        """What is in the store: one row per run, with provenance, tokens and worst closure error."""
        return self.sql("FROM runs ORDER BY run_id")

    def run(self, run: int | None = None) -> int:
        """The number of the run that a question without one is about.

        Raises:
            NoSuchRun: there is no such run, or none is finished.
        """
        with self._open() as con:
            return self._chosen(con, run)

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
            found = self._ask("occurrences", run, token_id=self._token_id(token, run), **window)
        return _first(found, limit)

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
        return _first(self._ask("phrase", run, text=text, **window), limit)

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
            terms.attrs = {"exact": True}
            if by in ("term", "neuron") and self._has_coded():
                error = _number(self._of_position("activation_error", position_id).error[0])
                if error:
                    _qualify(terms, CODED, activation_error=error)
                    return terms
            if by not in BOUNDS:
                return terms
            query, note = BOUNDS[by]
            found = self._of_position(query, position_id).iloc[0]
        return _lower_bound(terms, {str(name): _number(value) for name, value in found.items()}, note)

    def expression(self, position_id: int, toward: str = "next") -> Expression:
        """The same as an expression in the literature's notation: see `store.notation`.

        toward: `next`, the token that follows, or `top`, the model's first choice.

        Raises:
            BadQuestion: nothing follows there.
        """
        return Expression(Prediction(self, int(position_id), toward))

    def sends(self, position_id: int, limit: int = 100) -> pd.DataFrame:
        """Which later positions of its window read from this one, and what that did to their predictions.

        Annotate Transformer's "attract attention" and "change later token predictions": the effect, in
        logits, of what a head took from here on the later position's next token and first choice. A
        lower bound: of each later position only the strongest sources are kept.
        """
        with self.together():
            found = self._of_position("sends", position_id, limit=_one_more(limit))
            bounds = found.pop("effect_bound")
            if found.empty:
                bounds = self._of_position("sends_bound", position_id).effect_bound
        bound = _number(bounds[0])
        first = _first(found, limit)
        if not bound:  # every source is kept
            return first
        if not first.attrs["exact"]:  # the strongest come first
            left_out = found.loc[limit:, ["toward_next", "toward_top"]].abs().max(axis=None)
            bound = max(bound, float(left_out))
        note = "of each later position only its strongest sources are kept; source_bound bounds the others"
        _qualify(first, note, effect_bound=bound)
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
        found.attrs = {"exact": True} | {column: float(value) for column, value in same.iloc[0].items()}
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

    # What fires next-token neurons, as `annotate next-token` has stored it

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
        found, one_more = (search(where, number, rows) for rows in (limit, _one_more(limit)))
        for name in found.units:
            self.unit(name, number)
        try:
            with self.engine.connect() as con:
                rows = _first(pd.read_sql(one_more.statement, con), limit)
                unknown = int(con.execute(found.unknown).scalar_one())
        except (sa.exc.DBAPIError, pd.errors.DatabaseError) as error:
            cause = getattr(error.__cause__, "orig", None) or error.__cause__ or error
            raise BadQuestion(f"DuckDB cannot answer the condition: {cause}") from error
        rows.attrs["sql"] = found.sql
        layers = [layer for letter, layer, _ in map(parse, found.units) if letter == "N"]
        if layers and self._has_coded():
            wrong_by = _number(self._ask("activation_error_of_run", number, layers=layers).error[0])
            if wrong_by:
                _qualify(rows, CODED, activation_error=wrong_by)
        if unknown:
            note = f"{unknown} more positions may belong: the neuron was not kept there"
            _qualify(rows, note, more_positions=unknown)
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

    @contextmanager
    def together(self) -> Iterator[None]:
        """Several questions of this thread with the file opened once; an ingest waits until the end."""
        with self._open():
            yield

    @contextmanager
    def _open(self) -> Iterator[duckdb.DuckDBPyConnection]:
        held = getattr(self._here, "con", None)
        if held is not None:
            yield held
            return
        with self._reading.cursor() as con:
            self._here.con = con
            try:
                yield con
            finally:
                self._here.con = None

    def _shape(self, run: int) -> "pd.Series[Any]":
        """The row of `models` that a run is of."""
        with self._open():
            known = self._reading.known
            if ("shape", run) not in known:
                known["shape", run] = self._ask("shape", run).iloc[0]
            return known["shape", run]

    def _runs(self, con: duckdb.DuckDBPyConnection) -> tuple[int | None, list[int], list[int], bool]:
        """The latest finished run, all runs, those that are finished; whether any keeps all neurons."""
        known = self._reading.known
        if "runs" not in known:
            known["runs"] = con.execute(named("read.sql")["chosen_run"]).fetchall()[0]
        found: tuple[int | None, list[int], list[int], bool] = known["runs"]
        return found

    def query(self, name: str) -> str:
        """One of read.sql's by its name, or a text like them, over the views that this file needs.

        `neurons` takes 5 ms to plan, for runs that keep all.
        """
        text = named("read.sql").get(name, name)
        if "{neurons}" not in text:
            return text
        return text.replace("{neurons}", "neurons" if self._has_coded() else "base.kept_neuron")

    def _has_coded(self) -> bool:
        with self._open() as con:
            return self._runs(con)[3]

    def _is_finished(self, run: int) -> bool:
        with self._open() as con:
            return run in self._runs(con)[2]

    def _chosen(self, con: duckdb.DuckDBPyConnection, run: int | None) -> int:
        latest, runs, *_ = self._runs(con)
        if run is None and latest is None:
            there = f"it has unfinished ones: {', '.join(map(str, runs))}" if runs else "it has none at all"
            raise NoSuchRun(f"{self.path} has no finished run ({there}). Finish one, or name its number.")
        if run is not None and run not in runs:
            raise NoSuchRun(f"{self.path} has no run {run}; it has {', '.join(map(str, runs)) or 'none'}.")
        chosen = latest if run is None else run
        assert chosen is not None
        return int(chosen)

    def facts(self, query: str, run: int) -> dict[str, int | None]:
        """Of $tokenizer and $context, which are a run's, those that `query` has; None without such a run."""
        wanted = [name for name in FACTS if f"${name}" in query]
        if not wanted:
            return {}
        with self._open() as con:
            known = self._reading.known
            if ("facts", run) not in known:
                (found,) = con.execute(named("read.sql")["facts"], {"run": run}).fetchall()
                known["facts", run] = dict(zip(FACTS, found, strict=True))
            return {name: known["facts", run][name] for name in wanted}

    def _ask(self, query: str, run: int | None, **parameters: Any) -> pd.DataFrame:
        """One of read.sql's questions about a run."""
        not_negative(parameters)
        with self._open() as con:
            text, number = self.query(query), self._chosen(con, run)
            asked = {"run": number} | self.facts(text, number) | parameters
            answer = con.execute(text, plain(asked)).df()
        answer.attrs = {"exact": True}
        return answer

    def _of_position(self, query: str, position_id: int, **parameters: Any) -> pd.DataFrame:
        not_negative(parameters)
        with self.together():
            text, number = self.query(query), int(position_id)
            asked = {"position_id": number} | self.facts(text, run_of(number)) | parameters
            answer = self.sql(text, asked)
        if answer.empty and not self._has(position_id):
            raise NoSuchPosition(f"{self.path} has no position {position_id}. Search for one first.")
        return answer

    def _has(self, position_id: int) -> bool:
        found = self.sql("SELECT count(*) FROM base.position WHERE position_id = $p", {"p": int(position_id)})
        return bool(found.iloc[0, 0])

    def _token_id(self, token: str | int, run: int | None) -> int:
        match = "exact" if isinstance(token, str) else "id"
        with self._open() as con:
            text, number = named("read.sql")["token_id"], self._chosen(con, run)
            asked = plain({"text": str(token), "match": match} | self.facts(text, number))
            found = con.execute(text, asked).fetchall()
        if found:
            return int(found[0][0])
        if match == "id":
            last = int(self._shape(self.run(run)).d_vocab) - 1
            raise NoSuchToken(f"No token has the id {token}: they are numbered from 0, to {last} at most.")
        like = self.tokens(token, "like", run)
        nearest = ", ".join(f"{row.token!r} ({row.occurrences}×)" for row in like.head(8).itertuples())
        hint = f"There are {nearest}." if nearest else "It may be of several tokens: look for it as a phrase."
        raise NoSuchToken(f"No token is exactly {token!r}. {hint}")


def _one_more(limit: int) -> int:
    """What to ask for, so that `_first` can tell whether there are more."""
    not_negative({"limit": limit})
    return limit + 1


def _window(limit: int, offset: int, before: int, after: int) -> dict[str, int]:
    """Raises BadQuestion for more text around a place than is read with it."""
    if max(before, after) > MOST_AROUND:
        raise BadQuestion(
            f"before and after are at most {MOST_AROUND:,} characters: `documents` has the whole texts."
        )
    return {"limit": _one_more(limit), "offset": offset, "before": before, "after": after}


def _first(frame: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Of an answer asked for with one row more: whether there are more is said."""
    first = frame.head(limit)
    more = {"exact": False, "bound": {}, "note": f"the first {limit:,}: there are more"}
    first.attrs = more if len(frame) > limit else {"exact": True}
    return first


def _qualify(frame: pd.DataFrame, note: str, **bound: float) -> None:
    """It is not exact, for this reason too."""
    notes = [frame.attrs.get("note"), note]
    bounds = frame.attrs.get("bound", {}) | bound
    frame.attrs |= {"exact": False, "bound": bounds, "note": "; ".join(filter(None, notes))}


def _lower_bound(frame: pd.DataFrame, bound: dict[str, float | None], note: str) -> pd.DataFrame:
    """Where every bound is 0 nothing was left out."""
    exact = bool(bound) and not any(bound.values())
    frame.attrs = {"exact": True} if exact else {"exact": False, "bound": bound, "note": note}
    return frame


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def open(path: str | Path, *, wait: float = WAIT_SECONDS) -> Store:
    """The store at `path`, for reading.

    Raises:
        NotAStore, OtherSchemaVersion, StoreBusy: see store.errors.
    """
    return Store(path, wait)
