"""Make the second pass over a corpus: divide documents into windows, and collect windows into groups.

A group has the windows of several batches.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from annotate_transformer.ingest.corpus.sources import Document, Pass
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.corpus.windows import GROUP_BATCHES, Cursor, Window, Windowing, cut_to


@dataclass(frozen=True)
class Groups:
    """An iterable of groups of windows; each group comes with the cursor of the first window after the group.

    `documents`: a pass that has not begun;
    `start`: cursor of the first window;
    `limit`: number of positions to store from the first window on, or None for all positions;
    `note`: called with each document and its ordinal, before the windows of the document.
    Groups depend only on the corpus and the settings, so a resumed run has the same groups.
    """

    documents: Pass
    tokenizer: Tokenizer
    windowing: Windowing
    batch_tokens: int
    start: Cursor
    limit: int | None
    note: Callable[[int, Document], None]

    def __iter__(self) -> Iterator[tuple[list[Window], Cursor]]:
        room = GROUP_BATCHES * self.batch_tokens
        group, held, cursor = list[Window](), 0, self.start
        for window, cursor in self._limited():
            group.append(window)
            held += len(window.ids)
            if held >= room:
                yield group, cursor
                group, held = [], 0
        if group:
            yield group, cursor

    def _limited(self) -> Iterator[tuple[Window, Cursor]]:
        if self.limit is None:
            yield from self._windows()
            return
        left = self.limit
        if left <= 0:
            return
        for window, cursor in self._windows():
            n = int(window.stored.sum())
            if n >= left:
                yield cut_to(window, left), cursor
                return
            left -= n
            yield window, cursor

    def _windows(self) -> Iterator[tuple[Window, Cursor]]:
        at = self.start
        for ordinal, document in enumerate(self.documents):
            if ordinal < at.document:
                continue
            self.note(ordinal, document)
            position, number = at.position, at.window
            for window in self.windowing.windows(self.tokenizer.encode(document.text), at):
                position, number = int(window.positions[-1]) + 1, window.window + 1
                if window.window >= at.next_window:
                    yield window, replace(at, next_window=number)
            at = Cursor(ordinal + 1, position, number)
