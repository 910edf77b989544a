"""Fixtures that several files share."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import small
from processes import annotate

# Several processes share the cores here: idle OpenMP threads that spin would starve the others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

LONGEST = {f"test_{name}.py" for name in ("bad_input", "browser", "cli", "concurrency", "resume", "verify")}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every", action="store_true", help="run every member of each list of parameters")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only `make soak` runs, and begin with the longest files.

    A test with the mark some(n) has a long list of parameters: every n-th of them is run. One with the
    mark soak takes long for what others show nearly as well. Where a long file came last, one worker would
    run it while the other has nothing left.
    """
    left_out, seen = list[pytest.Item](), Counter[str]()
    for item in items:
        mark, name = item.get_closest_marker("some"), item.nodeid.partition("[")[0]
        is_left_out = item.get_closest_marker("soak") or (mark and seen[name] % mark.args[0])
        if is_left_out and not config.getoption("every"):
            left_out.append(item)
        seen[name] += 1
    config.hook.pytest_deselected(items=left_out)
    unwanted = {*left_out}
    items[:] = [item for item in items if item not in unwanted]
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a GPT-NeoX so small that it is loaded and run in a moment."""
    return small.model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of six short documents."""
    return small.corpus(tmp_path_factory.mktemp("text") / "small.jsonl", (3, 1, 20, 2, 5, 9))


@pytest.fixture(scope="session")
def made(source: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one finished run of them; to be copied, never written into."""
    folder = tmp_path_factory.mktemp("made")
    command = ("ingest", source, "--db", "x.duckdb", "--model", tiny_model, *small.SETTINGS)
    result = annotate(*command, folder=folder)
    assert result.status == 0, result.err
    return folder / "x.duckdb"


@pytest.fixture(scope="session")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two training steps, runs 1 and 2, over one cut through the embedded corpus.

    Every topic is there, and the first document twice. The second one's weights are annotated too, and
    some of its neurons looked up, their heads ablated and explained by rules. One worker makes it for
    all of them; each has a copy of its own. ANNOTATE_STEPS: where it is kept for later runs of the tests.
    """
    db = tmp_path_factory.mktemp("steps") / "steps.duckdb"
    if not {"PYTEST_XDIST_WORKER", "ANNOTATE_STEPS"} & {*os.environ}:
        return _annotated_in_two_steps(db)
    everybodys = Path(os.environ.get("ANNOTATE_STEPS") or tmp_path_factory.getbasetemp().parent / db.name)
    with FileLock(f"{everybodys}.lock"):
        if not everybodys.exists():
            shutil.copy(_annotated_in_two_steps(db), everybodys)
    return Path(shutil.copy(everybodys, db))


def _annotated_in_two_steps(db: Path) -> Path:
    from annotate_transformer.ingest.corpus.sources import Corpus
    from annotate_transformer.ingest.models.model import Model
    from annotate_transformer.ingest.models.names import EMBEDDED, resolve
    from annotate_transformer.ingest.next_token.ablation import ablate
    from annotate_transformer.ingest.next_token.explain import explain_by_rules
    from annotate_transformer.ingest.next_token.prompts import PromptSettings, look_up
    from annotate_transformer.ingest.run.pipeline import ingest
    from annotate_transformer.ingest.run.settings import Settings
    from annotate_transformer.ingest.weights.tables import annotate_weights

    lines = (EMBEDDED / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    corpus = db.with_name("corpus.jsonl")
    corpus.write_text("\n".join([lines[0], *lines[::8]]), encoding="utf-8")
    for revision in ("step1000", None):
        with Corpus([str(corpus)]) as documents:
            settings, model = Settings(limit_tokens=4000, lens=True), Model(resolve("neox-2m", revision))
            report = ingest(documents, model, str(db), settings)
        assert report.status == "finished"
    annotate_weights(model, str(db), top=10)
    look_up(
        model, str(db), 2, [(3, 359), (3, 492)], PromptSettings(windows=10, max_tokens=16, std_threshold=1.5)
    )
    ablate(model, str(db), 2)
    explain_by_rules(str(db), 2)
    return db


# Of the command line, the pages and the browser: imported where they are used, since each takes seconds


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, two_steps: Path) -> Any:
    """`annotate …` in this process, on the store of two runs: an `Asking`."""
    from asking import Asking

    return Asking(capsys, monkeypatch, two_steps)


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, two_steps: Path) -> Any:
    """What shows a page of the app, without a browser."""
    from pages import showing

    return showing(monkeypatch, two_steps)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A store of a hostile corpus; its second run was stopped on the way."""
    from pages import odd_store

    return odd_store(tmp_path_factory.mktemp("<b>odd"), tiny_model)


@pytest.fixture(scope="module")
def server(two_steps: Path) -> Iterator[str]:
    """The address of the app on the store of two runs."""
    from browsing import serving

    with serving(two_steps) as address:
        yield address


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real browser."""
    from browsing import launched

    with launched() as browser:
        yield browser


@pytest.fixture
def page(chromium: Any, server: str) -> Iterator[Any]:
    """A tab of it, which asks no other host."""
    from browsing import tab

    with tab(chromium, server) as page:
        yield page


@pytest.fixture
def serve() -> Iterator[Any]:
    """What starts a server of a language model that behaves as it is told to."""
    from endpoints import serving

    with serving() as start:
        yield start
