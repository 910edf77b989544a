"""What the store says of a position is what Hugging Face's model computed there, term by term.

Held against tests/reference.py, which shares no code with `ingest`: once before storage, with the
product in float64, and once as read back from DuckDB, with the product in float32. Three models:
the embedded one and Pythia's two smallest shapes with random weights, all biases included.
"""

from functools import cached_property
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from annotate_transformer.ingest.attribution import selection as product
from annotate_transformer.ingest.attribution.codes import PART, STRONGEST
from annotate_transformer.ingest.attribution.decompose import Decomposition, decompose
from annotate_transformer.ingest.attribution.selection import Keep
from annotate_transformer.ingest.attribution.stored import as_stored
from annotate_transformer.ingest.attribution.summaries import Thresholds
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.corpus.windows import Batch, Cursor, Windowing
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.store import Store, neuron
from annotate_transformer.store.queries import schema
from models import EMBEDDED_PATH, N_TOKENS, SHAPES, TEXTS, annotated, random_model, token_ids
from reference import Readout, Reference, ReferenceRun

CONTEXT = 16
EXACT = 1e-9  # float64, before storage
CLOSE = 1e-4  # float32, read back
EFFECT_STEP, SOURCE_STEP = 1e-3, 1e-4  # single neurons and sources are stored rounded to these
KEPT_NEURONS, KEPT_SOURCES = 8, 24
SIDES = ("toward_next", "toward_top")


class Case:
    """One model: the reference's run over TEXTS, the product's before storage, and its stores."""

    def __init__(self, name: str, path: Path, folder: Path) -> None:
        self.name, self.path, self.folder = name, path, folder
        self.is_padded = name in SHAPES

    @cached_property
    def truth(self) -> ReferenceRun:
        truth = ReferenceRun(Reference(self.path, N_TOKENS), [token_ids(text) for text in TEXTS], CONTEXT)
        assert truth.readout.lead.min() > 1e-4, "a near tie for the first choice: choose another seed"
        assert len(truth.windows) > len(TEXTS) and truth.context_cut.any()
        return truth

    @cached_property
    def model64(self) -> Model:
        return Model(resolve(str(self.path)), dtype=torch.float64)

    @cached_property
    def model32(self) -> Model:
        return Model(resolve(str(self.path)))

    @cached_property
    def unrounded(self) -> Decomposition:
        """Everything kept, float64, and so many decimals that nothing is rounded."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(product, "EFFECT_DECIMALS", 14)
            return self.decomposed(self.model64, Keep(None, None, lens=True))

    def decomposed(self, model: Model, keep: Keep) -> Decomposition:
        """TEXTS as one batch, so that all but the longest windows are padded."""
        tokenizer, windows = Tokenizer(model.tokenizer), []
        for text in TEXTS:
            windows += Windowing(CONTEXT, CONTEXT, None).windows(tokenizer.encode(text), Cursor())
        batch = Batch.of(windows)
        assert not (batch.positions >= 0).all(), "no window is padded"
        everything = np.ones(int(batch.stored.sum()), dtype=bool)
        return decompose(model, batch, keep, no_thresholds(model), everything)

    @cached_property
    def store(self) -> Store:
        keep = {"keep_neurons": KEPT_NEURONS, "keep_sources": KEPT_SOURCES}
        return self.annotated("kept", lens=True, **keep)

    @cached_property
    def store_of_all(self) -> Store:
        return self.annotated("all", keep_neurons=None, keep_sources=None)

    @cached_property
    def store_of_rows(self) -> Store:
        return self.annotated("rows", keep_neurons=10**8, keep_sources=0)

    @cached_property
    def store_of_none(self) -> Store:
        return self.annotated("none", keep_neurons=0, keep_sources=0)

    @property
    def stores(self) -> list[Store]:
        return [self.store, self.store_of_all, self.store_of_none]

    def annotated(self, name: str, **settings: object) -> Store:
        settings = {"context": CONTEXT, "batch_tokens": 40, "top": 3, "samples": 5} | settings
        return annotated(TEXTS, self.model32, self.folder / name, **settings)


def no_thresholds(model: Model) -> Thresholds:
    """Top lists that let everything in."""
    lowest = -torch.inf
    neurons = torch.full((3, model.n_layers, model.d_mlp), lowest)
    return Thresholds(neurons, torch.full((2, model.n_layers, model.n_heads), lowest), k=1)


LARGEST = pytest.param("pythia-70m", marks=pytest.mark.soak)


@pytest.fixture(scope="module", params=["neox-2m", "pythia-14m", LARGEST])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    is_random = request.param in SHAPES
    path = random_model(request.param, folder / "model") if is_random else EMBEDDED_PATH
    return Case(request.param, path, folder)


def worst(got: Tensor, expected: Tensor) -> float:
    """The largest difference; a NULL or NaN anywhere is infinitely wrong."""
    assert got.shape == expected.shape
    return float((got.double() - expected).abs().nan_to_num(nan=torch.inf).max())


def column(frame: pd.DataFrame, name: str, *shape: int) -> Tensor:
    """A column as float64, NULL as NaN, in the shape that the rows' order makes it."""
    values = frame[name].to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    return torch.from_numpy(values).view(*shape)


