"""No input takes more memory or disk than the limits allow, and a kill leaves no temporary file."""

import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from annotate_transformer.ingest.corpus import unpacked
from annotate_transformer.ingest.corpus.parquet_pages import pages
from annotate_transformer.ingest.corpus.sources import Corpus
from corpora import as_csv, as_jsonl, as_parquet, read, scanned, sentence, standard_input, texts, written
from processes import annotate
from small import SETTINGS

MB = 10**6
PEAK = """
import resource, sys
from annotate_transformer.ingest.errors import SourceError
from annotate_transformer.ingest.corpus.sources import Corpus
with Corpus(["a.txt"]) as corpus:
    try: corpus.scan()
    except SourceError: pass
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for source in sys.argv[1:]:
    with Corpus([source], max_line=16, max_document=16) as corpus:
        try: corpus.scan()
        except SourceError as error: print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000)
"""


def packed_pieces(pieces: list[bytes], repeated: int) -> bytes:
    """Packed piece by piece: what it unpacks to is in memory nowhere."""
    packer = zstandard.ZstdCompressor().compressobj()
    start, middle, end = pieces
    content = packer.compress(start)
    for _ in range(repeated):
        content += packer.compress(middle)
    return content + packer.compress(end) + packer.flush()


def test_what_a_small_file_unpacks_to_is_never_all_in_memory(tmp_path: Path) -> None:
    """In a process of its own, by the system's count: 160 MB behind some 6 kB, six times."""
    million = b"a" * MB
    bombs = {
        "a.jsonl.zst": packed_pieces([b'{"text": "', million, b'"}\n'], 160),
        "a.txt.zst": packed_pieces([b"", million, b""], 160),
        "a.csv.zst": packed_pieces([b"text\n", million, b"\n"], 160),
        "quote.csv.zst": packed_pieces([b'text\n"', b"a" * 9999 + b"\n", b'"\n'], 16_000),
        "a.json.zst": packed_pieces([b'["', million, b'"]'], 160),
    }
    for name, content in bombs.items():
        assert len(content) < 100_000
        written(tmp_path / name, content)
    pq.write_table(pa.table({"text": ["a" * 160 * MB]}), tmp_path / "a.parquet", compression="zstd")
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *bombs, "a.parquet"],
        cwd=tmp_path,
        env={**os.environ},
        capture_output=True,
        text=True,
        check=True,
    )
    *told, peak = done.stdout.splitlines()
    assert [line.partition(" ")[0].partition(":")[0] for line in told] == [*bombs, "a.parquet"]
    assert all("longer than 16 MB" in line and "--max-" in line for line in told)
    assert float(peak) < 120


