"""Ask a language model when a head is active, through any endpoint that uses OpenAI's protocol.

The client repeats a request that was refused temporarily (status 429, 5xx), timed out, or could not connect;
it waits longer each time, or as long as Retry-After says. An empty or unreadable answer is requested once
more. PROMPT_VERSION is stored with each answer, so change it whenever a prompt below changes.
"""

import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlsplit

from annotate_transformer.ingest.errors import EndpointError, SettingsError

PROMPT_VERSION = 1
EXPLAIN = """\
A neuron of a language model fires at the last token of each of the texts below. One attention head of an \
earlier layer helps to fire it on some of them (active) and not on the others (inactive).

Active:
{active}

Inactive:
{inactive}

In two or three sentences, say what a text must be like for the head to be active."""
CLASSIFY = """\
One attention head of a language model was explained like this:

{explanation}

Is the head active at the end of the following text? Answer with one word: active or inactive.

{text}"""

MOST_BYTES = 10_000_000  # maximum number of bytes in an answer; most answers have a few thousand
MOST_SECONDS = 600  # maximum time in seconds from the first byte of an answer to the last byte
MOST_TOLD = 500  # maximum number of characters quoted from a server's error message
MOST_TOKENS = 10**9  # larger token counts in an answer are not plausible and are ignored
MOST_OUT = 200  # maximum number of tokens in an answer
WORDS_OUT, WORD_OUT = 100, 2  # estimated number of tokens in an explanation, and in a one-word answer
CHARACTERS = 4  # mean number of characters per token of English text with OpenAI's tokenizers

T = TypeVar("T")


@dataclass(frozen=True)
class Endpoint:
    """A language model at an address, and the options for requests to it.

    `base_url`: address up to /v1, or None for OpenAI;
    `prices`: price per million input tokens, and per million output tokens, or None if unknown;
    `timeout`: time-out of a request in seconds;
    `concurrency`: maximum number of simultaneous requests;
    `retries`: maximum number of retries per request.
    """

    language_model: str
    base_url: str | None = None
    requests_per_minute: float = 60
    concurrency: int = 4
    timeout: float = 120
    retries: int = 6
    prices: tuple[float, float] | None = None

    def check(self) -> None:
        """Check the values of the options.

        Raises:
            SettingsError: a value is invalid.
        """
        if not self.requests_per_minute > 0:
            raise SettingsError(f"--requests-per-minute {self.requests_per_minute:g} must be above 0.")
        if self.concurrency < 1:
            raise SettingsError(f"--concurrency {self.concurrency} must be at least 1.")
        if not self.timeout > 0 or not self.requests_per_minute < math.inf:
            raise SettingsError("The time-out must be above 0, and the requests per minute must be finite.")
        for name, price in zip(("--price-in", "--price-out"), self.prices or (), strict=False):
            if not 0 <= price < math.inf:
                raise SettingsError(f"{name} {price:g} must be 0 or more.")
        if self.base_url is not None:
            _check_url(self.base_url)

    def cost(self, tokens_in: int | None, tokens_out: int | None) -> float | None:
        """Return the cost in the currency of the prices, or None if prices or token counts are unknown."""
        if self.prices is None or tokens_in is None or tokens_out is None:
            return None
        return (tokens_in * self.prices[0] + tokens_out * self.prices[1]) / 1e6


@dataclass(frozen=True)
class Reply(Generic[T]):
    """The answer to a request, with its number of tokens, cost and duration.

    `value`: None if two answers were unreadable;
    `tokens_in`, `tokens_out`: None if the endpoint does not report these counts.
    """

    value: T | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: float | None = None
    seconds: float = 0