def integers(frame: pd.DataFrame, name: str) -> Tensor:
    return torch.from_numpy(frame[name].to_numpy(dtype=np.int64, copy=True))


def both(frame: pd.DataFrame, *shape: int) -> Tensor:
    """toward_next and toward_top: (2, …)"""
    return torch.stack([column(frame, side, *shape) for side in SIDES])


def positions(store: Store) -> pd.DataFrame:
    return store.sql("FROM positions ORDER BY position_id")


def dense(store: Store, case: Case, view: str) -> tuple[Tensor, Tensor]:
    """All of a view's (2, layer, P, unit), 0 where no row is, and where rows are (layer, P, unit)."""
    unit = {"neurons": "neuron", "head_sources": "head"}[view]
    truth = case.truth.post if view == "neurons" else case.truth.pattern.flatten(2)
    first = positions(store)["position_id"].min()
    rows = store.sql(f"FROM {view}")
    at = [integers(rows, name) for name in ("layer", "position_id", unit)]
    at[1] = at[1] - int(first)
    if view == "head_sources":
        source = integers(rows, "source_position_id") - int(first)
        columns = (case.truth.source_at[at[1]] == source[:, None]).long()
        assert (columns.sum(1) == 1).all(), "a source that the window does not hold"
        at[2] = at[2] * CONTEXT + columns.argmax(1)
    values, present = torch.zeros(2, *truth.shape, dtype=torch.float64), torch.zeros(truth.shape)
    present.index_put_(tuple(at), torch.ones(len(rows)), accumulate=True)
    assert present.max() <= 1, "a row twice"
    for side, effects in enumerate(both(rows, -1)):
        values[side].index_put_(tuple(at), effects)
    return values, present.bool()


def following(values: Tensor, case: Case, dim: int) -> Tensor:
    """Where a token follows; the others have no effect on a next token."""
    return values.index_select(dim, case.truth.has_next.nonzero()[:, 0])


# The reference itself


def test_the_reference_closes_on_hugging_faces_logits(case: Case) -> None:
    for effects, logit in zip(case.truth.sides, case.truth.logits, strict=True):
        assert worst(effects.total, logit) < 1e-11
        assert worst(effects.sources.sum(-1), effects.heads) < 1e-11


# Before storage, in float64


def test_terms_before_storage_close_on_the_logit(case: Case) -> None:
    for keep in (Keep(), Keep(0, 0), Keep(None, None)):
        result = case.decomposed(case.model64, keep)
        assert worst(result.total, result.logit) <= EXACT


def test_every_term_before_storage_is_the_references(case: Case) -> None:
    truth, result = case.truth, case.unrounded
    P = len(truth.ids)
    errors = {
        "scale": worst(result.scale, truth.scale),
        "logit": worst(result.logit, truth.logits),
        "logit_offset": worst(result.logit_offset, truth.readout.offset),
    }
    for side, expected in enumerate(truth.sides):

        def layers(name: str, side: int = side) -> Tensor:
            return torch.stack([getattr(layer, name)[side] for layer in result.layers])

        neurons = torch.stack([x.neurons.effects[side].view(P, -1) for x in result.layers])
        got = {
            "embed": (result.embedding["embed"][side], expected.embed),
            "final_bias": (result.final_bias[side], expected.final_bias),
            "heads": (layers("heads"), expected.heads),
            "attn_bias": (layers("attn_bias"), expected.attn_bias),
            "neurons": (neurons, expected.neurons),
            "mlp_bias": (layers("mlp_bias"), expected.mlp_bias),
        }
        errors |= {f"{name} {SIDES[side]}": worst(*pair) for name, pair in got.items()}
    assert {name: error for name, error in errors.items() if error > EXACT} == {}


