"""Ctrl-C and SIGTERM: whatever a command does, it ends soon, with one sentence and status 128 + signal.

Python runs a signal's handler between two steps of the main thread. That is late while DuckDB, PyTorch
or Numba computes, and what the handler raises is lost in a destructor or in a library's bare `except`.
So a thread hears of each signal at once (set_wakeup_fd), gives the main thread GRACE_SECONDS to tidy
up, and then ends the process. A store survives that as it survives a kill: what was committed stays.

This module imports nothing but what Python has loaded: a signal may come while the rest is imported.
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
AGAIN_SECONDS = 0.1  # DuckDB forgets an interrupt that comes while it still plans
STOP = 0  # in the pipe: the handler has decided to stop; any other byte is a signal's number


class _State:
    """What is known of the signals that came."""

    def __init__(self) -> None:
        self.safe = ""  # the sentence to end with
        self.finishing = False  # a block is running that ends by itself after a first signal
        self.asked = 0  # the first signal that came in such a block
        self.signal = 0  # the signal that stops the process
        self.raised = False  # the main thread knows; it is left to tidy up
        self.tidy = False  # the command has ended: there is nothing to tidy up
        self.interrupts: list[Callable[[], None]] = []
        self.pipe = -1
        self.saying = threading.Lock()  # taken by whoever says the sentence, and never given back


_state = _State()


def listen(safe: str) -> None:
    """From here a signal ends this process; `safe` is the sentence that says what is safe.

    A signal that the parent process ignores (`nohup`, a script's `&`) stays ignored.
    """
    global _state
    _state = _State()
    heard, told = os.pipe()
    os.set_blocking(told, False)
    _state.safe, _state.pipe = safe, told
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heeded:  # first: from here a signal raises KeyboardInterrupt in the caller
        signal.signal(number, _handle)
    threading.Thread(target=_watch, args=(heard, heeded), daemon=True).start()


def stopped_by() -> int:
    """The signal that is to end this process, 0 if none has come."""
    return _state.signal


def asked() -> int:
    """The signal that asked a `finishing` block to end, 0 if none has."""
    return _state.asked


@contextmanager
def finishing() -> Iterator[None]:
    """In this block the first signal only sets `asked`; the second stops at once."""
    _state.finishing = True
    try:
        yield
    finally:
        _state.finishing = False


@contextmanager
def interrupting(interrupt: Callable[[], None]) -> Iterator[None]:
    """A signal that stops the process while this block runs calls `interrupt`, from another thread."""
    _state.interrupts.append(interrupt)
    try:
        yield
    finally:
        _state.interrupts.remove(interrupt)


def nothing_is_left_to_tidy() -> None:
    """From here, where Python itself ends, a signal leaves at once: no exception would find a handler."""
    _state.tidy = True


def end() -> None:
    """Say the sentence and leave with the signal's status; `stopped_by` must not be 0."""
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
    """From here nothing but the sentence is said: neither threads nor destructors print a traceback."""
    _state.signal = _state.signal or number
    warnings.simplefilter("ignore")  # of coroutines that nobody awaits any more
    sys.unraisablehook = lambda error: None
    threading.excepthook = lambda error: None


def _watch(heard: int, heeded: list[signal.Signals]) -> None:
    """End the process GRACE_SECONDS after the signal that stops it, unless it has ended by itself."""
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
    """End the process, whatever its main thread is doing; no block of it is left in order."""
    if whole := sys.modules.get("annotate_transformer.store.whole"):
        whole.remove_parts()
    _say_what_is_safe()
    os._exit(128 + _state.signal)


def _say_what_is_safe() -> None:
    if _state.saying.acquire(blocking=False):
        shown = "\x1b[?25h" if os.isatty(2) else ""  # a progress bar has hidden the cursor
        _say(f"stopped; {_state.safe}", shown)


def _say(text: str, before: str = "") -> None:
    with suppress(OSError):
        os.write(2, f"{before}annotate: {text}\n".encode())
