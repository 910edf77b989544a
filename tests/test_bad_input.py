"""What a person can get wrong: one sentence, exit status 2, and no store is the worse for it."""

import gzip
import hashlib
import json
import os
import re
import resource
import shutil
import sys
from pathlib import Path

import duckdb
import pytest

from answers import differences, rows, sql
from disks import mounted
from processes import Result, annotate, run_command, start_function
from small import EMBEDDED, SETTINGS, TOKENIZER, committed, corpus, text
from small import model as small_model


@pytest.fixture
def store_there(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path))


def ingest(source: object, folder: Path, model: object, *options: object, **more: object) -> Result:
    """One small run into x.duckdb; further options come last and prevail."""
    command = ("ingest", source, "--db", "x.duckdb", "--model", model, *SETTINGS, *options)
    return annotate(*command, folder=folder, **more)


def assert_refused(result: Result, *words: str) -> None:
    """A sentence of the program's own, or of its options' parser; nothing else."""
    assert result.status == 2, result
    assert "Traceback" not in result.err
    told = result.err.strip().splitlines()[-1]
    assert told.startswith(("annotate: ", "Error: ")), told
    assert len(told) > 30
    for word in words:
        assert word in told, f"{word!r} is not in {told!r}"


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# The corpus


def test_a_missing_file(store_there: Path, tiny_model: Path) -> None:
    before = digest(store_there)
    assert_refused(ingest("missing.txt", store_there.parent, tiny_model), "missing.txt")
    assert digest(store_there) == before


def test_a_file_that_may_not_be_read(store_there: Path, tiny_model: Path) -> None:
    """A folder where a file's name was promised; and, where root's rights do not help, a locked file."""
    before, folder = digest(store_there), store_there.parent
    (folder / "texts.jsonl").mkdir()
    assert_refused(ingest("texts.jsonl", folder, tiny_model), "texts.jsonl")
    if os.geteuid() != 0:
        locked = folder / "locked.txt"
        locked.write_text("Nobody reads this.")
        locked.chmod(0)
        assert_refused(ingest(locked, folder, tiny_model), "locked.txt", "Permission denied")
    assert digest(store_there) == before


@pytest.mark.parametrize("content", ["", "\n\n", '{"text": ""}\n'])
def test_an_empty_corpus(content: str, store_there: Path, tiny_model: Path) -> None:
    before, file = digest(store_there), store_there.parent / "empty.jsonl"
    file.write_text(content)
    assert_refused(ingest(file, file.parent, tiny_model), "empty")
    assert digest(store_there) == before


def test_invalid_utf8(store_there: Path, tiny_model: Path) -> None:
    before, file = digest(store_there), store_there.parent / "latin.txt"
    file.write_bytes("One line.\nA second.\nUn café.\n".encode("latin-1"))
    assert_refused(ingest(file, file.parent, tiny_model), "latin.txt:3", "--encoding-errors replace")
    assert digest(store_there) == before
    result = ingest(file, file.parent, tiny_model, "--encoding-errors", "replace")
    assert result.status == 0
    assert "caf\ufffd." in sql(store_there, "SELECT text FROM documents WHERE corpus_id = 2")[0][0]


def test_lines_that_are_no_documents(store_there: Path, tiny_model: Path) -> None:
    before, file = digest(store_there), store_there.parent / "bad.jsonl"
    good = '{"text": "Tom saw Mary."}\n'
    for line, why in {
        "no JSON": "is not JSON",
        '{"txt": "Tom"}': 'has no "text"',
        '{"text": 3}': "not text",
        "[1, 2]": "neither a JSON object nor a string",
        '{"text": "cut off': "is not JSON",
    }.items():
        file.write_text(good + line + "\n" + good)
        if why in ("is not JSON", 'has no "text"'):  # the others differ in nothing but the reader
            assert_refused(ingest(file, file.parent, tiny_model), "bad.jsonl:2", why, "--skip-bad")
    file.write_text(good + 'no JSON\n{"txt": "Tom"}\n{"text": 3}\n' + good)
    assert digest(store_there) == before
    result = ingest(file, file.parent, tiny_model, "--skip-bad")
    assert result.status == 0
    assert "3 bad rows skipped" in result.err
    assert sql(store_there, "SELECT count(*) FROM documents WHERE corpus_id = 2") == [(2,)]


