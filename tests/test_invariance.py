"""How a corpus was cut into batches and windows changes what is read, never what is computed.

Batch size, padding and the order of the documents change no stored value; with a BOS or a stride
every token is stored once, and each window says what Hugging Face's model says of that window.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from annotate_transformer.ingest.attribution import selection as product
from annotate_transformer.ingest.attribution.decompose import Decomposition, decompose
from annotate_transformer.ingest.attribution.selection import Keep
from annotate_transformer.ingest.attribution.summaries import Thresholds
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.corpus.windows import Batch, Cursor, Window, Windowing
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.store import Store
from models import EMBEDDED_PATH, N_TOKENS, annotated, token_ids
from reference import Reference, ReferenceRun

CONTEXT = 16
SAME = 1e-5
CLOSE = 1e-4
EFFECT_STEP, SOURCE_STEP = 1e-3, 1e-4  # what single neurons and sources are rounded to
FEW = 0.02  # of the rows may have been so near a rounding's or a list's edge that they crossed it
TEXTS = {
    "long": "Orla Venticasse was a clockmaker in the town of Brennick. Orla Venticasse was born above a "
    "bakery, and Orla Venticasse learned to read from the labels on sacks of flour.",
    "short": "The cat sat.",
    "one": "a",
    "middle": "1, 2, 3, 4, 5, 6, naïve 漢字 😀, and so on",
}
PLACES = """
    SELECT p.run_id, p.position_id, regexp_extract(d.source, '([a-z]+)[.]txt', 1) AS document,
           p.position_id - min(p.position_id) OVER (PARTITION BY p.document_id) AS place,
           p.window_id - min(p.window_id) OVER (PARTITION BY p.document_id) AS document_window
    FROM positions p JOIN documents d USING (document_id)
"""


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(resolve(str(EMBEDDED_PATH)))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(EMBEDDED_PATH, N_TOKENS)


@pytest.fixture(scope="module")
def usual(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return annotated_as(model, tmp_path_factory.mktemp("usual") / "store")


def annotated_as(model: Model, folder: Path, order: list[str] | None = None, **settings: Any) -> Store:
    settings = {"context": CONTEXT, "keep_neurons": 4, "keep_sources": 12, "top": 3, "lens": True} | settings
    return annotated({name: TEXTS[name] for name in order or TEXTS}, model, folder, **settings)


def rows(store: Store, view: str) -> pd.DataFrame:
    """A view's rows with the place of each position, and of its source, in its document."""
    frame = store.sql(f"WITH place AS ({PLACES}) FROM {view} JOIN place USING (run_id, position_id)")
    for source in ("source_position_id", "top_source_position_id"):
        if source in frame:
            places = store.sql(PLACES).set_index("position_id")
            frame["source_place"] = places["place"].loc[frame[source]].to_numpy()
            assert (places["document"].loc[frame[source]].to_numpy() == frame["document"]).all()
    return frame


def paired(one: Store, other: Store, view: str, *keys: str) -> pd.DataFrame:
    """Both stores' rows of the documents that both have, side by side; `_merge` says who has them."""
    frames = [rows(store, view) for store in (one, other)]
    common = set(frames[0]["document"]) & set(frames[1]["document"])
    assert common
    frames = [frame[frame["document"].isin(common)] for frame in frames]
    on = ["document", "place", *keys]
    for frame in frames:
        assert not frame.duplicated(on).any() and len(frame)
    return side_by_side(*frames, on=on)


def side_by_side(one: pd.DataFrame, other: pd.DataFrame, on: list[str]) -> pd.DataFrame:
    return one.merge(other, on=on, how="outer", indicator=True, suffixes=("", "_other"))


def difference(pair: pd.DataFrame, name: str) -> pd.Series:
    """|one − other|; NULL in both is no difference, in one an infinite one."""
    a, b = (pair[x].to_numpy(dtype=np.float64, na_value=np.nan) for x in (name, f"{name}_other"))
    apart = np.where(np.isnan(a) & np.isnan(b), 0.0, np.abs(a - b))
    return pd.Series(np.nan_to_num(apart, nan=np.inf), index=pair.index)


