"""What is wrong in a store is found, row by row where it can be, and what is no store is told."""

import json
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from annotate_transformer import store
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.weights.tables import annotate_weights
from annotate_transformer.store.catalogue import catalogue
from annotate_transformer.store.database import SCHEMA_VERSION
from annotate_transformer.store.queries import named
from answers import differences, sql
from processes import Result, annotate
from small import SETTINGS, corpus

OPTIONS = (*SETTINGS, "--samples", 40, "--weights", "--db", "x.duckdb")


@pytest.fixture(scope="module")
def sound(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of one finished run, more than 200 positions long."""
    folder = tmp_path_factory.mktemp("sound")
    text = corpus(folder / "small.jsonl", (4, 1, 18, 2, 9))
    columns = ("--answer-column", "number", "--distractor-column", "next")
    result = annotate("ingest", text, "--model", tiny_model, *OPTIONS, *columns, folder=folder)
    assert result.status == 0, result.err
    for more in (
        ("ablate", 137, "L1H1"),
        ("effects", "--sample", 4, "--exact", 1),
        ("next-token", "--neurons", 4, "--windows", 10, "--std-threshold", 0.9),
        ("inputs", 137, "L1N7"),
    ):
        assert annotate(*more, "--db", "x.duckdb", folder=folder).status == 0
    assert sql(folder / "x.duckdb", "SELECT count(*) > 200 FROM positions") == [(True,)]
    return folder / "x.duckdb"


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sound, tmp_path))


def verify(db: Path, *options: object) -> Result:
    result = annotate("verify", db, *options, folder=db.parent)
    assert "Traceback" not in result.err, result.err
    return result


def change(db: Path, statement: str) -> None:
    """What anyone with DuckDB can do to the file; it must change something."""
    with duckdb.connect(str(db)) as con:
        [(rows,)] = con.execute(statement).fetchall()
    assert rows > 0


def test_a_sound_store(sound: Path) -> None:
    result = verify(sound)
    assert (result.status, result.err) == (0, "")
    assert "all checks pass" in result.out
    told = json.loads(verify(sound, "--json").out)
    assert told["broken"] == 0
    assert len(told["findings"]) == len(result.out.splitlines()) - 1


# Contents


@dataclass(frozen=True)
class Change:
    """A change of a row, what must be said of it, and where only one check can know, which."""

    statement: str
    told: str
    check: str = ""


def at(table: str, column: str, value: str, where: str, told: str, check: str = "") -> Change:
    return Change(f"UPDATE base.{table} SET {column} = {value} WHERE {where}", told, check)


POSITION, LAYER = "position_id = 137", "position_id = 137 AND layer = 1"
HEAD = f"{LAYER} AND head = 0"
SOURCE = "rowid = (SELECT min(rowid) FROM base.head_source WHERE position_id = 137)"
LOOKS_BACK = """rowid = (
    SELECT min(h.rowid) FROM base.head h
    JOIN base.head_source s USING (position_id, layer, head, source_offset)
    WHERE h.attention > 0.6 AND h.source_offset > 0)"""
SUMS = named("write.sql")["finish_head_offsets"].replace("$run_id", "1")
SUMMED_ANEW = f"DELETE FROM base.head_offset; {SUMS}"
LIKELIEST = "position_id = (SELECT arg_max(position_id, next_logprob) FROM base.position) AND"
TOKEN = f"token_id = (SELECT token_id FROM base.position WHERE {POSITION})"
OF_CHOICE = f"layer = 1 AND token_id = (SELECT top_token_id FROM base.position WHERE {POSITION})"
NEURON = "rowid = (SELECT min(rowid) FROM base.neuron WHERE position_id = 137)"
KEPT = """kind = 'neuron' AND list = 'high' AND rank = 1 AND (layer, unit) = (
    SELECT (e.layer, e.unit) FROM base.top_entry e
    JOIN base.neuron n ON n.position_id = e.position_id AND n.layer = e.layer AND n.neuron = e.unit
    WHERE e.kind = 'neuron' AND e.list = 'high' AND e.rank = 1 ORDER BY ALL LIMIT 1)"""
IN_LIST = "rank = 1 AND layer = 1 AND unit = 7 AND kind = 'neuron' AND list ="
OF_NEURON, OF_HEAD = "kind = 'neuron' AND layer = 1 AND unit = 7", "kind = 'head' AND layer = 1 AND unit = 1"
A_BIT = "base.units(0.01)"  # what terms are stored in
ADDED = 'list_transform("values", x -> x + 0.01)'
OF_L1H1, OF_L1N7, FIRST = (
    "layer = 1 AND head = 1",
    "layer = 1 AND neuron = 7",
    "layer = 1 AND head = 1 AND rank = 1",
)
L1U1, L1U7 = "layer 1, unit 1", "layer 1, unit 7"
LISTS, ORDER = "lists of the weights", "lists of the weights in order"
WRITES = "direction = 'promotes' AND layer = 1 AND neuron = 7"
FIRST_HEAD = "rowid = 0"
ASKED = "prompt IS NULL AND position_id = 137"
SMALLEST = "token_id = (SELECT min(token_id) FROM base.bigram_agreement)"
DOCUMENT = "WHERE document_id = 2"
OF_DOCUMENT = "base.document_of_passage(passage_id) = 2"
CHANGES = {
    # a position's own values
    "logit of the next token": at("position", "next_logit", "next_logit + 0.01", POSITION, "137"),
    "logit of the first choice": at("position", "top_logit", "top_logit + 0.01", POSITION, "137"),
    "its closure": at("position", "closure_top", "0.5", POSITION, "137"),
    "its log-probability": at("position", "next_logprob", "next_logprob - 1", POSITION, "137"),
    "its token": at("position", "token_id", "token_id + 1", POSITION, "137"),
    "the token after it": at("position", "next_token_id", "next_token_id + 1", POSITION, "137"),
    "its rank": at("position", "next_rank", "-1", POSITION, "137"),
    "its place in the window": at("position", "position", "position + 1", POSITION, "137"),
    "its span": at("position", "char_end", "1000000", POSITION, "137"),
    "not a number": at("position", "top_logit", "'nan'", POSITION, "137"),
    # the terms
    "embedding": at("position", "embed_top", f"embed_top + {A_BIT}", POSITION, "137"),
    "final bias": at("position", "bias_next", f"bias_next + {A_BIT}", POSITION, "137"),
    "attention layer": at("contribution", "attn_next", f"attn_next + {A_BIT}", LAYER, "137"),
    "MLP layer": at("contribution", "mlp_top", f"mlp_top + {A_BIT}", LAYER, "137"),
    "attention bias": at("layer_bias", "attn", "attn + 1", OF_CHOICE, "heads and bias", "heads add up"),
    "MLP bias": at("layer_bias", "mlp", "mlp + 1", OF_CHOICE, "remainder and bias", "neurons add up"),
    "the other neurons": at(
        "contribution", "mlp_remainder_next", f"mlp_remainder_next + {A_BIT}", LAYER, "137"
    ),
    "head": at("head", "toward_top", f"toward_top + {A_BIT}", HEAD, "137"),
    "head toward the next token": at("head", "toward_next", f"toward_next + {A_BIT}", HEAD, "137"),
    "head's top source": at("head", "source_offset", "1000", HEAD, "137"),
    "neurons' bound": at("contribution", "activation_bound", "activation_bound + 1", LAYER, "137"),
    "neuron": at("neuron", "toward_next", "toward_next + 0.01", NEURON, "137"),
    "neuron's activation": at("neuron", "activation", "1000", NEURON, "137"),
    "source beyond its window": at("head_source", "source_offset", "1000", SOURCE, "137"),
    "source of another position": at("head_source", "position_id", "138", SOURCE, "13[78]"),
    "source below the bound": at("head_source", "toward_top", "0, toward_next = 0", SOURCE, "137"),
    "lens of another position": at("lens", "position_id", "138", LAYER, "13[78]"),
    # over the whole run
    "list out of order": at(
        "top_entry",
        "rank",
        "CASE rank WHEN 2 THEN 3 ELSE 2 END",
        "kind = 'neuron' AND list = 'high' AND rank IN (2, 3) AND layer = 1 AND unit = 7",
        "neuron list high, layer 1 unit 7",
    ),
    "list with another value": at(
        "top_entry", "value", "value + 0.01", KEPT, "neuron list high, layer . (unit|neuron) .* rank 1"
    ),
    "list with another position": at(
        "top_entry", "position_id", "2", f"{IN_LIST} 'high'", "neuron list high, layer 1 (unit|neuron) 7"
    ),
    "list of windows": at(
        "top_entry",
        "value",
        "value + 0.01",
        f"{IN_LIST} 'window'",
        "neuron list window, layer 1 (unit|neuron) 7",
    ),
    "head's list": at(
        "top_entry",
        "value",
        "value + 0.01",
        "kind = 'head' AND list = 'high' AND rank = 1 AND layer = 1 AND unit = 1",
        "head list high, layer 1 head 1",
    ),
    "neuron's count": at("unit_stat", "count", "count + 1", OF_NEURON, "L1N7"),
    "neuron's maximum": at("unit_stat", "maximum", "-1000", OF_NEURON, "L1N7"),
    "neuron's minimum": at("unit_stat", "minimum", "1000", OF_NEURON, "L1N7"),
    "neuron's histogram": at("unit_stat", "histogram", "list_append(histogram, 1)", OF_NEURON, "L1N7"),
    "head's mean": at("unit_stat", "total", "total + 1", OF_HEAD, "L1H1"),
    "head's maximum": at("unit_stat", "maximum", "maximum + 1", OF_HEAD, "L1H1"),
    "statistics of no neuron": at("unit_stat", "unit", "1000", OF_NEURON, "L1N(7|1000)"),
    "neuron's samples": at("sample_unit", '"values"', ADDED, OF_NEURON, "L1N7"),
    "head's samples": at("sample_unit", '"values"', ADDED, OF_HEAD, "L1H1"),
    # what the weights say
    "neuron's vocabulary": at("neuron_vocabulary", "congruence", "-9", f"{WRITES} AND rank = 2", L1U7, ORDER),
    "its ranks": at("neuron_vocabulary", "rank", "21", f"{WRITES} AND rank = 20", L1U7, LISTS),
    "virtual weight": at("neuron_read", "weight", "100", f"{OF_L1N7} AND rank = 2", L1U7, ORDER),
    "direct path": at("direct_path", "logprob", "0", "token_id = 300 AND rank = 5", "token 300", ORDER),
    "token that is none": at(
        "neuron_vocabulary", "token_id", "9999", WRITES, "token 9999", "vocabulary of the weights"
    ),
    "tokenizer of no model": at("tokenizer", "tokenizer_id", "9", "true", "model 1", "identity of the model"),
    "bigrams' count": at("bigram_agreement", "next_tokens", "next_tokens + 1", SMALLEST, "bigrams of token"),
    "bigrams' distance": at("bigram_distance", "bigrams", "bigrams + 1", "min_count = 0", "0 times"),
    "head's outputs": at("head_vocabulary", "effect", "-9", f"{OF_L1H1} AND rank = 2", "layer 1, unit 1"),
    "head's pairs": at("head_pair", "attention", "attention / 2", FIRST, "layer 1, unit 1", ORDER),
    "skip-trigram": at("skip_trigram", "strength", "1.1 * strength", FIRST, "L1H1", "scores of heads"),
    "head's scores": at("head_weight", "copying", "1.5", OF_L1H1, "L1H1", "scores of heads"),
    "preferred distance": at("head_distance", "distance", "9", f"{OF_L1H1} AND distance = 5", L1U1, LISTS),
    "head_composition": at("head_composition", "score", "2", f"{OF_L1H1} AND kind = 'K'", "L1H1"),
    "its z": at("head_composition", "z", "-z", f"{OF_L1H1} AND kind = 'V' AND abs(z) > 0.1", "L1H1"),
    "its p": at("head_composition", "p", "2", f"{OF_L1H1} AND kind = 'V'", "L1H1"),
    "copying's z": at("head_weight", "copying_z", "-copying_z", OF_L1H1, "L1H1", "scores of heads"),
    # what feeds neurons
    "input of a neuron": at("neuron_input", "value", "value + 0.01", ASKED, "L1N7 at position 137"),
    "its source": at(
        "neuron_input", "source_head", "0", f"{ASKED} AND source_head = 1", "L1N7 at position 137"
    ),
    "its pre-activation": at("neuron_occurrence", "pre_activation", "pre_activation + 1", ASKED, "137"),
    "the closure of that": at("neuron_occurrence", "closure", "0.001", ASKED, "137"),
    "a prompt's activation": at("neuron_occurrence", "activation", "0", "prompt = 1", "prompts"),
    "a head's prompt": at("head_prompt", "is_active", "NOT is_active", FIRST_HEAD, "prompts"),
    "what is held out": at("head_prompt", "is_held_out", "NOT is_held_out", FIRST_HEAD, "prompts"),
    "a p-value": at("ablation", "activation_p", "2", FIRST_HEAD, "prompts"),
    "a probability": at("head_prompt", "ablated_probability", "2", FIRST_HEAD, "prompts"),
    "whose an explanation is": at("explanation", "source_head", "9", "explanation_id = 1", "explanation 1"),
    "what an answer is about": at("explanation_answer", "prompt", "99", "true", "answers for 2"),
    "prompts of a neuron": at("next_token_neuron", "prompts", "prompts + 1", "true", "recorded"),
    # records
    "shard's positions": at("shard", "positions", "positions + 1", "shard = 1", "shard 1"),
    "shard's neurons": at("shard", "neurons", "neurons + 1", "shard = 1", "shard 1"),
    "shard's sources": at("shard", "head_sources", "head_sources - 1", "shard = 1", "shard 1"),
    "shard's windows": at("shard", "windows", "windows + 1", "shard = 1", "shard 1"),
    "shard's closure": at("shard", "worst_closure", "0", "shard = 1", "shard 1"),
    "shard's number": at("shard", "shard", "7", "shard = 1", "shard 7"),
    "text": Change(f"UPDATE base.document SET text = replace(text, 'Tom', 'Tim') {DOCUMENT}", "document 2"),
    "a passage": Change(
        f"UPDATE base.passage SET text = replace(text, 'Tom', 'Tim') WHERE {OF_DOCUMENT}",
        "document 2",
        "passages",
    ),
    "a passage's place": at("passage", "passage_id", "passage_id + 1", OF_DOCUMENT, "document 2"),
    "a passage of no document": Change(
        "INSERT INTO base.passage VALUES (base.passage_id(99, 0), 'x')",
        "passage 25952256",
        "passages of documents",
    ),
    "shorter text": Change(f"UPDATE base.document SET text = text[:40] {DOCUMENT}", "document 2"),
    # what but one check can know
    "span's start": at("position", "char_start", "char_start + 1", POSITION, "137"),
    "span's end": at("position", "char_end", "char_end - 1", POSITION, "137"),
    "bytes of a token": at("token", "bytes", "encode(repeat('x', length(token)))", TOKEN, "document"),
    "context": at("position", "context_cut", "NOT context_cut", POSITION, "137", "context cut"),
    "rank unlike the lens's": at("position", "next_rank", "next_rank + 10", POSITION, "137", "last lens"),
    "last layer's lens": at("lens", "top_logprob", "top_logprob - 0.01", LAYER, "137", "last lens"),
    "rank too far for its probability": Change(
        f"UPDATE base.lens SET next_rank = 4000 WHERE {LIKELIEST} layer = 1;"
        f"UPDATE base.position SET next_rank = 4000 WHERE {LIKELIEST} true",
        "rank 4000",
        "probabilities agree",
    ),
    "head's attention": Change(
        f"UPDATE base.head SET attention = attention + 0.01 WHERE {HEAD}; {SUMMED_ANEW}",
        "137",
        "attention of sources",
    ),
    "head's top source, by one": Change(
        f"UPDATE base.head SET source_offset = source_offset - 1 WHERE {LOOKS_BACK}; {SUMMED_ANEW}",
        "position",
        "attention of sources",
    ),
    "source's effect": at("head_source", "toward_top", "toward_top + 100", SOURCE, "137", "sources add up"),
    "a head's distances": at(
        "head_offset",
        "attention",
        "attention + 0.1",
        f"{OF_L1H1} AND source_offset = 1",
        "L1H1",
        "heads' distances",
    ),
    "source of a list": at(
        "top_source", "source_offset", "source_offset + 1", OF_L1H1, "L1H1", "head lists' sources"
    ),
    "bound too low": at("contribution", "top_bound", "0", LAYER, "137", "neurons kept"),
    "bound too high": at("contribution", "next_bound", "next_bound + 1", LAYER, "137", "neurons kept"),
    "documents": at("corpus", "documents", "documents + 1", "true", "corpus 1", "whole corpus"),
    "corpus's hash": at("corpus", "sha256", "sha256('')", "true", "run 1", "corpus hash"),
    "text of a token": at("token", "token", "token || 'x'", TOKEN, "but its bytes are", "texts of tokens"),
    "histogram of a head": at(
        "unit_stat", "histogram", "list_reverse(histogram)", OF_HEAD, "of its histogram", "head histograms"
    ),
    "metadata": Change(
        f"""UPDATE base.document SET metadata = '{{"number": 3}}' {DOCUMENT}""", "run 1", "corpus hash"
    ),
}


@pytest.mark.some(8)
@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_row_is_reported(name: str, copy: Path) -> None:
    changed = CHANGES[name]
    change(copy, changed.statement)
    found = recomputed(copy)
    assert found, "only its checksum told"
    told = [problem for examples in found.values() for problem in examples]
    assert any(re.search(rf"\b{changed.told}\b", problem) for problem in told), told
    if changed.check:
        assert {*found} == {changed.check}, found


def problems(db: Path) -> dict[str, list[str]]:
    """What each check tells of the wrong rows; the command turns it into lines and an exit status."""
    found = {finding.check: finding.examples for finding in store.verify(db) if finding.broken}
    assert all(found.values())
    assert not any(None in examples for examples in found.values()), "a sentence with NULL in it is NULL"
    return found


def recomputed(db: Path) -> dict[str, list[str]]:
    """What the checks tell that recompute values, of a store in which some row is not what was written."""
    found = problems(db)
    assert found.pop("checksums"), "the checksums did not tell"
    return found


OF_ALL = ("neuron_code", "neuron_direction", "token_direction")  # of runs that keep all neurons
EMPTY_AT_THE_END = ("version", "catalogue", "checksum", "top_candidate", "sample_row")
TABLES = [name for name in catalogue() if name not in (*OF_ALL, *EMPTY_AT_THE_END)]


@pytest.fixture(scope="module")
def sound_of_all(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("all")
    options = (*OPTIONS, "--keep-neurons", "all", "--limit-tokens", 60)
    text = corpus(folder / "small.jsonl", (4, 1, 18))
    result = annotate("ingest", text, "--model", tiny_model, *options, folder=folder)
    assert result.status == 0, result.err
    assert problems(folder / "x.duckdb") == {}
    return folder / "x.duckdb"


def test_no_table_is_forgotten(sound: Path) -> None:
    names = "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'base'"
    assert {name for (name,) in sql(sound, names)} == {*TABLES, *OF_ALL, *EMPTY_AT_THE_END}


@pytest.mark.some(8)
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("how", ["missing", "doubled"])
def test_a_row_missing_or_doubled_is_reported(how: str, table: str, copy: Path) -> None:
    which = "WHERE token_id = (SELECT token_id FROM base.position LIMIT 1)" if table == "token" else ""
    if (how, table) == ("missing", "ablation_effect"):
        pytest.skip("an ablation is stored when it is asked for, so nothing else says that it was")
    [(rows,)] = sql(copy, f"SELECT count(*) FROM base.{table} {which}")
    one = f"rowid = (SELECT rowid FROM base.{table} {which} LIMIT 1 OFFSET {rows // 2})"
    if how == "missing":
        change(copy, f"DELETE FROM base.{table} WHERE {one}")
    else:
        change(copy, f"INSERT INTO base.{table} SELECT * FROM base.{table} WHERE {one}")
    assert recomputed(copy), "only its checksum told"


@pytest.mark.some(3)
@pytest.mark.parametrize("table", OF_ALL)
@pytest.mark.parametrize("how", ["missing", "doubled"])
def test_a_row_missing_or_doubled_where_all_are_kept(
    how: str, table: str, sound_of_all: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copy(sound_of_all, tmp_path))
    test_a_row_missing_or_doubled_is_reported(how, table, copy)


def test_a_code_for_another_neuron_is_reported(sound_of_all: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(sound_of_all, tmp_path))
    change(
        copy, "UPDATE base.neuron_code SET codes = codes[:-3] || [31, 31] WHERE position_id = 3 AND layer = 0"
    )
    assert "codes once" in recomputed(copy)


def test_a_model_without_a_run_is_checked(tiny_model: Path, tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    annotate_weights(Model(resolve(str(tiny_model))), str(db), top=3)
    assert {finding.model_id for finding in store.verify(db)} == {None, 1}
    assert problems(db) == {}
    change(db, "UPDATE base.neuron_weight SET neuron = 8 WHERE layer = 1 AND neuron = 7")
    assert {*recomputed(db)} == {LISTS}
    result = verify(db)
    assert (result.status, "model 1  lists of the weights" in result.out) == (1, True)


def test_every_run_is_checked_or_the_one_asked_for(copy: Path, sound: Path, tiny_model: Path) -> None:
    """The second run keeps all neurons and sources, and reaches a part of the corpus."""
    everything = ("--keep-neurons", "all", "--keep-sources", "all", "--limit-tokens", 60)
    run = ("ingest", sound.parent / "small.jsonl", "--model", tiny_model, *OPTIONS, *everything)
    assert annotate(*run, folder=copy.parent).status == 0
    assert verify(copy).status == 0
    other = "position_id = 1000000000003"
    change(
        copy,
        "UPDATE base.head_source SET unrounded_top = unrounded_top + 0.001 "
        f"WHERE {other} AND source_offset = 0",
    )
    assert {*recomputed(copy)} == {"sources add up"}
    change(copy, f"UPDATE base.position SET top_logit = 0 WHERE {other}")
    result = verify(copy)
    assert result.status == 1
    assert "position 1000000000003" in result.out
    assert "all checks pass" not in result.out
    assert verify(copy, "--run", 2).status == 1
    assert verify(copy, "--run", 1).status == 0
    missing = verify(copy, "--run", 99)
    assert missing.status == 2
    assert "99" in missing.err


def test_quiet_prints_what_is_wrong_and_nothing_else(copy: Path) -> None:
    quiet = verify(copy, "--quiet")
    assert (quiet.status, quiet.out, quiet.err) == (0, "", "")
    change(copy, "UPDATE base.position SET top_logit = 0 WHERE position_id = 137")
    wrong = verify(copy, "--quiet")
    assert wrong.status == 1
    assert "position 137" in wrong.out
    assert "ok" not in wrong.out


def test_many_wrong_rows_are_counted_and_some_shown(copy: Path) -> None:
    change(copy, "UPDATE base.position SET top_logit = top_logit + 1")
    result = verify(copy)
    [(positions,)] = sql(copy, "SELECT count(*) FROM positions")
    assert re.search(rf"run 1 +closure +{positions} wrong", result.out)
    assert 0 < result.out.count("    position") < 50


# Files


def test_files_that_are_no_store(sound: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("text", "empty", "header", "cut", "other", "folder")}
    files["text"].write_text("No database, only text.\n" * 1000)
    files["empty"].touch()
    files["header"].write_bytes(sound.read_bytes()[:100])
    files["cut"].write_bytes(sound.read_bytes()[:10_000])
    files["folder"].mkdir()
    with duckdb.connect(str(files["other"])) as con:
        con.execute("CREATE TABLE position (run_id INTEGER)")
    files["missing"] = tmp_path / "missing"
    before = {path: path.read_bytes() for path in files.values() if path.is_file()}
    for name, path in files.items():
        result = verify(path)
        assert (result.status, result.out) == (2, ""), name
        assert result.err.startswith("annotate: "), name
        assert name in result.err
    asked = annotate("runs", "--db", files["header"], folder=tmp_path)
    assert (asked.status, asked.err.startswith("annotate: "), "Traceback" in asked.err) == (2, True, False)
    assert {path: path.read_bytes() for path in files.values() if path.is_file()} == before


def test_another_schema_version(copy: Path) -> None:
    change(copy, "UPDATE base.version SET version = version + 1")
    result = verify(copy)
    assert (result.status, result.out) == (2, "")
    assert f"schema version {SCHEMA_VERSION + 1}" in result.err


@pytest.mark.soak
def test_flipped_bytes(sound: Path, tmp_path: Path) -> None:
    """Each block of the file has a checksum of DuckDB's: a flipped byte is told, or was not in use."""
    draw, whole = random.Random(5), sound.read_bytes()
    everywhere = range(100_000, len(whole), 50_000)
    places = [list(everywhere), *([draw.randrange(len(whole))] for _ in range(5))]
    statuses = []
    for number, flipped in enumerate(places):
        damaged = bytearray(whole)
        for place in flipped:
            damaged[place] ^= 0xFF
        file = tmp_path / f"{number}.duckdb"
        file.write_bytes(damaged)
        result = verify(file)
        assert result.status in (0, 1, 2), (flipped, result)
        if result.status == 0:
            assert differences(sound, file) == {}, flipped
        statuses.append(result.status)
    assert statuses[0] in (1, 2)
    assert {1, 2} & set(statuses[1:]), "no flipped byte met anything"
