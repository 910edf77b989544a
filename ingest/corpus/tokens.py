"""Tokenise text with a model's tokenizer, and compute the character span of each token."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotate_transformer.ingest.errors import ModelError

PIECE_CHARACTERS = 1_000_000  # maximum number of characters tokenised at once; a longer document is split

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """Arrays of equal length with each token's id, and the offsets of its start and end in the document."""

    ids: Ints
    starts: Ints
    ends: Ints


class Tokenizer:
    """A BPE or Unigram tokenizer that adds no special tokens, and neither truncates nor pads.

    `parse_special`: read a special token written out in a document, such as `<|endoftext|>`, as that token;
    by default it is read like any other text.
    `sha256`: hash of the tokenizer's definition;
    `bos_id`: id of the BOS token, or None;
    `special_ids`: ids of the special tokens, ascending;
    `spells`: the form of the document to which the tokens' bytes concatenate (`text`, `NFC` or `other`, as in
    base.tokenizer of schema.sql).

    Raises:
        ModelError: this kind of tokenizer is not supported.
    """

    def __init__(self, hf_tokenizer: Any, *, parse_special: bool = False) -> None:
        spec = json.loads(hf_tokenizer.backend_tokenizer.to_str())
        # Remove the tokenizer's post-processor. It would add special tokens, and exclude spaces from the
        # tokens' spans.
        spec |= {"post_processor": None, "truncation": None, "padding": None}
        _check_kind(spec)
        text = json.dumps(spec, sort_keys=True, ensure_ascii=False)
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()
        self.bos_id: int | None = hf_tokenizer.bos_token_id
        added = spec["added_tokens"]
        self.special_ids: Ints = np.array(sorted(t["id"] for t in added if t["special"]), dtype=np.int64)
        self.spells = _spells(spec)
        self._spec, self._pieces = spec, _pieces if _may_be_cut(spec) else _one_piece
        self._backend = _backend(spec if parse_special else _with_special_hidden(spec))
        self._backend.encode_special_tokens = not parse_special
        names = self.vocabulary() if _adds_spaces(spec) else []
        self._blank: Ints = np.array([i for i, text, _ in names if not text.strip(SPACES)], dtype=np.int64)
        # Without `parse_special`, the only special token that a text can yield is the token for unknown
        # characters.
        self._may_hold_special = parse_special or _unknown_id(spec) in self.special_ids

    def encode(self, text: str) -> Iterator[Encoded]:
        """Tokenise a document in pieces; all yielded tokens together are the tokens of the whole document.

        The spans cover every character. Tokens that are parts of one character share the character's span.
        If the tokenizer drops a character, or merges it with the previous one, the span of the previous token
        includes this character (at the start of the text, the span of the first token). A space that the
        tokenizer adds has an empty span.
        """
        held: Encoded | None = None
        reached = 0  # the tokens yielded so far cover the text up to this offset
        for start, piece in self._pieces(text):
            encoding = self._backend.encode(piece, add_special_tokens=False)
            if not encoding.ids:
                continue
            spans = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2) + start
            found = Encoded(np.array(encoding.ids, dtype=np.int64), spans[:, 0], spans[:, 1])
            if len(self._blank):
                self._free_added_spaces(found, text)
            if held is not None:
                yield _without_gaps(held, reached, start)
                reached = start
            held = found
        if held is not None:
            yield _without_gaps(held, reached, len(text))

    def _free_added_spaces(self, encoded: Encoded, text: str) -> None:
        """Give an empty span to each token that consists of spaces added by the tokenizer."""
        ids, starts, ends = encoded.ids, encoded.starts, encoded.ends
        shared = np.append(starts[1:] < ends[:-1], False) | np.append(False, starts[1:] < ends[:-1])
        for i in (shared & np.isin(ids, self._blank)).nonzero()[0]:
            if text[starts[i] : ends[i]].strip(SPACES):
                before = i > 0 and ends[i - 1] >= ends[i]
                starts[i] = ends[i] = ends[i] if before else starts[i]

    def count(self, text: str) -> int:
        """Return the number of tokens in the document."""
        return sum(
            len(self._backend.encode(piece, add_special_tokens=False)) for _, piece in self._pieces(text)
        )

    def beginning(self, text: str, tokens: int) -> str:
        """Cut a text after its first `tokens` tokens."""
        reached = 0
        for piece in self.encode(text):
            if len(piece.ids) >= tokens - reached:
                return text[: piece.ends[tokens - reached - 1]]
            reached += len(piece.ids)
        return text

    def count_special(self, text: str) -> "Counted":
        """Return the number of tokens in the document, and the indices of its special tokens."""
        if not self._may_hold_special:
            return Counted(self.count(text), np.empty(0, dtype=np.int64), False)
        pieces = (
            self._backend.encode(piece, add_special_tokens=False).ids for _, piece in self._pieces(text)
        )
        ids = np.concatenate([np.empty(0, dtype=np.int64), *pieces]).astype(np.int64)
        special = np.isin(ids, self.special_ids).nonzero()[0]
        return Counted(len(ids), special, bool(len(ids) and ids[0] == self.bos_id))

    def vocabulary(self) -> list[tuple[int, str, bytes]]:
        """Return (token id, printable text, bytes) of every token, sorted by token id."""
        added = {token["id"]: token["content"].encode() for token in self._spec["added_tokens"]}
        bytes_of = _bytes_of_token(self._spec)
        tokens = self._backend.get_vocab().items()
        raw = {i: added[i] if i in added else bytes_of(token) for token, i in tokens}
        return [(i, raw[i].decode("utf-8", errors="backslashreplace"), raw[i]) for i in sorted(raw)]


