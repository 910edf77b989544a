"""The commands `annotate sql`, `examples` and `schema`: SQL on a store, shipped queries, the views."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from annotate_transformer.app import described
from annotate_transformer.app.cli.options import MOST_ROWS, Db, DbToDescribe, DbToRun
from annotate_transformer.app.cli.stopping import interrupting
from annotate_transformer.app.example_queries import defaults, example, files, title_of
from annotate_transformer.app.present.console import Console
from annotate_transformer.app.present.formats import FORMATS, check, of_file, write
from annotate_transformer.app.present.words import counted
from annotate_transformer.store import AnnotateError
from annotate_transformer.store.whole import target_of, whole

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from annotate_transformer.store.elsewhere.place import Place

SHOWN = 1000  # maximum number of rows that are printed as a table, unless --limit is given
RESTRICTED_ROWS = 10_000
BATCH = 16_384  # number of rows that are read and written together
SQL_EXAMPLE = """Example: annotate sql "FROM neuron_contexts(3, 17) LIMIT 5" --db demo.duckdb"""
SCHEMA_EXAMPLE = "Example: annotate schema positions"
EXAMPLES_EXAMPLE = "Example: annotate examples induction-heads --db demo.duckdb"

commands = typer.Typer(rich_markup_mode=None)
err = Console(stderr=True, highlight=False)

Format = Annotated[
    str | None,
    typer.Option("--format", metavar="FORMAT", help=f"{', '.join(FORMATS)} [default: table]."),
]
Json = Annotated[bool, typer.Option("--json", help="The same as --format json.")]
Limit = Annotated[
    int | None,
    typer.Option(min=1, max=MOST_ROWS, help=f"Max rows [default: {SHOWN} in a table, else all]."),
]
Param = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Value of the parameter $NAME in the SQL: a number, null, or any text. A value in quotes is "
        "always a text.",
    ),
]


@commands.command(epilog=SQL_EXAMPLE)
def sql(
    db: Db,
    query: Annotated[
        str | None, typer.Argument(metavar="QUERY", help="SQL over the views, or - for standard input.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="Read the SQL from this file, or - for standard input."),
    ] = None,
    format: Format = None,
    as_json: Json = False,
    limit: Limit = None,
    param: Param = None,
    output: Annotated[
        Path | None, typer.Option(help="Write to this file; its suffix also chooses the format.")
    ] = None,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="In CSV leave texts as they are. By default, a text that a spreadsheet program would run as "
            "a formula (it begins with = + - @, a tab or a line break) is preceded by an apostrophe.",
        ),
    ] = False,
    restricted: Annotated[
        bool,
        typer.Option(
            "--restricted",
            help=f"For SQL that you did not write: at most {RESTRICTED_ROWS:,} rows (or --limit), 10 s and "
            "512 MB; one SELECT, no files.",
        ),
    ] = False,
) -> None:
    """Run SQL on a store and print the answer as a table, or write it to a file.

    In all formats but a table, the answer has all rows and values are not rounded; rows are written while
    they are computed.
    `annotate schema` lists the views and macros.
    """
    chosen = _format(format, as_json, output)
    text = _query(query, file)
    ask = _restricted if restricted else _ask
    with _opened(output, db) as out:
        asked = _answer(db, text, param, chosen, limit, out, raw=raw, ask=ask)
    _say_what_is_missing(text, *asked)


@commands.command(epilog=EXAMPLES_EXAMPLE)
def examples(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Run this query; its number alone will do.")
    ] = None,
    db: DbToRun = None,
    format: Format = None,
    as_json: Json = False,
    limit: Limit = None,
    param: Param = None,
) -> None:
    """List the example queries that come with the program, or run one of them.

    `annotate examples` lists them with their titles. Each has default values for its parameters, which
    --param replaces; the SQL itself is in `examples/queries` and on the page SQL of `annotate app`.
    """
    chosen = _format(format, as_json, None)
    if name is None:
        check(chosen, sys.stdout.buffer)
        write(_listed(), chosen, sys.stdout.buffer)
        return
    text = example(name)
    if db is None:
        raise typer.BadParameter("it names the store in which a query is run", param_hint="--db")
    with _opened(None, db) as out:
        asked = _answer(db, text, param, chosen, limit, out)
    _say_what_is_missing(text, *asked)


def _listed() -> "pa.Table":
    import pyarrow as pa

    titles = {name: title_of(file.read_text(encoding="utf-8")) for name, file in files().items()}
    return pa.table({"name": [*titles], "title": [*titles.values()]})


def _answer(
    db: "Place",
    text: str,
    param: list[str] | None,
    format: str,
    limit: int | None,
    out: BinaryIO,
    *,
    raw: bool = False,
    ask: "Ask | None" = None,
) -> "Asked":
    """Run a query with its parameters, and write the answer to `out`."""
    parameters = {name: _value(literal) for name, literal in defaults(text).items()}
    parameters |= dict(_parameter(item) for item in param or [])
    check(format, out)
    limit = limit or (SHOWN if format == "table" else None)
    return (ask or _ask)(db, text, parameters, format, limit, out, raw)


def _say_what_is_missing(text: str, rows: int, cut: bool) -> None:
    """Print why an answer may have no rows, or that not all of its rows were printed."""
    if rows == 0:
        err.print(f"No rows.{_why_none(text)}", soft_wrap=True)
    if cut:
        err.print(f"annotate: only the first {counted(rows, 'row')}; --limit N gives more.", soft_wrap=True)


@commands.command(epilog=SCHEMA_EXAMPLE)
def schema(
    view: Annotated[
        str | None, typer.Argument(metavar="VIEW", help="Describe the columns of this view or macro.")
    ] = None,
    db: DbToDescribe = None,
    format: Format = None,
    as_json: Json = False,
) -> None:
    """List the views and macros with the questions they answer, or one view's columns with their units."""
    chosen = _format(format, as_json, None)
    with _database(db) as con:
        title, answer = described.columns(con, view) if view else ("", described.names(con))
    out = sys.stdout.buffer
    check(chosen, out)
    if title and chosen == "table":
        out.write(f"{title}\n\n".encode())
    write(answer, chosen, out, fold="comment" if view or not out.isatty() else None)


