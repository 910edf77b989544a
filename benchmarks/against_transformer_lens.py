"""Compare the ingest with TransformerLens's own functions, which compute the same rows, in one process.

    python benchmarks/against_transformer_lens.py [CORPUS] [--model MODEL] [--tokens 2048]

With TransformerLens, each window is annotated in these steps: run_with_cache; stack_head_results and
decompose_resid through logit_attrs; stack_neuron_results, projected on the targets' columns of W_U; topk for
the strongest neurons; pandas; DuckDB. The neurons are computed for 1, 32 or 256 positions at once. With more
positions, every neuron is projected on more columns, which is faster and takes more memory.
This computes the rows of components, heads and the strongest neurons. It leaves out the sources of heads,
ranks and entropy, bounds, and the run's lists, statistics and sample, so the comparison favours it.
Prints a Markdown table: seconds, peak memory, and the largest difference between the rows of both.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer.ingest.corpus.windows import Window
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.store.queries import sections
from benchmarks.measure import (
    about,
    annotated,
    first_windows,
    measured,
    parser_of,
    print_head,
    print_table,
    subject,
    warm_up,
)

Frames = dict[str, pd.DataFrame]
AT_ONCE = (1, 32, 256)  # number of positions whose neurons are projected together
QUERIES = sections((Path(__file__).parent / "against_transformer_lens.sql").read_text(encoding="utf-8"))


def main() -> None:
    options = parser_of(__doc__, tokens=2048).parse_args()
    with subject(options) as (model, folder):
        settings = Settings(limit_tokens=options.tokens).resolved(model)
        assert settings.context and settings.keep_neurons
        windows = first_windows(options.corpus, model, options.tokens, settings.context)
        warm_up(options.corpus, model, folder)
        mine = folder / "mine.duckdb"
        report, ours = annotated(options.corpus, model, mine, settings)
        ways, differences = {"ingest": ours}, []
        for at_once in AT_ONCE:
            name, theirs = f"TransformerLens, {at_once} at once", folder / f"{at_once}.duckdb"
            with measured() as ways[name], torch.inference_mode():
                _store(theirs, (_frames(model, window, settings.keep_neurons, at_once) for window in windows))
            differences += [(name, *row) for row in _differences(mine, theirs)]
    print_head(f"{about(model)}; {report.tokens:,} tokens of {Path(options.corpus).name}, "
               f"context {settings.context}")  # fmt: skip
    rows = [
        (
            name,
            f"{spent.wall:.1f}",
            f"{report.tokens / spent.wall:,.0f}",
            f"{spent.wall / ours.wall:.1f}",
            f"{spent.peak / 1e6:,.0f}",
            f"{spent.peak / ours.peak:.1f}",
        )
        for name, spent in ways.items()
    ]
    header = ("", "wall, s", "tokens/s", "time ÷ ingest", "peak above the model, MB", "memory ÷ ingest")
    print_table(header, rows)
    print()
    compared = [
        (*names, f"{both:,}", f"{alone:,}", f"{most:.1e}") for *names, both, alone, most in differences
    ]
    print_table(("", "rows", "of both", "of one alone", "largest difference, logits"), compared)


def _frames(model: Model, window: Window, kept: int, at_once: int) -> Frames:
    """Return a window's rows: components, heads and the strongest neurons, with effects on both targets."""
    tokens = torch.from_numpy(window.ids)[None]
    logits, cache = model.bridge.run_with_cache(tokens)
    top = logits[0, :, : model.n_tokens].argmax(-1)
    targets = torch.stack([torch.cat([tokens[0, 1:], top[-1:]]), top])  # (2, position)
    positions = torch.from_numpy(window.positions)
    return {
        "component": _components(cache, targets, positions),
        "head": _heads(model, cache, targets, positions),
        "neuron": pd.concat(_neurons(model, cache, targets, positions, kept, at_once)),
    }


