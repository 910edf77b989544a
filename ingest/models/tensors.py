"""Read and check the tensors of a checkpoint, from safetensors files or from pickled tensors.

A pickle is loaded with weights_only, so no code in it runs. Every tensor of the model must be present once,
with the right shape, as floating-point numbers; transformers would fill a missing tensor with random numbers.
A file that an index names must lie in the same folder.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.families.base import Family
from annotate_transformer.ingest.models.files import Files
from annotate_transformer.ingest.models.names import Checkpoint
from annotate_transformer.ingest.models.sentences import NAMED, in_a_line, is_text, listed, short

WEIGHTS = (  # names of files with weights; the first file that exists is used, as in transformers
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
FLOATS = {"F64", "F32", "F16", "BF16"} | {torch.float64, torch.float32, torch.float16, torch.bfloat16}


class Tensors:
    """The tensors of a checkpoint, by their names in transformers; safetensors are not read before use."""

    def __init__(self, checkpoint: Checkpoint, files: Files, family: Family) -> None:
        self.checkpoint, self.files, self.family = checkpoint, files, family
        self.held: dict[str, Any] = {}
        self.file_of: dict[str, str] = {}

    def checked(self, config: Any) -> dict[str, Any]:
        """Return all tensors; raise ModelError unless their names and shapes are as config.json requires."""
        self._read()
        expected = shapes(self.family, config)
        optional = {self.family.unembedding_name} if config.tie_word_embeddings else set()
        unexpected = {
            name for name in self.held if name not in expected and not self.family.is_obsolete(name)
        }
        kept = {name: tensor for name, tensor in self.held.items() if name in expected}
        wrong = [
            f"{name} {list(_shape(tensor))} instead of {list(expected[name])}"
            for name, tensor in kept.items()
            if _shape(tensor) != expected[name]
        ]
        refuse_unless_whole(self.checkpoint, expected.keys() - kept.keys() - optional, unexpected, wrong)
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
        there = f" There are: {', '.join(map(short, others[:NAMED]))}." if others else ""
        return ModelError(
            f"{self.checkpoint.name} holds no weights: {', '.join(WEIGHTS[:-1])} and {WEIGHTS[-1]} are "
            f"missing.{there} Save the model with save_pretrained, or download it whole."
        )

    def _read_by_index(self, index: str) -> None:
        """Read the files that an index file names, and check that each contains the tensors listed for it."""
        by_tensor = self.files.object(index).get("weight_map")
        if not isinstance(by_tensor, dict) or not by_tensor or not all(map(is_text, by_tensor.values())):
            raise self.files.wrong(index, "has no weight_map from tensors to files")
        suffix = ".safetensors" if ".safetensors." in index else ".bin"
        for file in sorted(set(by_tensor.values())):
            if not _stays_inside(file) or not file.endswith(suffix):
                raise self.files.wrong(
                    index,
                    f"names {short(file)}, which is no *{suffix} file inside the folder: it was not opened",
                )
        for file in sorted(set(by_tensor.values())):
            self._add(file)
        lost = [name for name, file in by_tensor.items() if self.file_of.get(name) != file]
        if lost:
            raise self.files.wrong(index, f"lists tensors that are not in their files: {listed(lost)}")

    def _add(self, file: str) -> None:
        path = self.files.need(file)
        try:
            found = _safetensors(path) if file.endswith(".safetensors") else _pickled(path)
        except Exception as error:
            kind = "a whole safetensors file" if file.endswith(".safetensors") else "a pickle of tensors only"
            raise self.files.wrong(
                file, f"is not {kind} ({in_a_line(error)}). Download or save it again, as safetensors"
            ) from error
        twice = self.held.keys() & found.keys()
        if twice:
            raise self.files.wrong(file, f"holds tensors that another file has too: {listed(twice)}")
        self.held |= found
        self.file_of |= dict.fromkeys(found, file)

    def _rename(self) -> None:
        """Rename each tensor to its name in the current version of transformers."""
        renamed, file_of = dict[str, Any](), dict[str, str]()
        new_names = self.family.parameter_names(self.held)
        for name, tensor in self.held.items():
            new = new_names[name]
            if new in renamed:
                both = " and ".join(sorted(old for old, same in new_names.items() if same == new))
                raise self.files.wrong(self.file_of[name], f"holds both {both}")
            renamed[new], file_of[new] = tensor, self.file_of[name]
        self.held, self.file_of = renamed, file_of

    def _check_tied(self, config: Any, kept: Mapping[str, Any]) -> None:
        """Check that a stored unembedding equals the embedding if config.json says that they are tied."""
        own = kept.get(self.family.unembedding_name)
        if not config.tie_word_embeddings or own is None:
            return
        if not torch.equal(own[:], kept[self.family.embedding_name][:]):
            raise self.files.wrong(
                self.file_of[self.family.unembedding_name],
                "has an unembedding that differs from its embedding, but config.json ties them "
                "(tie_word_embeddings)",
            )


def _safetensors(path: Path) -> dict[str, Any]:
    """Return the tensors of a file by name, as safetensors slices, whose data are not read before use."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (`file` is not a dict)


def _pickled(path: Path) -> dict[str, Any]:
    """Return the tensors of a pickle by name, memory-mapped; raise ValueError for any other content."""
    import zipfile

    found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if not isinstance(found, dict):
        raise ValueError("it is no mapping from names to tensors")
    others = [name for name, tensor in found.items() if not is_text(name) or not isinstance(tensor, Tensor)]
    if others:
        raise ValueError(f"it holds {listed(map(str, others))}, which are no tensors")
    return found


def shapes(family: Family, config: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that a model with this config has, by tensor name."""
    with torch.device("meta"):
        model = family.hf_class()(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(tensor.shape if isinstance(tensor, Tensor) else tensor.get_shape())


def _dtype(tensor: Any) -> object:
    return tensor.dtype if isinstance(tensor, Tensor) else tensor.get_dtype()


def _stays_inside(name: str) -> bool:
    """Return whether a file name from an index lies inside the folder on every operating system."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return bool(name) and not any(path.anchor or ".." in path.parts for path in paths)


def refuse_unless_whole(checkpoint: Checkpoint, missing: Any, unexpected: Any, mismatched: Any) -> None:
    lists = {"missing": missing, "unexpected": unexpected, "of another shape": mismatched}
    told = [f"{listed(names)} ({what})" for what, found in lists.items() if (names := sorted(found))]
    if told:
        raise ModelError(
            f"{checkpoint.name} cannot be annotated: its weights are not those of the model that "
            f"{checkpoint.config_file} describes: {'; '.join(told)}. Save the whole model again with "
            "save_pretrained, or download it again."
        )
