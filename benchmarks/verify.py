"""How long a store is verified, and what an ingest costs that was stopped and goes on.

    python benchmarks/verify.py [CORPUS] [--model MODEL] [--tokens 30000]

The ingest unbroken; the same stopped at half and resumed, in another store; once more on the finished
run, where it adds nothing; and every check of `annotate verify`. Ratios are of one process; prints a
Markdown table.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer import store
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.progress import Progress
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.run.survey import survey
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
        report, unbroken = annotated(options.corpus, model, db, settings)
        half = _to_half(options.corpus, model, broken, settings)
        _, resumed = annotated(options.corpus, model, broken, settings)
        _, again = annotated(options.corpus, model, db, settings)
        with measured() as verified:
            findings = list(store.verify(db))
    print_head(f"{about(model)}; {report.tokens:,} tokens of {Path(options.corpus).name}, default settings")
    rows = {
        "ingest": unbroken.wall,
        "ingest, stopped at half and resumed": half + resumed.wall,
        "ingest of a finished run": again.wall,
        f"verify, {len(findings)} checks": verified.wall,
    }
    print_table(
        ("", "seconds", "÷ ingest"),
        [(name, f"{wall:.1f}", f"{wall / unbroken.wall:.2f}") for name, wall in rows.items()],
    )
    print(f"\nVerify is {unbroken.wall / verified.wall:.1f} times as fast as ingest; "
          f"broken rows: {sum(finding.broken for finding in findings)}.")  # fmt: skip


def _to_half(corpus: str, model: Model, db: Path, settings: Settings) -> float:
    """Seconds of an ingest that is stopped after half of its tokens."""
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
