"""Compute the circuits, scores and composition of attention heads from their weights.

The definitions are those of "A Mathematical Framework for Transformer Circuits" (Elhage et al. 2021), for a
model's processed weights and row vectors, with W_OV = W_V W_O and W_QK = W_Q W_Kᵀ of a head:

1. The input of a token t is its normalised embedding, without other terms: x = norm(W_E[t]).
2. OV circuit: x W_OV W_U, the head's effect on every logit if it attends to t.
3. QK circuit: the attention score of destination x for source x', which is a given number of positions
   earlier.
4. A skip-trigram combines the two: source … destination → output.
5. Scores of a whole head: copying (eigenvalues of W_E W_OV W_U), matching (eigenvalues of W_E W_QK W_Eᵀ),
   preference for distances, and composition (how strongly it reads the output of an earlier head).
6. Behaviours on repeated random tokens, which carry no meaning.

No tensor of shape (head, vocabulary, vocabulary) is needed: a head has rank d_head, so its eigenvalues
and norms are those of (d_head, d_head) products. tests/test_circuits.py compares with plain NumPy in float64
and with models whose circuits are planted.
"""

from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import torch
from torch import Tensor

from annotate_transformer.ingest.attribution.behaviours import Repeats, attention_sums
from annotate_transformer.ingest.attribution.steps import OF_ATTENTION
from annotate_transformer.ingest.attribution.stored import Stored
from annotate_transformer.ingest.corpus.windows import Batch
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.scores import QK
from annotate_transformer.ingest.weights import rotations
from annotate_transformer.ingest.weights.bigrams import read_embedding
from annotate_transformer.ingest.weights.slices import largest, slices

COMPOSITIONS = ("Q", "K", "V")  # composition of an earlier head with a later head's queries, keys or values

# Each of SEQUENCES sequences consists of REPEATS copies of a block of REPEATED random tokens (Olsson et al.
# 2022).
REPEATED, REPEATS, SEQUENCES = 25, 4, 10


# Outputs of a head, and the tokens it attends to ------------------------------------------------------------


@dataclass(frozen=True)
class Outputs:
    """The direct effects that a head has on the logits if it attends to a source token, for S source tokens.

    `token`, `effect`, of shape (S, k): the real tokens that the head promotes most, and the head's effects on
    these tokens, in centred logits at attention 1 and final σ = 1;
    `own_rank`, of shape (S,): rank, from 1, of the source token itself among all real tokens by this effect.
    """

    token: Tensor
    effect: Tensor
    own_rank: Tensor


def ov_circuit(model: Model, layer: int, head: int, sources: Tensor, k: int) -> Outputs:
    """Return, for each source token, the k tokens that the head promotes most if it attends to the source.

    The effects are entries of norm(W_E[source]) W_V W_O W_U (Elhage et al. 2021).
    """
    value = read_embedding(model, sources) @ model.W_V[layer, head]
    read = model.W_O[layer, head] @ model.W_U[:, : model.n_tokens]  # shape (d_head, token)
    parts = []
    for rows in slices(len(sources), model.n_tokens):
        effect = value[rows] @ read
        # Convert `above` to floats, because floats are faster to sum than bools.
        above = (effect > effect.gather(1, sources[rows, None])).to(effect.dtype)
        parts.append((*largest(effect, k), above.sum(1) + 1))
    values, tokens, own_rank = (torch.cat(part) for part in zip(*parts, strict=True))
    return Outputs(tokens, values, own_rank.long())


def qk_circuit(
    model: Model, layer: int, head: int, destinations: Tensor, sources: Tensor, distance: int
) -> Tensor:
    """Return attention scores before the softmax for tokens that are `distance` positions apart.

    The result has the shape (destination, source). A score is
    (norm(W_E[d]) W_Q + b_Q) R (norm(W_E[s]) W_K + b_K)ᵀ / √d_head, or as the family computes it (`QK`).
    Rotary embeddings rotate the query by R, so the score depends on the distance. Learned position embeddings
    are left out. In layer 0 of a model without them, these are the model's own scores.
    """
    qk = QK(model, layer)
    query = qk.queries(read_embedding(model, destinations) @ model.W_Q[layer, head] + model.b_Q[layer, head])
    key = qk.keys(read_embedding(model, sources) @ model.W_K[layer, head] + model.b_K[layer, head])
    return qk.scores(model.rotated(query, distance, layer) @ key.T, distance, head)


