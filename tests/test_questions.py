"""The questions in Python against brute force in pandas over the plain views, and against the text."""

import json
import math
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from duckdb_sqlalchemy import Dialect

from annotate_transformer import store
from annotate_transformer.store import BadQuestion, NoSuchUnit, Store, head, neuron, position
from annotate_transformer.store.database import connection

EARLY, LATE = 1, 2
MODELS = r"1 \(neox-2m step1000\), 2 \(neox-2m main\)"


@pytest.fixture(scope="module")
def s(two_steps: Path) -> Store:
    return store.open(two_steps)


@pytest.fixture(scope="module")
def positions(s: Store) -> pd.DataFrame:
    return s.sql("FROM positions WHERE run_id = 2 ORDER BY position_id")


@pytest.fixture(scope="module")
def texts(s: Store) -> dict[int, str]:
    documents = s.documents()
    return dict(zip(documents.document_id, documents.text, strict=True))


@pytest.fixture(scope="module")
def busiest(s: Store) -> pd.Series:
    """The neuron kept most often."""
    counted = s.sql("SELECT layer, neuron, count(*) AS kept FROM neurons WHERE run_id = 2 GROUP BY ALL")
    return counted.sort_values(["kept", "layer", "neuron"]).iloc[-1]


# Tokens and text


def test_the_last_finished_run_is_meant(s: Store) -> None:
    assert s.run() == LATE
    assert s.run(EARLY) == EARLY
    assert s.stats().run_id.tolist() == [LATE]


@pytest.mark.parametrize(
    ("text", "match", "regex"),
    [
        (" the", "exact", "^ the$"),
        (" th", "prefix", "^ th"),
        ("^ [A-Z]", "regex", "^ [A-Z]"),
        ("THE", "like", "^ *(?i:the) *$"),
    ],
)
def test_tokens_are_counted(s: Store, positions: pd.DataFrame, text: str, match: str, regex: str) -> None:
    found = s.tokens(text, match)
    there = positions[positions.token.str.match(regex)].groupby("token_id").size()
    counted = found[found.occurrences > 0].set_index("token_id").occurrences
    assert len(there) > 0
    assert counted.to_dict() == there.to_dict()
    assert found.occurrences.is_monotonic_decreasing


def test_a_token_by_its_number(s: Store) -> None:
    by_text = s.tokens(" the").iloc[0]
    assert s.tokens(int(by_text.token_id), "id").token.tolist() == [" the"]


def test_occurrences_are_the_text(s: Store, positions: pd.DataFrame, texts: dict[int, str]) -> None:
    every = s.occurrences(" the", limit=10**6, before=10, after=5)
    assert every.position_id.tolist() == positions[positions.token == " the"].position_id.tolist()
    for row in every.itertuples():
        text, low, high = texts[row.document_id], row.char_start, row.char_end
        assert (row.before, row.text, row.after) == (
            text[max(0, low - 10) : low],
            text[low:high],
            text[high : high + 5],
        )
    page = s.occurrences(" the", limit=3, offset=2)
    assert page.position_id.tolist() == every.position_id[2:5].tolist()


@pytest.mark.parametrize("phrase", [" of the", "ing the ", "e", "\n", "capital of"])
def test_a_phrase_is_found_wherever_the_text_has_it(
    s: Store, positions: pd.DataFrame, texts: dict[int, str], phrase: str
) -> None:
    reached = positions.groupby("document_id").char_end.max()
    expected = []
    for document, text in sorted(texts.items()):
        at = text.find(phrase)
        while at >= 0:
            if at + len(phrase) <= reached.get(document, -1):
                expected.append((document, at))
            at = text.find(phrase, at + len(phrase))
    found = s.phrase(phrase, limit=10**6)
    assert len(expected) > 0
    assert list(zip(found.document_id, found.char_start, strict=True)) == expected
    spans = positions.set_index("position_id")
    first, last = spans.loc[found.first_position_id], spans.loc[found.last_position_id]
    assert (first.char_start.to_numpy() <= found.char_start).all()
    assert (first.char_end.to_numpy() > found.char_start).all()
    assert (last.char_end.to_numpy() >= found.char_end).all()
    assert (last.char_start.to_numpy() < found.char_end).all()
    whole = (first.char_start.to_numpy() == found.char_start) & (last.char_end.to_numpy() == found.char_end)
    assert found.whole_tokens.tolist() == whole.tolist()