def test_a_heads_sources_before_storage_are_the_references_and_sum_to_it(case: Case) -> None:
    truth, sources = case.truth, case.unrounded.sources
    at = (sources.layer, sources.at, sources.head, sources.column)
    assert len(set(zip(*(x.tolist() for x in at), strict=True))) == len(sources.at)
    assert len(sources.at) == int((truth.column + 1).sum()) * truth.pattern[:, 0, :, 0].numel()
    attention = torch.zeros_like(truth.pattern).index_put_(at, sources.attention)
    assert worst(attention, truth.pattern) <= EXACT
    for side, expected in enumerate(truth.sides):
        got = torch.zeros_like(expected.sources).index_put_(at, sources.effects[side])
        heads = torch.stack([layer.heads[side] for layer in case.unrounded.layers])
        assert worst(got.sum(-1), heads) <= EXACT
        assert worst(got, expected.sources) <= EXACT


def test_activations_and_head_norms_before_storage_are_hugging_faces(case: Case) -> None:
    layers = case.unrounded.layers
    assert worst(torch.stack([layer.sampled[0] for layer in layers]), case.truth.post) <= EXACT
    # A root of rounded squares: half of the digits near 0
    assert worst(torch.stack([layer.norm for layer in layers]), case.truth.head_norm) <= 1e-7


@pytest.mark.parametrize("k", [KEPT_NEURONS, 300])  # of 300, many activations are negative
def test_kept_neurons_are_the_union_of_three_top_lists(case: Case, k: int) -> None:
    truth, result = case.truth, case.decomposed(case.model64, Keep(k, KEPT_SOURCES))
    for i, layer in enumerate(result.layers):
        lists = [truth.post[i].abs(), truth.next.neurons[i].abs(), truth.top.neurons[i].abs()]
        wanted = torch.zeros_like(truth.post[i], dtype=torch.bool)
        for values in lists:
            wanted.scatter_(1, values.topk(k).indices, True)
        kept = torch.zeros_like(wanted)
        kept[layer.neurons.at, layer.neurons.neuron] = True
        assert torch.equal(kept, wanted)
        assert len(layer.neurons.at) == int(wanted.sum()), "a neuron is kept twice"
        bounds = torch.stack([layer.activation_bound, *layer.effect_bound])
        assert worst(bounds, torch.stack([values.topk(k + 1).values[:, -1] for values in lists])) <= 1e-6


# Read back from the store, float32


def test_stored_rows_sum_to_the_centred_logit(case: Case) -> None:
    truth = case.truth
    for store in case.stores:
        sums = store.sql(
            """SELECT sum(toward_next::DOUBLE) AS toward_next, sum(toward_top::DOUBLE) AS toward_top
            FROM contributions GROUP BY position_id ORDER BY position_id"""
        )
        n_rows = store.sql("SELECT count(*) AS n FROM contributions")["n"][0]
        assert n_rows == len(truth.ids) * (2 + 2 * len(truth.post))
        stored = positions(store)
        following_sum, top_sum = both(sums, -1)
        assert worst(top_sum, column(stored, "top_logit", -1)) <= CLOSE
        assert worst(top_sum, truth.logits[1]) <= CLOSE
        has_next = truth.has_next
        assert worst(following_sum[has_next], column(stored, "next_logit", -1)[has_next]) <= CLOSE
        assert worst(following_sum[has_next], truth.logits[0][has_next]) <= CLOSE


