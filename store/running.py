"""The interface through which a store uses the models of its runs; `ingest.live` implements it.

The store itself does not import torch. A store that was opened without a `Runner` answers only from its rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Direction:
    """The direction u in the residual stream along which a prediction is decomposed.

    token_ids, minus_ids: u is the mean of the columns of `W_U` of `token_ids`, minus that of `minus_ids`
    vector: u itself, of shape (d_model,), instead of tokens; like a column of `W_U`, it is multiplied with
    the normalised residual stream; it has no bias
    is_logprob: u is the gradient of the log-probability of the one token of `token_ids`, so terms are
    first-order
    """

    token_ids: tuple[int, ...] = ()
    minus_ids: tuple[int, ...] = ()
    vector: Values | None = None
    is_logprob: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """The direction as a hashable key for caches; equal directions have equal keys."""
        vector = None if self.vector is None else self.vector.tobytes()
        return self.token_ids, self.minus_ids, vector, self.is_logprob


@dataclass(frozen=True, eq=False)
class Terms:
    """All terms of the prediction at one position along a direction, in logits and not rounded.

    total: the logit or difference of logits itself; scale: σ; offset: the mean logit over the vocabulary;
    embedding: the terms of the embeddings, by name of the component; final_bias: the term of b_U;
    attn_bias, mlp_bias: the terms of b_O and b_out, of shape (layer,);
    activations, neurons: activations and terms of all neurons, of shape (layer, neuron);
    attention, sources: attention and terms of all heads and sources, of shape (layer, head, source)
    """

    total: float
    scale: float
    offset: float
    embedding: dict[str, float]
    final_bias: float
    attn_bias: Values
    mlp_bias: Values
    activations: Values
    neurons: Values
    attention: Values
    sources: Values

    @property
    def heads(self) -> Values:
        """The terms of the heads, of shape (layer, head)."""
        return np.asarray(self.sources.sum(-1))

    @property
    def attn(self) -> Values:
        return np.asarray(self.heads.sum(-1) + self.attn_bias)

    @property
    def mlp(self) -> Values:
        return np.asarray(self.neurons.sum(-1) + self.mlp_bias)

    @property
    def closure(self) -> float:
        """The closure error: the sum of all terms minus the logit."""
        parts = [*self.embedding.values(), self.final_bias, self.attn.sum(), self.mlp.sum()]
        return float(sum(parts) - self.total)


class Part(NamedTuple):
    """A part of the model to ablate: one head or neuron, or all heads (attn) or neurons (mlp) of a layer."""

    component: str
    layer: int
    number: int | None = None


@dataclass(frozen=True)
class Ablation:
    """An intervention: the outputs of parts are replaced, and the rest of the model runs as usual.

    A head's output is z, without the value bias, which is part of b_O; a neuron's is its activation. The
    biases b_O and b_out stay.

    by: what replaces the outputs: `zero`; `mean`, the mean over all positions of `others`; `resample`, the
    values at a position of `others`, which is drawn at random for each draw and token and is the same for all
    parts;
    index: index in the window of the one token where outputs are replaced; None for all tokens;
    others: token ids of other windows of the run
    """

    parts: tuple[Part, ...]
    by: str = "zero"
    index: int | None = None
    others: tuple[tuple[int, ...], ...] = ()
    draws: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """The effect of an ablation on the prediction after a window's last token, along one direction.

    logit, ablated_logit: the centred logit (or difference) without and with the ablation;
    direct_effect: the direct effect of the outputs minus that of their replacements, with σ frozen; 0 if the
    outputs at the last token are not replaced;
    logprob, ablated_logprob, rank, ablated_rank: of the token; None unless the direction is one token;
    kl: Kullback-Leibler divergence of the ablated from the unchanged distribution, in nats;
    standard_error: of ablated_logit over several draws, or None. With several draws, ablated_logit,
    ablated_logprob, ablated_rank and kl are means over the draws.
    """

    logit: float
    ablated_logit: float
    direct_effect: float
    kl: float
    logprob: float | None = None
    ablated_logprob: float | None = None
    rank: int | None = None
    ablated_rank: float | None = None
    standard_error: float | None = None


class Component(NamedTuple):
    """A component that writes into the residual stream, or an input bias of a head or neuron, such as b_Q."""

    component: str
    layer: int | None = None
    head: int | None = None


@dataclass(frozen=True, eq=False)
class HeadScore:
    """An attention score before the softmax, as a sum over pairs of components.

    source: index of the source in the window;
    queries, keys: components that the query reads at the position, and that the key reads at the source;
    pairs: terms of the score, of shape (query component, key component);
    distance_bias: the term of ALiBi, or 0;
    score: the score itself, before the soft-cap; cap: the soft-cap, or None;
    attention, scores: attention probability and score of each source of the window
    """

    source: int
    queries: list[Component]
    keys: list[Component]
    pairs: Values
    distance_bias: float
    score: float
    attention: Values
    scores: Values
    cap: float | None

    @property
    def closure(self) -> float:
        """The closure error of the attention score: the sum of its terms minus the score, with its sign."""
        return float(self.pairs.sum()) + self.distance_bias - self.score


@dataclass(frozen=True, eq=False)
class Moved:
    """The direct effect of a head from one source, as a sum over the components that the head reads there.

    source: index of the source in the window; attention: attention probability; term: the term, in logits;
    components, values: components and their terms; neurons: terms of neurons, of shape (layer, neuron)
    """

    source: int
    attention: float
    term: float
    components: list[Component]
    values: Values
    neurons: Values

    @property
    def closure(self) -> float:
        """The closure error: the sum of the terms minus the head's direct effect from this source."""
        return float(self.values.sum() + self.neurons.sum()) - self.term


