"""The families with RMSNorm and gated neurons: Llama, Mistral, Qwen 2 and 3, Phi-3, Gemma, Gemma 2 and 3."""

from typing import Any

from torch import Tensor

from annotate_transformer.ingest.models.config import (
    ACTIVATION,
    FLAG,
    LIST,
    NUMBER,
    OPTIONAL_HEADS,
    OPTIONAL_SIZE,
    SIZES,
    Given,
)
from annotate_transformer.ingest.models.families.base import (
    RMS_NORM,
    ROPE,
    TIED,
    Family,
    Parts,
    refuse_unless,
)

SETTINGS = {
    **SIZES,
    "num_key_value_heads": OPTIONAL_HEADS,
    "rms_norm_eps": NUMBER,
    **ROPE,
    **TIED,
}
ACT = {"hidden_act": ACTIVATION}
HEAD_SIZE = {"head_dim": OPTIONAL_SIZE}
WINDOW = {"sliding_window": OPTIONAL_SIZE}
WINDOWS = WINDOW | {"use_sliding_window": FLAG, "max_window_layers": OPTIONAL_SIZE, "layer_types": LIST}


class Llama(Family):
    """Llama 2 and 3 (Touvron et al. 2023), SmolLM2, TinyLlama: grouped-query attention, no biases."""

    name, architecture, norm = "llama", "LlamaForCausalLM", RMS_NORM
    settings = SETTINGS | ACT | HEAD_SIZE | {"attention_bias": FLAG, "mlp_bias": FLAG}
    obsolete = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"


class Mistral(Family):
    """Mistral (Jiang et al. 2023): as Llama, with sliding-window attention."""

    name, architecture, norm = "mistral", "MistralForCausalLM", RMS_NORM
    settings = SETTINGS | ACT | HEAD_SIZE | WINDOW


class Qwen2(Family):
    """Qwen 2 and 2.5 (Yang et al. 2024): as Llama, with biases of queries, keys and values."""

    name, architecture, norm = "qwen2", "Qwen2ForCausalLM", RMS_NORM
    settings = SETTINGS | ACT | WINDOWS


class Qwen3(Family):
    """Qwen 3 (Yang et al. 2025): as Llama, with a norm of each head's query and key."""

    name, architecture, norm = "qwen3", "Qwen3ForCausalLM", RMS_NORM
    settings = SETTINGS | ACT | HEAD_SIZE | WINDOWS | {"attention_bias": FLAG}


class Phi3(Family):
    """Phi-3 and Phi-4 mini (Abdin et al. 2024): as Llama; Q, K, V are one matrix, gate and input another."""

    name, architecture, norm = "phi3", "Phi3ForCausalLM", RMS_NORM
    settings = SETTINGS | ACT | WINDOW | {"original_max_position_embeddings": OPTIONAL_SIZE}


class Gemma(Family):
    """Gemma (Gemma Team 2024): the embedding is multiplied by √d_model; norms multiply by 1 + weight."""

    name, architecture, norm = "gemma", "GemmaForCausalLM", RMS_NORM
    settings = SETTINGS | ACT | HEAD_SIZE | {"attention_bias": FLAG}
    norm_offset = 1.0

    def check_settings(self, given: Given) -> None:
        refuse_unless(given, "use_bidirectional_attention", False, "it reads the future")

    def entering(self, model: Parts, vectors: Tensor) -> Tensor:
        return vectors * float(model.d_model**0.5)


class Gemma2(Gemma):
    """Gemma 2 (Gemma Team 2024): as Gemma, with norms after sublayers, and soft-caps of scores and logits."""

    name, architecture = "gemma2", "Gemma2ForCausalLM"
    activation_setting = "hidden_activation"
    settings = (
        SETTINGS
        | HEAD_SIZE
        | WINDOW
        | {
            "hidden_activation": ACTIVATION,
            "attention_bias": FLAG,
            "query_pre_attn_scalar": NUMBER,
            "layer_types": LIST,
            "final_logit_softcapping": NUMBER,
            "attn_logit_softcapping": NUMBER,
        }
    )

    def attention_scale(self, model: Parts) -> float:
        return float(model.blocks.config.query_pre_attn_scalar**-0.5)


class Gemma3(Gemma2):
    """Gemma 3, text only (Gemma Team 2025): as Gemma 2, with query and key norms; mostly local attention."""

    name, architecture = "gemma3_text", "Gemma3ForCausalLM"
    settings = Gemma2.settings | {"rope_local_base_freq": NUMBER, "sliding_window_pattern": OPTIONAL_SIZE}

    def rotary(self, model: Parts, layer: int) -> tuple[Tensor, float]:
        rotary: Any = model.blocks.rotary_emb
        kind = model.blocks.config.layer_types[layer]
        return getattr(rotary, f"{kind}_inv_freq"), getattr(rotary, f"{kind}_attention_scaling")
