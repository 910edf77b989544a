"""Measure `annotate weights`: the wall time of each part, and the peak memory above the model's.

    python benchmarks/weights.py MODEL [--tokenizer FOLDER] [--corpus FILE --tokens 32768]

MODEL is as in benchmarks/ingest.py: a model from a folder with only a config.json gets random weights. With
--corpus, --tokens tokens of the corpus are annotated first, and their bigrams are compared with the direct
path. Prints a Markdown table.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.weights.tables import annotate_weights
from benchmarks.measure import about, annotated, measured, print_head, print_table, subject


def main() -> None:
    options = _options()
    with subject(options) as (model, folder):
        db = folder / "weights.duckdb"
        if options.corpus:
            annotated(options.corpus, model, db, Settings(limit_tokens=options.tokens))
        before = db.stat().st_size if db.exists() else 0
        with measured() as spent:
            report = annotate_weights(model, str(db), top=options.top)
        larger = db.stat().st_size - before
    print_head(f"{about(model)}; lists of {report.top}")
    rows = [("wall", f"{spent.wall:.1f} s"), ("processor time", f"{spent.processor:.1f} s")]
    rows += [(f"wall: {part}", f"{seconds:.1f} s") for part, seconds in report.seconds.items()]
    rows += [("peak memory above the loaded model", f"{spent.peak / 1e6:,.0f} MB")]
    print_table(("", ""), [*rows, ("larger file", f"{larger / 1e6:,.0f} MB")])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokenizer", help="folder of a tokenizer, for a model without weights")
    parser.add_argument("--corpus")
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--top", type=int, default=20)
    return parser.parse_args()


if __name__ == "__main__":
    main()
