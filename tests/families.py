"""A tiny random model of each family, and what plain hooks on Hugging Face's model read in it.

Three layers, head and group sizes that differ, every weight, bias and norm drawn at random. TransformerLens
is not used here. Hugging Face computes RMSNorm and the softmax of attention scores in float32, whatever the
model's precision; `in_float64` patches both, for the model that is read here and for the one that is tested.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import N_TOKENS, TOKENIZER

LAYERS, CONTEXT = 3, 32
BASE = {"vocab_size": N_TOKENS, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
SIZES = BASE | {
    "hidden_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
}
GPT = BASE | {"n_embd": 24, "n_layer": LAYERS, "n_head": 4, "n_positions": 64, "n_inner": 40}
GROUPS, SMALL_HEADS = {"num_key_value_heads": 2}, {"num_key_value_heads": 2, "head_dim": 8}
WINDOW = {"sliding_window": 5}
CAPS = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 12}

TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
LOCAL = {"attention_types": [[["global", "local"], 1], [["global"], 1]], "window_size": 5}


@dataclass(frozen=True)
class Names:
    """The settings of a family's tiny model, and the names of the modules that are read."""

    settings: dict[str, Any]
    blocks: str
    norm: str  # before attention
    attention: str  # its output weights, which read z
    neurons: str  # output weights of the MLP, which read the activations
    embed: str
    final: str
    pos_embed: str | None = None
    after: tuple[str, str] | None = None  # norms after attention and MLP
    pre: tuple[str, ...] = ()  # modules that write the neurons' inputs


def gpt(settings: dict[str, Any], attention: str, mlp: str, pre: str, pos: str | None = None) -> Names:
    top = "transformer"
    return Names(settings, f"{top}.h", "ln_1", attention, mlp, f"{top}.wte", f"{top}.ln_f", pos, None, (pre,))


def llama(
    settings: dict[str, Any], after: bool = False, pre: tuple[str, ...] = ("gate_proj", "up_proj")
) -> Names:
    norms = ("post_attention_layernorm", "post_feedforward_layernorm") if after else None
    return Names(
        SIZES | settings, "model.layers", "input_layernorm", "self_attn.o_proj", "mlp.down_proj",
        "model.embed_tokens", "model.norm", None, norms, tuple(f"mlp.{name}" for name in pre),
    )  # fmt: skip


WPE = "transformer.wpe"
FAMILIES: dict[str, Names] = {
    "gpt_neox": Names(
        SIZES | {"rotary_pct": 0.5}, "gpt_neox.layers", "input_layernorm", "attention.dense",
        "mlp.dense_4h_to_h", "gpt_neox.embed_in", "gpt_neox.final_layer_norm", pre=("mlp.dense_h_to_4h",),
    ),
    "gpt2": gpt(GPT, "attn.c_proj", "mlp.c_proj", "mlp.c_fc", WPE),
    "gpt_neo": gpt(
        BASE | LOCAL | {"hidden_size": 24, "num_layers": LAYERS, "num_heads": 4, "intermediate_size": 40}
        | {"max_position_embeddings": 64},
        "attn.attention.out_proj", "mlp.c_proj", "mlp.c_fc", WPE,
    ),
    "opt": Names(
        BASE | {"hidden_size": 24, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "ffn_dim": 40}
        | {"max_position_embeddings": 64, "word_embed_proj_dim": 24},
        "model.decoder.layers", "self_attn_layer_norm", "self_attn.out_proj", "fc2",
        "model.decoder.embed_tokens", "model.decoder.final_layer_norm", "model.decoder.embed_positions",
        pre=("fc1",),
    ),
    "bloom": Names(
        BASE | {"hidden_size": 24, "n_layer": LAYERS, "n_head": 4}, "transformer.h", "input_layernorm",
        "self_attention.dense", "mlp.dense_4h_to_h", "transformer.word_embeddings_layernorm",
        "transformer.ln_f", pre=("mlp.dense_h_to_4h",),
    ),
    "gptj": gpt(GPT | {"rotary_dim": 4}, "attn.out_proj", "mlp.fc_out", "mlp.fc_in"),
    "phi": Names(
        SIZES | {"partial_rotary_factor": 0.67}, "model.layers", "input_layernorm", "self_attn.dense",
        "mlp.fc2", "model.embed_tokens", "model.final_layernorm", pre=("mlp.fc1",),
    ),
    "falcon": Names(
        SIZES | {"ffn_hidden_size": 40, "multi_query": True}, "transformer.h", "input_layernorm",
        "self_attention.dense", "mlp.dense_4h_to_h", "transformer.word_embeddings", "transformer.ln_f",
        pre=("mlp.dense_h_to_4h",),
    ),
    "starcoder2": Names(
        SIZES | GROUPS | WINDOW, "model.layers", "input_layernorm", "self_attn.o_proj", "mlp.c_proj",
        "model.embed_tokens", "model.norm", pre=("mlp.c_fc",),
    ),
    "llama": llama(GROUPS | {"tie_word_embeddings": True}),
    "mistral": llama(GROUPS | WINDOW),
    "qwen2": llama(GROUPS),
    "qwen3": llama(SMALL_HEADS),
    "phi3": llama(GROUPS, pre=()),
    "gemma": llama({"num_key_value_heads": 1, "head_dim": 8}),
    "gemma2": llama(SMALL_HEADS | WINDOW | CAPS, after=True),
    "gemma3_text": llama(
        SMALL_HEADS | WINDOW | {"query_pre_attn_scalar": 12, "layer_types": TYPES}, after=True
    ),
}  # fmt: skip

