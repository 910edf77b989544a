"""Loops that read each activation, attention weight and logit once, for float32 on a CPU.

What `selection`, `summaries` and `unembed` of ingest.attribution do with chains of torch operations,
each a pass through memory, is done here while a row lies in the cache (compiled by Numba; nothing
here knows of torch). Shapes as there: P positions, U neurons of a layer, b windows.
tests/test_fused.py holds both to the same answers.
"""

from collections.abc import Callable
from math import factorial, log
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from annotate_transformer.store.layout import STEPS_A_SQUARE, STEPS_A_VALUE, STEPS_OF_ATTENTION

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Codes = NDArray[np.int32]

BLOCK = 32  # values looked at together before any is looked at alone
MATH = {"nnan", "nsz", "reassoc", "contract"}  # sums may be reordered, so that they vectorise

# A float32 read as int32 is sign, exponent (8 bits), mantissa (23 bits): of numbers without a sign
# the order is the same, and whole numbers' maxima vectorise.
SIZE, NEGATIVE_ZERO = np.int32(2**31 - 1), np.int32(-(2**31))
OCTAVE, BIAS = np.int32(1 << 23), np.int32(127)
MANTISSA, ROOT_HALF = np.int32((1 << 23) - 1), np.int32(0x3F3504F3)  # √½ as int32
ONE, TWO, HALF = np.float32(1), np.float32(2), np.float32(0.5)
LOG_2, LOG2_E, LOWEST_POWER = np.float32(log(2)), np.float32(1 / log(2)), np.float32(-126)
# 2^x = Σ (x log 2)^n / n!, to 5e-9 for |x| ≤ ½
E0, E1, E2, E3, E4, E5, E6, E7 = (np.float32(log(2) ** n / factorial(n)) for n in range(8))
A_VALUE, A_SQUARE, OF_ATTENTION = float(STEPS_A_VALUE), float(STEPS_A_SQUARE), float(STEPS_OF_ATTENTION)
THIRD, FIFTH, SEVENTH = np.float32(1 / 3), np.float32(1 / 5), np.float32(1 / 7)


