"""Merge the parts of a run into the store of the whole run.

1. Check: all parts are complete, belong to the same run, and together have each of its shards once. Nothing
   is written before.
2. Copy: each part is one transaction. Its rows are copied, its statistics are added to those of the run, and
   its candidates for the top lists enter the lists. After each transaction the store is as an ingest would
   have left it at the end of the part's last shard, so a killed merge is resumed after the last whole part.
3. Finish: the lists and the sample are made final, as at the end of an ingest.

No model is run.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotate_transformer.ingest.errors import SettingsError
from annotate_transformer.ingest.run.run_summary import NONE, RunSummary
from annotate_transformer.ingest.run.shard import finish_run
from annotate_transformer.store.database import connection
from annotate_transformer.store.errors import NotOneRun
from annotate_transformer.store.location import located
from annotate_transformer.store.parts import Copy, StoredPart, checked, distinct_files, read_part
from annotate_transformer.store.writer import Begun, Writer, portions


@dataclass(frozen=True)
class MergeReport:
    """The result of a merge.

    `status`: `finished`, or `nothing to do` (the store has the finished run already);
    `parts`, `merged`: number of parts of the run, and of those that this merge copied;
    `notes`: sentences about differences between the machines that made the parts.
    """

    run_id: int
    status: str
    tokens: int
    parts: int
    merged: int
    notes: list[str]


def merge(
    files: Sequence[Path],
    path: str | Path,
    *,
    fresh: bool = False,
    watch: Callable[[int, int], None] = lambda done, parts: None,
) -> MergeReport:
    """Merge the parts in `files` into the store at `path`, which may have other runs; resume a stopped merge.

    `fresh`: replace the finished run of the same text, model and settings;
    `watch`: called with the number of parts that are merged and of all parts.

    Raises:
        NotOneRun: the parts do not make one whole run.
        SettingsError: `path` has an unfinished run or part of it.
        StoreError: a file cannot be read or written.
    """
    parts = checked([read_part(file) for file in _distinct(files, path)])
    tokens, notes = int(parts[0].record["positions"]), _notes(parts)
    with Writer(path) as writer:
        begun = writer.begin(parts[0].provenance, parts[0].vocabulary(), fresh=fresh)
        if begun.status == "finished":
            return MergeReport(begun.run_id, "nothing to do", tokens, len(parts), 0, notes)
        done = _merged(writer, begun, parts)
        merging = _Merging(writer, begun, parts[0], restored=done > 0)
        for number, part in enumerate(parts[done:], done):
            watch(number, len(parts))
            merging.add(part, is_first=number == 0)
        watch(len(parts), len(parts))
        finish_run(writer, merging.summary, begun)
    return MergeReport(begun.run_id, "finished", tokens, len(parts), len(parts) - done, notes)


class _Merging:
    """The merged run, with the top-k lists and statistics of the parts merged so far."""

    def __init__(self, writer: Writer, begun: Begun, part: StoredPart, *, restored: bool) -> None:
        """`restored`: whether to read the lists and statistics of parts that an earlier merge has stored."""
        self.writer, self.begun = writer, begun
        model, settings = part.provenance.model, part.provenance.settings
        self.summary = RunSummary(
            model["n_layers"], model["d_mlp"], model["n_heads"], int(part.record["positions"]),
            top=settings["top"], samples=0, seed=settings["seed"], first_in_lists=settings["first_in_lists"],
            left_out=NONE, unsampled=NONE,
        )  # fmt: skip
        if restored:
            self.summary.restore(writer.fetch, begun.run_id, begun.first_position_id)

    def add(self, part: StoredPart, *, is_first: bool) -> None:
        """Copy a part, and store the lists and statistics of all parts up to this one, in one transaction.

        Raises:
            DamagedStore: the part's rows are not what was written.
        """
        run_id, origin = self.begun.run_id, self.begun.first_position_id
        copied = Copy(part, self.begun, is_first=is_first)
        copied.check()
        with connection(part.path, read_only=True) as con:
            self.summary.restore(part.fetcher(con), part.ids["run_id"], part.first_position_id)
        since = part.record["first_position_id"] - part.first_position_id
        candidates = portions(self.summary.list_entries(run_id, origin, since))
        tables: dict[str, Any] = {"top_candidate": (rows for _, rows in candidates)}
        tables |= self.summary.statistics_tables(run_id)
        self.writer.commit(tables, merge=False, copied=copied, run_id=run_id)


def _distinct(files: Sequence[Path], path: str | Path) -> Sequence[Path]:
    """Return the files; raise NotOneRun if a file is given twice, or is the store to be written."""
    for file in files:
        if located(file) == located(path):
            raise NotOneRun(f"{file} is a part and cannot be the merged store too. Give another --db.")
    return distinct_files(files)


def _merged(writer: Writer, begun: Begun, parts: Sequence[StoredPart]) -> int:
    """Return the number of parts that the store has already.

    Raises:
        SettingsError: the store has a part of the run, or an unfinished run that no merge has left.
    """
    if begun.status == "new":
        return 0
    if begun.part is not None:
        raise SettingsError(
            f"{writer.path} has part {begun.part['part']} of {begun.part['parts']} of this run itself. Give "
            "another --db."
        )
    found = writer.fetch("shards_of_run", run_id=begun.run_id).to_pylist()
    origin = begun.first_position_id
    there = [(s["shard"], s["first_position_id"] - origin, s["last_position_id"] - origin) for s in found]
    reached = list[tuple[int, int, int]]()
    for number, part in enumerate(parts, 1):
        reached += part.ordinals()
        if reached == there:
            return number
    raise SettingsError(
        f"{writer.path} has an unfinished run of the same text, model and settings that ends within a part. "
        "Finish it with the same `annotate ingest`, or give another --db."
    )


def _notes(parts: Sequence[StoredPart]) -> list[str]:
    """Return notes on the parts computed with another number of threads or processor than the first part."""
    notes = list[str]()
    for name, what in (("threads", "numbers of threads"), ("processor", "processors")):
        by_value: dict[Any, list[int]] = {}
        for part in parts:
            by_value.setdefault(part.record[name], []).append(part.record["part"])
        if len(by_value) > 1:
            of = "; ".join(f"{value}: {_listed(numbers)}" for value, numbers in by_value.items())
            notes.append(
                f"The parts were made with different {what} ({of}), so they agree with one another within "
                "the bound of rounding (closure_bound) and not bit for bit"
            )
    return notes


def _listed(numbers: Iterable[int]) -> str:
    """Return the numbers of parts as text for a message.

    >>> _listed([1, 3])
    'parts 1, 3'
    """
    told = [*map(str, numbers)]
    return f"part{'s' if len(told) > 1 else ''} {', '.join(told)}"
