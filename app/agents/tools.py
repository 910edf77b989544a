"""The tools that an agent calls: each method of `Tools` asks the store one kind of question.

The docstring of a method is the description that an agent reads, and the parameters' descriptions are part
of the tool's JSON schema. Every tool only reads the store.
"""

from collections.abc import Callable
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from annotate_transformer.app import described
from annotate_transformer.app.agents.answers import MOST_ROWS, written
from annotate_transformer.app.browser import conditions
from annotate_transformer.app.cli.ask.targets import target_of
from annotate_transformer.store.ablations import REPLACEMENTS
from annotate_transformer.store.queries import named
from annotate_transformer.store.question import describe, largest_first
from annotate_transformer.store.reader import MATCHES, WAYS, Store
from annotate_transformer.store.restricted import restricted

MOST_PROMPT = 10_000  # maximum number of characters of a prompt
MOST_UNITS = 100  # maximum number of units that one call ablates, unless these are all heads
PAGES = "annotate_transformer.app.browser.pages"  # its search.sql has the query for the keys of metadata

Run = Annotated[int | None, Field(description="run_id; if left out, the run that was finished last.")]
Rows = Annotated[int, Field(ge=1, le=MOST_ROWS, description="Maximum number of rows of each table.")]
PositionId = Annotated[int, Field(description="position_id: one token in one window of one run.")]
By = Annotated[str, Field(description=f"The kind of terms: {', '.join(WAYS)}.")]
Toward = Annotated[
    str,
    Field(
        description="The logit that is decomposed: next (the next token), top (the top prediction), a "
        "token's exact text with its leading space, or id=N. For other tokens than next and top the run's "
        "model is run."
    ),
]
Minus = Annotated[
    str, Field(description="Subtract this token's logit, written as in `toward`; empty for none.")
]


