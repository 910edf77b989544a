"""Measure direct and total effects of all heads and neurons at sampled positions (`annotate effects`).

Attribution patching estimates the total effects of all units with one backward pass per position. The units
with the largest estimates, and as many random units, are then ablated exactly, which shows how far the
estimates can be trusted. Each ablation is stored when it is done, so a stopped command can be resumed.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from annotate_transformer.ingest.errors import SettingsError
from annotate_transformer.ingest.interventions.gradients import (
    Baselines,
    direct_effects,
    estimate,
    means,
    zeros,
)
from annotate_transformer.ingest.models.hooks import POST, Edit, Z, put
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.store.means import intervals
from annotate_transformer.store.writer import Writer

KINDS = ("head", "neuron")
BATCH = 8  # number of windows in a forward pass
Floats = NDArray[np.float64]
Watch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Plan:
    """The settings of `annotate effects`.

    sample: number of positions; exact: number of units to ablate, both of those with the largest estimates
    and of random ones; replaced_by: `zero` or `mean`
    """

    sample: int
    seed: int
    replaced_by: str
    exact: int

    def check(self) -> None:
        if self.replaced_by not in ("zero", "mean"):
            raise SettingsError(f"--by is {self.replaced_by!r}; it must be zero or mean.")
        if self.sample < 2 or self.exact < 0:
            raise SettingsError("--sample must be 2 or more, and --exact 0 or more.")


@dataclass(frozen=True)
class Sample:
    """Sampled positions, each with the window's tokens up to it, its next token and its document."""

    windows: list[list[int]]
    targets: list[int]
    documents: NDArray[np.int64]

    @staticmethod
    def of(writer: Writer, run_id: int, plan: Plan) -> "Sample":
        rows = writer.fetch("positions_with_next", run_id=run_id).to_pylist()
        if not rows:
            raise SettingsError(f"Run {run_id} has no position with a next token.")
        chosen = sorted(random.Random(plan.seed).sample(range(len(rows)), min(plan.sample, len(rows))))
        rows = [rows[i] for i in chosen]
        ids = [row["position_id"] for row in rows]
        windows = [context.tokens for context in writer.contexts(ids)]
        documents = np.array([row["document_id"] for row in rows])
        return Sample(windows, [row["next_token_id"] for row in rows], documents)


def measure(model: Model, path: str, run_id: int, plan: Plan, watch: Watch = lambda *told: None) -> int:
    """Measure and store the effects of a run's heads and neurons; return how many were newly ablated.

    `watch`: called as watch(step, done, total), where the step is `estimated` (counts positions) or `ablated`
    (counts units).

    Raises:
        SettingsError: a setting is invalid, or the run has no position with a next token.
        ModelError: the run was made with other weights.
    """
    plan.check()
    with Writer(path) as writer:
        sample = Sample.of(writer, run_id, plan)
        baselines = means(model, sample.windows) if plan.replaced_by == "mean" else zeros(model)
        key = {"run_id": run_id, "replaced_by": plan.replaced_by, "sample": plan.sample, "seed": plan.seed}
        rows = writer.fetch("unit_effects", **key).to_pylist()
        if not rows:
            made = _estimated(model, sample, baselines, watch)
            rows = [key | row for row in made]
            writer.commit({"unit_effect": pa.Table.from_pylist(rows)}, run_id=run_id)
        return _ablate_all(model, writer, key, sample, baselines, rows, plan, watch)


