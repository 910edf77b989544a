"""Folders that hold no whole, sound model: each is refused by a sentence that names what is wrong."""

import json
import math
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from small import model as small_model

Tensors = dict[str, torch.Tensor]
LAYER = "gpt_neox.layers.1."
UP, DOWN = f"{LAYER}mlp.dense_h_to_4h.weight", f"{LAYER}mlp.dense_4h_to_h.weight"


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "m"))


def refusal(folder: Path) -> str:
    """The sentence by which the folder is refused: one of this program's own, and whole."""
    with pytest.raises(ModelError) as raised:
        Model(resolve(str(folder)))
    told = str(raised.value)
    assert str(folder) in told
    assert told.endswith("."), told
    assert "\n" not in told
    assert "Traceback" not in told
    return told


def tensors(folder: Path) -> Tensors:
    """By the names that they have in the model: in a file the unembedding is `embed_out`."""
    held = load_file(folder / "model.safetensors")
    return {name.replace("embed_out.", "lm_head."): tensor for name, tensor in held.items()}


def put(folder: Path, held: Tensors, name: str = "model.safetensors") -> None:
    save_file({k: v.contiguous() for k, v in held.items()}, folder / name, metadata={"format": "pt"})


def configure(folder: Path, **changed: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


# Tensors that are not those of the model


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda held: {k: v for k, v in held.items() if k not in names}


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda held: held | {name: change(held[name])}


def added(name: str, tensor: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda held: held | {name: tensor}


def at(place: tuple[int, ...], value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def put_there(tensor: torch.Tensor) -> torch.Tensor:
        tensor[place] = value
        return tensor

    return put_there


def renamed(change: Callable[[str], str]) -> Callable[[Tensors], Tensors]:
    return lambda held: {change(k): v for k, v in held.items()}


NOT_THE_MODELS: dict[str, tuple[Callable[[Tensors], Tensors], tuple[str, ...]]] = {
    "a missing weight": (without(UP), (UP, "missing")),
    "a missing bias": (without(f"{LAYER}mlp.dense_h_to_4h.bias"), ("dense_h_to_4h.bias", "missing")),
    "a missing LayerNorm": (without(f"{LAYER}input_layernorm.weight"), ("input_layernorm.weight", "missing")),
    "no unembedding": (without("lm_head.weight"), ("lm_head.weight", "missing")),
    "no embedding": (without("gpt_neox.embed_in.weight"), ("gpt_neox.embed_in.weight", "missing")),
    "a whole layer missing": (
        lambda held: {k: v for k, v in held.items() if not k.startswith(LAYER)},
        (f"{LAYER}attention.dense.bias", "and 7 more", "missing"),
    ),
    "a layer too many": (
        lambda held: held | {k.replace(".1.", ".2."): v + 1 for k, v in held.items() if k.startswith(LAYER)},
        ("gpt_neox.layers.2.attention.dense.bias", "unexpected"),
    ),
    "a tensor of something else": (added("score.weight", torch.ones(2, 16)), ("score.weight", "unexpected")),
    "an adapter's tensors beside": (
        added(f"{LAYER}attention.dense.lora_A.weight", torch.ones(2, 16)),
        ("lora_A.weight", "unexpected"),
    ),
    "named like an old buffer": (
        added(f"{LAYER}attention.bias_of_mine", torch.ones(2)),
        ("attention.bias_of_mine", "unexpected"),
    ),
    "a weight of another shape": (
        changed(UP, lambda t: t[:, :-1]),
        (f"{UP} [32, 15] instead of [32, 16]", "another shape"),
    ),
    "a weight transposed": (changed(UP, lambda t: t.T), (f"{UP} [16, 32] instead of [32, 16]",)),
    "an empty weight": (changed(UP, lambda t: t[:0]), (f"{UP} [0, 16] instead of [32, 16]",)),
    "a scalar": (changed(UP, lambda t: t[0, 0]), (f"{UP} [] instead of [32, 16]",)),
    "no tensor at all": (lambda held: {}, ("gpt_neox.embed_in.weight", "missing")),
    "integers": (changed(UP, lambda t: t.to(torch.int8)), (UP, "I8", "float32")),
    "truths": (changed(UP, lambda t: t > 0), (UP, "BOOL")),
    "eight-bit floats": (changed(UP, lambda t: t.to(torch.float8_e4m3fn)), (UP, "F8_E4M3", "quantised")),
    "complex numbers": (changed(UP, lambda t: t.to(torch.complex64)), (UP, "C64")),
    "NaN in a weight": (changed(DOWN, at((3, 5), math.nan)), (f"{DOWN}[3, 5]", "no numbers")),
    "infinity in the unembedding": (
        changed("lm_head.weight", at((7, 1), math.inf)),
        ("lm_head.weight[7, 1]", "no numbers"),
    ),
    "negative infinity in a bias": (
        changed(f"{LAYER}attention.dense.bias", at((2,), -math.inf)),
        ("attention.dense.bias[2]", "no numbers"),
    ),
    "NaN in a LayerNorm": (
        changed("gpt_neox.final_layer_norm.weight", at((0,), math.nan)),
        ("final_layer_norm.weight[0]", "no numbers"),
    ),
    "beyond float32": (
        changed("gpt_neox.embed_in.weight", lambda t: at((9, 9), 1e300)(t.double())),
        ("gpt_neox.embed_in.weight[9, 9]", "too large for --dtype"),
    ),
    "another prefix": (
        renamed(lambda name: f"module.{name}"),
        ("module.gpt_neox.embed_in.weight", "unexpected", "missing"),
    ),
    "a base model's, without its unembedding": (
        lambda held: {k.removeprefix("gpt_neox."): v for k, v in held.items() if k.startswith("gpt_neox.")},
        ("lm_head.weight (missing)",),
    ),
    "another architecture's": (
        lambda held: {"transformer.wte.weight": torch.ones(4096, 16)},
        ("transformer.wte.weight", "unexpected", "missing"),
    ),
    "both names of the unembedding": (
        lambda held: held | {"embed_out.weight": held["lm_head.weight"] + 1},
        ("embed_out.weight and lm_head.weight",),
    ),
}


@pytest.mark.parametrize("name", NOT_THE_MODELS)
def test_tensors_that_are_not_the_models(name: str, folder: Path) -> None:
    change, words = NOT_THE_MODELS[name]
    put(folder, change(tensors(folder)))
    told = refusal(folder)
    assert [word for word in words if word not in told] == [], told


def test_tied_embeddings_need_one_matrix_and_no_other(folder: Path) -> None:
    held = tensors(folder)
    configure(folder, tie_word_embeddings=True)
    assert "tie_word_embeddings" in refusal(folder)
    put(folder, without("lm_head.weight")(held))
    model = Model(resolve(str(folder)))
    assert model.n_layers == 2


def old(held: Tensors) -> Tensors:
    """As GPT-NeoX was saved until 2023."""
    mask = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
    buffers = {"attention.bias": mask, "attention.masked_bias": torch.tensor(-1e9)}
    buffers["attention.rotary_emb.inv_freq"] = torch.ones(1)
    of_layers = {f"gpt_neox.layers.{i}.{k}": v.clone() for i in range(2) for k, v in buffers.items()}
    return {k.replace("lm_head.", "embed_out."): v for k, v in held.items()} | of_layers


WHOLE: dict[str, Callable[[Tensors], Tensors]] = {
    "as older versions saved it": old,
    "without the base model's prefix": renamed(lambda name: name.removeprefix("gpt_neox.")),
    "in double precision": lambda held: {k: v.double() for k, v in held.items()},
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_checkpoints_of_other_forms_are_the_same_model(
    name: str, folder: Path, tiny_model: Path
) -> None:
    put(folder, WHOLE[name](tensors(folder)))
    assert Model(resolve(str(folder))).weights_sha256 == Model(resolve(str(tiny_model))).weights_sha256


# Several files and their index


def sharded(folder: Path) -> dict[str, str]:
    """The model in two files with an index; its weight_map."""
    held = tensors(folder)
    (folder / "model.safetensors").unlink()
    parts = {"model-1.safetensors": sorted(held)[:10], "model-2.safetensors": sorted(held)[10:]}
    for file, names in parts.items():
        put(folder, {name: held[name] for name in names}, file)
    weight_map = {name: file for file, names in parts.items() for name in names}
    index(folder, weight_map)
    return weight_map


def index(folder: Path, weight_map: object) -> None:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_a_model_in_several_files(folder: Path, tiny_model: Path) -> None:
    sharded(folder)
    assert Model(resolve(str(folder))).weights_sha256 == Model(resolve(str(tiny_model))).weights_sha256


OUTSIDE = {
    "above": "../m2/model-2.safetensors",
    "above, later": "a/../../m2/model-2.safetensors",
    "absolute": "/tmp/model-2.safetensors",
    "of another system": "C:\\m2\\model-2.safetensors",
    "above, on another system": "..\\m2\\model-2.safetensors",
    "shared": "\\\\host\\m2\\model-2.safetensors",
    "another kind": "pytorch_model.bin",
    "nothing": "",
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_that_leads_out_of_the_folder(name: str, folder: Path) -> None:
    """The file is there and whole: it is refused for where it is, and not opened."""
    weight_map = sharded(folder)
    (folder.parent / "m2").mkdir()
    shutil.move(folder / "model-2.safetensors", folder.parent / "m2")
    index(folder, {k: OUTSIDE[name] if v == "model-2.safetensors" else v for k, v in weight_map.items()})
    told = refusal(folder)
    assert "index.json names" in told
    assert "it was not opened" in told


def test_files_that_the_index_promises(folder: Path) -> None:
    weight_map = sharded(folder)
    index(folder, weight_map | {"lm_head.bias": "model-1.safetensors"})
    assert "lists tensors that are not in their files: lm_head.bias." in refusal(folder)
    index(folder, weight_map | {UP: "model-1.safetensors"})
    assert UP in refusal(folder)
    for strange in ([], {}, {UP: 3}, {UP: None}, None):
        index(folder, strange)
        assert "weight_map" in refusal(folder)
    index(folder, weight_map)
    put(folder, {"lm_head.weight": torch.ones(4096, 16)}, "model-2.safetensors")
    refusal(folder)
    (folder / "model-2.safetensors").unlink()
    assert "model-2.safetensors is missing" in refusal(folder)
    (folder / "model.safetensors.index.json").unlink()
    told = refusal(folder)
    assert "holds no weights" in told
    assert "There are: model-1.safetensors" in told


# Files that are not what their names say


class Code:
    """What runs, if a pickle of it is opened without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_a_pickle_runs_nothing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    ran = folder / "ran"
    plain, packed = folder / "pytorch_model.bin", folder / "packed.bin"
    plain.write_bytes(pickle.dumps(Code(ran)))
    assert "pytorch_model.bin is not a pickle of tensors only" in refusal(folder)
    torch.save({"lm_head.weight": Code(ran)}, packed)
    shutil.move(packed, plain)
    assert "pytorch_model.bin is not a pickle of tensors only" in refusal(folder)
    assert not ran.exists()


@pytest.mark.parametrize(
    "content", [[1, 2], {"model": {"a": torch.ones(1)}}, {1: torch.ones(1)}, torch.ones(3)]
)
def test_a_pickle_of_something_else(content: object, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    assert "pytorch_model.bin is not a pickle of tensors only" in refusal(folder)


def test_a_pickle_of_tensors_is_read_where_there_is_nothing_else(folder: Path, tiny_model: Path) -> None:
    held = tensors(folder)
    torch.save(without(UP)(held), folder / "pytorch_model.bin")
    same = Model(resolve(str(tiny_model))).weights_sha256
    assert Model(resolve(str(folder))).weights_sha256 == same  # safetensors come first
    (folder / "model.safetensors").unlink()
    assert UP in refusal(folder)
    torch.save(held, folder / "pytorch_model.bin")
    assert Model(resolve(str(folder))).weights_sha256 == same


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
FILES: dict[str, tuple[str, bytes | None, tuple[str, ...]]] = {
    "weights cut short": ("model.safetensors", b"\x10\0\0\0\0\0\0\0{}", ("not a whole safetensors file",)),
    "weights of nothing": ("model.safetensors", b"", ("model.safetensors is not a whole",)),
    "weights of noise": ("model.safetensors", b"\xff" * 4096, ("model.safetensors is not a whole",)),
    "weights that are a pointer": ("model.safetensors", POINTER, ("model.safetensors", "git lfs pull")),
    "a configuration that is a pointer": ("config.json", POINTER, ("config.json", "git lfs pull")),
    "a configuration of nothing": ("config.json", b"", ("config.json is not JSON",)),
    "a configuration cut short": ("config.json", b'{"vocab_size": 4', ("config.json is not JSON",)),
    "a list for a configuration": ("config.json", b"[1, 2]", ("config.json is not a JSON object",)),
    "null for a configuration": ("config.json", b"null", ("config.json is not a JSON object",)),
    "bytes for a configuration": ("config.json", bytes(range(256)), ("config.json is not JSON",)),
    "nested without end": ("config.json", b"[" * 200_000, ("config.json is not JSON",)),
    "a huge configuration": ("config.json", b" " * (2**20 + 1), ("1,048,577 bytes",)),
    "no tokenizer": ("tokenizer.json", None, ("no tokenizer", "tokenizer.json is missing", "Copy")),
    "a tokenizer cut short": ("tokenizer.json", b'{"version": "1.0"', ("tokenizer.json is not JSON",)),
    "a tokenizer of nothing": ("tokenizer.json", b"{}", ("tokenizer.json",)),
    "a tokenizer of no model": ("tokenizer.json", b'{"version": "1.0", "model": null}', ("tokenizer.json",)),
    "a tokenizer of no such kind": (
        "tokenizer.json",
        b'{"version": "1.0", "model": {"type": "Nonsense"}, "added_tokens": []}',
        ("tokenizer.json",),
    ),
    "a tokenizer that is a pointer": ("tokenizer.json", POINTER, ("tokenizer.json", "git lfs pull")),
    "a list beside the tokenizer": ("tokenizer_config.json", b"[]", ("tokenizer_config.json is not a",)),
    "no model, no tokenizer": ("config.json", None, ("config.json is missing",)),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_not_what_they_should_be(name: str, folder: Path) -> None:
    file, content, words = FILES[name]
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    told = refusal(folder)
    assert [word for word in words if word not in told] == [], told


def test_weights_cut_short_at_the_end(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "model.safetensors is not a whole safetensors file" in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_only_regular_files_are_opened(name: str, folder: Path) -> None:
    """A named pipe would wait for ever, a folder is none, a broken link leads to none."""
    path = folder / name
    path.unlink()
    os.mkfifo(path)
    assert name in refusal(folder)
    path.unlink()
    path.mkdir()
    assert name in refusal(folder)
    path.rmdir()
    path.symlink_to("nowhere")
    assert name in refusal(folder)
    path.unlink()
    path.symlink_to("/dev/zero")
    assert name in refusal(folder)
    path.unlink()
    path.symlink_to(name)
    assert name in refusal(folder)


def test_links_are_followed_as_in_the_hubs_cache(folder: Path, tiny_model: Path) -> None:
    blobs = folder.parent / "blobs"
    folder.rename(blobs)
    folder.mkdir()
    for file in blobs.iterdir():
        (folder / file.name).symlink_to(f"../blobs/{file.name}")
    assert Model(resolve(str(folder))).weights_sha256 == Model(resolve(str(tiny_model))).weights_sha256


# Settings that no model has

IMPOSSIBLE: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "heads that do not divide": ({"num_attention_heads": 3}, ("hidden_size", "16", "3 heads")),
    "no heads": ({"num_attention_heads": 0}, ("num_attention_heads", "is 0", "1 to 256")),
    "no layers": ({"num_hidden_layers": 0}, ("num_hidden_layers", "is 0")),
    "fewer layers than none": ({"num_hidden_layers": -1}, ("num_hidden_layers", "is -1")),
    "100,000 layers": ({"num_hidden_layers": 100_000}, ("num_hidden_layers", "100000", "1 to 256")),
    "layers in words": ({"num_hidden_layers": "two"}, ("num_hidden_layers", "two")),
    "layers in quotes": ({"num_hidden_layers": "2"}, ("num_hidden_layers", "whole number")),
    "layers in part": ({"num_hidden_layers": 2.0}, ("num_hidden_layers", "2.0")),
    "layers, true": ({"num_hidden_layers": True}, ("num_hidden_layers", "true")),
    "layers in a list": ({"num_hidden_layers": [2]}, ("num_hidden_layers", "[2]")),
    "no number of layers": ({"num_hidden_layers": None}, ("num_hidden_layers", "null")),
    "a wider model": ({"hidden_size": 2**20}, ("instead of", "another shape")),
    "a width beyond all": ({"hidden_size": 10**30}, ("hidden_size",)),
    "NaN wide": ({"hidden_size": math.nan}, ("hidden_size", "NaN")),
    "a vocabulary beyond all": ({"vocab_size": 10**12}, ("vocab_size",)),
    "a larger vocabulary": ({"vocab_size": 2**31 - 1}, ("embed_in.weight", "instead of")),
    "a smaller vocabulary": ({"vocab_size": 100}, ("embed_in.weight", "instead of")),
    "more neurons than can be counted": ({"intermediate_size": 65_537}, ("intermediate_size", "65,536")),
    "no context": ({"max_position_embeddings": 0}, ("max_position_embeddings",)),
    "rotary beyond the head": ({"rope_parameters": None, "rotary_pct": 1.5}, ("rotary_pct", "1.5")),
    "rotary below nothing": ({"rope_parameters": None, "rotary_pct": -0.25}, ("rotary_pct",)),
    "rotary NaN": ({"rope_parameters": None, "rotary_pct": math.nan}, ("rotary_pct", "NaN")),
    "rotary in words": ({"rope_parameters": None, "rotary_pct": "a quarter"}, ("rotary_pct",)),
    "rotary base of nothing": ({"rope_parameters": None, "rotary_emb_base": 0}, ("rotary_emb_base",)),
    "rotary of no such kind": ({"rope_parameters": {"rope_type": "nonsense"}}, ("nonsense",)),
    "rotary in a list": ({"rope_parameters": [1]}, ("rope_parameters",)),
    "an activation of no such kind": ({"hidden_act": "gelou"}, ("hidden_act", "gelou")),
    "an activation, a number": ({"hidden_act": 3}, ("hidden_act", "3")),
    "epsilon infinite": ({"layer_norm_eps": math.inf}, ("layer_norm_eps", "Infinity")),
    "epsilon below nothing": ({"layer_norm_eps": -1e-5}, ("layer_norm_eps",)),
    "parallel in words": ({"use_parallel_residual": "yes"}, ("use_parallel_residual", "true or false")),
    "tied by a number": ({"tie_word_embeddings": 1}, ("tie_word_embeddings",)),
    "no attention bias": ({"attention_bias": False}, ("attention biases",)),
    "quantised": ({"quantization_config": {"quant_method": "bitsandbytes"}}, ("quantised",)),
    "quantised by no known method": ({"quantization_config": {"quant_method": "x"}}, ("quantised",)),
    "code of its own": ({"auto_map": {"AutoModelForCausalLM": "evil.Evil"}}, ("Python code",)),
    "weights elsewhere": ({"transformers_weights": "../x.safetensors"}, ("its own weights file",)),
    "a first token in words": ({"bos_token_id": "x"}, ("bos_token_id", "config.json")),
    "another architecture": ({"architectures": ["LlamaForCausalLM"]}, ("LlamaForCausalLM", "GPTNeoX")),
    "another type": ({"model_type": "llama"}, ("cannot be annotated", "GPTNeoXForCausalLM")),
    "architectures, a number": ({"architectures": 3}, ("cannot be annotated", "GPTNeoXForCausalLM")),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_settings(name: str, folder: Path) -> None:
    settings, words = IMPOSSIBLE[name]
    configure(folder, **settings)
    told = refusal(folder)
    assert [word for word in words if word not in told] == [], told


@pytest.mark.parametrize(
    "missing", ["num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size", "model_type"]
)
def test_missing_settings(missing: str, folder: Path) -> None:
    """transformers would take those of GPT-NeoX-20B."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config[missing]
    if missing == "model_type":
        del config["architectures"]
    path.write_text(json.dumps(config))
    told = refusal(folder)
    assert missing in told or "GPTNeoXForCausalLM" in told


HARMLESS: dict[str, object] = {
    "torch_dtype": "nonsense",
    "dtype": 3,
    "attn_implementation": "kernels-community/flash-attn",
    "_attn_implementation": "flash_attention_2",
    "fusion_config": {"x": 1},
    "initializer_range": 0.7,
}


def test_settings_that_change_nothing_are_not_read(folder: Path, tiny_model: Path) -> None:
    configure(folder, **HARMLESS)
    model, same = Model(resolve(str(folder))), Model(resolve(str(tiny_model)))
    assert (model.weights_sha256, model.config) == (same.weights_sha256, same.config)


def test_a_tokenizer_larger_than_the_embedding(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "m", vocab_size=4000)
    assert "4096 tokens, the model only 4000 rows" in refusal(folder)


# The hub


@pytest.fixture
def cached(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with one model, someone/tiny, and the hub out of reach; the folder of its commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(folder, repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return repository / "snapshots" / commit


def test_a_model_in_the_hubs_cache(cached: Path, tiny_model: Path) -> None:
    same = Model(resolve(str(tiny_model))).weights_sha256
    assert Model(resolve("someone/tiny")).weights_sha256 == same
    torch.save(tensors(cached), cached / "pytorch_model.bin")
    (cached / "model.safetensors").unlink()
    assert Model(resolve("someone/tiny", cached.name)).weights_sha256 == same


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_the_cache_lacks_cannot_be_reached(missing: str, cached: Path) -> None:
    (cached / missing).unlink()
    with pytest.raises(ModelError, match=r"someone/tiny is not in the local cache and the .* hub cannot be"):
        Model(resolve("someone/tiny"))


def test_an_index_of_the_hub_that_leads_out(cached: Path) -> None:
    (cached / "model.safetensors").rename(cached.parent / "x.safetensors")
    index(cached, {UP: "../x.safetensors"})
    with pytest.raises(ModelError, match="it was not opened"):
        Model(resolve("someone/tiny"))


@pytest.mark.parametrize("name", ["someone/none", "some one/none", "a/b/c", "someone/-x", "x/" + "y" * 300])
def test_a_name_that_the_hub_does_not_have(name: str, cached: Path) -> None:
    with pytest.raises(ModelError) as raised:
        Model(resolve(name))
    assert str(raised.value).endswith(".")
