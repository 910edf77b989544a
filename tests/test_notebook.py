"""The tutorial's cells run in order, and print what the notebook and the page say that they print."""

import re
from pathlib import Path

import pytest

from tools import notebook

NUMBER = r"[-+]?\d+(?:\.\d+)?"


def in_words(text: str) -> str:
    """A text without its numbers, whose last digits are the machine's, and without its padding."""
    return " ".join(re.sub(NUMBER, "#", text).split())


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(NUMBER, text)]


def test_the_cells_print_what_the_notebook_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = [shown.text for shown in notebook.executed(notebook.read())]
    held = notebook.outputs(notebook.read())
    for now, then in zip(printed, held, strict=True):
        assert in_words(now) == in_words(then), "run `make notebook`"
        assert numbers(now) == pytest.approx(numbers(then), abs=0.02), "run `make notebook`"
    assert sum(map(bool, held)) > 10


def test_the_page_is_the_notebook() -> None:
    assert notebook.PAGE.read_text(encoding="utf-8") == notebook.as_page(notebook.read()), (
        "run `make notebook`"
    )
