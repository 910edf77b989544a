"""From what a person names as the corpus to one stream of documents.

1. A source is a file, a folder, standard input (``-``) or a dataset of the hub (``hf:NAME``).
2. What can be read only once (standard input, a pipe, the hub) is first copied to disk,
   because a corpus is read several times: ``Corpus.scan`` checks and identifies it, its tokens are
   counted, then it is annotated.
3. Each file is unpacked (.gz, .zst) and read row by row in its format; a .txt is one row.
4. A row becomes a ``Document``: its text, and everything else as metadata that is valid JSON.

One row, or for parquet one small batch, is held at a time: memory does not grow with the corpus.
"""

import codecs
import csv
import gzip
import hashlib
import io
import json
import math
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import IO, Self

import pyarrow as pa
import pyarrow.parquet as pq

from ingest.errors import SettingsError, SourceError
from ingest.quiet import without_advice

COMPRESSIONS = (".gz", ".zst")
BYTE_ORDER_MARK = "\ufeff"
CHUNK_BYTES = 1 << 20
ZSTD_CHUNK_BYTES = 1 << 8  # a chunk is unpacked whole, and repetitive text packs a thousandfold
ZSTD_WINDOW_BYTES = 1 << 31  # what `zstd --long=31` asks for; the largest public corpora use it
PARQUET_BATCH_ROWS = 64
LARGEST_CSV_FIELD = 2**31 - 1  # the most that a C long holds on every platform
DEEPEST_METADATA = 200  # far below Python's recursion limit, wherever we are called from
NAMES_LISTED = 20


@dataclass(frozen=True)
class Document:
    """One text; ``source`` is for people, ``metadata`` what else its row held, valid as JSON."""

    source: str
    text: str
    metadata: dict[str, object]


@dataclass(frozen=True)
class Scan:
    """What one whole pass found; ``sha256`` is over texts and metadata in order, nothing else."""

    sha256: str
    documents: int
    characters: int
    skipped: int


@dataclass(frozen=True)
class _Bad:
    """Why a row gives no document: an error or, under ``skip_bad``, counted."""

    why: str


@dataclass(frozen=True)
class _File:
    """Where the bytes lie, what people call them, and how they are to be read."""

    path: str
    name: str
    ending: str
    compression: str = ""


_Row = dict[str, object] | _Bad
_Rows = Iterator[tuple[str, _Row]]


class Corpus:
    """The documents of several sources, in order, the same at every iteration.

    Iterating raises SourceError at the first thing that cannot be read; ``scan`` meets all of
    them before a model is loaded.
    """

    def __init__(
        self,
        sources: Sequence[str],
        *,
        text_column: str = "text",
        encoding_errors: str = "strict",
        skip_bad: bool = False,
    ) -> None:
        """Reads nothing yet. Raises SettingsError if encoding_errors is not strict or replace."""
        if encoding_errors not in ("strict", "replace"):
            raise SettingsError(f"--encoding-errors is strict or replace, not {encoding_errors}.")
        self.sources = tuple(sources)
        self._text_column = text_column
        self._encoding_errors = encoding_errors
        self._skip_bad = skip_bad
        self._copies: dict[str, _File] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._closed = False

    def scan(self) -> Scan:
        """Read everything once, to find errors early and to know the corpus by its content.

        Raises SourceError if a source is wrong or no document has any character in it.
        """
        digest = hashlib.sha256()
        documents = characters = skipped = 0
        for record in self._records():
            if isinstance(record, _Bad):
                skipped += 1
                continue
            documents += 1
            characters += len(record.text)
            for part in (record.text.encode(), _canonical(record.metadata)):
                digest.update(len(part).to_bytes(8, "big"))
                digest.update(part)
        if not documents:
            raise SourceError(
                f"The corpus is empty: {_listed(self.sources)} gave no text and {skipped} bad "
                f"line{'' if skipped == 1 else 's'}; name at least one source with text in it."
            )
        return Scan(digest.hexdigest(), documents, characters, skipped)

    def __iter__(self) -> Iterator[Document]:
        return (record for record in self._records() if isinstance(record, Document))

    def close(self) -> None:
        """Remove the copies on disk; the corpus cannot be read after that."""
        self._closed = True
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _records(self) -> Iterator[Document | _Bad]:
        assert not self._closed, "what can be read only once is gone after close()"
        for source in self.sources:
            for file in self._files(source):
                yield from self._read(file)

    def _files(self, source: str) -> Iterator[_File]:
        """Raises SourceError if nothing has that name."""
        if source == "-" or source.startswith("hf:"):
            yield self._copied(source)
        elif os.path.isdir(source):
            yield from _files_of_folder(source)
        elif os.path.isfile(source):
            yield _file(source)
        elif os.path.exists(source):  # a pipe, as the shell's <(command) makes
            yield self._copied(source)
        else:
            raise SourceError(
                f"There is no file or folder {_storable(source)!r} (or the folder it lies in may "
                "not be read); check the path."
            )

    def _copied(self, source: str) -> _File:
        """The copy on disk of what can be read only once, made when it is first asked for."""
        if source not in self._copies:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="annotate-")
            path = os.path.join(self._folder.name, str(len(self._copies)))
            if source.startswith("hf:"):
                self._copies[source] = _copy_of_dataset(source, path, self._text_column)
            else:
                self._copies[source] = _copy_of_stream(source, path)
        return self._copies[source]

    def _read(self, file: _File) -> Iterator[Document | _Bad]:
        """The documents and bad rows of one file; an empty text is neither."""
        rows_of = ROWS_OF_ENDING.get(file.ending, _text_row)
        with _explained(file.name), _opened(file) as opened:
            for source, row in rows_of(opened, file.name, self._text_column, self._encoding_errors):
                record = _document(source, row, self._text_column)
                if isinstance(record, _Bad) and not self._skip_bad:
                    raise SourceError(
                        f"{source} {record.why}; put it right, or --skip-bad counts such lines and goes on."
                    )
                if isinstance(record, _Bad) or record.text:
                    yield record


