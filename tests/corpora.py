"""Corpora of every format, written and read."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotate_transformer.ingest.corpus.sources import Corpus, Document, Scan
from annotate_transformer.ingest.errors import SourceError


def as_jsonl(rows: list[dict[str, object]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def as_csv(rows: list[dict[str, object]]) -> bytes:
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return lines.getvalue().encode()


def as_parquet(rows: list[dict[str, object]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def written(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def read(*sources: str, **options: object) -> list[Document]:
    with Corpus(sources, **options) as corpus:  # type: ignore[arg-type]
        return list(corpus)


def scanned(*sources: str, **options: object) -> Scan:
    with Corpus(sources, **options) as corpus:  # type: ignore[arg-type]
        return corpus.scan()


def texts(*sources: str, **options: object) -> list[str]:
    return [document.text for document in read(*sources, **options)]


def sentence(*sources: str, **options: object) -> str:
    """The one sentence that a wrong source gives."""
    with pytest.raises(SourceError) as caught:
        scanned(*sources, **options)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text
    text.encode()
    return text


@contextmanager
def standard_input(content: bytes) -> Iterator[None]:
    """A real pipe in place of standard input, filled by another process."""
    source = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert source.stdin and source.stdout
    source.stdin.write(content)
    source.stdin.close()
    before, sys.stdin = sys.stdin, io.TextIOWrapper(source.stdout)
    try:
        yield
    finally:
        sys.stdin.close()
        sys.stdin = before
        source.wait()
