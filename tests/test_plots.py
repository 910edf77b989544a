"""The option --plot: a figure beside the answer of a command, from the numbers that the command prints."""

import base64
import re
from pathlib import Path
from typing import Any

import pytest

from annotate_transformer import store
from annotate_transformer.app.present import figures

COMMANDS = [
    ("position", "500"),
    ("head", "L1H2"),
    ("neuron", "L3N7"),
    ("compare", "1", "2"),
    ("compare", "1", "2", "--what", "heads"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_figure_beside_the_answer(ask: Any, tmp_path: Path, command: tuple[str, ...]) -> None:
    without = ask(*command)
    files = [tmp_path / f"figure.{kind}" for kind in ("png", "svg", "html")]
    said = ask(*command, *(word for file in files for word in ("--plot", file)))
    assert (said.status, said.out) == (0, without.out)
    png, svg, html = (file.read_bytes() for file in files)
    assert png.startswith(b"\x89PNG")
    assert b"<svg" in svg
    [embedded] = re.findall(rb'src="data:image/svg.xml;base64,([^"]+)"', html)
    assert base64.b64decode(embedded) == svg
    assert b"//" not in re.sub(rb"base64,[^\"]+", b"", html)


def test_the_bars_have_the_stored_numbers(
    ask: Any, tmp_path: Path, two_steps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = list[figures.Bars]()
    write = figures.write

    def watched(shown: figures.Bars, file: Path) -> None:
        drawn.append(shown)
        write(shown, file)

    monkeypatch.setattr(figures, "write", watched)
    for command in COMMANDS:
        ask(*command, "--plot", tmp_path / "x.svg")
    position, head, neuron, positions, heads = drawn
    with store.open(two_steps) as s:
        assert position.values == s.decomposition(500, "component").toward_next.tolist()
        for of_unit, name in ((head, "L1H2"), (neuron, "L3N7")):
            bins = s.unit(name).histogram()
            assert sum(of_unit.values) == bins.positions.sum()
            assert [value for value in of_unit.values if value] == bins.positions[bins.positions > 0].tolist()
        assert positions.values == s.compare(1, 2, "positions", 20).loss_change.tolist()
        assert heads.values == s.compare(1, 2, "heads", 20).change.tolist()
        first = s.compare(1, 2, "heads", 20).iloc[0]
        assert heads.labels[0] == f"L{int(first.layer)}H{int(first['head'])}"


def test_a_figure_that_cannot_be_written_is_told_before_the_question(ask: Any, tmp_path: Path) -> None:
    for command in COMMANDS:
        said = ask(*command, "--plot", tmp_path / "x.gif")
        assert said.status == 2 and "let it end in .png, .svg or .html" in said.err and not said.out
