"""The program `annotate` with all its commands, for what lists them."""

from annotate_transformer.app.cli.program import program

app = program()
