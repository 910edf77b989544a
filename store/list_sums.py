"""Weighted sums of lists for checksums (store/checksum.py), computed outside DuckDB.

In DuckDB a lambda that knows the index of an element needs three to five times as long.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.int64]

PRIME = 2**31 - 1  # numbers modulo this prime have squares below 2^62, which fit into a BIGINT
SUMMED = 4096  # number of weighted elements that are summed at once: the sum of more could exceed 2^63


def list_sums(lists: pa.ListArray) -> Ints:
    """Return a hash of each list: its length plus the weighted sum of its elements modulo PRIME."""
    elements, lengths = _integers(lists.flatten()), lists.value_lengths().to_numpy().astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    # Consecutive lists of the same length are hashed together; `of` holds the indices of these lists.
    sums = [
        _weighted(elements[starts[of[0]] :][: lengths[of].sum()].reshape(len(of), lengths[of[0]]))
        for of in np.split(np.arange(len(lists)), np.flatnonzero(np.diff(lengths)) + 1)
    ]
    found: Ints = np.concatenate(sums) + lengths
    return found


def remainder(numbers: Ints) -> Ints:
    """Return each number modulo PRIME, with the sign of the number, as the operator % of SQL does."""
    found: Ints = (np.sign(numbers) * (np.abs(numbers) % PRIME)).astype(np.int64)
    return found


def _integers(elements: pa.Array) -> Ints:
    """Return list elements as integers of at most 32 bits: 0 for NULL, the bits for a float."""
    # Decimals are read directly from Arrow's buffer, because `fill_null` takes ten times as long for them.
    if pa.types.is_decimal(elements.type):
        words = np.frombuffer(elements.buffers()[1] or b"", dtype=np.int32)[:: elements.type.bit_width // 32]
        integers = words[elements.offset : elements.offset + len(elements)].astype(np.int64)
        integers[elements.is_null().to_numpy(zero_copy_only=False)] = 0
        return integers
    numbers = elements.fill_null(0).to_numpy()
    if numbers.dtype == np.float32:
        return np.where(numbers == 0, 0, numbers.view(np.int32)).astype(np.int64)
    return remainder(numbers) if numbers.dtype == np.int64 else numbers.astype(np.int64)


def _weighted(rows: Ints) -> Ints:
    """Return the weighted sum of each row modulo PRIME; the weight of an element depends on its index."""
    factors = np.arange(1, rows.shape[1] + 1) * 7919 % 1000003
    parts = range(0, max(len(factors), 1), SUMMED)
    sums = [rows[:, first : first + SUMMED] @ factors[first : first + SUMMED] for first in parts]
    return remainder(sums[0] if len(sums) == 1 else sum(part.astype(object) for part in sums))
