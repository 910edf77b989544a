"""A web server on this machine that serves a folder with range requests, as data-set repositories do."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote


@dataclass
class Served:
    """What a server has sent. `address`: of the folder; `sent`: number of bytes of each answer, in order."""

    address: str
    has_ranges: bool
    status: int | None = None
    sent: list[int] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, served: Served, *arguments: Any) -> None:
        self.folder, self.served = folder, served
        super().__init__(*arguments)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        file = self.folder / unquote(self.path.lstrip("/"))
        if self.served.status or not file.is_file():
            self.send_response(self.served.status or 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size, (first, last) = file.stat().st_size, self._range(file.stat().st_size)
        is_part = self.served.has_ranges and "Range" in self.headers
        self.send_response(206 if is_part else 200)
        self.send_header("ETag", f'"{file.stat().st_mtime_ns}"')
        if self.served.has_ranges:
            self.send_header("Accept-Ranges", "bytes")
        if is_part:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if with_body:
            self.served.sent.append(last - first + 1)
            with file.open("rb") as opened, suppress(ConnectionError):  # one that reads only the beginning
                opened.seek(first)
                self.wfile.write(opened.read(last - first + 1))

    def _range(self, size: int) -> tuple[int, int]:
        asked = self.headers.get("Range", "")
        if not self.served.has_ranges or not asked:
            return 0, size - 1
        first, _, last = asked.removeprefix("bytes=").partition("-")
        return int(first), min(int(last or size - 1), size - 1)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextmanager
def served(folder: Path, *, has_ranges: bool = True) -> Iterator[Served]:
    """Context manager: serve the files of a folder."""
    told = Served("", has_ranges)
    with at_work(partial(_Handler, folder, told)) as told.address:
        yield told


@contextmanager
def at_work(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """Context manager: run a server, each of whose requests a new handler answers; yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
