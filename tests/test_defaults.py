"""The store and the run of a command that names none: ANNOTATE_DB, then .annotate.toml, then the default."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from annotate_transformer.app.cli.commands import app
from annotate_transformer.app.cli.defaults import LARGEST
from annotate_transformer.app.cli.main import main
from annotate_transformer.app.cli.program import MODULES, program
from asking import Said

Annotate = Callable[..., Said]


@pytest.fixture
def annotate(
    two_steps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Annotate:
    """`annotate …` in a folder with the stores file.duckdb and variable.duckdb, as a person types it."""
    for name in ("file", "variable"):
        (tmp_path / f"{name}.duckdb").symlink_to(two_steps)
    monkeypatch.chdir(tmp_path)

    def typed(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["annotate", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Said(int(ended.value.code or 0), printed.out, printed.err)

    return typed


def write(text: str) -> None:
    Path(".annotate.toml").write_text(text, encoding="utf-8")


def test_the_option_then_the_variable_then_the_file(
    annotate: Annotate, monkeypatch: pytest.MonkeyPatch, two_steps: Path
) -> None:
    missing = annotate("runs")
    assert missing.status == 2 and "--db" in missing.err and "ANNOTATE_DB" in missing.err
    write('db = "file.duckdb"')
    assert annotate("runs").out.startswith("Runs of file.duckdb;")
    monkeypatch.setenv("ANNOTATE_DB", "variable.duckdb")
    assert annotate("runs").out.startswith("Runs of variable.duckdb;")
    assert annotate("runs", "--db", two_steps).out.startswith(f"Runs of {two_steps};")
    monkeypatch.setenv("ANNOTATE_DB", "")
    assert annotate("runs").out.startswith("Runs of file.duckdb;")


def test_parent_folders_are_not_searched(annotate: Annotate, monkeypatch: pytest.MonkeyPatch) -> None:
    write('db = "file.duckdb"')
    Path("inner").mkdir()
    monkeypatch.chdir("inner")
    assert annotate("runs").status == 2


def test_the_run_is_that_of_the_file(annotate: Annotate, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for another store than the file's, and where a model is asked about."""
    write('db = "file.duckdb"\nrun = 1')
    assert annotate("stats").out.startswith("Run 1: ")
    assert annotate("stats", "--run", 2).out.startswith("Run 2: ")
    assert annotate("stats", "--db", "variable.duckdb").out.startswith("Run 2: ")
    assert annotate("neuron", "L1N7", "--model", 2).out.startswith("By the weights of neox-2m main")
    monkeypatch.setenv("ANNOTATE_DB", "variable.duckdb")
    assert annotate("stats").out.startswith("Run 2: ")
    write("run = 1")
    assert annotate("stats").out.startswith("Run 1: ")
    write("run = 7")
    assert annotate("stats").err == "annotate: variable.duckdb has no run 7; it has 1, 2.\n"


