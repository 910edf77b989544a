"""The families with LayerNorm: GPT-NeoX, GPT-2, GPT-Neo, OPT, BLOOM, GPT-J, Phi, Falcon and StarCoder2."""

import re
from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

import torch
from torch import Tensor

from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.config import (
    ACTIVATION,
    FLAG,
    HEADS,
    LAYERS,
    LIST,
    NEURONS,
    NUMBER,
    OPTIONAL_HEADS,
    OPTIONAL_NEURONS,
    OPTIONAL_SIZE,
    SIZE,
    SIZES,
    Given,
    Setting,
    number,
)
from annotate_transformer.ingest.models.families.base import (
    LAYER_NORM,
    ROPE,
    TIED,
    Family,
    NotRotary,
    Parts,
    refuse_unless,
    rotate_neighbours,
)
from annotate_transformer.ingest.models.sentences import short


class GPTNeoX(Family):
    """Pythia and GPT-NeoX models (Black et al. 2022): rotary embeddings, parallel or sequential blocks."""

    name, architecture, norm = "gpt_neox", "GPTNeoXForCausalLM", LAYER_NORM
    prefix, embedding_name = "gpt_neox.", "gpt_neox.embed_in.weight"
    settings: Mapping[str, Setting] = {
        **SIZES,
        "use_parallel_residual": FLAG,
        **TIED,
        "layer_norm_eps": NUMBER,
        "rotary_pct": NUMBER,
        "rotary_emb_base": NUMBER,
        "hidden_act": ACTIVATION,
        **ROPE,
    }
    # `obsolete` matches the names of buffers that transformers saved beside the weights until 2023.
    obsolete = (
        r"gpt_neox\.(layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)|rotary_emb\.inv_freq)"
    )

    def check_settings(self, given: Given) -> None:
        value = given.settings.get("attention_bias", True)
        if value is not True:
            raise ModelError(
                f"{given.checkpoint.name} has no attention biases (attention_bias = {short(value)}), "
                "which this program needs. Choose a model that has them."
            )

    def check_rotary(self, given: Given, config: Any) -> None:
        """Check the rotary settings, and that the pairs of rotated dimensions fit into a head."""
        super().check_rotary(given, config)
        share, name = config.rope_parameters["partial_rotary_factor"], "partial_rotary_factor (rotary_pct)"
        given.check_value(name, share, number(most=1))
        d_head = config.hidden_size // config.num_attention_heads
        if 2 * ceil(int(d_head * share) / 2) > d_head:
            raise given.wrong(name, share, f"less: rotated pairs must fit into a head's {d_head} dimensions")

    def parameter_names(self, found: Iterable[str]) -> dict[str, str]:
        """Map parameter names as other families do, and also rename `embed_out` to `lm_head`."""
        names = {name: re.sub(r"^embed_out\.", "lm_head.", name) for name in found}
        with_prefix = super().parameter_names(names.values())
        return {name: with_prefix[new] for name, new in names.items()}


GPT2_SETTINGS = {
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_inner": OPTIONAL_NEURONS,
    "n_embd": SIZE,
    "vocab_size": SIZE,
    "n_positions": SIZE,
    "activation_function": ACTIVATION,
    "layer_norm_epsilon": NUMBER,
    **TIED,
}


class GPT2(NotRotary):
    """GPT-2 (Radford et al. 2019): learned position embeddings, sequential blocks, tied unembedding."""

    name, architecture, norm = "gpt2", "GPT2LMHeadModel", LAYER_NORM
    prefix, embedding_name = "transformer.", "transformer.wte.weight"
    settings = GPT2_SETTINGS | {"scale_attn_weights": FLAG}
    activation_setting = "activation_function"
    obsolete = r"transformer\.h\.\d+\.attn\.(bias|masked_bias)"

    def check_settings(self, given: Given) -> None:
        refuse_unless(given, "scale_attn_by_inverse_layer_idx", False, "its attention scale differs by layer")

    def attention_scale(self, model: Parts) -> float:
        return super().attention_scale(model) if model.blocks.config.scale_attn_weights else 1.0


class GPTNeo(NotRotary):
    """GPT-Neo (Black et al. 2021): as GPT-2, with local attention and unscaled attention scores."""

    name, architecture, norm = "gpt_neo", "GPTNeoForCausalLM", LAYER_NORM
    prefix, embedding_name = "transformer.", "transformer.wte.weight"
    settings: Mapping[str, Setting] = {
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "intermediate_size": OPTIONAL_NEURONS,
        "hidden_size": SIZE,
        "vocab_size": SIZE,
        "max_position_embeddings": SIZE,
        "window_size": OPTIONAL_SIZE,
        "attention_types": LIST,
        "activation_function": ACTIVATION,
        "layer_norm_epsilon": NUMBER,
        **TIED,
    }
    activation_setting = "activation_function"
    obsolete = r"transformer\.h\.\d+\.attn\.attention\.(bias|masked_bias)"

    def attention_scale(self, model: Parts) -> float:
        return 1.0


class OPT(NotRotary):
    """OPT (Zhang et al. 2022): learned position embeddings, ReLU, tied unembedding."""

    name, architecture, norm = "opt", "OPTForCausalLM", LAYER_NORM
    embedding_name = "model.decoder.embed_tokens.weight"
    settings: Mapping[str, Setting] = {
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "ffn_dim": NEURONS,
        "hidden_size": SIZE,
        "vocab_size": SIZE,
        "max_position_embeddings": SIZE,
        "word_embed_proj_dim": OPTIONAL_SIZE,
        "activation_function": ACTIVATION,
        "enable_bias": FLAG,
        **TIED,
    }
    activation_setting = "activation_function"

    def check_settings(self, given: Given) -> None:
        refuse_unless(given, "do_layer_norm_before", True, "its norms are after the sublayers")
        refuse_unless(
            given, "word_embed_proj_dim", given.settings.get("hidden_size"), "it projects its embedding"
        )


