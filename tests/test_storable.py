"""What the store cannot hold is refused by a sentence, before anything of it is written."""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from annotate_transformer import store
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.errors import ModelError, SettingsError
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.run.storable import check_storable
from annotate_transformer.store.database import create
from annotate_transformer.store.writer import limits

SMALL = {"context": 16, "batch_tokens": 16, "top": 3, "samples": 10}


def annotated(folder: Path, **settings: Any) -> Path:
    db, text = folder.with_suffix(".duckdb"), folder.with_suffix(".txt")
    text.write_text("Tom saw Mary. Mary saw the cat, and the cat saw Tom.")
    with Corpus([str(text)]) as corpus:
        ingest(corpus, Model(resolve(str(folder))), str(db), Settings(**SMALL | settings))
    return db


def scaled(tiny_model: Path, folder: Path, part: str, factor: float) -> Path:
    """The model with the weights whose names end so, times `factor`."""
    shutil.copytree(tiny_model, folder)
    held = load_file(folder / "model.safetensors")
    assert any(name.endswith(part) for name in held)
    held = {k: (v.double() * factor).float() if k.endswith(part) else v for k, v in held.items()}
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


ALL = {"keep_neurons": None, "keep_sources": None, "lens": True}
TOO_LARGE: dict[str, tuple[str, float, dict[str, Any], str]] = {
    "unembedding × 10^6": ("embed_out.weight", 1e6, {}, "holds numbers below"),
    "unembedding × 10^13": ("embed_out.weight", 1e13, {}, "holds numbers below"),
    "unembedding × 10^37": ("embed_out.weight", 1e37, {}, "no numbers"),
    "all neurons and sources": ("embed_out.weight", 1e6, ALL, "holds numbers below"),
    "neurons' inputs × 10^8": ("dense_h_to_4h.weight", 1e8, {}, "activation"),
    "neurons' outputs × 10^30": ("dense_4h_to_h.weight", 1e30, {}, "position 0 of window 0"),
    "queries, keys and values × 10^25": ("query_key_value.weight", 1e25, {}, "position"),
    "LayerNorms × 10^25": ("norm.weight", 1e25, {}, "no numbers"),
}


@pytest.mark.some(3)
@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_model_whose_values_the_store_cannot_hold(name: str, tiny_model: Path, tmp_path: Path) -> None:
    part, factor, settings, words = TOO_LARGE[name]
    folder = scaled(tiny_model, tmp_path / "large", part, factor)
    with pytest.raises(ModelError) as raised:
        annotated(folder, **settings)
    assert str(folder) in str(raised.value)
    assert words in str(raised.value)
    assert not folder.with_suffix(".duckdb").exists()


def test_large_values_that_fit_are_stored(tiny_model: Path, tmp_path: Path) -> None:
    """Logits of tens of thousands."""
    db = annotated(scaled(tiny_model, tmp_path / "large", "embed_out.weight", 1e4))
    with store.open(db) as s:
        assert s.sql("SELECT max(top_logit) AS x FROM positions").x[0] > 10_000


def columns() -> list[tuple[str, str, str]]:
    """Every column that holds a number with a fraction, but for sums that SQL makes (38 digits)."""
    with duckdb.connect() as con:
        create(con)
        return con.execute(
            """SELECT table_name, column_name, data_type FROM duckdb_columns()
               WHERE schema_name = 'base' AND NOT starts_with(data_type, 'DECIMAL(38')
                 AND (starts_with(data_type, 'DECIMAL') OR starts_with(data_type, 'FLOAT')
                      OR data_type = 'BIGINT' AND regexp_matches(column_name, '_(next|top)$'))
                 AND table_name IN (SELECT table_name FROM duckdb_tables())"""
        ).fetchall()


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        create(con)
        yield con


@pytest.mark.parametrize(("table", "column", "kind"), columns())
def test_a_limit_is_where_duckdb_itself_refuses(
    table: str, column: str, kind: str, con: duckdb.DuckDBPyConnection
) -> None:
    """The largest float32 below the limit is stored as it is, and the next one is not."""
    limit = limits()[table][column]
    below = np.nextafter(np.float32(limit), np.float32(0))
    cast = {"BIGINT": "base.logits(base.units(?::FLOAT))"}.get(
        kind, f"?::FLOAT::{kind.removesuffix('[]')}::FLOAT"
    )
    for value in (below, -below):
        assert con.execute(f"SELECT {cast}", [float(value)]).fetchone() == (pytest.approx(value, rel=1e-4),)
    if not math.isinf(limit):
        with pytest.raises(duckdb.Error):
            con.execute(f"SELECT {cast}", [float(math.ceil(limit))]).fetchone()


def at(value: float) -> pa.Array:
    return pa.array(np.array([1, value, 2], dtype=np.float32))


NO: dict[str, Callable[[], pa.Array]] = {
    "NaN": lambda: at(math.nan),
    "infinity": lambda: at(math.inf),
    "negative infinity": lambda: at(-math.inf),
    "the limit": lambda: at(1e6),
    "below the negative limit": lambda: at(-1e7),
}


@pytest.mark.parametrize("name", NO)
def test_the_sentence_says_which_value_where(name: str) -> None:
    position = pa.table({"position_id": [7, 8, 9], "position": [0, 1, 2], "window_id": [5, 5, 5]})
    rows = pa.table(
        {"position_id": [7, 8, 9], "layer": [0, 1, 2], "neuron": [3, 4, 5], "activation": NO[name]()}
    )
    with pytest.raises(ModelError) as raised:
        check_storable({"neuron": rows, "position": position}, limits(), "m")
    told = str(raised.value)
    assert "neuron.activation of layer 1, neuron 4 at position 1 of window 5" in told
    assert "below 1,000,000" in told


def test_what_is_missing_is_no_wrong_number() -> None:
    """Nothing follows a window's last token: NULL, whatever stands beneath it."""
    values = pa.array(np.array([1, math.nan], dtype=np.float32), mask=np.array([False, True]))
    rows = pa.table({"position_id": [7, 8], "next_logit": values})
    check_storable({"position": rows}, limits(), "m")


def test_a_list_is_looked_through() -> None:
    position = pa.table({"position_id": [7, 8], "position": [0, 1], "window_id": [0, 0]})
    values = pa.array([[1.0, 2.0], [3.0, math.inf]], pa.list_(pa.float32()))
    rows = pa.table({"position_id": [7, 8], "layer": [0, 0], "values": values})
    with pytest.raises(ModelError, match="position 1 of window 0"):
        check_storable({"sample_row": rows, "position": position}, limits(), "m")


def test_infinities_inside_attention_are_no_fault(tiny_model: Path, tmp_path: Path) -> None:
    """A query may be so large that its score of one key is −∞ beside another's: attention is 0 and 1."""
    folder = scaled(tiny_model, tmp_path / "large", "query_key_value.weight", 1.0)
    held = load_file(folder / "model.safetensors")
    for name in [name for name in held if name.endswith("query_key_value.weight")]:
        rows = held[name].view(2, 3, 8, 16)  # head, of query, key and value
        rows[:, :2] *= 1e4
    save_file(
        {k: v.contiguous() for k, v in held.items()}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    with store.open(annotated(folder)) as s:
        assert torch.tensor(s.sql("SELECT max(attention) AS x FROM base.head").x[0]) == 1


def test_a_context_beyond_the_distances_that_are_stored() -> None:
    Settings(context=2**16).check()
    with pytest.raises(SettingsError, match="65,536"):
        Settings(context=2**16 + 1).check()
