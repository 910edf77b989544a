"""`annotate examples` lists and runs the example queries; examples in the help of commands run as printed."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from annotate_transformer.app.cli.commands import app
from annotate_transformer.app.cli.main import main
from asking import Asking, Said

QUERIES = sorted((Path(__file__).parent.parent / "examples" / "queries").glob("*.sql"))
INDUCTION = next(file for file in QUERIES if "induction-heads" in file.name)


@pytest.fixture
def typed(
    two_steps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Said]:
    """A command as a person types it, in a folder with the store demo.duckdb."""
    (tmp_path / "demo.duckdb").symlink_to(two_steps)
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> Said:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Said(int(ended.value.code or 0), printed.out, printed.err)

    return run


def test_all_are_listed_with_their_titles(typed: Callable[[str], Said]) -> None:
    listed = json.loads(typed("annotate examples --json").out)
    assert [row["name"] for row in listed] == [file.stem for file in QUERIES]
    titles = [file.read_text(encoding="utf-8").split("\n")[0] for file in QUERIES]
    assert [f"-- title: {row['title']}" for row in listed] == titles
    shown = typed("annotate examples")
    assert (shown.status, shown.err, len(shown.out.splitlines())) == (0, "", 1 + len(QUERIES))


@pytest.mark.parametrize("more", [[], ["--json"], ["--param", "run=1"], ["--limit", "2"]])
def test_one_is_run_as_sql_runs_it(more: list[str], ask: Asking) -> None:
    wanted = ask("sql", "--file", INDUCTION, *more)
    assert wanted.status == 0 and wanted.out
    number, _, name = INDUCTION.stem.partition("-")
    for given in (INDUCTION.stem, name, number):
        assert ask("examples", given, *more) == wanted


def test_an_unknown_name_is_answered_with_the_nearest(ask: Asking) -> None:
    said = ask("examples", "inductoin-heads")
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith(
        "annotate: There is no example 'inductoin-heads'. Did you mean induction-heads"
    )
    assert ask("examples", "xyz").err.endswith("'xyz'. `annotate examples` lists them.\n")


def test_it_needs_a_store_to_run_one(typed: Callable[[str], Said], monkeypatch: pytest.MonkeyPatch) -> None:
    said = typed(f"annotate examples {INDUCTION.stem}")
    assert (said.status, said.out, "--db" in said.err) == (2, "", True)
    monkeypatch.setenv("ANNOTATE_DB", "demo.duckdb")
    assert typed(f"annotate examples {INDUCTION.stem}").status == 0


# The examples that need only a store of two runs with weights
PRINTED = ("verify", "phrase", "neuron", "head", "neurons", "heads", "position", "runs", "stats", "compare")
PRINTED += ("units", "export", "sql", "examples", "schema", "doctor")


@pytest.mark.parametrize("command", PRINTED)
def test_the_example_in_the_help_runs_as_printed(command: str, typed: Callable[[str], Said]) -> None:
    line = typer.main.get_command(app).commands[command].epilog  # type: ignore[attr-defined]
    said = typed(line.removeprefix("Example: "))
    assert (said.status, said.err) == (0, "")
    assert said.out
