"""Make a larger store by copying a finished store's rows several times, to measure how query times grow.

    python benchmarks/grow.py FILE.duckdb LARGER.duckdb [--times 10]

FILE must have one run, and neither weights nor next-token neurons. Each copy of a document has a new id, in
the same order. Lists and sample have the same length as before, with positions from all copies. The times of
queries are those of a store with so many tokens; the answers are not, and `annotate verify` says so.
"""

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer.store.database import connection
from annotate_transformer.store.queries import sections


def main() -> None:
    options = _options()
    shutil.copyfile(options.file, options.larger)
    queries = sections((Path(__file__).parent / "grow.sql").read_text(encoding="utf-8"))
    with connection(options.larger, read_only=False) as con:
        size = con.execute(queries["size"]).df().iloc[0].to_dict()
        for k in range(1, options.times):
            con.execute(queries["copy"].format(k=k, **size))
            con.execute("CHECKPOINT")
            print(f"{(k + 1) * size['positions']:,} tokens", flush=True)
        con.execute(queries["spread"].format(times=options.times, **size))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("larger")
    parser.add_argument("--times", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    main()
