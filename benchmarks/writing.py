"""Measure how many rows a second a writer stores, without a model, and how several writers share the cores.

    python benchmarks/writing.py [CORPUS] [--model MODEL] [--tokens 8192] [--shards 6]

The rows of one shard of --tokens positions come from the model, once. Each writer process then writes them
--shards times, at new positions, as an ingest writes its shards: rows are collected batch by batch, sorted,
stored in one transaction and given checksums. The first shard, which makes the file, is not timed. A process
has one core and a file of its own, as the parts of a run will have. Prints a Markdown table: rows a second,
and how near several processes come to as many times the rows of one.
"""

import argparse
import multiprocessing
import os
import pickle
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.corpus.windows import Cursor, batches
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.run.provenance import provenance_of, vocabulary_of
from annotate_transformer.ingest.run.rows import Identity
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.run.shard import COUNTS, Shard, ShardWriter
from annotate_transformer.ingest.run.survey import survey_with
from annotate_transformer.ingest.run.workers import Annotated, Annotator
from annotate_transformer.store.writer import Provenance, Vocabulary, Writer
from benchmarks.measure import (
    about,
    empty_summary,
    first_windows,
    parser_of,
    print_head,
    print_table,
    subject,
)


@dataclass(frozen=True)
class Prepared:
    """What a writer process needs: the parts of one shard, and the identity of a run of `shards` of them."""

    model: str
    settings: Settings
    provenance: Provenance
    vocabulary: Vocabulary
    parts: list[Annotated]
    positions: int
    shards: int


@dataclass(frozen=True)
class Written:
    """The rows of a process's timed shards, and when it began and ended to write them (seconds)."""

    rows: int
    began: float
    ended: float
    processor: float


def main() -> None:
    options = _options()
    with subject(options) as (model, folder):
        (folder / "prepared").write_bytes(pickle.dumps(_prepared(options, model)))
        counts = [2**i for i in range(16) if 2**i <= len(os.sched_getaffinity(0))]
        found = {count: _together(folder, count) for count in counts}
    print_head(f"{about(model)}; shards of {options.tokens:,} positions of {Path(options.corpus).name}")
    print_table(("writer processes, one core each", "rows a second", "÷ as many times one process"), [
        (str(count), f"{rate:,.0f}", f"{rate / count / found[1]:.2f}") for count, rate in found.items()
    ])  # fmt: skip


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__, tokens=8_192)
    parser.add_argument("--shards", type=int, default=6)
    return parser.parse_args()


def _prepared(options: argparse.Namespace, model: Model) -> Prepared:
    positions = options.tokens * options.shards
    settings = Settings(limit_tokens=options.tokens).resolved(model).with_sizes(positions, model)
    assert settings.context and settings.batch_tokens
    tokenizer = Tokenizer(model.tokenizer)
    with Corpus([options.corpus]) as documents:
        surveyed = survey_with(documents, tokenizer, settings, model.checkpoint.name)
        provenance = provenance_of(documents, surveyed.scan, model, tokenizer, settings)
    summary = empty_summary(model, settings, options.tokens)
    annotate = Annotator(model, settings.keep, Identity(1, 0, 0), summary.sample.chosen)
    windows, parts = first_windows(options.corpus, model, options.tokens, settings.context), []
    for batch in batches(windows, settings.batch_tokens):
        found = annotate(batch, summary.thresholds(model.device))
        for part in found:
            summary.absorb(part.summaries)
        parts += found
    folder = str(model.checkpoint.folder)
    return Prepared(
        folder, settings, provenance, vocabulary_of(tokenizer), parts, options.tokens, options.shards
    )


def _together(folder: Path, count: int) -> float:
    """Return how many rows a second `count` processes write together, each on a core of its own."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(count)
    with context.Pool(count, _begin, (ready,)) as pool:
        jobs = [(folder, f"{count}-{number}", number) for number in range(count)]
        written = pool.starmap(_write, jobs, chunksize=1)
    seconds = max(of.ended for of in written) - min(of.began for of in written)
    return sum(of.rows for of in written) / seconds


def _begin(ready: object) -> None:
    globals()["ready"] = ready


def _write(folder: Path, name: str, core: int) -> Written:
    """In a process: write the prepared shard again and again into a file of its own."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})
    prepared: Prepared = pickle.loads((folder / "prepared").read_bytes())
    model = Model(resolve(prepared.model), device="cpu")
    summary = empty_summary(model, prepared.settings, prepared.positions * prepared.shards)
    special_ids, rows = Tokenizer(model.tokenizer).special_ids, 0
    with Writer(folder / f"{name}.duckdb") as writer:
        begun = writer.begin(prepared.provenance, prepared.vocabulary, fresh=False)
        shards = ShardWriter(writer, model, prepared.settings.keep, summary)
        for number in range(prepared.shards):
            if number == 1:
                globals()["ready"].wait()
                began, busy = time.time(), time.process_time()
            first = number * prepared.positions
            shard = Shard(Identity(begun.run_id, begun.first_position_id, begun.first_document_id),
                          begun, number, first)  # fmt: skip
            shard.positions = prepared.positions
            for part in prepared.parts:
                shard.add(_moved(part, first), special_ids, prepared.model)
                if number == 0:
                    summary.absorb(part.summaries)
            if number:
                rows += sum(shard.rows.count(table) for table in COUNTS.values())
            shards.commit(shard, Cursor(), first + prepared.positions)
    return Written(rows, began, time.time(), time.process_time() - busy)


def _moved(part: Annotated, by: int) -> Annotated:
    """Return the same rows at positions that are `by` later."""

    def moved(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index("position_id")
        return table.set_column(place, "position_id", pa.array(table["position_id"].to_numpy() + by))

    return replace(part, rows={name: moved(table) for name, table in part.rows.items()})


if __name__ == "__main__":
    main()
