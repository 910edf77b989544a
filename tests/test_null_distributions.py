"""Scores of weights beside their null distributions: closed forms and seeded draws against plain draws.

A null is that of randomly rotated weights. The rotations here are NumPy's, in the dimensions orthogonal
to the vector of ones; nothing of them comes from `ingest`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from annotate_transformer import store
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.weights import circuits, rotations
from annotate_transformer.ingest.weights.tables import annotate_weights
from models import annotated
from small import text

Array = NDArray[np.float64]
DRAWS = 4000


@pytest.fixture(scope="module")
def turned(model: Model) -> Array:
    """Rotations of all that is centred: (draw, d_model, d_model)"""
    basis = centred(model.d_model)
    return np.asarray(basis @ orthogonal((200, model.d_model - 1, model.d_model - 1), 0) @ basis.T)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(resolve("neox-2m"))


@pytest.fixture(scope="module")
def weights(model: Model, tmp_path_factory: pytest.TempPathFactory) -> store.Weights:
    db = tmp_path_factory.mktemp("null") / "store.duckdb"
    annotate_weights(model, str(db))
    return store.open(db).weights()


def corners(dimensions: int, rows: int, columns: int, seed: int = 0) -> Array:
    """The upper left corner of Haar-random orthogonal matrices: (draw, rows, columns)"""
    return orthogonal((DRAWS, dimensions, columns), seed)[:, :rows]


def orthogonal(shape: tuple[int, ...], seed: int) -> Array:
    """Haar-random orthonormal columns: Gram and Schmidt's, whose triangle has a positive diagonal."""
    found, triangle = np.linalg.qr(np.random.default_rng(seed).standard_normal(shape))
    return np.asarray(found * np.sign(np.diagonal(triangle, axis1=-2, axis2=-1))[..., None, :])


def centred(d_model: int) -> Array:
    """An orthonormal basis (d_model, d_model − 1) of what has mean 0."""
    basis, _, _ = np.linalg.svd(np.eye(d_model) - 1 / d_model)
    return np.asarray(basis[:, :-1])


# ‖A R B‖: its moments, z and p

SPECTRA = {  # dimensions, singular values of A, of B
    "flat, low rank": (63, np.ones(8), np.ones(8)),
    "one direction each": (63, np.ones(1), np.ones(1)),
    "one direction against many": (63, np.ones(1), np.linspace(1, 2, 16)),
    "decaying": (127, 1 / np.arange(1, 17), 1 / np.arange(1, 17) ** 2),
    "decaying fast": (47, 0.5 ** np.arange(8), 0.3 ** np.arange(12)),
    "half of the rank": (32, np.ones(16), np.linspace(0.1, 3, 16)),
    "full rank": (15, np.linspace(0.5, 1.5, 15), np.linspace(0.1, 2, 15)),
    "all but one direction": (15, np.ones(14), 1 / np.arange(1, 15)),
    "wide": (127, np.linspace(1, 3, 4), np.linspace(0.1, 1, 24)),
}


@pytest.mark.parametrize("case", SPECTRA)
def test_norms_null_is_that_of_draws(case: str) -> None:
    d, a, b = SPECTRA[case]
    corner = corners(d, len(a), len(b))
    drawn = ((a[:, None] * corner * b) ** 2).sum((1, 2)) / ((a**2).sum() * (b**2).sum())
    written, read = (rotations.Gram.of(torch.from_numpy(values) ** 2, d) for values in (a, b))
    std, skewness = (float(figure) for figure in rotations.norm_null(written, read, d))
    error = drawn.std() / DRAWS**0.5
    assert drawn.mean() == pytest.approx(1 / d, abs=4 * error)
    assert drawn.std() == pytest.approx(std, rel=0.1)
    z = (drawn - 1 / d) / std
    assert (z**3).mean() == pytest.approx(skewness, rel=0.4, abs=0.2)
    found = rotations.norm_z(torch.from_numpy(drawn**0.5), torch.tensor(std), d)
    assert found.numpy() == pytest.approx(z)
    p = rotations.two_sided(found, torch.tensor(skewness).double()).numpy()
    for level in (0.2, 0.05, 0.01):
        assert (p <= level).mean() == pytest.approx(level, rel=0.35, abs=0.003)


HEADS = [("K", 0, 0, 3, 2), ("Q", 0, 1, 1, 0), ("V", 1, 3, 2, 1), ("K", 2, 1, 3, 0), ("V", 0, 2, 3, 3)]


