"""Cast columns to text whose values Arrow would lose.

Arrow has no type for BIGNUM, BIT, TIME WITH TIME ZONE and others: it gets bytes, a number cut to 128 bits or
nothing instead, or the query fails. Text formats add Python's limits: no time 24:00, no year after 9999.
Therefore the query itself casts such a column, also inside lists, structs and maps.
"""

from typing import Any

import duckdb

# Types for which DuckDB makes an Arrow array with wrong values, or no array
LOST = {
    *("bignum", "uhugeint", "bit", "time with time zone", "interval", "union", "variant", "geometry"),
    *("unknown", "lambda", "any", "pointer", "type"),
}
# Types of which Python can represent only some values: as a column, and inside a list or struct
NOT_IN_TEXT = {"time", "time_ns"}
NOT_IN_NESTED_TEXT = {
    *("date", "timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"),
    *("timestamp with time zone", "timestamp_tz", "timestamp_tz_ns"),
}

# Types that are narrower in Parquet: a value that does not fit is an error of DuckDB, not another value
NARROW = {"hugeint": "DECIMAL(38, 0)", "timestamp_s": "TIMESTAMP", "timestamp_ms": "TIMESTAMP"}


def for_arrow(con: duckdb.DuckDBPyConnection, query: str, parameters: Any, *, target: str) -> str:
    """Return the query of one SELECT, inside a query that casts such columns if there are any.

    target: the final format of the answer: text, which adds Python's limits, parquet or arrow.
    """
    inner = f"(\n{_without_end(query)}\n)"
    try:
        columns = con.execute(f"FROM {inner} LIMIT 0", parameters).description
    except (duckdb.OutOfMemoryException, duckdb.InterruptException):
        raise
    except duckdb.Error:  # not a SELECT, or a mistake that the query itself reports better
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
    """Return the type to cast to, None for no cast. within: the casts inside a list or struct."""
    if kind.id in odd:
        return odd[kind.id]
    if kind.id not in ("list", "array", "struct", "map"):
        return None
    children = kind.children
    if any(name == "" for name, _ in children):  # row(1, 2), of which Arrow would keep one field
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
    """Return a column's name as it is quoted in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _without_end(query: str) -> str:
    """Return the query without the semicolons at its end.

    >>> _without_end("SELECT ';' ; -- ;"), _without_end("SELECT 1 -- ;")
    ("SELECT ';' ", 'SELECT 1 -- ;')
    """
    text = query.encode()  # the places of tokens count bytes
    for place, _ in reversed(duckdb.tokenize(query)):
        if text[place : place + 1] != b";":
            break
        text = text[:place]
    return text.decode()
