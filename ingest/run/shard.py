"""Write whole groups of windows as a shard, which is one transaction in the store."""

import hashlib
import json
import time
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from annotate_transformer.ingest.attribution.selection import Keep
from annotate_transformer.ingest.corpus.sources import Document
from annotate_transformer.ingest.corpus.tokens import Ints
from annotate_transformer.ingest.corpus.windows import Cursor, Window
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.run.directions import layer_biases, neuron_directions, token_directions
from annotate_transformer.ingest.run.plan import Part
from annotate_transformer.ingest.run.provenance import processor
from annotate_transformer.ingest.run.rows import Identity
from annotate_transformer.ingest.run.run_summary import RunSummary, samples_by_unit
from annotate_transformer.ingest.run.storable import check_storable
from annotate_transformer.ingest.run.waiting import WaitingRows
from annotate_transformer.ingest.run.workers import Annotated
from annotate_transformer.store.writer import Begun, Writer, limits, passages, portions

MERGED_SHARDS = 8  # after every 8th shard, DuckDB may merge small row groups
CURSOR_FIELDS = ("document", "position", "window", "next_window")
CURSOR_COLUMNS = ("next_document", "document_position", "document_window", "next_window")
COUNTS = {  # column of base.shard → name of the table whose rows the column counts
    "positions": "position",
    "contributions": "contribution",
    "heads": "head",
    "head_sources": "head_source",
    "neurons": "neuron",
    "lens": "lens",
}
DOCUMENT = pa.schema(
    [("corpus_id", pa.int32()), ("document_id", pa.int64())]
    + [(name, pa.string()) for name in ("source", "text", "sha256", "metadata")]
)


def cursor_of(shard: dict[str, Any]) -> Cursor:
    """Return the place in the corpus after a stored shard, given the shard's row in base.shard."""
    return Cursor(*(int(shard[name]) for name in CURSOR_COLUMNS))


class Shard:
    """The rows of one shard, collected for one transaction, and the totals for its row in base.shard.

    `first`: ordinal of the shard's first position;
    `windows`, `positions`: number of submitted windows, and of positions in these windows;
    `worst_closure`: largest closure error |sum of terms − logit|, in logits.
    """

    def __init__(self, identity: Identity, begun: Begun, number: int, first: int) -> None:
        self.identity, self.begun, self.number, self.first = identity, begun, number, first
        self.rows, self.documents = WaitingRows(identity, first), list[dict[str, Any]]()
        self.windows, self.positions, self.special = 0, 0, 0
        self.worst_closure, self.worst_closure_ratio = 0.0, 0.0
        self.started = time.monotonic()

    def note(self, ordinal: int, document: Document) -> None:
        """Add the row of a document; the first shard that reaches a document stores it."""
        self.documents.append(
            {
                "corpus_id": self.begun.corpus_id,
                "document_id": self.begun.first_document_id + ordinal,
                "source": document.source,
                "text": document.text,
                "sha256": hashlib.sha256(document.text.encode()).hexdigest(),
                "metadata": json.dumps(document.metadata, ensure_ascii=False),
            }
        )

    def expect(self, group: list[Window]) -> None:
        """Add a group's windows and positions to the shard's counts, before the group is annotated."""
        self.windows += len(group)
        self.positions += sum(int(window.stored.sum()) for window in group)

    def add(self, part: Annotated, special_ids: Ints, model: str) -> int:
        """Add the rows of a batch and return the number of its positions.

        Raises:
            ModelError: a number does not fit into its column.
        """
        check_storable(part.rows, limits(), model)
        self.rows.add(part.rows)
        positions = part.rows["position"]
        self.special += int(np.isin(positions["token_id"].to_numpy(), special_ids).sum())
        closure = [positions[name].to_numpy() for name in ("closure_next", "closure_top")]
        self.worst_closure = max(self.worst_closure, float(np.nanmax(np.abs(closure))))
        self.worst_closure_ratio = max(self.worst_closure_ratio, part.closure_ratio)
        return int(positions.num_rows)

    def record(self, cursor: Cursor, end: int) -> dict[str, Any]:
        """Return the shard's row in base.shard; `end`: ordinal of the first position after the shard."""
        counts = {column: self.rows.count(table) for column, table in COUNTS.items()}
        cursor_values = (getattr(cursor, name) for name in CURSOR_FIELDS)
        return {
            "run_id": self.begun.run_id,
            "shard": self.number,
            "first_position_id": self.identity.position_id + self.first,
            "last_position_id": self.identity.position_id + end - 1,
            "windows": self.windows,
            "special_positions": self.special,
            **counts,
            "worst_closure": self.worst_closure,
            "worst_closure_ratio": self.worst_closure_ratio,
            **dict(zip(CURSOR_COLUMNS, cursor_values, strict=True)),
            "seconds": time.monotonic() - self.started,
        }


