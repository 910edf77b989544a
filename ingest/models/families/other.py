"""The family for all architectures that have no class here but that transformers and TransformerLens know.

Such a model is annotated only if it passes two checks: its components add up to the predictions of
transformers (`models.check`), and its weights give the inputs of neurons and the attention that the model
itself computes (`models.reading`).
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from annotate_transformer.ingest.models.config import SIZES, Given, Setting
from annotate_transformer.ingest.models.families.base import (
    LAYER_NORM,
    LEGACY,
    RMS_NORM,
    ROPE,
    Family,
    Parts,
    rotate_neighbours,
)

# OF_TRAINING matches the names of those settings in config.json that do not affect predictions.
OF_TRAINING = re.compile(r"dropout|pdrop|initializer|use_cache|token_id|pretraining_tp|transformers_version")
ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "activation")
ANY = Setting(lambda value: True, "a value that transformers accepts")


def is_supported(given: Given, architecture: object) -> bool:
    """Return whether `architecture` is a causal language model that transformers and TransformerLens know."""
    import transformers
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformers import CONFIG_MAPPING

    is_decoder = str(architecture).endswith(("ForCausalLM", "LMHeadModel"))
    if not is_decoder or architecture not in SUPPORTED_ARCHITECTURES:
        return False
    hf_class = getattr(transformers, str(architecture), None)
    config_class = getattr(hf_class, "config_class", None)
    kind = given.settings.get("model_type")
    return config_class is not None and kind == config_class.model_type and kind in CONFIG_MAPPING


class Other(Family):
    """A model with an architecture that TransformerLens supports and that has no class in this package.

    `forms`: for each layer, the form of its rotary embedding, a name of `ROTATIONS`.
    """

    obsolete: ClassVar[str] = r".*rotary_emb\.inv_freq"

    def __init__(self, given: Given, architecture: str) -> None:
        from transformers import CONFIG_MAPPING

        self.name, self.architecture = str(given.settings["model_type"]), architecture
        config_class: Any = CONFIG_MAPPING[self.name]
        self.settings = dict(_settings(given, config_class))
        with torch.device("meta"):
            model = self.hf_class()(self.config(given))
        names = {id(tensor): name for name, tensor in model.named_parameters()}
        self.prefix = f"{model.base_model_prefix}."
        self.embedding_name = names[id(model.get_input_embeddings().weight)]
        self.unembedding_name = next(
            f"{name}.weight" for name, part in model.named_modules() if part is model.get_output_embeddings()
        )
        self.norm = RMS_NORM if _has_rms_norm(model) else LAYER_NORM
        self.forms: list[str] = []

    def activation(self, config: Any) -> str:
        return next((str(getattr(config, name)).upper() for name in ACTIVATIONS if hasattr(config, name)), "")

    def attention_scale(self, model: Parts) -> float:
        attention = next(part for part in model.blocks.modules() if hasattr(part, "scaling"))
        return float(attention.scaling)

    def rotated(self, model: Parts, queries: Tensor, distance: int, layer: int) -> Tensor:
        return ROTATIONS[self.forms[layer]](self, model, queries, distance, layer)


def _settings(given: Given, config_class: Any) -> Iterator[tuple[str, Setting]]:
    """Yield the name and the valid values of each setting in config.json that can affect predictions."""
    from transformers import PretrainedConfig

    common, own = (inspect.signature(of.__init__).parameters for of in (PretrainedConfig, config_class))
    for name in [*own, *ROPE, *LEGACY]:
        if name not in common and not OF_TRAINING.search(name) and name in given.settings:
            yield name, ANY
    for usual, setting in SIZES.items():
        if (name := config_class.attribute_map.get(usual, usual)) in own:
            yield name, setting


def _has_rms_norm(model: Any) -> bool:
    """Return whether the norm before the unembedding is an RMSNorm."""
    kinds = [type(part).__name__ for part in model.base_model.children()]
    return "RMS" in [kind for kind in kinds if "Norm" in kind][-1]


def _neighbours(family: Family, model: Parts, queries: Tensor, distance: int, layer: int) -> Tensor:
    """Rotate queries as `Family.rotated` does, but in pairs of neighbouring dimensions."""
    inv_freq, scaling = family.rotary(model, layer)
    return rotate_neighbours(queries, distance * inv_freq.to(queries), scaling**2)


def _none(family: Family, model: Parts, queries: Tensor, distance: int, layer: int) -> Tensor:
    return queries


# ROTATIONS: the forms of rotary embedding. They rotate dimensions in pairs: `halves` takes one dimension from
# each half of the vector, and `neighbours` takes two neighbouring ones. `none` is for models without
# rotation.
ROTATIONS = {"halves": Family.rotated, "neighbours": _neighbours, "none": _none}
