"""The app talks to this machine's own browser, and to nobody else."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from pages import empty_store
from processes import until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
PATHS = ("/", "/_stcore/health", "/_stcore/host-config", "/media/x.csv", "/static/index.html", "/sql?query=x")


SERVE = """
import sys
from pathlib import Path

def hear(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto"):
        with open(sys.argv[3], "a") as file:
            file.write(f"{event} {arguments[0 if event.startswith('socket.get') else 1]}\\n")

sys.addaudithook(hear)
from annotate_transformer.app.browser.server.start import start
start(Path(sys.argv[1]), int(sys.argv[2]), open_browser=False)
"""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where an app listens, which in the end has looked up and connected to no other machine."""
    folder = tmp_path_factory.mktemp("guarded")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    log, printed = folder / "addresses", folder / "printed"
    command = [sys.executable, "-c", SERVE, str(empty_store(folder)), str(number), str(log)]
    with printed.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        until(lambda: answers(number) or process.poll() is not None)
        yield number
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM, printed.read_text()
    assert f"http://127.0.0.1:{number}" in printed.read_text()
    told = log.read_text().splitlines() if log.exists() else []
    assert [line for line in told if "127.0.0.1" not in line] == []


def answers(port: int) -> bool:
    try:
        return status(port, "/_stcore/health", [f"Host: 127.0.0.1:{port}"]) == 200
    except OSError:
        return False


def status(port: int, path: str, headers: list[str], version: str = "1.1") -> int:
    """The status of a request of exactly these headers; 0 if the connection is closed without one."""
    end = [] if "Connection: Upgrade" in headers else ["Connection: close"]
    lines = [f"GET {path} HTTP/{version}", *headers, *end, "", ""]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1"))
        line = connection.makefile("rb").readline()
    return int(line.split()[1]) if line else 0


def handshake(port: int, *headers: str) -> int:
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    protocol = ["Sec-WebSocket-Protocol: streamlit", f"Sec-WebSocket-Key: {KEY}"]
    return status(port, "/_stcore/stream", [*(h.format(port=port) for h in headers), *upgrade, *protocol])


OURS = [
    ("Host: 127.0.0.1:{port}", "Origin: http://127.0.0.1:{port}"),
    ("Host: localhost:{port}", "Origin: http://localhost:{port}"),
    ("Host: LocalHost:{port}", "Origin: http://localhost:{port}"),
    ("Host: 127.0.0.1:{port}",),  # no browser, which always names an origin here
    ("Host: localhost:9000", "Origin: http://localhost:9000"),  # an SSH tunnel
    ("Host: localhost", "Origin: https://localhost"),
    ("Host: [::1]:{port}", "Origin: http://[::1]:{port}"),
]
HOSTS = [
    "evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", "localhost.evil.example:{port}",
    "evil.localhost:{port}", "127.0.0.1@evil.example:{port}", "user:word@127.0.0.1:{port}", "0.0.0.0:{port}",
    "[::]:{port}", "[::ffff:127.0.0.1]:{port}", "::1", "127.1:{port}", "127.0.0.2:{port}",
    "2130706433:{port}", "localhost.:{port}", "localhost:", "localhost:x", "localhost:{port}/evil.example",
    "localhost, evil.example", "xlocalhost:{port}", "127x0x0x1:{port}", "l\xf6calhost", "192.168.0.1:{port}",
]  # fmt: skip
ORIGINS = [
    "http://evil.example", "http://evil.example:{port}", "http://127.0.0.1.evil.example:{port}", "null", "",
    "http://127.0.0.1:9999", "http://127.0.0.1", "http://localhost:{port}", "http://0.0.0.0:{port}",
    "http://127.0.0.1:{port}@evil.example", "http://evil.example/127.0.0.1:{port}", "file://",
    "chrome-extension://abcdefghijklmnop", "ftp://127.0.0.1:{port}", "127.0.0.1:{port}",
]  # fmt: skip


@pytest.mark.parametrize("headers", OURS, ids=" ".join)
def test_our_own_browser_is_let_in(port: int, headers: tuple[str, ...]) -> None:
    assert handshake(port, *headers) == 101
    assert status(port, "/", [header.format(port=port) for header in headers]) == 200


@pytest.mark.parametrize("host", HOSTS)
def test_another_host_is_refused(port: int, host: str) -> None:
    named = host.format(port=port)
    assert handshake(port, f"Host: {named}", f"Origin: http://{named}") in (400, 403)
    assert handshake(port, f"Host: {named}") in (400, 403)
    assert status(port, "/", [f"Host: {named}"]) in (400, 403)


@pytest.mark.parametrize("origin", ORIGINS)
def test_another_origin_is_refused(port: int, origin: str) -> None:
    assert handshake(port, "Host: 127.0.0.1:{port}", f"Origin: {origin}") == 403
    headers = ["Host: 127.0.0.1:{port}", f"Origin: {origin}"]
    assert status(port, "/", [header.format(port=port) for header in headers]) == 403


def test_a_request_names_one_host(port: int) -> None:
    ours, evil = f"Host: 127.0.0.1:{port}", "Host: evil.example"
    for headers in ([], [ours, evil], [evil, ours], [ours, ours]):
        assert handshake(port, *headers) in (400, 403), headers
        assert status(port, "/", headers) in (400, 403), headers
    assert status(port, "/", [], version="1.0") in (400, 403)
    assert handshake(port, ours, f"Origin: http://127.0.0.1:{port}", "Origin: http://evil.example") in (
        400,
        403,
    )


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_served_under_another_name(port: int, path: str) -> None:
    code, headers, text = got(port, path, f"evil.example:{port}")
    assert (code, headers.get("access-control-allow-origin")) == (403, None)
    assert "not the app's. Open the address that `annotate app` printed" in text
    assert got(port, path, f"127.0.0.1:{port}")[0] in (200, 404)


def got(port: int, path: str, host: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with closing(connection):
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read().decode()


# In a browser


class Evil(BaseHTTPRequestHandler):
    """A page of another site, which tries to reach the app."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<h1>Evil</h1>")

    def log_message(self, *arguments: Any) -> None:
        """Nothing of it on the test's standard error."""


CONNECT = """address => new Promise(told => {
    const socket = new WebSocket(address, ["streamlit"])
    socket.onopen = () => told("open")
    socket.onerror = () => told("refused")
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for which evil.example is this machine."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    rules = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP evil.example 127.0.0.1"]
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=rules)
        yield launched
        launched.close()


@pytest.mark.soak
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_page_works_under_its_own_name(port: int, browser: Any, name: str) -> None:
    tab = browser.new_page()
    tab.goto(f"http://{name}:{port}/")
    tab.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]', timeout=20_000)
    assert "Overview" in tab.locator("h1").inner_text()
    assert tab.evaluate(CONNECT, f"ws://{name}:{port}/_stcore/stream") == "open"
    tab.close()


def test_the_page_does_not_work_under_another_name(port: int, browser: Any) -> None:
    tab = browser.new_page()
    answer = tab.goto(f"http://evil.example:{port}/")
    assert answer.status == 403
    assert "not the app's" in tab.inner_text("body")
    assert tab.evaluate(CONNECT, f"ws://evil.example:{port}/_stcore/stream") == "refused"
    tab.close()


def test_another_sites_page_cannot_connect(port: int, browser: Any) -> None:
    evil = ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    Thread(target=evil.serve_forever, daemon=True).start()
    tab = browser.new_page()
    for site in ("evil.example", "127.0.0.1"):
        tab.goto(f"http://{site}:{evil.server_port}/")
        for name in ("127.0.0.1", "localhost", "evil.example"):
            assert tab.evaluate(CONNECT, f"ws://{name}:{port}/_stcore/stream") == "refused"
            read = "address => fetch(address).then(x => x.text(), () => 'refused')"
            assert tab.evaluate(read, f"http://{name}:{port}/_stcore/host-config") == "refused"
    tab.close()
    evil.shutdown()
    evil.server_close()


def test_no_page_around_it_steers_it(port: int) -> None:
    assert json.loads(got(port, "/_stcore/host-config", f"127.0.0.1:{port}")[2])["allowedOrigins"] == []
