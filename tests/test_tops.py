"""Exact over the whole run: lists, statistics and samples equal brute force over dense activations."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from annotate_transformer import store
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.corpus.windows import Cursor, Window, Windowing
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import EMBEDDED, resolve
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.run_summary import RunSummary
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.store.writer import Writer, portions

CONTEXT, TOP = 64, 20
DOCUMENTS = 7


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(resolve("neox-2m"))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    lines = (EMBEDDED / "corpus.jsonl").read_text(encoding="utf-8").splitlines()[:DOCUMENTS]
    texts = [json.loads(line)["text"] for line in lines]
    return [*texts, texts[3], texts[0], texts[3]]  # documents that stand twice: ties everywhere


@pytest.fixture(scope="module")
def corpus(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    return str(path)


def annotate(corpus: str, model: Model, db: Path, **settings: object) -> store.Store:
    chosen = Settings(context=CONTEXT, top=TOP, samples=150, **settings)  # type: ignore[arg-type]
    with Corpus([corpus]) as documents:
        assert ingest(documents, model, str(db), chosen).status == "finished"
    return store.open(db)


@pytest.fixture(scope="module")
def annotated(corpus: str, model: Model, tmp_path_factory: pytest.TempPathFactory) -> store.Store:
    db = tmp_path_factory.mktemp("store") / "one.duckdb"
    return annotate(corpus, model, db, batch_tokens=64, shard_tokens=1000)


class Dense:
    """Every value of the run, kept: what the summaries must equal."""

    def __init__(self, model: Model, texts: list[str]) -> None:
        self.windows = list(_windows(model, texts))
        self.position = np.concatenate([window.positions for window in self.windows])
        self.first = np.concatenate([np.arange(len(w.ids)) == 0 for w in self.windows])
        self.window = np.repeat([w.window for w in self.windows], [len(w.ids) for w in self.windows])
        forwards = [model.forward(torch.from_numpy(w.ids)[None]) for w in self.windows]
        layers = range(model.n_layers)
        self.post = np.stack([np.concatenate([f.post[i][0].numpy() for f in forwards]) for i in layers])
        self.pattern = [[f.pattern[i][0].numpy() for f in forwards] for i in layers]


def _windows(model: Model, texts: list[str]) -> list[Window]:
    tokenizer, cursor, windows = Tokenizer(model.tokenizer), Cursor(), []
    for ordinal, text in enumerate(texts):
        for window in Windowing(CONTEXT, CONTEXT, None).windows(tokenizer.encode(text), cursor):
            windows.append(window)
            cursor = Cursor(ordinal, int(window.positions[-1]) + 1, window.window + 1)
    return windows


@pytest.fixture(scope="module")
def dense(model: Model, texts: list[str]) -> Dense:
    return Dense(model, texts)


def _brute(values: np.ndarray, positions: np.ndarray, sign: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((positions, -sign * values))[:TOP]
    return values[order], positions[order]


@pytest.mark.parametrize(("side", "sign"), [("high", 1), ("low", -1)])
def test_neuron_top_equals_brute_force(annotated: store.Store, dense: Dense, side: str, sign: int) -> None:
    rows = annotated.sql("FROM neuron_top WHERE side = $s ORDER BY layer, neuron, rank", {"s": side})
    values = rows.activation.to_numpy().reshape(*dense.post.shape[::2], TOP)
    positions = rows.position_id.to_numpy().reshape(values.shape)
    ok = ~dense.first
    for layer, neuron in np.ndindex(values.shape[:2]):
        post = dense.post[layer, ok, neuron]
        want, _ = _brute(post, dense.position[ok], sign)
        np.testing.assert_allclose(values[layer, neuron], want, atol=1e-5)
        # The places are the brute-force ones, up to swaps of values within 1e-5.
        at = np.searchsorted(dense.position, positions[layer, neuron])
        np.testing.assert_allclose(dense.post[layer, at, neuron], want, atol=2e-5)
        assert len(set(positions[layer, neuron])) == TOP


def test_ties_go_to_the_earlier_position(annotated: store.Store, dense: Dense) -> None:
    """Documents 3 and 16 are one text: the same activations, bit for bit, when batched alike."""
    tops = annotated.sql(
        """SELECT *, lag(activation) OVER list AS before, lag(position_id) OVER list AS earlier
           FROM neuron_top WINDOW list AS (PARTITION BY layer, neuron, side ORDER BY rank)"""
    )
    tied = tops[tops.activation == tops.before]
    assert len(tied) > 20
    assert (tied.position_id > tied.earlier).all()


def test_neuron_windows_equal_brute_force(annotated: store.Store, dense: Dense) -> None:
    rows = annotated.sql("FROM neuron_windows ORDER BY layer, neuron, rank")
    assert not rows.duplicated(["layer", "neuron", "window_id"]).any()
    windows = np.unique(dense.window[~dense.first])
    found = rows.activation.to_numpy().reshape(*dense.post.shape[::2], -1)
    for layer, neuron in np.ndindex(found.shape[:2]):
        post = np.where(dense.first, -np.inf, dense.post[layer, :, neuron])
        maxima = np.sort([post[dense.window == w].max() for w in windows])[::-1][:TOP]
        np.testing.assert_allclose(found[layer, neuron], maxima, atol=1e-5)
    at = np.searchsorted(dense.position, rows.position_id)
    np.testing.assert_array_equal(dense.window[at], rows.window_id)
    values = dense.post[rows.layer, at, rows.neuron]
    np.testing.assert_allclose(values, rows.activation, atol=1e-5)


def test_head_top_equals_sorting_every_head_row(annotated: store.Store) -> None:
    wrong = annotated.sql(
        """WITH place AS (
               SELECT h.layer, h.head, h.position_id, h.toward_next,
                      row_number() OVER (of_head ORDER BY h.toward_next DESC, h.position_id) AS high,
                      row_number() OVER (of_head ORDER BY h.toward_next, h.position_id) AS low
               FROM heads h JOIN positions p USING (position_id)
               WHERE h.toward_next IS NOT NULL AND NOT p.is_first
               WINDOW of_head AS (PARTITION BY h.layer, h.head)
           ), brute AS (
               SELECT layer, head, 'high' AS side, high AS rank, position_id, toward_next
               FROM place WHERE high <= $top
               UNION ALL
               SELECT layer, head, 'low', low, position_id, toward_next FROM place WHERE low <= $top
           )
           FROM brute FULL JOIN head_top t USING (layer, head, side, rank, position_id, toward_next)
           WHERE brute.rank IS NULL OR t.rank IS NULL""",
        {"top": TOP},
    )
    assert wrong.empty
    assert len(annotated.sql("FROM head_top")) == 4 * 4 * 2 * TOP


def test_neuron_stats_equal_brute_force(annotated: store.Store, dense: Dense) -> None:
    rows = annotated.sql("FROM neuron_stats ORDER BY layer, neuron")
    post = dense.post.astype(np.float64).transpose(0, 2, 1).reshape(len(rows), -1)
    assert (rows["count"] == post.shape[1]).all()
    np.testing.assert_allclose(rows["mean"], post.mean(1), atol=1e-6)
    np.testing.assert_allclose(rows["std"], post.std(1), atol=1e-5)
    np.testing.assert_allclose(rows["min"], post.min(1), atol=1e-5)
    np.testing.assert_allclose(rows["max"], post.max(1), atol=1e-5)
    np.testing.assert_allclose(rows.fraction_positive, (post > 0).mean(1), atol=1e-3)
    edges = annotated.sql("FROM histogram_bins ORDER BY bin")
    for histogram, values in zip(rows.histogram.iloc[::97], post[::97], strict=True):
        away = _bins(values, edges)
        assert np.abs(np.bincount(away, minlength=len(edges)) - histogram).sum() <= 2  # on an edge


def _bins(values: np.ndarray, edges: pd.DataFrame) -> np.ndarray:
    """Each value's bin by its definition: on an edge, the one farther from zero."""
    low, high = edges.low.fillna(-np.inf).to_numpy(), edges.high.fillna(np.inf).to_numpy()
    x = values[:, None]
    inside = np.where(x >= 0, (low <= x) & (x < high), (low < x) & (x <= high))
    assert (inside.sum(1) == 1).all()
    return inside.argmax(1)


