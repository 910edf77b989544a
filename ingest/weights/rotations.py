"""Compare scores of a model's weights with their null distributions under random rotations.

Under the null hypothesis, writing and reading weights keep their singular values, and a random rotation (Haar
measure) turns one relative to the other, so that only their alignment is tested. Writing weights are centred,
and so are reading weights (the norm is folded in): both lie in the subspace that the norm leaves, which is
orthogonal to the vector of ones. The rotation acts in this subspace, whose dimension is `dimensions`.

The mean, variance and third moment of ‖A R B‖² for random R are known exactly. With M = AᵀA, N = BBᵀ
and their traceless parts M₀, N₀, tr(M R N Rᵀ) = tr M tr N / d + tr(M₀ R N₀ Rᵀ). The traceless symmetric
matrices are an irreducible representation of the rotations, of dimension (d − 1)(d + 2) / 2; so by
Schur's lemma the second term has mean 0 and variance 2 ‖M₀‖² ‖N₀‖² / ((d − 1)(d + 2)). These matrices have
one symmetric invariant of third order, tr X³; so the third moment is c tr M₀³ tr N₀³. The squared cosine of
two unit vectors has a beta distribution, which gives c = 8 d / ((d − 2)(d − 1)(d + 2)(d + 4)).
tests/test_null_distributions.py compares all of this with random draws.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from annotate_transformer.ingest.models.model import Model

ROTATIONS = 8  # number of random rotations per head, for the null of a score that comes from eigenvalues
RANDOM_DIRECTIONS = 256  # number of random directions, for the null distribution of the largest congruence
SEED = 0
SMALLEST = 1e-30  # minimum stored p-value; it replaces smaller p-values


def dimensions(model: Model) -> int:
    """Return d_model minus the number of dimensions that the norm removes from the residual stream."""
    return model.d_model - model.family.norm.removed


def random_rotations(dimensions: int, rank: int, draws: int, seed: int = SEED) -> Tensor:
    """Draw random rotations, and return the first `rank` rows and columns of each rotation.

    The result has the shape (draw, rank, rank).
    """
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(draws, dimensions, rank, generator=generator, dtype=torch.float64)
    # For random normal numbers, the factor Q of the QR decomposition is uniformly (Haar) distributed only if
    # the diagonal of R is positive. So change the sign of each column of Q whose diagonal entry in R is
    # negative.
    orthogonal, triangle = torch.linalg.qr(normal)
    rotations: Tensor = (orthogonal * triangle.diagonal(dim1=-2, dim2=-1).sign()[:, None])[:, :rank]
    return rotations


# Norms of products ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gram:
    """Two rotation invariants of a matrix X: tr M₀² and tr M₀³, with M₀ the traceless part of XᵀX / ‖X‖²."""

    second: Tensor
    third: Tensor

    @staticmethod
    def of(eigenvalues: Tensor, dimensions: int) -> "Gram":
        """Compute tr M₀² and tr M₀³ from the eigenvalues of XᵀX; eigenvalues that are 0 may be left out.

        `eigenvalues` has the shape (…, rank), and both results have the shape (…).
        """
        share = eigenvalues.double().clamp(min=0)
        share = share / share.sum(-1, keepdim=True)
        second, third = share.square().sum(-1), (share**3).sum(-1)
        return Gram(second - 1 / dimensions, third - 3 * second / dimensions + 2 / dimensions**2)


def norm_null(written: Gram, read: Gram, dimensions: int) -> tuple[Tensor, Tensor]:
    """Return std and skewness of (‖A R B‖ / (‖A‖ ‖B‖))² over random rotations R; the mean is 1 / dimensions.

    `written`: invariants of AᵀA; `read`: invariants of BBᵀ; the shapes of the two are broadcast.
    """
    d = dimensions
    variance = 2 * written.second * read.second / ((d - 1) * (d + 2))
    third = 8 * d * written.third * read.third / ((d - 2) * (d - 1) * (d + 2) * (d + 4))
    return variance.sqrt(), third / variance**1.5


def norm_z(score: Tensor, std: Tensor, dimensions: int) -> Tensor:
    """Return the z-score of the square of `score` = ‖A B‖ / (‖A‖ ‖B‖); it is NaN if the null's std is 0."""
    return (score.double().square() - 1 / dimensions) / std.where(std > 1e-9, torch.nan)


