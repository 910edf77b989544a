"""The entry point of `annotate`: run a command, and report an error in one sentence, not a traceback.

A user's mistake, a full disk and too little memory give one sentence on standard error and exit status 2.
Ctrl-C gives one sentence and exit status 130; SIGTERM gives one sentence and exit status 143.
"""

import errno
import os
import resource
import signal
import sys
from contextlib import suppress
from io import TextIOWrapper

from annotate_transformer.app.cli import stopping

PARENT = "ANNOTATE_PARENT"  # variable with the process id of an ingest with --parts that started this process
WRITERS = ("ingest", "sweep", "merge", "weights", "next-token", "explain", "demo")
COMMITTED = "what was committed is safe, and the same command resumes from there."
UNCHANGED = "the store was only read, and nothing in it has changed."

ABORTED = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGTRAP)
NO_THREAD_LOCAL_DATA = 127  # exit status of a process whose C library cannot allocate thread-local data
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# LESS maps the name of a command to the advice that is printed if the command had too little memory.
INGEST_LESS = (
    "Choose a smaller --shard-tokens, --batch-tokens, --keep-neurons or --keep-sources, or a smaller model"
)
LESS = {
    "ingest": INGEST_LESS,
    "sweep": "Choose options with which `annotate ingest` needs less memory, or a smaller model",
    "demo": "The demo's settings cannot be changed; `annotate ingest` needs less memory with some options",
    "weights": "Choose a smaller model, or a smaller --top",
    "next-token": "Ask for fewer --neurons and --windows, or for some --layers only",
    "explain": "Ask with a smaller --concurrency",
    "effects": "Choose a smaller --sample",
    "replicate": "Choose a smaller --model",
    "merge": "Merge the parts on a machine with more memory",
    "upgrade": "Upgrade the store on a machine with more memory, and copy it back",
    "verify": "Check one run at a time with --run N",
    "export": "Choose --format parquet, or export a part of the run with `annotate sql … --output FILE`",
    "sql": "Ask for less at once: fewer columns, a WHERE before the ORDER BY, a smaller --limit",
    "expand": "Ask about a shorter prompt",
    "app": "Open fewer pages at once",
    "mcp": "Ask for fewer rows, or about a shorter prompt",
}
LESS_ROWS = "Ask for fewer rows with --limit"  # the advice for commands that are not in LESS

# NO_MEMORY: parts of error messages from which it follows that there was too little memory. The errors come
# from PyTorch, oneDNN and DuckDB, or from the operating system if it cannot allocate memory, start a thread
# or load a library.
NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "could not create a primitive",
    "out of memory",
    "bad_alloc",
    "unable to mmap",
    "failed to map segment",
    "can't start new thread",
    "failed to allocate",
)


def main() -> None:
    """Run the command in sys.argv. An error gives one sentence; a bug of this program gives a traceback."""
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    safe = COMMITTED if command in WRITERS else UNCHANGED
    try:
        if parent := os.environ.pop(PARENT, ""):
            _die_with(int(parent))
        _outlive_an_abort(_no_memory(command, safe))
        stopping.listen(safe)
        _run_or_say_why_not(command, safe)
    except BaseException:
        if stopping.stopped_by():
            stopping.end()
        stopping.nothing_is_left_to_tidy()
        raise


def _run_or_say_why_not(command: str, safe: str) -> None:
    try:
        _run(command)
    except Exception as error:
        sentence = sentence_of(error, command, safe)
        if sentence is None or stopping.stopped_by():
            raise
        _print(sentence)
        sys.exit(2)


def _run(command: str) -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # UTF-8: the terminal's encoding may lack characters of a token
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    from annotate_transformer.app.cli.program import program

    try:
        program(command)(_words(command))
    finally:
        sys.stdout.flush()


def _words(command: str) -> list[str]:
    """Return the command line's words; bytes that are not UTF-8 are an error, but for `annotate doctor`."""
    if command == "doctor":  # must start without DuckDB, which the store imports
        return sys.argv[1:]
    from annotate_transformer.store.queries import plain

    words: list[str] = plain(sys.argv[1:])
    return words


