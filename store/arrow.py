"""Answers on their way to Arrow: what Arrow would lose, DuckDB writes as text.

Arrow has no type for a BIGNUM, a BIT, a TIME WITH TIME ZONE and others, and gets bytes, a number cut to 128
bits or nothing in their stead, or the query fails. Within a text format Python's limits are added: no
time 24:00, no year beyond 9999. So such a column is cast by the query itself, also within lists, structs
and maps.
"""

from typing import Any

import duckdb

# Types of which DuckDB makes an Arrow array with other values than theirs, or none
LOST = {
    *("bignum", "uhugeint", "bit", "time with time zone", "interval", "union", "variant", "geometry"),
    *("unknown", "lambda", "any", "pointer", "type"),
}
# Types of which Python knows some values only, alone and within a list or struct
NOT_IN_TEXT = {"time", "time_ns"}
NOT_IN_NESTED_TEXT = {
    *("date", "timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"),
    *("timestamp with time zone", "timestamp_tz", "timestamp_tz_ns"),
}

# Types of which Parquet has a narrower one: what does not fit is DuckDB's error, not another value
NARROW = {"hugeint": "DECIMAL(38, 0)", "timestamp_s": "TIMESTAMP", "timestamp_ms": "TIMESTAMP"}


def for_arrow(con: duckdb.DuckDBPyConnection, query: str, parameters: Any, *, target: str) -> str:
    """The query of one SELECT, or one around it that writes such columns as text.

    target: what the answer becomes in the end: text, where Python's limits count too, parquet, or arrow.
    """
    inner = f"(\n{_without_end(query)}\n)"
    try:
        columns = con.execute(f"FROM {inner} LIMIT 0", parameters).description
    except (duckdb.OutOfMemoryException, duckdb.InterruptException):
        raise
    except duckdb.Error:  # no SELECT; or a mistake, of which the query itself tells better
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
    """The type to cast to; None if it may stay what it is. within: what is odd in a list or struct."""
    if kind.id in odd:
        return odd[kind.id]
    if kind.id not in ("list", "array", "struct", "map"):
        return None
    children = kind.children
    if any(name == "" for name, _ in children):  # row(1, 2): Arrow would keep one field of them
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
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _without_end(query: str) -> str:
    """The query without the semicolons after it.

    >>> _without_end("SELECT ';' ; -- ;"), _without_end("SELECT 1 -- ;")
    ("SELECT ';' ", 'SELECT 1 -- ;')
    """
    text = query.encode()  # tokens are told by bytes
    for place, _ in reversed(duckdb.tokenize(query)):
        if text[place : place + 1] != b";":
            break
        text = text[:place]
    return text.decode()
