"""Report the progress of a run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Progress:
    """The progress of a run.

    `share`: fraction of all positions that are annotated, 0 to 1;
    `worst_closure`: largest closure error |sum of terms − logit| so far, in logits;
    `bytes_written`: size of the store's file in bytes;
    `seconds`: duration of each stage in seconds.
    """

    tokens: int = 0
    share: float = 0.0
    worst_closure: float = 0.0
    shards: int = 0
    bytes_written: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Context manager: add the duration of the `with` block to the seconds of a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