class LanguageModel:
    """A client for a language model, which several threads may share."""

    def __init__(self, endpoint: Endpoint, key: str) -> None:
        """Check the settings and create the client; no request is sent yet.

        Raises:
            SettingsError: a setting is invalid, or the package `openai` is not installed.
        """
        endpoint.check()
        if not re.fullmatch(r"[!-~]+", key):
            raise SettingsError(
                "OPENAI_API_KEY is not a valid key: it has a space, line break or character outside ASCII. "
                "Copy the key again, without the text around it."
            )
        try:
            import openai
        except ImportError as error:
            raise SettingsError(
                "To ask a language model, install openai: pip install 'annotate-transformer[explain]'."
            ) from error
        self.endpoint, self._errors, self._key = endpoint, openai, key
        pace = _Pace(60 / endpoint.requests_per_minute)
        self._client = openai.OpenAI(
            api_key=key,
            base_url=endpoint.base_url,
            timeout=endpoint.timeout,
            max_retries=endpoint.retries,
            http_client=openai.DefaultHttpxClient(
                event_hooks={"request": [pace], "response": [_bounded]},
                follow_redirects=False,  # a redirect could send the API key to another host
                headers={"Accept-Encoding": "identity"},  # a compressed answer could unpack to gigabytes
            ),
        )

    def explain(self, active: list[str], inactive: list[str]) -> Reply[str]:
        """Ask the language model when a head is active, given prompts on which it is active or inactive.

        Raises:
            EndpointError: the endpoint refuses, or did not answer after all retries.
        """
        return self._ask(explain_prompt(active, inactive), lambda answer: answer.strip() or None)

    def is_active(self, explanation: str, text: str) -> Reply[bool]:
        """Ask whether the head is active at the end of `text`, given an explanation.

        Raises:
            EndpointError: as in `explain`.
        """
        return self._ask(classify_prompt(explanation, text), read_kind)

    def _ask(self, prompt: str, read: Callable[[str], T | None]) -> Reply[T]:
        started = time.monotonic()
        first = self._complete(prompt)
        value, completions = read(_text(first)), [first]
        if value is None:
            completions.append(self._complete(prompt))
            value = read(_text(completions[-1]))
        tokens_in, tokens_out = (_tokens(completions, kind) for kind in ("prompt", "completion"))
        cost = self.endpoint.cost(tokens_in, tokens_out)
        return Reply(value, tokens_in, tokens_out, cost, time.monotonic() - started)

    def _complete(self, prompt: str) -> Any:
        """Send a prompt and return the endpoint's answer, or None if the answer is not JSON."""
        errors, where = self._errors, self.endpoint.base_url or "OpenAI"
        try:
            return self._client.chat.completions.create(
                model=self.endpoint.language_model,
                messages=[{"role": "user", "content": prompt}],
                max_tokens=MOST_OUT,
                temperature=0,
            )
        except _TooLarge as error:
            raise EndpointError(
                f"{where} {error}. Check --base-url, and run the same command again."
            ) from None
        except errors.APIStatusError as error:
            told = self._told(error)
            raise EndpointError(
                f"{where} answers with status {error.status_code}: {told}. Earlier answers are "
                "stored; check --llm, --base-url and OPENAI_API_KEY, and run the same command again."
            ) from None
        except errors.APIConnectionError as error:  # time-outs are a kind of this error
            if isinstance(error.__cause__, _TooLarge):
                raise EndpointError(f"{where} {error.__cause__}. Check --base-url.") from None
            raise EndpointError(
                f"{where} cannot be reached: {self._told(error)} Earlier answers are stored; run the "
                "same command again to continue."
            ) from None
        except (ValueError, RecursionError, errors.APIResponseValidationError):
            return None

    def _told(self, error: Any) -> str:
        """Return the client's error message, truncated and without the API key."""
        told = re.sub(r"\s+", " ", str(error.message))
        for secret in {self._key, json.dumps(self._key)[1:-1], quote(self._key, safe="")}:
            told = told.replace(secret, "…")
        return told if len(told) <= MOST_TOLD else told[:MOST_TOLD] + " …"


def explain_prompt(active: list[str], inactive: list[str]) -> str:
    """Return the prompt that asks the language model to explain when a head is active."""
    return EXPLAIN.format(active="\n".join(map(_quoted, active)), inactive="\n".join(map(_quoted, inactive)))


def classify_prompt(explanation: str, text: str) -> str:
    """Return the prompt that gives an explanation and asks whether a head is active at the end of a text."""
    return CLASSIFY.format(explanation=explanation, text=_quoted(text))


def read_kind(answer: str) -> bool | None:
    """Return True if an answer says active, False if it says inactive, and None if it says neither.

    >>> read_kind(" Active."), read_kind("inactive: no verb"), read_kind("It depends")
    (True, False, None)
    """
    found = re.match(r"\W*(in)?active\b", answer, re.IGNORECASE)
    return None if found is None else found[1] is None


def estimated_tokens(prompt: str) -> int:
    """Estimate tokens as characters / 4, which is right for English and up to a third off for other texts.

    >>> estimated_tokens("Is the head active?")
    5
    """
    return -(-len(prompt) // CHARACTERS)


def _check_url(url: str) -> None:
    """Check the address of an endpoint.

    Raises:
        SettingsError: `url` is not an address of a server; the message contains no password.
    """
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        secret = "@" in parts.netloc
    except ValueError:  # the port is invalid, or an IPv6 address in brackets is
        known, secret = False, "@" in url
    if secret:
        raise SettingsError(
            "--base-url holds a name or password (before @). Leave it out: a key belongs in OPENAI_API_KEY."
        )
    if not known or not re.fullmatch(r"[!-~]+", url) or parts.query or parts.fragment:
        raise SettingsError(
            f"--base-url {url[:MOST_TOLD].split('?')[0]} must begin with http:// or "
            "https:// and be a server's address, such as http://127.0.0.1:8000/v1, without ? and #."
        )


class _TooLarge(Exception):
    """The answer of an endpoint is too long, or takes too long."""


def _bounded(response: Any) -> None:
    """Read a response; raise _TooLarge if it exceeds MOST_BYTES or takes longer than MOST_SECONDS."""
    began, size, pieces = time.monotonic(), 0, []
    for piece in response.iter_raw():
        size += len(piece)
        pieces.append(piece)
        if size > MOST_BYTES:
            response.close()
            raise _TooLarge(f"answers with more than {MOST_BYTES // 10**6} MB, which is no completion")
        if time.monotonic() - began > MOST_SECONDS:
            response.close()
            raise _TooLarge(f"has not ended its answer after {MOST_SECONDS} s")
    response._content = b"".join(pieces)


class _Pace:
    """A hook that delays requests so that they begin at least `seconds` apart."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._lock, self._next = seconds, Lock(), 0.0

    def __call__(self, request: Any) -> None:
        with self._lock:
            begin = max(time.monotonic(), self._next)
            self._next = begin + self._seconds
        time.sleep(max(0.0, begin - time.monotonic()))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _text(completion: Any) -> str:
    """Return the text of a completion's first choice, or "" if there is none."""
    try:
        content = completion.choices[0].message.content
        return content if isinstance(content, str) else ""
    except (AttributeError, IndexError, TypeError):
        return ""


def _tokens(completions: list[Any], kind: str) -> int | None:
    counts = [getattr(getattr(each, "usage", None), f"{kind}_tokens", None) for each in completions]
    known = [count for count in counts if type(count) is int and 0 <= count <= MOST_TOKENS]
    return sum(known) if known else None