@dataclass(frozen=True)
class Pairs:
    """The pairs of destination and source token with the highest attention, as flat arrays, highest first.

    `attention`: fraction of the destination's attention that is on the source, if every source token occurred
    once at the same distance.
    """

    destination: Tensor
    source: Tensor
    attention: Tensor


def strongest_pairs(attention: Tensor, tokens: Tensor, k: int) -> Pairs:
    """Return the k pairs with the highest attention; `attention` is the softmax of `qk_circuit`.

    `attention` has the shape (destination, source).
    """
    share, index = largest(attention.reshape(1, -1), min(k, attention.numel()))
    destination, source = torch.unravel_index(index[0], attention.shape)
    return Pairs(tokens[destination], tokens[source], share[0])


@dataclass(frozen=True)
class SkipTrigrams:
    """Skip-trigrams source … destination → output, as flat arrays, strongest first.

    `attention`: as in `Pairs`; `strength`: attention · effect, in centred logits at final σ = 1.
    """

    source: Tensor
    destination: Tensor
    output: Tensor
    attention: Tensor
    strength: Tensor


def skip_trigrams(attention: Tensor, tokens: Tensor, outputs: Outputs, k: int) -> SkipTrigrams:
    """Return the k strongest skip-trigrams whose source and destination are among `tokens`.

    `attention`, of shape (destination, source): the softmax of `qk_circuit`;
    `outputs`: `ov_circuit` of the same tokens; with at least k outputs per token, the result is exact.
    """
    # Of the skip-trigrams with one source, only those with the k destinations that attend most to the source
    # can be among the k strongest.
    share, destination = largest(attention.T, min(k, len(tokens)))  # both of shape (source, k)
    strength = torch.einsum("sd,so->sdo", share, outputs.effect)
    found, index = largest(strength.reshape(1, -1), min(k, strength.numel()))
    source, place, output = torch.unravel_index(index[0], strength.shape)
    return SkipTrigrams(
        source=tokens[source],
        destination=tokens[destination[source, place]],
        output=outputs.token[source, output],
        attention=share[source, place],
        strength=found[0],
    )


