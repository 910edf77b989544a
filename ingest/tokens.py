"""Text → tokens with character spans → windows → batches, the same ones every time.

A document longer than the context becomes several windows. Everything downstream counts on the
order made here: position_id ascends by document, window and position, and a batch never depends
on when or how often the process was started.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIECE_CHARACTERS = 1_000_000  # a longer document is tokenised in pieces, so that memory stays flat
GROUP_BATCHES = 8  # windows of this many batches are sorted by length together

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """Token ids with their spans in the document's characters; three arrays of one length."""

    ids: Ints
    starts: Ints
    ends: Ints


class Tokenizer:
    """A byte-level BPE tokenizer without anything that adds, cuts or pads tokens."""

    def __init__(self, hf_tokenizer: Any) -> None:
        from tokenizers import Tokenizer as Backend

        spec = json.loads(hf_tokenizer.backend_tokenizer.to_str())
        # The post-processor adds special tokens and trims spaces off spans: we want neither.
        spec |= {"post_processor": None, "truncation": None, "padding": None}
        text = json.dumps(spec, sort_keys=True, ensure_ascii=False)
        self._backend = Backend.from_str(text)
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()
        self.bos_id: int | None = hf_tokenizer.bos_token_id
        self._added = {token["id"]: token["content"] for token in spec["added_tokens"]}

    def encode(self, text: str) -> Iterator[Encoded]:
        """The document's tokens, piece by piece; pieces join to the tokens of the whole text."""
        for start, piece in _pieces(text):
            encoding = self._backend.encode(piece, add_special_tokens=False)
            spans = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2) + start
            yield Encoded(np.array(encoding.ids, dtype=np.int64), spans[:, 0], spans[:, 1])

    def count(self, text: str) -> int:
        """How many tokens the document has."""
        return sum(len(self._backend.encode(piece, add_special_tokens=False)) for _, piece in _pieces(text))

    def vocabulary(self) -> list[tuple[int, str, bytes]]:
        """(token_id, text for people, bytes) of every token, in the order of the ids."""
        from tokenizers.pre_tokenizers import ByteLevel

        byte_of = _byte_of_character(sorted(ByteLevel.alphabet()))
        rows = []
        for token, token_id in sorted(self._backend.get_vocab().items(), key=lambda item: item[1]):
            if token_id in self._added:
                raw = self._added[token_id].encode()
            else:
                raw = bytes(byte_of[character] for character in token)
            rows.append((token_id, raw.decode("utf-8", errors="backslashreplace"), raw))
        return rows


def _byte_of_character(alphabet: list[str]) -> dict[str, int]:
    """GPT-2's byte alphabet: printable Latin-1 stands for itself, the rest follows from U+0100."""
    printable = [b for b in range(256) if chr(b) in alphabet and b != 0xAD]
    rest = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(rest)}


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Each with the place of its first character."""
    start = 0
    while start < len(text):
        stop = _piece_end(text, start)
        yield start, text[start:stop]
        start = stop


def _piece_end(text: str, start: int) -> int:
    """The end of the piece that begins at `start`: before white space that follows a word.

    Byte-level BPE splits there first whatever stands around, so cutting there moves no token.
    A run of a million characters without such a place is cut where it is.
    """
    limit = start + PIECE_CHARACTERS
    if limit >= len(text):
        return len(text)
    for end in range(limit, start, -1):
        if text[end].isspace() and not text[end - 1].isspace():
            return end
    return limit


@dataclass(frozen=True)
class Window:
    """What the model reads at once; arrays have one entry a position, BOS and overlap included.

    `stored` is False where a position is context only: an earlier window stores it.
    `starts`, `ends` are -1 for a BOS.
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
    """Where the next window comes from: enough to go on after a restart.

    document: its ordinal; position, window: the first ones of that document;
    next_window: windows of the document before this one are done.
    """

    document: int = 0
    position: int = 0
    window: int = 0
    next_window: int = 0


@dataclass(frozen=True)
class Windowing:
    """How documents become windows.

    context: positions a window holds, BOS included; stride: new tokens a further window brings;
    bos_id: the token put before every window, or None.
    """

    context: int
    stride: int
    bos_id: int | None

    def positions(self, tokens: int) -> int:
        """How many positions a document of so many tokens has in the store: its own, and a BOS a window."""
        if self.bos_id is None or tokens == 0:
            return tokens
        further = max(0, tokens - (self.context - 1))
        return tokens + 1 + -(-further // self.stride)

    def windows(self, pieces: Iterable[Encoded], at: Cursor) -> Iterator[Window]:
        """The windows of one document, numbered from `at`."""
        bos = 0 if self.bos_id is None else 1
        room = self.context - bos
        position, window = at.position, at.window
        held = np.empty((4, 0), dtype=np.int64)  # id, start, end, position_id of tokens in reach
        waiting = 0  # how many of them no window stores yet
        first = True
        for piece, last in _with_last(pieces):
            fresh = np.stack([piece.ids, piece.starts, piece.ends, np.full(len(piece.ids), -1)])
            held, waiting = np.concatenate([held, fresh], axis=1), waiting + len(piece.ids)
            while waiting and (last or waiting > (room if first else self.stride)):
                new = min(waiting, room if first else self.stride)
                begin = held.shape[1] - waiting
                held[3, begin : begin + new] = position + bos + np.arange(new)
                context = 0 if first else room - self.stride
                part = held[:, begin - context : begin + new]
                yield self._window(part, context, window, at.document, position, not first)
                position, window, waiting = position + bos + new, window + 1, waiting - new
                held, first = held[:, max(0, begin + new - room) :], False

    def _window(
        self, part: Ints, context: int, window: int, document: int, position: int, cut: bool
    ) -> Window:
        stored = np.arange(part.shape[1]) >= context
        if self.bos_id is not None:
            bos = np.array([[self.bos_id], [-1], [-1], [position]])
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
    """The window ended after its first `stored` stored positions (for `--limit-tokens`)."""
    end = int(np.searchsorted(np.cumsum(window.stored), stored)) + 1
    arrays = ("ids", "positions", "starts", "ends", "stored")
    return replace(window, **{name: getattr(window, name)[:end] for name in arrays})


@dataclass(frozen=True)
class Batch:
    """Windows of similar length, padded on the right with token 0: (window, position) arrays.

    next_ids is -1 at a window's last position: nothing follows there.
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
        """Two smaller batches of the same windows (after an out-of-memory)."""
        middle = len(self.windows) // 2
        return [Batch.of(self.windows[:middle]), Batch.of(self.windows[middle:])]


def batches(group: list[Window], batch_tokens: int) -> Iterator[Batch]:
    """The group's windows, longest first, so that little is padding."""
    ordered = sorted(group, key=lambda window: -len(window.ids))
    while ordered:
        rows = max(1, batch_tokens // len(ordered[0].ids))
        yield Batch.of(ordered[:rows])
        ordered = ordered[rows:]
