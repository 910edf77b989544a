"""Measure how much faster two workers annotate a corpus in two parts than one worker annotates it whole.

    python benchmarks/parts.py [CORPUS] [--model MODEL] [--tokens 30000]

Each worker is a process with one thread, on a core of its own. It loads the model and annotates a few tokens
before the time begins. The goal is that two workers take at most 0.6 of the time of one. The second table has
what a run in parts adds: the plan, which reads the corpus once, and the merge, both by one process.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.run.merge import merge
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.plan import PartOf, plan_for
from annotate_transformer.ingest.run.settings import Settings
from benchmarks.measure import (
    NOT_HERE,
    about,
    measured,
    parser_of,
    print_head,
    print_table,
    warm_up,
    with_weights,
)

WORKERS = 2


@dataclass(frozen=True)
class Job:
    """One worker's task: annotate a run, or a part of it, into a file, on one core."""

    corpus: str
    model: str
    settings: Settings
    part: PartOf | None
    db: Path
    core: int


def main() -> None:
    options, cores = parser_of(__doc__, tokens=30_000).parse_args(), sorted(os.sched_getaffinity(0))
    if len(cores) < WORKERS:
        print(f"This needs {WORKERS} cores, and there {'is' if len(cores) == 1 else 'are'} {len(cores)}.")
        sys.exit(NOT_HERE)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers, which are started anew
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, plan = with_weights(Path(options.model), options.tokenizer, folder), folder / "plan.json"
        model = Model(resolve(path), device="cpu")
        settings = Settings(limit_tokens=options.tokens, shard_tokens=options.tokens // (4 * WORKERS))
        planned = _planned(options.corpus, model, settings, plan)
        parts = [PartOf(number, WORKERS, plan) for number in range(1, WORKERS + 1)]
        files = [folder / f"part-{part.number}.duckdb" for part in parts]
        one = _together([Job(options.corpus, path, settings, None, folder / "whole.duckdb", cores[0])])
        two = _together([
            Job(options.corpus, path, settings, part, file, core)
            for part, file, core in zip(parts, files, cores, strict=False)
        ])  # fmt: skip
        with measured() as merging:
            merge(files, folder / "merged.duckdb")
    _print(f"{about(model)}; {options.tokens:,} tokens of {Path(options.corpus).name}", planned, one, two,
           merging.wall)  # fmt: skip


def _print(subject: str, planned: float, one: float, two: float, merged: float) -> None:
    print_head(subject)
    print_table(("workers of one thread", "seconds", "÷ one worker"), [
        ("1, the whole run", f"{one:.1f}", "1.00"),
        (f"{WORKERS}, a part each", f"{two:.1f}", f"{two / one:.2f}"),
    ])  # fmt: skip
    print()
    total = planned + two + merged
    print_table(("step of the run in parts", "seconds", "share"), [
        (step, f"{seconds:.1f}", f"{seconds / total:.1%}")
        for step, seconds in (("plan", planned), ("annotate", two), ("merge", merged))
    ])  # fmt: skip


def _planned(corpus: str, model: Model, settings: Settings, file: Path) -> float:
    """Make the plan of the run; return the seconds that it took."""
    with Corpus([corpus]) as documents, measured() as spent:
        plan_for(documents, Tokenizer(model.tokenizer), settings.resolved(model), model, file)
    return spent.wall


def _together(jobs: Sequence[Job]) -> float:
    """Start all workers at once; return the seconds until the last one has ended."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(len(jobs))
    with context.Pool(len(jobs), _begin, (ready,)) as pool:
        spent = pool.map(_annotate, jobs, chunksize=1)
    return max(ended for _, ended in spent) - min(began for began, _ in spent)


def _begin(ready: object) -> None:
    globals()["ready"] = ready


def _annotate(job: Job) -> tuple[float, float]:
    """In a worker: annotate; return when it began and ended."""
    import torch

    os.sched_setaffinity(0, {job.core})
    torch.set_num_threads(1)
    model, warm = Model(resolve(job.model), device="cpu"), job.db.with_suffix("")
    warm.mkdir()
    warm_up(job.corpus, model, warm)
    globals()["ready"].wait()
    began = time.time()
    with Corpus([job.corpus]) as documents:
        ingest(documents, model, str(job.db), job.settings, part=job.part)
    return began, time.time()


if __name__ == "__main__":
    main()
