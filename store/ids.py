"""What the store's numbers are made of: a run's positions, a corpus's documents, a document's passages."""

POSITIONS_A_RUN = 10**12  # position_id = (run_id - 1) · this + ordinal
DOCUMENTS_A_CORPUS = 10**9  # document_id likewise
PASSAGES_A_DOCUMENT = 2**18  # passage_id = document_id · this + number


def run_of(position_id: int) -> int:
    """
    >>> run_of(10**12 + 7)
    2
    """
    return position_id // POSITIONS_A_RUN + 1