def test_stored_attn_is_its_heads_and_mlp_its_neurons_with_their_remainders(case: Case) -> None:
    for store in case.stores:
        rows = store.sql(
            """WITH parts AS (
                SELECT position_id, layer, 'attn' AS component, toward_next, toward_top FROM heads
                UNION ALL
                SELECT position_id, layer, 'mlp', toward_next, toward_top FROM neurons
                UNION ALL
                SELECT position_id, layer, split_part(component::VARCHAR, '_', 1), toward_next, toward_top
                FROM contribution_details WHERE component <> 'mlp_remainder_abs'
            ), sums AS (
                SELECT position_id, layer, component, count(*) AS parts,
                       sum(toward_next::DOUBLE) AS toward_next, sum(toward_top::DOUBLE) AS toward_top
                FROM parts GROUP BY ALL
            )
            SELECT component, parts, s.toward_next - c.toward_next AS toward_next,
                   s.toward_top - c.toward_top AS toward_top
            FROM sums s
            JOIN (SELECT position_id, layer, component::VARCHAR AS component, toward_next, toward_top
                  FROM contributions) c USING (position_id, layer, component)
            ORDER BY position_id, layer, component"""
        )
        assert len(rows) == len(case.truth.ids) * len(case.truth.post) * 2
        assert (rows["parts"][rows["component"] == "attn"] == case.truth.pattern.shape[2] + 1).all()
        wrong = both(rows, len(case.truth.ids), -1)
        assert worst(wrong[1], torch.zeros_like(wrong[1])) <= CLOSE
        following_wrong = following(wrong[0], case, 0)
        assert worst(following_wrong, torch.zeros_like(following_wrong)) <= CLOSE


def test_everything_stored_of_a_position_adds_up_to_its_logit(case: Case) -> None:
    """The macro that people are shown: embedding, heads, neurons, remainders and biases alone."""
    for store in case.stores:
        stored = positions(store)
        for row in (0, 7, len(stored) - 1):
            terms = store.decomposition(int(stored["position_id"][row]))
            assert abs(terms["toward_top"].astype(float).sum() - case.truth.logits[1, row]) <= CLOSE
            if case.truth.has_next[row]:
                total = terms["toward_next"].astype(float).sum()
                assert abs(total - case.truth.logits[0, row]) <= CLOSE
            else:
                assert terms["toward_next"].isna().all()


def test_the_stored_closure_is_what_its_rows_give(case: Case) -> None:
    for store in case.stores:
        rows = store.sql(
            """SELECT p.closure_next, p.closure_top, s.toward_next - p.next_logit::DOUBLE AS toward_next,
                      s.toward_top - p.top_logit::DOUBLE AS toward_top
            FROM positions p JOIN (
                SELECT position_id, sum(toward_next::DOUBLE) AS toward_next,
                       sum(toward_top::DOUBLE) AS toward_top
                FROM contributions GROUP BY position_id
            ) s USING (position_id) ORDER BY position_id"""
        )
        recomputed = both(rows, -1)
        has_next = case.truth.has_next
        assert worst(column(rows, "closure_top", -1), recomputed[1]) <= 1e-11
        assert worst(column(rows, "closure_next", -1)[has_next], recomputed[0][has_next]) <= 1e-11
        largest = float(recomputed.abs().nan_to_num(nan=0).max())
        assert 0 < largest <= CLOSE
        assert float(store.sql("SELECT worst FROM closure")["worst"][0]) == pytest.approx(largest)
        assert float(store.runs()["worst_closure"][0]) == pytest.approx(largest)


def test_terms_are_stored_to_float32s_step_at_1() -> None:
    """schema.sql's macros there and back, beside float64: what is above 1 is not rounded at all."""
    generator = np.random.default_rng(0)
    sizes = 10 ** generator.uniform(-9, 6, 100_000)
    terms = (sizes * generator.choice([-1, 1], len(sizes))).astype(np.float32)
    with duckdb.connect() as con:
        con.execute(schema())
        con.register("given", pa.table({"term": terms}))
        read = con.execute("SELECT base.logits(base.units(term)) AS term FROM given").to_arrow_table()
    back = read["term"].to_numpy()
    wrong = np.abs(back.astype(np.float64) - terms.astype(np.float64))
    assert 2**-25 < wrong.max() <= 2**-24
    assert not wrong[np.abs(terms) >= 1].any()
    np.testing.assert_array_equal(back, as_stored(torch.from_numpy(terms)))


def test_stored_terms_are_the_references(case: Case) -> None:
    truth, L, P = case.truth, len(case.truth.post), len(case.truth.ids)
    single = case.store.sql(
        """SELECT component, toward_next, toward_top FROM contributions WHERE layer IS NULL
        ORDER BY component, position_id"""
    )
    details = case.store.sql(
        """SELECT component, toward_next, toward_top FROM contribution_details
        WHERE component IN ('attn_bias', 'mlp_bias') ORDER BY component, layer, position_id"""
    )
    heads = case.store.sql("FROM heads ORDER BY layer, position_id, head")
    errors = {}
    for side, expected in enumerate(truth.sides):
        got = {name: both(single[single["component"] == name], P)[side] for name in ("embed", "final_bias")}
        got |= {
            name: both(details[details["component"] == name], L, P)[side]
            for name in ("attn_bias", "mlp_bias")
        }
        got["heads"] = both(heads, L, P, -1)[side]
        for name, values in got.items():
            true, dim = getattr(expected, name), 0 if values.ndim == 1 else 1
            if side == 0:
                values, true = following(values, case, dim), following(true, case, dim)
            errors[f"{name} {SIDES[side]}"] = worst(values, true)
    assert {name: error for name, error in errors.items() if error > CLOSE} == {}


