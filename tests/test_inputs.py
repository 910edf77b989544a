"""What feeds a neuron is what Hugging Face's model adds up there, and its prompts are the shortest there are.

Held against Hugging Face's own forward pass in float64, read by plain hooks (tests/reference.py).
"""

import hashlib
import json
import re
import shutil
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import planted
import small
from annotate_transformer import store
from annotate_transformer.app.cli.commands import app
from annotate_transformer.ingest.errors import ModelError, SettingsError
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.next_token.inputs import neuron_inputs
from annotate_transformer.ingest.next_token.prompts import (
    Context,
    PromptSettings,
    annotate_inputs,
    look_up,
    shortest_contexts,
)
from annotate_transformer.ingest.weights.tables import annotate_weights
from annotate_transformer.store import NoInputs
from annotate_transformer.store.database import connection
from answers import differences, sql
from folded import Folded
from models import EMBEDDED_PATH, N_TOKENS, annotated, random_model, token_ids
from processes import start, until
from reference import Reference, cut

EXACT, CLOSE = 1e-9, 1e-4
TEXT = "The Congress of the United States met in the city; the Congress of the United States met again."
Terms = dict[tuple[Any, ...], Tensor]


class Window:
    """What Hugging Face's model makes of `ids`, and what its neurons read at the last of them."""

    def __init__(self, reference: Reference, folded: Folded, ids: list[int]) -> None:
        self.reference, self.folded = reference, folded
        self.read, self.pre, hooks = {}, {}, []
        for i, block in enumerate(reference.model.gpt_neox.layers):
            norm, linear = block.post_attention_layernorm, block.mlp.dense_h_to_4h
            hooks.append(norm.register_forward_pre_hook(lambda m, x, i=i: self.read.update({i: x[0][0, -1]})))
            hooks.append(linear.register_forward_hook(lambda m, x, y, i=i: self.pre.update({i: y[0, -1]})))
        self.window = reference.window(ids)
        for hook in hooks:
            hook.remove()

    def terms(self, layer: int, neuron: int) -> Terms:
        """(component, layer, head) → its share of the pre-activation"""
        window, reference = self.window, self.reference
        read = torch.from_numpy(self.folded.W_in(layer)[neuron])
        written: Terms = {("embed", None, None): window.embed[-1]}
        attends_before = layer if reference.model.config.use_parallel_residual else layer + 1
        for i in range(attends_before):
            written |= {("head", i, head): x for head, x in enumerate(window.heads[i, -1])}
            written["attn_bias", i, None] = reference.attn_bias[i]
        for i in range(layer):
            written["mlp", i, None] = window.post[i, -1] @ reference.W_out[i]
            written["mlp_bias", i, None] = reference.mlp_bias[i]
        terms = {source: x @ read / reference.scale(self.read[layer]) for source, x in written.items()}
        return terms | {("b_in", None, None): torch.tensor(self.folded.b_in(layer)[neuron])}


class Case:
    """A model's folder, and Hugging Face's model of it in float64."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.reference = folder, Reference(folder, N_TOKENS)
        self.folded = Folded(self.reference.model)

    def window(self, ids: list[int]) -> Window:
        return Window(self.reference, self.folded, ids)

    def activations(self, layer: int, ids: list[int]) -> Tensor:
        """At the last token (neuron,)"""
        inner, seen = self.reference.model.gpt_neox, []
        linear = inner.layers[layer].mlp.dense_4h_to_h
        with linear.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0, -1])):
            inner(torch.tensor([ids]), use_cache=False)
        return seen[0]

    def model(self, dtype: torch.dtype = torch.float32) -> Model:
        return Model(resolve(str(self.folder)), dtype=dtype)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Everything is drawn at random, LayerNorms and biases too."""
    return Case(random_model("pythia-14m", tmp_path_factory.mktemp("random") / "model"))


@pytest.fixture(scope="module")
def model(case: Case) -> Model:
    return case.model()


# The sum


@pytest.mark.parametrize("parallel", [True, False])
def test_the_terms_are_those_of_the_forward_pass(parallel: bool, case: Case, tmp_path: Path) -> None:
    """Blocks one after another have the layer's own heads before its MLP."""
    folder = Path(shutil.copytree(case.folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"use_parallel_residual": parallel}))
    case, ids = Case(folder), token_ids(TEXT)
    model, prompts, neurons = case.model(torch.float64), [ids, ids[3:9], ids[:1]], [5, 300]
    windows = [case.window(prompt) for prompt in prompts]
    for layer in (0, 2, 5):
        found = neuron_inputs(model, layer, neurons, prompts)
        assert (found.values.sum(-1) - found.pre).abs().max() < EXACT
        for (i, window), (j, neuron) in ((a, b) for a in enumerate(windows) for b in enumerate(neurons)):
            terms = window.terms(layer, neuron)
            assert len(terms) == len(found.components)
            expected = torch.stack([terms[tuple(source)] for source in found.components])
            assert (found.values[i, j] - expected).abs().max() < EXACT
            assert abs(found.pre[i, j] - window.pre[layer][neuron]) < EXACT
            assert abs(found.post[i, j] - window.window.post[layer, -1, neuron]) < EXACT


