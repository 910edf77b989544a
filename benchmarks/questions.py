"""Measure how fast a store answers, and how fast Parquet, SQLite with indexes and pandas answer the same.

    python benchmarks/questions.py FILE.duckdb [--times 40] [--no-others]

Asks each question many times through one `store.Store`, as a notebook or the app does; tokens, neurons, heads
and positions are drawn at random with a fixed seed. All questions are asked once, about parts of the file
that DuckDB has not read yet, and once more (warm). Before each cold question, the file is closed and the
system is asked to drop the file's pages from its cache (Linux). Prints a Markdown table in milliseconds.
Parquet, SQLite and pandas get copies of the store's rows, in a temporary folder or in memory; a store of
100,000 tokens is large enough.
"""

import argparse
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer import store
from annotate_transformer.store.queries import sections
from benchmarks.measure import percentiles, print_head, print_table

Ask = Callable[[random.Random], Any]
Drawn = dict[str, int]
TABLES = ("position", "contribution", "head", "neuron", "top_entry")
LOOKUPS = Path(__file__).parent / "lookups.sql"
INDEXES = {
    "position": ["position_id", "token_id"],
    "contribution": ["position_id"],
    "head": ["position_id", "layer, head"],
    "neuron": ["position_id", "layer, neuron"],
    "top_entry": ["kind, layer, unit"],
}


