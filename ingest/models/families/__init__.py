"""The model families, and every difference between them; no other code names a family.

To add a family, write a subclass of `base.Family` and name it in `FAMILIES`. A model of the family is
annotated only if its predictions agree with those of transformers (`models.check`). A model of another
architecture is annotated if it passes one check more (`other.Other`, `models.reading`).
"""

import re

from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.config import Given
from annotate_transformer.ingest.models.families.base import Family
from annotate_transformer.ingest.models.families.layer_norm import (
    BLOOM,
    GPT2,
    GPTJ,
    OPT,
    Falcon,
    GPTNeo,
    GPTNeoX,
    Phi,
    StarCoder2,
)
from annotate_transformer.ingest.models.families.other import Other, is_supported
from annotate_transformer.ingest.models.families.rms_norm import (
    Gemma,
    Gemma2,
    Gemma3,
    Llama,
    Mistral,
    Phi3,
    Qwen2,
    Qwen3,
)
from annotate_transformer.ingest.models.sentences import short

FAMILIES: tuple[Family, ...] = (
    GPTNeoX(), GPT2(), GPTNeo(), OPT(), BLOOM(), GPTJ(), Phi(), Falcon(), StarCoder2(),
    Llama(), Mistral(), Qwen2(), Qwen3(), Phi3(), Gemma(), Gemma2(), Gemma3(),
)  # fmt: skip

# REFUSED: patterns of the names of architectures that are refused, each with the reason. The predictions of
# these architectures are not sums of the terms that the store has.
REFUSED = {
    "moe|mixtral|gpt_?oss|deepseek": "in it, a token passes only some of the experts of a layer",
    "t5|bart|marian|pegasus|whisper": "it has an encoder beside the decoder",
    "mamba|rwkv|jamba|bamba|zamba|xlstm": "it has state-space layers",
}


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
    why = [f" ({why})" for names, why in REFUSED.items() if re.search(names, str(kind), re.IGNORECASE)]
    if not why and is_supported(given, kind):
        return Other(given, str(kind))
    known = ", ".join(family.architecture for family in FAMILIES)
    raise ModelError(
        f"{given.checkpoint.name} is {short(kind)}, which cannot be annotated{''.join(why)}. Choose a model "
        f"of one of these architectures, or a decoder that TransformerLens supports: {known}."
    )
