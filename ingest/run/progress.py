"""How far a run is, for whoever watches it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Progress:
    """How far a run is.

    share: of the positions there will be, 0 to 1; bytes_written: the file's; seconds: by stage.
    """

    tokens: int = 0
    share: float = 0.0
    worst_closure: float = 0.0
    shards: int = 0
    bytes_written: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds that the block takes to those of its stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
