"""Functions that the benchmarks share: options, a timed ingest, time and memory, output as tables."""

import argparse
import ctypes
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import psutil

from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.corpus.windows import Cursor, Window, Windowing, cut_to
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import EMBEDDED, resolve
from annotate_transformer.ingest.run.pipeline import RunReport, ingest
from annotate_transformer.ingest.run.provenance import processor
from annotate_transformer.ingest.run.run_summary import RunSummary
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.run.survey import survey

CORPUS = EMBEDDED / "corpus.jsonl"
NOT_HERE = 69  # exit status if the machine lacks what a benchmark needs (sysexits.h: EX_UNAVAILABLE)
LIBRARIES = ("torch", "transformer-lens", "transformers", "duckdb", "pandas")


def parser_of(says: str | None, tokens: int) -> argparse.ArgumentParser:
    """Return the options of a benchmark that annotates a corpus. tokens: the default of --tokens."""
    parser = argparse.ArgumentParser(description=says, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpus", nargs="?", default=str(CORPUS))
    parser.add_argument("--model", default="neox-2m")
    parser.add_argument("--tokenizer", help="folder of a tokenizer, for a model without weights")
    parser.add_argument("--tokens", type=int, default=tokens)
    return parser


@contextmanager
def subject(options: argparse.Namespace, device: str = "cpu") -> Iterator[tuple[Model, Path]]:
    """Context manager: yield the model of --model, and a temporary folder that is removed after the block."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = with_weights(Path(options.model), options.tokenizer, folder)
        yield Model(resolve(path), device=device), folder


def warm_up(corpus: str, model: Model, folder: Path) -> None:
    """Run a small ingest, so that no timed ingest has to load the compiled loops."""
    annotated(corpus, model, folder / "warm.duckdb", Settings(limit_tokens=512))


def with_weights(model: Path, tokenizer: str | None, folder: Path) -> str:
    """Return a folder with weights: `model` itself or, if it has none, a copy with seeded random weights."""
    if not model.is_dir() or any(model.glob("*.safetensors")):
        return str(model)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("bias") or "norm" in name or "ln_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    out = folder / model.name
    made.save_pretrained(out)
    AutoTokenizer.from_pretrained(tokenizer or model).save_pretrained(out)
    _cut(out / "tokenizer.json", made.config.vocab_size)
    return str(out)


def _cut(tokenizer: Path, d_vocab: int) -> None:
    """Remove the tokens of a BPE tokenizer for which a model with d_vocab tokens has no rows."""
    made = json.loads(tokenizer.read_text(encoding="utf-8"))
    made["added_tokens"] = [token for token in made["added_tokens"] if token["id"] < d_vocab]
    bpe = made["model"]
    bpe["vocab"] = {token: number for token, number in bpe["vocab"].items() if number < d_vocab}
    bpe["merges"] = [pair for pair in bpe["merges"] if "".join(pair) in bpe["vocab"]]
    tokenizer.write_text(json.dumps(made), encoding="utf-8")


def gguf_file(model: Model) -> dict[str, str]:
    """Return the option of `from_pretrained` that names a GGUF file, if the model is one."""
    return {"gguf_file": model.checkpoint.config_file} if model.checkpoint.is_gguf else {}


def first_windows(corpus: str, model: Model, tokens: int, context: int) -> list[Window]:
    """Return the windows that an ingest with --limit-tokens annotates, numbered as in the store."""
    tokenizer, windows, at = Tokenizer(model.tokenizer), list[Window](), Cursor()
    with Corpus([corpus]) as documents:
        for document in documents:
            for window in Windowing(context, context, None).windows(tokenizer.encode(document.text), at):
                left = tokens - int(window.positions[0])
                windows.append(cut_to(window, min(left, len(window.ids))))
                if len(window.ids) >= left:
                    return windows
                at = Cursor(0, int(window.positions[-1]) + 1, window.window + 1)
    return windows


@dataclass
class Measured:
    """The seconds that a block took, and by how many bytes the process's memory grew at most."""

    wall: float = 0.0
    processor: float = 0.0
    peak: int = 0


@contextmanager
def measured() -> Iterator[Measured]:
    """Context manager: measure the time and memory of the block; the values are set when the block ends."""
    # Return freed memory to the system (glibc), so that the block cannot reuse it.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    process, done, spent = psutil.Process(), threading.Event(), Measured()
    before = process.memory_info().rss

    def watch_memory() -> None:
        while not done.wait(0.02):
            spent.peak = max(spent.peak, process.memory_info().rss - before)

    watcher = threading.Thread(target=watch_memory)
    watcher.start()
    start, busy = time.perf_counter(), time.process_time()
    try:
        yield spent
    finally:
        spent.wall, spent.processor = time.perf_counter() - start, time.process_time() - busy
        done.set()
        watcher.join()


def annotated(corpus: str, model: Model, db: Path, settings: Settings) -> tuple[RunReport, Measured]:
    """Run and measure an ingest into `db`; the survey, which reads the corpus first, is not measured."""
    with Corpus([corpus]) as documents:
        surveyed = survey(documents, model.checkpoint, settings)
        with measured() as spent:
            report = ingest(documents, model, str(db), settings, survey=surveyed)
    return report, spent


def empty_summary(model: Model, settings: Settings, positions: int) -> RunSummary:
    """Return the summary of a run of `positions` positions; the settings must come from `with_sizes`."""
    assert settings.top and settings.samples is not None, "settings from `with_sizes`"
    shape = (model.n_layers, model.d_mlp, model.n_heads)
    return RunSummary(*shape, positions, settings.top, settings.samples, settings.seed, False)


def multiplications(model: Model, sources: float) -> tuple[float, float]:
    """Return how many multiplications all blocks and the unembedding need for one position.

    sources: mean number of positions from which a position reads
    """
    attention, keys = model.n_heads * model.d_head, model.n_kv_heads * model.d_head
    matrices = 2 * (attention + keys) + (3 if model.is_gated else 2) * model.d_mlp
    block = matrices * model.d_model + 2 * sources * attention
    return model.n_layers * block, model.d_model * model.d_vocab


def about(model: Model) -> str:
    return (
        f"{Path(model.checkpoint.name).name}: {model.n_layers} layers, {model.n_heads} heads, d_model "
        f"{model.d_model}, d_mlp {model.d_mlp}, vocabulary {model.d_vocab:,}"
    )


def print_head(subject: str) -> None:
    """Print what was measured, and a line with the machine, the versions of libraries and the date."""
    memory = psutil.virtual_memory().total / 1e9
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    print(f"{subject}.\n{processor('cpu')}, {os.cpu_count()} cores, {memory:.0f} GB; {platform.system()}, "
          f"Python {platform.python_version()}, {libraries}; {date.today()}.\n")  # fmt: skip


def percentiles(taken: Sequence[float]) -> tuple[float, float]:
    """Return the 50th and the 95th percentile."""
    ordered = sorted(taken)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |", flush=True)