class Tools:
    """The tools for one store. Each returns JSON (see `answers`)."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def all(self) -> tuple[Callable[..., str], ...]:
        """The tools, in the order in which an agent sees them."""
        return (
            self.runs,
            self.schema,
            self.sql,
            self.tokens,
            self.phrase,
            self.search,
            self.position,
            self.neuron,
            self.head,
            self.prompt,
            self.ablation,
        )

    # The store as a whole

    def runs(self, rows: Rows = 20) -> str:
        """List the runs of the store: a model annotated over a corpus, with tokens and max closure error.

        Call this first. worst_closure is in logits.
        """
        return written(None, {"runs": self.store.runs()}, rows)

    def schema(
        self,
        view: Annotated[
            str, Field(description="Name of a view or macro, for its columns; empty to list them all.")
        ] = "",
    ) -> str:
        """List the views and macros for the tool sql, or one view's columns with types, units and meaning."""
        with self.store.connection() as con:
            about, table = described.columns(con, view) if view else ("", described.names(con))
            frame = table.to_pandas()
        describe(frame, "")
        if about:
            frame.attrs["about"] = about
        return written(None, {"columns" if view else "views": frame})

    def sql(
        self,
        query: Annotated[str, Field(description="One SELECT (DuckDB), over the views that `schema` lists.")],
        rows: Rows = 50,
    ) -> str:
        """Run one SELECT on the store, within 10 seconds and 512 MB, without access to files.

        If there are more rows than `rows`, the answer says truncated, and total is null: let SQL aggregate,
        sort and limit. Numbers are as stored; effects are in logits, log-probabilities in nats.
        """
        answer = restricted(self.store.path, query, rows=rows, target="text", wait=self.store.wait)
        frame = answer.frame
        frame.attrs = {"complete": not answer.truncated, "total": None if answer.truncated else len(frame)}
        if answer.truncated:
            frame.attrs["note"] = f"truncated: the first {len(frame):,} rows; the query has more"
        return written(None, {"rows": frame}, rows)

    # Texts

    def tokens(
        self,
        text: Annotated[str, Field(description="A token's text, with its leading space, or its id.")],
        match: Annotated[str, Field(description=f"How the text matches: {', '.join(MATCHES)}.")] = "exact",
        run: Run = None,
        rows: Rows = 20,
    ) -> str:
        """Find tokens of the vocabulary, and the positions of a token if exactly one matches.

        match: exact; like ignores case and spaces at the ends; prefix; regex; id. The occurrences have
        position_id, the text around the token, and the log-probability (nats) and rank of the next token.
        """
        s = self.store
        with s.together():
            number = s.run(run)
            tables = {"tokens": s.tokens(text, match, number)}
            found = tables["tokens"].token_id
            if len(found) == 1 or match == "exact":  # if there is no such token, the error names similar ones
                token = int(found.iloc[0]) if len(found) else text
                tables["occurrences"] = s.occurrences(token, number, limit=rows)
        return written(number, tables, rows)

    def phrase(
        self,
        text: Annotated[str, Field(description="Text as it is in the documents; case and spaces matter.")],
        run: Run = None,
        rows: Rows = 20,
    ) -> str:
        """Find where a text of any length occurs: the position_id of its first and of its last token."""
        s = self.store
        with s.together():
            number = s.run(run)
            return written(number, {"phrase": s.phrase(text, number, limit=rows)}, rows)

    def search(
        self,
        where: Annotated[
            str,
            Field(
                description="Conditions joined by `and`: a name, one of = != < <= > >=, and a number or a "
                "text in double quotes. Names: a neuron (its activation) such as L3N7; a head (its direct "
                "effect on the next token, in logits) such as L1H2; loss and entropy (nats); next_rank; "
                "position (in the window); document; token; next_token; a key of the documents' metadata. "
                f"Example: {conditions.EXAMPLE}"
            ),
        ],
        run: Run = None,
        rows: Rows = 20,
    ) -> str:
        """Find the positions for which conditions on neurons, heads, tokens and metadata hold."""
        s = self.store
        with s.together():
            number = s.run(run)
            keys = s.question(named("search.sql", PAGES)["metadata_keys"], run=number).ask().key
            clause = conditions.clause(conditions.read(where, [*keys]))
            return written(number, {"positions": s.search(clause, number, limit=rows)}, rows)

    # One prediction, one neuron, one head

    def position(
        self,
        position_id: PositionId,
        by: By = "component",
        toward: Toward = "",
        minus: Minus = "",
        rows: Rows = 20,
    ) -> str:
        """Decompose one prediction into direct effects, in logits, largest first.

        Components, layers and terms sum to the centred logit, within the closure error (closure_next,
        closure_top or closure). `toward_next` is about the next token, `toward_top` about the top prediction;
        with `toward`, the effects are in the column `effect`. Neurons and sources are the strongest ones
        only, and `bound` bounds the effect of every other one.
        """
        s = self.store
        with s.together():
            at = s.position(position_id)
            terms = _decomposed(s, position_id, by, *_target(toward, minus))
        return written(int(at.run_id), {"position": _row(at), "decomposition": terms}, rows)

    def neuron(
        self,
        name: Annotated[str, Field(description="Layer and neuron from 0, such as L3N7.")],
        run: Run = None,
        rows: Rows = 10,
    ) -> str:
        """Describe a neuron: statistics, top activations with their text, and its strongest direct effects.

        `stats`, `high` and `low` are exact over the whole run; `tokens` and `effects` are only about
        positions where the neuron is among its layer's strongest. Activations have no unit, effects are in
        logits.
        """
        s = self.store
        with s.together():
            unit = s.neuron(name, run)
            return written(unit.run, _of_unit(unit, rows), rows)

    def head(
        self,
        name: Annotated[str, Field(description="Layer and head from 0, such as L1H2.")],
        run: Run = None,
        rows: Rows = 10,
    ) -> str:
        """Describe an attention head: mean attention, top direct effects with source and text, tokens.

        Values and effects are the head's direct effect on the next token's logit; attention is a probability.
        """
        s = self.store
        with s.together():
            unit = s.head(name, run)
            return written(unit.run, _of_unit(unit, rows) | {"distances": unit.distances()}, rows)

    # Questions that run the model

    def prompt(
        self,
        text: Annotated[
            str, Field(max_length=MOST_PROMPT, description="A prompt; its last prediction is decomposed.")
        ],
        by: By = "component",
        toward: Toward = "",
        minus: Minus = "",
        run: Run = None,
        rows: Rows = 20,
    ) -> str:
        """Run a run's model on a text of your own, and decompose its last prediction, in logits.

        This takes seconds. Nothing is written into the store. A prompt has no next token: the logit is that
        of the top prediction, or of `toward`. `likeliest` has the most likely next tokens.
        """
        number = self.store.run(run)
        target = _target(toward or "top", minus)
        with self.store.prompt(text, number) as alone:
            at = alone.position(alone.last).drop("source")  # the name of a temporary file
            tables = {
                "position": _row(at),
                "likeliest": alone.likeliest(alone.last, min(rows, 10)),
                "decomposition": _decomposed(alone, alone.last, by, *target),
            }
        return written(number, tables, rows)

    def ablation(
        self,
        position_id: PositionId,
        units: Annotated[
            list[str],
            Field(
                min_length=1,
                max_length=MOST_UNITS,
                description="Units, each ablated by itself: a head (L3H2), a neuron (L3N7), attention "
                "(L3attn) or an MLP (L3mlp); joined by + they are ablated together; `heads` stands for every "
                "head.",
            ),
        ],
        by: Annotated[
            str, Field(description=f"What replaces the outputs: {', '.join(REPLACEMENTS)}.")
        ] = "zero",
        toward: Toward = "",
        minus: Minus = "",
        rows: Rows = 20,
    ) -> str:
        """Run a run's model with units' outputs replaced; return total beside direct effects, in logits.

        This takes seconds, and longer the more units there are. Nothing is written into the store. The effect
        is on the prediction at `position_id`; outputs are replaced at all tokens of its window.
        """
        target, other = _target(toward, minus)
        run = int(self.store.position(position_id).run_id)
        found = self.store.ablate(position_id, units, by=by, toward=target, minus=other, keep=False)
        return written(run, {"ablations": largest_first(found, found.total_effect)}, rows)


def _target(toward: str, minus: str) -> tuple[Any, Any]:
    """Return the target of `Store.decomposition`; empty texts stand for none."""
    return target_of([toward] if toward else None, [minus] if minus else None, None)


def _decomposed(s: Store, position_id: int, by: str, toward: Any, minus: Any) -> pd.DataFrame:
    """Return the terms of a prediction, the largest first."""
    found = s.decomposition(position_id, by, toward, minus)
    columns = [name for name in ("effect", "toward_next", "toward_top") if name in found]
    known = next(name for name in columns if found[name].notna().any() or name == columns[-1])
    return largest_first(found, found[known].astype(float).fillna(0))


def _row(series: "pd.Series[Any]") -> pd.DataFrame:
    """Return a row of a view as a table."""
    frame = series.to_frame().T
    describe(frame, "")
    return frame


def _of_unit(unit: Any, rows: int) -> dict[str, pd.DataFrame]:
    """Return the tables that the tools for neurons and heads share."""
    return {
        "stats": _row(unit.stats().drop("histogram")),
        "high": unit.contexts("high", rows),
        "low": unit.contexts("low", rows),
        "tokens": unit.tokens(rows),
        "effects": unit.effects(rows),
    }
