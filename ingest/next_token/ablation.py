"""Ablate heads that help to activate next-token neurons; store the effects on neurons and predictions.

This is step 7 of Neo, Cohen and Barez (2024), for the neurons of `next_token.prompts`. A neuron's next-token
is the token that the neuron promotes most. The macros
relevant_heads and active_heads of the store define which heads are relevant, and on which prompts they are
active. For each relevant head and each distinct prompt of its neuron:

1. The head is ablated: its z is set to zero at every position. The layer's attention bias, which includes the
   value biases, stays. The head's indirect effects through later layers disappear too.
2. At the last token, the neuron's activation and the probability of its next-token are compared with and
   without the head. The Kolmogorov-Smirnov distance between the decreases on active and on inactive prompts
   measures the effect; its p-value comes from an exact permutation test.

Some prompts are held out (`next_token.held_out`) to score explanations (`next_token.explain`). Each neuron
is one transaction; a neuron that is stored already is skipped. tests/test_explain.py compares the effects
with Hugging Face's own forward pass.
"""

from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from annotate_transformer.ingest.attribution.unembed import unembedded
from annotate_transformer.ingest.models.hooks import Head
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.next_token.held_out import groups_of, held_out
from annotate_transformer.ingest.next_token.inputs import last_and_tokens
from annotate_transformer.ingest.next_token.prompts import (
    Neuron,
    check_run,
    key_of,
    prompt_batches,
)
from annotate_transformer.store.scores import permutation_p
from annotate_transformer.store.writer import Writer


def ablate(
    model: Model,
    path: str,
    run_id: int,
    watch: Callable[[int, int, Neuron, int], None] = lambda done, of, neuron, heads: None,
) -> int:
    """For each neuron, ablate the heads that the macro `relevant_heads` lists; return the number of neurons.

    `watch`: called for each added neuron with the number of neurons done, the number of all neurons, the
    neuron, and the number of the neuron's heads.

    Raises:
        ModelError: the run was made with other weights.
    """
    with Writer(path) as writer:
        check_run(writer, model, run_id)
        missing = writer.fetch("prompts_of_heads", run_id=run_id).to_pylist()
        neurons = [(neuron, list(rows)) for neuron, rows in groupby(missing, _neuron)]
        for done, (neuron, rows) in enumerate(neurons, 1):
            watch(done, len(neurons), neuron, _ablate(model, writer, run_id, rows))
        return len(neurons)


@torch.inference_mode()
def activation_and_probability(
    model: Model, neuron: Neuron, prompts: list[list[int]], head: Head | None = None
) -> Tensor:
    """Return a neuron's activation and its next-token's probability after each of P prompts: shape (P, 2).

    `head`: the head that is ablated, if any.
    """
    layer, unit = neuron
    next_token = (model.W_out[layer, unit] @ model.W_U[:, : model.n_tokens]).argmax()
    found = []
    for some in prompt_batches(prompts):
        last, tokens = last_and_tokens(some)
        forward, at_last = model.forward_without(head, layer, tokens), (torch.arange(len(some)), last)
        read = model.normalized(forward.final[at_last], forward.scale[at_last])
        probability = unembedded(model, read)[1][:, next_token].exp()
        found.append(torch.stack([forward.post[at_last][:, unit], probability], -1))
    return torch.cat(found)


def _ablate(model: Model, writer: Writer, run_id: int, rows: list[dict[str, Any]]) -> int:
    """Ablate each head that `rows` lists for a neuron, and store the effects; return the number of heads."""
    neuron, written, tested = _neuron(rows[0]), list[dict[str, Any]](), list[dict[str, Any]]()
    heads = [(head, list(prompts)) for head, prompts in groupby(rows, _head)]
    bos, prompts = _prompts(writer, heads[0][1])  # those of the first head, as all have the same prompts
    read = [bos + prompt for prompt in prompts]
    before, groups = activation_and_probability(model, neuron, read), groups_of(prompts)
    for head, of_head in heads:
        after = activation_and_probability(model, neuron, read, head)
        held = held_out([row["is_active"] for row in of_head], groups, [*neuron, *head])
        of_neuron = key_of(run_id, neuron) | {"source_layer": head[0], "source_head": head[1]}
        lost = [
            {"ablated_activation": activation, "probability": probability, "ablated_probability": ablated}
            for probability, (activation, ablated) in zip(before[:, 1].tolist(), after.tolist(), strict=True)
        ]
        written += [
            of_neuron
            | {"prompt": row["prompt"], "is_active": row["is_active"], "is_held_out": out}
            | of_prompt
            for row, out, of_prompt in zip(of_head, held, lost, strict=True)
        ]
        tested.append(of_neuron | _tested(of_head, lost))
    tables = {"head_prompt": written, "ablation": tested}
    writer.commit({name: pa.Table.from_pylist(made) for name, made in tables.items()}, run_id=run_id)
    return len(heads)


def _tested(rows: list[dict[str, Any]], lost: list[dict[str, float]]) -> dict[str, float]:
    """Return p-values: does ablation lower activation and probability equally on active and inactive prompts?

    The decreases are computed in float32, as in the view `ablations`.
    """
    is_active = np.array([row["is_active"] for row in rows])
    activation = np.array([row["activation"] for row in rows], np.float32)
    after, before, ablated = (
        np.array([of_prompt[name] for of_prompt in lost], np.float32)
        for name in ("ablated_activation", "probability", "ablated_probability")
    )
    return {
        "activation_p": permutation_p(activation - after, is_active),
        "probability_p": permutation_p(before - ablated, is_active),
    }


def _prompts(writer: Writer, rows: list[dict[str, Any]]) -> tuple[list[int], list[list[int]]]:
    """Return the prompts' BOS, as a list that is empty without a BOS, and each prompt's token ids."""
    contexts = writer.contexts([row["position_id"] for row in rows])
    bos = contexts[0].bos
    ids = [
        context.token_ids[len(context.token_ids) - row["tokens"] + len(bos) :]
        for context, row in zip(contexts, rows, strict=True)
    ]
    return bos, ids


def _neuron(row: dict[str, Any]) -> Neuron:
    return row["layer"], row["neuron"]


def _head(row: dict[str, Any]) -> Head:
    return row["source_layer"], row["source_head"]
