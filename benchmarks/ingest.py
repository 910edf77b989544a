"""Compare the whole ingest with Hugging Face's bare forward pass, on the same tokens in one process.

    python benchmarks/ingest.py [CORPUS] [--model MODEL] [--tokens 32768] [--bare-tokens 32768] [--lens]
        [--device cuda]

MODEL is a name, a folder made by save_pretrained, or a folder with only a config.json. In the last case the
model gets random weights (biases and norms too) and the tokenizer of --tokenizer; benchmarks/shapes has such
folders for shapes of other families than Pythia's. Prints a Markdown
table: the ratio of wall times and its lower bound, tokens/s, peak memory above the model's, bytes a token,
rows a second, and the time of each stage. Absolute times vary with the machine. The ratio compares times of
one process: the time of an ingest is divided by the mean of the bare passes before and after it.

The lower bound ("floor") counts multiplications: those of the forward pass and of the decomposition, divided
by those of the forward pass. The ratio would be equal to it if all multiplications were equally fast.
"""

import argparse
import itertools
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer import store
from annotate_transformer.ingest.corpus.windows import Batch, batches
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.run.settings import Settings
from benchmarks.measure import (
    NOT_HERE,
    about,
    annotated,
    first_windows,
    gguf_file,
    multiplications,
    parser_of,
    print_head,
    print_table,
    subject,
)

Seconds = tuple[float, float]  # wall and processor
BARE_BATCH = 512  # number of tokens in a batch of the bare pass; the ingest of a larger model uses fewer
TOGETHER = (1, 8)  # numbers of batches for which the products of each distinct target might be computed once


