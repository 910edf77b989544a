"""Which prompts of a head to hold out: about half of the active and of the inactive ones, by chance.

An explanation that has read a prompt knows what it says of a near-duplicate of it. So prompts are held
out by groups: two prompts are near-duplicates if the last half of the shorter one's tokens ends the
longer one too (so that one may be the end of the other), and a group is all that such pairs connect.
"""

from collections.abc import Iterable
from itertools import combinations

import numpy as np

Prompt = list[int]  # token ids, without a BOS: all prompts of a run have it or none
Counts = tuple[int, int]  # active and inactive prompts


def near_duplicates(one: Prompt, other: Prompt) -> bool:
    """
    >>> near_duplicates([4, 5], [3, 4, 5]), near_duplicates([1, 2, 3], [4, 2, 3])
    (True, True)
    >>> near_duplicates([1, 2, 3], [4, 5, 3])
    False
    """
    half = (min(len(one), len(other)) + 1) // 2
    return one[-half:] == other[-half:]


def groups_of(prompts: list[Prompt]) -> list[int]:
    """Of each prompt the first one of its group.

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
    """Which prompts to hold out, whole groups each: the same each time.

    No more than half of all. Of those ways that leave prompts of both kinds on both sides, if there are
    any, one with the numbers of active and of inactive prompts nearest to half of each, rounded down.
    """
    members = {group: [i for i, of in enumerate(groups) if of == group] for group in groups}
    order = np.random.default_rng(seed).permutation(list(members))
    sizes = {group: _counts(is_active, members[group]) for group in members}
    ways: dict[Counts, list[int]] = {(0, 0): []}  # the first one found with these numbers
    for group in order.tolist():
        for (active, inactive), chosen in list(ways.items()):
            more = active + sizes[group][0], inactive + sizes[group][1]
            ways.setdefault(more, [*chosen, group])
    best = min(ways, key=lambda held: _cost(held, _counts(is_active, range(len(is_active)))))
    return [group in ways[best] for group in groups]


def _counts(is_active: list[bool], prompts: Iterable[int]) -> Counts:
    """How many of these prompts are active, and how many are not."""
    kinds = [is_active[prompt] for prompt in prompts]
    return sum(kinds), len(kinds) - sum(kinds)


def _cost(held: Counts, of: Counts) -> tuple[bool, bool, int, Counts]:
    """The lower the better: more than half, a kind on one side only, how far from half of each."""
    one_sided = any(not 0 < some < every for some, every in zip(held, of, strict=True))
    far = sum(abs(some - every // 2) for some, every in zip(held, of, strict=True))
    return 2 * sum(held) > sum(of), one_sided, far, held
