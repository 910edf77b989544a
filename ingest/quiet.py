"""What libraries say of themselves is not this program's output."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_advice() -> Iterator[None]:
    """Nothing below an error is logged: a hub out of reach is told once, not at every try made anew."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
