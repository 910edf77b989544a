"""Decompose a prediction into terms for any token, difference of tokens or direction, with the run's model.

The run's model reads the window of a stored position again. All terms are computed, and none is rounded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from annotate_transformer.store.errors import BadQuestion, NoSuchPosition, NoSuchToken
from annotate_transformer.store.notation import Architecture, Logit, Term, escaped, logit_of, quoted
from annotate_transformer.store.question import describe, largest_first
from annotate_transformer.store.running import Direction, HeadScore, Moved, Runner, Terms, Values
from annotate_transformer.store.session import Session
from annotate_transformer.store.windows import contexts

Token = str | int
Toward = Token | Sequence[Token] | Values
STORED = ("next", "top")  # the store has the terms of the logits of these tokens: next token, top prediction
READ_AGAIN = "computed: the run's model read the window again"
COMPUTED = f"{READ_AGAIN}; these are all terms, and none is rounded"


def is_stored(toward: Toward, minus: Toward | None) -> bool:
    """Return whether a target's terms are stored: only those of `next`, `top` and their difference are."""
    sides = [toward, *([] if minus is None else [minus])]
    return all(isinstance(side, str) and side in STORED for side in sides)


class Chosen(NamedTuple):
    """A token that a target names; `hint` names another token that the user may have meant."""

    token_id: int
    text: str
    hint: str = ""


@dataclass(frozen=True, eq=False)
class Target:
    """A direction along which a logit is decomposed. `label` and `latex` name the decomposed quantity."""

    direction: Direction
    label: str
    latex: str
    formula: str
    hint: str = ""


