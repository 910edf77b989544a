"""Open a file: unpack it, convert it to UTF-8, and apply the limits of ``Reading`` to its size.

A stream that can be read only once is copied into a ``Copy``, a temporary file without a name. The
system deletes it when the process ends, however it ends.
"""

import codecs
import csv
import gzip
import io
import math
import os
import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from typing import IO, Self

from annotate_transformer.ingest.errors import SettingsError, SourceError

BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
COMPRESSIONS = (".gz", ".zst")
MB = 10**6
CHUNK_BYTES = 1 << 20
HEAD_BYTES = 4096  # the real format of a file is recognised from this number of bytes at its start
ZSTD_CHUNK_BYTES = 1 << 8  # number of packed bytes to unpack at once; they may grow a thousandfold
ZSTD_WINDOW_BYTES = 1 << 31  # largest zstd window that can be read, in bytes; `zstd --long=31` uses it
ROOM_CHECKED_BYTES = 1 << 26  # number of bytes written between two checks of the free disk space
ROOM_LEFT_BYTES = 10**9  # number of bytes that must stay free on the disk while a source is copied to it
ROOM_LEFT_SHARE = 0.05  # on disks below 20 GB, this fraction of the disk must stay free instead


@dataclass(frozen=True)
class Reading:
    """Options for reading sources; limits are in MB (10⁶ bytes).

    `max_line`: maximum size of a line of a .jsonl, .csv or .tsv file;
    `max_document`: maximum size of a text, or of a row with a text;
    `max_temporary`: maximum size of a copy on disk.
    Raises SettingsError for an invalid value.
    """

    text_column: str = "text"
    encoding_errors: str = "strict"
    skip_bad: bool = False
    format: str | None = None
    delimiter: str | None = None
    encoding: str = "utf-8"
    max_line: float = 128  # in MB; enough for the corpus text8, which is a single line of 100 MB
    max_document: float = 128
    max_temporary: float = 20_000

    def __post_init__(self) -> None:
        if self.encoding_errors not in ("strict", "replace"):
            raise SettingsError(f"--encoding-errors is strict or replace, not {self.encoding_errors}.")
        for name in ("max_line", "max_document", "max_temporary"):
            value = getattr(self, name)
            if not (1 / MB <= value < math.inf):
                raise SettingsError(f"--{name.replace('_', '-')} is a number of MB above 0, not {value:g}.")
        _check_encoding(self.encoding)
        if self.separator is not None:
            _check_delimiter(self.separator)

    @property
    def separator(self) -> str | None:
        """The character between columns; a tab may be given as \\t, which is easier to type in a shell."""
        return "\t" if self.delimiter in ("\\t", "tab") else self.delimiter

    @cached_property
    def line_bytes(self) -> int:
        return int(self.max_line * MB)

    @cached_property
    def document_bytes(self) -> int:
        return int(self.max_document * MB)


def _check_encoding(name: str) -> None:
    try:
        decoder = codecs.getincrementaldecoder(name)("strict")
        known = isinstance(decoder.decode(b"", final=True), str)
    except (LookupError, ValueError, TypeError):
        known = False
    if not known:
        raise SettingsError(
            f"--encoding is the name of a text encoding, such as utf-8, utf-16 or latin-1, not {name!r}."
        )


def _check_delimiter(delimiter: str) -> None:
    try:
        csv.reader([], delimiter=delimiter)
        known = delimiter not in '"\r\n'
    except (TypeError, ValueError):
        known = False
    if not known:
        raise SettingsError(
            f"--delimiter is one character between the columns, such as ; or \\t, not {delimiter!r}."
        )


