"""Start the app's server, which only this machine can reach, and which contacts no other machine."""

import asyncio
import os
import socket
import sys
import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from annotate_transformer import store
from annotate_transformer.app.browser import VARIABLE
from annotate_transformer.app.browser.server.guard import NAMES, Guard
from annotate_transformer.store.elsewhere.place import Place
from annotate_transformer.store.errors import AnnotateError, EmptyStore

HOST = "127.0.0.1"
OPEN_SECONDS = 0.2  # seconds from the app's start until the browser is opened; by then the server answers


class PortTaken(AnnotateError):
    """Another program listens on the port."""


def start(db: Place, port: int, *, open_browser: bool) -> None:
    """Serve the app until Ctrl-C.

    Raises:
        NotAStore, OtherSchemaVersion: there is no store at `db`.
        PortTaken: another program listens on the port.
    """
    _check(db)
    _check_free(port)
    os.environ[VARIABLE] = str(db.resolve() if isinstance(db, Path) else db)
    import streamlit
    from starlette.middleware import Middleware

    @asynccontextmanager
    async def serving(_: streamlit.App) -> AsyncIterator[None]:
        if open_browser:
            asyncio.get_running_loop().call_later(OPEN_SECONDS, webbrowser.open, f"http://{HOST}:{port}")
        yield

    script = str(Path(__file__).with_name("main.py"))
    # sys.argv is replaced because Streamlit would put the folder of sys.argv[0], the command `annotate`, into
    # sys.path.
    sys.argv = [script]
    with suppress(KeyboardInterrupt):
        app = streamlit.App(script, lifespan=serving, middleware=[Middleware(Guard)])
        app.run(config=_options(port))


def _options(port: int) -> dict[str, Any]:
    """Return Streamlit's settings; they override the user's own config.toml."""
    return {
        "server.address": HOST,
        "server.port": port,
        "server.headless": True,  # Streamlit must not open the browser, because `serving` opens it
        "server.fileWatcherType": "none",
        "server.allowedHosts": [name.strip("[]") for name in NAMES],
        "server.enableCORS": True,
        "server.corsAllowedOrigins": [],
        "server.enableXsrfProtection": True,
        "server.enableStaticServing": False,
        "server.enableAgentApi": False,
        "server.baseUrlPath": "",
        "browser.serverAddress": HOST,  # otherwise Streamlit asks another host for this machine's address
        "browser.serverPort": port,
        "browser.gatherUsageStats": False,
        "client.allowedOrigins": [],  # another site that shows the app in a frame cannot send it commands
        "client.showErrorDetails": "none",
        "client.toolbarMode": "viewer",
        # On Streamlit's own red, a chosen option has too little contrast (WCAG 2 AA); so has its code.
        "theme.light.primaryColor": "#1d5fa8",
        "theme.dark.primaryColor": "#7db4ec",
        "theme.light.codeTextColor": "#1b5e35",
        "theme.dark.codeTextColor": "#9fe0b8",
        "client.disableDataExport": True,  # hides Streamlit's CSV download, which may contain formulas
    }


def _check(db: Place) -> None:
    """Raise an error if there is no store at `db`. An empty store is allowed, because the pages report it."""
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
