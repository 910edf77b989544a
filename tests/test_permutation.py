"""A distance of ablations says how often labels dealt out by chance give it: held against all of them."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import scipy

from annotate_transformer import store
from annotate_transformer.store.scores import permutation_p


def distance(falls: np.ndarray, active: np.ndarray) -> float:
    """Kolmogorov-Smirnov's, from both shares below each fall."""
    one, other = falls[active], falls[~active]
    return float(max(abs((one <= x).mean() - (other <= x).mean()) for x in falls))


def labels(n: int, active: int) -> np.ndarray:
    """Every way to call so many of n active."""
    every = np.zeros((len(list(combinations(range(n), active))), n), dtype=bool)
    for row, chosen in zip(every, combinations(range(n), active), strict=True):
        row[list(chosen)] = True
    return every


def by_enumeration(falls: np.ndarray, active: np.ndarray) -> float:
    found = distance(falls, active)
    every = labels(len(falls), int(active.sum()))
    return float(np.mean([distance(falls, of) >= found - 1e-9 for of in every]))


@pytest.mark.parametrize(("active", "inactive"), [(4, 7), (1, 1), (1, 8), (3, 3), (2, 9), (5, 5), (6, 4)])
@pytest.mark.parametrize("values", ["different", "ties", "two values", "all the same", "apart"])
def test_p_is_the_share_of_all_ways_to_call_them_active(active: int, inactive: int, values: str) -> None:
    draw = np.random.default_rng([active, inactive])
    n = active + inactive
    is_active = draw.permutation([True] * active + [False] * inactive)
    falls = {
        "different": draw.normal(size=n),
        "ties": draw.integers(0, 4, n) / 10,
        "two values": draw.integers(0, 2, n).astype(float),
        "all the same": np.zeros(n),
        "apart": draw.random(n) + 2 * is_active,
    }[values]
    found = permutation_p(falls, is_active)
    assert found == pytest.approx(by_enumeration(falls, is_active), abs=1e-12)
    assert values != "all the same" or found == pytest.approx(1)
    if values == "apart":
        assert found == pytest.approx(
            scipy.stats.ks_2samp(falls[is_active], falls[~is_active], method="exact").pvalue
        )


@pytest.mark.parametrize(("active", "inactive"), [(4, 7), (3, 5), (5, 5)])
@pytest.mark.parametrize("ties", [False, True])
def test_labels_dealt_out_by_chance_are_rarely_called_different(
    active: int, inactive: int, ties: bool
) -> None:
    """Distances of .5 are common among 4 and 7; p-values of .05 and less are no commoner than that."""
    draw = np.random.default_rng(0)
    falls = draw.integers(0, 5, active + inactive) if ties else draw.random(active + inactive)
    every = labels(active + inactive, active)
    p = np.array([permutation_p(falls, of) for of in every])
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).mean() <= level
    if (active, inactive, ties) == (4, 7, False):
        assert np.median([distance(falls, of) for of in every]) > 0.4


def test_many_prompts_take_a_moment_and_small_p_values_are_not_0() -> None:
    draw = np.random.default_rng(0)
    falls, active = draw.random(300), draw.random(300) < 0.3
    assert permutation_p(falls, active) == pytest.approx(
        scipy.stats.ks_2samp(falls[active], falls[~active], method="exact").pvalue, rel=1e-9
    )
    assert 0 < permutation_p(falls + 2 * active, active) < 1e-60


@pytest.mark.parametrize("active", [0, 5])
def test_one_kind_alone_has_no_p_value(active: int) -> None:
    assert np.isnan(permutation_p(np.arange(5.0), np.arange(5) < active))


def test_stored_p_values_and_both_n_stand_beside_the_distances(two_steps: Path) -> None:
    s, key = store.open(two_steps), ["layer", "neuron", "source_layer", "source_head"]
    prompts = s.sql("FROM head_prompts").set_index(key).sort_index()
    found = s.ablations()
    assert len(found) > 2
    for row in found.to_dict("records"):
        of = prompts.loc[tuple(row[name] for name in key)]
        active = of.is_active.to_numpy(bool)
        assert (row["active_prompts"], row["inactive_prompts"]) == (active.sum(), (~active).sum())
        for name, before in (("activation", of.activation), ("probability", of.probability)):
            falls = before.to_numpy(np.float32) - of[f"ablated_{name}"].to_numpy(np.float32)
            assert row[f"{name}_distance"] == pytest.approx(distance(falls, active))
            assert row[f"{name}_p"] == pytest.approx(by_enumeration(falls, active), abs=1e-12)
            for kind, of_kind in (("active", falls[active]), ("inactive", falls[~active])):
                error = np.std(of_kind.astype(float), ddof=1) / len(of_kind) ** 0.5
                margin = scipy.stats.t.ppf(0.975, len(of_kind) - 1) * error
                assert row[f"{name}_margin_{kind}"] == pytest.approx(margin, rel=1e-3, nan_ok=True)
