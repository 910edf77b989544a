"""Special tokens stay in rows; lists, statistics and the sample are of the others, unless asked otherwise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import small
from annotate_transformer import store
from annotate_transformer.ingest.attribution import decompose
from annotate_transformer.ingest.attribution.loops import COMPILED, PLAIN, Loops
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.corpus.windows import Cursor, Window, Windowing
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.weights.tables import annotate_weights
from annotate_transformer.store.verify import verify

BOS, PAD = "<|endoftext|>", "<|padding|>"
CONTEXT, TOP = 16, 5
TEXTS = [
    small.text(9, 0),
    BOS,
    f"{BOS}Tom met Mary{BOS}in {PAD} Dublin. " * 3,
    f" {BOS}Tom{PAD}{PAD}" + BOS * 20,
    "東京 α " + small.text(3, 1) + BOS,
]
SETTINGS: dict[str, dict[str, object]] = {
    "as it is": {},
    "BOS and parsed": {"bos": True, "parse_special": True},
    "asked for": {"bos": True, "parse_special": True, "special_in_lists": True},
    "stride, and first positions": {"bos": True, "parse_special": True, "first_in_lists": True, "stride": 4},
    "a limit, every neuron": {"bos": True, "limit_tokens": 101, "keep_neurons": None},
    "in torch": {"parse_special": True},
}


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return Model(resolve(str(tiny_model), None))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("special") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def annotate(corpus: Path, model: Model, db: Path, stop_after: int | None = None, **settings: object) -> str:
    """How it ended; stop_after: groups of batches."""
    chosen = {
        "context": CONTEXT,
        "top": TOP,
        "samples": 60,
        "keep_neurons": 2,
        "batch_tokens": 8,
        "shard_tokens": 40,
    }
    stop = small.stopping_after(stop_after)
    with Corpus([str(corpus)]) as documents:
        return ingest(documents, model, str(db), Settings(**chosen | settings), stop=stop).status  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=SETTINGS)
def case(
    request: pytest.FixtureRequest, corpus: Path, model: Model, tmp_path_factory: pytest.TempPathFactory
) -> tuple[store.Store, "Dense", dict[str, object]]:
    settings = SETTINGS[request.param]
    db = tmp_path_factory.mktemp("case") / "s.duckdb"
    with pytest.MonkeyPatch.context() as patch:
        chosen = PLAIN if request.param == "in torch" else COMPILED
        patch.setattr(decompose, "loops_for", lambda model: chosen)
        assert annotate(corpus, model, db, **settings) == "finished"
    return store.open(db), Dense(model, settings), settings


class Dense:
    """Every activation, and which positions count, by brute force."""

    def __init__(self, model: Model, settings: dict[str, object]) -> None:
        windows = windows_of(model, settings)
        limit = settings.get("limit_tokens")
        forwards = [model.forward(torch.from_numpy(w.ids)[None]) for w in windows]
        stored = [w.stored for w in windows]
        self.ids = np.concatenate([w.ids[s] for w, s in zip(windows, stored, strict=True)])
        self.position = np.concatenate([w.positions[s] for w, s in zip(windows, stored, strict=True)])
        self.window = np.concatenate(
            [np.full(s.sum(), w.window) for w, s in zip(windows, stored, strict=True)]
        )
        column = np.concatenate([s.nonzero()[0] for s in stored])
        self.post = np.stack(
            [
                np.concatenate([f.post[layer][0].numpy()[s] for f, s in zip(forwards, stored, strict=True)])
                for layer in range(model.n_layers)
            ]
        )
        self.special = np.isin(self.ids, [0, 1])
        self.counted = ~self.special | bool(settings.get("special_in_lists"))
        self.listed = self.counted & ((column > 0) | bool(settings.get("first_in_lists")))
        if limit:
            for name in ("ids", "position", "window", "special", "counted", "listed"):
                setattr(self, name, getattr(self, name)[:limit])
            self.post = self.post[:, :limit]


def windows_of(model: Model, settings: dict[str, object]) -> list[Window]:
    reader, cursor, windows = (
        Tokenizer(model.tokenizer, parse_special=bool(settings.get("parse_special"))),
        Cursor(),
        [],
    )
    bos = reader.bos_id if settings.get("bos") else None
    stride = int(settings.get("stride") or CONTEXT - (bos is not None))  # type: ignore[call-overload]
    for ordinal, text in enumerate(TEXTS):
        for window in Windowing(CONTEXT, stride, bos).windows(reader.encode(text), cursor):
            windows.append(window)
            cursor = Cursor(ordinal, int(window.positions[-1]) + 1, window.window + 1)
    return windows


Case = tuple[store.Store, Dense, dict[str, object]]


@pytest.mark.parametrize(("side", "sign"), [("high", 1), ("low", -1)])
def test_lists_equal_brute_force_over_the_counted_positions(case: Case, side: str, sign: int) -> None:
    s, dense, _ = case
    rows = s.sql("FROM neuron_top WHERE side = $s ORDER BY layer, neuron, rank", {"s": side})
    values = rows.activation.to_numpy().reshape(*dense.post.shape[::2], TOP)
    for layer, neuron in np.ndindex(values.shape[:2]):
        want = sign * np.sort(-sign * dense.post[layer, dense.listed, neuron])[:TOP] * -1
        np.testing.assert_allclose(values[layer, neuron], want, atol=1e-5)
    ranked = np.isin(rows.position_id, dense.position[dense.listed])
    assert ranked.all()


def test_windows_equal_brute_force_over_the_counted_positions(case: Case) -> None:
    s, dense, _ = case
    rows = s.sql("FROM neuron_windows ORDER BY layer, neuron, rank")
    windows = np.unique(dense.window[dense.listed])
    found = rows.activation.to_numpy().reshape(*dense.post.shape[::2], -1)
    for layer, neuron in np.ndindex(found.shape[:2]):
        post = np.where(dense.listed, dense.post[layer, :, neuron], -np.inf)
        maxima = np.sort([post[dense.window == w].max() for w in windows])[::-1][:TOP]
        np.testing.assert_allclose(found[layer, neuron], maxima, atol=1e-5)
    assert np.isin(rows.position_id, dense.position[dense.listed]).all()


def test_statistics_equal_brute_force_over_the_counted_positions(case: Case) -> None:
    s, dense, _ = case
    rows = s.sql("FROM neuron_stats ORDER BY layer, neuron")
    post = dense.post[:, dense.counted].astype(np.float64).transpose(0, 2, 1).reshape(len(rows), -1)
    assert (rows["count"] == post.shape[1]).all()
    assert (rows.histogram.map(sum) == post.shape[1]).all()
    for name, want in {
        "mean": post.mean(1),
        "std": post.std(1),
        "min": post.min(1),
        "max": post.max(1),
    }.items():
        np.testing.assert_allclose(rows[name], want, atol=1e-5, err_msg=name)
    edges = s.sql("FROM histogram_bins").low.dropna().sort_values().to_numpy()
    for histogram, values in zip(rows.histogram, post, strict=True):
        assert np.abs(np.histogram(values, [-np.inf, *edges, np.inf])[0] - histogram).sum() <= 4  # on an edge


def test_statistics_of_heads_equal_the_rows_of_the_counted_positions(case: Case) -> None:
    s, dense, settings = case
    which = "true" if settings.get("special_in_lists") else "NOT p.is_special"
    rows = s.sql(
        f"""SELECT count(h.toward_next) AS n, avg(h.toward_next) AS mean, min(h.toward_next) AS low,
                   max(h.toward_next) AS high, avg(abs(h.toward_next)) AS size
            FROM heads h JOIN positions p USING (position_id)
            WHERE {which} GROUP BY layer, head ORDER BY layer, head"""
    )
    stats = s.sql("FROM head_stats ORDER BY layer, head")
    pairs = {"count": "n", "mean": "mean", "min": "low", "max": "high", "mean_abs_effect": "size"}
    for name, of_rows in pairs.items():
        np.testing.assert_allclose(stats[name], rows[of_rows], atol=1e-6, err_msg=name)
    later = s.sql("SELECT position > 0 AS later FROM positions ORDER BY position_id").later.to_numpy()
    assert (stats.attention_count == (dense.counted & later).sum()).all()
    distances = s.head("L1H1").distances()
    assert distances.positions.sum() == dense.counted.sum()


def test_the_sample_has_as_many_positions_as_asked_and_none_left_out(case: Case) -> None:
    s, dense, _ = case
    sampled = s.sql("FROM base.sample_position").position_id
    assert len(sampled) == min(60, dense.counted.sum())
    assert np.isin(sampled, dense.position[dense.counted]).all()


def test_rows_have_special_tokens_and_say_so(case: Case) -> None:
    s, dense, settings = case
    rows = s.sql("FROM positions ORDER BY position_id")
    np.testing.assert_array_equal(rows.token_id, dense.ids)
    np.testing.assert_array_equal(rows.is_special, dense.special)
    assert s.sql("SELECT count(*) AS n FROM heads").n[0] == 4 * len(rows)
    left_out = int((~dense.counted).sum())
    assert s.runs().special_excluded[0] == left_out == s.stats().special_excluded[0]
    if settings.get("special_in_lists") or not settings:
        assert left_out == 0


@pytest.mark.parametrize("loops", [COMPILED, PLAIN], ids=["compiled", "in torch"])
def test_effects_of_neurons_are_of_the_counted_positions(
    loops: Loops, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every neuron has a row here, so the mean effect is that of rows."""
    monkeypatch.setattr(decompose, "loops_for", lambda model: loops)
    path = tmp_path / "corpus.jsonl"
    path.write_text(json.dumps({"text": TEXTS[2]}))
    asked = {"bos": True, "parse_special": True, "keep_neurons": 32}
    assert annotate(path, model, tmp_path / "s.duckdb", **asked) == "finished"
    s = store.open(tmp_path / "s.duckdb")
    rows = s.sql(
        """SELECT avg(n.toward_next) AS mean_effect, avg(abs(n.toward_next)) AS mean_abs_effect
           FROM neurons n JOIN positions p USING (position_id) WHERE NOT p.is_special
           GROUP BY layer, neuron ORDER BY layer, neuron"""
    )
    stats = s.sql("FROM neuron_stats ORDER BY layer, neuron")
    for name in rows:
        np.testing.assert_allclose(stats[name], rows[name], atol=6e-4, err_msg=name)


