"""TransformerLens's own tools find the same numbers on the same prompts, to 1e-4 logits."""

import pytest
import torch
from torch import Tensor

from annotate_transformer.ingest.attribution.toward import toward
from annotate_transformer.ingest.interventions.patch import patch
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.store.running import Direction, Patching
from models import token_ids

CLEAN = token_ids("The Congress of the city met. The Congress of")
CORRUPTED = token_ids("The people of the city met. The Congress of")
TARGET, OTHER = token_ids(" the")[0], token_ids(" a")[0]
DIRECTION = Direction((TARGET,), (OTHER,))
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(resolve("neox-2m"))


def test_direct_effects_of_heads(model: Model) -> None:
    _, cache = model.bridge.run_with_cache(torch.tensor([CLEAN]))
    stack = cache.stack_head_results(layer=-1, pos_slice=-1)
    expected = cache.logit_attrs(
        stack, tokens=TARGET, incorrect_tokens=OTHER, pos_slice=-1, has_batch_dim=True
    )
    found = torch.from_numpy(toward(model, CLEAN, DIRECTION).heads.ravel())
    torch.testing.assert_close(found, expected.flatten().double(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("kind", "tool"), [("resid", "get_act_patch_resid_pre"), ("head", "get_act_patch_attn_head_out_all_pos")]
)
def test_activation_patching(model: Model, kind: str, tool: str) -> None:
    from transformer_lens import patching

    def difference(logits: Tensor) -> Tensor:
        return logits[0, -1, TARGET] - logits[0, -1, OTHER]

    _, cache = model.bridge.run_with_cache(torch.tensor([CLEAN]))
    expected = getattr(patching, tool)(model.bridge, torch.tensor([CORRUPTED]), cache, difference)
    _, _, *found = patch(model, CLEAN, CORRUPTED, DIRECTION, Patching(kind))
    ours = torch.tensor([one.logit for one in found]).view(expected.shape)
    torch.testing.assert_close(ours, expected.cpu(), atol=TOLERANCE, rtol=0)
