"""Measure how fast a run in parts answers that is not merged, beside the same run in one file.

    python benchmarks/parts_together.py [CORPUS] [--model MODEL] [--tokens 49152] [--parts 1 8 24]

Annotates the corpus in parts, merges them, and opens the parts and the merged file in one process. Each
question is asked of both in turn, about the same tokens, neurons and positions, which are drawn at random
with a fixed seed; the first time is left out. Prints Markdown tables: the bytes and processor seconds of the
index and of the merge, and for each question the median milliseconds in one file, and the ratio of the
medians, for each number of parts. A corpus that is shorter than --tokens is repeated.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer import store
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.run.merge import merge
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.plan import PartOf
from annotate_transformer.ingest.run.settings import Settings
from benchmarks.measure import about, measured, parser_of, print_head, print_table, subject

Ask = Callable[[store.Store, int], Any]
PHRASES = ("of the", "people", "the world", "war and", "year")
LOOKUPS: dict[str, Ask] = {  # by name: what asks a store about the thing with a number that is drawn
    "position: the row and its text": lambda s, n: s.position(n),
    "position: by component": lambda s, n: s.decomposition(n, "component"),
    "position: every term": lambda s, n: s.decomposition(n, "term"),
    "position: its neurons": lambda s, n: s.decomposition(n, "neuron"),
    "position: by source": lambda s, n: s.decomposition(n, "source"),
    "position: what it sends": lambda s, n: s.sends(n),
    "position: its context (SQL)": lambda s, n: s.sql(f"FROM context({n}, 20, 10)"),
    "position: every term (SQL)": lambda s, n: s.sql(f"FROM decomposition({n})"),
    "position: its neurons (SQL)": lambda s, n: s.sql(f"FROM neurons WHERE position_id = {n}"),
    "neuron: strongest contexts": lambda s, n: _neuron(s, n).contexts(),
    "neuron: statistics": lambda s, n: _neuron(s, n).stats(),
    "neuron: tokens it is active on": lambda s, n: _neuron(s, n).tokens(),
    "neuron: its rows (SQL)": lambda s, n: s.sql(f"FROM neurons WHERE layer = {n % 4} AND neuron = {n % 97}"),
    "head: strongest contexts": lambda s, n: s.head(f"L{n % 2}H{n % 3}").contexts(),
    "token: occurrences with text": lambda s, n: s.occurrences(_frequent(s)[n % 20]),
    "phrase: places with text": lambda s, n: s.phrase(PHRASES[n % len(PHRASES)]),
    "search: a neuron and a token": lambda s, n: s.search(
        (store.neuron(f"L1N{n % 97}").activation > 0.5) & (store.position.next_rank < 5), limit=20
    ),
}


def main() -> None:
    parser = parser_of(__doc__, tokens=49_152)
    parser.add_argument("--parts", type=int, nargs="*", default=[1, 8, 24])
    parser.add_argument("--times", type=int, default=20)
    options = parser.parse_args()
    made, ratios = list[tuple[str, ...]](), dict[str, list[str]]()
    with subject(options) as (model, folder):
        corpus = _repeated(options.corpus, options.tokens, folder)
        print_head(f"{about(model)}; {options.tokens:,} tokens")
        for parts in options.parts:
            files, one, row = _made(corpus, model, folder / str(parts), options.tokens, parts)
            made.append(row)
            for name, (alone, ratio) in compared(one, files, options.times, options.tokens).items():
                ratios.setdefault(name, []).extend([f"{alone:.1f}", f"{ratio:.2f}"])
    print_table(("parts", "bytes of the parts", "merged", "index", "merge, s", "index, s", "open, ms"), made)
    print()
    of_parts = [text for n in options.parts for text in (f"one file, ms ({n})", f"{n} parts ÷ one file")]
    print_table(("question", *of_parts), [(name, *row) for name, row in ratios.items()])


def _repeated(corpus: str, tokens: int, folder: Path) -> str:
    """Return a file with the sentences of the corpus in random order, repeated to 6 bytes a token."""
    with Corpus([corpus]) as documents:
        sentences = [line for document in documents for line in document.text.split(". ")]
    draw, out = random.Random(0), folder / "corpus.txt"
    size = sum(map(len, sentences))
    for_ever = cycle(sentences)
    lines = [*islice(for_ever, len(sentences) * (1 + 6 * tokens // size))]
    draw.shuffle(lines)
    out.write_text(
        "\n\n".join(". ".join(lines[n : n + 40]) for n in range(0, len(lines), 40)), encoding="utf-8"
    )
    return str(out)


def _made(
    corpus: str, model: Model, folder: Path, tokens: int, parts: int
) -> tuple[list[Path], Path, tuple[str, ...]]:
    """Annotate in parts and merge; return the parts, the merged file and a row of the first table."""
    folder.mkdir()
    settings = Settings(limit_tokens=tokens, shard_tokens=tokens // (2 * parts))
    files = [folder / f"part-{number}.duckdb" for number in range(1, parts + 1)]
    for number, file in enumerate(files, 1):
        with Corpus([corpus]) as documents:
            ingest(documents, model, str(file), settings, part=PartOf(number, parts))
    one = folder.with_name(f"merged-{parts}.duckdb")
    with measured() as merging:
        merge(files, one)
    with measured() as indexing, store.open(folder):
        pass
    begun = time.perf_counter()
    with store.open(folder):
        opening = time.perf_counter() - begun
    sizes = (sum(file.stat().st_size for file in files), one.stat().st_size)
    index = (folder / "parts.index").stat().st_size
    row = (f"{parts}", *(f"{size / 1e6:,.1f} MB" for size in (*sizes, index)),
           f"{merging.processor:.1f}", f"{indexing.processor:.1f}", f"{1000 * opening:.0f}")  # fmt: skip
    return files, one, row


def compared(one: Path, files: list[Path], times: int, tokens: int) -> dict[str, tuple[float, float]]:
    """Return the median milliseconds of each lookup in one file, and the ratio of the medians."""
    with store.open(one) as alone, store.open(files) as parts:
        return {name: _ratio(ask, alone, parts, times, tokens) for name, ask in LOOKUPS.items()}


def _ratio(ask: Ask, alone: store.Store, parts: store.Store, times: int, tokens: int) -> tuple[float, float]:
    draw, taken = random.Random(0), ([], [])  # type: tuple[list[float], list[float]]
    for turn in range(times + 1):
        number = draw.randrange(tokens)
        for s, into in zip((alone, parts), taken, strict=True):
            begun = time.perf_counter()
            ask(s, number)
            if turn:
                into.append(1000 * (time.perf_counter() - begun))
    first, second = map(statistics.median, taken)
    return first, second / first


def _neuron(s: store.Store, number: int) -> store.Neuron:
    return s.neuron(f"L{number % 4}N{number % 97}")


_tokens: list[str] = []


def _frequent(s: store.Store) -> list[str]:
    if not _tokens:
        _tokens.extend(s.tokens("", "prefix").query("occurrences > 20").token.head(20))
    return _tokens


if __name__ == "__main__":
    main()
