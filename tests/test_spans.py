"""Whatever a tokenizer does to a text, its tokens' spans hold every character of it, in order."""

import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from annotate_transformer.ingest.corpus import tokens
from annotate_transformer.ingest.corpus.tokens import Encoded, Tokenizer
from annotate_transformer.ingest.errors import ModelError
from tokenizers_of_kinds import BOS, KINDS, PAD, tokenizer

TEXTS = [
    "cafe\u0301 noir", "\u0301 begins with a mark", "  the cat  ", "ﬁne ⅷ ＡＢ", "İSTANBUL ẞ",
    "a\x00b\x01 c\u200bd", "αβγ 東京 😀👩\u200d🚀", "the", "the the", " ", "\u1112\u1161\u11ab",
    "x\u0323\u0302 ệ", "a <L> b <R>  c", "\n\t the\r\n",
]  # fmt: skip
# Byte-level BPE with GPT-2's pattern is cut between words, where that moves no token; others are not.
NOT_CUT = {*KINDS[-6:]} | {
    kind for kind in KINDS if kind.startswith(("stripped", "prepended", "spaces", "a word", "control"))
}
ALPHABET = st.one_of(
    st.sampled_from(
        [
            "the",
            " ",
            "  ",
            "é",
            "e\u0301",
            "\u0323",
            "ﬁ",
            "\x00",
            "\u200b",
            "東",
            "😀",
            "<L>",
            "<R>",
            "▁",
            "\n",
            "İ",
        ]
    ),
    st.characters(codec="utf-8"),
)


def encoded(reader: Tokenizer, text: str) -> Encoded:
    pieces = [*reader.encode(text)]
    assert all(len(piece.ids) for piece in pieces)
    joined = ([getattr(piece, name) for piece in pieces] for name in ("ids", "starts", "ends"))
    return Encoded(*(np.concatenate([np.empty(0, dtype=np.int64), *parts]) for parts in joined))


def concatenated(found: Encoded, text: str) -> str:
    """The spans one after the other; what tokens share, because it is one character, is taken once."""
    reached, parts = 0, []
    for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True):
        assert start <= end and start <= reached, "a character is left out"
        parts.append(text[max(start, reached) : end])
        reached = max(reached, end)
    return "".join(parts)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(text=st.lists(ALPHABET, max_size=12).map("".join))
@example(text="")
def test_spans_concatenate_to_the_text(kind: str, text: str) -> None:
    check_spans(Tokenizer(tokenizer(kind)), text)


@pytest.mark.parametrize("kind", KINDS)
def test_spans_of_texts_that_normalizers_change(kind: str) -> None:
    reader = Tokenizer(tokenizer(kind))
    for text in TEXTS:
        found = check_spans(reader, text)
        for end, start in zip(found.ends[:-1], found.starts[1:], strict=True):
            # Tokens overlap only in one character that they make up, and in what was dropped after it.
            shared = [c for c in text[start:end] if unicodedata.category(c) not in ("Mn", "Cf", "Cc", "Lo")]
            assert len(shared) <= 1, (text, shared)


def check_spans(reader: Tokenizer, text: str) -> Encoded:
    found = encoded(reader, text)
    assert len(found.ids) == reader.count(text)
    assert (np.diff(found.starts) >= 0).all() and (np.diff(found.ends) >= 0).all()
    assert concatenated(found, text) == (text if len(found.ids) else "")
    return found


def test_a_character_left_out_belongs_to_the_token_before_it() -> None:
    composed = Tokenizer(tokenizer("NFC"))
    found = encoded(composed, "e\u0301x")
    raw = {token_id: raw for token_id, _, raw in composed.vocabulary()}
    assert b"".join(raw[i] for i in found.ids.tolist()) == "éx".encode()
    assert {(s, e) for s, e in zip(found.starts.tolist(), found.ends.tolist(), strict=True)} == {
        (0, 2),
        (2, 3),
    }
    stripped = encoded(Tokenizer(tokenizer("stripped")), "  the  ")
    assert (stripped.starts[0], stripped.ends[-1]) == (0, 7)


@pytest.mark.parametrize(
    "kind", ["prepended", "prepended space", "Metaspace", "byte fallback", "Unigram", "added space"]
)
def test_a_space_that_the_tokenizer_adds_stands_nowhere(kind: str) -> None:
    found = encoded(Tokenizer(tokenizer(kind)), "βγ")
    first = found.starts == found.ends
    assert not first[1:].any()
    assert concatenated(found, "βγ") == "βγ"
    assert found.starts.tolist()[int(first[0])] == 0


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(
    words=st.lists(
        st.sampled_from(
            ["the", "café", "e\u0301", "<R>", "<L>", "αβ", "!\n", "\x00", "1,", "  ", "\t", "<|", "a\u200b"]
        ),
        min_size=20,
        max_size=30,
    )
)
def test_pieces_have_the_tokens_of_the_whole_text(kind: str, words: list[str]) -> None:
    reader, text = Tokenizer(tokenizer(kind, taking_spaces=False)), " ".join(words)
    whole = encoded(reader, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "PIECE_CHARACTERS", 25)
        pieces = check_spans(reader, text)
        assert len([*reader.encode(text)]) > 1 or kind in NOT_CUT
    np.testing.assert_array_equal(whole.ids, pieces.ids)
    np.testing.assert_array_equal(whole.starts, pieces.starts)
    np.testing.assert_array_equal(whole.ends, pieces.ends)


