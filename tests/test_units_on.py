"""Which neurons and heads distinguish a group of positions: against brute force over the plain views."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from annotate_transformer import ingest as of_ingest
from annotate_transformer import store
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import EMBEDDED, resolve
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.store import BadQuestion, NoModel, NoSuchToken, Store
from annotate_transformer.store.ranks import compared
from asking import Asking
from models import annotated
from small import stopping_after

RUN, ALL = 2, 10**6
GROUPS: list[dict[str, Any]] = [
    {"on": "^ ?[A-Z]"},
    {"on_token": [" the", " of"]},
    {"on": "e", "where": "topic <> 'repeated-names'"},
]


@pytest.fixture(scope="module")
def s(two_steps: Path) -> Store:
    return store.open(two_steps)


@pytest.fixture(scope="module")
def positions(s: Store) -> pd.DataFrame:
    """The run's positions, each with the topic of its document."""
    topics = {row.document_id: json.loads(row.metadata)["topic"] for row in s.documents().itertuples()}
    found = s.sql(f"FROM positions WHERE run_id = {RUN} ORDER BY position_id")
    return found.assign(topic=found.document_id.map(topics)).set_index("position_id")


@pytest.fixture(scope="module")
def sampled(s: Store) -> dict[str, pd.DataFrame]:
    """The sampled values by kind: one row per position, one column per (layer, unit)."""
    found = {}
    for kind in ("neuron", "head"):
        rows = s.sql(f"FROM {kind}_samples WHERE run_id = {RUN}")
        found[kind] = rows.pivot(index="position_id", columns=["layer", kind], values="value").sort_index()
    return found


def inside(rows: pd.DataFrame, group: dict[str, Any]) -> "pd.Series[bool]":
    """Whether each position is in a group, from its row of the view `positions`."""
    known = pd.Series(True, rows.index)
    if "on" in group:
        known &= rows.token.str.contains(group["on"])
    if "on_token" in group:
        known &= rows.token.isin(group["on_token"])
    if "where" in group:
        known &= rows.topic != "repeated-names"
    return known


