"""The app in a real browser."""

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
playwright.expect.set_options(timeout=20_000)  # a busy machine is no mistake of the page's

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]  # fmt: skip


WIDTH = 1200


@contextmanager
def serving(db: Path) -> Iterator[str]:
    """`annotate app` on a store; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "annotate_transformer.app.cli",
        "app",
        "--db",
        str(db),
        "--port",
        str(port),
        "--no-open",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            _wait_for(f"{address}/_stcore/health")
            yield address
        finally:
            process.terminate()
            process.wait(timeout=20)


def _wait_for(address: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"nothing answers at {address}")


@contextmanager
def launched() -> Iterator[Any]:
    """Give the system's Chromium."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@contextmanager
def tab(chromium: Any, server: str, **more: Any) -> Iterator[Any]:
    """Give a tab; whatever it asks of another host is an error."""
    context = chromium.new_context(viewport={"width": WIDTH, "height": 900}, base_url=server, **more)
    page = context.new_page()
    page.set_default_timeout(20_000)
    elsewhere: list[str] = []
    here = (server, server.replace("http", "ws"), "data:", "blob:")
    page.on(
        "request", lambda request: None if request.url.startswith(here) else elsewhere.append(request.url)
    )
    yield page
    context.close()
    assert elsewhere == []


def title(page: Any, text: str) -> None:
    """Wait until the page of this title is there and nothing runs any more."""
    playwright.expect(page.locator("h1")).to_contain_text(text)
    quiet(page)


def quiet(page: Any) -> None:
    """Wait until Streamlit has run the script to its end."""
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')


def parameters(page: Any) -> dict[str, str]:
    """The address's parameters."""
    return dict(re.findall(r"[?&](\w+)=([^&]*)", page.url))
