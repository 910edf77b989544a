"""How far an ingest is: a bar on a terminal, a line now and then elsewhere, nothing with --quiet."""

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

if TYPE_CHECKING:
    from ingest.pipeline import Progress as State

LINE_SECONDS = 10.0  # between two plain lines


class Watch:
    """Shows `ingest.pipeline.Progress` as it changes."""

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
        self.first: tuple[float, int] | None = None
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
        """One more batch is done."""
        if self.quiet:
            return
        now = time.monotonic()
        self.first = self.first or (now, state.tokens)
        seconds, tokens = now - self.first[0], state.tokens - self.first[1]
        rate = tokens / seconds if seconds > 0 else 0.0
        detail = (
            f"{state.tokens:,} tokens, {rate:,.0f}/s, {state.bytes_written / 1e6:,.1f} MB, "
            f"closure {state.worst_closure:.0e}"
        )
        if self.console.is_terminal:
            self._draw(state.share, detail)
        elif now - self.last_line > LINE_SECONDS:
            self.last_line = now
            left = seconds / state.share - seconds if state.share > 0 else 0.0
            self.say(f"{100 * state.share:.0f} %  {detail}, about {left:,.0f} s left")

    def _draw(self, share: float, detail: str) -> None:
        if self.task is None:
            self.bar.start()
            self.task = self.bar.add_task("annotating", total=1.0, detail=detail)
        self.bar.update(self.task, completed=share, detail=detail)
