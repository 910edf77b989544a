"""Divide tokens into windows, and windows into batches; the result is the same in every process.

A document longer than the context becomes several windows. The store relies on the order in which windows
are yielded, because position_id must ascend by document, window and position. Batches do not depend on when
or how often the process was started.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from annotate_transformer.ingest.corpus.tokens import Counted, Encoded, Ints

NOWHERE = (-1, -1)  # the span (start, end) of a BOS that the text does not contain
GROUP_BATCHES = 8  # the windows of this number of batches form a group, which is sorted by length


@dataclass(frozen=True)
class Window:
    """The tokens that the model reads together, as arrays with one entry per position.

    The arrays include the BOS and the overlap with the previous window. `stored` is False for a position
    that the previous window stores, and that is only context in this window.
    `starts` and `ends` are -1 for a BOS that the text does not contain.
    """

    window: int
    document: int
    context_cut: bool
    ids: Ints
    positions: Ints
    starts: Ints
    ends: Ints
    stored: NDArray[np.bool_]


@dataclass(frozen=True)
class Cursor:
    """Where a resumed run continues in the corpus: the next window to annotate.

    `document`: ordinal of the next window's document;
    `position`, `window`: ordinals of the first position and of the first window of this document;
    `next_window`: ordinal of the next window, which is the first window that is not yet annotated.
    """

    document: int = 0
    position: int = 0
    window: int = 0
    next_window: int = 0


@dataclass(frozen=True)
class Windowing:
    """The settings by which documents are divided into windows.

    `context`: maximum number of positions in a window, BOS included;
    `stride`: number of new tokens in each window after the first;
    `bos_id`: id of the token that is put before every window, or None.
    If a document begins with a BOS, its first window gets no second BOS.
    """

    context: int
    stride: int
    bos_id: int | None

    def positions(self, tokens: int, begins_with_bos: bool = False) -> int:
        """Return how many positions of a document are stored: its tokens, and with --bos one BOS per window.

        `begins_with_bos`: whether the first token is a BOS; then the first window gets no second BOS.
        """
        own = tokens - begins_with_bos if self.bos_id is not None else tokens
        if self.bos_id is None or tokens == 0:
            return tokens
        further = max(0, own - (self.context - 1))
        return own + 1 + -(-further // self.stride)

    def special(self, counted: Counted) -> Ints:
        """Return the indices of a document's stored positions whose token is special, BOS included."""
        if self.bos_id is None or counted.tokens == 0:
            return counted.special
        room, begins = self.context - 1, counted.begins_with_bos
        own = counted.special[begins:] - begins
        total = self.positions(counted.tokens, begins)
        # `further`: indices of the BOS tokens of all windows but the first.
        further = np.arange(room + 1, total, self.stride + 1)
        return np.sort(
            np.concatenate([[0], further, own + 1 + np.maximum(0, 1 + (own - room) // self.stride)])
        )

    def windows(self, pieces: Iterable[Encoded], at: Cursor) -> Iterator[Window]:
        """Yield the windows of one document; positions and windows are numbered from the cursor `at` on."""
        bos = 0 if self.bos_id is None else 1
        room = self.context - bos
        position, window = at.position, at.window
        # `held` has one column for each of the last tokens that were read. Its four rows are the tokens' ids,
        # starts, ends and positions.
        held = np.empty((4, 0), dtype=np.int64)
        waiting = 0  # number of tokens at the end of `held` that are not yet in a window
        first, span = True, NOWHERE
        for piece, last in _with_last(pieces):
            fresh = np.stack([piece.ids, piece.starts, piece.ends, np.full(len(piece.ids), -1)])
            # If the text itself begins with a BOS, use this token as the BOS of the first window, so that the
            # window does not begin with two.
            if first and not held.shape[1] and len(piece.ids) and piece.ids[0] == self.bos_id:
                span, fresh = (int(piece.starts[0]), int(piece.ends[0])), fresh[:, 1:]
            held, waiting = np.concatenate([held, fresh], axis=1), waiting + fresh.shape[1]
            alone = last and first and span != NOWHERE  # makes a window even if the text is only a BOS
            while alone or (waiting and (last or waiting > (room if first else self.stride))):
                new = min(waiting, room if first else self.stride)
                begin = held.shape[1] - waiting
                held[3, begin : begin + new] = position + bos + np.arange(new)
                context = 0 if first else room - self.stride
                part = held[:, begin - context : begin + new]
                yield self._window(part, context, window, at.document, position, not first, span)
                position, window, waiting = position + bos + new, window + 1, waiting - new
                held, first = held[:, max(0, begin + new - room) :], False
                span, alone = NOWHERE, False

    def _window(
        self, part: Ints, context: int, window: int, document: int, position: int, cut: bool,
        span: tuple[int, int],
    ) -> Window:  # fmt: skip
        stored = np.arange(part.shape[1]) >= context
        if self.bos_id is not None:
            bos = np.array([[self.bos_id], [span[0]], [span[1]], [position]])
            part, stored = np.concatenate([bos, part], axis=1), np.append(True, stored)
        ids, starts, ends, positions = part.copy()
        return Window(window, document, cut, ids, positions, starts, ends, stored)


def _with_last(pieces: Iterable[Encoded]) -> Iterator[tuple[Encoded, bool]]:
    held: Encoded | None = None
    for piece in pieces:
        if held is not None:
            yield held, False
        held = piece
    if held is not None:
        yield held, True


def cut_to(window: Window, stored: int) -> Window:
    """Cut off a window's end, so that it has only `stored` positions to store (for `--limit-tokens`)."""
    end = int(np.searchsorted(np.cumsum(window.stored), stored)) + 1
    arrays = ("ids", "positions", "starts", "ends", "stored")
    return replace(window, **{name: getattr(window, name)[:end] for name in arrays})


@dataclass(frozen=True)
class Batch:
    """Windows of similar length, as arrays of shape (window, position) padded on the right with token 0.

    `next_ids` is -1 at the last position of a window, which has no next token.
    """

    windows: list[Window]
    tokens: Ints
    next_ids: Ints
    positions: Ints
    stored: NDArray[np.bool_]

    @staticmethod
    def of(windows: list[Window]) -> "Batch":
        shape = (len(windows), max(len(window.ids) for window in windows))
        tokens, stored = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.bool_)
        next_ids, positions = np.full(shape, -1), np.full(shape, -1)
        for row, window in enumerate(windows):
            n = len(window.ids)
            tokens[row, :n], positions[row, :n] = window.ids, window.positions
            next_ids[row, : n - 1], stored[row, :n] = window.ids[1:], window.stored
        return Batch(windows, tokens, next_ids, positions, stored)

    def halves(self) -> list["Batch"]:
        """Split the batch into two smaller batches; this is done when memory is exhausted."""
        middle = len(self.windows) // 2
        return [Batch.of(self.windows[:middle]), Batch.of(self.windows[middle:])]


def batches(group: list[Window], batch_tokens: int) -> Iterator[Batch]:
    """Sort the windows of a group by length, longest first, and yield them in batches with little padding."""
    ordered = sorted(group, key=lambda window: -len(window.ids))
    while ordered:
        rows = max(1, batch_tokens // len(ordered[0].ids))
        yield Batch.of(ordered[:rows])
        ordered = ordered[rows:]
