"""Turn the sources of a corpus into one stream of documents.

1. A source is a file, a folder, standard input (``-``) or a dataset of the hub (``hf:NAME``).
2. A source that can be read only once (standard input, a pipe, the hub) is first copied to disk, because a
   corpus is read twice: once to be checked, hashed and counted, once to be annotated.
3. Each file is unpacked (.gz, .zst; ``ingest.corpus.unpacked``) and read row by row in the format
   (``ingest.corpus.formats``) given by its name or by --format.
4. A row becomes a ``Document``, which has the row's text, and all other values as metadata (valid JSON).

Only one row (for Parquet, one small batch) is in memory, so memory use does not grow with the corpus.
"""

import errno
import hashlib
import json
import math
import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import IO, Any, Self

from annotate_transformer.ingest.corpus.formats import ENDINGS, format_named, format_of, rows
from annotate_transformer.ingest.corpus.row import (
    BYTE_ORDER_MARK,
    Bad,
    Row,
    listed,
    refuse_long_text,
    require_column,
)
from annotate_transformer.ingest.corpus.unpacked import (
    CHUNK_BYTES,
    COMPRESSIONS,
    Copy,
    File,
    Reading,
    chunks_of,
    copied,
    explained,
    first_line,
    opened,
    storable,
)
from annotate_transformer.ingest.errors import SourceError
from annotate_transformer.ingest.quiet import without_advice

DEEPEST_METADATA = 200  # maximum number of nesting levels in metadata, far below Python's recursion limit
HIDDEN_FOLDERS = ("__MACOSX",)  # folders with these names are skipped, as are all names that begin with a dot


@dataclass(frozen=True)
class Document:
    """One text of a corpus.

    `source`: a label of the file and of the row or line, for people;
    `metadata`: all other values of the row, as valid JSON.
    """

    source: str
    text: str
    metadata: dict[str, object]


@dataclass(frozen=True)
class Scan:
    """Totals of one whole pass over a corpus; `sha256` is the hash of all texts and metadata, in order."""

    sha256: str
    documents: int
    characters: int
    skipped: int


class Pass:
    """One pass over a corpus. Iterate over the pass for the documents, then call `scan` for the totals."""

    def __init__(self, records: Iterator[Document | Bad], sources: Sequence[str]) -> None:
        self._records, self._sources = records, sources
        self._digest = hashlib.sha256()
        self._documents = self._characters = self._skipped = 0

    def __iter__(self) -> Iterator[Document]:
        for record in self._records:
            if isinstance(record, Bad):
                self._skipped += 1
                continue
            self._documents += 1
            self._characters += len(record.text)
            for part in (record.text.encode(), _canonical(record.metadata)):
                self._digest.update(len(part).to_bytes(8, "big"))
                self._digest.update(part)
            yield record

    def scan(self) -> Scan:
        """Read the remaining documents, and return the totals of the whole pass.

        Raises SourceError if a source is invalid, or if all documents are empty.
        """
        for _ in self:
            pass
        if not self._documents:
            skipped = self._skipped
            raise SourceError(
                f"The corpus is empty: {listed(self._sources)} gave no text and {skipped} bad "
                f"line{'' if skipped == 1 else 's'}; name at least one source with text in it."
            )
        return Scan(self._digest.hexdigest(), self._documents, self._characters, self._skipped)


