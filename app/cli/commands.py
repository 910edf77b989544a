"""The program `annotate` with all its commands imported, for tools that list the commands."""

from annotate_transformer.app.cli.program import program

app = program()
