"""The rows of a file, good and bad, and what the sentences about them have in common."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from annotate_transformer.ingest.corpus.unpacked import Reading, storable, too_large
from annotate_transformer.ingest.errors import SourceError

BYTE_ORDER_MARK = "\ufeff"
NAMES_LISTED = 20


@dataclass(frozen=True)
class Bad:
    """Why a row gives no document: an error or, under ``skip_bad``, counted."""

    why: str
    remedy: str = "put it right"


Row = dict[str, object] | Bad
Rows = Iterator[tuple[str, Row]]


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
    return too_long_document(reading) if len(text) * 4 > most and utf8_bytes(text) > most else None


def too_long_document(reading: Reading) -> Bad:
    return Bad(
        too_large(reading.max_document, "--max-document"), "raise that limit if so long a text is meant"
    )


def too_long_line(reading: Reading) -> Bad:
    return Bad(too_large(reading.max_line, "--max-line"), "raise that limit if so long a line is meant")


def utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def line_of(error: UnicodeDecodeError) -> int:
    """The line of the bad byte, counted from 1 in the chunk that was being decoded."""
    return error.object.count(b"\n", 0, error.start) + 1


def listed(names: Iterable[object]) -> str:
    shown = [storable(str(name)) for name in names]
    more = ["…"] if len(shown) > NAMES_LISTED else []
    return ", ".join(shown[:NAMES_LISTED] + more) or "nothing"
