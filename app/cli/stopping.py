"""Ctrl-C and SIGTERM: end any command soon, with one sentence and status 128 + signal.

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
AGAIN_SECONDS = 0.1  # seconds between interrupts: DuckDB forgets one that comes during planning
STOP = 0  # in the pipe: the handler has stopped the command; any other byte is a signal's number


class _State:
    """The signals that came, and what to do about them."""

    def __init__(self) -> None:
        self.safe = ""  # the sentence to end with
        self.finishing = False  # a block is running that ends by itself after the first signal
        self.asked = 0  # the first signal that came in such a block
        self.signal = 0  # the signal that stops the process
        self.raised = False  # the main thread has the exception, and is cleaning up
        self.tidy = False  # the command has ended: there is nothing to clean up
        self.interrupts: list[Callable[[], None]] = []
        self.pipe = -1
        self.saying = threading.Lock()  # taken by the thread that prints the sentence, and never released


_state = _State()


def listen(safe: str) -> None:
    """Let signals end this process from now on. safe: the sentence that says what is safe.

    A signal that the parent process ignores (`nohup`, a script's `&`) stays ignored.
    """
    global _state
    _state = _State()
    heard, told = os.pipe()
    os.set_blocking(told, False)
    _state.safe, _state.pipe = safe, told
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heeded:  # before the thread: from here a signal raises KeyboardInterrupt in the caller
        signal.signal(number, _handle)
    threading.Thread(target=_watch, args=(heard, heeded), daemon=True).start()


def stopped_by() -> int:
    """Return the signal that ends this process, 0 if none came."""
    return _state.signal


def asked() -> int:
    """Return the signal that asked a `finishing` block to end, 0 if none came."""
    return _state.asked


@contextmanager
def finishing() -> Iterator[None]:
    """In this block, let the first signal only set `asked`; the second stops at once."""
    _state.finishing = True
    try:
        yield
    finally:
        _state.finishing = False


@contextmanager
def interrupting(interrupt: Callable[[], None]) -> Iterator[None]:
    """While this block runs, let a signal that stops the process call `interrupt`, from another thread."""
    _state.interrupts.append(interrupt)
    try:
        yield
    finally:
        _state.interrupts.remove(interrupt)


def nothing_is_left_to_tidy() -> None:
    """Let signals end the process at once from now on: while Python exits, nothing catches an exception."""
    _state.tidy = True


def end() -> None:
    """Print the sentence and exit with the signal's status; `stopped_by` must not be 0."""
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
    """Print nothing but the sentence from now on: no traceback of a thread or destructor."""
    _state.signal = _state.signal or number
    warnings.simplefilter("ignore")  # about coroutines that are no longer awaited
    sys.unraisablehook = lambda error: None
    threading.excepthook = lambda error: None


def _watch(heard: int, heeded: list[signal.Signals]) -> None:
    """End the process GRACE_SECONDS after the signal that stops it, unless it ends by itself."""
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
    """End the process whatever its main thread is doing, without running its `finally` blocks."""
    if whole := sys.modules.get("annotate_transformer.store.whole"):
        whole.remove_parts()
    _say_what_is_safe()
    os._exit(128 + _state.signal)


def _say_what_is_safe() -> None:
    if _state.saying.acquire(blocking=False):
        shown = "\x1b[?25h" if os.isatty(2) else ""  # a progress bar may have hidden the cursor
        _say(f"stopped; {_state.safe}", shown)


def _say(text: str, before: str = "") -> None:
    with suppress(OSError):
        os.write(2, f"{before}annotate: {text}\n".encode())
