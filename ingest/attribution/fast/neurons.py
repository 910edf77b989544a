"""Compiled loops over a layer's neurons: effects, strongest neurons, sums, and candidates for top lists."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotate_transformer.ingest.attribution.fast.bits import (
    BLOCK,
    NEGATIVE_ZERO,
    OCTAVE,
    SIZE,
    Codes,
    Floats,
    Ints,
    compiled,
)
from annotate_transformer.ingest.attribution.fast.lists import insert
from annotate_transformer.ingest.attribution.steps import A_SQUARE, A_VALUE


@compiled
def strongest_of_row(row: Codes, keys: Codes, ids: Codes) -> None:
    """Write the largest absolute values of a row into `keys`, descending, and their indices into `ids`.

    Values and keys are float32 read as int32 (`attribution.fast.bits`).
    """
    last = len(keys) - 1
    # To save time, skip all values up to a threshold: half of the smallest value in `keys`, which still holds
    # the largest values of the previous row. If fewer values of this row exceed the threshold than `keys` has
    # room for, scan the row again without a threshold.
    floor = max(np.int32(-1), np.int32(keys[last] - OCTAVE))
    while True:
        keys[:] = -1
        least = floor
        for start in range(0, len(row), BLOCK):
            stop = min(start + BLOCK, len(row))
            largest = np.int32(0)
            for u in range(start, stop):
                largest = max(largest, np.int32(row[u] & SIZE))
            if largest > least:
                for u in range(start, stop):
                    key = np.int32(row[u] & SIZE)
                    if key > least:
                        insert(keys, ids, key, u)
                        least = max(floor, keys[last])
        if keys[last] >= 0 or floor < 0:
            return
        floor = np.int32(-1)


@compiled
def _union(ids: Codes, k: int, kept: Codes) -> int:
    """Write the distinct ids in the first k columns of `ids` into `kept`, ascending; return their count."""
    n = 0
    for side in range(len(ids)):
        for i in range(k):
            x, j = ids[side, i], n
            while j > 0 and kept[j - 1] > x:
                j -= 1
            if j > 0 and kept[j - 1] == x:
                continue
            for m in range(n, j, -1):
                kept[m] = kept[m - 1]
            kept[j] = x
            n += 1
    return n


@compiled
def neuron_terms(
    post: Floats, W_out_u: Floats, index: Ints, scale: Floats, following: NDArray[np.bool_], k: int
) -> tuple[Any, ...]:
    """Return each position's total neuron effects on next token and top prediction, and strongest neurons.

    `post`, of shape (P, U): activations of U neurons at P positions;
    `W_out_u`, of shape (target, U): inner products of W_out with each target's column;
    `index`, of shape (2, P): the targets of each position;
    `scale`, of shape (P,): what the effects are divided by;
    `following`, of shape (P,): whether the sums per neuron include the position;
    `k`: number of neurons kept per position by |activation|, and by |effect| on each target (all if k ≥ U).
    Returns `total` and `total_abs`, the sums of effect and |effect| over neurons, of shape (2, P);
    `bounds`, the largest |activation| and |effect| of a neuron that is not kept, of shape (3, P);
    position, neuron, activation and effects of the kept neurons, with the effects of shape (2, rows);
    and the sums of each neuron's effect and |effect| on the next token over positions, of shape (U,).
    """
    P, U = post.shape
    every = k >= U
    room = U if every else min(U, 3 * k)
    total, total_abs = np.zeros((2, P), np.float32), np.zeros((2, P), np.float32)
    bounds = np.zeros((3, P), np.float32)
    at, neuron = np.empty(P * room, np.int64), np.empty(P * room, np.int32)
    activation, effects = np.empty(P * room, np.float32), np.empty((2, P * room), np.float32)
    values = np.empty((3, U), np.float32)
    codes = values.view(np.int32)
    keys, ids = np.full((2, 3, min(k, U) + 1), -1, np.int32)
    kept, n = np.arange(U).astype(np.int32), 0
    of_unit, of_unit_abs = np.zeros(U), np.zeros(U)
    for p in range(P):
        values[0] = post[p]
        for side in range(2):
            read, effect, sigma = W_out_u[index[side, p]], values[1 + side], scale[p]
            sum_, sum_abs = np.float32(0), np.float32(0)
            for u in range(U):
                x = values[0, u] / sigma * read[u]
                effect[u] = x
                sum_ += x
                sum_abs += abs(x)
            total[side, p], total_abs[side, p] = sum_, sum_abs
        if following[p]:
            for u in range(U):
                of_unit[u] += np.rint(np.float64(values[1, u]) * A_VALUE)
            for u in range(U):
                of_unit_abs[u] += np.rint(np.float64(abs(values[1, u])) * A_VALUE)
        count = U
        if not every:
            for side in range(3):
                strongest_of_row(codes[side], keys[side], ids[side])
                bounds[side, p] = keys.view(np.float32)[side, k]
            count = _union(ids, k, kept)
        for i in range(count):
            u = kept[i]
            at[n], neuron[n], activation[n] = p, u, values[0, u]
            effects[0, n], effects[1, n] = values[1, u], values[2, u]
            n += 1
    return total, total_abs, bounds, at[:n], neuron[:n], activation[:n], effects[:, :n], of_unit, of_unit_abs


@compiled
def unit_sums(values: Floats, lowest: int, magnitudes: int) -> tuple[Any, ...]:
    """Return each neuron's statistics over positions; `values` has the shape (P, U): position, neuron.

    Returns sum and sum of squares (in steps, `attribution.steps`), minimum, maximum, number of positive
    values, and the histogram of `attribution.summaries`, of shape (U, 2 · (magnitudes + 1)). `lowest` holds
    the first ten bits, without the sign, of a float32 in the second bin from 0.
    """
    P, U = values.shape
    total, squares, positive = np.zeros(U), np.zeros(U), np.zeros(U, np.int32)
    minimum, maximum = np.full(U, np.inf, np.float32), np.full(U, -np.inf, np.float32)
    inner, outer = np.int32(lowest - 1), np.int32(magnitudes)
    histogram, bins = np.zeros((U, 2 * (magnitudes + 1)), np.int32), np.empty(U, np.int32)
    for p in range(P):
        row, code = values[p], values[p].view(np.int32)
        for u in range(U):  # each statistic has its own loop, because one loop for all cannot be vectorised
            total[u] += np.rint(np.float64(row[u]) * A_VALUE)
        for u in range(U):
            squares[u] += np.rint(np.float64(row[u]) * np.float64(row[u]) * A_SQUARE)
        for u in range(U):
            minimum[u] = min(minimum[u], row[u])
        for u in range(U):
            maximum[u] = max(maximum[u], row[u])
        for u in range(U):
            positive[u] += np.int32(row[u] > 0)
        for u in range(U):
            half_octave = np.int32(np.int32(code[u] & SIZE) >> np.int32(22))
            step = np.int32(min(max(np.int32(half_octave - inner), np.int32(0)), outer))
            bins[u] = outer - step if code[u] < 0 and code[u] != NEGATIVE_ZERO else outer + 1 + step
        for u in range(U):
            histogram[u, bins[u]] += 1
    return total, squares, minimum, maximum, positive, histogram


@compiled
def reaching(
    values: Floats, eligible: NDArray[np.bool_], high: Floats, low: Floats
) -> tuple[NDArray[np.int8], Codes, Codes]:
    """Find values that reach their neuron's high or low threshold; return which threshold, row and neuron.

    `values` has the shape (P, U) for U neurons. Returns kind, row and neuron as flat arrays; the kind is 0 if
    value ≥ `high`, and 1 if -value ≥ `low`.
    """
    P, U = values.shape
    room, n = 4096, 0
    kind, at, unit = np.empty(room, np.int8), np.empty(room, np.int32), np.empty(room, np.int32)
    flags = np.zeros(8 * ((U + 7) // 8), np.uint8)
    words = flags.view(np.uint64)
    for p in range(P):
        if not eligible[p]:
            continue
        if n + 2 * U > room:
            room = 2 * room + 2 * U
            kind, at, unit = _grown(kind, room), _grown(at, room), _grown(unit, room)
        row = values[p]
        for u in range(U):
            flags[u] = np.uint8(row[u] >= high[u]) | np.uint8(-row[u] >= low[u])
        for word in range(len(words)):
            if words[word] == 0:
                continue
            for u in range(8 * word, min(8 * word + 8, U)):
                if row[u] >= high[u]:
                    kind[n], at[n], unit[n] = 0, p, u
                    n += 1
                if -row[u] >= low[u]:
                    kind[n], at[n], unit[n] = 1, p, u
                    n += 1
    return kind[:n], at[:n], unit[:n]


@compiled
def _grown(array: Any, room: int) -> Any:
    larger = np.empty(room, array.dtype)
    larger[: len(array)] = array
    return larger


@compiled
def window_maxima(
    values: Floats, window: Ints, eligible: NDArray[np.bool_], threshold: Floats
) -> tuple[Codes, Codes]:
    """Find each neuron's maximum in each window, if the maximum reaches the neuron's `threshold`.

    `values`, of shape (P, U): activations of U neurons at P positions;
    `window`, of shape (P,): index of each position's window, ascending;
    `eligible`, of shape (P,): whether a position may be a maximum.
    Returns rows and neurons of the maxima; of equal maxima in a window, the first row.
    """
    P, U = values.shape
    windows = 1
    for p in range(1, P):
        windows += window[p] != window[p - 1]
    at, unit, n = np.empty(windows * U, np.int32), np.empty(windows * U, np.int32), 0
    maximum = np.empty(U, np.float32)
    begin = 0
    while begin < P:
        end = begin
        maximum[:] = -np.inf
        while end < P and window[end] == window[begin]:
            if eligible[end]:
                for u in range(U):
                    maximum[u] = max(maximum[u], values[end, u])
            end += 1
        while begin < end and not eligible[begin]:
            begin += 1
        for u in range(U):
            if begin < end and maximum[u] >= threshold[u]:
                p = begin
                while values[p, u] != maximum[u] or not eligible[p]:
                    p += 1
                at[n], unit[n] = p, u
                n += 1
        begin = end
    return at[:n], unit[:n]