class Corpus:
    """The documents of several sources, in the same order at every iteration.

    Iterating raises SourceError at the first error; ``scan`` finds errors before a model is loaded.
    """

    def __init__(
        self, sources: Sequence[str], *, notice: Callable[[str], None] = lambda told: None, **reading: Any
    ) -> None:
        """Check the options; nothing is read yet. Raises SettingsError for an invalid option.

        `notice`: called with a sentence about skipped files of a folder, or about the format of standard
        input; `reading`: the fields of `ingest.corpus.unpacked.Reading`.
        """
        self.sources = tuple(sources)
        self.reading = Reading(**reading)
        self._format = None if self.reading.format is None else format_named(self.reading.format)
        self._notice, self._noticed = notice, set[str]()
        self._copies: dict[str, File] = {}
        self._closed = False

    def described(self) -> list[str]:
        """Describe the sources of the corpus in a list of texts, for the record of a run."""
        return list(self.sources)

    def read(self) -> Pass:
        """Return a pass over all documents; nothing is read until the pass is iterated."""
        return Pass(self.records(), self.sources)

    def scan(self) -> Scan:
        """Read everything once, to find errors early and to identify the corpus by its content.

        Raises SourceError if a source is invalid, or if all documents are empty.
        """
        return self.read().scan()

    def __iter__(self) -> Iterator[Document]:
        return iter(self.read())

    def close(self) -> None:
        """Delete the temporary copies of streams and datasets; the corpus cannot be read afterwards."""
        self._closed = True
        for file in self._copies.values():
            assert isinstance(file.bytes, Copy)
            file.bytes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def records(self) -> Iterator[Document | Bad]:
        assert not self._closed, "the copies are deleted after close()"
        for source in self.sources:
            for file in self._files(source):
                yield from self._read(file)

    def _files(self, source: str) -> Iterator[File]:
        """Yield the files of a source; raise SourceError if the source does not exist or cannot be read."""
        if source == "-" or source.startswith("hf:"):
            yield self._copied(source)
        elif os.path.isdir(source):
            yield from self._files_of_folder(source)
        elif _is_stream(source):  # such as the pipe that a shell creates for <(command)
            yield self._copied(source)
        elif os.path.isfile(source):
            yield self._file(source)
        elif os.path.exists(source):
            raise SourceError(f"{storable(source)} is a device, not a file; name a file, a folder or a pipe.")
        else:
            raise SourceError(
                f"There is no file or folder {storable(source)!r} (or the folder it lies in may "
                "not be read); check the path."
            )

    def _file(self, path: str) -> File:
        """Return a file with its format; raise SourceError if neither name nor --format gives a format."""
        compression, ending = _endings(path)
        form = self._format or format_of(ending)
        if form is None:
            has = f"an ending that is not read ({storable(ending)})" if ending else "no ending"
            raise SourceError(
                f"{storable(path)} has {has}; {', '.join(ENDINGS)} are read (.gz or .zst may follow). "
                "Unpack or convert it, or give its format: --format text reads it as plain text."
            )
        return File(path, storable(path), form, compression, self.reading.encoding)

    def _files_of_folder(self, folder: str) -> Iterator[File]:
        """Yield the readable files of a folder; raise SourceError if there are none."""
        name, empty, left_out = storable(folder), True, Counter[str]()
        with explained(name):
            for path in _paths_within(folder, left_out):
                ending = _endings(path)[1]
                if self._format or format_of(ending):
                    empty = False
                    yield self._file(path)
                else:
                    left_out[storable(ending) or "without an ending"] += 1
        told = ", ".join(f"{count:,} {kind}" for kind, count in left_out.most_common())
        if empty:
            raise SourceError(
                f"The folder {name} has no {', '.join(ENDINGS)} file in it (.gz or .zst may "
                f"follow){f', only {told}' if told else ''}; name another folder or the files themselves."
            )
        if told:
            self._tell(f"left out of {name}: {told}")

    def _tell(self, told: str) -> None:
        if told not in self._noticed:
            self._noticed.add(told)
            self._notice(told)

    def _copied(self, source: str) -> File:
        """Return the copy on disk of a source that can be read only once; the first call makes the copy."""
        if source not in self._copies:
            if source.startswith("hf:"):
                self._copies[source] = _copy_of_dataset(source, self.reading)
            else:
                self._copies[source] = self._copy_of_stream(source)
        return self._copies[source]

    def _copy_of_stream(self, source: str) -> File:
        """Copy a stream to disk; raise SourceError if the stream is closed, breaks off or is too long."""
        name = "standard input" if source == "-" else storable(source)
        compression, ending = _endings(source)
        form, reading = self._format or format_of(ending), self.reading
        with explained(name), _stream(source) as stream:
            first = stream.read(CHUNK_BYTES)
            chunks = chain([first], chunks_of(stream))
            if form is None and not _may_be_json(first):  # plain text: the whole stream is one document
                copy = copied(chunks, name, reading.max_document, "--max-document")
            else:
                copy = copied(chunks, name, reading.max_temporary)
        if form is None:
            try:
                form = _sniffed(File(copy, name, "text", encoding=reading.encoding), reading)
            except SourceError:
                copy.close()
                raise
            if copy.size:
                self._tell(f"{name} is read as {form}; give another format with --format")
        return File(copy, name, form, compression, reading.encoding)

    def _read(self, file: File) -> Iterator[Document | Bad]:
        """Yield the documents and bad rows of one file; rows with an empty text are left out."""
        for source, row in rows(file, self.reading):
            record = _document(source, row, self.reading)
            if isinstance(record, Bad) and not self.reading.skip_bad:
                raise SourceError(
                    f"{source} {record.why}; {record.remedy}, or --skip-bad skips and counts such lines."
                )
            if isinstance(record, Bad) or record.text:
                yield record


# The next functions find the files of a source.


def _endings(path: str) -> tuple[str, str]:
    """Return a path's compression ending and format ending, such as .gz and .jsonl, or "" if missing."""
    stem, ending = os.path.splitext(path.lower())
    return (ending, os.path.splitext(stem)[1]) if ending in COMPRESSIONS else ("", ending)


def _is_stream(source: str) -> bool:
    """Return whether the source can be read only once: a pipe, a terminal, or a path such as /dev/stdin."""
    try:
        mode = os.stat(source).st_mode
    except (OSError, ValueError):
        return False
    if stat.S_ISCHR(mode):
        return _is_terminal(source)
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or (stat.S_ISREG(mode) and source.startswith("/dev/"))


