"""The command line, `annotate`."""
