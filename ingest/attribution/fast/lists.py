"""Compiled loops that keep the k largest values, in one list or in many lists."""

from annotate_transformer.ingest.attribution.fast.bits import Codes, Floats, Ints, compiled


@compiled
def insert(keys: Codes, ids: Codes, key: int, identity: int) -> None:
    """Insert a key into a descending list, behind all equal keys, and drop the last entry of the list."""
    j = len(keys) - 1
    while j > 0 and keys[j - 1] < key:
        keys[j] = keys[j - 1]
        ids[j] = ids[j - 1]
        j -= 1
    keys[j] = key
    ids[j] = identity


@compiled
def insert_into_lists(
    lists: Ints, values: Floats, positions: Ints,
    count: Ints, list_value: Floats, list_position: Ints, threshold: Floats,
) -> None:  # fmt: skip
    """Insert values into sorted lists of the k largest values; equal values are ordered by position.

    `lists`, `values`, `positions`: for each value, the index of its list, the value and its position;
    `count`, of shape (lists,): number of entries in each list;
    `list_value`, `list_position`, of shape (lists, k): the entries of each list;
    `threshold`, of shape (lists,): the last value of each full list.
    """
    k = list_value.shape[1]
    for i in range(len(lists)):
        x, position, a = values[i], positions[i], lists[i]
        held, at = list_value[a], list_position[a]
        j = min(count[a], k - 1)
        if count[a] == k and not (x > held[j] or (x == held[j] and position < at[j])):
            continue
        while j > 0 and (x > held[j - 1] or (x == held[j - 1] and position < at[j - 1])):
            held[j] = held[j - 1]
            at[j] = at[j - 1]
            j -= 1
        held[j], at[j] = x, position
        count[a] = min(count[a] + 1, k)
        if count[a] == k:
            threshold[a] = held[k - 1]
