"""Statistics over training steps: curves, the step of half height, changes, and what is learned."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from annotate_transformer import store
from annotate_transformer.store import BadQuestion
from annotate_transformer.store.emergence import LEAST_FALL, STATISTICS, half_height
from annotate_transformer.store.means import RESAMPLES
from pages import Show, html, titles
from processes import annotate

TEXT = [
    f"{name} saw {other}. {name} met {other} in Dublin."
    for name in ("Tom", "Mary")
    for other in ("Ann", "Zoë")
]
STEPS = [0, 512, 6110]


@pytest.fixture(scope="module")
def swept(shared: Any) -> Path:
    """A store with the embedded model's runs at three steps, and its weights at each."""

    def make(folder: Path) -> None:
        (folder / "text.jsonl").write_text(
            "".join(json.dumps({"text": text, "n": n}) + "\n" for n, text in enumerate(TEXT))
        )
        steps = ",".join(map(str, STEPS))
        done = annotate(
            "sweep", "text.jsonl", "--db", "x.duckdb", "--steps", steps, "--samples", 20, folder=folder
        )
        assert done.status == 0, done.err

    return Path(shared("swept", make)) / "x.duckdb"


@pytest.fixture(scope="module")
def s(swept: Path) -> store.Store:
    return store.open(swept)


def runs(s: store.Store) -> dict[int, int]:
    """The run of each step."""
    found = s.sql("SELECT step, run_id FROM runs ORDER BY step")
    return dict(zip(found.step.astype(int), found.run_id.astype(int), strict=True))


def crossing(steps: list[int], curve: list[float]) -> float:
    """The step of half height, found on a fine grid between neighbours instead of by a formula."""
    far = max(curve, key=lambda value: abs(value - curve[0]))
    half = (curve[0] + far) / 2
    grid = np.linspace(math.log1p(steps[0]), math.log1p(steps[-1]), 400_001)
    values = np.interp(grid, np.log1p(steps), curve)
    reached = values >= half if far > curve[0] else values <= half
    return float(math.expm1(grid[reached.argmax()]))


@pytest.mark.parametrize("curve", [[8, 5, 4.5, 3], [0, 0.1, 0.7, 0.4], [1, 1.4, -3, 2], [2, 2, 2, 9]])
def test_half_height_is_where_the_drawn_line_crosses(curve: list[float]) -> None:
    steps = [0, 8, 512, 4000]
    [found] = half_height(np.array(steps, float), np.array([curve], float))
    assert found == pytest.approx(crossing(steps, curve), rel=1e-3)


def test_the_curve_is_that_of_single_runs(s: store.Store) -> None:
    """Each statistic equals the view that it comes from, asked for one run at a time."""
    at = runs(s)
    assert [*at] == STEPS
    loss = s.emergence()
    assert loss.step.tolist() == STEPS
    for row in loss.itertuples():
        one = s.stats(int(row.run_id)).iloc[0]
        assert (row.value, row.low, row.high) == pytest.approx((one.loss, one.loss_low, one.loss_high))
    for row in s.emergence("L2H1", "corpus_induction").itertuples():
        [stats] = s.sql(f"FROM head_stats WHERE run_id = {row.run_id} AND layer = 2 AND head = 1").to_dict(
            "records"
        )
        assert (row.value, row.count) == (stats["attention_induction"], stats["attention_induction_count"])
    for row in s.emergence("L3N7", "congruence").itertuples():
        [weights] = s.sql(
            f"SELECT w.* FROM weight_stats w JOIN runs r USING (model_id) "
            f"WHERE r.run_id = {row.run_id} AND layer = 3 AND neuron = 7"
        ).to_dict("records")
        assert (row.value, row.token) == (weights["congruence"], weights["next_token"])
    best = s.sql("SELECT max(z) AS z FROM head_composition JOIN runs USING (model_id) "
                 f"WHERE run_id = {at[512]} AND kind = 'K' AND layer = 2 AND head = 1").z[0]  # fmt: skip
    found = s.emergence("L2H1", "composition_k")
    assert found.value[found.step == 512].item() == best