def test_what_is_met_late_leaves_the_store_untouched(store_there: Path, tiny_model: Path) -> None:
    """The whole corpus is checked before the first shard of it is written."""
    before, file = digest(store_there), store_there.parent / "late.jsonl"
    file.write_text('{"text": "Tom saw Mary and the cat."}\n' * 200 + "no JSON\n")
    assert_refused(ingest(file, file.parent, tiny_model), "late.jsonl:201")
    packed = file.with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(file.read_bytes())[:-20])
    assert_refused(ingest(packed, file.parent, tiny_model), "late.jsonl.gz")
    assert digest(store_there) == before


# Taken as they are


ODD = {
    "nul": "before\x00after \x00\x00 and on",
    "control characters": "a bell \x07, an escape \x1b[31m, a delete \x7f, \x80 and \x9f",
    "line ends": "one\r\ntwo\rthree\u2028four\u2029five\x0bsix\x0cseven\x85eight",
    "right to left": "\u200fשלום\u200e then \u202eback\u202c and العربية \u2067x\u2069",
    "joined": "👩\u200d👩\u200d👧 e\u0301 \ufeffinside \u00ad\u200b\ufffd\uffff",
    "astral": "𝒜 𐍈 𠀀 \U0010ffff",
    "only spaces": " \t\n   ",
    "one": "x",
}
LONE = {"high": '"a\\ud83d b"', "low": '"a\\ude00 b"', "turned": '"a\\ude00\\ud83d b"'}
EACH_SPAN = """
    SELECT p.document_id, p.char_start, p.char_end, v.bytes,
           substring(d.text, p.char_start + 1, p.char_end - p.char_start) AS span
    FROM positions p
    JOIN documents d USING (document_id)
    JOIN vocabulary v ON v.token_id = p.token_id
    ORDER BY p.position_id
"""


def test_odd_characters_are_kept_and_spans_still_fit(tmp_path: Path, tiny_model: Path) -> None:
    lines = [json.dumps({"text": value, "kind": kind}) for kind, value in ODD.items()]
    lines += [
        f'{{"text": {value}, "kind": "lone {kind}", "{kind}": {value}}}' for kind, value in LONE.items()
    ]
    (tmp_path / "odd.jsonl").write_text("\n".join(lines) + "\n")
    result = ingest("odd.jsonl", tmp_path, tiny_model)
    assert result.status == 0, result.err
    db = tmp_path / "x.duckdb"
    texts = dict(sql(db, "SELECT metadata ->> 'kind', text FROM documents"))
    assert {kind: texts[kind] for kind in ODD} == ODD
    assert texts["lone high"] == texts["lone low"] == "a\ufffd b"
    assert texts["lone turned"] == "a\ufffd\ufffd b"
    assert_spans_fit(db)
    assert annotate("verify", db, folder=tmp_path).status == 0
    [(terminal,)] = sql(db, "SELECT count(*) FROM documents WHERE contains(text, chr(27))")
    assert terminal == 1
    assert "\x1b[31m" not in annotate("verify", db, folder=tmp_path).out


def assert_spans_fit(db: Path) -> None:
    """The text at every token's span is the token's bytes; of a character in pieces, all have its span."""
    tokens = sql(db, EACH_SPAN)
    for document, whole in sql(db, "SELECT document_id, text FROM documents"):
        own = [row[1:] for row in tokens if row[0] == document]
        assert b"".join(raw for *_, raw, _ in own) == whole.encode()
        for start, end, raw, span in own:
            assert span == whole[start:end]
            assert raw in span.encode()
        assert {at for start, end, *_ in own for at in range(start, end)} == {*range(len(whole))}


