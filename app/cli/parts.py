"""The command `annotate merge`, and the local processes of `annotate ingest --parts`.

Each process is an `annotate ingest --part` with a store of its own in the folder X.parts beside the store X.
The first process makes the plan, and the others start when the plan is there. Processes are killed when the
command stops at once; a killed process leaves what it committed, so the same command resumes all parts.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from annotate_transformer.app.cli import stopping
from annotate_transformer.app.cli.options import NewDb, Quiet
from annotate_transformer.app.cli.progress import Watch, parsed
from annotate_transformer.app.present.console import Console
from annotate_transformer.app.present.words import counted

if TYPE_CHECKING:
    from annotate_transformer.ingest.run.merge import MergeReport

commands = typer.Typer(rich_markup_mode=None)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

LOOK_SECONDS = 0.2  # seconds between two looks at the processes
MISTAKE = 2  # exit status of a process that has said in a sentence what the user can do
OWN = {"sources", "db", "parts", "jobs", "part", "plan", "fresh", "weights", "quiet"}  # not passed on
OF_WHOLE_RUN = {"answer_column", "distractor_column", "answer_position"}  # for the merged run only


@commands.command(epilog="Example: annotate merge part-*.duckdb --db whole.duckdb")
def merge(
    parts: Annotated[
        list[Path], typer.Argument(metavar="PART…", help="The stores of all parts, in any order.")
    ],
    db: NewDb,
    quiet: Quiet = False,
) -> None:
    """Make one finished run of the parts that `annotate ingest --part` stored.

    The result is the run that one process would have stored. The same command resumes a merge that was
    stopped. The parts stay as they are.
    """
    tell_merged(merged(parts, db, Watch(err, quiet)), db, quiet)


def merged(parts: Sequence[Path], db: Path, watch: Watch, *, fresh: bool = False) -> "MergeReport":
    """Merge the parts into the store, and print which part is being merged."""
    from annotate_transformer.ingest.run.merge import merge as run

    def progress(done: int, parts: int) -> None:
        watch.say(f"merging part {done + 1} of {parts}" if done < parts else "making the lists final")

    report = run(parts, db, fresh=fresh, watch=progress)
    for note in report.notes:
        err.print(f"Note: {note}.", soft_wrap=True, markup=False)
    return report


def tell_merged(report: "MergeReport", db: Path, quiet: bool) -> None:
    if quiet:
        return
    tokens = counted(report.tokens, "token")
    if report.status == "nothing to do":
        out.print(f"Run {report.run_id} is finished already ({tokens}): nothing was added.")
        return
    before = report.parts - report.merged
    resumed = f" ({before} of them before)" if before else ""
    out.print(
        f"Run {report.run_id}: {tokens} in {counted(report.parts, 'part')} merged{resumed}, "
        f"{db.stat().st_size / 1e6:,.1f} MB in {db}.",
        soft_wrap=True,
        markup=False,
    )


def folder_of(db: Path) -> Path:
    """Return the folder that holds the parts of a run until they are merged into the store."""
    return db.with_name(f"{db.name}.parts")


def options_of(ctx: typer.Context) -> list[str]:
    """Return the options that the user gave, as the words of a command line for one part."""
    words = list[str]()
    for parameter in ctx.command.params:
        name = parameter.name or ""
        source = ctx.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name in OWN | OF_WHOLE_RUN:
            continue
        value = ctx.params[name]
        if isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            words += [parameter.opts[0], str(value)]
    return words


@dataclass
class Processes:
    """Local processes that annotate the parts of a run, at most `jobs` at a time.

    `options`, `sources`: words of the command line that all parts share;
    `shares`: the last fraction of each part that its process has told, with its tokens and closure error.
    """

    folder: Path
    parts: int
    jobs: int
    options: list[str]
    sources: list[str]
    watch: Watch
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    failed: dict[int, int] = field(default_factory=dict)
    told: dict[int, tuple[float, int, float]] = field(default_factory=dict)
    asked: bool = False

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def files(self) -> list[Path]:
        return [self.file(part) for part in range(1, self.parts + 1)]

    def file(self, part: int) -> Path:
        return self.folder / f"part-{part}.duckdb"

    def log(self, part: int) -> Path:
        return self.folder / f"part-{part}.log"

    def run(self) -> bool:
        """Annotate all parts; return whether all are complete, or False if a signal asked to stop.

        Raises:
            SettingsError: a process has failed twice, or has ended with a sentence.
        """
        waiting = deque(range(1, self.parts + 1))
        with self._killing():
            while waiting or self.running:
                self._stop_if_asked(waiting)
                # The first process makes the plan that the others read.
                jobs = self.jobs if self.plan.exists() else 1
                while waiting and len(self.running) < jobs:
                    self._start(waiting.popleft())
                time.sleep(LOOK_SECONDS)
                for part, process in [*self.running.items()]:
                    if process.poll() is not None:
                        del self.running[part]
                        self._ended(part, process.returncode, waiting)
                self._show()
        return not self.asked

    def _start(self, part: int) -> None:
        command = ["-m", "annotate_transformer.app.cli", "ingest", *self.options]
        command += ["--part", f"{part}/{self.parts}", "--plan", str(self.plan), "--db", str(self.file(part))]
        given = os.environ.get("OMP_NUM_THREADS", "")
        cores = int(given) if given.isdecimal() else os.cpu_count() or 1
        environment = os.environ | {
            "OMP_NUM_THREADS": str(max(1, cores // min(self.jobs, self.parts))),
            "ANNOTATE_PARENT": str(os.getpid()),
        }
        with self.log(part).open("wb") as log:
            self.running[part] = subprocess.Popen(
                [sys.executable, *command, "--", *self.sources],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip

    def _ended(self, part: int, status: int, waiting: deque[int]) -> None:
        """Note that a process has ended; if it failed for the first time, let it start again."""
        if status == 0:
            from annotate_transformer.store.parts import read_part

            self.told[part] = (1.0, read_part(self.file(part)).tokens, self.told.get(part, (0, 0, 0.0))[2])
            return
        if self.asked:
            return
        if status != MISTAKE and part not in self.failed:
            self.failed[part] = status
            self.watch.say(f"part {part} of {self.parts} ended with status {status} and is started again")
            waiting.appendleft(part)
            return
        from annotate_transformer.ingest.errors import SettingsError

        said = self.log(part).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = said[-1].removeprefix("annotate: ") if said else f"its status is {status}"
        raise SettingsError(
            f"Part {part} of {self.parts} has failed: {last}\nThe other parts keep what they committed, and "
            f"the same command resumes all of them. What it printed is in {self.log(part)}."
        )

    def _stop_if_asked(self, waiting: deque[int]) -> None:
        if stopping.asked() and not self.asked:
            self.asked = True
            waiting.clear()
            self._signal(signal.SIGINT)

    def _signal(self, number: signal.Signals) -> None:
        for process in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    @contextmanager
    def _killing(self) -> Iterator[None]:
        """Context manager: when the block ends, kill the processes that are still running."""
        try:
            yield
        finally:
            self._signal(signal.SIGKILL)
            for process in self.running.values():
                process.wait()

    def _show(self) -> None:
        from annotate_transformer.ingest.run.progress import Progress

        for part in self.running:
            said = self.log(part).read_text(encoding="utf-8", errors="replace").splitlines()
            found = [read for line in said if (read := parsed(line))]
            if found:
                self.told[part] = found[-1]
        if not self.told:
            return
        shares, tokens, closures = zip(*self.told.values(), strict=True)
        written = sum(file.stat().st_size for file in self.files if file.exists())
        share = sum(shares) / self.parts
        self.watch.update(Progress(sum(tokens), share, max(closures), bytes_written=written))


def annotated_in_parts(processes: Processes, db: Path, *, fresh: bool) -> "MergeReport":
    """Annotate all parts, merge them into the store, and remove the folder of the parts."""
    if fresh:
        shutil.rmtree(processes.folder, ignore_errors=True)
    processes.folder.mkdir(exist_ok=True)
    with stopping.finishing():
        complete = processes.run()
    if not complete:
        out.print("Stopped as asked; the same command resumes from here.")
        raise typer.Exit(128 + stopping.asked())
    report = merged(processes.files, db, processes.watch, fresh=fresh)
    shutil.rmtree(processes.folder, ignore_errors=True)
    return report
