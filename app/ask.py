"""The commands that ask a store about a token, a phrase, a position, a neuron, a head, a run.

Each names the run it used, says whether its answer is complete, and has --json.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from annotate_transformer.app.console import harmless
from annotate_transformer.app.printed import (
    Columns,
    decimals,
    dump,
    err,
    missing,
    out,
    print_contexts,
    print_json,
    print_table,
    records,
    whole,
)
from annotate_transformer.app.sql import MOST_ROWS
from annotate_transformer.app.tables import (
    beside_rotated,
    correlated,
    counted,
    expected,
    marked,
    next_in_text,
    signed,
    table,
    visible,
)  # fmt: skip
from annotate_transformer.store.errors import BadQuestion, NoInputs, one_of
from annotate_transformer.store.names import source_name, unit_name

if TYPE_CHECKING:
    import pandas as pd

    from annotate_transformer.store import Head, Neuron, Store, Weights
    from annotate_transformer.store.notation import Expression

commands = typer.Typer(rich_markup_mode=None)
Db = Annotated[Path, typer.Option("--db", help="The store, a DuckDB file.")]
Run = Annotated[int | None, typer.Option("--run", help="Number of the run [default: the last finished one].")]
Model = Annotated[
    str | None,
    typer.Option(
        help="Ask a model's weights alone: its name, or number where there are several.", metavar="MODEL"
    ),
]
Limit = Annotated[int, typer.Option("--limit", "-k", help="Rows of each table.", min=1, max=MOST_ROWS)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: the rows, and whether they are all.")]
Notation = Annotated[
    str | None,
    typer.Option(help="Only the logit as a sum of terms: as text, tree, or latex.", metavar="FORM"),
]
Expand = Annotated[
    list[str] | None,
    typer.Option(help="In that sum: a layer (L3), L3attn, L3mlp or L3H2 as its terms; may be repeated."),
]
Drop = Annotated[
    float, typer.Option(help="In that sum: gather terms smaller than so many logits into one.", metavar="X")
]
BEHAVIOURS = ("previous", "duplicate", "induction", "first", "self")
SEEN_IN = {"corpus": "the run's corpus", "random": "repeated random tokens", "weights": "its weights"}
Of = TypeVar("Of", "Neuron", "Head")


def _names(frame: "pd.DataFrame", unit: str, of: str = "") -> list[str]:
    """Of the heads or neurons in a frame's columns layer and `unit`, with `of` before them."""
    places = zip(frame[f"{of}layer"], frame[f"{of}{unit}"], strict=True)
    return [unit_name(unit[0].upper(), *place) for place in places]


SCORES: Columns = {
    "score": ("score", decimals(3)), "rotated": ("baseline", decimals(3)), "z": ("z", decimals(1)),
    "pairs by chance": ("by_chance", expected),
}  # fmt: skip
CORRELATED: Columns = {
    "neuron or head": ("name", str), "r": ("correlation", signed), "positions (n)": ("positions", whole),
}  # fmt: skip
FIGURES: Columns = {
    "rank correlation": ("rank_correlation", signed), "shuffled": ("shuffled_rank_correlation", signed),
    "divergence (nats)": ("divergence", decimals(2)), "its shuffled": ("shuffled_divergence", decimals(2)),
    "overlap": ("overlap", decimals(3)), "shuffled overlap": ("shuffled_overlap", decimals(3)),
}  # fmt: skip
AGREEMENT: Columns = {"token": ("token", visible), "×": ("count", whole), **FIGURES}
PLACE: Columns = {"position": ("position_id", str), "next": ("next_token", visible)}


