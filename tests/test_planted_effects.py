"""Interventions on models whose circuit is known: a head that acts only through a later, saturated head."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from annotate_transformer.ingest.interventions.ablate import ablate
from annotate_transformer.ingest.interventions.gradients import estimate, zeros
from annotate_transformer.ingest.interventions.patch import patch
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.store.running import Ablation, Direction, Part, Patching
from families import in_float64
from planted import INDUCTION_HEAD, N_TOKENS, PREVIOUS_HEAD, Planted, induction, planted

ORDER = torch.randperm(N_TOKENS, generator=torch.Generator().manual_seed(5)).tolist()
TOKENS = [*ORDER[:10], ORDER[3]]  # the last token occurred before …
TARGET, OTHER = ORDER[4], ORDER[20]  # … and was followed by this one
CORRUPTED = [*ORDER[:3], ORDER[30], *ORDER[4:10], ORDER[3]]  # nothing to repeat


def saturated(model: Planted) -> None:
    """An induction head whose attention probability is so near 1 that the softmax has no gradient."""
    induction(model)
    model.head(*INDUCTION_HEAD)["W_Q"].mul_(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted(tmp_path_factory.mktemp("planted"), saturated)


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return Model(resolve(str(folder)), dtype=torch.float64)


def hf_logit(folder: Path, layer: int | None = None, head: int = 0) -> float:
    """The centred logit of the target by Hugging Face's model, a head's z (but for its value bias) at 0."""
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    hooks = []
    if layer is not None:
        dense = hf.gpt_neox.layers[layer].attention.dense
        size = hf.config.hidden_size // hf.config.num_attention_heads
        fused = hf.gpt_neox.layers[layer].attention.query_key_value.bias
        bias = fused.view(-1, 3, size)[head]

        def without(module: object, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            z = inputs[0].clone()
            z[..., head * size : (head + 1) * size] = bias[2]  # the value bias stays
            return (z,)

        hooks.append(dense.register_forward_pre_hook(without))
    with torch.no_grad(), in_float64():
        logits = hf(torch.tensor([TOKENS])).logits[0, -1]
    return float(logits[TARGET] - logits.mean())


def total(model: Model, layer: int, head: int) -> tuple[float, float]:
    [found] = ablate(model, TOKENS, [Ablation((Part("head", layer, head),))], Direction((TARGET,)))
    return found.direct_effect, found.logit - found.ablated_logit


def test_a_head_that_acts_only_through_a_later_one(model: Model, folder: Path) -> None:
    direct, effect = total(model, *PREVIOUS_HEAD)
    whole = hf_logit(folder)
    assert effect == pytest.approx(whole - hf_logit(folder, *PREVIOUS_HEAD), abs=1e-6)
    assert abs(direct) < 0.05 * effect
    assert effect > 5
    later_direct, later = total(model, *INDUCTION_HEAD)
    assert later == pytest.approx(whole - hf_logit(folder, *INDUCTION_HEAD), abs=1e-6)
    assert later_direct == pytest.approx(later, rel=0.5)
    assert abs(total(model, 0, 2)[1]) < 0.05 * effect  # a head of noise


def test_attribution_patching_misses_what_a_saturated_head_hides(model: Model) -> None:
    """At an attention probability of 1 the softmax has no gradient; what is left is the change of σ alone."""
    attention = model.forward(torch.tensor([TOKENS])).pattern[INDUCTION_HEAD[0]][0, INDUCTION_HEAD[1], -1]
    assert attention.max() > 0.9999
    found = estimate(model, TOKENS, TARGET, zeros(model))
    _, exact = total(model, *PREVIOUS_HEAD)
    assert float(found.heads[1][PREVIOUS_HEAD]) < 0.2 * exact
    # The induction head itself is not hidden.
    assert float(found.heads[1][INDUCTION_HEAD]) == pytest.approx(total(model, *INDUCTION_HEAD)[1], rel=0.6)


def test_the_path_goes_through_the_keys(model: Model) -> None:
    direction = Direction((TARGET,), (OTHER,))
    layer, head = INDUCTION_HEAD

    def recovered(receiver: tuple[str, int, int]) -> float:
        clean, corrupted, *found = patch(model, TOKENS, CORRUPTED, direction, Patching(receiver=receiver))
        [sent] = [one for one in found if one[:2] == PREVIOUS_HEAD]
        return (sent.logit - corrupted.logit) / (clean.logit - corrupted.logit)

    assert recovered(("k", layer, head)) > 0.9
    for kind in ("q", "v"):
        assert abs(recovered((kind, layer, head))) < 0.05
    assert abs(recovered(("logits", model.n_layers, 0))) < 0.05


def test_what_is_patched_moves_from_the_token_to_the_end(model: Model) -> None:
    _, corrupted, *found = patch(model, TOKENS, CORRUPTED, Direction((TARGET,), (OTHER,)), Patching("resid"))
    by_place = {(one.layer, one.place): one.logit - corrupted.logit for one in found}
    clean = max(by_place.values())
    assert by_place[0, 3] == pytest.approx(clean, rel=0.05)  # the token that differs
    assert by_place[1, 4] > 0.9 * clean  # after layer 0, the token that knows what stood before it
    assert abs(by_place[1, 3]) < 0.1 * clean