def assert_same(pair: pd.DataFrame, *names: str, within: float = SAME) -> None:
    assert (pair["_merge"] == "both").all()
    worst = {name: difference(pair, name).max() for name in names}
    assert {name: apart for name, apart in worst.items() if apart > within} == {}


def assert_same_but_for_rounding(pair: pd.DataFrame, *names: str, step: float) -> None:
    """Two values nearer than SAME, each rounded: equal, or one step apart in few rows."""
    assert (pair["_merge"] == "both").all()
    for name in names:
        apart = difference(pair, name)
        assert apart.max() <= step * 1.001 + SAME, name
        assert (apart > SAME).mean() <= FEW, name


def assert_stores_agree(one: Store, other: Store) -> None:
    positions = paired(one, other, "positions")
    exact = ("document_window", "position", "token_id", "char_start", "char_end", "next_token_id")
    assert_same(positions, *exact, "top_token_id", "context_cut", "is_first", within=0)
    assert_same(positions, "next_logit", "top_logit", "logit_offset", "next_logprob", "top_logprob")
    assert_same(positions, "entropy", "final_scale", "closure_next", "closure_top")
    assert_same_but_for_rounding(positions, "source_bound", step=SOURCE_STEP)
    ranks = difference(positions, "next_rank")
    assert ranks.max() <= 1 and (ranks > 0).mean() <= FEW

    both = ("toward_next", "toward_top")
    contributions = paired(one, other, "contributions", "component", "layer")
    assert_same(contributions, *both)
    details = paired(one, other, "contribution_details", "component", "layer")
    assert_same(details[details["component"].isin(["attn_bias", "mlp_bias"])], *both)

    heads = paired(one, other, "heads", "layer", "head")
    assert_same(heads, *both)
    assert_same_but_for_rounding(heads, "top_source_attention", step=SOURCE_STEP)
    assert_same_but_for_rounding(heads, "output_norm", step=EFFECT_STEP)
    assert (difference(heads, "source_place") > 0).mean() <= FEW / 10

    neurons = paired(one, other, "neurons", "layer", "neuron")
    assert (neurons["_merge"] != "both").mean() <= FEW / 10
    shared = neurons[neurons["_merge"] == "both"]
    assert_same_but_for_rounding(shared, "activation", *both, step=EFFECT_STEP)
    bounds = paired(one, other, "neuron_bounds", "layer")
    assert_same_but_for_rounding(bounds, "activation_bound", "next_bound", "top_bound", step=EFFECT_STEP)
    assert_remainders_agree(details, neurons)

    sources = paired(one, other, "head_sources", "layer", "head", "source_place")
    assert (sources["_merge"] != "both").mean() <= FEW / 10
    shared = sources[sources["_merge"] == "both"]
    assert_same_but_for_rounding(shared, "attention", *both, step=SOURCE_STEP)

    lens = paired(one, other, "lens", "layer")
    assert_same(lens, "top_logprob", "next_logprob")
    assert (difference(lens, "top_token_id") > 0).mean() <= FEW / 10


def assert_remainders_agree(details: pd.DataFrame, neurons: pd.DataFrame) -> None:
    """mlp_remainder makes up for the kept neurons as rounded: together they are the same everywhere."""
    at = ["document", "place", "layer"]
    rest = details[details["component"] == "mlp_remainder"].set_index(at).sort_index()
    rest_abs = details[details["component"] == "mlp_remainder_abs"].set_index(at).sort_index()
    crossed = neurons["_merge"] != "both"
    for side in ("toward_next", "toward_top"):
        for suffix in ("", "_other"):
            kept = neurons.groupby(at)[f"{side}{suffix}"].sum()  # a NULL counts 0
            rest[f"whole_{side}{suffix}"] = rest[f"{side}{suffix}"] + kept.reindex(rest.index).fillna(0)
        assert difference(rest, f"whole_{side}").max() <= SAME
        crossed |= difference(neurons, side) > SAME
    untouched = ~crossed.groupby([neurons[key] for key in at]).any().reindex(rest.index)
    assert untouched.mean() > 1 - 20 * FEW
    assert_same(rest[untouched.to_numpy()], "toward_next", "toward_top")
    # stored rounded, as sources are
    sizes = rest_abs[untouched.to_numpy()]
    assert_same_but_for_rounding(sizes, "toward_next", "toward_top", step=SOURCE_STEP)