@pytest.mark.parametrize("text", ["capital of", " capital of", "he cap", " the", "e", "no such text"])
def test_the_macro_phrase_gives_the_rows_of_the_question(s: Store, text: str) -> None:
    by_macro = s.sql("FROM phrase($text)", {"text": text})
    found = s.phrase(text, limit=10**6)
    same = [name for name in by_macro if name != "run_id"]
    order = ["document_id", "char_start"]
    assert found.empty == (text == "no such text")
    assert set(by_macro.run_id) <= {LATE}
    pd.testing.assert_frame_equal(
        by_macro[same].sort_values(order, ignore_index=True),
        found[same].sort_values(order, ignore_index=True),
    )


# One position


@pytest.mark.parametrize("by", ["component", "layer", "term"])
def test_terms_sum_to_the_logit(s: Store, positions: pd.DataFrame, by: str) -> None:
    row = positions.iloc[777]
    terms = s.decomposition(row.position_id, by)
    told = {"exact": True, "complete": True, "total": len(terms), "sql": terms.attrs["sql"]}
    errors = {"component": 2**-24, "layer": None, "term": 0.0005}  # sums over a layer have no entry
    rounded = {name: errors[by] for name in ("toward_next", "toward_top") if errors[by]}
    assert terms.attrs == told | {"rounded": rounded}
    assert len(s.sql(terms.attrs["sql"])) == len(terms)
    assert terms.toward_top.sum() == pytest.approx(row.top_logit, abs=1e-4)
    assert terms.toward_next.sum() == pytest.approx(row.next_logit, abs=1e-4)


@pytest.mark.parametrize(("by", "unit"), [("neuron", "neuron"), ("source", "head")])
def test_what_was_not_kept_is_bounded(s: Store, positions: pd.DataFrame, by: str, unit: str) -> None:
    row = positions.iloc[777]
    terms = s.decomposition(row.position_id, by)
    assert terms.attrs["exact"] is False
    assert all(bound > 0 for bound in terms.attrs["bound"].values())
    shape = s.sql("FROM models WHERE model_id = (SELECT model_id FROM runs WHERE run_id = 2)").iloc[0]
    units = shape.d_mlp if unit == "neuron" else shape.n_heads * (row.position + 1)
    assert (terms.attrs["complete"], terms.attrs["total"]) == (False, shape.n_layers * units)
    assert terms.attrs["rounded"]["toward_top"] == {"neuron": 0.0005, "head": 0.00005}[unit]
    assert {"layer", unit, "toward_next"} <= set(terms.columns)
    sizes = terms.toward_top.abs()
    assert sizes.is_monotonic_decreasing


def test_what_a_position_sends(s: Store) -> None:
    sources = s.sql("FROM head_sources WHERE run_id = 2 AND source_position_id < position_id")
    counts = sources.groupby("source_position_id").size()
    busy = int(counts.idxmax())
    kept = s.sql("FROM head_sources WHERE source_position_id = $p", {"p": busy})
    sent = s.sends(busy, limit=10**6)
    keys = ["layer", "head", "position_id"]
    assert len(sent) > 20
    assert sorted(map(tuple, sent[keys].to_numpy())) == sorted(map(tuple, kept[keys].to_numpy()))
    assert sent.attrs["exact"] is False
    assert (sent.attrs["complete"], sent.attrs["total"]) == (True, len(sent))
    first = s.sends(busy, limit=5)
    assert len(first) == 5 and f"the first 5 of {len(sent):,}" in first.attrs["note"]
    assert (first.attrs["complete"], first.attrs["total"]) == (False, len(sent))
    cut_off = sent[5:][["toward_next", "toward_top"]].abs().max().max()
    assert first.attrs["bound"]["effect_bound"] == max(cut_off, sent.attrs["bound"]["effect_bound"])


def test_a_position_of_another_run_has_its_own_terms(s: Store) -> None:
    early = s.sql("SELECT min(position_id) FROM positions WHERE run_id = 1").iloc[0, 0]
    assert s.position(int(early)).run_id == EARLY


# Neurons and heads


def test_a_neurons_contexts_are_its_lists(s: Store, texts: dict[int, str]) -> None:
    unit = s.neuron("L1N7")
    for side in ("high", "low"):
        brute = s.sql(
            "FROM neuron_top WHERE run_id = 2 AND layer = 1 AND neuron = 7 AND side = $side ORDER BY rank",
            {"side": side},
        )
        found = unit.contexts(side, 7)
        assert found.position_id.tolist() == brute.position_id[:7].tolist()
        assert found.activation.tolist() == brute.activation[:7].tolist()
        row = found.iloc[0]
        assert row.text == texts[row.document_id][row.char_start : row.char_end]
    assert unit.windows(5)["rank"].tolist() == [1, 2, 3, 4, 5]
    assert unit.windows(5).window_id.is_unique


