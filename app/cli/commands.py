"""The program `annotate` with all its commands, in the order in which `annotate --help` lists them.

A command parses its options, calls ingest or store, and prints through app.present. A user's mistake gives
one sentence on standard error and exit status 2.
"""

from typing import Annotated

import typer

from annotate_transformer.app.cli import browse, check, make, next_token, parts, replicate, sql
from annotate_transformer.app.cli.ask import contrasts, interventions, position, runs, text, units, weights
from annotate_transformer.app.present.console import Commands

app = typer.Typer(
    cls=Commands,
    help="Annotate every token of a corpus with the direct effects of each layer, head and neuron.",
    epilog="Example: annotate ingest my.txt --model pythia-70m --db my.duckdb",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"annotate {version('annotate-transformer')}")
        raise typer.Exit


@app.callback()
def _whole(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and end."),
    ] = False,
) -> None:
    """Handle the options that precede the command, such as --version."""


for part in (
    make,
    parts,
    check,
    next_token,
    replicate,
    text,
    units,
    weights,
    position,
    interventions,
    contrasts,
    runs,
    sql,
    browse,
):
    app.add_typer(part.commands)
