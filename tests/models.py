"""Models and stores for the tests: real GPT-NeoX of real shapes, real DuckDB."""

import shutil
import socket
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from tokenizers import Tokenizer as Backend

from annotate_transformer import store
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import EMBEDDED, EMBEDDED_MODEL, resolve
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.settings import Settings

# Products this small lose more to threads that wait for one another than they gain.
torch.set_num_threads(1)

EMBEDDED_PATH = EMBEDDED / EMBEDDED_MODEL / "step6110"
TOKENIZER = EMBEDDED / EMBEDDED_MODEL / "tokenizer.json"
N_TOKENS = 4096  # of the embedded tokenizer

PYTHIA = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 2048,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "vocab_size": 50304,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "num_hidden_layers": 6,
}
SHAPES = {
    "pythia-14m": {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512},
    "pythia-70m": {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048},
}

TEXTS = [
    "The Congress of the United States met in the city; the Congress of the United States met again.",
    "a",  # one token: nothing follows it
    "1, 2, 3, naïve 漢字 😀",
]


def random_model(shape: str, folder: Path, seed: int = 1) -> Path:
    """A model of Pythia's shape with every weight, bias and LayerNorm parameter drawn at random.

    As wide as is usual after training (what is zero or one by default would hide a mistake), and
    saved with the embedded tokenizer: 4,096 tokens in 50,304 rows, the rest padding.
    """
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig.from_dict(PYTHIA | SHAPES[shape])
    with torch.device("meta"):
        model = GPTNeoXForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)

    def drawn(name: str, like: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(like.shape, generator=generator)
        if like.ndim == 2:
            wide = 2.0 if "embed" in name or "lm_head" in name or "query_key" in name else 1.0
            return noise * wide / like.shape[1] ** 0.5
        return noise * 0.3 + (1.0 if name.endswith("norm.weight") else 0.0)

    state = {name: drawn(name, tensor) for name, tensor in model.named_parameters()}
    GPTNeoXForCausalLM.from_pretrained(None, config=config, state_dict=state).save_pretrained(folder)
    for file in TOKENIZER.parent.glob("tokenizer*.json"):
        shutil.copy(file, folder)
    return folder


@cache
def _tokenizer() -> Backend:
    return Backend.from_file(str(TOKENIZER))


def token_ids(text: str) -> list[int]:
    return list(_tokenizer().encode(text, add_special_tokens=False).ids)


def annotated(texts: dict[str, str] | list[str], model: Model, folder: Path, **settings: Any) -> store.Store:
    """A new store in `folder` with the texts, each a file of its own, in the order given."""
    named = texts if isinstance(texts, dict) else {f"{i}": text for i, text in enumerate(texts)}
    folder.mkdir(parents=True)
    for name, text in named.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    path = folder / "store.duckdb"
    with Corpus([str(folder / f"{name}.txt") for name in named]) as corpus:
        report = ingest(corpus, model, str(path), Settings(**settings))
    assert report.status == "finished"
    return store.open(path)


def of_the_hub(name: str) -> Model:
    """Load a model of the hub; skip the test where its weights cannot be had."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            socket.create_connection(("huggingface.co", 443), timeout=5).close()
        except OSError:  # the hub's client would try again for half a minute
            patch.setattr(constants, "HF_HUB_OFFLINE", True)
        try:
            return Model(resolve(name))
        except ModelError as error:
            pytest.skip(f"the weights of {name} cannot be had: {error}")