def test_predictions_are_hugging_faces(case: Case) -> None:
    truth, stored = case.truth, positions(case.store)
    assert stored["token_id"].tolist() == truth.ids.tolist()
    assert stored["position"].tolist() == truth.column.tolist()
    assert stored["top_token_id"].tolist() == truth.top_ids.tolist()
    readout, top = truth.readout, truth.top_ids[:, None]
    offset = column(stored, "logit_offset", -1)
    raw = readout.logits.gather(1, top)[:, 0]
    assert worst(column(stored, "top_logit", -1) + offset, raw) <= CLOSE
    assert worst(column(stored, "top_logprob", -1), readout.logprobs.gather(1, top)[:, 0]) <= CLOSE
    assert worst(column(stored, "entropy", -1), readout.entropy) <= CLOSE
    assert worst(column(stored, "final_scale", -1), truth.scale) <= CLOSE

    there = truth.has_next
    targets = truth.next_ids[there]
    assert column(stored, "next_token_id", -1)[there].tolist() == targets.tolist()
    raw = readout.logits[there].gather(1, targets[:, None])[:, 0]
    assert worst((column(stored, "next_logit", -1) + offset)[there], raw) <= CLOSE
    logprob = readout.logprobs[there].gather(1, targets[:, None])[:, 0]
    assert worst(column(stored, "next_logprob", -1)[there], logprob) <= CLOSE
    within_ties(column(stored, "next_rank", -1)[there], readout, truth, targets)


def within_ties(rank: Tensor, readout: Readout, truth: ReferenceRun, targets: Tensor) -> None:
    """Exact, save where another logit is nearer than float32 can tell; few are."""
    there = Readout(readout.logits[truth.has_next], readout.n_tokens)
    lowest, highest = there.rank_between(targets, 1e-5)
    assert ((rank >= lowest) & (rank <= highest)).all()
    assert (lowest == highest).double().mean() > 0.9, "nearly every rank is a near tie"


def test_padding_rows_are_never_chosen_nor_counted_in_ranks(case: Case) -> None:
    if not case.is_padded:
        assert case.truth.readout.logits.shape[1] == N_TOKENS  # nothing to leave out
        return
    readout, stored = case.truth.readout, positions(case.store)
    # Were padding let in, most first choices and ranks would be other ones.
    assert (readout.logits.argmax(-1) >= N_TOKENS).double().mean() > 0.5
    assert stored["top_token_id"].max() < N_TOKENS and stored["next_rank"].max() <= N_TOKENS
    assert case.store.sql("SELECT max(top_token_id) AS id FROM lens")["id"][0] < N_TOKENS
    # The softmax runs over all rows, theirs too.
    assert (readout.real - readout.logits.logsumexp(-1)[:, None]).exp().sum(-1).max() < 0.5
    assert stored["top_token"].notna().all()


def test_the_lens_reads_the_blocks_outputs(case: Case) -> None:
    truth, P = case.truth, len(case.truth.ids)
    rows = case.store.sql("FROM lens ORDER BY layer, position_id")
    assert len(rows) == P * len(truth.post)
    targets = truth.next_ids[truth.has_next]
    for layer, of_layer in rows.groupby("layer"):
        readout = truth.lens(int(layer))
        logprobs = readout.logprobs
        top = integers(of_layer, "top_token_id")
        ahead = readout.lead > 1e-4
        assert torch.equal(top[ahead], readout.top_ids[ahead]) and ahead.double().mean() > 0.9
        best = readout.real.max(-1).values - readout.logits.logsumexp(-1)
        assert worst(column(of_layer, "top_logprob", -1), best) <= CLOSE
        following_logprob = column(of_layer, "next_logprob", -1)[truth.has_next]
        assert worst(following_logprob, logprobs[truth.has_next].gather(1, targets[:, None])[:, 0]) <= CLOSE
        within_ties(column(of_layer, "next_rank", -1)[truth.has_next], readout, truth, targets)
    last = truth.lens(len(truth.post) - 1)
    assert worst(last.logits, truth.readout.logits) < 1e-9  # the reference's lens ends at the logits