def sentence_of(error: Exception, command: str, safe: str) -> str | None:
    """Return the sentence to print for an error; None if the error is a bug of this program."""
    if _is_out_of_memory(error):
        return _no_memory(command, safe)
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        where = error.filename or "standard output"
        return f"There is no room for {where} ({error.strerror}): make room on that disk; {safe}"
    if not isinstance(error, _loaded("annotate_transformer.store.errors", "AnnotateError")):
        return None
    if isinstance(error, _loaded("annotate_transformer.store.restricted", "RefusedQuery")):
        # The lines of a RefusedQuery may be lines of the user's SQL, so they are not indented.
        return str(error)
    # All lines after the first are indented, so that none of them can be mistaken for another message of this
    # program.
    return str(error).replace("\n", "\n  ")


def _no_memory(command: str, safe: str) -> str:
    return f"There was too little memory. {LESS.get(command, LESS_ROWS)}, or close other programs; {safe}"


def _outlive_an_abort(sentence: str) -> None:
    """If memory is limited (`ulimit -v`), run the command in a child; print `sentence` if the child aborts.

    When an allocation fails, LLVM and threads of PyTorch and DuckDB abort the process, which can then print
    nothing. This function returns in the child; the parent waits and ends with the child's status.
    """
    limits = (resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    if all(limit == resource.RLIM_INFINITY for limit in limits):
        return
    parent, child = os.getpid(), os.fork()
    if child == 0:
        _die_with(parent)
        return
    # Ctrl-C sends SIGINT to both the parent and the child, so the parent ignores it. The command `kill` sends
    # SIGTERM to the parent only, so the parent passes it on to the child.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if -code in ABORTED or code == NO_THREAD_LOCAL_DATA:
        os.write(2, f"annotate: {sentence}\n".encode())
        os._exit(2)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _die_with(parent: int) -> None:
    """Let Linux kill this process when its parent is killed; on other systems this process continues."""
    if sys.platform == "linux":
        import ctypes

        # The option 1 of prctl is PR_SET_PDEATHSIG: the kernel will send SIGKILL to this process when its
        # parent dies.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether too little memory caused the error, and the message does not yet say what to do."""
    ours = _loaded("annotate_transformer.store.errors", "AnnotateError")
    enough: tuple[type[BaseException], ...] = (
        MemoryError,
        *_loaded("annotate_transformer.store.errors", "OutOfMemory"),
        *_loaded("duckdb", "OutOfMemoryException"),
    )
    advises = isinstance(error, ours) and "memory" in str(error) and not isinstance(error, enough)
    if advises and not _says_so(error):
        return False
    # The messages of AnnotateError and of DuckDB's errors about a query may quote the user's text. So the
    # words "out of memory" in them do not prove that memory ran out.
    quoting: tuple[type[BaseException], ...] = (*ours, *_loaded("duckdb", "ProgrammingError", "DataError"))
    while error is not None:
        if isinstance(error, enough) or (not isinstance(error, quoting) and _says_so(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _says_so(error: BaseException | None) -> bool:
    said = str(error).lower()
    return any(sign in said for sign in NO_MEMORY)


def _loaded(module: str, *names: str) -> tuple[type[BaseException], ...]:
    """Return classes of a module, or () if it is not loaded: importing it now could run out of memory."""
    found = sys.modules.get(module)
    return tuple(getattr(found, name) for name in names if hasattr(found, name))


def _print(sentence: str) -> None:
    try:
        from annotate_transformer.app.present.console import Console

        console = Console(stderr=True, highlight=False)
        console.print(f"annotate: {sentence}", style="red", soft_wrap=True, markup=False)
    except (MemoryError, ImportError, OSError):
        with suppress(OSError):
            os.write(2, f"annotate: {sentence}\n".encode())


if __name__ == "__main__":
    main()
