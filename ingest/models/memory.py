"""Make a `Model` from a model of transformers or TransformerLens that is already in memory."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.config import Given
from annotate_transformer.ingest.models.families import family_of
from annotate_transformer.ingest.models.families.base import Family
from annotate_transformer.ingest.models.load import Loaded, built, silenced
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import Checkpoint
from annotate_transformer.ingest.models.tensors import shapes

# A TransformerBridge wraps modules, and inserts WRAPPED into the names of their weights.
WRAPPED = "._original_component"


def of_memory(model: Any, tokenizer: Any = None) -> Model:
    """Return a `Model` with copies of the weights of a transformers model or of a TransformerBridge.

    Raises:
        ModelError: the model is of no supported family, or there is no tokenizer.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = tokenizer or getattr(model, "tokenizer", None)
    model = getattr(model, "original_model", model)
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ModelError(
            "The model has no fast tokenizer. Give one, such as tokenizer=AutoTokenizer.from_pretrained(…)."
        )
    checkpoint = Checkpoint(getattr(model, "name_or_path", "") or "the model in memory", "", None, None)
    given = Given(checkpoint, model.config.to_dict())
    family = family_of(given)
    config = family.config(given)
    with silenced():
        weights = _weights(family, config, model.state_dict())
        copied = built(checkpoint, family, config, weights, torch.float32)
    settings = json.dumps(family.identifying(config), sort_keys=True)
    # TransformerLens changes a tokenizer that it gets, so give it a copy. The copy gets its BOS only
    # afterwards: TransformerLens would load a tokenizer with a BOS again from its file, and there may be no
    # file.
    plain = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    made = Model(checkpoint, loaded=Loaded(family, copied, plain, settings, ""))
    plain.bos_token = tokenizer.bos_token
    return made


def _weights(family: Family, config: Any, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return one copy of each weight, by name in transformers; a TransformerBridge has some weights twice."""
    named = {name.replace(WRAPPED, ""): weight for name, weight in found.items()}
    tied = {family.unembedding_name} if config.tie_word_embeddings else set()
    return {
        name: named[name].detach().clone() for name in shapes(family, config).keys() - tied if name in named
    }
