"""Handle Ctrl-C and SIGTERM: end any command soon, with one sentence and exit status 128 + signal number.

Python runs a signal handler between two bytecode steps of the main thread. That is late while DuckDB, PyTorch
or Numba computes, and an exception from the handler is lost in a destructor or a library's bare `except`. So
a thread learns of each signal at once (set_wakeup_fd), gives the main thread GRACE_SECONDS to clean up, and
then ends the process. A store survives that as it survives a kill: committed shards stay.

This module imports only what Python has loaded already, since a signal may come during later imports.
"""

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 2.0
AGAIN_SECONDS = 0.1  # seconds until an interrupt is repeated; DuckDB ignores it while it plans a query
STOP = 0  # byte by which the handler tells `_watch` that the command stops; other bytes are signal numbers


class _State:
    """The signals that have arrived, and how to handle the next one."""

    def __init__(self) -> None:
        self.safe = ""  # the end of the message printed on stopping; it says what in the store is safe
        self.finishing = False  # True inside a `finishing` block, where the first signal only sets `asked`
        self.asked = 0  # number of the first signal that arrived in a `finishing` block; 0 if none has
        self.signal = 0  # number of the signal that stops the process; 0 if none has arrived
        self.raised = False  # True after the handler raised KeyboardInterrupt: the main thread cleans up
        self.tidy = False  # True after the command has ended: nothing is left to clean up
        self.interrupts: list[Callable[[], None]] = []
        self.pipe = -1
        self.saying = threading.Lock()  # never released, so that only one thread prints the last message


_state = _State()


def listen(safe: str) -> None:
    """From now on, let Ctrl-C and SIGTERM end this process, with a message that ends with the text `safe`.

    A signal that the parent process ignores (`nohup`, a script's `&`) stays ignored.
    """
    global _state
    _state = _State()
    heard, told = os.pipe()
    os.set_blocking(told, False)
    _state.safe, _state.pipe = safe, told
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    # Set the handlers before the thread starts, so that `_handle` gets every signal that the thread reads.
    # From here on, a signal raises KeyboardInterrupt in the function that called `listen`.
    for number in heeded:
        signal.signal(number, _handle)
    threading.Thread(target=_watch, args=(heard, heeded), daemon=True).start()


def stopped_by() -> int:
    """Return the number of the signal that stops this process, or 0 if none has arrived."""
    return _state.signal


def asked() -> int:
    """Return the number of the signal that asked a `finishing` block to end, or 0 if none has arrived."""
    return _state.asked


@contextmanager
def finishing() -> Iterator[None]:
    """Context manager: inside the block, the first signal only sets `asked`; the second stops the command."""
    _state.finishing = True
    try:
        yield
    finally:
        _state.finishing = False


@contextmanager
def interrupting(interrupt: Callable[[], None]) -> Iterator[None]:
    """Context manager: if a signal stops the process inside the block, another thread calls `interrupt`."""
    _state.interrupts.append(interrupt)
    try:
        yield
    finally:
        _state.interrupts.remove(interrupt)


def nothing_is_left_to_tidy() -> None:
    """From now on, let a signal end the process at once.

    Otherwise it raises an exception, which nothing catches while Python exits.
    """
    _state.tidy = True


def end() -> None:
    """Print that a signal stopped the command, and exit with status 128 + signal number.

    `stopped_by()` must not be 0.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _say_what_is_safe()
    sys.exit(128 + _state.signal)


def _handle(number: int, frame: object) -> None:
    if _state.finishing and not _state.asked:
        _state.asked = number
        again = "Ctrl-C again" if number == signal.SIGINT else "SIGTERM again"
        _say(f"finishing this shard; {again} to stop at once.")
        return
    if _state.tidy:
        _stop(number)
        _leave()
    if _state.raised:
        return
    _state.raised = True
    with suppress(OSError):
        os.write(_state.pipe, bytes([STOP]))
    _stop(number)
    raise KeyboardInterrupt


def _stop(number: int) -> None:
    """Record the signal, and from now on hide warnings and the tracebacks of threads and destructors."""
    _state.signal = _state.signal or number
    warnings.simplefilter("ignore")  # hide warnings about coroutines that were never awaited
    sys.unraisablehook = lambda error: None
    threading.excepthook = lambda error: None


def _watch(heard: int, heeded: list[signal.Signals]) -> None:
    """End the process GRACE_SECONDS after the signal that stops it, unless the process ends before."""
    first = True
    while (number := os.read(heard, 1)[0]) != STOP:
        if number in heeded and not (_state.finishing and first):
            _stop(number)
            break
        first = first and number not in heeded
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        for interrupt in list(_state.interrupts):
            with suppress(Exception):
                interrupt()
        time.sleep(AGAIN_SECONDS)
    _leave()


def _leave() -> None:
    """End the process at once, whatever its main thread is doing, without running `finally` blocks."""
    if whole := sys.modules.get("annotate_transformer.store.whole"):
        whole.remove_parts()
    _say_what_is_safe()
    os._exit(128 + _state.signal)


def _say_what_is_safe() -> None:
    if _state.saying.acquire(blocking=False):
        # The escape sequence makes the cursor visible again, which a progress bar may have hidden.
        shown = "\x1b[?25h" if os.isatty(2) else ""
        _say(f"stopped; {_state.safe}", shown)


def _say(text: str, before: str = "") -> None:
    with suppress(OSError):
        os.write(2, f"{before}annotate: {text}\n".encode())
