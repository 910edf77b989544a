"""A corpus is read the same from every container, and whatever is wrong with it is one sentence."""

import gzip
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotate_transformer.ingest.corpus.sources import Corpus, Document
from annotate_transformer.ingest.errors import SettingsError, SourceError
from corpora import as_csv, as_jsonl, as_parquet, read, scanned, sentence, standard_input, texts, written

ROWS: list[dict[str, object]] = [
    {"text": "The first line.\r\nAnd a second, with a comma.\n", "year": "1790", "party": "none"},
    {
        "text": "Ünïcödé, 漢字, 😀 and a line separator\u2028inside",
        "year": "1791",
        "party": 'a "b"',
    },
    {"text": "\ufeffNUL \x00 and bell \x07 as they are", "year": "1792", "party": ""},
]
DOCUMENTS = [(row["text"], {"year": row["year"], "party": row["party"]}) for row in ROWS]


FORMATS = {
    ".jsonl": as_jsonl,
    ".ndjson": as_jsonl,
    ".csv": as_csv,
    ".parquet": as_parquet,
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,  # as the zstd command does
}


# What is read


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("ending", FORMATS)
def test_rows_are_the_same_from_every_container(tmp_path: Path, ending: str, compression: str) -> None:
    content = COMPRESSIONS[compression](FORMATS[ending](ROWS))
    path = written(tmp_path / f"Speeches{ending}{compression}".upper(), content)
    documents = read(path)
    assert [(document.text, document.metadata) for document in documents] == DOCUMENTS
    assert documents[-1].source.startswith(f"{path}:")


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize(
    ("name", "options"),
    [("notes.txt", {}), ("notes", {"format": "text"}), ("notes.md", {"format": "text"})],
)
def test_a_text_file_is_one_document_kept_exactly(
    tmp_path: Path, name: str, options: dict[str, object], compression: str
) -> None:
    text = "\r\na\rb\nc\x00\x85\u2028\ufeff"
    path = written(tmp_path / (name + compression), COMPRESSIONS[compression](text.encode()))
    assert read(path, **options) == [Document(path, text, {})]


def test_a_byte_order_mark_is_dropped_once(tmp_path: Path) -> None:
    for ending in (".txt", ".jsonl", ".csv"):
        content = {".txt": b"a", ".jsonl": b'"a"\n', ".csv": b'"text"\r\na\r\n'}[ending]
        path = written(tmp_path / f"marked{ending}", b"\xef\xbb\xbf" + content)
        assert texts(path) == ["a"]
    assert texts(written(tmp_path / "twice.txt", b"\xef\xbb\xbf" * 2)) == ["\ufeff"]


def test_a_csv_row_is_named_by_the_line_it_begins_on(tmp_path: Path) -> None:
    path = written(tmp_path / "table.csv", b'text,n\r\n"two\nlines",1\r\n\r\nlast,2\r\n')
    assert [document.source for document in read(path)] == [f"{path}:2", f"{path}:5"]


def test_a_csv_may_end_its_lines_with_carriage_returns(tmp_path: Path) -> None:
    assert texts(written(tmp_path / "old.csv", b"text\rone\rtwo\r")) == ["one", "two"]


def test_a_csv_row_may_stop_early(tmp_path: Path) -> None:
    path = written(tmp_path / "short.csv", b"text,n\na\n")
    assert read(path) == [Document(f"{path}:2", "a", {})]


def test_jsonl_takes_bare_strings_and_blank_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", b'"one"\r\n\r\n  \n{"text": "two", "k": [1, null]}')
    assert read(path) == [
        Document(f"{path}:1", "one", {}),
        Document(f"{path}:4", "two", {"k": [1, None]}),
    ]


def test_the_text_column_can_be_another(tmp_path: Path) -> None:
    for ending, content in FORMATS.items():
        path = written(tmp_path / f"b{ending}", content([{"body": "hello", "text": "other"}]))
        assert [(d.text, d.metadata) for d in read(path, text_column="body")] == [
            ("hello", {"text": "other"})
        ]


