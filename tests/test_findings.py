"""Findings: what a person keeps is in a file beside the store, shown on a page, and exported."""

import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from annotate_transformer.app.browser import VARIABLE, findings
from annotate_transformer.app.browser.findings import Finding, NotKept
from pages import Show, box, button, html

HOSTILE = "<script>alert(1)</script> [a](javascript:1) *b* \u202e"


@pytest.fixture
def db(two_steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    db = Path(shutil.copy(two_steps, tmp_path / "x.duckdb"))
    monkeypatch.setenv(VARIABLE, str(db))
    return db


def test_a_head_is_kept_changed_and_removed(db: Path, show: Show) -> None:
    test = show("head", db, run=1, head="L1H2")
    for label, text in (("Name", "an induction head"), ("List", "induction")):
        box(test, label).input(text)
    box(test, "Note").input(HOSTILE)
    button(test, "Keep").click().run()
    assert not test.exception
    file = db.with_name("x.findings.json")
    [row] = json.loads(file.read_text())
    assert row.pop("kept")[:2] == "20"
    assert row == {
        "page": "head", "parameters": {"run": "1", "head": "L1H2"}, "name": "an induction head",
        "list": "induction", "note": HOSTILE,
    }  # fmt: skip
    # The same head, seen otherwise, is the same finding.
    test = show("head", db, run=1, head="L1H2", bin=20)
    assert box(test, "Name").value == "an induction head"
    shown = html(show("findings", db))
    assert "<h3>induction</h3>" in shown and "an induction head" in shown
    assert "<script" not in shown and "&lt;script" in shown
    [href] = re.findall('href="(/head[^"]*)"', shown)
    assert dict(parse_qsl(urlsplit(href.replace("&amp;", "&")).query)) == {"run": "1", "head": "L1H2"}
    button(test, "Remove").click().run()
    assert json.loads(file.read_text()) == []
    assert "Nothing is kept yet" in html(show("findings", db))


@pytest.mark.parametrize(
    ("page", "parameters"),
    [
        ("token", {"position": 300}),
        ("neuron", {"run": 1, "neuron": "L3N7"}),
        ("prompt", {"run": 1, "text": "Dublin is"}),
        ("search", {"run": 1, "q": "capital"}),
        ("sql", {"query": "FROM runs"}),
        ("text", {"run": 1, "document": 1}),
    ],
)
def test_every_kind_of_object_can_be_kept(
    db: Path, show: Show, page: str, parameters: dict[str, Any]
) -> None:
    button(show(page, db, **parameters), "Keep").click().run()
    [kept] = findings.kept()
    assert kept.page == page
    assert kept.parameters.items() >= {name: str(value) for name, value in parameters.items()}.items()


def test_pages_without_an_object_have_nothing_to_keep(db: Path, show: Show) -> None:
    for page in ("", "head", "training", "findings"):
        assert "Keep" not in [button.label for button in show(page, db, run=1).button]


def test_markdown_has_the_lists_and_is_no_markup(db: Path) -> None:
    findings.keep(Finding("head", {"run": "1", "head": "L1H2"}, "L1H2", HOSTILE, "induction"))
    findings.keep(Finding("sql", {"query": "FROM runs"}, "FROM runs"))
    shown = findings.as_markdown(findings.kept(), "http://127.0.0.1:8501")
    assert "- [FROM runs](<http://127.0.0.1:8501/sql?query=FROM+runs>) (sql)\n" in shown
    assert "## induction\n" in shown
    from markdown_it import MarkdownIt

    rendered = MarkdownIt().render(shown)
    assert "<script" not in rendered and rendered.count("<a ") == 2 and "<em>" not in rendered


def test_a_file_that_is_no_list_is_left_as_it_is(db: Path, show: Show) -> None:
    file = db.with_name("x.findings.json")
    for broken in ("{", "[1]", '[{"page": "head"}]', "\x00"):
        file.write_text(broken)
        assert "holds no findings that this program can read" in html(show("findings", db))
        assert "Keep" not in [button.label for button in show("head", db, run=1, head="L1H2").button]
        with pytest.raises(NotKept, match="it is not changed"):
            findings.keep(Finding("sql", {}, "a"))
        assert file.read_text() == broken


def test_two_pages_that_keep_at_once_lose_nothing(db: Path) -> None:
    def keep(first: int) -> None:
        for number in range(first, first + 20):
            findings.keep(Finding("token", {"position": str(number)}, str(number)))

    threads = [threading.Thread(target=keep, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {finding.name for finding in findings.kept()} == {
        str(100 * i + j) for i in range(4) for j in range(20)
    }
    assert not [*db.parent.glob("*.new"), *db.parent.glob(".*.new")]


def test_a_folder_that_cannot_be_written_gets_a_sentence(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    findings.keep(Finding("sql", {}, "a"))
    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(NotKept, match=r"No space left.*Make its folder writable"):
        findings.keep(Finding("sql", {}, "b"))
    assert [finding.name for finding in findings.kept()] == ["a"]
