"""Starting the server: on this machine alone, without a word to anyone else."""

import os
import socket
from contextlib import suppress
from pathlib import Path

import store
from app.browser import VARIABLE
from store.errors import AnnotateError, EmptyStore

HOST = "127.0.0.1"


class PortTaken(AnnotateError):
    """Another program listens there."""


def start(db: Path, port: int, *, open_browser: bool) -> None:
    """Serve the app until Ctrl-C.

    Raises:
        NotAStore, OtherSchemaVersion: there is no store at `db`.
        PortTaken: something listens at the port.
    """
    _check(db)
    _check_free(port)
    os.environ[VARIABLE] = str(db.resolve())
    from streamlit.web import bootstrap

    options = {
        "server.address": HOST,
        "server.port": port,
        "server.headless": not open_browser,
        "server.fileWatcherType": "none",
        "browser.serverAddress": HOST,
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "none",
        "client.toolbarMode": "viewer",
    }
    bootstrap.load_config_options(options)
    bootstrap.run(str(Path(__file__).with_name("main.py")), False, [], options)


def _check(db: Path) -> None:
    """A file that an ingest has just begun has nothing in it yet: the pages say so."""
    with suppress(EmptyStore):
        store.open(db)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise PortTaken(
                f"Port {port} is taken ({error.strerror}). Choose another: --port {port + 1}"
            ) from error
