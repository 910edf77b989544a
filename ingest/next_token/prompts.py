"""Store prompts that activate next-token neurons, and decompose the neurons' pre-activations on them.

These are steps 1 to 3 of Neo, Cohen and Barez (2024), for a finished run:

1. Neurons are chosen (`store.Weights.next_token_neurons` has the rule of Neo et al.). For each of them, a
   baseline neuron is drawn at random from the neurons of the same layer that have a similar mean activation
   and that the rule does not choose.
2. A neuron's prompts are the windows with its highest activations. Each ends at the position of the maximum
   and is truncated at the start to the shortest context that keeps a given fraction of that activation.
   Contexts of 1, 2, 3 … tokens are tried in order. (Neo et al. use bisection, which may end at a longer
   context, because the activation need not grow with the context.) A prompt begins with a BOS if the run has
   one. Prompts that would be too long are left out; repeated prompts are marked.
3. The neuron's pre-activation at the last token of each prompt is decomposed (`next_token.inputs`).

Each neuron is one transaction; a neuron already stored with the same settings is skipped. Step 4, the active
heads, is a query of the store: see the macros active_heads and relevant_heads.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from annotate_transformer.ingest.errors import ModelError, SettingsError
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.next_token.inputs import Inputs, activations, neuron_inputs
from annotate_transformer.store.windows import Context
from annotate_transformer.store.writer import Writer

LATE = 4  # the last 1 / LATE of all layers are late: in Pythia-160m, the last 3 of 12 layers
MOST = 2**16 - 1  # maximum of each setting that is a count, because the store has two bytes for it
BATCH_TOKENS = 4096  # maximum number of tokens in a forward pass
NEAREST = 4  # a baseline neuron is one of the 4 neurons with mean activations nearest to the chosen neuron's

Neuron = tuple[int, int]  # a neuron, as (layer, index in the layer)


@dataclass(frozen=True)
class PromptSettings:
    """The settings that determine a neuron's prompts, and which heads are active on them.

    `windows`: maximum number of windows per neuron; the windows with the highest activations are taken;
    `max_tokens`: maximum number of tokens in a prompt, without BOS;
    `share`: minimum fraction of the window's activation that a prompt keeps;
    `std_threshold`: a head is active if its term exceeds the mean over all heads by this number of standard
    deviations.
    """

    windows: int = 20
    max_tokens: int = 64
    share: float = 0.8
    std_threshold: float = 2

    def check(self) -> None:
        """Check the values of the settings.

        Raises:
            SettingsError: a value is invalid.
        """
        for name in ("windows", "max_tokens"):
            if not 1 <= getattr(self, name) <= MOST:
                option = f"--{name.replace('_', '-')}"
                raise SettingsError(f"{option} {getattr(self, name)} must lie between 1 and {MOST}.")
        if not 0 < self.share < 1:
            raise SettingsError(f"--share {self.share} must lie between 0 and 1.")
        if not 0 <= self.std_threshold < math.inf:
            raise SettingsError(f"--std-threshold {self.std_threshold} must not be negative.")


def annotate_inputs(model: Model, path: str, run_id: int, position_id: int, neuron: Neuron) -> bool:
    """Store the inputs of a neuron at a position of a run; return False if they were stored already.

    The position and the neuron must exist (`Store.position`, `Store.neuron`).

    Raises:
        ModelError: the run was made with other weights.
    """
    key = key_of(run_id, neuron)
    with Writer(path) as writer:
        check_run(writer, model, run_id)
        if writer.fetch("inputs_there", **key, position_id=position_id)["n"][0].as_py():
            return False
        [context] = writer.contexts([position_id])
        prompt = context.end(len(context.token_ids))
        # The list `context.position_ids` leaves out the BOS. It is empty if the position itself is a BOS;
        # then use the position's id.
        occurrence = _occurrence(context.position_ids or [position_id], prompt)
        inputs = neuron_inputs(model, neuron[0], [neuron[1]], [prompt])
        writer.commit(_tables(key, [occurrence], inputs), run_id=run_id)
        return True


def late(n_layers: int) -> list[int]:
    """Return the indices of the late layers, which are the last quarter.

    >>> late(12), late(6)
    ([9, 10, 11], [4, 5])
    """
    return list(range(n_layers - -(-n_layers // LATE), n_layers))


def baseline(others: dict[Neuron, float], chosen: dict[Neuron, float], seed: int) -> list[Neuron]:
    """Draw, for each chosen neuron, another neuron of the same layer with a similar mean activation.

    `others`, `chosen`: neurons with their mean activations. No neuron is drawn twice; if a layer has too few
    other neurons, all of these are drawn.
    """
    left, drawn = dict(others), []
    for (layer, neuron), mean in chosen.items():
        of_layer = [other for other in left if other[0] == layer]
        nearest = sorted(of_layer, key=lambda other: (abs(left[other] - mean), other))[:NEAREST]
        if nearest:
            place = np.random.default_rng([seed, layer, neuron]).integers(len(nearest))
            drawn.append(nearest[place])
            del left[nearest[place]]
    return drawn


def look_up(
    model: Model,
    path: str,
    run_id: int,
    chosen: list[Neuron],
    settings: PromptSettings,
    *,
    seed: int = 0,
    watch: Callable[[int, int, Neuron, int], None] = lambda done, of, neuron, prompts: None,
) -> int:
    """Store prompts and inputs of chosen neurons and of baseline neurons; return the number of neurons added.

    `watch`: called for each added neuron with the number of neurons done, the number of all neurons, the
    neuron, and the number of the neuron's prompts.

    Raises:
        SettingsError: an invalid setting, or the run is not finished.
        ModelError: the run was made with other weights.
    """
    settings.check()
    with Writer(path) as writer:
        if check_run(writer, model, run_id) != "finished":
            raise SettingsError(f"Run {run_id} is not finished, so its lists are not final: finish it first.")
        there = [
            row | {"prompts": None} for row in writer.fetch("next_token_neurons", run_id=run_id).to_pylist()
        ]
        neurons = [(neuron, False) for neuron in chosen]
        neurons += [(neuron, True) for neuron in _baseline(writer, run_id, chosen, seed)]
        records = [_record(run_id, neuron, of, settings) for neuron, of in neurons]
        missing = [record for record in records if record not in there]
        for done, record in enumerate(missing, len(records) - len(missing) + 1):
            prompts = _look_up(model, writer, record, settings)
            watch(done, len(records), (record["layer"], record["neuron"]), prompts)
        return len(missing)


def _baseline(writer: Writer, run_id: int, chosen: list[Neuron], seed: int) -> list[Neuron]:
    """Return the baseline neurons for the chosen neurons of a run."""
    layers = sorted({layer for layer, _ in chosen})
    rows = writer.fetch("neurons_to_draw", run_id=run_id, layers=layers).to_pylist()
    mean = {(row["layer"], row["neuron"]): row["mean"] for row in rows}
    eligible = {(row["layer"], row["neuron"]) for row in rows if row["is_eligible"]}
    others = {neuron: of for neuron, of in mean.items() if neuron not in eligible.union(chosen)}
    return baseline(others, {neuron: mean[neuron] for neuron in chosen}, seed)


def shortest_contexts(
    model: Model, neuron: Neuron, contexts: list[Context], least: list[float], longest: int
) -> list[int | None]:
    """Return, for each context, the length of the shortest suffix on which the neuron reaches `least`.

    The length is None if even the last `longest` tokens do not suffice. `least`: one value per context.
    """
    found: list[int | None] = [None] * len(contexts)
    for lengths in _doubling(longest):
        tried = [
            (i, tokens)
            for i, context in enumerate(contexts)
            for tokens in lengths
            if found[i] is None and tokens <= len(context.token_ids)
        ]
        values = _activations(model, neuron, [contexts[i].end(tokens) for i, tokens in tried])
        for (i, tokens), value in zip(tried, values, strict=True):
            if found[i] is None and value >= least[i]:
                found[i] = tokens
    return found


def _doubling(last: int) -> Iterator[range]:
    """Yield the ranges of lengths 1, 2, 3–4, 5–8 … up to `last`.

    Prompts whose lengths are in the same range need little padding in one batch.
    """
    done = 0
    while done < last:
        end = min(max(1, 2 * done), last)
        yield range(done + 1, end + 1)
        done = end


def _activations(model: Model, neuron: Neuron, prompts: list[list[int]]) -> Iterator[float]:
    """Yield the activation at the last token of each prompt, computed in batches."""
    for some in prompt_batches(prompts):
        yield from activations(model, *neuron, some).tolist()


def prompt_batches(prompts: list[list[int]]) -> Iterator[list[list[int]]]:
    """Yield the prompts, in order, in batches of up to about BATCH_TOKENS tokens."""
    rows = max(1, BATCH_TOKENS // max(map(len, prompts), default=1))
    for start in range(0, len(prompts), rows):
        yield prompts[start : start + rows]


def _look_up(model: Model, writer: Writer, record: dict[str, Any], settings: PromptSettings) -> int:
    """Store a neuron's prompts and its inputs on them; return the number of prompts."""
    neuron = record["layer"], record["neuron"]
    key = key_of(record["run_id"], neuron)
    windows = writer.fetch("highest_windows", **key, windows=settings.windows).to_pylist()
    contexts = writer.contexts([window["position_id"] for window in windows])
    least = [settings.share * window["value"] for window in windows]
    lengths = shortest_contexts(model, neuron, contexts, least, settings.max_tokens)
    kept = [
        (window["rank"], context.end(tokens), context.position_ids[-tokens:])
        for window, context, tokens in zip(windows, contexts, lengths, strict=True)
        if tokens is not None
    ]
    tables = {"next_token_neuron": pa.Table.from_pylist([record | {"prompts": len(kept)}])}
    if kept:
        inputs = neuron_inputs(model, neuron[0], [neuron[1]], [prompt for _, prompt, _ in kept])
        tables |= _tables(key, _prompts(kept), inputs)
    writer.commit(tables, **key)
    return len(kept)