def test_samples_fall_into_bins_of_equal_size(s: Store) -> None:
    values = s.sql("FROM neuron_samples WHERE run_id = 2 AND layer = 1 AND neuron = 7").value
    found = s.neuron("L1N7").quantiles(bins=4, k=3)
    assert found.groupby("bin").size().tolist() == [3, 3, 3, 3]
    assert found.groupby("bin").sampled.first().sum() == len(values)
    assert found.low.min() == values.min()
    assert found.high.max() == values.max()
    assert ((found.low <= found.value) & (found.value <= found.high)).all()
    pd.testing.assert_frame_equal(s.neuron("L1N7").random(9), s.neuron("L1N7").random(9))


@pytest.mark.parametrize("name", ["L1N7", "L1H2"])
def test_an_interval_holds_the_values_of_its_bin(s: Store, name: str) -> None:
    unit = (s.head if "H" in name else s.neuron)(name)
    values = s.sql(f"SELECT value FROM {unit.kind}_samples WHERE run_id = 2 AND layer = 1 AND "
                   f"{unit.kind} = {unit.number} AND value IS NOT NULL").value  # fmt: skip
    bins, seen = unit.histogram(), 0
    for row in bins.itertuples():
        found = unit.interval(row.bin, k=10_000)
        low, high = (
            edge if pd.notna(edge) else sign * math.inf for edge, sign in ((row.low, -1), (row.high, 1))
        )
        rounding = 1e-3  # of the sample: a value may lie on either side of an edge
        assert found.value.between(low - rounding, high + rounding).all()
        assert found.value.between(low + rounding, high - rounding).sum() <= row.positions
        assert found.position_id.is_unique
        seen += len(found)
    assert seen >= len(values)
    assert len(unit.interval(int(bins.bin[bins.positions.argmax()]), k=3)) == 3


@pytest.mark.some(2)
@pytest.mark.parametrize("name", ["L1N7", "L1H2"])
def test_companions_are_those_of_the_samples(s: Store, name: str) -> None:
    values = pd.concat(
        s.sql(f"FROM {kind}_samples WHERE run_id = 2").assign(
            name=lambda rows, letter=letter, kind=kind: (
                "L" + rows.layer.astype(str) + letter + rows[kind].astype(str)
            )
        )
        for kind, letter in (("neuron", "N"), ("head", "H"))
    ).pivot_table(index="position_id", columns="name", values="value")
    brute = values.corrwith(values[name]).drop(name).dropna()
    found = (s.head if "H" in name else s.neuron)(name).companions(k=len(brute))
    assert set(found.name) == set(brute.index)
    assert found.correlation.to_numpy() == pytest.approx(brute[found.name].to_numpy(), abs=1e-9)
    assert found.correlation.abs().is_monotonic_decreasing
    assert {"L1N7", "L3N2"} - {name} <= set(found.name)


def test_histogram_and_statistics_count_every_position(s: Store, positions: pd.DataFrame) -> None:
    for unit in (s.neuron("L1N7"), s.head("L1H2")):
        assert unit.histogram().positions.sum() == unit.stats()["count"]
    assert s.neuron("L1N7").stats()["count"] == len(positions)


def test_tokens_and_effects_of_a_neuron(s: Store, positions: pd.DataFrame, busiest: pd.Series) -> None:
    unit = s.neuron(f"L{busiest.layer}N{busiest.neuron}")
    kept = s.sql(
        "FROM neurons WHERE run_id = 2 AND layer = $layer AND neuron = $neuron",
        {"layer": int(busiest.layer), "neuron": int(busiest.neuron)},
    ).merge(positions, on="position_id")
    tokens = unit.tokens(5)
    first = tokens.iloc[0]
    assert first.kept == kept.groupby("token_id").size().max()
    assert first.occurrences == (positions.token_id == first.token_id).sum()
    mine = kept[kept.token_id == first.token_id]
    assert first.mean_kept_activation == pytest.approx(mine.activation.mean(), abs=1e-6)
    assert tokens.attrs["exact"] is False
    total = kept[kept.next_token_id.notna()].groupby("next_token").toward_next.sum()
    effect = unit.effects(1).iloc[0]
    assert abs(effect.total_effect) == pytest.approx(total.abs().max(), abs=1e-4)


