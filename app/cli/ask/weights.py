"""The commands `annotate neurons`, `heads` and `bigrams`, which show what a model's weights say."""

from typing import Annotated

import typer

from annotate_transformer.app.cli.options import By, Db, Json, Limit, Model, Run
from annotate_transformer.app.present import columns
from annotate_transformer.app.present.printed import err, print_json, print_table
from annotate_transformer.app.present.words import beside_rotated, visible
from annotate_transformer.store.errors import BadQuestion
from annotate_transformer.store.names import neuron_name

commands = typer.Typer(rich_markup_mode=None)


@commands.command(epilog='Example: annotate neurons --token " the" --db demo.duckdb')
def neurons(
    db: Db,
    token: Annotated[
        str | None,
        typer.Option(
            help="List the neurons that promote this token most; a leading space of the token matters."
        ),
    ] = None,
    erasing: Annotated[
        bool,
        typer.Option(
            "--erasing",
            help="List the neurons whose output direction is most opposed to their input direction.",
        ),
    ] = False,
    run: Run = None,
    model: Model = None,
    limit: Limit = 5,
    as_json: Json = False,
) -> None:
    """List neurons by their weights: next-token neurons, neurons that promote a token, or erasing neurons."""
    from annotate_transformer import store

    if erasing and token is not None:
        raise BadQuestion("Give either --token or --erasing, not both.")
    with store.open(db) as s, s.together():
        weights = s.weights(run, model)
        found = weights.erasing_neurons(limit) if erasing else weights.next_token_neurons(token, limit)
        others = weights.tokens_like(token) if token is not None and found.empty else []
    named = found.assign(name=list(map(neuron_name, found.layer, found.neuron)))
    if as_json:
        print_json({"neurons": named}, weights.run, weights)
    elif found.empty:
        hint = f" The vocabulary also has {', '.join(map(repr, others))}." if others else ""
        told = f"No rows: {token!r} is the next-token of no neuron of {weights.name}.{hint}"
        err.print(told, markup=False, soft_wrap=True)
    elif erasing:
        title = f"Neurons of {weights.name} whose output is most opposed to their input"
        print_table(f"{title}; z: relative to random directions", found, columns.ERASING_NEURONS)
    else:
        title = f"Neurons of {weights.name} by next-token; z: relative to the largest congruence of "
        title += f"n = {found.draws.iloc[0]} random directions"
        print_table(title, found, columns.NEXT_TOKEN_NEURONS)


@commands.command(epilog="Example: annotate heads --kind K --db demo.duckdb")
def heads(
    db: Db,
    kind: Annotated[str | None, typer.Option(help="Kind of composition: Q, K or V [default: all].")] = None,
    run: Run = None,
    by: By = None,
    model: Model = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """List heads: their composition, and their behaviour on text, on random tokens and by their weights.

    With --by, show each head's mean |direct effect| on the next token in each group of documents instead.
    """
    from annotate_transformer import store
    from annotate_transformer.store.means import COUNTED

    with store.open(db) as s, s.together():
        if by is not None:
            number, groups = s.run(run), [by, "layer", "head"]
            found = s.mean("abs(toward_next)", "heads", COUNTED, by=groups, metadata=True, run=number)
            largest = found.sort_values("mean", ascending=False).groupby(by, dropna=False).head(limit)
            shown = largest.sort_values([by, "mean"], ascending=[True, False], kind="stable")
            if as_json:
                print_json({"effects": shown}, number)
                return
            title = f"Run {number}: heads with the largest mean |direct effect| on the next token, by {by}"
            print_table(title, shown, columns.means_by(by, "mean |effect|", "logits", columns.a_head()))
            return
        weights = s.weights(run, model)
        frames = {"behaviour": weights.behaviour(), "compositions": weights.compositions(kind, limit)}
    if as_json:
        print_json(frames, weights.run, weights)
        return
    found = frames["behaviour"].sort_values("random_induction", ascending=False).head(limit)
    title = f"Heads of {weights.name} by induction on random tokens (`annotate schema head_behaviour`)"
    print_table(title, found, columns.BEHAVIOUR)
    pairs = frames["compositions"]
    title = f"Composition of heads through queries (Q), keys (K) and values (V). {beside_rotated(pairs)}"
    print_table(title, pairs, columns.COMPOSITIONS)


@commands.command(epilog='Example: annotate bigrams " capital" --db demo.duckdb')
def bigrams(
    db: Db,
    token: Annotated[
        str | None, typer.Argument(help="The first token of the bigrams [default: all bigrams of the run].")
    ] = None,
    run: Run = None,
    model: Model = None,
    limit: Limit = 10,
    as_json: Json = False,
) -> None:
    """Compare the next tokens that the embeddings alone predict (W_E W_U) with the corpus's next tokens."""
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
        of_run = "" if weights.run is None else f", beside those of run {weights.run}"
        title = f"Next tokens of {visible(token)} by its embedding alone{of_run}"
        print_table(title, frames["direct_path"], columns.DIRECT_PATH)
        if len(frames["agreement"]):
            print_table("Agreement of the two", frames["agreement"], columns.BIGRAM_AGREEMENT)
    else:
        title = f"Bigrams of run {weights.run} and the direct path W_E W_U"
        print_table(title, frames["summary"], columns.BIGRAM_SUMMARY)
        print_table("The most frequent tokens of the run", frames["agreement"], columns.BIGRAM_AGREEMENT)
        title = "Similarity of W_E and W_U, by how often the bigram occurs"
        print_table(title, frames["distances"], columns.BIGRAM_DISTANCES)
