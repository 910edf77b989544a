"""Check that a model's weights give the neurons' inputs and the attention that the model itself computes.

`models.check` shows that the components add up to the predictions. It says nothing about the weights that
read the residual stream, or about the form of the rotary embedding. For a family with a class of its own,
the tests check both; for any other architecture this module does, whenever a model is loaded.
"""

from typing import Protocol

import torch
from torch import Tensor

from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.families.other import ROTATIONS, Other
from annotate_transformer.ingest.models.hooks import Forward, NeuronForward
from annotate_transformer.ingest.models.names import Checkpoint
from annotate_transformer.ingest.models.scores import QK, Scoring


class Readable(Scoring, Protocol):
    """The attributes and methods that `check_reading` reads from a model; see `models.model.Model`."""

    checkpoint: Checkpoint
    n_layers: int

    @property
    def W_Q(self) -> Tensor: ...
    @property
    def W_K(self) -> Tensor: ...
    @property
    def W_in(self) -> Tensor: ...
    @property
    def W_gate(self) -> Tensor: ...
    @property
    def b_Q(self) -> Tensor: ...
    @property
    def b_K(self) -> Tensor: ...
    @property
    def b_in(self) -> Tensor: ...
    @property
    def b_gate(self) -> Tensor: ...
    def forward(self, tokens: Tensor) -> Forward: ...
    def forward_to(self, layer: int, tokens: Tensor) -> NeuronForward: ...
    def residual_before(self, layer: int, tokens: Tensor) -> Tensor: ...
    def scale(self, residual: Tensor) -> Tensor: ...
    def normalized(self, residual: Tensor, scale: Tensor) -> Tensor: ...
    def rotated(self, queries: Tensor, distance: int, layer: int) -> Tensor: ...


# LARGEST_ERROR: largest error that is allowed for an attention probability and for a neuron's input. The
# error of an input is divided by the largest input in the layer.
LARGEST_ERROR = 1e-4


@torch.inference_mode()
def check_reading(model: Readable, family: Other, tokens: Tensor) -> None:
    """Check each layer's weights on a text, and record the layer's form of rotary embedding in `family`.

    `tokens`, of shape (1, position): the text.

    Raises:
        ModelError: in some layer the inputs or the attention differ by more than LARGEST_ERROR.
    """
    forms = ROTATIONS if hasattr(model.blocks, "rotary_emb") else ("none",)
    pattern = model.forward(tokens).pattern
    for layer in range(model.n_layers):
        if (error := _error_of_inputs(model, layer, tokens)) > LARGEST_ERROR:
            raise _refusal(model, layer, "the inputs of neurons", error)
        residual, errors = model.residual_before(layer, tokens)[0], dict[str, float]()
        family.forms.append("")
        for form in forms:
            family.forms[layer] = form
            errors[form] = _error_of_attention(model, layer, residual, pattern[layer][0, :, -1])
        family.forms[layer] = min(forms, key=errors.__getitem__)
        if (error := min(errors.values())) > LARGEST_ERROR:
            raise _refusal(model, layer, "the attention of heads", error)


def _error_of_inputs(model: Readable, layer: int, tokens: Tensor) -> float:
    """Return the largest error of neuron inputs computed from the weights, divided by the largest input."""
    found = model.forward_to(layer, tokens)
    x = model.normalized(found.residual, model.scale(found.residual))
    computed = [(x @ model.W_gate[layer] + model.b_gate[layer], found.pre)]
    if found.pre_linear is not None:
        computed.append((x @ model.W_in[layer] + model.b_in[layer], found.pre_linear))
    return max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in computed)


def _error_of_attention(model: Readable, layer: int, residual: Tensor, pattern: Tensor) -> float:
    """Return the largest error of the last position's attention, as computed from the weights.

    `residual`, of shape (position, d_model): the residual stream before the layer;
    `pattern`, of shape (head, source).
    """
    qk, x, last = QK(model, layer), model.normalized(residual, model.scale(residual)), len(residual) - 1
    query = qk.queries(torch.einsum("d,hde->he", x[-1], model.W_Q[layer]) + model.b_Q[layer])
    keys = qk.keys(torch.einsum("sd,hde->she", x, model.W_K[layer]) + model.b_K[layer])
    scores = torch.stack(
        [
            qk.scores((model.rotated(query, last - source, layer) * key).sum(-1), last - source)
            for source, key in enumerate(keys)
        ],
        dim=-1,
    )
    scores = scores.masked_fill(pattern == 0, -torch.inf)  # hide sources outside a sliding window
    return float((scores.softmax(-1) - pattern).abs().max())


def _refusal(model: Readable, layer: int, what: str, error: float) -> ModelError:
    return ModelError(
        f"{model.checkpoint.name} cannot be annotated: as {model.family.architecture}, which has no class of "
        f"its own here, {what} in layer {layer} differ by up to {error:.2g} from those that its weights give "
        f"({LARGEST_ERROR:.0e} is allowed). Choose another model, or add a class (docs/architecture)."
    )
