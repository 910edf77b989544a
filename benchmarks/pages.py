"""Measure how fast the app shows a page in a real browser: from the click on a link to the complete page.

    python benchmarks/pages.py FILE.duckdb [--times 10]

Serves the store with `annotate app`, opens it in Chromium, and follows links as a click does. Each link leads
to a position, neuron, head or document that is drawn at random with a fixed seed. A step changes one choice
on a page that is already shown. Prints a Markdown table in milliseconds.
"""

import argparse
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer import store
from annotate_transformer.store.names import neuron_name
from benchmarks.measure import NOT_HERE, percentiles, print_head, print_table

# JavaScript that follows a link as app/browser/linked.py does, and resolves when Streamlit has run the page.
FOLLOW = """href => new Promise((resolve, reject) => {
  const app = document.querySelector('[data-testid="stApp"]'), start = performance.now()
  let ran = false
  new MutationObserver((records, observer) => {
    const state = app.dataset.testScriptState
    ran ||= state === "running" || records.some(record => record.oldValue === "running")
    if (!ran || state !== "notRunning") return
    observer.disconnect()
    requestAnimationFrame(() => resolve(performance.now() - start))
  }).observe(app, { attributeOldValue: true, attributeFilter: ["data-test-script-state"] })
  setTimeout(() => reject(`${href} is not drawn after a minute`), 60000)
  history.pushState({}, "", href)
  window.dispatchEvent(new PopStateEvent("popstate"))
})"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
Link = Callable[[random.Random], str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--times", type=int, default=10)
    options = parser.parse_args()
    if CHROMIUM is None:
        print("There was no Chromium to open the pages in.")
        sys.exit(NOT_HERE)
    pages, steps = _links(store.open(options.file))
    with _page(options.file) as page:
        taken = {name: _times(page, options.times, link) for name, link in pages.items()}
        for name, (link, other) in steps.items():
            taken[f"step: {name}"] = _times(page, options.times, other, before=link)
    print_head(f"{Path(options.file).stat().st_size / 1e9:.2f} GB; milliseconds")
    rows = [(name, *(f"{x:,.0f}" for x in percentiles(times))) for name, times in taken.items()]
    print_table(("", "p50", "p95"), rows)


def _links(s: store.Store) -> tuple[dict[str, Link], dict[str, tuple[Link, Link]]]:
    """Return the links to pages by name, and the steps by name: the link to a page, and the changed link."""
    run = s.run()
    about = s.sql("FROM runs JOIN models USING (model_id) WHERE run_id = $run", {"run": run}).iloc[0]
    first = int(s.sql("SELECT min(position_id) FROM positions WHERE run_id = $run", {"run": run}).iloc[0, 0])
    tokens = s.tokens("^ [a-z]+$", "regex").head(50).token.tolist()

    def address(page: str, **what: Any) -> str:
        return f"/{page}?" + urlencode({"run": run, **what})

    def position(draw: random.Random) -> int:
        return first + draw.randrange(int(about.tokens))

    def neuron(draw: random.Random) -> str:
        return f"L{draw.randrange(int(about.n_layers))}N{draw.randrange(int(about.d_mlp))}"

    def head(draw: random.Random) -> str:
        return f"L{draw.randrange(int(about.n_layers))}H{draw.randrange(int(about.n_heads))}"

    sql = "SELECT token, count(*) AS n FROM positions GROUP BY token ORDER BY n DESC"
    pages: dict[str, Link] = {
        "Overview": lambda draw: address(""),
        "Search: a text": lambda draw: address("search", q=draw.choice(tokens).strip() + " "),
        "Search: a token": lambda draw: address("search", q=f'"{draw.choice(tokens)}"'),
        "Text: by loss": lambda draw: address("text", position=position(draw), colour="loss"),
        "Text: by a neuron": lambda draw: address(
            "text", position=position(draw), colour="neuron", neuron=neuron(draw)
        ),
        "Token": lambda draw: address("token", position=position(draw)),
        "Neuron": lambda draw: address("neuron", neuron=neuron(draw)),
        "Head": lambda draw: address("head", head=head(draw)),
        "SQL: tokens counted": lambda draw: address("sql", query=f"{sql} LIMIT {draw.randrange(20, 200)}"),
    }
    looked_up = s.sql("FROM next_token_neurons WHERE run_id = $run", {"run": run})
    if len(looked_up):
        names = [neuron_name(row.layer, row.neuron) for row in looked_up.itertuples()]
        pages["Look-ups"] = lambda draw: address("next_token", neuron=draw.choice(names))
    at = 0

    def same(page: str, **what: Any) -> tuple[Link, Link]:
        """Return two links to the same random position; the second link has the changes in `what`."""

        def before(draw: random.Random) -> str:
            nonlocal at
            at = position(draw)
            return address(page, position=at)

        return before, lambda draw: address(page, position=at, **what)

    steps = {
        "Token, the other target": same("token", toward="top"),
        "Text, another colour": same("text", colour="rank"),
    }
    return pages, steps


def _times(page: Any, times: int, link: Link, before: Link | None = None) -> list[float]:
    """Follow a link several times; return the milliseconds of each time except the first."""
    draw, taken = random.Random(0), []
    for turn in range(times + 1):
        if before:
            page.evaluate(FOLLOW, before(draw))
        milliseconds = page.evaluate(FOLLOW, link(draw))
        if turn:
            taken.append(milliseconds)
    return taken


@contextmanager
def _page(file: str) -> Iterator[Any]:
    """Context manager: start the app for this store, and yield its page in a browser."""
    from playwright.sync_api import sync_playwright

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [
        sys.executable,
        "-m",
        "annotate_transformer.app.cli",
        "app",
        "--db",
        file,
        "--port",
        port,
        "--no-open",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server, sync_playwright() as started:
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(f"{address}/_stcore/health")
            browser = started.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            page.goto(address)
            page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"] h1')
            yield page
            browser.close()
        finally:
            server.terminate()


def _wait_for(address: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"nothing answers at {address}")


if __name__ == "__main__":
    main()
