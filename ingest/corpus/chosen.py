"""Choose which documents make a corpus (by metadata, or at random), their order, and their length.

The chosen documents are the corpus: a run's identity has their hash, and the record of its sources says how
they were chosen. Random choices depend only on the seed and on the number of a document in the sources, so
the same command chooses the same documents everywhere.
"""

import hashlib
import heapq
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from annotate_transformer.ingest.corpus.condition import Condition
from annotate_transformer.ingest.corpus.row import Bad
from annotate_transformer.ingest.corpus.sources import Corpus, Document
from annotate_transformer.ingest.corpus.unpacked import Copy, copied
from annotate_transformer.ingest.errors import SettingsError


@dataclass(frozen=True)
class Choice:
    """The user's choice of documents: which ones become the corpus, in which order, and how much of each.

    `where`: condition in SQL on the metadata (None: all documents);
    `documents`: maximum number of documents, drawn at random from those (None: all of them);
    `shuffle`: whether they come in a random order, not in that of the sources; `seed`: of both draws;
    `tokens`: maximum number of tokens of each document (None: all of them).

    Raises SettingsError for a number below 1.
    """

    where: str | None = None
    documents: int | None = None
    shuffle: bool = False
    seed: int = 0
    tokens: int | None = None

    def __post_init__(self) -> None:
        for option, value in (("sample-documents", self.documents), ("tokens-per-document", self.tokens)):
            if value is not None and value < 1:
                raise SettingsError(f"--{option} {value} must be 1 or more.")

    @property
    def picks(self) -> bool:
        """Whether the choice leaves out documents or changes their order"""
        return self.where is not None or self.documents is not None or self.shuffle

    def __str__(self) -> str:
        """Describe the choice in words, for the record of the run; empty if it changes nothing."""
        told = [f"documents where {self.where}"] if self.where is not None else []
        told += [f"{self.documents:,} documents drawn with seed {self.seed}"] if self.documents else []
        told += [f"shuffled with seed {self.seed}"] if self.shuffle else []
        told += [f"at most {self.tokens:,} tokens of each document"] if self.tokens else []
        return ", ".join(told)

    def place(self, number: int) -> bytes:
        """Return the sort key of a document in the random order, from the seed and the document's number."""
        return hashlib.sha256(f"{self.seed}:{number}".encode()).digest()


class ChosenCorpus(Corpus):
    """A corpus of the documents that a `Choice` takes from the sources.

    The first iteration reads the sources twice: once for the choice, once to copy the chosen documents to a
    temporary file, from which they are read later.
    """

    def __init__(
        self,
        sources: Sequence[str],
        choice: Choice,
        beginning: Callable[[str], str] = str,
        **options: Any,
    ) -> None:
        """`beginning`: function that cuts a text to its allowed length; `options`: as for `Corpus`."""
        super().__init__(sources, **options)
        self.choice, self.beginning = choice, beginning
        self._bad: list[Bad] = []  # rows that were skipped; they are only counted

    def described(self) -> list[str]:
        return [*super().described(), *filter(None, [str(self.choice)])]

    def close(self) -> None:
        if "_picked" in vars(self):
            self._picked[0].close()
        super().close()

    def records(self) -> Iterator[Document | Bad]:
        records = self._of_copy() if self.choice.picks else Corpus.records(self)
        for record in records:
            if isinstance(record, Bad):
                yield record
            elif text := self.beginning(record.text):
                yield Document(record.source, text, record.metadata)

    def _of_copy(self) -> Iterator[Document | Bad]:
        copy, offsets = self._picked
        yield from self._bad
        with copy.opened() as lines:
            for offset in offsets:
                lines.seek(offset)
                yield Document(**json.loads(lines.readline()))

    @cached_property
    def _picked(self) -> tuple[Copy, list[int]]:
        """A temporary file with one chosen document per line, and the offsets of the lines in corpus order"""
        chosen, offsets, reached = self._chosen(), dict[int, int](), 0

        def lines() -> Iterator[bytes]:
            nonlocal reached
            wanted = set(chosen)
            for number, document in enumerate(self._documents()):
                if number in wanted:
                    offsets[number] = reached
                    line = json.dumps(vars(document)).encode() + b"\n"
                    reached += len(line)
                    yield line
                if len(offsets) == len(wanted):
                    return

        copy = copied(lines(), "the chosen documents", self.reading.max_temporary)
        return copy, [offsets[number] for number in chosen]

    def _documents(self) -> Iterator[Document]:
        return (record for record in Corpus.records(self) if isinstance(record, Document))

    def _chosen(self) -> list[int]:
        """Return the numbers of the chosen documents in the sources, in the order of the corpus.

        Raises:
            SettingsError: the condition is wrong, or no document fulfils it.
        """
        choice, numbers = self.choice, self._numbers()
        if not numbers and choice.where is not None:
            raise SettingsError(f"No document fulfils --where {choice.where!r}. Give another condition.")
        if choice.documents is not None:
            numbers = heapq.nsmallest(choice.documents, numbers, key=choice.place)
        return sorted(numbers, key=choice.place if choice.shuffle else None)

    def _numbers(self) -> list[int]:
        """Return the numbers of the documents that fulfil the condition; append bad rows to `_bad`."""
        count, condition = 0, Condition(self.choice.where) if self.choice.where is not None else None
        for record in Corpus.records(self):
            if isinstance(record, Bad):
                self._bad.append(record)
                continue
            if condition:
                condition.add(record.metadata)
            count += 1
        return condition.numbers() if condition else list(range(count))