@pytest.mark.some(3)
def test_bigrams_are_of_the_counted_positions(case: Case, model: Model) -> None:
    s, dense, settings = case
    annotate_weights(model, str(s.path), top=3)
    follows = s.sql("SELECT next_token FROM positions ORDER BY position_id").next_token.notna().to_numpy()
    tokens, counts = np.unique(dense.ids[dense.counted & follows], return_counts=True)
    held = s.sql("SELECT token_id, count FROM bigram_agreement ORDER BY token_id")
    assert held.token_id.tolist() == tokens.tolist()
    assert held["count"].tolist() == counts.tolist()
    assert bool(np.isin(held.token_id, [0, 1]).any()) == bool(settings.get("special_in_lists"))


@pytest.mark.some(3)
def test_verify_finds_nothing(case: Case) -> None:
    assert [finding for finding in verify(case[0].path) if finding.broken] == []


@pytest.mark.soak
@pytest.mark.parametrize("settings", [SETTINGS["stride, and first positions"]])
def test_a_resumed_run_is_the_unbroken_one(
    corpus: Path, model: Model, tmp_path: Path, settings: dict[str, object]
) -> None:
    assert annotate(corpus, model, tmp_path / "whole.duckdb", **settings) == "finished"
    for stop_after in (1, 2, 1):
        assert annotate(corpus, model, tmp_path / "parts.duckdb", stop_after, **settings) == "stopped"
    assert annotate(corpus, model, tmp_path / "parts.duckdb", **settings) == "finished"
    whole, parts = (store.open(tmp_path / f"{name}.duckdb") for name in ("whole", "parts"))
    for view in (
        "neuron_top",
        "neuron_windows",
        "head_top",
        "neuron_samples",
        "head_samples",
        "base.head_offset",
    ):
        assert whole.sql(f"FROM {view} ORDER BY ALL").equals(parts.sql(f"FROM {view} ORDER BY ALL")), view
    assert whole.runs().special_excluded.equals(parts.runs().special_excluded)
    for statistic in ("count", "fraction_positive"):
        query = f"SELECT {statistic} FROM neuron_stats ORDER BY layer, neuron"
        assert whole.sql(query).equals(parts.sql(query))


