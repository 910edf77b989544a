"""Return freed memory to the system, and recognise out-of-memory errors."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pyarrow as pa
import torch

# M_MMAP_THRESHOLD is a constant of C's malloc.h. LARGE: arrays of this number of bytes or more are allocated
# with mmap. It is about half the size of one layer's activations in a batch of pythia-70m.
M_MMAP_THRESHOLD, LARGE = -3, 5 * 2**19
# OUT_OF_MEMORY: parts of the messages with which PyTorch's allocator, oneDNN and the operating system report
# that memory is used up.
OUT_OF_MEMORY = ("can't allocate memory", "could not create a primitive", "Cannot allocate memory")


@contextmanager
def memory_from_system() -> Iterator[None]:
    """Context manager: let Arrow use the system's allocator, and let glibc use mmap for each large array.

    Otherwise Arrow and glibc keep freed memory, and the arrays of a batch leave holes of 200 MB. Large arrays
    have LARGE bytes or more.
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
    """Return freed memory to the system; otherwise glibc would keep half of all memory after a shard."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or any(sign in str(error) for sign in OUT_OF_MEMORY)
