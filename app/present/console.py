"""The console that prints all text: no text from outside this program can control the terminal.

Messages contain keys of JSON files, names of files, models and columns, and answers of servers. Escape
sequences in such texts could move the cursor or rewrite the screen; bidirectional marks could reverse a
sentence. So every text is made `harmless` where it is printed.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import console
from rich.segment import Segment
from typer.core import TyperGroup


def harmless(text: str) -> str:
    """Return the text with control characters and invisible characters replaced by visible escapes.

    >>> harmless("a\\x1b[31mé\\u202e\\x85\\n\\tb")
    'a\\\\x1b[31mé\\\\x202e\\\\x85\\n\\tb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


class Console(console.Console):
    """A console of the Rich library that lets no control sequence in a printed text reach the terminal."""

    def render(
        self, renderable: console.RenderableType, options: console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(harmless(segment.text), segment.style)


class Commands(TyperGroup):
    """A command group that escapes control characters in usage errors, which quote the user's arguments."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _harmless_usage():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        with _harmless_usage():
            return super().invoke(ctx)


@contextmanager
def _harmless_usage() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message"):  # only usage errors of the command line have this method
            told = harmless(error.format_message())
            error.format_message = lambda: told
        raise
