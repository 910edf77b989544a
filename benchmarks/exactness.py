"""Measure how many questions about a neuron a store can answer exactly if it has k neurons per layer.

    python benchmarks/exactness.py [CORPUS] [--model MODEL] [--tokens 4096] [--plot FILE.svg]

A question is whether a neuron's activation, or its effect on a target, is above x at a position. Neuron,
position and x (a value of the same quantity from elsewhere in the layer) are drawn at random from a store
with all neurons. An answer is exact if the stored rows and bounds decide it. The stores have lists of one
entry and no sample (--top 1 --samples 0), so that their size is that of the rows. Prints a Markdown table,
and draws the fraction of exact answers against the size. A line in the plot marks DeepEverest (He et al.
2021), which answers exactly with less than 20 % of the full storage, because it runs the model again for
missing values.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import duckdb
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.store.queries import sections
from benchmarks.measure import (
    about,
    annotated,
    measured,
    parser_of,
    print_head,
    print_table,
    subject,
    warm_up,
)

ALL = 10**6
# Values of --keep-neurons. The first store has all neurons, so it knows the true answers.
KEPT = (ALL, 32, 16, 8, 4, 2, 1)
DEEPEVEREST = 0.2
SHARES = {
    "activations": "an activation",
    "effects": "an effect",
    "high_activations": "an activation, high x",
    "high_effects": "an effect, high x",
}
QUERIES = sections((Path(__file__).parent / "exactness.sql").read_text(encoding="utf-8"))


class Kept(NamedTuple):
    """A store: bytes per token, seconds of the ingest and of all answers, and counts of the answers."""

    bytes: float
    ingest: float
    asking: float
    answers: pd.Series


def main() -> None:
    options = _options()
    stores = dict[str, Kept]()
    with subject(options) as (model, folder), duckdb.connect() as con:
        warm_up(options.corpus, model, folder)
        for k in KEPT:
            db = folder / f"{k}.duckdb"
            settings = Settings(limit_tokens=options.tokens, keep_neurons=k, top=1, samples=0)
            report, spent = annotated(options.corpus, model, db, settings)
            con.execute(f"ATTACH '{db}' AS kept (READ_ONLY)")
            if k == ALL:
                con.execute(QUERIES["draw"].format(n=options.questions))
            with measured() as asking:
                answers = con.execute(QUERIES["ask"]).df().iloc[0]
            con.execute("DETACH kept")
            size = db.stat().st_size / report.tokens
            stores["all" if k == ALL else str(k)] = Kept(size, spent.wall, asking.wall, answers)
    print_head(f"{about(model)}; {report.tokens:,} tokens of {Path(options.corpus).name}; "
               f"{3 * options.questions:,} questions")  # fmt: skip
    _print(stores)
    if options.plot:
        _draw(stores, options.plot)


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__, tokens=4096)
    parser.add_argument("--questions", type=int, default=100_000, help="neurons drawn; three questions each")
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


def _print(stores: dict[str, Kept]) -> None:
    whole = stores["all"].bytes
    header = ("kept", "bytes a token", "of all", *(f"exact: {name}" for name in SHARES.values()))
    rows = [
        (
            name,
            f"{kept.bytes:,.0f}",
            f"{kept.bytes / whole:.0%}",
            *(f"{kept.answers[column]:.1%}" for column in SHARES),
            f"{kept.answers.wrong:.0f}",
            f"{kept.ingest:.1f}",
            f"{kept.asking:.1f}",
        )
        for name, kept in reversed(stores.items())
    ]
    print_table((*header, "wrong", "ingest, s", "all questions, s"), rows)


def _draw(stores: dict[str, Kept], file: Path) -> None:
    """Draw the fraction of exact answers against the size, relative to the store with all neurons."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    storage = [kept.bytes / stores["all"].bytes for kept in stores.values()]
    for column, name in SHARES.items():
        axes.plot(storage, [kept.answers[column] for kept in stores.values()], marker="o", label=name)
    for name, at in zip(stores, storage, strict=True):
        axes.annotate(name, (at, 0), ha="center", fontsize=8, color="0.4")
    axes.axvline(DEEPEVEREST, color="0.6", linestyle="--", label="DeepEverest: exact under 20 %")
    axes.set(xlabel="bytes a token, share of keeping all neurons", ylabel="answered exactly")
    axes.legend()
    figure.savefig(file)


if __name__ == "__main__":
    main()
