"""A PostgreSQL server of our own on loopback, in a temporary folder."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import until

USER, PASSWORD = "lake", "not-to-be-seen-0123456789"
UNPRIVILEGED = 65534  # PostgreSQL does not run as root; this is Debian's user `nobody`
# Nothing has to survive the machine here.
SETTINGS = ("fsync=off", "listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=50")


def programs() -> Path | None:
    """The folder with PostgreSQL's programs, which on Debian are on no path; None if there is none."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = shutil.which("initdb")
    found = [*folders, *([Path(on_path).parent] if on_path else [])]
    return next((folder for folder in found if (folder / "initdb").exists()), None)


@dataclass(frozen=True)
class Served:
    """A running server. passfile: a file with the password, as libpq reads it"""

    port: int
    passfile: Path
    programs: Path

    def address(self, database: str, **other: object) -> str:
        """The address of a lake whose catalogue is a database."""
        named = {"dbname": database, "host": "127.0.0.1", "port": self.port, "user": USER}
        named |= {"passfile": self.passfile} | other
        return "ducklake:postgres:" + " ".join(f"{name}={value}" for name, value in named.items())

    def make(self, database: str) -> None:
        to = ("-h", "127.0.0.1", "-p", str(self.port), "-U", USER)
        environment = {**os.environ, "PGPASSFILE": str(self.passfile)}
        subprocess.run((self.programs / "createdb", *to, database), check=True, env=environment)


@contextmanager
def serving() -> Iterator[Served]:
    """A server that asks for a password; its files are removed at the end."""
    found = programs()
    assert found is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Not in pytest's folder, which nobody else may read
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = folder / "password"
        given.write_text(PASSWORD)
        passfile = folder / "passfile"
        passfile.write_text(f"127.0.0.1:{port}:*:{USER}:{PASSWORD}\n")
        passfile.chmod(0o600)
        unprivileged = _unprivileged(folder, given)
        making = (found / "initdb", "-D", folder / "data", "-U", USER, "-A", "scram-sha-256")
        made = (*making, f"--pwfile={given}", "--no-sync")
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, **unprivileged)
        options = [word for setting in SETTINGS for word in ("-c", setting)]
        command = (found / "postgres", "-D", folder / "data", "-p", str(port), *options)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stderr=log, stdout=log, **unprivileged)
        try:
            until(lambda: _answers(port))
            until(lambda: "ready to accept connections" in (folder / "log").read_text())
            yield Served(port, passfile, found)
        finally:
            process.send_signal(signal.SIGINT)  # disconnects everybody, and stops
            process.wait(60)


def _unprivileged(folder: Path, *files: Path) -> dict[str, Any]:
    if os.getuid():
        return {}
    for path in (folder, *files):
        os.chown(path, UNPRIVILEGED, UNPRIVILEGED)
    return {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": [], "cwd": folder}


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
