"""The command `annotate units`: the neurons and heads that distinguish some positions from all others."""

from typing import Annotated

import typer

from annotate_transformer.app.cli.options import Db, Json, Limit, Run
from annotate_transformer.app.present import columns
from annotate_transformer.app.present.printed import print_json, print_table
from annotate_transformer.app.present.words import counted
from annotate_transformer.store.distinguish import KINDS, LEAST, POSITIONS, SOURCES

commands = typer.Typer(rich_markup_mode=None)


@commands.command(epilog='Example: annotate units --on-token " the" --db demo.duckdb')
def units(
    db: Db,
    on: Annotated[
        str | None,
        typer.Option(
            help="The positions whose token matches this regular expression (RE2), such as '^ ?[0-9]{4}$'. "
            "It is searched in the text of the one token that the model has just read, with its leading "
            "space, and not in that of the next token.",
            metavar="REGEX",
        ),
    ] = None,
    on_token: Annotated[
        list[str] | None,
        typer.Option(
            help="The positions of this token; a leading space matters. May be repeated for any of several.",
            metavar="TOKEN",
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            help='The positions of documents whose metadata fulfil this condition in SQL, such as "party = '
            "'Whig'\".",
            metavar="CONDITION",
        ),
    ] = None,
    over: Annotated[
        str,
        typer.Option(
            help="Where the values come from. sample: the run's random sample of positions. rows: all "
            "positions, for heads alone. model: the run's model reads --positions again.",
            metavar="|".join(SOURCES),
        ),
    ] = "sample",
    kind: Annotated[
        str | None,
        typer.Option(help="What to compare [default: both; over rows, heads].", metavar="|".join(KINDS)),
    ] = None,
    positions: Annotated[
        int,
        typer.Option(
            help="With --over model: how many positions to read at most, half of them in the group if it has "
            "so many. Memory holds 4 bytes for each of them and each neuron.",
            min=2 * LEAST,
        ),
    ] = POSITIONS,
    seed: Annotated[
        int, typer.Option(help="With --over model: the random seed of the positions.", min=0)
    ] = 0,
    run: Run = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Find the neurons and heads that distinguish some positions, such as years, from all others.

    --on, --on-token and --where say which positions; of several, all must hold. A neuron's value is its
    activation, a head's its direct effect on the next token, in logits. The AUROC is the probability that a
    value in the group is larger than one outside: 0.5 is chance, 1 and 0 separate the two. Cohen's d is the
    difference of the means in pooled standard deviations.
    """
    from annotate_transformer import ingest

    with ingest.open(db) as s, s.together():
        number = s.run(run)
        found = s.units(
            on, on_token or (), where, over=over, kind=kind, limit=limit, positions=positions, seed=seed,
            run=number,
        )  # fmt: skip
    if as_json:
        print_json({"units": found}, number)
        return
    group = found.attrs["group"]
    inside, outside = (
        f"{counted(group[f'n_{side}'], 'position')} of {counted(group[f'documents_{side}'], 'document')}"
        for side in ("in", "out")
    )
    title = f"Run {number}: {inside} (inside) against {outside} (outside). Values are activations and, of "
    title += "heads, direct effects on the next token in logits; an AUROC of 0.5 is chance"
    print_table(title, found, columns.DISTINGUISHING)
