"""Means over positions, whose 95 % intervals resample documents."""

import json
import re
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from annotate_transformer import store
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.store import means
from annotate_transformer.store.metadata import columns_of, typed
from annotate_transformer.store.reader import Store
from models import annotated

TEXTS = [
    "The Congress of the United States met. The Congress met again in the city.",
    "Dublin is the capital of Ireland. London is the capital of England.",
    "Quillamore Freight was a shipping company. Quillamore Freight carried grain.",
    "The people of the city met.",
    "Paris is a city on a river; the river is old.",
]


@pytest.fixture(scope="module")
def s(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("means") / "made"
    model = Model(resolve("neox-2m"))
    return store.open(annotated(TEXTS, model, folder, context=16, stride=8, bos=True).path)


# Against a bootstrap by hand -----------------------------------------------------------------------


def by_hand(values: list[list[float]], draws: int) -> np.ndarray:
    """Means over all positions of documents that are drawn one by one."""
    drawn = np.random.default_rng(99)
    found = []
    for _ in range(draws):
        chosen = [values[i] for i in drawn.integers(len(values), size=len(values))]
        found.append(np.mean([value for document in chosen for value in document]))
    return np.array(found)


def test_intervals_are_those_of_a_bootstrap_by_hand() -> None:
    drawn = np.random.default_rng(1)
    values = [list(drawn.normal(loc=drawn.normal(), size=n)) for n in drawn.integers(1, 30, size=25)]
    sums = np.array([[sum(document), sum(map(abs, document))] for document in values])
    sizes = np.array([len(document) for document in values])
    low, high, error = means.intervals(sums, sizes)
    for i, of in enumerate((values, [list(map(abs, document)) for document in values])):
        expected = by_hand(of, 20_000)
        assert error[i] == pytest.approx(expected.std(), rel=0.08)
        assert (low[i], high[i]) == pytest.approx(np.quantile(expected, [0.025, 0.975]), abs=0.25 * error[i])


def test_intervals_do_not_depend_on_how_many_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.random.default_rng(2)
    sums, sizes = drawn.normal(size=(12, 5)), drawn.integers(1, 9, size=12)
    expected = means.intervals(sums, sizes)
    monkeypatch.setattr(means, "UNITS", 2)
    monkeypatch.setattr(means, "CELLS", 12 * 7)
    for found, known in zip(means.intervals(sums, sizes), expected, strict=True):
        assert found == pytest.approx(known, rel=1e-12)


def test_many_documents_are_drawn_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.random.default_rng(4)
    sums, sizes = drawn.normal(1, 1, size=(4000, 1)), drawn.integers(1, 9, size=4000)
    expected = means.intervals(sums, sizes)
    monkeypatch.setattr(means, "GROUPS", 1000)
    found = means.intervals(sums, sizes)
    assert found[2] == pytest.approx(expected[2], rel=0.1)
    assert np.array(found[:2]) == pytest.approx(np.array(expected[:2]), abs=0.3 * float(expected[2][0]))


def test_positions_of_a_document_are_not_independent() -> None:
    """Twenty equal positions in each document tell no more than one."""
    of_documents = np.random.default_rng(3).normal(size=(30, 1))
    one = means.intervals(of_documents, np.ones(30, int))
    twenty = means.intervals(20 * of_documents, np.full(30, 20))
    assert np.array(twenty) == pytest.approx(np.array(one))
    assert np.isnan(means.intervals(of_documents[:1], np.ones(1, int))).all()


# Of a store ----------------------------------------------------------------------------------------


def test_the_mean_loss(s: Store) -> None:
    found = s.mean("-next_logprob")
    positions = s.sql("FROM positions WHERE next_logprob IS NOT NULL")
    assert len(found) == 1
    row = found.iloc[0]
    stats = s.stats().iloc[0]
    assert row["mean"] == pytest.approx(stats.loss)
    assert (row.low, row.high) == (stats.loss_low, stats.loss_high)
    assert (row.positions, row.documents) == (len(positions), len(TEXTS))
    losses = [(-of.next_logprob).tolist() for _, of in positions.groupby("document_id")]
    expected = by_hand(losses, 20_000)
    assert (row.low, row.high) == pytest.approx(
        np.quantile(expected, [0.025, 0.975]), abs=0.25 * expected.std()
    )
    assert "bootstrap samples of the documents" in found.attrs["note"]
    assert s.sql(found.attrs["sql"]).positions.sum() == row.positions


def test_means_of_any_view_by_groups(s: Store) -> None:
    found = s.mean("abs(toward_top)", "heads", "layer = 2", by=["head"]).set_index("head")
    rows = s.sql("FROM heads WHERE layer = 2")
    assert found["mean"].to_dict() == pytest.approx(
        rows.toward_top.abs().groupby(rows["head"]).mean().to_dict()
    )
    assert {*found.positions} == {len(s.sql("FROM positions"))}
    parity = s.mean("entropy", by="position % 2 = 0")
    assert parity.columns[0] == "position % 2 = 0" and len(parity) == 2
    by_document = s.mean("p.entropy", "positions p JOIN documents d USING (document_id)", by="d.document_id")
    assert by_document.documents.tolist() == [1] * len(TEXTS) and by_document.low.isna().all()
    nothing = s.mean("entropy", where="position < 0").iloc[0]
    assert (nothing.positions, nothing.documents) == (0, 0) and np.isnan(nothing["mean"])


def test_the_mean_effect_of_a_head_is_that_of_its_statistics(s: Store) -> None:
    head = s.head("L2H1")
    found, stats = head.mean_effect().iloc[0], head.stats()
    assert found["mean"] == pytest.approx(stats.mean_effect, abs=1e-6)
    assert found.positions == stats["count"]
    assert found.low < found["mean"] < found.high
    sums = s.sql("FROM head_effects_by_document(2, 1)")
    assert len(sums) == found.documents == len(TEXTS)
    assert sums.positions.sum() == found.positions
    assert sums.effect_sum.sum() / found.positions == pytest.approx(stats.mean_effect, abs=1e-6)
    assert sums.abs_effect_sum.sum() / found.positions == pytest.approx(stats.mean_abs_effect, abs=1e-6)
    low, high, _ = means.intervals(sums[["effect_sum"]].to_numpy(), sums.positions.to_numpy())
    assert (found.low, found.high) == pytest.approx((low[0], high[0]))


def test_the_mean_activation_of_a_neuron_is_that_of_the_sample(s: Store) -> None:
    neuron = s.neuron("L1N7")
    [found] = neuron.mean_activation().to_dict("records")
    rows = s.sql(
        """SELECT p.document_id, e.value FROM neuron_samples e JOIN positions p USING (run_id, position_id)
           WHERE e.run_id = $run AND e.layer = 1 AND e.neuron = 7""",
        {"run": neuron.run},
    )
    assert found["positions"] == len(rows) > 10
    assert found["mean"] == pytest.approx(rows.value.astype(float).mean(), abs=1e-9)
    by_document = rows.astype({"value": float}).groupby("document_id").value.agg(["sum", "count"])
    low, high, _ = means.intervals(by_document[["sum"]].to_numpy(), by_document["count"].to_numpy())
    assert (found["low"], found["high"]) == pytest.approx((low[0], high[0]), abs=1e-9)
    assert not neuron.mean_activation().attrs["exact"]


@pytest.mark.parametrize(
    "question", [{"value": "nothing"}, {"value": "1", "view": "models"}, {"value": "1", "where": "layer ="}]
)
def test_wrong_sql_is_a_sentence(s: Store, question: dict[str, str]) -> None:
    with pytest.raises(store.BadQuestion, match="DuckDB cannot answer this"):
        s.mean(**question)


def test_it_takes_no_longer_than_a_page_has() -> None:
    sums, sizes = np.random.default_rng(0).normal(size=(152, 1)), np.full(152, 200)
    means.intervals(sums, sizes)
    times = []
    for _ in range(5):
        begun = time.process_time()
        means.intervals(sums, sizes)
        times.append(time.process_time() - begun)
    assert min(times) < 0.05


# By the metadata of documents ----------------------------------------------------------------------


def test_groups_by_metadata_are_those_of_pandas(two_steps: Path) -> None:
    with store.open(two_steps) as s:
        loss = s.sql("SELECT document_id, -next_logprob AS loss FROM positions WHERE run_id = 2").dropna()
        documents = s.sql("SELECT document_id, metadata FROM documents")
        documents["topic"] = [json.loads(metadata)["topic"] for metadata in documents.metadata]
        expected = loss.merge(documents).groupby("topic").loss.agg(["mean", "size"])
        found = s.mean("-next_logprob", by="topic", metadata=True, run=2).set_index("topic")
        assert found["mean"].to_dict() == pytest.approx(expected["mean"].to_dict())
        assert found.positions.to_dict() == expected["size"].to_dict()
        # A view without the column document_id, and an expression in a condition
        heads = s.mean("abs(toward_next)", "heads", "topic = 'code' AND layer = 3", metadata=True, run=2)
        code = set(documents.document_id[documents.topic == "code"])
        rows = s.sql("SELECT document_id, abs(h.toward_next) AS effect FROM heads h JOIN positions USING "
                     "(run_id, position_id) WHERE run_id = 2 AND layer = 3").dropna()  # fmt: skip
        rows = rows[rows.document_id.isin(code)]
        assert heads["mean"][0] == pytest.approx(rows.effect.mean())
        with pytest.raises(store.BadQuestion, match="The metadata of the documents has the keys id, topic"):
            s.mean("-next_logprob", by="topics", metadata=True)


def test_keys_have_types(tmp_path: Path) -> None:
    con = duckdb.connect()
    rows = [
        {
            "year": "1998",
            "share": "0.5",
            "code": "007",
            "n": 3,
            "of": {"place": "York"},
            'it\'s "a" key': "1",
        },
        {"year": "", "share": "2", "code": "12", "n": None, "of": {"place": "Bath"}},
    ]
    con.execute("CREATE TABLE d (metadata JSON)")
    con.executemany("INSERT INTO d VALUES (?)", [[json.dumps(row)] for row in rows])
    columns = columns_of(con, "d")
    assert columns == {
        "year": "BIGINT", "share": "DOUBLE", "code": "VARCHAR", "n": "UBIGINT", "of": {"place": "VARCHAR"},
        "it's \"a\" key": "BIGINT",
    }  # fmt: skip
    con.execute(f"CREATE TABLE typed AS SELECT 1 AS one{typed(columns)} FROM d")
    keys = 'year, share, code, n, "of".place, "it\'s ""a"" key"'
    assert con.execute(f"SELECT {keys} FROM typed").fetchall() == [
        (1998, 0.5, "007", 3, "York", 1), (None, 2.0, "12", None, "Bath", None),
    ]  # fmt: skip
    con.execute("UPDATE d SET metadata = '{}'")
    assert columns_of(con, "d") == {}


def test_the_commands_show_means_by_groups(ask: Any, two_steps: Path) -> None:
    with store.open(two_steps) as s:
        expected = s.mean("-next_logprob", by="topic", metadata=True)
        most = s.sql(
            "SELECT layer, head FROM head_stats WHERE run_id = 2 ORDER BY mean_abs_effect DESC LIMIT 1"
        )
    said = ask("stats", "--by", "topic")
    for row in expected.itertuples():
        interval = "—" if row.documents == 1 else f"{row.low:.3f} to {row.high:.3f}"
        assert re.search(rf"{row.topic} +{row.mean:.3f}  {interval} +{row.positions:,}", said.out)
    rows = json.loads(ask("heads", "--by", "1", "--limit", 3, "--json").out)["effects"]["rows"]
    assert len(rows) == 3
    assert (rows[0]["layer"], rows[0]["head"]) == tuple(most.iloc[0])
    wrong = ask("stats", "--by", "topics")
    assert wrong.status == 2
    assert "has the keys id, topic" in wrong.err