def test_what_a_head_does(s: Store, positions: pd.DataFrame) -> None:
    unit, everywhere = s.head("L1H2"), s.sql("FROM heads WHERE run_id = 2 AND layer = 1 AND head = 2")
    distance = everywhere.position_id - everywhere.top_source_position_id
    found = unit.distances().set_index("distance").positions
    assert found.to_dict() == distance.value_counts().to_dict()
    sources = everywhere.merge(positions, left_on="top_source_position_id", right_on="position_id")
    assert unit.tokens(1).positions.iloc[0] == sources.token_id.value_counts().max()
    following = everywhere.merge(positions, on="position_id").dropna(subset="next_token_id")
    total = following.groupby("next_token_id").toward_next.sum().abs().max()
    assert abs(unit.effects(1).total_effect.iloc[0]) == pytest.approx(total, abs=1e-4)
    acted = following.groupby("token_id")[["toward_next", "top_source_attention"]]
    destination = unit.destinations(1).iloc[0]
    most = acted.sum().toward_next.abs().idxmax()
    assert destination.token_id == most
    assert destination.total_effect == pytest.approx(acted.sum().toward_next[most], abs=1e-4)
    assert destination.mean_attention == pytest.approx(acted.mean().top_source_attention[most], abs=1e-6)
    context = unit.contexts("high", 1).iloc[0]
    source = positions.set_index("position_id").loc[context.top_source_position_id]
    assert context.source_text == source.token
    told = unit.tokens(1).attrs
    assert told.keys() == {"exact", "complete", "total", "rounded", "sql"} and told["exact"]
    assert told["rounded"] == {"mean_attention": 0.00005, "mean_effect": 2**-24}


def test_contexts_read_no_more_of_a_run_than_they_show(s: Store) -> None:
    """What a lookup costs must not grow with the corpus: DuckDB finds the rows by their index."""
    shown: dict[str, Any] = {"k": 5, "side": "high", "before": 60, "after": 40}
    for unit in (s.neuron("L2N1"), s.head("L2H1")):
        question = unit.question("contexts", **shown)
        assert question.run == LATE
        answer = s.sql("EXPLAIN (ANALYZE, FORMAT JSON) " + question.text, question.arguments)
        read = [rows for table, rows in _rows_read(json.loads(answer.iloc[0, 1])) if "position" in table]
        assert read and max(read) <= 5


def test_a_head_of_a_run_going_on_answers_alike(two_steps: Path, tmp_path: Path) -> None:
    """What a finished run has summed and copied is read from all rows before."""
    db = Path(shutil.copy(two_steps, tmp_path))
    finished = store.open(db).head("L3H2")
    macro = "FROM head_contexts(3, 2, run := $run)"
    run = {"run": finished.run}
    wanted = finished.distances(), finished.contexts("both"), finished.session.sql(macro, run)
    with connection(db, read_only=False) as con:
        con.execute("DELETE FROM base.head_offset; DELETE FROM base.top_source")
        con.execute("UPDATE base.run SET status = 'running', finished = NULL")
    going_on = store.open(db).head("L3H2", finished.run)
    pd.testing.assert_frame_equal(going_on.distances(), wanted[0], rtol=1e-6)
    pd.testing.assert_frame_equal(going_on.contexts("both"), wanted[1])
    pd.testing.assert_frame_equal(going_on.session.sql(macro, run), wanted[2])
    with connection(db, read_only=False) as con:  # one position is the first of both lists
        con.execute("UPDATE base.top_entry SET position_id = (run_id - 1) * 10**12 + 3 WHERE rank = 1")
    assert len(store.open(db).sql(macro, {"run": finished.run})) == len(wanted[2])


