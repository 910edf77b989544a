"""The intervals of explanations' scores hold the true score as often as they say, however few the prompts.

Coverage is counted over every outcome with its binomial probability; where neurons are drawn too, over
draws of whole studies.
"""

import json
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
import scipy

from annotate_transformer.app.cli.commands import app
from annotate_transformer.store.database import connection, create
from annotate_transformer.store.scores import FIGURES, above_baseline, intervals, with_intervals
from handmade import looked_up

# Of one explanation

SIZES = [(2, 2), (3, 5), (5, 5), (8, 8), (20, 20), (1, 1), (1, 6), (6, 1), (2, 9), (3, 17)]
TRUE = [
    *((0.6, 0.6), (0.8, 0.8), (0.95, 0.95), (0.5, 0.5), (0.99, 0.99), (1.0, 1.0), (0.0, 0.0)),
    *((0.95, 0.5), (0.2, 0.9), (1.0, 0.3), (0.05, 0.05), (0.7, 0.35)),
]


def scores(tpr: np.ndarray, tnr: np.ndarray, active: int, inactive: int) -> dict[str, np.ndarray]:
    tp, tn, fp, fn = active * tpr, inactive * tnr, inactive * (1 - tnr), active * (1 - tpr)
    with np.errstate(invalid="ignore"):
        precision, npv, f1 = tp / (tp + fp), tn / (tn + fn), 2 * tp / (2 * tp + fp + fn)
    return {"balanced_accuracy": (tpr + tnr) / 2 + 0 * tp, "precision": precision, "npv": npv, "f1": f1}


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_intervals_hold_the_true_score(size: tuple[int, int]) -> None:
    """Where a score exists: over all outcomes in which it does."""
    active, inactive = size
    tp, tn = np.meshgrid(np.arange(active + 1), np.arange(inactive + 1), indexing="ij")
    found = [intervals(a, active - a, b, inactive - b) for a, b in zip(tp.flat, tn.flat, strict=True)]
    exists = scores(tp / active, tn / inactive, *size)
    for tpr, tnr in TRUE:
        weight = np.outer(
            scipy.stats.binom.pmf(range(active + 1), active, tpr),
            scipy.stats.binom.pmf(range(inactive + 1), inactive, tnr),
        )
        true = scores(np.array(tpr), np.array(tnr), *size)
        for figure in FIGURES:
            ends = np.array([of[figure] for of in found]).reshape(*tp.shape, 2)
            known = weight * ~np.isnan(exists[figure])
            held = (ends[..., 0] <= true[figure] + 1e-12) & (true[figure] <= ends[..., 1] + 1e-12)
            if known.sum() > 1e-9:
                assert (known * held).sum() / known.sum() >= 0.93, (figure, tpr, tnr)


@pytest.mark.parametrize("active", [1, 2, 3, 8, 20])
@pytest.mark.parametrize("right", [True, False], ids=["all right", "all wrong"])
def test_no_interval_is_of_no_width(active: int, right: bool) -> None:
    counts = (active, 0, active, 0) if right else (0, active, 0, active)
    for low, high in intervals(*counts).values():
        assert (high == 1 and 0 < low < 0.95) if right else (low == 0 and 0.05 < high < 1)


def test_more_prompts_make_narrower_intervals_and_the_same_counts_the_same() -> None:
    widths = [np.diff(intervals(3 * n, n, 2 * n, 2 * n)["balanced_accuracy"])[0] for n in (1, 2, 5, 50)]
    assert widths == sorted(widths, reverse=True) and widths[-1] < 0.13
    assert intervals(3, 1, 4, 1) == intervals(3, 1, 4, 1)
    low, high = intervals(300, 100, 200, 200)["balanced_accuracy"]
    normal = 1.96 * np.sqrt(0.75 * 0.25 / 400 + 0.5 * 0.5 / 400) / 2
    assert (low, high) == pytest.approx((0.625 - normal, 0.625 + normal), abs=0.004)


@pytest.mark.parametrize("counts", [(4, 2, 0, 0), (0, 0, 3, 1), (0, 0, 0, 0), (1, 0, 0, 0)], ids=str)
def test_without_a_class_there_is_no_interval(counts: tuple[int, int, int, int]) -> None:
    assert np.isnan(list(intervals(*counts).values())).all()
    assert np.isnan(above_baseline(counts, 0.5, 0.1, 10)).all()