def _prompts(kept: list[tuple[int, list[int], list[int]]]) -> list[dict[str, Any]]:
    """Return a row for each prompt; `kept` has the rank of its window, its token ids and its position ids."""
    # `first_of` maps the token ids of a prompt to the rank of the first window that gives this prompt.
    rows, first_of = [], dict[tuple[int, ...], int]()
    for rank, prompt, position_ids in kept:
        first = first_of.setdefault(tuple(prompt), rank)
        rows.append(_occurrence(position_ids, prompt, rank, None if first == rank else first))
    return rows


def _occurrence(
    position_ids: list[int], prompt: list[int], rank: int | None = None, duplicate_of: int | None = None
) -> dict[str, Any]:
    """Return a row of base.neuron_occurrence, without the neuron and its activation."""
    first, last = position_ids[0], position_ids[-1]
    row = {"first_position_id": first, "position_id": last, "tokens": len(prompt)}
    return row | {"prompt": rank, "duplicate_of": duplicate_of}


def key_of(run_id: int, neuron: Neuron) -> dict[str, Any]:
    return {"run_id": run_id, "layer": neuron[0], "neuron": neuron[1]}


def _record(run_id: int, neuron: Neuron, is_baseline: bool, settings: PromptSettings) -> dict[str, Any]:
    """Return a row of base.next_token_neuron, with None for the number of prompts."""
    return key_of(run_id, neuron) | {"is_baseline": is_baseline, "prompts": None} | asdict(settings)


