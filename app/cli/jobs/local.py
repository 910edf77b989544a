"""Start the processes that annotate the parts of a run, all on this machine."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress

from annotate_transformer.app.cli.jobs.parts import Ended, Job
from annotate_transformer.app.cli.jobs.worker import process


class LocalProcesses:
    """Processes on this machine, at most `at_once` at a time, which share OMP_NUM_THREADS threads."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.running = dict[int, subprocess.Popen[bytes]]()
        given = os.environ.get("OMP_NUM_THREADS", "")
        cores = int(given) if given.isdecimal() else os.cpu_count() or 1
        self.threads = max(1, cores // at_once)

    def start(self, job: Job) -> None:
        self.running[job.part] = process(job.words, job.log, self.threads)

    def ended(self) -> Iterator[tuple[int, Ended]]:
        for part, running in [*self.running.items()]:
            if running.poll() is not None:
                del self.running[part]
                yield part, Ended(running.returncode)

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        for running in self.running.values():
            running.wait()

    def _signal(self, number: signal.Signals) -> None:
        for running in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(running.pid, number)