@pytest.mark.parametrize(("kind", "earlier_layer", "earlier_head", "layer", "head"), HEADS)
def test_a_real_pairs_z_is_that_of_rotations_in_the_centred_dimensions(
    model: Model, weights: store.Weights, turned: Array, kind: str,
    earlier_layer: int, earlier_head: int, layer: int, head: int,
) -> None:  # fmt: skip
    """The whole matrices, in float64, a whole rotation between them."""

    def of(name: str, at: tuple[int, int]) -> Array:
        return np.asarray(getattr(model, name)[at].double().numpy())

    earlier, later = (earlier_layer, earlier_head), (layer, head)
    A = of("W_V", earlier) @ of("W_O", earlier)
    reads, other = {"Q": ("W_Q", "W_K"), "K": ("W_K", "W_Q"), "V": ("W_V", "W_O")}[kind]
    B = of(reads, later) @ (of(other, later) if kind == "V" else of(other, later).T)
    basis = centred(model.d_model)
    assert np.abs(A @ basis @ basis.T - A).max() < 1e-5 > np.abs(basis @ basis.T @ B - B).max()
    (_, size_A, right_A), (left_B, size_B, _) = np.linalg.svd(A), np.linalg.svd(B)
    rank = model.d_head
    outer = right_A[:rank] * size_A[:rank, None], left_B[:, :rank] * size_B[:rank]  # the others' norms are 0
    squares = np.linalg.norm(outer[0] @ turned @ outer[1], axis=(1, 2)) ** 2
    own = np.linalg.norm(A @ B) ** 2
    where = "kind = $kind AND (earlier_layer, earlier_head, layer, head) = ($el, $eh, $l, $h)"
    row = weights.session.sql(
        f"FROM head_composition WHERE {where}",
        {"kind": kind, "el": earlier_layer, "eh": earlier_head, "l": layer, "h": head},
    ).iloc[0]
    size = np.linalg.norm(A) * np.linalg.norm(B)
    assert row.score == pytest.approx(own**0.5 / size, rel=1e-4)
    assert row.baseline == pytest.approx(np.sqrt(squares.mean()) / size, rel=0.02)
    error = squares.std() / len(turned) ** 0.5
    assert row.z == pytest.approx(
        (own - squares.mean()) / squares.std(), rel=0.15, abs=3 * error / squares.std()
    )


def test_randomly_rotated_heads_are_not_above_the_null(model: Model) -> None:
    """“Above the baseline” was true of 40 to 49 % of such heads; a p below .05 is of 5 %."""
    scores, z, p = [], [], []
    for seed in range(3):
        with rotated(model, seed):
            scores.append(circuits.Factors.of(model).composition())
            found = circuits.composition_null(model, scores[-1])
        z.append(found[0]), p.append(found[1])
    there = ~torch.isnan(scores[0])
    z_values, p_values = (torch.stack(part)[:, there].flatten().numpy() for part in (z, p))
    above = torch.stack(scores)[:, there] > (model.d_model - 1) ** -0.5
    assert 0.35 < above.double().mean() < 0.5, "what was said of them before"
    assert np.abs(z_values.mean()) < 0.1 and z_values.std() == pytest.approx(1, abs=0.1)
    assert (z_values > 2).mean() < 0.06
    assert (p_values < 0.05).mean() == pytest.approx(0.05, abs=0.025)
    assert (p_values < 0.001).mean() < 0.005
    true = circuits.composition_null(model, circuits.Factors.of(model).composition())[0][there]
    assert (true > 4).double().mean() > 0.1, "trained heads do compose"


