"""Read rows from CSV and TSV files."""

import csv
import io
from collections.abc import Iterator
from functools import partial
from typing import IO

from annotate_transformer.ingest.corpus.row import (
    Bad,
    Row,
    Rows,
    line_of,
    require_column,
    too_long_line,
    utf8_bytes,
)
from annotate_transformer.ingest.corpus.unpacked import CHUNK_BYTES, Reading, too_large, undecodable
from annotate_transformer.ingest.errors import SourceError

LARGEST_CSV_FIELD = 2**31 - 1  # in characters; the largest limit that csv accepts on every platform
DELIMITERS = ",;\t|"


def csv_rows(file: IO[bytes], name: str, reading: Reading, delimiter: str = ",") -> Rows:
    """Yield each row with the number of the line on which the row begins.

    Raises SourceError if the text is not UTF-8, if a quote is wrong (a quote that is not closed would swallow
    the rest of the file) or if the text column is missing.
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
            raise undecodable(name, lines.number + line_of(error)) from error
        except csv.Error as error:
            raise SourceError(f"{name}:{lines.number} is not CSV ({error}); correct its quotes.") from error


class _CsvLines:
    """Iterator over the lines for `csv.reader`; it counts lines, and limits the size of lines and rows."""

    def __init__(self, text: io.TextIOWrapper, name: str, reading: Reading) -> None:
        self.number = 0  # number of the last line that was read, where the first line is 1
        self._text, self._name, self._reading = text, name, reading
        self._row = 0  # number of characters that were read so far from the current row
        self._first = 1
        self._too_long: list[int] = []

    def __iter__(self) -> Iterator[str]:
        longest, largest = self._reading.line_bytes, self._reading.document_bytes
        for line in iter(partial(self._text.readline, longest + 2), ""):
            self.number += 1
            if len(line) * 4 > longest and utf8_bytes(line.rstrip("\r\n")) > longest:
                self._pass_over(line)
                continue
            self._row += len(line)
            if self._row > largest and len(line) < self._row:
                raise SourceError(
                    f"{self._name}:{self._first} {too_large(self._reading.max_document, '--max-document')}; "
                    "close the open quote, or raise that limit if the row is meant to be so long."
                )
            yield line

    def next_row(self) -> int:
        """Start a new row, and return the number of the line on which it begins."""
        self._row, self._first = 0, self.number + 1
        return self._first

    def take_too_long(self) -> Rows:
        """Yield a bad row for each overlong line that was skipped since the last call."""
        while self._too_long:
            yield f"{self._name}:{self._too_long.pop(0)}", too_long_line(self._reading)

    def _pass_over(self, line: str) -> None:
        """Skip an overlong line if --skip-bad is set and the line is a whole row; else raise SourceError."""
        quotes = line.count('"')
        if self._reading.skip_bad and not self._row and self.number > 1:
            while not line.endswith(("\r", "\n")) and (line := self._text.readline(CHUNK_BYTES)):
                quotes += line.count('"')
            if quotes % 2 == 0:
                self._too_long.append(self.number)
                return
        raise SourceError(
            f"{self._name}:{self.number} {too_large(self._reading.max_line, '--max-line')}; "
            f"{too_long_line(self._reading).remedy}, or close the open quote."
        )


def _csv_row(header: list[str], fields: list[str]) -> Row:
    if len(fields) > len(header):
        return Bad(f"has {len(fields)} fields under a header of {len(header)}")
    return dict(zip(header, fields, strict=False))


def _refuse_delimiter(header: list[str], delimiter: str, column: str, name: str) -> None:
    """Raise SourceError if the text column appears only when the header is split at another delimiter."""
    if len(header) != 1 or header[0] == column:
        return
    for other in DELIMITERS.replace(delimiter, ""):
        if column in (field.strip().strip('"') for field in header[0].split(other)):
            shown = "\\t" if other == "\t" else other
            raise SourceError(
                f"{name} has {shown} between its columns, not {delimiter!r}; --delimiter '{shown}' reads it."
            )
