"""The benchmarks start, and what they write stands where it belongs; what they measure is not tested."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from benchmarks import goals

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(path for path in BENCHMARKS.glob("*.py") if path.name not in ("measure.py", "goals.py"))
RESULTS = (BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8")


def run(script: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, object]:
    """As `python benchmarks/SCRIPT` does, in this process, which has PyTorch loaded already."""
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    return runpy.run_path(str(script), run_name="__main__" if arguments else "benchmark")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_says_what_it_measures(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run(script, monkeypatch, "--help")
    assert left.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.soak
def test_questions_are_asked_of_the_others_too(
    two_steps: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """DuckDB's types are not all those of SQLite and pandas."""
    run(BENCHMARKS / "questions.py", monkeypatch, str(two_steps), "--times", "1")
    said = capsys.readouterr().out
    for question in ("token: 100 occurrences with text", "neuron: rows kept"):
        assert re.search(rf"^\| {question}( \| [\d.]+)+ \|$", said, re.MULTILINE)


def test_the_suite_knows_every_script_and_has_a_place_for_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = run(BENCHMARKS / "suite.py", monkeypatch)
    parts = suite["PARTS"]
    assert isinstance(parts, dict)
    assert {script for script, *_ in parts.values()} | {"grow.py", "suite.py"} == {x.name for x in SCRIPTS}
    markers = re.findall(r"^<!-- (.+) -->$", RESULTS, re.MULTILINE)
    assert markers[1::2] == [f"/{key}" for key in markers[::2]], "each ends before the next begins"
    assert len(set(markers)) == len(markers)
    assert {key.split()[0] for key in markers[::2]} == {"goals", *parts}


def test_a_figure_stands_in_its_old_ones_place_or_after_the_last_of_its_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh = run(BENCHMARKS / "suite.py", monkeypatch)["fresh"]
    assert callable(fresh)
    text = "a\n<!-- x one -->\nold\n<!-- /x one -->\nb\n<!-- y one -->\nother\n<!-- /y one -->\nc\n"
    assert fresh(text, "x one", "new\\1") == text.replace("old", "new\\1")
    added = "<!-- /x one -->\n\n<!-- x two -->\nnew\n<!-- /x two -->\n"
    assert fresh(text, "x two", "new") == text.replace("<!-- /x one -->\n", added)


def test_goals_are_told_from_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = "A CPU, 2 cores, 25 GB; Linux, Python 3; 2026-01-02.\n"
    two, three = "| --- | --- |", "| --- | --- | --- |"
    blocks = {
        "ingest pythia-70m 1000000": f"|  |  |\n{two}\n| wall, a ÷ b | 1.25 |\n| bytes a token | 1,501 |",
        "questions neox-2m 1000000": f"| question | p95 | warm p95 |\n{three}\n| token: a | 99 | 9 |\n"
        f"| token: b | 1 | 12 |\n\n| bare lookup | DuckDB p95 |\n{two}\n| token: a | 5 |",
        "grown neox-2m 1000000": f"| question | p95 | warm p95 |\n{three}\n| token: a | 99 | 20 |\n"
        "| token: not asked at 1,000,000 | 99 | 20 |",
        "storage pythia-70m 5": f"|  | this store | zstd Parquet |\n{three}\n| rows alone | 50 | 100 |",
    }
    text = "".join(f"<!-- {key} -->\nx\n{taken}\n{rows}\n<!-- /{key} -->\n" for key, rows in blocks.items())
    (tmp_path / "RESULTS.md").write_text(text, encoding="utf-8")
    monkeypatch.setattr(goals, "RESULTS", tmp_path / "RESULTS.md")
    assert [line.split(" | ")[1:] for line in goals.table().splitlines()[2:]] == [
        ["≤ 1.3", "1.25", "yes", "pythia-70m 1000000, A CPU, 2026-01-02 |"],
        ["≤ 1,500", "1,501", "no", "pythia-70m 1000000, A CPU, 2026-01-02 |"],
        ["≤ 1", "0.5", "yes", "pythia-70m 5, A CPU, 2026-01-02 |"],
        ["≤ 10 ms", "9 to 12", "1 of 2", "neox-2m 1000000, A CPU, 2026-01-02 |"],
        ["≤ 2", "2.22", "no", "neox-2m 1000000, A CPU, 2026-01-02 |"],
    ]
