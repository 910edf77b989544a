"""Write files and folders under a temporary name, and rename them when they are complete.

A file is written beside its target as a temporary file NAME.XXXXXXXX.part, which is renamed at the end. A
killed process leaves its temporary file behind; the next process that writes the same target removes that
file. A process holds a lock on the temporary file that it writes. The lock ends with the process, so no other
process removes a file that is still being written.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

_being_written: set[Path] = set()  # the temporary files and folders that this process is writing
LONGEST = 200  # bytes of the target's name that a temporary file's name keeps; a file's name has at most 255


@contextmanager
def whole(target: Path, *, folder: bool = False) -> Iterator[Path]:
    """Context manager: yield an empty temporary file or folder, renamed to `target` after the block.

    If the block fails, the temporary file is removed. If `target` is a link, the file to which it leads is
    replaced. `target` may be an empty folder.

    Raises:
        OSError: `target` cannot be written, or is a folder instead of a file, or a file instead of a folder.

    Errors of the block pass unchanged.
    """
    target = Path(os.path.realpath(target))
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
    _remove_leftovers(target)
    part = target.with_name(f"{_stem(target)}.{token_hex(4)}.part")
    # Add `part` to `_being_written` before the file exists. If the process is stopped at any moment after
    # that, `remove_parts` removes the file.
    _being_written.add(part)
    try:
        part.mkdir() if folder else part.touch(exist_ok=False)
        with _locked(part):
            yield part
            os.rename(part, target)
    finally:
        remove(part)
        _being_written.discard(part)


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Hold a shared lock on a temporary file or folder while the block writes it.

    The lock shows other processes that the file is no leftover. On a file system without locks, leftovers are
    never removed.
    """
    lock = os.open(part, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def remove_parts() -> None:
    """Remove this process's unfinished temporary files; call this before an exit that skips `finally`."""
    for part in [*_being_written]:
        with suppress(OSError):
            remove(part)


def target_of(part: str) -> str:
    """Return the final name of the file with this temporary name; return any other name unchanged.

    >>> [target_of(name) for name in ("a/x.csv.0123abcd.part", "/dev/full")]
    ['a/x.csv', '/dev/full']
    """
    target, _, rest = part.removesuffix(".part").rpartition(".")
    return target if part.endswith(".part") and _is_token(rest) else part


def _stem(target: Path) -> str:
    return os.fsdecode(os.fsencode(target.name)[:LONGEST])


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files of this target that killed processes have left behind."""
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