def _compiled(function: Callable[..., Any]) -> Any:
    options: dict[str, Any] = {"nogil": True, "fastmath": MATH, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep the compiled code: it is compiled anew each time
        return njit(**options)(function)


@_compiled
def _insert(keys: Codes, ids: Codes, key: int, identity: int) -> None:
    """Into a descending list that it belongs to; the last entry drops out; ties stay in order."""
    j = len(keys) - 1
    while j > 0 and keys[j - 1] < key:
        keys[j] = keys[j - 1]
        ids[j] = ids[j - 1]
        j -= 1
    keys[j] = key
    ids[j] = identity


@_compiled
def _strongest(row: Codes, keys: Codes, ids: Codes) -> None:
    """The largest |values| of a row, descending, as many as `keys` has room for.

    Values and keys are float32 read as int32: without the sign their order is the same, and whole
    numbers' maxima vectorise.
    """
    last = len(keys) - 1
    # What nearly all of the position before was below: if too few are above, once more without it.
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
                        _insert(keys, ids, key, u)
                        least = max(floor, keys[last])
        if keys[last] >= 0 or floor < 0:
            return
        floor = np.int32(-1)


@_compiled
def _union(ids: Codes, k: int, kept: Codes) -> int:
    """The distinct ones of the first k ids of each row of `ids`, ascending, in `kept`: how many."""
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


@_compiled
def neuron_terms(
    post: Floats, W_out_u: Floats, index: Ints, scale: Floats, following: NDArray[np.bool_], k: int
) -> tuple[Any, ...]:
    """One layer's effects on both targets, summed, and the strongest of each position.

    post (P, U); W_out_u (target, U); index (2, P): a position's targets; scale (P,): σ.
    following (P,): positions whose effects are summed; k: of each position the strongest by |activation|
    and by |effect| either way; U or more: all.
    Returns total and total_abs (2, P); bounds (3, P), the largest left out; the kept ones, a row
    each: position, neuron, activation, effects (2, rows); and of each neuron over the positions
    that are summed the effects on the next token, with their sign and without (U,), in whole steps.
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
                _strongest(codes[side], keys[side], ids[side])
                bounds[side, p] = keys.view(np.float32)[side, k]
            count = _union(ids, k, kept)
        for i in range(count):
            u = kept[i]
            at[n], neuron[n], activation[n] = p, u, values[0, u]
            effects[0, n], effects[1, n] = values[1, u], values[2, u]
            n += 1
    return total, total_abs, bounds, at[:n], neuron[:n], activation[:n], effects[:, :n], of_unit, of_unit_abs


@_compiled
def unit_sums(values: Floats, lowest: int, magnitudes: int) -> tuple[Any, ...]:
    """Of each unit over positions, values (P, U): total and sum of squares in whole steps (as float64,
    where they are exact in any order), minimum, maximum, how many are positive, and the histogram
    (U, 2 · (magnitudes + 1)) of ingest.attribution.summaries.

    lowest: what a float32's first ten bits, less the sign, are in the second innermost bin.
    """
    P, U = values.shape
    total, squares, positive = np.zeros(U), np.zeros(U), np.zeros(U, np.int32)
    minimum, maximum = np.full(U, np.inf, np.float32), np.full(U, -np.inf, np.float32)
    inner, outer = np.int32(lowest - 1), np.int32(magnitudes)
    histogram, bins = np.zeros((U, 2 * (magnitudes + 1)), np.int32), np.empty(U, np.int32)
    for p in range(P):
        row, code = values[p], values[p].view(np.int32)
        for u in range(U):  # a loop each: together they do not vectorise
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


@_compiled
def reaching(
    values: Floats, eligible: NDArray[np.bool_], high: Floats, low: Floats
) -> tuple[NDArray[np.int8], Codes, Codes]:
    """Where values (P, U) reach their unit's threshold: kind (0: ≥ high, 1: -value ≥ low), row, unit."""
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


@_compiled
def _grown(array: Any, room: int) -> Any:
    larger = np.empty(room, array.dtype)
    larger[: len(array)] = array
    return larger


@_compiled
def window_maxima(
    values: Floats, window: Ints, eligible: NDArray[np.bool_], threshold: Floats
) -> tuple[Codes, Codes]:
    """Of each window and unit the first eligible row with the highest value, if that reaches `threshold`.

    values (P, U); window (P,): ascending, each window's rows together. Returns rows and units.
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


@_compiled
def attention_sums(
    pattern: Floats, tokens: Ints, row: Ints, column: Ints, counted: NDArray[np.bool_]
) -> tuple[Ints, Floats, NDArray[np.float64], Ints]:
    """One layer's heads at the stored positions: what each attends to.

    pattern (b, head, position, source); tokens (b, position); row, column (P,): where a stored
    position lies; counted (P,): which of them are summed. Returns the strongest source and its
    attention (P, head), the sums in steps (6, head) of ingest.run.run_summary.BEHAVIOURS and (6,) over
    how many positions each is.
    """
    P, (_, H, _, S) = len(row), pattern.shape
    top_source, top_attention = np.empty((P, H), np.int64), np.empty((P, H), np.float32)
    sums, counts = np.zeros((6, H)), np.zeros(6, np.int64)
    exponent, mantissa = np.empty(S, np.float32), np.empty(S, np.int32)
    same = np.empty(S, np.int64)
    for p in range(P):
        b, q = row[p], column[p]
        repeats, later = 0, q > 0 and counted[p]
        for s in range(q if counted[p] else 0):
            if tokens[b, s] == tokens[b, q]:
                same[repeats] = s
                repeats += 1
        counts[:4] += later
        counts[4:] += repeats > 0
        for h in range(H):
            A = pattern[b, h, q, : q + 1]
            source = _first_maximum(A)
            top_source[p, h], top_attention[p, h] = source, A[source]
            if later:
                sums[0, h] += np.rint(np.float64(A[q]) * OF_ATTENTION)
                sums[1, h] += np.rint(np.float64(A[q - 1]) * OF_ATTENTION)
                sums[2, h] += np.rint(np.float64(A[0]) * OF_ATTENTION)
                sums[3, h] += np.rint(np.float64(_entropy(A, exponent, mantissa)) * OF_ATTENTION)
            for i in range(repeats):
                sums[4, h] += np.rint(np.float64(A[same[i]]) * OF_ATTENTION)
                sums[5, h] += np.rint(np.float64(A[same[i] + 1]) * OF_ATTENTION)
    return top_source, top_attention, sums, counts


@_compiled
def _first_maximum(values: Floats) -> int:
    """Of values that are 0 or more, for which the order of float32 is that of its bits."""
    codes, largest = values.view(np.int32), np.int32(0)
    for i in range(len(codes)):
        largest = max(largest, codes[i])
    i = 0
    while codes[i] != largest:
        i += 1
    return i


@_compiled
def _entropy(p: Floats, exponent: Floats, mantissa: Codes) -> np.float32:
    """-Σ p log p in nats. log p = e log 2 + log m for p = m · 2^e, and log m = 2 artanh((m-1)/(m+1))."""
    codes, m = p.view(np.int32), mantissa.view(np.float32)
    for i in range(len(p)):
        code = np.int32(codes[i] + np.int32(BIAS * OCTAVE - ROOT_HALF))  # m in [√½, √2)
        exponent[i] = np.float32(np.int32(code >> np.int32(23)) - BIAS)
        mantissa[i] = np.int32(np.int32(code & MANTISSA) + ROOT_HALF)
    entropy = np.float32(0)
    for i in range(len(p)):
        t = (m[i] - ONE) / (m[i] + ONE)
        s = t * t
        log_m = TWO * t * (ONE + s * (THIRD + s * (FIFTH + s * SEVENTH)))
        entropy -= p[i] * (exponent[i] * LOG_2 + log_m)
    return entropy


@_compiled
def strongest_sources(
    pattern: Floats, products: Floats, row: Ints, column: Ints, layer: int,
    keys: Codes, slots: Codes, places: Codes, values: Floats,
) -> None:  # fmt: skip
    """Offer one layer's head-and-source terms to each position's list of the strongest so far.

    products (b, head, 2, position, source): the source's value read toward both targets, over σ;
    times attention it is the source's effect, and the larger |effect| its strength.
    keys, slots (P, k + 1): strengths so far, descending, as int32, and where the rest of each lies:
    places (P, k + 1, 3): layer, head, source; values (P, k + 1, 3): attention and both effects.
    """
    P, (_, H, _, S) = len(row), pattern.shape
    last = keys.shape[1] - 1
    strength = np.empty(S, np.float32)
    codes = strength.view(np.int32)
    for p in range(P):
        b, q = row[p], column[p]
        for h in range(H):
            A, following, top = pattern[b, h, q], products[b, h, 0, q], products[b, h, 1, q]
            for s in range(q + 1):
                strength[s] = A[s] * max(abs(following[s]), abs(top[s]))
            for start in range(0, q + 1, BLOCK):
                stop, largest = min(start + BLOCK, q + 1), np.int32(0)
                for s in range(start, stop):
                    largest = max(largest, codes[s])
                if largest <= keys[p, last]:
                    continue
                for s in range(start, stop):
                    if codes[s] > keys[p, last]:
                        slot = slots[p, last]
                        _insert(keys[p], slots[p], codes[s], slot)
                        places[p, slot, 0], places[p, slot, 1], places[p, slot, 2] = layer, h, s
                        values[p, slot, 0] = A[s]
                        values[p, slot, 1] = A[s] * following[s]
                        values[p, slot, 2] = A[s] * top[s]


@_compiled
def absorb_logits(
    logits: Floats, start: int, real: int, following: Ints, threshold: Floats,
    best: Floats, top_id: Ints, own: Floats, above: Ints,
    maximum: Floats, total: Floats, weighted: Floats,
) -> None:  # fmt: skip
    """A slice of the vocabulary into the running figures of ingest.attribution.unembed, all (P,).

    logits (P, slice): of tokens from `start` on; real: how many of them are tokens, not padding.
    """
    P, n = logits.shape
    power, scale = np.empty(n, np.float32), np.empty(n, np.int32)
    two_to_the = scale.view(np.float32)
    for p in range(P):
        row = logits[p]
        largest, count, limit = _maximum(row[:real], scale), np.int32(0), threshold[p]
        for i in range(real):
            count += np.int32(row[i] > limit)
        mine = following[p] - start
        if 0 <= mine < n:
            own[p] = row[mine]
            if mine < real and row[mine] > limit:
                count -= 1
        above[p] += count
        if real > 0 and largest > best[p]:
            best[p] = largest
            i = 0
            while row[i] != largest:
                i += 1
            top_id[p] = start + i
        raised = max(maximum[p], largest if real == n else max(largest, _maximum(row[real:], scale)))
        shrink = np.exp(maximum[p] - raised)
        for i in range(n):  # e^x = 2^(x log₂ e): a whole power by its bits, the rest by a polynomial
            x = max((row[i] - raised) * LOG2_E, LOWEST_POWER)
            whole = np.floor(x + HALF)
            power[i] = x - whole
            scale[i] = np.int32(np.int32(np.int32(whole) + BIAS) << np.int32(23))
        sum_, weighted_sum = np.float32(0), np.float32(0)
        for i in range(n):
            x = power[i]
            e = E0 + x * (E1 + x * (E2 + x * (E3 + x * (E4 + x * (E5 + x * (E6 + x * E7))))))
            e *= two_to_the[i]
            sum_ += e
            weighted_sum += e * row[i]
        total[p] = total[p] * shrink + sum_
        weighted[p] = weighted[p] * shrink + weighted_sum
        maximum[p] = raised


@_compiled
def _maximum(values: Floats, scratch: Codes) -> np.float32:
    """Of values of any sign: those below 0 have their other bits turned over to be in order."""
    codes, largest = values.view(np.int32), NEGATIVE_ZERO
    for i in range(len(codes)):
        largest = max(largest, np.int32(codes[i] ^ np.int32(np.int32(codes[i] >> np.int32(31)) & SIZE)))
    scratch[0] = np.int32(largest ^ np.int32(np.int32(largest >> np.int32(31)) & SIZE))
    largest_value: np.float32 = scratch.view(np.float32)[0]
    return largest_value


@_compiled
def insert_into_lists(
    lists: Ints, values: Floats, positions: Ints,
    count: Ints, list_value: Floats, list_position: Ints, threshold: Floats,
) -> None:  # fmt: skip
    """Offer entries to lists of the k largest, descending, ties by position: count (lists,),
    list_value, list_position (lists, k); threshold (lists,): the last value of a full one."""
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


@_compiled
def above(logits: Floats, real: int, rows: Ints, columns: Ints) -> Ints:
    """Of each pair (row, column): how many of the row's first `real` values are above its own."""
    counts = np.empty(len(rows), dtype=np.int64)
    for i in range(len(rows)):
        row = logits[rows[i], :real]
        own, higher = row[columns[i]], np.int32(0)
        for value in row:
            higher += np.int32(value > own)
        counts[i] = higher
    return counts