# The same documents, batched, padded and ordered otherwise


@pytest.mark.some(2)
@pytest.mark.parametrize("batch_tokens", [64, 100, 4096])
def test_the_batch_size_changes_no_value(
    usual: Store, model: Model, tmp_path: Path, batch_tokens: int
) -> None:
    assert_stores_agree(usual, annotated_as(model, tmp_path / "store", batch_tokens=batch_tokens))


def test_a_batch_of_one_window_at_a_time_changes_no_value(usual: Store, model: Model, tmp_path: Path) -> None:
    assert_stores_agree(usual, annotated_as(model, tmp_path / "store", batch_tokens=1))


def test_the_order_of_the_documents_changes_no_value(usual: Store, model: Model, tmp_path: Path) -> None:
    backwards = annotated_as(model, tmp_path / "store", order=list(TEXTS)[::-1], batch_tokens=64)
    assert rows(backwards, "positions").sort_values("position_id")["document"].iloc[0] == "middle"
    assert_stores_agree(usual, backwards)


@pytest.mark.soak
def test_the_company_of_longer_documents_changes_no_value(usual: Store, model: Model, tmp_path: Path) -> None:
    """In `usual` short documents are padded to the longest; alone they are not."""
    for name in ("short", "one"):
        assert_stores_agree(usual, annotated_as(model, tmp_path / name, order=[name]))


def test_batching_and_padding_change_nothing_before_rounding(model: Model) -> None:
    """Every neuron and every source, unrounded."""
    windows = product_windows(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "EFFECT_DECIMALS", 9)
        together = decomposed(model, windows)
        alone = [decomposed(model, [window]) for window in windows]
    assert (together.stored.mask.sum(1) < together.stored.mask.shape[1]).any(), "nothing is padded"
    for name in ("logit", "logit_offset", "scale", "final_bias"):
        expected = torch.cat([getattr(part, name) for part in alone], -1)
        assert (getattr(together, name) - expected).abs().max() <= SAME, name
    expected = torch.cat([part.embedding["embed"] for part in alone], -1)
    assert (together.embedding["embed"] - expected).abs().max() <= SAME
    for i, layer in enumerate(together.layers):
        theirs = [part.layers[i] for part in alone]
        for name, dim in (("heads", 1), ("mlp", 1), ("norm", 0), ("top_attention", 0)):
            expected = torch.cat([getattr(part, name) for part in theirs], dim)
            assert (getattr(layer, name) - expected).abs().max() <= SAME, name
        effects = torch.cat([part.neurons.effects for part in theirs], 1)
        activations = torch.cat([part.neurons.activation for part in theirs])
        assert (layer.neurons.effects - effects).abs().max() <= SAME
        assert (layer.neurons.activation - activations).abs().max() <= SAME
    firsts = torch.tensor([0, *(len(part.scale) for part in alone)]).cumsum(0)
    expected = {}
    for part, first in zip(alone, firsts.tolist(), strict=False):
        expected |= sources_of(part, first)
    ours = sources_of(together, 0)
    assert ours.keys() == expected.keys()
    assert max((ours[key] - expected[key]).abs().max() for key in ours) <= SAME


def product_windows(model: Model) -> list[Window]:
    tokenizer, windows = Tokenizer(model.tokenizer), list[Window]()
    for text in TEXTS.values():
        windows += Windowing(CONTEXT, CONTEXT, None).windows(tokenizer.encode(text), Cursor())
    return windows