class BLOOM(NotRotary):
    """BLOOM (BigScience 2022): ALiBi (Press et al. 2021), and a LayerNorm after the embedding."""

    name, architecture, norm = "bloom", "BloomForCausalLM", LAYER_NORM
    prefix, embedding_name = "transformer.", "transformer.word_embeddings.weight"
    settings: Mapping[str, Setting] = {
        "n_layer": LAYERS,
        "n_head": HEADS,
        "hidden_size": SIZE,
        "vocab_size": SIZE,
        "layer_norm_epsilon": NUMBER,
        **TIED,
    }
    CONTEXT = 2048  # number of positions in BLOOM's training; ALiBi itself sets no maximum

    def check_settings(self, given: Given) -> None:
        refuse_unless(
            given, "apply_residual_connection_post_layernorm", False, "its residual stream is normalised"
        )

    def n_ctx(self, config: Any) -> int:
        return self.CONTEXT

    def activation(self, config: Any) -> str:
        return "GELU"

    def entering(self, model: Parts, vectors: Tensor) -> Tensor:
        entered: Tensor = model.blocks.word_embeddings_layernorm(vectors)
        return entered

    def distance_bias(self, model: Parts, distance: int) -> Tensor:
        return -distance * _slopes(model)


def _slopes(model: Parts) -> Tensor:
    """Return the ALiBi slope of each head, of shape (head,)."""
    from transformers.models.bloom.modeling_bloom import _get_alibi_slopes

    slopes: Tensor = _get_alibi_slopes(model.n_heads, torch.device("cpu"))
    return slopes


class GPTJ(Family):
    """GPT-J (Wang and Komatsuzaki 2021): attention and MLP in parallel after one norm; unembedding bias."""

    name, architecture, norm = "gptj", "GPTJForCausalLM", LAYER_NORM
    prefix, embedding_name = "transformer.", "transformer.wte.weight"
    settings = GPT2_SETTINGS | {"rotary_dim": OPTIONAL_SIZE}
    activation_setting = "activation_function"
    obsolete = r"transformer\.h\.\d+\.attn\.(bias|masked_bias)"

    def rotated(self, model: Parts, queries: Tensor, distance: int, layer: int) -> Tensor:
        """Rotate queries as `Family.rotated` does, but in pairs of neighbouring dimensions."""
        size = model.blocks.config.rotary_dim or model.d_head
        power = torch.arange(0, size, 2, dtype=torch.float64) / size
        return rotate_neighbours(queries, (distance * 10_000**-power).to(queries))


class Phi(Family):
    """Phi 1, 1.5, 2 (Gunasekar et al. 2023): attention and MLP parallel after one norm; unembedding bias."""

    name, architecture, norm = "phi", "PhiForCausalLM", LAYER_NORM
    settings: Mapping[str, Setting] = {
        **SIZES,
        "num_key_value_heads": OPTIONAL_HEADS,
        "hidden_act": ACTIVATION,
        "layer_norm_eps": NUMBER,
        "partial_rotary_factor": number(most=1),
        **ROPE,
        **TIED,
    }

    def check_settings(self, given: Given) -> None:
        refuse_unless(given, "qk_layernorm", False, "its queries and keys pass a LayerNorm")


class Falcon(Family):
    """Falcon (Almazrouei et al. 2023): multi-query attention, parallel blocks, no biases in linear layers."""

    name, architecture, norm = "falcon", "FalconForCausalLM", LAYER_NORM
    prefix, embedding_name = "transformer.", "transformer.word_embeddings.weight"
    settings: Mapping[str, Setting] = {
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_kv_heads": OPTIONAL_HEADS,
        "ffn_hidden_size": OPTIONAL_NEURONS,
        "hidden_size": SIZE,
        "vocab_size": SIZE,
        "max_position_embeddings": OPTIONAL_SIZE,
        "multi_query": FLAG,
        "new_decoder_architecture": FLAG,
        "num_ln_in_parallel_attn": OPTIONAL_SIZE,
        "parallel_attn": FLAG,
        "bias": FLAG,
        "alibi": FLAG,
        "activation": ACTIVATION,
        "layer_norm_epsilon": NUMBER,
        **ROPE,
        **TIED,
    }
    activation_setting = "activation"

    def rotated(self, model: Parts, queries: Tensor, distance: int, layer: int) -> Tensor:
        has_alibi = model.blocks.config.alibi
        return queries if has_alibi else super().rotated(model, queries, distance, layer)

    def distance_bias(self, model: Parts, distance: int) -> Tensor | float:
        has_alibi = model.blocks.config.alibi
        return -distance * _slopes(model) * self.attention_scale(model) if has_alibi else 0.0


class StarCoder2(Family):
    """StarCoder2 (Lozhkov et al. 2024): grouped-query attention, sliding-window attention, biases."""

    name, architecture, norm = "starcoder2", "Starcoder2ForCausalLM", LAYER_NORM
    settings: Mapping[str, Setting] = {
        **SIZES,
        "num_key_value_heads": OPTIONAL_HEADS,
        "sliding_window": OPTIONAL_SIZE,
        "hidden_act": ACTIVATION,
        "norm_epsilon": NUMBER,
        "use_bias": FLAG,
        **ROPE,
        **TIED,
    }