def test_verify_takes_the_store_and_checks_all_of_its_runs(annotate: Annotate) -> None:
    write('db = "file.duckdb"\nrun = 1')
    checked = annotate("verify")
    assert (checked.status, checked.err) == (0, "")
    assert "run 2" in checked.out and checked.out.endswith("file.duckdb: all checks pass.\n")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('db = "x"\nmodel = "y"', "has the key 'model', which is neither db nor run"),
        ("[db]\nx = 1", "has db = {'x': 1}, which is not a text"),
        ("db = 3", "has db = 3, which is not a text"),
        ('run = "2"', "has run = '2', which is not a whole number"),
        ("run = true", "has run = True, which is not a whole number"),
        ("run = 2.0", "has run = 2.0, which is not a whole number"),
        ("db = ", "is no TOML file (Invalid value (at end of document))"),
        ('"\\u001b[2Jx" = 1', "has the key '\\x1b[2Jx'"),
        ("#" * (LARGEST + 1), "is larger than 4,096 bytes"),
    ],
)
def test_a_wrong_file_is_told_in_a_sentence(text: str, wrong: str, annotate: Annotate) -> None:
    write(text)
    said = annotate("runs")
    assert (said.status, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith("annotate: .annotate.toml") and wrong in said.err
    assert 'Correct or remove it: it may have the lines db = "x.duckdb" and run = 2' in said.err


def test_what_is_no_file_is_refused_without_being_read(annotate: Annotate) -> None:
    """A repository can bring links: to a device without an end, or to itself."""
    for target, wrong in {"/dev/zero": "is not a regular file", ".annotate.toml": "cannot be read"}.items():
        Path(".annotate.toml").symlink_to(target)
        assert wrong in annotate("runs").err
        Path(".annotate.toml").unlink()
    os.mkfifo(".annotate.toml")
    assert "is not a regular file" in annotate("runs").err
    Path(".annotate.toml").unlink()
    Path(".annotate.toml").write_bytes(b'db = "\xff"')
    assert "is no TOML file" in annotate("runs").err


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("https://example.org/x.duckdb", "an address"),
        ("ducklake:postgres:host=example.org", "an address"),
        ("", "a folder"),
        ("/tmp", "a folder"),
    ],
)
def test_the_file_names_no_other_machine_and_no_folder(name: str, wrong: str, annotate: Annotate) -> None:
    write(f'db = "{name}"')
    named = annotate("runs")
    assert (named.status, f"which is {wrong} and no file" in named.err) == (2, True), named.err


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        (":memory:", "a database without a file"),
        ("/dev/null", "is a device"),
        (".annotate.toml", "text"),
    ],
)
def test_the_file_names_only_what_an_option_may(name: str, wrong: str, annotate: Annotate) -> None:
    write(f'db = "{name}"')
    named = annotate("runs")
    assert (named.status, wrong in named.err) == (2, True), named.err
    assert named.err == annotate("runs", "--db", name).err


def test_a_command_that_writes_tells_the_store_of_the_file(
    annotate: Annotate, two_steps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(two_steps, "mine.duckdb")
    told = "annotate: writing into mine.duckdb, which .annotate.toml names\n"
    write('db = "mine.duckdb"')
    for command in (("weights", "--quiet"), ("upgrade",), ("explain", "--run", 7), ("ingest", "no.txt")):
        assert annotate(*command).err.startswith(told), command
    assert told not in annotate("weights", "--quiet", "--db", "mine.duckdb").err
    monkeypatch.setenv("ANNOTATE_DB", "mine.duckdb")
    assert told not in annotate("weights", "--quiet").err
    assert told not in annotate("runs").err


WITHOUT_A_STORE = {"replicate", "doctor"}  # doctor reads the file itself, to report what is wrong with it


def test_every_command_with_a_store_takes_these_defaults() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        stores = [parameter for parameter in command.params if parameter.name == "db"]
        assert bool(stores) == (name not in WITHOUT_A_STORE), name
        for store in stores:
            assert store.envvar == "ANNOTATE_DB" and store.is_eager, name
            assert "in .annotate.toml" in store.help, name


def test_help_says_which_default_was_found(annotate: Annotate) -> None:
    help = " ".join(annotate("runs", "--help").out.split())
    assert "env var: ANNOTATE_DB" in help and "[default: db in .annotate.toml]" in help
    write('db = "file.duckdb"')
    assert "default: file.duckdb" in " ".join(annotate("runs", "--help").out.split())


def test_each_module_has_the_commands_that_the_program_expects() -> None:
    for commands in MODULES.values():
        found = typer.main.get_command(program(commands[0])).commands  # type: ignore[attr-defined]
        assert tuple(found) == commands
    whole = typer.main.get_command(program("nonsense")).commands  # type: ignore[attr-defined]
    assert tuple(whole) == tuple(name for names in MODULES.values() for name in names)