@dataclass(frozen=True, eq=False)
class Reading:
    """A stored position, and the model that reads the position's window again.

    at: the position's row, as `Store.position` returns it
    """

    session: Session
    runner: Runner
    at: "pd.Series[Any]"

    @cached_property
    def run(self) -> int:
        return int(self.at.run_id)

    @cached_property
    def about(self) -> "pd.Series[Any]":
        """The run's row of the view `runs`."""
        return self.session.about(self.run)

    @cached_property
    def window(self) -> pd.DataFrame:
        """The tokens of the window up to the position, one row each; the BOS is first if the run has one.

        Columns: token_id, position_id, token.
        """
        with self.session.together():
            with self.session.connection() as con:
                [found] = contexts(con, [int(self.at.position_id)])
            read = pd.DataFrame({"token_id": found.tokens, "position_id": found.places})
            return read.assign(token=read.token_id.map(texts(self.session, self.run, found.tokens)))

    @property
    def tokens(self) -> list[int]:
        return [*map(int, self.window.token_id)]

    def index_of(self, position_id: int) -> int:
        """Return the index in the window of the token with this position_id.

        Raises:
            NoSuchPosition: the position is not in the window, or comes after the last token that is read.
        """
        found = (self.window.position_id == position_id).to_numpy().nonzero()[0]
        if not len(found):
            first, last = int(self.window.position_id.iloc[0]), int(self.at.position_id)
            raise NoSuchPosition(
                f"Position {position_id} is not in the window of position {last}, or comes after it. "
                f"Name a position from {first} to {last}."
            )
        return int(found[0])

    def terms(self, direction: Direction) -> Terms:
        return self.runner.terms(self.about, self.tokens, direction)

    def likeliest(self, k: int) -> pd.DataFrame:
        """Return the k most likely next tokens, with their ranks, centred logits and probabilities."""
        found = self.runner.likeliest(self.about, self.tokens, k)
        found.insert(0, "rank", range(1, len(found) + 1))
        found.insert(2, "token", found.token_id.map(texts(self.session, self.run, found.token_id)))
        describe(found, "")
        found.attrs["note"] = READ_AGAIN
        return found

    # Targets

    def logprob(self, toward: Toward) -> Target:
        """Return a target whose direction is the gradient of a token's log-probability."""
        [token, *more] = self._chosen(toward)
        if more:
            raise BadQuestion("A log-probability is computed for only one token: name one token.")
        name = f"log p({quoted(token.text)})"
        formula = f"W_U[:, {token.token_id}] - Σ p[v] W_U[:, v], first order; b_U[t] likewise"
        latex = rf"\partial \log p(\text{{{escaped(quoted(token.text))}}})"
        return Target(
            Direction((token.token_id,), is_logprob=True),
            f"first-order terms of {name}",
            latex,
            formula,
            token.hint,
        )

    def target(self, toward: Toward, minus: Any = None) -> Target:
        """Return the target to decompose: a token's logit, a mean of logits, a difference, or a direction.

        A token is `next`, `top`, an id, or a text that is one token.

        Raises:
            BadQuestion: a text is not exactly one token; the message shows its tokens.
            NoSuchToken: there is no token with this id.
        """
        if isinstance(toward, np.ndarray):
            if minus is not None:
                raise BadQuestion("A direction cannot be combined with `minus`: subtract vectors yourself.")
            whole = "as given, b_U[t] = 0"
            return Target(
                Direction(vector=toward.astype(float)), "⟨x, u⟩/σ", r"\langle x, u\rangle/\sigma", whole
            )
        sides = [self._chosen(toward), *([] if minus is None else [self._chosen(minus)])]
        ids = [tuple(token.token_id for token in side) for side in sides]
        label, latex = logit_of(*([token.text for token in side] for side in sides))
        formula = " - ".join(_mean("W_U[:, {}]", side) for side in ids)
        if len(ids) > 1 or len(ids[0]) > 1:
            formula += f", b_U[t] = {' - '.join(_mean('b_U[{}]', side) for side in ids)}"
        hints = dict.fromkeys(token.hint for side in sides for token in side if token.hint)
        return Target(
            Direction(ids[0], ids[1] if minus is not None else ()), label, latex, formula, " ".join(hints)
        )

    def _chosen(self, side: Any) -> list[Chosen]:
        several = [side] if isinstance(side, str | int | np.integer) else [*side]
        if not several:
            raise BadQuestion("No token is named: give at least one.")
        return [self._token(token) for token in several]

    def _token(self, token: Any) -> Chosen:
        if token in STORED:
            if pd.isna(self.at[f"{token}_token_id"]):
                raise BadQuestion(
                    f"Position {self.at.position_id} has no next token in its window: name another token."
                )
            return Chosen(int(self.at[f"{token}_token_id"]), str(self.at[f"{token}_token"]))
        if not isinstance(token, str):
            found = texts(self.session, self.run, [int(token)])
            if not found:
                raise NoSuchToken(f"{self.about.model} has no token with the id {token}.")
            return Chosen(int(token), found[int(token)])
        pieces = self.runner.pieces(self.about, token)
        if len(pieces) == 1:
            return Chosen(*pieces[0], self._hint(token))
        if not pieces:
            raise BadQuestion("An empty text is no token: give the text of one token.")
        shown = ", ".join(quoted(piece.text) for piece in pieces)
        raise BadQuestion(
            f"{token!r} is {len(pieces)} tokens of this vocabulary: {shown}. Give one token, or several for "
            f"the mean of their logits. {self._hint(token)}".rstrip()
        )

    def _hint(self, text: str) -> str:
        """Return a hint if the text with a leading space is a token too, otherwise an empty text."""
        if text.startswith(" ") or len(spaced := self.runner.pieces(self.about, f" {text}")) != 1:
            return ""
        return f"With a leading space, {quoted(spaced[0].text)} is a token too."


def texts(session: Session, run: int, token_ids: Sequence[int]) -> dict[int, str]:
    """Return a dictionary from token id to text, for the given tokens of a run's vocabulary."""
    query = """SELECT token_id, token FROM base.token
               WHERE tokenizer_id = $tokenizer AND token_id IN (SELECT unnest($ids))"""
    ids = sorted({*map(int, token_ids)})
    found = session.sql(query, {"tokenizer": session.facts(run)["tokenizer"], "ids": ids})
    return dict(zip(found.token_id.astype(int), found.token, strict=True))


def _mean(form: str, ids: Sequence[int]) -> str:
    """Return the formula `form` with a token id filled in; for several ids, the mean of their formulas."""
    columns = ", ".join(form.format(token_id) for token_id in ids)
    return columns if len(ids) == 1 else f"mean({columns})"


# The functions and the class below turn computed terms into a DataFrame and into an `Expression`.


def frame(terms: Terms, by: str, window: pd.DataFrame) -> pd.DataFrame:
    """Return the terms as a DataFrame like that of `Store.decomposition`, with the column `effect`."""
    rows = {
        "component": _components,
        "layer": _layers,
        "head": _heads,
        "neuron": _neurons,
        "source": _sources,
        "term": _terms,
    }[by](terms, window)
    describe(rows, "")
    rows.attrs |= {"note": COMPUTED, "logit": terms.total, "closure": terms.closure}
    return rows


