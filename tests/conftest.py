"""Fixtures that several files share."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

import small

# Several processes share the cores here: idle OpenMP threads that spin would starve the others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

LONGEST = {f"test_{name}.py" for name in ("bad_input", "browser", "cli", "concurrency", "resume", "verify")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: else one worker has one of them left when the other has nothing."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a GPT-NeoX so small that it is loaded and run in a moment."""
    return small.model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two training steps, runs 1 and 2, over one cut through the embedded corpus.

    Every topic is there, and the first document twice. The second one's weights are annotated too, and
    some of its neurons looked up, their heads ablated and explained by rules. One worker makes it for
    all of them; each has a copy of its own.
    """
    db = tmp_path_factory.mktemp("steps") / "steps.duckdb"
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return _annotated_in_two_steps(db)
    everybodys = tmp_path_factory.getbasetemp().parent / db.name
    with FileLock(f"{everybodys}.lock"):
        if not everybodys.exists():
            shutil.copy(_annotated_in_two_steps(db), everybodys)
    return Path(shutil.copy(everybodys, db))


def _annotated_in_two_steps(db: Path) -> Path:
    from ingest.ablation import ablate
    from ingest.explain import explain_by_rules
    from ingest.lookups import Settings as LookupSettings
    from ingest.lookups import look_up
    from ingest.model import EMBEDDED, Model, resolve
    from ingest.pipeline import Settings, ingest
    from ingest.sources import Corpus
    from ingest.weights import annotate_weights

    lines = (EMBEDDED / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    corpus = db.with_name("corpus.jsonl")
    corpus.write_text("\n".join([lines[0], *lines[::8]]), encoding="utf-8")
    for revision in ("step1000", None):
        with Corpus([str(corpus)]) as documents:
            settings, model = Settings(limit_tokens=4000, lens=True), Model(resolve("neox-2m", revision))
            report = ingest(documents, model, str(db), settings)
        assert report.status == "finished"
    annotate_weights(model, str(db), top=10)
    look_up(model, str(db), 2, [(3, 359), (3, 492)], LookupSettings(windows=10, longest=16, deviations=1.5))
    ablate(model, str(db), 2)
    explain_by_rules(str(db), 2)
    return db
