"""A run made of parts is the run that one process makes, whatever happens to the parts and to the merge."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pytest

from annotate_transformer import store
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.errors import SettingsError
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import EMBEDDED, resolve
from annotate_transformer.ingest.run.deep import verify_deep
from annotate_transformer.ingest.run.merge import merge
from annotate_transformer.ingest.run.pipeline import RunReport, ingest
from annotate_transformer.ingest.run.plan import PartOf, Plan, plan_for
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.run.survey import survey_with
from annotate_transformer.store.checksum import record_all
from annotate_transformer.store.writer import Writer
from answers import sql, table_differences
from processes import Result, Running, annotate, start, until
from small import corpus, until_committed

PLAIN = Settings(
    context=16, batch_tokens=8, shard_tokens=100, top=5, samples=300, keep_neurons=2, keep_sources=4
)
# A shard has two groups of windows, so that a shard may end too early
KINDS = {
    "plain": PLAIN,
    "lens": replace(PLAIN, lens=True),
    "all": replace(PLAIN, keep_neurons=None, keep_sources=None, samples=20, lens=True),
    "stride and bos": replace(PLAIN, stride=7, bos=True, limit_tokens=901, first_in_lists=True),
}
OPTIONS = (
    *("--context", 16, "--batch-tokens", 8, "--shard-tokens", 100, "--top", 5, "--samples", 300),
    *("--keep-neurons", 2, "--keep-sources", 4),
)
SENTENCES = (3, 1, 7, 2, 30, 4, 6, 1, 24, 6)  # of each document: two are longer than a shard


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return Model(resolve(str(tiny_model)))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("text") / "small.jsonl", SENTENCES)


Annotate = Callable[..., RunReport]


@pytest.fixture(scope="module")
def annotated(model: Model, text: Path) -> Annotate:
    """What annotates the text, or a part of it, in this process."""

    def run(db: Path, settings: Settings, part: PartOf | None = None, **options: Any) -> RunReport:
        with Corpus([str(options.pop("text", text))]) as documents:
            return ingest(documents, model, str(db), settings, part=part, **options)

    return run


@pytest.fixture(scope="module")
def whole(annotated: Annotate, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """What gives the store that one process makes of each kind."""
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("whole") / "whole.duckdb"
            assert annotated(made[kind], KINDS[kind]).status == "finished"
        return made[kind]

    return of


@pytest.fixture(scope="module")
def three(annotated: Annotate, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The three parts of a plain run; to be read or copied."""
    return in_parts(annotated, tmp_path_factory.mktemp("three"), PLAIN, 3)


def in_parts(annotated: Annotate, folder: Path, settings: Settings, parts: int) -> list[Path]:
    files = [folder / f"part-{number}.duckdb" for number in range(1, parts + 1)]
    for number, file in enumerate(files, 1):
        assert annotated(file, settings, PartOf(number, parts)).status == "finished"
    return files


def assert_sound(db: Path) -> None:
    assert [finding for finding in store.verify(db) if finding.broken] == []


def plan_of(model: Model, text: Path, settings: Settings, file: Path | None = None) -> Plan:
    with Corpus([str(text)]) as documents:
        tokenizer = Tokenizer(model.tokenizer, parse_special=settings.parse_special)
        return plan_for(documents, tokenizer, settings.resolved(model), model, file)


# The plan


@pytest.mark.some(3)
@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_has_the_shards_that_an_ingest_writes(
    kind: str, model: Model, text: Path, whole: Callable[[str], Path]
) -> None:
    plan = plan_of(model, text, KINDS[kind])
    columns = "first_position_id, next_document, document_position, document_window, next_window"
    rows = sql(whole(kind), f"SELECT {columns} FROM base.shard ORDER BY shard")
    assert [shard.first for shard in plan.shards] == [row[0] for row in rows]
    cursors = [(c.document, c.position, c.window, c.next_window) for c in (s.cursor for s in plan.shards)]
    assert cursors == [(0, 0, 0, 0), *(row[1:] for row in rows[:-1])]
    assert len(rows) >= 6


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_has_the_totals_of_the_survey(kind: str, model: Model, text: Path) -> None:
    settings = KINDS[kind].resolved(model)
    with Corpus([str(text)]) as documents:
        survey = survey_with(documents, Tokenizer(model.tokenizer), settings, "")
    found = plan_of(model, text, KINDS[kind]).survey
    assert (found.scan, found.positions) == (survey.scan, survey.positions)
    assert found.special.tolist() == survey.special.tolist()
    assert (found.special.size > 0) == settings.bos