# From a source to files


def _file(path: str) -> _File:
    stem, ending = os.path.splitext(path.lower())
    compression = ending if ending in COMPRESSIONS else ""
    if compression:
        ending = os.path.splitext(stem)[1]
    return _File(path, _storable(path), ending, compression)


def _files_of_folder(folder: str) -> Iterator[_File]:
    """Raises SourceError if no file in it has an ending that we read."""
    name, empty = _storable(folder), True
    with _explained(name):
        for path in _paths_within(folder):
            file = _file(path)
            if file.ending in ROWS_OF_ENDING:
                empty = False
                yield file
    if empty:
        raise SourceError(
            f"The folder {name} has no {', '.join(ROWS_OF_ENDING)} file in it (.gz or .zst may "
            "follow); name another folder or the files themselves."
        )


def _paths_within(folder: str) -> Iterator[str]:
    """In order of path, one folder in memory at a time; links to folders could lead in circles."""
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.is_dir(follow_symlinks=False):
            yield from _paths_within(entry.path)
        elif entry.is_file():
            yield entry.path


def _copy_of_stream(source: str, path: str) -> _File:
    """Raises SourceError if there is no standard input or it breaks off."""
    name = "standard input" if source == "-" else _storable(source)
    with _explained(name), open(path, "wb") as copy, _stream(source) as stream:
        shutil.copyfileobj(stream, copy)
    return _File(path, name, ".jsonl" if _begins_with_json_object(path) else ".txt")


def _stream(source: str) -> AbstractContextManager[IO[bytes]]:
    if source != "-":
        return open(source, "rb")
    if sys.stdin is None or sys.stdin.closed or not hasattr(sys.stdin, "buffer"):
        raise SourceError("Standard input is closed; pipe a text into it or name a file.")
    return nullcontext(sys.stdin.buffer)


def _begins_with_json_object(path: str) -> bool:
    with open(path, encoding="utf-8-sig", errors="replace", newline="\n") as file:
        first_line = next((line for line in file if line.strip()), "")
    try:
        return isinstance(json.loads(first_line), dict)
    except (ValueError, RecursionError):
        return False


def _copy_of_dataset(source: str, path: str, text_column: str) -> _File:
    """Raises SourceError as its rows do, or at once if they lack the column."""
    with _explained(source), without_advice(), open(path, "w", encoding="utf-8") as copy:
        for number, row in enumerate(_rows_of_dataset(source)):
            if number == 0:
                _require_column(text_column, list(row), source)
            copy.write(json.dumps(row, default=str) + "\n")
    return _File(path, source, ".jsonl")


