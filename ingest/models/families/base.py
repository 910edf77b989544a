"""Define what a model family is, and the two kinds of norm.

TransformerLens gives every model the same hook points and weight names. A family states what TransformerLens
does not: which settings of config.json are read, how the tensors of a checkpoint are named, how a token
enters the residual stream, and how attention scores depend on the distance.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.config import FLAG, NUMBER, OBJECT, Given, Setting


class Parts(Protocol):
    """The attributes that a family reads from a loaded model.

    `blocks`: the model of transformers without the unembedding; `n_heads`, `d_head`, `d_model`: sizes.
    """

    blocks: Any
    n_heads: int
    d_head: int
    d_model: int


class Norm(ABC):
    """A norm of the residual stream; its own weights are folded into the weights that read its output.

    `removed`: number of dimensions that the norm removes from the residual stream x, of shape (…, d_model).
    """

    name: ClassVar[str]
    removed: ClassVar[int]

    @abstractmethod
    def centred(self, x: Tensor, dim: int = -1) -> Tensor:
        """Return x without what the norm subtracts, such as the mean; `dim` is the axis of length d_model."""

    @abstractmethod
    def scale(self, x: Tensor, eps: float) -> Tensor:
        """Return the scale σ by which the norm divides x; σ has the shape of x without the last axis."""


class LayerNorm(Norm):
    """LayerNorm (Ba et al. 2016): subtracts the mean over d_model, and divides by the standard deviation."""

    name, removed = "LayerNorm", 1

    def centred(self, x: Tensor, dim: int = -1) -> Tensor:
        return x - x.mean(dim, keepdim=True)

    def scale(self, x: Tensor, eps: float) -> Tensor:
        return (x.var(-1, unbiased=False) + eps).sqrt()


class RMSNorm(Norm):
    """RMSNorm (Zhang and Sennrich 2019): divides by the root mean square, and subtracts nothing."""

    name, removed = "RMSNorm", 0

    def centred(self, x: Tensor, dim: int = -1) -> Tensor:
        return x

    def scale(self, x: Tensor, eps: float) -> Tensor:
        return (x.square().mean(-1) + eps).sqrt()


LAYER_NORM, RMS_NORM = LayerNorm(), RMSNorm()
ROPE: Mapping[str, Setting] = {
    "rope_parameters": OBJECT,
    "rope_scaling": OBJECT,
    "rope_theta": NUMBER,
}
# LEGACY: settings that are left out of a model's identity, because other parts of the identity say the same.
# The setting rope_parameters says the same as the rotary settings, which transformers converts into it. The
# weights show whether the embeddings are tied.
LEGACY = (
    "rope_scaling", "rope_theta", "partial_rotary_factor", "rotary_pct", "rotary_emb_base",
    "rope_local_base_freq", "tie_word_embeddings",
)  # fmt: skip
TIED: Mapping[str, Setting] = {"tie_word_embeddings": FLAG}


class Family(ABC):
    """A family of decoder-only transformers.

    `name`: the family's name in config.json (model_type);
    `architecture`: name of the family's class in transformers;
    `norm`: the norm before each sublayer and before the unembedding;
    `prefix`: beginning of the parameter names of the model without its unembedding;
    `embedding_name`, `unembedding_name`: names of parameters in a checkpoint; if they are tied, both are one
    matrix;
    `settings`: the settings of config.json that are read; together with the weights they identify a model;
    `activation_setting`: name of the setting with the neurons' activation function;
    `obsolete`: pattern of the names of tensors that older versions of transformers saved, and newer ones
    compute;
    `norm_offset`: number that a norm adds to its weight before it multiplies by it.
    """

    name: str
    architecture: str
    norm: Norm
    prefix: str = "model."
    embedding_name: str = "model.embed_tokens.weight"
    unembedding_name: str = "lm_head.weight"
    settings: Mapping[str, Setting]
    activation_setting: ClassVar[str] = "hidden_act"
    obsolete: ClassVar[str] = ""
    norm_offset: ClassVar[float] = 0.0

    def hf_class(self) -> Any:
        """Return the family's class in transformers; transformers is imported only when a model is loaded."""
        import transformers

        return getattr(transformers, self.architecture)

    def config(self, given: Given) -> Any:
        """Check the settings that this family reads, and return them as a config object of transformers.

        Raises:
            ModelError: a setting is missing or impossible.
        """
        from transformers import CONFIG_MAPPING

        self.check_settings(given)
        read = given.check(self.settings)
        config_class: Any = CONFIG_MAPPING[self.name]
        self._check_heads(given, read, config_class.attribute_map)
        config = config_class(**read, pad_token_id=None, attn_implementation="eager")
        config.architectures = [self.architecture]
        self.check_rotary(given, config)
        return config

    def identifying(self, config: Any) -> dict[str, Any]:
        """Return the settings that distinguish models with equal weights, such as the number of heads."""
        names = [name for name in self.settings if name not in LEGACY]
        return {name: getattr(config, name) for name in names if hasattr(config, name)}

    def check_settings(self, given: Given) -> None:  # noqa: B027 (not abstract: most families check nothing)
        """Raise ModelError if a setting asks for a variant of the architecture that cannot be annotated."""

    def _check_heads(self, given: Given, read: Mapping[str, Any], names: Mapping[str, str]) -> None:
        """Check that n_heads divides d_model, and that the number of key-value heads divides n_heads.

        `names`: the family's names of settings, by the names that most families have.
        """
        heads = read[names.get("num_attention_heads", "num_attention_heads")]
        width_name = names.get("hidden_size", "hidden_size")
        if "head_dim" not in read and read[width_name] % heads:
            raise given.wrong(width_name, read[width_name], f"a multiple of the {heads} heads")
        groups = read.get("num_key_value_heads")
        if groups and heads % groups:
            raise given.wrong("num_key_value_heads", groups, f"a divisor of the {heads} heads")

    def check_rotary(self, given: Given, config: Any) -> None:
        """Check that transformers knows the `rope_type`, and that `rope_theta` is a positive number."""
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        rope, kinds = getattr(config, "rope_parameters", None) or {}, {"default", *ROPE_INIT_FUNCTIONS}
        for found in [rope] if "rope_type" in rope else filter(None, rope.values()):
            if found["rope_type"] not in kinds:
                raise given.wrong("rope_type", found["rope_type"], f"one of {', '.join(sorted(kinds))}")
            given.check_value("rope_theta", found.get("rope_theta", 1), NUMBER)

    def parameter_names(self, found: Iterable[str]) -> dict[str, str]:
        """Map the names of a checkpoint's parameters to their names in the family's transformers class.

        A checkpoint of the model without its unembedding lacks the prefix.
        """
        found = list(found)
        prefix = "" if any(name.startswith(self.prefix) for name in found) else self.prefix
        return {name: name if name == self.unembedding_name else prefix + name for name in found}

    def is_obsolete(self, name: str) -> bool:
        """Return whether `name` is a tensor that only older versions of transformers saved."""
        return re.fullmatch(self.obsolete, name) is not None

    def n_ctx(self, config: Any) -> int:
        """Return the maximum number of positions that the model can read."""
        return int(config.max_position_embeddings)

    def activation(self, config: Any) -> str:
        """Return the name of the neurons' activation function, as shown to people."""
        return str(getattr(config, self.activation_setting)).upper()

    def entering(self, model: Parts, vectors: Tensor) -> Tensor:
        """Apply the family's scale or norm of embeddings, if any, to rows of W_E, of shape (…, d_model)."""
        return vectors

    def head_normed(self, vectors: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Apply an RMSNorm with the multiplier `weight` to a head's queries or keys, of shape (…, d_head)."""
        return vectors / RMS_NORM.scale(vectors, eps)[..., None] * weight

    # The next methods say how an attention score depends on the distance between query and key. The QK
    # circuit needs them.

    def attention_scale(self, model: Parts) -> float:
        """Return the factor by which the product of query and key is multiplied in an attention score."""
        return float(model.d_head**-0.5)

    def rotary(self, model: Parts, layer: int) -> tuple[Tensor, float]:
        """Return the rotary angle per position of each pair of dimensions, and the scale of cos and sin.

        The angles have the shape (pair,). There may be no pairs.
        """
        rotary = model.blocks.rotary_emb
        return rotary.inv_freq, rotary.attention_scaling

    def rotated(self, model: Parts, queries: Tensor, distance: int, layer: int) -> Tensor:
        """Apply the rotary embedding to queries for unrotated keys that are `distance` positions earlier.

        The queries and the result have the shape (…, d_head). The two dimensions of a pair are from the two
        halves of the rotary dimensions (Su et al. 2021, as in GPT-NeoX).
        """
        inv_freq, scaling = self.rotary(model, layer)
        angle, scale = distance * inv_freq.to(queries), scaling**2
        low, high, rest = queries.split([len(angle), len(angle), model.d_head - 2 * len(angle)], dim=-1)
        cos, sin = scale * angle.cos(), scale * angle.sin()
        return torch.cat([low * cos - high * sin, high * cos + low * sin, rest], dim=-1)

    def distance_bias(self, model: Parts, distance: int) -> Tensor | float:
        """Return each head's bias of attention scores at `distance`, of shape (head,); 0 without a bias."""
        return 0.0


def rotate_neighbours(queries: Tensor, angle: Tensor, scale: float = 1.0) -> Tensor:
    """Rotate pairs of neighbouring dimensions of queries, of shape (…, d_head), by angles of shape (pair,).

    Dimensions that belong to no pair stay as they are.
    """
    size, cos, sin = 2 * len(angle), scale * angle.cos(), scale * angle.sin()
    even, odd, rest = queries[..., 0:size:2], queries[..., 1:size:2], queries[..., size:]
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
    return torch.cat([turned, rest], dim=-1)


class NotRotary(Family):
    """A family without rotary embeddings: it reads the order of tokens by vectors W_pos or by ALiBi."""

    def check_rotary(self, given: Given, config: Any) -> None:
        pass

    def rotated(self, model: Parts, queries: Tensor, distance: int, layer: int) -> Tensor:
        return queries


def refuse_unless(given: Given, name: str, value: object, why: str) -> None:
    """Raise ModelError if config.json gives the setting `name` a value other than `value` or null."""
    if given.settings.get(name) not in (None, value):
        file = given.checkpoint.config_file
        raise ModelError(f"{given.checkpoint.name} cannot be annotated: {why} ({name} in {file}).")
