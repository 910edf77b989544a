"""A model's processed weights a second time: Hugging Face's raw ones in float64, folded by hand in NumPy.

Nothing here comes from `ingest` or from TransformerLens.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import GPTNeoXForCausalLM

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Folded:
    """Raw weights, LayerNorms folded in, what writes centred: "A Mathematical Framework", by hand."""

    hf: "GPTNeoXForCausalLM"

    def array(self, parameter: torch.Tensor) -> Array:
        return parameter.detach().double().numpy()

    @cached_property
    def W_U(self) -> Array:
        """(d_model, d_vocab), centred over every row of the vocabulary, and what it reads is centred"""
        raw = self.array(self.hf.lm_head.weight).T
        scaled = (raw - raw.mean(1, keepdims=True)) * self.array(self.norm.weight)[:, None]
        return scaled - scaled.mean(0)

    @cached_property
    def b_U(self) -> Array:
        raw = self.array(self.hf.lm_head.weight)
        return (raw - raw.mean(0)) @ self.array(self.norm.bias)

    @property
    def norm(self) -> torch.nn.LayerNorm:
        return self.hf.gpt_neox.final_layer_norm

    @cached_property
    def W_E(self) -> Array:
        """(d_vocab, d_model), centred"""
        raw = self.array(self.hf.gpt_neox.embed_in.weight)
        return raw - raw.mean(1, keepdims=True)

    def read_embedding(self, token_ids: Array) -> Array:
        """(token, d_model)"""
        x = self.W_E[token_ids]
        return x / np.sqrt((x**2).mean(1, keepdims=True) + self.norm.eps)

    def direct_path(self, token_ids: Array) -> Array:
        """Log-probabilities (token, d_vocab)"""
        logits = self.read_embedding(token_ids) @ self.W_U + self.b_U
        highest = logits.max(1, keepdims=True)
        return logits - highest - np.log(np.exp(logits - highest).sum(1, keepdims=True))

    def W_in(self, layer: int) -> Array:
        """(neuron, d_model)"""
        block = self.hf.gpt_neox.layers[layer]
        folded = self.array(block.mlp.dense_h_to_4h.weight) * self.array(
            block.post_attention_layernorm.weight
        )
        return folded - folded.mean(1, keepdims=True)

    def b_in(self, layer: int) -> Array:
        block = self.hf.gpt_neox.layers[layer]
        raw, beta = block.mlp.dense_h_to_4h, self.array(block.post_attention_layernorm.bias)
        return self.array(raw.bias) + self.array(raw.weight) @ beta

    def W_out(self, layer: int) -> Array:
        """(neuron, d_model)"""
        raw = self.array(self.hf.gpt_neox.layers[layer].mlp.dense_4h_to_h.weight).T
        return raw - raw.mean(1, keepdims=True)

    def W_O(self, layer: int) -> Array:
        """(head, d_head, d_model)"""
        raw = self.array(self.hf.gpt_neox.layers[layer].attention.dense.weight).T
        heads = self.hf.config.num_attention_heads
        return (raw - raw.mean(1, keepdims=True)).reshape(heads, -1, raw.shape[1])

    def W_OV(self, layer: int, head: int) -> Array:
        """W_V W_O"""
        return self.read(layer, head, 2)[0] @ self.W_O(layer)[head]

    def W_QK(self, layer: int, head: int) -> Array:
        """W_Q W_Kᵀ"""
        return self.read(layer, head, 0)[0] @ self.read(layer, head, 1)[0].T

    def read(self, layer: int, head: int, which: int) -> tuple[Array, Array]:
        """Weight (d_model, d_head) and bias (d_head,) of a head's query, key or value (0, 1, 2)."""
        block = self.hf.gpt_neox.layers[layer]
        gain, beta = (self.array(p) for p in (block.input_layernorm.weight, block.input_layernorm.bias))
        raw, heads = block.attention.query_key_value, self.hf.config.num_attention_heads
        # interleaved: each head's query, key and value stand together
        weight = self.array(raw.weight).reshape(heads, 3, -1, len(gain))[head, which].T
        bias = self.array(raw.bias).reshape(heads, 3, -1)[head, which] + beta @ weight
        folded = weight * gain[:, None]
        return folded - folded.mean(0), bias
