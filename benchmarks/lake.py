"""Measure what a run takes in a lake, and how fast the lake answers, against the store.

    python benchmarks/lake.py FILE.duckdb [--times 10] [--lake ADDRESS --data FOLDER]

Exports the last finished run of the store into a new lake in a temporary folder, whose catalogue is a file,
or into the lake at ADDRESS. Both then get the same questions in turn, in one process, with positions, neurons
and heads drawn at random with a fixed seed; each question is asked once before it is timed. Prints a Markdown
table in milliseconds (median), with the ratio of both, and the bytes of both: of the store's file, which may
have other runs too, and of the lake's Parquet files.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer import store
from annotate_transformer.store.elsewhere.lake import Lake
from annotate_transformer.store.share import share_run
from benchmarks.measure import percentiles, print_head, print_table

Ask = Callable[[store.Store, random.Random], Any]


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder, store.open(options.file) as near:
        lake = Lake(options.lake or f"ducklake:{folder}/x.ducklake")
        run = near.run()
        start = time.perf_counter()
        shared = share_run(options.file, run, lake, options.data)
        exported = time.perf_counter() - start
        start = time.perf_counter()
        with store.open(lake) as far:
            opened = time.perf_counter() - start
            rows = [
                _compared(name, ask, near, far, options.times)
                for name, ask in _questions(near, run, shared.run_id).items()
            ]
        file, files = Path(options.file).stat().st_size, _bytes(lake)
    print_head(f"{Path(options.file).name}, run {run}, {_kind(lake)}; milliseconds")
    print_table(("question", "store", "lake", "lake ÷ store"), rows)
    print(
        f"\n{shared.rows:,} rows: {file / 1e6:,.1f} MB in the store's file, {files / 1e6:,.1f} MB in the "
        f"lake's Parquet files ({files / file:.2f}). Exported in {exported:.1f} s, opened in {opened:.1f} s."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--lake")
    parser.add_argument("--data")
    return parser.parse_args()


def _questions(s: store.Store, run: int, run_in_lake: int) -> dict[str, Ask]:
    """Return the questions by name. A question about a position gets its ordinal's id in either store."""
    model = s.model_of(run)
    layers, heads, neurons = (int(model[name]) for name in ("n_layers", "n_heads", "d_mlp"))
    [tokens] = s.sql("SELECT tokens FROM runs WHERE run_id = $run", {"run": run}).tokens
    near = s

    def at(asked: store.Store, draw: random.Random) -> int:
        return ((run if asked is near else run_in_lake) - 1) * 10**12 + draw.randrange(int(tokens))

    def neuron(asked: store.Store, draw: random.Random) -> store.Neuron:
        return asked.neuron(f"L{draw.randrange(layers)}N{draw.randrange(neurons)}")

    def head(asked: store.Store, draw: random.Random) -> store.Head:
        return asked.head(f"L{draw.randrange(layers)}H{draw.randrange(heads)}")

    rows = "FROM neurons WHERE layer = $layer AND neuron = $neuron"
    return {
        "position: the row and its text": lambda a, d: a.position(at(a, d)),
        "position: its neurons": lambda a, d: a.sql("FROM neurons WHERE position_id = $p", {"p": at(a, d)}),
        "position: every term": lambda a, d: a.decomposition(at(a, d), "term"),
        "position: text around it": lambda a, d: a.sql("FROM context($p, 20, 10)", {"p": at(a, d)}),
        "neuron: stored rows": lambda a, d: a.sql(
            rows, {"layer": d.randrange(layers), "neuron": d.randrange(neurons)}
        ),
        "neuron: strongest contexts": lambda a, d: neuron(a, d).contexts(),
        "head: by distance": lambda a, d: head(a, d).distances(),
        "all: loss by position": lambda a, d: a.sql(
            "SELECT position, -avg(next_logprob) FROM positions GROUP BY position ORDER BY position"
        ),
        "all: mean effect by component": lambda a, d: a.sql(
            "SELECT component, layer, avg(toward_next) FROM contributions GROUP BY ALL ORDER BY ALL"
        ),
    }


def _compared(name: str, ask: Ask, near: store.Store, far: store.Store, times: int) -> tuple[str, ...]:
    draws, taken = (random.Random(0), random.Random(0)), (list[float](), list[float]())
    for turn in range(times + 1):
        for s, draw, spent in zip((near, far), draws, taken, strict=True):
            start = time.perf_counter()
            ask(s, draw)
            if turn:
                spent.append(1000 * (time.perf_counter() - start))
    here, there = (percentiles(spent)[0] for spent in taken)
    return name, f"{here:.0f}", f"{there:.0f}", f"{there / here:.1f}"


def _kind(lake: Lake) -> str:
    return (
        "a lake with its catalogue in PostgreSQL" if lake.is_served else "a lake with its catalogue in a file"
    )


def _bytes(lake: Lake) -> int:
    with closing(lake.connect()) as con:
        [(size,)] = con.execute(
            "SELECT sum(file_size_bytes)::BIGINT FROM ducklake_table_info('lake')"
        ).fetchall()
    return int(size)


if __name__ == "__main__":
    main()
