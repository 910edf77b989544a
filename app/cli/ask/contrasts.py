"""The command `annotate contrasts`: mean direct effects on an answer's logit minus a distractor's logit."""

from typing import Annotated

import typer

from annotate_transformer.app.cli.options import Db, Json, Limit, Run
from annotate_transformer.app.present import columns
from annotate_transformer.app.present.printed import print_json, print_limits, print_table
from annotate_transformer.store.contrasts import KINDS, LEAST_ACCURACY
from annotate_transformer.store.errors import BadQuestion
from annotate_transformer.store.question import truncate

commands = typer.Typer(rich_markup_mode=None)


@commands.command(epilog="Example: annotate contrasts --by template --db ioi.duckdb")
def contrasts(
    db: Db,
    run: Run = None,
    kind: Annotated[
        str, typer.Option(help="What to rank by its mean direct effect.", metavar="|".join(KINDS))
    ] = "head",
    by: Annotated[
        str | None,
        typer.Option(help="Group the documents by this column of their metadata, such as template."),
    ] = None,
    least_accuracy: Annotated[
        float,
        typer.Option(
            help="Rank in a group only if the model prefers the answer to the distractor in at least this "
            "fraction of its documents."
        ),
    ] = LEAST_ACCURACY,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Show mean direct effects of heads on answer − distractor, over the documents of a data set.

    `annotate ingest --answer-column A --distractor-column B` stores them. The accuracy comes first: heads are
    not ranked in groups in which the model does not do the task.
    """
    from annotate_transformer import store

    with store.open(db) as s:
        number = s.run(run)
        accuracy = s.contrast_accuracy(by, number)
        if not as_json:
            print_table(f"Contrasts of run {number}", accuracy, columns.CONTRAST_ACCURACY)
        try:
            means = s.contrast_means(kind, by, number, least_accuracy)
        except BadQuestion:
            if as_json and kind in KINDS and 0 <= least_accuracy <= 1:
                print_json({"accuracy": accuracy}, number)
            raise
    shown = means.groupby("group_name", sort=False).head(limit)
    if len(shown) < len(means):
        truncate(shown, len(means), what=f"the first {limit:,} of each group,")
    if as_json:
        print_json({"accuracy": accuracy, "means": shown}, number)
        return
    for group, rows in shown.groupby("group_name", sort=False):
        of = f", {by} {group}" if by else ""
        rows.attrs = {}
        print_table(f"Mean direct effects{of}", rows, columns.contrast_means(means))
    print_limits(shown)