def test_a_dropped_piece_of_a_long_text_belongs_to_the_token_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokens, "PIECE_CHARACTERS", 4)
    reader = Tokenizer(tokenizer("NMT", taking_spaces=False))
    assert len([*reader.encode("the cat sat on")]) > 1
    for text in ("the\x01\x01\x01\x01\x01\x01\x01 cat", "\x01" * 9 + "the", "the" + "\x01" * 9, "\x01" * 9):
        check_spans(reader, text)


# Special tokens -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_token_is_one_only_on_request(kind: str) -> None:
    fast = tokenizer(kind)
    plain, parsing = Tokenizer(fast), Tokenizer(fast, parse_special=True)
    assert plain.sha256 == parsing.sha256
    assert plain.vocabulary() == parsing.vocabulary()
    assert {text for i, text, _ in plain.vocabulary() if i in plain.special_ids} >= {BOS, PAD}
    for text in (BOS, f"the{BOS}cat", f"{PAD} the", f"a {BOS}{BOS}", f"<L>{BOS}<R>"):
        ids = {*check_spans(plain, text).ids.tolist()}
        named = {i for i, name, _ in plain.vocabulary() if name in (BOS, PAD)}
        assert not ids & named, text
        assert named & {*check_spans(parsing, text).ids.tolist()}, text
        counted = parsing.count_special(text)
        parsed = encoded(parsing, text).ids
        assert counted.special.tolist() == np.isin(parsed, parsing.special_ids).nonzero()[0].tolist()
        assert counted.begins_with_bos == (parsed[0] == parsing.bos_id)
    assert encoded(plain, "the cat").ids.tolist() == encoded(parsing, "the cat").ids.tolist()


def test_a_vocabulary_that_spells_a_special_token_does_not_make_it() -> None:
    """By merges, by whole words, or as a piece of Unigram's: ids stay, those after it too."""
    from transformers import PreTrainedTokenizerFast

    characters = ["<", "s", ">", "x", "s>", "<s>", "xs"]
    vocab = {name: i for i, name in enumerate(characters)}
    for ignore_merges in (False, True):
        backend = Backend(
            models.BPE(vocab, [("s", ">"), ("<", "s>"), ("x", "s")], ignore_merges=ignore_merges)
        )
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.add_special_tokens(["<s>", "<t>"])
        backend.add_tokens(["<u>"])
        fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
        assert encoded(Tokenizer(fast), "<s> xs<u>").ids.tolist() == [0, 4, 6, 8]
        assert encoded(Tokenizer(fast, parse_special=True), "<s> xs<u>").ids.tolist() == [5, 6, 8]


# Kinds that cannot be read ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        models.WordPiece({"[UNK]": 0, "the": 1}, unk_token="[UNK]"),
        models.WordLevel({"[UNK]": 0, "the": 1}, unk_token="[UNK]"),
        models.BPE({"t</w>": 0}, [], end_of_word_suffix="</w>"),
        models.BPE({"t": 0, "##t": 1}, [], continuing_subword_prefix="##"),
    ],
)  # fmt: skip
def test_other_kinds_are_refused_with_a_sentence(model: models.Model) -> None:
    from transformers import PreTrainedTokenizerFast

    with pytest.raises(
        ModelError,
        match=r"tokenizer .* not supported\. Choose a model with|only BPE and Unigram are supported",
    ):
        Tokenizer(PreTrainedTokenizerFast(tokenizer_object=Backend(model)))


def test_the_vocabulary_says_which_bytes_a_token_stands_for() -> None:
    of = {kind: {raw: text for _, text, raw in Tokenizer(tokenizer(kind)).vocabulary()} for kind in KINDS}
    assert b" the" in of["Unigram"] and of["Unigram"][b" the"] == " the"
    assert of["byte fallback"][b"\xce"] == of["NFC"][b"\xce"] == "\\xce"
    assert [
        Tokenizer(tokenizer(kind, taking_spaces=False)).spells
        for kind in ("as it is", "NFC", "NFKC", "added space", "Unigram")
    ] == ["text", "NFC", "other", "other", "other"]
    assert Tokenizer(tokenizer("as it is")).spells == "other"  # <L> stands for the spaces before it too
