"""A sweep makes the runs that `annotate ingest` makes, one for each training step, and can be resumed."""

from pathlib import Path

import pytest

from annotate_transformer import store
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.downloads import removed_after
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import EMBEDDED, PYTHIA, Checkpoint, resolve, steps_of
from annotate_transformer.ingest.run.pipeline import RunReport, ingest
from annotate_transformer.ingest.run.settings import Settings
from answers import sql, table_differences
from processes import annotate

CORPUS = EMBEDDED / "corpus.jsonl"
SMALL = ("--limit-tokens", 300, "--shard-tokens", 100, "--samples", 50, "--top", 5, "--no-weights", "--quiet")


def _swept(folder: Path, steps: str, *options: object) -> tuple[int | None, str]:
    words = ("sweep", CORPUS, "--db", folder / "sweep.duckdb", "--steps", steps, *SMALL, *options)
    ended = annotate(*words, folder=folder)
    return ended.status, ended.err


def test_each_step_is_the_run_that_an_ingest_makes(tmp_path: Path) -> None:
    assert _swept(tmp_path, "512, 4000,6110") == (0, "")
    for revision in ("main", "step512", "step4000"):  # the last, the first, then the rest
        words = ("ingest", CORPUS, "--db", tmp_path / "alone.duckdb", "--revision", revision, *SMALL)
        assert annotate(*words, folder=tmp_path).status == 0
    assert table_differences(tmp_path / "sweep.duckdb", tmp_path / "alone.duckdb") == {}
    assert [row[0] for row in sql(tmp_path / "sweep.duckdb", "SELECT count(*) FROM base.corpus")] == [1]


def test_a_finished_step_is_left_out_without_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _swept(tmp_path, "0,6110") == (0, "")
    status, said = _swept(tmp_path, "0,2000,6110")
    assert (status, said) == (0, "")
    with store.open(tmp_path / "sweep.duckdb") as s:
        assert s.runs().revision.tolist() == ["main", "step0", "step2000"]
    # Other settings are other runs, and other documents another corpus.
    assert _swept(tmp_path, "0", "--tokens-per-document", 20, "--sample-documents", 10)[0] == 0
    with store.open(tmp_path / "sweep.duckdb") as s:
        runs = s.runs()
        assert runs.revision.tolist() == ["main", "step0", "step2000", "step0"]
        assert runs.corpus_id.tolist() == [1, 1, 1, 2]
        assert runs.tokens.iloc[-1] == 200
        assert "10 documents drawn with seed 0, at most 20 tokens of each" in str(runs.corpus.iloc[-1])


def test_fresh_annotates_every_step_anew_and_revisions_may_have_spaces(tmp_path: Path) -> None:
    assert _swept(tmp_path, "0,6110") == (0, "")
    words = ("sweep", CORPUS, "--db", tmp_path / "sweep.duckdb", *SMALL, "--quiet")
    ended = annotate(*words, "--revisions", " step0 ,main, step0,", folder=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    with store.open(tmp_path / "sweep.duckdb") as s:
        before = s.runs()
        assert before.revision.tolist() == ["main", "step0"], "both were finished"
    ended = annotate(*words, "--revisions", "step0, main", "--fresh", folder=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    with store.open(tmp_path / "sweep.duckdb") as s:
        after = s.runs()
        assert after.revision.tolist() == ["step0", "main"], "each replaces its run from before"
        assert after.started.min() > before.finished.max()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--steps", "7"), "neox-2m has no step '7', but 6 from 0 to 6110"),
        (("--steps", "few"), "--steps takes log, all, or numbers"),
        (("--model", "gpt2"), "The training steps of gpt2 are not known. Give --revisions"),
        (("--revision", "main"), "Give --steps or --revisions instead"),
        (("--revisions", "step0,step7"), "has no revision 'step7'"),
        (("--revisions", " , "), "--revisions names no revision"),
        (("--keep-neuron", "3"), "No such option: --keep-neuron"),
    ],
)
def test_what_cannot_be_swept_is_told(tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    ended = annotate("sweep", CORPUS, "--db", tmp_path / "x.duckdb", *SMALL, *options, folder=tmp_path)
    assert ended.status == 2
    assert told in " ".join(ended.err.split())
    assert "Traceback" not in ended.err


def test_equal_weights_are_annotated_once(tmp_path: Path, tiny_model: Path, source: Path) -> None:
    settings, db = Settings(context=16, samples=20, top=5), str(tmp_path / "x.duckdb")

    def annotated(revision: str, step: int, *, any_revision: bool) -> RunReport:
        model = Model(Checkpoint("m", str(tiny_model), revision, step))
        with Corpus([str(source)]) as corpus:
            return ingest(corpus, model, db, settings, any_revision=any_revision)

    first = annotated("early", 1, any_revision=True)
    assert (first.status, first.equal_weights) == ("finished", None)
    again = annotated("late", 2, any_revision=True)
    assert (again.run_id, again.status) == (first.run_id, "nothing to do")
    assert again.equal_weights == "The weights of m late equal those of m early (run 1)"
    assert annotated("late", 2, any_revision=False).status == "finished"
    assert annotated("late", 2, any_revision=True).run_id == 2  # its own run, not the other one
    with store.open(db) as s:
        assert s.runs().revision.tolist() == ["early", "late"]


def test_every_known_step_is_a_revision() -> None:
    for name in ("neox-2m", "pythia-70m", "pythia-410m-seed9"):
        steps = steps_of(name)
        assert [resolve(name, revision).step for revision in steps.values()] == [*steps]
    assert len(steps_of("pythia-70m")) == 154
    assert resolve("pythia-70m-seed1", "step1000").path == "EleutherAI/pythia-70m-seed1"
    assert len({name for name in PYTHIA if "seed" in name}) == 45
    with pytest.raises(ModelError, match="not known"):
        steps_of("gpt2")


def test_only_what_was_downloaded_in_the_block_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--EleutherAI--pythia-14m"

    def download(commit: str, *files: str) -> None:
        """Put files into the cache as huggingface_hub does; a blob has the file's name."""
        for file in files:
            blob = repository / "blobs" / file
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_text(file)
            link = repository / "snapshots" / commit / file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / f"of-{commit}").write_text(commit)

    def cached() -> set[str]:
        return {file.name for file in (repository / "blobs").glob("*")}

    source = resolve("pythia-14m", "step1")
    with removed_after(source):
        download("a" * 40, "first")
    assert cached() == set()
    download("b" * 40, "second", "shared")
    with removed_after(source):
        download("c" * 40, "third", "shared")
        assert cached() == {"second", "shared", "third"}
    assert cached() == {"second", "shared"}


@pytest.mark.soak
def test_a_sweep_in_parts_makes_the_same_runs(tmp_path: Path) -> None:
    words = ("--limit-tokens", 12_000, "--batch-tokens", 256, "--shard-tokens", 2000)
    for name, more in (("whole", ()), ("parts", ("--parts", 2, "--jobs", 2))):
        (tmp_path / name).mkdir()
        assert _swept(tmp_path / name, "0,6110", *words, *more) == (0, "")
    assert table_differences(*(tmp_path / name / "sweep.duckdb" for name in ("whole", "parts"))) == {}