def _is_terminal(source: str) -> bool:
    with suppress(OSError), open(source, "rb", buffering=0) as file:
        return file.isatty()
    return False


def _paths_within(folder: str, left_out: Counter[str]) -> Iterator[str]:
    """Yield the paths of all files below a folder, sorted, without following links to folders.

    Links to folders could form a cycle. Counts skipped files and folders in ``left_out``, by kind.
    """
    folders = [iter(_entries(folder))]
    while folders:
        entry = next(folders[-1], None)
        if entry is None:
            folders.pop()
        elif entry.name.startswith(".") or entry.name in HIDDEN_FOLDERS:
            left_out["hidden"] += 1
        elif entry.is_dir(follow_symlinks=False):
            try:
                folders.append(iter(_entries(entry.path)))
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                left_out["in too deep a folder"] += 1
        elif _is_file(entry):
            yield entry.path
        else:
            left_out["not a file (links to folders, broken links, pipes, devices)"] += 1


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError as error:
        if error.errno == errno.ELOOP:  # the entry is a symbolic link that leads back to itself
            return False
        raise


def _stream(source: str) -> AbstractContextManager[IO[bytes]]:
    if source != "-":
        return open(source, "rb")
    if sys.stdin is None or sys.stdin.closed or not hasattr(sys.stdin, "buffer"):
        raise SourceError("Standard input is closed; pipe a text into it or name a file.")
    return nullcontext(sys.stdin.buffer)


def _may_be_json(first: bytes) -> bool:
    text = first.removeprefix(BYTE_ORDER_MARK.encode()).lstrip()
    return not text or text[:1] in b"{["


def _sniffed(file: File, reading: Reading) -> str:
    """Guess the format of a stream without a file name: `text`, unless the stream is certainly JSON.

    JSON lines have a whole object on the first line; a JSON array begins with a whole object.
    """
    with explained(file.name), opened(file, reading) as content:
        lines = iter(partial(content.readline, reading.line_bytes + 1), b"")
        text = next((line for line in lines if line.strip(b"\xef\xbb\xbf \t\r\n")), b"")
        with suppress(ValueError, RecursionError):
            if isinstance(json.loads(text.decode("utf-8-sig")), dict):
                return "jsonl"
        text = (text + content.read(CHUNK_BYTES))[:CHUNK_BYTES]
    start = text.decode("utf-8-sig", "ignore").lstrip()
    with suppress(ValueError, RecursionError):
        if start[:1] == "[" and isinstance(json.JSONDecoder().raw_decode(start[1:].lstrip())[0], dict):
            return "json"
    return "text"


def _copy_of_dataset(source: str, reading: Reading) -> File:
    """Copy a Hugging Face dataset to disk as JSON lines; raise SourceError if it cannot be loaded."""
    with explained(source), without_advice():
        copy = copied(_lines_of_dataset(source, reading.text_column), source, reading.max_temporary)
    return File(copy, source, "jsonl")


def _lines_of_dataset(source: str, text_column: str) -> Iterator[bytes]:
    for number, row in enumerate(_rows_of_dataset(source)):
        if number == 0:
            require_column(text_column, list(row), source)
        yield json.dumps(row, default=str).encode() + b"\n"


def _rows_of_dataset(source: str) -> Iterator[dict[str, object]]:
    """Yield the rows of the dataset hf:NAME[:CONFIG][@SPLIT], without decoding images and audio.

    Raises SourceError if `datasets` is missing, the hub cannot be reached, or it has no such dataset.
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
    except Exception as error:  # the library datasets may raise any exception here
        raise SourceError(
            f"The dataset {source} cannot be loaded ({first_line(error)}); check its name, its "
            "configuration, its split and whether you may read it."
        ) from error


# The next functions turn rows into documents.


def _document(source: str, row: Row, reading: Reading) -> Document | Bad:
    column = reading.text_column
    if isinstance(row, Bad):
        return row
    if column not in row:
        return Bad(f'has no "{column}" (it has {listed(row)})')
    text = row[column]
    if not isinstance(text, str):
        return Bad(f'has a "{column}" that is {type(text).__name__}, not text')
    if too_long := refuse_long_text(text, reading):
        return too_long
    rest = {key: value for key, value in row.items() if key != column}
    try:
        return Document(source, storable(text), _json_object(rest, 1))
    except RecursionError:
        return Bad("is nested too deeply")


def _json_object(values: dict[str, object], depth: int) -> dict[str, object]:
    return {storable(str(key)): _json_value(value, depth) for key, value in values.items()}


def _json_value(value: object, depth: int) -> object:
    """Convert a value to one that JSON can represent; dates, bytes and NaN become strings.

    Raises RecursionError if the value is nested deeper than DEEPEST_METADATA.
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
    return storable(str(value))


def _canonical(metadata: dict[str, object]) -> bytes:
    return json.dumps(
        metadata, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    ).encode()