@pytest.mark.some(3)
@pytest.mark.parametrize("alias", ["p", "n", "h", "e", "b", "t", "s", "d", "asked"])
def test_macros_answer_of_each_row(s: Store, alias: str) -> None:
    """Whatever the table is called that their argument comes from."""
    places = f"(FROM positions WHERE run_id = 2 LIMIT 20) {alias}"
    rows = s.sql(
        f"""SELECT {alias}.top_logit, {alias}.token,
                   (SELECT sum(toward_top) FROM decomposition({alias}.position_id)) AS terms,
                   (SELECT any_value(token) FROM context({alias}.position_id, 1, 1)) AS text
            FROM {places}"""
    )
    assert rows.top_logit.nunique() > 10
    np.testing.assert_allclose(rows.terms, rows.top_logit, atol=1e-4)
    pd.testing.assert_series_equal(rows.text, rows.token, check_names=False)
    heads = s.sql(f"FROM runs {alias}, head_contexts(3, 2, run := {alias}.run_id)")
    assert len(heads) == len(s.sql("FROM head_top WHERE layer = 3 AND head = 2"))
    neurons = s.sql(f"FROM runs {alias}, neuron_contexts(3, 7, run := {alias}.run_id)")
    assert len(neurons) == len(s.sql("FROM neuron_top WHERE layer = 3 AND neuron = 7"))
    for macro in ("token_occurrences(' the', run := {})", "phrase(' the', run := {})"):
        of_one = [len(s.sql(f"FROM {macro.format(run)}")) for run in s.runs().run_id]
        assert len(s.sql(f"FROM runs {alias}, {macro.format(f'{alias}.run_id')}")) == sum(of_one) > 0


