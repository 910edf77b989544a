"""Activation and path patching against plain hooks on Hugging Face's model."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from annotate_transformer import ingest, store
from annotate_transformer.ingest.interventions import patch as patch_file
from annotate_transformer.ingest.interventions.patch import patch
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.store.reader import Store
from annotate_transformer.store.running import Direction, Patched, Patching
from asking import Asking
from families import Intervened, in_float64, tiny
from models import annotated, token_ids

CLEAN = token_ids("The Congress of the United States met in the city of")[:12]
CORRUPTED = [*CLEAN]
CORRUPTED[3], CORRUPTED[8] = 300, 77
EXACT = 1e-9
TARGET = Direction((262,), (260,))


def difference(read: Intervened, logits: Tensor) -> float:
    cap = getattr(read.model.config, "final_logit_softcapping", None)
    raw = logits if cap is None else cap * torch.atanh(logits / cap)
    return float(raw[262] - raw[260])


def put(values: Tensor, at: Any, columns: slice, rows: Tensor) -> None:
    rows[at, columns] = values[at, columns]


@pytest.mark.some(3)
@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("noising", [False, True])
def test_patches_are_those_of_plain_hooks(family: str, noising: bool, tmp_path: Path) -> None:
    with in_float64():
        folder = tiny(family, tmp_path / family)
        clean, corrupted = (Intervened(family, folder, ids) for ids in (CLEAN, CORRUPTED))
        base, other = (clean, corrupted) if noising else (corrupted, clean)
        model = Model(resolve(str(folder)), dtype=torch.float64)
        z, post = (other.seen[kind, 1] for kind in ("z", "post"))
        z = z - other.constant[1]
        head = slice(2 * model.d_head, 3 * model.d_head)
        whole = slice(None)
        changes: dict[str, tuple[str, Any, Patched]] = {
            "head": ("z", partial(put, z, whole, head), Patched(1, 2, None, 0)),
            "head_position": ("z", partial(put, z, 8, head), Patched(1, 2, 8, 0)),
            "attn": ("z", partial(put, z, 8, whole), Patched(1, None, 8, 0)),
            "mlp": ("post", partial(put, post, 8, whole), Patched(1, None, 8, 0)),
        }
        for kind, (where, change, place) in changes.items():
            with base.replaced(1, where, change):
                expected = difference(base, base.logits())
            first, second, *found = patch(model, CLEAN, CORRUPTED, TARGET, Patching(kind, noising))
            assert first.logit == pytest.approx(difference(clean, clean.logits()), abs=EXACT)
            assert second.logit == pytest.approx(difference(corrupted, corrupted.logits()), abs=EXACT)
            [here] = [one for one in found if one[:3] == place[:3]]
            assert here.logit == pytest.approx(expected, abs=EXACT), kind
        resid = other.input_of(2)
        with base.input_replaced(2, partial(put, resid, 8, whole)):
            expected = difference(base, base.logits())
        _, _, *found = patch(model, CLEAN, CORRUPTED, TARGET, Patching("resid", noising))
        assert len(found) == model.n_layers * len(CLEAN)
        [here] = [one for one in found if one[:3] == (2, None, 8)]
        assert here.logit == pytest.approx(expected, abs=EXACT)


@pytest.mark.some(2)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("receiver", ["q", "k", "v", "logits"])
def test_a_path_is_that_of_plain_hooks(family: str, receiver: str, tmp_path: Path) -> None:
    with in_float64():
        folder = tiny(family, tmp_path / family)
        clean, base = (Intervened(family, folder, ids) for ids in (CLEAN, CORRUPTED))
        model = Model(resolve(str(folder)), dtype=torch.float64)
        W_O, _ = base.writing(base.module(0, base.names.attention))
        head = slice(model.d_head, 2 * model.d_head)
        sent = (clean.seen["z", 0] - base.seen["z", 0])[:, head] @ W_O[head]  # by L0H1
        if receiver == "logits":
            read = base.final_norm(base.seen["final"] + sent)[-1]
            expected = difference(base, base.model.get_output_embeddings()(read))
            to = ("logits", model.n_layers, 0)
        else:
            changed = base.module(2, base.names.norm)(base.input_of(2) + sent)
            projection = base.module(2, f"self_attn.{receiver}_proj")
            group = 3 if receiver == "q" else 3 // (model.n_heads // model.n_kv_heads)
            rows = slice(group * model.d_head, (group + 1) * model.d_head)

            def received(module: Any, inputs: Any, output: Tensor) -> Tensor:
                output = output.clone()
                output[0, :, rows] = changed_projection[:, rows]
                return output

            changed_projection = projection(changed)
            handle = projection.register_forward_hook(received)
            expected = difference(base, base.logits())
            handle.remove()
            to = (receiver, 2, 3)
        _, unpatched, *found = patch(model, CLEAN, CORRUPTED, TARGET, Patching(receiver=to))
    assert len(found) == to[1] * model.n_heads
    [here] = [one for one in found if one[:2] == (0, 1)]
    assert here.logit == pytest.approx(expected, abs=EXACT)
    assert abs(here.logit - unpatched.logit) > 1e-6


# In a store ----------------------------------------------------------------------------------------

PROMPTS = ("The Congress of the city met. The Congress of", "The people of the city met. The Congress of")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patched") / "made"
    return Path(annotated(["The Congress met."], Model(resolve("neox-2m")), folder).path)


@pytest.fixture(scope="module")
def s(path: Path) -> Store:
    """The store with its model, which is loaded once."""
    return ingest.open(path)


@pytest.mark.parametrize("patching", [Patching("head_position"), Patching(receiver=("k", 3, 2))])
def test_a_patch_is_the_same_in_any_batch(s: Store, patching: Patching, monkeypatch: Any) -> None:
    model = s.runner.model(s.about(1))
    together = patch(model, CLEAN, CORRUPTED, TARGET, patching)
    monkeypatch.setattr(patch_file, "BATCH_TOKENS", 1)
    alone = patch(model, CLEAN, CORRUPTED, TARGET, patching)
    assert [one[:3] for one in together] == [one[:3] for one in alone]
    assert [one.logit for one in together] == pytest.approx([one.logit for one in alone], abs=2e-5)
    assert len({round(one.logit, 3) for one in together}) > 8


def test_what_is_recovered(s: Store) -> None:
    found = s.patch(*PROMPTS, toward=" the", minus=" a")
    assert len(found) == 16
    clean, corrupted = found.attrs["clean"], found.attrs["corrupted"]
    with s.prompt(PROMPTS[0]) as prompt:
        assert clean == pytest.approx(prompt.expression(prompt.last, " the", " a").logit, abs=1e-5)
    assert found.recovered.tolist() == ((found.logit - corrupted) / (clean - corrupted)).tolist()
    resid = s.patch(*PROMPTS, toward=" the", minus=" a", kind="resid")
    last = resid[resid.place == resid.place.max()]
    differing = resid[resid.clean_token != resid.corrupted_token]
    assert differing[differing.layer == 0].recovered.sum() == pytest.approx(1, abs=1e-4)  # one token differs
    assert last[last.layer == 0].recovered.tolist() == pytest.approx([0], abs=1e-4)
    noised = s.patch(*PROMPTS, toward=" the", minus=" a", kind="resid", direction="noising")
    assert noised[noised.clean_token != noised.corrupted_token].recovered.iloc[0] == pytest.approx(
        0, abs=1e-4
    )
    assert "lower logit" not in str(found.attrs["note"])
    turned = s.patch(*PROMPTS, toward=" a", minus=" the")
    assert ("lower logit" in turned.attrs["note"]) == (clean > corrupted)
    to_keys = s.patch(*PROMPTS, to="L3H2.k")
    assert len(to_keys) == 12
    assert [to_keys.attrs[name] for name in ("kind", "direction", "to")] == ["path", "denoising", "L3H2.k"]
    assert len(s.patch(*PROMPTS, to="logits")) == 16


@pytest.mark.parametrize(
    ("prompts", "options", "sentence"),
    [
        (("The city", "The city of"), {}, 'have 2 and 3 tokens; .* Clean: "The" " city"'),
        (("The city", "The city"), {}, "have the same tokens"),
        (PROMPTS, {"kind": "layer"}, "one of head, head_position"),
        (PROMPTS, {"direction": "both"}, "one of denoising, noising"),
        (PROMPTS, {"to": "L3H2"}, r"write L3H2\.q"),
        (PROMPTS, {"to": "L0H2.k"}, "No head is before L0H2"),
        (PROMPTS, {"to": "L9H2.k"}, "has no head L9H2"),
        (PROMPTS, {"toward": " the", "minus": " the"}, "have the same logit"),
    ],
)
def test_patches_that_cannot_be(
    s: Store, prompts: tuple[str, str], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(store.StoreError, match=sentence):
        s.patch(*prompts, **options)


def test_the_command(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, figures = Asking(capsys, monkeypatch, path), [tmp_path / "x.png", tmp_path / "x.svg"]
    drawn = (word for file in figures for word in ("--figure", file))
    said = ask("patch", *PROMPTS, "--toward", " the", "--limit", 4, *drawn)
    assert said.status == 0, said.err
    assert [file.read_bytes()[1:4] for file in figures] == [b"PNG", b"?xm"]
    assert "after the clean prompt" in said.out and "recovered" in said.out
    assert f"The heat map of all 16 patches is in {figures[0]}." in said.err
    told = json.loads(ask("patch", *PROMPTS, "--toward", " the", "--to", "L3H2.k", "--noising", "--json").out)
    assert len(told["patches"]["rows"]) == 12
    refused = ask("patch", "The city", "The city of")
    assert refused.status == 2 and "equally many" in refused.err and refused.out == ""
    refused = ask("patch", *PROMPTS, "--figure", "x.jpeg")
    assert refused.status == 2 and "let it end in .png, .svg or .html" in refused.err