@dataclass(frozen=True)
class Counted:
    """The number of tokens of a document, the indices of its special tokens, and whether the first token is
    the BOS."""

    tokens: int
    special: Ints
    begins_with_bos: bool


def _without_gaps(encoded: Encoded, low: int, high: int) -> Encoded:
    """Extend the tokens' spans so that they ascend and cover every character from `low` to `high`."""
    starts, ends = (np.maximum.accumulate(spans) for spans in (encoded.starts, encoded.ends))
    starts[starts == starts[0]] = low
    following = np.append(starts[1:], high)
    # Tokens whose spans end at the same offset are parts of one character. If the tokenizer dropped the
    # characters that follow it, extend the spans of all these tokens over the dropped characters.
    last = np.searchsorted(ends, ends, side="right") - 1
    return Encoded(encoded.ids, starts, np.maximum(ends, following[last]))


# Properties of a tokenizer, read from the JSON of the `tokenizers` library ---------------------------------

# HIDDEN is put before the name of a special token, so that no text contains the name. It is a Unicode
# noncharacter.
HIDDEN = "\U0010ffff"
SPACES = " ▁"  # a space, and the character U+2581, which SentencePiece writes for a space

# ADDING: types of those steps of a normalizer or pre-tokenizer that may add spaces to the text.
ADDING = {"Prepend", "Replace", "Metaspace", "BertNormalizer", "Precompiled"}
# LOCAL: types of those steps of a normalizer that change each word without regard to the text around it.
LOCAL = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt"}


def _check_kind(spec: dict[str, Any]) -> None:
    model = spec["model"]
    kind = model.get("type")
    if kind not in ("BPE", "Unigram"):
        raise ModelError(
            f"The model's tokenizer is of the kind {kind}, and only BPE and Unigram are supported: "
            "the others do not give the characters of a token. Choose another model."
        )
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise ModelError(
                f"The tokenizer marks word pieces with {model[name]!r} ({name}), which is not supported. "
                "Choose a model with a byte-level or SentencePiece tokenizer."
            )


