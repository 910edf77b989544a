"""Where a store's file is, and what a file is that is no store.

DuckDB reads more into a name than a path: `md:x`, `sqlite:x`, `~x` and addresses mean something of
their own to it. So it is given one thing only, the absolute path of the file itself. Locks and the
temporary folder are named after that path too, so that every name of a file (a link, a relative
path, a folder that is a link) leads to the same ones.
"""

import os
import re
import stat
from pathlib import Path

from filelock import FileLock, Timeout

from annotate_transformer.store.errors import NotAStore

LONGEST_SHOWN = 200  # characters of a name that a sentence repeats
BEGINNING = 4096  # bytes of a file that tell its kind
KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
ADDRESS = re.compile(r"[A-Za-z][\w+.-]*:/")
SIGNATURES = (
    (b"SQLite format 3\0", "a SQLite database"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"FEA1", "a Feather file"),
    (b"Obj\1", "an Avro file"),
    (b"ORC", "an ORC file"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"PK\3\4", "a zip archive"),
    (b"\x1f\x8b", "compressed with gzip (unpack it first)"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd (unpack it first)"),
    (b"BZh", "compressed with bzip2 (unpack it first)"),
    (b"\xfd7zXZ\0", "compressed with xz (unpack it first)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x89PNG\r\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"%PDF-", "a PDF document"),
    (b"\x7fELF", "a program"),
    (b"\x80\2", "a pickle"),
    (b"version https://git-lfs", "a pointer of Git LFS (`git lfs pull` fetches the file itself)"),
)


def located(path: str | Path) -> Path:
    """Return the absolute path of the file itself, every link followed; the file may not be there yet.

    Raises:
        NotAStore: what is there is no file, or the name cannot be a file's.
    """
    name = shown(path)
    try:
        os.fspath(path).encode()
        file = Path(os.path.realpath(path))
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        _check_new(path)
        return file
    except OSError as error:
        raise NotAStore(f"{name} cannot be opened: {error.strerror}. Give another file name.") from error
    except ValueError as error:  # a NUL, or bytes that are no UTF-8
        raise NotAStore(f"{name!r} cannot be a file's name ({error}). Give another one.") from error
    if not os.fspath(path):
        raise NotAStore("The store's file name is empty. Give the store's file, or a new file name.")
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "a device")
        raise NotAStore(f"{name} is {kind}, not a file. Give the store's file, or a new file name.")
    return file


def _check_new(path: str | Path) -> None:
    """Refuse names of what is no file, unless there is a folder for such a file."""
    text = str(path)
    if text == ":memory:":
        raise NotAStore("':memory:' is DuckDB's word for no file at all, and a store is a file. Name one.")
    if ADDRESS.match(text) and not Path(path).parent.is_dir():
        raise NotAStore(
            f"{shown(path)} is an address, and a store is a file of this machine: fetch it first, and give "
            "the file's path."
        )


def shown(path: str | Path) -> str:
    """Return the name as a sentence repeats it: the ends of one that is very long."""
    text, half = str(path), LONGEST_SHOWN // 2
    return text if len(text) <= LONGEST_SHOWN else f"{text[:half]}…{text[-half:]} ({len(text):,} characters)"


def writers_lock(path: str | Path) -> FileLock:
    """Return the lock that whoever writes into a file holds from its first question to its last commit."""
    return FileLock(f"{located(path)}.lock")


def turn_lock(path: str | Path) -> FileLock:
    """Return the lock that whoever writes into a file holds while it waits for the file and writes."""
    return FileLock(f"{located(path)}.turn")


def temporary_folder(path: str | Path) -> str:
    """Return the folder where DuckDB puts what does not fit into memory."""
    return f"{located(path)}.tmp"


def is_taken(lock: FileLock) -> bool:
    """Whether somebody holds it; to look is to hold it for a moment oneself."""
    if not os.path.exists(lock.lock_file):  # False, too, where the name is too long to be a file's
        return False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # a folder that cannot be written: nobody writes the store either
        return False
    lock.release()
    return False


def names_of(path: str | Path) -> int:
    """Return how many names (hard links) the file has, 0 where it is not there."""
    file = located(path)
    return file.stat().st_nlink if file.exists() else 0


def kind_of(path: str | Path) -> str | None:
    """Return what a file is by its first bytes, in words; None for a DuckDB database."""
    begins = _beginning(located(path))
    if begins[8:12] == b"DUCK":
        return None
    if not begins.strip(b"\0"):
        return "full of zero bytes" if begins else "empty"
    for signature, kind in SIGNATURES:
        if begins.startswith(signature):
            return kind
    return "a text" if _is_text(begins) else "a file of an unknown kind"


def _is_text(begins: bytes) -> bool:
    try:
        text = begins.decode()
    except UnicodeDecodeError as error:
        text = begins[: error.start].decode() if error.start > len(begins) - 4 else "\0"
    return "\0" not in text


def _beginning(file: Path) -> bytes:
    """Return a file's first bytes, read through a descriptor that this process has of it, where it has one.

    POSIX drops a process's locks on a file when it closes any descriptor of it: to open and close a
    file that DuckDB holds would let another process write into it.
    """
    there = file.stat()
    for number in map(int, os.listdir("/dev/fd")):
        try:
            if os.path.samestat(os.fstat(number), there):
                return os.pread(number, BEGINNING, 0)
        except OSError:  # closed meanwhile, or opened for writing only
            continue
    with file.open("rb") as opened:
        return opened.read(BEGINNING)
