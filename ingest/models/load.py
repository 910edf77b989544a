"""Load a checkpoint as a transformers model, after checking all of its files.

A folder or repository may be incomplete, of another kind, or malicious. Therefore

- only files with known names are opened (`models.files`);
- each setting that the model's family reads is checked (`models.config`, `models.families`), and code that
  config.json names is never run;
- every tensor must be present once, have the right shape, and be finite (`models.tensors`).

`explained` turns any other error of loading into a ModelError.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models import gguf
from annotate_transformer.ingest.models.config import Given
from annotate_transformer.ingest.models.families import family_of
from annotate_transformer.ingest.models.families.base import Family
from annotate_transformer.ingest.models.files import Files
from annotate_transformer.ingest.models.names import EMBEDDED_MODEL, Checkpoint, nearest
from annotate_transformer.ingest.models.sentences import in_a_line
from annotate_transformer.ingest.models.tensors import Tensors, refuse_unless_whole
from annotate_transformer.ingest.quiet import without_advice


@dataclass(frozen=True)
class Loaded:
    """A loaded model, its family, its fast tokenizer, and the settings that affect its outputs, as JSON.

    `dequantised_from`: the types from which weights were dequantised; empty for weights as trained.
    """

    family: Family
    model: Any
    tokenizer: Any
    config: str
    dequantised_from: str


@contextmanager
def explained(checkpoint: Checkpoint) -> Iterator[None]:
    """Context manager: turn every exception about a model's files into a ModelError."""
    try:
        yield
    except ModelError:
        raise
    except MemoryError as error:
        raise ModelError(f"{checkpoint.name} does not fit into this machine's memory.") from error
    except Exception as error:
        raise ModelError(_why_not(checkpoint, error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # raised by libraries written in Rust; not importable
            raise
        raise ModelError(_why_not(checkpoint, error)) from error


def load(checkpoint: Checkpoint, dtype: torch.dtype) -> Loaded:
    """Load and check a model and its tokenizer.

    Raises:
        ModelError: a file is wrong (the message says which and why), or the hub cannot be reached.
    """
    with silenced():
        files = Files(checkpoint)
        family, config = _family_and_config(checkpoint, files)
        tensors = _tensors(checkpoint, files, family, config)
        model = built(checkpoint, family, config, tensors, dtype)
        tokenizer = _tokenizer(checkpoint, files, config.vocab_size)
    origin = gguf.origin(checkpoint) if checkpoint.is_gguf else {}
    settings = json.dumps(family.identifying(config) | origin, sort_keys=True)
    return Loaded(family, model, tokenizer, settings, origin.get("dequantised_from", ""))


def built(
    checkpoint: Checkpoint, family: Family, config: Any, tensors: dict[str, Any], dtype: torch.dtype
) -> Any:
    """Return a transformers model with the weights `tensors`; refuse missing weights, NaN and infinity."""
    options: Any = {"config": config, "state_dict": tensors, "output_loading_info": True}
    both: Any = family.hf_class().from_pretrained(None, dtype=dtype, **options)
    model, found = both
    tied = {family.unembedding_name} if config.tie_word_embeddings else set()
    lost = {name: found[f"{name}_keys"] for name in ("missing", "unexpected", "mismatched")}
    refuse_unless_whole(checkpoint, lost["missing"] - tied, lost["unexpected"], map(str, lost["mismatched"]))
    check_finite(checkpoint, model.named_parameters())
    return model.eval()


def load_tokenizer(checkpoint: Checkpoint) -> tuple[Any, int]:
    """Load only the tokenizer, and return it with the number of positions that the model can read.

    Raises:
        ModelError: config.json or the tokenizer is wrong, as in `load`.
    """
    with explained(checkpoint), silenced():
        files = Files(checkpoint)
        family, config = _family_and_config(checkpoint, files)
        return _tokenizer(checkpoint, files, config.vocab_size), family.n_ctx(config)


def _family_and_config(checkpoint: Checkpoint, files: Files) -> tuple[Family, Any]:
    files.need(checkpoint.config_file)
    given = Given(
        checkpoint, gguf.settings(checkpoint) if checkpoint.is_gguf else files.object("config.json")
    )
    family = family_of(given)
    given.refuse_unreadable()
    return family, family.config(given)


def _tensors(checkpoint: Checkpoint, files: Files, family: Family, config: Any) -> dict[str, Any]:
    if checkpoint.is_gguf:
        return gguf.tensors(checkpoint, family, config)
    return Tensors(checkpoint, files, family).checked(config)


def check_finite(checkpoint: Checkpoint, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raise ModelError for a tensor that contains NaN or infinity; the message says where."""
    for name, tensor in tensors:
        if tensor.numel() and not all(end.isfinite() for end in tensor.detach().aminmax()):
            at = (~tensor.detach().isfinite()).nonzero()[0].tolist()
            raise ModelError(
                f"{checkpoint.name} has weights that are no numbers (NaN or infinite): {name}{at} is the "
                "first such value. They are broken, or too large for --dtype: give another revision or model."
            )


@contextmanager
def silenced() -> Iterator[None]:
    """Context manager: suppress progress bars and warnings of transformers."""
    from transformers.utils import logging as hf_logging

    bars, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        with without_advice():
            yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _tokenizer(checkpoint: Checkpoint, files: Files, vocab_size: int) -> Any:
    """Return the fast tokenizer from a GGUF file, from the folder of the weights, or from the parent folder.

    Training steps share a tokenizer in the parent folder.
    """
    if checkpoint.tokenizer_path == checkpoint.path and checkpoint.is_gguf:
        found = gguf.tokenizer(checkpoint)
    else:
        found = _tokenizer_of_files(checkpoint, files)
    last = max(found.get_vocab().values(), default=-1)
    if max(len(found), last + 1) > vocab_size:
        raise ModelError(
            f"{checkpoint.name}: its tokenizer has {max(len(found), last + 1)} tokens, the model only "
            f"{vocab_size} rows. They do not belong together."
        )
    return found


def _tokenizer_of_files(checkpoint: Checkpoint, files: Files) -> Any:
    from dataclasses import replace

    from transformers import AutoTokenizer

    if checkpoint.tokenizer_path != checkpoint.path:
        files = Files(replace(checkpoint, path=checkpoint.tokenizer_path))
    if files.find("tokenizer.json") is None:
        files.reach("tokenizer.json")
        raise ModelError(
            f"{checkpoint.name} has no tokenizer: its tokenizer.json is missing, and without it tokens have "
            "no character spans. Copy the tokenizer's files beside the weights (tokenizer.save_pretrained)."
        )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if files.find(name):
            files.object(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint.tokenizer_path, revision=files.revision, trust_remote_code=False
        )
        backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(
            f"{checkpoint.name} cannot be loaded as a model: no tokenizer can be made from its "
            f"tokenizer.json, tokenizer_config.json and config.json ({in_a_line(error)}). Save the "
            "tokenizer again."
        ) from error
    if backend is None:
        raise files.wrong("tokenizer.json", "makes no fast tokenizer, so tokens have no character spans")
    return tokenizer


def _why_not(checkpoint: Checkpoint, error: BaseException) -> str:
    causes = {type(cause).__name__ for cause in _chain(error)}
    if not checkpoint.is_local:
        if "RevisionNotFoundError" in causes:
            return f"{checkpoint.name} has no revision {checkpoint.revision!r} on the hub."
        if "GatedRepoError" in causes:
            return (
                f"{checkpoint.path} is gated: accept its terms on its page of the hub, log in with "
                "`hf auth login` and run again."
            )
        if "RepositoryNotFoundError" in causes:
            near = nearest(checkpoint.path) or " Is the name right?"
            return f"The hub has no open model {checkpoint.path}.{near}"
        if causes & OUT_OF_REACH:
            return (
                f"{checkpoint.path} is not in the local cache and the Hugging Face hub cannot be reached. "
                "Connect and run again, give a folder made by save_pretrained, or use the embedded model "
                f"({EMBEDDED_MODEL})."
            )
    return f"{checkpoint.name} cannot be loaded as a model: {type(error).__name__}: {in_a_line(error)}."


OUT_OF_REACH = {
    "LocalEntryNotFoundError", "OfflineModeIsEnabled", "HfHubHTTPError", "HTTPError", "ConnectionError",
    "ConnectError", "ConnectTimeout", "ReadTimeout", "TimeoutException", "ProxyError", "SSLError",
}  # fmt: skip


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
