"""Annotate a corpus batch by batch, from the end of the last stored shard to the end of the corpus."""

from collections.abc import Callable

from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.corpus.windows import Cursor, Window, batches
from annotate_transformer.ingest.errors import SourceError
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.run.groups import Groups
from annotate_transformer.ingest.run.memory import give_memory_back
from annotate_transformer.ingest.run.plan import Part
from annotate_transformer.ingest.run.progress import Progress
from annotate_transformer.ingest.run.rows import Identity
from annotate_transformer.ingest.run.run_summary import NONE, RunSummary
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.run.shard import Shard, ShardWriter, cursor_of, finish_run
from annotate_transformer.ingest.run.survey import Survey
from annotate_transformer.ingest.run.workers import Annotator, Workers, workers_for
from annotate_transformer.store.writer import Begun, Writer


class Run:
    """The annotation of a corpus or of one part of it, from its beginning or after the last stored shard.

    `part`: the range of shards to annotate, or None for the whole run.
    """

    def __init__(
        self, corpus: Corpus, model: Model, tokenizer: Tokenizer, settings: Settings, survey: Survey,
        writer: Writer, begun: Begun, progress: Progress, watch: Callable[[Progress], None],
        part: Part | None = None,
    ) -> None:  # fmt: skip
        self.part, self.first = part, part.first if part else 0
        self.model, self.settings, self.tokenizer, self.survey = model, settings, tokenizer, survey
        self.writer, self.begun, self.progress, self.watch = writer, begun, progress, watch
        self.identity = Identity(begun.run_id, begun.first_position_id, begun.first_document_id)
        self.summary = self._summary()
        self.shards = ShardWriter(writer, model, settings.keep, self.summary, part)
        progress.bytes_written = writer.path.stat().st_size if writer.path.exists() else 0
        cursor, number = (part.cursor, part.first_shard) if part else (Cursor(), 0)
        if begun.last_shard:
            cursor, number = cursor_of(begun.last_shard), int(begun.last_shard["shard"]) + 1
            progress.tokens = int(begun.last_shard["positions"])
            self.summary.restore(writer.fetch, begun.run_id, self.identity.position_id)
        self.shard = Shard(self.identity, begun, number, self._reached)
        assert settings.batch_tokens, "resolved settings"
        self.batch_tokens, self.shard_tokens = settings.batch_tokens, settings.positions_a_shard(model)
        self.documents = corpus.read()
        self.groups = Groups(
            self.documents, tokenizer, settings.windowing(tokenizer), self.batch_tokens, cursor,
            limit=settings.limit_tokens and settings.limit_tokens - self._reached,
            note=lambda ordinal, document: self.shard.note(ordinal, document),
        )  # fmt: skip

    @property
    def _reached(self) -> int:
        """The ordinal (number in the run) of the first position that is not annotated yet"""
        return self.first + self.progress.tokens

    def _summary(self) -> RunSummary:
        model, settings, survey = self.model, self.settings, self.survey
        counts_all = settings.special_in_lists
        assert settings.top and settings.samples is not None, "settings from `with_sizes`"
        return RunSummary(
            model.n_layers,
            model.d_mlp,
            model.n_heads,
            survey.positions,
            top=settings.top,
            samples=settings.samples,
            seed=settings.seed,
            first_in_lists=settings.first_in_lists,
            left_out=NONE if counts_all else self.tokenizer.special_ids,
            unsampled=NONE if counts_all else survey.special,
        )

    def annotate(self, stop: Callable[[], bool]) -> bool:
        """Annotate to the end of the corpus or part, or until `stop()`; return whether the end was reached.

        A part is stopped at the end of a shard only, so that its shards stay those of the plan.
        """
        annotate = Annotator(self.model, self.settings.keep, self.identity, self.summary.sample.chosen)
        cursor, stopping = self.groups.start, False
        with workers_for(annotate) as workers:
            for group, cursor in self.groups:
                self._annotate_group(group, workers)
                stopping = stop() or stopping
                ends = self.shard.positions >= self.shard_tokens or (stopping and not self.part)
                if ends:
                    self._commit(cursor, workers)
                if self._is_complete:
                    return True
                if ends and stopping:
                    return False
            if self.shard.positions:
                self._commit(cursor, workers)
        return True

    @property
    def _is_complete(self) -> bool:
        """Whether all shards of the part are committed; always False for a run that is not in parts"""
        return self.part is not None and self.shard.number > self.part.last_shard

    def _annotate_group(self, group: list[Window], workers: Workers) -> None:
        self.shard.expect(group)
        for batch in batches(group, self.batch_tokens):
            workers.submit(batch, self.summary.thresholds(self.model.device))
            if workers.are_busy:
                self._take(workers)

    def _take(self, workers: Workers) -> None:
        """Add the results of the oldest submitted batch to the shard and the summary; report progress."""
        progress = self.progress
        with progress.timed("waiting for the model"):
            parts = workers.take()
        for part in parts:
            tokens = self.shard.add(part, self.tokenizer.special_ids, self.model.checkpoint.name)
            with progress.timed("summaries"):
                self.summary.absorb(part.summaries)
            progress.tokens += tokens
            wanted = self.part.size if self.part else self.survey.positions
            progress.share = min(1.0, progress.tokens / wanted)
            progress.worst_closure = max(progress.worst_closure, self.shard.worst_closure)
            self.watch(progress)

    def _commit(self, cursor: Cursor, workers: Workers) -> None:
        """Finish all submitted batches, then write the shard.

        Doing both at the same time saved only 4 % of the time, and took 300 MB more memory.
        """
        while len(workers):
            self._take(workers)
        if self.part and self.shard.number == self.part.last_shard:
            self._check_corpus()
        give_memory_back()
        progress = self.progress
        with progress.timed("database"):
            self.shards.commit(self.shard, cursor, self._reached)
        give_memory_back()
        progress.shards += 1
        progress.bytes_written = self.writer.path.stat().st_size
        self.shard = Shard(self.identity, self.begun, self.shard.number + 1, self._reached)

    def _check_corpus(self) -> None:
        """Raise SourceError if the corpus has changed since the survey."""
        if self.documents.scan() != self.survey.scan:
            what = "part" if self.part else "run"
            raise SourceError(
                f"The corpus changed while it was being annotated, so the {what} stays unfinished. "
                "Run the same command again to annotate the changed corpus."
            )

    def finish(self) -> None:
        """Store the final top-k lists and samples of all neurons and heads, and mark the run as finished.

        Raises:
            SourceError: the corpus has changed since the survey.
        """
        self._check_corpus()
        with self.progress.timed("finish"):
            finish_run(self.writer, self.summary, self.begun)
