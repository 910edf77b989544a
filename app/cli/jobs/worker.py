"""Start the process that annotates a part; on a Ray worker, also check the machine and lock the part.

Ray sends this module to the workers as it is here, so it imports only the standard library: it can then say
in a sentence that a worker lacks the package, or has another version of it.

A part must never be written by two processes at once, also where a worker is lost and Ray cannot know whether
its process has ended. So each worker first takes the part's claim, a file beside the part:

1. It locks the file (flock), and the process that it starts inherits the lock. The lock therefore ends with
   the last of both, so on one machine, in whatever containers, a part has one writer.
2. Storage that several machines share may know no locks. So a worker also writes a line with a counter into
   the file every RENEW_SECONDS. A worker of another machine takes the claim only after the line has not
   changed for STALE_SECONDS; it compares what it reads, so clocks need not agree.
3. A worker that finds another one's line in the file kills its process.
"""

import fcntl
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from secrets import token_hex

MISTAKE = 2  # exit status after an error that the user can correct; running again would not help
LOOK_SECONDS = 0.2  # seconds between two checks of a process or of a claim
RENEW_SECONDS = 2.0
STALE_SECONDS = 30.0
WAIT_SECONDS = 90.0  # longer than the 60 s in which Ray ends a worker that lost the cluster
SEEN_SECONDS = 5.0  # maximum seconds until other machines see a new file
PYTHON = "python"  # stands for Python itself among the names of packages


def process(
    words: Sequence[str], log: Path, threads: int, inherited: Sequence[int] = ()
) -> "subprocess.Popen[bytes]":
    """Start `annotate` with these arguments and this log file; on Linux it dies with the calling process.

    `threads`: number of threads of PyTorch; `inherited`: open files that the process gets too.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "ANNOTATE_PARENT": str(os.getpid())}
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "annotate_transformer.app.cli", *words],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True,
            pass_fds=inherited,
        )  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """What a worker's machine must share with the process that started the run: folders and versions.

    `folder`: its current folder; `seen`: a file with the text `token`, in the folder of the parts;
    `versions`: the versions of Python and packages, by name.
    """

    folder: str
    seen: Path
    token: str
    versions: Mapping[str, str]

    def differences(self) -> str:
        """Return a sentence that says in what this machine differs, or an empty text."""
        node = platform.node()
        if not self._is_seen():
            return (
                f"the machine {node} does not see the folder {self.seen.parent} of this machine. Put --db on "
                "storage that all machines of the cluster share, under the same path."
            )
        if not os.path.isdir(self.folder):
            return f"the machine {node} has no folder {self.folder}. Start the command in a shared folder."
        differ = [
            f"{name} is {wanted} here and {found or 'not installed'} there"
            for name, wanted in self.versions.items()
            if (found := installed(name)) != wanted
        ]
        if differ:
            told = "; ".join(differ)
            return f"the machine {node} has other versions: {told}. Install the same ones on all machines."
        return ""

    def _is_seen(self) -> bool:
        deadline = time.monotonic() + SEEN_SECONDS
        while True:
            with suppress(OSError):
                if self.seen.read_text() == self.token:
                    return True
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_SECONDS)


def installed(name: str) -> str:
    """Return the installed version of a package or of Python; empty if the package is not installed."""
    if name == PYTHON:
        return platform.python_version()
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def annotate(
    words: Sequence[str], log: Path, claim: Path, threads: int, expected: Expected
) -> tuple[int, str]:
    """Run the process of a part to its end; return its exit status, and if it did not start, the reason.

    Ray raises KeyboardInterrupt in here if the part is to finish its shard and stop.
    """
    if told := expected.differences():
        return MISTAKE, told
    os.chdir(expected.folder)
    try:
        with Claim.taken(claim) as mine:
            return _watched(process(words, log, threads, [mine.file]), mine), ""
    except Busy as error:
        return MISTAKE, str(error)
    except OSError as error:  # the claim or the log cannot be written
        return MISTAKE, f"on the machine {platform.node()}: {error.strerror}: {error.filename}."


def _watched(running: "subprocess.Popen[bytes]", claim: "Claim") -> int:
    try:
        while True:
            try:
                if (status := running.poll()) is not None:
                    return status
                if not claim.renew():
                    running.kill()
                time.sleep(LOOK_SECONDS)
            except KeyboardInterrupt:
                running.send_signal(signal.SIGINT)
    finally:
        running.kill()
        running.wait()


class Busy(Exception):
    """Another worker is annotating the same part."""


@dataclass
class Claim:
    """A worker's exclusive right to write a part; `file`: descriptor of the file that it has locked."""

    path: Path
    file: int
    token: str
    renewed: int = 0
    next: float = 0.0

    @staticmethod
    @contextmanager
    def taken(
        path: Path, wait: float = WAIT_SECONDS, stale: float = STALE_SECONDS, kernel: str = ""
    ) -> Iterator["Claim"]:
        """Context manager: hold the claim on a part during the block. `wait` and `stale` are in seconds.

        `kernel`: which system this is, on which a lock holds for certain.

        Raises:
            Busy: another worker had it for `wait` seconds.
        """
        kernel = kernel or _kernel()
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _wait_for(path, file, kernel, wait, stale)
            claim = Claim(path, file, f"{token_hex(8)} {kernel} {platform.node()}")
            claim.renew()
            yield claim
            if claim.is_mine():
                os.ftruncate(file, 0)
        finally:
            os.close(file)

    def is_mine(self) -> bool:
        """Return whether this worker still has the claim, that is, no other worker has taken it."""
        with suppress(OSError):
            return self.path.read_text().startswith(self.token)
        return True  # unreadable just now; the next call will see whether another worker has it

    def renew(self) -> bool:
        """Write into the claim's file every RENEW_SECONDS; return False if another worker has the claim."""
        if time.monotonic() < self.next:
            return True
        if self.renewed and not self.is_mine():
            return False
        self.next, self.renewed = time.monotonic() + RENEW_SECONDS, self.renewed + 1
        line = f"{self.token} {self.renewed:012d}\n".encode()
        with suppress(OSError):  # such as a full disk, which the process itself reports
            os.pwrite(self.file, line, 0)
            if self.renewed == 1:
                os.ftruncate(self.file, len(line))
            os.fsync(self.file)
        return True


def _wait_for(path: Path, file: int, kernel: str, wait: float, stale: float) -> None:
    began = since = time.monotonic()
    seen = None
    while True:
        now, is_locked = time.monotonic(), _locked(file)
        line = path.read_text()  # NFS shows other machines' changes only when the file is opened again
        if line != seen:
            seen, since = line, now
        if is_locked and (not line.strip() or line.split()[1:2] == [kernel] or now - since >= stale):
            return
        if now - began >= wait:
            by = f" on {line.split()[2]}" if len(line.split()) > 2 else ""
            raise Busy(
                f"another process{by} is annotating it. Wait until it has ended, and give the command again."
            )
        time.sleep(LOOK_SECONDS)


def _locked(file: int) -> bool:
    """Try to lock an open file; return whether it is locked now, or True if the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _kernel() -> str:
    """Return an id of the running kernel, the same for all its processes, in containers or not."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else platform.node()
