"""Write an answer as a table that fits the terminal, or in another format with all rows and no rounding.

Rows are read and written in Arrow batches, so memory does not grow with the answer, except for a table, whose
column widths need all rows. A FLOAT is written with the fewest digits that restore it, a BLOB in hex, a date
or time in ISO 8601 (outside the years 1 to 9999 as DuckDB writes it), a list, struct or map as JSON. NaN and
infinity are null in JSON, which cannot express them. Values without an Arrow type, such as BIGNUM and
INTERVAL, arrive as text (store/arrow.py).

In CSV, a text that a spreadsheet program would run as a formula is preceded by an apostrophe (`defused`).
"""

import io
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, time
from decimal import Decimal
from io import TextIOWrapper
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from annotate_transformer.app.present.console import Console, harmless
from annotate_transformer.app.present.words import one_line, visible
from annotate_transformer.store import AnnotateError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FORMATS = ["table", "csv", "json", "jsonl", "parquet", "markdown"]
SUFFIXES = {".txt": "table", ".md": "markdown", ".ndjson": "jsonl"} | {f".{name}": name for name in FORMATS}
NARROWEST = 24  # a wide column is narrowed to no less than this many characters so that another column fits
GAP = "  "  # the space that the Rich library puts between two columns of a table without borders
ANY_WIDTH = 10_000
# FORMULA matches the beginning of a text that spreadsheet programs take for a formula (OWASP, CSV injection).
# Quotes may precede the formula. AMOUNT matches numbers and intervals: they are not formulas, although some
# of them begin in the same way.
FORMULA = re.compile(r"[\t\r\n]|[\"']*[=+\-@＝＋－＠]")
AMOUNT = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|-inf(inity)?"
    r"|(-?[0-9]+ (year|month|day)s? ?)*(-?[0-9]+:[0-9]{2}:[0-9]{2}(\.[0-9]+)?)?"
)
FOLDED = 30  # minimum width of a column whose text is wrapped, in characters
MARKDOWN = str.maketrans(
    {character: f"\\{character}" for character in "\\|`*<[~"} | {"\n": "<br>", "\r": "&#13;"}
)


def write(
    answer: "pd.DataFrame | pa.Table | pa.RecordBatchReader",
    format: str,
    out: BinaryIO,
    *,
    fold: str | None = None,
    raw: bool = False,
) -> int:
    """Write `answer` to `out` in the given format, and return the number of rows.

    fold: a column that a table shows in full, wrapped if the terminal is too narrow.
    raw: whether texts in CSV stay unchanged, even if a spreadsheet program takes them for formulas.

    Raises:
        AnnotateError: the format is Parquet and `out` is a terminal.
    """
    check(format, out)
    reader = _reader(answer)
    if format == "table":
        return _table(reader, out, fold)
    if format == "csv":
        text = _text if raw else lambda value: defused(_text(value))
        return _csv_shown(reader, out, text) if out.isatty() else _csv(reader, out, text)
    return WRITERS[format](reader, out)


def check(format: str, out: BinaryIO) -> None:
    """Raise AnnotateError if `format` cannot be written to `out`; call this before a query runs."""
    if format not in FORMATS:
        raise AnnotateError(f"There is no format {format!r}: choose one of {', '.join(FORMATS)}.")
    if format == "parquet" and out.isatty():
        raise AnnotateError("A terminal cannot show Parquet: give --output FILE, or send it into a pipe.")


def of_file(path: Path) -> str | None:
    """Return the format for a file's suffix, such as csv for x.csv, or None if the suffix is unknown."""
    return SUFFIXES.get(path.suffix.lower())


def _reader(answer: Any) -> "pa.RecordBatchReader":
    """Return a reader of the answer's Arrow batches, in which all columns have distinct names."""
    import pyarrow as pa

    from annotate_transformer.store.restricted import distinct

    if not isinstance(answer, pa.Table | pa.RecordBatchReader):
        answer = pa.Table.from_pandas(answer, preserve_index=False)
    schema = pa.schema(
        [
            field.with_name(name)
            for field, name in zip(answer.schema, distinct(answer.schema.names), strict=True)
        ]
    )
    batches = answer.to_batches() if isinstance(answer, pa.Table) else answer
    return pa.RecordBatchReader.from_batches(
        schema, (pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in batches)
    )


# Values -------------------------------------------------------------------------------------------


def _shortest(column: "pa.Array") -> "pa.Array":
    """Convert each FLOAT to the DOUBLE that prints with the fewest digits: 0.1, not 0.10000000149011612."""
    import pyarrow as pa

    # The first cast turns FLOAT into the text type large_string, the second turns large_string into DOUBLE.
    # The second cast changes no other text, because text from DuckDB never has the type large_string.
    text = _with(column.type, pa.float32(), pa.large_string())
    if text == column.type:
        return column
    return column.cast(text).cast(_with(text, pa.large_string(), pa.float64()))


