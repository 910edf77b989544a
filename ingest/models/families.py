"""Define each model family: every difference between architectures is in this file.

To add a family, write a subclass of `Family` and name it in `FAMILIES`. A family defines

1. the settings that it reads from config.json, their valid values, and the names of its parameters in a
   checkpoint (`config`, `parameter_names`);
2. the vectors that enter the residual stream before the first block (`embedding`);
3. its norm: whether the norm subtracts the mean, and how its scale σ is computed (`Norm`);
4. whether attention and MLP of a block read the same residual stream (`is_parallel`);
5. how the position rotates queries (`rotated`), and the name of the activation function (`activation`);
6. the mean logit, which centring the unembedding subtracts (`logit_offset`).

All other code reads weights by TransformerLens's names (`W_E`, `W_U`, `b_O` …); a bias that a family does
not have is zero.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.config import LARGEST_COUNT, Given
from annotate_transformer.ingest.models.sentences import short


class Parts(Protocol):
    """The attributes of a loaded model that a family reads: W_E, d_head, and the blocks of transformers."""

    blocks: Any
    d_head: int

    @property
    def W_E(self) -> Tensor: ...


class Norm(ABC):
    """A norm of the residual stream; its own weights are folded into the weights that read its output.

    `removed`: number of dimensions that the norm removes from the residual stream x, of shape (…, d_model).
    """

    name: ClassVar[str]
    removed: ClassVar[int]

    @abstractmethod
    def centred(self, x: Tensor, dim: int = -1) -> Tensor:
        """Return x without the directions that the norm removes; `dim` is the axis with d_model entries."""

    @abstractmethod
    def scale(self, x: Tensor, eps: float) -> Tensor:
        """Return the scale σ by which the norm divides x; σ has the shape of x without the last axis."""


class LayerNorm(Norm):
    name, removed = "LayerNorm", 1

    def centred(self, x: Tensor, dim: int = -1) -> Tensor:
        return x - x.mean(dim, keepdim=True)

    def scale(self, x: Tensor, eps: float) -> Tensor:
        return (x.var(-1, unbiased=False) + eps).sqrt()


class Family(ABC):
    """A family of decoder-only transformers.

    `name`: the family's name in config.json (model_type) and in TransformerLens;
    `architecture`: name of the family's class in transformers;
    `embedding_name`, `unembedding_name`: names of parameters in a checkpoint; if they are tied, both are one
    matrix;
    `identifying`: names of the settings that tell models with equal weights apart.
    """

    name: ClassVar[str]
    architecture: ClassVar[str]
    norm: ClassVar[Norm]
    embedding_name: ClassVar[str]
    unembedding_name: ClassVar[str]
    identifying: ClassVar[tuple[str, ...]]

    def hf_class(self) -> Any:
        """Return the family's class in transformers, which is imported only when a model is loaded."""
        import transformers

        return getattr(transformers, self.architecture)

    @abstractmethod
    def config(self, given: Given) -> Any:
        """Check the settings that this family reads, and return them as a config object of transformers.

        Raises:
            ModelError: a setting is missing or impossible.
        """

    @abstractmethod
    def parameter_names(self, found: Iterable[str]) -> dict[str, str]:
        """Map each parameter name in a checkpoint to the parameter's name in the class `architecture`."""

    @abstractmethod
    def is_obsolete(self, name: str) -> bool:
        """Return whether older versions of transformers saved this tensor, which newer ones compute."""

    @abstractmethod
    def n_ctx(self, config: Any) -> int:
        """Return the maximum number of positions that the model can read."""

    @abstractmethod
    def activation(self, config: Any) -> str:
        """Return the name of the neurons' activation function, as shown to people."""

    @abstractmethod
    def is_parallel(self, config: Any) -> bool:
        """Return whether attention and MLP of a block read the same residual stream."""

    @abstractmethod
    def embedding(self, model: Parts, tokens: Tensor) -> dict[str, Tensor]:
        """Return the terms of the first block's input by name of the component, such as `embed`.

        Each term has the shape (…, d_model).
        """

    @abstractmethod
    def rotated(self, model: Parts, queries: Tensor, distance: int) -> Tensor:
        """Apply the rotary embedding to queries, for keys that are `distance` positions earlier.

        The queries and the result have the shape (…, d_head).
        """

    @abstractmethod
    def logit_offset(self, hf_model: Any) -> tuple[Tensor, float]:
        """Return direction and bias of the mean logit, which centring `W_U` subtracts from all logits.

        The mean logit over the vocabulary is ⟨normalised residual stream, direction⟩ + bias. The direction
        has the shape (d_model,).
        """


