"""Small runs with many shards: a tiny model, a corpus that repeats itself, settings that cut it often."""

import json
import random
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

from annotate_transformer import store
from answers import sql
from processes import until

EMBEDDED = Path(__file__).parent.parent / "ingest" / "embedded" / "neox-2m"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")

NAMES = ("Tom", "Mary", "Dublin", "Ireland", "Zoë", "the cat", "東京", "1979", "a café", "😀")
DOINGS = ("saw", "met", "wrote to", "is the capital of", "gave\n  a book to", "—")
SETTINGS = (
    *("--context", 16, "--batch-tokens", 16, "--shard-tokens", 100, "--lens"),
    *("--top", 5, "--samples", 300, "--keep-neurons", 2, "--keep-sources", 4, "--no-weights"),
)
SHAPE = {
    "vocab_size": 4096,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,  # large enough that tokens and positions tell
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def model(folder: Path, **shape: int) -> Path:
    """A GPT-NeoX of two layers with random weights and the embedded model's tokenizer."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
    from transformers.utils import logging

    torch.manual_seed(0)
    logging.disable_progress_bar()
    GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE | shape)).save_pretrained(folder)
    for file in TOKENIZER:
        shutil.copy(EMBEDDED / file, folder)
    return folder


def text(sentences: int, seed: int) -> str:
    """Sentences of few words, so that tokens and phrases come again."""
    draw = random.Random(seed)
    return " ".join(
        f"{draw.choice(NAMES)} {draw.choice(DOINGS)} {draw.choice(NAMES)}." for _ in range(sentences)
    )


def corpus(path: Path, sentences: tuple[int, ...]) -> Path:
    """A .jsonl at `path`: a document for each number of sentences."""
    rows = ({"text": text(n, seed), "number": seed, "next": seed + 1} for seed, n in enumerate(sentences))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def stopping_after(groups: int | None) -> Callable[[], bool]:
    """What stops an ingest after so many groups of batches; None: nothing does."""
    asked = count(1)
    return lambda: next(asked) == groups


def until_committed(db: Path, shards: int = 1, over: Callable[[], bool] = lambda: False) -> None:
    """Wait until so many shards are in the store, or it is over.

    The store is only read where its files have changed: an ingest that is asked over and over waits for each
    answer, and opening the file takes as much processor time as a batch of the ingest.
    """
    seen: object = None

    def is_there() -> bool:
        nonlocal seen
        if over():
            return True
        before, seen = seen, _written(db)
        return seen != before and committed(db) >= shards

    until(is_there, every=0.005)


def _written(db: Path) -> list[tuple[int, int] | None]:
    """When the store and its log were last written, and their sizes; None where there is no such file."""
    found = list[tuple[int, int] | None]()
    for file in (db, Path(f"{db}.wal")):
        try:
            about = file.stat()
            found.append((about.st_mtime_ns, about.st_size))
        except FileNotFoundError:
            found.append(None)
    return found


def committed(db: Path) -> int:
    """Shards that are in the store, 0 where there is none yet."""
    try:
        return int(sql(db, "SELECT count(*) FROM base.shard")[0][0])
    except store.NotAStore:
        return 0