def _components(terms: Terms, window: pd.DataFrame) -> pd.DataFrame:
    outer = {**terms.embedding, "final_bias": terms.final_bias}
    layers = range(len(terms.attn))
    rows: list[Any] = [(name, None, effect) for name, effect in outer.items()]
    rows += [row for i in layers for row in (("attn", i, terms.attn[i]), ("mlp", i, terms.mlp[i]))]
    return _rows(rows, ["component", "layer", "effect"])


def _layers(terms: Terms, window: pd.DataFrame) -> pd.DataFrame:
    outer = sum(terms.embedding.values()) + terms.final_bias
    sums = [(None, outer), *enumerate((terms.attn + terms.mlp).tolist())]
    return _rows(sums, ["layer", "effect"])


def _heads(terms: Terms, window: pd.DataFrame) -> pd.DataFrame:
    layer, head = np.indices(terms.heads.shape).reshape(2, -1)
    top = terms.attention.argmax(-1)
    return pd.DataFrame(
        {
            "layer": layer,
            "head": head,
            "effect": terms.heads.ravel(),
            "top_source_position_id": window.position_id.to_numpy()[top.ravel()],
            "top_source_attention": terms.attention.max(-1).ravel(),
        }
    )


def _neurons(terms: Terms, window: pd.DataFrame) -> pd.DataFrame:
    layer, neuron = np.indices(terms.neurons.shape).reshape(2, -1)
    values = {"activation": terms.activations.ravel(), "effect": terms.neurons.ravel()}
    return _largest_first(pd.DataFrame({"layer": layer, "neuron": neuron, **values}))


def _sources(terms: Terms, window: pd.DataFrame) -> pd.DataFrame:
    layer, head, source = np.indices(terms.sources.shape).reshape(3, -1)
    read = window.iloc[source]
    return _largest_first(
        pd.DataFrame(
            {
                "layer": layer,
                "head": head,
                "source_position_id": read.position_id.to_numpy(),
                "source_token": read.token.to_numpy(),
                "distance": int(window.position_id.iloc[-1]) - read.position_id.to_numpy(),
                "attention": terms.attention.ravel(),
                "effect": terms.sources.ravel(),
            }
        )
    )


def _terms(terms: Terms, window: pd.DataFrame) -> pd.DataFrame:
    """Return one row per embedding, bias, head and neuron; their effects sum to the logit."""
    biases = [
        (name, i, effect)
        for name, of_layers in (("attn_bias", terms.attn_bias), ("mlp_bias", terms.mlp_bias))
        for i, effect in enumerate(of_layers.tolist())
    ]
    outer = [(name, None, effect) for name, effect in terms.embedding.items()]
    rows = _rows([*outer, ("final_bias", None, terms.final_bias), *biases], ["component", "layer", "effect"])
    heads = _heads(terms, window)[["layer", "head", "effect"]].assign(component="head")
    neurons = _neurons(terms, window)[["layer", "neuron", "effect"]].assign(component="neuron")
    together = pd.concat([rows, heads, neurons], ignore_index=True).convert_dtypes()
    return together[["component", "layer", "head", "neuron", "effect"]]


def _rows(rows: list[Any], columns: list[str]) -> pd.DataFrame:
    made = pd.DataFrame(rows, columns=columns)
    return made.assign(layer=made.layer.astype("Int64"))


def _largest_first(rows: pd.DataFrame) -> pd.DataFrame:
    return largest_first(rows, rows.effect).reset_index(drop=True)


def score_frame(found: HeadScore, by: str, window: pd.DataFrame) -> pd.DataFrame:
    """Convert a computed attention score to the DataFrame that `Store.head_inputs` returns."""
    if by == "source":
        rows = window.assign(score=found.scores, attention=found.attention)
        rows = rows.iloc[np.argsort(-rows.attention.to_numpy(), kind="stable")].reset_index(drop=True)
    else:
        sides = {"query": found.queries, "key": found.keys}
        if by == "pair":
            query, key = np.indices(found.pairs.shape).reshape(2, -1)
            parts, values = {"query": query, "key": key}, found.pairs.ravel()
        else:
            values = found.pairs.sum(1 if by == "query" else 0)
            parts = {by: np.arange(len(values))}
        columns = {
            f"{side}_{name}": [getattr(sides[side][i], name) for i in index]
            for side, index in parts.items()
            for name in ("component", "layer", "head")
        }
        order = np.argsort(-np.abs(values), kind="stable")
        rows = pd.DataFrame(columns | {"value": values}).iloc[order].reset_index(drop=True).convert_dtypes()
    describe(rows, "")
    at = window.iloc[found.source]
    rows.attrs |= {
        "note": READ_AGAIN,
        "source_position_id": int(at.position_id),
        "score": found.score,
        "distance_bias": found.distance_bias,
        "closure": found.closure,
        "attention": float(found.attention[found.source]),
        "cap": found.cap,
    }
    return rows


