"""Record activations during a forward pass, at the hook points of TransformerLens."""

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor

Head = tuple[int, int]  # a head, as (layer, index in the layer)
Edit = Callable[[Tensor], Tensor]  # a function that returns a changed copy of an activation

# Names of hook points. Activations are read there for the decomposition, the logit lens and the inputs of
# neurons. Not every model has all of them: only gated MLPs have `mlp.hook_pre_linear`, and only models with
# norms after attention and MLP have POST_NORMS. Some parallel blocks have no `ln2`, because attention and MLP
# share the norm `ln1`.
FINAL = ("ln_final.hook_in", "ln_final.hook_scale")
Z, POST, RESID = "attn.hook_z", "mlp.hook_post", "hook_resid_pre"
OF_LAYERS = (POST, Z, "attn.hook_v", "attn.hook_pattern")
POST_NORMS = ("ln1_post.hook_scale", "ln2_post.hook_scale")
LENS = ("hook_resid_post",)
BEFORE_NEURONS = (
    "ln1.hook_in", "ln2.hook_in", "mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post", "attn.hook_z",
)  # fmt: skip
EDITED = (RESID, "attn.hook_q", "attn.hook_k")  # interventions also change activations at these hook points
HOOKS = tuple(dict.fromkeys((*FINAL, *OF_LAYERS, *POST_NORMS, *LENS, *BEFORE_NEURONS, *EDITED)))


@dataclass(frozen=True)
class Forward:
    """The activations that the decomposition reads from a forward pass; lists have one tensor per layer.

    `final`, of shape (batch, position, d_model): the residual stream before the final norm;
    `scale`, of shape (batch, position): σ, `ln_final.hook_scale`;
    `post`, tensors of shape (batch, position, d_mlp): the neurons' activations, `mlp.hook_post`;
    `z`, `v`, tensors of shape (batch, position, head, d_head): z and values without the value bias, which is
    part of b_O; heads of a group have the same values;
    `pattern`, tensors of shape (batch, head, position, source): attention probabilities;
    `attn_scale`, `mlp_scale`, tensors of shape (batch, position): scale of the norm after attention and after
    the MLP, in models that have these norms, else an empty list;
    `resid_post`, tensors of shape (batch, position, d_model): for the logit lens only, else an empty list.
    """

    final: Tensor
    scale: Tensor
    post: list[Tensor]
    z: list[Tensor]
    v: list[Tensor]
    pattern: list[Tensor]
    attn_scale: list[Tensor]
    mlp_scale: list[Tensor]
    resid_post: list[Tensor]

    def post_scales(self, layer: int, *at: Any) -> tuple[Any, Any]:
        """Return the scales of a layer's norms after attention and MLP at index `at`; 1 if it has none."""
        attn, mlp = (of[layer][at] if of else 1.0 for of in (self.attn_scale, self.mlp_scale))
        return attn, mlp

    def window(self, row: int, length: int) -> "Forward":
        """Return the activations of one window of the batch, as a batch of its own, without the padding."""
        here = slice(row, row + 1)
        return Forward(
            self.final[here, :length],
            self.scale[here, :length],
            [post[here, :length] for post in self.post],
            [z[here, :length] for z in self.z],
            [v[here, :length] for v in self.v],
            [pattern[here, :, :length, :length] for pattern in self.pattern],
            [scale[here, :length] for scale in self.attn_scale],
            [scale[here, :length] for scale in self.mlp_scale],
            [resid[here, :length] for resid in self.resid_post],
        )

    def forget(self, layer: int) -> None:
        """Free the memory of a layer's activations, except those that the logit lens reads."""
        for values in (self.post, self.z, self.v, self.pattern):
            values[layer] = values[layer].new_empty(0)


@dataclass(frozen=True)
class NeuronForward:
    """The activations of a forward pass that ended at the neurons of one layer.

    `residual`, of shape (batch, position, d_model): input of the layer's MLP, before the norm;
    `pre`, `post`, of shape (batch, position, d_mlp): the layer's neurons before and after the activation
    function;
    `pre_linear`, of the same shape: the factor of the activation in a gated MLP, else None;
    `earlier_z`, tensors of shape (batch, position, head, d_head), and `earlier_post`, tensors of shape
    (batch, position, d_mlp): z and activations of all layers that write into `residual`; z is without the
    value bias, as in `Forward`;
    `earlier_attn_scale`, `earlier_mlp_scale`, tensors of shape (batch, position): the scales of the norms
    after these sublayers; empty lists in a model without these norms.
    """

    residual: Tensor
    pre: Tensor
    pre_linear: Tensor | None
    post: Tensor
    earlier_z: list[Tensor]
    earlier_post: list[Tensor]
    earlier_attn_scale: list[Tensor]
    earlier_mlp_scale: list[Tensor]


@dataclass(frozen=True)
class EditedForward:
    """The activations of a forward pass in which activations were changed.

    `post`, of shape (batch, position, d_mlp): the activations of one layer's neurons before a change of them;
    `final`, `scale`: as in `Forward`.
    """

    post: Tensor
    final: Tensor
    scale: Tensor


def put(values: Tensor | float, *where: Any) -> Edit:
    """Return an edit: a function that copies an activation and sets `values` at the copy's index `where`."""

    def edit(activation: Tensor) -> Tensor:
        changed = activation.clone()
        changed[where] = values.to(activation) if isinstance(values, Tensor) else values
        return changed

    return edit


class _Enough(Exception):
    """Raised to end a forward pass at the last hook point that is needed."""


class HookPoints:
    """The hook points of a model; a thread records and changes only activations of its own forward passes."""

    def __init__(self, bridge: Any, n_layers: int) -> None:
        self._here, self._n_layers = threading.local(), n_layers
        there = bridge.hook_dict
        for kind in HOOKS:
            for name in [kind] if kind in FINAL else self.at_layers(kind):
                if name in there:
                    bridge.add_hook(name, self._keep_as(name, kind), is_permanent=True)

    def at_layers(self, kind: str) -> list[str]:
        return [f"blocks.{i}.{kind}" for i in range(self._n_layers)]

    def passed(
        self,
        forward: Callable[[], object],
        wanted: Iterable[str],
        *,
        last: str | None = None,
        edits: Mapping[str, Edit] = MappingProxyType({}),
    ) -> dict[str, Tensor]:
        """Run `forward`; return a dictionary from the name of each wanted hook point to the activation there.

        `wanted`: kinds of hook points, at every layer;
        `last`: end the pass at this hook point;
        `edits`: functions that return a changed activation, by name of the hook point; what is returned is
        the activation before the change.
        """
        here = self._here
        here.seen, here.wanted, here.last, here.edits = {}, set(wanted), last, edits
        try:
            with suppress(_Enough):
                forward()
        finally:
            here.wanted, here.edits = set(), {}
        seen: dict[str, Tensor] = here.seen
        here.seen = {}
        return seen

    def _keep_as(self, name: str, kind: str) -> Callable[..., Tensor | None]:
        def keep(tensor: Tensor, hook: Any) -> Tensor | None:  # uses `name`: hook.name may be an alias
            here = self._here
            if kind in getattr(here, "wanted", ()):
                here.seen[name] = tensor
                if name == here.last:
                    raise _Enough
            edit = getattr(here, "edits", {}).get(name)
            return edit(tensor) if edit else None

        return keep
