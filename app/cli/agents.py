"""The command `annotate mcp`, which answers the questions of language models about a store."""

import typer

from annotate_transformer.app.cli.options import Db

commands = typer.Typer(rich_markup_mode=None)


@commands.command(epilog="Example: annotate mcp --db demo.duckdb")
def mcp(db: Db) -> None:
    """Serve a store's questions as tools for language models, over standard input and output.

    A client of the Model Context Protocol starts this command and ends it. The tools only read the store; two
    of them run a run's model.
    """
    from annotate_transformer import ingest
    from annotate_transformer.app.agents.server import check_sdk, serve
    from annotate_transformer.app.cli.main import UNCHANGED, sentence_of

    check_sdk()
    with ingest.open(db) as store:
        serve(store, lambda error: sentence_of(error, "mcp", UNCHANGED))
