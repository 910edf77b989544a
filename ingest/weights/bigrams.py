"""Compare the direct path W_E W_U with the bigrams of a corpus.

Without heads and neurons, the prediction after token a depends on the embedding of a alone:
`norm(W_E[a]) W_U + b_U`, with the embedding's own σ ("A Mathematical Framework for Transformer
Circuits": zero-layer transformers; without σ a divergence is meaningless). A model trained on bigrams alone
would predict the logarithms of bigram frequencies, so this module compares the two.
"""

from functools import cached_property

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from annotate_transformer.ingest.attribution.fast import logits as fast
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.weights.slices import slices

FIRST = 10  # the overlap score compares the 10 most frequent next tokens with the 10 most likely ones
SEED = 0

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def read_embedding(model: Model, token_ids: Tensor) -> Tensor:
    """Return the normalised embeddings of tokens, without position embeddings, heads and MLPs.

    The shape is (token, d_model).
    """
    W_E = model.W_E[token_ids]
    return model.normalized(W_E, model.scale(W_E))


def direct_path(model: Model, token_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of the direct path after each token, and log Σ exp of these logits in nats.

    The logits are centred or, in a model with a soft-cap, those after the cap.
    The logits have the shape (token, d_vocab).
    """
    read = read_embedding(model, token_ids)
    logits = torch.addmm(model.b_U, read, model.W_U)
    if model.logit_cap is not None:
        logits = model.capped(logits, model.mean_logit(read)[:, None])
    # Compute logsumexp for 16 rows at a time. 16 rows fit into the CPU's cache, which makes the computation
    # three times faster.
    return logits, torch.cat([rows.logsumexp(-1) for rows in logits.split(16)])


class Bigrams:
    """The distinct bigrams of a run, sorted by their tokens, with their counts.

    `first`, `second`, `count`, of shape (bigram,): both token ids, and the number of positions;
    `n_tokens`: number of real tokens;
    `tokens`, of shape (T,): the distinct first tokens;
    `at`, of shape (bigram,): index of each bigram's first token in `tokens`.
    """

    def __init__(self, first: Ints, second: Ints, count: Ints, n_tokens: int) -> None:
        self.first, self.second, self.count, self.n_tokens = first, second, count, n_tokens
        self.tokens, self.at = np.unique(first, return_inverse=True)
        self.total = self.sum(count).astype(np.int64)
        self.next_tokens = np.bincount(self.at)
        self._by_token = pd.Series(count).groupby(self.at)

    def sum(self, values: NDArray[np.generic], chosen: slice | NDArray[np.bool_] = slice(None)) -> Floats:
        """Return, for each first token, the sum of `values` over all bigrams with this first token.

        The result has the shape (T,).
        """
        return np.bincount(self.at[chosen], values, len(self.tokens)).astype(np.float64)

    @cached_property
    def share(self) -> Floats:
        """Each bigram's count as a fraction of the count of the bigram's first token"""
        return self.count / self.total[self.at]

    @cached_property
    def is_first(self) -> NDArray[np.bool_]:
        """Whether a bigram is among the `FIRST` most frequent bigrams of its first token; ties by token id"""
        return np.asarray(self._by_token.rank(method="first", ascending=False) <= FIRST)

    @cached_property
    def rank_above_absent(self) -> Floats:
        """Each bigram's rank by count among all real next tokens, minus the shared rank of those with count 0

        Ranks ascend with the count; equal counts share their mean rank. Shape (bigram,).
        """
        absent = self.n_tokens - self.next_tokens[self.at]
        return np.asarray(absent / 2 + self._by_token.rank() - 0.5)

    @cached_property
    def rank_variance(self) -> Floats:
        """For each first token, Σ (rank − mean rank)² over all real next tokens, ranked by bigram count

        The shape is (T,).
        """
        ties = pd.Series(self.count).groupby([self.at, self.count]).transform("size").to_numpy()
        absent = (self.n_tokens - self.next_tokens).astype(np.float64)
        tied = absent**3 - absent + self.sum(ties.astype(np.float64) ** 2 - 1)
        return (float(self.n_tokens) ** 3 - self.n_tokens - tied) / 12


def agreement(model: Model, bigrams: Bigrams) -> dict[str, Floats]:
    """Score how well the direct path predicts which tokens follow each first token in the corpus.

    Each score has the shape (T,), for T first tokens.
    `rank_correlation`: Spearman's correlation of counts (ties averaged) and logits over all real tokens;
    `divergence`: Kullback-Leibler divergence of the bigrams' distribution from the direct path's softmax over
    all d_vocab rows, in nats;
    `overlap`: fraction of the FIRST most frequent next tokens (or of all, if fewer) that are among the top
    FIRST of the direct path;
    `shuffled_…`: the same scores with the direct path of another token. The permutation of the tokens is
    drawn with SEED, and no token keeps its own direct path.
    """
    size = len(bigrams.tokens)
    order = np.random.default_rng(SEED).permutation(size)
    other = np.empty(size, dtype=np.int64)
    other[order] = np.roll(order, 1)
    figures: dict[str, Floats] = {}
    for rows in slices(size, model.d_vocab):
        logits, normalizer = direct_path(model, torch.from_numpy(bigrams.tokens[rows]).to(model.device))
        for name, against in (("", np.arange(size)), ("shuffled_", other)):
            held = _held_against(bigrams, against, rows, logits, normalizer)
            for figure, values in held.items():
                figures[name + figure] = figures.get(name + figure, 0.0) + values
    return figures


def _held_against(
    bigrams: Bigrams, against: Ints, rows: slice, logits: Tensor, normalizer: Tensor
) -> dict[str, Floats]:
    """Return each token's scores if the direct path that it is compared with is in `rows`; otherwise 0.

    `against`, of shape (T,): for each token, the index of the token whose direct path it is compared with;
    `logits`, `normalizer`: the direct paths of the tokens in `rows`.
    """
    row = against[bigrams.at]
    here = (row >= rows.start) & (row < rows.stop)
    row, second, share = row[here] - rows.start, bigrams.second[here], bigrams.share[here]
    n = bigrams.n_tokens
    above = fast.above(logits.cpu().numpy(), n, row, second)
    logprob = (logits[row, second] - normalizer[row]).double().cpu().numpy()
    covariance = ((n + 1) / 2 - (above + 1)) * bigrams.rank_above_absent[here]
    shared = bigrams.is_first[here] & (above < FIRST)
    std_threshold = np.sqrt(bigrams.rank_variance * (float(n) ** 3 - n) / 12)
    return {
        "rank_correlation": bigrams.sum(covariance, here) / std_threshold,
        "divergence": bigrams.sum(share * (np.log(share) - logprob), here),
        "overlap": bigrams.sum(shared, here) / np.minimum(bigrams.next_tokens, FIRST),
    }


def distances(model: Model, bigrams: Bigrams) -> pd.DataFrame:
    """Return mean inner product and cosine of normalised W_E[a] and W_U[:,b], by the count of bigram (a, b).

    There is a row for each doubling of the count, and a row for count 0. The row for count 0 is over pairs of
    a first and a second token that both occur in bigrams of the run, but never together.
    `bigrams`: number of pairs; `inner_product`: mean logit of the direct path minus b_U;
    `cosine`, `cosine_std`: mean and std of the cosine over the pairs.
    """
    second, column = np.unique(bigrams.second, return_inverse=True)
    read = read_embedding(model, torch.from_numpy(bigrams.tokens).to(model.device)).double()
    write = model.W_U[:, second].T.double()
    read_norm, write_norm = read.norm(dim=-1), write.norm(dim=-1)
    inner = torch.cat(
        [
            (read[bigrams.at[part]] * write[column[part]]).sum(-1)
            for part in slices(len(column), model.d_model)
        ]
    )
    cosine = inner / (read_norm[bigrams.at] * write_norm[column])
    # Each first token has a unit vector â, and each second token a unit vector ŵ. Sum the cosines of all
    # pairs, and their squares, without computing each pair: Σ cos = ⟨Σ â, Σ ŵ⟩ and Σ cos² = ⟨Σ â âᵀ, Σ ŵ ŵᵀ⟩.
    unit_read, unit_write = read / read_norm[:, None], write / write_norm[:, None]
    all_pairs = {
        "bigrams": len(read) * len(write),
        "inner_product": float(read.sum(0) @ write.sum(0)),
        "cosine": float(unit_read.sum(0) @ unit_write.sum(0)),
        "squares": float(((unit_read.T @ unit_read) * (unit_write.T @ unit_write)).sum()),
    }
    pairs = pd.DataFrame({"count": bigrams.count, "bigrams": 1})
    pairs["inner_product"], pairs["cosine"] = inner.cpu().numpy(), cosine.cpu().numpy()
    pairs["squares"] = pairs.cosine**2
    pairs["min_count"] = 2 ** np.floor(np.log2(bigrams.count)).astype(np.int64)
    sums = pairs.drop(columns="count").groupby("min_count").sum()
    sums.loc[0] = pd.Series(all_pairs) - sums.sum()
    sums = sums.sort_index()
    return _means(sums[sums.bigrams > 0])


def _means(sums: pd.DataFrame) -> pd.DataFrame:
    means = sums[["inner_product", "cosine", "squares"]].div(sums.bigrams, axis=0)
    return pd.DataFrame(
        {
            "min_count": sums.index,
            "max_count": np.maximum(2 * sums.index - 1, 0),
            "bigrams": sums.bigrams.astype(np.int64),
            "inner_product": means.inner_product,
            "cosine": means.cosine,
            "cosine_std": (means.squares - means.cosine**2).clip(lower=0) ** 0.5,
        }
    )