def main() -> None:
    options = _options()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("There was no GPU to run on (torch.cuda.is_available() is False).")
        sys.exit(NOT_HERE)
    with subject(options, options.device) as (model, folder):
        settings = Settings(limit_tokens=options.tokens, lens=options.lens, context=options.context)
        settings = settings.resolved(model)
        assert settings.context and settings.batch_tokens
        windows = first_windows(options.corpus, model, options.tokens, settings.context)
        reading = list(batches(windows, settings.batch_tokens))
        bare_reading = list(batches(windows, BARE_BATCH))
        few = bare_reading[:: max(1, options.tokens // (options.bare_tokens or options.tokens))]
        bare, runs = [_forward_seconds(model, few)], []
        for turn in range(options.turns):
            runs.append(_ingest(options.corpus, model, folder / f"{turn}.duckdb", settings))
            bare.append(_forward_seconds(model, few))
        distinct = {n: _distinct_targets(folder / "0.duckdb", reading, n) for n in TOGETHER}
        floors = _floors(model, windows, distinct)
        _print(options, model, settings, bare, runs, floors)


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__, tokens=32_768)
    parser.add_argument("--context", type=int)
    parser.add_argument("--lens", action="store_true")
    parser.add_argument("--turns", type=int, default=3, help="ingests, each between two bare passes")
    parser.add_argument("--bare-tokens", type=int, help="approximate tokens in a bare pass (default: all)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    return parser.parse_args()


def _forward_seconds(model: Model, reading: list[Batch]) -> Seconds:
    """Return the seconds per token of Hugging Face's forward pass with logits."""
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(
        model.checkpoint.folder, dtype=torch.float32, **gguf_file(model)
    )
    hf = hf.eval().to(model.device)

    def forward(batch: Batch) -> None:
        hf(torch.from_numpy(batch.tokens).to(model.device), use_cache=False)

    def clocks() -> Seconds:
        if model.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    with torch.inference_mode():
        forward(reading[0])
        start, busy = clocks()
        for batch in reading:
            forward(batch)
        end, worked = clocks()
    tokens = sum(int(batch.stored.sum()) for batch in reading)
    return (end - start) / tokens, (worked - busy) / tokens


def _ingest(corpus: str, model: Model, db: Path, settings: Settings) -> dict[str, Any]:
    report, spent = annotated(corpus, model, db, settings)
    return {
        "tokens": report.tokens,
        "seconds": spent.wall,
        "processor": spent.processor,
        "peak": spent.peak,
        "bytes": db.stat().st_size,
        "rows": _rows(db),
        "stages": report.seconds,
    }


def _rows(db: Path) -> int:
    tables = ("positions", "contributions", "heads", "head_sources", "neurons")
    with store.open(db) as s:
        return sum(int(s.sql(f"SELECT count(*) AS n FROM {table}").n.iloc[0]) for table in tables)


def _distinct_targets(db: Path, reading: list[Batch], together: int) -> float:
    """Return the number of distinct targets (next tokens and top predictions) per position.

    together: number of consecutive batches over which a target counts once
    """
    with store.open(db) as s:
        targets = s.sql(
            """SELECT coalesce(next_token_id, top_token_id) AS next, top_token_id AS top
               FROM positions ORDER BY position_id"""
        ).to_numpy()
    of_batch = [targets[batch.positions[batch.stored]] for batch in reading]
    groups = [np.concatenate(of_batch[i : i + together]) for i in range(0, len(of_batch), together)]
    return sum(len(np.unique(group)) for group in groups) / len(targets)


def _floors(model: Model, windows: list[Any], distinct: dict[int, float]) -> dict[str, float]:
    """Return the number of multiplications, divided by that of the forward pass, in several cases.

    In the first case, each of a position's two targets is computed by itself. In the others, each distinct
    target of so many batches is computed once; an ingest does this for each batch.
    """
    tokens = sum(len(window.ids) for window in windows)
    sources = sum(len(window.ids) * (len(window.ids) + 1) / 2 for window in windows) / tokens
    attention, neurons = model.n_heads * model.d_head, model.d_mlp
    forward = sum(multiplications(model, sources))
    directions = model.n_layers * (attention + neurons) * model.d_model  # W_O u and W_out u of a target u
    terms = 2 * model.n_layers * (attention + neurons + sources * attention)  # z, post and v on both sides
    return {
        "the floor by multiplications, two targets a position": 1 + (2 * directions + terms) / forward,
        **{
            f"the same with the {number:.2f} different targets a position of {_batches(together)}": 1
            + (number * directions + terms) / forward
            for together, number in distinct.items()
        },
    }


def _batches(count: int) -> str:
    return "a batch" if count == 1 else f"{count} batches"


def _print(
    options: argparse.Namespace,
    model: Model,
    settings: Settings,
    forward: list[Seconds],
    runs: list[dict[str, Any]],
    floors: dict[str, float],
) -> None:
    tokens = runs[0]["tokens"]
    bare, processor = (
        [(before[i] + after[i]) / 2 for before, after in itertools.pairwise(forward)] for i in range(2)
    )
    busy = [run["processor"] / tokens / theirs for run, theirs in zip(runs, processor, strict=True)]
    per_token = [run["seconds"] / tokens for run in runs]
    ratios = [mine / theirs for mine, theirs in zip(per_token, bare, strict=True)]
    run = runs[ratios.index(statistics.median_low(ratios))]
    rows = [
        ("wall, ingest ÷ bare forward with logits (median of turns)", f"{statistics.median(ratios):.2f}"),
        ("the turns", ", ".join(f"{ratio:.2f}" for ratio in ratios)),
        *((name, f"{floor:.2f}") for name, floor in floors.items()),
        ("processor time, ingest ÷ bare forward", f"{statistics.median(busy):.2f}"),
        ("bare forward, tokens/s", f"{1 / statistics.median(bare):,.0f}"),
        ("ingest, tokens/s", f"{1 / statistics.median(per_token):,.0f}"),
        ("peak memory above the loaded model", f"{max(r['peak'] for r in runs) / 1e6:,.0f} MB"),
        ("bytes a token", f"{run['bytes'] / tokens:,.0f}"),
        ("rows a second", f"{run['rows'] / run['seconds']:,.0f}"),
    ]
    rows += [(f"stage: {name}", f"{s / run['seconds']:.0%}") for name, s in run["stages"].items()]
    if model.device == "cuda":
        rows.append(("peak memory of the GPU", f"{torch.cuda.max_memory_allocated() / 1e6:,.0f} MB"))
    where = torch.cuda.get_device_name() if model.device == "cuda" else f"{torch.get_num_threads()} threads"
    print_head(
        f"{about(model)}; {tokens:,} tokens of {Path(options.corpus).name}, context {settings.context}, "
        f"lens {'on' if options.lens else 'off'}; {where}"
    )
    print_table(("", ""), rows)


if __name__ == "__main__":
    main()
