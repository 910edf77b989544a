"""Read a model from a GGUF file, the format of llama.cpp; transformers dequantises the weights.

transformers ignores settings, tensors and rules for splitting text that it does not know. A file that has any
is refused, because the model would not be the one that the file describes.
"""

import copy
import os
from collections import Counter
from contextlib import redirect_stderr
from functools import lru_cache
from io import StringIO
from math import isclose, prod
from typing import Any, NamedTuple

import torch
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence
from torch import Tensor

from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.families.base import Family
from annotate_transformer.ingest.models.names import Checkpoint
from annotate_transformer.ingest.models.sentences import short
from annotate_transformer.ingest.models.tensors import refuse_unless_whole

UNQUANTISED = {"F64", "F32", "F16", "BF16"}
# OF_SHAPES: settings of a GGUF file that need no check, because the shapes of the file's tensors determine
# their values.
OF_SHAPES = {
    "block_count", "embedding_length", "feed_forward_length", "vocab_size", "attention.key_length",
    "attention.value_length",
}  # fmt: skip

# SAME: name of a setting in a GGUF file → name of the same setting in transformers.
SAME = {
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
# SPLITS: value of the setting tokenizer.ggml.pre in a GGUF file → the pre-tokenizer that this value means. It
# has the values that transformers does not know.
SPLITS: dict[str, PreTokenizer | None] = {
    "gpt-2": None,  # None: keep the pre-tokenizer that transformers makes
    "smollm": Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]),
}


class Header(NamedTuple):
    """The metadata of a GGUF file: settings by name, and each tensor's type and shape."""

    settings: dict[str, Any]
    tensors: dict[str, tuple[str, tuple[int, ...]]]

    @property
    def size(self) -> int:
        """Return the number of weights."""
        return sum(prod(shape) for _, shape in self.tensors.values())

    @property
    def quantised(self) -> list[str]:
        """Return the types of the quantised tensors, the one with the most weights first."""
        weights: Counter[str] = Counter()
        for kind, shape in self.tensors.values():
            weights[kind] += prod(shape)
        return [kind for kind, _ in weights.most_common() if kind not in UNQUANTISED]


def header(checkpoint: Checkpoint) -> Header:
    """Return the header of the checkpoint's GGUF file.

    Raises:
        ModelError: the package that reads such files is not installed.
    """
    try:
        from gguf import GGMLQuantizationType
    except ImportError as error:
        raise ModelError(
            f"{checkpoint.name} is a GGUF file, and the package that reads it is not installed: run "
            "pip install 'annotate-transformer[gguf]'."
        ) from error
    from transformers.integrations.gguf.reader import GgufHeader, read_gguf_metadata

    settings, _ = read_gguf_metadata(checkpoint.path)
    tensors = GgufHeader.from_file(checkpoint.path).tensors
    kinds = {one.name: (GGMLQuantizationType(one.ggml_type).name, one.shape) for one in tensors}
    return Header(settings, kinds)


def settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the settings of the model under transformers' names, as config.json would have them."""
    header(checkpoint)
    status = os.stat(checkpoint.path)
    return dict(_settings(checkpoint.folder, checkpoint.config_file, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=4)
def _settings(folder: str, name: str, size: int, changed_ns: int) -> dict[str, Any]:
    """Return the settings of a file; they are cached, because transformers takes seconds to read them."""
    from transformers import PretrainedConfig

    found, _ = PretrainedConfig.get_config_dict(folder, gguf_file=name)
    return dict(found)


def origin(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the setting `dequantised_from` with the types of quantised weights; {} if none are quantised.

    The setting is part of the model's identity.
    """
    kinds = header(checkpoint).quantised
    return {"dequantised_from": ", ".join(kinds)} if kinds else {}


def tensors(checkpoint: Checkpoint, family: Family, config: Any) -> dict[str, Tensor]:
    """Return the weights as float32, by their names in transformers.

    Raises:
        ModelError: weights are missing, have a wrong shape, or are not read by transformers; or the file has
            a setting that `config` lacks.
    """
    read = header(checkpoint)
    _refuse_unread_settings(checkpoint, read, config)
    options: Any = {"ignore_mismatched_sizes": True, "output_loading_info": True, "dtype": torch.float32}
    with redirect_stderr(StringIO()):  # hide a progress bar, which transformers has no option to turn off
        both: Any = family.hf_class().from_pretrained(
            checkpoint.folder, gguf_file=checkpoint.config_file, config=copy.deepcopy(config), **options
        )
    model, found = both
    tied = {family.unembedding_name} if config.tie_word_embeddings else set()
    refuse_unless_whole(
        checkpoint,
        found["missing_keys"] - tied,
        found["unexpected_keys"],
        map(str, found["mismatched_keys"]),
    )
    weights = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    size = sum(tensor.numel() for tensor in weights.values())
    if size != read.size:
        raise ModelError(
            f"{checkpoint.name} cannot be annotated: transformers reads {size:,} of its {read.size:,} "
            "weights. Give the model as a folder of safetensors."
        )
    return weights


def tokenizer(checkpoint: Checkpoint) -> Any:
    """Return the fast tokenizer that the file describes.

    Raises:
        ModelError: transformers does not know how the tokenizer splits text.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    read = header(checkpoint).settings
    found: Any = PreTrainedTokenizerFast.from_pretrained(checkpoint.folder, gguf_file=checkpoint.config_file)
    # The setting tokenizer.ggml.pre says how a byte-level tokenizer splits a text before BPE merges. Other
    # tokenizers do not use it, so return them without checking it.
    if not isinstance(found.backend_tokenizer.decoder, ByteLevelDecoder):
        return found
    rule = read.get("tokenizer.ggml.pre")
    if rule not in GGUF_PRE_TOKENIZER_SPLITS and rule not in SPLITS:
        raise ModelError(
            f"{checkpoint.name} has a tokenizer that cannot be made from the file: transformers does not "
            f"know how {short(rule)} (tokenizer.ggml.pre) splits text. Copy the model's tokenizer.json "
            "beside the file."
        )
    if split := SPLITS.get(rule):
        found.backend_tokenizer.pre_tokenizer = split
    return found


def _refuse_unread_settings(checkpoint: Checkpoint, read: Header, config: Any) -> None:
    """Raise ModelError if a setting of the GGUF file is missing from `config`, or differs there."""
    prefix = f"{read.settings['general.architecture']}."
    for key, value in read.settings.items():
        name = key.removeprefix(prefix)
        if name == key or name in OF_SHAPES or (name == "rope.scaling.type" and value == "none"):
            continue
        if not any(_is_equal(value, one) for one in _values(name, config)):
            raise ModelError(
                f"{checkpoint.name} cannot be annotated: transformers does not read its setting {key} "
                f"({short(value)}) from GGUF files. Give the model as a folder of safetensors."
            )


def _values(name: str, config: Any) -> list[Any]:
    """Return the values in `config` that may correspond to the setting `name` of a GGUF file."""
    rope = getattr(config, "rope_parameters", None) or {}
    # `rope` describes either one rotary embedding for all layers, or one for each kind of layer, such as
    # layers with a sliding window.
    kinds = [rope] if "rope_type" in rope else [*filter(None, rope.values())]
    if name == "rope.freq_base":
        return [kind["rope_theta"] for kind in kinds]
    if name == "rope.dimension_count":
        d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return [int(d_head * kind.get("partial_rotary_factor", 1)) for kind in kinds]
    if name.endswith("epsilon"):
        return [value for one, value in config.to_dict().items() if "eps" in one]
    return [getattr(config, SAME[name], None)] if name in SAME else []


def _is_equal(value: Any, other: Any) -> bool:
    """Return whether values are equal; numbers may differ by rounding, because GGUF files store float32."""
    numbers = isinstance(value, int | float) and isinstance(other, int | float)
    return isclose(value, other, rel_tol=1e-6) if numbers else value == other
