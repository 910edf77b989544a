"""The command `annotate app`, which shows a store in the browser."""

from typing import Annotated

import typer

from annotate_transformer.app.cli.options import Db

commands = typer.Typer(rich_markup_mode=None)


@commands.command("app", epilog="Example: annotate app --db demo.duckdb")
def browse(
    db: Db,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the server, which only this machine can reach.")
    ] = 8501,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
) -> None:
    """Open a store in the browser: linked pages about texts, tokens, neurons and heads."""
    from annotate_transformer.app.browser.server.start import start

    start(db, port, open_browser=not no_open)
