"""The formats of a corpus: from a file to rows.

To add a format, write a function that yields its rows and name it in ``FORMATS``; nothing else knows
the formats one by one. A row is what a document's text and metadata are taken from, or a ``Bad``
one. No more than one row, or for parquet one small batch, is held at a time.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from annotate_transformer.ingest.corpus.parquet_pages import Pages, pages
from annotate_transformer.ingest.corpus.unpacked import (
    CHUNK_BYTES,
    MB,
    File,
    Reading,
    chunks_of,
    explained,
    first_line,
    opened,
    opened_binary,
    storable,
    too_large,
    undecodable,
)
from annotate_transformer.ingest.errors import SettingsError, SourceError

BYTE_ORDER_MARK = "\ufeff"
PARQUET_BATCH_ROWS = 64
PARQUET_BATCH_BYTES = 1 << 26
PARQUET_PAGE_DOCUMENTS = 8  # a page may hold many texts: writers put up to 1,024 of them into one
LARGEST_CSV_FIELD = 2**31 - 1  # the most that a C long holds on every platform
LONGEST_JSON_TOKEN = 16  # characters that a number's sign, a literal or an escape may lack where text is cut
DELIMITERS = ",;\t|"
NAMES_LISTED = 20


@dataclass(frozen=True)
class Bad:
    """Why a row gives no document: an error or, under ``skip_bad``, counted."""

    why: str
    remedy: str = "put it right"


Row = dict[str, object] | Bad
Rows = Iterator[tuple[str, Row]]


@dataclass(frozen=True)
class Format:
    """How the files with these endings are read."""

    endings: tuple[str, ...]
    rows: Callable[[IO[bytes], str, Reading], Rows]
    opened: Callable[[File, Reading], AbstractContextManager[IO[bytes]]] = opened


def rows(file: File, reading: Reading) -> Rows:
    """The rows of a file, each with the name that people find it by.

    Raises SourceError where the file is not of its format; a row that is wrong by itself is a `Bad`.
    """
    form = FORMATS[file.format]
    with explained(file.name), form.opened(file, reading) as content:
        yield from form.rows(content, file.name, reading)


def format_named(name: str) -> str:
    """The format that --format names, by its name or by an ending of its.

    Raises SettingsError if there is none.
    """
    asked = name.lower().removeprefix(".")
    for known, form in FORMATS.items():
        if asked == known or f".{asked}" in form.endings:
            return known
    raise SettingsError(f"--format is one of {', '.join(FORMATS)}, not {storable(name)!r}.")


def format_of(ending: str) -> str | None:
    """The format of the files that end like this, if there is one."""
    return next((name for name, form in FORMATS.items() if ending in form.endings), None)


# Text


def _text_row(file: IO[bytes], name: str, reading: Reading) -> Rows:
    """The whole text with its line ends as they are. Raises SourceError if it is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")(reading.encoding_errors)
    pieces, lines, size = [], 0, 0
    try:
        for chunk in chunks_of(file):
            size += len(chunk)
            if size > reading.document_bytes:
                yield name, _too_long_document(reading)
                return
            pieces.append(decoder.decode(chunk))
            lines += chunk.count(b"\n")
        pieces.append(decoder.decode(b"", final=True))
    except UnicodeDecodeError as error:
        raise undecodable(name, lines + _line_of(error)) from error
    yield name, {reading.text_column: "".join(pieces).removeprefix(BYTE_ORDER_MARK)}


# JSON


def _json_lines(file: IO[bytes], name: str, reading: Reading) -> Rows:
    """Split at the byte of a line feed only: U+2028 and the like may stand inside a string.

    Raises SourceError if a line is not UTF-8 or the file is one JSON array.
    """
    longest, begun = reading.line_bytes, False
    for number, line in enumerate(iter(partial(file.readline, longest + 1), b""), 1):
        if len(line) > longest and not line.endswith(b"\n"):
            yield f"{name}:{number}", _too_long_line(reading)
            _skip_line(file)
            continue
        try:
            text = line.decode("utf-8", reading.encoding_errors)
        except UnicodeDecodeError as error:
            raise undecodable(name, number) from error
        if number == 1:
            text = text.removeprefix(BYTE_ORDER_MARK)
        if text.strip():
            if not begun:
                _refuse_array(text, name)
            begun = True
            yield f"{name}:{number}", _json_row(text, reading.text_column)