def _estimated(model: Model, sample: Sample, baselines: Baselines, watch: Watch) -> list[dict[str, Any]]:
    effects: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    for done, (window, target) in enumerate(zip(sample.windows, sample.targets, strict=True), 1):
        found = estimate(model, window, target, baselines)
        effects["head"].append(found.heads.flatten(1).cpu())
        effects["neuron"].append(found.neurons.flatten(1).cpu())
        watch("estimated", done, len(sample.windows))
    rows: list[dict[str, Any]] = []
    for kind, per_layer in (("head", model.n_heads), ("neuron", model.d_mlp)):
        direct, total = torch.stack(effects[kind], 1).double().numpy()
        of_kind = summaries(direct, total, sample.documents)
        q = (
            stats.false_discovery_control([row["p"] for row in of_kind])
            if of_kind[0]["p"] is not None
            else None
        )
        for i, row in enumerate(of_kind):
            place = {"kind": kind, "layer": i // per_layer, "unit": i % per_layer}
            adjusted = None if q is None else float(q[i])
            rows.append(place | {"effect_method": "attribution", "is_random": None, "q": adjusted} | row)
    return rows


def _ablate_all(
    model: Model, writer: Writer, key: dict[str, Any], sample: Sample, baselines: Baselines,
    rows: list[dict[str, Any]], plan: Plan, watch: Watch,
) -> int:  # fmt: skip
    """Ablate heads and neurons with the largest estimates, and random ones; skip those ablated before."""
    estimated = [row for row in rows if row["effect_method"] == "attribution"]
    there = {(row["kind"], row["layer"], row["unit"]) for row in rows if row["effect_method"] == "ablation"}
    chosen = _chosen(estimated, plan)
    missing = {unit: is_random for unit, is_random in chosen.items() if unit not in there}
    if not missing:
        return 0
    forward = Ablated(model, sample, baselines)
    for done, (unit, is_random) in enumerate(missing.items(), len(chosen) - len(missing) + 1):
        direct, total = forward.effects(*unit)
        [row] = summaries(direct[:, None], total[:, None], sample.documents)
        place = dict(zip(("kind", "layer", "unit"), unit, strict=True))
        whole = key | place | {"effect_method": "ablation", "is_random": is_random, "q": None} | row
        writer.commit({"unit_effect": pa.Table.from_pylist([whole])}, run_id=key["run_id"])
        watch("ablated", done, len(chosen))
    return len(missing)


def _chosen(estimated: list[dict[str, Any]], plan: Plan) -> dict[tuple[str, int, int], bool]:
    """Return the heads and neurons to ablate, and for each whether it was drawn at random.

    Up to half of the returned units are heads.
    A random unit that also has one of the largest estimates does not count as random.
    """
    units: dict[tuple[str, int, int], bool] = {}
    for kind in KINDS:
        of_kind = [row for row in estimated if row["kind"] == kind]
        most = plan.exact // 2 if kind == "head" else plan.exact - sum(not r for r in units.values())
        largest = sorted(of_kind, key=lambda row: -row["mean_abs_total"])[:most]
        names = [(kind, row["layer"], row["unit"]) for row in of_kind]
        drawn = random.Random(plan.seed).sample(names, min(most, len(names)))
        units |= dict.fromkeys(drawn, True)
        units |= {(kind, row["layer"], row["unit"]): False for row in largest}
    return units


class Ablated:
    """Next-token logits of a sample, with and without the ablation of one head or neuron at all tokens."""

    def __init__(self, model: Model, sample: Sample, baselines: Baselines) -> None:
        self.model, self.sample, self.baselines = model, sample, baselines
        order = sorted(range(len(sample.windows)), key=lambda i: len(sample.windows[i]))
        self.batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
        self.whole = self._logits({})
        found = [
            direct_effects(model, window, target, baselines)
            for window, target in zip(sample.windows, sample.targets, strict=True)
        ]
        heads, neurons = (torch.stack(of).cpu() for of in zip(*found, strict=True))
        self.direct = {"head": heads, "neuron": neurons}

    def effects(self, kind: str, layer: int, unit: int) -> tuple[Floats, Floats]:
        """Return the direct and the total effects of a head or neuron, both of shape (position,)."""
        hook, baseline = (Z, self.baselines.z) if kind == "head" else (POST, self.baselines.post)
        edit = put(baseline[layer, unit], slice(None), slice(None), unit)
        direct: Floats = self.direct[kind][:, layer, unit].double().numpy()
        return direct, self.whole - self._logits({f"blocks.{layer}.{hook}": edit})

    @torch.inference_mode()
    def _logits(self, edits: dict[str, Edit]) -> Floats:
        """Return the centred logit of each sampled position's next token, in a forward pass with `edits`."""
        model, sample = self.model, self.sample
        logits = np.empty(len(sample.windows))
        for batch in self.batches:
            windows = [torch.tensor(sample.windows[i]) for i in batch]
            last = torch.tensor([len(window) - 1 for window in windows])
            rows, tokens = torch.arange(len(batch)), pad_sequence(windows, batch_first=True)
            targets = torch.tensor([sample.targets[i] for i in batch], device=model.device)
            after = model.forward_edited(tokens, edits)
            normalized = model.normalized(after.final[rows, last], after.scale[rows, last])
            found = (normalized * model.W_U[:, targets].T).sum(-1) + model.b_U[targets]
            logits[batch] = found.double().cpu().numpy()
        return logits


def summaries(direct: Floats, total: Floats, documents: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Return statistics of the direct and total effects of each head or neuron over positions.

    `direct` and `total` have the shape (position, head or neuron).
    The interval of the mean total effect resamples documents, because positions of one document are not
    independent.
    """
    low, high, error = _resampled(total, documents)
    n = len(np.unique(documents))
    mean = total.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(mean) / error, n - 1) if n > 1 else np.full(len(mean), np.nan)
        d, t = direct - direct.mean(0), total - mean
        r = (d * t).sum(0) / np.sqrt((d * d).sum(0) * (t * t).sum(0))
    # If the effect of a head or neuron is 0 at every position, mean / error is 0 / 0 and p is NaN. Then set p
    # to 1.
    p = np.where(np.isnan(p) & (n > 1), 1.0, p)
    columns = {
        "mean_direct": direct.mean(0), "mean_abs_direct": np.abs(direct).mean(0),
        "mean_total": mean, "mean_abs_total": np.abs(total).mean(0),
        "total_low": low, "total_high": high, "p": p, "correlation": r,
        "same_sign": (np.sign(direct) == np.sign(total)).mean(0),
    }  # fmt: skip
    counts = {"positions": len(total), "documents": n}
    return [
        counts | {name: None if np.isnan(values[i]) else float(values[i]) for name, values in columns.items()}
        for i in range(total.shape[1])
    ]


def _resampled(total: Floats, documents: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """Return 95 % interval (low, high) and standard error of mean total effects, by resampling documents."""
    _, index = np.unique(documents, return_inverse=True)
    sums = np.zeros((int(index.max()) + 1, total.shape[1]))
    np.add.at(sums, index, total)
    return intervals(sums, np.bincount(index))


def windows_read(plan: Plan) -> int:
    """Return the maximum number of windows that the model reads to measure the effects that `plan` asks for.

    Each window is read up to 5 times for baselines, estimates and unchanged outputs, and then once for each
    ablated unit: `exact` with the largest estimates and `exact` at random.
    """
    return plan.sample * (5 + 2 * plan.exact)
