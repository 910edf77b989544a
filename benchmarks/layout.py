"""Compare two layouts of heads and neurons: a row per head or neuron, and a row per position and layer.

    python benchmarks/layout.py FILE.duckdb [--times 20]

The wide layout has a list column for each value, with an element per head or stored neuron. Both layouts get
the same rows of the store, each in a file of its own: the narrow rows in the order of the store, the wide
rows by layer and position. Prints a Markdown table: bytes of the file, seconds to write it, and the
milliseconds (95th percentile, warm) of lookups by position and by head or neuron.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.measure import percentiles, print_head, print_table

VALUES = {  # table → the column that tells its rows at one position and layer apart, and the other values
    "head": ("head", ("toward_next", "toward_top", "source_offset", "attention", "output_norm")),
    "neuron": ("neuron", ("activation", "toward_next", "toward_top")),
}
ROWS = {
    "narrow": "SELECT * EXCLUDE run_id FROM store.base.{table} ORDER BY rowid",
    "wide": """SELECT position_id, layer, list({unit} ORDER BY {unit}) AS {unit}, {lists}
               FROM store.base.{table} GROUP BY ALL ORDER BY layer, position_id""",
}
UNNESTED = "(SELECT position_id, layer, unnest({unit}) AS {unit}, {lists} FROM kept WHERE {where})"


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as con:
        con.execute(f"ATTACH '{options.file}' AS store (READ_ONLY)")
        rows = [
            (table, layout, *_measured(con, Path(folder), table, layout, options.times))
            for table in VALUES
            for layout in ROWS
        ]
        [(positions,)] = con.execute("SELECT count(*) FROM store.base.position").fetchall()
    print_head(f"{Path(options.file).name}, {positions:,} positions")
    print_table(
        ("table", "layout", "MB", "seconds to write", "by position, ms", "by head or neuron, ms"), rows
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--times", type=int, default=20)
    return parser.parse_args()


def _measured(
    con: duckdb.DuckDBPyConnection, folder: Path, table: str, layout: str, times: int
) -> tuple[str, ...]:
    """Write a table in a layout, and return its size, the seconds to write it and the times of lookups."""
    unit, values = VALUES[table]
    lists = ", ".join(f"list({value} ORDER BY {unit}) AS {value}" for value in values)
    # Rows are collected first, so that only the writing is timed.
    rows = con.execute(ROWS[layout].format(table=table, unit=unit, lists=lists)).to_arrow_table()
    file = folder / f"{table}-{layout}.duckdb"
    start = time.perf_counter()
    with duckdb.connect(file) as made:
        made.register("rows", rows)
        made.execute("CREATE TABLE kept AS FROM rows")
    seconds = time.perf_counter() - start
    with duckdb.connect(file, read_only=True) as made:
        taken = [_lookups(made, table, layout, by, times) for by in ("position_id", unit)]
    return f"{file.stat().st_size / 1e6:,.1f}", f"{seconds:.1f}", *(f"{ms:.1f}" for ms in taken)


def _lookups(con: duckdb.DuckDBPyConnection, table: str, layout: str, by: str, times: int) -> float:
    """Return the 95th percentile of the milliseconds of a lookup by position, or by head or neuron."""
    unit, values = VALUES[table]
    lists = ", ".join(f"unnest({value}) AS {value}" for value in values)
    where = "position_id = $x" if by == "position_id" else "layer = $layer"
    source = "kept" if layout == "narrow" else UNNESTED.format(unit=unit, lists=lists, where=where)
    condition = "position_id = $x" if by == "position_id" else f"layer = $layer AND {unit} = $x"
    query = f"SELECT count(*), sum(toward_next), max(toward_top) FROM {source} WHERE {condition}"
    sampled = f"SELECT layer, position_id, {unit} FROM kept USING SAMPLE {times} ROWS (reservoir, 0)"
    draw, taken = random.Random(0), list[float]()
    for layer, position, units in con.execute(sampled).fetchall():
        number = draw.choice(units) if isinstance(units, list) else units
        asked = {"x": position} if by == "position_id" else {"layer": layer, "x": number}
        for _ in range(2):  # the first round only fills the caches
            start = time.perf_counter()
            con.execute(query, asked).fetchall()
            spent = 1000 * (time.perf_counter() - start)
        taken.append(spent)
    return percentiles(taken)[1]


if __name__ == "__main__":
    main()
