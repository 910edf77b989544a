"""Two runs of two corpora in one store: each answer is of its own run, also if that was stopped and resumed.

The ids of the second run and of the second corpus do not begin at 0, and its limit ends at a window's end.
"""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

import small
from annotate_transformer import store
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.weights.tables import annotate_weights
from annotate_transformer.store import Store, neuron, position
from annotate_transformer.store.database import connection
from annotate_transformer.store.verify import verify
from answers import differences

CONTEXT, LIMIT = 16, 8 * 16
FIRST, SECOND = 1, 2
USUAL = {"context": CONTEXT, "top": 5, "samples": 50, "keep_neurons": 2, "keep_sources": 4, "lens": True}
OFTEN = {"batch_tokens": 2, "shard_tokens": 64}  # a group of batches is a window


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return Model(resolve(str(tiny_model)))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two files of documents; the second one begins with a document that the limit cuts within."""
    folder = tmp_path_factory.mktemp("text")
    second = folder / "second.jsonl"
    second.write_text("".join(json.dumps({"text": small.text(60, seed)}) + "\n" for seed in (70, 71)))
    return small.corpus(folder / "first.jsonl", (3, 1, 12, 2)), second


def annotate(db: Path, corpus: Path, model: Model, stop_after: int | None = None, **settings: object) -> str:
    """How it ended; stop_after: number of groups of batches."""
    stop = small.stopping_after(stop_after)
    with Corpus([str(corpus)]) as documents:
        return ingest(documents, model, str(db), Settings(**USUAL | OFTEN | settings), stop=stop).status  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def one(corpora: tuple[Path, Path], model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the first run alone; to be copied."""
    db = tmp_path_factory.mktemp("one") / "s.duckdb"
    assert annotate(db, corpora[0], model) == "finished"
    return db