def test_mean_effects_equal_the_rows(corpus: str, model: Model, tmp_path: Path) -> None:
    s = annotate(corpus, model, tmp_path / "all.duckdb", keep_neurons=10**8, limit_tokens=600)
    rows = s.sql(
        """SELECT n.layer, n.neuron, avg(toward_next) AS mean, avg(abs(toward_next)) AS mean_abs
           FROM neurons n GROUP BY ALL ORDER BY ALL"""
    )
    stats = s.sql("FROM neuron_stats ORDER BY layer, neuron")
    assert len(rows) == len(stats) == 2048
    np.testing.assert_allclose(stats.mean_effect, rows["mean"], atol=5e-4)  # rows are rounded
    np.testing.assert_allclose(stats.mean_abs_effect, rows.mean_abs, atol=5e-4)


def test_head_stats_equal_brute_force(annotated: store.Store, dense: Dense) -> None:
    stats = annotated.sql("FROM head_stats ORDER BY layer, head")
    rows = annotated.sql(
        """SELECT avg(toward_next) AS mean, stddev_pop(toward_next) AS std, min(toward_next) AS low,
                  max(toward_next) AS high, count(toward_next) AS n
           FROM heads GROUP BY layer, head ORDER BY layer, head"""
    )
    np.testing.assert_allclose(stats["mean"], rows["mean"], atol=1e-6)
    np.testing.assert_allclose(stats["std"], rows["std"], atol=1e-5)
    np.testing.assert_array_equal(stats["min"], rows.low)
    np.testing.assert_array_equal(stats["max"], rows.high)
    np.testing.assert_array_equal(stats["count"], rows.n)