# Architectures without a class of their own
OTHERS: dict[str, Names] = {
    "cohere2": llama(GROUPS | WINDOW | {"layer_types": TYPES, "logit_scale": 1.0}),
    "smollm3": llama(GROUPS | {"no_rope_layers": [1, 1, 0]}),
    "arcee": llama(GROUPS, pre=("up_proj",)),
    "jais2": llama(GROUPS, pre=("up_proj",)),
}
# Architectures of which TransformerLens's model differs from Hugging Face's, or has queries and keys that
# are normalised after the rotation
REFUSED = {"olmo2": llama(GROUPS), "hunyuan_v1_dense": llama(SMALL_HEADS)}
EVERY = FAMILIES | OTHERS | REFUSED


def tiny(family: str, folder: Path, seed: int = 0) -> Path:
    """Save a random model of the family or other architecture, with the embedded tokenizer."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config_class: Any = CONFIG_MAPPING[family]
    config = config_class(**EVERY[family].settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = name.endswith("weight") and parameter.ndim == 1
            scaled = noise * 1.5 / parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else noise * 0.3
            parameter.copy_(scaled + is_norm)
    model.save_pretrained(folder)
    for file in TOKENIZER.parent.glob("tokenizer*.json"):
        shutil.copy(file, folder)
    return folder


@contextmanager
def in_float64() -> Iterator[None]:
    """Let Hugging Face compute RMSNorms and softmax in the precision of their input."""
    from transformers.models.arcee import modeling_arcee
    from transformers.models.cohere2 import modeling_cohere2
    from transformers.models.gemma import modeling_gemma
    from transformers.models.gemma2 import modeling_gemma2
    from transformers.models.gemma3 import modeling_gemma3
    from transformers.models.llama import modeling_llama
    from transformers.models.mistral import modeling_mistral
    from transformers.models.phi3 import modeling_phi3
    from transformers.models.qwen2 import modeling_qwen2
    from transformers.models.qwen3 import modeling_qwen3
    from transformers.models.smollm3 import modeling_smollm3

    def plain(norm: Any, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt() * norm.weight

    def with_one(norm: Any, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + norm.eps).rsqrt() * (1 + norm.weight)

    def centred(norm: Any, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], norm.weight, None, norm.variance_epsilon)

    softmax = nn.functional.softmax
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "softmax", lambda x, dim=-1, dtype=None, **_: softmax(x, dim=dim))
        for module, norm in (
            (modeling_llama, "Llama"), (modeling_mistral, "Mistral"), (modeling_phi3, "Phi3"),
            (modeling_qwen2, "Qwen2"), (modeling_qwen3, "Qwen3"), (modeling_smollm3, "SmolLM3"),
            (modeling_arcee, "Arcee"),
        ):  # fmt: skip
            patch.setattr(getattr(module, f"{norm}RMSNorm"), "forward", plain)
        patch.setattr(modeling_cohere2.Cohere2LayerNorm, "forward", centred)
        for module, norm in (
            (modeling_gemma, "Gemma"),
            (modeling_gemma2, "Gemma2"),
            (modeling_gemma3, "Gemma3"),
        ):
            patch.setattr(getattr(module, f"{norm}RMSNorm"), "forward", with_one)
        yield


class Read:
    """What Hugging Face's model computes for one window, in float64, and the terms of its logits.

    Terms are toward `targets`, in the logit minus its mean over the vocabulary, before a soft-cap.
    """

    def __init__(self, family: str, folder: Path, ids: list[int]) -> None:
        from transformers import AutoModelForCausalLM

        self.names, self.ids = EVERY[family], torch.tensor(ids)
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float64, attn_implementation="eager"
        ).eval()
        self.model.requires_grad_(False)
        self.blocks = self.model.get_submodule(self.names.blocks)
        self.final_norm = self.model.get_submodule(self.names.final)
        self.is_layer_norm = "LayerNorm" in type(self.final_norm).__name__
        self.seen = self._passed()
        self.constant = [self._z_of_bias(i) for i in range(LAYERS)]

    def module(self, layer: int, name: str) -> nn.Module:
        return self.blocks[layer].get_submodule(name)

    def _passed(self) -> dict[Any, Tensor]:
        names, seen, hooks = self.names, dict[Any, Tensor](), []

        def keep(module: nn.Module, key: Any, reads: bool) -> None:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                seen[key] = (inputs[0] if reads else output).reshape(
                    -1, (inputs[0] if reads else output).shape[-1]
                )

            hooks.append(module.register_forward_hook(hook))

        keep(self.model.get_submodule(names.embed), "embed", reads=False)
        if names.pos_embed:
            keep(self.model.get_submodule(names.pos_embed), "pos_embed", reads=False)
        keep(self.final_norm, "final", reads=True)
        for i in range(LAYERS):
            keep(self.module(i, names.attention), ("z", i), reads=True)
            keep(self.module(i, names.neurons), ("post", i), reads=True)
            for name in names.pre:
                keep(self.module(i, name), (name, i), reads=False)
            for name in names.after or ():
                keep(self.module(i, name), (name, i), reads=True)
        seen["logits"] = self.model(self.ids[None], use_cache=False).logits[0]
        for hook in hooks:
            hook.remove()
        return seen

    def _z_of_bias(self, layer: int) -> Tensor:
        """z where the norm before attention has written its bias alone: attention probabilities sum to 1."""
        seen: list[Tensor] = []
        norm = self.module(layer, self.names.norm)
        bias = getattr(norm, "bias", None)
        constant = torch.zeros(len(norm.weight)) if bias is None else bias
        hooks = [
            norm.register_forward_hook(lambda m, x, y: constant.to(y).expand_as(y)),
            self.module(layer, self.names.attention).register_forward_hook(lambda m, x, y: seen.append(x[0])),
        ]
        self.model(self.ids[None], use_cache=False)
        for hook in hooks:
            hook.remove()
        return seen[0].reshape(-1, seen[0].shape[-1])[0]

    def writing(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        """Its weights, from what it reads to d_model, and its bias."""
        weight = module.weight if type(module).__name__ == "Conv1D" else module.weight.T
        bias = getattr(module, "bias", None)
        return weight, torch.zeros(weight.shape[1], dtype=weight.dtype) if bias is None else bias

    def multiplier(self, norm: nn.Module) -> Tensor:
        weight = norm.weight
        return 1 + weight if "Gemma" in type(norm).__name__ else weight

    def scale(self, norm: nn.Module, x: Tensor) -> Tensor:
        eps = getattr(norm, "eps", None) or norm.variance_epsilon
        centred = x - x.mean(-1, keepdim=True) if "LayerNorm" in type(norm).__name__ else x
        return (centred.square().mean(-1) + eps).sqrt()

    def after(self, layer: int, sublayer: int, written: Tensor) -> Tensor:
        """`written`, of shape (…, T, d_model), behind the norm after the sublayer, its scale frozen."""
        if self.names.after is None:
            return written
        name = self.names.after[sublayer]
        norm = self.module(layer, name)
        return written * self.multiplier(norm) / self.scale(norm, self.seen[name, layer])[:, None]

    def written(self, heads: int) -> dict[str, Tensor]:
        """What each component writes: (T, d_model); heads and neurons of a layer: (unit, T, d_model)."""
        found = {name: self.seen[name] for name in ("embed", "pos_embed") if name in self.seen}
        T = len(self.ids)
        for i in range(LAYERS):
            W_O, b_O = self.writing(self.module(i, self.names.attention))
            by_head = W_O.view(heads, -1, W_O.shape[1])
            z = (self.seen["z", i] - self.constant[i]).view(T, heads, -1)
            found[f"heads {i}"] = self.after(i, 0, torch.einsum("thd,hdm->htm", z, by_head))
            found[f"attn_bias {i}"] = self.after(i, 0, (self.constant[i] @ W_O + b_O).expand(T, -1))
            W_out, b_out = self.writing(self.module(i, self.names.neurons))
            found[f"neurons {i}"] = self.after(i, 1, self.seen["post", i].T[..., None] * W_out[:, None])
            found[f"mlp_bias {i}"] = self.after(i, 1, b_out.expand(T, -1))
        return found

    def toward(self, written: Tensor, targets: Tensor) -> Tensor:
        """⟨written, direction⟩/σ of the targets, of shape (…, T)."""
        U = self.model.get_output_embeddings().weight
        direction = (U[targets] - U.mean(0)) * self.multiplier(self.final_norm)
        centred = written - written.mean(-1, keepdim=True) if self.is_layer_norm else written
        scale = self.scale(self.final_norm, self.seen["final"])
        return torch.einsum("...tm,tm->...t", centred, direction) / scale

    def final_bias(self, targets: Tensor) -> Tensor:
        unembedding = self.model.get_output_embeddings()
        bias = getattr(self.final_norm, "bias", None)
        U, b_U = unembedding.weight, getattr(unembedding, "bias", None)
        every = torch.zeros(len(U), dtype=U.dtype) if b_U is None else b_U.clone()
        every = every if bias is None else every + U @ bias
        return (every - every.mean())[targets]

    @property
    def raw_logits(self) -> Tensor:
        """The logits before a soft-cap, the mean included."""
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        logits = self.seen["logits"]
        return logits if cap is None else cap * torch.atanh(logits / cap)


class Intervened(Read):
    """Hugging Face's model with outputs replaced by plain hooks, in float64."""

    @contextmanager
    def replaced(self, layer: int, kind: str, change: Callable[[Tensor], None]) -> Iterator[None]:
        """`change` writes into z (minus what the value bias makes of it) or into the activations."""
        module = self.module(layer, self.names.attention if kind == "z" else self.names.neurons)
        constant = self.constant[layer] if kind == "z" else 0

        def hook(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            value = inputs[0].clone() - constant
            rows = value.view(-1, value.shape[-1])
            change(rows)
            return (rows.view_as(value) + constant, *inputs[1:])

        handle = module.register_forward_pre_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def input_replaced(self, layer: int, change: Callable[[Tensor], None]) -> Iterator[None]:
        """`change` writes into the input of a block, of shape (T, d_model)."""

        def hook(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            value = inputs[0].clone()
            change(value[0])
            return (value, *inputs[1:])

        handle = self.blocks[layer].register_forward_pre_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def input_of(self, layer: int) -> Tensor:
        """The input of a block, of shape (T, d_model)."""
        seen: list[Tensor] = []
        with self.input_replaced(layer, lambda value: seen.append(value.clone())):
            self.logits()
        return seen[0]

    def logits(self) -> Tensor:
        return self.model(self.ids[None], use_cache=False).logits[0, -1]