def test_parts_have_each_shard_once_and_are_nearly_equal(model: Model, text: Path) -> None:
    plan = plan_of(model, text, PLAIN)
    largest = max(b - a for a, b in pairwise(firsts(plan)))
    for parts in range(1, len(plan.shards) + 1):
        made = [plan.part(PartOf(number, parts)) for number in range(1, parts + 1)]
        assert [made[0].first, *(part.end for part in made)] == [*(p.first for p in made), made[-1].end]
        assert (made[0].first_shard, made[-1].last_shard) == (0, len(plan.shards) - 1)
        assert all(a.last_shard + 1 == b.first_shard for a, b in pairwise(made))
        assert max(part.size for part in made) <= plan.survey.positions / parts + largest


def firsts(plan: Plan) -> list[int]:
    return [*(shard.first for shard in plan.shards), plan.survey.positions]


def test_a_plan_is_read_back(model: Model, text: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    made = plan_of(model, text, KINDS["stride and bos"], file)
    before = file.stat().st_mtime_ns
    read = plan_of(model, text, KINDS["stride and bos"], file)
    assert (read.shards, read.sha256, read.survey.scan) == (made.shards, made.sha256, made.survey.scan)
    assert read.survey.special.tolist() == made.survey.special.tolist()
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda settings, text: (replace(settings, shard_tokens=200), text),
            "shard_tokens is 100 there and 200",
        ),
        (lambda settings, text: (replace(settings, top=6), text), "top is 5 there and 6 here"),
        (lambda settings, text: (settings, text.with_name("other.jsonl")), "its corpus has 10 documents, "),
    ],
)
def test_the_plan_of_another_run_is_refused(
    change: Callable[[Settings, Path], tuple[Settings, Path]], words: str, model: Model, tmp_path: Path
) -> None:
    text = corpus(tmp_path / "small.jsonl", SENTENCES)
    corpus(tmp_path / "other.jsonl", (*SENTENCES, 1))
    plan_of(model, text, PLAIN, tmp_path / "plan.json")
    settings, source = change(PLAIN, text)
    with pytest.raises(SettingsError, match=words):
        plan_of(model, source, settings, tmp_path / "plan.json")


def test_a_changed_plan_is_refused(model: Model, text: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    plan = plan_of(model, text, PLAIN, file)
    second = plan.shards[1].first
    file.write_text(file.read_text().replace(f"[{second}, ", f"[{second + 1}, "))
    with pytest.raises(SettingsError, match="is not a plan"):
        plan_of(model, text, PLAIN, file)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1, "corpus": 3}', '{"format": 2}', "\0"])
