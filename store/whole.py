"""Write files and folders that get their name only when they are complete.

A file is written beside its target as NAME.XXXXXXXX.part and renamed at the end. A killed process leaves its
part behind, and the next process that writes the same target removes it. The process that writes a part holds
a lock on it, which ends with the process, so no other process removes a part that is being written.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

_being_written: set[Path] = set()  # the parts that this process is writing
LONGEST = 200  # bytes of the target's name in a part's name; file systems allow 255 for all of it


@contextmanager
def whole(target: Path, *, folder: bool = False) -> Iterator[Path]:
    """Give the block an empty file or folder beside `target`; rename it to `target` when the block ends.

    If the block fails, it is removed. A link stays a link, and its target is replaced. `target` may be an
    empty folder.

    Raises:
        OSError: `target` cannot be written, or is of another kind; errors of the block pass unchanged.
    """
    target = Path(os.path.realpath(target))
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
    _remove_leftovers(target)
    part = target.with_name(f"{_stem(target)}.{token_hex(4)}.part")
    part.mkdir() if folder else part.touch(exist_ok=False)
    lock = os.open(part, os.O_RDONLY)
    _being_written.add(part)
    try:
        with suppress(OSError):  # a file system without locks, where leftovers stay
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield part
        os.rename(part, target)
    finally:
        os.close(lock)
        remove(part)
        _being_written.discard(part)


def remove_parts() -> None:
    """Remove the unfinished parts of this process, for an exit that does not leave the blocks."""
    for part in [*_being_written]:
        with suppress(OSError):
            remove(part)


def target_of(part: str) -> str:
    """Return the final name of a part, or the name itself if it is not a part's.

    >>> [target_of(name) for name in ("a/x.csv.0123abcd.part", "/dev/full")]
    ['a/x.csv', '/dev/full']
    """
    target, _, rest = part.removesuffix(".part").rpartition(".")
    return target if part.endswith(".part") and _is_token(rest) else part


def _stem(target: Path) -> str:
    return os.fsdecode(os.fsencode(target.name)[:LONGEST])


def _remove_leftovers(target: Path) -> None:
    """Remove the parts of this target that no process is writing."""
    start, end = f"{_stem(target)}.", ".part"
    with suppress(OSError):
        for name in os.listdir(target.parent):
            middle = name[len(start) : -len(end)]
            if name.startswith(start) and name.endswith(end) and _is_token(middle):
                _remove_if_free(target.parent / name)


def _is_token(text: str) -> bool:
    return len(text) == 8 and set(text) <= set("0123456789abcdef")


def _remove_if_free(part: Path) -> None:
    with suppress(OSError):
        lock = os.open(part, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(part)
        finally:
            os.close(lock)


def remove(part: Path) -> None:
    """Remove a file, or a folder with its contents, if it exists."""
    with suppress(FileNotFoundError):
        shutil.rmtree(part) if part.is_dir() else part.unlink()
