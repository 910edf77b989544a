"""Annotate all parts of a run, each in a process that a `Starter` starts.

Each process is an `annotate ingest --part` with a store and a log of its own, in one folder. The first
process makes the plan, and the others start when the plan is there. A process that failed is started again
as long as it gets further. Processes are killed when the command stops at once; a killed process leaves what
it committed, so the same command resumes all parts.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from annotate_transformer.app.cli import stopping
from annotate_transformer.app.cli.jobs.worker import LOOK_SECONDS, MISTAKE
from annotate_transformer.app.cli.progress import Watch, parsed


class Job(NamedTuple):
    """What a process needs to annotate a part: the arguments of `annotate`, the store and the log file."""

    part: int
    words: list[str]
    store: Path
    log: Path


class Ended(NamedTuple):
    """How a process ended: its exit status, and the reason if the last line of its log does not say it."""

    status: int
    said: str = ""


class Starter(Protocol):
    """A way to start the processes that annotate parts; `at_once`: maximum number of them at a time."""

    at_once: int

    def start(self, job: Job) -> None:
        """Start the process of a job, now or as soon as there is room for it."""

    def ended(self) -> Iterator[tuple[int, Ended]]:
        """Yield the number of each part whose process has ended since the last call, and how it ended."""

    def interrupt(self) -> None:
        """Ask every process to finish its current shard and end."""

    def kill(self) -> None:
        """Kill all processes, and wait until they are gone."""


@dataclass
class Parts:
    """All parts of a run, and the folder that holds their stores and logs while they are annotated.

    `options`, `sources`: words of the command line that all parts share; `versions`: those of libraries, by
    name, with which the run is identified; `failed`: the tokens that a part had when its process failed last;
    `told`: the last fraction of each part that its process has told, with its tokens and closure error.
    """

    folder: Path
    parts: int
    options: list[str]
    sources: list[str]
    watch: Watch
    running: set[int] = field(default_factory=set)
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

    def job(self, part: int) -> Job:
        words = ["ingest", *self.options, "--part", f"{part}/{self.parts}", "--plan", str(self.plan)]
        words += ["--db", str(self.file(part)), "--", *self.sources]
        return Job(part, words, self.file(part), self.log(part))

    def annotate(self, starter: Starter, versions: Mapping[str, str]) -> bool:
        """Annotate all parts; return whether all are complete, or False if a signal asked to stop.

        `versions`: those of the libraries that identify the run, by name.

        Raises:
            SettingsError: a process has failed twice without getting further, or has ended with a sentence.
        """
        waiting = deque(self._incomplete(versions))
        try:
            while waiting or self.running:
                self._stop_if_asked(starter, waiting)
                # Until the plan exists, run one process only: it makes the plan that the others read.
                at_once = starter.at_once if self.plan.exists() else 1
                while waiting and len(self.running) < at_once:
                    part = waiting.popleft()
                    self.running.add(part)
                    starter.start(self.job(part))
                time.sleep(LOOK_SECONDS)
                for part, ended in starter.ended():
                    self.running.remove(part)
                    self._note(part, ended, waiting)
                self._show()
        finally:
            starter.kill()
        return not self.asked

    def _incomplete(self, versions: Mapping[str, str]) -> list[int]:
        """Return the numbers of the parts for which a process must run.

        Whichever process runs compares the plan with the corpus, the model and the options. So if all parts
        are complete, the first one gets a process all the same: the folder may be that of another command.
        """
        for part in range(1, self.parts + 1):
            if (tokens := self._complete(part, versions)) is not None:
                self.told[part] = (1.0, tokens, 0.0)
        return [part for part in range(1, self.parts + 1) if part not in self.told] or [1]

    def _complete(self, part: int, versions: Mapping[str, str]) -> int | None:
        """Return the number of tokens of a part if it is complete and was made with this plan, else None."""
        from annotate_transformer.ingest.run.plan import hash_in
        from annotate_transformer.store.errors import AnnotateError
        from annotate_transformer.store.parts import read_part

        try:
            found = read_part(self.file(part))
        except AnnotateError:  # missing or broken: the part's process makes the store or reports why not
            return None
        place = (found.record["part"], found.record["parts"], found.record["plan_sha256"])
        same = place == (part, self.parts, hash_in(self.plan)) and found.provenance.libraries == versions
        return found.tokens if same and found.is_complete else None

    def _tokens(self, part: int) -> int:
        from annotate_transformer.store.errors import AnnotateError
        from annotate_transformer.store.parts import read_part

        try:
            return read_part(self.file(part)).tokens
        except AnnotateError:
            return 0

    def _note(self, part: int, ended: Ended, waiting: deque[int]) -> None:
        """Record that a process has ended; if it failed but had stored more tokens, let it start again."""
        if ended.status == 0:
            self.told[part] = (1.0, self._tokens(part), self.told.get(part, (0, 0, 0.0))[2])
            return
        if self.asked:
            return
        tokens = self._tokens(part)
        if ended.status != MISTAKE and tokens > self.failed.get(part, -1):
            self.failed[part] = tokens
            how = f"ended with status {ended.status} and is started again"
            self.watch.say(f"part {part} of {self.parts} {how}")
            waiting.appendleft(part)
            return
        from annotate_transformer.ingest.errors import SettingsError

        lines = self._said(part)
        last = ended.said or (lines[-1].removeprefix("annotate: ") if lines else f"status {ended.status}")
        printed = "" if ended.said else f" What it printed is in {self.log(part)}."
        raise SettingsError(
            f"Part {part} of {self.parts} has failed: {last}\nThe other parts keep what they committed, and "
            f"the same command resumes all of them.{printed}"
        )

    def _said(self, part: int) -> list[str]:
        """Return the lines of a part's log."""
        log = self.log(part)
        return log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []

    def _stop_if_asked(self, starter: Starter, waiting: deque[int]) -> None:
        if stopping.asked() and not self.asked:
            self.asked = True
            waiting.clear()
            starter.interrupt()

    def _show(self) -> None:
        from annotate_transformer.ingest.run.progress import Progress

        for part in self.running:
            found = [read for line in self._said(part) if (read := parsed(line))]
            if found:
                self.told[part] = found[-1]
        if not self.told:
            return
        shares, tokens, closures = zip(*self.told.values(), strict=True)
        written = sum(file.stat().st_size for file in self.files if file.exists())
        share = sum(shares) / self.parts
        self.watch.update(Progress(sum(tokens), share, max(closures), bytes_written=written))