def test_a_file_that_is_no_plan_is_refused(content: str, model: Model, text: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(content)
    with pytest.raises(SettingsError, match="Give another file to --plan"):
        plan_of(model, text, PLAIN, file)
    assert file.read_text() == content


# The parts, and one store of them


@pytest.mark.some(6)
@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        *(("all", 2), ("all", 5), ("all", None), ("lens", 2), ("lens", 5), ("lens", None)),
        *(("stride and bos", 2), ("stride and bos", None)),
        *(("plain", 5), ("plain", 1), ("plain", 2), ("plain", None)),
    ],
)
def test_parts_make_the_store_that_one_process_makes(
    kind: str, parts: int | None, annotated: Annotate, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """In parts of several shards, or (None) of one shard each."""
    [(shards,)] = sql(whole(kind), "SELECT count(*) FROM base.shard")
    files = in_parts(annotated, tmp_path, KINDS[kind], parts or shards)
    for file in files:
        assert_sound(file)
    if len(files) > 1:
        documents = [
            document for file in files for (document,) in sql(file, "SELECT document_id FROM documents")
        ]
        assert len(documents) > len({*documents}), "no document spans two parts"
    db = tmp_path / "x.duckdb"
    report = merge(files[::-1], db)
    assert (report.status, report.merged, report.notes) == ("finished", len(files), [])
    assert table_differences(whole(kind), db) == {}
    assert_sound(db)


SMALL_SHARDS = {"shard_tokens": 2_500, "batch_tokens": 128, "context": 128}  # enough of them for 16 parts
AT_LENGTH = {
    "plain": Settings(),
    "lens": Settings(lens=True),
    "all neurons": Settings(keep_neurons=None),
    "stride": Settings(stride=80),
    "bos": Settings(bos=True),
}


@pytest.mark.soak
@pytest.mark.parametrize("kind", AT_LENGTH)
def test_60_000_tokens_in_parts_are_those_of_one_process(
    kind: str, annotated_at_length: Annotate, tmp_path: Path
) -> None:
    settings = replace(AT_LENGTH[kind], limit_tokens=60_000, **SMALL_SHARDS)
    whole = tmp_path / "whole.duckdb"
    assert annotated_at_length(whole, settings).tokens == 60_000
    for parts in (1, 2, 5, 16):
        folder, db = tmp_path / f"{parts}", tmp_path / "merged.duckdb"
        folder.mkdir()
        files = in_parts(annotated_at_length, folder, settings, parts)
        if parts == 16:
            ends = [
                sql(file, "SELECT min(document_id), max(document_id) FROM documents")[0] for file in files
            ]
            assert any(a[1] == b[0] for a, b in pairwise(ends)), "no document spans two parts"
        merge(files, db)
        assert table_differences(whole, db) == {}, f"in {parts} parts"
        shutil.rmtree(folder)
        db.unlink()


@pytest.fixture(scope="module")
def annotated_at_length(tmp_path_factory: pytest.TempPathFactory) -> Annotate:
    """What annotates the embedded corpus in documents of 1 to 40 of its own, so that some are long."""
    model, file = Model(resolve("neox-2m")), tmp_path_factory.mktemp("long") / "long.jsonl"
    lines = (EMBEDDED / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    with file.open("w", encoding="utf-8") as out:
        for size in (1, 40, 3, 20, 2) * len(texts):
            drawn, texts = texts[:size], texts[size:] + texts[:size]
            out.write(json.dumps({"text": "\n\n".join(drawn)}) + "\n")
            if out.tell() > 300_000:
                break

    def run(db: Path, settings: Settings, part: PartOf | None = None) -> RunReport:
        with Corpus([str(file)]) as documents:
            return ingest(documents, model, str(db), settings, part=part)

    return run


@pytest.mark.soak
def test_a_changed_value_is_a_difference(
    three: list[Path], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """The comparison that these tests use does find differences."""
    merge(three, tmp_path / "x.duckdb")
    with duckdb.connect(str(tmp_path / "x.duckdb")) as con:
        con.execute("UPDATE base.head SET toward_top = toward_top + 1 WHERE rowid = 5")
    assert {*table_differences(whole("plain"), tmp_path / "x.duckdb")} == {"head"}


IN_HEAD = "UPDATE base.head SET toward_top = toward_top + 1 WHERE rowid = 5"


@pytest.mark.parametrize(
    ("statement", "where"),
    [
        ("UPDATE base.sample_position SET position_id = position_id + 1 WHERE rowid = 0", "base.sample_pos"),
        ("UPDATE base.document SET text = text || ' ' WHERE rowid = 0", "base.document"),
    ],
)
def test_a_damaged_part_is_not_merged(
    statement: str, where: str, three: list[Path], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    files, db = [Path(shutil.copy(file, tmp_path)) for file in three], tmp_path / "x.duckdb"
    with duckdb.connect(str(files[1])) as con:
        con.execute(statement)
    with pytest.raises(store.DamagedStore, match=f"part-2.duckdb is damaged: the rows of {where}"):
        merge(files, db)
    shutil.copy(three[1], files[1])
    assert merge(files, db).merged == 2
    assert table_differences(whole("plain"), db) == {}


def test_a_damaged_row_is_found_in_the_merged_store(
    three: list[Path], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its checksum is copied with it, or where rows get other ids, compared before they are copied."""
    files, db = [Path(shutil.copy(file, tmp_path)) for file in three], tmp_path / "x.duckdb"
    with duckdb.connect(str(files[1])) as con:
        con.execute(IN_HEAD)
    merge(files, db)
    problems = [problem for finding in store.verify(db) for problem in finding.examples]
    assert any("base.head (run 1, shard " in problem for problem in problems)
    other = Path(shutil.copy(whole("lens"), tmp_path))
    with pytest.raises(store.DamagedStore, match=r"the rows of base\.head in shard "):
        merge(files, other)


def test_a_run_beside_others_gets_numbers_of_its_own(
    three: list[Path], annotated: Annotate, text: Path, tmp_path: Path
) -> None:
    """Beside a run of another text and one of the same text; its own text has documents of both."""
    both = [tmp_path / "one.duckdb", tmp_path / "parts.duckdb"]
    other = corpus(tmp_path / "other.jsonl", (2, 5))
    for settings, source in ((KINDS["all"], other), (replace(PLAIN, top=3, limit_tokens=150), text)):
        annotated(both[0], settings, text=source)
    shutil.copy(both[0], both[1])
    annotated(both[0], PLAIN)
    assert merge(three, both[1]).run_id == 3
    assert sql(both[1], "SELECT run_id, model_id, corpus_id FROM runs ORDER BY ALL") == [
        (1, 1, 1),
        (2, 1, 2),
        (3, 1, 2),
    ]
    assert table_differences(*both) == {}
    assert_sound(both[1])


def test_a_merged_run_is_not_merged_again(three: list[Path], tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    merge(three, db)
    before = db.read_bytes()
    assert merge(three, db).status == "nothing to do"
    assert db.read_bytes() == before


def test_an_ingest_adds_nothing_to_a_merged_run(
    three: list[Path], annotated: Annotate, tmp_path: Path
) -> None:
    merge(three, tmp_path / "x.duckdb")
    assert annotated(tmp_path / "x.duckdb", PLAIN).status == "nothing to do"


def test_what_needs_another_part_is_refused(
    model: Model, annotated: Annotate, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """The first windows of a part repeat tokens of the part before it; the whole run has them."""
    db = tmp_path / "part.duckdb"
    annotated(db, KINDS["stride and bos"], PartOf(3, 4))
    cut = "SELECT p.position_id FROM base.position p, base.part WHERE context_cut AND position > 8"
    [(position,)] = sql(db, f"{cut} AND position_id < first_position_id + 10 ORDER BY ALL LIMIT 1")
    with Writer(db) as writer, pytest.raises(store.NoSuchPosition, match="begins in another part of its run"):
        writer.contexts([position])
    with Writer(whole("stride and bos")) as writer:
        assert len(writer.contexts([position])[0].token_ids) > 8
    with pytest.raises(SettingsError, match="has only a part of run 1"):
        list(verify_deep(db, 1, 2))


# Stopped and resumed


class Stop(Exception):
    pass


@pytest.mark.parametrize("when", [1, 3])
def test_a_merge_that_stopped_is_resumed(
    when: int, three: list[Path], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """After one part, and after the last one, before the run is finished; the store is sound meanwhile."""
    db = tmp_path / "x.duckdb"

    def stop(done: int, parts: int) -> None:
        if done == when:
            raise Stop

    with pytest.raises(Stop):
        merge(three, db, watch=stop)
    assert_sound(db)
    assert sql(db, "SELECT status::VARCHAR FROM runs") == [("running",)]
    assert merge(three, db).merged == 3 - when
    assert table_differences(whole("plain"), db) == {}


def test_an_ingest_resumes_what_a_merge_has_left(
    three: list[Path], annotated: Annotate, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    def stop(done: int, parts: int) -> None:
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        merge(three, tmp_path / "x.duckdb", watch=stop)
    assert annotated(tmp_path / "x.duckdb", PLAIN).status == "finished"
    assert table_differences(whole("plain"), tmp_path / "x.duckdb") == {}


def test_a_part_stops_only_at_the_end_of_a_shard(
    annotated: Annotate, three: list[Path], tmp_path: Path
) -> None:
    db = tmp_path / "part.duckdb"
    report = annotated(db, PLAIN, PartOf(2, 3), stop=lambda: True)
    assert report.status == "stopped"
    assert sql(db, "SELECT count(*) FROM base.shard") == [(1,)]
    assert sql(db, "SELECT is_complete FROM parts") == [(False,)]
    assert_sound(db)
    report = annotated(db, PLAIN, PartOf(2, 3))
    assert (report.status, report.resumed) == ("finished", True)
    assert table_differences(three[1], db) == {}
    assert annotated(db, PLAIN, PartOf(2, 3)).status == "nothing to do"


def killed(running: Running) -> bool:
    """Kill a process; return False if it had ended by itself."""
    running.send(signal.SIGKILL)
    result = running.wait()
    assert result.status in (0, -signal.SIGKILL), result.err
    return result.status == -signal.SIGKILL


def is_writing(db: Path) -> bool:
    """Whether a transaction is being written, or was when its process was killed."""
    return Path(f"{db}.wal").exists()


def test_killed_in_its_commit_and_resumed(
    three: list[Path], text: Path, tiny_model: Path, tmp_path: Path
) -> None:
    db = tmp_path / "part-2.duckdb"
    command = ("ingest", text, "--model", tiny_model, *OPTIONS, "--part", "2/3", "--db", db.name)
    for shards in (0, 1):
        running = start(*command, folder=tmp_path)
        until_committed(db, shards, lambda: not running.alive)  # noqa: B023
        until(lambda: is_writing(db) or not running.alive, every=0.002)  # noqa: B023
        assert killed(running), "it was over before it could be killed"
    result = annotate(*command, folder=tmp_path)
    assert (result.status, "Traceback" in result.err) == (0, False), result.err
    assert "Run 1, part 2 of 3" in result.out
    told = annotate("doctor", "--db", db.name, folder=tmp_path).out
    assert "ok      run 1: part 2 of 3, " in told and "`annotate merge` makes one run of all parts." in told
    found = table_differences(three[1], db)
    # another name of the model and of the thread count
    assert {*found} <= {"part", "model", "checksum", "corpus"}, found
    assert_sound(db)


def test_a_merge_killed_at_any_moment_is_resumed(
    three: list[Path], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    db, kills = tmp_path / "x.duckdb", 0
    for _ in range(4):
        running = start("merge", *three, "--db", db.name, folder=tmp_path)
        written = _written(db)
        until(lambda: _written(db) > written or not running.alive, every=0.002)  # noqa: B023
        kills += killed(running)
    assert kills >= 2, "the merge was over before it could be killed"
    result = annotate("merge", *three, "--db", db.name, folder=tmp_path)
    assert result.status == 0, result.err
    assert table_differences(whole("plain"), db) == {}
    assert_sound(db)


def _written(db: Path) -> int:
    """Return when the store's write-ahead log was last written."""
    log = Path(f"{db}.wal")
    try:
        return log.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


# Refusals


def refused(files: Sequence[Path], db: Path) -> str:
    """The sentence with which a merge is refused; nothing may have been written."""
    before = db.read_bytes() if db.exists() else None
    result = annotate("merge", *files, "--db", db, folder=db.parent)
    assert (result.status, "Traceback" in result.err) == (2, False), result.err
    assert (db.read_bytes() if db.exists() else None) == before
    return re.sub(r"\s+", " ", result.err).strip()


def test_what_is_no_whole_run_is_refused(three: list[Path], annotated: Annotate, tmp_path: Path) -> None:
    db, (one, two, last) = tmp_path / "x.duckdb", three
    twice = Path(shutil.copy(two, tmp_path / "copy.duckdb"))
    assert f"{one} is given twice" in refused([one, one, two, last], db)
    assert f"{twice} (part 2 of 3, shards " in refused([one, twice, two, last], db)
    assert "A part is missing (2/3): shards 2 to " in refused([last, one], db)
    assert "A part is missing (1/3, 3/3): shards 0 to " in refused([two], db)
    half = tmp_path / "half.duckdb"
    annotated(half, PLAIN, PartOf(2, 2))
    told = refused([one, two, last, half], db)
    assert f"{two} (part 2 of 3" in told and f"{half} (part 2 of 2" in told and "the same shards" in told
    begun = tmp_path / "begun.duckdb"
    annotated(begun, PLAIN, PartOf(3, 3), stop=lambda: True)
    assert f"{begun} has part 3 of 3 only to shard " in refused([one, two, begun], db)


def test_parts_of_different_runs_are_refused(three: list[Path], annotated: Annotate, tmp_path: Path) -> None:
    db, (one, two, last) = tmp_path / "x.duckdb", three
    other = tmp_path / "other.duckdb"
    annotated(other, replace(PLAIN, top=6), PartOf(3, 3))
    assert f"{one} and {other} are parts of different runs: top 5 and 6" in refused([one, two, other], db)
    versions = Path(shutil.copy(last, tmp_path / "versions.duckdb"))
    with duckdb.connect(str(versions)) as con:
        con.execute('UPDATE base.run SET libraries = json_merge_patch(libraries, \'{"torch": "1.0"}\')')
    assert "contradicts its identity" in refused([one, two, versions], db)
    annotated(cut := tmp_path / "cut.duckdb", replace(PLAIN, shard_tokens=200), PartOf(2, 2))
    assert "are cut into other shards: --shard-tokens was another" in refused([one, cut], db)


def test_a_store_that_cannot_take_the_run_is_refused(
    three: list[Path], annotated: Annotate, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    copies = [Path(shutil.copy(file, tmp_path)) for file in three]
    assert "cannot be the merged store too" in refused(copies, copies[0])
    assert "has part 1 of 3 of this run itself" in refused(three, copies[0])
    begun = tmp_path / "begun.duckdb"
    annotated(begun, PLAIN, stop=lambda: True)
    assert "unfinished run of the same text, model and settings" in refused(three, begun)
    assert "has no part of a run" in refused([whole("plain")], tmp_path / "x.duckdb")
    assert "There is no store at" in refused([tmp_path / "none.duckdb"], tmp_path / "x.duckdb")


def test_a_file_holds_one_part_of_one_run(three: list[Path], annotated: Annotate, tmp_path: Path) -> None:
    db = Path(shutil.copy(three[1], tmp_path))
    for settings, part, words in (
        (PLAIN, PartOf(1, 3), "has part 2 of 3 of this run. Give --part 2/3 to resume it"),
        (PLAIN, None, "has part 2 of 3 of this run. Give --part 2/3 to resume it"),
        (replace(PLAIN, top=6), PartOf(2, 3), "has part 2 of 3 of run 1, which is of another text"),
        (PLAIN, PartOf(1, 99), "cannot be divided into 99 parts of whole shards"),
        (replace(PLAIN, shard_tokens=200), PartOf(2, 3), "cut into other shards"),
    ):
        with pytest.raises(SettingsError, match=words):
            annotated(db, settings, part)
    annotated(begun := tmp_path / "begun.duckdb", PLAIN, stop=lambda: True)
    with pytest.raises(SettingsError, match="that is not divided into parts"):
        annotated(begun, PLAIN, PartOf(1, 3))


@pytest.mark.parametrize("asked", ["0/3", "4/3", "3", "a/b", "1/", "-1/3", "1/3/5"])
def test_what_is_no_part_is_refused(asked: str) -> None:
    with pytest.raises(SettingsError, match="must be K/N with K from 1 to N"):
        PartOf.parse(asked)


def test_another_machine_is_told(three: list[Path], tmp_path: Path) -> None:
    files = [Path(shutil.copy(file, tmp_path)) for file in three]
    with duckdb.connect(str(files[1])) as con:
        con.execute("UPDATE base.part SET threads = 7, processor = 'Other'")
        record_all(con)
    threads, processors = merge(files, tmp_path / "x.duckdb").notes
    assert "different numbers of threads (" in threads and "7: part 2" in threads
    assert "different processors (" in processors and "Other: part 2" in processors


def test_a_corpus_that_changes_leaves_the_part_incomplete(model: Model, text: Path, tmp_path: Path) -> None:
    growing, db = Path(shutil.copy(text, tmp_path / "growing.jsonl")), tmp_path / "part.duckdb"

    def grow(progress: object) -> None:
        with growing.open("a") as file:
            file.write('{"text": "One line more."}\n')

    with (
        Corpus([str(growing)]) as documents,
        pytest.raises(store.AnnotateError, match="part stays unfinished"),
    ):
        ingest(documents, model, str(db), PLAIN, part=PartOf(1, 3), watch=grow)
    assert sql(db, "SELECT is_complete FROM parts") == [(False,)]


# The commands


def said(result: Result, status: int = 0) -> str:
    assert (result.status, "Traceback" in result.err) == (status, False), result.err
    return re.sub(r"\s+", " ", result.out + result.err)


def test_the_commands(text: Path, tiny_model: Path, tmp_path: Path) -> None:
    command = ("ingest", text, "--model", tiny_model, *OPTIONS, "--plan", "plan.json")
    for part in ("1/2", "2/2"):
        db = f"part-{part[0]}.duckdb"
        assert f"Run 1, part {part[0]} of 2: " in said(
            annotate(*command, "--part", part, "--db", db, folder=tmp_path)
        )
        assert f"part {part[0]} of 2" in said(annotate("runs", "--db", db, folder=tmp_path))
    assert (tmp_path / "plan.json").exists()
    again = annotate(*command, "--part", "2/2", "--db", "part-2.duckdb", folder=tmp_path)
    assert "Run 1, part 2 of 2 is complete already" in said(again)
    merging = ("merge", "part-2.duckdb", "part-1.duckdb", "--db", "x.duckdb")
    assert "tokens in 2 parts merged" in said(annotate(*merging, folder=tmp_path))
    assert "is finished already" in said(annotate(*merging, folder=tmp_path))
    assert said(annotate("verify", "x.duckdb", folder=tmp_path)).count("ok") > 30
    assert "no part" not in said(annotate("runs", "--db", "x.duckdb", folder=tmp_path))


def test_options_that_do_not_belong_together(text: Path, tmp_path: Path) -> None:
    command = ("ingest", text, "--db", "x.duckdb")
    for options, words in (
        (("--plan", "plan.json"), "--plan belongs to --part"),
        (("--part", "1/2", "--answer-column", "a", "--distractor-column", "b"), "--part stores no contrasts"),
        (("--part", "1/2", "--parts", 3), "--parts goes neither with --part"),
    ):
        assert words in re.sub(r"[\s│]+", " ", annotate(*command, *options, folder=tmp_path).err)
    assert not (tmp_path / "x.duckdb").exists()


def children(process: int) -> list[int]:
    """The processes that a process has started and that are still there (Linux)."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def test_local_processes_killed_interrupted_and_resumed(
    text: Path, tiny_model: Path, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    command = ("ingest", text, "--model", tiny_model, *OPTIONS, "--db", "x.duckdb", "--no-weights")
    command = (*command, "--parts", 3, "--jobs", 2)
    running, folder = start(*command, folder=tmp_path), tmp_path / "x.duckdb.parts"
    until(lambda: children(running.process.pid or 0))
    os.kill(children(running.process.pid or 0)[0], signal.SIGKILL)
    until(lambda: "part 1 of 3 ended with status -9 and is started again" in running.said())
    assert "Another command is annotating the parts in x.duckdb.parts" in said(
        annotate(*command, folder=tmp_path), status=2
    )
    until_committed(folder / "part-1.duckdb", 1, lambda: not running.alive)
    mine = children(running.process.pid or 0)
    running.send(signal.SIGINT)
    result = running.wait()
    assert (result.status, "Traceback" in result.err) == (130, False), result.err
    assert "same command resumes from here" in result.out
    assert mine and not any(Path(f"/proc/{child}").exists() for child in mine)
    assert folder.exists() and not (tmp_path / "x.duckdb").exists()
    assert "tokens in 3 parts merged" in said(annotate(*command, folder=tmp_path))
    assert table_differences(whole("plain"), tmp_path / "x.duckdb") == {}
    assert not folder.exists()
    assert "Run 1 is finished already" in said(annotate(*command, folder=tmp_path))
    assert not folder.exists()


def test_a_part_that_ends_with_a_sentence_ends_the_command(
    text: Path, tiny_model: Path, tmp_path: Path
) -> None:
    command = ("ingest", text, "--model", tiny_model, *OPTIONS, "--db", "x.duckdb", "--parts", 99)
    told = said(annotate(*command, folder=tmp_path), status=2)
    assert "Part 1 of 99 has failed: The run has " in told
    assert "cannot be divided into 99 parts of whole shards" in told
    assert not (tmp_path / "x.duckdb").exists()