def by_hand(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Compare values pair by pair, and test them with scipy."""
    pairs = (a[:, None] > b).mean() + (a[:, None] == b).mean() / 2
    pooled = np.sqrt(((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(a) + len(b) - 2))
    p = stats.mannwhitneyu(a, b, method="asymptotic").pvalue
    return {"auroc": pairs, "cohens_d": (a.mean() - b.mean()) / pooled, "p": p, "mean_in": a.mean()}


# The numbers --------------------------------------------------------------------------------------


def test_ranks_with_ties_are_those_of_all_pairs() -> None:
    drawn = np.random.default_rng(3)
    values = drawn.integers(0, 6, size=(5, 40)).astype(float)
    values[4] = 1.0
    flags = np.arange(40) % 3 == 0
    found = compared(values, flags)
    for i in range(4):
        expected = by_hand(values[i, flags], values[i, ~flags])
        assert {name: found[name][i] for name in expected} == pytest.approx(expected)
    assert (found["auroc"][4], found["p"][4]) == (0.5, 1)
    assert np.isnan(found["cohens_d"][4])


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_the_sample_is_compared_exactly(
    s: Store, positions: pd.DataFrame, sampled: dict[str, pd.DataFrame], group: dict[str, Any]
) -> None:
    found = s.units(**group, limit=ALL)
    sizes = {"neuron": 0, "head": 0}
    for row in found.iloc[:: max(1, len(found) // 60)].itertuples():
        values = sampled[row.kind][row.layer, row.unit].dropna()
        rows = positions.loc[values.index]
        flags = inside(rows, group).to_numpy()
        expected = by_hand(values.to_numpy(float)[flags], values.to_numpy(float)[~flags])
        assert row._asdict() == row._asdict() | {
            name: pytest.approx(value, rel=1e-4, abs=1e-9, nan_ok=True) for name, value in expected.items()
        }
        assert (row.n_in, row.n_out) == (flags.sum(), (~flags).sum())
        assert row.documents_in == rows.document_id[flags].nunique()
        sizes[row.kind] += 1
    assert sizes["neuron"] > 0
    assert len(found) == sum(of.shape[1] for of in sampled.values())
    assert found.q.to_numpy() == pytest.approx(stats.false_discovery_control(found.p))
    distance = (found.auroc - 0.5).abs()
    assert distance.is_monotonic_decreasing
    assert not found.attrs["exact"]
    assert found.attrs["note"].startswith(f"sample: the run's random sample of {len(sampled['neuron'])} ")
    assert "not independent" in found.attrs["note"]
    chosen = s.sql(found.attrs["sql"])
    flags = inside(positions.loc[chosen.position_id], group)
    assert chosen.inside.tolist() == flags.tolist()


def test_a_group_of_documents_is_tested_by_document(
    s: Store, positions: pd.DataFrame, sampled: dict[str, pd.DataFrame]
) -> None:
    found = s.units(where="topic = 'repeated-names'", kind="head", limit=ALL)
    for row in found.iloc[::5].itertuples():
        values = sampled["head"][row.layer, row.unit].dropna()
        rows = positions.loc[values.index]
        means = values.groupby(rows.document_id).mean()
        named = rows.groupby("document_id").topic.first() == "repeated-names"
        expected = stats.mannwhitneyu(means[named], means[~named], method="asymptotic").pvalue
        assert row.p == pytest.approx(expected, rel=1e-4)
        assert (row.documents_in, row.documents_out) == (named.sum(), (~named).sum())
    assert "over documents" in found.attrs["note"]


def test_over_rows_heads_are_exact_over_the_run(s: Store, positions: pd.DataFrame) -> None:
    found = s.units(on_token=" the", over="rows", limit=ALL)
    assert found.attrs["exact"]
    assert set(found.kind) == {"head"}
    heads = s.sql(f"FROM heads WHERE run_id = {RUN}").pivot(
        index="position_id", columns=["layer", "head"], values="toward_next"
    )
    assert len(found) == heads.shape[1]
    for row in found.iloc[::4].itertuples():
        values = heads[row.layer, row.unit].dropna()
        flags = (positions.token[values.index] == " the").to_numpy()
        expected = by_hand(values.to_numpy(float)[flags], values.to_numpy(float)[~flags])
        assert {name: getattr(row, name) for name in expected} == pytest.approx(expected, rel=1e-6)


def test_an_unfinished_run_answers_from_what_it_has_reached(tmp_path: Path) -> None:
    db = tmp_path / "stopped.duckdb"
    with Corpus([str(EMBEDDED / "corpus.jsonl")]) as corpus:
        settings = Settings(limit_tokens=9000, shard_tokens=2000)
        ingest(corpus, Model(resolve("neox-2m")), str(db), settings, stop=stopping_after(1))
    reached = store.open(db)
    found = reached.units(on="^ ?[A-Z]", run=1, limit=5)
    assert "unfinished: only the positions that the run has reached" in found.attrs["note"]
    for row in found[found.kind == "neuron"].itertuples():
        values = reached.sql(
            "SELECT value, regexp_matches(token, '^ ?[A-Z]') AS inside FROM neuron_samples "
            f"JOIN positions USING (run_id, position_id) WHERE layer = {row.layer} AND neuron = {row.unit}"
        )
        a, b = (values.value[values.inside == side].to_numpy(float) for side in (True, False))
        assert row.auroc == pytest.approx(by_hand(a, b)["auroc"])


def test_heads_are_left_out_of_tokens_that_end_their_documents(tmp_path: Path) -> None:
    """A question mark has a next token, and so the effects of heads, in three documents alone."""
    texts = [f"Did Tom meet Mary in {place}?" for place in ("Ireland", "England", "France", "the city")] * 3
    texts += [f"Did they meet? In {place}." for place in ("Ireland", "England", "France")]
    made = annotated(texts, Model(resolve("neox-2m")), tmp_path / "made", context=32)
    s = of_ingest.open(made.path)
    for over in ("sample", "model"):
        found = s.units(on=r"^\?$", over=over, limit=ALL)
        assert {*found.kind} == {"neuron"}
        assert (found.n_in == 15).all() and found.auroc.notna().all()
        assert "Heads are left out: 3 positions in the group and" in found.attrs["note"]
    for asked in ({"kind": "head"}, {"over": "rows"}):
        with pytest.raises(BadQuestion, match=r"3 positions in the group .* at least 5 of each are needed"):
            s.units(on=r"^\?$", **asked)


# The model, over a run in which windows overlap and have a BOS ---------------------------------------

TEXTS = [
    "The Congress of the United States met. The Congress met again in the city.",
    "Dublin is the capital of Ireland. London is the capital of England.",
    "The people of the city met. The river is old, and the people of the city know it.",
]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Store:
    model = Model(resolve("neox-2m"))
    folder = tmp_path_factory.mktemp("read") / "made"
    return of_ingest.open(annotated(TEXTS, model, folder, context=16, stride=8, bos=True).path)


def test_the_model_reads_the_values_of_the_run(read: Store) -> None:
    """All positions: heads as in the rows, and neurons with the run's exact means."""
    found = read.units(on="^ the$", over="model", limit=ALL)
    assert found.attrs["exact"]
    rows = read.units(on="^ the$", over="rows", limit=ALL).set_index("name")
    heads = found[found.kind == "head"].set_index("name").loc[rows.index]
    for name in ("mean_in", "mean_out", "n_in", "n_out"):
        assert heads[name].to_numpy() == pytest.approx(rows[name].to_numpy(), abs=1e-5)
    assert heads.auroc.to_numpy() == pytest.approx(rows.auroc.to_numpy(), abs=0.01)
    neurons = found[found.kind == "neuron"].sort_values(["layer", "unit"])
    exact = read.sql("FROM neuron_stats ORDER BY layer, neuron")
    total = neurons.mean_in * neurons.n_in + neurons.mean_out * neurons.n_out
    assert (total / exact["count"].to_numpy()).to_numpy() == pytest.approx(exact["mean"].to_numpy(), abs=1e-5)


def test_the_model_reads_as_many_positions_as_asked_for(read: Store) -> None:
    found = read.units(on="^ the$", over="model", positions=20, limit=3)
    group = found.attrs["group"]
    inside = int(read.sql("SELECT count(*) FROM positions WHERE token = ' the'").iloc[0, 0])
    assert (group["n_in"], group["n_out"]) == (min(10, inside), 20 - min(10, inside))
    assert not found.attrs["exact"]
    pd.testing.assert_frame_equal(found, read.units(on="^ the$", over="model", positions=20, limit=3))


# Bad questions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "Give --on, --on-token or --where"),
        ({"on": "[0-9"}, "is no regular expression"),
        ({"on": "no such token"}, "0 sampled positions are in the group .* In the whole run 0 of"),
        ({"on": "^ ?[0-9]+$"}, "In the whole run 57 of 4,000 are in the group: ask over them"),
        ({"on": ""}, "0 are not"),
        ({"where": "nokey = 1"}, "The metadata of the documents has the keys"),
        ({"where": "topic = '$5 {x}'"}, "0 sampled positions"),
        ({"on": "e", "over": "rows", "kind": "neuron"}, "only heads can be compared"),
        ({"on": "e", "over": "file"}, "over is 'file'"),
        ({"on": "e", "kind": "layer"}, "kind is 'layer'"),
        ({"on": "e", "limit": -1}, "limit is -1"),
        ({"on": "e", "over": "model", "positions": 3}, "positions is 3"),
    ],
    ids=str,
)
def test_a_bad_question_is_answered_with_a_sentence(s: Store, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(BadQuestion, match=told):
        s.units(**asked)


def test_a_token_that_is_not_there_and_a_store_without_models(s: Store) -> None:
    with pytest.raises(NoSuchToken):
        s.units(on_token="no such token")
    with pytest.raises(NoModel):
        s.units(on="e", over="model")


# The command --------------------------------------------------------------------------------------


def test_one_command_says_which_neuron_fires_on_a_token(ask: Asking, s: Store) -> None:
    said = ask("units", "--on-token", " the", "--limit", 3)
    found = s.units(on_token=" the", limit=3)
    assert (said.status, said.err) == (0, "")
    group = found.attrs["group"]
    assert f"{group['n_in']} positions of {group['documents_in']} documents (inside)" in said.out
    assert [
        line.split()[0] for line in said.out.splitlines() if re.match(r"L\d", line)
    ] == found.name.tolist()
    assert "Sample: the run's random sample" in said.out
    answer = json.loads(ask("units", "--on-token", " the", "--limit", 3, "--json").out)
    assert [row["name"] for row in answer["units"]["rows"]] == found.name.tolist()
    assert (answer["run"], answer["units"]["exact"]) == (RUN, False)
    assert answer["units"]["rows"][0]["auroc"] == pytest.approx(found.auroc[0])


@pytest.mark.parametrize("words", [(), ("--on", "[0-9"), ("--where", "nokey = 1"), ("--on", "zzzz")])
def test_a_wrong_command_ends_with_2(ask: Asking, words: tuple[str, ...]) -> None:
    said = ask("units", *words)
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("annotate: ")
