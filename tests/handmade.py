"""Stores written by hand, row by row: what a test does not care about is 0, empty or now."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from annotate_transformer.store.database import connection
from annotate_transformer.store.writer import Provenance, Vocabulary

MODEL = {
    "model": "m",
    "revision": None,
    "step": None,
    "weights_sha256": "w",
    "config": "{}",
    "parallel_residual": True,
    "family": "gpt_neox",
    "norm": "LayerNorm",
    "activation": "GELU",
    "is_gated": False,
    "position_embedding": "rotary",
    "logit_cap": None,
    "has_post_norms": False,
    **dict.fromkeys(
        ("n_layers", "n_heads", "n_kv_heads", "d_model", "d_head", "d_mlp", "d_vocab", "n_ctx"), 1
    ),
}
RUN = Provenance(
    model=MODEL,
    tokenizer_sha256="t",
    corpus={"sha256": "c", "documents": 1, "characters": 1, "sources": ["a.txt"]},
    settings={"top": 1, "samples": 1},
    libraries={},
    processing={},
)
VOCABULARY = Vocabulary([(0, "a", b"a")], frozenset(), "")
EMPTY = {"VARCHAR": "", "JSON": "{}", "BOOLEAN": False, "BLOB": b"", "VARCHAR[]": []}


def _empty(kind: str) -> object:
    """A column's value where a test gives none: of an enum its first member."""
    return kind.split("'")[1] if kind.startswith("ENUM(") else EMPTY.get(kind, 0)


def insert(con: duckdb.DuckDBPyConnection, table: str, rows: list[dict[str, Any]]) -> None:
    """Rows with these values of their columns."""
    types = dict(con.execute(f"SELECT column_name, column_type FROM (DESCRIBE base.{table})").fetchall())
    now = datetime.now(UTC)
    default = {name: now if "TIME" in kind else _empty(kind) for name, kind in types.items()}
    assert all(set(row) <= set(default) for row in rows)
    con.register("rows", pd.DataFrame([default | row for row in rows]).astype(object))
    con.execute(f"INSERT INTO base.{table} BY NAME SELECT * FROM rows")


def looked_up(path: Path, heads: dict[tuple[int, int], dict[str, bool]]) -> Path:
    """A store of one run, with neurons of layer 3 that each have one relevant head.

    heads: by neuron and head of layer 0, whether that is active on each prompt, two words each; of each
    kind the first half is held out. Neurons from 100 on are drawn by chance.
    """
    texts = [text for prompts in heads.values() for text in prompts]
    words = [f" {word}" for text in texts for word in text.split()]
    ids = {word: i for i, word in enumerate(dict.fromkeys(words))}
    starts = [sum(map(len, words[:i])) for i in range(len(words))]
    with connection(path, read_only=False) as con:
        insert(con, "tokenizer", [{"tokenizer_id": 1}])
        insert(con, "token", [{"tokenizer_id": 1, "token_id": i, "token": word} for word, i in ids.items()])
        insert(con, "model", [{"model_id": 1, "tokenizer_id": 1, "model": "m", "n_layers": 4}])
        insert(con, "corpus", [{"corpus_id": 1}])
        insert(con, "document", [{"corpus_id": 1, "text": "".join(words)}])
        insert(con, "passage", [{"text": "".join(words)}])
        insert(con, "run", [{"run_id": 1, "model_id": 1, "corpus_id": 1, "status": "finished"}])
        places = [
            {"run_id": 1, "position_id": i, "token_id": ids[word]}
            | {"char_start": start, "char_end": start + len(word)}
            for i, (word, start) in enumerate(zip(words, starts, strict=True))
        ]  # fmt: skip
        insert(con, "position", places)
        first = 0
        for (neuron, head), prompts in heads.items():
            key, kinds = {"run_id": 1, "layer": 3, "neuron": neuron}, list(prompts.values())
            insert(con, "next_token_neuron", [key | {"is_baseline": neuron >= 100, "prompts": len(prompts)}])
            occurrences, of_head = [], []
            for prompt, kind in enumerate(kinds):
                where = {"first_position_id": first, "position_id": first + 1, "duplicate_of": None}
                occurrences.append(key | {"prompt": prompt} | where)
                held_out = kinds[:prompt].count(kind) < kinds.count(kind) // 2
                of_head.append({"prompt": prompt, "is_active": kind, "is_held_out": held_out})
                first += 2
            insert(con, "neuron_occurrence", occurrences)
            insert(con, "head_prompt", [key | {"source_head": head} | row for row in of_head])
    return path
