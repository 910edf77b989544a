"""Small tokenizers of every kind that is read, made here: real ones of the `tokenizers` library."""

import json
from functools import cache
from typing import TYPE_CHECKING

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WORDS = ["the cat café naïve sat on the mat, the αβγ 東京 ﬁt 😀 12 ⅷ e\u0301 hello  world\n"] * 3
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
BOS, PAD = "<|endoftext|>", "<|padding|>"
N = normalizers

NORMALIZERS: dict[str, normalizers.Normalizer | None] = {
    "as it is": None,
    "NFC": N.NFC(),
    "NFD": N.NFD(),
    "NFKC": N.NFKC(),
    "NFKD": N.NFKD(),
    "lower-case": N.Lowercase(),
    "NFC and lower-case": N.Sequence([N.NFC(), N.Lowercase()]),
    "without accents": N.Sequence([N.NFD(), N.StripAccents()]),
    "stripped": N.Strip(),
    "prepended": N.Prepend("▁"),
    "prepended space": N.Prepend(" "),
    "spaces replaced": N.Replace(" ", "▁"),
    "a word left out": N.Replace("the", ""),
    "control characters left out": N.BertNormalizer(lowercase=False, strip_accents=False),
    "NMT": N.Nmt(),
}
KINDS = (
    *NORMALIZERS,
    "added space",
    "regex of its own",
    "Metaspace",
    "byte fallback",
    "Unigram",
    "characters",
)


@cache
def tokenizer(kind: str, taking_spaces: bool = True) -> "PreTrainedTokenizerFast":
    """A tokenizer of a kind, with a BOS and padding; <L> and <R>, if asked, take the spaces beside them."""
    from transformers import PreTrainedTokenizerFast

    backend = _byte_level(kind) if kind in NORMALIZERS or kind in KINDS[-6:-4] else _other(kind)
    if taking_spaces:
        backend.add_tokens([AddedToken("<L>", lstrip=True), AddedToken("<R>", rstrip=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS, pad_token=PAD)


def _byte_level(kind: str) -> Backend:
    backend = Backend(models.BPE())
    split = pre_tokenizers.ByteLevel(
        add_prefix_space=kind == "added space", use_regex=kind != "regex of its own"
    )
    if kind == "regex of its own":
        digits = pre_tokenizers.Split(r"\d|\s+|\S+", "isolated")  # type: ignore[arg-type]
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, split])
    else:
        backend.pre_tokenizer = split
    if normalizer := NORMALIZERS.get(kind):
        backend.normalizer = normalizer
    return _trained(backend, 310, pre_tokenizers.ByteLevel.alphabet())


def _other(kind: str) -> Backend:
    if kind == "Unigram":
        pieces = [
            ("<unk>", 0.0),
            (BOS, -1.0),
            ("▁the", -2.0),
            ("▁", -3.0),
            ("ca", -4.0),
            ("t", -4.0),
            ("α", -4.0),
        ]
        backend = Backend(models.Unigram(pieces, unk_id=0))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.add_special_tokens([AddedToken("<unk>", special=True)])
        return backend
    if kind == "characters":
        return _trained(Backend(models.BPE(unk_token="<unk>")), 60, [], ["<unk>"])
    backend = Backend(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if kind == "Metaspace":
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        backend.normalizer = N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")])
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    trained = _trained(backend, 330, [], ["<unk>", *BYTES])
    spec = json.loads(trained.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in BYTES]
    return Backend.from_str(json.dumps(spec))


def _trained(backend: Backend, size: int, alphabet: list[str], first: list[str] | None = None) -> Backend:
    trainer = trainers.BpeTrainer(  # type: ignore[call-arg]
        vocab_size=size,
        initial_alphabet=alphabet,
        special_tokens=[BOS, PAD, *(first or [])],
        show_progress=False,
    )
    backend.train_from_iterator(WORDS, trainer)
    return backend
