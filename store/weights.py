"""What a model's weights say, as far as `annotate weights` has stored it."""

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
    """The weights of a run's model, or of any: `at.open(…).weights()`. All answers are exact.

    run: the one whose corpus is held against them: of a model its last finished one, None where there is
    none; model: its row of `models`.
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
                f"{session.path} has nothing of the weights of {self.name} yet: "
                f"{self._command} adds it.{there}"
            )

    @property
    def name(self) -> str:
        """The model's, with its revision if it has one."""
        return str(self.model["name"])

    # Neurons

    def neuron_vocabulary(self, name: str) -> pd.DataFrame:
        """The tokens a neuron, such as L3N7, writes towards and against: direction, rank, congruence.

        Congruence: ⟨W_out, W_U⟩, centred logits per unit of activation at σ = 1.

        Raises:
            NoSuchUnit: the model has no neuron of that name.
        """
        return self._of(Neuron, "neuron_vocabulary", name)

    def neuron_reads(self, name: str) -> pd.DataFrame:
        """The heads and earlier neurons that a neuron can read most, by virtual weight; z: beside chance."""
        return self._of(Neuron, "neuron_reads", name)

    def neuron_stats(self, name: str) -> pd.DataFrame:
        """One row: cosine between what it reads and writes, norms, bias, next-token; z: beside chance."""
        return self._of(Neuron, "neuron_stats", name)

    def next_token_neurons(self, token: str | None = None, k: int = 20) -> pd.DataFrame:
        """The k neurons whose next-token a token is; without one, of each layer the k of most congruence.

        Then only next-tokens that begin with a space and are longer than two characters count (Neo,
        Cohen and Barez 2024, who look at the late layers).
        """
        if token is None:
            return self._ask("next_token_neurons", k=k)
        return self._ask("neurons_of_token", token_id=self._token_id(token), k=k)

    def erasing_neurons(self, k: int = 20) -> pd.DataFrame:
        """The k neurons whose output lies most against what they read: lowest cosine of W_in and W_out."""
        return self._ask("erasing_neurons", k=k)

    # Heads

    def behaviour(self) -> pd.DataFrame:
        """What each head does on the run's corpus and on repeated random tokens, and what its weights say."""
        return self._ask("behaviour")

    def head_behaviour(self, name: str) -> pd.DataFrame:
        """The same of one head, such as L1H2: a row each for the corpus, random tokens and its weights.

        seen_in: `corpus`, `random`, `weights`; entropy of the attention in nats, the others shares of it.

        Raises:
            NoSuchUnit: the model has no head of that name.
        """
        return self._of(Head, "head_behaviour", name)

    def head_stats(self, name: str) -> pd.DataFrame:
        """One row: copying and matching by eigenvalues, copying by rank, norms of W_OV and W_QK.

        copying_z, matching_z: in std of the score under `draws` random rotations.
        """
        return self._of(Head, "head_stats", name)

    def head_vocabulary(self, name: str, k: int = 20) -> pd.DataFrame:
        """The k frequent tokens for which a head writes most if it attends to them (OV circuit).

        tokens: the first five that it then raises; effect: of the first, in centred logits at
        attention 1 and final σ = 1.
        """
        return self._of(Head, "head_vocabulary", name, k=k)

    def head_pairs(self, name: str, k: int = 20) -> pd.DataFrame:
        """From which token a head would look at which, so far before, among frequent ones (QK circuit)."""
        return self._of(Head, "head_pairs", name, k=k)

    def head_distances(self, name: str, k: int = 20) -> pd.DataFrame:
        """How far back a head would look whatever stands there, the k distances of most attention first."""
        return self._of(Head, "head_distances", name, k=k)

    def skip_trigrams(self, name: str, k: int = 20) -> pd.DataFrame:
        """A head's source … destination → output (Elhage et al. 2021), the strongest first.

        places: positions of the run where the destination stands, the output follows and the source stood
        2 to 16 tokens before, in the window; mean_toward_next: the head's mean direct effect there, logits.
        """
        return self._of(Head, "skip_trigrams", name, k=k)

    def head_compositions(self, name: str, k: int = 20) -> pd.DataFrame:
        """The heads that a head reads and those that read it, the largest z first (`compositions`)."""
        return self._of(Head, "head_compositions", name, k=k)

    def compositions(self, kind: str | None = None, k: int = 20) -> pd.DataFrame:
        """The k pairs of heads of which the later reads the earlier most, beside randomly rotated weights.

        z: score² in std of that null, less its mean; baseline: the score's root mean square there; by_chance:
        how many of all pairs have a |z| this large by chance.
        kind: `Q`, `K` or `V` (Elhage et al. 2021); None is all of them.
        """
        if kind is not None:
            one_of("kind", kind, ("Q", "K", "V"))
        return self._ask("compositions", kind=kind, k=k)

    # The direct path and the corpus

    def direct_path(self, token: str, k: int = 20) -> pd.DataFrame:
        """What the embedding of a token alone puts after it, beside what follows it in the run.

        The first k of either: rank and logprob (nats) are NULL where the direct path's kept list has it not,
        corpus_rank, count and share where the corpus has it not.

        Raises:
            NoSuchToken: no token is exactly that.
        """
        return self._ask("direct_path", token_id=self._token_id(token), k=k)

    def bigram_agreement(self, k: int = 100, token: str | None = None) -> pd.DataFrame:
        """How far the direct path gives what follows a token, for the run's k most frequent tokens.

        token: for that one alone; no row where nothing follows it in the run.
        """
        if token is not None:
            return self._ask("bigram_agreement", k=1, token_id=self._token_id(token))
        return self._of_run("bigram_agreement", k=k, token_id=None)

    def bigram_summary(self) -> pd.DataFrame:
        """One row: the same over the whole run, beside its shuffled baseline."""
        return self._of_run("bigram_summary")

    def bigram_distances(self) -> pd.DataFrame:
        """How near input and output vectors are, by how often the bigram occurs; 0: that do not."""
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
                f"{self.session.path} has no bigrams of {whose} beside the direct path. {self._command} adds "
                "them once the run is finished."
            )
        return found

    def _none_or_several(self, asked: str | None, found: pd.DataFrame) -> NoWeights | NoSuchModel:
        path = self.session.path
        if asked is None:
            return NoWeights(
                f"{path} has nothing of any model's weights yet. "
                f"`annotate weights --model NAME --db {path}` adds it."
            )
        if len(found):
            return NoSuchModel(f"{asked!r} is several models of {path}: {_listed(found)}. Give one's number.")
        return NoSuchModel(
            f"{path} has no model {asked!r}; it has {_listed(_models(self.session)) or 'none'}."
        )

    @property
    def _command(self) -> str:
        """What adds what is not there."""
        revision = "" if pd.isna(self.model.revision) else f" --revision {self.model.revision}"
        return f"`annotate weights --model {self.model.model}{revision} --db {self.session.path}`"

    def _token_id(self, token: str) -> int:
        found = self._ask("token_id", text=token)
        if len(found):
            return int(found.token_id[0])
        nearest = ", ".join(map(repr, self._ask("tokens_like", text=token).token))
        hint = f"There are {nearest}." if nearest else "It may be of several tokens: ask about one of them."
        raise NoSuchToken(f"No token is exactly {token!r}. {hint}")


def models_read(session: Session) -> pd.DataFrame:
    """Return the models whose weights were read, a row each, the one read last at the end."""
    found = _models(session)
    return found[found.is_read].reset_index(drop=True)


def _models(session: Session) -> pd.DataFrame:
    return Question(session, named("weights.sql")["models"]).ask()


def _listed(models: pd.DataFrame) -> str:
    """Their numbers, with their names."""
    return ", ".join(f"{row.model_id} ({row.name})" for row in models.itertuples(index=False))