def test_empty_texts_are_passed_over_silently(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": "", "n": "1"}, {"text": "a", "n": "2"}]
    for ending, content in FORMATS.items():
        scan = scanned(written(tmp_path / f"c{ending}", content(rows)))
        assert (scan.documents, scan.characters, scan.skipped) == (1, 1, 0)


def test_a_huge_text_is_taken_as_it_is(tmp_path: Path) -> None:
    text = "0123456789 \x00abcde\u20ac" * (20 * 2**20 // 20)
    rows: list[dict[str, object]] = [{"text": text}]
    for ending, content in FORMATS.items():
        assert texts(written(tmp_path / f"d{ending}", content(rows))) == [text]
    assert texts(written(tmp_path / "d.txt", text.encode())) == [text]


def test_several_zstandard_frames_are_one_file(tmp_path: Path) -> None:
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip"
    frames = zstandard.compress(b"one ") + skippable + zstandard.compress(b"two")
    assert texts(written(tmp_path / "a.txt.zst", frames)) == ["one two"]


def test_zstandard_with_a_long_window_is_read(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = packer.compress(b"long window") + packer.flush()
    assert texts(written(tmp_path / "a.txt.zst", packed)) == ["long window"]


# Metadata


def test_metadata_is_valid_json_whatever_the_row_held(tmp_path: Path) -> None:
    line = (
        b'{"text": "a\\ud800b", "nan": NaN, "big": [1e999, -Infinity], "k\\udfff": {"x": "\\udc00"},'
        b' "whole": 12345678901234567890123, "pair": "\\ud83d\\ude00"}'
    )
    [document] = read(written(tmp_path / "a.jsonl", line))
    assert document.text == "a\ufffdb"
    assert document.metadata == {
        "nan": "NaN",
        "big": ["Infinity", "-Infinity"],
        "k\ufffd": {"x": "\ufffd"},
        "whole": 12345678901234567890123,
        "pair": "😀",
    }
    json.dumps(document.metadata, allow_nan=False, ensure_ascii=False).encode()


def test_parquet_values_without_json_become_strings(tmp_path: Path) -> None:
    row: dict[str, object] = {
        "text": "a",
        "day": date(1790, 1, 8),
        "price": Decimal("1.50"),
        "raw": b"\xff",
        "score": float("nan"),
        "nested": {"days": [date(1790, 1, 9)], "n": 1},
        "none": None,
    }
    [document] = read(written(tmp_path / "a.parquet", as_parquet([row])))
    assert document.metadata == {
        "day": "1790-01-08",
        "price": "1.50",
        "raw": "b'\\xff'",
        "score": "NaN",
        "nested": {"days": ["1790-01-09"], "n": 1},
        "none": None,
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.text(st.characters(codec=None, categories=None))), ascii=st.booleans())
def test_any_texts_round_trip_through_jsonl(tmp_path: Path, rows: list[str], ascii: bool) -> None:
    # utf-16 is where surrogates live: it joins what pairs, as JSON does, and replaces what does not
    expected = [t.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for t in rows]
    lines = rows if ascii else expected
    content = "".join(json.dumps({"text": t, "same": t}, ensure_ascii=ascii) + "\n" for t in lines)
    documents = read(written(tmp_path / "any.jsonl", content.encode()))
    assert [document.text for document in documents] == [text for text in expected if text]
    assert all(document.metadata["same"] == document.text for document in documents)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.text(min_size=1), min_size=1))
def test_any_texts_give_one_hash_in_every_format(tmp_path: Path, rows: list[str]) -> None:
    table: list[dict[str, object]] = [{"text": text, "same": text} for text in rows]
    scans = {
        scanned(written(tmp_path / f"any{ending}", content(table))) for ending, content in FORMATS.items()
    }
    assert len(scans) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(), ending=st.sampled_from([".txt", *FORMATS]))
def test_any_bytes_give_documents_or_a_sentence(tmp_path: Path, content: bytes, ending: str) -> None:
    for compression in COMPRESSIONS:
        path = written(tmp_path / f"bytes{ending}{compression}", content)
        for options in ({}, {"encoding_errors": "replace", "skip_bad": True}):
            try:
                scanned(path, **options)
            except SourceError as error:
                assert str(error).endswith(".")


# Identity and order


def test_the_hash_is_of_texts_and_metadata_and_nothing_else(tmp_path: Path) -> None:
    scans = [
        scanned(written(tmp_path / f"one{ending}{compression}", pack(content(ROWS))))
        for ending, content in FORMATS.items()
        for compression, pack in COMPRESSIONS.items()
    ]
    assert len(set(scans)) == 1
    assert (scans[0].documents, scans[0].skipped) == (3, 0)
    assert scans[0].characters == sum(len(str(row["text"])) for row in ROWS)