@contextmanager
def rotated(model: Model, seed: int) -> Iterator[None]:
    """What each head reads is turned by a rotation of its own: the model is whole again afterwards."""
    basis = torch.from_numpy(centred(model.d_model))
    draw = np.random.default_rng(seed)
    own = {name: getattr(model, name).clone() for name in ("W_Q", "W_K", "W_V")}

    def turned(values: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(values)
        for layer in range(model.n_layers):
            for head in range(model.n_heads):
                left, _, right = np.linalg.svd(draw.standard_normal((model.d_model - 1,) * 2))
                turn = basis @ torch.from_numpy(left @ right) @ basis.T
                out[layer, head] = (turn @ values[layer, head].double()).float()
        return out

    with pytest.MonkeyPatch.context() as patch:
        for name, values in own.items():
            after = turned(values)
            patch.setattr(Model, name, property(lambda _, after=after: after))
        yield


# Shares of eigenvalues

SHARES = {
    "flat": (63, np.ones(16)),
    "decaying": (63, 1 / np.arange(1, 25)),
    "decaying fast": (63, 1 / np.arange(1, 17) ** 2),
    "one direction": (63, np.r_[1, np.full(15, 1e-3)]),
    "low rank": (127, np.linspace(0.1, 1, 8)),
    "full rank": (15, np.ones(15)),
}


@pytest.mark.some(3)
@pytest.mark.parametrize("case", SHARES)
def test_shares_std_by_a_few_rotations_is_that_of_many(case: str) -> None:
    d, singular = SHARES[case]
    eigenvalues = np.linalg.eigvals(singular[:, None] * corners(d, len(singular), len(singular)))
    share = eigenvalues.real.sum(1) / np.abs(eigenvalues).sum(1)
    assert np.abs(share.mean()) < 4 * share.std() / DRAWS**0.5, "R and −R are equally likely"
    found = [float(rotations.share_std(torch.from_numpy(singular)[None, None], d, seed=s)) for s in range(20)]
    assert np.mean(found) == pytest.approx(share.std(), rel=0.1)
    assert np.std(found) < 0.15 * share.std()
    assert found[0] == float(rotations.share_std(torch.from_numpy(singular)[None, None], d)), "it is seeded"


@pytest.mark.parametrize("name", ["copying", "matching"])
def test_copying_and_matching_beside_rotations_of_the_whole_circuit(
    model: Model, weights: store.Weights, turned: Array, name: str
) -> None:
    E, U = model.W_E[: model.n_tokens].double().numpy(), model.W_U[:, : model.n_tokens].double().numpy()
    query = f"SELECT {name} AS score, {name}_z AS z, draws FROM weight_stats WHERE layer = $l AND head = $h"
    for place in ((0, 1), (3, 2), (2, 1)):
        W_Q, W_K, W_V, W_O = (getattr(model, w)[place].double().numpy() for w in ("W_Q", "W_K", "W_V", "W_O"))
        left, right = (W_O @ U @ E, W_V) if name == "copying" else (W_K.T @ E.T @ E, W_Q)
        eigenvalues = np.linalg.eigvals(left @ turned @ right)
        share = eigenvalues.real.sum(1) / np.abs(eigenvalues).sum(1)
        row = weights.session.sql(query, {"l": place[0], "h": place[1]}).iloc[0]
        assert row.draws == rotations.ROTATIONS
        assert row.z == pytest.approx(row.score / np.sqrt((share**2).mean()), rel=0.25)


# What else weights say: every score's z against draws


def _directions(model: Model, draws: int, seed: int) -> Array:
    """Of length 1, with mean 0: (draw, d_model)"""
    normal = np.random.default_rng(seed).standard_normal((draws, model.d_model))
    normal -= normal.mean(1, keepdims=True)
    return np.asarray(normal / np.linalg.norm(normal, axis=1, keepdims=True))


def _congruence(model: Model, direction: Array, stats: pd.Series) -> Array:
    return stats.out_norm * (direction @ model.W_U[:, : model.n_tokens].double().numpy()).max(1)


def _cosine(model: Model, direction: Array, stats: pd.Series) -> Array:
    W_in = model.W_in[3, :, 7].double().numpy()
    return direction @ W_in / np.linalg.norm(W_in)


def _read_of_neuron(model: Model, direction: Array, stats: pd.Series) -> Array:
    return stats.in_norm * direction @ model.W_out[stats.source_layer, stats.source_neuron].double().numpy()


def _read_of_head(model: Model, direction: Array, stats: pd.Series) -> Array:
    W_O = model.W_O[stats.source_layer, stats.source_head].double().numpy()
    return np.asarray((stats.in_norm * np.linalg.norm(direction @ W_O.T, axis=1)) ** 2)


STATS = "FROM weight_stats WHERE layer = 3 AND neuron = 7"
READS = f"SELECT r.*, s.in_norm FROM neuron_reads r, ({STATS}) s WHERE r.layer = 3 AND r.neuron = 7"
SCORES = {
    "next-token": (STATS, "congruence", "congruence_z", _congruence),
    "erasing": (STATS, "cosine", "cosine_z", _cosine),
    "strongest neuron": (f"{READS} AND component = 'neuron' AND rank = 1", "weight", "z", _read_of_neuron),
    "last neuron": (f"{READS} AND component = 'neuron' AND rank = 20", "weight", "z", _read_of_neuron),
    "strongest head": (f"{READS} AND component = 'head' AND rank = 1", "weight ** 2", "z", _read_of_head),
    "last head": (f"{READS} AND component = 'head' ORDER BY rank DESC", "weight ** 2", "z", _read_of_head),
}


@pytest.mark.parametrize("case", SCORES)
def test_a_neurons_z_is_that_of_random_directions(model: Model, weights: store.Weights, case: str) -> None:
    query, score, z, null = SCORES[case]
    row = weights.session.sql(f"SELECT *, {score} AS score, {z} AS shown FROM ({query}) LIMIT 1").iloc[0]
    drawn = null(model, _directions(model, 2000, 5), row)
    assert row.shown == pytest.approx((row.score - drawn.mean()) / drawn.std(), rel=0.12, abs=0.25)
    assert np.isfinite(row.shown)


# Correlated neurons


@pytest.fixture(scope="module")
def run(model: Model, tmp_path_factory: pytest.TempPathFactory) -> store.Store:
    return annotated([text(60, 0)], model, tmp_path_factory.mktemp("run") / "store", samples=150, top=5)


@pytest.mark.parametrize("name", ["L0N3", "L3N359", "L1H2", "L3H0"])
def test_correlations_stand_beside_the_largest_of_permuted_values(run: store.Store, name: str) -> None:
    """By other permutations, of all units at once: 19 of them have a largest |r| such as that."""
    unit = run.unit(name)
    found = unit.companions(5)
    sampled = [
        run.sql(
            f"SELECT position_id, value, 'L' || layer || '{letter}' || {kind} AS name FROM {kind}_samples"
        )
        for kind, letter in (("neuron", "N"), ("head", "H"))
    ]
    values = pd.concat(sampled).pivot_table(index="position_id", columns="name", values="value")
    values = (values - values.mean()).fillna(0)
    lengths = np.sqrt((values**2).sum())
    unit_values = (values / lengths).loc[:, lengths > 1e-6]
    own, others = unit_values[name].to_numpy(), unit_values.drop(columns=name).to_numpy()
    draw = np.random.default_rng(0)
    largest = np.array([np.abs(draw.permutation(own) @ others).max() for _ in range(300)])
    of_19 = np.array([draw.choice(largest, 19).max() for _ in range(500)])
    shown = found.iloc[0]
    assert np.quantile(of_19, 0.005) - 0.01 <= shown.largest_permuted <= largest.max() + 0.05
    assert (shown.permutations, shown.candidates) == (19, others.shape[1])
    assert found.largest_permuted.nunique() == 1
    pd.testing.assert_frame_equal(found, unit.companions(5))  # it is seeded


# Whoever reads a score can find its null

SCORES_SHOWN = [  # view, score, where its null stands: a column beside it, or the words of its comment
    ("head_composition", "score", "z"),
    ("head_composition", "score", "by_chance"),
    ("weight_stats", "copying", "copying_z"),
    ("weight_stats", "matching", "matching_z"),
    ("weight_stats", "cosine", "cosine_z"),
    ("weight_stats", "congruence", "congruence_z"),
    ("weight_stats", "copying_rank", "store has no null distribution"),
    ("neuron_reads", "weight", "z"),
    ("neuron_vocabulary", "congruence", "with its null distribution"),
    ("next_token_neurons", "congruence", "weight_stats.congruence_z compares it"),
    ("head_behaviour", "copying", "copying_z"),
    ("head_behaviour", "weights_induction", "under the null distribution"),
    ("head_behaviour", "weights_previous", "store has no null distribution"),
    ("head_behaviour", "weights_duplicate", "weight_stats.matching_z compares it"),
    ("head_distances", "attention", "store has no null distribution"),
    ("head_pairs", "attention", "store has no null distribution"),
    ("head_vocabulary", "effect", "store has no null distribution"),
    ("skip_trigrams", "strength", "store has no null distribution"),
    ("direct_path", "logprob", "store has no null distribution"),
    ("bigram_agreement", "rank_correlation", "shuffled_rank_correlation"),
    ("bigram_summary", "divergence", "shuffled_divergence"),
    ("bigram_distances", "cosine", "min_count 0 is the baseline"),
    ("bigram_distances", "inner_product", "the baseline is the row"),
]


@pytest.mark.parametrize(("view", "score", "null"), SCORES_SHOWN)
def test_every_score_from_weights_says_what_its_null_is(
    weights: store.Weights, view: str, score: str, null: str
) -> None:
    """A column beside it has it, or its comment tells where it is, or that none is given."""
    columns = weights.session.sql(
        """SELECT column_name, comment FROM duckdb_columns()
           WHERE schema_name = 'main' AND table_name = $view""", {"view": view}
    ).set_index("column_name").comment  # fmt: skip
    assert null in columns.index or null in columns[score]
    if null in columns.index and not null.startswith("shuffled"):
        assert weights.session.sql(f"SELECT count({null}) AS n FROM {view}").n[0] > 0
