"""Text → tokens → windows → batches: nothing lost, nothing twice, spans that point at the text."""

import random
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotate_transformer.ingest.corpus import tokens
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.corpus.windows import Batch, Cursor, Window, Windowing, batches, cut_to
from annotate_transformer.ingest.models.names import EMBEDDED


@cache
def embedded_tokenizer() -> Tokenizer:
    from transformers import AutoTokenizer

    return Tokenizer(AutoTokenizer.from_pretrained(EMBEDDED / "neox-2m"))


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """Load the tokenizer before Hypothesis times an example."""
    embedded_tokenizer()


def encode(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pieces = list(embedded_tokenizer().encode(text))
    if not pieces:
        return (np.empty(0, dtype=np.int64),) * 3
    joined = ([getattr(piece, name) for piece in pieces] for name in ("ids", "starts", "ends"))
    ids, starts, ends = (np.concatenate(parts) for parts in joined)
    return ids, starts, ends


@settings(deadline=None)  # a busy machine is no mistake
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_tokens_are_the_texts_bytes_and_spans_cover_its_characters(text: str) -> None:
    ids, starts, ends = encode(text)
    vocabulary = {token_id: raw for token_id, _, raw in embedded_tokenizer().vocabulary()}
    assert b"".join(vocabulary[token_id] for token_id in ids) == text.encode()
    covered = np.zeros(len(text), dtype=bool)
    for start, end, token_id in zip(starts, ends, ids, strict=True):
        covered[start:end] = True
        assert vocabulary[token_id] in text[start:end].encode()
    assert covered.all()


@settings(max_examples=25)
@given(st.integers(250, 600), st.integers(0, 10**6))
def test_pieces_join_to_the_tokens_of_the_whole_text(size: int, seed: int) -> None:
    words = ["the ", "  ", "\n\n", "Ireland", "'s ", "12,5", "\t", "é", "日本", "a" * 40, " \n x"]
    text = "".join(random.Random(seed).choices(words, k=300))
    whole = encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "PIECE_CHARACTERS", size)
        pieces = list(embedded_tokenizer().encode(text))
        assert len(pieces) > 1
        cut = encode(text)
        assert embedded_tokenizer().count(text) == len(whole[0])
    for left, right in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(left, right)


def test_the_vocabulary_shows_pieces_of_characters_as_bytes() -> None:
    rows = embedded_tokenizer().vocabulary()
    assert [token_id for token_id, _, _ in rows] == list(range(4096))
    assert (0, "<|endoftext|>", b"<|endoftext|>") in rows
    assert any(text == "\\xe2" and raw == b"\xe2" for _, text, raw in rows)


def windows_of(n: int, windowing: Windowing, at: Cursor = Cursor()) -> list[Window]:  # noqa: B008
    ids = np.arange(100, 100 + n)
    encoded = tokens.Encoded(ids, ids - 100, ids - 99)
    middle = n // 3
    parts = [slice(0, middle), slice(middle, n)]
    pieces = [tokens.Encoded(encoded.ids[p], encoded.starts[p], encoded.ends[p]) for p in parts]
    return list(windowing.windows(pieces, at))


@pytest.mark.parametrize("bos", [None, 0])
@pytest.mark.parametrize(("context", "stride"), [(8, 8), (8, 3), (5, 1), (64, 64)])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 23])
def test_each_token_is_stored_once_with_as_much_context_as_the_stride_leaves(
    n: int, context: int, stride: int, bos: int | None
) -> None:
    room = context - (bos is not None)
    stride = min(stride, room)
    windowing = Windowing(context, stride, bos)
    windows = windows_of(n, windowing, Cursor(0, 1000, 50))
    assert [w.window for w in windows] == list(range(50, 50 + len(windows)))
    stored = np.concatenate([w.positions[w.stored] for w in windows])
    assert stored.tolist() == list(range(1000, 1000 + n + (len(windows) if bos is not None else 0)))
    assert (windowing.positions(n), windowing.positions(0)) == (len(stored), 0)
    tokens = np.concatenate([w.ids[w.stored & (w.starts >= 0)] for w in windows])
    assert tokens.tolist() == list(range(100, 100 + n))
    place = dict(
        zip(stored.tolist(), np.concatenate([w.ids[w.stored] for w in windows]).tolist(), strict=True)
    )
    for number, window in enumerate(windows):
        assert len(window.ids) <= context
        assert window.context_cut == (number > 0)
        text = window.ids[window.starts >= 0]
        assert (np.diff(text) == 1).all()
        if number > 0:
            assert (~window.stored).sum() == room - stride
        # A position that is context only is the row that another window stores for that token.
        assert all(place[p] == i for p, i in zip(window.positions, window.ids, strict=True))


def test_cut_to_ends_after_so_many_stored_positions() -> None:
    first, second = windows_of(12, Windowing(8, 4, None))
    assert cut_to(first, 3).ids.tolist() == [100, 101, 102]
    assert cut_to(second, 2).stored.sum() == 2
    assert cut_to(second, 2).ids.tolist() == [104, 105, 106, 107, 108, 109]


def test_batches_hold_every_window_once_and_pad_on_the_right() -> None:
    group = [w for n in (3, 50, 17, 17, 9, 40) for w in windows_of(n, Windowing(32, 32, None))]
    made = list(batches(group, 64))
    assert sorted(id(w) for b in made for w in b.windows) == sorted(id(w) for w in group)
    for batch in made:
        assert batch.tokens.size <= 64 or len(batch.windows) == 1
        for row, window in enumerate(batch.windows):
            n = len(window.ids)
            assert batch.tokens[row, :n].tolist() == window.ids.tolist()
            assert batch.next_ids[row, : n - 1].tolist() == window.ids[1:].tolist()
            assert (batch.next_ids[row, n - 1 :] == -1).all()
            assert not batch.stored[row, n:].any()
    halves = Batch.of(group).halves()
    assert [w for half in halves for w in half.windows] == group
