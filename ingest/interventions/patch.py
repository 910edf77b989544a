"""Activation patching and path patching between two prompts of equal length.

Denoising puts an activation of the clean prompt into the run of the corrupted one, and asks whether it is
sufficient. Noising puts the corrupted activation into the clean run, and asks whether it is necessary
(Heimersheim and Nanda 2024). Path patching changes only what one head sends directly to one receiver: the
receiver's input is computed with the sender's output of the other prompt, and all other inputs are those of
the unpatched run (Wang et al. 2022, but with the MLPs between them frozen, too). tests/test_patch.py compares
both with plain hooks on Hugging Face's model.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from annotate_transformer.ingest.attribution.toward import direction_of
from annotate_transformer.ingest.models.hooks import POST, RESID, Edit, Forward, Z, put
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.store.running import Direction, Patched, Patching

HOOKS = {
    "resid": RESID,
    "attn": Z,
    "mlp": POST,
    "head": Z,
    "head_position": Z,
}
BATCH_TOKENS = 1024  # maximum number of tokens in a forward pass, unless a single prompt has more
INPUTS = {"q": "attn.hook_q", "k": "attn.hook_k", "v": "attn.hook_v"}


@torch.inference_mode()
def patch(
    model: Model, clean: Sequence[int], corrupted: Sequence[int], direction: Direction, patching: Patching
) -> list[Patched]:
    """Return the logit, or logit difference, of the clean prompt, the corrupted prompt and each patch.

    The logit is that after the last token. `clean`, `corrupted`: lists of token ids, of equal length.
    """
    pair = Pair(model, tuple(clean), tuple(corrupted), direction, patching.noising)
    whole = [Patched(None, None, None, value) for value in pair.unpatched]
    if patching.receiver is not None:
        return [*whole, *pair.paths(patching.receiver)]
    return [*whole, *pair.patches(patching.kind)]


@dataclass(frozen=True)
class Pair:
    """Two prompts; the forward pass of prompt `base` is patched with activations of prompt `other`."""

    model: Model
    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    direction: Direction
    noising: bool

    @cached_property
    def base(self) -> tuple[int, ...]:
        return self.clean if self.noising else self.corrupted

    @cached_property
    def other(self) -> tuple[int, ...]:
        return self.corrupted if self.noising else self.clean

    @cached_property
    def u(self) -> tuple[Tensor, float]:
        return direction_of(self.model, self.direction)

    @property
    def unpatched(self) -> list[float]:
        """Return the logits of the clean and of the corrupted prompt."""
        return [self._logits([{}], tokens)[0] for tokens in (self.clean, self.corrupted)]

    def patches(self, kind: str) -> Iterator[Patched]:
        """Yield the logit after each patch of one kind, in every layer.

        A patch of kind `head` replaces one head at all positions, a patch of kind `head_position` one head at
        one position, and the other kinds the whole activation at one position.
        """
        values = self._seen(self.other, HOOKS[kind])
        of_heads: Iterable[int | None] = range(self.model.n_heads) if kind.startswith("head") else [None]
        at: Iterable[int | None] = [None] if kind == "head" else range(len(self.base))
        places = [(head, position) for head in of_heads for position in at]
        wanted = [(layer, *place) for layer in range(self.model.n_layers) for place in places]
        edits: list[dict[str, Edit]] = [
            {f"blocks.{layer}.{HOOKS[kind]}": put(values[layer][_at(position, head)], *_at(position, head))}
            for layer, head, position in wanted
        ]
        for (layer, head, position), logit in zip(wanted, self._logits(edits, self.base), strict=True):
            yield Patched(layer, head, position, logit)

    def paths(self, receiver: tuple[str, int, int]) -> Iterator[Patched]:
        """Yield the logit after each path patch. The senders are all heads in layers before the receiver."""
        kind, layer, head = receiver
        base, other = (self._forward(tokens) for tokens in (self.base, self.other))
        senders = [(i, h) for i in range(min(layer, self.model.n_layers)) for h in range(self.model.n_heads)]
        changes = [self._sent(base, other, *sender) for sender in senders]
        if kind == "logits":
            logits = self._read(torch.cat([base.final[:, -1] + change[:, -1] for change in changes]))
        else:
            logits = self._logits(
                [self._received(change, INPUTS[kind], layer, head) for change in changes], self.base
            )
        for (i, h), logit in zip(senders, logits, strict=True):
            yield Patched(i, h, None, logit)

    def _forward(self, tokens: tuple[int, ...]) -> Forward:
        return self.model.forward(torch.tensor([tokens], device=self.model.device))

    def _sent(self, base: Forward, other: Forward, layer: int, head: int) -> Tensor:
        """Return a head's output in `other` minus its output in `base`, of shape (1, position, d_model)."""
        W_O, _ = self.model.writing(layer)
        change = (other.z[layer][:, :, head] - base.z[layer][:, :, head]) @ W_O[head]
        return change / base.attn_scale[layer][..., None] if base.attn_scale else change

    def _received(self, change: Tensor, hook: str, layer: int, head: int) -> dict[str, Edit]:
        """Return an edit that makes a receiver read the residual stream with `change` added to it."""
        seen = self._seen(self.base, hook, {f"blocks.{layer}.{RESID}": lambda x: x + change.to(x)}, [layer])
        # With grouped-query attention, the heads of a group share one key and one value. So keys and values
        # are numbered by group, not by head.
        group = self.model.n_heads // self.model.n_kv_heads if hook != INPUTS["q"] else 1
        return {
            f"blocks.{layer}.{hook}": put(seen[layer][_at(None, head // group)], *_at(None, head // group))
        }

    def _seen(
        self,
        tokens: tuple[int, ...],
        hook: str,
        edits: dict[str, Edit] | None = None,
        layers: Sequence[int] = (),
    ) -> dict[int, Tensor]:
        """Run the model with `edits`; return a dictionary from layer to activations at the hook point `hook`.

        `layers`: the layers whose activations are returned; all layers if empty.
        """
        seen: dict[int, Tensor] = {}

        def keep(layer: int) -> Edit:
            def kept(activation: Tensor) -> Tensor:
                seen[layer] = activation
                return activation

            return kept

        every = {f"blocks.{i}.{hook}": keep(i) for i in layers or range(self.model.n_layers)}
        self.model.final_of(torch.tensor([tokens], device=self.model.device), every | (edits or {}))
        return seen

    def _logits(self, edits: Sequence[dict[str, Edit]], tokens: tuple[int, ...]) -> list[float]:
        """Return the logit after the last of `tokens` under each entry of `edits`, applied on its own."""
        found, size = list[float](), max(1, BATCH_TOKENS // len(tokens))
        for start in range(0, len(edits), size):
            batch = edits[start : start + size]
            read = torch.tensor([tokens], device=self.model.device).expand(len(batch), -1)
            found += self._read(self.model.final_of(read, _each_its_own(batch))[:, -1])
        return found

    def _read(self, residual: Tensor) -> list[float]:
        """Return the logit from each final residual stream; `residual` has the shape (batch, d_model)."""
        u, bias = self.u
        read = self.model.normalized(residual, self.model.scale(residual)) @ u
        return [logit + bias for logit in read.double().tolist()]


def _each_its_own(edits: Sequence[dict[str, Edit]]) -> dict[str, Edit]:
    """Return edits for a batch of windows; they apply entry i of `edits` to the i-th window only."""
    rows: dict[str, list[tuple[int, Edit]]] = {}
    for row, edit in enumerate(edits):
        for hook, change in edit.items():
            rows.setdefault(hook, []).append((row, change))

    def edit_of(changes: list[tuple[int, Edit]]) -> Edit:
        def edit(activation: Tensor) -> Tensor:
            changed = activation.clone()
            for row, change in changes:
                changed[row : row + 1] = change(activation[row : row + 1])
            return changed

        return edit

    return {hook: edit_of(changes) for hook, changes in rows.items()}


def _at(position: int | None, head: int | None) -> tuple[Any, ...]:
    """Return the index that selects one position or all, and one head or all, from an activation tensor."""
    at = slice(None) if position is None else position
    return (slice(None), at) if head is None else (slice(None), at, head)