@pytest.mark.some(2)
@pytest.mark.parametrize("how", [{}, {"bos": True, "stride": 5}])
def test_a_position_is_read_as_the_run_read_it(
    how: dict[str, Any], case: Case, model: Model, tmp_path: Path
) -> None:
    """Of windows that overlap too, and of a BOS: as stored, and answered by Python."""
    texts = ["One document before.", TEXT]
    s = annotated(texts, model, tmp_path / "s", context=12, top=2, samples=2, **how)
    bos = 0 if how.get("bos") else None
    cuts = [part for text in texts for part in cut(token_ids(text), 12, how.get("stride"), bos)]
    places = [(part.ids, column) for part in cuts for column, kept in enumerate(part.stored) if kept]
    assert len(cuts) >= 3 and len(places) == len(s.sql("FROM positions"))
    for position_id, layer, neuron in ((0, 5, 1), (9, 1, 2), (20, 5, 3), (len(places) - 1, 3, 511)):
        ids, column = places[position_id]
        window, name = case.window(ids[: column + 1]), f"L{layer}N{neuron}"
        with pytest.raises(NoInputs, match=f"annotate inputs {position_id} {name} --db"):
            s.neuron_inputs(position_id, name)
        assert annotate_inputs(model, str(s.path), 1, position_id, (layer, neuron))
        before = hashlib.sha256(s.path.read_bytes()).hexdigest()
        assert not annotate_inputs(model, str(s.path), 1, position_id, (layer, neuron))
        assert hashlib.sha256(s.path.read_bytes()).hexdigest() == before
        found = s.neuron_inputs(position_id, name)
        values = found.astype(object).where(found.notna(), None).set_index(
            ["component", "source_layer", "source_head"]).value  # fmt: skip
        terms = window.terms(layer, neuron)
        assert len(values) == len(terms) and found.value.abs().is_monotonic_decreasing
        assert max(abs(values[source] - float(term)) for source, term in terms.items()) < CLOSE
        assert found.attrs["pre_activation"] == pytest.approx(float(window.pre[layer][neuron]), abs=CLOSE)
        activation = float(window.window.post[layer, -1, neuron])
        assert found.attrs["activation"] == pytest.approx(activation, abs=CLOSE)
        assert abs(found.value.sum() - found.attrs["pre_activation"]) < CLOSE
    assert not [finding for finding in store.verify(s.path) if finding.broken]


# Prompts


def test_prompts_are_the_shortest_though_activation_is_not_monotone(case: Case, model: Model) -> None:
    ids, layer, longest = token_ids(TEXT), 2, 6
    contexts = [Context([], ids[:end], [], []) for end in range(8, len(ids) + 1, 3)]
    windows = [[case.activations(layer, c.end(n)) for n in range(1, len(c.token_ids) + 1)] for c in contexts]
    not_monotone, without = 0, 0
    for neuron in range(20):
        every = [[float(of_length[neuron]) for of_length in window] for window in windows]
        least = [0.8 * max(values[-1], 0.01) for values in every]
        found = shortest_contexts(model, (layer, neuron), contexts, least, longest)
        for values, limit, tokens in zip(every, least, found, strict=True):
            enough = [value >= limit for value in values]
            assert min(abs(value - limit) for value in values) > 1e-5, "a near tie: choose another neuron"
            assert tokens == next((n for n, holds in enumerate(enough[:longest], 1) if holds), None)
            not_monotone += any(here and not after for here, after in pairwise(enough))
            without += tokens is None
    assert not_monotone > 5 and without > 0


def prompts_of(s: store.Store) -> pd.DataFrame:
    return s.sql(
        "FROM prompts JOIN next_token_neurons USING (run_id, layer, neuron) ORDER BY layer, neuron, prompt"
    )