class LensTop(NamedTuple):
    """The most likely next tokens by each layer's residual stream, in arrays of shape (layer, token, rank).

    ids: token ids; logprobs: log-probabilities, in nats
    """

    ids: NDArray[np.int64]
    logprobs: Values


class Patterns(NamedTuple):
    """Attention patterns of all heads; the arrays have shape (layer, head, destination, source).

    attention: attention probabilities; toward_next: direct effects on the destination's next token, in logits
    """

    attention: Values
    toward_next: Values


@dataclass(frozen=True)
class Patching:
    """The activations that are copied from the forward pass of one prompt into that of another.

    kind: what is patched: at one position, `resid` (the input of a layer), `attn` (all heads of a layer),
    `mlp` (all neurons of a layer) or `head_position` (one head); or `head` (one head, at all positions);
    noising: put corrupted activations into the clean run, instead of the reverse;
    receiver: for path patching, (`q`, `k` or `v`, layer, head) or (`logits`, number of layers, 0)
    """

    kind: str = "head"
    noising: bool = False
    receiver: tuple[str, int, int] | None = None


class Patched(NamedTuple):
    """The logit (or difference of logits) after the prompt's last token, with one patch or with no patch.

    layer, head, place: what was patched; None stands for all, such as all heads, or for no patch
    """

    layer: int | None
    head: int | None
    place: int | None  # index of the patched token in the prompt; None for all tokens, or for no patch
    logit: float


class Piece(NamedTuple):
    """One of the tokens into which the tokenizer divides a text."""

    token_id: int
    text: str


class Runner(Protocol):
    """An object that can run the model of a store's run.

    In its methods, `about` is the run's row of the view `runs`. `tokens` are the token ids of a window up
    to and including the position that is asked about, with the BOS if the run has one.
    """

    def pieces(self, about: "pd.Series[Any]", text: str) -> list[Piece]:
        """Divide a text into tokens."""

    def terms(self, about: "pd.Series[Any]", tokens: Sequence[int], direction: Direction) -> Terms:
        """Decompose the prediction after the last token along a direction."""

    def likeliest(self, about: "pd.Series[Any]", tokens: Sequence[int], k: int) -> pd.DataFrame:
        """Return the k most likely next tokens: token_id, token, logit (centred) and probability."""

    def lens(self, about: "pd.Series[Any]", tokens: Sequence[int], last: int, k: int) -> LensTop:
        """Return the k most likely next tokens by each layer, at the last `last` tokens."""

    def patterns(
        self, about: "pd.Series[Any]", tokens: Sequence[int], last: int, next_ids: Sequence[int | None]
    ) -> Patterns:
        """Return the attention of all heads between the last `last` tokens, whose next tokens are given."""

    def ablate(
        self,
        about: "pd.Series[Any]",
        tokens: Sequence[int],
        ablations: Sequence[Ablation],
        direction: Direction,
    ) -> list[Outcome]:
        """Return the outcome of each ablation."""

    def head_score(
        self, about: "pd.Series[Any]", tokens: Sequence[int], layer: int, head: int, source: int | None
    ) -> HeadScore:
        """Decompose a head's attention score from the last token to `source`.

        If `source` is None, it is the source to which the head attends most.
        """

    def moved(
        self, about: "pd.Series[Any]", tokens: Sequence[int], layer: int, head: int, source: int | None,
        direction: Direction,
    ) -> Moved:  # fmt: skip
        """Decompose a head's direct effect at the last token from `source`.

        If `source` is None, it is the source to which the head attends most.
        """

    def patch(
        self,
        about: "pd.Series[Any]",
        clean: Sequence[int],
        corrupted: Sequence[int],
        direction: Direction,
        patching: Patching,
    ) -> list[Patched]:
        """Return the logits of the clean and the corrupted prompt, and then the logit with each patch."""

    def unit_values(
        self,
        about: "pd.Series[Any]",
        tokens: Sequence[int],
        places: Sequence[int],
        next_ids: Sequence[int | None],
    ) -> dict[str, NDArray[np.float32]]:
        """Return the values of all neurons and heads at some tokens of a window.

        `neuron`: activations, of shape (layer, place, neuron); `head`: direct effects on the next token, in
        logits, of shape (layer, place, head), NaN where the next token is None.

        places: indexes of the tokens in the window; next_ids: their next tokens
        """

    def prompt(self, about: "pd.Series[Any]", text: str) -> Path:
        """Annotate a prompt, and return the path of its store, which exists until the process ends."""
