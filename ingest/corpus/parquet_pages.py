"""Measure the pages of a Parquet file before any page is unpacked.

pyarrow unpacks a page as a whole, and a page of a few kB may unpack to gigabytes. pyarrow reports only the
sizes of column chunks, so this module reads the page headers, which are structs in Thrift's compact protocol.
"""

from dataclasses import dataclass
from typing import IO, Any

import pyarrow.parquet as pq

LONGEST_FIELD = 1 << 24  # maximum number of bytes in a field of a page header; only damaged files have more
DEEPEST = 16  # maximum number of levels of nested structs in a page header; intact headers have three levels
DICTIONARY_PAGE = 2
# Ids of fields in Parquet's struct PageHeader. Each field in VALUES_HEADERS is a struct for one kind of page.
# Field 1 of this struct is the number of values in the page.
UNCOMPRESSED_SIZE, COMPRESSED_SIZE = 2, 3
VALUES_HEADERS = (5, 7, 8)


@dataclass
class Pages:
    """The largest sizes of pages, values and rows in a Parquet file, in bytes after unpacking.

    `page`, `dictionary`: size of the largest page, and of the largest dictionary page;
    `value`: maximum, over all pages, of the mean size of a page's values;
    `row`: maximum, over all row groups, of the mean size of a group's rows, but not less than `value`.
    """

    page: int = 0
    dictionary: int = 0
    value: int = 0
    row: int = 0


def pages(file: IO[bytes], metadata: pq.FileMetaData) -> Pages:
    """Return the largest sizes of pages, values and rows; raise ValueError if a page header is damaged."""
    sizes = Pages()
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        sizes.row = max(sizes.row, group.total_byte_size // max(group.num_rows, 1))
        for column in map(group.column, range(group.num_columns)):
            start = column.data_page_offset
            if column.has_dictionary_page:
                start = min(start, column.dictionary_page_offset)
            _measure(file, start, start + column.total_compressed_size, sizes)
    sizes.row = max(sizes.row, sizes.value)
    return sizes


def _measure(file: IO[bytes], at: int, end: int, sizes: Pages) -> None:
    while at < end:
        file.seek(at)
        header = _struct(file, 0)
        try:
            unpacked, packed = int(header[UNCOMPRESSED_SIZE]), int(header[COMPRESSED_SIZE])
            values = [int(header[number][1]) for number in VALUES_HEADERS if number in header]
        except (KeyError, TypeError) as error:
            raise ValueError("a page's header is damaged") from error
        if min(unpacked, packed) < 0:
            raise ValueError("a page's size is below 0")
        sizes.page = max(sizes.page, unpacked)
        if header.get(1) == DICTIONARY_PAGE:
            sizes.dictionary = max(sizes.dictionary, unpacked)
        if values:
            sizes.value = max(sizes.value, unpacked // max(values[0], 1))
        at = file.tell() + packed


def _struct(file: IO[bytes], depth: int) -> dict[int, Any]:
    if depth > DEEPEST:
        raise ValueError("a page's header is nested too deeply")
    fields, number = dict[int, Any](), 0
    while header := _bytes(file, 1)[0]:
        number = number + (header >> 4) if header >> 4 else _signed(file)
        fields[number] = _value(file, header & 15, depth)
    return fields


def _value(file: IO[bytes], kind: int, depth: int) -> Any:
    match kind:
        case 1 | 2:
            return kind == 1
        case 3:
            return _bytes(file, 1)
        case 4 | 5 | 6:
            return _signed(file)
        case 7:
            return _bytes(file, 8)
        case 8:
            return _bytes(file, _unsigned(file))
        case 12:
            return _struct(file, depth + 1)
    raise ValueError("a page's header has a field of an unknown kind")


def _signed(file: IO[bytes]) -> int:
    value = _unsigned(file)
    return (value >> 1) ^ -(value & 1)


def _unsigned(file: IO[bytes]) -> int:
    value = shift = 0
    while True:
        byte = _bytes(file, 1)[0]
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value
        if shift > 63:
            raise ValueError("a number in a page's header has no end")


def _bytes(file: IO[bytes], count: int) -> bytes:
    if count > LONGEST_FIELD:
        raise ValueError("a field of a page's header is too long")
    found = file.read(count)
    if len(found) < count:
        raise ValueError("a page's header is cut off")
    return found