def moved_frame(found: Moved, window: pd.DataFrame, target: Target) -> pd.DataFrame:
    """Convert a head's computed effect from one source to the DataFrame that `Store.moved` returns."""
    layer, neuron = np.indices(found.neurons.shape).reshape(2, -1)
    of_neurons = {"component": "neuron", "source_layer": layer, "source_neuron": neuron}
    rows = pd.concat(
        [
            pd.DataFrame(found.components, columns=["component", "source_layer", "source_head"]),
            pd.DataFrame(of_neurons),
        ],
        ignore_index=True,
    ).convert_dtypes()
    rows["effect"] = np.concatenate([found.values, found.neurons.ravel()])
    rows = _largest_first(rows)
    describe(rows, "")
    at = window.iloc[found.source]
    rows.attrs |= {
        "note": READ_AGAIN,
        "target": target.label,
        "source_position_id": int(at.position_id),
        "source_token": str(at.token),
        "attention": found.attention,
        "term": found.term,
        "closure": found.closure,
    }
    return rows


@dataclass(eq=False)
class ComputedLogit(Logit):
    """A logit, difference of logits or projection on a direction, with terms computed by the run's model."""

    target: Target
    terms: Terms
    window: pd.DataFrame
    architecture: Architecture
    _made: dict[Term, tuple[Term, ...]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.position_id = int(self.window.position_id.iloc[-1])
        self.toward, self.label, self.latex = self.target.label, self.target.label, self.target.latex
        self.formula, self.hint = self.target.formula, self.target.hint
        self.closure, self.scale, self.offset = self.terms.closure, self.terms.scale, self.terms.offset
        self.whole = Term("logit", self.terms.total)

    def sql(self, term: Term) -> str:
        return ""  # no query, because these terms are computed and not stored

    def terms_of(self, term: Term) -> tuple[Term, ...]:
        if term not in self._made:
            rows = getattr(self, f"_of_{term.component}")(term.layer, term.head)
            self._made[term] = tuple(Term(**row, architecture=self.architecture) for row in rows)
        return self._made[term]

    def _of_logit(self, layer: None, head: None) -> list[dict[str, Any]]:
        t = self.terms
        outer = [{"component": name, "value": value} for name, value in t.embedding.items()]
        layers = [
            {"component": "layer", "layer": i, "value": float(value)}
            for i, value in enumerate(t.attn + t.mlp)
        ]
        return [*outer, *layers, {"component": "final_bias", "value": t.final_bias}]

    def _of_layer(self, layer: int, head: None) -> list[dict[str, Any]]:
        t = self.terms
        return [
            {"component": name, "layer": layer, "value": float(values[layer])}
            for name, values in (("attn", t.attn), ("mlp", t.mlp))
        ]

    def _of_attn(self, layer: int, head: None) -> list[dict[str, Any]]:
        bias = {"component": "attn_bias", "layer": layer, "value": float(self.terms.attn_bias[layer])}
        return [
            {"component": "head", "layer": layer, "head": i, "value": value}
            for i, value in enumerate(self.terms.heads[layer].tolist())
        ] + [bias]

    def _of_mlp(self, layer: int, head: None) -> list[dict[str, Any]]:
        effects, activations = self.terms.neurons[layer], self.terms.activations[layer]
        order = np.argsort(-np.abs(effects), kind="stable").tolist()
        bias = {"component": "mlp_bias", "layer": layer, "value": float(self.terms.mlp_bias[layer])}
        return [
            {"component": "neuron", "layer": layer, "neuron": n, "value": float(effects[n])}
            | {"activation": float(activations[n])}
            for n in order
        ] + [bias]

    def _of_head(self, layer: int, head: int) -> list[dict[str, Any]]:
        effects, attention = self.terms.sources[layer, head], self.terms.attention[layer, head]
        return [
            {"component": "source", "layer": layer, "head": head, "value": float(effects[q])}
            | {"source_position_id": int(self.window.position_id.iloc[q]), "attention": float(attention[q])}
            | {"distance": self.position_id - int(self.window.position_id.iloc[q])}
            | {"source_token": str(self.window.token.iloc[q])}
            for q in np.argsort(-np.abs(effects), kind="stable").tolist()
        ]