def _with(kind: "pa.DataType", old: "pa.DataType", new: "pa.DataType") -> "pa.DataType":
    """Return the Arrow type `kind` with `old` replaced by `new`, also inside lists, structs and maps."""
    import pyarrow as pa

    if kind == old:
        return new
    if pa.types.is_list(kind):
        return pa.list_(_with(kind.value_type, old, new))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_with(kind.value_type, old, new), kind.list_size)
    if pa.types.is_map(kind):
        return pa.map_(_with(kind.key_type, old, new), _with(kind.item_type, old, new))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_with(field.type, old, new)) for field in kind])
    return kind


def _values(column: "pa.Array") -> list[Any]:
    """Return a column's values as types that JSON supports: NULL, NaN and infinity become None."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return _iso(column).to_pylist()  # type: ignore[no-any-return]
    values = _shortest(column).to_pylist()
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_boolean(kind):
        return values  # type: ignore[no-any-return]
    return [_known(value) for value in values]


def _iso(column: "pa.Array") -> "pa.Array":
    """Return timestamps and dates in ISO 8601, with Z if they are in UTC."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pc.replace_substring_regex(column.cast(pa.string()), r"\.0+(Z?)$", r"\1")
    text = pc.replace_substring(text, " ", "T")
    four_digits, year_0 = pc.match_substring_regex(text, "^[0-9]{4}-"), pc.starts_with(text, "0000")
    known = pc.and_not(four_digits, year_0)
    if column.type == pa.timestamp("ns"):  # infinity is stored as a time in 1677 or 2262
        infinite = pa.array([2**63 - 1, 1 - 2**63])
        known = pc.and_not(known, pc.is_in(column.cast(pa.int64()), infinite))
    return text if pc.all(known).as_py() else pc.if_else(known, text, _as_duckdb_writes(column))


def _as_duckdb_writes(column: "pa.Array") -> "pa.Array":
    """Return dates and times as text, as DuckDB prints them: this works for any year and for infinity."""
    import duckdb
    import pyarrow as pa

    with duckdb.connect(config={"threads": 1}) as con:
        con.execute("SET TimeZone = 'UTC'")
        table = (
            con.from_arrow(pa.table({"v": column}).to_reader()).project("v::VARCHAR AS v").to_arrow_table()
        )
    return table["v"].combine_chunks().cast(pa.string())


def _known(value: Any) -> Any:
    """Return a value as a type that JSON supports; NaN and infinity become None, also within lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return [_known(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _known(item) for name, item in value.items()}
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, date | time):  # this includes datetime, a subclass of date
        return value.isoformat()
    return value if value is None or isinstance(value, str | int) else str(value)


def _number(value: Decimal) -> int | float | str:
    """Return a Decimal as an int if it is whole, as a float if that is exact, and otherwise as text."""
    if value == value.to_integral_value():
        return int(value)
    return float(value) if Decimal(repr(float(value))) == value else str(value)


def _text(value: Any) -> str:
    """Return a value as text: a string unchanged, any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_number(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def defused(text: str) -> str:
    """Return the text, with an apostrophe before it if a spreadsheet program would run it as a formula.

    >>> defused("=1+1"), defused("-"), defused("-1.5"), defused("a=1"), defused("'=1")
    ("'=1+1", "'-", '-1.5', 'a=1', "''=1")
    """
    return f"'{text}" if FORMULA.match(text) and not AMOUNT.fullmatch(text) else text


# Formats ------------------------------------------------------------------------------------------


def _csv(reader: "pa.RecordBatchReader", out: BinaryIO, text: Callable[[Any], str]) -> int:
    """Write CSV and return the number of rows. Text is in quotes, so an empty text differs from NULL.

    text: a function that returns a value as text
    """
    import pyarrow as pa
    from pyarrow import csv

    fields = [pa.field(text(field.name), _csv_type(field.type)) for field in reader.schema]
    schema, rows = pa.schema(fields), 0
    with csv.CSVWriter(out, schema) as writer:
        for batch in reader:
            columns = [_csv_column(column, text) for column in batch.columns]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
            rows += batch.num_rows
    return rows


def _csv_shown(reader: "pa.RecordBatchReader", out: BinaryIO, text: Callable[[Any], str]) -> int:
    """Write CSV to a terminal, with control characters replaced by visible escapes."""
    held = io.BytesIO()
    rows = _csv(reader, held, text)
    out.write(harmless(held.getvalue().decode()).encode())
    return rows


def _csv_type(kind: "pa.DataType") -> "pa.DataType":
    import pyarrow as pa

    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return kind if plain or pa.types.is_decimal(kind) else pa.string()


def _csv_column(column: "pa.Array", text: Callable[[Any], str]) -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(column.type):
        if text is _text or not pc.any(pc.match_substring_regex(column, f"^({FORMULA.pattern})")).as_py():
            return column  # no cell needs a change, as in most columns
    elif _csv_type(column.type) == column.type:
        return column
    if pa.types.is_temporal(column.type):
        text = _text
    return pa.array([None if value is None else text(value) for value in _values(column)], pa.string())


def _json(reader: "pa.RecordBatchReader", out: BinaryIO) -> int:
    rows = 0
    out.write(b"[")
    for line in _json_rows(reader):
        out.write((b",\n" if rows else b"\n") + line)
        rows += 1
    out.write(b"\n]\n")
    return rows


def _jsonl(reader: "pa.RecordBatchReader", out: BinaryIO) -> int:
    rows = 0
    for line in _json_rows(reader):
        out.write(line + b"\n")
        rows += 1
    return rows


def _json_rows(reader: "pa.RecordBatchReader") -> Iterator[bytes]:
    names = reader.schema.names
    for row in _rows(reader):
        yield unseen_escaped(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False)).encode()


