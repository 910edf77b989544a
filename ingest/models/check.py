"""Compare a loaded model with Hugging Face's own implementation, before the model is used.

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

TOKENS = 32  # number of random tokens in the test text
LIKELIEST = 10  # at each position, the log-probabilities of this number of likeliest tokens are compared
LARGEST_DIFFERENCE = 1e-4  # in nats; a smaller difference of log-probabilities is always allowed

# FLOAT_ERROR: allowed rounding error of a float32 logit, divided by the sum of the absolute values of the
# logit's terms. The macro closure_bound in schema.sql has the same factor.
FLOAT_ERROR = 128 * 2**-24


class Compared(Protocol):
    """Attributes and methods that a model must have to be compared with Hugging Face's implementation."""

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
    def mean_logit(self, normalized: Tensor) -> Tensor: ...
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
        """Return the largest difference from the expected log-probabilities, and the allowed difference.

        Both are in nats. The likeliest tokens at each position are compared. The allowed difference is what
        rounding in float32 explains.
        """
        expected, token = self.logprob.topk(min(LIKELIEST, self.logprob.shape[1]))
        forward = model.forward(self.tokens)
        likeliest = token[:, 0].to(forward.final.device)
        residual, size = _summed(model, self.tokens[0].to(likeliest.device), forward, likeliest)
        normalized = model.normalized(residual, forward.scale[0])
        logits = torch.addmm(model.b_U, normalized, model.W_U)
        logprob = model.capped(logits, model.mean_logit(normalized)[:, None]).log_softmax(-1).cpu()
        difference = float((logprob.gather(1, token) - expected).abs().max())
        return difference, max(LARGEST_DIFFERENCE, FLOAT_ERROR * float(size.max()))


def _summed(model: Compared, tokens: Tensor, forward: Forward, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of all components' outputs, and the sum of the absolute values of a logit's terms.

    `tokens`, `target`, of shape (position,): the text, and for each position the token of the logit. The
    first sum, of shape (position, d_model), is the final residual stream. The second sum, Σ |term|, of shape
    (position,), is in logits; rounding errors are proportional to it (schema.sql, closure_bound).
    """
    u = model.W_U[:, target]
    embedding = torch.stack(
        [*model.embedding(tokens, torch.arange(len(tokens), device=tokens.device)).values()]
    )
    total, size = embedding.sum(0), (embedding * u.T).sum(-1).abs().sum(0)
    for i, (z, post) in enumerate(zip(forward.z, forward.post, strict=True)):
        W_O, W_out = model.writing(i)
        attn = z[0].flatten(1) @ W_O.flatten(0, 1) + model.b_O[i]
        mlp = post[0] @ W_out + model.b_out[i]
        of_heads = torch.einsum("phd,hdp->ph", z[0], W_O @ u).abs().sum(-1) + (model.b_O[i] @ u).abs()
        of_neurons = (post[0] * (W_out @ u).T).abs().sum(-1) + (model.b_out[i] @ u).abs()
        if forward.attn_scale:  # only models with norms after attention and MLP have these scales
            after_attn, after_mlp = forward.attn_scale[i][0], forward.mlp_scale[i][0]
            attn, of_heads = attn / after_attn[:, None], of_heads / after_attn
            mlp, of_neurons = mlp / after_mlp[:, None], of_neurons / after_mlp
        total, size = total + attn + mlp, size + of_heads + of_neurons
    return total, size / forward.scale[0]
