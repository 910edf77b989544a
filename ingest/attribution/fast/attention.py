"""Compiled loops that measure the behaviours of attention heads and find the strongest sources."""

import numpy as np
from numpy.typing import NDArray

from annotate_transformer.ingest.attribution.behaviours import BEHAVIOURS, MEASURES
from annotate_transformer.ingest.attribution.fast.bits import (
    BIAS,
    BLOCK,
    FIFTH,
    LOG_2,
    MANTISSA,
    OCTAVE,
    ONE,
    ROOT_HALF,
    SEVENTH,
    THIRD,
    TWO,
    Codes,
    Floats,
    Ints,
    compiled,
)
from annotate_transformer.ingest.attribution.fast.lists import insert
from annotate_transformer.ingest.attribution.steps import OF_ATTENTION

COUNT = len(BEHAVIOURS)
SELF, PREVIOUS, FIRST, ENTROPY, DUPLICATE, INDUCTION = map(
    BEHAVIOURS.index, ("self", "previous", "first", "entropy", "duplicate", "induction")
)
OVER_REPEATS = tuple(measure.over_repeats for measure in MEASURES.values())


@compiled
def attention_sums(
    pattern: Floats, tokens: Ints, row: Ints, column: Ints, counted: NDArray[np.bool_]
) -> tuple[Ints, Floats, NDArray[np.float64], Ints]:
    """Sum each head's behaviour measures over positions; find each head's most attended source per position.

    `pattern`, of shape (window, head, position, source): attention probabilities;
    `tokens`, of shape (window, position): token ids;
    `row`, `column`, of shape (P,): indices of each stored position in the batch;
    `counted`, of shape (P,): whether the sums include the position.
    Returns the most attended source and the attention to it, both of shape (P, head), the sums in steps, of
    shape (behaviour, head), and the number of positions in each sum, of shape (behaviour,). The results are
    the same as those of `attribution.behaviours`.
    """
    P, (_, H, _, S) = len(row), pattern.shape
    top_source, top_attention = np.empty((P, H), np.int64), np.empty((P, H), np.float32)
    sums, counts = np.zeros((COUNT, H)), np.zeros(COUNT, np.int64)
    exponent, mantissa = np.empty(S, np.float32), np.empty(S, np.int32)
    same = np.empty(S, np.int64)
    for p in range(P):
        b, q = row[p], column[p]
        repeats, later = 0, q > 0 and counted[p]
        for s in range(q if counted[p] else 0):
            if tokens[b, s] == tokens[b, q]:
                same[repeats] = s
                repeats += 1
        for behaviour in range(COUNT):
            counts[behaviour] += repeats > 0 if OVER_REPEATS[behaviour] else later
        for h in range(H):
            A = pattern[b, h, q, : q + 1]
            source = _first_maximum(A)
            top_source[p, h], top_attention[p, h] = source, A[source]
            if later:
                sums[SELF, h] += np.rint(np.float64(A[q]) * OF_ATTENTION)
                sums[PREVIOUS, h] += np.rint(np.float64(A[q - 1]) * OF_ATTENTION)
                sums[FIRST, h] += np.rint(np.float64(A[0]) * OF_ATTENTION)
                sums[ENTROPY, h] += np.rint(np.float64(_entropy(A, exponent, mantissa)) * OF_ATTENTION)
            for i in range(repeats):
                sums[DUPLICATE, h] += np.rint(np.float64(A[same[i]]) * OF_ATTENTION)
                sums[INDUCTION, h] += np.rint(np.float64(A[same[i] + 1]) * OF_ATTENTION)
    return top_source, top_attention, sums, counts


@compiled
def _first_maximum(values: Floats) -> int:
    """Find the first maximum of non-negative floats by comparing their bits as int32; return its index."""
    codes, largest = values.view(np.int32), np.int32(0)
    for i in range(len(codes)):
        largest = max(largest, codes[i])
    i = 0
    while codes[i] != largest:
        i += 1
    return i


@compiled
def _entropy(p: Floats, exponent: Floats, mantissa: Codes) -> np.float32:
    """Return the entropy -Σ p log p in nats, with a polynomial in place of the logarithm.

    For p = m · 2^e, log p is e log 2 + log m, and log m is 2 artanh((m - 1) / (m + 1)), expanded as a series.
    """
    codes, m = p.view(np.int32), mantissa.view(np.float32)
    for i in range(len(p)):
        # Write p[i] as m · 2^e with m in [√½, √2), because the polynomial for log m is accurate only there.
        code = np.int32(codes[i] + np.int32(BIAS * OCTAVE - ROOT_HALF))
        exponent[i] = np.float32(np.int32(code >> np.int32(23)) - BIAS)
        mantissa[i] = np.int32(np.int32(code & MANTISSA) + ROOT_HALF)
    entropy = np.float32(0)
    for i in range(len(p)):
        t = (m[i] - ONE) / (m[i] + ONE)
        s = t * t
        log_m = TWO * t * (ONE + s * (THIRD + s * (FIFTH + s * SEVENTH)))
        entropy -= p[i] * (exponent[i] * LOG_2 + log_m)
    return entropy


@compiled
def strongest_sources(
    pattern: Floats, products: Floats, row: Ints, column: Ints, layer: int,
    keys: Codes, slots: Codes, places: Codes, values: Floats,
) -> None:  # fmt: skip
    """Insert one layer's head-and-source terms into each position's list of the strongest terms so far.

    `products`, of shape (window, head, 2, position, source): ⟨v, ⟨W_O, u⟩⟩/σ for both targets; a source's
    effect is attention · product, and the larger |effect| of the two targets is the term's strength;
    `keys`, of shape (P, k + 1): strengths as int32, descending;
    `slots`, of shape (P, k + 1): index of each term in `places` and in `values`;
    `places`, of shape (P, k + 1, 3): layer, head and source;
    `values`, of shape (P, k + 1, 3): attention and both effects.
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
                        insert(keys[p], slots[p], codes[s], slot)
                        places[p, slot, 0], places[p, slot, 1], places[p, slot, 2] = layer, h, s
                        values[p, slot, 0] = A[s]
                        values[p, slot, 1] = A[s] * following[s]
                        values[p, slot, 2] = A[s] * top[s]
