"""Check the settings in a model's config.json before they are used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.names import Checkpoint
from annotate_transformer.ingest.models.sentences import short

LARGEST_COUNT = 2**31 - 1
REFUSED = {
    "quantization_config": "its weights are quantised, and annotation needs the trained weights",
    "compression_config": "its weights are compressed, and annotation needs the trained weights",
    "auto_map": "it needs its own Python code, which is never run",
    "transformers_weights": "it names its own weights file, which is never opened",
}


@dataclass(frozen=True)
class Setting:
    """The rule for a setting in config.json: a test for valid values, and a description of valid values.

    `must_be`: the description, which follows the words "it must be" in an error message;
    `required`: whether config.json must have the setting. Without it, transformers has a default value.
    """

    is_valid: Callable[[Any], bool]
    must_be: str
    required: bool = False


def count(most: int, *, required: bool = True) -> Setting:
    return Setting(
        lambda value: type(value) is int and 1 <= value <= most,
        f"a whole number from 1 to {most:,}",
        required,
    )


def number(most: float = 1e30) -> Setting:
    return Setting(
        lambda value: type(value) in (int, float) and isfinite(value) and 0 < value <= most,
        f"a number above 0, at most {most:g}",
    )


def _is_activation(value: object) -> bool:
    from transformers.activations import ACT2FN

    return isinstance(value, str) and value in ACT2FN


# LAYERS, HEADS and NEURONS refuse larger counts, because the index of a layer or head must fit into one byte
# in the store (schema.sql), and the index of a neuron into two bytes in memory.
LAYERS = HEADS = count(2**8)
NEURONS, SIZE = count(2**16), count(LARGEST_COUNT)
OPTIONAL_NEURONS, OPTIONAL_HEADS = count(2**16, required=False), count(2**8, required=False)
OPTIONAL_SIZE = count(LARGEST_COUNT, required=False)
FLAG = Setting(lambda value: isinstance(value, bool), "true or false")
NUMBER = number()
# SIZES: the settings of config.json that are sizes of a model, by the names that most families use.
SIZES = {
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": NEURONS,
    "hidden_size": SIZE,
    "vocab_size": SIZE,
    "max_position_embeddings": SIZE,
}
OBJECT = Setting(lambda value: isinstance(value, dict), "an object")
LIST = Setting(lambda value: isinstance(value, list), "a list")
ACTIVATION = Setting(_is_activation, "an activation function that transformers has")


@dataclass(frozen=True)
class Given:
    """The settings in a model's config.json; each check raises ModelError for an invalid setting."""

    checkpoint: Checkpoint
    settings: Mapping[str, Any]

    def refuse_unreadable(self) -> None:
        """Refuse a config.json that needs quantised weights, custom Python code or another weights file."""
        for name, why in REFUSED.items():
            if self.settings.get(name):
                file = self.checkpoint.config_file
                raise ModelError(f"{self.checkpoint.name} cannot be annotated: {why} ({name} in {file}).")

    def check(self, settings: Mapping[str, Setting]) -> dict[str, Any]:
        """Check `settings`, and return their values in config.json; a value of null counts as missing.

        Raises:
            ModelError: a setting has no valid value, or is missing although it is required.
        """
        found = {name: self.settings[name] for name in settings if self.settings.get(name) is not None}
        for name, setting in settings.items():
            if name in found or setting.required:
                self.check_value(name, found.get(name), setting)
        return found

    def check_value(self, name: str, value: object, setting: Setting) -> None:
        if not setting.is_valid(value):
            raise self.wrong(name, value, setting.must_be)

    def wrong(self, name: str, value: object, must_be: str) -> ModelError:
        return ModelError(
            f"{self.checkpoint.name} cannot be loaded as a model: {name} in its "
            f"{self.checkpoint.config_file} is {short(value)}; it must be {must_be}."
        )
