"""Effects of units over a sample: estimates against Hugging Face's gradients, ablations, statistics."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from annotate_transformer import ingest, store
from annotate_transformer.ingest.errors import SettingsError
from annotate_transformer.ingest.interventions.gradients import Baselines, estimate, means, zeros
from annotate_transformer.ingest.interventions.unit_effects import Plan, measure, summaries
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from asking import Asking
from families import LAYERS, Intervened, in_float64, tiny
from models import annotated, token_ids

IDS = token_ids("The Congress of the United States met in the city of")[:12]
EXACT = 1e-9


@pytest.mark.some(2)
@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "gemma2", "llama"])
def test_estimates_are_gradients_of_hugging_face(family: str, tmp_path: Path) -> None:
    with in_float64():
        folder = tiny(family, tmp_path / family)
        read = Intervened(family, folder, IDS)
        model = Model(resolve(str(folder)), dtype=torch.float64)
        generator = torch.Generator().manual_seed(1)
        drawn = Baselines(
            *(torch.randn(x.shape, generator=generator).double() for x in vars(zeros(model)).values())
        )
        found = estimate(model, IDS, 77, drawn)
        seen: dict[tuple[str, int], torch.Tensor] = {}
        hooks = []
        for i in range(LAYERS):
            for kind, name in (("z", read.names.attention), ("post", read.names.neurons)):

                def hook(module: Any, inputs: Any, key: tuple[str, int] = (kind, i)) -> Any:
                    seen[key] = (
                        inputs[0].detach().requires_grad_() if not inputs[0].requires_grad else inputs[0]
                    )
                    seen[key].retain_grad()
                    return (seen[key], *inputs[1:])

                hooks.append(read.module(i, name).register_forward_pre_hook(hook))
        logits = read.logits()
        cap = getattr(read.model.config, "final_logit_softcapping", None)
        raw = logits if cap is None else cap * torch.atanh(logits / cap)
        (raw[77] - raw.mean()).backward()
        for handle in hooks:
            handle.remove()
    for i in range(LAYERS):
        z, post = seen["z", i], seen["post", i]
        assert z.grad is not None and post.grad is not None
        rows = (z.detach() - read.constant[i]).reshape(len(IDS), model.n_heads, -1) - drawn.z[i]
        heads = (z.grad.reshape(rows.shape) * rows).sum((0, 2))
        activations = post.detach().reshape(len(IDS), -1) - drawn.post[i]
        neurons = (post.grad.reshape(activations.shape) * activations).sum(0)
        torch.testing.assert_close(found.heads[1, i], heads, atol=EXACT, rtol=0)
        torch.testing.assert_close(found.neurons[1, i], neurons, atol=EXACT, rtol=0)
    assert found.logit == pytest.approx(float((raw[77] - raw.mean()).detach()), abs=EXACT)


def test_baselines_are_means_over_all_positions(tmp_path: Path) -> None:
    model = Model(resolve(str(tiny("llama", tmp_path / "llama"))), dtype=torch.float64)
    found = means(model, [IDS, IDS[:5]])
    passes = [model.forward(torch.tensor([ids])) for ids in (IDS, IDS[:5])]
    expected = torch.cat([x.z[2][0] for x in passes]).mean(0)
    torch.testing.assert_close(found.z[2], expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.post[1], torch.cat([x.post[1][0] for x in passes]).mean(0))


# Statistics ----------------------------------------------------------------------------------------


def test_statistics_of_units() -> None:
    rng = np.random.default_rng(3)
    documents = np.repeat(np.arange(40), 5)
    shared = np.repeat(rng.normal(size=40), 5)  # positions of a document are alike
    total = np.stack([1 + shared, shared - shared.mean(), np.zeros(200)], 1)
    direct = np.stack([2 * total[:, 0], -total[:, 1], rng.normal(size=200)], 1)
    first, second, third = summaries(direct, total, documents)
    assert (first["positions"], first["documents"]) == (200, 40)
    assert first["mean_total"] == pytest.approx(total[:, 0].mean())
    assert first["correlation"] == pytest.approx(1)
    assert second["correlation"] == pytest.approx(-1)
    assert third["correlation"] is None and third["p"] == 1
    assert (second["same_sign"], third["same_sign"]) == (0, 0)
    of_documents = 1 + shared[::5]
    error = of_documents.std(ddof=1) / 40**0.5
    assert (first["total_high"] - first["total_low"]) / 2 == pytest.approx(1.96 * error, rel=0.1)
    assert first["p"] < 1e-4 < 0.5 < second["p"]
    alone = summaries(direct, total, np.zeros(200, int))[0]
    assert alone["total_low"] is None and alone["p"] is None


def test_intervals_cover_the_mean() -> None:
    rng, covered = np.random.default_rng(0), 0
    documents = np.repeat(np.arange(30), 4)
    total = np.repeat(rng.normal(size=(30, 400)), 4, axis=0) + rng.normal(size=(120, 400)) * 0.3
    for row in summaries(total, total, documents):
        covered += row["total_low"] <= 0 <= row["total_high"]
    assert 0.9 < covered / 400 < 0.98


# A run ---------------------------------------------------------------------------------------------

TEXTS = [
    "The Congress of the United States met. The Congress met again in the city.",
    "Dublin is the capital of Ireland. London is the capital of England.",
    "Quillamore Freight was a shipping company. Quillamore Freight carried grain.",
]
PLAN = Plan(sample=6, seed=1, replaced_by="mean", exact=4)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(resolve("neox-2m"))


@pytest.fixture
def path(model: Model, tmp_path: Path) -> Path:
    return Path(annotated(TEXTS, model, tmp_path / "made", context=16, stride=8, bos=True).path)


def test_ablated_units_are_those_of_single_ablations(path: Path, model: Model) -> None:
    measure(model, str(path), 1, Plan(5, 1, "zero", 2))
    s = ingest.open(path)
    every = s.sql("FROM unit_effects WHERE effect_method = 'attribution'")
    assert every.kind.astype(str).value_counts().to_dict() == {"neuron": 4 * 512, "head": 16}
    assert every.q.between(0, 1).all() and (every.q >= every.p - 1e-12).all()
    exact = s.sql("FROM unit_effects WHERE effect_method = 'ablation'")
    assert {*exact.is_random} == {True, False} and exact.q.isna().all()
    largest = every[every.kind == "head"].nlargest(1, "mean_abs_total")
    chosen = exact[(exact.kind == "head") & ~exact.is_random]
    assert {(r.layer, r.unit) for r in chosen.itertuples()} <= {
        (r.layer, r.unit) for r in largest.itertuples()
    }
    import random

    ids = s.sql("FROM positions WHERE next_token_id IS NOT NULL ORDER BY position_id").position_id.tolist()
    sampled = sorted(random.Random(1).sample(range(len(ids)), 5))
    for row in exact.itertuples():
        name = f"L{row.layer}{'H' if row.kind == 'head' else 'N'}{row.unit}"
        single = [s.ablate(ids[i], name, keep=False).iloc[0] for i in sampled]
        assert row.mean_total == pytest.approx(np.mean([x.total_effect for x in single]), abs=1e-4)
        assert row.mean_direct == pytest.approx(np.mean([x.direct_effect for x in single]), abs=1e-4)
    assert [finding.check for finding in store.verify(path) if finding.broken] == []


def test_a_stopped_command_goes_on(path: Path, model: Model, tmp_path: Path) -> None:
    other = tmp_path / "unbroken.duckdb"
    other.write_bytes(path.read_bytes())
    measure(model, str(other), 1, PLAN)

    class Stopped(Exception):
        pass

    def stop(what: str, done: int, of: int) -> None:
        if what == "ablated" and done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        measure(model, str(path), 1, PLAN, stop)
    half = len(store.open(path).sql("FROM unit_effects WHERE effect_method = 'ablation'"))
    assert half == 3
    assert measure(model, str(path), 1, PLAN) > 0
    assert measure(model, str(path), 1, PLAN) == 0
    query = "FROM unit_effects ORDER BY ALL"
    assert store.open(path).sql(query).equals(store.open(other).sql(query))


def test_the_command(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Asking(capsys, monkeypatch, path)
    said = ask("effects", "--sample", 6, "--exact", 2)
    assert said.status == 0, said.err
    assert "the model reads at most 54 windows" in said.err
    assert "Accuracy of the estimates, compared with exact" in said.out and "95 % interval" in said.out
    told = json.loads(ask("effects", "--sample", 6, "--exact", 2, "--json").out)
    assert {row["kind"] for row in told["effects"]["rows"]} == {"head", "neuron"}
    refused = ask("effects", "--by", "half")
    assert refused.status == 2 and "must be zero or mean" in refused.err
    with pytest.raises(SettingsError, match="2 or more"):
        Plan(1, 0, "mean", 4).check()