def decomposed(model: Model, windows: list[Window]) -> Decomposition:
    batch = Batch.of(windows)
    lowest = -torch.inf
    thresholds = Thresholds(
        torch.full((3, model.n_layers, model.d_mlp), lowest),
        torch.full((2, model.n_layers, model.n_heads), lowest),
        k=1,
    )
    none = np.zeros(int(batch.stored.sum()), dtype=bool)
    return decompose(model, batch, Keep(None, None), thresholds, none)


def sources_of(result: Decomposition, first: int) -> dict[tuple[int, ...], Tensor]:
    s = result.sources
    keys = zip(*(x.tolist() for x in (s.at + first, s.layer, s.head, s.column)), strict=True)
    values = torch.cat([s.attention[None], s.effects])
    return dict(zip(keys, values.T, strict=True))


def test_whole_run_figures_do_not_depend_on_batches_or_order(
    usual: Store, model: Model, tmp_path: Path
) -> None:
    order = list(TEXTS)[::-1]
    for i, settings in enumerate(({"batch_tokens": 64}, {"batch_tokens": 1, "order": order})):
        other = annotated_as(model, tmp_path / f"{i}", **settings)
        for view, unit in (("neuron_stats", "neuron"), ("head_stats", "head")):
            frames = [store.sql(f"FROM {view}") for store in (usual, other)]
            pair = side_by_side(*frames, on=["layer", unit])
            assert_same(pair, "count", within=0)
            assert_same(pair, "mean", "std", "min", "max", "mean_effect", "mean_abs_effect")
            assert (difference(pair, "fraction_positive") > SAME).mean() <= FEW
            if unit == "head":
                names = ("self", "previous", "first", "duplicate", "induction")
                assert_same(pair, *(f"attention_{name}" for name in names), "entropy")
            histograms = [np.stack(pair[name].to_numpy()) for name in ("histogram", "histogram_other")]
            assert (histograms[0].sum(1) == histograms[1].sum(1)).all()
            assert (histograms[0] != histograms[1]).any(1).mean() <= FEW
        for view, keys, value in (
            ("neuron_top", ["layer", "neuron", "side", "rank"], "activation"),
            ("neuron_windows", ["layer", "neuron", "rank"], "activation"),
            ("head_top", ["layer", "head", "side", "rank"], "toward_next"),
        ):
            frames = [rows(store, view) for store in (usual, other)]
            pair = side_by_side(*frames, on=keys)
            assert_same(pair, value)
            elsewhere = (pair["document"] != pair["document_other"]) | (difference(pair, "place") > 0)
            clear = is_clear(pair, keys, value)
            assert not elsewhere[clear].any() and clear.mean() > 0.5
        for view, unit, value in (("neuron_samples", "neuron", "value"), ("head_samples", "head", "value")):
            pair = paired(usual, other, view, "layer", unit)
            assert_same_but_for_rounding(pair, value, step=EFFECT_STEP)


def is_clear(lists: pd.DataFrame, keys: list[str], value: str) -> pd.Series:
    """Entries of a list that no neighbour is so near that rounding could swap them."""
    ordered = lists.sort_values(keys)
    by_list = ordered.groupby(keys[:-1], observed=True)[value]
    before, after = by_list.diff().abs(), by_list.diff(-1).abs()
    # the last entry's next neighbour is not in the list
    clear = (before.fillna(np.inf) > 2 * SAME) & (after.fillna(0) > 2 * SAME)
    return clear.reindex(lists.index)


def test_what_is_kept_changes_no_other_value(usual: Store, model: Model, tmp_path: Path) -> None:
    less = {"keep_neurons": 0, "keep_sources": 0, "lens": False, "top": 1, "first_in_lists": True}
    other = annotated_as(model, tmp_path / "store", **less)
    assert_same(
        paired(usual, other, "contributions", "component", "layer"), "toward_next", "toward_top", within=0
    )
    heads = paired(usual, other, "heads", "layer", "head")
    assert_same(heads, "toward_next", "toward_top", within=0)