def _rows_of_dataset(source: str) -> Iterator[dict[str, object]]:
    """The rows of hf:NAME[:CONFIG][@SPLIT]; images and sound stay undecoded.

    Raises SourceError if `datasets` is missing, the hub is out of reach or has no such dataset.
    """
    try:
        import datasets
    except ImportError:
        raise SourceError(
            f"{source} needs a package that is not installed; pip install datasets, or name a file."
        ) from None
    path, _, split = source.removeprefix("hf:").partition("@")
    name, _, config = path.partition(":")
    try:
        yield from datasets.load_dataset(name, config or None, split=split or "train", streaming=True).decode(
            False
        )
    except ConnectionError as error:
        raise SourceError(
            f"The hub cannot be reached for {source} (offline?); connect, or name a local file."
        ) from error
    except Exception as error:  # a dataset's reader may raise anything
        raise SourceError(
            f"The dataset {source} cannot be loaded ({_first_line(error)}); check its name, its "
            "configuration, its split and whether you may read it."
        ) from error


# From a file to rows


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Raises SourceError for whatever the disk or a compression does while ``name`` is read."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(
            f"{name} is damaged or cut off ({_first_line(error)}); fetch or compress it again."
        ) from error
    except OSError as error:
        raise SourceError(
            f"{name} cannot be read ({error.strerror or _first_line(error)}); check the file, "
            "its permissions and the room for temporary files."
        ) from error


@contextmanager
def _opened(file: _File) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked; parquet is read from its end, so it is unpacked to disk.

    Raises SourceError if `zstandard` is missing, EOFError if a packed file has no byte in it.
    """
    with open(file.path, "rb") as packed:
        if not file.compression:
            yield packed
            return
        if not packed.peek(1):
            raise EOFError("it is empty")
        with _unpacked(packed, file) as unpacked:
            if file.ending != ".parquet":
                yield unpacked
                return
            with tempfile.TemporaryFile() as copy:
                shutil.copyfileobj(unpacked, copy)
                copy.seek(0)
                yield copy


def _unpacked(packed: IO[bytes], file: _File) -> IO[bytes]:
    if file.compression == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=packed))
    return io.BufferedReader(_Chunks(_zstd_chunks(packed, file.name)))


class _Chunks(io.RawIOBase):
    """A file made of chunks of bytes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
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
    """Frame after frame; the package's own reader would take a cut-off file for a whole one.

    Raises EOFError if the last frame is cut off or a frame is damaged.
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


def _text_row(file: IO[bytes], name: str, column: str, errors: str) -> _Rows:
    """The whole text with its line ends as they are. Raises SourceError if it is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    pieces, lines = [], 0
    try:
        while chunk := file.read(CHUNK_BYTES):
            pieces.append(decoder.decode(chunk))
            lines += chunk.count(b"\n")
        pieces.append(decoder.decode(b"", final=True))
    except UnicodeDecodeError as error:
        raise _not_utf8(name, lines + _line_of(error)) from error
    yield name, {column: "".join(pieces).removeprefix(BYTE_ORDER_MARK)}


def _json_rows(file: IO[bytes], name: str, column: str, errors: str) -> _Rows:
    """Split at the byte of a line feed only: U+2028 and the like may stand inside a string.

    Raises SourceError if a line is not UTF-8.
    """
    for number, line in enumerate(file, 1):
        try:
            text = line.decode("utf-8", errors)
        except UnicodeDecodeError as error:
            raise _not_utf8(name, number) from error
        if number == 1:
            text = text.removeprefix(BYTE_ORDER_MARK)
        if text.strip():
            yield f"{name}:{number}", _json_row(text, column)


def _json_row(line: str, column: str) -> _Row:
    try:
        value = json.loads(line)
    except RecursionError:
        return _Bad("is nested too deeply")
    except ValueError as error:
        return _Bad(f"is not JSON ({str(error).partition(':')[0]})")
    if isinstance(value, str):
        return {column: value}
    return value if isinstance(value, dict) else _Bad("is neither a JSON object nor a string")


def _csv_rows(file: IO[bytes], name: str, column: str, errors: str) -> _Rows:
    """Rows by the line they begin on.

    Raises SourceError if the text is not UTF-8, a quote is wrong (one left open would swallow the
    rest of the file) or the column is missing.
    """
    csv.field_size_limit(LARGEST_CSV_FIELD)
    with io.TextIOWrapper(file, encoding="utf-8-sig", errors=errors, newline="") as text:
        reader = csv.reader(text, strict=True)
        try:
            header = next(reader, [])
            _require_column(column, header, name)
            line = reader.line_num + 1
            for fields in reader:
                if fields:
                    yield f"{name}:{line}", _csv_row(header, fields)
                line = reader.line_num + 1
        except UnicodeDecodeError as error:
            raise _not_utf8(name, reader.line_num + _line_of(error)) from error
        except csv.Error as error:
            raise SourceError(
                f"{name}:{reader.line_num} is not CSV ({error}); put its quotes right."
            ) from error


