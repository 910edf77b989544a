"""A run's model, run again on its windows, gives what is stored, and what is not so is reported."""

import shutil
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.run.deep import verify_deep
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.store.layout import STEPS_A_LOGIT
from processes import annotate

SETTINGS = Settings(context=16, batch_tokens=32, top=3, samples=10, keep_neurons=4, keep_sources=6)
EVERYTHING = replace(
    SETTINGS, keep_neurons=None, keep_sources=None, lens=True, bos=True, stride=9, limit_tokens=150
)
ALL = 10**6  # positions: every window of the run


@pytest.fixture(scope="module")
def two_runs(tiny_model: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two runs of the tiny model: the second keeps all, and ends within a document."""
    db = tmp_path_factory.mktemp("deep") / "x.duckdb"
    model = Model(resolve(str(tiny_model)))
    for settings in (SETTINGS, EVERYTHING):
        with Corpus([str(source)]) as documents:
            assert ingest(documents, model, str(db), settings).status == "finished"
    return db


@pytest.mark.parametrize("run", [1, 2])
def test_what_is_stored_is_computed_again(run: int, two_runs: Path) -> None:
    found = list(verify_deep(two_runs, run, ALL))
    assert [finding for finding in found if finding.broken] == []
    assert {"computed again: position", "computed again: head_source"} <= {finding.check for finding in found}


CHANGES = {  # by run: a table and a change of one of its rows
    1: [
        ("position", "entropy = entropy + 0.01"),
        ("position", "logit_offset = logit_offset - 0.001"),
        ("position", "next_rank = next_rank + 50"),
        ("position", "token_id = token_id + 1"),
        ("contribution", "mlp_remainder_abs_top = mlp_remainder_abs_top + 0.002"),
        ("head", "output_norm = output_norm + 0.1"),
        ("head", "toward_top = toward_top + base.units(0.002)"),
        ("head_source", "toward_top = toward_top + 0.002"),
        ("neuron", "activation = activation + 0.003"),
    ],
    2: [
        ("lens", "top_logprob = top_logprob - 0.002"),
        ("neuron_code", "codes = list_transform(codes, x -> (x + 3) % 31)"),
        ("head_source", "unrounded_top = unrounded_top + 0.002"),
    ],
}


@pytest.mark.parametrize("run", CHANGES)
def test_each_changed_value_is_reported(run: int, two_runs: Path, tmp_path: Path) -> None:
    db, places = Path(shutil.copy(two_runs, tmp_path)), []
    with duckdb.connect(str(db)) as con:
        for number, (table, change) in enumerate(CHANGES[run]):
            column = change.split()[0]
            of_run = f"run_id = {run} AND position_id % 100 >= {30 + 3 * number} AND {column} IS NOT NULL"
            [row] = con.execute(
                f"SELECT rowid, position_id FROM base.{table} WHERE {of_run} ORDER BY position_id LIMIT 1"
            ).fetchall()
            con.execute(f"UPDATE base.{table} SET {change} WHERE rowid = {row[0]}")
            places.append((table, column, row[1]))
    broken = {finding.check: finding for finding in verify_deep(db, run, ALL) if finding.broken}
    assert {*broken} == {f"computed again: {table}" for table, *_ in places}
    assert sum(finding.broken for finding in broken.values()) == len(places)
    for table, column, position_id in places:
        told = broken[f"computed again: {table}"].examples
        assert any(f"position_id {position_id}" in line and column in line for line in told), told


def test_a_neuron_of_two_nearly_equal_ones_may_be_stored_or_not(two_runs: Path, tmp_path: Path) -> None:
    """The ingest may have chosen another one, whose effect is then not in the remainder."""
    db = tmp_path / "x.duckdb"
    shutil.copy(two_runs, db)
    with duckdb.connect(str(db)) as con:
        one = "run_id = 1 AND position_id = 7 AND layer = 1"
        neuron = f"{one} AND neuron = (SELECT min(neuron) FROM base.neuron WHERE {one})"
        con.execute(f"""
            UPDATE base.contribution SET
                mlp_remainder_next = mlp_remainder_next + (toward_next * {STEPS_A_LOGIT})::BIGINT,
                mlp_remainder_top = mlp_remainder_top + (n.toward_top * {STEPS_A_LOGIT})::BIGINT
            FROM (SELECT toward_next, toward_top FROM base.neuron WHERE {neuron}) n WHERE {one}""")
        con.execute(f"DELETE FROM base.neuron WHERE {neuron}")
    assert [finding for finding in verify_deep(db, 1, ALL) if finding.broken] == []
    with duckdb.connect(str(db)) as con:  # what the neuron does not explain is still found
        con.execute(f"UPDATE base.contribution SET mlp_remainder_top = mlp_remainder_top + 8389 WHERE {one}")
    assert [finding.broken for finding in verify_deep(db, 1, ALL) if finding.broken] == [1]


def test_few_positions_are_a_few_windows(two_runs: Path, tmp_path: Path) -> None:
    db = Path(shutil.copy(two_runs, tmp_path))
    with duckdb.connect(str(db)) as con:
        con.execute("UPDATE base.position SET entropy = entropy + 1 WHERE run_id = 1")
    [found] = [finding for finding in verify_deep(db, 1, 1) if finding.broken]
    assert 1 <= found.broken <= 16


def test_the_command(two_runs: Path, tmp_path: Path) -> None:
    result = annotate("verify", two_runs, "--deep", 2, folder=tmp_path)
    assert (result.status, result.err) == (0, "")
    assert "run 2  computed again: position       ok" in result.out


def test_a_model_with_other_weights_is_refused(tiny_model: Path, source: Path, tmp_path: Path) -> None:
    import small

    folder, db = small.model(tmp_path / "changing"), tmp_path / "x.duckdb"
    with Corpus([str(source)]) as documents:
        ingest(documents, Model(resolve(str(folder))), str(db), SETTINGS)
    small.model(folder, hidden_size=64)
    with pytest.raises(ModelError, match="other weights now than when run 1 was made"):
        list(verify_deep(db, 1, 3))
