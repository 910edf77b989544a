"""The columns of shown tables: units in the headings, and the same cells in a notebook and on a terminal."""

import re

import pandas as pd
import pytest

from annotate_transformer.app.present import columns, printed
from annotate_transformer.app.present.columns import Column, Columns

TABLES: dict[str, Columns] = {
    name: value
    for name, value in vars(columns).items()
    if isinstance(value, tuple) and value and all(isinstance(column, Column) for column in value)
}
TABLES |= {f"statistics of {kind}": table for kind, table in columns.STATISTICS.items()}
TABLES |= {f"compared {what}": columns.compared(what, 1, 2) for what in ("positions", "neurons", "heads")}
TABLES["losses"] = columns.compared_losses(1, 2)
UNITS = {r"(^|_)(toward|effect|logit|closure)": "(logits", r"loss|entropy|divergence": "(nats"}


@pytest.mark.parametrize("name", TABLES)
def test_the_headings_of_a_table_differ_and_have_units(name: str) -> None:
    headings = [column.heading for column in TABLES[name]]
    assert len({*headings}) == len(headings)
    for column in TABLES[name]:
        for pattern, unit in UNITS.items():
            if column.is_number and re.search(pattern, column.name):
                assert unit in column.heading, column.name


def test_a_notebook_shows_what_the_terminal_prints(capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame(
        {
            "token": [" the", "[b]\n"],
            "positions": [1234, 5],
            "mean_attention": [0.5, None],
            "mean_effect": [-1, 2],
        }
    )
    frame.attrs = {
        "exact": False,
        "note": "truncated: the first 2 of 9",
        "bound": {"x_bound": 0.5},
    }
    shown = columns.as_text(frame, columns.HEAD_TOKENS)
    assert shown.columns.tolist() == ["token", "positions (n)", "mean attention", "mean effect (logits)"]
    assert shown.to_numpy().tolist() == [["·the", "1,234", "0.50", "-1.000"], ["[b]↵", "5", "—", "+2.000"]]
    assert shown.attrs == frame.attrs
    printed.print_table("A title", frame, columns.HEAD_TOKENS)
    lines = capsys.readouterr().out.splitlines()
    rows, printed_rows = shown.to_numpy().tolist(), [line.split() for line in lines]
    first = printed_rows.index(rows[0])  # a first table on a console begins a line later
    assert printed_rows[first : first + 2] == rows
    assert "Truncated: the first 2 of 9 (x bound 0.5)." in lines
