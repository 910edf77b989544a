"""What `annotate weights` costs: the wall time of each part, and peak memory above the model's.

    python benchmarks/weights.py MODEL [--tokenizer FOLDER] [--corpus FILE --tokens 32768]

MODEL as in benchmarks/ingest.py: a folder with only a config.json is given random weights. With a
corpus so many of its tokens are annotated first, and their bigrams compared. Prints a Markdown table.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.ingest import peak_memory, with_weights
from ingest.model import Model, resolve
from ingest.pipeline import Settings, ingest
from ingest.sources import Corpus
from ingest.weights import Report, annotate_weights


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        model = Model(resolve(with_weights(Path(options.model), options.tokenizer, Path(folder))))
        db = Path(folder) / "weights.duckdb"
        if options.corpus:
            with Corpus([options.corpus]) as documents:
                ingest(documents, model, str(db), Settings(limit_tokens=options.tokens))
        before = db.stat().st_size if db.exists() else 0
        with peak_memory() as peak:
            start, busy = time.perf_counter(), time.process_time()
            report = annotate_weights(model, str(db), top=options.top)
            spent = (time.perf_counter() - start, time.process_time() - busy)
        _print(options, model, report, spent, peak[0], db.stat().st_size - before)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokenizer", help="folder of a tokenizer, for a model without weights")
    parser.add_argument("--corpus")
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--top", type=int, default=20)
    return parser.parse_args()


def _print(
    options: argparse.Namespace,
    model: Model,
    report: Report,
    spent: tuple[float, float],
    peak: int,
    size: int,
) -> None:
    print(f"{options.model}: {model.n_layers} layers, d_model {model.d_model}, d_mlp {model.d_mlp}, "
          f"{model.n_tokens:,} tokens; lists of {report.top}")  # fmt: skip
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
          f"torch {torch.__version__}, Python {platform.python_version()}\n")  # fmt: skip
    rows = [("wall", f"{spent[0]:.1f} s"), ("processor time", f"{spent[1]:.1f} s")]
    rows += [(f"wall: {part}", f"{seconds:.1f} s") for part, seconds in report.seconds.items()]
    rows += [("peak memory above the loaded model", f"{peak / 1e6:,.0f} MB")]
    rows += [("larger file", f"{size / 1e6:,.0f} MB")]
    print("| | |\n|---|---|")
    print("\n".join(f"| {name} | {value} |" for name, value in rows))


if __name__ == "__main__":
    main()
