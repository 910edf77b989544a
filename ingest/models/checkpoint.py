"""A model's files: read with care, checked as a whole, and turned into a model or a sentence.

A folder, or a repository of the hub, may be incomplete, of another kind, or made to do harm. So

- only files of known names are opened, and only regular ones; a name that an index gives must stay in
  the folder. A link is followed wherever it leads: the hub's own cache consists of links, and a link
  shows nothing of what it leads to but whether that is a model;
- of config.json the settings of GPT-NeoX are read and checked, one by one; code that it names is not run;
- weights are safetensors, or a pickle from which torch takes tensors and nothing else (weights_only);
- every tensor of the model must be there once, of its shape, as floating-point numbers that are finite.
  transformers fills what is missing with random numbers.

`explained` is the one place where whatever else loading raises becomes a sentence.
"""

import json
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, isfinite
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor

from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.quiet import without_advice

if TYPE_CHECKING:
    from annotate_transformer.ingest.models.model import Source

SUPPORTED, FAMILY = "GPTNeoXForCausalLM", "gpt_neox"
WEIGHTS = (  # the first that is there, as in transformers
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
MOST_BYTES = {"config.json": 2**20, "tokenizer.json": 2**28, "tokenizer_config.json": 2**24}
MOST_INDEX_BYTES = 2**26
POINTER = b"version https://git-lfs"

# What the settings may be. The store numbers layers and heads in a byte, neurons in two (schema.sql).
COUNTS = {
    "num_hidden_layers": 2**8,
    "num_attention_heads": 2**8,
    "intermediate_size": 2**16,
    "hidden_size": 2**31 - 1,
    "vocab_size": 2**31 - 1,
    "max_position_embeddings": 2**31 - 1,
}
FLAGS = ("use_parallel_residual", "tie_word_embeddings")
NUMBERS = ("layer_norm_eps", "rotary_pct", "rotary_emb_base")
OTHERS = ("hidden_act", "rope_parameters", "rope_scaling")
CHANGES_VALUES = (*COUNTS, "use_parallel_residual", "hidden_act", "layer_norm_eps", "rope_parameters")
NOT_HERE = {
    "quantization_config": "its weights are quantised, and annotation needs them as they were trained",
    "compression_config": "its weights are compressed, and annotation needs them as they were trained",
    "auto_map": "it wants to run Python code of its own, which is never done",
    "transformers_weights": "it names a weights file of its own, which is never opened",
}

FLOATS = {"F64", "F32", "F16", "BF16"} | {torch.float64, torch.float32, torch.float16, torch.bfloat16}
# Buffers that transformers saved with GPT-NeoX until 2023 and computes itself since.
OLD_BUFFERS = re.compile(
    r"gpt_neox\.(layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)|rotary_emb\.inv_freq)"
)
NAMED = 5  # tensors that a sentence names of each kind
LONGEST = 300  # characters of a library's own words


@dataclass(frozen=True)
class Loaded:
    """A model of transformers, its fast tokenizer, and the settings that change its values, as JSON."""

    model: Any
    tokenizer: Any
    config: str


@contextmanager
def explained(source: "Source") -> Iterator[None]:
    """Raises ModelError, with a sentence, for whatever the block raises on what is in a model's files."""
    try:
        yield
    except ModelError:
        raise
    except MemoryError as error:
        raise ModelError(f"{source.name} does not fit into this machine's memory.") from error
    except Exception as error:
        raise ModelError(_why_not(source, error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a library in Rust met what it did not expect
            raise
        raise ModelError(_why_not(source, error)) from error


def load(source: "Source", dtype: torch.dtype) -> Loaded:
    """Load what is at `source`, checked.

    Raises:
        ModelError: what is wrong with which file; or the hub is out of reach.
    """
    from transformers import GPTNeoXForCausalLM

    with silenced():
        files = _Files(source)
        config = _config(source, files.object("config.json"))
        tensors = _Tensors(source, files).checked(config)
        options: Any = {"config": config, "state_dict": tensors, "output_loading_info": True}
        both: Any = GPTNeoXForCausalLM.from_pretrained(None, dtype=dtype, **options)
        model, found = both
        tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
        lost = {name: found[f"{name}_keys"] for name in ("missing", "unexpected", "mismatched")}
        _refuse_unless_whole(source, lost["missing"] - tied, lost["unexpected"], map(str, lost["mismatched"]))
        check_finite(source, model.named_parameters())
        tokenizer = _tokenizer(source, files, config.vocab_size)
    settings = {name: getattr(config, name) for name in CHANGES_VALUES}
    return Loaded(model.eval(), tokenizer, json.dumps(settings, sort_keys=True))


def check_finite(source: "Source", tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raises ModelError for a tensor with a NaN or an infinity in it, and says where it is."""
    for name, tensor in tensors:
        if tensor.numel() and not all(end.isfinite() for end in tensor.detach().aminmax()):
            at = (~tensor.detach().isfinite()).nonzero()[0].tolist()
            raise ModelError(
                f"{source.name} has weights that are no numbers (NaN or infinite): {name}{at} is the first "
                "such value. They are broken, or too large for --dtype: give another revision or model."
            )


@contextmanager
def silenced() -> Iterator[None]:
    """transformers' own progress bars and advice are not this program's output."""
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


# Files --------------------------------------------------------------------------------------------


class _Files:
    """A model's files by their names: of its folder, or of one commit of its repository on the hub."""

    def __init__(self, source: "Source") -> None:
        self.source, self.revision = source, source.revision_on_hub
        self._is_pinned = False

    def find(self, name: str) -> Path | None:
        """The file of this name, if there is one.

        Raises:
            ModelError: it is there, and cannot be read as the file it should be.
        """
        if self.source.is_local:
            path = Path(self.source.path, name)
            try:
                path.lstat()
            except FileNotFoundError:
                return None
        else:
            found = self._on_hub(name)
            if found is None:
                return None
            path = found
        self._check(path, name)
        return path

    def need(self, name: str) -> Path:
        """The file of this name, which has to be there."""
        found = self.find(name)
        if found is None:
            self.reach(name)
            raise self.wrong(name, "is missing. Save the model again with save_pretrained")
        return found

    def object(self, name: str) -> dict[str, Any]:
        """The JSON object that is in a file."""
        path, most = self.need(name), MOST_BYTES.get(name, MOST_INDEX_BYTES)
        if path.stat().st_size > most:
            raise self.wrong(name, f"has {path.stat().st_size:,} bytes, and at most {most:,} are read")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise self.wrong(name, f"is not JSON ({_in_a_line(error)})") from error
        if not isinstance(found, dict):
            raise self.wrong(name, "is not a JSON object")
        return found

    def wrong(self, name: str, what: str) -> ModelError:
        return ModelError(f"{self.source.name} cannot be loaded as a model: its {name} {what}.")

    def names(self) -> list[str]:
        """What else is in the folder, by which a person sees what it is."""
        return sorted(p.name for p in Path(self.source.path).iterdir()) if self.source.is_local else []

    def reach(self, name: str) -> None:
        """Raise transformers' own error where a file was not found because the hub is out of reach."""
        if not self.source.is_local:
            self._cached(name, raising=True)

    def _on_hub(self, name: str) -> Path | None:
        """The file in the local cache, downloaded if need be; all of them of the first one's commit."""
        from transformers.utils.hub import extract_commit_hash

        found = self._cached(name, raising=not self._is_pinned)
        if found and not self._is_pinned:
            self.revision, self._is_pinned = extract_commit_hash(found, None) or self.revision, True
        return Path(found) if found else None

    def _cached(self, name: str, *, raising: bool) -> str | None:
        from transformers.utils.hub import cached_file

        found: str | None = cached_file(
            self.source.path, name, revision=self.revision, _raise_exceptions_for_missing_entries=raising
        )
        return found

    def _check(self, path: Path, name: str) -> None:
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise self.wrong(name, "is not a regular file")
            with path.open("rb") as file:
                start = file.read(len(POINTER))
        except OSError as error:
            raise self.wrong(name, f"cannot be read: {error.strerror or error}") from error
        if start == POINTER:
            raise self.wrong(
                name, "is a pointer of Git LFS and not the file itself. Run `git lfs pull` in its folder"
            )


# config.json --------------------------------------------------------------------------------------


def _config(source: "Source", given: Mapping[str, Any]) -> Any:
    """GPT-NeoX's settings, each of them checked; nothing else of the file is read."""
    from transformers import GPTNeoXConfig

    _check_kind(source, given)
    kept = (*COUNTS, *FLAGS, *NUMBERS, *OTHERS)
    for name in COUNTS:
        _check_count(source, name, given.get(name))
    for name in FLAGS:
        if not isinstance(given.get(name, False), bool):
            raise _impossible(source, name, given[name], "true or false")
    for name in NUMBERS:
        _check_number(source, name, given.get(name, 1))
    if given["hidden_size"] % given["num_attention_heads"]:
        heads = given["num_attention_heads"]
        raise _impossible(source, "hidden_size", given["hidden_size"], f"a multiple of the {heads} heads")
    _check_activation(source, given.get("hidden_act", "gelu"))
    for name in ("rope_parameters", "rope_scaling"):
        if not isinstance(given.get(name), dict | None):
            raise _impossible(source, name, given[name], "an object")
    config = GPTNeoXConfig(**{name: given[name] for name in kept if given.get(name) is not None})
    _check_rotary(source, config)
    return config


def _check_kind(source: "Source", given: Mapping[str, Any]) -> None:
    architectures = given.get("architectures") or [given.get("model_type")]
    kind = architectures[0] if isinstance(architectures, list) and architectures else architectures
    named = isinstance(architectures, list) and SUPPORTED in architectures
    if given.get("model_type", FAMILY) != FAMILY or not (named or kind == FAMILY):
        raise ModelError(
            f"{source.name} is {_short(kind)}; only {SUPPORTED} (Pythia and its like) can be annotated. "
            "Choose such a model."
        )
    for name, why in NOT_HERE.items():
        if given.get(name):
            raise ModelError(f"{source.name} cannot be annotated: {why} ({name} in config.json).")
    if given.get("attention_bias", True) is not True:
        raise ModelError(
            f"{source.name} has no attention biases (attention_bias = {_short(given['attention_bias'])}), "
            "which Pythia has and this program counts on. Choose a model that has them."
        )


def _check_count(source: "Source", name: str, value: object) -> None:
    if type(value) is not int or not 1 <= value <= COUNTS[name]:
        raise _impossible(source, name, value, f"a whole number from 1 to {COUNTS[name]:,}")


def _check_number(source: "Source", name: str, value: object, most: float = 1e30) -> None:
    if type(value) not in (int, float) or not isfinite(value) or not 0 < value <= most:  # type: ignore[arg-type, operator]
        raise _impossible(source, name, value, f"a number above 0, at most {most:g}")


def _check_rotary(source: "Source", config: Any) -> None:
    """The dimensions of a head that are turned, in pairs, are no more than it has."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    given, kinds = config.rope_parameters, {"default", *ROPE_INIT_FUNCTIONS}
    if given["rope_type"] not in kinds:
        raise _impossible(source, "rope_type", given["rope_type"], f"one of {', '.join(sorted(kinds))}")
    _check_number(source, "rope_theta (rotary_emb_base)", given["rope_theta"])
    share, name = given["partial_rotary_factor"], "partial_rotary_factor (rotary_pct)"
    _check_number(source, name, share, most=1)
    d_head = config.hidden_size // config.num_attention_heads
    if 2 * ceil(int(d_head * share) / 2) > d_head:
        raise _impossible(source, name, share, f"less: pairs of a head's {d_head} dimensions are turned")


def _check_activation(source: "Source", name: object) -> None:
    from transformers.activations import ACT2FN

    if not isinstance(name, str) or name not in ACT2FN:
        raise _impossible(source, "hidden_act", name, "an activation function that transformers has")


def _impossible(source: "Source", name: str, value: object, must_be: str) -> ModelError:
    return ModelError(
        f"{source.name} cannot be loaded as a model: {name} in its config.json is {_short(value)}; it must "
        f"be {must_be}."
    )


# Weights ------------------------------------------------------------------------------------------


class _Tensors:
    """The tensors of a checkpoint's files, by their names in GPTNeoXForCausalLM; none is read yet."""

    def __init__(self, source: "Source", files: _Files) -> None:
        self.source, self.files = source, files
        self.held: dict[str, Any] = {}
        self.file_of: dict[str, str] = {}

    def checked(self, config: Any) -> dict[str, Any]:
        """All of them, of a checkpoint that holds what a model of these settings has, and no more."""
        self._read()
        expected = _shapes(config)
        optional = {"lm_head.weight"} if config.tie_word_embeddings else set()
        unexpected = {name for name in self.held if name not in expected and not OLD_BUFFERS.fullmatch(name)}
        kept = {name: tensor for name, tensor in self.held.items() if name in expected}
        wrong = [
            f"{name} {list(_shape(tensor))} instead of {list(expected[name])}"
            for name, tensor in kept.items()
            if _shape(tensor) != expected[name]
        ]
        _refuse_unless_whole(self.source, expected.keys() - kept.keys() - optional, unexpected, wrong)
        for name, tensor in kept.items():
            if _dtype(tensor) not in FLOATS:
                kind = str(_dtype(tensor)).removeprefix("torch.")
                raise self.files.wrong(
                    self.file_of[name],
                    f"holds {name} as {kind}: quantised or packed weights. Give a model whose weights are "
                    "float16, bfloat16, float32 or float64",
                )
        self._check_tied(config, kept)
        return kept

    def _read(self) -> None:
        for name in WEIGHTS:
            if self.files.find(name):
                break
        else:
            self.files.reach(WEIGHTS[0])
            raise self._no_weights()
        if name.endswith(".json"):
            self._read_by_index(name)
        else:
            self._add(name)
        self._rename()

    def _no_weights(self) -> ModelError:
        others = [
            name for name in self.files.names() if re.search(r"safetensors|bin|gguf|pt|h5|ckpt|msgpack", name)
        ]
        there = f" There are: {', '.join(map(_short, others[:NAMED]))}." if others else ""
        return ModelError(
            f"{self.source.name} holds no weights: {', '.join(WEIGHTS[:-1])} and {WEIGHTS[-1]} are missing."
            f"{there} Save the model with save_pretrained, or download it whole."
        )

    def _read_by_index(self, index: str) -> None:
        """The files that an index names, and in them every tensor that it promises."""
        by_tensor = self.files.object(index).get("weight_map")
        if not isinstance(by_tensor, dict) or not by_tensor or not all(map(_is_text, by_tensor.values())):
            raise self.files.wrong(index, "has no weight_map from tensors to files")
        suffix = ".safetensors" if ".safetensors." in index else ".bin"
        for file in sorted(set(by_tensor.values())):
            if not _stays_inside(file) or not file.endswith(suffix):
                raise self.files.wrong(
                    index,
                    f"names {_short(file)}, which is no *{suffix} file inside the folder: it was not opened",
                )
        for file in sorted(set(by_tensor.values())):
            self._add(file)
        lost = [name for name, file in by_tensor.items() if self.file_of.get(name) != file]
        if lost:
            raise self.files.wrong(index, f"promises tensors that are not where it says: {_listed(lost)}")

    def _add(self, file: str) -> None:
        path = self.files.need(file)
        try:
            found = _safetensors(path) if file.endswith(".safetensors") else _pickled(path)
        except Exception as error:
            kind = (
                "a whole safetensors file" if file.endswith(".safetensors") else "a pickle of tensors alone"
            )
            raise self.files.wrong(
                file, f"is not {kind} ({_in_a_line(error)}). Download or save it again, as safetensors"
            ) from error
        twice = self.held.keys() & found.keys()
        if twice:
            raise self.files.wrong(file, f"holds tensors that another file has too: {_listed(twice)}")
        self.held |= found
        self.file_of |= dict.fromkeys(found, file)

    def _rename(self) -> None:
        """As GPTNeoXForCausalLM calls them: a base model's have no prefix, and `embed_out` is `lm_head`."""
        has_prefix = any(name.startswith("gpt_neox.") for name in self.held)
        renamed, file_of = dict[str, Any](), dict[str, str]()
        for name, tensor in self.held.items():
            new = re.sub(r"^embed_out\.", "lm_head.", name)
            new = new if has_prefix or new.startswith("lm_head.") else f"gpt_neox.{new}"
            if new in renamed:
                raise self.files.wrong(self.file_of[name], "holds both embed_out.weight and lm_head.weight")
            renamed[new], file_of[new] = tensor, self.file_of[name]
        self.held, self.file_of = renamed, file_of

    def _check_tied(self, config: Any, kept: Mapping[str, Any]) -> None:
        """Where the embedding is the unembedding too, a second matrix must be the same one."""
        own = kept.get("lm_head.weight")
        if not config.tie_word_embeddings or own is None:
            return
        if not torch.equal(own[:], kept["gpt_neox.embed_in.weight"][:]):
            raise self.files.wrong(
                self.file_of["lm_head.weight"],
                "has an unembedding other than its embedding, and config.json says that they are one "
                "(tie_word_embeddings)",
            )


def _safetensors(path: Path) -> dict[str, Any]:
    """Tensors by name, as slices: what is not asked for is not read."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118


def _pickled(path: Path) -> dict[str, Any]:
    """Tensors by name, mapped; of a pickle nothing else is ever made."""
    import zipfile

    found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if not isinstance(found, dict):
        raise ValueError("it holds no tensors by their names")
    others = [name for name, tensor in found.items() if not _is_text(name) or not isinstance(tensor, Tensor)]
    if others:
        raise ValueError(f"it holds {_listed(map(str, others))}, which are no tensors")
    return found


def _shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Every tensor that a model of these settings has."""
    from transformers import GPTNeoXForCausalLM

    with torch.device("meta"):
        model = GPTNeoXForCausalLM(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(tensor.shape if isinstance(tensor, Tensor) else tensor.get_shape())


def _dtype(tensor: Any) -> object:
    return tensor.dtype if isinstance(tensor, Tensor) else tensor.get_dtype()


def _stays_inside(name: str) -> bool:
    """Whether a name given in a file leads to somewhere in the same folder, on any system."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return bool(name) and not any(path.anchor or ".." in path.parts for path in paths)


def _refuse_unless_whole(source: "Source", missing: Any, unexpected: Any, mismatched: Any) -> None:
    lists = {"missing": missing, "unexpected": unexpected, "of another shape": mismatched}
    told = [f"{_listed(names)} ({what})" for what, found in lists.items() if (names := sorted(found))]
    if told:
        raise ModelError(
            f"{source.name} cannot be annotated: its weights are not those of the model that config.json "
            f"describes: {'; '.join(told)}. Save the whole model again with save_pretrained, or download it "
            "again."
        )


# Tokenizer ----------------------------------------------------------------------------------------


def _tokenizer(source: "Source", files: _Files, vocab_size: int) -> Any:
    """The fast tokenizer beside the weights; one for several steps lies in the folder above them."""
    from dataclasses import replace

    from transformers import AutoTokenizer

    if source.tokenizer_path != source.path:
        files = _Files(replace(source, path=source.tokenizer_path))
    if files.find("tokenizer.json") is None:
        files.reach("tokenizer.json")
        raise ModelError(
            f"{source.name} has no tokenizer: its tokenizer.json is missing, and without it tokens have no "
            "character spans. Copy the tokenizer's files beside the weights (tokenizer.save_pretrained)."
        )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if files.find(name):
            files.object(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.tokenizer_path, revision=files.revision, trust_remote_code=False
        )
        backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(
            f"{source.name} cannot be loaded as a model: no tokenizer can be made from its tokenizer.json, "
            f"tokenizer_config.json and config.json ({_in_a_line(error)}). Save the tokenizer again."
        ) from error
    if backend is None:
        raise files.wrong("tokenizer.json", "makes no fast tokenizer: tokens would have no character spans")
    last = max(tokenizer.get_vocab().values(), default=-1)
    if max(len(tokenizer), last + 1) > vocab_size:
        raise ModelError(
            f"{source.name}: its tokenizer has {max(len(tokenizer), last + 1)} tokens, the model only "
            f"{vocab_size} rows. They do not belong together."
        )
    return tokenizer


# Words --------------------------------------------------------------------------------------------


def _why_not(source: "Source", error: BaseException) -> str:
    from annotate_transformer.ingest.models.model import EMBEDDED_MODEL

    causes = {type(cause).__name__ for cause in _chain(error)}
    if not source.is_local:
        if "RevisionNotFoundError" in causes:
            return f"{source.name} has no revision {source.revision!r} on the hub."
        if "RepositoryNotFoundError" in causes or "GatedRepoError" in causes:
            return f"The hub has no open model {source.path}. Is the name right?"
        if causes & OUT_OF_REACH:
            return (
                f"{source.path} is not in the local cache and the Hugging Face hub cannot be reached. "
                "Connect and run again, give a folder made by save_pretrained, or use the embedded model "
                f"({EMBEDDED_MODEL})."
            )
    return f"{source.name} cannot be loaded as a model: {type(error).__name__}: {_in_a_line(error)}."


OUT_OF_REACH = {
    "LocalEntryNotFoundError", "OfflineModeIsEnabled", "HfHubHTTPError", "HTTPError", "ConnectionError",
    "ConnectError", "ConnectTimeout", "ReadTimeout", "TimeoutException", "ProxyError", "SSLError",
}  # fmt: skip


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _in_a_line(error: BaseException) -> str:
    """A library's own words, without their full stop."""
    return _short(" ".join(str(error).split()) or type(error).__name__, LONGEST).rstrip(".:")


def _short(value: object, longest: int = 60) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= longest else f"{text[:longest]}…"


def _listed(names: Any) -> str:
    every = sorted(names)
    more = f" and {len(every) - NAMED:,} more" if len(every) > NAMED else ""
    return ", ".join(_short(name, LONGEST) for name in every[:NAMED]) + more


def _is_text(value: object) -> bool:
    return isinstance(value, str)
