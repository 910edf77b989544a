"""Ablations against plain hooks on Hugging Face's model, against planted models, and as they are stored."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from annotate_transformer import ingest, store
from annotate_transformer.ingest.interventions.ablate import ablate
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.store.database import connection
from annotate_transformer.store.reader import Store
from annotate_transformer.store.running import Ablation, Direction, Outcome, Part
from annotate_transformer.store.writer import Writer
from asking import Asking
from families import Intervened, Read, in_float64, tiny
from models import annotated, token_ids

IDS = token_ids("The Congress of the United States met in the city; the Congress met.")[:20]
OTHER = token_ids("Dublin is the capital of Ireland, and the city on the river was old.")[:16]
EXACT = 1e-9
FAMILIES = ["gpt_neox", "gpt2", "llama", "gemma2"]


def expected(read: Intervened, changed: Tensor, token: int, minus: int | None = None) -> Outcome:
    """What the change of the logits means for a token or a difference of two."""
    before = read.logits()
    cap = getattr(read.model.config, "final_logit_softcapping", None)
    raw = [x if cap is None else cap * torch.atanh(x / cap) for x in (before, changed)]
    centred = [x - x.mean() for x in raw]
    values = [float(x[token] - (0 if minus is None else x[minus])) for x in centred]
    p, q = before.log_softmax(-1), changed.log_softmax(-1)
    kl = float((p.exp() * (p - q)).sum())
    ranks = [int((x > x[token]).sum()) + 1 for x in raw]
    return Outcome(values[0], values[1], 0.0, kl, float(p[token]), float(q[token]), *ranks)


def assert_same(found: Outcome, wanted: Outcome, *, single: bool = True) -> None:
    names = ["logit", "ablated_logit", "kl"] + single * ["logprob", "ablated_logprob", "rank", "ablated_rank"]
    gaps = {name: abs(getattr(found, name) - getattr(wanted, name)) for name in names}
    assert {name: gap for name, gap in gaps.items() if gap > EXACT} == {}
    assert wanted.kl > 1e-9  # the ablation changes something


@pytest.mark.some(3)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("index", [None, 3, len(IDS) - 1])
def test_zero_ablation_is_that_of_plain_hooks(family: str, index: int | None, tmp_path: Path) -> None:
    with in_float64():
        folder = tiny(family, tmp_path / family)
        read = Intervened(family, folder, IDS)
        model = Model(resolve(str(folder)), dtype=torch.float64)
        at = slice(None) if index is None else index
        heads = slice(2 * model.d_head, 3 * model.d_head)

        def no_head(rows: Tensor) -> None:
            rows[at, heads] = 0

        def no_neurons(rows: Tensor) -> None:
            rows[at, [5, 9]] = 0

        parts = (Part("head", 1, 2), Part("neuron", 0, 5), Part("neuron", 0, 9))
        with read.replaced(1, "z", no_head), read.replaced(0, "post", no_neurons):
            changed = read.logits()
        [found] = ablate(model, IDS, [Ablation(parts, index=index)], Direction((77,)))
        assert_same(found, expected(read, changed, 77))
        [difference] = ablate(model, IDS, [Ablation(parts, index=index)], Direction((77,), (300,)))
        assert_same(difference, expected(read, changed, 77, 300), single=False)
        assert difference.logprob is None and difference.rank is None


@pytest.mark.some(3)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("component", ["attn", "mlp"])
def test_means_and_resampled_values_are_those_of_other_windows(
    family: str, component: str, tmp_path: Path
) -> None:
    kind = "z" if component == "attn" else "post"
    with in_float64():
        folder = tiny(family, tmp_path / family)
        read, other = (Intervened(family, folder, ids) for ids in (IDS, OTHER))
        model = Model(resolve(str(folder)), dtype=torch.float64)
        values = other.seen[kind, 1].clone()
        values -= other.constant[1] if kind == "z" else 0
        part = Part(component, 1)

        def mean(rows: Tensor) -> None:
            rows[:] = values.mean(0)

        with read.replaced(1, kind, mean):
            changed = read.logits()
        [found] = ablate(model, IDS, [Ablation((part,), "mean", None, (tuple(OTHER),))], Direction((77,)))
        assert_same(found, expected(read, changed, 77))
        [found] = ablate(
            model, IDS, [Ablation((part,), "resample", len(IDS) - 1, (tuple(OTHER),), 40)], Direction((77,))
        )
        each = []
        for row in values:

            def one(rows: Tensor, row: Tensor = row) -> None:
                rows[-1] = row

            with read.replaced(1, kind, one):
                each.append(expected(read, read.logits(), 77).ablated_logit)
    drawn = torch.randint(len(OTHER), (40, 1), generator=torch.Generator().manual_seed(0))[:, 0]
    sampled = torch.tensor(each, dtype=torch.float64)[drawn]
    assert found.ablated_logit == pytest.approx(float(sampled.mean()), abs=EXACT)
    assert found.standard_error == pytest.approx(float(sampled.std() / 40**0.5), abs=EXACT)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_the_last_layer_only_sigma_separates_direct_and_total(family: str, tmp_path: Path) -> None:
    with in_float64():
        folder = tiny(family, tmp_path / family)
        read = Read(family, folder, IDS)
        model = Model(resolve(str(folder)), dtype=torch.float64)
        part, last = Part("neuron", model.n_layers - 1, 3), len(IDS) - 1
        target = torch.full((len(IDS),), 77)
        term = float(read.toward(read.written(model.n_heads)[f"neurons {part.layer}"], target)[3, -1])
        outcomes = ablate(
            model, IDS, [Ablation((part,), index=last), Ablation((part,), index=0)], Direction((77,))
        )
    assert outcomes[0].direct_effect == pytest.approx(term, abs=EXACT)
    assert outcomes[1].direct_effect == 0


# Stored effects ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that no test changes."""
    texts = ["The Congress met in the city. The Congress met again.", "Dublin is the capital of Ireland."]
    folder = tmp_path_factory.mktemp("ablated") / "made"
    return Path(annotated(texts, Model(resolve("neox-2m")), folder, bos=True, context=10, stride=5).path)


