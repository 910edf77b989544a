"""What heads react to: rules that are known are found, scores are scikit-learn's, ablation is Hugging Face's.

Language models are in tests/test_language_model.py.
"""

import ast
import random
import re
from functools import cache
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
import scipy
import torch
from torch import Tensor

import planted
import small
from annotate_transformer import store
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.next_token.ablation import ablate, activation_and_probability
from annotate_transformer.ingest.next_token.decision_list import RULES, DecisionList, learn
from annotate_transformer.ingest.next_token.explain import explain_by_rules
from annotate_transformer.ingest.next_token.held_out import held_out
from annotate_transformer.ingest.next_token.prompts import PromptSettings, look_up
from annotate_transformer.store.database import create
from annotate_transformer.store.scores import FIGURES
from folded import Folded
from handmade import insert
from models import EMBEDDED_PATH, N_TOKENS, annotated, random_model, token_ids
from reference import Reference

EXACT, CLOSE = 1e-9, 1e-4
TEXT = "The Congress of the United States met in the city; the Congress of the United States met again."

# Rules


def prompts_and_kinds(seed: int, known: bool) -> tuple[list[list[str]], list[bool]]:
    """40 prompts of random tokens; active where " keep" stands, or drawn by chance."""
    draw = random.Random(seed)
    words = [f" w{i}" for i in range(30)]
    prompts = [draw.choices(words, k=draw.randint(1, 8)) for _ in range(40)]
    for prompt in prompts[::2]:
        prompt.insert(draw.randint(0, len(prompt)), " keep")
    return prompts, [" keep" in prompt if known else draw.random() < 0.5 for prompt in prompts]


def balanced_accuracy(seed: int, known: bool) -> float:
    """Of rules learned from half of the prompts, over the others."""
    from sklearn import metrics

    prompts, kinds = prompts_and_kinds(seed, known)
    held = held_out(kinds, list(range(len(kinds))), [seed])
    read = [i for i, out in enumerate(held) if not out]
    rules = learn([prompts[i] for i in read], [kinds[i] for i in read])
    if known:
        assert rules == DecisionList([("has ' keep'", True)], False)
    assert rules == learn([prompts[i] for i in read], [kinds[i] for i in read]) and len(rules.rules) <= RULES
    pairs = [(kinds[i], rules(prompts[i])) for i, out in enumerate(held) if out]
    return float(metrics.balanced_accuracy_score(*zip(*pairs, strict=True)))


def test_a_known_rule_is_found_and_one_that_is_not_there_is_worth_nothing() -> None:
    assert {balanced_accuracy(seed, known=True) for seed in range(5)} == {1.0}
    without = [balanced_accuracy(seed, known=False) for seed in range(100)]
    assert abs(np.mean(without) - 0.5) < 4 * np.std(without) / 100**0.5 < 0.1


@pytest.mark.parametrize(
    ("active", "inactive", "told"),
    [
        (["a b", "a c"], ["b a", "c a"], "active if it begins with 'a'; else inactive"),
        (["a b", "c b"], ["b a", "b c"], "active if it ends in 'b'; else inactive"),
        (["a b c", "x a b"], ["a d b", "b a c"], "active if it has 'ab'; else inactive"),
        (["a", "b"], ["c"], "active"),  # a rule that fits a single prompt is none
        (["a"], ["b"], "inactive"),
    ],
)
def test_rules_are_few_and_short(active: list[str], inactive: list[str], told: str) -> None:
    prompts = [prompt.split() for prompt in active + inactive]
    assert str(learn(prompts, [i < len(active) for i in range(len(prompts))])) == told


