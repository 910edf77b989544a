"""The formats of a corpus: from a file to rows.

To add a format, write a function that yields its rows and name it in ``FORMATS``; nothing else knows
the formats one by one. A row is what a document's text and metadata are taken from, or a ``Bad``
one. No more than one row, or for parquet one small batch, is held at a time.
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


def _text_row(file: IO[bytes], name: str, reading: Reading) -> Rows:
    """The whole text with its line ends as they are. Raises SourceError if it is not UTF-8."""
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