@pytest.mark.parametrize(
    "other",
    [
        [ROWS[1], ROWS[0], ROWS[2]],
        ROWS[:2],
        [*ROWS[:2], {**ROWS[2], "year": "1793"}],
        [*ROWS[:2], {**ROWS[2], "text": "x"}],
        [*ROWS[:2], {**ROWS[2], "more": None}],
    ],
)
def test_another_order_text_or_metadata_is_another_hash(
    tmp_path: Path, other: list[dict[str, object]]
) -> None:
    one = scanned(written(tmp_path / "a.jsonl", as_jsonl(ROWS)))
    assert scanned(written(tmp_path / "b.jsonl", as_jsonl(other))).sha256 != one.sha256


def test_the_border_between_documents_and_the_order_of_keys(tmp_path: Path) -> None:
    def digest(name: str, content: bytes) -> str:
        return scanned(written(tmp_path / name, content)).sha256

    assert digest("a.jsonl", b'"ab"\n"c"') != digest("b.jsonl", b'"a"\n"bc"')
    assert digest("a.jsonl", b'{"text":"a","x":1,"y":2}') == digest("b.jsonl", b'{"y":2, "x":1, "text":"a"}')


def test_a_folder_is_read_in_order_of_path(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    names = ["B.txt", "a.TXT", "a/b.txt", "a/z/c.jsonl.gz", "b.csv", "c.parquet.zst", "é.ndjson"]
    for name in reversed(names):
        path = folder / name
        ending = path.name.lower().partition(".")[2].partition(".")[0]
        row: dict[str, object] = {"text": name}
        content = name.encode() if ending == "txt" else FORMATS[f".{ending}"]([row])
        pack = COMPRESSIONS[path.suffix if path.suffix in COMPRESSIONS else ""]
        written(path, pack(content))
    written(folder / "ignored.md", b"no")
    written(folder / "ignored.gz", b"no")
    (folder / "a" / "circle").symlink_to(folder)
    in_order = ["B.txt", "a/b.txt", "a/z/c.jsonl.gz", "a.TXT", "b.csv", "c.parquet.zst", "é.ndjson"]
    documents = read(str(folder))
    assert [document.text for document in documents] == in_order
    assert documents[1].source == f"{folder}/a/b.txt"
    assert documents[2].source == f"{folder}/a/z/c.jsonl.gz:1"


def test_iterating_again_gives_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for ending, content in FORMATS.items():
        for compression, pack in COMPRESSIONS.items():
            written(folder / f"a{ending}{compression}", pack(content(ROWS)))
    with Corpus([str(folder), str(folder / "a.csv")]) as corpus:
        first = corpus.scan()
        assert list(corpus) == list(corpus)
        assert corpus.scan() == first
        assert first.documents == 3 * 13
        together = zip(corpus, corpus, strict=True)
        assert all(one == other for one, other in together)


def test_a_corpus_left_half_read_leaves_nothing_open(tmp_path: Path) -> None:
    for name, pack in COMPRESSIONS.items():
        path = written(tmp_path / f"a.parquet{name}", pack(as_parquet(ROWS)))
        with Corpus([path]) as corpus:
            documents = iter(corpus)
            next(documents)
            del documents
            assert len(list(corpus)) == 3


# Standard input, pipes, the hub


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"one\r\ntwo\n", [("standard input", "one\r\ntwo\n", {})]),
        (b'\n {"text": "a", "n": 1}\n"b"', [("standard input:2", "a", {"n": 1}),
                                            ("standard input:3", "b", {})]),
        (b'\xef\xbb\xbf{"text": "a"}', [("standard input:1", "a", {})]),
        (b'{\n"text": "a"}', [("standard input", '{\n"text": "a"}', {})]),
        (b"{braces} in prose", [("standard input", "{braces} in prose", {})]),
        (b'"quoted"\n', [("standard input", '"quoted"\n', {})]),
        (b"[" * 60000, [("standard input", "[" * 60000, {})]),
    ],
)  # fmt: skip
def test_standard_input_is_text_or_jsonl_and_is_read_again(
    content: bytes, expected: list[tuple[str, str, dict[str, object]]]
) -> None:
    with standard_input(content), Corpus(["-"]) as corpus:
        assert corpus.scan().documents == len(expected)
        assert [(d.source, d.text, d.metadata) for d in corpus] == expected
        assert [(d.source, d.text, d.metadata) for d in corpus] == expected


def test_a_pipe_by_its_path_is_read_again() -> None:
    reading, writing = os.pipe()
    os.write(writing, as_jsonl(ROWS))
    os.close(writing)
    with Corpus([f"/dev/fd/{reading}"]) as corpus:
        assert corpus.scan().documents == len(list(corpus)) == 3
    os.close(reading)


