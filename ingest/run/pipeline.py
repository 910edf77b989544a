"""Annotate a corpus with a model into a store: the whole path on one page.

1. The corpus is surveyed: read once to be checked, hashed and counted (`run.survey`). With the model, the
   settings and the library versions that is the run's identity (`run.provenance`).
2. The store says whether such a run is new, unfinished or finished; an unfinished one is restored.
3. The corpus is read again: documents become windows, windows groups, groups batches (`run.groups`). Batches
   are annotated side by side (`run.workers`), and their values enter the run's exact summaries.
4. Whole groups make a shard, which is one transaction (`run.shard`). At the end the lists are made final.

Where batches are cut depends on nothing but the corpus and the settings, so a run that was killed and
resumed gives what an unbroken one gives.
"""

from collections.abc import Callable
from dataclasses import dataclass

from annotate_transformer.ingest.corpus.sources import Corpus, Scan
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.run.memory import give_memory_back, memory_from_system
from annotate_transformer.ingest.run.progress import Progress
from annotate_transformer.ingest.run.provenance import difference, provenance_of
from annotate_transformer.ingest.run.run import Run
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.run.survey import Survey, survey_with
from annotate_transformer.store.writer import Vocabulary, Writer


@dataclass(frozen=True)
class RunReport:
    """What an ingest did.

    status: `finished`, `stopped` (the same command resumes it) or `nothing to do` (the run was finished
    before); equal_weights: under what other names the store has the model's weights.
    """

    run_id: int
    status: str
    tokens: int
    new_tokens: int
    shards: int
    scan: Scan
    resumed: bool
    differs: str | None
    seconds: dict[str, float]
    equal_weights: str | None = None


def ingest(
    corpus: Corpus,
    model: Model,
    path: str,
    settings: Settings,
    *,
    survey: Survey | None = None,
    fresh: bool = False,
    watch: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> RunReport:
    """Annotate `corpus` with `model` into the store at `path`; resume an equal, unfinished run.

    survey: if the caller has made it already; watch: called after each batch; stop: asked after each
    group of batches, True ends the run early with everything so far committed.

    Raises:
        AnnotateError: a sentence for whatever a person can put right (see ingest.errors).
    """
    settings, progress = settings.resolved(model), Progress()
    give_memory_back()  # what loading the model left
    with memory_from_system(), Writer(path) as writer:
        tokenizer = Tokenizer(model.tokenizer, parse_special=settings.parse_special)
        with progress.timed("counting"):
            survey = survey or survey_with(corpus, tokenizer, settings, model.checkpoint.name)
        provenance = provenance_of(corpus, survey.scan, model, tokenizer, settings)
        equal_weights = writer.equal_weights(model.provenance)
        vocabulary = Vocabulary(tokenizer.vocabulary(), tokenizer.special_ids.tolist(), tokenizer.spells)
        begun = writer.begin(provenance, vocabulary, fresh=fresh)
        done = 0 if begun.last_shard is None else int(begun.last_shard["positions"])
        status, differs = "nothing to do", None
        if begun.status == "finished":
            progress = Progress(done)
        else:
            differs = difference(writer, provenance) if begun.status == "new" and not fresh else None
            run = Run(corpus, model, tokenizer, settings, survey, writer, begun, progress, watch)
            status = "finished" if run.annotate(stop) else "stopped"
            if status == "finished":
                run.finish()
    return RunReport(
        run_id=begun.run_id,
        status=status,
        tokens=progress.tokens,
        new_tokens=progress.tokens - done,
        shards=progress.shards,
        scan=survey.scan,
        resumed=begun.status != "finished" and begun.last_shard is not None,
        differs=differs,
        seconds=progress.seconds,
        equal_weights=equal_weights,
    )
