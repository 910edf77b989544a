"""The pages of the app, shown without a browser."""

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from annotate_transformer import store

pytest.importorskip("streamlit.testing.v1")

from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from annotate_transformer.app.browser import VARIABLE, pages
from annotate_transformer.app.browser.server import start

MAIN = Path(start.__file__).with_name("main.py")


PAGES = ("", *[*pages.modules()][1:])  # as they are in addresses


HOSTILE = (
    "<script>alert('x')</script> <img src=x onerror=alert(1)> \"quoted\" 'single' `back` **bold** "
    "\u202eright to left\u202c \x07bell\x00nul 👩‍🚀 שלום </a></td> &amp; $x$ [link](http://example.com)"
)


Show = Callable[..., Any]


# An AppTest looks through all that is installed for components, longer than most pages take.
installed = functools.cache(manifest_scanner.scan_component_manifests)


@functools.cache
def page_hashes() -> dict[str, str]:
    """Streamlit's name for each page, by the page's own: switch_page knows files alone."""
    pages = AppTest.from_file(str(MAIN), default_timeout=60).run()._registered_pages
    return {about["url_pathname"]: page_hash for page_hash, about in pages.items()}


def showing(monkeypatch: pytest.MonkeyPatch, two_steps: Path) -> Show:
    """Return what shows a page of a store (by default the one of two runs) with parameters in its address."""
    monkeypatch.setattr(manifest_scanner, "scan_component_manifests", installed)

    def shown(page: str, db: Path = two_steps, **parameters: Any) -> Any:
        monkeypatch.setenv(VARIABLE, str(db))
        test = AppTest.from_file(str(MAIN), default_timeout=60)
        test._page_hash = page_hashes()[page]
        for name, value in parameters.items():
            test.query_params[name] = str(value)
        test.run()
        assert not test.exception, [error.message for error in test.exception]
        return test

    return shown


def html(test: Any) -> str:
    """The HTML that the page's components show, without the navigation around the page."""
    return re.sub("<nav.*?</nav>", "", _html(test), flags=re.DOTALL)


def navigation(test: Any) -> str:
    """The HTML of the path to the page and of the objects seen last."""
    return "\n".join(re.findall("<nav.*?</nav>", _html(test), re.DOTALL))


def _html(test: Any) -> str:
    return "\n".join(json.loads(part.proto.json) for part in test._tree.get("bidi_component"))


def button(test: Any, label: str) -> Any:
    """The only button of this label."""
    [found] = [button for button in test.button if button.label == label]
    return found


def box(test: Any, label: str) -> Any:
    """The only box for a text whose label begins so."""
    [found] = [box for box in (*test.text_input, *test.text_area) if box.label.startswith(label)]
    return found


def titles(test: Any) -> list[str]:
    return [heading.value for heading in (*test.title, *test.subheader)]


def position(db: Path, run: int) -> int:
    """A position in the middle of a document, with something after it."""
    query = "SELECT min(position_id) + 60 FROM positions WHERE run_id = $run"
    return int(store.open(db).sql(query, {"run": run}).iloc[0, 0])


def empty_store(folder: Path) -> Path:
    from annotate_transformer.store.database import create

    db = folder / "empty.duckdb"
    with duckdb.connect(str(db)) as con:
        create(con)
    return db


def odd_store(folder: Path, model: Path) -> Path:
    """A store of a hostile corpus, with a BOS and strides; its second run was stopped on the way."""
    from annotate_transformer.ingest.corpus.sources import Corpus
    from annotate_transformer.ingest.models.model import Model
    from annotate_transformer.ingest.models.names import resolve
    from annotate_transformer.ingest.run.pipeline import ingest
    from annotate_transformer.ingest.run.settings import Settings

    corpus, db = folder / "<i>corpus.jsonl", folder / "odd.duckdb"
    rows = [{"text": HOSTILE * n, "title": HOSTILE} for n in (1, 3)] + [{"text": ""}, {"text": "a"}]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = Settings(context=32, stride=16, bos=True, batch_tokens=32, shard_tokens=64, lens=True, samples=20)
    many = Settings(context=32, batch_tokens=32, shard_tokens=32, samples=20, top=5)
    for settings, stop in ((few, False), (many, True)):
        with Corpus([str(corpus)]) as documents:
            ingest(documents, Model(resolve(str(model))), str(db), settings, stop=lambda stop=stop: stop)
    assert store.open(db).runs().status.astype(str).tolist() == ["finished", "running"]
    return db
