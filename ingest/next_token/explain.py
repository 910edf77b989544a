"""Explain on which prompts a head helps to activate a next-token neuron, and score the explanations.

These are steps 5 and 6 of Neo, Cohen and Barez (2024), for the heads and prompts that were ablated
(`next_token.ablation`), including those of baseline neurons. This module does not need torch.

5. An explanation is made from the prompts that are not held out: a list of rules (`decision_list`), or a
   few sentences by a language model (`language_model`). It needs an active and an inactive prompt to read,
   and one of each kind to hold out; otherwise there is no explanation, and the reason is stored.
6. Each held-out prompt is classified as active or inactive from the explanation alone. The view
   explanation_scores has the results.

With decision lists, each neuron is one transaction. With a language model, each answer is one transaction, as
soon as it arrives, so that no answer is paid for twice.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

from annotate_transformer.ingest.next_token.decision_list import learn
from annotate_transformer.ingest.next_token.language_model import (
    PROMPT_VERSION,
    WORD_OUT,
    WORDS_OUT,
    Endpoint,
    LanguageModel,
    Reply,
    classify_prompt,
    estimated_tokens,
    explain_prompt,
)
from annotate_transformer.store.writer import Writer

DECISION_LIST = {"method": "decision_list", "language_model": None, "prompt_version": None}
KEY = ("run_id", "layer", "neuron", "source_layer", "source_head")
NO_ANSWER = "the language model gave no explanation, asked twice"

Record = dict[str, Any]
Watch = Callable[[int, int, Record, str], None]


@dataclass(frozen=True)
class Task:
    """An ablated head that has no explanation, or has held-out prompts left to classify.

    `key`: run, neuron and head;
    `there`: id and text of an existing explanation, or None;
    `prompts`: rows with the columns prompt, text, tokens, is_active and is_held_out.
    """

    key: Record
    there: tuple[int, str] | None
    prompts: list[Record]

    def read(self, is_active: bool, what: str = "text") -> list[Any]:
        """Return the column `what` of the active, or of the inactive, prompts that are not held out."""
        return [row[what] for row in self._of(False) if row["is_active"] == is_active]

    @property
    def held_out(self) -> list[Record]:
        return self._of(True)

    @property
    def why_none(self) -> str | None:
        """The reason why there can be no explanation; None if there can be one."""
        for kind, is_active in (("active", True), ("inactive", False)):
            of_kind = [row["is_held_out"] for row in self.prompts if row["is_active"] == is_active]
            if len(set(of_kind)) < 2:
                return f"{len(of_kind)} {kind} of {len(self.prompts)} prompts: 2 are needed, one to hold out"
        return None

    def _of(self, is_held_out: bool) -> list[Record]:
        return [row for row in self.prompts if row["is_held_out"] == is_held_out]


def explain_by_rules(path: str, run_id: int, watch: Watch = lambda done, of, key, text: None) -> int:
    """Explain each ablated head with a decision list, and score the list; return the number of heads.

    `watch`: called for each head with the number of heads done, the number of all heads, the key of the head,
    and the explanation.
    """
    with Writer(path) as writer:
        tasks = _tasks(writer, run_id, DECISION_LIST)
        done, number = 0, _next_id(writer)
        for _, of_neuron in groupby(tasks, lambda task: (task.key["layer"], task.key["neuron"])):
            made = [_by_rules(task, number + done + i) for i, task in enumerate(of_neuron)]
            answers = [answer for _, of_head in made for answer in of_head]
            _commit(writer, run_id, [explanation for explanation, _ in made], answers)
            for explanation, _ in made:
                done += 1
                watch(done, len(tasks), explanation, explanation["text"] or explanation["why_none"])
        return done


def explain_by_language_model(
    path: str,
    run_id: int,
    language_model: LanguageModel,
    watch: Watch = lambda done, of, key, text: None,
) -> int:
    """Explain each ablated head with a language model, and score the explanation; return the number of heads.

    Raises:
        EndpointError: the language model refuses or does not answer; earlier answers are stored.
    """
    with Writer(path) as writer:
        tasks = _tasks(writer, run_id, _by(language_model.endpoint))
        for done, task in enumerate(tasks, 1):
            watch(done, len(tasks), task.key, _by_language_model(writer, task, language_model))
        return len(tasks)


def requests(path: str, run_id: int, endpoint: Endpoint) -> Iterator[tuple[Record, str, int, int]]:
    """Yield each request to a language model: head, prompt, estimated numbers of input and output tokens.

    These are the requests of `explain_by_language_model`. A placeholder replaces each explanation that does
    not exist yet; the number of tokens of this explanation is estimated.
    """
    for task in _tasks(Writer(path), run_id, _by(endpoint)):
        explanation, more = task.there[1] if task.there else "EXPLANATION", 0
        if task.there is None:
            if task.why_none:
                continue
            prompt, more = explain_prompt(task.read(True), task.read(False)), WORDS_OUT
            yield task.key, prompt, estimated_tokens(prompt), WORDS_OUT
        for row in task.held_out:
            prompt = classify_prompt(explanation, row["text"])
            yield task.key, prompt, estimated_tokens(prompt) + more, WORD_OUT


def _tasks(writer: Writer, run_id: int, by: Record) -> list[Task]:
    """Return tasks, sorted by neuron and head, for heads without an explanation or with missing answers."""
    rows = writer.fetch("heads_to_explain", run_id=run_id, **by).to_pylist()
    tasks = []
    for key, of_head in groupby(rows, lambda row: tuple(row[name] for name in KEY)):
        prompts = list(of_head)
        number, text = prompts[0]["explanation_id"], prompts[0]["explanation"]
        there = None if number is None else (number, text)
        tasks.append(Task(dict(zip(KEY, key, strict=True)), there, prompts))
    return tasks


def _by_rules(task: Task, number: int) -> tuple[Record, list[Record]]:
    """Explain a head with a decision list; return the explanation's row and the classified prompts' rows."""
    started = time.monotonic()
    if task.why_none:
        return _explanation(task, number, DECISION_LIST, Reply()), []
    active, inactive = task.read(True, "tokens"), task.read(False, "tokens")
    rules = learn(active + inactive, [True] * len(active) + [False] * len(inactive))
    answers = [_answer(number, row, Reply(rules(row["tokens"]))) for row in task.held_out]
    reply = Reply(str(rules), seconds=time.monotonic() - started)
    return _explanation(task, number, DECISION_LIST, reply), answers


def _by_language_model(writer: Writer, task: Task, language_model: LanguageModel) -> str:
    """Request and store missing answers about a head; return the head's explanation, or why there is none."""
    number, text = task.there or (_next_id(writer), None)
    run_id = task.key["run_id"]
    if text is None:
        read = task.read(True), task.read(False)
        reply = Reply[str]() if task.why_none else language_model.explain(*read)
        row = _explanation(task, number, _by(language_model.endpoint), reply)
        _commit(writer, run_id, [row])
        if row["text"] is None:
            return str(row["why_none"])
        text = str(row["text"])
    with ThreadPoolExecutor(language_model.endpoint.concurrency) as pool:
        asked = {pool.submit(language_model.is_active, text, row["text"]): row for row in task.held_out}
        try:
            for future in as_completed(list(asked)):
                row = asked.pop(future)
                _commit(writer, run_id, [], [_answer(number, row, future.result())])
        finally:  # requests already sent must be paid for, so wait for them and store the answers
            for future in as_completed([future for future in asked if not future.cancel()]):
                if not future.exception():
                    _commit(writer, run_id, [], [_answer(number, asked[future], future.result())])
    return text


