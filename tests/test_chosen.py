"""The chosen documents of a corpus are those that were asked for, and the same ones every time."""

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from annotate_transformer.ingest.corpus.chosen import Choice, ChosenCorpus
from annotate_transformer.ingest.corpus.sources import Corpus, Document
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.errors import AnnotateError
from annotate_transformer.ingest.models.load import load_tokenizer
from annotate_transformer.ingest.models.names import resolve

ROWS: list[dict[str, Any]] = [
    {"text": f"Speech number {i} of {1900 + i}.", "year": 1900 + i, "party": ("Whig", "Tory", None)[i % 3],
     "tags": ["long"] * (i % 2), "about": {"place": "York" if i % 4 else "Bath"}}
    for i in range(100)
]  # fmt: skip


@pytest.fixture(scope="module")
def speeches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("speeches") / "speeches.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def _chosen(source: Path, choice: Choice, **options: Any) -> list[Document]:
    with ChosenCorpus([str(source)], choice, **options) as corpus:
        found = [*corpus]
        assert found == [*corpus]
        return found


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("party = 'Whig'", lambda row: row["party"] == "Whig"),
        ("party IS NULL AND year > 1950", lambda row: row["party"] is None and row["year"] > 1950),
        ("year % 10 = 3 OR about.place = 'Bath'",
         lambda row: row["year"] % 10 == 3 or row["about"]["place"] == "Bath"),
        ("len(tags) = 1 -- a comment", lambda row: len(row["tags"]) == 1),
    ],
)  # fmt: skip
def test_a_condition_chooses_what_python_chooses(speeches: Path, where: str, holds: Any) -> None:
    wanted = [row["text"] for row in ROWS if holds(row)]
    assert wanted
    found = _chosen(speeches, Choice(where=where))
    assert [document.text for document in found] == wanted
    with Corpus([str(speeches)]) as every:  # metadata and source, too
        assert found == [document for document in every if document.text in wanted]


def test_texts_of_a_table_compare_as_numbers_if_they_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "speeches.csv"
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["text", "year", "share", "code"])
        writer.writerows([row["text"], row["year"], row["year"] / 8, f"0{i}"] for i, row in enumerate(ROWS))
        writer.writerow(["Without a year.", "", "", ""])
    last = [row["text"] for row in ROWS[98:]]
    for where in ("year >= 1998", "share > 249.7", "code IN ('098', '099')"):
        assert [document.text for document in _chosen(file, Choice(where=where))] == last
    assert [document.text for document in _chosen(file, Choice(where="year IS NULL"))] == ["Without a year."]


def test_a_sample_is_uniform_and_keeps_the_order(speeches: Path) -> None:
    counts = dict.fromkeys((row["text"] for row in ROWS), 0)
    for seed in range(60):
        found = [document.text for document in _chosen(speeches, Choice(documents=25, seed=seed))]
        assert len(found) == 25
        assert found == sorted(found, key=[*counts].index)
        for text in found:
            counts[text] += 1
    # 60 draws of 25 of 100: each document 15 times on average, with a standard deviation of 3.4
    assert min(counts.values()) > 15 - 5 * 3.4
    assert max(counts.values()) < 15 + 5 * 3.4


def test_a_shuffle_has_every_document_once_and_a_sample_is_its_beginning(speeches: Path) -> None:
    shuffled = [document.text for document in _chosen(speeches, Choice(shuffle=True, seed=7))]
    texts = [row["text"] for row in ROWS]
    assert sorted(shuffled) == sorted(texts)
    assert shuffled != texts
    sample = _chosen(speeches, Choice(shuffle=True, documents=10, seed=7))
    assert [document.text for document in sample] == shuffled[:10]
    assert len(_chosen(speeches, Choice(documents=1000))) == 100


def test_what_is_drawn_does_not_change_with_versions(speeches: Path) -> None:
    years = [document.metadata["year"] for document in _chosen(speeches, Choice(documents=5, seed=1))]
    assert years == [1930, 1939, 1971, 1972, 1990]


def test_a_document_is_cut_after_its_tokens(speeches: Path) -> None:
    tokenizer = Tokenizer(load_tokenizer(resolve("neox-2m"))[0])
    for number in (1, 3, 1000):
        beginning = partial(tokenizer.beginning, tokens=number)
        found = _chosen(speeches, Choice(tokens=number), beginning=beginning)
        for document, row in zip(found, ROWS, strict=True):
            assert row["text"].startswith(document.text)
            assert tokenizer.count(document.text) == min(number, tokenizer.count(row["text"]))


def test_bad_rows_are_counted_once(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"text": "one"}\n{"no": 1}\n{"text": "two"}\n')
    with ChosenCorpus([str(file)], Choice(documents=1), skip_bad=True) as corpus:
        assert [corpus.scan().skipped, corpus.scan().skipped] == [1, 1]


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"where": "party = 'Green'"}, "No document fulfils"),
        ({"where": "parties = 'Whig'"}, "year (UBIGINT), party (VARCHAR)"),
        ({"where": "party ="}, "cannot be evaluated (Parser Error"),
        ({"where": "1 = 1); DROP TABLE document; SELECT (1"}, "it is more than one condition"),
        ({"where": "EXISTS (FROM read_text('/etc/hostname'))"}, "file system operations are disabled"),
        ({"documents": 0}, "--sample-documents 0 must be 1 or more"),
        ({"tokens": -1}, "--tokens-per-document -1 must be 1 or more"),
    ],
)
def test_what_cannot_be_chosen_is_told(speeches: Path, choice: dict[str, Any], told: str) -> None:
    with pytest.raises(AnnotateError) as raised:
        _chosen(speeches, Choice(**choice))
    assert told in str(raised.value)


def test_texts_without_metadata_have_no_column(tmp_path: Path) -> None:
    file = tmp_path / "plain.txt"
    file.write_text("A text.")
    with pytest.raises(AnnotateError, match="has no columns"):
        _chosen(file, Choice(where="year > 1900"))
