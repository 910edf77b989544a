"""Real `annotate` processes, each in a process group of its own, so that a test may kill them.

A command first imports PyTorch and TransformerLens, for some five seconds, and the project. A fork
server (multiprocessing's) imports them once (preloaded.py); every command is a fork of it and runs
what `python -m annotate_transformer.app.cli` runs. Nothing here reaches the hub, and each command
computes on one thread.
"""

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(CHECKOUT / "tests")]),
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # two threads that wait for a busy core take ten times as long
    "COLUMNS": "120",
}
LONGEST = 120.0  # seconds a command may take on a slow machine


@dataclass(frozen=True)
class Result:
    """How a command ended; a negative status is the signal that killed it."""

    status: int | None
    out: str
    err: str


class Running:
    """A process that was started and may be waited for, interrupted or killed."""

    def __init__(self, process: ForkServerProcess, output: Path) -> None:
        self.process, self.output = process, output

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def send(self, number: signal.Signals) -> None:
        """Signal the whole process group, as a terminal does; nothing if it has ended by itself."""
        group = self.process.pid or 0
        with suppress(ProcessLookupError):
            until(lambda: os.getpgid(group) == group)
            os.killpg(group, number)

    def said(self) -> str:
        """What it has written to standard error so far."""
        return self._written("err")

    def printed(self) -> str:
        """What it has written to standard output so far."""
        return self._written("out")

    def _written(self, stream: str) -> str:
        file = Path(f"{self.output}.{stream}")
        return file.read_text() if file.exists() else ""

    def wait(self, timeout: float = LONGEST) -> Result:
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.send(signal.SIGKILL)
            raise AssertionError(f"it has not ended after {timeout} s: {self.said()}")
        return Result(self.process.exitcode, self.printed(), self.said())


def until(condition: Callable[[], object], timeout: float = LONGEST, every: float = 0.02) -> None:
    """Wait for something to become true, and leave the processor to whoever makes it so."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "what was waited for has not happened"
        time.sleep(every)


def annotate(*arguments: object, folder: Path, **options: object) -> Result:
    """Run a command to its end; options as in `start`."""
    return start(*arguments, folder=folder, **options).wait()  # type: ignore[arg-type]


def start(
    *arguments: object,
    folder: Path,
    stdin: bytes = b"",
    limits: Mapping[int, int] | None = None,
) -> Running:
    """Start `annotate` with these arguments.

    folder: where it runs; stdin: its standard input; limits: RLIMIT_… to its value, RLIMIT_AS
    counted from what the process has at its start.
    """
    command = ([str(argument) for argument in arguments], dict(limits or {}))
    return _start(_command, command, folder, stdin)


def start_function(function: Callable[..., None], *arguments: object, folder: Path) -> Running:
    """Start any importable function in a process of its own."""
    return _start(function, arguments, folder, b"")


def _start(
    function: Callable[..., None], arguments: tuple[object, ...], folder: Path, stdin: bytes
) -> Running:
    output = folder / f"process-{time.monotonic_ns()}"
    Path(f"{output}.in").write_bytes(stdin)
    process = _server().Process(
        target=_alone, args=(function, arguments, str(folder), str(output)), daemon=True
    )
    process.start()
    return Running(process, output)


@cache
def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def _alone(function: Callable[..., None], arguments: tuple[object, ...], folder: str, output: str) -> None:
    """In the child: a session of its own, standard streams of its own, then the function."""
    os.setsid()
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background are deaf to it
    writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    os.dup2(os.open(f"{output}.in", os.O_RDONLY), 0)
    os.dup2(os.open(f"{output}.out", writing), 1)
    os.dup2(os.open(f"{output}.err", writing), 2)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    function(*arguments)


def _command(arguments: list[str], limits: dict[int, int]) -> None:
    for limit, value in limits.items():
        most = value + (_address_space() if limit == resource.RLIMIT_AS else 0)
        resource.setrlimit(limit, (most, resource.getrlimit(limit)[1]))
    run_command(arguments)


def run_command(arguments: list[str]) -> None:
    """In the child: what `python -m annotate_transformer.app.cli` does with these arguments."""
    from annotate_transformer.app.cli.main import main

    sys.argv = ["annotate", *arguments]
    main()


def _address_space() -> int:
    """Bytes of address space that this process has taken, its libraries included (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