def main() -> None:
    options = _options()
    s = store.open(options.file)
    shape = s.sql(
        "SELECT m.*, r.tokens FROM models m JOIN runs r USING (model_id) ORDER BY run_id DESC"
    ).iloc[0]
    first = int(s.sql("SELECT min(position_id) FROM base.position").iloc[0, 0])
    ids = s.tokens("", "prefix").query("occurrences > 20").token_id.tolist()
    questions = _questions(s, shape, first, ids)
    size = Path(options.file).stat().st_size / 1e9
    print_head(f"{Path(shape.model).name}, {int(shape.tokens):,} tokens, {size:.2f} GB; milliseconds")
    rows = []
    for name, ask in questions.items():
        anew, warm = (_times(ask, options.times) for _ in range(2))
        cold = _times(ask, max(5, options.times // 4), lambda: _forget(s))
        rows.append((name, *(f"{x:.0f}" for taken in (anew, warm, cold) for x in percentiles(taken))))
    print_table(("question", "p50", "p95", "warm p50", "warm p95", "cold p50", "cold p95"), rows)
    if options.others:
        _others(options, shape, first, ids)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--times", type=int, default=40)
    parser.add_argument("--no-others", dest="others", action="store_false")
    return parser.parse_args()


def _questions(s: store.Store, shape: pd.Series, first: int, ids: list[int]) -> dict[str, Ask]:
    """Return the questions by name: lookups by token, neuron, head and position, and sums over the run."""
    layers, heads, neurons, tokens = (int(shape[c]) for c in ("n_layers", "n_heads", "d_mlp", "tokens"))

    def neuron(draw: random.Random) -> store.Neuron:
        return s.neuron(f"L{draw.randrange(layers)}N{draw.randrange(neurons)}")

    def head(draw: random.Random) -> store.Head:
        return s.head(f"L{draw.randrange(layers)}H{draw.randrange(heads)}")

    def at(draw: random.Random) -> int:
        return first + draw.randrange(tokens)

    return {
        "token: 100 occurrences with text": lambda d: s.occurrences(d.choice(ids)),
        "phrase: 100 places with text": lambda d: s.phrase(
            "the " + d.choice(["people", "world", "war", "year"])
        ),
        "position: the row and its text": lambda d: s.position(at(d)),
        "position: by component": lambda d: s.decomposition(at(d), "component"),
        "position: every term": lambda d: s.decomposition(at(d), "term"),
        "position: by source": lambda d: s.decomposition(at(d), "source"),
        "position: what it sends": lambda d: s.sends(at(d)),
        "neuron: strongest contexts": lambda d: neuron(d).contexts(),
        "neuron: statistics": lambda d: neuron(d).stats(),
        "neuron: quantiles of its sample": lambda d: neuron(d).quantiles(),
        "neuron: tokens it is active on": lambda d: neuron(d).tokens(),
        "head: strongest contexts": lambda d: head(d).contexts(),
        "head: by distance": lambda d: head(d).distances(),
        "all: loss by position": lambda d: s.sql(
            "SELECT position, -avg(next_logprob) FROM positions GROUP BY position ORDER BY position"
        ),
        "all: mean absolute effect of every head": lambda d: s.sql(
            "SELECT layer, head, avg(abs(toward_next)) FROM heads GROUP BY ALL ORDER BY ALL"
        ),
        "all: mean effect by component": lambda d: s.sql(
            "SELECT component, layer, avg(toward_next) FROM contributions GROUP BY ALL ORDER BY ALL"
        ),
    }


def _times(ask: Ask, times: int, before: Callable[[], None] = lambda: None) -> list[float]:
    """Ask a question several times; return the milliseconds of each time except the first."""
    draw, taken = random.Random(0), []
    for turn in range(times + 1):
        before()
        start = time.perf_counter()
        ask(draw)
        if turn:
            taken.append(1000 * (time.perf_counter() - start))
    return taken


def _forget(s: store.Store) -> None:
    """Close the file, and ask the system to forget its pages."""
    with s:
        pass
    if hasattr(os, "posix_fadvise"):
        with open(s.path, "rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _others(options: argparse.Namespace, shape: pd.Series, first: int, ids: list[int]) -> None:
    """Compare with other stores of the same rows, by lookups without joins (which favours the others)."""
    lookups = sections(LOOKUPS.read_text(encoding="utf-8"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sizes = _copies(options.file, Path(folder))
        with (
            duckdb.connect(options.file, read_only=True) as mine,
            duckdb.connect() as parquet,
            closing(sqlite3.connect(f"{folder}/rows.sqlite")) as sqlite,
        ):
            mine.execute("SET schema = 'base'")
            for table in TABLES:
                parquet.execute(f"CREATE VIEW {table} AS FROM '{folder}/{table}.parquet'")
            # DuckDB converts DECIMAL to float; pandas would make an object of each value
            frames = {table: parquet.execute(f"FROM {table}").df() for table in TABLES}

            def drawn(draw: random.Random) -> Drawn:
                return {
                    "token": draw.choice(ids), "position": first + draw.randrange(int(shape.tokens)),
                    "layer": draw.randrange(int(shape.n_layers)), "head": draw.randrange(int(shape.n_heads)),
                    "neuron": draw.randrange(int(shape.d_mlp)),
                }  # fmt: skip

            def asked_of(con: Any, query: str) -> Ask:
                return lambda draw: con.execute(query.format(**drawn(draw))).fetchall()

            for name, query in lookups.items():
                ways = [asked_of(con, query) for con in (mine, parquet, sqlite)]
                ways.append(lambda draw, name=name: IN_PANDAS[name](frames, drawn(draw)))  # type: ignore[misc]
                times = [percentiles(_times(way, options.times)) for way in ways]
                rows.append((name, *(f"{x:.1f}" for pair in times for x in pair)))
    print()
    places = ("DuckDB", "Parquet", "SQLite", "pandas")
    print_table(("bare lookup", *(f"{place} {p}" for place in places for p in ("p50", "p95"))), rows)
    print("\nBytes: " + ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in sizes.items()) + ".")


def _copies(file: str, folder: Path) -> dict[str, int]:
    sqlite3.register_adapter(Decimal, float)
    with duckdb.connect(file, read_only=True) as con, sqlite3.connect(folder / "rows.sqlite") as other:
        for table in TABLES:
            con.execute(f"COPY base.{table} TO '{folder}/{table}.parquet' (FORMAT parquet, COMPRESSION zstd)")
            reader = con.execute(f"FROM base.{table}")
            columns = [column[0] for column in reader.description or []]
            other.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
            marks = ", ".join("?" * len(columns))
            while rows := reader.fetchmany(50_000):
                other.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
            for number, index in enumerate(INDEXES[table]):
                other.execute(f"CREATE INDEX {table}_{number} ON {table} ({index})")
    files = {
        "these tables in Parquet": [*folder.glob("*.parquet")],
        "in SQLite with indexes": [folder / "rows.sqlite"],
        "the whole store": [Path(file)],
    }
    return {name: sum(path.stat().st_size for path in paths) for name, paths in files.items()}


def _unit(frame: pd.DataFrame, drawn: Drawn) -> pd.DataFrame:
    """Return the rows of the drawn neuron, or of the drawn head if the frame has no neurons."""
    kind = "neuron" if "neuron" in frame else "head"
    return frame[(frame.layer == drawn["layer"]) & (frame[kind] == drawn[kind])]


def _top(entries: pd.DataFrame, drawn: Drawn) -> pd.DataFrame:
    of_neuron = (entries.layer == drawn["layer"]) & (entries.unit == drawn["neuron"])
    return entries[of_neuron & (entries.kind == "neuron") & (entries.list == "high")]


# The queries of lookups.sql in pandas; each function gets one DataFrame per table, and the drawn ids.
IN_PANDAS: dict[str, Callable[[dict[str, pd.DataFrame], Drawn], Any]] = {
    "token: 100 occurrences": lambda of, drawn: of["position"][
        of["position"].token_id == drawn["token"]
    ].head(100),
    "position: its components": lambda of, drawn: of["contribution"][
        of["contribution"].position_id == drawn["position"]
    ],
    "position: its neurons": lambda of, drawn: of["neuron"][of["neuron"].position_id == drawn["position"]],
    "neuron: rows kept": lambda of, drawn: _unit(of["neuron"], drawn),
    "neuron: top list": lambda of, drawn: _top(of["top_entry"], drawn),
    "head: by distance": lambda of, drawn: (
        _unit(of["head"], drawn).groupby("source_offset").attention.agg(["count", "mean"])
    ),
    "all: mean absolute effect of every head": lambda of, drawn: (
        of["head"].toward_next.abs().groupby([of["head"].layer, of["head"]["head"]]).mean()
    ),
}


if __name__ == "__main__":
    main()