LIMITED = {  # a row of 2,000 bytes under a limit of 1,000, between two short ones
    "a.jsonl": (b'"one"\n"%s"\n"three"\n', "max_line", ":2"),
    "a.ndjson": (b'{"text": "one"}\n{"text": "x", "more": "%s"}\n"three"\n', "max_line", ":2"),
    "a.csv": (b"text\none\n%s\nthree\n", "max_line", ":3"),
    "quoted.csv": (b'text\none\n"%s"\nthree\n', "max_line", ":3"),
    "a.tsv": (b"text\tn\none\t1\n%s\t2\nthree\t3\n", "max_line", ":3"),
    "document.jsonl": (b'"one"\n"%s"\n"three"\n', "max_document", ":2"),
    "document.csv": (b"text\none\n%s\nthree\n", "max_document", ":3"),
    "a.json": (b'["one", "%s", "three"]', "max_document", ":2"),
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("name", LIMITED)
def test_a_limit_is_told_passed_over_and_raised(tmp_path: Path, name: str, pack: object) -> None:
    content, limit, at = LIMITED[name]
    ending = {bytes: "", gzip.compress: ".gz"}.get(pack, ".zst")  # type: ignore[call-overload]
    path = written(tmp_path / f"{name}{ending}", pack(content % (b"x" * 2000)))  # type: ignore[operator]
    small, option = {limit: 0.001}, f"--{limit.replace('_', '-')}"
    told = sentence(path, **small)
    assert f"{path}{at} is longer than 0.001 MB, the limit that {option} sets; raise that limit" in told
    assert texts(path, **small, skip_bad=True) == ["one", "three"]
    assert scanned(path, **small, skip_bad=True).skipped == 1
    assert len(texts(path, **{limit: 0.003})) == 3


def test_a_limit_is_exact_and_counts_bytes(tmp_path: Path) -> None:
    for line, most in [(b'"%s"', 998), ('"é%s"'.encode(), 996)]:
        for more, fits in [(0, True), (1, False)]:
            content = line % (b"x" * (most + more))
            for end in (b"", b"\n", b"\n\n"):
                path = written(tmp_path / "a.jsonl", content + end)
                assert (
                    (scanned(path, max_line=0.001).documents == 1) if fits else sentence(path, max_line=0.001)
                )
    for ending, content in ((".txt", bytes), (".json", lambda text: b'"' + text + b'"')):
        for count, fits in [(500, True), (501, False)]:
            path = written(tmp_path / f"a{ending}", content("é".encode() * count))
            assert (len(read(path, max_document=0.001)) == 1) if fits else sentence(path, max_document=0.001)


def test_an_open_quote_of_a_table_ends_at_the_limit(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b'text\n"open\n' + b"more\n" * 1000)
    for options in ({}, {"skip_bad": True}):
        told = sentence(path, max_document=0.001, **options)
        assert f"{path}:2 is longer than 0.001 MB" in told
        assert "close the open quote" in told
    long = written(tmp_path / "b.csv", b'text\n"' + b"x" * 2000 + b'\nmore\n"\n')
    assert "close the open quote" in sentence(long, max_line=0.001, skip_bad=True)
    head = written(tmp_path / "c.csv", b"text," + b"x" * 2000 + b"\na,b\n")
    assert "--max-line" in sentence(head, max_line=0.001, skip_bad=True)


def test_long_texts_of_a_parquet_file(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": "one"}, {"text": "x" * 2000}, {"text": "three"}]
    path = written(tmp_path / "a.parquet", as_parquet(rows))
    assert f"{path}:2 is longer than 0.001 MB" in sentence(path, max_document=0.001)
    assert texts(path, max_document=0.001, skip_bad=True) == ["one", "three"]
    path = written(tmp_path / "b.parquet", as_parquet(rows[1:2]))
    assert "has a value of 0.0 MB, which is longer than 0.001 MB" in sentence(path, max_document=0.001)


PARQUET = {
    "dictionary": {},
    "plain": {"use_dictionary": False},
    "small pages": {"data_page_size": 100, "dictionary_pagesize_limit": 100},
    "version 2": {"data_page_version": "2.0", "compression": "zstd"},
    "checksums": {"write_page_checksum": True, "write_page_index": True},
    "small groups": {"row_group_size": 7, "store_schema": False},
    "no statistics": {"write_statistics": False, "compression": "gzip"},
    "delta": {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}},
}


@pytest.mark.parametrize("kind", PARQUET)
def test_pages_are_measured_however_a_file_was_written(tmp_path: Path, kind: str) -> None:
    """The references are the metadata, and of plain values their known size."""
    table = pa.table(
        {"text": [f"{n % 40} " * 50 for n in range(400)], "n": range(400), "list": [["a"] * 3] * 400}
    )
    options = PARQUET[kind]
    if "column_encoding" in options:
        table = table.select(["text"])
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, **options)
    metadata = pq.read_metadata(path)
    with path.open("rb") as file:
        sizes = pages(file, metadata)
    groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
    chunks = [group.column(n) for group in groups for n in range(group.num_columns)]
    largest = max(chunk.total_uncompressed_size for chunk in chunks)
    assert 0 < sizes.page <= largest
    assert (sizes.dictionary > 0) == any(chunk.has_dictionary_page for chunk in chunks)
    assert sizes.row == max(max(group.total_byte_size // group.num_rows for group in groups), sizes.value)
    if kind == "plain":
        values = sum(4 + len(text) for text in table["text"].to_pylist())
        assert values < sizes.page < values + 16  # before them stands which are null
    assert len(read(str(path))) == 400


def test_a_value_in_a_dictionary_counts_once_a_row(tmp_path: Path) -> None:
    """40 rows of one text of 4 MB: in the file, and in a batch, it is not there 40 times."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a" * 4 * MB] * 40}), path)
    before = pa.total_allocated_bytes()
    with Corpus([str(path)]) as corpus:
        assert max(pa.total_allocated_bytes() for _ in corpus) - before < 110 * MB


# Temporary files


@pytest.mark.parametrize("source", ["-", "/dev/fd", "parquet.gz", "parquet.zst"])
def test_a_copy_on_disk_has_a_limit(tmp_path: Path, source: str) -> None:
    rows: list[dict[str, object]] = [{"text": f"{n} {n * n} {n**3}"} for n in range(500)]
    options = {"max_temporary": 0.001}
    if source == "-":
        with standard_input(as_jsonl(rows)):
            told = sentence("-", **options)
    elif source == "/dev/fd":
        reading, writing = os.pipe()
        os.write(writing, as_jsonl(rows))
        os.close(writing)
        told = sentence(f"/dev/fd/{reading}", **options)
        os.close(reading)
    else:
        pack = {"gz": gzip.compress, "zst": zstandard.compress}[source.rpartition(".")[2]]
        told = sentence(written(tmp_path / f"a.{source}", pack(as_parquet(rows))), **options)
    assert "is longer than 0.001 MB, the limit that --max-temporary sets; raise that limit" in told


def test_an_endless_text_ends_at_the_limit_of_a_document() -> None:
    yes = subprocess.Popen(["yes", "and on"], stdout=subprocess.PIPE)
    assert yes.stdout
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", os.fdopen(os.dup(yes.stdout.fileno())))
        assert "standard input is longer than 3 MB, the limit that --max-document sets" in sentence(
            "-", max_document=3
        )
        sys.stdin.close()
    yes.stdout.close()
    yes.wait()


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/random", "/dev/null", "/dev/full"])
def test_a_device_is_no_source(tmp_path: Path, device: str) -> None:
    assert "is a device, not a file" in sentence(device)
    (tmp_path / "link.txt").symlink_to(device)
    assert "is a device, not a file" in sentence(str(tmp_path / "link.txt"))
    assert "only 1 not a file" in sentence(str(tmp_path))


def test_a_copy_stops_before_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = os.statvfs(unpacked.tempfile.gettempdir())
    monkeypatch.setattr(
        "annotate_transformer.ingest.corpus.unpacked.ROOM_LEFT_BYTES", disk.f_blocks * disk.f_frsize
    )
    monkeypatch.setattr("annotate_transformer.ingest.corpus.unpacked.ROOM_LEFT_SHARE", 1)
    with standard_input(b'{"text": "a"}'):
        assert "let TMPDIR name a folder on another disk" in sentence("-")


@pytest.fixture
def holding(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has read standard input, and is about to read it again."""
    script = (
        "import time\nfrom annotate_transformer.ingest.corpus.sources import Corpus\n"
        "corpus = Corpus(['-', 'a.parquet.gz'])\ndocuments = iter(corpus)\n"
        "for _ in range(3): next(documents)\nprint('read', flush=True)\ntime.sleep(60)\n"
    )
    written(tmp_path / "a.parquet.gz", gzip.compress(as_parquet([{"text": "b"}, {"text": "c"}])))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin and process.stdout
    process.stdin.write(as_jsonl([{"text": "a"}, {"text": "aa"}]))
    process.stdin.close()
    assert process.stdout.readline() == b"read\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_kill_leaves_no_copy(holding: subprocess.Popen[bytes], tmp_path: Path) -> None:
    if Path("/proc").exists():
        open_files = [os.readlink(file) for file in Path(f"/proc/{holding.pid}/fd").iterdir()]
        assert sum("temporary/" in name and "(deleted)" in name for name in open_files) == 2
    assert not list((tmp_path / "temporary").iterdir())
    holding.kill()
    holding.wait()
    assert not list((tmp_path / "temporary").iterdir())


def test_copies_are_read_from_two_places_at_once() -> None:
    rows: list[dict[str, object]] = [{"text": f"{n}"} for n in range(9000)]
    with standard_input(as_jsonl(rows)), Corpus(["-"]) as corpus:
        assert all(one == other for one, other in zip(corpus, corpus, strict=True))
        assert len(list(corpus)) == 9000


# The command


@pytest.mark.soak
def test_the_command_takes_the_options_and_leaves_no_store(tiny_model: Path, tmp_path: Path) -> None:
    written(tmp_path / "a.dat", as_csv([{"text": "Tom saw Mary.", "n": "1"}]).replace(b",", b";"))
    command = ("ingest", "a.dat", "--db", "x.duckdb", "--model", tiny_model, *SETTINGS)
    refused = annotate(*command, folder=tmp_path)
    assert refused.status == 2
    assert "a.dat has an ending that is not read (.dat)" in refused.err
    reading = ("--format", "csv", "--delimiter", ";", "--encoding", "utf-8")
    refused = annotate(*command, *reading, "--max-document", 0.000001, folder=tmp_path)
    assert refused.status == 2
    assert "--max-document sets" in refused.err
    assert not (tmp_path / "x.duckdb").exists()
    result = annotate(*command, *reading, folder=tmp_path)
    assert result.status == 0, result.err


def test_the_commands_defaults_are_the_readers() -> None:
    import inspect

    from annotate_transformer.app.cli.make import ingest as command
    from annotate_transformer.ingest.corpus.unpacked import Reading

    given = {name: parameter.default for name, parameter in inspect.signature(command).parameters.items()}
    for name, value in vars(Reading()).items():
        assert given[name] == value, name
