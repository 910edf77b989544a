"""The command line as a person meets it: help, progress, quiet, the demo's tour, standard input."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from rich.console import Console

from annotate_transformer.app.cli import progress
from annotate_transformer.app.cli.commands import app
from annotate_transformer.ingest.corpus import unpacked
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.progress import Progress
from annotate_transformer.ingest.run.settings import Settings
from answers import differences, sql
from processes import CHECKOUT, ENVIRONMENT, LONGEST, Result, annotate, start, start_function, until
from small import SETTINGS, committed, corpus, text

COMMANDS = tuple(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
PROMISED = (
    *("db", "model", "revision", "context", "stride", "bos", "no-bos", "limit-tokens", "keep-neurons"),
    *("keep-sources", "top", "lens", "device", "dtype", "batch-tokens", "fresh", "quiet"),
    *("text-column", "encoding-errors", "skip-bad"),
)
ESCAPE = "\x1b"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("text") / "small.jsonl", (3, 1, 20, 2, 5, 9))


@pytest.fixture(scope="module")
def options(tiny_model: Path) -> tuple[object, ...]:
    return ("--db", "x.duckdb", "--model", tiny_model, *SETTINGS)


def environment() -> dict[str, str]:
    return os.environ | ENVIRONMENT | {"TERM": "xterm-256color"}


# Help


def test_there_are_the_promised_commands() -> None:
    assert {"ingest", "verify", "demo"} <= {*COMMANDS}


@pytest.mark.some(5)
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_an_example(command: str, tmp_path: Path) -> None:
    result = annotate(*command.split(), "--help", folder=tmp_path)
    assert (result.status, result.err) == (0, "")
    assert f"Example: annotate {command}" in result.out
    assert "--help" in result.out


def test_the_version(tmp_path: Path) -> None:
    assert annotate("--version", folder=tmp_path).out == f"annotate {version('annotate-transformer')}\n"


def test_help_of_ingest_names_every_option(tmp_path: Path) -> None:
    told = annotate("ingest", "--help", folder=tmp_path).out
    for option in PROMISED:
        assert re.search(rf"(?<![\w-])--{option}(?![\w-])", told), option


@pytest.mark.parametrize("words", ["nonsense", "verify", "ingest a.txt", "ingest --db x.duckdb"])
def test_what_is_no_command_is_told(words: str, tmp_path: Path) -> None:
    result = annotate(*words.split(), folder=tmp_path)
    assert (result.status, result.out) == (2, "")
    assert "Traceback" not in result.err
    assert "--help" in result.err or "-h" in result.err
    assert not list(tmp_path.glob("*.duckdb"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands(shell: str, tmp_path: Path) -> None:
    asked = {"_ANNOTATE_COMPLETE": f"complete_{shell}", "COMP_WORDS": "annotate ne", "COMP_CWORD": "1"}
    asked |= {"_TYPER_COMPLETE_ARGS": "annotate ne", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    result = start_function(complete, asked, folder=tmp_path).wait()
    assert (result.status, result.err) == (0, "")
    assert "neuron" in result.out
    assert "ingest" not in result.out


def complete(asked: dict[str, str]) -> None:
    """In a process of its own: what a shell runs where Tab is pressed."""
    os.environ.update(asked)
    app(prog_name="annotate")


# Progress


@pytest.mark.soak
def test_plain_lines_where_nobody_watches(source: Path, options: tuple[object, ...], tmp_path: Path) -> None:
    result = annotate("ingest", source, *options, folder=tmp_path)
    assert result.status == 0
    assert ESCAPE not in result.err + result.out
    assert "\r" not in result.err + result.out
    lines = result.err.splitlines()
    assert all(line.startswith("annotate: ") for line in lines)
    assert any(re.search(r"\d+ % .*[\d,]+ tokens, .*MB", line) for line in lines)
    [(tokens,)] = sql(tmp_path / "x.duckdb", "SELECT tokens FROM runs")
    size = (tmp_path / "x.duckdb").stat().st_size / 1e6
    wanted = f"Run 1: {tokens:,} tokens annotated, {tokens:,} in all, {size:,.1f} MB in x.duckdb."
    assert result.out.splitlines() == [wanted]


def test_speed_and_time_left_are_told_once_they_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed at half of the corpus: 10 s for a further quarter leave as much."""
    seconds, shown = iter([100.0, 110.0]), io.StringIO()
    monkeypatch.setattr(progress, "LINE_SECONDS", 5.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    watch = progress.Watch(Console(file=shown), quiet=False)
    watch.update(Progress(tokens=1000, share=0.5))
    watch.update(Progress(tokens=1500, share=0.75))
    first, second = shown.getvalue().splitlines()
    assert "50 %  1,000 tokens, " in first
    assert not re.search("/s|left", first)
    assert "75 %  1,500 tokens, 50/s, " in second
    assert second.endswith("about 10 s left")


def test_the_corpus_is_opened_twice(
    source: Path, options: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once to be checked, hashed and counted, once to be annotated; for a finished run only the first."""
    opened, opens = list[str](), unpacked.File.open

    def counted(file: unpacked.File) -> io.BufferedReader:
        opened.append(file.name)
        return opens(file)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unpacked.File, "open", counted)
    command = ["ingest", str(source), *map(str, options), "--no-weights"]
    for times in (2, 3):
        app(command, standalone_mode=False)
        assert opened == [str(source)] * times


@pytest.mark.soak
def test_the_share_is_of_what_is_annotated_and_the_size_the_files(tiny_model: Path, tmp_path: Path) -> None:
    """Of one long document: stopped after a part, and gone on with. More than there are is each."""
    (tmp_path / "long.txt").write_text(text(120, seed=1))
    model, db = Model(resolve(str(tiny_model), None)), tmp_path / "x.duckdb"
    settings = Settings(16, batch_tokens=16, samples=9, top=65_535, keep_neurons=10**8, keep_sources=10**8)
    seen: list[tuple[int, float, int]] = []

    def watch(now: Progress) -> None:
        seen.append((now.tokens, now.share, now.bytes_written))

    def annotated(stop: bool) -> str:
        with Corpus([str(tmp_path / "long.txt")]) as corpus:
            return ingest(corpus, model, str(db), settings, watch=watch, stop=lambda: stop).status

    assert annotated(stop=True) == "stopped"
    size, before = db.stat().st_size, len(seen)
    assert annotated(stop=False) == "finished"
    assert [seen[0][2], seen[before][2]] == [0, size]
    total = seen[-1][0]
    assert [share for _, share, _ in seen] == pytest.approx([n / total for n, _, _ in seen], abs=0.05)
    assert sql(db, "SELECT settings->>'keep_neurons', settings->>'keep_sources' FROM runs") == [
        (str(model.d_mlp), None)
    ]


@pytest.mark.soak
def test_quiet_prints_nothing(source: Path, options: tuple[object, ...], tmp_path: Path) -> None:
    for _ in range(2):  # the second time there is nothing to do
        result = annotate("ingest", source, *options, "--quiet", folder=tmp_path)
        assert result == Result(0, "", "")
    assert annotate("verify", "x.duckdb", "--quiet", folder=tmp_path) == Result(0, "", "")
    refused = annotate("ingest", "missing.txt", *options, "--quiet", folder=tmp_path)
    assert (refused.status, refused.out) == (2, "")
    assert "missing.txt" in refused.err


@pytest.mark.soak
def test_a_bar_on_a_terminal(options: tuple[object, ...], tmp_path: Path) -> None:
    """The one ingest here that a process of its own runs; Ctrl-C is typed into it."""
    source = corpus(tmp_path / "long.jsonl", 12 * (40,))  # long enough not to be over first
    words = [
        sys.executable,
        "-m",
        "annotate_transformer.app.cli",
        "ingest",
        source,
        *options,
        "--shard-tokens",
        1,
    ]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(word) for word in words],
        cwd=tmp_path,
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: _take_terminal(0),
    )
    os.close(theirs)
    shown, typed = "", False
    for piece in _read(ours):
        shown += piece
        if not typed and committed(tmp_path / "x.duckdb"):
            os.write(ours, b"\x03")
            typed = True
    assert process.wait(LONGEST) == 130
    assert "Traceback" not in shown
    assert re.search(r"annotating .*━.* \d+ % .*tokens.*/s.*MB", shown), "no bar was drawn"
    assert f"{ESCAPE}[?25l" in shown
    assert shown.rindex(f"{ESCAPE}[?25h") > shown.rindex(f"{ESCAPE}[?25l"), "the cursor stays hidden"
    assert "finishing this shard" in shown
    assert "same command resumes from here" in shown


def _take_terminal(terminal: int) -> None:
    """Be the group that Ctrl-C goes to, as a shell makes it."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def _read(terminal: int) -> Iterator[str]:
    """What appears on a terminal, until nobody writes to it any more."""
    while True:
        readable, _, _ = select.select([terminal], [], [], LONGEST)
        assert readable, "nothing has appeared for a long time"
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            return
        if not piece:
            return
        yield piece.decode(errors="replace")


# Standard input


@pytest.mark.soak
def test_standard_input_is_read_and_resumed(
    source: Path, options: tuple[object, ...], tmp_path: Path
) -> None:
    """JSONL is known by its first line; each command gets the same text again."""
    named, piped = tmp_path / "named", tmp_path / "piped"
    for folder in (named, piped):
        folder.mkdir()
    assert annotate("ingest", source, *options, folder=named).status == 0
    content, db = source.read_bytes(), piped / "x.duckdb"
    running = start("ingest", "-", *options, folder=piped, stdin=content)
    until(lambda: committed(db) >= 1)
    running.send(signal.SIGKILL)
    assert running.wait().status == -signal.SIGKILL
    result = annotate("ingest", "-", *options, folder=piped, stdin=content)
    assert (result.status, "(resumed)" in result.out) == (0, True), result.err
    again = annotate("ingest", "-", *options, folder=piped, stdin=content)
    assert "nothing was added" in again.out
    assert {*differences(named / "x.duckdb", db)} <= {"runs", "documents"}, "only names may differ"
    assert sql(db, "SELECT DISTINCT source[:14] FROM documents") == [("standard input",)]


def test_plain_text_on_standard_input(options: tuple[object, ...], tmp_path: Path) -> None:
    content = text(10, seed=1)
    result = annotate("ingest", "-", *options, folder=tmp_path, stdin=content.encode())
    assert result.status == 0, result.err
    assert sql(tmp_path / "x.duckdb", "SELECT text FROM documents") == [(content,)]


def test_empty_standard_input(options: tuple[object, ...], tmp_path: Path) -> None:
    result = annotate("ingest", "-", *options, folder=tmp_path)
    assert (result.status, result.out) == (2, "")
    assert "empty" in result.err
    assert not (tmp_path / "x.duckdb").exists()


# The demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    result = annotate("demo", "--db", "tour.duckdb", folder=folder)
    assert (result.status, "Traceback" in result.err) == (0, False), result.err
    return folder / "tour.duckdb", result.out


def test_the_demo_shows_one_answer_of_each_kind(demo: tuple[Path, str]) -> None:
    db, shown = demo
    size = db.stat().st_size
    [(tokens, worst)] = sql(db, "SELECT tokens, worst_closure FROM runs")
    assert f"{tokens:,} tokens of neox-2m" in shown
    assert f"{size / 1e6:.1f} MB for {tokens:,} tokens" in shown
    assert worst <= 1e-4
    assert f"{worst:.1e} logits" in shown
    assert re.search(r"Recomputed from the stored rows: [4-9]\d checks, all pass\.", shown)
    told = [re.findall(r"[+-]\d+\.\d+", line) for line in shown.splitlines()]
    [added] = [told[i] for i, line in enumerate(shown.splitlines()) if line.startswith("sum ")]
    [logits] = [told[i] for i, line in enumerate(shown.splitlines()) if "the model's logit" in line]
    assert len(added) == len(logits) == 2
    assert [float(x) for x in added] == pytest.approx([float(x) for x in logits], abs=0.0011)
    assert re.search(r"^head L\dH\d +[+-]", shown, re.MULTILINE)
    assert re.search(r"Top activations of neuron L\dN\d+", shown)
    assert re.search(r"Head L\dH\d where its effect", shown)
    assert len(re.findall("«.+»", shown)) >= 6
    assert f"annotate verify {db.name}" in shown
    assert "annotate ingest my.txt" in shown


@pytest.mark.soak
def test_the_demo_works_a_second_time(demo: tuple[Path, str]) -> None:
    db, shown = demo
    result = annotate("demo", "--db", db.name, folder=db.parent)
    assert (result.status, "Traceback" in result.err) == (0, False), result.err
    assert "nothing was added" in result.out
    tour = shown[shown.index(f"\n{db.name}") :]
    assert tour in result.out


@pytest.mark.soak
def test_the_demo_works_after_the_next_command_it_names(demo: tuple[Path, str]) -> None:
    db, _ = demo
    (db.parent / "my.txt").write_text("Tom saw Mary. Mary saw Tom.")
    assert annotate("ingest", "my.txt", "--db", db.name, folder=db.parent).status == 0
    result = annotate("demo", "--db", db.name, folder=db.parent)
    assert (result.status, "Traceback" in result.err) == (0, False), result.err
    assert "the model's logit" in result.out
    [(tokens, mine)] = sql(db, "SELECT sum(tokens), min(tokens) FROM runs")
    assert f"MB for {tokens:,} tokens" in result.out
    assert f"Run 1: {tokens - mine:,} tokens of neox-2m" in result.out


def test_the_checkout_is_what_runs(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "from annotate_transformer.app import cli; print(cli.__file__)"]
    ran = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert Path(ran.stdout.strip()).is_relative_to(CHECKOUT)