def test_a_run_without_samples_changes_no_other_value(usual: Store, model: Model, tmp_path: Path) -> None:
    other = annotated_as(model, tmp_path / "store", samples=0)
    assert other.sql("SELECT count(*) AS n FROM neuron_samples")["n"][0] == 0
    assert_same(
        paired(usual, other, "contributions", "component", "layer"), "toward_next", "toward_top", within=0
    )


# BOS and stride

WINDOWINGS = [(False, None), (True, None), (False, 5), (True, 5), (True, 1), (False, CONTEXT - 1)]


@pytest.fixture(
    scope="module", params=WINDOWINGS, ids=lambda x: f"{'bos' if x[0] else 'no_bos'}-stride_{x[1]}"
)
def windowed(
    request: pytest.FixtureRequest,
    model: Model,
    reference: Reference,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Store, ReferenceRun, int | None]:
    bos, stride = request.param
    folder = tmp_path_factory.mktemp("windowed") / "store"
    store = annotated_as(model, folder, bos=bos, stride=stride, keep_sources=None, batch_tokens=64)
    bos_id = model.tokenizer.bos_token_id if bos else None
    documents = [token_ids(text) for text in TEXTS.values()]
    return store, ReferenceRun(reference, documents, CONTEXT, stride, bos_id), bos_id


def stored_positions(store: Store) -> pd.DataFrame:
    return store.sql("FROM positions ORDER BY position_id")


@pytest.mark.some(2)
def test_every_token_is_stored_once_in_the_window_that_brings_it(
    windowed: tuple[Store, ReferenceRun, int | None],
) -> None:
    store, truth, bos_id = windowed
    stored = stored_positions(store)
    assert stored["token_id"].tolist() == truth.ids.tolist()
    assert stored["position"].tolist() == truth.column.tolist()
    assert stored["window_id"].tolist() == truth.window.tolist()
    assert (stored["document_id"] - stored["document_id"][0]).tolist() == truth.document.tolist()
    assert (stored["position_id"].diff().dropna() == 1).all()
    next_ids = [-1 if pd.isna(x) else int(x) for x in stored["next_token_id"]]
    assert next_ids == truth.next_ids.tolist()
    has_span = stored["char_start"].notna()
    assert stored["char_end"].notna().equals(has_span)
    for document, text in enumerate(TEXTS.values()):
        tokens = stored[(truth.document == document).numpy() & has_span]
        assert tokens["token_id"].tolist() == token_ids(text)
        assert tokens["char_start"].is_monotonic_increasing
        assert tokens["char_start"].iloc[0] == 0 and tokens["char_end"].iloc[-1] == len(text)
    if bos_id is None:
        assert has_span.all()
    else:
        assert (stored[~has_span]["token_id"] == bos_id).all()
        assert (stored["position"] == 0).equals(~has_span)
        assert (~has_span).sum() == stored["window_id"].nunique()


def test_what_a_position_sends_is_known_whole_where_every_source_is_kept(
    windowed: tuple[Store, ReferenceRun, int | None],
) -> None:
    store = windowed[0]
    position = int(stored_positions(store)["position_id"][3])
    told = store.sends(position, limit=10**6).attrs
    assert (told["exact"], told["complete"]) == (True, True)
    first = store.sends(position, limit=1).attrs
    assert (first["exact"], first["complete"], first["total"]) == (True, False, told["total"])


def test_context_cut_says_that_the_document_began_before_the_window(
    windowed: tuple[Store, ReferenceRun, int | None],
) -> None:
    store, truth, _ = windowed
    cut = stored_positions(store)["context_cut"]
    assert cut.tolist() == truth.context_cut.tolist()
    assert cut.any() and not cut.all()