# A text's own BOS -----------------------------------------------------------------------------------


@pytest.mark.some(4)
@pytest.mark.parametrize("stride", [CONTEXT - 1, 4, 1])
@pytest.mark.parametrize(
    "text",
    [
        *(BOS, f"{BOS}Tom", f"{BOS}{BOS}Tom", f"Tom{BOS}", f" {BOS}", f"{PAD}{BOS}"),
        *(BOS + small.text(6, 0), BOS * 40),
    ],
)
def test_a_text_that_begins_with_the_bos_gets_no_second_one(model: Model, text: str, stride: int) -> None:
    reader = Tokenizer(model.tokenizer, parse_special=True)
    windowing = Windowing(CONTEXT, stride, reader.bos_id)
    windows = list(windowing.windows(reader.encode(text), Cursor()))
    ids = np.concatenate([piece.ids for piece in reader.encode(text)])
    own = bool(ids[0] == reader.bos_id)
    first = windows[0]
    assert first.ids.tolist() == [0, *ids.tolist()[own:]][:CONTEXT]
    assert (first.starts[0], first.ends[0]) == ((0, len(BOS)) if own else (-1, -1))
    stored = np.concatenate([w.ids[w.stored & (w.starts >= 0)] for w in windows])
    assert stored.tolist() == ids.tolist()
    counted = reader.count_special(text)
    positions = np.concatenate([w.positions[w.stored] for w in windows])
    assert positions.tolist() == list(range(windowing.positions(counted.tokens, counted.begins_with_bos)))
    special = np.isin(np.concatenate([w.ids[w.stored] for w in windows]), reader.special_ids)
    assert windowing.special(counted).tolist() == special.nonzero()[0].tolist()


@pytest.mark.soak
def test_a_literal_is_text_unless_it_is_asked_for(corpus: Path, model: Model, tmp_path: Path) -> None:
    annotate(corpus, model, tmp_path / "s.duckdb", bos=True)
    s = store.open(tmp_path / "s.duckdb")
    assert s.sql("SELECT count(*) AS n FROM positions WHERE is_special AND char_start IS NOT NULL").n[0] == 0
    assert len(s.phrase(BOS, limit=1000)) == sum(text.count(BOS) for text in TEXTS)