class Copy:
    """A temporary file without a name; several readers may read it at the same time."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (not in a `with`: the method `close` closes it)
        self._looked, self.size = 0, 0

    def write(self, piece: bytes, name: str) -> None:
        """Append bytes; raise SourceError if the disk is nearly full, OSError if it is full."""
        self.size += len(piece)
        if self.size >= self._looked:
            self._looked = self.size + ROOM_CHECKED_BYTES
            self._require_room(name)
        self._file.write(piece)

    def _require_room(self, name: str) -> None:
        disk = os.fstatvfs(self._file.fileno())
        free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        if free < min(ROOM_LEFT_BYTES, total * ROOM_LEFT_SHARE):
            raise SourceError(
                f"{name} is copied to {tempfile.gettempdir()}, where only {free / MB:,.0f} MB are free now; "
                "make room there, or let TMPDIR name a folder on another disk."
            )

    def opened(self) -> io.BufferedReader:
        """Return a new reader of the file, at its beginning."""
        self._file.flush()
        return io.BufferedReader(_Placed(self._file.fileno()), CHUNK_BYTES)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Placed(io.RawIOBase):
    """A reader with its own offset in an open file; closing the reader leaves the file open."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._at = descriptor, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: os.fstat(self._descriptor).st_size}
        self._at = start[whence] + offset
        return self._at

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]  # narrower than in io.RawIOBase
        piece = os.pread(self._descriptor, len(target), self._at)
        target[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def copied(chunks: Iterable[bytes], name: str, most: float, option: str = "--max-temporary") -> Copy:
    """Copy the chunks to disk; raise SourceError if they exceed ``most`` MB or the disk is nearly full."""
    copy = Copy()
    try:
        for chunk in chunks:
            copy.write(chunk, name)
            if copy.size > most * MB:
                raise SourceError(
                    f"{name} {too_large(most, option)}; raise that limit if so much is intended."
                )
    except BaseException:
        copy.close()
        raise
    return copy


def too_large(most: float, option: str) -> str:
    """Return the part of a message that says which size limit was exceeded."""
    return f"is longer than {most:,g} MB, the limit that {option} sets"


def chunks_of(file: IO[bytes]) -> Iterator[bytes]:
    return iter(partial(file.read, CHUNK_BYTES), b"")


@dataclass(frozen=True)
class File:
    """A file to read: its path or copy, its name in messages, and its format, compression and encoding."""

    bytes: str | Copy
    name: str
    format: str
    compression: str = ""
    encoding: str = "utf-8"

    def open(self) -> io.BufferedReader:
        return self.bytes.opened() if isinstance(self.bytes, Copy) else open(self.bytes, "rb")


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Context manager: turn errors of the disk and of decompression into a SourceError about ``name``."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(
            f"{name} is damaged or cut off ({first_line(error)}); fetch or compress it again."
        ) from error
    except OSError as error:
        raise SourceError(
            f"{name} cannot be read ({error.strerror or first_line(error)}); check the file, "
            "its permissions and the room for temporary files."
        ) from error


@contextmanager
def opened(file: File, reading: Reading) -> Iterator[IO[bytes]]:
    """Context manager: open a text file, unpack it, and convert it to UTF-8.

    Raises SourceError if the file is not text or `zstandard` is missing, EOFError if a packed file is empty.
    """
    with _unpacked(file) as unpacked:
        head = unpacked.peek(HEAD_BYTES)
        _refuse_other_than_text(head, file)
        if reading.encoding_errors == "strict" or not head.startswith(BYTE_ORDER_MARKS):
            _refuse_wide(head, file)
        if _is_utf8(file.encoding):
            yield unpacked
            return
        recoded = _recoded(unpacked, file.name, file.encoding, reading.encoding_errors)
        with io.BufferedReader(_Chunks(recoded)) as text:
            yield text


@contextmanager
def opened_binary(file: File, reading: Reading) -> Iterator[IO[bytes]]:
    """Context manager: open a file in a binary format (Parquet); a packed file is first unpacked to disk.

    Raises the errors of `opened`, and SourceError if the unpacked file does not fit on the disk.
    """
    with _unpacked(file) as unpacked:
        if not file.compression:
            yield unpacked
            return
        with copied(chunks_of(unpacked), file.name, reading.max_temporary) as copy, copy.opened() as bytes:
            yield bytes


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


@contextmanager
def _unpacked(file: File) -> Iterator[io.BufferedReader]:
    with ExitStack() as stack:
        packed = stack.enter_context(file.open())
        if not file.compression:
            yield packed
            return
        if not packed.peek(1):
            raise EOFError("it is empty")
        if file.compression == ".gz":
            yield stack.enter_context(io.BufferedReader(gzip.GzipFile(fileobj=packed)))
        else:
            yield stack.enter_context(io.BufferedReader(_Chunks(_zstd_chunks(packed, file.name))))


