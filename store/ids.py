"""Compute the run_id of a position_id; schema.sql defines how ids are built ("Constants of the layout")."""

from annotate_transformer.store.layout import POSITIONS_A_RUN


def run_of(position_id: int) -> int:
    """Return the run_id of the run to which a position belongs.

    >>> run_of(10**12 + 7)
    2
    """
    return position_id // POSITIONS_A_RUN + 1