def _rows_read(plan: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Each table of a plan that was run, with the rows a scan of it looked at."""
    if "Table" in (about := plan.get("extra_info") or {}):
        yield about["Table"].split(".")[-1], plan["operator_rows_scanned"]
    for part in plan["children"]:
        yield from _rows_read(part)


# Several conditions at once


def test_search_is_the_filter_it_says(s: Store, positions: pd.DataFrame) -> None:
    where = (position.next_rank > 50) & (head("L1H2").toward_next < 0)
    where &= position.token.in_([" the", " of", "."])
    heads = s.sql("FROM heads WHERE run_id = 2 AND layer = 1 AND head = 2")[["position_id", "toward_next"]]
    rows = positions.merge(heads, on="position_id")
    brute = rows[(rows.next_rank > 50) & (rows.toward_next < 0) & rows.token.isin([" the", " of", "."])]
    found = s.search(where, limit=10**6)
    assert len(brute) > 10
    assert found.position_id.tolist() == brute.position_id.tolist()
    assert found.attrs["exact"] is True
    assert found["L1H2_toward_next"].tolist() == brute.toward_next.tolist()
    assert len(s.search(where, limit=3)) == 3
    again = s.sql(s.search(where, limit=10**6).attrs["sql"])
    assert again.position_id.tolist() == found.position_id.tolist()


def test_a_search_may_name_a_head_twice_and_two_neurons_of_a_layer(s: Store) -> None:
    between = (head("L1H2").toward_next > 0.1) & (head("L1H2").toward_next < 0.2)
    brute = s.sql(
        "FROM heads WHERE run_id = 2 AND layer = 1 AND head = 2 AND toward_next > 0.1 AND toward_next < 0.2"
    )
    assert sorted(s.search(between, limit=10**6).position_id) == sorted(brute.position_id)
    assert len(brute) > 10
    names = s.sql(
        "SELECT neuron FROM neurons WHERE run_id = 2 AND layer = 3 GROUP BY neuron ORDER BY count(*) DESC"
    )
    pair = [f"L3N{number}" for number in names.neuron[:2]]
    found = s.search((neuron(pair[0]).activation > 0.1) & (neuron(pair[1]).activation > 0.1), limit=10**6)
    both = s.sql(
        "SELECT position_id FROM neurons WHERE run_id = 2 AND layer = 3 AND neuron IN ($a, $b) "
        "AND activation > 0.1 GROUP BY position_id HAVING count(*) = 2 ORDER BY position_id",
        {"a": int(names.neuron[0]), "b": int(names.neuron[1])},
    )
    assert found.position_id.tolist() == both.position_id.tolist()
    assert len(both) > 0


@pytest.mark.parametrize("limit", [1.0, 0.05, -0.1])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_neuron_that_was_not_kept_counts_as_unknown(
    s: Store, positions: pd.DataFrame, busiest: pd.Series, limit: float, sign: int
) -> None:
    name = f"L{busiest.layer}N{busiest.neuron}"
    here = {"layer": int(busiest.layer), "neuron": int(busiest.neuron)}
    kept = s.sql("FROM neurons WHERE run_id = 2 AND layer = $layer AND neuron = $neuron", here)
    bounds = s.sql("FROM neuron_bounds WHERE run_id = 2 AND layer = $layer", {"layer": here["layer"]})
    rows = positions.merge(bounds, on="position_id").merge(
        kept[["position_id", "activation"]], on="position_id", how="left"
    )
    value = neuron(name).activation
    found = s.search(value > limit if sign > 0 else value < limit, limit=10**6)
    missing, bound = rows.activation.isna(), rows.activation_bound
    if sign > 0:
        holds, unknown = (rows.activation > limit) | (missing & (-bound > limit)), missing & (bound > limit)
        unknown &= ~(-bound > limit)
    else:
        holds, unknown = (rows.activation < limit) | (missing & (bound < limit)), missing & (-bound < limit)
        unknown &= ~(bound < limit)
    assert found.position_id.tolist() == rows[holds].position_id.tolist()
    assert found.attrs["exact"] is (not unknown.any())
    if unknown.any():
        assert found.attrs["bound"] == {"more_positions": unknown.sum()}


def test_what_a_limit_cuts_off_is_told(s: Store) -> None:
    everything = position.position_id.is_not(None)
    positions = len(s.sql("FROM positions WHERE run_id = 2"))
    whole = s.search(everything, limit=positions).attrs
    assert (whole["exact"], whole["complete"], whole["total"]) == (True, True, positions)
    cut = s.search(everything, limit=positions - 1)
    assert (cut.attrs["exact"], cut.attrs["complete"], len(cut)) == (True, False, positions - 1)
    assert cut.attrs["total"] == positions
    assert f"the first {positions - 1:,} of {positions:,}" in cut.attrs["note"]


@pytest.mark.parametrize("question", ["occurrences", "phrase"])
def test_a_page_of_occurrences_tells_how_many_there_are(s: Store, question: str) -> None:
    ask = getattr(s, question)
    everything = ask(" the", 2, limit=10**6)
    n = len(everything)
    assert n > 20
    assert (everything.attrs["complete"], everything.attrs["total"]) == (True, n)
    exactly = ask(" the", 2, limit=n).attrs
    assert (exactly["complete"], exactly["total"], "note" in exactly) == (True, n, False)
    cut = ask(" the", 2, limit=n - 1).attrs
    assert (cut["exact"], cut["complete"], cut["total"]) == (True, False, n)
    assert cut["note"] == f"truncated: the first {n - 1:,} of {n:,}"
    last = ask(" the", 2, limit=5, offset=n - 3)
    assert len(last) == 3
    assert last.attrs["note"] == f"truncated: rows {n - 2:,} to {n:,} of {n:,}"


def test_lists_that_are_shorter_than_the_question_say_so(s: Store) -> None:
    unit = s.neuron("L3N7", 2)
    stored = unit.contexts("high", 10**4)
    n = int(unit.stats()["count"])
    assert (stored.attrs["complete"], stored.attrs["total"]) == (False, n)
    assert unit.contexts("high", len(stored)).attrs["complete"] is True
    drawn = unit.random(10)
    assert (drawn.attrs["exact"], drawn.attrs["complete"], drawn.attrs["total"]) == (True, False, n)
    assert unit.companions(3).attrs["exact"] is False


def test_a_frames_numbers_are_taken_as_they_are(s: Store) -> None:
    """numpy's, of which DuckDB takes none."""
    run, other = s.runs().run_id
    the = s.tokens(" the", run=run).token_id[0]
    places = s.occurrences(the, other)
    assert places.equals(s.occurrences(" the", 2)) and len(places)
    found = s.search((position.token_id == the) & position.run_id.in_([run, other]), other, limit=10**6)
    assert len(found) == s.tokens(the, "id", other).occurrences[0]
    top = s.decomposition(places.position_id[0], "neuron").iloc[0]
    assert s.sql("SELECT $layer AS layer", {"layer": top["layer"]}).layer[0] == top["layer"]
    assert s.neuron_contexts(np.uint8(3), np.uint16(7)).equals(s.neuron_contexts(3, 7))
    assert s.compare(run, other).equals(s.compare(1, None))
    assert s.weights(other).run == 2


def test_duckdb_itself_opens_a_store_that_has_just_answered(s: Store, two_steps: Path) -> None:
    s.runs()  # the file is kept for a moment
    with duckdb.connect(str(two_steps), read_only=True) as con:
        assert con.execute("SELECT count(*) FROM runs").fetchone() == (len(s.runs()),)


@pytest.mark.parametrize("key", ["a.b", 'say "so"', "", "/x", "~0", "$y", "*"])
def test_any_key_of_metadata_is_found(key: str) -> None:
    found = sa.select(position.metadata(key)).compile(
        dialect=Dialect(paramstyle="named"), compile_kwargs={"literal_binds": True}
    )
    with duckdb.connect() as con:
        con.execute("CREATE TABLE documents AS SELECT $1::JSON AS metadata", [json.dumps({key: "v", "z": 1})])
        assert con.execute(str(found)).fetchall() == [("v",)]


def test_the_sql_of_a_search_gives_its_rows(s: Store) -> None:
    found = s.search(position.token.like("% t%") & position.metadata("topic").is_not(None), limit=5)
    pd.testing.assert_frame_equal(s.sql(found.attrs["sql"]), found, check_dtype=False)


def test_search_by_metadata_and_text(s: Store) -> None:
    documents = s.documents()
    topics = documents.metadata.str.extract('"topic": ?"([^"]+)"')[0]
    topic = topics.iloc[0]
    of_topic = position.metadata("topic") == topic
    found = s.search(of_topic & position.token.regexp_match("^ [A-Z]"), limit=10**6)
    assert len(found) > 0
    assert set(found.document_id) <= set(documents.document_id[topics == topic])


def test_two_runs_side_by_side(s: Store) -> None:
    a, b = (s.sql("FROM positions WHERE run_id = $r", {"r": run}) for run in (EARLY, LATE))
    both = a.merge(b, on=["document_id", "window_id", "position"], suffixes=("_a", "_b"))
    change = (both.next_logprob_a - both.next_logprob_b).abs().sort_values(ascending=False)
    found = s.compare(EARLY, LATE, k=50)
    assert found.loss_change.abs().tolist() == pytest.approx(change.head(50).tolist())
    assert (found.loss_b - found.loss_a).tolist() == pytest.approx(found.loss_change.tolist(), abs=1e-5)
    whole = found[~found.token.str.contains(r"\\x", regex=False)]  # not a part of a character
    assert len(whole) > 40 and whole.text.tolist() == whole.token.tolist()
    assert found.before.str.len().max() == 80
    heads = s.compare(EARLY, LATE, "heads")
    assert len(heads) == 16
    assert heads.change.abs().is_monotonic_decreasing
    assert len(s.compare(EARLY, LATE, "neurons", k=5)) == 5


# Other ways in


def test_sqlalchemy_pandas_and_arrow(s: Store, positions: pd.DataFrame) -> None:
    query = "SELECT position_id FROM positions WHERE run_id = 2 ORDER BY position_id"
    assert pd.read_sql(query, s.engine).position_id.tolist() == positions.position_id.tolist()
    with s.engine.connect() as con:
        assert con.execute(sa.text("SELECT count(*) FROM runs")).scalar_one() == 2
    reader = s.arrow(query, rows=1000)
    assert isinstance(reader, pa.RecordBatchReader)
    batches = list(reader)
    assert len(batches) > 1
    assert pa.Table.from_batches(batches)["position_id"].to_pylist() == positions.position_id.tolist()
    nothing = s.arrow("SELECT position_id, token FROM positions WHERE run_id = 99")
    assert nothing.schema.names == ["position_id", "token"]
    assert nothing.read_all().num_rows == 0


@pytest.mark.parametrize("query", ["", "  ;", "-- a comment"])
def test_sql_without_a_statement_is_a_sentence(s: Store, query: str) -> None:
    for ask in (s.sql, s.arrow):
        with pytest.raises(BadQuestion, match="no statement that returns rows"):
            ask(query)


def test_a_unit_by_name_or_by_numbers(s: Store) -> None:
    for unit in (s.neuron("L3N252", 1), s.neuron(3, 252, 1), s.neuron(3, 252, run=1)):
        assert (repr(unit), unit.run) == ("<neuron L3N252 of run 1>", 1)
    assert repr(s.head(1, 2)) == repr(s.head("L1H2")) == "<head L1H2 of run 2>"
    assert s.neuron(3, 252).run == s.run()
    with pytest.raises(NoSuchUnit, match="Layer 3 alone"):
        s.neuron(3)
    with pytest.raises(BadQuestion, match="one run, not 1 and 2"):
        s.neuron(3, 252, 2, run=1)
    with pytest.raises(NoSuchUnit, match="only L0N0 to L3N511"):
        s.neuron(3, 512)
    with pytest.raises(BadQuestion, match="compared with itself"):
        s.compare(1, 1)


def test_what_a_notebook_shows_is_short(s: Store, positions: pd.DataFrame) -> None:
    expression = s.expression(positions.position_id[300])
    assert re.fullmatch(
        r"<logit [+-]\d+\.\d{3} toward next at position \d+: a sum of \d+ terms>", repr(expression)
    )
    assert expression._repr_html_().startswith("<pre>logit(&quot;")
    assert repr(s) == f"<store {s.path}>"
    shown = [s._repr_html_(), s.neuron("L1N7")._repr_html_(), s.head("L1H2")._repr_html_()]
    assert all("<table" in html and len(html) < 5000 for html in shown)


def test_questions_asked_together_find_the_file_open(s: Store, positions: pd.DataFrame) -> None:
    with s.together():
        stream = s.arrow("SELECT position_id FROM positions WHERE run_id = 2", rows=1000)
        first = next(stream)
        assert s.run() == LATE
        assert s.neuron("L1N7").stats()["count"] == len(positions)
        assert len(first) + sum(map(len, stream)) == len(positions), "a question ended the stream"
    assert s._here.con is None


def test_threads_may_share_a_store(s: Store, positions: pd.DataFrame) -> None:
    answers: list[int] = []

    def ask() -> None:
        answers.append(len(s.occurrences(" the", limit=10**6)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [(positions.token == " the").sum()] * 8


# Mistakes


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda s: s.neuron("L9N7"), "has no neuron L9N7, only L0N0 to L3N511"),
        (lambda s: s.neuron("L1H2"), "not a neuron: those are named L0N0 to L3N511"),
        (lambda s: s.head("L1H4"), "has no head L1H4, only L0H0 to L3H3"),
        (lambda s: s.head("one"), "write L3N7 or L1H2"),
        (lambda s: s.run(9), "has no run 9; it has 1, 2"),
        (lambda s: s.position(10**9), "has no position 1000000000"),
        (lambda s: s.decomposition(10**9), "has no position 1000000000"),
        (lambda s: s.sends(10**9), "has no position 1000000000"),
        (lambda s: s.occurrences("THE"), r"No token is exactly 'THE'. There are ' the' \(\d+×\)"),
        (lambda s: s.phrase(""), "at least one character"),
        (lambda s: s.tokens("x", "fuzzy"), "exact, like, prefix, regex, id"),
        (lambda s: s.decomposition(0, "magic"), "by is 'magic'"),
        (lambda s: s.neuron("L0N0").contexts("middle"), "side is 'middle'"),
        (lambda s: s.compare(1, 2, "tokens"), "positions, neurons, heads"),
        (lambda s: s.search(True), "needs a condition"),
        (lambda s: s.search(neuron("L9N7").activation > 2), "has no neuron L9N7, only L0N0"),
        (lambda s: s.search(position.token.regexp_match("(")), "cannot answer the condition: .*missing"),
        (lambda s: s.tokens("(", "regex"), "no regular expression"),
        (lambda s: neuron("L0H1"), "is a head"),
        (lambda s: s.weights(model="neox-2m"), rf"several models of .*: {MODELS}. Give one's number"),
        (lambda s: s.weights(model=7), f"has no model '7'; it has {MODELS}"),
        (lambda s: s.weights(model=1), r"of neox-2m step1000 yet.* those of 2 \(neox-2m main\)"),
        (lambda s: s.weights(2, model=2), "a run or a model"),
        (lambda s: s.neuron_contexts(-1, 5), "has no neuron L-1N5, only L0N0 to L3N511"),
        (lambda s: s.occurrences(10**6), "No token has the id 1000000: they are numbered from 0, to 4095"),
        (lambda s: s.occurrences(" the", limit=-1), "limit is -1; it must be 0 or more"),
        (lambda s: s.phrase("a", offset=-1), "offset is -1"),
        (lambda s: s.sends(5, limit=-1), "limit is -1"),
        (lambda s: s.search(position.next_rank > 1, limit=-1), "limit is -1"),
        (lambda s: s.head("L0H0").contexts(k=-1), "k is -1"),
        (lambda s: s.weights().erasing_neurons(-1), "k is -1"),
        (lambda s: s.tokens("\udcff"), "is no text"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_sentence(s: Store, ask: object, told: str) -> None:
    with pytest.raises(store.StoreError, match=told):
        ask(s)  # type: ignore[operator]


def test_an_unknown_column_names_those_there_are() -> None:
    with pytest.raises(AttributeError, match="positions has no column losses; it has run_id"):
        _ = position.losses
