"""A language model's server that is broken or hostile: a sentence, within bounds, and no secret told."""

import json
import time
from typing import Any

import pytest

from annotate_transformer.app.cli.next_token import _endpoint
from annotate_transformer.ingest.errors import EndpointError, SettingsError
from annotate_transformer.ingest.next_token import language_model
from annotate_transformer.ingest.next_token.language_model import Endpoint, LanguageModel
from endpoints import AGAIN, SECRET, Behaviour, Handler, asked

PASSWORD = "hunter2-not-to-be-seen"
URLS = [
    "", "x", "ftp://h/v1", "http://", "http:///v1", "https://:80/v1", "http://h:x/v1", "http://h:99999/v1",
    "http://h:0/v1", "http://[::1/v1", "http://a b/v1", "http://h/v1\n", "http://h/\x1b[31m", "http://é/v1",
    "file:///etc/passwd", "javascript:alert(1)", "http://h/v1?key=" + PASSWORD, "http://h/v1#x", "//h/v1",
    f"http://me:{PASSWORD}@h/v1", f"https://{PASSWORD}@h/v1", f"http://me:{PASSWORD}@h:x/v1",
]  # fmt: skip
KEYS = [
    "é",
    "a b",
    "a\nb",
    "a\r\nX-Evil: 1",
    "\0",
    "clé-secrète",
    "“sk-1”",
    "sk\t1",
    "\x7f",
    " sk",
    "sk\n",
    "\u200bsk",
]


@pytest.mark.parametrize("url", URLS)
def test_a_bad_url_is_a_sentence_without_its_secret(url: str) -> None:
    with pytest.raises(SettingsError, match="--base-url") as refused:
        _endpoint("m", url)
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "https://h.example/v1", "http://[::1]:80/v1", None]
)
def test_a_good_url(url: str | None) -> None:
    Endpoint("m", url).check()


@pytest.mark.parametrize("key", KEYS)
def test_a_bad_key_is_a_sentence_without_it(key: str) -> None:
    with pytest.raises(SettingsError, match="OPENAI_API_KEY") as refused:
        LanguageModel(Endpoint("m", "http://127.0.0.1:9/v1"), key)
    assert key.strip() == "" or key not in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"prices": (float("nan"), 1.0)},
        {"prices": (1.0, -1.0)},
        {"prices": (float("inf"), 0.0)},
        {"requests_per_minute": float("inf")},
        {"requests_per_minute": float("nan")},
        {"timeout": 0},
        {"timeout": float("nan")},
    ],
)
def test_bad_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Endpoint("m", **settings).check()


def sends(status: int, body: bytes, headers: dict[str, str] | None = None) -> Behaviour:
    return lambda handler, prompt: handler.send(status, body, AGAIN | (headers or {}))


def counts(prompt: Any, completion: Any) -> Behaviour:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    message = {"index": 0, "message": {"role": "assistant", "content": "active"}}
    return sends(200, json.dumps({"choices": [message], "usage": usage}).encode())


@pytest.mark.some(4)
@pytest.mark.parametrize("count", [-1, 10**30, 1.5, "12", None, True, [1], {"a": 1}, float("nan")])
def test_impossible_counts_are_not_known(serve: Any, count: Any) -> None:
    reply = asked(serve(counts(count, 10)), prices=(1.0, 1.0)).is_active("x", "y")
    assert (reply.value, reply.tokens_in, reply.tokens_out, reply.cost) == (True, None, 10, None)


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (401, json.dumps({"error": {"message": f"Incorrect key {SECRET}"}}).encode(), {}),
        (400, f"<html>{SECRET}</html>".encode(), {"Content-Type": "text/html"}),
        (404, b"x" * 100_000, {}),
        (422, b"\xff\xfe\x00" * 1000, {"Content-Type": "text/plain; charset=nonsense"}),
        (503, json.dumps({"message": SECRET}).encode(), {}),
        (418, b"\x1b[31m", {}),
    ],
)
def test_an_error_tells_no_secret_and_is_short(
    serve: Any,
    status: int,
    body: bytes,
    headers: dict[str, str],
) -> None:
    server = serve(*[sends(status, body, headers)] * 9)
    with pytest.raises(EndpointError, match=str(status)) as refused:
        asked(server, retries=1).is_active("x", "y")
    assert SECRET not in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_goes_to_no_other_host(serve: Any, status: int) -> None:
    other = serve()
    server = serve(*[sends(status, b"", {"Location": f"{other.url}/chat/completions"})] * 9)
    with pytest.raises(EndpointError):
        asked(server, retries=0).is_active("x", "y")
    assert (other.requests, other.keys) == ([], set())


def endless(handler: Handler, prompt: str) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" " * 100)
            time.sleep(0.02)
    except OSError:
        pass


def test_an_answer_of_30_mb(serve: Any) -> None:
    server = serve(*[sends(200, b" " * 30_000_000)] * 9)
    with pytest.raises(EndpointError, match="more than 10 MB"):
        asked(server, retries=0).is_active("x", "y")


def test_an_answer_without_end(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_model, "MOST_SECONDS", 0.2)
    with pytest.raises(EndpointError, match="has not ended its answer"):
        asked(serve(*[endless] * 9), retries=0).is_active("x", "y")


@pytest.mark.some(4)
@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b"null", b"[]", b'"x"', b"{}", b'{"choices": 1}', b"\xff", b'{"choices": [null]}', b""],
)
def test_no_completion_is_no_answer(serve: Any, body: bytes) -> None:
    assert asked(serve(*[sends(200, body)] * 2)).is_active("x", "y").value is None
