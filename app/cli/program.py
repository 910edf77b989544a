"""The program `annotate`: its options, and its commands in the order in which `annotate --help` lists them.

A command parses its options, calls ingest or store, and prints through app.present. A user's mistake gives
one sentence on standard error and exit status 2.
"""

from importlib import import_module
from typing import Annotated

import typer

from annotate_transformer.app.cli.defaults import Defaults
from annotate_transformer.app.present.console import Commands

# MODULES maps each module of app/cli to its commands. Only the module with the wanted command is imported:
# to import all modules takes as long as to answer a question.
MODULES = {
    "make": ("ingest", "weights", "demo"),
    "parts": ("merge",),
    "sweep": ("sweep",),
    "publish": ("publish",),
    "check": ("verify", "upgrade"),
    "next_token": ("next-token", "explain"),
    "replicate": ("replicate",),
    "ask.text": ("token", "phrase"),
    "ask.units": ("neuron", "head"),
    "ask.distinguish": ("units",),
    "ask.weights": ("neurons", "heads", "bigrams"),
    "ask.position": ("position", "expand", "inputs", "moved"),
    "ask.interventions": ("ablate", "patch", "effects"),
    "ask.contrasts": ("contrasts",),
    "ask.training": ("emergence",),
    "ask.runs": ("runs", "stats", "compare", "export"),
    "sql": ("sql", "examples", "schema"),
    "browse": ("app",),
    "agents": ("mcp",),
    "doctor": ("doctor",),
}


def program(command: str = "") -> typer.Typer:
    """Return the program with the commands of the module that has `command`; with all if none has it."""
    asked = [module for module, commands in MODULES.items() if command in commands]
    app = typer.Typer(
        cls=Commands,
        help="Annotate every token of a corpus with the direct effects of each layer, head and neuron.",
        epilog="Example: annotate ingest my.txt --model pythia-70m --db my.duckdb",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={
            "help_option_names": ["-h", "--help"],
            "default_map": {name: Defaults() for commands in MODULES.values() for name in commands},
        },
    )
    app.callback()(_whole)
    for module in asked or MODULES:
        app.add_typer(import_module(f"annotate_transformer.app.cli.{module}").commands)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"annotate {version('annotate-transformer')}")
        raise typer.Exit


def _whole(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and end."),
    ] = False,
) -> None:
    """Handle the options that precede the command, such as --version."""
