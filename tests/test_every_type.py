"""Every type of DuckDB's, with its extremes, through every format: what DuckDB writes, or what is said here.

The reference is DuckDB's own cast to VARCHAR.
"""

import csv
import io
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyarrow import parquet

from annotate_transformer.app.present.formats import write
from annotate_transformer.store.arrow import for_arrow
from annotate_transformer.store.database import connection
from annotate_transformer.store.restricted import restricted

with duckdb.connect() as con:
    ALL = [str(row[0]) for row in con.execute("DESCRIBE FROM test_all_types()").fetchall()]
MORE = {
    "bignum": "'1'::BIGNUM",
    "bignum negative": "'-123456789012345678901234567890123456789012345'::BIGNUM",
    "bignum in a list": "['1'::BIGNUM, NULL]",
    "uhugeint in a struct": "{'a': 340282366920938463463374607431768211455::UHUGEINT, 'it''s \"b\"': 'x'}",
    "huge in a map": "MAP {'a': 170141183460469231731687303715884105727::HUGEINT}",
    "variant": "{'a': [1, 2]}::VARIANT",
    "variant in a list": "[1::VARIANT, 'a'::VARIANT]",
    "geometry": "'POINT(1 2)'::GEOMETRY",
    "json": "'{\"a\": 1}'::JSON",
    "union of a list": "union_value(a := [1, 2])",
    "union in a struct": "{'u': union_value(a := 1)}",
    "unnamed struct": "row(1, TIME '24:00:00')",
    "infinite date": "DATE '-infinity'",
    "date after Python's": "DATE '290000-01-01'",
    "date before Python's": "DATE '0001-01-01 (BC)'",
    "first date of Python's": "DATE '0001-01-01'",
    "last date of Python's": "DATE '9999-12-31'",
    "dates in a list": "[DATE 'infinity', NULL, DATE '12345-01-01']",
    "timestamp before Christ": "TIMESTAMP '4000-01-01 (BC) 01:02:03'",
    "infinite instant": "TIMESTAMPTZ 'infinity'",
    "instant after Python's": "TIMESTAMPTZ '10000-01-01 00:00:00+00'",
    "infinite seconds": "TIMESTAMP_S 'infinity'",
    "infinite milliseconds": "TIMESTAMP_MS '-infinity'",
    "infinite nanoseconds": "TIMESTAMP_NS 'infinity'",
    "timestamps in a struct": "{'t': TIMESTAMP_NS '2020-01-01 00:00:00.123456789'}",
    "the day's end": "TIME '24:00:00'",
    "the day's end in a list": "[TIME '24:00:00']",
    "nanoseconds": "TIME_NS '12:00:00.123456789'",
    "time with a zone": "TIMETZ '12:00:00+15:59'",
    "interval": "INTERVAL '-1 month 3 days 2.5 seconds'",
    "interval in a map": "MAP {'a': INTERVAL 1 DAY}",
    "bits in an array": "array_value('101'::BIT, '1'::BIT)",
    "NUL in a text": "'a' || chr(0) || 'b'",
    "odd characters": "chr(27) || '[31m' || chr(8238) || chr(133) || '=1'",
    "negative zero": "-0.0::DOUBLE",
    "smallest double": "5e-324::DOUBLE",
    "NaN": "'nan'::FLOAT",
    "infinity": "'-inf'::DOUBLE",
    "floats in lists": "[[0.1::FLOAT, NULL]]",
    "float in a struct": "{'a': 0.1::FLOAT, 'b': '0.5'}",
    "float in a map": "MAP {'a': 16777216::FLOAT}",
    "decimal": "1234567890123456789012345678.0123456789::DECIMAL(38, 10)",
    "null": "NULL",
    "nulls": "[NULL]",
    "uuid in a map": "MAP {'00112233-4455-6677-8899-aabbccddeeff'::UUID: 1}",
    "enum in a struct": "{'e': 'it''s'::ENUM('it''s', 'x')}",
    "empty": "{'a': []::BIGNUM[]}",
}
NAMES = [*ALL, *MORE]
TOO_LARGE = ("hugeint", "huge in a map")  # for the 38 digits of Parquet's decimals


def query(name: str) -> str:
    return (
        f"SELECT {MORE[name]} AS v -- ;\n;" if name in MORE else f'FROM test_all_types() SELECT "{name}" AS v'
    )


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("types") / "x.duckdb"
    with connection(path, read_only=False):
        pass
    return path


@pytest.fixture(scope="module")
def con(db: Path) -> Any:
    with connection(db, read_only=True) as con:
        yield con


def written(con: Any, name: str, format: str) -> bytes:
    """As `annotate sql` does it."""
    out = io.BytesIO()
    cast = for_arrow(con, query(name), None, target="parquet" if format == "parquet" else "text")
    write(con.execute(cast).to_arrow_reader(10), format, out)
    return out.getvalue()


