"""Plan the shards of a run before it is annotated, and divide them into parts.

A plan says where each shard begins. The shards depend only on the corpus and the settings, so separate
processes can annotate separate ranges of whole shards, and each stores the rows that one process would have
stored. A plan can be kept in a file; it is checked against the corpus and the settings before it is used.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from annotate_transformer.ingest.corpus.sources import Corpus, Scan
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.corpus.windows import Cursor
from annotate_transformer.ingest.errors import SettingsError
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.run.groups import Groups
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.run.survey import Survey, check_bos
from annotate_transformer.store.whole import whole
from annotate_transformer.store.writer import Begun, Provenance, Writer

FORMAT = 1  # the version of the plan's file


@dataclass(frozen=True)
class PartOf:
    """Which part of a run a command asks for: part `number` (from 1) of `parts`.

    `plan`: a file with the plan, made if it does not exist; None: the plan is made and not kept.
    """

    number: int
    parts: int
    plan: Path | None = None

    @staticmethod
    def parse(text: str, plan: Path | None = None) -> "PartOf":
        """Parse the value of --part: `3/16` means part 3 of 16.

        Raises:
            SettingsError: the text is not of this form, or there is no such part.
        """
        number, _, parts = text.partition("/")
        if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
            raise SettingsError(f"--part {text} must be K/N with K from 1 to N, such as 3/16.")
        return PartOf(int(number), int(parts), plan)


@dataclass(frozen=True)
class PlannedShard:
    """The beginning of a shard: the ordinal of its first position, and the cursor of its first window."""

    first: int
    cursor: Cursor


@dataclass(frozen=True)
class Part:
    """A range of whole shards of a run.

    `first_shard`, `last_shard`: numbers of its first and last shard;
    `first`, `end`: ordinals of its first position and of the first position after it;
    `cursor`: where its first window is;
    `shards`, `positions`: numbers of shards and of positions of the whole run;
    `plan_sha256`: hash of all shards of the plan.
    """

    number: int
    parts: int
    first_shard: int
    last_shard: int
    first: int
    end: int
    cursor: Cursor
    shards: int
    positions: int
    plan_sha256: str

    @property
    def size(self) -> int:
        """The number of positions of the part"""
        return self.end - self.first


@dataclass(frozen=True)
class Plan:
    """Where each shard of a run begins, and the inputs on which this depends.

    `survey`: the totals of the first pass, from which the sample is drawn;
    `settings`: the settings of the run, with the number of positions after which a shard ends.
    """

    survey: Survey
    tokenizer_sha256: str
    settings: dict[str, Any]
    shards: tuple[PlannedShard, ...]

    @property
    def sha256(self) -> str:
        totals = [self._rows(), self.survey.positions, self.survey.special.tolist()]
        return hashlib.sha256(json.dumps(totals).encode()).hexdigest()

    def _rows(self) -> list[list[int]]:
        """Return each shard as a list for JSON: its first position's ordinal, and its cursor's fields."""
        return [[shard.first, *asdict(shard.cursor).values()] for shard in self.shards]

    def part(self, asked: PartOf) -> Part:
        """Return one part of the run; the parts' sizes are as equal as whole shards allow.

        Raises:
            SettingsError: the run has fewer shards than parts.
        """
        starts = self._starts(asked.parts)
        low, high = starts[asked.number - 1], starts[asked.number]
        firsts = [*(shard.first for shard in self.shards), self.survey.positions]
        return Part(
            asked.number, asked.parts, low, high - 1, firsts[low], firsts[high], self.shards[low].cursor,
            len(self.shards), self.survey.positions, self.sha256,
        )  # fmt: skip

    def _starts(self, parts: int) -> list[int]:
        """Return the number of each part's first shard, followed by the total number of shards."""
        shards = len(self.shards)
        if parts > shards:
            raise SettingsError(
                f"The run has {shards} shard{'' if shards == 1 else 's'}, so it cannot be divided into "
                f"{parts} parts of whole shards. Ask for fewer parts, or give a smaller --shard-tokens."
            )
        firsts = np.array([shard.first for shard in self.shards])
        starts = [0]
        for number in range(1, parts):
            nearest = int(np.abs(firsts - number * self.survey.positions / parts).argmin())
            starts.append(min(max(nearest, starts[-1] + 1), shards - (parts - number)))
        return [*starts, shards]

    def text(self) -> str:
        """Return the plan as JSON, the content of its file."""
        return json.dumps(
            {
                "format": FORMAT,
                "corpus": asdict(self.survey.scan),
                "tokenizer_sha256": self.tokenizer_sha256,
                "settings": self.settings,
                "positions": self.survey.positions,
                "special": self.survey.special.tolist(),
                "shards": self._rows(),
                "sha256": self.sha256,
            }
        )


def plan_for(
    corpus: Corpus, tokenizer: Tokenizer, settings: Settings, model: Model, file: Path | None
) -> Plan:
    """Read the plan from its file, or make it and write the file; `settings` must come from `resolved`.

    Raises:
        SettingsError: the file has a plan of another corpus, tokenizer or settings, or no plan at all.
        AnnotateError: as `survey`.
    """
    check_bos(settings, tokenizer, model.checkpoint.name)
    settings = replace(settings, shard_tokens=settings.positions_a_shard(model))
    if file is None:
        return make_plan(corpus, tokenizer, settings)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        plan = make_plan(corpus, tokenizer, settings)
        _write(plan, file)
        return plan
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--plan {file} cannot be read: {error}.") from error
    plan = _parsed(text, file)
    differ = [*_differences(plan, corpus.read().scan(), tokenizer, settings)]
    if differ:
        raise SettingsError(
            f"{file} is the plan of another run: {', '.join(differ)}. Give the corpus and the options that "
            "it was made with, or another file to --plan."
        )
    return plan