def test_every_statistic_is_in_the_view(s: store.Store) -> None:
    found = s.sql(
        "SELECT DISTINCT statistic, CASE WHEN head IS NOT NULL THEN 'head' WHEN neuron IS NOT NULL "
        "THEN 'neuron' ELSE 'model' END AS kind FROM emergence WHERE layer IS NULL OR layer > 0"
    )
    assert {kind: {*of.statistic} for kind, of in found.groupby("kind")} == {
        k: {*v} for k, v in STATISTICS.items()
    }


def test_the_interval_of_the_rise_resamples_documents(s: store.Store) -> None:
    """A bootstrap sample draws documents for all steps at once; here with loops and other random numbers."""
    losses = s.sql(
        "SELECT r.step, p.document_id % 1000 AS document, -p.next_logprob AS loss FROM positions p "
        "JOIN runs r USING (run_id) WHERE p.next_logprob IS NOT NULL"
    )
    of = {key: rows.loss.to_numpy() for key, rows in losses.groupby(["step", "document"])}
    draw = np.random.default_rng(7)
    halves = []
    for _ in range(RESAMPLES):
        documents = draw.integers(len(TEXT), size=len(TEXT))
        curve = [float(np.concatenate([of[step, d] for d in documents]).mean()) for step in STEPS]
        halves.append(half_height(np.array(STEPS, float), np.array([curve]))[0])
    rise = s.rise()
    assert rise.step == pytest.approx(crossing(STEPS, s.emergence().value.tolist()), rel=1e-3)
    assert (rise.after, rise.until, rise.documents) == (0, 512, len(TEXT))
    width = rise.high - rise.low
    assert abs(rise.low - np.quantile(halves, 0.025)) < 0.25 * width
    assert abs(rise.high - np.quantile(halves, 0.975)) < 0.25 * width


@pytest.mark.parametrize(("kind", "statistic"), [("neuron", "mean_abs_effect"), ("head", "random_induction")])
def test_the_largest_changes_come_first(s: store.Store, kind: str, statistic: str) -> None:
    at, rows = runs(s), s.sql(f"FROM emergence WHERE statistic = '{statistic}' AND {kind} IS NOT NULL")
    of_run = {run: part.set_index(["layer", kind]).value for run, part in rows.groupby("run_id")}
    change = (of_run[at[6110]] - of_run[at[0]]).sort_values(key=np.abs, ascending=False)
    found = s.emergence_changes(0, 6110, kind, statistic, 5)
    assert found.change.tolist() == pytest.approx(change.head(5).tolist())
    letter = {"neuron": "N", "head": "H"}[kind]
    assert found[kind].tolist() == [f"L{layer}{letter}{unit}" for layer, unit in change.index[:5]]
    assert found.attrs["total"] == len(change)


def test_one_position_at_every_step_and_when_it_is_learned(s: store.Store) -> None:
    at = runs(s)
    of_runs = {
        step: s.sql(f"FROM positions WHERE run_id = {run} ORDER BY position_id") for step, run in at.items()
    }
    first, last = of_runs[512].position_id.iloc[[0, -1]]
    found = s.position_at_steps(int(first) + 5)
    for row in found.itertuples():
        same = of_runs[row.step].iloc[5]
        assert (row.position_id, row.next_rank, row.top_token) == (
            same.position_id,
            same.next_rank,
            same.top_token,
        )
        assert row.loss == -same.next_logprob
    learned = s.learned(int(first), int(last)).set_index("position_id").step
    seen = set()
    for index, position in enumerate(of_runs[512].position_id):
        losses = [-float(of.next_logprob[index]) for of in of_runs.values()]
        if math.isnan(losses[0]):
            assert position not in learned.index
            continue
        is_learned = losses[0] - min(losses) >= LEAST_FALL
        expected = crossing(STEPS, [min(loss, losses[0]) for loss in losses]) if is_learned else math.nan
        assert learned[position] == pytest.approx(expected, rel=1e-3, nan_ok=True)
        seen.add(is_learned)
    assert seen == {True, False}


