"""The commands `annotate token` and `annotate phrase`, which list where a token or a text occurs."""

from typing import TYPE_CHECKING, Annotated

import typer

from annotate_transformer.app.cli.options import Db, Json, Limit, Run
from annotate_transformer.app.present import columns
from annotate_transformer.app.present.printed import err, print_contexts, print_json, print_table
from annotate_transformer.app.present.words import counted, visible

if TYPE_CHECKING:
    import pandas as pd

commands = typer.Typer(rich_markup_mode=None)


@commands.command(epilog='Example: annotate token " Irish" --db demo.duckdb')
def token(
    text: Annotated[str, typer.Argument(help="The token's text; a leading space matters, so use quotes.")],
    db: Db,
    match: Annotated[
        str, typer.Option(help="exact, like (ignoring case and spaces at the ends), prefix, regex, or id.")
    ] = "exact",
    run: Run = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """List the occurrences of a token in context; if --match is not exact, list the matching tokens."""
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
    total = counted(row.occurrences, "occurrence")
    total += f", the first {limit}" if row.occurrences > limit else ""
    title = f"{visible(row.token)} (token {row.token_id}) in run {number}: {total}"
    print_contexts(title, places, columns.OCCURRENCES)
    others = like[like.token_id != row.token_id]
    if len(others):
        _tokens("Also in the vocabulary", others, number, False)


def _tokens(title: str, found: "pd.DataFrame", run: int, as_json: bool) -> None:
    if as_json:
        print_json({"tokens": found}, run)
    elif found.empty:
        err.print(f"No rows: the vocabulary of run {run} has no such token. Try `annotate phrase`.")
    else:
        print_table(title, found, columns.TOKENS)


@commands.command(epilog='Example: annotate phrase "capital of" --db demo.duckdb')
def phrase(
    text: Annotated[str, typer.Argument(help="Text as it is in the documents; case and spaces matter.")],
    db: Db,
    run: Run = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """List the occurrences of a text of any length, however it is split into tokens."""
    from annotate_transformer import store

    with store.open(db) as s, s.together():
        number = s.run(run)
        found = s.phrase(text, number, limit=limit)
    if as_json:
        print_json({"phrase": found}, number)
    elif found.empty:
        err.print(
            f"No rows: {text!r} is in no document that run {number} has reached (case and spaces matter).",
            markup=False,
            soft_wrap=True,
        )
    else:
        cut = "" if found.attrs["complete"] else f", {found.attrs['note']}"
        title = f"{text!r} in run {number}: positions of its first and last token{cut}"
        print_contexts(title, found, columns.PHRASES)