def _skip_line(file: IO[bytes]) -> None:
    """Read on to the end of the line, of which little is held."""
    for piece in iter(partial(file.readline, CHUNK_BYTES), b""):
        if piece.endswith(b"\n"):
            return


def _refuse_array(line: str, name: str) -> None:
    """Raises SourceError if an array of objects begins with this line."""
    if re.fullmatch(r"\s*\[\s*(\{.*)?", line, re.DOTALL):
        raise SourceError(
            f"{name} is one JSON array, not an object or a string on each line; --format json reads it."
        )


def _json_row(line: str, column: str) -> Row:
    try:
        return _row_of(json.loads(line), column)
    except RecursionError:
        return Bad("is nested too deeply")
    except ValueError as error:
        return Bad(f"is not JSON ({str(error).partition(':')[0]})")


def _row_of(value: object, column: str) -> Row:
    if isinstance(value, str):
        return {column: value}
    return value if isinstance(value, dict) else Bad("is neither a JSON object nor a string")


def _json_values(file: IO[bytes], name: str, reading: Reading) -> Rows:
    """The values of one array, or values one after another, by their number.

    Raises SourceError where the text is not JSON, not UTF-8, or a value is too long: without its
    end nobody knows where the next one begins.
    """
    text, number = _JsonText(file, name, reading), 0
    array = text.take("[")
    while not (text.take("]") if array else text.at_end()):
        if number and array:
            text.require(",", number)
        number += 1
        value = text.value(number)
        yield f"{name}:{number}", _whole_file(value, reading) or _row_of(value, reading.text_column)
    if not text.at_end():
        raise SourceError(f"{name} goes on after the end of its array; put one array into a file.")


def _whole_file(value: object, reading: Reading) -> Bad | None:
    """What a file that is one object gets, if the documents stand in a list of that."""
    if not isinstance(value, dict) or reading.text_column in value:
        return None
    lists = [key for key, item in value.items() if isinstance(item, list) and item and _is_row(item[0])]
    if not lists:
        return None
    why = f'has no "{reading.text_column}", but a list in {listed(lists)}'
    return Bad(why, "put that list alone into the file if it holds the documents")


def _is_row(value: object) -> bool:
    return isinstance(value, dict | str)


