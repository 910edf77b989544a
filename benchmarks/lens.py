"""Why `--lens` costs several forward passes, by counting; and what an exact bound could save of that.

    python benchmarks/lens.py [CORPUS] [--model MODEL] [--tokens 512]

The logit lens stores log-probabilities and a rank for every layer. The normaliser of a log-probability is a
sum over the whole vocabulary, so each layer needs one more unembedding. The first number printed is the lower
bound that follows: multiplications of a forward pass and of these unembeddings, divided by those of the
forward pass.

A token could be left out of the sum if a bound shows that its probability is too small to matter. The columns
of W_U are put into GROUPS groups of similar columns (k-means). For a normalised residual stream x, a logit in
a group is at most ⟨x, centre⟩ + |x| · radius + the largest bias. The groups with the smallest bounds are left
out as long as their bounds together stay below ERROR of the true sum, which a real method would not even
know. Prints the share of the vocabulary left out, by layer.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer.ingest.attribution.stored import Stored
from annotate_transformer.ingest.corpus.windows import Batch, batches
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.run.settings import Settings
from benchmarks.measure import (
    about,
    first_windows,
    multiplications,
    parser_of,
    print_head,
    print_table,
    subject,
)

GROUPS, ROUNDS = 512, 8  # number of groups, and of rounds of k-means
BATCH = 512  # maximum number of tokens in a forward pass
ERROR = 1e-4  # largest error of a log-probability, in nats


@torch.inference_mode()
def main() -> None:
    options = parser_of(__doc__, tokens=512).parse_args()
    with subject(options) as (model, _):
        settings = Settings(limit_tokens=options.tokens).resolved(model)
        assert settings.context
        windows = first_windows(options.corpus, model, options.tokens, settings.context)
        groups = Groups(model)
        blocks, unembedding = multiplications(model, settings.context / 2)
        floor = 1 + (model.n_layers - 1) * unembedding / (blocks + unembedding)
        print_head(f"{about(model)}; {options.tokens:,} tokens of {Path(options.corpus).name}")
        print(f"Forward pass with the lens ÷ forward pass, by multiplications: {floor:.2f}\n")
        found = [groups.left_out_after_layers(model, batch) for batch in batches(windows, BATCH)]
    shares = torch.cat(found, 1)
    rows = [[str(i), f"{float(of.mean()):.1%}", f"{float(of.max()):.1%}"] for i, of in enumerate(shares)]
    print_table(["after layer", "left out of the vocabulary, mean", "at most"], rows)


class Groups:
    """Groups of similar columns of W_U, and bounds of the logits of each group."""

    def __init__(self, model: Model) -> None:
        self.W_U, self.b_U = model.W_U.T.contiguous(), model.b_U
        generator = torch.Generator().manual_seed(0)
        centres = self.W_U[torch.randperm(len(self.W_U), generator=generator)[:GROUPS]]
        for _ in range(ROUNDS):
            group = torch.cdist(self.W_U, centres).argmin(1)
            sums = torch.zeros_like(centres).index_add_(0, group, self.W_U)
            centres = sums / torch.bincount(group, minlength=len(centres)).clamp(1)[:, None]
        self.centres, self.size = centres, torch.bincount(group, minlength=len(centres))
        apart = (self.W_U - centres[group]).norm(dim=1)
        self.radius = torch.zeros(len(centres)).scatter_reduce(0, group, apart, "amax")
        lowest = torch.full((len(centres),), -torch.inf)
        self.bias = lowest.scatter_reduce(0, group, self.b_U, "amax")

    def left_out_after_layers(self, model: Model, batch: Batch) -> Tensor:
        """Return the shares of `left_out` for the residual stream after each layer, (layer, position)."""
        stored = Stored.of(batch, model.device)
        residuals = model.forward(torch.from_numpy(batch.tokens), resid_post=True).resid_post
        picked = [stored.pick(residual) for residual in residuals]
        return torch.stack([self.left_out(model.normalized(x, model.scale(x))) for x in picked])

    def left_out(self, x: Tensor) -> Tensor:
        """Return the share of the vocabulary that can be left out, for each row of `x`."""
        whole = torch.addmm(self.b_U, x, self.W_U.T).double().logsumexp(1, keepdim=True)
        bound = x @ self.centres.T + x.norm(dim=1, keepdim=True) * self.radius + self.bias
        lowest, order = bound.double().sort(1)
        size = self.size[order]
        is_out = ((lowest - whole).exp() * size).cumsum(1) <= ERROR
        return (size * is_out).sum(1) / size.sum(1)


if __name__ == "__main__":
    main()