def two_sided(z: Tensor, skewness: Tensor) -> Tensor:
    """Return the two-sided p-value of z under a gamma distribution with the given skewness (Pearson III).

    With few singular values the null distribution is far from normal: with one singular value on each side,
    it is the distribution of a squared cosine.
    """
    shape = 4 / skewness.abs().clamp(min=1e-3).square()
    width = z.abs() * shape.sqrt()
    upper = torch.special.gammaincc(shape, shape + width)
    lower = torch.special.gammainc(shape, (shape - width).clamp(min=0))
    probability: Tensor = (upper + lower).clamp(SMALLEST, 1)
    return probability


# Shares of eigenvalues ------------------------------------------------------------------------------


def share_std(singular: Tensor, dimensions: int, draws: int = ROTATIONS, seed: int = SEED) -> Tensor:
    """Return the std of Σ Re λ / Σ |λ| over random rotations R, where λ are the eigenvalues of X R.

    `singular`, of shape (layer, head, rank): the singular values of X. The result's shape is (layer, head).
    The mean is 0, because R and −R are equally likely. Σ Re λ is the trace of X R, and the variance of this
    trace is exactly ‖X‖² / dimensions; with the trace as control variate, a few draws suffice.
    """
    singular = singular.double()[..., :dimensions]
    drawn = random_rotations(dimensions, singular.shape[-1], draws, seed)
    eigenvalues = torch.stack(
        [torch.linalg.eigvals(of_layer[:, None, :, None] * drawn) for of_layer in singular]
    )
    trace = eigenvalues.real.sum(-1)  # shape (layer, head, draw)
    square = (trace / eigenvalues.abs().sum(-1)).square()
    # `known` is the control variate. Its true mean is 1.
    known = trace.square() * dimensions / singular.square().sum(-1, keepdim=True)
    apart = known - known.mean(-1, keepdim=True)
    slope = (square * apart).sum(-1) / apart.square().sum(-1)
    variance = square.mean(-1) - slope * (known.mean(-1) - 1)
    return torch.where(variance > 0, variance, square.mean(-1)).sqrt()


# Neurons --------------------------------------------------------------------------------------------


def largest_congruence(model: Model, draws: int = RANDOM_DIRECTIONS, seed: int = SEED) -> tuple[float, float]:
    """Return mean and std of a random unit vector's largest congruence ⟨vector, W_U[:,t]⟩ with a real token.

    A neuron's next-token is the token with the largest ⟨W_out, W_U[:,t]⟩.
    """
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(draws, model.d_model, generator=generator)
    direction = torch.nn.functional.normalize(model.centred(normal)).to(model.W_U)
    largest = (direction @ model.W_U[:, : model.n_tokens]).amax(1).double()
    return float(largest.mean()), float(largest.std())


@dataclass(frozen=True)
class Written:
    """Statistics of output weights, which determine the null distributions of virtual weights.

    `gram`, `head_norm`, of shape (layer · head,): invariants and Frobenius norm of each W_O;
    `neuron_norm`, of shape (layer · neuron,): ‖W_out‖ of each neuron.
    """

    gram: Gram
    head_norm: Tensor
    neuron_norm: Tensor
    dimensions: int

    @staticmethod
    def of(model: Model) -> "Written":
        W_O, d = model.W_O.flatten(0, 1), dimensions(model)
        gram = Gram.of(torch.linalg.eigvalsh(W_O @ W_O.mT), d)
        return Written(gram, W_O.norm(dim=(1, 2)), model.W_out.norm(dim=-1).flatten(), d)

    def by_heads(self, weight: Tensor, source: Tensor, in_norm: Tensor) -> Tensor:
        """Return z-scores of the virtual weights ‖W_O w‖ from k heads to each neuron with input weights w.

        `weight`, `source`, of shape (neuron, k): the results of `neurons.from_heads`;
        `in_norm`, of shape (neuron,): ‖w‖ of each neuron's input weights w.
        The result has the shape (neuron, k).
        """
        std, _ = norm_null(self.gram, Gram.of(in_norm.new_ones(1), self.dimensions), self.dimensions)
        return norm_z(weight / (self.head_norm[source] * in_norm[:, None]), std[source], self.dimensions)

    def by_neurons(self, weight: Tensor, source: Tensor, in_norm: Tensor) -> Tensor:
        """Return the z-scores of the virtual weights W_out W_in from k neurons to each neuron.

        The parameters and the shape are as in `by_heads`. The cosine of two random directions has mean 0 and
        std 1 / √dimensions.
        """
        z: Tensor = weight / (self.neuron_norm[source] * in_norm[:, None]) * self.dimensions**0.5
        return z
