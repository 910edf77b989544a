"""Replicate the name-mover heads of GPT-2 small on indirect object identification (Wang et al. 2022).

A prompt names two people, A and B; one of them, the subject S, gives something "to" the other, the indirect
object IO. The model should predict IO. The templates are this project's own; S is named first in half of the
draws. A prompt has no BOS.

A head's direct effect is its term at the last position in the centred logit of IO minus that of S, at frozen
σ. Wang et al. found the heads by path patching, which replaces a head's output by its output on other
prompts, so their values differ from these in size.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from annotate_transformer.ingest.attribution.toward import toward
from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.replications.quantity import Quantity, Reference, fraction, mean
from annotate_transformer.store.names import head_name
from annotate_transformer.store.running import Direction

PROMPTS = 200  # number of prompts
NAME_MOVERS = ((9, 9), (10, 0), (9, 6))
NEGATIVE = ((10, 7), (11, 10))
FEWEST_NAMES = 4
DIFFERENCE, CORRECT = "logit of IO minus logit of S", "prompts on which the logit of IO is higher"
HIGHEST = "name movers among the 3 highest direct effects"
LOWEST = "negative name movers among the 2 lowest direct effects"

NAMES = (
    "Mary", "John", "Tom", "James", "Dan", "Sarah", "Martin", "Amy", "Michael", "Alice", "David", "Mark",
    "Paul", "Peter", "Robert", "William", "Laura", "Kate", "Anna", "Jack", "Rose", "Simon", "Adam", "Kevin",
    "Lisa", "Emma", "Ruth", "Charles", "George", "Thomas", "Frank", "Henry", "Jane", "Edward", "Sam",
)  # fmt: skip
PLACES = ("station", "library", "market", "office", "museum", "garden", "school", "hotel")
THINGS = ("book", "ticket", "letter", "ring", "lamp", "key", "coat", "basket")
TEMPLATES = (
    "After {a} and {b} arrived at the {place}, {s} handed a {thing} to",
    "While {a} and {b} were waiting near the {place}, {s} lent a {thing} to",
    "Yesterday {a} and {b} met at the {place}, and {s} gave a {thing} to",
    "When {a} and {b} had left the {place}, {s} showed a {thing} to",
    "Because {a} and {b} worked in the {place}, {s} brought a {thing} to",
    "Last week {a} and {b} walked to the {place}, where {s} sold a {thing} to",
    "Soon after {a} and {b} found the {place}, {s} sent a {thing} to",
    "In the evening {a} and {b} sat in the {place}, until {s} passed a {thing} to",
)


def _effect(layer: int, index: int) -> str:
    return f"direct effect of {head_name(layer, index)}"


REFERENCES = (
    Reference(
        "GPT-2 small",
        "Wang et al. 2022, on their own prompts; the heads are from path patching",
        {
            DIFFERENCE: 3.56,
            CORRECT: 0.993,
            **{_effect(*place): "name mover: positive" for place in NAME_MOVERS},
            **{_effect(*place): "negative name mover: negative" for place in NEGATIVE},
            HIGHEST: 3,
            LOWEST: 2,
        },
    ),
)


@dataclass(frozen=True)
class Prompt:
    """The token ids of a prompt, and of its two one-token names: IO (indirect object) and S (subject)."""

    token_ids: list[int]
    io: int
    s: int


def ioi(model: Model) -> list[Quantity]:
    """Return the logit difference IO − S, and the direct effects on it of the known and the strongest heads.

    The samples are prompts, drawn independently, so an interval holds for prompts of these templates.

    Raises:
        ModelError: too few names are one token for this model.
    """
    prompts = make_prompts(model)
    effects, differences = direct_effects(model, prompts)
    order = effects.mean(0).flatten().argsort(descending=True).tolist()
    ranked = [divmod(place, model.n_heads) for place in order]
    highest, lowest = ranked[: len(NAME_MOVERS)], ranked[-len(NEGATIVE) :]
    wanted = {*highest, *lowest, *NAME_MOVERS, *NEGATIVE}
    return [
        mean(DIFFERENCE, "logits", differences, "prompts"),
        fraction(CORRECT, differences > 0, "prompts"),
        *(
            mean(_effect(*place), "logits", effects[:, *place], "prompts")
            for place in ranked
            if place in wanted
        ),
        Quantity(HIGHEST, "heads", len({*highest} & {*NAME_MOVERS})),
        Quantity(LOWEST, "heads", len({*lowest} & {*NEGATIVE})),
    ]


def make_prompts(model: Model, n: int = PROMPTS, seed: int = 0) -> list[Prompt]:
    """Draw n prompts, each with a random template, two names in random order, a random place and thing."""
    encode = model.tokenizer.encode
    ids = {name: encode(f" {name}", add_special_tokens=False) for name in NAMES}
    names = [name for name in NAMES if len(ids[name]) == 1]
    if len(names) < FEWEST_NAMES:
        raise ModelError(
            f"{model.checkpoint.name} cannot be tested on indirect objects: its tokenizer has {len(names)} "
            f"of {len(NAMES)} names as one token, and {FEWEST_NAMES} are needed. Choose another model."
        )
    draw, prompts = random.Random(seed), []
    for _ in range(n):
        a, b = draw.sample(names, 2)
        s, io = draw.sample([a, b], 2)
        text = draw.choice(TEMPLATES).format(
            a=a, b=b, s=s, place=draw.choice(PLACES), thing=draw.choice(THINGS)
        )
        prompts.append(Prompt(encode(text, add_special_tokens=False), ids[io][0], ids[s][0]))
    return prompts


def direct_effects(model: Model, prompts: list[Prompt]) -> tuple[Tensor, Tensor]:
    """Return the heads' direct effects on the logit of IO minus the logit of S, and that logit difference.

    The shapes are (prompt, layer, head) and (prompt,), in logits before a soft-cap.
    """
    terms = [toward(model, prompt.token_ids, Direction((prompt.io,), (prompt.s,))) for prompt in prompts]
    heads, differences = np.stack([of.heads for of in terms]), np.array([of.total for of in terms])
    return torch.from_numpy(heads), torch.from_numpy(differences)