def test_copies_have_no_name_that_a_kill_could_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with standard_input(b"text"), Corpus(["-"]) as corpus:
        assert corpus.scan().characters == 4
        assert not list(tmp_path.iterdir())
    with pytest.raises(AssertionError):
        list(corpus)


def test_a_closed_standard_input_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for closed in (None, io.StringIO("no bytes behind it")):
        monkeypatch.setattr(sys, "stdin", closed)
        assert "Standard input is closed" in sentence("-")


def test_a_dataset_is_read_from_its_first_row_to_its_last(tmp_path: Path) -> None:
    written(tmp_path / "speeches" / "train.jsonl", as_jsonl(ROWS))
    written(tmp_path / "speeches" / "test.jsonl", as_jsonl(ROWS[:1]))
    name = f"hf:{tmp_path}/speeches"
    with Corpus([name, f"{name}:default@test"]) as corpus:
        assert corpus.scan().documents == 4
        documents = list(corpus)
    assert [(d.text, d.metadata) for d in documents] == [*DOCUMENTS, DOCUMENTS[0]]
    assert documents[0].source == f"{name}:1"
    assert 'no column "body"' in sentence(name, text_column="body")
    assert "text, year, party" in sentence(name, text_column="body")
    assert "--max-temporary sets" in sentence(name, max_temporary=0.0001)
    assert "cannot be loaded" in sentence(f"{name}@validation")
    assert "cannot be loaded" in sentence(f"{name}:nothing")
    assert "cannot be loaded" in sentence(f"hf:{tmp_path}/nowhere")
    assert "cannot be loaded" in sentence("hf:")


@pytest.mark.soak
def test_without_the_hub_its_name_gives_a_sentence() -> None:
    """In a process of its own, because the hub's library reads its variables when imported.

    Nobody listens where it asks, time and again: between two tries it would sleep.
    """
    script = (
        "import time; time.sleep = lambda seconds: None\n"
        "from annotate_transformer.ingest.corpus.sources import Corpus\n"
        "from annotate_transformer.ingest.errors import SourceError\n"
        "try: Corpus(['hf:someone/something']).scan()\n"
        "except SourceError as error: print(error)\n"
    )
    offline = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        env=offline,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    told = "The hub cannot be reached for hf:someone/something (offline?); connect, or name a local file.\n"
    assert (done.stdout, done.stderr) == (told, "")


@pytest.mark.parametrize(("package", "name"), [("zstandard", "a.txt.zst"), ("datasets", "hf:a")])
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str
) -> None:
    path = written(tmp_path / "a.txt.zst", zstandard.compress(b"a"))
    monkeypatch.setitem(sys.modules, package, None)
    assert f"pip install {package}" in sentence(path if name == "a.txt.zst" else name)


# What is wrong


def test_nothing_there_is_a_sentence(tmp_path: Path) -> None:
    for name in ("missing.txt", "missing/", "nul\x00.txt", "file.txt/below.txt", "\udcff.txt"):
        written(tmp_path / "file.txt", b"a")
        assert "There is no file or folder" in sentence(f"{tmp_path}/{name}")
    assert "There is no file or folder" in sentence("")


def test_an_empty_folder_is_a_sentence(tmp_path: Path) -> None:
    written(tmp_path / "readme.md", b"a")
    assert "has no .txt, .jsonl, .ndjson, .json, .csv, .tsv, .parquet file" in sentence(str(tmp_path))


def test_an_empty_corpus_is_a_sentence(tmp_path: Path) -> None:
    assert "The corpus is empty" in sentence()
    for name, content in {
        "a.txt": b"",
        "b.txt": b"\xef\xbb\xbf",
        "a.jsonl": b'\n""\n{"text": ""}',
        "a.csv": b"text\n",
        "a.txt.gz": gzip.compress(b""),
        "a.parquet": as_parquet([{"text": ""}]),
    }.items():
        path = written(tmp_path / name, content)
        assert f"The corpus is empty: {path} gave no text" in sentence(path)
        assert read(path) == []


