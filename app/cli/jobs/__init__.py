"""Annotate the parts of a run in processes of their own: which parts, and two ways to start a process."""