def unseen_escaped(text: str) -> str:
    """Return a JSON text in which all characters that could control a terminal are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _rows(
    reader: "pa.RecordBatchReader", values: Callable[["pa.Array"], list[Any]] = _values
) -> Iterator[tuple[Any, ...]]:
    for batch in reader:
        yield from zip(*map(values, batch.columns), strict=True)


def _readable(column: "pa.Array") -> list[Any]:
    """Return a column's values for display; NaN and infinity become text, so that they differ from NULL."""
    import pyarrow as pa

    if not pa.types.is_floating(column.type):
        return _values(column)
    values = _shortest(column).to_pylist()
    return [value if value is None or math.isfinite(value) else str(value) for value in values]


def _parquet(reader: "pa.RecordBatchReader", out: BinaryIO) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    rows = 0
    try:
        with parquet.ParquetWriter(out, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
                rows += batch.num_rows
    except pa.ArrowNotImplementedError as error:
        raise AnnotateError(
            f"Parquet has no type for a column of this answer ({error}). Cast it, as in column::VARCHAR."
        ) from error
    return rows


def _markdown(reader: "pa.RecordBatchReader", out: BinaryIO) -> int:
    rules = ["---:" if _is_number(kind) else "---" for kind in reader.schema.types]
    rows = -2
    lines = [(*reader.schema.names,), (*rules,)]
    for part in (lines, _rows(reader, _readable)):
        for row in part:
            out.write(f"| {' | '.join(map(_markdown_cell, row))} |\n".encode())
            rows += 1
    return rows


def _markdown_cell(value: Any) -> str:
    return "" if value is None else harmless(_text(value).translate(MARKDOWN))


WRITERS: dict[str, Callable[["pa.RecordBatchReader", BinaryIO], int]] = {
    "json": _json,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "markdown": _markdown,
}


# The table ----------------------------------------------------------------------------------------


def _table(reader: "pa.RecordBatchReader", out: BinaryIO, fold: str | None) -> int:
    """Write a table of the columns that fit, with long cells cut, and list the names of the other columns."""
    fields, rows = list(reader.schema), list(_rows(reader, _readable))
    cells = [[_cell(row[i]) for row in rows] for i in range(len(fields))]
    with _console(out, fold is not None) as console:
        natural = [
            FOLDED if field.name == fold else max(map(cell_len, [field.name, *column]))
            for field, column in zip(fields, cells, strict=True)
        ]
        shown, widest = _fitting(natural, console.width)
        table = Table(box=None, pad_edge=False)
        for field in fields[:shown]:
            table.add_column(Text(field.name), **_layout(field, widest, fold))
        for row in zip(*cells[:shown], strict=True):
            table.add_row(*map(Text, row))
        console.print(table)
        if shown < len(fields):
            others = ", ".join(field.name for field in fields[shown:])
            console.print(f"Columns that do not fit:  {others}.", markup=False, style="dim")
    return len(rows)


@contextmanager
def _console(out: BinaryIO, whole: bool) -> Iterator[Console]:
    """Context manager: yield a console that writes to a binary stream, which stays open afterwards.

    whole: whether the width is unlimited if the stream is not a terminal
    """
    text = TextIOWrapper(out, encoding="utf-8", errors="replace", write_through=True)
    try:
        yield Console(file=text, highlight=False, width=ANY_WIDTH if whole and not text.isatty() else None)
    finally:
        text.detach()


def _fitting(natural: list[int], width: int) -> tuple[int, int]:
    """Return the number of columns that fit, and the maximum width of a column, in characters.

    Wide columns are narrowed, down to NARROWEST, before a column is left out.
    """
    for widest in range(max(width, NARROWEST), NARROWEST - 1, -1):
        ends = accumulate(min(column, widest) + len(GAP) for column in natural)
        shown = sum(end - len(GAP) <= width for end in ends)
        if shown == len(natural):
            break
    return max(shown, 1), widest


def _layout(field: "pa.Field", widest: int, fold: str | None) -> dict[str, Any]:
    if field.name == fold:
        return {"overflow": "fold", "min_width": FOLDED}
    justify = "right" if _is_number(field.type) else "left"
    return {"justify": justify, "no_wrap": True, "overflow": "ellipsis", "max_width": widest}


def _cell(value: Any) -> str:
    """Return a value as one line of text; spaces at its beginning and end are made visible."""
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = _text(value)
    inner = text.strip()
    start = text.index(inner)
    return visible(text[:start]) + one_line(inner) + visible(text[start + len(inner) :])
