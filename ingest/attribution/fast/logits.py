"""Compiled loops that compute softmax, entropy, ranks and top predictions from logits."""

import numpy as np

from annotate_transformer.ingest.attribution.fast.bits import (
    BIAS,
    E0,
    E1,
    E2,
    E3,
    E4,
    E5,
    E6,
    E7,
    HALF,
    LOG2_E,
    LOWEST_POWER,
    NEGATIVE_ZERO,
    SIZE,
    Codes,
    Floats,
    Ints,
    compiled,
)


@compiled
def absorb_logits(
    logits: Floats, start: int, real: int, following: Ints, threshold: Floats,
    best: Floats, top_id: Ints, own: Floats, above: Ints,
    maximum: Floats, total: Floats, weighted: Floats,
) -> None:  # fmt: skip
    """Update the running values of an `attribution.unembed.RunningPrediction` with a slice of logits.

    `logits`, of shape (P, token): logits of the token ids from `start` on;
    `real`: number of these tokens that are not padding. The running values have the shape (P,).
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
        # Compute e^x as 2^y with y = x log₂ e. Split y into the nearest integer and a rest between -½ and ½.
        # The integer becomes the exponent bits of the result, and a polynomial computes 2 to the power of the
        # rest.
        for i in range(n):
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


@compiled
def _maximum(values: Floats, scratch: Codes) -> np.float32:
    """Return the maximum of floats of any sign, found by comparing their bits as int32 (`fast.bits`)."""
    codes, largest = values.view(np.int32), NEGATIVE_ZERO
    for i in range(len(codes)):
        largest = max(largest, np.int32(codes[i] ^ np.int32(np.int32(codes[i] >> np.int32(31)) & SIZE)))
    scratch[0] = np.int32(largest ^ np.int32(np.int32(largest >> np.int32(31)) & SIZE))
    largest_value: np.float32 = scratch.view(np.float32)[0]
    return largest_value


@compiled
def above(logits: Floats, real: int, rows: Ints, columns: Ints) -> Ints:
    """Count, for each given cell, how many of the first `real` values in its row are larger than the cell."""
    counts = np.empty(len(rows), dtype=np.int64)
    for i in range(len(rows)):
        row = logits[rows[i], :real]
        own, higher = row[columns[i]], np.int32(0)
        for value in row:
            higher += np.int32(value > own)
        counts[i] = higher
    return counts