def test_stored_head_outputs_and_attention_are_hugging_faces(case: Case) -> None:
    truth, L, P = case.truth, len(case.truth.post), len(case.truth.ids)
    rows = case.store.sql("FROM heads ORDER BY layer, position_id, head")
    norm, attention = (column(rows, x, L, P, -1) for x in ("output_norm", "top_source_attention"))
    assert worst(norm, truth.head_norm) <= CLOSE + EFFECT_STEP / 2
    assert worst(attention, truth.pattern.max(-1).values) <= CLOSE + SOURCE_STEP / 2
    source = column(rows, "top_source_position_id", L, P, -1) - positions(case.store)["position_id"][0]
    columns = truth.pattern.argmax(-1)
    expected = truth.source_at[torch.arange(P)[:, None], columns]
    two = torch.nn.functional.pad(truth.pattern, (0, 1)).topk(2).values
    clear = two[..., 0] - two[..., 1] > 1e-5
    assert torch.equal(source[clear].long(), expected[clear]) and clear.double().mean() > 0.95


def test_stored_neurons_are_hugging_faces(case: Case) -> None:
    """Activations and effects of all of them; their rounding is the only difference."""
    truth, L, P = case.truth, len(case.truth.post), len(case.truth.ids)
    rows = case.store_of_rows.sql("FROM neurons ORDER BY layer, position_id, neuron")
    assert len(rows) == truth.post.numel()
    assert worst(column(rows, "activation", L, P, -1), truth.post) <= CLOSE + EFFECT_STEP / 2
    following_effects, top = both(rows, L, P, -1)
    assert worst(top, truth.top.neurons) <= CLOSE + EFFECT_STEP / 2
    expected = following(truth.next.neurons, case, 1)
    assert worst(following(following_effects, case, 1), expected) <= CLOSE + EFFECT_STEP / 2


def test_every_neuron_of_a_store_of_all_is_within_its_stated_error(case: Case) -> None:
    """The strongest as anywhere; of the others an effect is wrong by the same share as the activation."""
    truth, L, P = case.truth, len(case.truth.post), len(case.truth.ids)
    rows = case.store_of_all.sql("FROM neurons ORDER BY layer, position_id, neuron")
    assert len(rows) == truth.post.numel()
    error = column(rows, "activation_error", L, P, -1)
    wrong = (column(rows, "activation", L, P, -1) - truth.post).abs()
    assert (wrong <= error + CLOSE).all()
    assert wrong.max() > 10 * CLOSE, "nothing is rounded, so nothing was tested"
    strongest = torch.zeros_like(truth.post, dtype=torch.bool)
    for values in (truth.post, truth.next.neurons, truth.top.neurons):
        strongest.scatter_(-1, values.abs().topk(STRONGEST).indices, True)
    exact = (error - EFFECT_STEP / 2).abs() < 1e-9
    assert (exact == strongest).double().mean() > 1 - 1e-4  # but for near ties
    for errors, values, is_exact in zip(
        *(x.split(PART, dim=-1) for x in (error, truth.post, exact)), strict=True
    ):
        high, low = (
            sign * (sign * values).masked_fill(is_exact, -torch.inf).amax(-1, True) for sign in (1, -1)
        )
        steps = ((high - low + 1e-3) / 30 + 1e-4).expand_as(errors)
        assert (errors[~is_exact] <= steps[~is_exact] / 2 + 1e-6).all()
    for by in ("neuron", "term"):
        told = case.store_of_all.decomposition(int(rows["position_id"].min()), by).attrs
        assert not told["exact"]
        assert told["rounded"]["activation"] == pytest.approx(float(error.view(L, P, -1)[:, 0].max()))
    told = case.store_of_all.search(neuron("L0N0").activation > 0).attrs
    assert not told["exact"]
    assert told["rounded"]["L0N0_activation"] == pytest.approx(float(error.view(L, P, -1)[0].max()))
    for got, side in zip(both(rows, L, P, -1), truth.sides, strict=True):
        true, there = side.neurons, slice(None) if side is truth.top else truth.has_next
        beyond = ((got - true).abs() - CLOSE - EFFECT_STEP / 2 * exact).clamp(min=0)
        allowed = (error * true.abs() * ~exact + 1e-9)[:, there]
        assert ((beyond * truth.post.abs())[:, there] <= allowed).all()


