"""Compare a loaded model with Hugging Face's own implementation, before anything is computed with it.

Hugging Face's forward pass runs over seeded random tokens before TransformerLens processes the weights. Then
the outputs of all components of the processed model are added up and unembedded. If this gives other
log-probabilities, the model is refused. So a model is annotated only if its decomposition is complete,
whatever config.json says.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from annotate_transformer.ingest.models.hooks import Forward

TOKENS = 32  # number of random tokens of the text
LIKELIEST = 10  # number of tokens with the highest probabilities that are compared at each position
LARGEST_DIFFERENCE = 1e-4  # of log-probabilities, in nats
FLOAT_ERROR = 128 * 2**-24  # of a logit in float32, relative to Σ |term| (schema.sql, closure_bound)


class Compared(Protocol):
    """A loaded model, as far as the comparison uses it."""

    offset_direction: Tensor
    offset_bias: float
    W_U: Tensor
    b_U: Tensor

    @property
    def b_O(self) -> Tensor: ...
    @property
    def b_out(self) -> Tensor: ...
    def forward(self, tokens: Tensor) -> Forward: ...
    def embedding(self, tokens: Tensor, positions: Tensor) -> dict[str, Tensor]: ...
    def writing(self, layer: int) -> tuple[Tensor, Tensor]: ...
    def normalized(self, residual: Tensor, scale: Tensor) -> Tensor: ...
    def capped(self, logits: Tensor, offset: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Expected:
    """The predictions of Hugging Face's implementation for a short text of random tokens.

    `tokens`, of shape (1, position): the text;
    `logprob`, of shape (position, d_vocab): log-probabilities in nats.
    """

    tokens: Tensor
    logprob: Tensor

    @staticmethod
    @torch.inference_mode()
    def of(hf_model: Any, n_tokens: int) -> "Expected":
        config = hf_model.config
        most = min(TOKENS, getattr(config, "max_position_embeddings", TOKENS))
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(min(n_tokens, config.vocab_size), (1, most), generator=generator)
        logits = hf_model(tokens, use_cache=False).logits[0]
        return Expected(tokens, logits.log_softmax(-1))

    @torch.inference_mode()
    def compared(self, model: Compared) -> tuple[float, float]:
        """Return the largest difference of a log-probability among the likeliest tokens, and its bound.

        Both are in nats. The bound is what rounding explains in float32.
        """
        forward = model.forward(self.tokens)
        normalized = model.normalized(_sum_of_components(model, self.tokens, forward), forward.scale[0])
        offset = normalized @ model.offset_direction + model.offset_bias
        logits = model.capped(torch.addmm(model.b_U, normalized, model.W_U), offset[:, None])
        logprob = logits.log_softmax(-1).cpu()
        expected, token = self.logprob.topk(min(LIKELIEST, self.logprob.shape[1]))
        difference = float((logprob.gather(1, token) - expected).abs().max())
        ids = self.tokens[0].to(logits.device)
        size = float(_size_of_terms(model, forward, ids, token[:, 0].to(logits.device)).max())
        return difference, max(LARGEST_DIFFERENCE, FLOAT_ERROR * size)


def _sum_of_components(model: Compared, tokens: Tensor, forward: Forward) -> Tensor:
    """Return the sum of what all components write, of shape (position, d_model): the residual stream."""
    ids = tokens[0].to(forward.final.device)
    total = torch.stack([*model.embedding(ids, torch.arange(len(ids), device=ids.device)).values()]).sum(0)
    for i, (z, post) in enumerate(zip(forward.z, forward.post, strict=True)):
        W_O, W_out = model.writing(i)
        attn = z[0].flatten(1) @ W_O.flatten(0, 1) + model.b_O[i]
        mlp = post[0] @ W_out + model.b_out[i]
        if forward.attn_scale:  # norms after the sublayers
            attn, mlp = attn / forward.attn_scale[i][0][:, None], mlp / forward.mlp_scale[i][0][:, None]
        total = total + attn + mlp
    return total


def _size_of_terms(model: Compared, forward: Forward, tokens: Tensor, token: Tensor) -> Tensor:
    """Return Σ |term| over all components, in logits of the token `token` at each position.

    Rounding errors are proportional to it (schema.sql, closure_bound). `tokens`, `token` and the result have
    the shape (position,).
    """
    u = model.W_U[:, token]
    embedding = model.embedding(tokens, torch.arange(len(tokens), device=tokens.device))
    size = torch.stack([(vectors * u.T).sum(-1).abs() for vectors in embedding.values()]).sum(0)
    for i, (z, post) in enumerate(zip(forward.z, forward.post, strict=True)):
        W_O, W_out = model.writing(i)
        attn = torch.einsum("phd,hdp->ph", z[0], W_O @ u).abs().sum(-1) + (model.b_O[i] @ u).abs()
        mlp = (post[0] * (W_out @ u).T).abs().sum(-1) + (model.b_out[i] @ u).abs()
        if forward.attn_scale:
            attn, mlp = attn / forward.attn_scale[i][0], mlp / forward.mlp_scale[i][0]
        size = size + attn + mlp
    return size / forward.scale[0]
