"""A store of every older schema version is converted, whole or not at all."""

import lzma
import re
import resource
import shutil
import signal
import time
from pathlib import Path

import duckdb
import pytest

from annotate_transformer import store
from annotate_transformer.store.database import OLDEST_VERSION, SCHEMA_VERSION, connection
from annotate_transformer.store.upgrade import upgrade
from annotate_transformer.store.writer import Writer
from processes import annotate, start

STORES = Path(__file__).parent / "stores"
OLDER = range(OLDEST_VERSION, SCHEMA_VERSION)
each = pytest.mark.parametrize("version", OLDER)

# Tables that a version has otherwise than the one before it; every other one is copied.
CHANGED = {
    9: {
        *("tokenizer", "token", "model", "run", "shard", "position", "unit_stat", "weights", "neuron_read"),
        *("head_weight", "composition", "ablation", "explanation_answer", "head_prompt"),
    },
    10: {"bigram_agreement", "bigram_distance"},
    11: {
        *("model", "position", "top_candidate", "top_entry", "head_offset", "unit_stat", "attention_stat"),
        *("sample_row", "sample_unit", "catalogue", "checksum"),
    },
    12: {"checksum"},
    13: {
        *("model", "run", "neuron_code", "neuron_read", "neuron_weight", "neuron_occurrence", "neuron_input"),
        *("catalogue", "checksum"),
    },
    14: {"catalogue", "checksum", "ablation_effect", "unit_effect"},  # the last two are new
    15: {
        *("catalogue", "checksum"),
        *("contrast", "contrast_layer", "contrast_head", "contrast_neuron", "contrast_source"),  # new
    },
    16: {"catalogue", "checksum", "part"},  # the last one is new
    17: set(),
}
# Tables that have another name since version 11, and the same rows.
RENAMED = {
    "contribution": "layer_effect",
    "head": "head_effect",
    "neuron": "neuron_effect",
    "top_source": "list_source",
    "neuron_vocabulary": "neuron_token",
    "direct_path": "follower",
    "head_vocabulary": "head_output",
    "head_composition": "composition",
    "next_token_neuron": "lookup",
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("stores")
    for version in OLDER:
        packed = (STORES / f"{version}.duckdb.xz").read_bytes()
        (folder / f"{version}.duckdb").write_bytes(lzma.decompress(packed))
    return {version: folder / f"{version}.duckdb" for version in OLDER}


@pytest.fixture
def db(version: int, kept: dict[int, Path], tmp_path: Path) -> Path:
    """Return a store of the version, to be changed."""
    return Path(shutil.copy(kept[version], tmp_path / "x.duckdb"))


def rows(db: Path, query: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(db), read_only=True) as con:
        return con.execute(query).fetchall()


def definitions(db: Path) -> list[tuple[object, ...]]:
    """All that CREATE and COMMENT say."""
    return rows(
        db,
        """SELECT schema_name, table_name, sql, comment FROM duckdb_tables()
           UNION ALL SELECT schema_name, index_name, sql, comment FROM duckdb_indexes()
           UNION ALL SELECT schema_name, view_name, sql, comment FROM duckdb_views() WHERE NOT internal
           UNION ALL SELECT schema_name, function_name, macro_definition, comment
                     FROM duckdb_functions() WHERE NOT internal
           UNION ALL SELECT table_name, column_name, data_type, comment
                     FROM duckdb_columns() WHERE NOT internal
           ORDER BY ALL""",
    )


def left(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if "process-" not in file.name} - {"x.duckdb.lock"}


@pytest.mark.some(6)
@each
def test_a_converted_store_is_one_of_today(version: int, db: Path) -> None:
    assert upgrade(db) == version
    assert [finding for finding in store.verify(db) if finding.broken] == []
    assert left(db.parent) == {"x.duckdb"}
    new = db.with_name("new.duckdb")
    with connection(new, read_only=False):
        pass
    assert definitions(db) == definitions(new)


@pytest.mark.some(6)
@each
def test_what_no_version_changed_is_as_it_was_row_by_row(
    version: int, db: Path, kept: dict[int, Path]
) -> None:
    upgrade(db)
    changed = {"version"}.union(*(CHANGED[later] for later in range(version + 1, SCHEMA_VERSION + 1)))
    names = "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'base'"
    tables = {str(name) for (name,) in rows(db, names)}
    compared = 0
    for table in tables:
        old = RENAMED.get(table, table) if version < 11 else table
        if {table, old} & changed:
            continue
        before = rows(kept[version], f"FROM base.{old}")
        assert rows(db, f"FROM base.{table}") == before, table
        compared += len(before)
    assert compared > 10_000


def test_version_8_has_what_version_9_is_without(kept: dict[int, Path], tmp_path: Path) -> None:
    db = Path(shutil.copy(kept[8], tmp_path / "x.duckdb"))
    upgrade(db)
    assert rows(
        db, "SELECT DISTINCT settings->>'special_in_lists', settings->>'parse_special' FROM runs"
    ) == [("true", "true")]
    special = rows(db, "SELECT token FROM base.token WHERE is_special ORDER BY token_id")
    assert special == [("<|endoftext|>",), ("<|padding|>",)]
    counted = "SELECT sum(special_positions) FROM base.shard WHERE run_id = 1"
    assert rows(db, counted) == rows(db, "SELECT count(*) FROM positions WHERE run_id = 1 AND is_special")
    assert rows(db, "SELECT max(worst_closure_ratio) <= 1 FROM runs") == [(True,)]
    # "A cafe" + U+0301: the mark belongs to the token before it; a mark at a text's beginning to the first
    spans = """SELECT d.text[char_start + 1:char_end] FROM positions JOIN documents d USING (document_id)
               WHERE run_id = 1 AND document_id = {} AND NOT is_special ORDER BY position_id LIMIT 4"""
    assert "e\u0301" in [str(span)[-2:] for (span,) in rows(db, spans.format(1))]
    assert str(rows(db, spans.format(5))[0][0]).startswith("\u0301")
    with store.open(db) as s:
        assert len(s.phrase("A caf\u00e9 in", run=1)) == 1
        heads = s.ablations(1)
    assert len(heads) and heads.activation_p.between(0, 1).all()


def test_version_9_loses_only_the_bigrams_of_special_tokens(kept: dict[int, Path], tmp_path: Path) -> None:
    """Of run 1, which has BOS tokens; `annotate weights` counts them anew."""
    db = Path(shutil.copy(kept[9], tmp_path / "x.duckdb"))
    runs = "SELECT DISTINCT run_id FROM base.bigram_agreement"
    assert rows(db, runs) == [(1,)]
    upgrade(db)
    assert rows(db, runs) == []
    assert rows(db, "SELECT count(*) FROM base.bigram_distance") == [(0,)]


@pytest.mark.soak
def test_of_version_8_no_near_duplicate_stays_held_out(kept: dict[int, Path], tmp_path: Path) -> None:
    """In that version they crossed: here every prompt but one of a neuron's head is held out."""
    db = Path(shutil.copy(kept[8], tmp_path / "x.duckdb"))
    with duckdb.connect(str(db)) as con:
        con.execute("UPDATE base.head_prompt SET is_held_out = (prompt % 2 = 0)")
        con.execute("DELETE FROM base.explanation_answer")
        con.execute(
            """INSERT INTO base.explanation_answer BY NAME
               SELECT explanation_id, prompt, true AS answer, 0.0 AS seconds FROM base.explanation
               JOIN base.head_prompt USING (run_id, layer, neuron, source_layer, source_head)
               WHERE is_held_out AND text IS NOT NULL"""
        )
    [(held_out,)] = rows(db, "SELECT count(*) FROM base.head_prompt WHERE is_held_out")
    upgrade(db)
    assert 0 < rows(db, "SELECT count(*) FROM base.head_prompt WHERE is_held_out")[0][0] < held_out  # type: ignore[operator]
    broken = {finding.check for finding in store.verify(db) if finding.broken}
    assert "near-duplicates among prompts" not in broken and "explanations" not in broken


@pytest.mark.some(3)
@each
def test_the_command(version: int, db: Path) -> None:
    refused = annotate("runs", "--db", db, folder=db.parent)
    assert (refused.status, "Traceback" in refused.err) == (2, False)
    assert re.sub(r"\s+", " ", refused.err).strip() == (
        f"annotate: {db} has schema version {version}, and this program needs {SCHEMA_VERSION}: "
        f"`annotate upgrade {db}` converts it."
    )
    for told in (f"schema version {version} is now {SCHEMA_VERSION}", "already: nothing was changed"):
        result = annotate("upgrade", "x.duckdb", folder=db.parent)
        assert (result.status, result.err) == (0, "")
        assert told in result.out
    assert annotate("runs", "--db", db, folder=db.parent).status == 0


@pytest.mark.parametrize("version", [OLDEST_VERSION])
def test_killed_at_any_moment_it_leaves_the_one_or_the_other(version: int, db: Path) -> None:
    before, seen = db.read_bytes(), set[bool]()
    for delay in (0.3, 0.7, 1.1, 1.5, 1.9, 2.5):
        running = start("upgrade", "x.duckdb", folder=db.parent)
        time.sleep(delay)
        running.send(signal.SIGKILL)
        running.wait()
        is_old = db.read_bytes() == before
        seen.add(is_old)
        if not is_old:
            break
    assert True in seen, "none was killed before its end"
    assert annotate("upgrade", "x.duckdb", folder=db.parent).status == 0
    assert left(db.parent) == {"x.duckdb"}
    assert [finding for finding in store.verify(db) if finding.broken] == []


@pytest.mark.parametrize("version", [OLDEST_VERSION])
def test_without_room_the_store_stays_as_it_was(version: int, db: Path) -> None:
    before = db.read_bytes()
    result = annotate("upgrade", "x.duckdb", folder=db.parent, limits={resource.RLIMIT_FSIZE: 3_000_000})
    assert (result.status, "Traceback" in result.err) == (2, False), result.err
    assert "full" in result.err
    assert db.read_bytes() == before
    assert left(db.parent) == {"x.duckdb"}


@pytest.mark.parametrize("version", [OLDEST_VERSION])
def test_an_interrupted_last_write_is_converted_too(version: int, db: Path) -> None:
    """What was committed stands in the .wal, if a process was killed after it."""
    other = db.with_name("other.duckdb")
    with duckdb.connect(str(db)) as con:
        con.execute("PRAGMA disable_checkpoint_on_shutdown")
        con.execute("UPDATE base.corpus SET documents = documents + 41")
        shutil.copy(f"{db}.wal", f"{other}.wal")
        shutil.copy(db, other)
    upgrade(other)
    assert rows(other, "SELECT documents FROM base.corpus") == [(6 + 41,)]
    assert not Path(f"{other}.wal").exists()


@pytest.mark.parametrize(
    ("version", "words"),
    [(OLDEST_VERSION - 1, "Ingest into a new file"), (SCHEMA_VERSION + 1, "a newer version of this program")],
)
def test_what_cannot_be_converted_is_refused(
    version: int, words: str, kept: dict[int, Path], tmp_path: Path
) -> None:
    db = Path(shutil.copy(kept[OLDEST_VERSION], tmp_path))
    with duckdb.connect(str(db)) as con:
        con.execute("UPDATE base.version SET version = $v", {"v": version})
    before = db.read_bytes()
    with pytest.raises(store.OtherSchemaVersion, match=words):
        upgrade(db)
    assert db.read_bytes() == before


def test_other_refusals(kept: dict[int, Path], tmp_path: Path) -> None:
    with pytest.raises(store.NotAStore, match="There is no store at"):
        upgrade(tmp_path / "none.duckdb")
    (tmp_path / "text").write_text("no database")
    with pytest.raises(store.NotAStore, match="it is a text"):
        upgrade(tmp_path / "text")
    db = Path(shutil.copy(kept[OLDEST_VERSION], tmp_path))
    with Writer(db), pytest.raises(store.IngestRunning):
        upgrade(db)


def test_a_row_against_the_rules_of_its_version_is_a_sentence(kept: dict[int, Path], tmp_path: Path) -> None:
    db = Path(shutil.copy(kept[SCHEMA_VERSION - 1], tmp_path))
    with duckdb.connect(str(db)) as con:
        con.execute("ALTER TABLE base.corpus ALTER COLUMN documents DROP NOT NULL")
        con.execute("UPDATE base.corpus SET documents = NULL")
    before = db.read_bytes()
    with pytest.raises(store.DamagedStore, match=r"NOT NULL .* corpus.documents\)\. Nothing was converted"):
        upgrade(db)
    assert db.read_bytes() == before and not db.with_name(f"{db.name}.upgrade").exists()


def test_every_version_has_its_store_and_its_queries() -> None:
    """Whoever changes schema.sql adds both: see tests/stores/README.md."""
    assert {file.name for file in STORES.glob("*.xz")} == {f"{version}.duckdb.xz" for version in OLDER}
    folder = Path(store.__file__).parent / "migrations"
    assert {file.name for file in folder.iterdir()} == {f"to_{version + 1}.sql" for version in OLDER}
    assert {*CHANGED} == {version + 1 for version in OLDER}
