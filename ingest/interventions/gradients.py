"""Attribution patching: estimate the total effect of each head and neuron to first order (Nanda 2023).

One backward pass gives the gradient g of a logit with respect to every output. To first order, replacing an
output x by a baseline b at all tokens changes the logit by Σ g · (b − x), so the estimated total effect is
Σ g · (x − b). The estimate is wrong where the logit is not linear in the output, for example where attention
saturates or where another head compensates for the ablated one. tests/test_effects.py compares the gradients
with those of Hugging Face's own model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from annotate_transformer.ingest.attribution.toward import reading
from annotate_transformer.ingest.models.hooks import POST, RESID, Edit, Z
from annotate_transformer.ingest.models.model import Model


@dataclass(frozen=True)
class Baselines:
    """Values that replace the outputs of heads and neurons.

    `z`: outputs of heads, of shape (layer, head, d_head); `post`: activations of neurons, (layer, neuron).
    """

    z: Tensor
    post: Tensor


@dataclass(frozen=True)
class Estimates:
    """Direct effects and estimated total effects of all heads and neurons on one logit, in logits.

    `heads`, of shape (2, layer, head), and `neurons`, of shape (2, layer, neuron): the first axis has the
    direct effects and the total effects; `logit`: the centred logit.
    """

    logit: float
    heads: Tensor
    neurons: Tensor


def zeros(model: Model) -> Baselines:
    """Return zeros, to replace the outputs of all heads and neurons by 0."""
    like = model.W_U
    z = like.new_zeros(model.n_layers, model.n_heads, model.d_head)
    return Baselines(z, like.new_zeros(model.n_layers, model.d_mlp))


@torch.inference_mode()
def means(model: Model, windows: Sequence[Sequence[int]]) -> Baselines:
    """Return the mean outputs of heads and neurons over all positions of `windows`."""
    total, n = zeros(model), 0
    z, post = total.z.double(), total.post.double()
    for window in windows:
        forward = model.forward(torch.tensor([list(window)], device=model.device))
        z += torch.stack([x[0].double().sum(0) for x in forward.z])
        post += torch.stack([x[0].double().sum(0) for x in forward.post])
        n += len(window)
    return Baselines((z / n).to(model.dtype), (post / n).to(model.dtype))


def estimate(model: Model, tokens: Sequence[int], target: int, baselines: Baselines) -> Estimates:
    """Return direct and estimated total effects on the logit of token `target` after the last of `tokens`."""
    ids = torch.tensor([list(tokens)], device=model.device)
    seen = dict[str, Tensor]()

    def keep(name: str) -> Edit:
        def kept(activation: Tensor) -> Tensor:
            activation.retain_grad()
            seen[name] = activation
            return activation

        return kept

    names = {kind: [f"blocks.{i}.{kind}" for i in range(model.n_layers)] for kind in (Z, POST)}
    edits: dict[str, Edit] = {name: keep(name) for of_kind in names.values() for name in of_kind}
    edits[f"blocks.0.{RESID}"] = lambda x: x.detach().requires_grad_(True)
    # Leave inference mode, because tensors made in it cannot be part of an autograd graph.
    with torch.inference_mode(False), torch.enable_grad():
        u = model.W_U[:, target].clone()
        final = model.final_of(ids, edits)[0, -1]
        logit = model.normalized(final, model.scale(final)) @ u
        logit.backward()
    z, post = ([seen[name][0].detach() for name in names[kind]] for kind in (Z, POST))
    z_grad, post_grad = ([seen[name].grad[0] for name in names[kind]] for kind in (Z, POST))  # type: ignore[index]
    with torch.inference_mode():
        heads = torch.stack(
            [(g * (x - b)).sum((0, 2)) for g, x, b in zip(z_grad, z, baselines.z, strict=True)]
        )
        neurons = torch.stack(
            [(g * (x - b)).sum(0) for g, x, b in zip(post_grad, post, baselines.post, strict=True)]
        )
    direct = direct_effects(model, tokens, target, baselines)
    return Estimates(
        float(logit.detach()) + float(model.b_U[target]),
        torch.stack([direct[0], heads]),
        torch.stack([direct[1], neurons]),
    )


@torch.inference_mode()
def direct_effects(
    model: Model, tokens: Sequence[int], target: int, baselines: Baselines
) -> tuple[Tensor, Tensor]:
    """Return the direct effect, at the last token, of each head's or neuron's output minus its replacement.

    The shapes are (layer, head) and (layer, neuron).
    """
    forward, u = model.forward(torch.tensor([list(tokens)], device=model.device)), model.W_U[:, target]
    heads, neurons = [], []
    for i in range(model.n_layers):
        W_O, W_out = model.writing(i)
        of_attn, of_mlp = reading(model, forward, u, i)
        heads.append(((forward.z[i][0, -1] - baselines.z[i]) * (W_O @ of_attn)).sum(-1))
        neurons.append((forward.post[i][0, -1] - baselines.post[i]) * (W_out @ of_mlp))
    return torch.stack(heads), torch.stack(neurons)
