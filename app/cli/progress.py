"""Show the progress of an ingest: a bar on a terminal, otherwise a line of text every few seconds."""

import re
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from annotate_transformer.app.present.words import closeness, counted

if TYPE_CHECKING:
    from annotate_transformer.ingest.run.progress import Progress as State

# LINE: a process's line of progress, which `Watch` reads: its percentage, tokens and largest closure error
LINE = re.compile(r"annotate: *(\d+) %  ([\d,]+) tokens?\b.*, closure ([\d.e+-]+)")
LINE_SECONDS = 10.0  # minimum seconds between two lines of progress that are printed


def parsed(line: str) -> tuple[float, int, float] | None:
    """Parse a line of printed progress: return the completed fraction, tokens and closure error, or None.

    >>> parsed("annotate:  50 %  1,200 tokens, 300/s, 1.5 MB, closure 2e-06, about 4 s left")
    (0.5, 1200, 2e-06)
    """
    found = LINE.match(line)
    return (int(found[1]) / 100, int(found[2].replace(",", "")), float(found[3])) if found else None


class Watch:
    """A display of the progress of an ingest, to be updated after each batch."""

    def __init__(self, console: Console, quiet: bool) -> None:
        self.console, self.quiet = console, quiet
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[detail]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.task: TaskID | None = None
        # first: the time in seconds, the number of tokens and the completed fraction at the first update. It
        # is None before the first update.
        self.first: tuple[float, int, float] | None = None
        self.last_line = 0.0

    def __enter__(self) -> "Watch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.task is not None:
            self.bar.stop()

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(f"annotate: {text}", markup=False, soft_wrap=True)

    def update(self, state: "State") -> None:
        """Show the state of the ingest after another batch."""
        if self.quiet:
            return
        now = time.monotonic()
        first = self.first is None
        self.first = self.first or (now, state.tokens, state.share)
        seconds, share = now - self.first[0], state.share - self.first[2]
        speed = "" if first else f", {(state.tokens - self.first[1]) / max(seconds, 1e-9):,.0f}/s"
        written = f"{state.bytes_written / 1e6:,.1f} MB, closure {closeness(state.worst_closure)}"
        detail = f"{counted(state.tokens, 'token')}{speed}, {written}"
        if self.console.is_terminal:
            self._draw(state.share, detail)
        elif first or now - self.last_line > LINE_SECONDS:
            self.last_line = now
            left = f", about {seconds * (1 - state.share) / share:,.0f} s left" if share > 0 else ""
            self.say(f"{100 * state.share:.0f} %  {detail}{left}")

    def _draw(self, share: float, detail: str) -> None:
        if self.task is None:
            self.bar.start()
            self.task = self.bar.add_task("annotating", total=1.0, detail=detail)
        self.bar.update(self.task, completed=share, detail=detail)