def test_a_figure_that_does_not_exist_has_no_interval() -> None:
    assert np.isnan(intervals(0, 4, 4, 0)["precision"]).all(), "nothing was said to be active"
    assert np.isnan(intervals(4, 0, 0, 4)["npv"]).all(), "nothing was said to be inactive"
    assert not np.isnan(intervals(0, 4, 4, 0)["f1"]).any()


# Of the baseline, and above it

Head = tuple[int, int, int, bool, tuple[int, int], tuple[int, int]]  # run, neuron, head, by chance, k and n


@pytest.fixture
def empty() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    create(con)
    return con


def explained(con: duckdb.DuckDBPyConnection, heads: list[Head]) -> pd.DataFrame:
    """Explanations of these heads, told rightly so often: `Store.explanations` of them."""
    columns = ["run", "neuron", "head", "by_chance", "active", "inactive"]
    told = pd.DataFrame(heads, columns=columns)
    for kind in ("active", "inactive"):
        told[f"{kind}_right"], told[kind] = zip(*told[kind], strict=True)
    con.register("told", told.reset_index(names="id"))
    con.execute(
        """INSERT INTO base.next_token_neuron
           SELECT DISTINCT run, 3, neuron, by_chance, 1, 1, 1, 1, 1 FROM told;
           INSERT INTO base.explanation BY NAME
           SELECT id AS explanation_id, run AS run_id, 3 AS layer, neuron, 0 AS source_layer,
                  head AS source_head,
                  'decision_list' AS method, '…' AS text, 0 AS seconds, now() AS made FROM told;
           INSERT INTO base.head_prompt
           SELECT run, 3, neuron, 0, head, i, i < active, true, 0, 0, 0
           FROM told, LATERAL (SELECT unnest(range(active + inactive)) AS i);
           INSERT INTO base.explanation_answer BY NAME
           SELECT id AS explanation_id, i AS prompt, 0 AS seconds,
                  if(i < active, i < active_right, i - active >= inactive_right) AS answer
           FROM told, LATERAL (SELECT unnest(range(active + inactive)) AS i)"""
    )
    return with_intervals(con.execute("FROM explanation_scores ORDER BY explanation_id").df())


NEURONS = (2, 3, 6, 12)  # drawn by chance in a study
OWN, MEAN, SPREAD, STUDIES = 0.75, 0.6, 0.12, 300


def test_the_difference_from_the_baseline_holds_the_true_one(empty: duckdb.DuckDBPyConnection) -> None:
    """Each study draws neurons that differ, with one head or two, and an explanation beside them."""
    draw, heads = np.random.default_rng(0), list[Head]()
    for run in range(1, STUDIES + 1):
        heads.append((run, 0, 0, False, (int(draw.binomial(4, OWN)), 4), (int(draw.binomial(5, OWN)), 5)))
        for neuron in range(1, NEURONS[run % 4] + 1):
            true = float(np.clip(draw.normal(MEAN, SPREAD), 0, 1))
            for head in range(1 + neuron % 2):
                rights = (int(draw.binomial(3, true)), 3), (int(draw.binomial(6, true)), 6)
                heads.append((run, neuron, head, True, *rights))
    found = explained(empty, heads)
    found = found[~found.is_baseline]
    assert len(found) == STUDIES
    for lows, highs, true in (
        (found.difference_low, found.difference_high, OWN - MEAN),
        (found.baseline_low, found.baseline_high, MEAN),
    ):
        held = (lows <= true) & (true <= highs)
        for neurons in NEURONS:
            assert held[found.baseline_neurons == neurons].mean() >= 0.93 - 2 * (0.05 * 0.95 / 75) ** 0.5
        assert held.mean() >= 0.93
    assert (found.beats_baseline == (found.difference_low > 0)).all() and set(found.beats_baseline) == {
        False, True
    }  # fmt: skip
    assert (found.balanced_accuracy > found.baseline).mean() > 4 * found.beats_baseline.mean()


