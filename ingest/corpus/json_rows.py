"""Read rows from JSON lines, from a JSON array, or from a sequence of JSON values."""

import codecs
import json
import re
from functools import partial
from typing import IO

from annotate_transformer.ingest.corpus.row import (
    BYTE_ORDER_MARK,
    Bad,
    Row,
    Rows,
    line_of,
    listed,
    too_long_line,
)
from annotate_transformer.ingest.corpus.unpacked import CHUNK_BYTES, Reading, too_large, undecodable
from annotate_transformer.ingest.errors import SourceError

# A file is read in pieces. A JSON error in the last LONGEST_JSON_TOKEN characters read so far may be no real
# error: a number, a literal such as `false` or an escape sequence may continue in the next piece.
LONGEST_JSON_TOKEN = 16


def json_lines(file: IO[bytes], name: str, reading: Reading) -> Rows:
    """Yield one row per line. Lines end only at a line feed: other separators may be inside a JSON string.

    Raises SourceError if a line is not UTF-8, or if the file is a JSON array.
    """
    longest, begun = reading.line_bytes, False
    for number, line in enumerate(iter(partial(file.readline, longest + 1), b""), 1):
        if len(line) > longest and not line.endswith(b"\n"):
            yield f"{name}:{number}", too_long_line(reading)
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
    """Read to the end of the line in small pieces, without keeping them."""
    for piece in iter(partial(file.readline, CHUNK_BYTES), b""):
        if piece.endswith(b"\n"):
            return


def _refuse_array(line: str, name: str) -> None:
    """Raise SourceError if `line` begins an array of objects: the file is then JSON, not JSON lines."""
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


def json_values(file: IO[bytes], name: str, reading: Reading) -> Rows:
    """Yield each value of one JSON array, or of a sequence of JSON values, with its place, from 1 on.

    Raises SourceError if the file is not JSON or not UTF-8, or if a value is too long. A too long value is
    not skipped, because the next value can be found only by reading the long one to its end.
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
        raise SourceError(f"{name} continues after the end of its array; put only one array into a file.")


def _whole_file(value: object, reading: Reading) -> Bad | None:
    """Return a `Bad` row if the value is one object that contains the documents in a list, else None."""
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
    """A reader that parses one JSON value at a time and keeps only the text of about one value in memory."""

    def __init__(self, file: IO[bytes], name: str, reading: Reading) -> None:
        self._file, self._name, self._reading = file, name, reading
        self._decoder = codecs.getincrementaldecoder("utf-8")(reading.encoding_errors)
        self._parser = json.JSONDecoder()
        self._text, self._at, self._lines, self._ended = "", 0, 0, False
        while not self._text and not self._ended:
            self._more()
        self._text = self._text.removeprefix(BYTE_ORDER_MARK)

    def at_end(self) -> bool:
        """Skip white space, and return whether the end of the file is reached."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return False
            if self._ended:
                return True
            self._more()

    def take(self, character: str) -> bool:
        """Skip white space, then `character` if it comes next; return whether `character` was skipped."""
        if self.at_end() or self._text[self._at] != character:
            return False
        self._at += 1
        return True

    def require(self, character: str, number: int) -> None:
        if not self.take(character):
            raise self._wrong(f"Expecting '{character}' delimiter", self._at, number)

    def value(self, number: int) -> object:
        """Return the next value; if the value's end was not read yet, read more and parse the value again."""
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
                    f"{self._name}:{number} is nested too deeply; remove the nested values."
                ) from None
            except ValueError as error:
                raise self._wrong(str(error).partition(":")[0], self._at, number) from None
            if len(self._text) - self._at > self._reading.document_bytes:
                raise SourceError(
                    f"{self._name}:{number} {too_large(self._reading.max_document, '--max-document')}; raise "
                    "that limit if so long a text is meant, or close the open quote or bracket."
                )
            self._more()

    def _cut(self, error: json.JSONDecodeError) -> bool:
        """Return whether a JSON error may come from a string or token whose end was not read yet."""
        unterminated = error.msg.startswith("Unterminated string")
        return unterminated or error.pos > len(self._text) - LONGEST_JSON_TOKEN

    def _more(self) -> None:
        """Double the amount of text in memory, so that a long value is parsed only a few times."""
        self._lines += self._text.count("\n", 0, self._at)
        held = self._text[self._at :]
        piece = self._file.read(max(CHUNK_BYTES, len(held)))
        self._ended = not piece
        try:
            self._text, self._at = held + self._decoder.decode(piece, final=self._ended), 0
        except UnicodeDecodeError as error:
            line = self._lines + held.count("\n") + line_of(error)
            raise undecodable(self._name, line) from error

    def _wrong(self, why: str, at: int, number: int) -> SourceError:
        line = self._lines + self._text.count("\n", 0, at) + 1
        return SourceError(
            f"{self._name}:{number} is not JSON ({why} in line {line}); correct it, or give its format with "
            "--format, such as jsonl or text."
        )


_SPACE = re.compile(r"[ \t\n\r]*")
