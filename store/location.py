"""Find a store's file and its lock files, and describe a file that is not a store.

DuckDB interprets some names as more than a path: `md:x`, `sqlite:x`, `~x` and addresses. Therefore DuckDB
gets only the absolute path of the file itself. Lock files and the temporary folder are named after that path
too, so every name of a file (a link, a relative path, a path through a link) leads to the same locks.
"""

import os
import re
import stat
from pathlib import Path

from filelock import FileLock, Timeout

from annotate_transformer.store.elsewhere.place import Elsewhere, Place, place
from annotate_transformer.store.errors import NotAStore

LONGEST_SHOWN = 200  # maximum length of a file name in a message, in characters; a longer one is cut
BEGINNING = 4096  # number of bytes that are read at the start of a file to find out what kind of file it is
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
    (b"\x7fELF", "an executable program"),
    (b"\x80\2", "a pickle"),
    (b"version https://git-lfs", "a Git LFS pointer (`git lfs pull` downloads the file itself)"),
)


def located(path: str | Place) -> Path:
    """Return the absolute path of a file, with every link resolved; the file need not exist yet.

    Raises:
        NotAStore: the path leads to a folder, pipe or device, or is not valid, or the store is elsewhere.
    """
    if isinstance(path, Elsewhere):
        raise path.refusal()
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
    except ValueError as error:  # the name has a NUL, or bytes that are not UTF-8
        raise NotAStore(f"{name!r} cannot be a file's name ({error}). Give another one.") from error
    if not os.fspath(path):
        raise NotAStore("The store's file name is empty. Give the store's file, or a new file name.")
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "a device")
        raise NotAStore(f"{name} is {kind}, not a file. Give the store's file, or a new file name.")
    return file


def _check_new(path: str | Path) -> None:
    """Raise NotAStore if the name is `:memory:`, is that of a lake, or looks like a URL in no folder."""
    text = str(path)
    if isinstance(found := place(path), Elsewhere):
        raise found.refusal()
    if text == ":memory:":
        raise NotAStore("':memory:' is DuckDB's name for a database without a file. Give a file name.")
    if ADDRESS.match(text) and not Path(path).parent.is_dir():
        raise NotAStore(
            f"{shown(path)} is an address, and this needs a file on this machine. Download it, and give "
            "the file's path."
        )


def shown(path: str | Place) -> str:
    """Return a file name for use in a message; a very long name is shortened in the middle."""
    text, half = str(path), LONGEST_SHOWN // 2
    return text if len(text) <= LONGEST_SHOWN else f"{text[:half]}…{text[-half:]} ({len(text):,} characters)"


def writers_lock(path: str | Place) -> FileLock:
    """Return the lock that a writer of the file holds from its first query to its last commit."""
    return FileLock(f"{located(path)}.lock")


def turn_lock(path: str | Path) -> FileLock:
    """Return the lock that a writer of the file holds while it waits for the file and while it writes."""
    return FileLock(f"{located(path)}.turn")


def temporary_folder(path: str | Path) -> str:
    """Return the folder into which DuckDB spills data that does not fit into memory."""
    return f"{located(path)}.tmp"


def is_taken(lock: FileLock) -> bool:
    """Return whether someone else holds the lock; the check itself acquires the lock for a moment."""
    if not os.path.exists(lock.lock_file):  # no lock file (or a name too long for one): nobody holds the lock
        return False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # the folder cannot be written to, so nobody writes the store either
        return False
    lock.release()
    return False


def names_of(path: str | Path) -> int:
    """Return the number of names (hard links) of a file; 0 if the file does not exist."""
    file = located(path)
    return file.stat().st_nlink if file.exists() else 0


def kind_of(path: str | Path) -> str | None:
    """Return which kind of file this is, for a message; None for a DuckDB database."""
    return kind_by(_beginning(located(path)))


def kind_by(begins: bytes) -> str | None:
    """Return which kind of file begins with these bytes, for a message; None for a DuckDB database."""
    if begins[8:12] == b"DUCK":
        return None
    if not begins.strip(b"\0"):
        return "full of zero bytes" if begins else "empty"
    for signature, kind in SIGNATURES:
        if begins.startswith(signature):
            return kind
    return "a text file" if _is_text(begins) else "a file of an unknown kind"


def _is_text(begins: bytes) -> bool:
    try:
        text = begins.decode()
    except UnicodeDecodeError as error:
        text = begins[: error.start].decode() if error.start > len(begins) - 4 else "\0"
    return "\0" not in text


def _beginning(file: Path) -> bytes:
    """Return a file's first bytes; if this process has the file open, read through the open descriptor.

    POSIX releases all locks of a process on a file when the process closes any descriptor of that file. To
    open and close a file that DuckDB holds open would therefore let another process write into the file.
    """
    there = file.stat()
    for number in map(int, os.listdir("/dev/fd")):
        try:
            if os.path.samestat(os.fstat(number), there):
                return os.pread(number, BEGINNING, 0)
        except OSError:  # the descriptor was closed meanwhile, or cannot be read
            continue
    with file.open("rb") as opened:
        return opened.read(BEGINNING)
