"""What a neuron and its next-token lose without a head: the relevant heads' prompts, into the store.

Context look-ups after Neo, Cohen and Barez (2024), step 7, of neurons that were looked up
(`ingest.lookups`). Which heads are relevant, and on which prompts they are active, the store says (the
macros relevant_heads and active_heads). For each of them, on every different prompt of its neuron, that
alone read:

1. The head's output is set to zero at every position: its z, so that the layer's attention bias, value
   biases folded in, stays. What the head did through later layers goes with it.
2. The neuron's activation and the probability of its next-token at the last token are compared.

Explanations are made from some of these prompts and scored on the others (`ingest.explain`), the same
for all methods: of the active and of the inactive ones the smaller half is held out, by chance, the
same each time. A neuron is a transaction, and one that is there is left as it is. Checked against
Hugging Face's own forward pass in tests/test_explain.py.
"""

from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ingest.inputs import last_and_tokens
from ingest.lookups import Neuron, batches, check_run, contexts_of, key_of
from ingest.model import Model
from store.writer import Writer

Head = tuple[int, int]  # layer, head


def ablate(
    model: Model,
    path: str,
    run_id: int,
    watch: Callable[[int, int, Neuron, int], None] = lambda done, of, neuron, heads: None,
) -> int:
    """Ablate the relevant heads of the neurons that were looked up; how many neurons were new.

    watch is told of each neuron that was added: how many are done, of how many, which, and its heads.

    Raises:
        ModelError: `model` has not the weights that the run was made with.
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
    """At the last token of each prompt, without `head`, the latter of the neuron's next-token: (P, 2)"""
    layer, unit = neuron
    next_token = (model.W_out[layer, unit] @ model.W_U[:, : model.n_tokens]).argmax()
    found = []
    for some in batches(prompts):
        last, tokens = last_and_tokens(some)
        forward, at_last = model.forward_without(head, layer, tokens), (torch.arange(len(some)), last)
        final = forward.final[at_last]
        read = (final - final.mean(-1, keepdim=True)) / forward.scale[at_last][:, None]
        probability = (read @ model.W_U + model.b_U).softmax(-1)[:, next_token]
        found.append(torch.stack([forward.post[at_last][:, unit], probability], -1))
    return torch.cat(found)


def held_out(is_active: list[bool], seed: list[int]) -> list[bool]:
    """Which prompts to hold out: the smaller half of the active and of the inactive ones."""
    kinds, order = np.array(is_active), np.random.default_rng(seed).permutation(len(is_active))
    held = np.zeros(len(kinds), dtype=bool)
    for kind in (True, False):
        of_kind = order[kinds[order] == kind]
        held[of_kind[: len(of_kind) // 2]] = True
    return [bool(each) for each in held]


def _ablate(model: Model, writer: Writer, run_id: int, rows: list[dict[str, Any]]) -> int:
    """Write what a neuron loses without each of its relevant heads; how many those are."""
    neuron, written = _neuron(rows[0]), []
    heads = [(head, list(prompts)) for head, prompts in groupby(rows, _head)]
    prompts = _prompts(writer, heads[0][1])  # the same for all heads
    before = activation_and_probability(model, neuron, prompts)
    for head, of_head in heads:
        after = activation_and_probability(model, neuron, prompts, head)
        held = held_out([row["is_active"] for row in of_head], [*neuron, *head])
        written += [
            key_of(run_id, neuron)
            | {name: row[name] for name in ("source_layer", "source_head", "prompt", "is_active")}
            | {"is_held_out": out, "ablated_activation": activation}
            | {"probability": probability, "ablated_probability": ablated}
            for row, out, probability, (activation, ablated) in zip(
                of_head, held, before[:, 1].tolist(), after.tolist(), strict=True
            )
        ]
    writer.commit({"head_prompt": pa.Table.from_pylist(written)})
    return len(heads)


def _prompts(writer: Writer, rows: list[dict[str, Any]]) -> list[list[int]]:
    """Token ids of a neuron's prompts, as they are read: a BOS and all."""
    contexts = contexts_of(writer, [row["position_id"] for row in rows])
    return [
        context.end(row["tokens"] - len(context.bos)) for context, row in zip(contexts, rows, strict=True)
    ]


def _neuron(row: dict[str, Any]) -> Neuron:
    return row["layer"], row["neuron"]


def _head(row: dict[str, Any]) -> Head:
    return row["source_layer"], row["source_head"]