def _parts(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return a normalizer, pre-tokenizer or decoder as a list of its steps."""
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    members = next(value for name, value in step.items() if name != "type")
    return [part for member in members for part in _parts(member)]


def _is_byte_level(spec: dict[str, Any]) -> bool:
    steps = (*_parts(spec["pre_tokenizer"]), *_parts(spec["decoder"]), *_parts(spec["normalizer"]))
    return any(step["type"] == "ByteLevel" for step in steps)


def _adds_spaces(spec: dict[str, Any]) -> bool:
    steps = (*_parts(spec["normalizer"]), *_parts(spec["pre_tokenizer"]))
    return any(step["type"] in ADDING or step.get("add_prefix_space") for step in steps)


def _spells(spec: dict[str, Any]) -> str:
    """Return what a text's tokens spell when joined: `text` (the same text), `NFC` (its NFC) or `other`."""
    normalizers = [step["type"] for step in _parts(spec["normalizer"])]
    splits = _parts(spec["pre_tokenizer"])
    plain = (
        _is_byte_level(spec)
        and not any(step.get("add_prefix_space") for step in splits)
        and all(step.get("behavior") != "Removed" for step in splits)
        and not any(token["lstrip"] or token["rstrip"] for token in spec["added_tokens"])
    )
    return "other" if not plain or normalizers not in ([], ["NFC"]) else "NFC" if normalizers else "text"


def _may_be_cut(spec: dict[str, Any]) -> bool:
    """Return whether a text may be cut between a word and the next white space without changing its tokens.

    Byte-level BPE with GPT-2's regular expression always splits before this white space, in every context.
    """
    splits = _parts(spec["pre_tokenizer"])
    return (
        len(splits) == 1
        and splits[0]["type"] == "ByteLevel"
        and splits[0].get("use_regex", True)
        and not splits[0]["add_prefix_space"]
        and {step["type"] for step in _parts(spec["normalizer"])} <= LOCAL
        and not any(token["rstrip"] or re.search(r"\S\s", token["content"]) for token in spec["added_tokens"])
    )


def _unknown_id(spec: dict[str, Any]) -> int | None:
    """Return the id of the token for characters outside the vocabulary, or None if there is no such token."""
    model = spec["model"]
    unknown: int | None = model.get("unk_id")
    return (
        model["vocab"].get(model.get("unk_token")) if unknown is None and model["type"] == "BPE" else unknown
    )


def _with_special_hidden(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the tokenizer's definition with special tokens renamed to names that no text contains.

    Switching off the search for special tokens is not enough: BPE merges may produce a special token's name.
    """
    special = {token["content"] for token in spec["added_tokens"] if token["special"]}

    def hidden(name: str) -> str:
        return HIDDEN + name if name in special else name

    model = dict(spec["model"])
    if model["type"] == "Unigram":
        model["vocab"] = [[hidden(token), score] for token, score in model["vocab"]]
    else:
        model["vocab"] = {hidden(token): token_id for token, token_id in model["vocab"].items()}
        model["merges"] = [merge for merge in model["merges"] if "".join(_halves(merge)) not in special]
        model["unk_token"] = model.get("unk_token") and hidden(model["unk_token"])
    added = [token | {"content": hidden(token["content"])} for token in spec["added_tokens"]]
    return spec | {"model": model, "added_tokens": added}


def _halves(merge: str | list[str]) -> list[str]:
    """Return the two tokens of a BPE merge, which is written as 'a b' or as ['a', 'b']."""
    return merge.split(" ") if isinstance(merge, str) else merge


def _backend(spec: dict[str, Any]) -> Any:
    from tokenizers import Tokenizer as Backend

    return Backend.from_str(json.dumps(spec))


def _bytes_of_token(spec: dict[str, Any]) -> Callable[[str], bytes]:
    """Return a function that maps a token's name in the vocabulary to the token's bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    byte_of = _byte_of_character(sorted(ByteLevel.alphabet()))
    steps = (*_parts(spec["pre_tokenizer"]), *_parts(spec["decoder"]))
    space = next((step["replacement"] for step in steps if step["type"] == "Metaspace"), "▁")

    def byte_level(token: str) -> bytes:
        try:
            return bytes([byte_of[character] for character in token])
        except KeyError:
            return token.encode()

    def by_characters(token: str) -> bytes:
        byte = re.fullmatch("<0x([0-9A-F]{2})>", token) if spec["model"].get("byte_fallback") else None
        return bytes.fromhex(byte[1]) if byte else token.replace(space, " ").encode()

    return byte_level if _is_byte_level(spec) else by_characters


def _byte_of_character(alphabet: list[str]) -> dict[str, int]:
    """Return GPT-2's map from characters to bytes.

    A printable Latin-1 character maps to its own byte; characters from U+0100 on map to the other bytes.
    """
    printable = [b for b in range(256) if chr(b) in alphabet and b != 0xAD]
    rest = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(rest)}


def _one_piece(text: str) -> Iterator[tuple[int, str]]:
    yield 0, text


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Split a text into pieces, and yield each piece with the offset of its first character."""
    start = 0
    while start < len(text):
        stop = _piece_end(text, start)
        yield start, text[start:stop]
        start = stop


def _piece_end(text: str, start: int) -> int:
    """Return the end of the piece that begins at `start`: where a word ends and white space follows.

    If there is no such offset within PIECE_CHARACTERS, the piece has PIECE_CHARACTERS characters.
    """
    limit = start + PIECE_CHARACTERS
    if limit >= len(text):
        return len(text)
    for end in range(limit, start, -1):
        if text[end].isspace() and not text[end - 1].isspace():
            return end
    return limit