class _Chunks(io.RawIOBase):
    """A file-like reader over an iterator of bytes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]  # narrower than in io.RawIOBase
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _zstd_chunks(packed: IO[bytes], name: str) -> Iterator[bytes]:
    """Unpack one Zstandard frame after another; zstandard's own reader does not notice a truncated file.

    Raises EOFError if the last frame is truncated or a frame is damaged.
    """
    try:
        import zstandard
    except ImportError:
        raise SourceError(
            f"{name} needs a package that is not installed; pip install zstandard, or unpack it."
        ) from None
    unpacker = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
    frame = None
    try:
        while rest := packed.read(ZSTD_CHUNK_BYTES):
            while rest:
                frame = frame or unpacker.decompressobj()
                yield frame.decompress(rest)
                rest = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise EOFError(str(error)) from error
    if frame is not None:
        raise EOFError("its end is missing")


def _recoded(file: IO[bytes], name: str, encoding: str, errors: str) -> Iterator[bytes]:
    """Convert a file from `encoding` to UTF-8; raise SourceError for a byte that is invalid in `encoding`."""
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    line = 1
    try:
        for chunk in chain(chunks_of(file), [b""]):
            text = decoder.decode(chunk, final=not chunk)
            line += text.count("\n")
            yield storable(text).encode()
    except UnicodeError as error:
        if isinstance(error, UnicodeDecodeError):
            line += error.object[: error.start].decode(encoding, "ignore").count("\n")
        raise undecodable(name, line, encoding) from error


# MAGIC: the first bytes of files in binary formats → the name of the format, and what to do with such a file.

UNPACK, CONVERT = "unpack it first", "convert it to text first"
MAGIC = {
    b"\x1f\x8b\x08": ("gzip data", "let its name end in .gz, or unpack it first"),
    b"\x28\xb5\x2f\xfd": ("Zstandard data", "let its name end in .zst, or unpack it first"),
    b"\xfd7zXZ\x00": ("xz data", UNPACK),
    **{b"BZh%d1AY&SY" % level: ("bzip2 data", UNPACK) for level in range(1, 10)},
    b"\x04\x22\x4d\x18": ("LZ4 data", UNPACK),
    b"PK\x03\x04": ("a ZIP archive (as .docx, .xlsx and .epub are)", UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", UNPACK),
    b"Rar!\x1a\x07": ("a RAR archive", UNPACK),
    b"PAR1\x15": ("Parquet", "let its name end in .parquet, or say --format parquet"),
    b"ARROW1\x00\x00": ("Arrow data", CONVERT),
    b"Obj\x01": ("Avro data", CONVERT),
    b"%PDF-": ("a PDF", CONVERT),
    b"\xd0\xcf\x11\xe0": ("an old Office document", CONVERT),
    b"SQLite format 3\x00": ("an SQLite database", CONVERT),
    b"\x89PNG": ("a picture", CONVERT),
    b"\xff\xd8\xff": ("a picture", CONVERT),
    b"\x7fELF": ("a program", CONVERT),
}


def _refuse_other_than_text(head: bytes, file: File) -> None:
    """Raise SourceError if the first bytes of a file are those of a binary format."""
    for magic, (kind, advice) in MAGIC.items():
        if head.startswith(magic):
            raise SourceError(f"{file.name} holds {kind}, not {file.format}; {advice}.")
    if head[257:262] == b"ustar":
        raise SourceError(f"{file.name} holds a tar archive, not {file.format}; {UNPACK}.")


def _refuse_wide(head: bytes, file: File) -> None:
    """Raise SourceError if zero bytes show that a file read as UTF-8 is UTF-16, UTF-32 or all zeros."""
    zeros = head.count(0)
    if not _is_utf8(file.encoding) or b"\x00" not in head[:4] or zeros * 4 <= len(head):
        return
    if zeros == len(head):
        raise SourceError(
            f"{file.name} holds nothing but zeros at its beginning, not text; download it again."
        )
    width = 32 if zeros * 5 > len(head) * 3 else 16
    order = "" if head.startswith(BYTE_ORDER_MARKS) else "-le" if head[0] else "-be"
    raise SourceError(
        f"{file.name}:1 is not UTF-8; by its first bytes it is UTF-{width}, which "
        f"--encoding utf-{width}{order} reads, or binary."
    )


# Shared parts of messages


def undecodable(name: str, line: int, encoding: str = "UTF-8") -> SourceError:
    return SourceError(
        f"{name}:{line} is not {encoding}; name its encoding (--encoding latin-1, utf-16, …), or "
        "--encoding-errors replace reads each invalid byte as U+FFFD."
    )


def storable(text: str) -> str:
    """Replace each unpaired surrogate, which UTF-8 cannot encode, by U+FFFD; offsets stay the same."""
    try:
        text.encode()  # nearly always succeeds, and is ten times faster than the regular expression
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", "\ufffd", text)
    return text


def first_line(error: Exception) -> str:
    return storable(str(error)).strip().partition("\n")[0] or type(error).__name__