def hash_in(file: Path) -> str:
    """Return the hash of the shards from a plan's file, without checking the file; empty if there is none."""
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def make_plan(corpus: Corpus, tokenizer: Tokenizer, settings: Settings) -> Plan:
    """Make a plan: read the corpus once and find where each shard begins; annotate nothing.

    `settings` must come from `resolved`, and have the number of positions of a shard.
    """
    assert settings.batch_tokens and settings.shard_tokens, "resolved settings"
    documents = corpus.read()
    groups = Groups(
        documents, tokenizer, settings.windowing(tokenizer), settings.batch_tokens, Cursor(),
        settings.limit_tokens, note=lambda ordinal, document: None,
    )  # fmt: skip
    shards, special, positions, at = [PlannedShard(0, Cursor())], [np.empty(0, np.int64)], 0, Cursor()
    for group, after in groups:
        if positions - shards[-1].first >= settings.shard_tokens:
            shards.append(PlannedShard(positions, at))
        for window in group:
            is_special = window.stored & np.isin(window.ids, tokenizer.special_ids)
            special.append(window.positions[is_special])
            positions += int(window.stored.sum())
        at = after
    survey = Survey.of(documents.scan(), positions, np.concatenate(special))
    return Plan(survey, tokenizer.sha256, asdict(settings), tuple(shards))


def check_same_part(begun: Begun, part: Part | None, path: str) -> None:
    """Check that a store with shards of the run has only shards of this part.

    Raises:
        SettingsError: the store has another part of the run, or the run is no part and a part is asked for.
    """
    if begun.status != "running":
        return
    there, wanted = begun.part, part
    if there is None and wanted is not None:
        raise SettingsError(
            f"{path} has an unfinished run of this text, model and settings that is not divided into parts. "
            "Give another --db, or leave --part out to resume it."
        )
    if there is None:
        return
    told = f"part {there['part']} of {there['parts']}"
    if wanted is None or (there["part"], there["parts"]) != (wanted.number, wanted.parts):
        raise SettingsError(
            f"{path} has {told} of this run. Give --part {there['part']}/{there['parts']} to resume it, or "
            "another --db."
        )
    if there["plan_sha256"] != wanted.plan_sha256:
        raise SettingsError(
            f"{path} has {told} of this run, cut into other shards: --shard-tokens was another. Give the "
            "same --shard-tokens or --plan as before, or another --db."
        )


def check_alone(writer: Writer, provenance: Provenance, part: Part | None) -> None:
    """Check that the store into which a part is to be written has no part of another run.

    Raises:
        SettingsError: it has one. A merge could not know which of the two runs is meant.
    """
    for there in writer.parts() if part else ():
        if there["identity"] != provenance.identity:
            raise SettingsError(
                f"{writer.path} has part {there['part']} of {there['parts']} of run {there['run_id']}, which "
                "is of another text, model, setting or version. Give another --db, or remove the file."
            )


def _write(plan: Plan, file: Path) -> None:
    try:
        with whole(file) as part:
            part.write_text(plan.text(), encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--plan {file} cannot be written: {error.strerror or error}.") from error


def _parsed(text: str, file: Path) -> Plan:
    try:
        read = json.loads(text)
        if read["format"] != FORMAT:
            raise SettingsError(
                f"{file} has a plan of format {read['format']!r}, and this program reads format {FORMAT}. "
                "Give another file to --plan."
            )
        survey = Survey(Scan(**read["corpus"]), int(read["positions"]), np.array(read["special"], np.int64))
        shards = tuple(PlannedShard(int(first), Cursor(*map(int, at))) for first, *at in read["shards"])
        plan = Plan(survey, str(read["tokenizer_sha256"]), dict(read["settings"]), shards)
        if plan.sha256 != read["sha256"]:
            raise ValueError("its shards are not those that were written")
        return plan
    except (KeyError, TypeError, ValueError) as error:
        raise SettingsError(
            f"{file} is not a plan of `annotate ingest --part`. Give another file to --plan."
        ) from error


def _totals(scan: Scan) -> str:
    return f"{scan.documents:,} documents, {scan.characters:,} characters and the hash {scan.sha256[:12]}…"


def _differences(plan: Plan, scan: Scan, tokenizer: Tokenizer, settings: Settings) -> Iterable[str]:
    """Yield each input that has changed since the plan was made, with the old and the new value."""
    if plan.survey.scan.sha256 != scan.sha256:
        yield f"its corpus has {_totals(plan.survey.scan)}, this one {_totals(scan)}"
    if plan.tokenizer_sha256 != tokenizer.sha256:
        yield f"its tokenizer has the hash {plan.tokenizer_sha256[:12]}…, this one {tokenizer.sha256[:12]}…"
    for name, value in asdict(settings).items():
        if plan.settings.get(name) != value:
            yield f"{name} is {plan.settings.get(name)} there and {value} here"
