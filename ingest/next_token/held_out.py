"""Choose at random which prompts of a head to hold out: about half of the active and of the inactive ones.

Near-duplicates must not be on both sides, so whole groups of them are held out. Two prompts are
near-duplicates if both end with the last half of the shorter one's tokens; a group contains all prompts
that chains of near-duplicates connect.
"""

from collections.abc import Iterable
from itertools import combinations

import numpy as np

Prompt = list[int]  # token ids without the BOS, which all prompts of a run have or none has
Counts = tuple[int, int]  # numbers of active and of inactive prompts


def near_duplicates(one: Prompt, other: Prompt) -> bool:
    """Return whether both prompts end with the last half of the shorter one's tokens.

    >>> near_duplicates([4, 5], [3, 4, 5]), near_duplicates([1, 2, 3], [4, 2, 3])
    (True, True)
    >>> near_duplicates([1, 2, 3], [4, 5, 3])
    False
    """
    half = (min(len(one), len(other)) + 1) // 2
    return one[-half:] == other[-half:]


def groups_of(prompts: list[Prompt]) -> list[int]:
    """Return for each prompt the index of the first prompt of its group.

    >>> groups_of([[1, 2, 3], [7, 8], [4, 2, 3], [5, 8, 7]])
    [0, 1, 0, 3]
    """
    group = list(range(len(prompts)))
    for i, j in combinations(range(len(prompts)), 2):
        if group[i] != group[j] and near_duplicates(prompts[i], prompts[j]):
            joined = {group[i], group[j]}
            group = [min(joined) if each in joined else each for each in group]
    return group


def held_out(is_active: list[bool], groups: list[int], seed: list[int]) -> list[bool]:
    """Return for each prompt whether it is held out; no group of prompts is split. The draw is seeded.

    At most half of all prompts are held out. If possible, both sides have active and inactive prompts; among
    such choices the numbers of both kinds are as near as possible to half of each, rounded down.
    """
    members = {group: [i for i, of in enumerate(groups) if of == group] for group in groups}
    order = np.random.default_rng(seed).permutation(list(members))
    sizes = {group: _counts(is_active, members[group]) for group in members}
    ways: dict[Counts, list[int]] = {(0, 0): []}  # numbers held out → the first choice of groups found
    for group in order.tolist():
        for (active, inactive), chosen in list(ways.items()):
            more = active + sizes[group][0], inactive + sizes[group][1]
            ways.setdefault(more, [*chosen, group])
    best = min(ways, key=lambda held: _cost(held, _counts(is_active, range(len(is_active)))))
    return [group in ways[best] for group in groups]


def _counts(is_active: list[bool], prompts: Iterable[int]) -> Counts:
    """Count the active and the inactive prompts among these."""
    kinds = [is_active[prompt] for prompt in prompts]
    return sum(kinds), len(kinds) - sum(kinds)


def _cost(held: Counts, of: Counts) -> tuple[bool, bool, int, Counts]:
    """Return a key to minimise: more than half held out, a kind on one side only, distance from half."""
    one_sided = any(not 0 < some < every for some, every in zip(held, of, strict=True))
    far = sum(abs(some - every // 2) for some, every in zip(held, of, strict=True))
    return 2 * sum(held) > sum(of), one_sided, far, held