def reference(con: Any, name: str) -> list[tuple[str, str | None]]:
    """Each value's type, and how DuckDB writes it."""
    of = query(name).rstrip(";\n").removesuffix("-- ")
    rows: list[tuple[str, str | None]] = con.execute(f"SELECT typeof(v), v::VARCHAR FROM ({of})").fetchall()
    return rows


def same(kind: str, text: str | None, got: Any) -> bool:
    """Whether a value of JSON is the one that DuckDB writes as `text`."""
    if text is None or got is None:
        return text is got or text in ("nan", "inf", "-inf")
    if kind == "BLOB":
        return bool(
            duckdb.execute("SELECT unhex($got)::VARCHAR = $text", {"got": got, "text": text}).fetchall()[0][0]
        )
    if isinstance(got, bool):
        return text == str(got).lower()
    if isinstance(got, int | float):
        return Decimal(text) == Decimal(repr(got))
    if isinstance(got, str) and kind.startswith(("DATE", "TIMESTAMP")) and "T" in got:
        return re.sub(r"\.?0+$", "", got.replace("T", " ").removesuffix("Z")) == re.sub(
            r"\.?0+$", "", text.removesuffix("+00")
        )
    return got == text if isinstance(got, str) else plain(json.dumps(got, ensure_ascii=False)) == plain(text)


def plain(text: str) -> str:
    """A list, struct or map without the marks in which DuckDB's text and JSON differ."""
    text = re.sub(r"(?<!\w)(-?inf|nan|NULL|null)(?!\w)", "null", text)
    return "".join(character for character in text if character not in "\"'[]{}(): ,=\\")


@pytest.mark.some(3)
@pytest.mark.parametrize("name", NAMES)
def test_text_formats(name: str, con: Any) -> None:
    values = [row["v"] for row in json.loads(written(con, name, "json"))]
    wanted = reference(con, name)
    assert len(values) == len(wanted)
    for (kind, text), got in zip(wanted, values, strict=True):
        assert same(kind, text, got), (kind, text, got)
    lines = written(con, name, "jsonl").decode().removesuffix("\n").split("\n")
    assert [json.loads(line)["v"] for line in lines] == values
    _, *cells = csv.reader(io.StringIO(written(con, name, "csv").decode()))
    for (kind, text), value, cell in zip(wanted, values, cells, strict=True):
        if kind in ("FLOAT", "DOUBLE") and value is not None:
            assert float(cell[0]) == value
        elif re.fullmatch(r"DECIMAL.*\)|HUGEINT|FLOAT|DOUBLE", kind):
            assert cell == ([] if text is None else [text])
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            assert cell == ([] if value is None else [shown])
    for format in ("table", "markdown"):
        shown = written(con, name, format).decode()
        assert all(text not in ("nan", "inf", "-inf") or text in shown for _, text in wanted)
        assert len(shown.splitlines()) >= 1 + len(values)


@pytest.mark.some(3)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in TOO_LARGE])
def test_parquet(name: str, con: Any, tmp_path: Path) -> None:
    """Read back by DuckDB, it is what it was; but Parquet's TIME is cut to microseconds there."""
    (tmp_path / "x.parquet").write_bytes(written(con, name, "parquet"))
    with duckdb.connect() as other:
        other.execute("SET TimeZone = 'UTC'")
        found = other.execute(f"SELECT v::VARCHAR FROM '{tmp_path / 'x.parquet'}'").fetchall()
    texts = [text for _, text in reference(con, name)]
    if name == "nanoseconds":
        assert parquet.read_table(tmp_path / "x.parquet").schema.field("v").type == "time64[ns]"
        texts = [str(text)[:-3] for text in texts]
    assert [row[0] for row in found] == texts


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_does_not_fit_into_parquet_is_no_other_value(name: str, con: Any) -> None:
    with pytest.raises((duckdb.ConversionException, OSError), match="Could not cast"):
        written(con, name, "parquet")


@pytest.mark.parametrize("target", ["text", "parquet", "arrow"])
def test_restricted(target: str, db: Path, con: Any) -> None:
    """All of them in one row, each as it is written unrestricted."""
    names = [name for name in MORE if target != "parquet" or name not in TOO_LARGE]
    one = {f"c{i}": query(name).rstrip(";\n").removesuffix("-- ") for i, name in enumerate(names)}
    columns = ", ".join(f"({select}) AS {name}" for name, select in one.items())
    answer = restricted(db, f"SELECT {columns}", target=target)
    if target == "text":
        out = io.BytesIO()
        write(answer.table, "json", out)
        [row] = json.loads(out.getvalue())
        for got, name in zip(row.values(), names, strict=True):
            assert got == json.loads(written(con, name, "json"))[0]["v"], name
    assert answer.table.num_columns == len(answer.frame.columns) == len(names)
    assert answer.frame.to_csv()


def test_restricted_is_told_of_every_type_of_duckdbs(db: Path) -> None:
    for target in ("text", "arrow"):
        answer = restricted(db, "FROM test_all_types()", target=target)
        assert (len(answer.frame), answer.table.column_names) == (3, ALL)