@pytest.fixture(scope="module")
def opened(made: Path) -> Store:
    """The store with its model, which is loaded once."""
    return ingest.open(made)


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "x.duckdb"))


def test_effects_are_stored_and_not_computed_twice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s = ingest.open(path)
    number = int(s.sql("FROM positions WHERE next_token IS NOT NULL").position_id.iloc[-2])
    found = s.ablate(number, "heads")
    assert len(found) == 16
    heads = s.decomposition(number, "head").toward_next
    assert found.direct_effect.tolist() == pytest.approx(heads.tolist(), abs=1e-4)
    assert found.total_effect.tolist() == (found.logit - found.ablated_logit).tolist()
    assert found.logit[0] == pytest.approx(s.position(number).next_logit, abs=1e-4)
    assert "FROM ablation_effects" in found.attrs["sql"]
    monkeypatch.setattr(s.runner, "ablate", lambda *asked: pytest.fail("computed again"))
    again = s.ablate(number, ["L3H2", "l0h0"])
    assert again.units.tolist() == ["L3H2", "L0H0"]
    assert again.total_effect.tolist() == found.set_index("units").total_effect[["L3H2", "L0H0"]].tolist()
    monkeypatch.undo()
    rows = s.sql("FROM ablation_effects")
    assert (len(rows), {*rows.target_token}) == (16, {s.position(number).next_token})
    others = [
        s.ablate(number, "L3H2", at=number), s.ablate(number, "L3H2", by="mean"),
        s.ablate(number, "L3H2", by="resample", draws=3), s.ablate(number, "L3H2", by="resample", draws=4),
        s.ablate(number, "L3H2", by="mean", seed=1), s.ablate(number, "L3H2", toward="top"),
        s.ablate(number, "L3H2", toward=" the", minus=" a"), s.ablate(number, "L3H2+L3attn"),
    ]  # fmt: skip
    assert len(s.sql("FROM ablation_effects")) == 16 + len(others)
    assert others[2].standard_error[0] > 0 and "estimate" in others[2].attrs["note"]
    s.ablate(number, "L3H2", toward=[" the", " a"])  # a mean of logits is not stored
    s.ablate(number, "L3H2", toward=" of", keep=False)
    assert len(s.sql("FROM ablation_effects")) == 16 + len(others)
    assert [finding.examples for finding in store.verify(path) if finding.broken] == []


def test_effects_are_returned_while_another_process_writes(path: Path) -> None:
    s = ingest.open(path)
    with Writer(path):
        found = s.ablate(7, "L3H2")
    assert "not stored: Another ingest is writing" in found.attrs["note"]
    assert len(s.sql("FROM ablation_effects")) == 0
    assert s.ablate(7, "L3H2").total_effect[0] == pytest.approx(found.total_effect[0])
    assert len(s.sql("FROM ablation_effects")) == 1


def test_a_changed_effect_is_found(path: Path) -> None:
    s = ingest.open(path)
    s.ablate(7, "L3H2")
    with connection(path, read_only=False) as con:
        con.execute("UPDATE base.ablation_effect SET logit = logit + 0.1")
    broken = {finding.check for finding in store.verify(path) if finding.broken}
    assert broken == {"checksums", "ablation effects"}


def test_a_prompt_is_ablated_in_its_own_store(path: Path) -> None:
    s = ingest.open(path)
    with s.prompt("The Congress of the United States met. The Congress of the") as prompt:
        found = prompt.ablate(prompt.last, ["L3H2", "L3mlp"], toward=" United", minus=" city")
        assert found.attrs["target"] == 'logit(" United") - logit(" city")'
        assert len(prompt.sql("FROM ablation_effects")) == 2
    assert len(s.sql("FROM ablation_effects")) == 0


@pytest.mark.parametrize(
    ("units", "options", "sentence"),
    [
        ("L9H1", {}, "neox-2m has no head L9H1"),
        ("L4mlp", {}, "neox-2m has no layer 4"),
        ("L3", {}, "cannot be ablated: write L3H2"),
        ([], {}, "No unit is named"),
        ("L3H2", {"by": "half"}, "one of zero, mean, resample"),
        ("L3H2", {"draws": 0}, "must be from 1 to 1,000"),
        ("L3H2", {"at": 8}, "is not in the window of position 7"),
        ("L3H2", {"toward": "Venticasse"}, "tokens of this vocabulary"),
    ],
)
def test_questions_that_cannot_be_answered(
    opened: Store, units: Any, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(store.StoreError, match=sentence):
        opened.ablate(7, units, **options)


def test_the_command_shows_direct_and_total_effects(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Asking(capsys, monkeypatch, path)
    said = ask("ablate", 7, "heads", "--limit", 3)
    assert said.status == 0, said.err
    assert "total effect" in said.out and "outputs replaced by zero at all tokens" in said.out
    assert len(re.findall(r"^L\dH\d ", said.out, re.MULTILINE)) == 3
    told = json.loads(ask("ablate", 7, "L3H2", "--at", 7, "--json").out)
    assert told["ablations"]["exact"] and told["ablations"]["rows"][0]["at_position_id"] == 7
    refused = ask("ablate", 7, "L3H2", "--by", "half")
    assert refused.status == 2 and "one of zero, mean, resample" in refused.err
