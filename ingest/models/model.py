"""Load a model with TransformerLens, run it, and record the activations that the decomposition reads.

Only `families.other` imports TransformerLens too; differences between architectures are in `models.families`.
Weights are processed as in "A Mathematical Framework for Transformer Circuits": norms folded into the
weights that read them, writing weights and `W_U` centred, value biases folded into `b_O`. The flags of this
processing are explicit and part of a run's identity. tests/test_exact.py compares the results with Hugging
Face's own forward pass.
"""

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.check import Expected
from annotate_transformer.ingest.models.families.other import Other
from annotate_transformer.ingest.models.hooks import (
    BEFORE_NEURONS,
    FINAL,
    LENS,
    OF_LAYERS,
    POST_NORMS,
    RESID,
    Edit,
    EditedForward,
    Forward,
    Head,
    HookPoints,
    NeuronForward,
    Z,
    put,
)
from annotate_transformer.ingest.models.load import Loaded, check_finite, explained, load, silenced
from annotate_transformer.ingest.models.names import Checkpoint
from annotate_transformer.ingest.models.reading import check_reading
from annotate_transformer.ingest.models.sentences import in_a_line

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SHAPE = (
    "n_layers", "n_heads", "n_kv_heads", "d_model", "d_head", "d_mlp", "d_vocab", "n_ctx",
    "parallel_residual", "is_gated", "position_embedding", "logit_cap", "has_post_norms",
)  # fmt: skip

# POSITION_EMBEDDINGS: TransformerLens's name of a kind of position embedding → the store's name (schema.sql).
POSITION_EMBEDDINGS = {"rotary": "rotary", "standard": "learned", "alibi": "ALiBi"}
PROCESSING = {
    "fold_ln": True,
    "center_writing_weights": True,
    "center_unembed": True,
    "fold_value_biases": True,
}


