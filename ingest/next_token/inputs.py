"""Decompose the pre-activation of a neuron exactly into one term per component that the neuron reads.

With the norm folded into `W_in`, the pre-activation of neuron (l, n) at position p is

    b_in[n] + (1/σ_p) Σ_c ⟨x_c(p), W_in[:, n]⟩                      (Neo, Cohen and Barez 2024)

The sum is over the embeddings and, for each layer before l, its heads, attention bias, MLP and MLP bias; in a
sequential block also over the heads and attention bias of layer l. σ_p is the scale of the norm before the
MLP, frozen at its value; the norm may also remove the mean of x_c. In a gated MLP the pre-activation is read
through W_gate, and W_in reads a second number, by which the result of the activation function is multiplied.
Both are decomposed. tests/test_inputs.py compares the sum with Hugging Face's own forward pass.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from annotate_transformer.ingest.models.model import Model
from annotate_transformer.store.running import Component


@dataclass(frozen=True)
class Inputs:
    """The inputs of neurons, which are the terms of their pre-activations, at the last token of P prompts.

    `values`, of shape (P, neuron, component): the inputs, in the order of `components`;
    `pre`, `post`, of shape (P, neuron): the neurons' values before and after the activation function;
    `linear_values`, `pre_linear`: the same for the factor that W_in reads in a gated MLP, else None.
    """

    components: list[Component]
    values: Tensor
    pre: Tensor
    post: Tensor
    linear_values: Tensor | None = None
    pre_linear: Tensor | None = None


@torch.inference_mode()
def neuron_inputs(model: Model, layer: int, neurons: list[int], prompts: list[list[int]]) -> Inputs:
    """Return the inputs of neurons, the terms of their pre-activations, at the last token of each prompt.

    `prompts`: token ids of each prompt, with the BOS if there is one.
    """
    last, tokens = last_and_tokens(prompts)
    forward, every = model.forward_to(layer, tokens), torch.arange(len(prompts))

    def at_last(values: Tensor) -> Tensor:
        return values[every, last]

    scale = model.scale(at_last(forward.residual))
    written = model.embedding(at_last(tokens.to(model.device)), last.to(model.device))
    terms = {Component(component): vector for component, vector in written.items()}

    def behind(scales: list[Tensor], i: int, vectors: Tensor) -> Tensor:
        """Divide a sublayer's output by the scale of the norm after the sublayer, if there is one."""
        return vectors / at_last(scales[i])[:, None] if scales else vectors

    for i, z in enumerate(forward.earlier_z):
        scales, bias = forward.earlier_attn_scale, model.b_O[i].expand(len(last), -1)
        heads = behind(scales, i, torch.einsum("phd,hdm->hpm", at_last(z), model.W_O[i]))
        terms |= {Component("head", i, head): of_head for head, of_head in enumerate(heads)}
        terms[Component("attn_bias", i)] = behind(scales, i, bias)
    for i, post in enumerate(forward.earlier_post):
        scales, bias = forward.earlier_mlp_scale, model.b_out[i].expand(len(last), -1)
        terms[Component("mlp", i)] = behind(scales, i, at_last(post) @ model.W_out[i])
        terms[Component("mlp_bias", i)] = behind(scales, i, bias)
    normalized = model.normalized(torch.stack([*terms.values()]), scale)  # shape (component, prompt, d_model)

    def read(W: Tensor, b: Tensor) -> Tensor:
        values = torch.einsum("cpm,mn->pnc", normalized, W[layer][:, neurons])
        return torch.cat([values, b[layer][neurons].expand(len(last), -1)[..., None]], dim=-1)

    pre, post = at_last(forward.pre)[:, neurons], at_last(forward.post)[:, neurons]
    inputs = Inputs([*terms, Component("b_in")], read(model.W_gate, model.b_gate), pre, post)
    if forward.pre_linear is None:
        return inputs
    pre_linear = at_last(forward.pre_linear)[:, neurons]
    return replace(inputs, linear_values=read(model.W_in, model.b_in), pre_linear=pre_linear)


@torch.inference_mode()
def activations(model: Model, layer: int, neuron: int, prompts: list[list[int]]) -> Tensor:
    """Return the neuron's activation at the last token of each prompt, as a tensor of shape (P,)."""
    last, tokens = last_and_tokens(prompts)
    return model.forward_to(layer, tokens).post[torch.arange(len(prompts)), last, neuron]


def last_and_tokens(prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Return the index of each prompt's last token, and the token ids, padded on the right.

    For P prompts, the shapes are (P,) and (P, position).
    """
    ids = [torch.tensor(prompt) for prompt in prompts]
    return torch.tensor([len(prompt) - 1 for prompt in prompts]), pad_sequence(ids, batch_first=True)
