"""The commands `annotate neuron` and `annotate head`: one unit's values in a run, and its weights."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from annotate_transformer.app.cli.options import Db, Json, Limit, Model, Plot, Run
from annotate_transformer.app.present import columns, figures
from annotate_transformer.app.present.inputs import readings, through
from annotate_transformer.app.present.printed import print_contexts, print_json, print_table
from annotate_transformer.app.present.words import beside_rotated, correlated, counted, filled
from annotate_transformer.store.errors import BadQuestion

if TYPE_CHECKING:
    import pandas as pd

    from annotate_transformer.store import Head, Neuron, Store, Weights

commands = typer.Typer(rich_markup_mode=None)
Of = TypeVar("Of", "Neuron", "Head")
Frames = dict[str, Any]  # maps the name of a DataFrame in the JSON output to the DataFrame


@commands.command(epilog="Example: annotate neuron L3N7 --db demo.duckdb")
def neuron(
    name: Annotated[str, typer.Argument(help="Layer and neuron from 0, such as L3N7.")],
    db: Db,
    run: Run = None,
    model: Model = None,
    plot: Plot = None,
    limit: Limit = 10,
    as_json: Json = False,
) -> None:
    """Show a neuron: statistics, top activations, random sample, tokens, direct effects, weights."""
    from annotate_transformer import store

    figures.check(plot or [])
    with store.open(db) as s, s.together():
        unit, weights = _in_run_and_by_weights(s, s.neuron, name, run, model)
        frames = _about(unit, limit) | {"mean_activation": unit.mean_activation()} if unit else {}
        frames |= _neuron_by_weights(weights, name, limit) if weights else {}
        _draw(unit, "activation (hook_post)", plot)
    if as_json:
        print_json(frames, unit.run if unit else None, weights)
        return
    if unit:
        _show_neuron(unit, frames)
    if weights:
        _show_neuron_by_weights(weights, frames)


@commands.command(epilog="Example: annotate head L1H2 --db demo.duckdb")
def head(
    name: Annotated[str, typer.Argument(help="Layer and head from 0, such as L1H2.")],
    db: Db,
    run: Run = None,
    model: Model = None,
    plot: Plot = None,
    limit: Limit = 10,
    as_json: Json = False,
) -> None:
    """Show a head: attention, contexts of its largest direct effects, sources, tokens, weights."""
    from annotate_transformer import store

    figures.check(plot or [])
    with store.open(db) as s, s.together():
        unit, weights = _in_run_and_by_weights(s, s.head, name, run, model)
        more = {"distances": unit.distances(), "mean_effect": unit.mean_effect()} if unit else {}
        frames = _about(unit, limit) | more if unit else {}
        frames |= _head_by_weights(weights, name, limit) if weights else {}
        _draw(unit, "direct effect on the next token (logits)", plot)
    if as_json:
        print_json(frames, unit.run if unit else None, weights)
        return
    if unit:
        _show_head(unit, frames, limit)
    if weights:
        _show_head_by_weights(weights, frames)


def _in_run_and_by_weights(
    s: "Store", find: "Callable[[str, int | None], Of]", name: str, run: int | None, model: str | None
) -> "tuple[Of | None, Weights | None]":
    """Return a neuron or head in a run, and the weights of a model; one of the two may be None.

    The first is None if a model is named, or if the store has no run and none is named. The second is None if
    the store does not have the weights.
    """
    from annotate_transformer import store

    if model is not None or (run is None and s.runs().empty):
        return None, s.weights(run, model)
    unit = find(name, run)
    try:
        return unit, s.weights(unit.run)
    except store.NoWeights:
        return unit, None


# In the run ---------------------------------------------------------------------------------------


def _about(unit: "Neuron | Head", limit: int) -> Frames:
    """Return a dictionary from name to table, for the tables that `annotate neuron` and `head` both print."""
    return {
        "stats": unit.stats().to_frame().T,
        "high": unit.contexts("high", limit),
        "low": unit.contexts("low", limit),
        "quantiles": unit.quantiles(5, max(1, limit // 5)),
        "tokens": unit.tokens(limit),
        "effects": unit.effects(limit),
        "companions": unit.companions(limit),
    }


def _draw(unit: "Neuron | Head | None", value: str, files: list[Path] | None) -> None:
    """Draw the exact histogram of a neuron's or head's values over the run."""
    if not files:
        return
    if unit is None:
        raise BadQuestion("--plot draws values over a run, and this question is only about weights.")
    shown = filled(unit.histogram())
    title = f"{unit.kind.capitalize()} {unit.name}, run {unit.run}: {value}"
    figures.write_all(
        figures.Bars(
            shown.range.tolist(), shown.positions.tolist(), title, "positions (bins differ in width)"
        ),
        files,
    )


def _show_neuron(unit: "Neuron", frames: Frames) -> None:
    title = f"Neuron {unit.name}, run {unit.run}: activation after the nonlinearity"
    print_table(title, frames["stats"], columns.STATISTICS["neuron"])
    print_table("Mean activation over the random sample", frames["mean_activation"], columns.MEAN_ACTIVATION)
    print_contexts("Top activations, exact over the whole run", frames["high"], columns.NEURON_CONTEXTS)
    print_contexts("Lowest activations, exact over the whole run", frames["low"], columns.NEURON_CONTEXTS)
    title = "Random sample, by fifths of the activation (the fifth with the highest values is 5)"
    print_contexts(title, frames["quantiles"], columns.NEURON_SAMPLE)
    title = "Tokens at which the neuron is most often among the stored (strongest) ones"
    print_table(title, frames["tokens"], columns.NEURON_TOKENS)
    title = "Next tokens with the largest direct effects"
    print_table(title, frames["effects"], columns.NEURON_EFFECTS)
    _show_correlated(frames["companions"])


def _show_head(unit: "Head", frames: Frames, limit: int) -> None:
    title = f"Head {unit.name}, run {unit.run}: direct effect on the next token"
    print_table(title, frames["stats"], columns.STATISTICS["head"])
    print_table("Mean direct effect", frames["mean_effect"], columns.MEAN_EFFECT)
    print_table("Mean attention", frames["stats"], columns.ATTENTION)
    for side, title in (("high", "Largest"), ("low", "Smallest")):
        title = f"{title} direct effects, exact over the whole run; the source of most attention is marked"
        print_contexts(title, frames[side], columns.HEAD_CONTEXTS, "source_")
    distances = frames["distances"].sort_values("positions", ascending=False).head(limit)
    print_table("Distance to the source of most attention", distances, columns.HEAD_DISTANCES)
    print_table("Tokens that the head most often attends to", frames["tokens"], columns.HEAD_TOKENS)
    title = "Next tokens with the largest direct effects"
    print_table(title, frames["effects"], columns.HEAD_EFFECTS)
    _show_correlated(frames["companions"])


def _show_correlated(found: "pd.DataFrame") -> None:
    print_table(f"Correlations over the run's random sample. {correlated(found)}", found, columns.CORRELATED)


# By the weights -----------------------------------------------------------------------------------


def _neuron_by_weights(weights: "Weights", name: str, limit: int) -> Frames:
    vocabulary, reads = weights.neuron_vocabulary(name), weights.neuron_reads(name)
    return {
        "weights": weights.neuron_stats(name),
        "vocabulary": vocabulary[vocabulary["rank"] <= limit],
        "reads": reads[reads["rank"] <= limit],
    }


def _show_neuron_by_weights(weights: "Weights", frames: Frames) -> None:
    draws, vocabulary = frames["weights"].draws.iloc[0], frames["vocabulary"]
    promoted, suppressed = (vocabulary[vocabulary.direction == side] for side in ("promotes", "suppresses"))
    both = promoted.merge(suppressed, on="rank", suffixes=("", "_suppressed"))
    title = f"By the weights of {weights.name}; z: relative to n = {draws} random directions"
    print_table(title, frames["weights"], columns.weights_of(frames["weights"].iloc[0]))
    print_table("Tokens that the neuron promotes and suppresses", both, columns.PROMOTED_AND_SUPPRESSED)
    _show_reads(frames["reads"], is_gated=bool(frames["weights"].gate_norm.notna().all()))


def _show_reads(reads: "pd.DataFrame", is_gated: bool) -> None:
    title = "Earlier components that the neuron can read most"
    no_sign = " (the virtual weight of a head has no sign)"
    if reads.empty:
        none = ": none, because no head or MLP comes before the neuron's layer"
        print_table(title + no_sign + none, reads, columns.NEURON_READS)
    for reading, rows in readings(reads):
        print_table(title + through(reading, is_gated) + no_sign, rows, columns.NEURON_READS)


def _head_by_weights(weights: "Weights", name: str, limit: int) -> Frames:
    return {
        "weights": weights.head_stats(name),
        "behaviour": weights.head_behaviour(name),
        "preferred_distances": weights.head_distances(name, limit),
        "compositions": weights.head_compositions(name, limit),
        "vocabulary": weights.head_vocabulary(name, limit),
        "pairs": weights.head_pairs(name, limit),
        "skip_trigrams": weights.skip_trigrams(name, limit),
    }


def _show_head_by_weights(weights: "Weights", frames: Frames) -> None:
    title = f"By the weights of {weights.name} (`annotate schema weight_stats`)"
    print_table(title, frames["weights"], columns.HEAD_WEIGHTS)
    title = "Attention on text, and what the weights say about it (`annotate schema head_behaviour`)"
    print_table(title, frames["behaviour"], columns.HEAD_BEHAVIOUR)
    title = "Distances that the head prefers, whatever the tokens (QK circuit)"
    print_table(title, frames["preferred_distances"], columns.PREFERRED_DISTANCES)
    title = f"Composition by the weights. {beside_rotated(frames['compositions'])}"
    print_table(title, frames["compositions"], columns.HEAD_COMPOSITIONS)
    title = "Tokens that the head promotes when it attends to a token (OV circuit)"
    print_table(title, frames["vocabulary"], columns.HEAD_VOCABULARY)
    back = counted(frames["pairs"].distance[0], "token") + " back"
    print_table(f"Tokens it attends to, {back} (QK circuit)", frames["pairs"], columns.HEAD_PAIRS)
    title = f"Skip-trigrams, {back}; in the run the source is 2 to 16 tokens back"
    print_table(title, frames["skip_trigrams"], columns.SKIP_TRIGRAMS)
