"""Who may talk to the server: the person's own browser, at this machine's own address.

A page of another site can reach a server of this machine in two ways. It can send requests to it, and then
the browser adds an Origin that is not the server's. Or its name is made to lead to 127.0.0.1 (DNS
rebinding), and then the browser sends that name as Host. Streamlit looks at both for its WebSocket only,
and asks another machine for its own address before it refuses a foreign Origin. So every request is
looked at here, before Streamlit hears of it.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

NAMES = ("127.0.0.1", "localhost", "[::1]")  # of this machine, as a browser writes them in Host
# The port may be another one than the server's: that of an SSH tunnel.
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
    """An ASGI application around another one, to which only requests of this machine's browser get."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or is_ours(scope["headers"]):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: status 403
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSAL.encode()})


def is_ours(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether there is one Host, which names this machine, and no Origin but that of the same address."""
    hosts, origins = ([value for key, value in headers if key == name] for name in (b"host", b"origin"))
    if len(hosts) != 1 or not HOST.fullmatch(hosts[0].decode("latin-1")):
        return False
    here = [scheme + hosts[0].lower() for scheme in (b"http://", b"https://")]
    return all(origin.lower() in here for origin in origins)
