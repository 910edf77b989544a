"""The example queries are what their headers say: they run, answer, and answer alike each time.

They are asked of two training steps of the embedded model over a cut through the embedded corpus;
some answers are computed a second time in pandas, from plain rows of the views. The functions of the study
of SmolLM2 are tested on the embedded model.
"""

import json
import random
import re
import runpy
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
import torch

from annotate_transformer import store
from annotate_transformer.app.cli.commands import app
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve

QUERIES = Path(__file__).parent.parent / "examples" / "queries"
FILES = sorted(QUERIES.glob("*.sql"))
HEADER = ("title", "question", "why", "parameters")
HOW_MANY = 35
MOST_ROWS = 50
WIDTH = 100

EARLY, LATE = 1, 2  # the runs, in the order they are made

Example = tuple[str, str, str, dict[str, Any], str]


def parse(path: Path) -> Example:
    """Title, question, why, the parameters with their defaults, and the statement."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(rf"-- {name}: (.+)", line) for name, line in zip(HEADER, lines, strict=False)]
    missing = [name for name, match in zip(HEADER, found, strict=True) if match is None]
    assert not missing, f"{path.name} has no line for {missing} where it belongs"
    title, question, why, parameters = (match[1].strip() for match in found if match)
    return title, question, why, _defaults(parameters), "\n".join(lines[len(HEADER) :])


def _defaults(parameters: str) -> dict[str, Any]:
    """`name = literal; …` or `none`: DuckDB says what a literal's value is."""
    if parameters == "none":
        return {}
    literals = dict(part.split(" = ", 1) for part in parameters.split("; "))
    return {name: _value(literal) for name, literal in literals.items()}


def _value(literal: str) -> Any:
    row = duckdb.execute(f"SELECT {literal}").fetchone()
    assert row is not None
    return row[0]


def example(start: str) -> Path:
    """The file whose name starts so; the number alone will do."""
    (path,) = QUERIES.glob(f"{start}*.sql")
    return path


@pytest.fixture(scope="module")
def annotated(two_steps: Path) -> store.Store:
    return store.open(two_steps)


def answer(s: store.Store, path: Path, **changed: Any) -> pd.DataFrame:
    """What the query says with its defaults, but for what is changed."""
    *_, parameters, statement = parse(path)
    assert set(changed) <= set(parameters)
    return s.sql(statement, (parameters | changed) or None)


