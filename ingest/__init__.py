"""Run models over corpora and store the results; open a store together with its models."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from annotate_transformer.store import Store


def open(path: str | Path, *, model: Any = None, tokenizer: Any = None) -> "Store":
    """Open the store at `path`, with its runs' models for the questions that stored rows do not answer.

    Such questions ask for the terms toward any token, difference or direction, the likeliest next tokens, or
    prompts. A run's model is loaded when it is first needed. `model`: instead, a model that is in memory, as
    transformers or TransformerLens (a TransformerBridge with unprocessed weights) has it; it is copied.
    `tokenizer`: its tokenizer, if it has none of its own.

    Raises:
        ModelError: the model in memory is of no supported family, or has no tokenizer.
        NotAStore, OtherSchemaVersion, StoreBusy: see store.errors.
    """
    from annotate_transformer.ingest.live.runner import ModelRunner
    from annotate_transformer.ingest.models.memory import of_memory
    from annotate_transformer.store.reader import Store

    given = None if model is None else of_memory(model, tokenizer)
    return Store(path, runner=lambda: ModelRunner(given))
