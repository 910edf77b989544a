"""How well a head's direct effect predicts what zero-ablating the head changes, on the next token's logit.

    python benchmarks/total_effect.py [CORPUS] [--model MODEL] [--tokens 40000] [--context 256]

CORPUS should be text that the model was not trained on, as the embedded corpus is for the embedded model.
The direct effect is `heads.toward_next` of a store. The ablation effect is the next token's centred logit
minus the same logit with the head's z set to 0 at every position of the window (`Model.forward_without`);
the value bias stays, as it is part of the layer's attention bias in the store too. All positions that have
a next token count. Prints a Markdown table: Pearson's r of the two effects over positions × heads of a
layer, and the share of positions at which one head has both the largest |direct effect| and the largest
|ablation effect| of all heads. Intervals are percentile bootstraps that resample documents.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer import store
from annotate_transformer.ingest.attribution.stored import Stored
from annotate_transformer.ingest.corpus.windows import Batch, batches
from annotate_transformer.ingest.models.hooks import Head
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.run.settings import Settings
from benchmarks.measure import about, annotated, first_windows, parser_of, print_head, print_table, subject

Floats = NDArray[np.float64]
RESAMPLES, SEED = 10_000, 0


@dataclass(frozen=True)
class Effects:
    """The effects of all heads on the next token's centred logit, in logits, at P positions.

    `direct`, `ablation`: of shape (P, layer, head);
    `document`, of shape (P,): id of the position's document.
    """

    direct: Floats
    ablation: Floats
    document: NDArray[np.int64]

    @property
    def n_documents(self) -> int:
        return len(np.unique(self.document))

    def of_documents(self, values: Floats) -> Floats:
        """Sum values of shape (P, …) by document."""
        _, index = np.unique(self.document, return_inverse=True)
        sums = np.zeros((self.n_documents, *values.shape[1:]))
        np.add.at(sums, index, values)
        return sums

    def tops(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the head with the largest |effect| at each position: by direct effect, and by ablation."""
        direct, ablation = (np.abs(x).reshape(len(x), -1).argmax(-1) for x in (self.direct, self.ablation))
        return direct, ablation


def main() -> None:
    options = _options()
    # For matrix products this small, several threads would wait for each other longer than they save.
    torch.set_num_threads(1)
    with subject(options) as (model, folder):
        settings = Settings(limit_tokens=options.tokens, context=options.context).resolved(model)
        effects = measure(options.corpus, model, folder / "store.duckdb", settings)
        print_head(
            f"{about(model)}; {len(effects.document):,} positions in {effects.n_documents} documents of "
            f"{Path(options.corpus).name}, context {settings.context}; {RESAMPLES:,} resamples, seed {SEED}"
        )
    _print(effects)


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__, tokens=40_000)
    parser.add_argument("--context", type=int)
    return parser.parse_args()


def measure(corpus: str, model: Model, db: Path, settings: Settings) -> Effects:
    """Annotate a corpus into `db`, then ablate every head over the same windows."""
    assert settings.context and settings.batch_tokens and settings.limit_tokens
    annotated(corpus, model, db, settings)
    windows = first_windows(corpus, model, settings.limit_tokens, settings.context)
    found = [ablation_effects(model, batch) for batch in batches(windows, settings.batch_tokens)]
    positions, ablation = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    order = positions.argsort()
    with store.open(db) as s:
        rows = s.sql(
            """SELECT p.position_id, p.document_id, h.toward_next
               FROM heads h JOIN positions p USING (run_id, position_id)
               WHERE p.next_token IS NOT NULL ORDER BY p.position_id, h.layer, h.head"""
        )
    by_position = rows.to_numpy().reshape(len(positions), -1, 3)
    assert (by_position[:, 0, 0] == positions[order]).all()
    return Effects(
        direct=by_position[:, :, 2].reshape(ablation.shape).astype(np.float64),
        ablation=ablation[order].astype(np.float64),
        document=by_position[:, 0, 1].astype(np.int64),
    )


@torch.inference_mode()
def ablation_effects(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the ids of a batch's positions that have a next token, and the ablation effects of all heads.

    The effects have the shape (P, layer, head): by how many logits zero-ablating the head lowers the next
    token's centred logit.
    """
    tokens, stored = torch.from_numpy(batch.tokens), Stored.of(batch, model.device)
    next_ids = stored.next_ids[stored.has_next]

    def logit(head: Head | None) -> Tensor:
        forward = model.forward_without(head, 0, tokens)
        final, scale = (stored.pick(x)[stored.has_next] for x in (forward.final, forward.scale))
        return (model.normalized(final, scale) * model.W_U.T[next_ids]).sum(-1) + model.b_U[next_ids]

    whole = logit(None)
    lowered = [
        torch.stack([whole - logit((layer, head)) for head in range(model.n_heads)], -1)
        for layer in range(model.n_layers)
    ]
    return stored.position_ids[stored.has_next].cpu(), torch.stack(lowered, 1).cpu()


def correlation(effects: Effects, layer: int, weights: Floats) -> Floats:
    """Return Pearson's r over positions × heads of a layer, for each row of weights of documents.

    `weights` has the shape (resample, document).
    """
    x, y = effects.direct[:, layer], effects.ablation[:, layer]
    sums = np.stack([effects.of_documents(v.sum(-1)) for v in (x**0, x, y, x * x, y * y, x * y)], -1)
    n, sx, sy, sxx, syy, sxy = (weights @ sums).T
    r: Floats = (n * sxy - sx * sy) / np.sqrt((n * sxx - sx**2) * (n * syy - sy**2))
    return r


def agreement(effects: Effects, weights: Floats) -> Floats:
    """Return the share of positions at which both effects have the same top head, for each row of weights."""
    direct, ablation = effects.tops()
    agreeing, positions = (effects.of_documents(x) for x in ((direct == ablation) * 1.0, direct**0.0))
    share: Floats = (weights @ agreeing) / (weights @ positions)
    return share


def resampled(documents: int) -> Floats:
    """Return how often each resample draws each document; the first row is the sample itself."""
    even = np.full(documents, 1 / documents)
    drawn = np.random.default_rng(SEED).multinomial(documents, even, RESAMPLES)
    return np.concatenate([np.ones((1, documents)), drawn])


def _print(effects: Effects) -> None:
    weights, (positions, layers, heads) = resampled(effects.n_documents), effects.direct.shape
    rows = []
    for layer in range(layers):
        r, low, high = _interval(correlation(effects, layer, weights))
        name = f"r, layer {layer}" + (", the last" if layer == layers - 1 else "")
        rows.append((name, f"{r:.2f}", f"{low:.2f} to {high:.2f}", f"{positions * heads:,}"))
    share, low, high = _interval(agreement(effects, weights))
    rows.append(("the same top head", f"{share:.1%}", f"{low:.1%} to {high:.1%}", f"{positions:,}"))
    chance = _chance(effects)
    rows.append(("the same, were the two independent", f"{chance:.1%}", "", f"{positions:,}"))
    print_table(("direct and ablation effect", "value", "95 % interval", "n"), rows)


def _interval(values: Floats) -> tuple[float, float, float]:
    """Return the value of the sample, which comes first, and the 95 % interval of the resamples."""
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return float(values[0]), float(low), float(high)


def _chance(effects: Effects) -> float:
    """Return the share of agreeing top heads if the two were independent, each with its own frequencies."""
    heads = effects.direct[0].size
    direct, ablation = (np.bincount(top, minlength=heads) / len(top) for top in effects.tops())
    return float(direct @ ablation)


if __name__ == "__main__":
    main()