def _why_none(query: str) -> str:
    """Return possible reasons for an empty answer, chosen by words in the query."""
    reasons = {
        "layer|head|neuron": "Is there such a layer, head or neuron? Numbers start at 0; `FROM models` says "
        "how many there are. Macros read the run that was finished last, or the one given as `run := N`.",
        r"token\s*=|token_occurrences|phrase": "A token's leading space matters: "
        "`annotate token TEXT --match like` lists similar tokens.",
        r"run_id\s*=": "`annotate runs` lists the runs.",
    }
    return "".join(f" {why}" for about, why in reasons.items() if re.search(about, query, re.IGNORECASE))


# Asking -------------------------------------------------------------------------------------------

Asked = tuple[int, bool]  # (number of rows written, whether the query has more rows)
Ask = Callable[["Place", str, dict[str, Any], str, int | None, BinaryIO, bool], Asked]


def _ask(
    db: "Place",
    query: str,
    parameters: dict[str, Any],
    format: str,
    limit: int | None,
    out: BinaryIO,
    raw: bool,
) -> Asked:
    """Run any SQL, and write the rows of its answer to `out` while they are computed.

    Raises:
        RefusedQuery: the SQL is wrong.
    """
    import pyarrow as pa

    from annotate_transformer.store.arrow import for_arrow
    from annotate_transformer.store.database import connection
    from annotate_transformer.store.restricted import in_sentences

    with connection(db, read_only=True) as con, interrupting(con.interrupt):
        with in_sentences(query):
            cast = for_arrow(con, query, parameters or None, target=_target(format))
            result = con.execute(cast, parameters or None)
            # The type stubs of DuckDB do not say that it returns None if the SQL consists only of comments.
            if result is None:
                raise AnnotateError("There is no statement in this query.")
            reader = result.to_arrow_reader(min(BATCH, limit + 1) if limit else BATCH)
        first = _First(reader, limit, query)
        batches = pa.RecordBatchReader.from_batches(reader.schema, iter(first))
        # `_writing` is inside `connection`, so that it catches errors first. If the disk of `out` is full,
        # `connection` would report that the disk of the store is full.
        with _writing(_named(out)):
            rows = write(batches, format, out, raw=raw)
    return rows, first.cut