@commands.command(epilog='Example: annotate token " Irish" --db demo.duckdb')
def token(
    text: Annotated[str, typer.Argument(help="The token; its leading space counts, so quote it.")],
    db: Db,
    match: Annotated[
        str, typer.Option(help="exact, like (spaces and case aside), prefix, regex, or id.")
    ] = "exact",
    run: Run = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Where a token stands, with its text around it; with another --match, which tokens there are."""
    from annotate_transformer import store

    with store.open(db) as s, s.together():
        number = s.run(run)
        found = s.tokens(text, match, number)
        if match != "exact" and len(found) != 1:
            _tokens(f"Tokens that match {text!r} ({match}), run {number}", found.head(limit), number, as_json)
            return
        chosen = int(found.token_id.iloc[0]) if len(found) else text
        places, like = s.occurrences(chosen, number, limit=limit), s.tokens(text, "like", number)
    if as_json:
        print_json({"token": found, "like": like, "occurrences": places}, number)
        return
    row = found.iloc[0]
    total = counted(row.occurrences, "occurrence") + (
        f", the first {limit}" if row.occurrences > limit else ""
    )
    columns: Columns = {**PLACE, "loss": ("loss", decimals(2))}
    title = f"{visible(row.token)} (token {row.token_id}) in run {number}: {total}; loss in nats"
    print_contexts(title, places.assign(loss=-places.next_logprob), columns)
    others = like[like.token_id != row.token_id]
    if len(others):
        _tokens("Also in the vocabulary", others, number, False)


def _tokens(title: str, found: "pd.DataFrame", run: int, as_json: bool) -> None:
    if as_json:
        print_json({"tokens": found}, run)
    elif found.empty:
        err.print(f"No rows: the vocabulary of run {run} has no such token. Try `annotate phrase`.")
    else:
        columns: Columns = {
            "token": ("token", visible),
            "id": ("token_id", str),
            "×": ("occurrences", whole),
        }
        print_table(title, found, columns)


@commands.command(epilog='Example: annotate phrase "capital of" --db demo.duckdb')
def phrase(
    text: Annotated[str, typer.Argument(help="Text as it stands in the documents; case and spaces count.")],
    db: Db,
    run: Run = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Where a text of any length stands, across the borders of tokens."""
    from annotate_transformer import store

    with store.open(db) as s, s.together():
        number = s.run(run)
        found = s.phrase(text, number, limit=limit)
    if as_json:
        print_json({"phrase": found}, number)
    elif found.empty:
        err.print(
            f"No rows: {text!r} stands in no document that run {number} reached (case and spaces count).",
            markup=False,
            soft_wrap=True,
        )
    else:
        columns: Columns = {"first": ("first_position_id", str), "last": ("last_position_id", str)}
        cut = "" if found.attrs["exact"] else f", {found.attrs['note']}"
        print_contexts(
            f"{text!r} in run {number}: positions of its first and last token{cut}", found, columns
        )


def _about(unit: "Neuron | Head", limit: int) -> "dict[str, pd.DataFrame]":
    """What neurons and heads are asked alike."""
    return {
        "stats": unit.stats().to_frame().T,
        "high": unit.contexts("high", limit),
        "low": unit.contexts("low", limit),
        "quantiles": unit.quantiles(5, max(1, limit // 5)),
        "tokens": unit.tokens(limit),
        "effects": unit.effects(limit),
        "companions": unit.companions(limit),
    }


@commands.command(epilog="Example: annotate neuron L3N7 --db demo.duckdb")
def neuron(
    name: Annotated[str, typer.Argument(help="Layer and neuron from 0, such as L3N7.")],
    db: Db,
    run: Run = None,
    model: Model = None,
    limit: Limit = 10,
    as_json: Json = False,
) -> None:
    """What a neuron does: statistics, strongest and random contexts, tokens it fires on, effects."""
    from annotate_transformer import store

    with store.open(db) as s, s.together():
        unit, weights = _in_run_and_by_weights(s, s.neuron, name, run, model)
        frames = _about(unit, limit) if unit else {}
        frames |= _neuron_by_weights(weights, name, limit) if weights else {}
    if as_json:
        print_json(frames, unit.run if unit else None, weights)
        return
    if unit:
        _show_neuron(unit, frames)
    if weights:
        _show_neuron_by_weights(weights, frames)


def _show_neuron(unit: "Neuron", frames: "dict[str, pd.DataFrame]") -> None:
    """What it does in the run."""
    _stats(f"Neuron {unit.name}, run {unit.run}: activation after GELU", frames["stats"])
    columns: Columns = {"activation": ("activation", signed), **PLACE}
    print_contexts("Highest activations, exact over the whole run", frames["high"], columns)
    print_contexts("Lowest activations, exact over the whole run", frames["low"], columns)
    sampled: Columns = {"fifth": ("bin", str), "activation": ("value", signed), **PLACE}
    print_contexts(
        "A uniform sample, by fifths of its activation (5 is the highest)", frames["quantiles"], sampled
    )
    tokens: Columns = {
        "token": ("token", visible), "kept": ("kept", whole), "of": ("occurrences", whole),
        "mean kept activation": ("mean_kept_activation", signed),
    }  # fmt: skip
    print_table("Tokens at which it was kept most often", frames["tokens"], tokens)
    effects: Columns = {
        "next token": ("next_token", visible), "kept": ("kept", whole),
        "mean effect": ("mean_kept_effect", signed), "total effect": ("total_effect", signed),
    }  # fmt: skip
    print_table("Next tokens it did most for and against, logits", frames["effects"], effects)
    _show_correlated(frames["companions"])


def _show_correlated(found: "pd.DataFrame") -> None:
    print_table(f"Correlated over the run's sample. {correlated(found)}", found, CORRELATED)


def _neuron_by_weights(weights: "Weights", name: str, limit: int) -> "dict[str, pd.DataFrame]":
    vocabulary, reads = weights.neuron_vocabulary(name), weights.neuron_reads(name)
    return {
        "weights": weights.neuron_stats(name),
        "vocabulary": vocabulary[vocabulary["rank"] <= limit],
        "reads": reads[reads["rank"] <= limit],
    }


def _in_run_and_by_weights(
    s: "Store", find: "Callable[[str, int | None], Of]", name: str, run: int | None, model: str | None
) -> "tuple[Of | None, Weights | None]":
    """A neuron or head in its run, and the weights if they are there; of a model, or without a run, these."""
    from annotate_transformer import store

    if model is not None or (run is None and s.runs().empty):
        return None, s.weights(run, model)
    unit = find(name, run)
    try:
        return unit, s.weights(unit.run)
    except store.NoWeights:
        return unit, None


def _show_neuron_by_weights(weights: "Weights", frames: "dict[str, pd.DataFrame]") -> None:
    """What `_neuron_by_weights` found."""
    about, vocabulary = frames["weights"].iloc[0], frames["vocabulary"]
    promoted, suppressed = (vocabulary[vocabulary.direction == side] for side in ("promotes", "suppresses"))
    both = promoted.merge(suppressed, on="rank", suffixes=("", "_against"))
    columns: Columns = {
        "towards": ("token", visible), "congruence": ("congruence", signed),
        "against": ("token_against", visible), "its congruence": ("congruence_against", signed),
    }  # fmt: skip
    title = f"By the weights of {weights.name}: writes towards and against, logits per activation at σ = 1"
    says = f"cosine with what it reads {about.cosine:+.2f}, z {signed(about.cosine_z, 1)}"
    says += (
        f"; z of the first congruence {signed(about.congruence_z, 1)}, n = {about.draws} random directions"
    )
    print_table(f"{title} ({says})", both, columns)
    reads = frames["reads"]
    sources: Columns = {"from": ("name", str), "virtual weight": ("weight", signed), "z": ("z", decimals(1))}
    names = [source_name(row) for row in reads.to_dict("records")]
    print_table(
        "Reads, by its weights (a head's has no sign; z: beside random directions)",
        reads.assign(name=names),
        sources,
    )


@commands.command(epilog='Example: annotate neurons --token " the" --db demo.duckdb')
def neurons(
    db: Db,
    token: Annotated[
        str | None, typer.Option(help="Those that write this token first; its leading space counts.")
    ] = None,
    erasing: Annotated[
        bool, typer.Option("--erasing", help="Those that write against what they read.")
    ] = False,
    run: Run = None,
    model: Model = None,
    limit: Limit = 5,
    as_json: Json = False,
) -> None:
    """Neurons by their weights: the clearest next-tokens of each layer, who writes a token, who erases."""
    from annotate_transformer import store

    if erasing and token is not None:
        raise BadQuestion("Give --token or --erasing: they are two questions.")
    with store.open(db) as s, s.together():
        weights = s.weights(run, model)
        found = weights.erasing_neurons(limit) if erasing else weights.next_token_neurons(token, limit)
    found = found.assign(name=_names(found, "neuron"))
    if as_json:
        print_json({"neurons": found}, weights.run, weights)
        return
    if found.empty:
        err.print(f"No rows: {token!r} is the next-token of no neuron of {weights.name}.", markup=False)
        return
    columns: Columns = {"neuron": ("name", str), "next-token": ("token", visible)}
    columns |= {"congruence": ("congruence", signed), "z": ("congruence_z", decimals(1))}
    title = f"Neurons of {weights.name} by next-token; congruence in logits per activation at σ = 1"
    title += f"; z: beside the largest of n = {found.draws.iloc[0]} random directions"
    if erasing:
        columns = {"neuron": ("name", str), "cosine": ("cosine", signed), "z": ("cosine_z", decimals(1))}
        columns |= {"bias": ("bias", signed)}
        title = f"Neurons of {weights.name} whose output lies most against what they read"
        title += "; z: beside random directions"
    print_table(title, found, columns)


@commands.command(epilog="Example: annotate heads --kind K --db demo.duckdb")
def heads(
    db: Db,
    kind: Annotated[str | None, typer.Option(help="Of composition: Q, K or V [default: all].")] = None,
    run: Run = None,
    model: Model = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Heads: what each does on text, on random tokens and by its weights; which read which."""
    from annotate_transformer import store

    with store.open(db) as s, s.together():
        weights = s.weights(run, model)
        frames = {"behaviour": weights.behaviour(), "compositions": weights.compositions(kind, limit)}
    if as_json:
        print_json(frames, weights.run, weights)
        return
    found = frames["behaviour"].sort_values("random_induction", ascending=False).head(limit)
    columns: Columns = {"head": ("name", str)}
    for behaviour in ("induction", "previous"):
        for on in ("corpus", "random", "weights"):
            columns[f"{behaviour}, {on}"] = (f"{on}_{behaviour}", decimals(3))
    columns |= {"copying": ("copying", decimals(2)), "copying, z": ("copying_z", decimals(1))}
    title = f"Heads of {weights.name} by induction on random tokens (`annotate schema head_behaviour`)"
    print_table(title, found.assign(name=_names(found, "head")), columns)
    pairs = frames["compositions"]
    pairs = pairs.assign(name=_names(pairs, "head"), earlier=_names(pairs, "head", "earlier_"))
    reading: Columns = {"head": ("name", str), "reads": ("earlier", str), "kind": ("kind", str)}
    title = f"Composition: whose queries (Q), keys (K) or values (V) read whom. {beside_rotated(pairs)}"
    print_table(title, pairs, reading | SCORES)


@commands.command(epilog='Example: annotate bigrams " capital" --db demo.duckdb')
def bigrams(
    db: Db,
    token: Annotated[str | None, typer.Argument(help="What follows it; without it, the whole run.")] = None,
    run: Run = None,
    model: Model = None,
    limit: Limit = 10,
    as_json: Json = False,
) -> None:
    """What the embeddings alone (W_E W_U) put after a token, beside what follows it in the corpus."""
    from annotate_transformer import store

    with store.open(db) as s, s.together():
        weights = s.weights(run, model)
        if token is not None:
            agreement = weights.bigram_agreement(token=token)
            frames = {"direct_path": weights.direct_path(token, limit), "agreement": agreement}
        else:
            frames = {
                "summary": weights.bigram_summary(),
                "agreement": weights.bigram_agreement(limit),
                "distances": weights.bigram_distances(),
            }
    if as_json:
        print_json(frames, weights.run, weights)
    elif token is not None:
        columns: Columns = {
            "next": ("next_token", visible), "direct path": ("rank", whole),
            "p": ("probability", decimals(3)), "corpus": ("corpus_rank", whole), "×": ("count", whole),
            "share": ("share", decimals(3)),
        }  # fmt: skip
        path = frames["direct_path"]
        of_run = "" if weights.run is None else f" and what follows it in run {weights.run}"
        title = f"What the embedding of {visible(token)} alone puts after it{of_run}, by rank"
        print_table(title, path.assign(probability=path.logprob.map(math.exp)), columns)
        if len(frames["agreement"]):
            print_table("How far the two agree", frames["agreement"], AGREEMENT)
    else:
        _show_bigrams(frames, weights.run)


def _show_bigrams(frames: "dict[str, pd.DataFrame]", run: int | None) -> None:
    summary: Columns = {"tokens": ("tokens", whole), "positions": ("positions", whole), **FIGURES}
    print_table(f"Bigrams of run {run} and the direct path", frames["summary"], summary)
    print_table("Of its most frequent tokens", frames["agreement"], AGREEMENT)
    near: Columns = {
        "occur from": ("min_count", whole), "to": ("max_count", whole),
        "bigrams": ("bigrams", whole), "cosine": ("cosine", signed),
        "deviation": ("cosine_std", decimals(3)), "inner product (logits)": ("inner_product", signed),
    }  # fmt: skip
    print_table("How near W_E and W_U are, by how often the bigram occurs", frames["distances"], near)


@commands.command(epilog="Example: annotate head L1H2 --db demo.duckdb")
def head(
    name: Annotated[str, typer.Argument(help="Layer and head from 0, such as L1H2.")],
    db: Db,
    run: Run = None,
    model: Model = None,
    limit: Limit = 10,
    as_json: Json = False,
) -> None:
    """What a head does: behaviour, strongest contexts, where it looks, which tokens it helps."""
    from annotate_transformer import store

    with store.open(db) as s, s.together():
        unit, weights = _in_run_and_by_weights(s, s.head, name, run, model)
        frames = _about(unit, limit) | {"distances": unit.distances()} if unit else {}
        frames |= _head_by_weights(weights, name, limit) if weights else {}
    if as_json:
        print_json(frames, unit.run if unit else None, weights)
        return
    if unit:
        _show_head(unit, frames, limit)
    if weights:
        _show_head_by_weights(weights, frames)


def _show_head(unit: "Head", frames: "dict[str, pd.DataFrame]", limit: int) -> None:
    """What it does in the run."""
    _stats(f"Head {unit.name}, run {unit.run}: direct effect on the next token, logits", frames["stats"])
    behaviour: Columns = {
        "previous": ("attention_previous", decimals(2)), "self": ("attention_self", decimals(2)),
        "first": ("attention_first", decimals(2)), "duplicate": ("attention_duplicate", decimals(2)),
        "induction": ("attention_induction", decimals(2)), "entropy (nats)": ("entropy", decimals(2)),
    }  # fmt: skip
    print_table("Mean attention to the position before, itself, …", frames["stats"], behaviour)
    columns: Columns = {
        "effect": ("toward_next", signed), "position": ("position_id", str), "token": ("token", visible),
        "next": ("next_token", visible), "attention": ("top_source_attention", decimals(2)),
    }  # fmt: skip
    print_contexts("Where it helps most; its strongest source marked", frames["high"], columns, "source_")
    print_contexts("Where it hinders most; its strongest source marked", frames["low"], columns, "source_")
    distances = frames["distances"].sort_values("positions", ascending=False).head(limit)
    count: Columns = {"positions": ("positions", whole)}
    mean: Columns = {"mean effect": ("mean_effect", signed)}
    attention: Columns = {"mean attention": ("mean_attention", decimals(2))}
    back: Columns = {"tokens back": ("distance", str), **count, "share": ("share", decimals(3))}
    print_table("How far back its strongest source is", distances, back | attention | mean)
    seen: Columns = {"token": ("token", visible), **count}
    print_table("Tokens it most often looks at", frames["tokens"], seen | attention | mean)
    helped: Columns = {"next token": ("next_token", visible), **count, **mean}
    total: Columns = {"total effect": ("total_effect", signed)}
    print_table("Next tokens it did most for and against, logits", frames["effects"], helped | total)
    _show_correlated(frames["companions"])


def _head_by_weights(weights: "Weights", name: str, limit: int) -> "dict[str, pd.DataFrame]":
    return {
        "weights": weights.head_stats(name),
        "behaviour": weights.head_behaviour(name),
        "preferred_distances": weights.head_distances(name, limit),
        "compositions": weights.head_compositions(name, limit),
        "vocabulary": weights.head_vocabulary(name, limit),
        "pairs": weights.head_pairs(name, limit),
        "skip_trigrams": weights.skip_trigrams(name, limit),
    }


def _show_head_by_weights(weights: "Weights", frames: "dict[str, pd.DataFrame]") -> None:
    """What `_head_by_weights` found."""
    scores: Columns = {
        "copying": ("copying", signed), "its z": ("copying_z", decimals(1)),
        "median rank of what it attends to": ("copying_rank", decimals(0)),
        "matching": ("matching", signed), "z of that": ("matching_z", decimals(1)),
        "rotations (n)": ("draws", whole),
        "‖W_OV‖": ("ov_norm", decimals(2)), "‖W_QK‖": ("qk_norm", decimals(2)),
    }  # fmt: skip
    print_table(
        f"By the weights of {weights.name} (`annotate schema weight_stats`)", frames["weights"], scores
    )
    seen = frames["behaviour"].assign(seen_in=frames["behaviour"].seen_in.map(SEEN_IN))
    behaviours: Columns = {"": ("seen_in", str)}
    behaviours |= {name: (name, decimals(3)) for name in BEHAVIOURS} | {"entropy": ("entropy", decimals(2))}
    says = "Attention, and what the weights say of it (`annotate schema head_behaviour`); entropy in nats"
    print_table(says, seen, behaviours)
    far: Columns = {"tokens back": ("distance", str), "attention": ("attention", decimals(3))}
    print_table("How far back it prefers to look, whatever stands there", frames["preferred_distances"], far)
    others = frames["compositions"]
    columns: Columns = {"kind": ("kind", str), "this head": ("how", str), "head": ("name", str)}
    title = f"Composition by the weights. {beside_rotated(others)}"
    print_table(title, others.assign(name=_names(others, "head")), columns | SCORES)
    listed = frames["vocabulary"].tokens.map(lambda tokens: " ".join(map(visible, tokens)))
    writes: Columns = {"attending to": ("source_token", visible), "raises": ("listed", str)}
    writes |= {"effect of the first": ("effect", signed)}
    title = "What it would write by its weights (OV circuit), logits at attention 1 and σ = 1"
    print_table(title, frames["vocabulary"].assign(listed=listed), writes)
    back = counted(frames["pairs"].distance[0], "token") + " back"
    looks: Columns = {"from": ("destination_token", visible), "looks at": ("source_token", visible)}
    attention: Columns = {"attention": ("attention", decimals(3))}
    print_table(
        f"Where it would look by its weights (QK circuit), {back}", frames["pairs"], looks | attention
    )
    trigram: Columns = {
        "source": ("source_token", visible), "… destination": ("destination_token", visible),
        "→ output": ("output_token", visible), "strength": ("strength", signed), **attention,
        "× in the run": ("places", whole), "mean effect there": ("mean_toward_next", signed),
    }  # fmt: skip
    title = f"Skip-trigrams by its weights, {back}, strength in logits at σ = 1; in the run 2 to 16 back"
    print_table(title, frames["skip_trigrams"], trigram)


def _stats(title: str, stats: "pd.DataFrame") -> None:
    columns: Columns = {
        "positions": ("count", whole), "mean": ("mean", signed), "std": ("std", decimals(3)),
        "min": ("min", signed), "max": ("max", signed), "share > 0": ("fraction_positive", decimals(3)),
        "mean effect": ("mean_effect", signed), "mean |effect|": ("mean_abs_effect", decimals(3)),
    }  # fmt: skip
    print_table(title, stats, columns)


@commands.command(epilog="Example: annotate position 1234 --db demo.duckdb")
def position(
    number: Annotated[int, typer.Argument(help="The position_id.")],
    db: Db,
    limit: Limit = 10,
    notation: Notation = None,
    toward: Annotated[
        str | None, typer.Option(help="In that sum: next or top, the first choice [default: next if any].")
    ] = None,
    expand: Expand = None,
    drop: Drop = 0,
    as_json: Json = False,
) -> None:
    """What made one prediction: components, strongest heads, neurons and sources, and what it sends on."""
    from annotate_transformer import store

    with store.open(db) as s, s.together():
        at = s.position(number)
        whose = toward or ("top" if missing(at.next_token_id) else "next")
        expression = s.expression(number, whose).expand(*expand or ()).drop_below(drop)
        asked = notation or toward or expand or drop
        equation = _written(expression, notation or "text") if asked else None
        ways = ("component", "head", "neuron", "source")
        frames = {way: s.decomposition(number, way) for way in ways} | {"sends": s.sends(number, limit)}
        frames["terms"] = expression.frame
    if as_json:
        print_json({"position": at.to_frame().T, **frames}, int(at.run_id))
    elif equation is not None:
        print(harmless(str(equation)))
    else:
        show_position(at, frames, limit)


def _written(expression: "Expression", form: str) -> str:
    """An expression as text, tree or latex."""
    one_of("--notation", form, ("text", "tree", "latex"))
    if form == "latex":
        return expression.latex()
    return expression.text(out.width) if form == "text" else expression.tree(out.width)


def show_position(
    at: "pd.Series", frames: "dict[str, pd.DataFrame]", limit: int, equation: str | None = None
) -> None:
    """Print a prediction and its terms; an equation, where there is one, in place of the components."""
    out.print(f"[bold]Position {at.position_id}[/], run {at.run_id}, document {at.document_id}, loss in nats")
    out.print(marked(out, at.before or "", at.text or "", at.after or "", width=100))
    chance = "nothing follows"
    if not missing(at.next_logprob):
        following = next_in_text(at.to_dict())
        chance = f"next {following}: p {math.exp(at.next_logprob):.3f}, rank {int(at.next_rank)}"
    top = f"first choice {visible(at.top_token)}: p {math.exp(at.top_logprob):.3f}"
    out.print(f"{chance}; {top}; entropy {at.entropy:.2f}\n", markup=False, soft_wrap=True)
    both: Columns = {"toward next": ("toward_next", signed), "toward top": ("toward_top", signed)}
    if equation is None:
        _components(at, frames["component"])
    else:
        print(harmless(f"{equation}\n"))
    heads = _strongest(frames["head"], "head", limit)
    looks: Columns = {"head": ("name", str), **both, "looks at": ("top_source_position_id", str),
             "attention": ("top_source_attention", decimals(2))}  # fmt: skip
    print_table("Heads, strongest first", heads, looks)
    neurons = _strongest(frames["neuron"], "neuron", limit)
    print_table(
        "Neurons, strongest first",
        neurons,
        {"neuron": ("name", str), "activation": ("activation", signed), **both},
    )
    sources = _strongest(frames["source"], "head", limit)
    origin: Columns = {"head": ("name", str), "from": ("source_token", visible), "back": ("distance", str),
              "attention": ("attention", decimals(2)), **both}  # fmt: skip
    print_table("Head and source, strongest first", sources, origin)
    if "sends" in frames:
        sends = _strongest(frames["sends"], "head", limit)
        later: Columns = {"head": ("name", str), "at": ("token", visible), "on": ("distance", str)}
        later |= {"its next": ("next_token", visible), "attention": ("attention", decimals(2)), **both}
        print_table("What later positions take from here, strongest first", sends, later)


def _components(at: "pd.Series", components: "pd.DataFrame") -> None:
    names = [
        c if missing(la) else f"{c} {int(la)}"
        for c, la in zip(components.component, components.layer, strict=True)
    ]
    total = {"component": "= logit", "toward_next": at.next_logit, "toward_top": at.top_logit}
    rows = [*components.assign(component=names).to_dict("records"), total]
    table(
        out, f"Components, centred logits; they sum to the logit within {abs(at.closure_top):.0e}",
        {"component": "left", "toward next": "right", "toward top": "right"},
        [[row["component"], signed(row["toward_next"]), signed(row["toward_top"])] for row in rows],
    )  # fmt: skip


def _strongest(frame: "pd.DataFrame", unit: str, limit: int) -> "pd.DataFrame":
    import pandas as pd

    size = pd.concat([frame.toward_next.abs(), frame.toward_top.abs()], axis=1).max(axis=1)
    named = frame.assign(name=_names(frame, unit), size=size)
    shown = named.sort_values("size", ascending=False, kind="stable").head(limit)
    shown.attrs = frame.attrs
    return shown


@commands.command(epilog="Example: annotate inputs 1234 L3N7 --db demo.duckdb")
def inputs(
    position_id: Annotated[int, typer.Argument(help="A position's number, as the other commands print it.")],
    name: Annotated[str, typer.Argument(help="Layer and neuron from 0, such as L3N7.")],
    db: Db,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """What feeds a neuron at a position: its pre-activation by source. The run's model computes it, once."""
    from annotate_transformer import store

    with store.open(db) as s, s.together():
        unit = s.neuron(name, int(s.position(position_id).run_id))
        about = s.sql("FROM runs WHERE run_id = $run", {"run": unit.run}).iloc[0]
        try:
            found = s.neuron_inputs(position_id, name)
        except NoInputs:
            found = None
    if found is None:
        from annotate_transformer.app import live
        from annotate_transformer.ingest.lookups import annotate_inputs

        model = live.load(about.model, live.revision(about))
        annotate_inputs(model, str(db), unit.run, position_id, (unit.layer, unit.number))
        with store.open(db) as s:
            found = s.neuron_inputs(position_id, name)
    if as_json:
        print_json({"inputs": found}, unit.run)
        return
    of = found.attrs
    title = (
        f"What feeds {unit.name} at position {position_id}, strongest first: {of['pre_activation']:+.3f} "
        f"({of['activation']:+.3f} after GELU); they sum to it within {abs(of['closure']):.0e}"
    )
    shown = found.head(limit).assign(
        source=lambda rows: [source_name(row) for row in rows.to_dict("records")]
    )
    print_table(title, shown, {"source": ("source", str), "share": ("value", signed)})


@commands.command(epilog="Example: annotate runs --db demo.duckdb")
def runs(db: Db, as_json: Json = False) -> None:
    """What is in the store: a row a run."""
    from annotate_transformer import store
    from annotate_transformer.store.writer import status

    with store.open(db) as s, s.together():
        found = s.runs()
    found["status"] = [status(db, str(recorded)) for recorded in found.status]
    if as_json:
        dump(records(found))
        return
    if found.empty:
        err.print(f"No rows: {db} has no run yet. `annotate ingest … --db {db}` makes one.", markup=False)
        return
    columns: Columns = {
        "run": ("run_id", str), "model": ("model", str), "revision": ("revision", lambda x: x or "—"),
        "tokens": ("tokens", whole), "status": ("status", str),
        "special left out": ("special_excluded", whole),
        "worst closure": ("worst_closure", lambda x: f"{x:.0e}"),
        "corpus": ("corpus", lambda x: Path(x).name),
    }  # fmt: skip
    title = (
        f"Runs of {db}; closure in logits; special left out: positions of special tokens (BOS …) in no list"
    )
    print_table(title, found, columns)


@commands.command(epilog="Example: annotate stats --db demo.duckdb")
def stats(db: Db, run: Run = None, limit: Limit = 10, as_json: Json = False) -> None:
    """A run in numbers: loss, first choices that were right, strongest heads and neurons."""
    from annotate_transformer import store

    with store.open(db) as s, s.together():
        number = s.run(run)
        parameters = {"run": number, "k": limit}
        frames = {
            "totals": s.stats(number),
            "heads": s.sql(
                "FROM head_stats WHERE run_id = $run ORDER BY mean_abs_effect DESC LIMIT $k", parameters
            ),
            "neurons": s.sql(
                "FROM neuron_stats WHERE run_id = $run ORDER BY mean_abs_effect DESC LIMIT $k", parameters
            ),
        }
    if as_json:
        print_json(frames, number)
        return
    columns: Columns = {
        "positions": ("positions", whole),
        "of special tokens, in no list": ("special_excluded", whole),
        "documents": ("documents", whole), "loss (nats)": ("loss", decimals(3)),
        "first choice right": ("top1", decimals(3)), "entropy (nats)": ("entropy", decimals(3)),
        "worst closure (logits)": ("worst_closure", lambda x: f"{x:.0e}"),
    }  # fmt: skip
    about = frames["totals"].iloc[0]
    print_table(f"Run {number}: {about.model} {about.revision or ''}", frames["totals"], columns)
    for kind, unit in (("heads", "head"), ("neurons", "neuron")):
        frame = frames[kind]
        effect: Columns = {
            unit: ("name", str),
            "mean |effect|": ("mean_abs_effect", decimals(3)),
            "mean effect": ("mean_effect", signed),
        }
        print_table(
            f"{kind.capitalize()} with the largest mean |direct effect| on the next token, logits",
            frame.assign(name=_names(frame, unit)),
            effect,
        )


@commands.command(epilog="Example: annotate compare 1 2 --what heads --db demo.duckdb")
def compare(
    run: Annotated[int, typer.Argument(help="One run (a).")],
    other: Annotated[int, typer.Argument(help="The other (b).")],
    db: Db,
    what: Annotated[str, typer.Option(help="positions, heads, or neurons.")] = "positions",
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Two runs over one corpus, such as two training steps: what changed most."""
    from annotate_transformer import store

    with store.open(db) as s, s.together():
        found = s.compare(run, other, what, limit)
    if as_json:
        print_json({what: found}, run)
    elif found.empty:
        err.print("No rows: the runs have no window in common. Were they cut with the same --context?")
    else:
        columns: Columns = {
            column: (column, _cell(found[column])) for column in found.columns if not column.endswith("_id")
        }
        print_table(f"What changed most from run {run} (a) to run {other} (b): {what}", found, columns)
    if "note" in found.attrs and not as_json:
        err.print(f"Note: {found.attrs['note']}.", soft_wrap=True)


def _cell(values: "pd.Series") -> Callable[[Any], str]:
    if values.dtype.kind == "f":
        return signed
    return str if values.dtype.kind in "iub" else visible


@commands.command(epilog='Example: annotate expand "Dublin is the capital of" --db demo.duckdb')
def expand(
    prompt: Annotated[str, typer.Argument(help="The text whose continuation is taken apart.")],
    db: Db,
    run: Run = None,
    limit: Limit = 10,
    notation: Notation = None,
    expand: Expand = None,
    drop: Drop = 0,
    as_json: Json = False,
) -> None:
    """Annotate a prompt with a run's model, and take the prediction after it apart; nothing is stored."""
    from tempfile import TemporaryDirectory

    from annotate_transformer import store
    from annotate_transformer.app import live

    with store.open(db) as s, TemporaryDirectory() as folder:
        about = s.sql("FROM runs WHERE run_id = $run", {"run": s.run(run)}).iloc[0]
        model = live.load(about.model, live.revision(about))
        with store.open(live.annotated(prompt, about, model, Path(folder))) as alone:
            last = int(alone.sql("SELECT max(position_id) FROM positions").iloc[0, 0])
            at = alone.position(last)
            ways = ("component", "head", "neuron", "source")
            frames = {way: alone.decomposition(last, way) for way in ways}
            expression = alone.expression(last, "top")
            layers = [term for term in expression.terms if term.component == "layer"]
            expression = expression.expand(*expand or layers).drop_below(drop)
            frames["terms"], equation = expression.frame, _written(expression, notation or "text")
    if as_json:
        print_json({"position": at.to_frame().T, **frames}, int(about.run_id))
    elif notation:
        print(harmless(str(equation)))
    else:
        show_position(at, frames, limit, equation)


@commands.command(epilog="Example: annotate export demo-parquet --db demo.duckdb")
def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the files.")],
    db: Db,
    run: Run = None,
    format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="parquet, csv, jsonl.")
    ] = "parquet",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: the files' names.")] = False,
) -> None:
    """A run's tables as files; `IMPORT DATABASE 'FOLDER'` in DuckDB makes a store of Parquet's again.

    Those of Parquet are the store's own, terms in whole numbers of 2^-23 logits; csv and jsonl have logits.
    For the answer to a query use `annotate sql "…" --format parquet --output FILE`.
    """
    from annotate_transformer import store
    from annotate_transformer.store.export import export_run

    with store.open(db) as s, s.together():
        number = s.run(run)
    files = export_run(db, number, folder, format)
    if as_json:
        dump({"run": number, "files": [str(file) for file in files]})
        return
    size = sum(file.stat().st_size for file in files)
    out.print(
        f"Run {number}: {len(files)} files, {size / 1e6:,.1f} MB in {folder}.", soft_wrap=True, markup=False
    )