def test_attention_behaviour_equals_brute_force(annotated: store.Store, dense: Dense) -> None:
    stats = annotated.sql("FROM head_stats").set_index(["layer", "head"])
    for layer, patterns in enumerate(dense.pattern):
        for head in range(patterns[0].shape[0]):
            want = _behaviour([pattern[head] for pattern in patterns], dense.windows)
            for name, value in want.items():
                np.testing.assert_allclose(stats.loc[(layer, head), name], value, atol=1e-5, err_msg=name)


def _behaviour(patterns: list[np.ndarray], windows: list[Window]) -> dict[str, float]:
    seen: dict[str, list[float]] = {
        name: [] for name in ("self", "previous", "first", "dup", "ind", "entropy")
    }
    for pattern, window in zip(patterns, windows, strict=True):
        for p in range(len(window.ids)):
            row = pattern[p].astype(np.float64)
            if p > 0:
                seen["self"].append(row[p])
                seen["previous"].append(row[p - 1])
                seen["first"].append(row[0])
                seen["entropy"].append(-(row[row > 0] * np.log(row[row > 0])).sum())
            earlier = [q for q in range(p) if window.ids[q] == window.ids[p]]
            if earlier:
                seen["dup"].append(row[earlier].sum())
                seen["ind"].append(row[[q + 1 for q in earlier]].sum())
    return {
        "attention_self": np.mean(seen["self"]),
        "attention_previous": np.mean(seen["previous"]),
        "attention_first": np.mean(seen["first"]),
        "entropy": np.mean(seen["entropy"]),
        "attention_duplicate": np.mean(seen["dup"]),
        "attention_induction": np.mean(seen["ind"]),
        "attention_duplicate_count": len(seen["dup"]),
        "attention_count": len(seen["self"]),
    }


def test_the_sample_holds_every_value_of_its_positions(annotated: store.Store, dense: Dense) -> None:
    rows = annotated.sql("FROM neuron_samples ORDER BY position_id, layer, neuron")
    positions = rows.position_id.unique()
    assert len(positions) == 150
    at = np.searchsorted(dense.position, rows.position_id)
    np.testing.assert_allclose(rows.value, dense.post[rows.layer, at, rows.neuron], atol=5.1e-4)
    heads = annotated.sql(
        """SELECT s.value, h.toward_next FROM head_samples s
           JOIN heads h USING (position_id, layer, head) ORDER BY ALL"""
    )
    assert len(heads) == 150 * 16
    np.testing.assert_allclose(heads.value, heads.toward_next, atol=5.1e-4)
    # A uniform sample is spread: some of it lies in each third of the corpus.
    assert (np.histogram(positions, bins=3, range=(0, dense.position[-1]))[0] > 20).all()


@pytest.mark.some(9)
@pytest.mark.parametrize("shard_tokens", [300, 10**6])
def test_identical_across_shard_sizes(
    corpus: str, model: Model, annotated: store.Store, tmp_path: Path, shard_tokens: int
) -> None:
    other = annotate(corpus, model, tmp_path / "s.duckdb", batch_tokens=64, shard_tokens=shard_tokens)
    shards = "SELECT count(*) AS n FROM base.shard"
    assert other.sql(shards).n.iloc[0] != annotated.sql(shards).n.iloc[0]
    for view in ("neuron_top", "neuron_windows", "head_top", "neuron_samples", "head_samples", "neurons"):
        pd.testing.assert_frame_equal(
            annotated.sql(f"FROM {view} ORDER BY ALL"), other.sql(f"FROM {view} ORDER BY ALL")
        )
    for view in ("neuron_stats", "head_stats"):
        pd.testing.assert_frame_equal(
            annotated.sql(f"FROM {view} ORDER BY 1, 2, 3"), other.sql(f"FROM {view} ORDER BY 1, 2, 3")
        )


def test_a_list_that_got_nothing_hides_no_other(tmp_path: Path) -> None:
    """What a shard adds: here to the last layer's last kind of list alone."""
    summary = RunSummary(2, 8, 4, positions=100, top=3, samples=0, seed=0, first_in_lists=False)
    summary.lists["head", "low"].offer(np.array([7, 7]), np.array([1.0, 2.0]), np.array([40, 50]))
    db = tmp_path / "s.duckdb"
    with Writer(db) as writer:
        rows = (rows for _, rows in portions(summary.list_entries(run_id=2, origin=10**12)))
        writer.commit({"top_candidate": rows}, run_id=2)
    found = store.open(db).sql("FROM base.top_candidate ORDER BY value").to_dict("records")
    assert [
        (e["run_id"], f"{e['kind']} {e['list']}", e["layer"], e["unit"], e["position_id"], e["value"])
        for e in found
    ] == [
        (2, "head low", 1, 3, 10**12 + 50, -2.0),
        (2, "head low", 1, 3, 10**12 + 40, -1.0),
    ]


