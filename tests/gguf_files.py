"""Write a tiny Llama as a GGUF file, as llama.cpp's converter does."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import TOKENIZER

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


def written(
    model: Any,
    path: Path,
    kind: str = "F32",
    rule: str = "gpt-2",
    extra: dict[str, Tensor] | None = None,
    **settings: float,
) -> Path:
    """Write a model of transformers with the embedded tokenizer.

    `kind`: type of the matrices; `rule`: how the tokenizer splits text; `extra`: further tensors;
    `settings`: further settings, with _ for the dot.
    """
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    for name, value in settings.items():
        writer.add_float32(f"llama.{name.replace('_', '.')}", value)
    _add_tokenizer(writer, rule)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight" or not config.tie_word_embeddings:
            _add(writer, _renamed(name), tensor, kind, heads)
    for name, tensor in (extra or {}).items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _renamed(name: str) -> str:
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name


def _add(writer: Any, name: str, tensor: Tensor, kind: str, heads: dict[str, int]) -> None:
    """Add a tensor; llama.cpp rotates neighbouring dimensions, so rows of queries and keys change places."""
    import gguf

    part = name.split(".")[-2]
    if part in heads:
        tensor = tensor.unflatten(0, (heads[part], 2, -1)).transpose(1, 2).flatten(0, 2)
    data = tensor.to(torch.float32).contiguous().numpy()
    if tensor.ndim == 1 or kind == "F32":
        writer.add_tensor(name, data)
        return
    of_type = gguf.GGMLQuantizationType[kind]
    writer.add_tensor(name, gguf.quants.quantize(data, of_type), raw_dtype=of_type)


def _add_tokenizer(writer: Any, rule: str) -> None:
    model = json.loads(TOKENIZER.read_text(encoding="utf-8"))["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    missing = [token for token in ("<|endoftext|>", "<|padding|>") if token not in model["vocab"]]
    writer.add_token_list([*missing, *tokens])
    special = {"<|endoftext|>", "<|padding|>"}
    writer.add_token_types([3 if token in special else 1 for token in [*missing, *tokens]])
    merges = model["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def rename(path: Path, name: str) -> None:
    """Reverse the name of a tensor in the file, so that it is no tensor of the model."""
    data = path.read_bytes()
    assert data.count(name.encode()) == 1
    path.write_bytes(data.replace(name.encode(), name.encode()[::-1]))