# Scores of a head ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """The score Σ Re λ / Σ |λ| of a circuit's eigenvalues λ, from −1 to 1, and the z-score of this score.

    Both have the shape (layer, head).
    """

    score: Tensor
    z: Tensor


def copying(model: Model) -> Share:
    """Return the copying score of each head, from the eigenvalues of W_E W_OV W_U over real tokens.

    If the score is near 1, the head promotes the tokens it attends to (Elhage et al. 2021, "copying"). Under
    the null hypothesis, W_V is rotated at random relative to the other factors.
    """
    read = model.W_U[:, : model.n_tokens] @ model.W_E[: model.n_tokens]  # shape (d_model, d_model)
    return _share(model.W_O @ read, model.W_V, model)


def matching(model: Model) -> Share:
    """Return the matching score of each head, from the eigenvalues of W_E W_QK W_Eᵀ without rotary embedding.

    If the score is near 1, a token attends to earlier occurrences of itself. Under the null hypothesis,
    queries are rotated at random relative to keys.
    """
    embedding = model.W_E[: model.n_tokens]
    factors = Factors.of(model)
    return _share(factors.W_K.mT @ (embedding.T @ embedding), factors.W_Q, model)


def _share(left: Tensor, right: Tensor, model: Model) -> Share:
    """Return the eigenvalue score (`Share`) of right · left, computed from the smaller matrix left · right.

    Both products have the same nonzero eigenvalues.
    """
    eigenvalues: Tensor = torch.linalg.eigvals((left @ right).cpu().double())
    score = eigenvalues.real.sum(-1) / eigenvalues.abs().sum(-1)
    singular = torch.linalg.svdvals((_r(right) @ _r(left.mT).mT).cpu().double())
    return Share(score, score / rotations.share_std(singular, rotations.dimensions(model)))


def distance_scores(model: Model, distances: int) -> Tensor:
    """Return each head's attention score, before the softmax, between two average tokens at each distance.

    Query and key come from the mean normalised embedding of all real tokens. The scores have the shape
    (layer, head, distance).
    """
    mean = read_embedding(model, torch.arange(model.n_tokens, device=model.device)).mean(0)
    queries = torch.einsum("m,lhmd->lhd", mean, model.W_Q) + model.b_Q
    keys = torch.einsum("m,lhmd->lhd", mean, model.W_K) + model.b_K
    scores = queries.new_empty(model.n_layers, model.n_heads, distances)
    for layer, distance in product(range(model.n_layers), range(distances)):
        qk = QK(model, layer)
        query, key = qk.queries(queries[layer]), qk.keys(keys[layer])
        products = (model.rotated(query, distance, layer) * key).sum(-1)
        scores[layer, :, distance] = qk.scores(products, distance)
    return scores


# Composition -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Factors:
    """The weights of all heads; W_Q and W_K include the weights of the norms of queries and keys, if any.

    `W_Q`, `W_K` and `W_V` have the shape (layer, head, d_model, d_head);
    `W_O` has the shape (layer, head, d_head, d_model).
    """

    W_Q: Tensor
    W_K: Tensor
    W_V: Tensor
    W_O: Tensor

    @staticmethod
    def of(model: Model) -> "Factors":
        q_norm, k_norm = model.qk_norms
        return Factors(model.W_Q * q_norm, model.W_K * k_norm, model.W_V, model.W_O)

    def singular(self) -> tuple[Tensor, Tensor]:
        """Return the singular values of W_OV and of W_QK, both of shape (layer, head, d_head)."""
        ov, qk = _r(self.W_V) @ _r(self.W_O.mT).mT, _r(self.W_Q) @ _r(self.W_K).mT
        return torch.linalg.svdvals(ov), torch.linalg.svdvals(qk)

    def norms(self) -> tuple[Tensor, Tensor]:
        """Return the Frobenius norms ‖W_OV‖ and ‖W_QK‖, both of shape (layer, head)."""
        ov, qk = self.singular()
        return ov.norm(dim=-1), qk.norm(dim=-1)

    def composition(self) -> Tensor:
        """Return the composition score ‖A B‖ / (‖A‖ ‖B‖) of each earlier head with each later head.

        The shape is (Q/K/V, layer, head, later layer, later head). A is the earlier head's W_OV. B is the
        later head's W_QK for Q, W_QKᵀ for K (rotary embedding at distance 0), or W_OV for V (Elhage et al.
        2021). Scores are NaN if the second layer is not later. All norms are Frobenius norms. In a norm, R of
        the QR decomposition of an outer factor can replace this factor.
        """
        ov, qk = self.norms()
        # `writes`, of shape (layer, head, d_head, d_model), replaces the W_OV of earlier heads: norms of
        # products with it are the same.
        writes = _r(self.W_V) @ self.W_O
        # `reads`, of shape (layer, head, d_model, d_head), replace the W_QK, W_QKᵀ and W_OV of later heads:
        # here, too, norms of products stay the same. Each comes with the norm of the matrix it replaces.
        reads = (
            (self.W_Q @ _r(self.W_K).mT, qk),
            (self.W_K @ _r(self.W_Q).mT, qk),
            (self.W_V @ _r(self.W_O.mT).mT, ov),
        )
        layers, heads = ov.shape
        scores = ov.new_full((len(COMPOSITIONS), layers, heads, layers, heads), torch.nan)
        for earlier, later in combinations(range(layers), 2):
            for kind, (read, norm) in enumerate(reads):
                of_pair = torch.einsum("hdm,gme->hdge", writes[earlier], read[later])
                size = torch.linalg.vector_norm(of_pair, dim=(1, 3))  # shape (earlier head, later head)
                scores[kind, earlier, :, later] = size / (ov[earlier, :, None] * norm[later])
        return scores


def composition_null(model: Model, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return z-scores and two-sided p-values of the scores of `Factors.composition`, in the same shape.

    Under the null hypothesis, the later head's reading weights are rotated at random relative to the earlier
    head's writing weights.
    """
    d = rotations.dimensions(model)
    ov, qk = (rotations.Gram.of(values.square().cpu(), d) for values in Factors.of(model).singular())
    earlier = rotations.Gram(ov.second[..., None, None], ov.third[..., None, None])
    nulls = (rotations.norm_null(earlier, later, d) for later in (qk, qk, ov))
    std, skewness = (torch.stack(part) for part in zip(*nulls, strict=True))
    z = rotations.norm_z(scores, std, d)
    return z, rotations.two_sided(z, skewness)