def test_all_stored_sources_of_a_head_sum_to_it(case: Case) -> None:
    truth, L, P = case.truth, len(case.truth.post), len(case.truth.ids)
    sources, present = dense(case.store_of_all, case, "head_sources")
    causal = (truth.source_at >= 0)[None, :, None].expand(truth.pattern.shape)
    assert torch.equal(present.view_as(causal), causal)
    heads = both(case.store_of_all.sql("FROM heads ORDER BY layer, position_id, head"), L, P, -1)
    for side, expected in enumerate(truth.sides):
        got, true, head = sources[side].view_as(expected.sources), expected.sources, heads[side]
        if side == 0:
            got, true, head = (following(x, case, 1) for x in (got, true, head))
        assert worst(got.sum(-1), head) <= CLOSE
        assert worst(got, true) <= CLOSE


def test_an_effect_is_on_the_token_that_comes_next_not_on_its_own(case: Case) -> None:
    truth, stored = case.truth, positions(case.store)
    there = truth.has_next
    ids = integers(stored, "token_id")
    shifted = (column(stored, "next_token_id", -1)[:-1] == ids[1:])[there[:-1]]
    assert shifted.all()
    effects = case.store.sql(
        """SELECT sum(toward_next::DOUBLE) AS effect FROM contributions
        GROUP BY position_id ORDER BY position_id"""
    )
    effect = column(effects, "effect", -1)[there]
    on_next = truth.readout.centred[there].gather(1, truth.next_ids[there][:, None])[:, 0]
    on_own = truth.readout.centred[there].gather(1, truth.ids[there][:, None])[:, 0]
    assert worst(effect, on_next) <= CLOSE
    others = truth.ids[there] != truth.next_ids[there]
    assert ((effect - on_own).abs()[others] > 0.01).double().mean() > 0.9


def test_a_windows_last_position_has_no_next_token(case: Case) -> None:
    is_last = ~case.truth.has_next
    assert is_last.sum() == len(case.truth.windows)
    for store in case.stores:
        stored = positions(store)
        for name in (
            "next_token_id",
            "next_token",
            "next_logit",
            "next_logprob",
            "next_rank",
            "closure_next",
        ):
            assert stored[name].isna().tolist() == is_last.tolist(), name
        last = stored["position_id"][is_last.numpy()].tolist()
        columns = [(view, "toward_next") for view in
                   ("contributions", "contribution_details", "heads", "head_sources", "neurons")]  # fmt: skip
        columns += [("neuron_bounds", "next_bound"), ("lens", "next_logprob"), ("lens", "next_rank")]
        for view, name in columns:
            wrong = store.sql(
                f"""SELECT count(*) AS n FROM {view}
                WHERE ({name} IS NULL) <> list_contains($last, position_id)""",
                {"last": last},
            )
            assert wrong["n"][0] == 0, (view, name)


# What was not kept


def test_no_neuron_left_out_exceeds_the_stored_bounds(case: Case) -> None:
    truth, L, P = case.truth, len(case.truth.post), len(case.truth.ids)
    lists = [truth.post.abs(), truth.next.neurons.abs(), truth.top.neurons.abs()]
    for store, k in ((case.store, KEPT_NEURONS), (case.store_of_none, 0)):
        _, kept = dense(store, case, "neurons")
        rows = store.sql("FROM neuron_bounds ORDER BY layer, position_id")
        wanted = torch.zeros_like(kept)
        for name, values in zip(("activation_bound", "next_bound", "top_bound"), lists, strict=True):
            bound, left_out = column(rows, name, L, P), values.masked_fill(kept, 0).amax(-1)
            ordered = values.topk(k + 1).values
            if k:
                wanted |= values >= ordered[..., k - 1 : k] - 1e-5
            if name == "next_bound":
                bound, left_out, ordered = (following(x, case, 1) for x in (bound, left_out, ordered))
            assert (left_out <= bound + 1e-6).all()
            # The (k + 1)th value rounded up: no looser than it must be
            assert worst(bound, ordered[..., k]) <= EFFECT_STEP + 1e-5
            assert (bound >= ordered[..., k] - 1e-6).all()
        assert not (kept & ~wanted).any(), "kept, but in none of the three lists"
    bounds = case.store_of_all.sql("SELECT * EXCLUDE (run_id, position_id, layer) FROM neuron_bounds")
    assert bounds.max().tolist() == [0, 0, 0]  # nothing is left out
    assert positions(case.store_of_all)["source_bound"].max() == 0


