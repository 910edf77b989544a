"""Start the process of a part, and what a Ray worker does around it.

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

MISTAKE = 2  # exit status of a process that has said in a sentence what the user can do
LOOK_SECONDS = 0.2  # seconds between two looks at a process, or at a claim
RENEW_SECONDS = 2.0
STALE_SECONDS = 30.0
WAIT_SECONDS = 90.0  # Ray itself ends a worker within 60 s after its machine has lost the cluster
SEEN_SECONDS = 5.0  # for a file that was just written to become visible on another machine
PYTHON = "python"  # among the names of packages: Python itself


def process(
    words: Sequence[str], log: Path, threads: int, inherited: Sequence[int] = ()
) -> "subprocess.Popen[bytes]":
    """Start `annotate` with these words; it writes into the log, and on Linux it dies with this process.

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
    """What a worker must have in common with the process that started the run.

    `folder`: its current folder; `seen`: a file with the text `token`, in the folder of the parts;
    `versions`: the versions of Python and packages, by name.
    """

    folder: str
    seen: Path
    token: str
    versions: Mapping[str, str]

    def differences(self) -> str:
        """Return a sentence about what this machine has not in common, or an empty text."""
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
    """Return the version of a package, or of Python; empty if there is no such package."""
    if name == PYTHON:
        return platform.python_version()
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def annotate(
    words: Sequence[str], log: Path, claim: Path, threads: int, expected: Expected
) -> tuple[int, str]:
    """Run the process of a part to its end; return its exit status, and a sentence if it did not start.

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
    """Another worker annotates the part."""


@dataclass
class Claim:
    """The right to write a part, as the module says; `file`: the open file, whose lock is held."""

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
        """Context manager: hold the claim during the block; `wait`, `stale` in seconds.

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
        """Return whether no other worker has taken the claim since."""
        with suppress(OSError):
            return self.path.read_text().startswith(self.token)
        return True  # whoever takes it will be seen later

    def renew(self) -> bool:
        """Write the next line if it is time to; return False if the claim is another one's now."""
        if time.monotonic() < self.next:
            return True
        if self.renewed and not self.is_mine():
            return False
        self.next, self.renewed = time.monotonic() + RENEW_SECONDS, self.renewed + 1
        line = f"{self.token} {self.renewed:012d}\n".encode()
        with suppress(OSError):  # such as a disk that is full, of which the process itself will say so
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
        line = path.read_text()  # opened again, because NFS shows changes of others only then
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
    """Lock the open file if it is free; where the file system knows no locks, say that it is."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _kernel() -> str:
    """Return what all processes under one running kernel have in common, in whatever containers they are."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else platform.node()