@pytest.mark.soak
def test_a_large_document(tmp_path: Path, tiny_model: Path) -> None:
    """One document of three million characters, longer than a tokeniser's piece; its first tokens."""
    sentence = text(50, seed=3) + "\n"
    (tmp_path / "large.txt").write_text(sentence * (3_000_000 // len(sentence)), encoding="utf-8")
    limit = ("--limit-tokens", 2000, "--context", 64, "--batch-tokens", 1024)
    result = ingest("large.txt", tmp_path, tiny_model, *limit)
    assert result.status == 0, result.err
    db = tmp_path / "x.duckdb"
    [(length, tokens, windows)] = sql(
        db,
        """SELECT any_value(length(d.text)), count(*), count(DISTINCT window_id)
           FROM positions JOIN documents d USING (document_id)""",
    )
    assert (tokens, windows) == (2000, 32)
    assert length > 2_900_000
    wrong = sql(
        db,
        """SELECT count(*) FROM positions p
           JOIN documents d USING (document_id) JOIN vocabulary v USING (token_id)
           WHERE p.char_end - p.char_start > 1
             AND encode(substring(d.text, p.char_start + 1, p.char_end - p.char_start)) <> v.bytes""",
    )
    assert wrong == [(0,)]


# The model


def test_an_unknown_model(store_there: Path, source: Path) -> None:
    before = digest(store_there)
    result = ingest(source, store_there.parent, "pythia-70")
    assert_refused(result, "pythia-70'", "pythia-70m", "nearest")
    assert digest(store_there) == before


@pytest.mark.parametrize(("model", "nearest"), [("neox-2m", "step1000"), ("pythia-70m", "step3000")])
def test_an_unknown_revision(model: str, nearest: str, store_there: Path, source: Path) -> None:
    before = digest(store_there)
    result = ingest(source, store_there.parent, model, "--revision", "step3001")
    assert_refused(result, "step3001", nearest)
    assert digest(store_there) == before


def test_the_hub_out_of_reach(store_there: Path, source: Path) -> None:
    before = digest(store_there)
    for name in ("pythia-70m", "someone/their-own-model"):
        result = ingest(source, store_there.parent, name)
        assert_refused(result, "hub cannot be reached", "neox-2m")
    assert digest(store_there) == before


def test_a_model_of_another_architecture(store_there: Path, source: Path) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    other = store_there.parent / "experts"
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_local_experts": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    MixtralForCausalLM(MixtralConfig(vocab_size=4096, **sizes, **heads)).save_pretrained(other)
    for file in TOKENIZER:
        shutil.copy(EMBEDDED / file, other)
    before = digest(store_there)
    assert_refused(
        ingest(source, store_there.parent, other), "MixtralForCausalLM", "some of the experts", "GPTNeoX"
    )
    assert digest(store_there) == before


def test_folders_that_hold_no_whole_model(store_there: Path, source: Path, tiny_model: Path) -> None:
    before, folder = digest(store_there), store_there.parent / "model"
    folder.mkdir()
    assert_refused(ingest(source, folder.parent, folder), "config.json")
    shutil.copy(tiny_model / "config.json", folder)
    assert_refused(ingest(source, folder.parent, folder), str(folder))
    shutil.copy(tiny_model / "model.safetensors", folder)
    assert_refused(ingest(source, folder.parent, folder), str(folder))
    for file in TOKENIZER:
        shutil.copy(EMBEDDED / file, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert_refused(ingest(source, folder.parent, folder), str(folder))
    assert digest(store_there) == before


# The options


BAD_OPTIONS = {
    "context above the model's": (("--context", 65), ("65", "64")),
    "context too short": (("--context", 1), ("2",)),
    "stride above the window": (("--stride", 17), ("17", "16")),
    "stride with a BOS": (("--bos", "--stride", 16), ("16", "15")),
    "stride of nothing": (("--stride", 0), ("stride",)),
    "top of nothing": (("--top", 0), ("--top",)),
    "top too long": (("--top", 65_536), ("65535",)),
    "more samples than can be counted": (("--samples", 2**31), ("2147483647",)),
    "keep a word": (("--keep-neurons", "x"), ("x", "all")),
    "keep less than nothing": (("--keep-sources", "-1"), ("-1",)),
    "keep a superscript": (("--keep-neurons", "²"), ("²",)),
    "no token": (("--limit-tokens", 0), ("--limit-tokens",)),
    "no batch": (("--batch-tokens", 0), ("--batch-tokens",)),
    "half precision": (("--dtype", "float16"), ("float16", "float32")),
    "no such type": (("--dtype", "nonsense"), ("nonsense", "float32")),
    "no such device": (("--device", "nonsense"), ("nonsense",)),
    "a device that computes nothing": (("--device", "meta"), ("meta",)),
    "a device that is not here": (("--device", "cuda:99"), ("cuda:99",)),
    "no such handling": (("--encoding-errors", "ignore"), ("strict", "replace")),
    "no such option": (("--no-such-option",), ("--no-such-option",)),
    "no such column": (("--text-column", "body"), ("body",)),
}
TOLD_LATER = {"context above the model's", "no such column"}  # than at once


@pytest.mark.some(3)
@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_values_of_options(name: str, store_there: Path, source: Path, tiny_model: Path) -> None:
    before, (options, words) = digest(store_there), BAD_OPTIONS[name]
    result = ingest(source, store_there.parent, tiny_model, *options)
    assert_refused(result, *words)
    assert ("reading" in result.err) == (name in TOLD_LATER)
    assert digest(store_there) == before
    assert_nothing_beside(store_there)


def assert_nothing_beside(db: Path) -> None:
    """No lock's file where there was none."""
    assert {*db.parent.glob("x.duckdb*")} <= {db}


# The store


def test_a_store_of_another_schema_version(store_there: Path, source: Path, tiny_model: Path) -> None:
    with duckdb.connect(str(store_there)) as con:
        con.execute("UPDATE base.version SET version = 99")
    before = digest(store_there)
    assert_refused(ingest(source, store_there.parent, tiny_model, "--top", 3), "schema version 99")
    assert digest(store_there) == before


def test_files_that_are_no_store(tmp_path: Path, source: Path, tiny_model: Path) -> None:
    db = tmp_path / "x.duckdb"
    db.write_text("Something that somebody wrote and wants to keep.\n" * 100)
    before = digest(db)
    refused = ingest(source, tmp_path, tiny_model)
    assert_refused(refused, "x.duckdb", "DuckDB")
    assert "reading" not in refused.err
    assert digest(db) == before
    assert_nothing_beside(db)
    db.unlink()
    with duckdb.connect(str(db)) as con:
        con.execute("CREATE TABLE mine AS SELECT 1 AS number")
    before = digest(db)
    assert_refused(ingest(source, tmp_path, tiny_model), "x.duckdb", "not a store")
    assert digest(db) == before
    db.unlink()
    db.mkdir()
    assert_refused(ingest(source, tmp_path, tiny_model), "x.duckdb")
    assert_nothing_beside(db)


def test_a_folder_that_is_not_there(tmp_path: Path, source: Path, tiny_model: Path) -> None:
    result = ingest(source, tmp_path, tiny_model, "--db", "nowhere/x.duckdb")
    assert_refused(result, "nowhere")
    assert "reading" not in result.err
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_may_not_be_written(tmp_path: Path, source: Path, tiny_model: Path) -> None:
    """Root may write into every folder but those that the kernel makes."""
    folder = Path("/sys") if os.geteuid() == 0 else tmp_path / "locked"
    if folder != Path("/sys"):
        folder.mkdir(mode=0o555)
    elif not folder.is_dir():
        pytest.skip("root may write everywhere here")
    result = ingest(source, tmp_path, tiny_model, "--db", folder / "x.duckdb")
    assert_refused(result, str(folder), "Permission denied")


# Room


@pytest.mark.soak
def test_files_that_may_not_grow(made: Path, source: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A full disk as every system can play it: the first shard has no room."""
    limit = {resource.RLIMIT_FSIZE: made.stat().st_size // 10}
    result = ingest(source, tmp_path, tiny_model, limits=limit)
    assert_refused(result, "disk", "full", "same command")
    result = ingest(source, tmp_path, tiny_model)
    assert result.status == 0, result.err
    assert differences(made, tmp_path / "x.duckdb") == {}


@pytest.mark.some(2)
@pytest.mark.parametrize("share", [0.5, 0.93])
def test_a_full_disk(share: float, made: Path, source: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Full after some shards; full when nothing but the end of the run is to be written."""
    result = on_small_disk(made.stat().st_size * share, tmp_path, source, tiny_model)
    assert_refused(result, "disk", "full", "same command")
    db = tmp_path / "x.duckdb"
    assert committed(db) > 0
    assert annotate("verify", db, folder=tmp_path).status == 0
    result = ingest(source, tmp_path, tiny_model)
    assert (result.status, "(resumed)" in result.out) == (0, True), result.err
    assert differences(made, db) == {}


@pytest.mark.soak
def test_a_full_disk_spares_the_other_runs(store_there: Path, tiny_model: Path) -> None:
    of_the_first = "FROM positions WHERE run_id = 1 ORDER BY position_id"
    before, folder = sql(store_there, of_the_first), store_there.parent
    longer = corpus(folder / "longer.jsonl", (90, 91, 92, 93))  # needs more than the first left free
    result = on_small_disk(store_there.stat().st_size + 2**18, folder, longer, tiny_model)
    assert_refused(result, "disk", "full")
    assert sql(store_there, of_the_first) == before
    assert annotate("verify", store_there, folder=folder).status == 0


def on_small_disk(room: float, folder: Path, source: Path, model: Path, *options: object) -> Result:
    """An ingest on a disk of so many bytes, with the store of `folder` put there before and back after."""
    command = ("ingest", source, "--db", "x.duckdb", "--model", model, *SETTINGS, *options)
    words = [str(word) for word in command]
    result = start_function(_on_small_disk, int(room), str(folder), words, folder=folder).wait()
    if "no disk of its own" in result.err:
        pytest.skip("this system gives a process no disk of its own")
    return result


def _on_small_disk(room: int, folder: str, command: list[str]) -> None:
    """In the child: a file system in memory that no other process sees and that ends with this one."""
    disk = Path(folder) / "disk"
    disk.mkdir()
    if not mounted(str(disk), room):
        sys.exit("no disk of its own")
    for file in Path(folder).glob("x.duckdb*"):
        shutil.copy(file, disk)
    os.chdir(disk)
    try:
        run_command(command)
    finally:
        for file in disk.glob("x.duckdb*"):
            shutil.copy(file, folder)


def test_a_model_whose_values_are_no_numbers(source: Path, tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"][3, 5] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    assert_refused(ingest(source, tmp_path, broken), "no numbers", "broken")
    assert not (tmp_path / "x.duckdb").exists()


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="RLIMIT_AS needs Linux")
def test_out_of_memory_halves_the_batch(tmp_path: Path) -> None:
    """In one batch, attention alone would take more than there is; window by window it does not."""
    wide = small_model(
        tmp_path / "wide", hidden_size=128, num_attention_heads=16, max_position_embeddings=1024
    )
    source = corpus(tmp_path / "long.jsonl", (98, 99, 100))
    options = ("--context", 1024, "--shard-tokens", 100_000, "--samples", 20)
    dbs = [tmp_path / name / "x.duckdb" for name in ("single", "huge")]
    for db, batch_tokens, limits in zip(
        dbs, (512, 10**6), ({}, {resource.RLIMIT_AS: int(2.9 * 2**28)}), strict=True
    ):
        db.parent.mkdir()
        batch = ("--batch-tokens", batch_tokens)
        result = ingest(source, db.parent, wide, *options, *batch, limits=limits)
        assert result.status == 0, result.err
    first_batch = int(re.findall(r" ([\d,]+) tokens", result.err)[0].replace(",", ""))
    [(tokens,)] = sql(dbs[1], "SELECT tokens FROM runs")
    assert first_batch < tokens, "memory sufficed, so nothing was tested"
    assert largest_difference(*dbs) < 1e-5


def largest_difference(one: Path, other: Path) -> float:
    """Over all positions and heads, which must be the same ones; of what is above 1, its share."""
    with duckdb.connect() as con:
        for name, db in (("one", one), ("other", other)):
            con.register(f"{name}_positions", rows(db, "positions"))
            con.register(f"{name}_heads", rows(db, "heads"))
        compared = con.execute(
            """SELECT max(coalesce(abs(a.top_logit - b.top_logit) / greatest(1, abs(a.top_logit)), 1))
               FROM one_positions a FULL JOIN other_positions b USING (position_id, token_id)
               UNION ALL
               SELECT max(coalesce(abs(a.toward_top - b.toward_top) / greatest(1, abs(a.toward_top)), 1))
               FROM one_heads a FULL JOIN other_heads b USING (position_id, layer, head)"""
        ).fetchall()
    return float(max(value for (value,) in compared))
