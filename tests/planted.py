"""GPT-NeoX models built by hand around a circuit that is known, and their twin without one.

Two layers of three heads and 32 neurons. The residual stream has four parts of 48 dimensions:

    TOKEN     W_E[t]: signs in balance, so that centring and LayerNorm find nothing to change
    PREVIOUS  empty; a previous-token head writes here what stood before
    OUTPUT    all that W_U reads, by the same signs: a head that copies moves TOKEN here
    SPARE     read and written by nothing but noise and the neuron that erases

Every other weight is a little noise, so that scores of what was not planted are those of random
weights. Padding rows of W_E and W_U are long: whoever counts them in finds them first. A head's
first 16 dimensions (25 %) are turned by rotary embeddings; tokens are matched in the other 48.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models import TOKENIZER, token_ids

PART, ROTARY, D_HEAD, HEADS = 48, 16, 64, 3
TOKEN, PREVIOUS, OUTPUT, SPARE = (slice(start, start + PART) for start in range(0, 4 * PART, PART))
N_TOKENS, PADDING = 4096, 32
NOISE = 0.02
CONFIG = {
    "hidden_size": 4 * PART,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": 32,
    "vocab_size": N_TOKENS + PADDING,
    "max_position_embeddings": 128,
    "rotary_pct": ROTARY / D_HEAD,
    "hidden_act": "gelu",
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
}

# Where each circuit is planted: (layer, head) or (layer, neuron)
PREVIOUS_HEAD, INDUCTION_HEAD, COPYING_HEAD, TRIGRAM_HEAD = (0, 0), (1, 1), (1, 0), (1, 2)
NEXT_TOKEN_NEURON, ERASING_NEURON = (1, 5), (1, 9)
KEEP, IN, MIND = (token_ids(text)[0] for text in (" keep", " in", " mind"))  # the skip-trigram


class Planted:
    """A model's weights by the names of the field, as views: writing to them writes to the model."""

    def __init__(self, seed: int = 0, noise: float = NOISE) -> None:
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        self.generator = torch.Generator().manual_seed(seed)
        self.hf = GPTNeoXForCausalLM(GPTNeoXConfig.from_dict(CONFIG)).requires_grad_(False)
        for name, weight in self.hf.named_parameters():
            if "norm" not in name:
                weight.copy_(noise * torch.randn(weight.shape, generator=self.generator))
        self.W_E, self.W_U = self.hf.gpt_neox.embed_in.weight, self.hf.lm_head.weight  # a row a token
        # As many +1 as −1 in each row, so that a row's mean is 0 and its length the same as any's.
        order = torch.rand(len(self.W_E), PART, generator=self.generator).argsort(1)
        signs = (order < PART // 2).float() * 2 - 1
        signs[N_TOKENS:] *= 10
        for table, part in ((self.W_E, TOKEN), (self.W_U, OUTPUT)):
            table.zero_()
            table[:, part] = 2 * signs

    def head(self, layer: int, head: int) -> dict[str, Tensor]:
        """W_Q, W_K, W_V (d_head, d_model), b_Q, b_K, b_V (d_head,) and W_O (d_model, d_head)."""
        attention = self.hf.gpt_neox.layers[layer].attention
        # interleaved: each head's query, key and value stand together
        weight = attention.query_key_value.weight.view(HEADS, 3, D_HEAD, -1)[head]
        bias = attention.query_key_value.bias.view(HEADS, 3, D_HEAD)[head]
        W_O = attention.dense.weight[:, head * D_HEAD : (head + 1) * D_HEAD]
        names = ("W_Q", "W_K", "W_V", "b_Q", "b_K", "b_V")
        return dict(zip(names, (*weight, *bias), strict=True)) | {"W_O": W_O}

    def mlp(self, layer: int) -> tuple[Tensor, Tensor]:
        """W_in and W_out, both (neuron, d_model)"""
        mlp = self.hf.gpt_neox.layers[layer].mlp
        return mlp.dense_h_to_4h.weight, mlp.dense_4h_to_h.weight.T

    def moves(self, head: tuple[int, int], to: slice) -> None:
        """The head's OV circuit: TOKEN as it stands at the source goes into another part."""
        weights = self.head(*head)
        weights["W_V"][ROTARY:, TOKEN] += torch.eye(PART)
        weights["W_O"][to, ROTARY:] += torch.eye(PART)


def previous_token(model: Planted) -> None:
    """Query and key are constant and turned against each other by one position: Σ cos((δ − 1) θ)."""
    weights, size = model.head(*PREVIOUS_HEAD), 20.0
    angle = 10_000.0 ** -(torch.arange(0, ROTARY, 2) / ROTARY)
    weights["b_K"][:ROTARY] = size * torch.cat([torch.ones(ROTARY // 2), torch.zeros(ROTARY // 2)])
    weights["b_Q"][:ROTARY] = size * torch.cat([angle.cos(), -angle.sin()])
    model.moves(PREVIOUS_HEAD, PREVIOUS)


def induction(model: Planted) -> None:
    """Its keys are what the previous-token head wrote (K-composition), its queries the token here."""
    previous_token(model)
    weights = model.head(*INDUCTION_HEAD)
    weights["W_Q"][ROTARY:, TOKEN] += 2 * torch.eye(PART)
    weights["W_K"][ROTARY:, PREVIOUS] += 2 * torch.eye(PART)
    model.moves(INDUCTION_HEAD, OUTPUT)


def copying(model: Planted) -> None:
    """Attends to nothing in particular, and raises what it attends to."""
    model.moves(COPYING_HEAD, OUTPUT)


def skip_trigram(model: Planted) -> None:
    """From " in" it looks for " keep", and then raises " mind"."""
    weights = model.head(*TRIGRAM_HEAD)
    weights["W_Q"][ROTARY, TOKEN] += 0.05 * model.W_E[IN, TOKEN]
    weights["W_K"][ROTARY, TOKEN] += 0.05 * model.W_E[KEEP, TOKEN]
    weights["W_V"][ROTARY, TOKEN] += 0.05 * model.W_E[KEEP, TOKEN]
    weights["W_O"][OUTPUT, ROTARY] += 0.5 * model.W_U[MIND, OUTPUT]


def next_token_neuron(model: Planted) -> None:
    """Is active on " in" and writes " mind"."""
    W_in, W_out = model.mlp(NEXT_TOKEN_NEURON[0])
    W_in[NEXT_TOKEN_NEURON[1], TOKEN] += 0.05 * model.W_E[IN, TOKEN]
    W_out[NEXT_TOKEN_NEURON[1], OUTPUT] += 0.5 * model.W_U[MIND, OUTPUT]


def erasing_neuron(model: Planted) -> None:
    """Writes the opposite of what it reads: their cosine is −1."""
    W_in, W_out = model.mlp(ERASING_NEURON[0])
    reads = W_in[ERASING_NEURON[1]]
    reads -= reads.mean()
    W_out[ERASING_NEURON[1]] = -2 * reads


# Names: what indirect object identification asks of a model, with one name ------------------------

NAME_HEAD, BACKUP_HEAD, LATER_HEAD = (0, 1), (1, 2), (1, 0)
WRITTEN = 1.5  # a name goes into another part as 1.5 times its signs, times the scale of the LayerNorm
SOUGHT, SINK = ROTARY, ROTARY + 1  # dimensions of a query and a key


@dataclass(frozen=True)
class Names:
    """Tokens with nearly orthogonal embeddings.

    The embeddings of both names, the sink (a prompt's first token) and the end (its last) are orthogonal.
    """

    names: tuple[int, int]
    sink: int
    end: int
    others: list[int]

    @classmethod
    def of(cls, W_E: Tensor) -> "Names":
        signs = W_E[:N_TOKENS, TOKEN].sign()
        found = [0]
        while len(found) < 4:
            overlaps = (signs @ signs[found].T).abs().sum(1)
            found.append(int((overlaps == 0).nonzero()[0]))
        near = ((signs @ signs[found].T).abs() <= 4).all(1)
        return cls((found[0], found[1]), found[2], found[3], near.nonzero()[:, 0].tolist()[:10])

    def prompt(self, name: int | None) -> list[int]:
        """Return a prompt with one of the names, or with another token in its place."""
        a, b, c, d, e, *_ = self.others
        return [self.sink, a, b, e if name is None else name, c, d, self.end]


def seeks(model: Planted, head: tuple[int, int], wanted: list[int], tokens: Names) -> dict[str, Tensor]:
    """From the last token, the head attends to the wanted tokens; from all others, to the first token."""
    signs, weights = model.W_E[:, TOKEN].sign(), model.head(*head)
    weights["W_Q"][SOUGHT, TOKEN] += signs[tokens.end]
    weights["W_K"][SOUGHT, TOKEN] += signs[wanted].sum(0)
    weights["b_Q"][SINK] += 30
    weights["W_K"][SINK, TOKEN] += signs[tokens.sink]
    return weights


def carries(model: Planted, head: tuple[int, int], start: slice, to: slice, tokens: Names) -> None:
    """What the head moves: a name from one part into another, and no other token."""
    signs, weights = model.W_E[:, TOKEN].sign(), model.head(*head)
    for i, name in enumerate(tokens.names):
        weights["W_V"][i, start] += signs[name] / 32
        weights["W_O"][to, i] += signs[name] / 2


def name_mover(model: Planted) -> None:
    """A head that copies a name to the end of the prompt."""
    tokens = Names.of(model.W_E)
    seeks(model, NAME_HEAD, [*tokens.names], tokens)
    carries(model, NAME_HEAD, TOKEN, OUTPUT, tokens)


def backup(model: Planted) -> None:
    """A second head copies the name, but only where the first has not: its query reads what that wrote."""
    name_mover(model)
    tokens = Names.of(model.W_E)
    weights = seeks(model, BACKUP_HEAD, [*tokens.names], tokens)
    weights["W_Q"][SOUGHT, OUTPUT] -= 4 * model.W_U[[*tokens.names], OUTPUT].sign().sum(0)
    carries(model, BACKUP_HEAD, TOKEN, OUTPUT, tokens)


def in_two_steps(model: Planted) -> None:
    """A head moves a name to the end, where W_U does not read it; a later head moves it to the output."""
    tokens = Names.of(model.W_E)
    seeks(model, NAME_HEAD, [*tokens.names], tokens)
    carries(model, NAME_HEAD, TOKEN, PREVIOUS, tokens)
    seeks(model, LATER_HEAD, [tokens.end], tokens)
    carries(model, LATER_HEAD, PREVIOUS, OUTPUT, tokens)


Circuit = Callable[[Planted], None]


def planted(folder: Path, *circuits: Circuit, noise: float = NOISE) -> Path:
    """A folder with a model that has these circuits and no other, saved with the embedded tokenizer."""
    model = Planted(noise=noise)
    for plant in circuits:
        plant(model)
    model.hf.save_pretrained(folder)
    for file in TOKENIZER.parent.glob("tokenizer*.json"):
        shutil.copy(file, folder)
    return folder
