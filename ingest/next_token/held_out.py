"""Choose at random which prompts of a head to hold out: about half of the active and half of the inactive.

Near-duplicates must not be on both sides of the split, so whole groups are held out. Two prompts are
near-duplicates if both end with the last half of the shorter one's tokens; a group contains all prompts
that chains of near-duplicates connect.
"""

from collections.abc import Iterable
from itertools import combinations

import numpy as np

Prompt = list[int]  # token ids without the BOS, which is the same in all prompts of a run
Counts = tuple[int, int]  # (number of active prompts, number of inactive prompts)


def near_duplicates(one: Prompt, other: Prompt) -> bool:
    """Return whether the prompts end in the same tokens, compared over half the length of the shorter one.

    >>> near_duplicates([4, 5], [3, 4, 5]), near_duplicates([1, 2, 3], [4, 2, 3])
    (True, True)
    >>> near_duplicates([1, 2, 3], [4, 5, 3])
    False
    """
    half = (min(len(one), len(other)) + 1) // 2
    return one[-half:] == other[-half:]


def groups_of(prompts: list[Prompt]) -> list[int]:
    """Group near-duplicate prompts; return for each prompt the index of the first prompt of its group.

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
    """Draw which prompts are held out, but split no group of near-duplicates; return one bool per prompt.

    At most half of all prompts are held out. If possible, both sides of the split have active and inactive
    prompts. Among such splits, the numbers of held-out active and of held-out inactive prompts are as near as
    possible to half of the active and half of the inactive prompts, rounded down. The draw depends only on
    `seed`.
    """
    members = {group: [i for i, of in enumerate(groups) if of == group] for group in groups}
    order = np.random.default_rng(seed).permutation(list(members))
    sizes = {group: _counts(is_active, members[group]) for group in members}
    # `ways` maps each pair (number of active prompts, number of inactive prompts) that can be held out to a
    # list of groups that together have these numbers of prompts.
    ways: dict[Counts, list[int]] = {(0, 0): []}
    for group in order.tolist():
        for (active, inactive), chosen in list(ways.items()):
            more = active + sizes[group][0], inactive + sizes[group][1]
            ways.setdefault(more, [*chosen, group])
    best = min(ways, key=lambda held: _cost(held, _counts(is_active, range(len(is_active)))))
    return [group in ways[best] for group in groups]


def _counts(is_active: list[bool], prompts: Iterable[int]) -> Counts:
    """Return the number of active and the number of inactive prompts among `prompts`."""
    kinds = [is_active[prompt] for prompt in prompts]
    return sum(kinds), len(kinds) - sum(kinds)


def _cost(held: Counts, of: Counts) -> tuple[bool, bool, int, Counts]:
    """Return the sort key of a split; the best split has the smallest key.

    The key has, in this order: whether more than half of the prompts are held out; whether all active or all
    inactive prompts are on one side; the distance of the held-out counts from half; the held-out counts.
    """
    one_sided = any(not 0 < some < every for some, every in zip(held, of, strict=True))
    far = sum(abs(some - every // 2) for some, every in zip(held, of, strict=True))
    return 2 * sum(held) > sum(of), one_sided, far, held
