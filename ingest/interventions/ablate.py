"""Ablate heads, neurons, attention or MLPs at one or all tokens, and measure how the prediction changes.

The rest of the model runs with the replaced outputs. So the change of a logit is the total effect: the direct
effect, the effects through later components, and the change of σ together. tests/test_ablate.py compares it
with plain hooks on Hugging Face's model.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from annotate_transformer.ingest.attribution.toward import direction_of, ranks, reading
from annotate_transformer.ingest.attribution.unembed import unembedded
from annotate_transformer.ingest.models.hooks import POST, Forward, Z, put
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.store.running import Ablation, Direction, Outcome, Part

POOL = 2048  # mean and resampled outputs come from at most this number of positions in other windows


@torch.inference_mode()
def ablate(
    model: Model, tokens: Sequence[int], ablations: Sequence[Ablation], direction: Direction
) -> list[Outcome]:
    """Return the outcome of each ablation for the prediction after the last of `tokens`."""
    hooks = {_hook(part) for ablation in ablations for part in ablation.parts}
    window = Window(model, tuple(tokens), direction, frozenset(hooks))
    return [window.outcome(ablation) for ablation in ablations]


@dataclass(frozen=True)
class Window:
    """A window whose last prediction is measured along one direction, with and without ablations.

    `hooks`: the hook points of all ablations, whose outputs in other windows are computed once
    """

    model: Model
    tokens: tuple[int, ...]
    direction: Direction
    hooks: frozenset[str]
    _pools: dict[tuple[tuple[int, ...], ...], dict[str, Tensor]] = field(default_factory=dict, compare=False)

    @cached_property
    def clean(self) -> Forward:
        return self.model.forward(torch.tensor([self.tokens], device=self.model.device))

    @cached_property
    def u(self) -> tuple[Tensor, float]:
        return direction_of(self.model, self.direction)

    def outcome(self, ablation: Ablation) -> Outcome:
        replaced = self._replacements(ablation)
        draws = ablation.draws if ablation.by == "resample" else 1
        tokens = torch.tensor([self.tokens], device=self.model.device).expand(draws, -1)
        after = self.model.forward_edited(
            tokens, {name: put(of.values, *of.where) for name, of in replaced.items()}
        )
        normalized = self.model.normalized(self.clean.final[0, -1:], self.clean.scale[0, -1:])
        ablated = self.model.normalized(after.final[:, -1], after.scale[:, -1])
        u, bias = self.u
        before, changed = (float((x @ u).double().mean()) + bias for x in (normalized, ablated))
        error = (ablated @ u).double().std() / draws**0.5 if draws > 1 else None
        (logits, logprobs), (new_logits, new_logprobs) = (
            unembedded(self.model, x) for x in (normalized, ablated)
        )
        kl = (logprobs.exp() * (logprobs - new_logprobs)).sum(-1).double().mean()
        last = ablation.index is None or ablation.index == len(self.tokens) - 1
        direct = sum(self._direct(name, of) for name, of in replaced.items()) if last else 0.0
        found = Outcome(
            before, changed, direct, float(kl), standard_error=None if error is None else float(error)
        )
        if len(self.direction.token_ids) != 1 or self.direction.minus_ids:
            return found
        [token] = self.direction.token_ids
        return replace(
            found,
            logprob=float(logprobs[0, token]),
            ablated_logprob=float(new_logprobs[:, token].double().mean()),
            rank=int(ranks(self.model, logits, token)[0]),
            ablated_rank=float(ranks(self.model, new_logits, token).double().mean()),
        )

    def _replacements(self, ablation: Ablation) -> dict[str, "Replaced"]:
        """Return, for each hook point, the values that replace the outputs of ablated heads or neurons."""
        units: dict[str, set[int]] = defaultdict(set)
        for part in ablation.parts:
            units[_hook(part)] |= set(_units(self.model, part))
        replaced = {}
        places = range(len(self.tokens)) if ablation.index is None else [ablation.index]
        pool = self._pool(ablation.others) if ablation.by != "zero" else {}
        drawn = torch.Generator().manual_seed(ablation.seed)
        size = len(next(iter(pool.values()))) if pool else 0
        draws = torch.randint(max(size, 1), (ablation.draws, len(places)), generator=drawn)
        for name, of_layer in units.items():
            numbers = sorted(of_layer)
            shape = (self.model.d_head,) if name.endswith(Z) else ()
            if ablation.by == "zero":
                values = self.clean.final.new_zeros(1, 1, len(numbers), *shape)
            elif ablation.by == "mean":
                values = pool[name][:, numbers].double().mean(0).to(self.model.dtype)[None, None]
            else:
                # `values` has the shape (draw, position, unit), for heads with a further axis of length
                # d_head.
                values = pool[name][draws][:, :, numbers]
            replaced[name] = Replaced(torch.tensor([*places]), torch.tensor(numbers), values)
        return replaced

    def _pool(self, others: tuple[tuple[int, ...], ...]) -> dict[str, Tensor]:
        """Return, for each hook point, the outputs of the heads or neurons in the windows `others`.

        The shapes are (position, head, d_head) and (position, neuron).
        """
        if others in self._pools:
            return self._pools[others]
        rows: dict[str, list[Tensor]] = defaultdict(list)
        left = POOL
        for other in others:
            forward = self.model.forward(torch.tensor([other[-left:]], device=self.model.device))
            for name in self.hooks:
                layer = int(name.split(".")[1])
                rows[name].append((forward.z if name.endswith(Z) else forward.post)[layer][0])
            left -= len(other)
            if left <= 0:
                break
        self._pools[others] = {name: torch.cat(parts) for name, parts in rows.items()}
        return self._pools[others]

    def _direct(self, name: str, of: "Replaced") -> float:
        """Return the direct effect, at the last token, of the original outputs minus their replacements."""
        layer = int(name.split(".")[1])
        W_O, W_out = self.model.writing(layer)
        of_attn, of_mlp = reading(self.model, self.clean, self.u[0], layer)
        is_z = name.endswith(Z)
        now = (self.clean.z if is_z else self.clean.post)[layer][0, -1, of.units]
        writes = W_O[of.units] @ of_attn if is_z else W_out[of.units] @ of_mlp
        return float(((now - of.values[:, -1]).mean(0) * writes).double().sum())


@dataclass(frozen=True)
class Replaced:
    """Values that replace outputs of heads or neurons, of shape (draw, position, head or neuron, …).

    The axes draw and position can have the size 1; the values are then the same for all draws and positions.
    """

    positions: Tensor
    units: Tensor
    values: Tensor

    @property
    def where(self) -> tuple[slice, Tensor, Tensor]:
        """The index that selects the replaced outputs in a tensor of activations."""
        return slice(None), self.positions[:, None], self.units


def _hook(part: Part) -> str:
    return f"blocks.{part.layer}.{Z if part.component in ('head', 'attn') else POST}"


def _units(model: Model, part: Part) -> Sequence[int]:
    if part.number is not None:
        return [part.number]
    return range(model.n_heads if part.component == "attn" else model.d_mlp)
