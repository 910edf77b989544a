"""Define the file formats of a corpus, and read the rows of a file in its format.

To add a format, write a function that yields the rows of a file in this format, and add the function to
``FORMATS``; no other code lists the formats. A row contains a document's text and metadata, or is a ``Bad``
row. Only one row is in memory at a time; for Parquet, one small batch of rows.
"""

import codecs
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import IO

from annotate_transformer.ingest.corpus.csv_rows import csv_rows
from annotate_transformer.ingest.corpus.json_rows import json_lines, json_values
from annotate_transformer.ingest.corpus.parquet_rows import parquet_rows
from annotate_transformer.ingest.corpus.row import BYTE_ORDER_MARK, Rows, line_of, too_long_document
from annotate_transformer.ingest.corpus.unpacked import (
    File,
    Reading,
    chunks_of,
    explained,
    opened,
    opened_binary,
    storable,
    undecodable,
)
from annotate_transformer.ingest.errors import SettingsError


@dataclass(frozen=True)
class Format:
    """A file format: its file endings, the function that yields rows, and the function that opens a file."""

    endings: tuple[str, ...]
    rows: Callable[[IO[bytes], str, Reading], Rows]
    opened: Callable[[File, Reading], AbstractContextManager[IO[bytes]]] = opened


def rows(file: File, reading: Reading) -> Rows:
    """Yield each row of a file, with a label by which a person can find the row, such as `corpus.jsonl:3`.

    Raises SourceError if the file is not in its format. A single invalid row is yielded as `Bad`.
    """
    form = FORMATS[file.format]
    with explained(file.name), form.opened(file, reading) as content:
        yield from form.rows(content, file.name, reading)


def format_named(name: str) -> str:
    """Return the name of the format given by --format, which accepts a format's name or a file ending.

    Raises SettingsError if there is no such format.
    """
    asked = name.lower().removeprefix(".")
    for known, form in FORMATS.items():
        if asked == known or f".{asked}" in form.endings:
            return known
    raise SettingsError(f"--format is one of {', '.join(FORMATS)}, not {storable(name)!r}.")


def format_of(ending: str) -> str | None:
    """Return the name of the format that has this file ending, or None if no format has it."""
    return next((name for name, form in FORMATS.items() if ending in form.endings), None)


def _text_row(file: IO[bytes], name: str, reading: Reading) -> Rows:
    """Yield a text file as one row, with its line ends unchanged; raise SourceError if it is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")(reading.encoding_errors)
    pieces, lines, size = [], 0, 0
    try:
        for chunk in chunks_of(file):
            size += len(chunk)
            if size > reading.document_bytes:
                yield name, too_long_document(reading)
                return
            pieces.append(decoder.decode(chunk))
            lines += chunk.count(b"\n")
        pieces.append(decoder.decode(b"", final=True))
    except UnicodeDecodeError as error:
        raise undecodable(name, lines + line_of(error)) from error
    yield name, {reading.text_column: "".join(pieces).removeprefix(BYTE_ORDER_MARK)}


FORMATS = {
    "text": Format((".txt",), _text_row),
    "jsonl": Format((".jsonl", ".ndjson"), json_lines),
    "json": Format((".json",), json_values),
    "csv": Format((".csv",), csv_rows),
    "tsv": Format((".tsv",), partial(csv_rows, delimiter="\t")),
    "parquet": Format((".parquet",), parquet_rows, opened_binary),
}
ENDINGS = tuple(ending for form in FORMATS.values() for ending in form.endings)
