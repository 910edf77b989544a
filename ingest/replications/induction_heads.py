"""Replicate the induction heads of GPT-2 small: attention on repeated random tokens (Olsson et al. 2022).

A sequence is a BOS and a block of random tokens, twice. The score of a head is its mean attention from a
token of the second block to the token that follows the same token in the first block.
"""

import torch
from torch import Tensor

from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.replications.quantity import Quantity, Reference, mean
from annotate_transformer.ingest.weights.circuits import ordinary_tokens
from annotate_transformer.store.names import head_name

# Each sequence repeats a block of at most BLOCK tokens. There are SEQUENCES sequences, and BATCH of them
# share a forward pass.
BLOCK, SEQUENCES, BATCH = 50, 50, 5
NAMED = ((5, 1), (5, 5), (6, 9), (7, 2), (7, 10))
HIGHEST = "named heads among the 5 highest scores"

REFERENCES = (
    Reference(
        "GPT-2 small",
        "heads: ARENA course, introduction to mechanistic interpretability; score: Olsson et al. 2022",
        {HIGHEST: 5, **{f"induction score of {head_name(*named)}": "induction head" for named in NAMED}},
    ),
)


def induction_heads(model: Model) -> list[Quantity]:
    """Return the induction scores of the heads in NAMED and of the five highest-scoring heads, highest first.

    A score is a fraction of attention, from 0 to 1. Its samples are the sequences, whose blocks are drawn
    independently. The last quantity is the number of named heads among the five highest.
    """
    scores = induction_scores(model, doubled_tokens(model))
    order = scores.mean(0).flatten().argsort(descending=True).tolist()
    ranked = [divmod(place, model.n_heads) for place in order]
    highest = ranked[: len(NAMED)]
    shown = [place for place in ranked if place in highest or place in NAMED]
    quantities = [
        mean(f"induction score of {head_name(*place)}", "attention", scores[:, *place], "sequences")
        for place in shown
    ]
    return [*quantities, Quantity(HIGHEST, "heads", len({*highest} & {*NAMED}))]


def doubled_tokens(model: Model, seed: int = 0) -> Tensor:
    """Return sequences in which a block of distinct random tokens comes twice, after a BOS if there is one.

    The result has the shape (sequence, position).
    """
    ids, bos = ordinary_tokens(model), model.tokenizer.bos_token_id
    length = min(BLOCK, (model.n_ctx - 1) // 2)
    generator = torch.Generator().manual_seed(seed)
    blocks = [ids[torch.randperm(len(ids), generator=generator)[:length]] for _ in range(SEQUENCES)]
    twice = torch.stack(blocks).repeat(1, 2)
    return twice if bos is None else torch.cat([torch.full((SEQUENCES, 1), bos), twice], dim=1)


@torch.inference_mode()
def induction_scores(model: Model, tokens: Tensor) -> Tensor:
    """Return each head's mean induction attention in each sequence, of shape (sequence, layer, head).

    `tokens`, of shape (sequence, position), are as `doubled_tokens` returns them: the source is one position
    less than a block before the destination.
    """
    block = tokens.shape[1] // 2
    scores = []
    for batch in tokens.split(BATCH):
        patterns = model.forward(batch).pattern
        of_layers = [pattern.diagonal(1 - block, dim1=-2, dim2=-1)[..., -block:] for pattern in patterns]
        scores.append(torch.stack(of_layers, dim=1).mean(-1).cpu())
    return torch.cat(scores)