class _First:
    """An iterator over batches of the first `limit` rows; at the end, `cut` is True if there are more."""

    def __init__(self, reader: "pa.RecordBatchReader", limit: int | None, query: str) -> None:
        self.reader, self.left, self.query, self.cut = reader, limit, query, False

    def __iter__(self) -> Iterator["pa.RecordBatch"]:
        for batch in self._read():
            if self.left is not None:
                self.cut = batch.num_rows > self.left
                batch = batch.slice(0, self.left)
                self.left -= batch.num_rows
            yield batch
            if self.cut:
                return

    def _read(self) -> Iterator["pa.RecordBatch"]:
        from annotate_transformer.store.restricted import in_sentences

        while True:
            with in_sentences(self.query):
                batch = next(self.reader, None)
            if batch is None:
                return
            yield batch


def _restricted(
    db: "Place",
    query: str,
    parameters: dict[str, Any],
    format: str,
    limit: int | None,
    out: BinaryIO,
    raw: bool,
) -> Asked:
    from annotate_transformer.store.restricted import restricted

    target, rows = _target(format), limit or RESTRICTED_ROWS
    answer = restricted(db, query, parameters or None, rows=rows, target=target)
    return write(answer.table, format, out, raw=raw), answer.truncated


def _target(format: str) -> str:
    """Return the argument `target` of `for_arrow` for a format: `parquet`, or `text` for other formats."""
    return "parquet" if format == "parquet" else "text"


# Options ------------------------------------------------------------------------------------------


def _format(format: str | None, as_json: bool, output: Path | None) -> str:
    if as_json and format not in (None, "json"):
        raise typer.BadParameter(f"--json and --format {format} contradict each other")
    if as_json:
        return "json"
    if format is not None and format not in FORMATS:
        raise typer.BadParameter(f"{format!r} is none of {', '.join(FORMATS)}", param_hint="--format")
    if format is None and output is not None and output.suffix and of_file(output) is None:
        raise typer.BadParameter(
            f"{output.name} does not say the format: add --format", param_hint="--output"
        )
    return format or (output and of_file(output)) or "table"


def _query(query: str | None, file: Path | None) -> str:
    if (query is None) == (file is None):
        raise typer.BadParameter("give the SQL either as QUERY or with --file")
    if query is not None and query != "-":
        return query
    try:
        if file is None or str(file) == "-":
            return sys.stdin.buffer.read().decode("utf-8-sig")
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotateError(f"The SQL in {file or 'standard input'} cannot be read ({error}).") from error


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--param")
    return name, _value(value)


def _value(text: str) -> int | float | str | None:
    """Parse the value of a parameter: null, a number, 'text in quotes', or any other text.

    >>> [_value(text) for text in ["3", "-.5", "1e3", "null", "'3'", " the", "3L"]]
    [3, -0.5, 1000.0, None, '3', ' the', '3L']
    """
    if text.lower() == "null":
        return None
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if re.fullmatch(r"[+-]?[0-9]+", text):
        return int(text)
    if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        return float(text)
    return text


@contextmanager
def _opened(output: Path | None, db: "Place") -> Iterator[BinaryIO]:
    """Context manager: yield standard output, or a temporary file that is renamed to `output` at the end."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if isinstance(db, Path) and output.exists() and db.exists() and output.samefile(db):
        raise AnnotateError(f"{output} is the store itself: choose another file for --output.")
    device = output.exists() and not output.is_file()
    beside = nullcontext(output) if device else whole(output)
    with _writing(str(output)), beside as part, part.open("wb") as out:
        yield out


def _named(out: BinaryIO) -> str:
    """Return the name of an output stream for error messages."""
    return "The answer" if out is sys.stdout.buffer else target_of(out.name)


@contextmanager
def _writing(what: str) -> Iterator[None]:
    """Context manager: raise a write error as AnnotateError, but let BrokenPipeError (`| head`) through."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        from annotate_transformer.store.database import is_disk_full

        why, room = error.strerror or error, "Make room on that disk. " if is_disk_full(error) else ""
        raise AnnotateError(f"{what} cannot be written ({why}). {room}The store is as it was.") from error


# The schema ---------------------------------------------------------------------------------------


@contextmanager
def _database(db: "Place | None") -> Iterator["duckdb.DuckDBPyConnection"]:
    import duckdb

    from annotate_transformer.store.database import connection, create

    if db is not None:
        with connection(db, read_only=True) as con:
            yield con
        return
    with duckdb.connect() as con:
        create(con)
        yield con