def _csv_row(header: list[str], fields: list[str]) -> _Row:
    if len(fields) > len(header):
        return _Bad(f"has {len(fields)} fields under a header of {len(header)}")
    return dict(zip(header, fields, strict=False))


def _parquet_rows(file: IO[bytes], name: str, column: str, errors: str) -> _Rows:
    """Rows by their number. Raises SourceError if one is not UTF-8 or the file is damaged.

    Without a pre-buffer, because that holds a whole row group, often the whole file.
    """
    number = 0
    try:
        with pq.ParquetFile(
            file,
            pre_buffer=False,
            buffer_size=CHUNK_BYTES,
            page_checksum_verification=True,
        ) as parquet:
            columns = parquet.schema_arrow.names
            _require_column(column, columns, name)
            for batch in parquet.iter_batches(PARQUET_BATCH_ROWS):
                values = (_parquet_values(array, errors) for array in batch.columns)
                for row in zip(*values, strict=True):
                    number += 1
                    yield f"{name}:{number}", dict(zip(columns, row, strict=True))
    except UnicodeDecodeError as error:
        raise _not_utf8(name, number + 1) from error
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        raise SourceError(
            f"{name} is damaged, or no parquet that can be read, after row {number} "
            f"({_first_line(error)}); fetch or write it again."
        ) from error


def _parquet_values(array: pa.Array, errors: str) -> Iterator[object]:
    """Strings are decoded here, because pyarrow does not check that they are UTF-8."""
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        yield from array.to_pylist()
        return
    for value in array.cast(pa.large_binary()).to_pylist():
        yield None if value is None else value.decode("utf-8", errors)


ROWS_OF_ENDING = {
    ".txt": _text_row,
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}


# From a row to a document


def _document(source: str, row: _Row, column: str) -> Document | _Bad:
    if isinstance(row, _Bad):
        return row
    if column not in row:
        return _Bad(f'has no "{column}" (it has {_listed(row)})')
    text = row[column]
    if not isinstance(text, str):
        return _Bad(f'has a "{column}" that is {type(text).__name__}, not text')
    rest = {key: value for key, value in row.items() if key != column}
    try:
        return Document(source, _storable(text), _json_object(rest, 1))
    except RecursionError:
        return _Bad("is nested too deeply")


def _json_object(values: dict[str, object], depth: int) -> dict[str, object]:
    return {_storable(str(key)): _json_value(value, depth) for key, value in values.items()}


def _json_value(value: object, depth: int) -> object:
    """The value if JSON has it, else what is closest: dates, bytes and NaN become strings.

    Raises RecursionError if it is nested more than DEEPEST_METADATA deep.
    """
    if depth > DEEPEST_METADATA:
        raise RecursionError
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else json.dumps(value)
    if isinstance(value, dict):
        return _json_object(value, depth + 1)
    if isinstance(value, list | tuple):
        return [_json_value(item, depth + 1) for item in value]
    return _storable(str(value))


def _storable(text: str) -> str:
    """Half a surrogate pair has no UTF-8; one character for one keeps every offset."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _canonical(metadata: dict[str, object]) -> bytes:
    return json.dumps(
        metadata, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    ).encode()


# What the sentences have in common


def _require_column(column: str, columns: list[str], name: str) -> None:
    """Raises SourceError unless exactly one column has that name."""
    if columns.count(column) != 1:
        raise SourceError(
            f'{name} has {"no" if column not in columns else "more than one"} column "{column}"; '
            f"--text-column takes one of those it has: {_listed(columns)}."
        )


def _not_utf8(name: str, line: int) -> SourceError:
    return SourceError(
        f"{name}:{line} is not UTF-8; convert the file, or --encoding-errors replace goes on with "
        "U+FFFD in place of each bad byte."
    )


def _line_of(error: UnicodeDecodeError) -> int:
    """The line of the bad byte, counted from 1 in the chunk that was being decoded."""
    return error.object.count(b"\n", 0, error.start) + 1


def _listed(names: Iterable[object]) -> str:
    shown = [_storable(str(name)) for name in names]
    more = ["…"] if len(shown) > NAMES_LISTED else []
    return ", ".join(shown[:NAMES_LISTED] + more) or "nothing"


def _first_line(error: Exception) -> str:
    return _storable(str(error)).strip().partition("\n")[0] or type(error).__name__
