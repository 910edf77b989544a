"""Memory that is freed goes back to the system, and an exhausted memory is told from other errors."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pyarrow as pa
import torch

M_MMAP_THRESHOLD, LARGE = -3, 5 * 2**19  # of malloc.h; half a layer's activations of a batch at pythia-70m
# What PyTorch's allocator, oneDNN and the system say; oneDNN says nothing more.
OUT_OF_MEMORY = ("can't allocate memory", "could not create a primitive", "Cannot allocate memory")


@contextmanager
def memory_from_system() -> Iterator[None]:
    """Use the system's allocator, which gives freed memory back; Arrow's and glibc's keep it.

    glibc maps arrays of LARGE bytes or more one by one: among others, those of a batch leave 200 MB of
    holes.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def give_memory_back() -> None:
    """Return freed memory that the C library keeps for later: half of all there is after a shard (glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or any(sign in str(error) for sign in OUT_OF_MEMORY)
