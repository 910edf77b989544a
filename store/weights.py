"""The questions about a model's weights, which `annotate weights` has read."""

from typing import Any

import pandas as pd

from annotate_transformer.store.errors import (
    BadQuestion,
    NoSuchModel,
    NoSuchToken,
    NoWeights,
    one_of,
)
from annotate_transformer.store.names import parse
from annotate_transformer.store.queries import named
from annotate_transformer.store.question import Question
from annotate_transformer.store.session import Session
from annotate_transformer.store.units import Head, Neuron, Unit


class Weights:
    """The weights of a run's model or of any model: `at.open(…).weights()`. All answers are exact.

    run: the run whose corpus the weights are compared with; for a model, its last finished run or None
    model: the model's row of `models`
    """

    def __init__(self, session: Session, run: int | None, model: int | str | None) -> None:
        self.session = session
        if run is not None and model is not None:
            raise BadQuestion("Give a run or a model: they are two questions.")
        if run is not None:
            session.run(run)
        asked = None if model is None else str(model)
        found = session.sql(named("weights.sql")["model"], {"run": run, "model": asked})
        if len(found) != 1:
            raise self._none_or_several(asked, found)
        self.model = found.iloc[0]
        self.run = None if pd.isna(self.model.run_id) else int(self.model.run_id)
        if pd.isna(self.model.top):
            others = _listed(models_read(session))
            there = f" It has those of {others}: ask about that model." if others else ""
            raise NoWeights(
                f"{session.path} has no weights of {self.name} yet: {self._command} adds it.{there}"
            )

    @property
    def name(self) -> str:
        """The model's name, with its revision if it has one."""
        return str(self.model["name"])

    # Neurons

    def neuron_vocabulary(self, name: str) -> pd.DataFrame:
        """Return the tokens that a neuron promotes and suppresses: direction, rank, congruence.

        Congruence: ⟨W_out, W_U⟩, centred logits per unit of activation at σ = 1.

        Raises:
            NoSuchUnit: the model has no such neuron.
        """
        return self._of(Neuron, "neuron_vocabulary", name)

    def neuron_reads(self, name: str) -> pd.DataFrame:
        """Return the heads and neurons that a neuron reads most, by virtual weight; z: see `neuron_stats`."""
        return self._of(Neuron, "neuron_reads", name)

    def neuron_stats(self, name: str) -> pd.DataFrame:
        """Return one row: cosine of W_in and W_out, norms, bias, next-token.

        z: in std of the value over random directions."""
        return self._of(Neuron, "neuron_stats", name)

    def next_token_neurons(self, token: str | None = None, k: int = 20) -> pd.DataFrame:
        """Return the k neurons with this next-token, or the k of each layer with most congruence.

        Without a token, only next-tokens that begin with a space and are longer than two characters count
        (Neo, Cohen and Barez 2024, for the late layers).
        """
        if token is None:
            return self._ask("next_token_neurons", k=k)
        return self._ask("neurons_of_token", token_id=self._token_id(token), k=k)

    def erasing_neurons(self, k: int = 20) -> pd.DataFrame:
        """Return the k neurons with the lowest cosine of W_in and W_out: they erase their input."""
        return self._ask("erasing_neurons", k=k)

    # Heads

    def behaviour(self) -> pd.DataFrame:
        """Return each head's behaviour on the corpus, on repeated random tokens, and by its weights."""
        return self._ask("behaviour")

    def head_behaviour(self, name: str) -> pd.DataFrame:
        """Return the behaviour of one head, such as L1H2: rows for the corpus, random tokens and its weights.

        seen_in: `corpus`, `random`, `weights`; entropy in nats; the others are shares of attention.

        Raises:
            NoSuchUnit: the model has no such head.
        """
        return self._of(Head, "head_behaviour", name)

    def head_stats(self, name: str) -> pd.DataFrame:
        """Return one row: copying and matching by eigenvalues, copying by rank, norms of W_OV and W_QK.

        copying_z, matching_z: in std of the score over `draws` random rotations.
        """
        return self._of(Head, "head_stats", name)

    def head_vocabulary(self, name: str, k: int = 20) -> pd.DataFrame:
        """Return the k frequent tokens with the largest effects if a head attends to them (OV circuit).

        tokens: the five tokens that it promotes most; effect: on the first of them, in centred logits at
        attention 1 and final σ = 1.
        """
        return self._of(Head, "head_vocabulary", name, k=k)

    def head_pairs(self, name: str, k: int = 20) -> pd.DataFrame:
        """Return the k pairs of frequent tokens with most attention at a fixed distance (QK circuit)."""
        return self._of(Head, "head_pairs", name, k=k)

    def head_distances(self, name: str, k: int = 20) -> pd.DataFrame:
        """Return the k distances that a head attends to most, whatever the tokens."""
        return self._of(Head, "head_distances", name, k=k)

    def skip_trigrams(self, name: str, k: int = 20) -> pd.DataFrame:
        """Return a head's skip-trigrams, the strongest first: source … destination → output.

        places: positions of the run with this destination and this next token, and the source 2 to 16 tokens
        before in the window; mean_toward_next: the head's mean direct effect there, logits.
        """
        return self._of(Head, "skip_trigrams", name, k=k)

    def head_compositions(self, name: str, k: int = 20) -> pd.DataFrame:
        """Return the heads that a head reads, and those that read it, by z (see `compositions`)."""
        return self._of(Head, "head_compositions", name, k=k)

    def compositions(self, kind: str | None = None, k: int = 20) -> pd.DataFrame:
        """Return the k pairs of heads with the largest composition, relative to rotated weights.

        z: (score² − mean) / std over the rotations; baseline: the root mean square of the score over them;
        by_chance: how many of all pairs have a |z| this large by chance.
        kind: `Q`, `K` or `V` (Elhage et al. 2021); None is all of them.
        """
        if kind is not None:
            one_of("kind", kind, ("Q", "K", "V"))
        return self._ask("compositions", kind=kind, k=k)

    # The direct path and the corpus

    def direct_path(self, token: str, k: int = 20) -> pd.DataFrame:
        """Return the next tokens that a token's embedding alone predicts, and those in the run.

        The top k of each: rank and logprob (nats) are NULL for tokens outside the kept list of the direct
        path; corpus_rank, count and share for tokens that never follow in the corpus.

        Raises:
            NoSuchToken: no token is exactly that.
        """
        return self._ask("direct_path", token_id=self._token_id(token), k=k)

    def bigram_agreement(self, k: int = 100, token: str | None = None) -> pd.DataFrame:
        """Return the agreement of the direct path with the run's bigrams, for its k most frequent tokens.

        token: only for this token; no row if it is never followed by a token in the run.
        """
        if token is not None:
            return self._ask("bigram_agreement", k=1, token_id=self._token_id(token))
        return self._of_run("bigram_agreement", k=k, token_id=None)

    def bigram_summary(self) -> pd.DataFrame:
        """Return the agreement over the whole run in one row, with its shuffled baseline."""
        return self._of_run("bigram_summary")

    def bigram_distances(self) -> pd.DataFrame:
        """Return the similarity of input and output embeddings by the occurrences of the bigram; 0: never."""
        return self._of_run("bigram_distances")

    # How it is asked

    def _ask(self, query: str, **parameters: Any) -> pd.DataFrame:
        known = {"model_id": int(self.model.model_id)} | parameters
        return Question(self.session, named("weights.sql")[query], self.run, known).ask()

    def _of(self, kind: type[Unit], query: str, name: str, **parameters: Any) -> pd.DataFrame:
        letter, layer, number = parse(name)
        kind.check(self.model, letter, layer, number)
        return self._ask(query, layer=layer, **{kind.kind: number}, **parameters)

    def _of_run(self, query: str, **parameters: Any) -> pd.DataFrame:
        found = self._ask(query, **parameters)
        if found.empty:
            whose = "a finished run" if self.run is None else f"run {self.run}"
            raise NoWeights(
                f"{self.session.path} has no comparison of the bigrams of {whose} with the direct path. "
                f"{self._command} adds it once the run is finished."
            )
        return found

    def _none_or_several(self, asked: str | None, found: pd.DataFrame) -> NoWeights | NoSuchModel:
        path = self.session.path
        if asked is None:
            return NoWeights(
                f"{path} has no weights of any model yet. "
                f"`annotate weights --model NAME --db {path}` adds it."
            )
        if len(found):
            return NoSuchModel(
                f"{asked!r} names several models of {path}: {_listed(found)}. Give one's number."
            )
        return NoSuchModel(
            f"{path} has no model {asked!r}; it has {_listed(_models(self.session)) or 'none'}."
        )

    @property
    def _command(self) -> str:
        """The command that reads the weights."""
        revision = "" if pd.isna(self.model.revision) else f" --revision {self.model.revision}"
        return f"`annotate weights --model {self.model.model}{revision} --db {self.session.path}`"

    def _token_id(self, token: str) -> int:
        found = self._ask("token_id", text=token)
        if len(found):
            return int(found.token_id[0])
        nearest = ", ".join(map(repr, self._ask("tokens_like", text=token).token))
        hint = f"There are {nearest}." if nearest else "It may be several tokens: ask about one of them."
        raise NoSuchToken(f"No token is exactly {token!r}. {hint}")


def models_read(session: Session) -> pd.DataFrame:
    """Return the models whose weights were read, a row each, the one read last at the end."""
    found = _models(session)
    return found[found.is_read].reset_index(drop=True)


def _models(session: Session) -> pd.DataFrame:
    return Question(session, named("weights.sql")["models"]).ask()


def _listed(models: pd.DataFrame) -> str:
    """Return the models' numbers with their names."""
    return ", ".join(f"{row.model_id} ({row.name})" for row in models.itertuples(index=False))