def test_stored_prompts(two_steps: Path) -> None:
    """Each is a window of the list up to its maximum; the neuron is active on it, and on no shorter one."""
    s, case = store.open(two_steps), Case(EMBEDDED_PATH)
    found = prompts_of(s)
    assert found.groupby(["layer", "neuron"]).size().between(1, 10).all() and len(found) > 20
    assert set(found[~found.is_baseline].neuron) == {359, 492} and found.is_baseline.any()
    assert (found.tokens <= 16).all() and found.closure.abs().max() < CLOSE
    windows = s.sql("FROM neuron_windows WHERE run_id = 2")
    same = found.merge(windows, left_on=["layer", "neuron", "prompt"], right_on=["layer", "neuron", "rank"])
    assert (same.position_id_x == same.position_id_y).all() and len(same) == len(found)
    assert same.window_activation.equals(same.activation_y)
    for row in found[:: len(found) // 6].itertuples():
        ids = s.sql(
            "SELECT token_id FROM positions WHERE position_id BETWEEN $first AND $last ORDER BY position_id",
            {"first": row.first_position_id, "last": row.position_id},
        ).token_id.tolist()
        assert (len(ids), token_ids(row.text)) == (row.tokens, ids)
        ends = [float(case.activations(row.layer, ids[-n:])[row.neuron]) for n in range(1, row.tokens + 1)]
        assert row.activation == pytest.approx(ends[-1], abs=CLOSE)
        assert [end >= 0.8 * row.window_activation for end in ends] == [False] * (len(ids) - 1) + [True]
    texts = found.groupby(["layer", "neuron", "text"]).prompt.transform("min")
    assert found.duplicate_of.fillna(found.prompt).tolist() == texts.tolist()


@pytest.mark.parametrize("std_threshold", [2, 1])
def test_active_and_relevant_heads(std_threshold: int, two_steps: Path) -> None:
    s = store.open(two_steps)
    heads = s.sql("FROM prompt_inputs WHERE component = 'head'")
    of_prompt = heads.groupby(["layer", "neuron", "prompt"]).value
    limit = of_prompt.transform("mean") + std_threshold * of_prompt.transform(
        lambda x: np.std(x.to_numpy(float))
    )
    active = heads[heads.value > limit]
    columns = ["layer", "neuron", "prompt", "source_layer", "source_head"]
    found = s.sql("FROM active_heads(std_threshold := $d)", {"d": std_threshold})
    assert set(found[columns].itertuples(index=False)) == set(active[columns].itertuples(index=False))
    assert 0 < len(found) == len(active)

    prompts = prompts_of(s)[["layer", "neuron", "prompt", "duplicate_of"]]
    different = prompts[prompts.duplicate_of.isna()]
    share = active.merge(different).groupby(["layer", "neuron", "source_layer", "source_head"]).size()
    share = share / different.groupby(["layer", "neuron"]).size()
    low, high, question = 0.2, 0.6, "FROM relevant_heads($low, $high, std_threshold := $d)"
    found = s.sql(question, {"low": low, "high": high, "d": std_threshold})
    shares = found.set_index(["layer", "neuron", "source_layer", "source_head"]).active_fraction
    assert 0 < len(shares) < len(share)
    assert shares.to_dict() == pytest.approx(share[share.between(low, high)].to_dict())
    assert s.sql("FROM relevant_heads(run := 1)").empty


def test_a_neuron_that_a_head_fires_is_found_with_its_head(tmp_path: Path) -> None:
    """It is active one token after " keep", which only the previous-token head knows there."""

    def fired_by_a_head(model: planted.Planted) -> None:
        planted.previous_token(model)
        W_in, W_out = model.mlp(1)
        W_in[5, planted.PREVIOUS] += 0.2 * model.W_E[planted.KEEP, planted.TOKEN]
        W_out[5, planted.OUTPUT] += 0.5 * model.W_U[planted.MIND, planted.OUTPUT]

    model = Model(resolve(str(planted.planted(tmp_path / "model", fired_by_a_head))))
    texts = [" in the city, keep this in mind", " so keep it in mind", " and keep this in the city"]
    s = annotated(texts, model, tmp_path / "s", samples=2)
    annotate_weights(model, str(s.path))
    best = s.weights().next_token_neurons(k=1)
    chosen = list(zip(best.layer, best.neuron, strict=True))[1:]
    assert chosen == [(1, 5)]
    assert look_up(model, str(s.path), 1, chosen, PromptSettings()) == 2
    found = prompts_of(s)
    active = found[~found.is_baseline]
    assert sorted(active.text) == [" keep it", " keep this", " keep this"] and (active.tokens == 2).all()
    assert active.duplicate_of.notna().sum() == 1
    every = "FROM relevant_heads(low := 0.9, high := 1, std_threshold := 1) WHERE NOT is_baseline"
    [head] = s.sql(every).to_dict("records")
    assert (head["source_layer"], head["source_head"]) == planted.PREVIOUS_HEAD
    assert head["active_prompts"] == head["prompts"] == 2


# The commands


@pytest.fixture(scope="module")
def ingested(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    text, model = small.text(30, seed=0), Model(resolve(str(tiny_model)))
    s = annotated([text], model, tmp_path_factory.mktemp("ingested") / "s", context=16, top=9, samples=5)
    annotate_weights(model, str(s.path))
    return s.path


@pytest.fixture
def copy(ingested: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(ingested, tmp_path / "x.duckdb"))


def run(*words: object) -> None:
    """A command in this process; tests/test_ask.py has that an error becomes exit status 2."""
    app([str(word) for word in words], standalone_mode=False)


LOOKUPS = ("next-token", "--layers", "all", "--neurons", 1, "--windows", 9, "--std-threshold", 0.9, "--db")


@pytest.mark.soak
def test_killed_it_goes_on_and_again_adds_nothing(
    ingested: Path, copy: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = Path(shutil.copy(ingested, copy.parent / "whole.duckdb"))
    run(*LOOKUPS, whole)
    running = start(*LOOKUPS, copy, folder=copy.parent)
    until(lambda: "1 of 4" in running.said() or not running.alive)
    running.send(signal.SIGKILL)
    assert running.wait().status == -signal.SIGKILL
    assert not [finding for finding in store.verify(copy) if finding.broken]
    assert 1 <= len(sql(copy, "FROM next_token_neurons")) < 4
    capfd.readouterr()
    run(*LOOKUPS, copy)
    told = capfd.readouterr()
    looked_up = re.findall(r": (\d) of 4: L\dN\d+, ", told.err)
    assert looked_up[-1] == "4" and "1" not in looked_up and "neurons added" in told.out
    assert not differences(whole, copy)
    for view in ("next_token_neurons", "prompts", "prompt_inputs", "head_prompts", "explanation_scores"):
        assert sql(copy, f"FROM {view}"), view
    before = hashlib.sha256(copy.read_bytes()).hexdigest()
    run(*LOOKUPS, copy)
    assert "nothing was added" in capfd.readouterr().out
    assert hashlib.sha256(copy.read_bytes()).hexdigest() == before

    places = sql(copy, "SELECT layer, neuron FROM next_token_neurons WHERE NOT is_baseline")
    asked = Model(resolve(str(tiny_model))), str(copy), 1, places, PromptSettings(windows=9, share=0.5)
    assert look_up(*asked) == 4, "with another setting they are made anew"
    assert sql(copy, "SELECT DISTINCT share FROM next_token_neurons") == [(0.5,)]
    assert not [finding for finding in store.verify(copy) if finding.broken]


def test_the_command_prints_the_sources_strongest_first(
    copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run("inputs", 20, "L1N7", "--db", copy, "-k", 3)
    shown = capfd.readouterr().out
    run("inputs", 20, "L1N7", "--db", copy, "--json")
    answer = json.loads(capfd.readouterr().out)
    rows = answer["inputs"]["rows"]
    assert answer["run"] == 1 and len(rows) == 2 + (2 + 3)
    assert abs(sum(row["value"] for row in rows) - answer["inputs"]["pre_activation"]) < CLOSE
    assert [f"{row['value']:+.3f}" in shown for row in rows] == [True] * 3 + [False] * 4
    assert sql(copy, "SELECT count(*) FROM neuron_inputs") == [(7,)]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("inputs", 10**10, "L1N7"), "has no position"),
        (("inputs", 3, "L9N7"), "only L0N0 to L1N31"),
        (("inputs", 3, "L9H1"), "has no head L9H1"),
        (("next-token", "--layers", "0,2"), "numbers from 0 to 1"),
        (("next-token", "--share", 1), "--share 1.0 must lie between 0 and 1"),
        (("next-token", "--std-threshold", -1), "--std-threshold -1.0 must not be negative"),
        (("next-token", "--windows", 0), "--windows 0 must lie between 1"),
        (("next-token", "--run", 5), "has no run 5"),
    ],
)
def test_a_mistake_is_a_sentence(words: tuple[object, ...], told: str, ingested: Path) -> None:
    with pytest.raises(store.AnnotateError, match=told):
        run(*words, "--db", ingested)


def test_what_a_run_was_made_with_must_be_there(copy: Path, tiny_model: Path, model: Model) -> None:
    with pytest.raises(ModelError, match="now has other weights than run 1"):
        annotate_inputs(model, str(copy), 1, 3, (0, 0))
    with connection(copy, read_only=False) as con:
        con.execute("UPDATE base.run SET status = 'running'")
    with pytest.raises(SettingsError, match="Run 1 is not finished"):
        look_up(Model(resolve(str(tiny_model))), str(copy), 1, [(0, 0)], PromptSettings())
