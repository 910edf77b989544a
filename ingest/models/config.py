"""Check the settings in a model's config.json before they are used."""

from collections.abc import Iterable, Mapping
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
class Given:
    """The settings in a model's config.json; each check raises ModelError for an invalid setting."""

    checkpoint: Checkpoint
    settings: Mapping[str, Any]

    def refuse_unreadable(self) -> None:
        """Raise ModelError if weights are quantised or compressed, or config.json names code or weights."""
        for name, why in REFUSED.items():
            if self.settings.get(name):
                raise ModelError(
                    f"{self.checkpoint.name} cannot be annotated: {why} ({name} in config.json)."
                )

    def check_counts(self, largest: Mapping[str, int]) -> None:
        """Raise ModelError unless each setting is a whole number from 1 to its maximum in `largest`."""
        for name, most in largest.items():
            value = self.settings.get(name)
            if type(value) is not int or not 1 <= value <= most:
                raise self.wrong(name, value, f"a whole number from 1 to {most:,}")

    def check_flags(self, names: Iterable[str]) -> None:
        for name in names:
            if not isinstance(self.settings.get(name, False), bool):
                raise self.wrong(name, self.settings[name], "true or false")

    def check_number(self, name: str, value: object, most: float = 1e30) -> None:
        if type(value) not in (int, float) or not isfinite(value) or not 0 < value <= most:  # type: ignore[arg-type, operator]
            raise self.wrong(name, value, f"a number above 0, at most {most:g}")

    def check_objects(self, names: Iterable[str]) -> None:
        for name in names:
            if not isinstance(self.settings.get(name), dict | None):
                raise self.wrong(name, self.settings[name], "an object")

    def check_activation(self, name: str, default: str) -> None:
        from transformers.activations import ACT2FN

        value = self.settings.get(name, default)
        if not isinstance(value, str) or value not in ACT2FN:
            raise self.wrong(name, value, "an activation function that transformers has")

    def wrong(self, name: str, value: object, must_be: str) -> ModelError:
        return ModelError(
            f"{self.checkpoint.name} cannot be loaded as a model: {name} in its config.json is "
            f"{short(value)}; it must be {must_be}."
        )
