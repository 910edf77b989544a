"""The commands that ask a store about a token, a text, a position, a neuron, a head, a run.

Each names the run it used, says whether its answer is exact, and has --json.
"""
