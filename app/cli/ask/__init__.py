"""The commands that query a store about a token, a text, a position, a neuron, a head or a run.

Each command prints which run it used and whether its answer is exact, and has the option --json.
"""
