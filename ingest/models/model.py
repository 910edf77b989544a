"""Load a model with TransformerLens, run it, and record the activations that the decomposition reads.

No other file imports TransformerLens; differences between architectures are in `models.families`.
Weights are processed as in "A Mathematical Framework for Transformer Circuits": norms folded into the
weights that read them, writing weights and `W_U` centred, value biases folded into `b_O`. The flags of this
processing are explicit and part of a run's identity. tests/test_exact.py compares the results with Hugging
Face's own forward pass.
"""

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from annotate_transformer.ingest.models.hooks import (
    BEFORE_NEURONS,
    FINAL,
    LENS,
    OF_LAYERS,
    AblatedForward,
    Forward,
    Head,
    HookPoints,
    NeuronForward,
)
from annotate_transformer.ingest.models.load import check_finite, explained, load, silenced
from annotate_transformer.ingest.models.names import Checkpoint

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SHAPE = ("n_layers", "n_heads", "d_model", "d_head", "d_mlp", "d_vocab", "n_ctx", "parallel_residual")
PROCESSING = {
    "fold_ln": True,
    "center_writing_weights": True,
    "center_unembed": True,
    "fold_value_biases": True,
}


class Model:
    """A model with processed weights: `W_E`, `W_U`, … as TransformerLens names them."""

    def __init__(self, checkpoint: Checkpoint, *, device: str = "cpu", dtype: torch.dtype = torch.float32):
        """Load `checkpoint`.

        Raises:
            ModelError: the model is not found, not reachable, of no supported family, or incomplete.
        """
        self.checkpoint, self.device, self.dtype = checkpoint, device, dtype
        with explained(checkpoint):
            loaded = load(checkpoint, dtype)
            self.family, self.tokenizer, self.config = loaded.family, loaded.tokenizer, loaded.config
            hf_model = loaded.model
            self.weights_sha256 = _sha256_of_weights(hf_model)
            direction, self.offset_bias = self.family.logit_offset(hf_model)
            self.offset_direction = direction.to(device)
            self.bridge = self._processed(hf_model)
            check_finite(checkpoint, self.bridge.named_parameters())
        self.blocks: Any = self.bridge.original_model.base_model  # the model without the unembedding
        cfg = self.bridge.cfg
        self.n_layers, self.n_heads, self.d_model = cfg.n_layers, cfg.n_heads, cfg.d_model
        self.d_head, self.d_mlp, self.n_ctx = cfg.d_head, int(cfg.d_mlp or 0), cfg.n_ctx
        self.d_vocab = self.W_U.shape[1]
        self.n_tokens = min(len(self.tokenizer), self.d_vocab)  # number of real tokens; others are padding
        self.parallel_residual = self.family.is_parallel(hf_model.config)
        self.activation = self.family.activation(hf_model.config)
        self._points = HookPoints(self.bridge, self.n_layers)
        for block in self.bridge.blocks:
            # No row of the mask is fully masked, so skip the check for such rows.
            # The check takes 10 % of a forward pass.
            block.attn.compatibility_mode = False

    def _processed(self, hf_model: Any) -> "TransformerBridge":
        """Return the model as a TransformerBridge of TransformerLens, with its weights processed."""
        from transformer_lens.model_bridge import TransformerBridge

        with silenced(), _Float64Kept():
            bridge = TransformerBridge.boot_transformers(
                self.family.name,
                hf_model=hf_model,
                tokenizer=self.tokenizer,
                device=self.device,
                dtype=self.dtype,
            )
            bridge.enable_compatibility_mode(disable_warnings=True, **PROCESSING)
        return bridge

    @property
    def provenance(self) -> dict[str, Any]:
        """Return the values that identify the model: name, hash of weights, settings, shape (base.model)."""
        return {
            "model": self.checkpoint.name,
            "revision": self.checkpoint.revision,
            "step": self.checkpoint.step,
            "weights_sha256": self.weights_sha256,
            "config": self.config,
            **{name: getattr(self, name) for name in SHAPE},
            "family": self.family.name,
            "norm": self.family.norm.name,
            "activation": self.activation,
        }

    @cached_property
    def W_E(self) -> Tensor:
        """The token embedding, of shape (d_vocab, d_model)"""
        return self.bridge.W_E.detach()

    @cached_property
    def W_U(self) -> Tensor:
        """The unembedding, of shape (d_model, d_vocab), centred over the vocabulary"""
        return self.bridge.W_U.detach()

    @cached_property
    def b_U(self) -> Tensor:
        """The bias of the logits, of shape (d_vocab,)

        It is the final norm's bias times W_U, centred over the vocabulary.
        """
        return self.bridge.b_U.detach()

    @cached_property
    def W_Q(self) -> Tensor:
        """The query weights, of shape (layer, head, d_model, d_head), with the norm folded in

        W_K and W_V are the key and value weights, with the same shape and also with the norm folded in.
        """
        return self.bridge.W_Q.detach()

    @cached_property
    def W_K(self) -> Tensor:
        return self.bridge.W_K.detach()

    @cached_property
    def W_V(self) -> Tensor:
        return self.bridge.W_V.detach()

    @cached_property
    def b_Q(self) -> Tensor:
        """The query biases, of shape (layer, head, d_head); the key biases b_K have the same shape"""
        return self.bridge.b_Q.detach()

    @cached_property
    def b_K(self) -> Tensor:
        return self.bridge.b_K.detach()

    @cached_property
    def W_O(self) -> Tensor:
        """The output weights of the heads, of shape (layer, head, d_head, d_model)"""
        return self.bridge.W_O.detach()

    @cached_property
    def b_O(self) -> Tensor:
        """The output biases of attention, of shape (layer, d_model); the value biases are folded in"""
        return self.bridge.b_O.detach()

    @cached_property
    def W_in(self) -> Tensor:
        """The input weights of the neurons, of shape (layer, d_model, d_mlp), with the norm folded in"""
        return self.bridge.W_in.detach()

    @cached_property
    def b_in(self) -> Tensor:
        """The input biases of the neurons, of shape (layer, d_mlp)"""
        return self.bridge.b_in.detach()

    @cached_property
    def W_out(self) -> Tensor:
        """The output weights of the neurons, of shape (layer, d_mlp, d_model)"""
        return self.bridge.W_out.detach()

    @cached_property
    def b_out(self) -> Tensor:
        """The output biases of the MLPs, of shape (layer, d_model)"""
        return self.bridge.b_out.detach()

    def writing(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return W_O and W_out of one layer without copying; the properties `W_O` and `W_out` are copies."""
        block = self.bridge.blocks[layer]
        return block.attn.W_O.detach(), block.mlp.W_out.detach()

    @cached_property
    def bias_toward(self) -> Tensor:
        """⟨b_O, u⟩ and ⟨b_out, u⟩ for the direction u of each token (`Directions`)

        The shape is (2, layer, d_vocab).
        """
        biases = torch.stack([self.b_O, self.b_out])
        toward = self.centred(biases) @ self.W_U
        check_finite(self.checkpoint, [("⟨b_O, u⟩, ⟨b_out, u⟩", toward)])
        return toward

    def embedding(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return the terms of the first block's input by name of the component, such as `embed`.

        Each term has the shape (…, d_model).
        """
        return self.family.embedding(self, tokens)

    def centred(self, x: Tensor, dim: int = -1) -> Tensor:
        """Return x without the directions that the norms remove; `dim` is the axis with d_model entries."""
        return self.family.norm.centred(x, dim)

    def scale(self, residual: Tensor) -> Tensor:
        """Return the scale σ by which a norm divides this residual stream.

        The residual stream has the shape (…, d_model), and σ the shape (…).
        """
        return self.family.norm.scale(residual, self.bridge.cfg.eps)

    def normalized(self, residual: Tensor, scale: Tensor) -> Tensor:
        """Return a norm's output; the norm's own weights are folded into the weights that read the output."""
        return self.centred(residual) / scale[..., None]

    def rotated(self, queries: Tensor, distance: int) -> Tensor:
        """Apply the rotary embedding to queries, for keys that are `distance` positions earlier.

        The queries and the result have the shape (…, d_head).
        """
        return self.family.rotated(self, queries, distance)

    @torch.inference_mode()
    def forward(self, tokens: Tensor, *, resid_post: bool = False) -> Forward:
        """Run the blocks over `tokens`, and return the activations for the decomposition.

        `tokens` has the shape (batch, position). Rows are padded on the right, so causal attention hides the
        padding and no mask is needed.
        `attribution.unembed` applies the unembedding, in slices.
        """
        wanted = (*FINAL, *OF_LAYERS, *(LENS if resid_post else ()))
        seen = self._points.passed(lambda: self._run(tokens), wanted)

        def layers(kind: str) -> list[Tensor]:
            return [seen[name] for name in self._points.at_layers(kind)]

        return Forward(
            final=seen["ln_final.hook_in"],
            scale=seen["ln_final.hook_scale"].squeeze(-1),
            post=layers("mlp.hook_post"),
            z=layers("attn.hook_z"),
            v=layers("attn.hook_v"),
            pattern=layers("attn.hook_pattern"),
            resid_post=layers("hook_resid_post") if resid_post else [],
        )

    @torch.inference_mode()
    def forward_to(self, layer: int, tokens: Tensor) -> NeuronForward:
        """Run the blocks over `tokens` up to the neurons of a layer.

        `tokens`, of shape (batch, position), are padded on the right.
        """
        last = f"blocks.{layer}.mlp.hook_post"
        seen = self._points.passed(lambda: self._run(tokens), BEFORE_NEURONS, last=last)
        heads_of = range(layer if self.parallel_residual else layer + 1)
        return NeuronForward(
            residual=seen[f"blocks.{layer}.ln2.hook_in"],
            pre=seen[f"blocks.{layer}.mlp.hook_pre"],
            post=seen[last],
            earlier_z=[seen[f"blocks.{i}.attn.hook_z"] for i in heads_of],
            earlier_post=[seen[f"blocks.{i}.mlp.hook_post"] for i in range(layer)],
        )

    @torch.inference_mode()
    def forward_without(self, head: Head | None, layer: int, tokens: Tensor) -> AblatedForward:
        """Run the blocks over `tokens` as `forward` does, with `head` (layer, head) ablated.

        The head's z is set to 0 at every position. The value biases are part of b_O, which stays.
        """
        post, (final, scale) = f"blocks.{layer}.mlp.hook_post", FINAL
        seen = self._points.passed(lambda: self._run(tokens), ("mlp.hook_post", *FINAL), ablated=head)
        return AblatedForward(seen[post], seen[final], seen[scale].squeeze(-1))

    def _run(self, tokens: Tensor) -> None:
        self.blocks(tokens.to(self.device), use_cache=False)


def _sha256_of_weights(hf_model: Any) -> str:
    """Hash all parameters as float32, sorted by name, so that the hash does not depend on the file format."""
    digest = hashlib.sha256()
    for name, tensor in sorted(hf_model.named_parameters()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to(torch.float32).contiguous().numpy())
    return digest.hexdigest()


class _Float64Kept(TorchFunctionMode):
    """Let TransformerLens process float64 weights in float64.

    TransformerLens 4.3 casts the weights that it processes to float32 (`v.float()`). Within a `with` block of
    this mode, in this thread only, that cast returns a float64 tensor unchanged.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.float and args[0].dtype == torch.float64:
            return args[0]
        return func(*args, **(kwargs or {}))
