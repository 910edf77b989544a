"""Measure whether memory and bytes grow with the corpus, by ingests of a hundredth, a tenth and all of it.

    python benchmarks/memory.py [CORPUS] [--model MODEL] [--tokens 30000] [--keep FILE.duckdb]

--tokens 10000000 gives the figures at 0.1, 1 and 10 million tokens. --keep moves the last store to FILE, for
benchmarks/questions.py. Each ingest runs in a process of its own, in which only the model is loaded before.
Prints a Markdown table.
"""

import argparse
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer.ingest.run.settings import Settings
from benchmarks.measure import about, annotated, parser_of, print_head, print_table, subject

# A description of the model, the number of tokens, the peak memory and the size of the file (both in bytes)
Grown = tuple[str, int, int, int]


def main() -> None:
    parser = parser_of(__doc__, tokens=30_000)
    parser.add_argument("--keep")
    options = parser.parse_args()
    grown = [_apart(options, options.tokens // part) for part in (100, 10, 1)]
    _, (name, few, _, less), (_, many, _, more) = grown
    print_head(f"{name}; {Path(options.corpus).name}, default settings")
    print_table(
        ("tokens", "peak memory above the loaded model", "file", "bytes a token"),
        [
            (f"{tokens:,}", f"{peak / 1e6:,.0f} MB", f"{size / 1e6:,.0f} MB", f"{size / tokens:,.0f}")
            for _, tokens, peak, size in grown
        ],
    )
    print(f"\nEach further token: {(more - less) / (many - few):,.0f} bytes.")


def _apart(options: argparse.Namespace, tokens: int) -> Grown:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_grown, options, tokens).result()


def _grown(options: argparse.Namespace, tokens: int) -> Grown:
    with subject(options) as (model, folder):
        db = folder / "memory.duckdb"
        report, spent = annotated(options.corpus, model, db, Settings(limit_tokens=tokens))
        size = db.stat().st_size
        if options.keep:
            shutil.move(db, options.keep)  # each store replaces the one before
        return about(model), report.tokens, spent.peak, size


if __name__ == "__main__":
    main()
