"""Define valid and bad rows of a source file, and build error messages about rows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from annotate_transformer.ingest.corpus.unpacked import Reading, storable, too_large
from annotate_transformer.ingest.errors import SourceError

BYTE_ORDER_MARK = "\ufeff"
NAMES_LISTED = 20


@dataclass(frozen=True)
class Bad:
    """A row that gives no document, with the reason. It is an error unless --skip-bad skips and counts it."""

    why: str
    remedy: str = "correct it"


Row = dict[str, object] | Bad
Rows = Iterator[tuple[str, Row]]


def require_column(column: str, columns: list[str], name: str) -> None:
    """Raise SourceError unless exactly one of `columns` has the name `column`."""
    if columns.count(column) != 1:
        raise SourceError(
            f'{name} has {"no" if column not in columns else "more than one"} column "{column}"; '
            f"--text-column takes one of those it has: {listed(columns)}."
        )


def refuse_long_text(text: str, reading: Reading) -> Bad | None:
    """Return a `Bad` row if the text is longer than --max-document, else None."""
    most = reading.document_bytes
    return too_long_document(reading) if len(text) * 4 > most and utf8_bytes(text) > most else None


def too_long_document(reading: Reading) -> Bad:
    return Bad(
        too_large(reading.max_document, "--max-document"),
        "raise that limit if the text is meant to be so long",
    )


def too_long_line(reading: Reading) -> Bad:
    return Bad(
        too_large(reading.max_line, "--max-line"), "raise that limit if the line is meant to be so long"
    )


def utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def line_of(error: UnicodeDecodeError) -> int:
    """Return the number of the line with the undecodable byte; the decoder's input begins with line 1."""
    return error.object.count(b"\n", 0, error.start) + 1


def listed(names: Iterable[object]) -> str:
    shown = [storable(str(name)) for name in names]
    more = ["…"] if len(shown) > NAMES_LISTED else []
    return ", ".join(shown[:NAMES_LISTED] + more) or "nothing"