@pytest.fixture
def nobody() -> Iterator[None]:
    """Permissions do not hold root back, so be someone else while the test runs."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    yield
    os.seteuid(was)


def test_what_may_not_be_read_is_a_sentence(tmp_path: Path, nobody: None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(written(Path(folder) / "below" / "a.txt", b"a"))
        file.chmod(0)
        assert "cannot be read (Permission denied)" in sentence(str(file))
        file.parent.chmod(0)
        assert "cannot be read (Permission denied)" in sentence(str(file.parent))
        file.parent.chmod(0o700)


@pytest.mark.skipif(sys.platform != "linux", reason="a file that fails while it is read: /proc")
def test_a_disk_that_fails_is_a_sentence(tmp_path: Path) -> None:
    for name in ("a.txt", "a.jsonl", "a.csv", "a.parquet", "a.txt.gz", "a.txt.zst"):
        link = tmp_path / name
        link.symlink_to("/proc/self/mem")
        sentence(str(link))
    assert "cannot be read (Input/output error)" in sentence(str(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.txt", b"good\nb\xffd\n", 2),
        ("a.txt", b"x\n" * 2**20 + "é".encode()[:1], 2**20 + 1),
        ("a.txt", b"x" * (2**20 - 1) + "é".encode()[:1] + b"\n", 1),
        ("a.txt", "a\nb".encode("utf-16"), 1),
        ("a.jsonl", b'"good"\n"b\xffd"\n', 2),
        ("a.csv", b"text\ngood\nb\xffd\n", 3),
        ("a.csv", b"text\n" + b"good\n" * 5000 + b'"two\nb\xffd"\n', 5003),
    ],
)
def test_invalid_utf8_names_its_line(tmp_path: Path, name: str, content: bytes, line: int) -> None:
    path = written(tmp_path / name, content)
    assert f"{path}:{line} is not UTF-8" in sentence(path)
    assert "--encoding" in sentence(path, skip_bad=True)
    assert "\ufffd" in "".join(texts(path, encoding_errors="replace"))


def test_invalid_utf8_in_parquet_names_its_row(tmp_path: Path) -> None:
    for kind in (pa.string(), pa.large_string()):
        raw = pa.array([b"ok"] * 99 + [b"b\xffd"], pa.binary() if kind == pa.string() else None)
        raw = raw.cast(pa.binary() if kind == pa.string() else pa.large_binary())
        column = pa.Array.from_buffers(kind, len(raw), raw.buffers())
        path = str(tmp_path / "a.parquet")
        pq.write_table(pa.table({"text": ["a"] * 100, "other": column}), path)
        assert f"{path}:100 is not UTF-8" in sentence(path)
        last = read(path, encoding_errors="replace")[-1]
        assert last.metadata == {"other": "b\ufffdd"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"plain words", "is not JSON (Expecting value)"),
        (b'{"text": "a"', "is not JSON"),
        (b"[1]", "is neither a JSON object nor a string"),
        (b"NaN", "is neither a JSON object nor a string"),
        (b'{"body": "a", "\\ud800": 1}', 'has no "text" (it has body, \ufffd)'),
        (b"{}", 'has no "text" (it has nothing)'),
        (b'{"text": null}', 'has a "text" that is NoneType, not text'),
        (b'{"text": 7}', 'has a "text" that is int, not text'),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"text": "a", "deep": ' + b"[" * 500 + b"]" * 500 + b"}", "is nested too deeply"),
        (b'{"text": "a", "n": ' + b"1" * 5000 + b"}", "is not JSON (Exceeds the limit"),
    ],
)
def test_a_bad_jsonl_line_is_a_sentence_or_counted(tmp_path: Path, line: bytes, why: str) -> None:
    path = written(tmp_path / "a.jsonl", b'"one"\n' + line + b'\n"three"\n')
    assert f"{path}:2 {why}" in sentence(path)
    assert "--skip-bad skips and counts such lines" in sentence(path)
    scan = scanned(path, skip_bad=True)
    assert (scan.documents, scan.skipped) == (2, 1)
    assert texts(path, skip_bad=True) == ["one", "three"]


def test_a_corpus_of_bad_lines_only_is_empty(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", b"no\nno\n")
    assert "no text and 2 bad lines" in sentence(path, skip_bad=True)


def test_a_bad_csv_row_is_a_sentence_or_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b"n,text\n1,one\n2\n3,thr,ee\n4,four\n")
    assert f'{path}:3 has no "text" (it has n)' in sentence(path)
    assert texts(path, skip_bad=True) == ["one", "four"]
    assert scanned(path, skip_bad=True).skipped == 2
    path = written(tmp_path / "b.csv", b"text\nhello, world\n")
    assert f"{path}:2 has 2 fields under a header of 1" in sentence(path)


def test_a_missing_parquet_text_is_a_sentence_or_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", as_parquet([{"text": None}, {"text": "a"}]))
    assert f'{path}:1 has a "text" that is NoneType' in sentence(path)
    assert scanned(path, skip_bad=True).skipped == 1
    path = written(tmp_path / "b.parquet", as_parquet([{"text": b"a"}]))
    assert f'{path}:1 has a "text" that is bytes' in sentence(path)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_missing_column_lists_those_there_are(tmp_path: Path, ending: str) -> None:
    path = written(tmp_path / f"a{ending}", FORMATS[ending]([{"id": "1", "body": "a"}]))
    assert f'{path} has no column "text"' in sentence(path, skip_bad=True)
    assert "--text-column takes one of those it has: id, body." in sentence(path)


def test_a_doubled_text_column_is_a_sentence(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b"text,text\na,b\n")
    assert "more than one column" in sentence(path)
    assert 'has no column "text"' in sentence(written(tmp_path / "b.csv", b""))


def test_an_open_quote_does_not_swallow_a_csv(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b'text\n"open\nmore\nmore\n')
    assert "is not CSV (unexpected end of data); correct its quotes" in sentence(path)
    assert "is not CSV" in sentence(path, skip_bad=True)


@pytest.mark.parametrize("compression", [".gz", ".zst"])
@pytest.mark.parametrize("ending", [".txt", *FORMATS])
def test_a_cut_off_or_damaged_file_is_a_sentence(tmp_path: Path, ending: str, compression: str) -> None:
    numbers: list[dict[str, object]] = [{"text": f"{n} {n * n} {n**3}"} for n in range(3000)]
    whole = COMPRESSIONS[compression](FORMATS.get(ending, as_jsonl)(numbers))
    flipped = bytes([byte ^ 0xFF for byte in whole[2000:2100]])
    for content in (
        b"",
        whole[:3],
        whole[:10],
        whole[: len(whole) // 2],
        whole[:-1],
        whole[:2000] + flipped + whole[2100:],
        whole + b"more",
        b"not packed at all",
    ):
        path = written(tmp_path / f"a{ending}{compression}", content)
        lenient = sentence(path, encoding_errors="replace", skip_bad=True)
        assert f"{path} is damaged or cut off" in lenient


def test_a_cut_off_parquet_is_a_sentence(tmp_path: Path) -> None:
    whole = as_parquet(ROWS)
    for content in (b"", whole[:3], whole[: len(whole) // 2], whole[:-1], b"no parquet at all"):
        path = written(tmp_path / "a.parquet", content)
        assert f"{path} is damaged, or not a readable Parquet file" in sentence(path)


def test_other_ways_with_encoding_errors_are_refused() -> None:
    with pytest.raises(SettingsError, match="strict or replace"):
        Corpus(["a.txt"], encoding_errors="ignore")


# Memory


def peak_of_scan(path: str, documents: int) -> int:
    """Bytes of Python's own memory at most held while all of them are read."""
    with Corpus([path]) as corpus:
        tracemalloc.start()
        try:
            assert corpus.scan().documents == documents
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


