"""Measure the bytes per token of a store, of the same rows in zstd Parquet, and of dense fp16 arrays.

    python benchmarks/storage.py [CORPUS] [--model MODEL] [--tokens 30000] [--few 4096] [--plot FILE.svg]

There are three stores: one with default settings; one of --few tokens with default settings; and one of --few
tokens with --keep-neurons all. The last two have lists of one entry and no sample (--top 1 --samples 0),
because the size of lists and sample does not depend on the corpus. Prints a Markdown table, and draws it. The
dense arrays have two bytes for each number: the activation and the two effects of every neuron, the two
effects of every head, and the attention and two effects of each of the head's sources.
"""

import argparse
import sys
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer.ingest.attribution.selection import EFFECT_DECIMALS
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.run.settings import Settings
from benchmarks.measure import about, annotated, parser_of, print_head, print_table, subject

FORMATS = ("this store", "of it in use", "zstd Parquet", "dense fp16")


def main() -> None:
    options = _options()
    alone = {"limit_tokens": options.few, "top": 1, "samples": 0}
    asked = {
        "default settings": Settings(limit_tokens=options.tokens),
        "rows alone": Settings(**alone),
        "rows alone, --keep-neurons all": Settings(**alone, keep_neurons=None),
    }
    with subject(options) as (model, folder):
        stored = {}
        for name, settings in asked.items():
            db = folder / f"{len(stored)}.duckdb"
            report, _ = annotated(options.corpus, model, db, settings)
            sizes = (db.stat().st_size, _in_use(db), _parquet(db, folder))
            stored[name] = (report.tokens, *(size / report.tokens for size in sizes), _dense(db, model))
        with duckdb.connect(str(db), read_only=True) as con:
            errors = con.execute("SELECT max(step) / 2, avg(step) / 2 FROM base.neuron_code")
            [(worst, mean)] = errors.fetchall()
    print_head(f"{about(model)}; {Path(options.corpus).name}; bytes a token")
    rows = [(name, *(f"{figure:,.0f}" for figure in figures)) for name, figures in stored.items()]
    print_table(("", "tokens", *FORMATS), rows)
    print(f"\nDense, one number a neuron and head: {2 * model.n_layers * (model.d_mlp + model.n_heads):,} "
          "bytes a token. A stored neuron's activation and effects are rounded, by "
          f"{0.5 / 10**EFFECT_DECIMALS} at most; its layer's sum is kept exactly. With --keep-neurons all "
          f"an activation beyond the strongest is {worst:.3f} away at most, on the mean {mean:.3f} at most; "
          "an effect is wrong by the same share.")  # fmt: skip
    if options.plot:
        _draw({name: figures[1:] for name, figures in stored.items()}, options.plot)


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__, tokens=30_000)
    parser.add_argument("--few", type=int, default=4096)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


def _in_use(db: Path) -> int:
    """Return the bytes of the file's blocks that are in use; the next shard can use the other blocks."""
    with duckdb.connect(str(db), read_only=True) as con:
        used = con.execute("SELECT used_blocks * block_size FROM pragma_database_size()").fetchall()
    return int(used[0][0])


def _parquet(db: Path, folder: Path) -> int:
    """Return the bytes of all rows of the store in Parquet, with one file per table."""
    with duckdb.connect(str(db), read_only=True) as con:
        tables = con.execute("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'base'").fetchall()
        files = [folder / f"{db.stem}-{table}.parquet" for (table,) in tables]
        for (table,), file in zip(tables, files, strict=True):
            con.execute(f"COPY base.{table} TO '{file}' (FORMAT parquet, COMPRESSION zstd)")
    return sum(file.stat().st_size for file in files)


def _dense(db: Path, model: Model) -> float:
    with duckdb.connect(str(db), read_only=True) as con:
        sources = con.execute("SELECT avg(position + 1) FROM base.position").fetchall()[0][0]
    heads = model.n_heads * (2 + 3 * sources)
    return 2 * model.n_layers * float(3 * model.d_mlp + heads)


def _draw(stored: dict[str, tuple[float, ...]], file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for place, (name, values) in enumerate(zip(FORMATS, zip(*stored.values(), strict=True), strict=True)):
        bars = axes.bar([at + 0.2 * place for at in range(len(stored))], values, 0.2, label=name)
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=8)
    axes.set(ylabel="bytes a token")
    axes.set_xticks([at + 0.3 for at in range(len(stored))], [name.replace(", ", ",\n") for name in stored])
    axes.legend(loc="upper center")
    figure.savefig(file)


if __name__ == "__main__":
    main()
