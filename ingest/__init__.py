"""Run models over corpora and store the results; open a store together with its models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from annotate_transformer.ingest.live.runner import ModelRunner
    from annotate_transformer.ingest.models.model import Model
    from annotate_transformer.store import Store
    from annotate_transformer.store.elsewhere.place import Address


def open(path: "Address", *, model: Any = None, tokenizer: Any = None) -> "Store":
    """Open the store at `path`; it loads a run's model when stored rows cannot answer a question.

    Such questions ask for the terms toward any token, difference or direction, the likeliest next tokens, or
    prompts. `model`: a model in memory that is used instead, as transformers or TransformerLens (a
    TransformerBridge with unprocessed weights) has it; this model is copied.
    `tokenizer`: the tokenizer of `model`, if `model` has none.

    Raises:
        ModelError: the model in memory is of no supported family, or has no tokenizer.
        NotAStore, OtherSchemaVersion, StoreBusy: see store.errors.
    """
    from annotate_transformer.store.reader import Store

    given = None if model is None else _given(model, tokenizer)
    return Store(path, runner=lambda: _runner(given))


def _given(model: Any, tokenizer: Any) -> "Model":
    from annotate_transformer.ingest.models.memory import of_memory

    return of_memory(model, tokenizer)


def _runner(given: "Model | None") -> "ModelRunner":
    """Return the object that runs models for a store; it imports PyTorch only when it first runs one."""
    from annotate_transformer.ingest.live.runner import ModelRunner

    return ModelRunner(given)