@pytest.mark.some(3)
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, ending: str, compression: str) -> None:
    numbers = random.Random(0)
    rows: list[dict[str, object]] = [
        {"text": f"{numbers.random()} and " * 40, "n": str(n)} for n in range(14_000)
    ]
    content = FORMATS[ending](rows)
    assert len(content) > 12e6
    path = written(tmp_path / f"a{ending}{compression}", COMPRESSIONS[compression](content))
    del rows, content
    assert peak_of_scan(path, 14_000) < 3e6


def test_memory_does_not_grow_with_what_a_small_file_unpacks_to(tmp_path: Path) -> None:
    packed = zstandard.compress(b'"%s"\n' % (b"A sentence again. " * 60) * 30_000)
    assert len(packed) < 10_000
    assert peak_of_scan(written(tmp_path / "a.jsonl.zst", packed), 30_000) < 10e6


def test_memory_does_not_grow_with_a_parquet_file(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    column = [f"{number} " * 200 for number in range(100_000)]
    pq.write_table(pa.table({"text": column}), path, compression=None, use_dictionary=False)
    assert os.path.getsize(path) > 100e6
    del column
    pa.default_memory_pool().release_unused()
    before = pa.total_allocated_bytes()
    with Corpus([path]) as corpus:
        assert max(pa.total_allocated_bytes() for _ in corpus) - before < 20e6