class ShardWriter:
    """A writer that writes each shard in one transaction, together with the run's summary so far."""

    def __init__(
        self, writer: Writer, model: Model, keep: Keep, summary: RunSummary, part: Part | None = None
    ) -> None:
        """`part`: the range of shards that this writer writes, or None for all shards of the run."""
        self.writer, self.model, self.keep, self.summary, self.part = writer, model, keep, summary, part
        self.first_shard = part.first_shard if part else 0
        self.threads = torch.get_num_threads()

    def commit(self, shard: Shard, cursor: Cursor, end: int) -> None:
        """Write a shard in one transaction; `end`: ordinal of the first position after the shard."""
        run_id, origin = shard.begun.run_id, shard.identity.position_id
        candidates = portions(self.summary.list_entries(run_id, origin, shard.first))
        tables: dict[str, Any] = {"top_candidate": (rows for _, rows in candidates)}
        tables |= self.summary.statistics_tables(run_id)
        tables["sample_position"] = self._sampled(shard, end)
        tables |= self._of_model(shard)
        tables["document"] = pa.Table.from_pylist(shard.documents, schema=DOCUMENT)
        tables["passage"] = passages(shard.documents)
        if self.part and shard.number == self.first_shard:
            record = part_record(self.part, shard.begun)
            made = {"threads": self.threads, "processor": processor(self.model.device)}
            tables["part"] = pa.Table.from_pylist([record | made])
        tables["shard"] = pa.Table.from_pylist([shard.record(cursor, end)])
        # With --keep-neurons all, do not merge row groups. The rows of one shard already fill a whole row
        # group of base.neuron_code, with a few rows left over. To merge these few, DuckDB would write all
        # earlier row groups again.
        merge = shard.number % MERGED_SHARDS == 0 and not self.keep.coded
        self.writer.commit(shard.rows.tables() | tables, merge=merge, run_id=run_id)
        if _is_for_rewriting(shard.number - self.first_shard):
            self.writer.drop_candidates(run_id, self.summary.list_entries(run_id, origin))

    def _of_model(self, shard: Shard) -> dict[str, Any]:
        """Return the model's tables from which SQL computes effects of biases and of rounded activations."""
        model, model_id, is_first = self.model, shard.begun.model_id, shard.number == self.first_shard
        tables: dict[str, Any] = {"layer_bias": layer_biases(model, model_id)} if is_first else {}
        if self.keep.coded and is_first:
            tables["neuron_direction"] = neuron_directions(model, model_id)
        if self.keep.coded:
            tables["token_direction"] = token_directions(model, model_id, shard.rows.targets())
        return tables

    def _sampled(self, shard: Shard, end: int) -> pa.Table:
        """Return the sampled positions that are in the shard."""
        ordinals = self.summary.sample.ordinals
        reached = ordinals[(ordinals >= shard.first) & (ordinals < end)]
        run_id = np.full(len(reached), shard.begun.run_id, dtype=np.int32)
        return pa.table({"run_id": run_id, "position_id": reached + shard.identity.position_id})


def part_record(part: Part, begun: Begun) -> dict[str, Any]:
    """Return the row of base.part for a part, as a dictionary from column to value."""
    return {
        "run_id": begun.run_id,
        "part": part.number,
        "parts": part.parts,
        "first_shard": part.first_shard,
        "last_shard": part.last_shard,
        "first_position_id": begun.first_position_id + part.first,
        "last_position_id": begun.first_position_id + part.end - 1,
        "shards": part.shards,
        "positions": part.positions,
        "plan_sha256": part.plan_sha256,
    }


def finish_run(writer: Writer, summary: RunSummary, begun: Begun) -> None:
    """Store the final top-k lists and samples of all neurons and heads, and mark the run as finished."""
    lists = summary.list_entries(begun.run_id, begun.first_position_id)
    samples = (samples_by_unit(rows, begun.run_id) for rows in writer.samples(begun.run_id))
    writer.finish(begun.run_id, samples, lists)


def _is_for_rewriting(number: int) -> bool:
    """Return whether to delete, after shard `number`, the candidates that dropped out of the top-k lists.

    This is done after shards 4, 16, 64 …, because most candidates have dropped out by then.
    """
    return number in (4**i for i in range(1, 16))