def test_what_cannot_be_answered_is_told(s: store.Store, made: Path) -> None:
    with pytest.raises(
        BadQuestion, match=r"No run like run \d has step 7; these steps are there: 0, 512, 6,110"
    ):
        s.emergence_changes(0, 7)
    with pytest.raises(BadQuestion, match="statistic is 'loss'; it must be one of mean_abs_effect"):
        s.emergence("L1H1", "loss")
    with pytest.raises(store.NoSuchUnit):
        s.emergence("L9H1")
    with pytest.raises(BadQuestion, match="has no known training step"):
        store.open(made).emergence()


def test_the_command(swept: Path, s: store.Store, tmp_path: Path) -> None:
    def said(*words: object) -> tuple[str, str]:
        done = annotate("emergence", "--db", swept, *words, folder=tmp_path)
        assert (done.status == 0) != ("annotate: " in done.err)
        return done.out, " ".join(done.err.split())

    out = said("--head", "L2H1", "--plot", "a.svg", "--plot", "a.html")[0]
    assert f"{s.emergence('L2H1').value.iloc[0]:.4f}" in out
    assert "by half" in out and "after step 0 and by step 512" in out
    assert "training step" in (tmp_path / "a.svg").read_text() or "<svg" in (tmp_path / "a.svg").read_text()
    assert "http" not in (tmp_path / "a.html").read_text()
    assert 'src="data:image/svg+xml;base64,' in (tmp_path / "a.html").read_text()
    assert json.loads(said("--json")[0])["loss"]["rows"][0]["step"] == 0
    assert "promotes at step 6,110" in said("--changes", "0,6110", "--kind", "neuron", "-k", 3)[0]
    assert "top prediction" in said("--position", 3)[0]
    assert "two questions" in said("--position", 3, "--head", "L1H1")[1]
    assert "takes two steps" in said("--changes", "3")[1]
    assert "--plot draws a curve" in said("--changes", "0,512", "--plot", "a.png")[1]


def test_metadata_has_types_and_belongs_to_runs(s: store.Store) -> None:
    """Beside Python's reading of the same JSON."""
    rows = s.sql(
        "SELECT run_id, metadata, metadata_text(metadata, 'n') AS text, metadata_number(metadata, 'n') AS n, "
        "metadata_number(metadata, 'm') AS none FROM run_documents ORDER BY run_id, document_id"
    )
    assert len(rows) == len(STEPS) * len(TEXT)
    for row in rows.itertuples():
        n = json.loads(row.metadata)["n"]
        assert (row.text, row.n) == (str(n), n)
        assert pd.isna(row.none)
    hostile = json.dumps({'a.b "c"': "2026-12-01", "d": "no date"}).replace("'", "''")
    [found] = s.sql(
        f"""SELECT metadata_date('{hostile}'::JSON, 'a.b "c"') AS date,
        metadata_date('{hostile}'::JSON, 'd') AS none, metadata_number('{hostile}'::JSON, 'd') AS number"""
    ).to_dict("records")
    assert str(found["date"])[:10] == "2026-12-01"
    assert pd.isna(found["none"]) and pd.isna(found["number"])


def test_the_page(show: Show, swept: Path) -> None:
    assert "The model at every step" in titles(show("training", swept))
    shown = show("training", swept, unit="L2H1", statistic="corpus_previous")
    assert {"L2H1 at every step", "Heads that change most"} <= {*titles(shown)}
    assert any("by half" in caption.value for caption in shown.caption)
    assert "the annotated steps are 0, 512, 6,110" in html(show("training", swept, first=3))
    assert "learned at step" in html(show("text", swept, colour="learned"))


def test_the_page_says_what_it_needs(show: Show, made: Path) -> None:
    assert "annotate sweep" in html(show("training", made))