def test_the_baselines_error_is_that_of_clusters(empty: duckdb.DuckDBPyConnection) -> None:
    heads: list[Head] = [
        (1, 1, 0, True, (9, 10), (8, 10)), (1, 1, 1, True, (8, 10), (8, 10)),
        (1, 2, 0, True, (2, 10), (4, 10)), (1, 3, 0, True, (5, 10), (5, 10)),
        (1, 9, 0, False, (10, 10), (9, 10)),
    ]  # fmt: skip
    found = explained(empty, heads)
    values = np.array([0.85, 0.8, 0.3, 0.5])
    [row] = empty.execute(
        "FROM explanation_means WHERE is_baseline AND figure = 'balanced_accuracy'"
    ).df().to_dict("records")  # fmt: skip
    assert row["mean"] == pytest.approx(values.mean()) == found.baseline[0]
    of_neurons = np.array([values[:2].sum() - 2 * values.mean(), *(values[2:] - values.mean())])
    error = np.sqrt((of_neurons**2).sum() * 3 / 2) / 4
    assert row["error"] == pytest.approx(error)
    low = max(0, values.mean() - scipy.stats.t.ppf(0.975, 2) * error)
    assert row["low"] == pytest.approx(low, abs=1e-6) and row["high"] <= 1
    assert (row["heads"], row["neurons"], row["active_prompts"], row["inactive_prompts"]) == (4, 3, 40, 40)


def test_a_baseline_of_equal_scores_is_not_taken_as_known(empty: duckdb.DuckDBPyConnection) -> None:
    """Four neurons at 0.5, of few prompts: the spread between them is 0, the error is not."""
    found = explained(
        empty, [(1, n, 0, True, (1, 2), (1, 2)) for n in range(4)] + [(1, 9, 0, False, (2, 2), (2, 2))]
    )
    assert (found.baseline_error > 0.1).all() and not found.beats_baseline[4]


@pytest.mark.parametrize("drawn", [0, 1])
def test_without_two_neurons_drawn_by_chance_nothing_is_beaten(
    drawn: int, empty: duckdb.DuckDBPyConnection
) -> None:
    heads: list[Head] = [(1, 9, 0, False, (9, 9), (9, 9))]
    found = explained(empty, heads + [(1, n, 0, True, (1, 9), (1, 9)) for n in range(drawn)])
    assert found.beats_baseline[0] is None and np.isnan(found.difference_low[0])
    assert found.baseline_low.isna().all() and found.baseline_high.isna().all()


def test_a_score_above_the_baseline_does_not_beat_it_alone(empty: duckdb.DuckDBPyConnection) -> None:
    drawn: list[Head] = [(1, n, 0, True, (4 + n % 3, 8), (4, 8)) for n in range(8)]
    few, many = (1, 20, 0, False, (2, 2), (2, 2)), (1, 21, 0, False, (20, 20), (20, 20))
    found = explained(empty, [*drawn, few, many])
    assert (found.balanced_accuracy[8:] > found.baseline[8:]).all()
    assert found.beats_baseline[8:].tolist() == [False, True]
    assert found.beats_baseline[:8].tolist() == [None] * 8


# What is shown

HEADS = {
    (1, 5): {f"{word} {last}": last == "the" for word in ("in", "of", "by", "to") for last in ("the", "a")},
    (101, 6): {f"{word} {last}": last == "so" for word in ("as", "at", "on") for last in ("so", "an")},
    (102, 7): {f"{word} {last}": last == "is" for word in ("it", "he") for last in ("is", "we")},
}


def test_n_stands_beside_every_score(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    db = looked_up(tmp_path / "x.duckdb", HEADS)
    app(["explain", "--db", str(db)], standalone_mode=False)
    shown = " ".join(capfd.readouterr().out.split())
    app(["explain", "--db", str(db), "--json"], standalone_mode=False)
    rows = json.loads(capfd.readouterr().out)["explanations"]["rows"]
    assert [(row["active_prompts"], row["inactive_prompts"]) for row in rows] == [(2, 2), (1, 1), (1, 1)]
    for row in rows:
        ends = {f"{name}_{end}" for name in FIGURES for end in ("low", "high")}
        assert ends <= set(row) and row["baseline_neurons"] == row["baseline_heads"] == 2
    assert "2 + 2" in shown and "over 2 heads of 2 neurons" in shown
    assert f"{rows[0]['balanced_accuracy']:.3f} ({rows[0]['balanced_accuracy_low']:.2f} to" in shown
    with connection(db, read_only=False) as con:  # of one class no answer could be read
        con.execute(
            """UPDATE base.explanation_answer SET answer = NULL FROM base.head_prompt h
               WHERE explanation_id = 1 AND h.neuron = 1 AND h.is_active
                 AND h.prompt = explanation_answer.prompt"""
        )
    app(["explain", "--db", str(db)], standalone_mode=False)
    shown = " ".join(capfd.readouterr().out.split())
    assert "0 + 2" in shown and "none: no answer for a class" in shown