def _components(cache: Any, targets: Tensor, positions: Tensor) -> pd.DataFrame:
    """Return the effects of the embedding and each layer's attention and MLP, without the final bias."""
    stack, labels = cache.decompose_resid(return_labels=True)
    names = np.array([label.removesuffix("_out") for label in labels])  # embed, 0_attn, 0_mlp, …
    effects = [cache.logit_attrs(stack, side[None])[:, 0] for side in targets]
    return _rows(effects, positions, name=names)


def _heads(model: Model, cache: Any, targets: Tensor, positions: Tensor) -> pd.DataFrame:
    stack = cache.stack_head_results()
    effects = [cache.logit_attrs(stack, side[None])[:, 0] for side in targets]
    layer, head = np.divmod(np.arange(len(stack)), model.n_heads)
    return _rows(effects, positions, layer=layer, head=head)


def _rows(effects: list[Tensor], positions: Tensor, **of_unit: np.ndarray) -> pd.DataFrame:
    """Return one row per unit and position. effects: for each target, an array of shape (unit, position)."""
    units, n = effects[0].shape
    columns = {name: np.repeat(values, n) for name, values in of_unit.items()}
    toward_next, toward_top = (side.flatten().numpy() for side in effects)
    at = np.tile(positions.numpy(), units)
    return pd.DataFrame({"position_id": at, **columns, "toward_next": toward_next, "toward_top": toward_top})


def _neurons(
    model: Model, cache: Any, targets: Tensor, positions: Tensor, kept: int, at_once: int
) -> Iterator[pd.DataFrame]:
    """Yield the strongest neurons of each position and layer, by |activation| and |effect| on each target."""
    post = cache.stack_activation("post")[:, 0].mT  # (layer, d_mlp, position)
    for start in range(0, len(positions), at_once):
        here = slice(start, min(start + at_once, len(positions)))
        columns, index = targets[:, here].unique(return_inverse=True)  # index (2, place)
        stack = cache.stack_neuron_results(
            -1, pos_slice=(here.start, here.stop), apply_ln=True, project_output_onto=model.W_U[:, columns]
        )  # (layer·d_mlp, 1, place, column)
        effects = stack[:, 0, torch.arange(index.shape[1]), index]  # (layer·d_mlp, 2, place)
        effects = effects.unflatten(0, (model.n_layers, model.d_mlp))
        values = torch.cat([post[:, :, None, here], effects], dim=2)  # (layer, d_mlp, 3, place)
        strongest = values.abs().topk(kept, dim=1).indices.flatten(1, 2)
        keep = torch.zeros_like(values[:, :, 0], dtype=torch.bool).scatter_(1, strongest, True)
        layer, neuron, place = keep.nonzero(as_tuple=True)
        activation, toward_next, toward_top = values[layer, neuron, :, place].T.numpy()
        yield pd.DataFrame(
            {
                "position_id": positions[here][place].numpy(),
                "layer": layer.numpy(), "neuron": neuron.numpy(),
                "activation": activation, "toward_next": toward_next, "toward_top": toward_top,
            }
        )  # fmt: skip


def _store(file: Path, windows: Iterator[Frames]) -> None:
    with duckdb.connect(str(file)) as con:
        for number, frames in enumerate(windows):
            for table, frame in frames.items():
                to = f"INSERT INTO {table}" if number else f"CREATE TABLE {table} AS"
                con.register("frame", frame)
                con.execute(f"{to} FROM frame")


def _differences(mine: Path, theirs: Path) -> list[tuple[str, int, int, float]]:
    """Return for each kind of row: how many both stores have, how many only one has, max difference."""
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{mine}' AS mine (READ_ONLY)")
        con.execute(f"ATTACH '{theirs}' AS theirs (READ_ONLY)")
        return [(name, *con.execute(query).fetchall()[0]) for name, query in QUERIES.items()]


if __name__ == "__main__":
    main()