def test_the_command_takes_a_files_defaults(two_steps: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = example("01")
    app(["sql", "--db", str(two_steps), "-f", str(path), "--format", "jsonl"], standalone_mode=False)
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert len(rows) == len(answer(store.open(two_steps), path))


def test_they_are_numbered_without_a_gap() -> None:
    assert [file.name[:3] for file in FILES] == [f"{number:02d}-" for number in range(1, HOW_MANY + 1)]
    assert all(re.fullmatch(r"\d\d(-[a-z0-9]+)+\.sql", file.name) for file in FILES)


def test_no_two_have_the_same_title_or_question() -> None:
    for texts in zip(*(parse(file)[:2] for file in FILES), strict=True):
        assert len(set(texts)) == HOW_MANY


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_one_readable_question_over_public_names(path: Path) -> None:
    _, question, why, parameters, text = parse(path)
    assert question.endswith("?") and why.endswith(".")
    (statement,) = duckdb.extract_statements(text)
    assert statement.type == duckdb.StatementType.SELECT
    assert statement.named_parameters == set(parameters)
    assert not re.search(r"\bbase\s*\.", text, re.IGNORECASE), "only views and macros are public"
    assert not text.endswith(";"), "a statement without its end can be put into another one"
    assert max(len(line) for line in text.splitlines()) <= WIDTH


@pytest.mark.some(4)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_answers_and_answers_alike(annotated: store.Store, path: Path) -> None:
    first, again = answer(annotated, path), answer(annotated, path)
    assert 1 <= len(first) <= MOST_ROWS
    assert [column for column in first if first[column].isna().all()] == []
    pd.testing.assert_frame_equal(first, again)


OF_ONE_RUN = [path for path in FILES if "run" in parse(path)[3]]
OF_TOKENS_ALONE = {"16-duplicate-windows"}  # any two runs over one corpus have them in common


@pytest.mark.some(4)
@pytest.mark.parametrize("path", OF_ONE_RUN, ids=lambda path: path.stem)
def test_the_latest_finished_run_is_the_default(annotated: store.Store, path: Path) -> None:
    default, early = answer(annotated, path), answer(annotated, path, run=EARLY)
    pd.testing.assert_frame_equal(default, answer(annotated, path, run=LATE))
    assert default.equals(early) == (path.stem in OF_TOKENS_ALONE)


# Computed again ------------------------------------------------------------------------------------


def positions(s: store.Store, run: int = LATE) -> pd.DataFrame:
    return s.sql("FROM positions WHERE run_id = $run ORDER BY position_id", {"run": run})


def test_loss_by_position(annotated: store.Store) -> None:
    found = answer(annotated, example("06"))
    p = positions(annotated).dropna(subset="next_logprob")
    assert found.positions.sum() == len(p)
    starts = [*found.position_from, int(p["position"].max()) + 1]
    for row, (low, high) in zip(found.itertuples(), pairwise(starts), strict=True):
        place = p[p["position"].between(low, high - 1)]
        assert (row.positions, row.position_to) == (len(place), place["position"].max())
        assert row.mean_loss == pytest.approx(-place.next_logprob.mean(), abs=1e-4)
        assert row.share_right == pytest.approx((place.next_rank == 1).mean(), abs=1e-4)


def test_two_training_steps(annotated: store.Store) -> None:
    found = answer(annotated, example("08"))
    keys = ["document_id", "window_id", "position"]
    both = positions(annotated, EARLY).merge(
        positions(annotated, LATE), on=keys, suffixes=("_early", "_late"), validate="one_to_one"
    )
    assert len(both) == len(positions(annotated, LATE)) and (both.token_id_early == both.token_id_late).all()
    change = (np.exp(both.next_logprob_late) - np.exp(both.next_logprob_early)).abs()
    expected = both.loc[change.sort_values(ascending=False).index[: len(found)]]
    assert found[keys].to_numpy().tolist() == expected[keys].to_numpy().tolist()
    gained = expected.next_logprob_late - expected.next_logprob_early
    assert found.gained_nats.to_numpy() == pytest.approx(gained.to_numpy(), abs=1e-3)


def test_induction_heads_and_their_partners(annotated: store.Store) -> None:
    found = answer(annotated, example("10"))
    heads = annotated.sql(f"FROM head_stats WHERE run_id = {LATE}")
    above = (heads.attention_induction - heads.attention_duplicate).sort_values(ascending=False)
    assert found.above_duplicate.to_numpy() == pytest.approx(above.to_numpy(), abs=1e-4)
    for row in found.dropna(subset="previous_layer").itertuples():
        earlier = heads[heads.layer < row.layer]
        best = earlier.loc[earlier.attention_previous.idxmax()]
        assert (row.previous_layer, row.previous_head) == (best.layer, best["head"])
    assert (found[found.previous_layer.isna()].layer == 0).all()


def test_prefixes_of_a_head(annotated: store.Store) -> None:
    found = answer(annotated, example("04"))
    heads = annotated.sql(f"FROM heads WHERE run_id = {LATE} AND layer = 3 AND head = 2")
    p = positions(annotated).merge(heads, on="position_id")
    p["prefix"] = p.groupby("window_id").token.shift() + p.token
    p = p.dropna(subset="prefix")
    level = (p.output_norm.rank(method="min") - 1) / (len(p) - 1)
    active, silent = p[level >= 0.9], p[level < 0.5]
    assert {"active and silent", "active, never silent"} == set(found.head_was)
    for row in found.itertuples():
        assert row.active_at == (active.prefix == row.last_tokens).sum()
        assert row.silent_at == (silent.prefix == row.last_tokens).sum()
        assert (row.silent_at == 0) == (row.head_was == "active, never silent")
    often = set(active.prefix[active.prefix.duplicated()])
    never = found[found.head_was == "active, never silent"]
    assert len(never) == min(20, len(often - set(silent.prefix)))


def test_components_for_90_percent(annotated: store.Store) -> None:
    found = answer(annotated, example("22"))
    terms = annotated.sql(f"FROM contributions WHERE run_id = {LATE}")
    logits = positions(annotated).set_index("position_id").top_logit
    needed: dict[int, int] = {}
    for position_id, effects in terms.groupby("position_id").toward_top:
        reached = effects.sort_values(ascending=False).cumsum() >= 0.9 * logits[position_id]
        count = int(reached.to_numpy().argmax()) + 1
        needed[count] = needed.get(count, 0) + int(logits[position_id] > 0)
    assert dict(zip(found.components, found.predictions, strict=True)) == needed
    assert found.share_so_far.iloc[-1] == 1


def test_neurons_that_cancel(annotated: store.Store) -> None:
    """A layer's neurons sum to its MLP term without the bias, whatever was kept."""
    found = answer(annotated, example("23")).set_index("layer")
    keys = ["position_id", "layer"]
    terms = annotated.sql(f"FROM contributions WHERE run_id = {LATE} AND component = 'mlp'")
    biases = annotated.sql(f"FROM contribution_details WHERE run_id = {LATE} AND component = 'mlp_bias'")
    both = terms.merge(biases, on=keys).dropna(subset="toward_next_x")
    size = (both.toward_next_x - both.toward_next_y).abs().groupby(both.layer).mean()
    assert found.mean_size_of_sum.to_dict() == pytest.approx(size.to_dict(), abs=1e-3)
    assert found.cancelled.between(0, 1).all()


def test_first_and_settled_layers_of_the_lens(annotated: store.Store) -> None:
    found = answer(annotated, example("12"))
    lens = annotated.sql(f"FROM lens WHERE run_id = {LATE}")
    chosen = lens.pivot(index="position_id", columns="layer", values="top_token_id")
    final = positions(annotated).set_index("position_id").top_token_id
    agrees = chosen.eq(final, axis=0).to_numpy()
    first = agrees.argmax(axis=1)
    settled = agrees.shape[1] - np.cumprod(agrees[:, ::-1], axis=1).sum(axis=1)
    layers = range(agrees.shape[1])
    assert found.first_here.tolist() == [(first == layer).sum() for layer in layers]
    assert found.settled_here.tolist() == [(settled == layer).sum() for layer in layers]


def test_a_document_that_stands_twice_is_found(annotated: store.Store) -> None:
    first = answer(annotated, example("16")).iloc[0]
    texts = annotated.sql("FROM documents").set_index("document_id").text
    assert first.whole_window and first.shared == first["size"] == first.other_size
    assert texts[first.document_id] == texts[first.other_document_id]


def test_calibration(annotated: store.Store) -> None:
    found = answer(annotated, example("14"))
    p = positions(annotated).dropna(subset="next_token_id")
    confidence, right = np.exp(p.top_logprob.astype(float)), p.next_token_id == p.top_token_id
    of_bin = (confidence * 10).astype(int).clip(upper=9)
    assert found.predictions.tolist() == of_bin.value_counts().sort_index().tolist()
    gap = (confidence - right).groupby(of_bin).mean()
    assert found.overconfidence.to_numpy() == pytest.approx(gap.to_numpy(), abs=1e-4)


def test_induction_pairs(annotated: store.Store) -> None:
    found = answer(annotated, example("26")).set_index(["layer", "head", "earlier_layer", "earlier_head"])
    p = positions(annotated).set_index("position_id")
    sources = annotated.sql(f"FROM head_sources WHERE run_id = {LATE}")
    before = p.reindex(sources.source_position_id - 1)
    here = p.loc[sources.position_id]
    follows = (before.token_id.to_numpy() == here.token_id.to_numpy()) & (
        before.window_id.to_numpy() == here.window_id.to_numpy()
    )
    induced = sources[follows & (sources.source_position_id < sources.position_id)]
    heads = annotated.sql(f"FROM heads WHERE run_id = {LATE}")
    previous = heads[heads.top_source_position_id == heads.position_id - 1]
    met = induced.merge(previous, left_on="source_position_id", right_on="position_id")
    places = met[met.layer_y < met.layer_x].groupby(["layer_x", "head_x", "layer_y", "head_y"]).size()
    assert found.places.to_dict() == places.loc[found.index].to_dict()
    pairs = annotated.weights(LATE).compositions("K", k=1000).set_index(found.index.names)
    assert found.z.to_numpy() == pytest.approx(pairs.z.loc[found.index].to_numpy(), abs=0.051)
    assert found.index[0][:2] == (3, 2), "the embedded model's induction head"


# The study of SmolLM2 -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study() -> dict[str, Any]:
    """The names of examples/study_smollm2.py."""
    return runpy.run_path(str(QUERIES.parent / "study_smollm2.py"))


@pytest.fixture(scope="module")
def small(study: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, store.Store]:
    """The embedded model, and its store of a few texts of the shuffled corpus."""
    model = Model(resolve("neox-2m"))
    path = tmp_path_factory.mktemp("study") / "corpus.duckdb"
    return model, study["annotated"](model, study["shuffled_corpus"](), path, 500)


def test_the_study_ablates_what_it_says(study: dict[str, Any], small: tuple[Model, store.Store]) -> None:
    model, s = small
    rows = s.sql("FROM positions WHERE next_token_id IS NOT NULL ORDER BY position_id")
    assert study["of_corpus"](model, s) == pytest.approx(rows.next_logprob.to_numpy(float), abs=1e-4)
    tokens = torch.arange(100, 140).view(2, 20)
    ablated = study["logprobs"](model, tokens, [("z", 3, 2)])
    run = model.forward_without((3, 2), 0, tokens)
    logits = (model.normalized(run.final, run.scale) @ model.W_U + model.b_U)[:, :-1]
    expected = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    assert torch.allclose(ablated, expected, atol=1e-4)
    both = study["logprobs"](model, tokens, [("z", 3, 2), ("post", 3, 7)])
    assert not torch.equal(both, ablated)
    assert not torch.equal(study["logprobs"](model, tokens), ablated), "the hooks are gone afterwards"


def test_the_study_takes_its_prompts_apart(
    study: dict[str, Any], small: tuple[Model, store.Store], tmp_path: Path
) -> None:
    s = study["annotated"](small[0], list(study["PROMPTS"].values()), tmp_path / "prompts.duckdb")
    first, *_ = rows = study["predictions"](s)
    assert (len(rows), first["top"]) == (5, "` France`")
    assert first["component"].startswith("L3attn +") and first["head"].startswith("L3H2 (`")
    assert all(float(row["closure error"]) < 1e-4 for row in rows)


def test_the_study_finds_induction_heads(study: dict[str, Any], small: tuple[Model, store.Store]) -> None:
    scores = torch.zeros(3, 4, 4)
    scores[:, 3, 2], scores[:, 1, 0] = 0.7, 0.4
    [row] = study["induction_heads"](small[1], scores)
    assert row["head"] == "L3H2" and row["score"] == "0.700 (0.700 to 0.700)"
    controls = study["others"](small[0], [(3, 2), (3, 1)], random.Random(0))
    assert {*controls} == {(3, 0), (3, 3)}


def test_the_study_resamples_groups(study: dict[str, Any]) -> None:
    values, groups = np.array([1.0, 1.0, 0.0, 0.0]), np.array([7, 7, 9, 9])
    assert study["estimate"](values, groups, 1) == "0.5 (0.0 to 1.0)"
    assert study["estimate"](values, np.zeros(4), 1) == "0.5 (0.5 to 0.5)"


@pytest.mark.soak
def test_the_study_runs_on_the_embedded_model(
    study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study["main"](["--model", "neox-2m", "--tokens", "3000", "--folder", str(tmp_path)])
    assert "| L3H2 | 0.671 (0.660 to 0.683) |" in capsys.readouterr().out