def check_run(writer: Writer, model: Model, run_id: int) -> str:
    """Check that a run was made with this model's weights and settings, and return the run's status."""
    [run] = writer.fetch("run_to_read", run_id=run_id).to_pylist()
    same_settings = run["config"] in (None, model.config)  # None: stored by an older version of this program
    if run["weights_sha256"] != model.weights_sha256 or not same_settings:
        raise ModelError(
            f"{model.checkpoint.name} now has other weights than run {run_id} was made with: "
            "ingest the text again, or restore the earlier files of the model."
        )
    return str(run["status"])


def _read(values: Tensor, total: Tensor) -> tuple[list[list[float]], list[float], list[float]]:
    """Return, as lists, a neuron's inputs at each position, `total`, and sum of inputs minus `total`."""
    values, total = values[:, 0].float().cpu(), total[:, 0].float().cpu()
    closure = values.double().sum(-1) - total.double()
    return values.tolist(), total.tolist(), closure.tolist()


def _tables(key: dict[str, int], occurrences: list[dict[str, Any]], inputs: Inputs) -> dict[str, pa.Table]:
    """Return a table of the positions at which a neuron was decomposed, and a table of the neuron's inputs.

    The closure error is the sum of the inputs minus the pre-activation.
    """
    post = inputs.post[:, 0].float().cpu().tolist()
    readings = {"pre": (inputs.values, inputs.pre)}
    if inputs.linear_values is not None and inputs.pre_linear is not None:
        readings["pre_linear"] = inputs.linear_values, inputs.pre_linear
    read = {name: _read(*values) for name, values in readings.items()}
    columns = {"pre": ("pre_activation", "closure"), "pre_linear": ("pre_linear", "linear_closure")}
    rows = [
        key | occurrence | {"activation": after} for occurrence, after in zip(occurrences, post, strict=True)
    ]
    for name, (_, *totals) in read.items():
        for row, *of_row in zip(rows, *totals, strict=True):
            row |= dict(zip(columns[name], of_row, strict=True))
    sources = [
        key | {"prompt": row["prompt"], "position_id": row["position_id"], "reading": name}
        | {"component": source.component, "source_layer": source.layer, "source_head": source.head}
        | {"value": value}
        for name, (values, *_) in read.items()
        for row, of_row in zip(rows, values, strict=True)
        for source, value in zip(inputs.components, of_row, strict=True)
    ]  # fmt: skip
    return {"neuron_occurrence": pa.Table.from_pylist(rows), "neuron_input": pa.Table.from_pylist(sources)}