class _JsonText:
    """JSON read value by value; of the text no more is held than the value under way."""

    def __init__(self, file: IO[bytes], name: str, reading: Reading) -> None:
        self._file, self._name, self._reading = file, name, reading
        self._decoder = codecs.getincrementaldecoder("utf-8")(reading.encoding_errors)
        self._parser = json.JSONDecoder()
        self._text, self._at, self._lines, self._ended = "", 0, 0, False
        while not self._text and not self._ended:
            self._more()
        self._text = self._text.removeprefix(BYTE_ORDER_MARK)

    def at_end(self) -> bool:
        """Pass over white space; True if nothing follows it."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return False
            if self._ended:
                return True
            self._more()

    def take(self, character: str) -> bool:
        """Pass over white space, and over the character if it is what follows."""
        if self.at_end() or self._text[self._at] != character:
            return False
        self._at += 1
        return True

    def require(self, character: str, number: int) -> None:
        if not self.take(character):
            raise self._wrong(f"Expecting '{character}' delimiter", self._at, number)

    def value(self, number: int) -> object:
        """The value that begins here, the number-th; it is parsed again with more text if it was cut."""
        self.at_end()
        while True:
            try:
                value, end = self._parser.raw_decode(self._text, self._at)
                if end < len(self._text) or self._ended:
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                if self._ended or not self._cut(error):
                    raise self._wrong(error.msg, error.pos, number) from None
            except RecursionError:
                raise SourceError(
                    f"{self._name}:{number} is nested too deeply; leave out what is not text."
                ) from None
            except ValueError as error:
                raise self._wrong(str(error).partition(":")[0], self._at, number) from None
            if len(self._text) - self._at > self._reading.document_bytes:
                raise SourceError(
                    f"{self._name}:{number} {too_large(self._reading.max_document, '--max-document')}; raise "
                    "that limit if so long a text is meant, or close the quote or bracket that is open."
                )
            self._more()

    def _cut(self, error: json.JSONDecodeError) -> bool:
        """True if more text could mend it: a string without its end, or an error at the end."""
        unterminated = error.msg.startswith("Unterminated string")
        return unterminated or error.pos > len(self._text) - LONGEST_JSON_TOKEN

    def _more(self) -> None:
        """Read on: as much as is held, so that a long value is not parsed all too often."""
        self._lines += self._text.count("\n", 0, self._at)
        held = self._text[self._at :]
        piece = self._file.read(max(CHUNK_BYTES, len(held)))
        self._ended = not piece
        try:
            self._text, self._at = held + self._decoder.decode(piece, final=self._ended), 0
        except UnicodeDecodeError as error:
            line = self._lines + held.count("\n") + _line_of(error)
            raise undecodable(self._name, line) from error

    def _wrong(self, why: str, at: int, number: int) -> SourceError:
        line = self._lines + self._text.count("\n", 0, at) + 1
        return SourceError(
            f"{self._name}:{number} is not JSON ({why} in line {line}); put it right, or say with --format "
            "what else it is, such as jsonl or text."
        )


_SPACE = re.compile(r"[ \t\n\r]*")


# CSV


def _csv_rows(file: IO[bytes], name: str, reading: Reading, delimiter: str = ",") -> Rows:
    """Rows by the line they begin on.

    Raises SourceError if the text is not UTF-8, a quote is wrong (one left open would swallow the
    rest of the file) or the column is missing.
    """
    csv.field_size_limit(LARGEST_CSV_FIELD)
    delimiter, column = reading.separator or delimiter, reading.text_column
    with io.TextIOWrapper(file, "utf-8-sig", reading.encoding_errors, newline="") as text:
        lines = _CsvLines(text, name, reading)
        reader = csv.reader(iter(lines), strict=True, delimiter=delimiter)
        try:
            header = next(reader, [])
            _refuse_delimiter(header, delimiter, column, name)
            require_column(column, header, name)
            first = lines.next_row()
            for fields in reader:
                yield from lines.take_too_long()
                if fields:
                    yield f"{name}:{first}", _csv_row(header, fields)
                first = lines.next_row()
            yield from lines.take_too_long()
        except UnicodeDecodeError as error:
            raise undecodable(name, lines.number + _line_of(error)) from error
        except csv.Error as error:
            raise SourceError(f"{name}:{lines.number} is not CSV ({error}); put its quotes right.") from error


class _CsvLines:
    """The lines that `csv.reader` reads: numbered, and held to the limits of a line and of a row."""

    def __init__(self, text: io.TextIOWrapper, name: str, reading: Reading) -> None:
        self.number = 0  # of the line read last
        self._text, self._name, self._reading = text, name, reading
        self._row = 0  # characters that the row under way has so far
        self._first = 1
        self._too_long: list[int] = []

    def __iter__(self) -> Iterator[str]:
        longest, largest = self._reading.line_bytes, self._reading.document_bytes
        for line in iter(partial(self._text.readline, longest + 2), ""):
            self.number += 1
            if len(line) * 4 > longest and _bytes(line.rstrip("\r\n")) > longest:
                self._pass_over(line)
                continue
            self._row += len(line)
            if self._row > largest and len(line) < self._row:
                raise SourceError(
                    f"{self._name}:{self._first} {too_large(self._reading.max_document, '--max-document')}; "
                    "close the quote that is open, or raise that limit if so long a row is meant."
                )
            yield line

    def next_row(self) -> int:
        """The number of the line on which the next row begins."""
        self._row, self._first = 0, self.number + 1
        return self._first

    def take_too_long(self) -> Rows:
        """The lines that were passed over since this was last asked."""
        while self._too_long:
            yield f"{self._name}:{self._too_long.pop(0)}", _too_long_line(self._reading)

    def _pass_over(self, line: str) -> None:
        """Raises SourceError unless bad rows are passed over and the line is a row by itself."""
        quotes = line.count('"')
        if self._reading.skip_bad and not self._row and self.number > 1:
            while not line.endswith(("\r", "\n")) and (line := self._text.readline(CHUNK_BYTES)):
                quotes += line.count('"')
            if quotes % 2 == 0:
                self._too_long.append(self.number)
                return
        raise SourceError(
            f"{self._name}:{self.number} {too_large(self._reading.max_line, '--max-line')}; "
            f"{_too_long_line(self._reading).remedy}, or close the quote that is open."
        )


def _csv_row(header: list[str], fields: list[str]) -> Row:
    if len(fields) > len(header):
        return Bad(f"has {len(fields)} fields under a header of {len(header)}")
    return dict(zip(header, fields, strict=False))


def _refuse_delimiter(header: list[str], delimiter: str, column: str, name: str) -> None:
    """Raises SourceError if the column is there once the header is divided at another character."""
    if len(header) != 1 or header[0] == column:
        return
    for other in DELIMITERS.replace(delimiter, ""):
        if column in (field.strip().strip('"') for field in header[0].split(other)):
            shown = "\\t" if other == "\t" else other
            raise SourceError(
                f"{name} has {shown} between its columns, not {delimiter!r}; --delimiter '{shown}' reads it."
            )


# Parquet


def _parquet_rows(file: IO[bytes], name: str, reading: Reading) -> Rows:
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
            require_column(reading.text_column, columns, name)
            sizes = pages(file, parquet.metadata)
            _refuse_large_pages(sizes, name, reading)
            largest = max(sizes.row, sizes.dictionary, 1)  # each row may hold the whole dictionary again
            for batch in parquet.iter_batches(min(PARQUET_BATCH_ROWS, 1 + PARQUET_BATCH_BYTES // largest)):
                values = (_parquet_values(array, reading.encoding_errors) for array in batch.columns)
                for row in zip(*values, strict=True):
                    number += 1
                    yield f"{name}:{number}", dict(zip(columns, row, strict=True))
    except UnicodeDecodeError as error:
        raise undecodable(name, number + 1) from error
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        raise SourceError(
            f"{name} is damaged, or no parquet that can be read, after row {number} "
            f"({first_line(error)}); fetch or write it again."
        ) from error


def _refuse_large_pages(sizes: Pages, name: str, reading: Reading) -> None:
    """Raises SourceError for values too long on average, or pages too large to be unpacked."""
    if sizes.value > reading.document_bytes:
        long = f"has a value of {sizes.value / MB:,.1f} MB, which"
        raise SourceError(f"{name} {long} {_too_long_document(reading).why}; raise it if that is meant.")
    most = max(reading.document_bytes, PARQUET_BATCH_BYTES) * PARQUET_PAGE_DOCUMENTS
    if sizes.page > most:
        raise SourceError(
            f"{name} has a page of {sizes.page / MB:,.1f} MB, more than the {most / MB:,.0f} MB that are "
            "read at once; raise --max-document, or write the file with smaller pages."
        )


def _parquet_values(array: pa.Array, errors: str) -> Iterator[object]:
    """Strings are decoded here, because pyarrow does not check that they are UTF-8."""
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        yield from array.to_pylist()
        return
    for value in array.cast(pa.large_binary()).to_pylist():
        yield None if value is None else value.decode("utf-8", errors)


FORMATS = {
    "text": Format((".txt",), _text_row),
    "jsonl": Format((".jsonl", ".ndjson"), _json_lines),
    "json": Format((".json",), _json_values),
    "csv": Format((".csv",), _csv_rows),
    "tsv": Format((".tsv",), partial(_csv_rows, delimiter="\t")),
    "parquet": Format((".parquet",), _parquet_rows, opened_binary),
}
ENDINGS = tuple(ending for form in FORMATS.values() for ending in form.endings)


# What the sentences have in common


def require_column(column: str, columns: list[str], name: str) -> None:
    """Raises SourceError unless exactly one column has that name."""
    if columns.count(column) != 1:
        raise SourceError(
            f'{name} has {"no" if column not in columns else "more than one"} column "{column}"; '
            f"--text-column takes one of those it has: {listed(columns)}."
        )


def refuse_long_text(text: str, reading: Reading) -> Bad | None:
    """What a row gets whose text is longer than a document may be."""
    most = reading.document_bytes
    return _too_long_document(reading) if len(text) * 4 > most and _bytes(text) > most else None


def _too_long_document(reading: Reading) -> Bad:
    return Bad(
        too_large(reading.max_document, "--max-document"), "raise that limit if so long a text is meant"
    )


def _too_long_line(reading: Reading) -> Bad:
    return Bad(too_large(reading.max_line, "--max-line"), "raise that limit if so long a line is meant")


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _line_of(error: UnicodeDecodeError) -> int:
    """The line of the bad byte, counted from 1 in the chunk that was being decoded."""
    return error.object.count(b"\n", 0, error.start) + 1


def listed(names: Iterable[object]) -> str:
    shown = [storable(str(name)) for name in names]
    more = ["…"] if len(shown) > NAMES_LISTED else []
    return ", ".join(shown[:NAMES_LISTED] + more) or "nothing"