class GPTNeoX(Family):
    """Pythia and other GPT-NeoX models (Black et al. 2022)."""

    name, architecture, norm = "gpt_neox", "GPTNeoXForCausalLM", LayerNorm()
    embedding_name, unembedding_name = "gpt_neox.embed_in.weight", "lm_head.weight"
    # The index of a layer or head has one byte (schema.sql), and the index of a neuron two bytes in memory.
    COUNTS: ClassVar[Mapping[str, int]] = {
        "num_hidden_layers": 2**8,
        "num_attention_heads": 2**8,
        "intermediate_size": 2**16,
        "hidden_size": LARGEST_COUNT,
        "vocab_size": LARGEST_COUNT,
        "max_position_embeddings": LARGEST_COUNT,
    }
    FLAGS = ("use_parallel_residual", "tie_word_embeddings")
    NUMBERS = ("layer_norm_eps", "rotary_pct", "rotary_emb_base")
    ROPE = ("rope_parameters", "rope_scaling")
    identifying = (*COUNTS, "use_parallel_residual", "hidden_act", "layer_norm_eps", "rope_parameters")
    # Names of buffers that transformers saved until 2023.
    OBSOLETE = re.compile(
        r"gpt_neox\.(layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)|rotary_emb\.inv_freq)"
    )

    def config(self, given: Given) -> Any:
        from transformers import GPTNeoXConfig

        settings = given.settings
        self._require_attention_bias(given)
        given.check_counts(self.COUNTS)
        given.check_flags(self.FLAGS)
        for name in self.NUMBERS:
            given.check_number(name, settings.get(name, 1))
        heads = settings["num_attention_heads"]
        if settings["hidden_size"] % heads:
            raise given.wrong("hidden_size", settings["hidden_size"], f"a multiple of the {heads} heads")
        given.check_activation("hidden_act", "gelu")
        given.check_objects(self.ROPE)
        read = (*self.COUNTS, *self.FLAGS, *self.NUMBERS, "hidden_act", *self.ROPE)
        config = GPTNeoXConfig(**{name: settings[name] for name in read if settings.get(name) is not None})
        self._check_rotary(given, config)
        return config

    def _require_attention_bias(self, given: Given) -> None:
        value = given.settings.get("attention_bias", True)
        if value is not True:
            raise ModelError(
                f"{given.checkpoint.name} has no attention biases (attention_bias = {short(value)}), "
                "which this program needs. Choose a model that has them."
            )

    def _check_rotary(self, given: Given, config: Any) -> None:
        """Check the rotary settings: the pairs of rotated dimensions must fit into a head."""
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        rope, kinds = config.rope_parameters, {"default", *ROPE_INIT_FUNCTIONS}
        if rope["rope_type"] not in kinds:
            raise given.wrong("rope_type", rope["rope_type"], f"one of {', '.join(sorted(kinds))}")
        given.check_number("rope_theta (rotary_emb_base)", rope["rope_theta"])
        share, name = rope["partial_rotary_factor"], "partial_rotary_factor (rotary_pct)"
        given.check_number(name, share, most=1)
        d_head = config.hidden_size // config.num_attention_heads
        if 2 * ceil(int(d_head * share) / 2) > d_head:
            raise given.wrong(name, share, f"less: rotated pairs must fit into a head's {d_head} dimensions")

    def parameter_names(self, found: Iterable[str]) -> dict[str, str]:
        """Add the prefix `gpt_neox.` to names of a base model, and rename `embed_out` to `lm_head`."""
        found = list(found)
        prefix = "" if any(name.startswith("gpt_neox.") for name in found) else "gpt_neox."
        renamed = {name: re.sub(r"^embed_out\.", "lm_head.", name) for name in found}
        return {name: new if new.startswith("lm_head.") else prefix + new for name, new in renamed.items()}

    def is_obsolete(self, name: str) -> bool:
        return self.OBSOLETE.fullmatch(name) is not None

    def n_ctx(self, config: Any) -> int:
        return int(config.max_position_embeddings)

    def activation(self, config: Any) -> str:
        return str(config.hidden_act).upper()

    def is_parallel(self, config: Any) -> bool:
        return bool(config.use_parallel_residual)

    def embedding(self, model: Parts, tokens: Tensor) -> dict[str, Tensor]:
        return {"embed": model.W_E[tokens]}

    def rotated(self, model: Parts, queries: Tensor, distance: int) -> Tensor:
        """Rotate pairs of dimensions (Su et al. 2021).

        The two dimensions of a pair are from the two halves of the rotary dimensions.
        """
        rotary = model.blocks.rotary_emb
        angle, scale = distance * rotary.inv_freq.to(queries), rotary.attention_scaling**2
        low, high, rest = queries.split([len(angle), len(angle), model.d_head - 2 * len(angle)], dim=-1)
        cos, sin = scale * angle.cos(), scale * angle.sin()
        return torch.cat([low * cos - high * sin, high * cos + low * sin, rest], dim=-1)

    def logit_offset(self, hf_model: Any) -> tuple[Tensor, float]:
        W_U_mean, norm = hf_model.get_output_embeddings().weight.mean(0), hf_model.gpt_neox.final_layer_norm
        bias = float((norm.bias * W_U_mean).sum().detach())
        return (norm.weight * W_U_mean).detach().clone(), bias


FAMILIES: tuple[Family, ...] = (GPTNeoX(),)


def family_of(given: Given) -> Family:
    """Return the family of the model that config.json describes.

    Raises:
        ModelError: the model belongs to no supported family.
    """
    architectures = given.settings.get("architectures") or [given.settings.get("model_type")]
    kind = architectures[0] if isinstance(architectures, list) and architectures else architectures
    named = architectures if isinstance(architectures, list) else []
    for family in FAMILIES:
        of_type = given.settings.get("model_type", family.name) == family.name
        if of_type and (family.architecture in named or kind == family.name):
            return family
    known = ", ".join(family.architecture for family in FAMILIES)
    raise ModelError(
        f"{given.checkpoint.name} is {short(kind)}; only {known} (such as Pythia) can be annotated. "
        "Choose such a model."
    )