@pytest.mark.parametrize(("active", "inactive"), [(0, 3), (1, 1), (2, 5), (7, 4), (10, 10)])
def test_half_of_each_kind_is_held_out(active: int, inactive: int) -> None:
    kinds = [True] * active + [False] * inactive
    alone = list(range(len(kinds)))  # no two are near-duplicates
    held = held_out(kinds, alone, [3, 7, 0, 1])
    assert (sum(held[:active]), sum(held[active:])) == (active // 2, inactive // 2)
    assert held == held_out(kinds, alone, [3, 7, 0, 1])
    others = [held_out(kinds, alone, [3, 7, 0, seed]) for seed in range(20)]
    assert active < 2 or len({tuple(other) for other in others}) > 1


# Stored


def test_the_words_alone_give_the_stored_answers(two_steps: Path) -> None:
    """Read as a person would; learned from the prompts that are not held out and no others."""
    s = store.open(two_steps)
    found = s.explanations()
    assert set(found.is_baseline) == {True, False} and found.text.notna().sum() >= 4
    assert set(found.run_id) == {2} and (found.method == "decision_list").all()
    for row in found.to_dict("records"):
        head = ["layer", "neuron", "source_layer", "source_head"]
        prompts = s.sql("FROM head_prompts JOIN prompts USING (run_id, layer, neuron, prompt)")
        prompts = prompts[(prompts[head] == pd.Series(row)[head]).all(axis=1)]
        tokens = {
            of.prompt: tokens_between(s, of.first_position_id, of.position_id) for of in prompts.itertuples()
        }
        answers = s.sql("FROM explanation_answers WHERE explanation_id = $id", {"id": row["explanation_id"]})
        if row["text"] is None:
            assert "2 are needed" in row["why_none"] and answers.empty
            continue
        assert (
            set(answers.prompt) == set(prompts[prompts.is_held_out].prompt) and len(answers) == row["answers"]
        )
        assert answers.answer.tolist() == [fits(row["text"], tokens[prompt]) for prompt in answers.prompt]
        read = prompts[~prompts.is_held_out]
        learned = learn([tokens[prompt] for prompt in read.prompt], read.is_active.tolist())
        assert str(learned) == row["text"]


def tokens_between(s: store.Store, first: int, last: int) -> list[str]:
    query = "SELECT token FROM positions WHERE position_id BETWEEN $first AND $last ORDER BY position_id"
    tokens: list[str] = s.sql(query, {"first": first, "last": last}).token.tolist()
    return tokens


def fits(text: str, tokens: list[str]) -> bool:
    """What an explanation's words say of a prompt."""
    *rules, otherwise = text.split("; else ")
    runs = {(i, j) for i in range(len(tokens)) for j in range(i + 1, min(i + 3, len(tokens)) + 1)}
    for rule in rules:
        kind, where, quoted = re.fullmatch(
            r"(\w+) if it (has|begins with|ends in) (.*)", rule, re.DOTALL
        ).groups()  # type: ignore[union-attr]
        there = {
            (i, j) for i, j in runs if "".join(tokens[i:j]) == ast.literal_eval(quoted)
            and (where != "begins with" or i == 0) and (where != "ends in" or j == len(tokens))
        }  # fmt: skip
        if there:
            return bool(kind == "active")
    return otherwise == "active"


def test_a_head_with_too_few_prompts_has_no_explanation(two_steps: Path) -> None:
    told = store.open(two_steps).explanations()
    none = told[told.text.isna()]
    assert none.balanced_accuracy.isna().all() and none.balanced_accuracy_low.isna().all()


def fired_by_a_head_or_not(model: planted.Planted) -> None:
    """After " keep", which only the previous-token head knows there; and on tokens of its own."""
    planted.previous_token(model)
    W_in, W_out = model.mlp(1)
    W_in[5, planted.PREVIOUS] += 0.2 * model.W_E[planted.KEEP, planted.TOKEN]
    for word in words_beside():
        W_in[5, planted.TOKEN] += 0.2 * model.W_E[token_ids(word)[0], planted.TOKEN]
    W_out[5, planted.OUTPUT] += 0.5 * model.W_U[planted.MIND, planted.OUTPUT]


WORDS = (" the", " of", " and", " in", " to", " was", " for", " with", " by", " from", " that", " his")


@cache
def words_beside() -> list[str]:
    """Return the words whose planted embedding points away from that of " keep"."""
    signs = planted.Planted().W_E[:, planted.TOKEN]
    return [word for word in WORDS if signs[token_ids(word)[0]] @ signs[planted.KEEP] < 0]


def test_a_planted_head_is_explained_and_its_ablation_told(tmp_path: Path) -> None:
    model = Model(resolve(str(planted.planted(tmp_path / "model", fired_by_a_head_or_not))))
    beside = words_beside()
    texts = [f" so keep{word}" for word in WORDS if word not in beside] + [f" city{word}" for word in beside]
    s = annotated(texts, model, tmp_path / "s", samples=2)
    look_up(model, str(s.path), 1, [(1, 5)], PromptSettings(std_threshold=1))
    assert (ablate(model, str(s.path), 1), explain_by_rules(str(s.path), 1)) == (1, 1)
    prompts = s.sql("FROM head_prompts JOIN prompts USING (run_id, layer, neuron, prompt)")
    assert prompts.is_active.tolist() == [text.startswith(" keep") for text in prompts.text]
    [explanation], [ablation] = s.explanations().to_dict("records"), s.ablations().to_dict("records")
    for row in (explanation, ablation):
        assert (row["source_layer"], row["source_head"]) == planted.PREVIOUS_HEAD and row["neuron"] == 5
    assert explanation["text"] == "active if it has ' keep'; else inactive"
    assert [explanation[figure] for figure in FIGURES] == [1, 1, 1, 1]
    assert pd.isna(explanation["beats_baseline"]), "without a neuron drawn by chance nothing is beaten"
    assert ablation["activation_distance"] == 1
    assert ablation["activation_fall_active"] > 10 > 0 > ablation["activation_fall_inactive"]


# Scores


@pytest.fixture
def empty() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    create(con)
    return con


METHODS = (
    {"method": "language_model", "language_model": "m", "prompt_version": 1},
    {"method": "decision_list", "language_model": None, "prompt_version": None},
)


def spent(tokens_in: int, tokens_out: int, cost: float) -> dict[str, float]:
    return {"tokens_in": tokens_in, "tokens_out": tokens_out, "cost": cost, "seconds": 0.1}


def test_scores_are_those_of_scikit_learn(empty: duckdb.DuckDBPyConnection) -> None:
    """Of explanations with answers at random, some missing; a neuron in three is of the baseline."""
    draw, of = np.random.default_rng(0), {}
    for i in range(1, 31):
        kinds, answers = draw.random(8) < 0.5, draw.random(8) < draw.random()
        missing = draw.random(8) < 0.1
        of[i] = kinds[~missing], answers[~missing]
        key, every = {"run_id": 1, "layer": 3, "neuron": i}, range(8)
        insert(empty, "next_token_neuron", [key | {"is_baseline": i % 3 == 0}])
        insert(empty, "neuron_occurrence", [key | {"prompt": p, "duplicate_of": None} for p in every])
        insert(empty, "head_prompt", [key | {"prompt": p, "is_active": bool(kinds[p])} for p in every])
        by = METHODS[i % 2] | {"text": "…", "why_none": None}
        insert(empty, "explanation", [{"explanation_id": i, **key, **by, **spent(7, 1, 0.5)}])
        stored = [None if missing[p] else bool(answers[p]) for p in every]
        rows = [{"explanation_id": i, "prompt": p, "answer": stored[p], **spent(3, 1, 0.25)} for p in every]
        insert(empty, "explanation_answer", rows)
    found = empty.execute("FROM explanation_scores").df().set_index("explanation_id")
    expected = pd.DataFrame({i: figures(*pair) for i, pair in of.items()}).T
    for figure in FIGURES:
        assert found[figure].sort_index().to_numpy(float) == pytest.approx(expected[figure], nan_ok=True)
    assert expected.isna().any().any() and found.unanswered.sum() > 0
    for i, row in found.iterrows():
        alike = [j for j in of if j % 3 == 0 and j % 2 == i % 2]  # the same method, drawn by chance
        mean = np.nanmean([expected.balanced_accuracy[j] for j in alike])
        assert row.baseline == pytest.approx(mean)
        kinds, _ = of[i]
        assert (row.active_prompts, row.inactive_prompts) == (kinds.sum(), (~kinds).sum())
        scored = [j for j in alike if not np.isnan(expected.balanced_accuracy[j])]
        assert row.baseline_heads == row.baseline_neurons == len(scored)
    of_all = "SELECT DISTINCT tokens_in, tokens_out, cost, round(seconds, 6) FROM explanations"
    assert empty.execute(of_all).fetchall() == [(7 + 8 * 3, 1 + 8, 0.5 + 8 * 0.25, 0.9)]


def figures(kinds: np.ndarray, answers: np.ndarray) -> dict[str, float]:
    """By scikit-learn; NaN where it would have to divide by 0."""
    from sklearn import metrics

    both = len(set(kinds)) == 2
    return {
        "balanced_accuracy": metrics.balanced_accuracy_score(kinds, answers) if both else np.nan,
        "precision": metrics.precision_score(kinds, answers, zero_division=np.nan),
        "npv": metrics.precision_score(kinds, answers, pos_label=False, zero_division=np.nan),
        "f1": metrics.f1_score(kinds, answers, zero_division=np.nan),
    }


def test_published_figures_stand_beside(two_steps: Path) -> None:
    found = store.open(two_steps).sql("FROM published_scores").set_index(["model", "is_baseline"])
    assert found.balanced_accuracy.loc["Pythia-160m", False] == 0.621
    assert found.balanced_accuracy.loc["GPT-2 large"].to_dict() == {False: 0.575, True: 0.558}


# Ablation


def test_distances_are_those_of_scipy(empty: duckdb.DuckDBPyConnection) -> None:
    draw = np.random.default_rng(0)
    for i in range(10):
        active = draw.random(12) < 0.4
        before, after = draw.random(12).round(1), draw.random(12).round(1)  # with ties
        p_before, p_after = draw.random(12), draw.random(12)
        key, every = {"run_id": 1, "layer": 3, "neuron": i}, range(12)
        insert(empty, "next_token_neuron", [key])
        insert(empty, "neuron_occurrence", [key | {"prompt": p, "activation": before[p]} for p in every])
        insert(empty, "head_prompt", [
            key | {"prompt": p, "is_active": bool(active[p]), "ablated_activation": after[p],
                   "probability": p_before[p], "ablated_probability": p_after[p]} for p in every
        ])  # fmt: skip
        [row] = empty.execute("FROM ablations WHERE neuron = $i", {"i": i}).df().to_dict("records")
        for name, fall in (
            ("activation", (before.astype(np.float32) - after.astype(np.float32))),
            ("probability", p_before - p_after),
        ):
            both = fall[active], fall[~active]
            assert row[f"{name}_distance"] == pytest.approx(scipy.stats.ks_2samp(*both).statistic)
            means = row[f"{name}_fall_active"], row[f"{name}_fall_inactive"]
            assert means == pytest.approx([np.mean(each) for each in both], abs=1e-6)


class Ablated:
    """Hugging Face's model in float64, by plain hooks; of a head only its constant part is left."""

    def __init__(self, folder: Path) -> None:
        self.reference = Reference(folder, N_TOKENS)
        self.folded = Folded(self.reference.model)

    def read(
        self, ids: list[int], neuron: tuple[int, int], head: tuple[int, int] | None
    ) -> tuple[float, float]:
        """The neuron's activation at the last token, the probability of its next-token there."""
        layers, post = self.reference.model.gpt_neox.layers, list[Tensor]()
        linear = layers[neuron[0]].mlp.dense_4h_to_h
        hooks = [linear.register_forward_pre_hook(lambda module, inputs: post.append(inputs[0][0, -1]))]
        if head is not None:
            dense = layers[head[0]].attention.dense
            hooks.append(
                dense.register_forward_pre_hook(lambda module, inputs: (self._without(*head, inputs[0]),))
            )
        logits = self.reference.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        for hook in hooks:
            hook.remove()
        return float(post[0][neuron[1]]), float(logits.softmax(-1)[self.next_token(*neuron)])

    def _without(self, layer: int, head: int, z: Tensor) -> Tensor:
        block, heads = self.reference.model.gpt_neox.layers[layer], self.reference.n_heads
        qkv = block.attention.query_key_value
        W_V = qkv.weight.view(heads, 3, -1, qkv.in_features)[head, 2]
        constant = W_V @ block.input_layernorm.bias + qkv.bias.view(heads, 3, -1)[head, 2]
        changed = z.clone().view(*z.shape[:2], heads, -1)
        changed[:, :, head] = constant
        return changed.view(z.shape)

    def next_token(self, layer: int, neuron: int) -> int:
        written = self.reference.W_out[layer, neuron].numpy()
        return int((written @ self.folded.W_U)[:N_TOKENS].argmax())


def test_ablation_is_that_of_the_forward_pass(tmp_path: Path) -> None:
    """Every weight, bias and LayerNorm is drawn at random; a head before the neuron and one after it."""
    folder = random_model("pythia-14m", tmp_path / "model")
    model, hf = Model(resolve(str(folder)), dtype=torch.float64), Ablated(folder)
    ids = token_ids(TEXT)
    prompts = [ids, ids[3:9], ids[:1]]
    for neuron, head in (((2, 5), None), ((2, 5), (1, 3)), ((3, 300), (0, 0)), ((1, 7), (4, 2))):
        found = activation_and_probability(model, neuron, prompts, head)
        expected = torch.tensor([hf.read(prompt, neuron, head) for prompt in prompts], dtype=torch.float64)
        assert (found - expected).abs().max() < EXACT
    assert torch.equal(found, activation_and_probability(model, neuron, prompts, head))
    assert not torch.equal(found, activation_and_probability(model, neuron, prompts)), "and it is undone"


def test_stored_ablations(two_steps: Path) -> None:
    s, hf = store.open(two_steps), Ablated(EMBEDDED_PATH)
    rows = s.sql("FROM head_prompts JOIN prompts USING (run_id, layer, neuron, prompt, activation)")
    assert len(rows) > 20
    for row in rows[:: len(rows) // 5].itertuples():
        ids, neuron = token_ids(row.text), (row.layer, row.neuron)
        assert (row.activation, row.probability) == pytest.approx(hf.read(ids, neuron, None), abs=CLOSE)
        ablated = hf.read(ids, neuron, (row.source_layer, row.source_head))
        assert (row.ablated_activation, row.ablated_probability) == pytest.approx(ablated, abs=CLOSE)


@pytest.mark.soak
def test_prompts_are_read_as_the_run_read_them(tiny_model: Path, tmp_path: Path) -> None:
    """With its BOS, and across windows that overlap."""
    model, hf = Model(resolve(str(tiny_model))), Ablated(tiny_model)
    how = {"context": 16, "stride": 5, "bos": True, "top": 9, "samples": 2}
    s = annotated([small.text(30, seed=0)], model, tmp_path / "s", **how)
    look_up(model, str(s.path), 1, [(1, n) for n in range(6)], PromptSettings(windows=9, std_threshold=0.9))
    assert ablate(model, str(s.path), 1) > 0 == ablate(model, str(s.path), 1)
    rows = s.sql("FROM head_prompts JOIN prompts USING (run_id, layer, neuron, prompt, activation)")
    assert rows.tokens.max() > 2 and len(rows) > 10
    places = s.sql("SELECT position_id, token_id FROM positions WHERE char_start IS NOT NULL")
    for row in rows[:: len(rows) // 8].itertuples():
        inside = places[places.position_id.between(row.first_position_id, row.position_id)]
        ids, neuron = [0, *inside.sort_values("position_id").token_id], (row.layer, row.neuron)
        assert len(ids) == row.tokens
        assert (row.activation, row.probability) == pytest.approx(hf.read(ids, neuron, None), abs=CLOSE)
        ablated = hf.read(ids, neuron, (row.source_layer, row.source_head))
        assert (row.ablated_activation, row.ablated_probability) == pytest.approx(ablated, abs=CLOSE)


def test_active_prompts_are_those_of_the_macro(two_steps: Path) -> None:
    """With the std_threshold that the neuron was looked up with; of duplicates the first alone."""
    s = store.open(two_steps)
    heads = "layer, neuron, source_layer, source_head"
    wanted = s.sql(
        f"SELECT {heads}, active_prompts, prompts FROM relevant_heads(std_threshold := 1.5) ORDER BY ALL"
    )
    found = s.sql(
        f"SELECT {heads}, count(*) FILTER (is_active) AS active_prompts, count(*) AS prompts "
        "FROM head_prompts GROUP BY ALL ORDER BY ALL"
    )
    assert len(found) > 3 and found.equals(wanted)
    marked = s.sql("FROM head_prompts JOIN prompts USING (run_id, layer, neuron, prompt)")
    assert marked.duplicate_of.isna().all()
    same = f"FROM active_heads() SEMI JOIN head_prompts USING (run_id, {heads}, prompt)"
    active = f"SELECT {heads}, prompt FROM head_prompts WHERE is_active ORDER BY ALL"
    assert s.sql(f"SELECT {heads}, prompt {same} ORDER BY ALL").equals(s.sql(active))
