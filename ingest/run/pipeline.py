"""Annotate a corpus with a model and store the results: an overview of all steps.

1. Survey: the corpus is read once, to check, hash and count it (`run.survey`). Its hash, the model, the
   settings and the versions of libraries identify the run (`run.provenance`).
2. Begin: the store says whether this run is new, unfinished or finished; an unfinished run is restored.
   A part of a run begins with a plan instead, which says where its shards begin (`run.plan`).
3. Annotate: the corpus is read again, and divided into windows, groups and batches (`run.groups`). Several
   batches are annotated at the same time (`run.workers`); all their values enter the run's summaries.
4. Write: whole groups form a shard, which is one transaction (`run.shard`). At the end the lists are
   made final, except in a part of a run, which `run.merge` finishes together with the other parts.

Batches depend only on the corpus and the settings, so a run that was killed and resumed ends with the same
results as one that was never interrupted.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from annotate_transformer.ingest.corpus.sources import Corpus, Scan
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.run.memory import give_memory_back, memory_from_system
from annotate_transformer.ingest.run.plan import Part, PartOf, check_alone, check_same_part, plan_for
from annotate_transformer.ingest.run.progress import Progress
from annotate_transformer.ingest.run.provenance import difference, provenance_of, vocabulary_of
from annotate_transformer.ingest.run.run import Run
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.run.survey import Survey, survey_with
from annotate_transformer.store.writer import Begun, Writer


@dataclass(frozen=True)
class RunReport:
    """The result of an ingest.

    `status`: `finished`, `stopped` (the same command resumes the run) or `nothing to do` (the run was
    finished before); for a part of a run, `finished` means that all of its shards are stored;
    `part`: the part of the run that was annotated, or None for a whole run;
    `equal_weights`: a sentence about other names under which the store has the same weights.
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
    part: Part | None = None


def ingest(
    corpus: Corpus,
    model: Model,
    path: str,
    settings: Settings,
    *,
    survey: Survey | None = None,
    part: PartOf | None = None,
    fresh: bool = False,
    any_revision: bool = False,
    watch: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> RunReport:
    """Annotate `corpus` with `model` into the store at `path`; resume the same run if it is unfinished.

    `survey`: results of the first pass, or None to make this pass now;
    `part`: annotate only this part of the run, and do not finish the run;
    `any_revision`: annotate nothing if the store has the run with equal weights under another revision;
    `watch`: called after each batch;
    `stop`: called after each group of batches; if `stop` returns True, the run commits what is done and ends.

    Raises:
        AnnotateError: an error that a person can correct (see ingest.errors).
    """
    settings, progress = settings.resolved(model), Progress()
    give_memory_back()  # gives the system back the memory that loading the model took
    with memory_from_system(), Writer(path) as writer:
        tokenizer = Tokenizer(model.tokenizer, parse_special=settings.parse_special)
        with progress.timed("counting"):
            plan = plan_for(corpus, tokenizer, settings, model, part.plan) if part else None
            if plan:
                settings, survey = replace(settings, shard_tokens=plan.settings["shard_tokens"]), plan.survey
            survey = survey or survey_with(corpus, tokenizer, settings, model.checkpoint.name)
        chosen = plan.part(part) if plan and part else None
        settings = settings.with_sizes(survey.positions, model)
        provenance = provenance_of(corpus, survey.scan, model, tokenizer, settings)
        equal_weights = writer.equal_weights(model.provenance)
        begun = writer.begin(provenance, vocabulary_of(tokenizer), fresh=fresh, any_revision=any_revision)
        check_same_part(begun, chosen, path)
        check_alone(writer, provenance, chosen)
        done = 0 if begun.last_shard is None else int(begun.last_shard["positions"])
        status, differs = "nothing to do", None
        if begun.status == "finished" or (chosen and done == chosen.size):
            progress = Progress(done)
        else:
            differs = difference(writer, provenance) if begun.status == "new" and not fresh else None
            run = Run(corpus, model, tokenizer, settings, survey, writer, begun, progress, watch, chosen)
            status = "finished" if run.annotate(stop) else "stopped"
            if status == "finished" and not chosen:
                run.finish()
    return RunReport(
        run_id=begun.run_id,
        status=status,
        tokens=progress.tokens,
        new_tokens=progress.tokens - done,
        shards=progress.shards,
        scan=survey.scan,
        resumed=status != "nothing to do" and begun.last_shard is not None,
        differs=differs,
        seconds=progress.seconds,
        equal_weights=equal_weights,
        part=chosen,
    )


def stored(
    corpus: Corpus,
    model: Model,
    path: str,
    settings: Settings,
    device: str | None = None,
    *,
    any_revision: bool = False,
) -> Begun:
    """Return what the store at `path` already has of a run; annotate nothing.

    `device`: on which the run is computed, if not where the model is; `any_revision`: as for `ingest`.

    Raises:
        AnnotateError: as `ingest`.
    """
    settings = settings.resolved(model)
    tokenizer = Tokenizer(model.tokenizer, parse_special=settings.parse_special)
    survey = survey_with(corpus, tokenizer, settings, model.checkpoint.name)
    settings = settings.with_sizes(survey.positions, model)
    provenance = provenance_of(corpus, survey.scan, model, tokenizer, settings, device)
    with Writer(path) as writer:
        return writer.begin(provenance, vocabulary_of(tokenizer), fresh=False, any_revision=any_revision)
