"""Explain, without a language model, when a head is active: learn a decision list over tokens.

The features of a prompt are its n-grams of tokens: anywhere, at the beginning, and at the end. Rules
"active (or inactive) if it has …" are learned one after another (Rivest 1987, Clark and Niblett 1989). Each
new rule has the highest precision, by Laplace's estimate (right + 1) / (all + 2), on the prompts that no
earlier rule decides; of equally precise rules, the shortest one is taken. Learning ends when no rule is more
precise than the majority class. Rules that fit only one prompt are not considered.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

NGRAM = 3  # maximum number of tokens in an n-gram
RULES = 5  # maximum number of rules in a decision list

Tokens = list[str]


@dataclass(frozen=True)
class DecisionList:
    """A list of rules; the first rule whose feature is in the prompt decides whether the head is active."""

    rules: list[tuple[str, bool]]
    otherwise: bool

    def __call__(self, prompt: Tokens) -> bool:
        """Return whether the head is predicted to be active on this prompt."""
        there = set(features(prompt))
        return next((active for feature, active in self.rules if feature in there), self.otherwise)

    def __str__(self) -> str:
        """Return the rules as one sentence.

        >>> print(DecisionList([("has ' keep'", True), ("ends in '.'", False)], True))
        active if it has ' keep'; else inactive if it ends in '.'; else active
        """
        rules = [f"{_word(active)} if it {feature}" for feature, active in self.rules]
        return "; else ".join([*rules, _word(self.otherwise)])


def features(prompt: Tokens) -> Iterator[str]:
    """Yield a prompt's features: n-grams that it has anywhere, at its beginning, and at its end.

    >>> list(features([" in", " it"]))[:3], len(list(features([" in", " it"])))
    (["has ' in'", "begins with ' in'", "has ' it'"], 7)
    """
    for size in range(1, NGRAM + 1):
        for start in range(len(prompt) - size + 1):
            ngram = repr("".join(prompt[start : start + size]))
            yield f"has {ngram}"
            if start == 0:
                yield f"begins with {ngram}"
            if start + size == len(prompt):
                yield f"ends in {ngram}"


def learn(prompts: list[Tokens], is_active: list[bool]) -> DecisionList:
    """Learn the rules that separate active from inactive prompts; the result is deterministic."""
    vectorizer = CountVectorizer(analyzer=features, binary=True)
    has = vectorizer.fit_transform(prompts).toarray().astype(bool)  # entry i, j: is feature j in prompt i?
    names = vectorizer.get_feature_names_out()
    shortest_first = sorted(range(len(names)), key=lambda i: (len(names[i]), names[i]))
    has, names = has[:, shortest_first], names[shortest_first]
    kinds = np.stack([np.array(is_active), ~np.array(is_active)])  # row 0: active prompts; row 1: inactive
    rules: list[tuple[str, bool]] = []
    while True:
        of_all = _sure(kinds.sum(1))  # the precisions of predicting all as active, and all as inactive
        otherwise = bool(of_all[0] > of_all[1])
        fits = kinds.astype(int) @ has  # entry i, j: number of undecided prompts of kind i with feature j
        of_rule = np.where(fits.sum(0) > 1, _sure(fits), 0)
        kind, feature = np.unravel_index(of_rule.argmax(), of_rule.shape)
        if len(rules) == RULES or of_rule[kind, feature] <= of_all.max():
            break
        rules.append((str(names[feature]), bool(kind == 0)))
        kinds = kinds & ~has[:, feature]
    while rules and rules[-1][1] == otherwise:  # the last rule is not needed if it predicts the default
        rules.pop()
    return DecisionList(rules, otherwise)


def _sure(right: np.ndarray) -> np.ndarray:
    """Return the precision of two predictions, active and inactive, estimated as (right + 1) / (all + 2).

    `right`: number of prompts for which the prediction is right. It has the shape (kind, …), as the result.
    """
    sure: np.ndarray = (right + 1) / (right.sum(0) + 2)
    return sure


def _word(active: bool) -> str:
    return "active" if active else "inactive"
