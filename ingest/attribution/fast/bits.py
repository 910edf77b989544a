"""Define the compiler options of all compiled loops, and constants for the bits of a float32.

The 32 bits of a float32, which the loops also read as an int32:

      31  30 ......... 23  22 ......................... 0
    ┌────┬───────────────┬──────────────────────────────┐
    │sign│ exponent + 127│ mantissa: 1.m − 1            │      value = ± 1.m · 2^exponent
    └────┴───────────────┴──────────────────────────────┘
          SIZE = 0x7fffffff: all bits but the sign             |x| as int32: x & SIZE
          OCTAVE = 1 << 23: 1 in the exponent                  x / 2 as int32: x − OCTAVE
          x >> 22: exponent and first mantissa bit             the half-octave of x, a bin of the histograms

Positive float32 numbers have the same order as their bits read as int32. The compiler can vectorise a maximum
of integers, but not a maximum of floating-point numbers. With numbers of both signs, the order is right after
all bits of the negative numbers except the sign are flipped: x ^ ((x >> 31) & SIZE).
"""

from collections.abc import Callable
from glob import escape
from math import factorial, log
from pathlib import Path
from secrets import randbits
from typing import Any

import numpy as np
from numba import njit
from numba.core.caching import IndexDataCacheFile
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Codes = NDArray[np.int32]  # float32 numbers whose 32 bits are read as an int32

# BLOCK: number of values in a block. A loop that collects the largest values of a row skips a block whose
# maximum is too small to be one of them.
BLOCK = 32

# MATH: flags with which the compiler may add the terms of a sum in another order. Without them it could not
# vectorise a sum.
MATH = {"nnan", "nsz", "reassoc", "contract"}

SIZE, NEGATIVE_ZERO = np.int32(2**31 - 1), np.int32(-(2**31))
OCTAVE, BIAS = np.int32(1 << 23), np.int32(127)
# MANTISSA is a mask of the 23 mantissa bits of a float32. ROOT_HALF is the float32 √½, with its bits read as
# an int32.
MANTISSA, ROOT_HALF = np.int32((1 << 23) - 1), np.int32(0x3F3504F3)
ONE, TWO, HALF = np.float32(1), np.float32(2), np.float32(0.5)
LOG_2, LOG2_E, LOWEST_POWER = np.float32(log(2)), np.float32(1 / log(2)), np.float32(-126)
# E0 … E7: coefficients of the series 2^x = Σ (x log 2)^n / n!, cut after n = 7. The error is below 5e-9 for
# |x| ≤ ½.
E0, E1, E2, E3, E4, E5, E6, E7 = (np.float32(log(2) ** n / factorial(n)) for n in range(8))
THIRD, FIFTH, SEVENTH = np.float32(1 / 3), np.float32(1 / 5), np.float32(1 / 7)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function at the first call, and cache the machine code beside the source file if possible."""
    options: dict[str, Any] = {"nogil": True, "fastmath": MATH, "error_model": "numpy"}
    try:
        dispatcher: Any = njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no writable folder for its cache, so compile without a cache
        return njit(**options)(function)
    if hasattr(dispatcher, "_cache"):  # False with NUMBA_DISABLE_JIT, which turns compilation off
        dispatcher._cache._cache_file.__class__ = MachineCode
    return dispatcher


class MachineCode(IndexDataCacheFile):
    """The cached machine code of one function, in files that several processes may write at once.

    The index maps types of arguments to files. numba's own `save` writes the index before the file, and two
    processes may choose the same file for different types. A later process would then run the wrong machine
    code. Here each file has a name of its own and is written first; at worst, a type is compiled again.
    """

    def save(self: Any, key: Any, data: Any) -> None:
        """Save machine code under a key, which names the argument types for which it was compiled."""
        if not self._load_index():
            self._remove_unlisted()
        name = self._data_name(randbits(63))
        self._save_data(name, data)
        self._save_index(self._load_index() | {key: name})

    def _remove_unlisted(self: Any) -> None:
        """Remove the files of earlier versions of the function, which no index lists."""
        for file in Path(self._cache_path).glob(f"{escape(Path(self._index_name).stem)}.*.nbc"):
            file.unlink(missing_ok=True)