def remainders(store: Store, component: str, case: Case) -> Tensor:
    """mlp_remainder or mlp_remainder_abs: (2, layer, P)"""
    rows = store.sql(
        """SELECT toward_next, toward_top FROM contribution_details
        WHERE component = $component::component_detail ORDER BY layer, position_id""",
        {"component": component},
    )
    return both(rows, len(case.truth.post), len(case.truth.ids))


def test_mlp_rest_makes_up_for_neurons_left_out_and_for_the_rounding_of_the_kept(case: Case) -> None:
    for store in case.stores:
        stored, _ = dense(store, case, "neurons")
        rest = remainders(store, "mlp_remainder", case)
        for side, expected in enumerate(case.truth.sides):
            got, true = rest[side], expected.neurons.sum(-1) - stored[side].sum(-1)
            if side == 0:
                got, true = following(got, case, 1), following(true, case, 1)
            assert worst(got, true) <= CLOSE


def test_mlp_rest_abs_is_the_sum_of_what_is_left_out_in_absolute_value(case: Case) -> None:
    errors = {}
    for name, store in zip(("kept", "all", "none"), case.stores, strict=True):
        _, kept = dense(store, case, "neurons")
        rest_abs = remainders(store, "mlp_remainder_abs", case)
        for side, expected in enumerate(case.truth.sides):
            got, true = rest_abs[side], expected.neurons.abs().masked_fill(kept, 0).sum(-1)
            if side == 0:
                got, true = following(got, case, 1), following(true, case, 1)
            errors[name, SIDES[side]] = worst(got, true)
    assert {what: error for what, error in errors.items() if error > CLOSE} == {}


def test_head_sources_are_the_strongest_and_bound_the_rest(case: Case) -> None:
    truth, P = case.truth, len(case.truth.ids)
    strength = torch.maximum(*(x.sources.abs() for x in truth.sides)).transpose(0, 1).reshape(P, -1)
    for store, k in ((case.store, KEPT_SOURCES), (case.store_of_none, 0)):
        stored, kept = dense(store, case, "head_sources")
        stored, kept = stored.transpose(1, 2).reshape(2, P, -1), kept.transpose(0, 1).reshape(P, -1)
        possible = (truth.column + 1) * truth.pattern.shape[0] * truth.pattern.shape[2]
        assert torch.equal(kept.sum(1), possible.clamp(max=k))
        ordered = torch.nn.functional.pad(strength.sort(descending=True).values, (0, 1))
        kth = ordered[:, k - 1] if k else torch.full((P,), torch.inf, dtype=torch.float64)
        assert (strength[kept] >= kth[:, None].expand_as(kept)[kept] - 1e-5).all()
        bound = column(positions(store), "source_bound", -1)
        assert (strength.masked_fill(kept, 0).amax(1) <= bound + 1e-6).all()
        tight = ordered[:, k]
        assert (bound - tight).min() >= -1e-6 and (bound - tight).max() <= SOURCE_STEP + 1e-6
        for side, expected in enumerate(truth.sides):
            true = expected.sources.transpose(0, 1).reshape(P, -1)
            here = kept & (truth.has_next[:, None] if side == 0 else True)
            if k:
                assert worst(stored[side][here], true[here]) <= CLOSE + SOURCE_STEP / 2
    rows = case.store.sql("SELECT layer, position_id, head, source_position_id, attention FROM head_sources")
    first = int(positions(case.store)["position_id"][0])
    at = {name: integers(rows, name) for name in rows.columns[:-1]}
    place, source = at["position_id"] - first, at["source_position_id"] - first
    columns = (truth.source_at[place] == source[:, None]).long().argmax(1)
    attention = truth.pattern[at["layer"], place, at["head"], columns]
    assert worst(column(rows, "attention", -1), attention) <= 1e-5 + SOURCE_STEP / 2


def test_nothing_kept_leaves_no_rows_of_single_neurons_and_sources(case: Case) -> None:
    counts = case.store_of_none.sql(
        "SELECT (SELECT count(*) FROM neurons) AS neurons, (SELECT count(*) FROM head_sources) AS sources"
    )
    assert counts["neurons"][0] == counts["sources"][0] == 0
