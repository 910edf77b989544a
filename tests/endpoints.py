"""A server that speaks OpenAI's protocol, and misbehaves as it is told to."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from annotate_transformer.ingest.next_token.language_model import Endpoint, LanguageModel

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


@contextmanager
def serving() -> Iterator[Callable[..., Server]]:
    """Give what starts a server with these behaviours, until the end."""
    started = []

    def start(*behaviours: Behaviour) -> Server:
        started.append(Server(*behaviours))
        return started[-1]

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def asked(server: Server, **settings: Any) -> LanguageModel:
    how = {"requests_per_minute": 1e6, "timeout": 10, "retries": 6} | settings
    return LanguageModel(Endpoint("m", server.url, **how), SECRET)