def test_sources_in_an_overlap_are_the_positions_that_store_their_tokens(
    windowed: tuple[Store, ReferenceRun, int | None],
) -> None:
    store, truth, _ = windowed
    stored = stored_positions(store)
    first = int(stored["position_id"][0])
    sources = store.sql("FROM head_sources")
    place, source, layer, head = (
        torch.from_numpy(sources[name].to_numpy(dtype=np.int64, copy=True))
        for name in ("position_id", "source_position_id", "layer", "head")
    )
    place, source = place - first, source - first
    is_column = truth.source_at[place] == source[:, None]
    assert (is_column.sum(1) == 1).all()
    at = (layer, place, head, is_column.long().argmax(1))
    present = torch.zeros(truth.pattern.shape).index_put_(at, torch.ones(len(place)), accumulate=True)
    assert torch.equal(present, (truth.source_at >= 0)[None, :, None].expand_as(present).float())
    window = torch.from_numpy(stored["window_id"].to_numpy(copy=True))
    overlaps = any(not all(part.stored) for _, part in truth.cuts)
    assert bool((window[source] < window[place]).any()) == overlaps
    for name, expected, there in (
        ("attention", truth.pattern, slice(None)),
        ("toward_top", truth.top.sources, slice(None)),
        ("toward_next", truth.next.sources, truth.has_next[place]),
    ):
        got = torch.from_numpy(sources[name].to_numpy(dtype=np.float64, na_value=np.nan, copy=True))
        apart = (got - expected[at])[there].abs()
        assert apart.max() <= CLOSE, name  # false for a NaN
    assert sources["toward_next"].isna().tolist() == (~truth.has_next[place]).tolist()

    heads = store.sql("FROM heads ORDER BY layer, position_id, head")
    strongest = truth.source_at[torch.arange(len(stored))[:, None], truth.pattern.argmax(-1)]
    top = torch.from_numpy(heads["top_source_position_id"].to_numpy(dtype=np.int64, copy=True)) - first
    two = torch.nn.functional.pad(truth.pattern, (0, 1)).topk(2).values
    clear = (two[..., 0] - two[..., 1] > SAME).flatten()
    assert torch.equal(top[clear], strongest.flatten()[clear]) and clear.double().mean() > 0.95


def test_a_windows_values_are_hugging_faces_on_that_window(
    windowed: tuple[Store, ReferenceRun, int | None],
) -> None:
    store, truth, _ = windowed
    stored = stored_positions(store)

    def read(frame: pd.DataFrame, name: str) -> Tensor:
        return torch.from_numpy(frame[name].to_numpy(dtype=np.float64, na_value=np.nan, copy=True))

    assert stored["top_token_id"].tolist() == truth.top_ids.tolist()
    next_targets, top_targets = (x[:, None] for x in truth.targets)
    there, logits, logprobs = truth.has_next, truth.readout.logits, truth.readout.logprobs
    heads = store.sql("FROM heads ORDER BY layer, position_id, head")
    raw = read(stored, "top_logit") + read(stored, "logit_offset")
    raw_next = read(stored, "next_logit") + read(stored, "logit_offset")
    shape = truth.top.heads.shape
    pairs = {
        "raw top logit": (raw, logits.gather(1, top_targets)[:, 0]),
        "raw next logit": (raw_next[there], logits.gather(1, next_targets)[:, 0][there]),
        "next_logprob": (
            read(stored, "next_logprob")[there],
            logprobs.gather(1, next_targets)[:, 0][there],
        ),
        "entropy": (read(stored, "entropy"), truth.readout.entropy),
        "heads top": (read(heads, "toward_top").view(shape), truth.top.heads),
        "heads next": (
            read(heads, "toward_next").view(shape)[:, there],
            truth.next.heads[:, there],
        ),
    }
    for name, (got, expected) in pairs.items():
        assert (got - expected).abs().max() <= CLOSE, name
    contributions = store.sql(
        """SELECT sum(toward_next::DOUBLE) AS toward_next, sum(toward_top::DOUBLE) AS toward_top
        FROM contributions GROUP BY position_id ORDER BY position_id"""
    )
    assert (read(contributions, "toward_top") - truth.logits[1]).abs().max() <= CLOSE
    assert (read(contributions, "toward_next") - truth.logits[0])[there].abs().max() <= CLOSE