def _by(endpoint: Endpoint) -> Record:
    """Return the values of the columns that identify explanations made by the endpoint's language model."""
    name = endpoint.language_model
    return {"method": "language_model", "language_model": name, "prompt_version": PROMPT_VERSION}


def _explanation(task: Task, number: int, by: Record, reply: Reply[str]) -> Record:
    """Return a row of base.explanation, without the column `made` (the time of the explanation)."""
    why_none = None if reply.value else task.why_none or NO_ANSWER
    row = {"explanation_id": number} | task.key | by | {"text": reply.value, "why_none": why_none}
    return row | _spent(reply)


def _answer(number: int, row: Record, reply: Reply[bool]) -> Record:
    """Return a row of base.explanation_answer."""
    return {"explanation_id": number, "prompt": row["prompt"], "answer": reply.value} | _spent(reply)


def _spent(reply: Reply[Any]) -> Record:
    return {name: getattr(reply, name) for name in ("tokens_in", "tokens_out", "cost", "seconds")}


def _next_id(writer: Writer) -> int:
    return int(writer.fetch("next_explanation")["id"][0].as_py())


def _commit(
    writer: Writer, run_id: int, explanations: list[Record], answers: list[Record] | None = None
) -> None:
    tables = {"explanation": explanations, "explanation_answer": answers or []}
    written = {name: pa.Table.from_pylist(rows) for name, rows in tables.items() if rows}
    writer.commit(written, run_id=run_id)
