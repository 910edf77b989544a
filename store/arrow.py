"""Cast a column to text if Arrow would lose some of its values.

Arrow has no type for BIGNUM, BIT, TIME WITH TIME ZONE and others. DuckDB exports their values as bytes, as a
number cut to 128 bits or as nothing, or the query fails. Text formats also have Python's limits: no time
24:00, no year after 9999. Therefore the query itself casts such a column to text, also inside lists, structs
and maps.
"""

from typing import Any

import duckdb

# DuckDB types whose values DuckDB exports to Arrow wrongly, or cannot export at all
LOST = {
    *("bignum", "uhugeint", "bit", "time with time zone", "interval", "union", "variant", "geometry"),
    *("unknown", "lambda", "any", "pointer", "type"),
}
# Types with some values that Python cannot represent, such as years after 9999. If the answer is written as
# text, a column of a type in NOT_IN_TEXT is always cast to text. A type in NOT_IN_NESTED_TEXT is cast to text
# only where it is inside a list, struct or map.
NOT_IN_TEXT = {"time", "time_ns"}
NOT_IN_NESTED_TEXT = {
    *("date", "timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"),
    *("timestamp with time zone", "timestamp_tz", "timestamp_tz_ns"),
}

# NARROW: from a DuckDB type to the type to which its values are cast for a Parquet file. The new type has a
# smaller range, and DuckDB raises an error for a value outside this range.
NARROW = {"hugeint": "DECIMAL(38, 0)", "timestamp_s": "TIMESTAMP", "timestamp_ms": "TIMESTAMP"}


def for_arrow(con: duckdb.DuckDBPyConnection, query: str, parameters: Any, *, target: str) -> str:
    """Return a SELECT that wraps `query` and casts the columns whose values Arrow would lose.

    target: the final format of the answer: `text` (which has Python's limits), `parquet` or `arrow`.
    """
    inner = f"(\n{_without_end(query)}\n)"
    try:
        columns = con.execute(f"FROM {inner} LIMIT 0", parameters).description
    except (duckdb.OutOfMemoryException, duckdb.InterruptException):
        raise
    except duckdb.Error:  # not a SELECT, or wrong SQL: DuckDB's error is clearer if `query` itself is run
        return query
    alone = {"text": dict.fromkeys(NOT_IN_TEXT, "VARCHAR"), "parquet": NARROW}.get(target, {})
    within = {"text": dict.fromkeys(NOT_IN_NESTED_TEXT, "VARCHAR")}.get(target, {})
    odd = dict.fromkeys(LOST, "VARCHAR") | alone
    casts = [_cast(kind, odd, odd | within) for _, kind, *_ in columns]
    if not any(casts):
        return query
    names = ", ".join(f"c{i}" for i in range(len(columns)))
    given = (
        f"{f'CAST(c{i} AS {cast})' if cast else f'c{i}'} AS {quoted(name)}"
        for i, (cast, (name, *_)) in enumerate(zip(casts, columns, strict=True))
    )
    return f"FROM {inner} AS answer({names}) SELECT {', '.join(given)}"


def _cast(kind: Any, odd: dict[str, str], within: dict[str, str]) -> str | None:
    """Return the type to which a column of type `kind` must be cast, or None if it needs no cast.

    odd: for each type of column, the type to which it is cast; within: the same for values inside a list,
    struct or map.
    """
    if kind.id in odd:
        return odd[kind.id]
    if kind.id not in ("list", "array", "struct", "map"):
        return None
    children = kind.children
    if any(name == "" for name, _ in children):  # Arrow would lose fields without names, as in row(1, 2)
        return "VARCHAR"
    casts = [_cast(child, within, within) if name != "size" else None for name, child in children]
    if not any(casts):
        return None
    types = [cast or str(child) for cast, (_, child) in zip(casts, children, strict=True)]
    if kind.id == "struct":
        fields = zip(children, types, strict=True)
        return f"STRUCT({', '.join(f'{quoted(name)} {of}' for (name, _), of in fields)})"
    if kind.id == "map":
        return f"MAP({', '.join(types)})"
    return f"{types[0]}[{types[1] if kind.id == 'array' else ''}]"


def quoted(name: str) -> str:
    """Return the name of a column in double quotes, for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _without_end(query: str) -> str:
    """Return the query without the semicolons at its end.

    >>> _without_end("SELECT ';' ; -- ;"), _without_end("SELECT 1 -- ;")
    ("SELECT ';' ", 'SELECT 1 -- ;')
    """
    text = query.encode()  # the offsets of duckdb.tokenize are in bytes
    for place, _ in reversed(duckdb.tokenize(query)):
        if text[place : place + 1] != b";":
            break
        text = text[:place]
    return text.decode()
