"""Decompose the pre-activation of a neuron exactly into the components that it reads.

With the norm folded into `W_in`, the pre-activation of neuron (l, n) at position p is

    b_in[n] + (1/σ_p) Σ_c ⟨x_c(p) − mean x_c(p), W_in[:, n]⟩          (Neo, Cohen and Barez 2024)

The sum is over the embedding and, for each layer before l, its heads, attention bias, MLP and MLP bias; in a
sequential block also over the heads and attention bias of layer l. σ_p is the scale of the norm before the
MLP, frozen at its value. tests/test_inputs.py compares the sum with Hugging Face's own forward pass.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from annotate_transformer.ingest.models.model import Model


class Component(NamedTuple):
    """A component that writes into the residual stream, or the bias b_in; named as in view neuron_inputs."""

    component: str
    layer: int | None = None
    head: int | None = None


@dataclass(frozen=True)
class Inputs:
    """The inputs of some neurons of a layer at the last position of P prompts, in units of pre-activation.

    `values`, of shape (P, neuron, component): the inputs, in the order of `components`;
    `pre`, `post`, of shape (P, neuron): the neurons' values before and after the activation function.
    """

    components: list[Component]
    values: Tensor
    pre: Tensor
    post: Tensor


@torch.inference_mode()
def neuron_inputs(model: Model, layer: int, neurons: list[int], prompts: list[list[int]]) -> Inputs:
    """Return the inputs of neurons at the last token of each prompt.

    `prompts`: token ids of each prompt, with the BOS if there is one.
    """
    last, tokens = last_and_tokens(prompts)
    forward, every = model.forward_to(layer, tokens), torch.arange(len(prompts))

    def at_last(values: Tensor) -> Tensor:
        return values[every, last]

    residual = at_last(forward.residual)
    scale = model.scale(residual)
    read = model.W_in[layer][:, neurons]  # (d_model, neuron)
    read = model.centred(read, dim=0)  # centring the weights removes the mean of every x_c

    embedding = model.embedding(at_last(tokens.to(model.device)))
    terms = {Component(component): vector @ read for component, vector in embedding.items()}
    for i, z in enumerate(forward.earlier_z):
        written = torch.einsum("phd,hdm->hpm", at_last(z), model.W_O[i])
        terms |= {Component("head", i, head): of_head @ read for head, of_head in enumerate(written)}
        terms[Component("attn_bias", i)] = model.b_O[i] @ read
    for i, post in enumerate(forward.earlier_post):
        terms[Component("mlp", i)] = at_last(post) @ model.W_out[i] @ read
        terms[Component("mlp_bias", i)] = model.b_out[i] @ read
    pre, post = at_last(forward.pre)[:, neurons], at_last(forward.post)[:, neurons]
    values = [term / scale[:, None] for term in terms.values()] + [model.b_in[layer][neurons].expand_as(pre)]
    return Inputs([*terms, Component("b_in")], torch.stack(values, -1), pre, post)


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