@pytest.fixture(scope="module")
def both(
    one: Path, corpora: tuple[Path, Path], model: Model, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store of both runs, which nothing interrupted; to be copied where it is changed."""
    db = Path(shutil.copy(one, tmp_path_factory.mktemp("both")))
    assert annotate(db, corpora[1], model, limit_tokens=LIMIT) == "finished"
    annotate_weights(model, str(db), top=3)
    return db


@pytest.fixture(scope="module")
def s(both: Path) -> Store:
    return store.open(both)


@pytest.fixture(scope="module")
def positions(s: Store) -> pd.DataFrame:
    return s.sql("FROM positions ORDER BY position_id")


@pytest.fixture
def copy(both: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(both, tmp_path))


# Ingest


def test_a_resumed_second_run_is_the_unbroken_one(
    one: Path, corpora: tuple[Path, Path], model: Model, tmp_path: Path
) -> None:
    whole, parts = (Path(shutil.copy(one, tmp_path / f"{name}.duckdb")) for name in ("whole", "parts"))
    asked = {"limit_tokens": LIMIT, "shard_tokens": 40, "first_in_lists": True}  # a shard's first one too
    assert annotate(whole, corpora[1], model, **asked) == "finished"
    for stop_after in (2, 3, 1):
        assert annotate(parts, corpora[1], model, stop_after, **asked) == "stopped"
    assert annotate(parts, corpora[1], model, **asked) == "finished"
    assert differences(whole, parts) == {}


@pytest.mark.some(2)
@pytest.mark.parametrize("over", [-1, 0, 1])
def test_a_limit_about_a_windows_end_is_met_exactly(
    over: int, corpora: tuple[Path, Path], model: Model, tmp_path: Path
) -> None:
    limit = LIMIT + over
    assert annotate(tmp_path / "s.duckdb", corpora[1], model, 2, limit_tokens=limit) == "stopped"
    assert annotate(tmp_path / "s.duckdb", corpora[1], model, limit_tokens=limit) == "finished"
    s = store.open(tmp_path / "s.duckdb")
    assert (s.runs().tokens[0], s.stats().positions[0]) == (limit, limit)
    rows = s.sql("SELECT position_id FROM positions ORDER BY position_id").position_id
    assert rows.tolist() == list(range(limit))
    assert s.sql("SELECT next_token IS NULL AS ends FROM positions ORDER BY position_id").ends.iloc[-1]


def test_another_seed_draws_another_sample(
    one: Path, corpora: tuple[Path, Path], model: Model, tmp_path: Path
) -> None:
    db = Path(shutil.copy(one, tmp_path))
    assert annotate(db, corpora[0], model, seed=1) == "finished"
    drawn = store.open(db).sql("FROM base.sample_position")
    of_run = [{*rows.position_id % 10**12} for _, rows in drawn.groupby("run_id")]
    assert [len(rows) for rows in of_run] == [USUAL["samples"]] * 2
    assert of_run[0] != of_run[1]


def test_the_sample_has_each_position_once(
    one: Path, corpora: tuple[Path, Path], model: Model, tmp_path: Path
) -> None:
    """Also at the borders of shards: here every window is a shard, and every position is sampled."""
    db = Path(shutil.copy(one, tmp_path))
    assert annotate(db, corpora[1], model, limit_tokens=40, samples=100, shard_tokens=16) == "finished"
    s = store.open(db)
    assert s.sql("SELECT count(*) AS n FROM base.shard WHERE run_id = 2").n[0] == 3
    drawn = s.sql("FROM base.sample_position WHERE run_id = 2 ORDER BY position_id").position_id
    assert (
        drawn.tolist() == s.sql("FROM positions WHERE run_id = 2 ORDER BY position_id").position_id.tolist()
    )
    assert s.neuron("L0N1", SECOND).random(100).position_id.nunique() == 40


def test_the_store_is_sound(both: Path) -> None:
    assert [finding for finding in verify(both) if finding.broken] == []


def test_each_position_has_the_text_of_its_own_corpus(s: Store, positions: pd.DataFrame) -> None:
    documents = s.sql("FROM documents").set_index("document_id")
    assert documents.corpus_id.nunique() == 2
    for row in positions.itertuples():
        document = documents.loc[row.document_id]
        assert document.corpus_id == row.run_id
        assert row.token.startswith("\\x") or document.text[row.char_start : row.char_end] == row.token


def test_heads_read_from_their_own_window(s: Store, positions: pd.DataFrame) -> None:
    window = positions.set_index("position_id")[["run_id", "window_id"]].apply(tuple, axis=1)
    for view, source in (("heads", "top_source_position_id"), ("head_sources", "source_position_id")):
        rows = s.sql(f"SELECT DISTINCT position_id, {source} AS source FROM {view}")
        assert (rows.source <= rows.position_id).all()
        assert (window[rows.source].to_numpy() == window[rows.position_id].to_numpy()).all()


# Text


def test_a_text_that_a_limit_cuts_is_not_found(s: Store, positions: pd.DataFrame) -> None:
    last = positions.iloc[-1]
    text = str(s.sql("FROM documents WHERE document_id = $d", {"d": int(last.document_id)}).text[0])
    whole, cut = text[last.char_start - 40 : last.char_end], text[last.char_start - 40 : last.char_end + 2]
    assert cut != whole and text.count(whole) == 1
    for found in (s.phrase(whole, SECOND), s.sql("FROM phrase($t, run := 2)", {"t": whole})):
        assert found.last_position_id.tolist() == [last.position_id]
    for found in (s.phrase(cut, SECOND), s.sql("FROM phrase($t, run := 2)", {"t": cut})):
        assert found.empty
    assert s.phrase(cut, SECOND).attrs["total"] == 0


def test_counts_of_tokens_are_of_one_run(s: Store, positions: pd.DataFrame) -> None:
    for run, rows in positions.groupby("run_id"):
        found = s.tokens(".", run=run)
        assert found.occurrences.tolist() == [(rows.token == ".").sum()]
        every = s.occurrences(".", run, limit=1000)
        assert every.position_id.tolist() == rows[rows.token == "."].position_id.tolist()
        assert (every.attrs["complete"], every.attrs["total"]) == (True, len(every))


# Bigrams


def test_shares_of_bigrams_are_of_one_run(s: Store, positions: pd.DataFrame) -> None:
    shares = s.sql("FROM bigrams")
    for of, rows in shares.groupby(["run_id", "token_id"]):
        assert rows.share.sum() == pytest.approx(1), of
    followed = positions.dropna(subset="next_token_id")
    counts = followed.groupby(["run_id", "token_id", "next_token_id"]).size()
    keys = pd.MultiIndex.from_frame(shares[["run_id", "token_id", "next_token_id"]])
    assert shares["count"].tolist() == counts[keys].tolist() and len(shares) == len(counts)


def test_agreement_counts_the_bigrams_of_one_run(s: Store, positions: pd.DataFrame) -> None:
    followed = positions.dropna(subset="next_token_id")
    held = s.sql("FROM bigram_agreement").set_index(["run_id", "token_id"])["count"]
    assert held.sort_index().to_dict() == followed.groupby(["run_id", "token_id"]).size().to_dict()


# Heads and neurons


@pytest.mark.parametrize("run", [FIRST, SECOND])
def test_distances_count_the_positions_of_one_run(s: Store, positions: pd.DataFrame, run: int) -> None:
    rows = s.sql("FROM heads WHERE run_id = $run AND layer = 1 AND head = 0", {"run": run})
    found = s.head("L1H0", run).distances().set_index("distance")
    counts = (rows.position_id - rows.top_source_position_id).value_counts()
    assert found.index.is_unique and found.positions.to_dict() == counts.to_dict()
    assert found.share.sum() == pytest.approx(1)


def test_an_unfinished_runs_lists_are_of_what_it_has_read(
    both: Path, corpora: tuple[Path, Path], model: Model, tmp_path: Path
) -> None:
    db = Path(shutil.copy(both, tmp_path))
    assert annotate(db, corpora[0], model, 4, top=3) == "stopped"
    s = store.open(db)
    run = int(s.runs().run_id.max())
    rows = s.sql(
        """FROM heads JOIN positions USING (run_id, position_id)
           WHERE run_id = $run AND toward_next IS NOT NULL AND NOT is_first""",
        {"run": run},
    )
    assert 20 < rows.position_id.nunique() < 200 and s.runs().status.iloc[-1] == "running"
    for (layer, head), of_head in rows.groupby(["layer", "head"]):
        for side, up in (("high", False), ("low", True)):
            best = of_head.sort_values(["toward_next", "position_id"], ascending=[up, True]).head(3)
            found = s.head(int(layer), int(head), run=run).contexts(side, 10)
            assert found.position_id.tolist() == best.position_id.tolist()
            assert found["rank"].tolist() == [1, 2, 3]
            assert found.toward_next.tolist() == best.toward_next.tolist()


def test_an_interval_holds_the_edge_that_lies_nearer_to_zero(copy: Path) -> None:
    """A value on an edge belongs to the bin farther from zero, as in the histogram."""
    with connection(copy, read_only=False) as con:
        con.execute("UPDATE base.sample_unit SET values = list_transform(values, lambda x: 9.0)")
        con.execute("DELETE FROM base.top_entry")
        con.execute("""UPDATE base.sample_unit SET values = [0.5, -0.5, 0.75, -0.75, 0.0] || values[6:]
                       WHERE kind = 'neuron' AND unit = 3""")
    s = store.open(copy)
    unit = s.neuron("L0N3", SECOND)
    held = {
        (row.low, row.high): sorted(unit.interval(row.bin, 10).value) for row in unit.histogram().itertuples()
    }
    assert held[0.5, 0.75] == [0.5]
    assert held[0.75, 1.0] == [0.75]
    assert held[-0.75, -0.5] == [-0.5]
    assert held[-1.0, -0.75] == [-0.75]
    assert held[0.0, 2.0**-5] == [0.0]


def test_a_bound_that_is_reached_exactly_decides(s: Store) -> None:
    """Where a neuron was not kept its value is at most the bound: not above it, yet maybe equal to it."""
    place = s.sql(
        """SELECT b.position_id, b.activation_bound::DOUBLE AS bound, u.neuron
           FROM neuron_bounds b, range(32) u(neuron)
           WHERE b.run_id = 2 AND b.layer = 1 AND b.activation_bound > 0 AND NOT EXISTS (
               FROM neurons n WHERE n.position_id = b.position_id AND n.layer = 1 AND n.neuron = u.neuron)
           ORDER BY ALL LIMIT 1"""
    ).iloc[0]
    value, bound = neuron(f"L1N{place.neuron:.0f}").activation, float(place.bound)
    for where, rows, unknown in (
        (value > bound, 0, 0),
        (value >= bound, 0, 1),
        (value <= bound, 1, 0),
        (value < bound, 0, 1),
        (value < -bound, 0, 0),
        (value <= -bound, 0, 1),
        (value >= -bound, 1, 0),
        (value > -bound, 0, 1),
    ):
        found = s.search(where & (position.position_id == int(place.position_id)), SECOND)
        assert (len(found), found.attrs["exact"]) == (rows, unknown == 0), str(where)
        assert found.attrs.get("bound", {}) == ({"more_positions": unknown} if unknown else {})


# Runs


def test_the_run_that_was_finished_last_is_meant(copy: Path) -> None:
    with connection(copy, read_only=False) as con:
        con.execute("UPDATE base.run SET finished = now() WHERE run_id = 1")
    s = store.open(copy)
    assert s.run() == FIRST
    assert s.stats().run_id.tolist() == [FIRST]
    assert {*s.sql("FROM phrase('Tom')").run_id} == {FIRST}
    assert s.search(position.position == 0, limit=1).run_id.tolist() == [FIRST]


def test_an_open_store_sees_the_next_run(
    one: Path, corpora: tuple[Path, Path], model: Model, tmp_path: Path
) -> None:
    db = Path(shutil.copy(one, tmp_path))
    s = store.open(db)
    assert s.run() == FIRST
    assert annotate(db, corpora[1], model, limit_tokens=20) == "finished"
    assert s.run() == SECOND
    assert s.neuron("L0N1").stats()["count"] == 20
