"""Fixtures that several files share."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import small
from processes import annotate

# Several processes share the cores here: idle OpenMP threads that spin would starve the others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.pop("ANNOTATE_DB", None)  # every test names its store itself

# The files that take longest
LONG = """ask app_pages bad_input browser checksum circuits cli closure concurrency damaged_files deep
    effects emergence exact families keyboard lake mcp model_identity parts parts_together ray resume
    special_tokens sweep units_on verify web"""
LONGEST = {f"test_{name}.py" for name in LONG.split()}


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
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """What makes a folder once for all workers: shared(name, make) calls make(folder) in one of them."""
    together = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        together = together.parent

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        path, done = together / f"shared-{name}", together / f"shared-{name}.done"
        with FileLock(f"{path}.lock"):
            if not done.exists():
                shutil.rmtree(path, ignore_errors=True)  # what a worker left that failed
                path.mkdir()
                make(path)
                done.touch()
        return path

    return folder


@pytest.fixture(scope="session")
def tiny_model(shared: Any) -> Path:
    """A folder with a GPT-NeoX so small that it is loaded and run in a moment."""
    return Path(shared("model", lambda folder: small.model(folder / "tiny"))) / "tiny"


@pytest.fixture(scope="session")
def source(shared: Any) -> Path:
    """A file of six short documents."""
    folder = shared("text", lambda folder: small.corpus(folder / "small.jsonl", (3, 1, 20, 2, 5, 9)))
    return Path(folder) / "small.jsonl"


@pytest.fixture(scope="session")
def made(source: Path, tiny_model: Path, shared: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one finished run of them; to be copied, never written into.

    One worker makes it for all of them; each has a copy of its own.
    """

    def make(folder: Path) -> None:
        command = ("ingest", source, "--db", "x.duckdb", "--model", tiny_model, *small.SETTINGS)
        result = annotate(*command, folder=folder)
        assert result.status == 0, result.err

    return Path(shutil.copy(shared("made", make) / "x.duckdb", tmp_path_factory.mktemp("made")))


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


@pytest.fixture(scope="session")
def odd(shared: Any, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A store of a hostile corpus; its second run was stopped on the way.

    One worker makes it for all of them; each has a copy of its own.
    """
    from pages import odd_store

    folder = shared("<b>odd", lambda folder: odd_store(folder, tiny_model))
    return Path(shutil.copytree(folder, tmp_path_factory.mktemp("<b>odd") / "of this worker")) / "odd.duckdb"


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