@pytest.mark.soak
def test_shards_stay_as_they_were_written_but_for_every_eighth(
    corpus: str, model: Model, tmp_path: Path
) -> None:
    """What many shards add lies in few groups of rows, yet not each of them writes the last one anew."""
    found = annotate(corpus, model, tmp_path / "s.duckdb", batch_tokens=8, shard_tokens=64)
    last = int(found.sql("SELECT max(shard) AS n FROM base.shard").n.iloc[0])
    assert last > 8 and last % 8
    groups = "SELECT count(DISTINCT row_group_id) AS n FROM pragma_storage_info('base.contribution')"
    assert 1 < found.sql(groups).n.iloc[0] <= 8


@pytest.mark.soak
def test_first_positions_enter_the_lists_only_when_asked(
    corpus: str, model: Model, annotated: store.Store, dense: Dense, tmp_path: Path
) -> None:
    query = "SELECT count(*) AS n FROM neuron_top JOIN positions USING (position_id) WHERE is_first"
    assert annotated.sql(query).n.iloc[0] == 0
    asked = annotate(corpus, model, tmp_path / "first.duckdb", first_in_lists=True)
    assert asked.sql(query).n.iloc[0] > 0
    highest = asked.sql(
        "SELECT activation FROM neuron_top WHERE rank = 1 AND side = 'high' ORDER BY layer, neuron"
    )
    np.testing.assert_allclose(highest.activation, dense.post.max(1).ravel(), atol=1e-5)


@pytest.mark.parametrize(("table", "unit"), [("neuron", "neuron"), ("head", "head")])
def test_rows_lie_in_the_order_the_schema_says(annotated: store.Store, table: str, unit: str) -> None:
    """Within a shard by layer and unit, most rows first; positions up, of every second unit down."""
    rows = annotated.sql(
        f"""SELECT s.shard, e.layer, e.{unit} AS unit, e.position_id
            FROM base.{table} e JOIN base.shard s
              ON e.run_id = s.run_id AND e.position_id BETWEEN s.first_position_id AND s.last_position_id
            ORDER BY e.rowid"""
    )
    assert rows.shard.nunique() > 1
    for _, shard in rows.groupby("shard"):
        count = shard.groupby(["layer", "unit"]).unit.transform("size")
        units = shard.assign(less=-count).drop_duplicates(["layer", "unit"])[["layer", "less", "unit"]]
        assert units.equals(units.sort_values(["layer", "less", "unit"]))
        place = units.reset_index(drop=True).reset_index(names="place")[["layer", "unit", "place"]]
        ordered = shard.merge(place, on=["layer", "unit"], how="left").set_index(shard.index)
        up = ordered.place % 2 == 0
        ordered["towards"] = ordered.position_id.where(up, -ordered.position_id)
        assert ordered.sort_values(["place", "towards"], kind="stable").index.is_monotonic_increasing
    assert rows.index.equals(rows.sort_values("shard", kind="stable").index)


@pytest.mark.parametrize(
    ("positions", "top", "samples"),
    [
        *((1, 20, 200), (2_688, 21, 200), (6_432, 50, 201)),
        *((12_800, 100, 400), (32_000, 100, 1000), (10**9, 100, 1000)),
    ],
)
def test_lists_and_sample_are_smaller_for_a_short_text(
    model: Model, positions: int, top: int, samples: int
) -> None:
    """4 entries and 16 sampled positions for every d_mlp positions; what a person asks for stays as it is."""
    assert model.d_mlp == 512
    by_default, asked = Settings(), Settings(top=7, samples=0)
    found = by_default.with_sizes(positions, model)
    assert (found.top, found.samples) == (top, samples)
    assert asked.with_sizes(positions, model) == asked


def test_a_short_run_has_short_lists_by_default(
    corpus: str, model: Model, tmp_path: Path, annotated: store.Store
) -> None:
    """Here as short as TOP, so they are the lists that were asked for."""
    with Corpus([corpus]) as documents:
        ingest(documents, model, str(tmp_path / "x.duckdb"), Settings(context=CONTEXT, samples=0))
    query = "SELECT side, layer, neuron, rank, position_id, activation FROM neuron_top ORDER BY ALL"
    found, asked = (of.sql(query) for of in (store.open(tmp_path / "x.duckdb"), annotated))
    assert found["rank"].max() == TOP
    pd.testing.assert_frame_equal(found, asked, check_exact=False, atol=1e-5)
