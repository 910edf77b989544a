"""Read rows from Parquet files."""

from collections.abc import Iterator
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from annotate_transformer.ingest.corpus.parquet_pages import Pages, pages
from annotate_transformer.ingest.corpus.row import Rows, require_column, too_long_document
from annotate_transformer.ingest.corpus.unpacked import CHUNK_BYTES, MB, Reading, first_line, undecodable
from annotate_transformer.ingest.errors import SourceError

PARQUET_BATCH_ROWS = 64
PARQUET_BATCH_BYTES = 1 << 26
# A page may be PARQUET_PAGE_DOCUMENTS times as large as --max-document or PARQUET_BATCH_BYTES, whichever is
# larger. It may be much larger than one document, because writers put up to 1,024 texts into a page.
PARQUET_PAGE_DOCUMENTS = 8


def parquet_rows(file: IO[bytes], name: str, reading: Reading) -> Rows:
    """Yield each row with its number; raise SourceError if a string is not UTF-8 or the file is damaged.

    The file is read without a pre-buffer, which would hold a whole row group, often the whole file.
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
            # Estimate the size of the largest row in bytes. It may be as large as a whole dictionary page,
            # because a single value can fill such a page.
            largest = max(sizes.row, sizes.dictionary, 1)
            for batch in parquet.iter_batches(min(PARQUET_BATCH_ROWS, 1 + PARQUET_BATCH_BYTES // largest)):
                values = (_parquet_values(array, reading.encoding_errors) for array in batch.columns)
                for row in zip(*values, strict=True):
                    number += 1
                    yield f"{name}:{number}", dict(zip(columns, row, strict=True))
    except UnicodeDecodeError as error:
        raise undecodable(name, number + 1) from error
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        raise SourceError(
            f"{name} is damaged, or not a readable Parquet file, after row {number} "
            f"({first_line(error)}); fetch or write it again."
        ) from error


def _refuse_large_pages(sizes: Pages, name: str, reading: Reading) -> None:
    """Raise SourceError if the values of a page are too long on average, or a page is too large to unpack."""
    if sizes.value > reading.document_bytes:
        long = f"has a value of {sizes.value / MB:,.1f} MB, which"
        raise SourceError(
            f"{name} {long} {too_long_document(reading).why}; raise that limit if this is intended."
        )
    most = max(reading.document_bytes, PARQUET_BATCH_BYTES) * PARQUET_PAGE_DOCUMENTS
    if sizes.page > most:
        raise SourceError(
            f"{name} has a page of {sizes.page / MB:,.1f} MB, more than the {most / MB:,.0f} MB that are "
            "read at once; raise --max-document, or write the file with smaller pages."
        )


def _parquet_values(array: pa.Array, errors: str) -> Iterator[object]:
    """Yield the values of a column; decode strings here, because pyarrow does not check for valid UTF-8."""
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        yield from array.to_pylist()
        return
    for value in array.cast(pa.large_binary()).to_pylist():
        yield None if value is None else value.decode("utf-8", errors)
