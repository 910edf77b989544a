"""A file is read as what its name or --format says, or not at all; no guess is made without a word."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.errors import SettingsError
from corpora import as_parquet, read, scanned, sentence, standard_input, texts, written

ROWS: list[dict[str, object]] = [
    {"text": "The first\tline.\nA second, with a comma.", "n": 2**53 + 1},
    {"text": "Ünïcödé, 漢字, 😀 and \u2028 inside; [1, {2}] \\", "n": -(10**30)},
    {"text": "last", "n": 0},
]


def as_table(rows: list[dict[str, object]], delimiter: str) -> str:
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return lines.getvalue()


JSON = {
    "array": json.dumps(ROWS),
    "array, indented": json.dumps(ROWS, indent=4, ensure_ascii=False),
    "array with a mark and white space": "\ufeff \r\n" + json.dumps(ROWS) + "\n\t ",
    "lines": "\n".join(map(json.dumps, ROWS)),
    "one after another": "".join(map(json.dumps, ROWS)),
    "objects over several lines": "\n".join(json.dumps(row, indent=1) for row in ROWS),
}


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("kind", JSON)
def test_json_is_read_whatever_its_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, chunk: int
) -> None:
    """In pieces of any size: a number, an escape or a character may be cut anywhere."""
    monkeypatch.setattr("annotate_transformer.ingest.corpus.json_rows.CHUNK_BYTES", chunk)
    path = written(tmp_path / "a.json", JSON[kind].encode())
    found = [{"text": document.text, **document.metadata} for document in read(path)]
    assert found == ROWS
    assert [document.source for document in read(path)] == [f"{path}:{n}" for n in (1, 2, 3)]


def test_json_takes_strings_and_packed_files(tmp_path: Path) -> None:
    content = b'["one", {"text": "two"}, "", "three"]'
    assert texts(written(tmp_path / "a.json", content)) == ["one", "two", "three"]
    assert texts(written(tmp_path / "a.json.gz", gzip.compress(content))) == ["one", "two", "three"]
    assert texts(written(tmp_path / "A.JSON.ZST", zstandard.compress(content))) == ["one", "two", "three"]


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=8,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
    max_examples=15,
)
@given(values=st.lists(JSON_VALUES), indent=st.sampled_from([None, 0, 2]), chunk=st.integers(1, 9))
def test_an_array_has_the_documents_of_its_lines(
    tmp_path: Path, values: list[object], indent: int | None, chunk: int
) -> None:
    """The reference is the other reader, and with it json.loads: value by value it is the same corpus."""
    rows = [{"text": "x", "value": value} for value in values] + [{"text": "end"}]
    lines = scanned(written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)).encode()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("annotate_transformer.ingest.corpus.json_rows.CHUNK_BYTES", chunk)
        array = scanned(written(tmp_path / "a.json", json.dumps(rows, indent=indent).encode()))
    assert array == lines


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('[{"text": "a"} {"text": "b"}]', ":1 is not JSON (Expecting ',' delimiter in line 1)"),
        ('[{"text": "a"},]', ":2 is not JSON (Expecting value in line 1)"),
        ('[{"text": "a"},\n {"text": b}]', ":2 is not JSON (Expecting value in line 2)"),
        ('[{"text": "a"},\n {"text": "b', ":2 is not JSON (Unterminated string"),
        ('[{"text": "a"}', ":1 is not JSON (Expecting ',' delimiter"),
        ('[{"text": "a"}] more', "continues after the end of its array"),
        ('[{"text": "a"}][{"text": "b"}]', "continues after the end of its array"),
        ("plain words", ":1 is not JSON (Expecting value in line 1)"),
        ("[" * 100_000, ":1 is nested too deeply"),
        ('[{"text": "a", "n": ' + "1" * 5000 + "}]", ":1 is not JSON (Exceeds the limit"),
        ('[{"text": "a\x01"}]', ":1 is not JSON (Invalid control character"),
        ('{"data": [{"text": "a"}], "version": 1}', ':1 has no "text", but a list in data'),
        ("[[1]]", ":1 is neither a JSON object nor a string"),
        ('[{"text": 7}]', ':1 has a "text" that is int, not text'),
        ("", "The corpus is empty"),
        ("[]", "The corpus is empty"),
    ],
)
def test_what_is_wrong_in_json_is_a_sentence(tmp_path: Path, content: str, told: str) -> None:
    assert told in sentence(written(tmp_path / "a.json", content.encode()))


def test_bad_rows_of_an_array_may_be_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", b'["a", 7, {"body": "b"}, null, [1], {"text": "c"}]')
    assert texts(path, skip_bad=True) == ["a", "c"]
    assert scanned(path, skip_bad=True).skipped == 4
    assert f"{path}:2 is not UTF-8" in sentence(written(tmp_path / "a.json", b'["a",\n"\xff"]'))


def test_tables_are_the_same_with_any_delimiter(tmp_path: Path) -> None:
    expected = [(row["text"], {"n": str(row["n"])}) for row in ROWS]
    for name, delimiter, options in [
        ("a.tsv", "\t", {}),
        ("a.csv", ",", {}),
        ("a.csv", ";", {"delimiter": ";"}),
        ("a.csv", "|", {"delimiter": "|"}),
        ("a.csv", "\t", {"delimiter": "\\t"}),
        ("a.dat", "\t", {"format": "tsv"}),
        ("a.txt", "\x1f", {"format": "csv", "delimiter": "\x1f"}),
    ]:
        path = written(tmp_path / name, as_table(ROWS, delimiter).encode())
        assert [(d.text, d.metadata) for d in read(path, **options)] == expected


@pytest.mark.parametrize(
    ("name", "delimiter", "advice"),
    [("a.csv", ";", "';'"), ("a.csv", "\t", "'\\t'"), ("a.csv", "|", "'|'"), ("a.tsv", ",", "','")],
)
def test_another_delimiter_is_named(tmp_path: Path, name: str, delimiter: str, advice: str) -> None:
    path = written(tmp_path / name, as_table(ROWS, delimiter).encode())
    assert f"--delimiter {advice} reads it" in sentence(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "gb18030", "utf-7"])
def test_encodings_give_the_same_corpus(tmp_path: Path, encoding: str) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    contents = {
        ".jsonl": lines,
        ".json": json.dumps(ROWS, ensure_ascii=False),
        ".csv": as_table(ROWS, ","),
        ".txt": lines,
    }
    for ending, content in contents.items():
        plain = scanned(written(tmp_path / f"a{ending}", content.encode()))
        path = written(tmp_path / f"b{ending}.gz", gzip.compress(content.encode(encoding)))
        assert scanned(path, encoding=encoding) == plain


def test_one_byte_encodings_and_what_they_cannot_read(tmp_path: Path) -> None:
    assert texts(written(tmp_path / "a.txt", "Un café".encode("latin-1")), encoding="latin1") == ["Un café"]
    assert texts(written(tmp_path / "a.txt", b"\x93x\x94"), encoding="cp1252") == ["“x”"]
    path = written(tmp_path / "a.txt", b"a\n\n\x81")
    assert f"{path}:3 is not cp1252" in sentence(path, encoding="cp1252")
    assert texts(path, encoding="cp1252", encoding_errors="replace") == ["a\n\n\ufffd"]
    path = written(tmp_path / "a.csv", b"text\na\n\xff\n")
    assert f"{path}:3 is not ascii" in sentence(path, encoding="ascii")


@pytest.mark.parametrize(
    "option",
    [
        {"encoding": "nonsense"}, {"encoding": ""}, {"encoding": "hex"}, {"encoding": "rot13"},
        {"encoding": "a\0b"}, {"encoding": "undefined"}, {"delimiter": ";;"}, {"delimiter": ""},
        {"delimiter": '"'}, {"delimiter": "\n"}, {"delimiter": "\r"}, {"format": "docx"}, {"format": ""},
        {"max_line": 0.0}, {"max_line": -1.0}, {"max_document": float("nan")},
        {"max_temporary": float("inf")},
    ],
)  # fmt: skip
def test_options_without_a_meaning_are_refused(option: dict[str, object]) -> None:
    [name] = option
    with pytest.raises(SettingsError, match=f"^--{name.replace('_', '-')} is .*[.]$"):
        Corpus(["a.txt"], **option)


UNKNOWN = [
    "a.pdf", "a.docx", "a.html", "a.xml", "a.md", "a.log", "a", "a.", "README", "a.txt.bz2", "a.jsonl.xz",
    "a.tar", "a.tar.gz", "a.zip", "a.gz", "a.zst", "a.txt~", "a.json5", "a.xlsx", "a.py", ".txt", "a.txt ",
]  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_ending_that_is_not_read_is_refused(tmp_path: Path, name: str) -> None:
    content = b"plain words"
    packed = {".gz": gzip.compress, ".zst": zstandard.compress}.get(Path(name).suffix, bytes)
    path = written(tmp_path / name, packed(content))
    told = sentence(path)
    assert "--format text" in told and ".jsonl" in told
    assert texts(path, format="text") == ["plain words"]


def archive(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as zipped:
            zipped.writestr("a.txt", "words")
    else:
        with tarfile.open(fileobj=file, mode="w") as tar:
            entry = tarfile.TarInfo("a.txt")
            entry.size = 5
            tar.addfile(entry, io.BytesIO(b"words"))
    return file.getvalue()


OTHER_CONTENT = {
    "gzip": (gzip.compress(b"words"), "gzip data"),
    "zstandard": (zstandard.compress(b"words"), "Zstandard data"),
    "xz": (lzma.compress(b"words"), "xz data"),
    "bzip2": (bz2.compress(b"words"), "bzip2 data"),
    "zip": (archive("zip"), "ZIP archive"),
    "tar": (archive("tar"), "tar archive"),
    "parquet": (as_parquet([{"text": "a"}]), "--format parquet"),
    "PDF": (b"%PDF-1.7\nwords", "a PDF"),
    "picture": (b"\x89PNG\r\n\x1a\n", "a picture"),
    "SQLite": (b"SQLite format 3\x00", "SQLite"),
    "UTF-16 without a mark": ("words".encode("utf-16-le"), "--encoding utf-16-le"),
    "UTF-16, the other way": ("words".encode("utf-16-be"), "--encoding utf-16-be"),
    "UTF-16 with a mark": ("words".encode("utf-16"), "--encoding utf-16 "),
    "UTF-32": ("words".encode("utf-32-le"), "--encoding utf-32-le"),
    "zeros": (bytes(5000), "nothing but zeros"),
}


@pytest.mark.parametrize("kind", OTHER_CONTENT)
def test_content_that_is_not_what_the_name_says(tmp_path: Path, kind: str) -> None:
    content, told = OTHER_CONTENT[kind]
    for name in ("a.txt", "a.jsonl", "a.json", "a.csv", "a.tsv"):
        assert told in sentence(written(tmp_path / name, content))
    assert told in sentence(written(tmp_path / "a.txt.gz", gzip.compress(content)), skip_bad=True)
    with standard_input(content):
        assert told in sentence("-")


@pytest.mark.parametrize(
    "content", [b'[{"text": "a"},\n{"text": "b"}]', b'[\n"a"\n]', b'\n [ {"text": "a"}]']
)
def test_an_array_under_the_name_of_lines(tmp_path: Path, content: bytes) -> None:
    for name in ("a.jsonl", "a.ndjson"):
        path = written(tmp_path / name, content)
        assert "--format json reads it" in sentence(path, skip_bad=True)
        assert texts(path, format="json")[0] == "a"


# Folders


def test_a_folder_leaves_out_what_is_hidden_and_says_what_else(tmp_path: Path) -> None:
    for name in (
        ".hidden.txt", "._a.txt", ".ipynb_checkpoints/a.txt", "__MACOSX/a.txt", ".git/a.jsonl", "b/.c/a.txt",
        ".DS_Store", "notes.md", "x/notes.md", "report.pdf", "README",
    ):  # fmt: skip
        written(tmp_path / name, b"not read")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "itself.txt").symlink_to(tmp_path / "itself.txt")
    (tmp_path / "nowhere.txt").symlink_to(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe.txt")
    written(tmp_path / "a.txt", b"a")
    written(tmp_path / "b" / "c.json", b'["c"]')
    told: list[str] = []
    with Corpus([str(tmp_path)], notice=told.append) as corpus:
        corpus.scan()
        assert [document.text for document in corpus] == ["a", "c"]
    [line] = told  # once, however often the corpus is read
    for part in ("7 hidden", "2 .md", "1 .pdf", "1 without an ending", "4 not a file"):
        assert part in line


def test_format_reads_every_file_of_a_folder(tmp_path: Path) -> None:
    for name in ("a.md", "b", "c.txt", ".d"):
        written(tmp_path / name, name.encode())
    assert texts(str(tmp_path), format="text") == ["a.md", "b", "c.txt"]
    (tmp_path / "c.txt").unlink()
    assert "only 1 hidden, 1 .md, 1 without an ending" in sentence(str(tmp_path))


DEEP = 2200  # folders: twice what Python recurs, and more characters than a path may have


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """Folders within folders, with a file on the way down and another at the end."""
    before = os.getcwd()
    os.chdir(tmp_path)
    for depth in range(DEEP):
        os.mkdir("d")
        os.chdir("d")
        if depth in (1500, DEEP - 1):
            Path("a.txt").write_text("deep")
    os.chdir(tmp_path)
    yield tmp_path
    for _ in range(DEEP):
        os.chdir("d")
    for _ in range(DEEP):
        Path("a.txt").unlink(missing_ok=True)
        os.chdir("..")
        os.rmdir("d")
    os.chdir(before)


def test_folders_may_be_nested_deeper_than_python_recurs(deep: Path) -> None:
    """What no path reaches is told."""
    told: list[str] = []
    with Corpus(["."], notice=told.append) as corpus:
        assert [document.text for document in corpus] == ["deep"]
    assert "1 in too deep a folder" in told[0]


# Standard input


@pytest.mark.parametrize(
    ("content", "options", "expected", "told"),
    [
        (b'{"text": "a"}\n{"text": "b"}\n', {}, ["a", "b"], "is read as jsonl"),
        (b'[{"text": "a"},\n {"text": "b"}]', {}, ["a", "b"], "is read as json"),
        (b"text,n\na,1\n", {}, ["text,n\na,1\n"], "is read as text"),
        (b"text,n\na,1\n", {"format": "csv"}, ["a"], ""),
        (b"text\tn\na\t1\n", {"format": ".tsv"}, ["a"], ""),
        (b'{"text": "a"}\n', {"format": "text"}, ['{"text": "a"}\n'], ""),
        (b'"a"\n"b"\n', {"format": "ndjson"}, ["a", "b"], ""),
        (b'[1, "prose in brackets"]', {}, ['[1, "prose in brackets"]'], "is read as text"),
        (as_parquet([{"text": "a"}]), {"format": "parquet"}, ["a"], ""),
        ('{"text": "é"}'.encode("utf-16"), {"encoding": "utf-16"}, ["é"], "is read as jsonl"),
    ],
)
def test_standard_input_is_read_as_asked_or_as_told(
    content: bytes, options: dict[str, object], expected: list[str], told: str
) -> None:
    notices: list[str] = []
    with standard_input(content), Corpus(["-"], notice=notices.append, **options) as corpus:
        corpus.scan()
        assert [document.text for document in corpus] == expected
    assert len(notices) == bool(told)
    assert told in "".join(notices)


def test_a_pipe_with_an_ending_is_read_by_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"text\na\n",))
    writer.start()
    with Corpus([str(path)]) as corpus:
        assert [document.text for document in corpus] == ["a"]
        assert corpus.scan().documents == 1
    writer.join()
