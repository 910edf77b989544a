"""Refuse HTTP requests whose Host does not name this machine, or whose Origin is another site.

A page of another site can reach a local server in two ways. The page can send requests to the server; then
the browser adds an Origin that is not the server's. Or the site's host name resolves to 127.0.0.1 (DNS
rebinding); then the browser sends that name as Host. Streamlit checks both headers only for its WebSocket,
and contacts another machine to learn its own address before it refuses a foreign Origin. So every request is
checked here, before Streamlit gets it.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

NAMES = ("127.0.0.1", "localhost", "[::1]")  # this machine's names, as browsers write them in the header Host

# HOST matches a name in NAMES with any port: through an SSH tunnel, the browser sends the port of the tunnel.
HOST = re.compile(f"(?:{'|'.join(map(re.escape, NAMES))})(?::[0-9]{{1,5}})?", re.IGNORECASE)
REFUSAL = (
    "This address is not the app's. Open the address that `annotate app` printed; it begins with "
    "http://127.0.0.1 or http://localhost.\n"
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class Guard:
    """ASGI middleware that passes on the requests that `is_ours` allows, and refuses all others."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or is_ours(scope["headers"]):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            # The server answers with HTTP status 403 if a WebSocket is closed before it is accepted.
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSAL.encode()})


def is_ours(headers: list[tuple[bytes, bytes]]) -> bool:
    """Return whether a request has one Host, which names this machine, and no Origin other than that Host."""
    hosts, origins = ([value for key, value in headers if key == name] for name in (b"host", b"origin"))
    if len(hosts) != 1 or not HOST.fullmatch(hosts[0].decode("latin-1")):
        return False
    here = [scheme + hosts[0].lower() for scheme in (b"http://", b"https://")]
    return all(origin.lower() in here for origin in origins)
