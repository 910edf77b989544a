"""Measure how much of a store's file the questions of a page read over HTTP.

    python benchmarks/web.py FILE.duckdb

Serves the file on this machine and opens it by its address. Each row asks what one page of the app asks:
the number of requests and of bytes that the server was asked for, first in a new connection, then for
another object of the same kind in the same connection, whose blocks may be in memory already. Times of a
network depend on the network; on this machine they would say nothing.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer import store
from annotate_transformer.store import Head, Neuron, Store
from benchmarks.measure import print_head, print_table
from tools.range_server import Served, served


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    with served(file.parent) as web:
        rows = [_row(web, file.name, page, *asked) for page, asked in _pages().items()]
    print_head(f"{file.name}, {file.stat().st_size / 1e6:,.1f} MB; numbers of requests, and MB of answers")
    print_table(("what is asked", "requests", "MB", "requests for another one", "MB"), rows)


def _pages() -> dict[str, tuple[Callable[[Store], object], Callable[[Store], object]]]:
    """Return a dictionary from page to the questions that it asks about two objects of a kind."""
    return {
        "runs": (Store.runs, Store.stats),
        "a token's occurrences": (lambda s: s.occurrences(" the"), lambda s: s.occurrences(" of")),
        "a position": (lambda s: _position(s, 100), lambda s: _position(s, 9000)),
        "a neuron": (lambda s: _unit(s.neuron("L1N3")), lambda s: _unit(s.neuron("L2N9"))),
        "a head": (lambda s: _unit(s.head("L1H2")), lambda s: _unit(s.head("L2H1"))),
    }


def _position(s: Store, number: int) -> None:
    first = int(s.sql("SELECT min(position_id) FROM positions").iloc[0, 0])
    s.position(first + number)
    for by in ("component", "head", "neuron", "source"):
        s.decomposition(first + number, by)


def _unit(unit: Neuron | Head) -> None:
    unit.stats(), unit.histogram(), unit.random(12), unit.quantiles(5, 3)
    unit.contexts("high", 12), unit.contexts("low", 12)
    unit.tokens(50), unit.effects(50), unit.companions(50)


def _row(
    web: Served, name: str, page: str, one: Callable[[Store], object], other: Callable[[Store], object]
) -> tuple[str, ...]:
    sizes = list[str]()
    with store.open(f"{web.address}/{name}") as s:
        for ask in (one, other):
            before = len(web.sent)
            ask(s)
            sent = web.sent[before if ask is other else 0 :]
            sizes += [f"{len(sent)}", f"{sum(sent) / 1e6:.1f}"]
    web.sent.clear()
    return page, *sizes


if __name__ == "__main__":
    main()