class Model:
    """A language model with processed weights, under TransformerLens's names such as `W_E` and `W_U`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        loaded: Loaded | None = None,
    ):
        """Load the model from `checkpoint`, unless `loaded` is given, and process its weights.

        Raises:
            ModelError: the model is not found, not reachable, of no supported family, or incomplete.
        """
        self.checkpoint, self.device, self.dtype = checkpoint, device, dtype
        with explained(checkpoint):
            loaded = loaded or load(checkpoint, dtype)
            self.family, self.tokenizer, self.config = loaded.family, loaded.tokenizer, loaded.config
            self.dequantised_from = loaded.dequantised_from
            hf_model = loaded.model
            self.weights_sha256 = _sha256_of_weights(hf_model)
            expected = Expected.of(hf_model, len(self.tokenizer))
            self.n_ctx = self.family.n_ctx(hf_model.config)
            self.activation = self.family.activation(hf_model.config)
            with self._architecture_explained():
                self.bridge = self._processed(hf_model)
                check_finite(checkpoint, self.bridge.named_parameters())
                self.bridge.requires_grad_(False)  # only gradients of activations are needed
                self._describe()
                self.W_U, self.b_U, self.offset_direction, self.offset_bias = self._centred_unembedding()
                self.hf_difference = self._agreeing_with(expected)
                if isinstance(self.family, Other):
                    check_reading(self, self.family, expected.tokens)
                    for copied in ("W_Q", "W_K", "W_in", "W_gate"):  # delete cached copies to free memory
                        self.__dict__.pop(copied, None)

    @contextmanager
    def _architecture_explained(self) -> Iterator[None]:
        """Context manager: turn errors of an architecture without a class in `families` into a ModelError."""
        try:
            yield
        except (ModelError, MemoryError):
            raise
        except Exception as error:
            if not isinstance(self.family, Other):
                raise
            raise ModelError(
                f"{self.checkpoint.name} cannot be annotated: it is {self.family.architecture}, which has no "
                "class of its own here, and TransformerLens does not give what the decomposition needs "
                f"({_what_is_missing(error)}). docs/families.md lists those that work: choose another model."
            ) from error

    def _describe(self) -> None:
        """Set the sizes and properties of the model, and its hook points."""
        self.blocks: Any = self.bridge.original_model.base_model  # the loaded model without the unembedding
        self.cfg: Any = self.bridge.cfg
        cfg, blocks = self.cfg, self.bridge.blocks
        self.n_layers, self.n_heads, self.d_model = cfg.n_layers, cfg.n_heads, cfg.d_model
        self.n_kv_heads = blocks[0].attn.W_K.shape[0]
        self.d_head, self.d_mlp = cfg.d_head, blocks[0].mlp.W_out.shape[0]
        self.d_vocab = self.bridge.W_U.shape[1]
        self.n_tokens = min(len(self.tokenizer), self.d_vocab)  # vocabulary size without the padding rows
        self.parallel_residual, self.is_gated = bool(cfg.parallel_attn_mlp), bool(cfg.gated_mlp)
        self.position_embedding = POSITION_EMBEDDINGS[cfg.positional_embedding_type]
        self.logit_cap = _cap(cfg, "output_logits_soft_cap")
        self.score_cap = _cap(cfg, "attn_scores_soft_cap")
        self.has_post_norms = hasattr(blocks[0], "ln1_post")
        if self.has_post_norms and (self.b_O.any() or self.b_out.any()):
            raise ModelError(
                f"{self.checkpoint.name} cannot be annotated: it has biases before the norms after its "
                "sublayers, whose effects the store cannot hold."
            )
        self._before_mlp = "ln2.hook_in" if "blocks.0.ln2.hook_in" in self.bridge.hook_dict else "ln1.hook_in"
        self._points = HookPoints(self.bridge, self.n_layers)
        for block in blocks:
            # Switch off TransformerLens's search for positions whose sources are all masked, which takes 10 %
            # of a forward pass. There are no such positions, because a position can always attend to itself.
            block.attn.compatibility_mode = False

    def _centred_unembedding(self) -> tuple[Tensor, Tensor, Tensor, float]:
        """Return W_U and b_U centred over the vocabulary, and the weights and bias that give the mean logit.

        The mean logit, which centring subtracts, is ⟨normalised residual stream, weights⟩ + bias.
        """
        W_U, b_U = self.bridge.W_U.detach(), self._stored("b_U", self.d_vocab)
        direction, bias = W_U.mean(1), b_U.mean()
        return W_U.sub_(direction[:, None]), b_U - bias, direction, float(bias)

    def _processed(self, hf_model: Any) -> "TransformerBridge":
        """Return the model as a TransformerBridge of TransformerLens, with its weights processed."""
        from transformer_lens.model_bridge import TransformerBridge

        with silenced(), _Float64Kept():
            bridge = TransformerBridge.boot_transformers(
                self.family.architecture,  # not family.name, which may be an alias in TransformerLens
                hf_model=hf_model,
                tokenizer=self.tokenizer,
                device=self.device,
                dtype=self.dtype,
            )
            # Do not let TransformerLens centre W_U. The method `_centred_unembedding` does so instead, also
            # for models with a soft-cap.
            processing = self.processing | {"center_unembed": False}
            # TransformerLens warns that it does not fold the norms of some families into the weights. Hide
            # this warning, because the method `_reading` folds them.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                bridge.enable_compatibility_mode(disable_warnings=True, **processing)
        return bridge

    @property
    def processing(self) -> dict[str, bool]:
        """Return the options with which TransformerLens processes the weights."""
        # Centre the weights that write into the residual stream only if the norms remove the mean over
        # d_model. With other norms, centring would change the predictions.
        return PROCESSING | {"center_writing_weights": self.family.norm.removed > 0}

    def _agreeing_with(self, expected: Expected) -> float:
        """Return the largest difference from Hugging Face's log-probabilities of a test text, in nats.

        Raises:
            ModelError: the difference is larger than rounding explains.
        """
        found, allowed = expected.compared(self)
        if found > allowed:  # False for a NaN: the ingest reports the first position with a NaN
            raise ModelError(
                f"{self.checkpoint.name} cannot be annotated: as {self.family.architecture} through "
                f"TransformerLens, log-probabilities of a test text differ by up to {found:.2g} nats from "
                f"Hugging Face's ({allowed:.1g} is allowed). Choose another model, or versions of "
                "transformers and transformer-lens that agree."
            )
        return found

    @property
    def provenance(self) -> dict[str, Any]:
        """Return the values that identify the model, such as its name, for the columns of base.model."""
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

    def _stored(self, name: str, *shape: int) -> Tensor:
        """Return the processed weights that TransformerLens calls `name`, or zeros if the model lacks them.

        TransformerLens raises AttributeError for biases that a model does not have.
        """
        try:
            weights = getattr(self.bridge, name)
        except AttributeError:
            weights = None
        if weights is None:
            return torch.zeros(shape, dtype=self.dtype, device=self.device)
        return cast("Tensor", weights.detach())

    def _per_head(self, weights: Tensor) -> Tensor:
        """Return weights of keys or values, repeated for all query heads that share a key-value head."""
        return weights.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1)

    def _reading(self, name: str, norm: str) -> Tensor:
        """Return input weights with the preceding norm folded in, even if TransformerLens did not fold it."""
        weights = self._stored(name)
        if getattr(self.bridge.adapter, "supports_fold_ln", True):
            return weights
        before = self._norm_weights(self.bridge.blocks, norm)
        return weights * before.view(self.n_layers, *[1] * (weights.ndim - 3), self.d_model, 1)

    @cached_property
    def W_E(self) -> Tensor:
        """The vector that each token adds to the first block's input, of shape (d_vocab, d_model)

        This is the token embedding, after a scale or a norm of the embedding if the family has one.
        """
        return self.family.entering(self, self.bridge.W_E.detach())

    @cached_property
    def W_pos(self) -> Tensor | None:
        """The learned position embedding, of shape (n_ctx, d_model), or None"""
        return self._stored("W_pos") if self.position_embedding == "learned" else None

    @cached_property
    def W_Q(self) -> Tensor:
        """The query weights, of shape (layer, head, d_model, d_head), with the norm folded in

        W_K and W_V are the key and value weights, with the same shape and also with the norm folded in.
        """
        return self._reading("W_Q", "ln1")

    @cached_property
    def W_K(self) -> Tensor:
        return self._per_head(self._reading("W_K", "ln1"))

    @cached_property
    def W_V(self) -> Tensor:
        return self._per_head(self._reading("W_V", "ln1"))

    @cached_property
    def b_Q(self) -> Tensor:
        """The query biases, of shape (layer, head, d_head); the key biases b_K have the same shape"""
        return self._stored("b_Q", self.n_layers, self.n_heads, self.d_head)

    @cached_property
    def b_K(self) -> Tensor:
        return self._per_head(self._stored("b_K", self.n_layers, self.n_kv_heads, self.d_head))

    @cached_property
    def W_O(self) -> Tensor:
        """The output weights of the heads, of shape (layer, head, d_head, d_model)

        Like W_out, b_O and b_out, they include the weight of the norm after the sublayer, if there is one.
        """
        return self._stored("W_O") * self._post_norms[0][:, None, None]

    @cached_property
    def b_O(self) -> Tensor:
        """The output biases of attention, of shape (layer, d_model); the value biases are folded in"""
        return self._stored("b_O", self.n_layers, self.d_model) * self._post_norms[0]

    @cached_property
    def W_in(self) -> Tensor:
        """The input weights of the neurons, of shape (layer, d_model, d_mlp), with the norm folded in

        In a gated MLP a neuron's activation is act(x W_gate + b_gate) · (x W_in + b_in).
        """
        return self._reading("W_in", "ln2")

    @cached_property
    def W_gate(self) -> Tensor:
        """The weights that give the pre-activation: W_gate in a gated MLP, else W_in"""
        return self._reading("W_gate", "ln2") if self.is_gated else self.W_in

    @cached_property
    def b_in(self) -> Tensor:
        """The input biases of the neurons, of shape (layer, d_mlp)"""
        return self._stored("b_in", self.n_layers, self.d_mlp)

    @cached_property
    def b_gate(self) -> Tensor:
        """The biases of the pre-activation, of shape (layer, d_mlp): b_gate in a gated MLP, else b_in"""
        return self._stored("b_gate", self.n_layers, self.d_mlp) if self.is_gated else self.b_in

    @cached_property
    def W_out(self) -> Tensor:
        """The output weights of the neurons, of shape (layer, d_mlp, d_model)"""
        return self._stored("W_out") * self._post_norms[1][:, None]

    @cached_property
    def b_out(self) -> Tensor:
        """The output biases of the MLPs, of shape (layer, d_model)"""
        return self._stored("b_out", self.n_layers, self.d_model) * self._post_norms[1]

    @cached_property
    def _post_norms(self) -> Tensor:
        """The weights of the norms after attention and MLP, of shape (2, layer, d_model); 1 if none"""
        if not self.has_post_norms:
            return torch.ones(2, self.n_layers, 1, dtype=self.dtype, device=self.device)
        return torch.stack(
            [self._norm_weights(self.bridge.blocks, name) for name in ("ln1_post", "ln2_post")]
        )

    def _norm_weights(self, parts: Iterable[Any], name: str) -> Tensor:
        """Return the multipliers of the norm `name` in each of `parts` (blocks or attention layers)."""
        weights = torch.stack([getattr(part, name).weight.detach() for part in parts])
        return self.family.norm_offset + weights

    @cached_property
    def qk_norms(self) -> Tensor:
        """The weights of the norms of queries and keys, of shape (2, layer, 1, 1, d_head); 1 if none"""
        attention = [block.attn for block in self.bridge.blocks]
        if not hasattr(attention[0], "q_norm"):
            return torch.ones(2, 1, 1, 1, 1, dtype=self.dtype, device=self.device)
        weights = torch.stack([self._norm_weights(attention, name) for name in ("q_norm", "k_norm")])
        return weights[:, :, None, None]

    def head_normed(self, name: str, vectors: Tensor, layer: int) -> Tensor:
        """Apply a layer's q_norm or k_norm, if it has them, to queries or keys of shape (…, d_head)."""
        if not hasattr(self.bridge.blocks[layer].attn, name):
            return vectors
        weight = self.qk_norms[("q_norm", "k_norm").index(name), layer, 0, 0]
        return self.family.head_normed(vectors, weight, self.cfg.eps)

    def writing(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return W_O and W_out of one layer; the properties with these names would copy all layers.

        In a model with norms after the sublayers, the weights of the one layer are copied.
        """
        block = self.bridge.blocks[layer]
        W_O, W_out = block.attn.W_O.detach(), block.mlp.W_out.detach()
        if not self.has_post_norms:
            return W_O, W_out
        return W_O * self._post_norms[0, layer], W_out * self._post_norms[1, layer]

    @cached_property
    def bias_toward(self) -> Tensor:
        """Inner products of each layer's b_O and b_out with each token's column of W_U

        The biases are first centred if the norm removes the mean. The shape is (2, layer, d_vocab).
        """
        biases = torch.stack([self.b_O, self.b_out])
        toward = self.centred(biases) @ self.W_U
        check_finite(self.checkpoint, [("⟨b_O, u⟩, ⟨b_out, u⟩", toward)])
        return toward

    def embedding(self, tokens: Tensor, positions: Tensor) -> dict[str, Tensor]:
        """Return the terms that sum to the first block's input: `embed`, and `pos_embed` if W_pos exists.

        `tokens`, `positions`: token ids, and indices of positions in their windows, both of one shape. Each
        term has this shape and another axis with d_model entries.
        """
        terms = {"embed": self.family.entering(self, self.bridge.W_E.detach()[tokens])}
        return terms if self.W_pos is None else terms | {"pos_embed": self.W_pos[positions]}

    def mean_logit(self, normalized: Tensor) -> Tensor:
        """Return the mean logit over the vocabulary, which centring subtracts.

        The normalised residual stream has the shape (…, d_model), and the mean logit the shape (…).
        """
        return normalized @ self.offset_direction + self.offset_bias

    def capped(self, logits: Tensor, offset: Tensor) -> Tensor:
        """Return the logits after the model's soft-cap, from which probabilities are computed.

        `logits`: centred logits, which the decomposition sums to; `offset`: the mean logit, of a shape that
        broadcasts. Without a soft-cap the logits are returned unchanged, because softmax ignores the mean.
        """
        cap = self.logit_cap
        return logits if cap is None else ((logits + offset) / cap).tanh() * cap

    def centred(self, x: Tensor, dim: int = -1) -> Tensor:
        """Return x without what the norms subtract, such as the mean; `dim` is the axis of length d_model."""
        return self.family.norm.centred(x, dim)

    def scale(self, residual: Tensor) -> Tensor:
        """Return the scale σ by which a norm divides the residual stream.

        The residual stream has the shape (…, d_model), and σ the shape (…).
        """
        return self.family.norm.scale(residual, self.bridge.cfg.eps)

    def normalized(self, residual: Tensor, scale: Tensor) -> Tensor:
        """Return a norm's output; the norm's own weights are folded into the weights that read the output."""
        return self.centred(residual) / scale[..., None]

    def rotated(self, queries: Tensor, distance: int, layer: int) -> Tensor:
        """Apply the rotary embedding to queries for unrotated keys that are `distance` positions earlier.

        The queries and the result have the shape (…, d_head).
        """
        return self.family.rotated(self, queries, distance, layer)

    @torch.inference_mode()
    def forward(self, tokens: Tensor, *, resid_post: bool = False) -> Forward:
        """Run the blocks over `tokens`, and return the activations for the decomposition.

        `tokens` has the shape (batch, position). Rows are padded on the right, so causal attention hides the
        padding and no mask is needed.
        `attribution.unembed` applies the unembedding, in slices.
        """
        wanted = (*FINAL, *OF_LAYERS, *POST_NORMS, *(LENS if resid_post else ()))
        seen = self._points.passed(lambda: self._run(tokens), wanted)

        def layers(kind: str) -> list[Tensor]:
            return [seen[name] for name in self._points.at_layers(kind)]

        attn_scale, mlp_scale = (
            [scale.squeeze(-1) for scale in layers(kind)] if self.has_post_norms else []
            for kind in POST_NORMS
        )
        group = self.n_heads // self.n_kv_heads
        return Forward(
            final=seen["ln_final.hook_in"],
            scale=seen["ln_final.hook_scale"].squeeze(-1),
            post=layers("mlp.hook_post"),
            z=layers("attn.hook_z"),
            v=[v if group == 1 else v.repeat_interleave(group, dim=2) for v in layers("attn.hook_v")],
            pattern=layers("attn.hook_pattern"),
            attn_scale=attn_scale,
            mlp_scale=mlp_scale,
            resid_post=layers("hook_resid_post") if resid_post else [],
        )

    @torch.inference_mode()
    def forward_to(self, layer: int, tokens: Tensor) -> NeuronForward:
        """Run the blocks over `tokens` up to the neurons of a layer, and return the activations.

        `tokens`, of shape (batch, position), are padded on the right.
        """
        last = f"blocks.{layer}.mlp.hook_post"
        wanted = (*BEFORE_NEURONS, *POST_NORMS)
        seen = self._points.passed(lambda: self._run(tokens), wanted, last=last)
        heads_of = range(layer if self.parallel_residual else layer + 1)

        def scales(kind: str, layers: range) -> list[Tensor]:
            return [seen[f"blocks.{i}.{kind}"].squeeze(-1) for i in layers if self.has_post_norms]

        return NeuronForward(
            residual=seen[f"blocks.{layer}.{self._before_mlp}"],
            pre=seen[f"blocks.{layer}.mlp.hook_pre"],
            pre_linear=seen.get(f"blocks.{layer}.mlp.hook_pre_linear") if self.is_gated else None,
            post=seen[last],
            earlier_z=[seen[f"blocks.{i}.attn.hook_z"] for i in heads_of],
            earlier_post=[seen[f"blocks.{i}.mlp.hook_post"] for i in range(layer)],
            earlier_attn_scale=scales("ln1_post.hook_scale", heads_of),
            earlier_mlp_scale=scales("ln2_post.hook_scale", range(layer)),
        )

    @torch.inference_mode()
    def forward_edited(self, tokens: Tensor, edits: Mapping[str, Edit], layer: int = 0) -> EditedForward:
        """Run the blocks over `tokens`, with the activations at some hook points changed by `edits`.

        `edits`: functions that return a changed copy of an activation, by name of the hook point, such as
        `blocks.3.attn.hook_z` or `blocks.3.mlp.hook_post`; `layer`: the layer whose activations are returned.
        """
        post, (final, scale) = f"blocks.{layer}.mlp.hook_post", FINAL
        seen = self._points.passed(lambda: self._run(tokens), ("mlp.hook_post", *FINAL), edits=edits)
        return EditedForward(seen[post], seen[final], seen[scale].squeeze(-1))

    def forward_without(self, head: Head | None, layer: int, tokens: Tensor) -> EditedForward:
        """Run the blocks over `tokens` with `head` ablated; if `head` is None, ablate nothing.

        The head's z is set to 0 at every position. The value biases are part of b_O, which stays.
        """
        if head is None:
            return self.forward_edited(tokens, {}, layer)

        without = put(0, slice(None), slice(None), head[1])
        return self.forward_edited(tokens, {f"blocks.{head[0]}.{Z}": without}, layer)

    def final_of(self, tokens: Tensor, edits: Mapping[str, Edit]) -> Tensor:
        """Run the blocks with the activations changed by `edits`, and return the input of the final norm.

        The result is the residual stream, of shape (batch, position, d_model), and allows a backward pass.
        `tokens` has the shape (batch, position).
        """
        return self._points.passed(lambda: self._run(tokens), FINAL, edits=edits)[FINAL[0]]

    @torch.inference_mode()
    def residual_before(self, layer: int, tokens: Tensor) -> Tensor:
        """Return the residual stream before a layer, of shape (batch, position, d_model)."""
        name = f"blocks.{layer}.{RESID}"
        return self._points.passed(lambda: self._run(tokens), (RESID,), last=name)[name]

    def _run(self, tokens: Tensor) -> None:
        self.blocks(tokens.to(self.device), use_cache=False)


def _what_is_missing(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"there is no {in_a_line(error)}"
    return f"{type(error).__name__}: {in_a_line(error)}"


def _cap(cfg: Any, name: str) -> float | None:
    """Return a soft-cap from TransformerLens's settings, or None if the setting is missing or -1."""
    cap = getattr(cfg, name, None) or -1.0
    return float(cap) if cap > 0 else None


def _sha256_of_weights(hf_model: Any) -> str:
    """Hash all parameters as float32, sorted by name, so that the hash does not depend on the file format."""
    digest = hashlib.sha256()
    for name, tensor in sorted(hf_model.named_parameters()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to(torch.float32).contiguous().numpy())
    return digest.hexdigest()


class _Float64Kept(TorchFunctionMode):
    """A mode in which TransformerLens processes float64 weights without rounding them to float32.

    TransformerLens 4.3 casts the weights that it processes to float32 (`v.float()`). Within a `with` block of
    this mode, in this thread only, that cast returns a float64 tensor unchanged.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.float and args[0].dtype == torch.float64:
            return args[0]
        return func(*args, **(kwargs or {}))
