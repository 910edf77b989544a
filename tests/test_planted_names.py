"""Heads that copy a name: one alone, one with a backup, and one that acts only through a later head.

The models have no noise, so that every effect has a closed form. It is compared with our effects, and with
those of plain hooks on Hugging Face's model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from annotate_transformer.ingest.interventions.ablate import ablate
from annotate_transformer.ingest.interventions.patch import patch
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.store.running import Ablation, Direction, Outcome, Part, Patching
from families import in_float64
from planted import (
    BACKUP_HEAD,
    HEADS,
    LATER_HEAD,
    NAME_HEAD,
    PART,
    WRITTEN,
    Circuit,
    Names,
    Planted,
    backup,
    copying,
    in_two_steps,
    name_mover,
    planted,
    previous_token,
)

Head = tuple[int, int]
EPS = 1e-5  # of every LayerNorm
NAMES = Names.of(Planted(noise=0).W_E)
MARY, JOHN = NAMES.names
CLEAN, CORRUPTED, NAMELESS = (NAMES.prompt(name) for name in (MARY, JOHN, None))
TARGET = Direction((MARY,), (JOHN,))
EXACT = pytest.approx


def scale(*sizes: float) -> float:
    """σ of a residual stream whose token part has the signs times 2, and other parts signs times these."""
    return sqrt((4 + sum(size**2 for size in sizes)) / 4 + EPS)


WROTE = WRITTEN / scale()  # by a head of layer 0
DIFFERENCE = WROTE * 2 * PART / scale(WROTE)  # logit of the name minus that of the other, which is orthogonal


@dataclass
class Case:
    """A planted model in float64 and its folder."""

    folder: Path
    model: Model

    def outcome(self, *heads: Head, tokens: list[int] = CLEAN) -> Outcome:
        """What zero-ablating these heads together changes."""
        [found] = ablate(self.model, tokens, [Ablation(tuple(Part("head", *head) for head in heads))], TARGET)
        return found

    def patched(self, corrupted: list[int], **how: Any) -> dict[Head, float]:
        """The difference with each head (or path) patched, by head."""
        clean, unpatched, *found = patch(self.model, CLEAN, corrupted, TARGET, Patching(**how))
        assert clean.logit == EXACT(self.plain()[0], abs=1e-6)
        assert unpatched.logit == EXACT(self.plain(tokens=corrupted)[0], abs=1e-6)
        return {(one.layer, one.head): one.logit for one in found}  # type: ignore[misc]

    def plain(self, *off: Head, tokens: list[int] = CLEAN) -> tuple[float, dict[Head, float]]:
        """The difference, and each head's direct effect on it, with heads ablated by plain hooks."""
        from transformers import AutoModelForCausalLM

        hf = AutoModelForCausalLM.from_pretrained(
            self.folder, dtype=torch.float64, attn_implementation="eager"
        ).eval()
        size, u = hf.config.hidden_size // HEADS, hf.lm_head.weight[MARY] - hf.lm_head.weight[JOHN]
        z, final = dict[int, Tensor](), list[Tensor]()
        fused = [layer.attention.query_key_value.bias for layer in hf.gpt_neox.layers]
        biases = [bias.view(HEADS, 3, size)[:, 2].flatten() for bias in fused]

        def without(layer: int) -> Callable[..., tuple[Tensor, ...]]:
            def hook(module: object, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                z[layer] = inputs[0] - biases[layer]  # the value biases stay
                for head in (h for i, h in off if i == layer):
                    z[layer][..., head * size : (head + 1) * size] = 0
                return (z[layer] + biases[layer],)

            return hook

        for i, layer in enumerate(hf.gpt_neox.layers):
            layer.attention.dense.register_forward_pre_hook(without(i))
        hf.gpt_neox.final_layer_norm.register_forward_pre_hook(lambda m, x: final.append(x[0][0, -1]))
        with torch.no_grad(), in_float64():
            logits = hf(torch.tensor([tokens])).logits[0, -1]
            sigma = (final[0].var(correction=0) + EPS).sqrt()
            writes = [layer.attention.dense.weight.T @ u / sigma for layer in hf.gpt_neox.layers]
            by_layer = [(z[i][0, -1] * write).view(HEADS, size).sum(1) for i, write in enumerate(writes)]
        direct = {(i, h): float(of[h]) for i, of in enumerate(by_layer) for h in range(HEADS)}
        return float(logits[MARY] - logits[JOHN]), direct


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    """Plant circuits in a model."""

    def make(*circuits: Circuit, noise: float = 0) -> Case:
        folder = planted(tmp_path_factory.mktemp("names"), *circuits, noise=noise)
        return Case(folder, Model(resolve(str(folder)), dtype=torch.float64))

    return make


def others(effects: dict[Head, float], *heads: Head) -> list[float]:
    return [effect for head, effect in effects.items() if head not in heads]


def test_a_head_that_copies_a_name(case: Callable[..., Case]) -> None:
    it = case(name_mover)
    whole, direct = it.plain()
    assert whole == EXACT(DIFFERENCE, abs=1e-6)
    found = it.outcome(NAME_HEAD)
    assert found.direct_effect == EXACT(DIFFERENCE, abs=1e-6) == direct[NAME_HEAD]
    assert found.logit - found.ablated_logit == EXACT(DIFFERENCE, abs=1e-6)
    assert found.ablated_logit == EXACT(it.plain(NAME_HEAD)[0], abs=1e-6)
    for noising, unpatched in ((False, -DIFFERENCE), (True, DIFFERENCE)):
        patched = it.patched(CORRUPTED, kind="head", noising=noising)
        assert patched.pop(NAME_HEAD) == EXACT(-unpatched, abs=1e-6)
        assert [*patched.values()] == EXACT([unpatched] * (2 * HEADS - 1), abs=1e-6)
    places = patch(it.model, CLEAN, CORRUPTED, TARGET, Patching("head_position"))[2:]
    moved = {(one.layer, one.head, one.place) for one in places if one.logit > 0}
    assert moved == {(*NAME_HEAD, len(CLEAN) - 1)}


def test_it_is_found_among_other_heads(case: Callable[..., Case]) -> None:
    it = case(name_mover, previous_token, copying, noise=0.02)
    found, (whole, direct) = it.outcome(NAME_HEAD), it.plain()
    assert found.logit == EXACT(whole, abs=1e-6)
    assert found.ablated_logit == EXACT(it.plain(NAME_HEAD)[0], abs=1e-6)
    assert found.direct_effect == EXACT(direct[NAME_HEAD], abs=1e-6)
    patched = it.patched(CORRUPTED)
    corrupted = it.plain(tokens=CORRUPTED)[0]
    recovered = {head: (logit - corrupted) / (whole - corrupted) for head, logit in patched.items()}
    assert recovered[NAME_HEAD] > 0.7
    assert max(map(abs, others(recovered, NAME_HEAD))) < 0.3


def test_a_backup_head_takes_over(case: Callable[..., Case]) -> None:
    it = case(backup)
    (whole, direct), (without, risen) = it.plain(), it.plain(NAME_HEAD)
    assert (whole, without) == EXACT((DIFFERENCE, DIFFERENCE), abs=1e-6)
    assert (direct[NAME_HEAD], direct[BACKUP_HEAD]) == EXACT((DIFFERENCE, 0), abs=1e-6)
    assert (risen[NAME_HEAD], risen[BACKUP_HEAD]) == EXACT((0, DIFFERENCE), abs=1e-6)
    main, second, both = it.outcome(NAME_HEAD), it.outcome(BACKUP_HEAD), it.outcome(NAME_HEAD, BACKUP_HEAD)
    for found, direct_effect, total in (
        (main, DIFFERENCE, 0),
        (second, 0, 0),
        (both, DIFFERENCE, DIFFERENCE),
    ):
        assert found.direct_effect == EXACT(direct_effect, abs=1e-6)
        assert found.logit - found.ablated_logit == EXACT(total, abs=1e-6)
    assert main.kl == EXACT(0, abs=1e-6)


def test_paths_show_that_the_backup_reads_the_first_head(case: Callable[..., Case]) -> None:
    """Without a name in what the first head sends to its query, the backup head writes the name once more."""
    it = case(backup)
    twice = 2 * WROTE * 2 * PART / scale(2 * WROTE)
    to_query = it.patched(NAMELESS, noising=True, receiver=("q", *BACKUP_HEAD))
    assert to_query.pop(NAME_HEAD) == EXACT(twice, abs=1e-6)
    to_key = it.patched(NAMELESS, noising=True, receiver=("k", *BACKUP_HEAD))
    assert [*to_query.values(), *to_key.values()] == EXACT([DIFFERENCE] * (2 * HEADS - 1), abs=1e-6)
    to_logits = it.patched(NAMELESS, noising=True, receiver=("logits", 2, 0))
    assert to_logits.pop(NAME_HEAD) == EXACT(0, abs=1e-6)
    assert [*to_logits.values()] == EXACT([DIFFERENCE] * (2 * HEADS - 1), abs=1e-6)
    assert it.patched(NAMELESS, noising=True)[NAME_HEAD] == EXACT(DIFFERENCE, abs=1e-6)


def test_a_head_that_acts_only_through_a_later_one(case: Callable[..., Case]) -> None:
    it = case(in_two_steps)
    moved = WRITTEN * WROTE / 2 / scale(WROTE)  # what the later head writes of what the first one wrote
    planted_difference = moved * 2 * PART / scale(WROTE, moved)
    whole, direct = it.plain()
    assert whole == EXACT(planted_difference, abs=1e-6)
    assert (direct[NAME_HEAD], direct[LATER_HEAD]) == EXACT((0, whole), abs=1e-6)
    first, later = it.outcome(NAME_HEAD), it.outcome(LATER_HEAD)
    for found, direct_effect in ((first, 0), (later, planted_difference)):
        assert found.direct_effect == EXACT(direct_effect, abs=1e-6)
        assert found.logit - found.ablated_logit == EXACT(planted_difference, abs=1e-6)
    assert first.ablated_logit == EXACT(it.plain(NAME_HEAD)[0], abs=1e-6)
    by_value = it.patched(CORRUPTED, receiver=("v", *LATER_HEAD))
    assert by_value.pop(NAME_HEAD) == EXACT(planted_difference, abs=1e-6)
    assert [*by_value.values()] == EXACT([-planted_difference] * (HEADS - 1), abs=1e-6)
    for receiver in (("q", *LATER_HEAD), ("k", *LATER_HEAD), ("logits", 2, 0)):
        assert it.patched(CORRUPTED, receiver=receiver)[NAME_HEAD] == EXACT(-planted_difference, abs=1e-6)
