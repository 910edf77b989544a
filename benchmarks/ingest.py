"""The whole ingest against Hugging Face's bare forward pass, on the same tokens in one process.

    python benchmarks/ingest.py CORPUS --model MODEL [--tokens 32768] [--lens] [--context 256]

MODEL is a name, a folder made by save_pretrained, or a folder with only a config.json: then it is
given random weights (biases and LayerNorms too) and the tokenizer of --tokenizer. Prints a Markdown
table: wall ratio, tokens/s, peak memory above the model's, bytes a token, rows a second, and where
the time went. Absolute times vary with the machine; the ratio is of one process.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from ingest.model import Model, resolve
from ingest.pipeline import Progress, Settings, ingest
from ingest.sources import Corpus
from ingest.tokens import Batch, Cursor, Tokenizer, Windowing, batches


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        path = with_weights(Path(options.model), options.tokenizer, Path(folder))
        model = Model(resolve(path))
        settings = Settings(limit_tokens=options.tokens, lens=options.lens, context=options.context)
        context = settings.resolved(model).context
        assert context
        reading = _windows(options.corpus, model, options.tokens, context, settings.batch_tokens)
        bare, annotated = [], []
        for turn in range(options.turns):
            bare.append(_forward_seconds(path, reading))
            db = Path(folder) / f"{turn}.duckdb"
            annotated.append(_ingest(options.corpus, model, db, settings))
        _print(options, model, context, bare, annotated)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--model", default="neox-2m")
    parser.add_argument("--tokenizer", help="folder of a tokenizer, for a model without weights")
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--context", type=int)
    parser.add_argument("--lens", action="store_true")
    parser.add_argument("--turns", type=int, default=3, help="bare and annotated in turn, so often")
    return parser.parse_args()


def with_weights(model: Path, tokenizer: str | None, folder: Path) -> str:
    """A folder with weights: `model` itself, or its shape with seeded random ones."""
    if not model.is_dir() or any(model.glob("*.safetensors")):
        return str(model)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("bias") or "layernorm" in name or "layer_norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    out = folder / model.name
    made.save_pretrained(out)
    AutoTokenizer.from_pretrained(tokenizer or model).save_pretrained(out)
    return str(out)


def _windows(corpus: str, model: Model, tokens: int, context: int, batch_tokens: int) -> list[Batch]:
    """The same tokens in the same batches as the ingest's first ones."""
    tokenizer, windows, left = Tokenizer(model.tokenizer), [], tokens
    with Corpus([corpus]) as documents:
        for document in documents:
            pieces = tokenizer.encode(document.text)
            for window in Windowing(context, context, None).windows(pieces, Cursor()):
                windows.append(window)
                left -= len(window.ids)
            if left <= 0:
                break
    return list(batches(windows, batch_tokens))


def _forward_seconds(path: str, reading: list[Batch]) -> tuple[float, float]:
    """Seconds a token of Hugging Face's forward pass with logits: wall and processor."""
    from transformers import AutoModelForCausalLM

    source = resolve(path)
    hf = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32).eval()
    with torch.inference_mode():
        hf(torch.from_numpy(reading[0].tokens), use_cache=False)
        start, busy = time.perf_counter(), time.process_time()
        for batch in reading:
            hf(torch.from_numpy(batch.tokens), use_cache=False)
    tokens = sum(int(batch.stored.sum()) for batch in reading)
    return (time.perf_counter() - start) / tokens, (time.process_time() - busy) / tokens


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """After the block: by how many bytes the process was larger, at its largest, than before it."""
    process = psutil.Process()
    before, peak, done = process.memory_info().rss, [0], threading.Event()

    def watch_memory() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], process.memory_info().rss - before)

    watcher = threading.Thread(target=watch_memory)
    watcher.start()
    yield peak
    done.set()
    watcher.join()


def _ingest(corpus: str, model: Model, db: Path, settings: Settings) -> dict[str, object]:
    last: list[Progress] = []
    with peak_memory() as peak, Corpus([corpus]) as documents:
        scan = documents.scan()
        start, busy = time.perf_counter(), time.process_time()
        report = ingest(documents, model, str(db), settings, scan=scan, watch=lambda p: last.append(p))
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return {
        "tokens": report.tokens,
        "seconds": seconds,
        "processor": busy,
        "peak": peak[0],
        "bytes": db.stat().st_size,
        "rows": _rows(db),
        "stages": report.seconds,
    }


def _rows(db: Path) -> int:
    import store

    tables = ("positions", "contributions", "heads", "head_sources", "neurons")
    with store.open(db) as s:
        return sum(int(s.sql(f"SELECT count(*) AS n FROM {table}").n.iloc[0]) for table in tables)


def _print(
    options: argparse.Namespace,
    model: Model,
    context: int,
    forward: list[tuple[float, float]],
    runs: list[dict],
) -> None:
    tokens, bare = runs[0]["tokens"], [wall for wall, _ in forward]
    busy = [run["processor"] / tokens / processor for run, (_, processor) in zip(runs, forward, strict=True)]
    per_token = [run["seconds"] / tokens for run in runs]
    ratios = [mine / theirs for mine, theirs in zip(per_token, bare, strict=True)]
    run = runs[ratios.index(statistics.median_low(ratios))]
    rows = [
        ("wall, ingest ÷ bare forward with logits (median of turns)", f"{statistics.median(ratios):.2f}"),
        ("the turns", ", ".join(f"{ratio:.2f}" for ratio in ratios)),
        ("processor time, ingest ÷ bare forward", f"{statistics.median(busy):.2f}"),
        ("bare forward, tokens/s", f"{1 / statistics.median(bare):,.0f}"),
        ("ingest, tokens/s", f"{1 / statistics.median(per_token):,.0f}"),
        ("peak memory above the loaded model", f"{max(r['peak'] for r in runs) / 1e6:,.0f} MB"),
        ("bytes a token", f"{run['bytes'] / tokens:,.0f}"),
        ("rows a second", f"{run['rows'] / run['seconds']:,.0f}"),
    ]
    rows += [(f"stage: {name}", f"{s / run['seconds']:.0%}") for name, s in run["stages"].items()]
    print(f"{options.model}: {model.n_layers} layers, d_model {model.d_model}, d_mlp {model.d_mlp}, "
          f"vocabulary {model.d_vocab}; {tokens:,} tokens of {Path(options.corpus).name}, "
          f"context {context}, lens {'on' if options.lens else 'off'}")  # fmt: skip
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
          f"torch {torch.__version__}, Python {platform.python_version()}\n")  # fmt: skip
    print("| | |\n|---|---|")
    print("\n".join(f"| {name} | {value} |" for name, value in rows))


if __name__ == "__main__":
    main()
