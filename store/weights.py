"""The class `Weights`: queries about the weights of a model, which `annotate weights` has read."""

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
    """Queries about the weights of a model: `at.open(…).weights()`. All answers are exact.

    run: the run with whose corpus the weights are compared; None if the model has no finished run
    model: the model's row of `models`
    """

    def __init__(self, session: Session, run: int | None, model: int | str | None) -> None:
        self.session = session
        if run is not None and model is not None:
            raise BadQuestion("Give either a run or a model, not both.")
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
        """Return the tokens that a neuron promotes and suppresses most, with rank and congruence.

        The column direction is `promotes` or `suppresses`.
        The congruence is ⟨W_out, W_U⟩, in centred logits per unit of activation at σ = 1.

        Raises:
            NoSuchUnit: the model has no such neuron.
        """
        return self._of(Neuron, "neuron_vocabulary", name)

    def neuron_reads(self, name: str) -> pd.DataFrame:
        """Return the heads and neurons with the largest virtual weights to a neuron, with z-scores."""
        return self._of(Neuron, "neuron_reads", name)

    def neuron_stats(self, name: str) -> pd.DataFrame:
        """Return one row about a neuron: cosine between W_in and W_out, norms, bias, most promoted token.

        Columns named …_z: z-score of the value under its null distribution, from random directions."""
        return self._of(Neuron, "neuron_stats", name)

    def next_token_neurons(self, token: str | None = None, k: int = 20) -> pd.DataFrame:
        """Return the neurons with the highest congruence with a token: k per layer, or k in all for `token`.

        A neuron's next-token is the token with which it has its highest congruence. Without `token`, only
        next-tokens that begin with a space and are longer than two characters count (Neo, Cohen and Barez
        2024, for the late layers).
        """
        if token is None:
            return self._ask("next_token_neurons", k=k)
        return self._ask("neurons_of_token", token_id=self._token_id(token), k=k)

    def erasing_neurons(self, k: int = 20) -> pd.DataFrame:
        """Return the k neurons that most erase what they read, by the lowest cosine of W_in and W_out."""
        return self._ask("erasing_neurons", k=k)

    # Heads

    def behaviour(self) -> pd.DataFrame:
        """Return each head's attention behaviour: on the corpus, on random tokens, and by its weights."""
        return self._ask("behaviour")

    def head_behaviour(self, name: str) -> pd.DataFrame:
        """Return a head's attention behaviour in three rows: on the corpus, on random tokens, by its weights.

        seen_in: `corpus`, `random`, `weights`; entropy is in nats, the other columns are attention.

        Raises:
            NoSuchUnit: the model has no such head.
        """
        return self._of(Head, "head_behaviour", name)

    def head_stats(self, name: str) -> pd.DataFrame:
        """Return one row about a head: copying and matching scores, copying rank, norms of W_OV and W_QK.

        copying_z, matching_z: z-scores of the scores under `draws` random rotations.
        """
        return self._of(Head, "head_stats", name)

    def head_vocabulary(self, name: str, k: int = 20) -> pd.DataFrame:
        """Return the k frequent tokens that have the largest effect when a head attends to them (OV circuit).

        tokens: the five tokens that the head then promotes most; effect: the effect on the first of these
        tokens, in centred logits at attention 1 and final σ = 1.
        """
        return self._of(Head, "head_vocabulary", name, k=k)

    def head_pairs(self, name: str, k: int = 20) -> pd.DataFrame:
        """Return the k pairs of frequent tokens with most attention at a fixed distance (QK circuit)."""
        return self._of(Head, "head_pairs", name, k=k)

    def head_distances(self, name: str, k: int = 20) -> pd.DataFrame:
        """Return the k distances at which a head attends most, regardless of the tokens."""
        return self._of(Head, "head_distances", name, k=k)

    def skip_trigrams(self, name: str, k: int = 20) -> pd.DataFrame:
        """Return a head's skip-trigrams (source … destination → output), the strongest first.

        places: number of positions of the run with this destination and next token, and the source 2 to 16
        tokens before in the window; mean_toward_next: the head's mean direct effect there, in logits.
        """
        return self._of(Head, "skip_trigrams", name, k=k)

    def head_compositions(self, name: str, k: int = 20) -> pd.DataFrame:
        """Return the heads that a head reads and the heads that read it, by z-score of the composition."""
        return self._of(Head, "head_compositions", name, k=k)

    def compositions(self, kind: str | None = None, k: int = 20) -> pd.DataFrame:
        """Return the k pairs of heads with the most significant composition scores (largest z).

        z: (score² − mean) / std over the rotations; baseline: the root mean square of the score over the
        rotations; by_chance: the expected number of pairs, among all, that have a |z| this large by chance.
        kind: `Q`, `K` or `V` (Elhage et al. 2021); None is all of them.
        """
        if kind is not None:
            one_of("kind", kind, ("Q", "K", "V"))
        return self._ask("compositions", kind=kind, k=k)

    # The methods below are about the direct path, from the embedding W_E straight to the unembedding W_U, and
    # compare what it predicts with the corpus.

    def direct_path(self, token: str, k: int = 20) -> pd.DataFrame:
        """Return the k next tokens that the direct path (W_E, W_U) predicts, and the k most frequent ones.

        rank and logprob (nats) are NULL for tokens that are not in the stored list of the direct path;
        corpus_rank, count and share are NULL for tokens that never come next in the corpus.

        Raises:
            NoSuchToken: no token has exactly this text.
        """
        return self._ask("direct_path", token_id=self._token_id(token), k=k)

    def bigram_agreement(self, k: int = 100, token: str | None = None) -> pd.DataFrame:
        """Return how well the direct path (W_E, W_U) predicts bigrams, for the run's k most frequent tokens.

        token: return only this token's row; the answer is empty if no token ever follows it in the run.
        """
        if token is not None:
            return self._ask("bigram_agreement", k=1, token_id=self._token_id(token))
        return self._of_run("bigram_agreement", k=k, token_id=None)

    def bigram_summary(self) -> pd.DataFrame:
        """Return one row: how well the direct path (W_E, W_U) predicts the run's bigrams, with a baseline."""
        return self._of_run("bigram_summary")

    def bigram_distances(self) -> pd.DataFrame:
        """Return the similarity of a bigram's first token (W_E) and second token (W_U), by bigram count.

        min_count, max_count: the range of bigram counts of a row; 0: bigrams that do not occur.
        """
        return self._of_run("bigram_distances")

    # The private methods below run the queries of weights.sql for the public methods.

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
        """The command `annotate weights …` that reads this model's weights, for a message."""
        revision = "" if pd.isna(self.model.revision) else f" --revision {self.model.revision}"
        return f"`annotate weights --model {self.model.model}{revision} --db {self.session.path}`"

    def tokens_like(self, token: str) -> list[str]:
        """Return the other tokens of the vocabulary that differ from `token` only in spaces and case."""
        return [found for found in self._ask("tokens_like", text=token).token if found != token]

    def _token_id(self, token: str) -> int:
        found = self._ask("token_id", text=token)
        if len(found):
            return int(found.token_id[0])
        nearest = ", ".join(map(repr, self.tokens_like(token)))
        several = "The text may be several tokens: ask about one of them."
        hint = f"There are {nearest}." if nearest else several
        raise NoSuchToken(f"No token is exactly {token!r}. {hint}")


def models_read(session: Session) -> pd.DataFrame:
    """Return the models whose weights were read: one row per model, sorted by model_id."""
    found = _models(session)
    return found[found.is_read].reset_index(drop=True)


def _models(session: Session) -> pd.DataFrame:
    return Question(session, named("weights.sql")["models"]).ask()


def _listed(models: pd.DataFrame) -> str:
    """Return the models' ids with their names, as a list for a message."""
    return ", ".join(f"{row.model_id} ({row.name})" for row in models.itertuples(index=False))
