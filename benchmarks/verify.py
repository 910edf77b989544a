"""Measure the time to verify a store, and the time of an ingest that is stopped and resumed.

    python benchmarks/verify.py [CORPUS] [--model MODEL] [--tokens 30000]

Measured are: an ingest without interruption, and the part of its time that checksums take; an ingest that is
stopped at half and resumed, in another store; an ingest of a finished run, which adds nothing; and all checks
of `annotate verify`, and the part of their time that checksums take. All times are from one process. Prints a
Markdown table.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer import store
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.progress import Progress
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.run.survey import survey
from annotate_transformer.store import checksum
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


def main() -> None:
    options = parser_of(__doc__, tokens=30_000).parse_args()
    settings = Settings(limit_tokens=options.tokens)
    with subject(options) as (model, folder):
        db, broken = folder / "unbroken.duckdb", folder / "resumed.duckdb"
        warm_up(options.corpus, model, folder)
        with checksums_timed() as written:
            report, unbroken = annotated(options.corpus, model, db, settings)
        half = _to_half(options.corpus, model, broken, settings)
        _, resumed = annotated(options.corpus, model, broken, settings)
        _, again = annotated(options.corpus, model, db, settings)
        with checksums_timed() as compared, measured() as verified:
            findings = list(store.verify(db))
    print_head(f"{about(model)}; {report.tokens:,} tokens of {Path(options.corpus).name}, default settings")
    rows = {
        "ingest": unbroken.wall,
        "of it, checksums": sum(written),
        "ingest, stopped at half and resumed": half + resumed.wall,
        "ingest of a finished run": again.wall,
        f"verify, {len(findings)} checks": verified.wall,
        "of it, checksums compared": sum(compared),
    }
    print_table(
        ("", "seconds", "÷ ingest"),
        [(name, f"{wall:.1f}", f"{wall / unbroken.wall:.2f}") for name, wall in rows.items()],
    )
    print(f"\nVerify is {unbroken.wall / verified.wall:.1f} times as fast as ingest; "
          f"broken rows: {sum(finding.broken for finding in findings)}.")  # fmt: skip


@contextmanager
def checksums_timed() -> Iterator[list[float]]:
    """Context manager: yield a list of the seconds that each computation and write of a checksum takes."""
    seconds = list[float]()

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            start = time.perf_counter()
            answer = function(*arguments)
            seconds.append(time.perf_counter() - start)
            return answer

        return wrapped

    kept = checksum.Change.sums, checksum._record
    checksum.Change.sums, checksum._record = map(timed, kept)  # type: ignore[method-assign]
    yield seconds
    checksum.Change.sums, checksum._record = kept  # type: ignore[method-assign]


def _to_half(corpus: str, model: Model, db: Path, settings: Settings) -> float:
    """Return the seconds of an ingest that is stopped after half of its tokens."""
    at = Progress()

    def watch(progress: Progress) -> None:
        nonlocal at
        at = progress

    with Corpus([corpus]) as documents:
        surveyed = survey(documents, model.checkpoint, settings)
        with measured() as spent:
            ingest(
                documents,
                model,
                str(db),
                settings,
                survey=surveyed,
                watch=watch,
                stop=lambda: at.share >= 0.5,
            )
    return spent.wall


if __name__ == "__main__":
    main()
