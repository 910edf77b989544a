"""The command line program `annotate`."""
