"""Nothing that comes from a file, a model, a server or a person steers the terminal."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table

from annotate_transformer.app.cli import check, commands, make, sql
from annotate_transformer.app.cli.main import main
from annotate_transformer.app.present import printed
from annotate_transformer.app.present.console import Console, harmless
from annotate_transformer.app.present.formats import write
from annotate_transformer.ingest.errors import EndpointError, ModelError, SettingsError, SourceError
from annotate_transformer.store import AnnotateError, NotAStore

EVIL = {
    "colour": "\x1b[31m",
    "title": "\x1b]0;owned\x07",
    "clear": "\x1b[2J\x1b[H",
    "link": "\x1b]8;;http://evil.example\x1b\\x",
    "return": "\rannotate: all is well",
    "backspace": "\b\b\b",
    "C1": "\x9b31m",
    "bidi override": "\u202etxt.exe",
    "bidi isolate": "\u2066x\u2069",
    "mark": "\u200f",
    "line separator": "\u2028",
    "next line": "\x85",
    "NUL": "\0",
    "DEL": "\x7f",
    "vertical": "\v\f",
    "tag": "\U000e0041",
    "byte order": "\ufeff",
    "markup": "[bold]x[/bold]\x1b",
}
KINDS = (AnnotateError, NotAStore, SourceError, ModelError, SettingsError, EndpointError)
each = pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def seen(text: str) -> None:
    """Whether all of it can be seen."""
    assert all(c.isprintable() or c in "\n\t" for c in text), repr(text)


def run(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: str) -> tuple[int, str]:
    """A command's exit status, and all that it says."""
    monkeypatch.setattr("sys.argv", ["annotate", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out + err


@each
def test_text_is_harmless(evil: str) -> None:
    seen(harmless(evil))
    assert harmless(harmless(evil)) == harmless(evil)
    assert harmless("a é 東京 😀 →\n\tb") == "a é 東京 😀 →\n\tb"


@each
@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_prints_it_harmless(evil: str, terminal: bool) -> None:
    """As a sentence, in a table with its heading, and beside a progress bar."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, no_color=True, width=300, highlight=False)
    console.print(f"annotate: {evil}", markup=False, soft_wrap=True)
    table = Table(evil.replace("[", "("), title=evil.replace("[", "("))
    table.add_row(evil.replace("[", "("))
    console.print(table)
    with Progress(TextColumn("{task.description}", markup=False), console=Console(file=io.StringIO())) as bar:
        bar.add_task(evil, total=1)
    text = file.getvalue()
    for ours in ("\x1b[1m", "\x1b[3m", "\x1b[0m", "\x1b[1;3m"):
        text = text.replace(ours, "")
    seen(text)


@each
@pytest.mark.parametrize(
    "kind", [AnnotateError, NotAStore, SourceError, ModelError, SettingsError, EndpointError]
)
def test_an_errors_sentence(
    evil: str, kind: type[AnnotateError], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise kind(f"key {evil} and\nannotate: all is well")

    monkeypatch.setattr(commands, "app", fails)
    status, said = run(monkeypatch, capsys, "ingest")
    assert status == 2
    seen(said)
    assert "\nannotate:" not in said


@pytest.mark.some(3)
@each
def test_what_was_typed(evil: str, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    """A command, an option, a value, a file's name, a model, a parameter."""
    name = evil.replace("\0", "").replace("/", "") or "x"
    for arguments in (
        [f"x{evil}"],
        ["sql", f"--x{evil}"],
        ["sql", "SELECT 1", "--db", "x.duckdb", "--format", evil],
        ["sql", "SELECT 1", "--db", "x.duckdb", "--limit", evil],
        ["sql", "SELECT 1", "--db", "x.duckdb", "--param", evil],
        ["sql", "SELECT 1", "--db", str(tmp_path / name)],
        ["verify", str(tmp_path / name)],
        ["schema", evil],
        ["token", evil, "--db", str(tmp_path / f"{name}.duckdb")],
    ):
        status, said = run(monkeypatch, capsys, *arguments)
        assert status == 2, arguments
        seen(said)


@each
def test_answers_for_a_terminal(evil: str, capsys: Any) -> None:
    """A table, Markdown and CSV on a terminal show it; JSON escapes it and stays what it was."""
    table = pa.table({f"a{evil}": [evil, None]})
    for format in ("table", "markdown", "json", "jsonl", "csv"):
        out = Terminal() if format == "csv" else io.BytesIO()
        write(table, format, out)
        seen(out.getvalue().decode())
        if format == "json":
            assert [row[f"a{evil}"] for row in json.loads(out.getvalue())] == [evil, None]
    printed.dump({evil: [evil]})
    said = capsys.readouterr().out
    seen(said)
    assert json.loads(said) == {evil: [evil]}


def test_every_console_is_ours() -> None:
    for console in (make.out, make.err, check.out, printed.out, printed.err, sql.err):
        assert isinstance(console, Console)
    for file in (Path(commands.__file__).parent.parent).rglob("*.py"):
        if file.name != "console.py":
            assert (
                "Console(stderr" not in file.read_text()
                or "from annotate_transformer.app.present.console import" in file.read_text()
            )
            assert "from rich.console import Console\n" not in file.read_text() or "Console(" not in (
                file.read_text().replace("console: Console", "")
            ), file