def _r(factor: Tensor) -> Tensor:
    """Return the triangular matrix R of `factor` = Q R, a small matrix with ‖R Y‖ = ‖factor Y‖ for every Y.

    `factor` has the shape (…, d_model, d_head), and R the shape (…, d_head, d_head).
    """
    triangle: Tensor = torch.linalg.qr(factor, mode="r").R
    return triangle


# Behaviour -------------------------------------------------------------------------------------------


def ordinary_tokens(model: Model) -> Tensor:
    """Return the ids of all real tokens that are not special, as a tensor of shape (token,)."""
    ordinary = torch.ones(model.n_tokens, dtype=torch.bool)
    ordinary[[i for i in model.tokenizer.all_special_ids if i < model.n_tokens]] = False
    return ordinary.nonzero().squeeze(1)


def repeated_tokens(model: Model, seed: int = 0) -> Tensor:
    """Return sequences that repeat a block of distinct random tokens.

    The result has the shape (sequence, position).
    As in Olsson et al. (2022), a block of 25 tokens occurs four times in a sequence; the block is shorter for
    a model with a short context. There are ten sequences.
    """
    ids = ordinary_tokens(model)
    length = min(REPEATED, max(1, model.n_ctx // REPEATS))
    generator = torch.Generator().manual_seed(seed)
    blocks = [ids[torch.randperm(len(ids), generator=generator)[:length]] for _ in range(SEQUENCES)]
    return torch.stack(blocks).repeat(1, REPEATS)


@torch.inference_mode()
def behaviour(model: Model, tokens: Tensor) -> Tensor:
    """Return the mean of each behaviour's measure over the positions of `tokens`.

    `tokens` has the shape (sequence, position), and the result the shape (layer, behaviour, head).
    Behaviours are those of `attribution.behaviours`, in the same order, as in the view head_stats.
    """
    sums = [_of_sequence(model, sequence) for sequence in tokens.split(1)]
    total, count = (torch.stack(part).sum(0) for part in zip(*sums, strict=True))
    return total / count[:, None]


def _of_sequence(model: Model, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of each behaviour's measure over a sequence, and the number of positions in each sum.

    The shapes are (layer, behaviour, head) and (behaviour,).
    """
    stored = _all_stored(tokens, model.device)
    same = Repeats.of(tokens.to(model.device), stored)
    patterns = model.forward(tokens).pattern
    sums = [attention_sums(stored.pick(pattern.transpose(1, 2)), same, stored) for pattern in patterns]
    return torch.stack([of_layer.total for of_layer in sums]) / OF_ATTENTION, sums[0].count


def _all_stored(tokens: Tensor, device: str) -> Stored:
    ids = tokens.numpy()
    following = np.concatenate([ids[:, 1:], np.full((len(ids), 1), -1)], axis=1)
    positions = np.arange(ids.size).reshape(ids.shape)
    return Stored.of(Batch([], ids, following, positions, np.ones_like(ids, dtype=np.bool_)), device)
