"""The structure of the store's numbers (schema.sql, "Constants of the layout")."""

from annotate_transformer.store.layout import POSITIONS_A_RUN


def run_of(position_id: int) -> int:
    """Return the number of the run that a position belongs to.

    >>> run_of(10**12 + 7)
    2
    """
    return position_id // POSITIONS_A_RUN + 1
