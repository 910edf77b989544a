"""Make the first pass over a corpus: check and hash it, and count the positions of the run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from annotate_transformer.ingest.corpus.sources import Corpus, Scan
from annotate_transformer.ingest.corpus.tokens import Ints, Tokenizer
from annotate_transformer.ingest.errors import SettingsError, SourceError
from annotate_transformer.ingest.models.load import load_tokenizer
from annotate_transformer.ingest.models.names import Checkpoint
from annotate_transformer.ingest.run.settings import Settings


@dataclass(frozen=True)
class Survey:
    """The results of the first pass, from which the sample is drawn before the first batch.

    `positions`: number of positions that the run will store;
    `special`: ordinals of the positions of special tokens.
    """

    scan: Scan
    positions: int
    special: Ints

    @staticmethod
    def of(scan: Scan, positions: int, special: Ints) -> "Survey":
        """Return the survey from one pass over the corpus; `special` may go beyond the run's last position.

        Raises:
            SourceError: the run would have no positions.
        """
        if positions == 0:
            raise SourceError("The corpus has no tokens to annotate. Give a corpus that contains text.")
        return Survey(scan, positions, special[special < positions])


def survey(corpus: Corpus, checkpoint: Checkpoint, settings: Settings) -> Survey:
    """Survey a corpus before the model is loaded; only the model's tokenizer and config.json are read.

    Raises:
        AnnotateError: the first error in corpus, tokenizer or settings.
    """
    hf_tokenizer, n_ctx = load_tokenizer(checkpoint)
    tokenizer = Tokenizer(hf_tokenizer, parse_special=settings.parse_special)
    return survey_with(corpus, tokenizer, settings.with_context(n_ctx, checkpoint.name), checkpoint.name)


def beginning(checkpoint: Checkpoint, settings: Settings, tokens: int | None) -> Callable[[str], str]:
    """Return a function that cuts a text after `tokens` tokens of the model, or nowhere if it is None.

    The tokenizer is loaded when the first text is cut.
    """

    @cache
    def tokenizer() -> Tokenizer:
        return Tokenizer(load_tokenizer(checkpoint)[0], parse_special=settings.parse_special)

    return str if tokens is None else lambda text: tokenizer().beginning(text, tokens)


def survey_with(corpus: Corpus, tokenizer: Tokenizer, settings: Settings, model: str) -> Survey:
    """Survey a corpus with a loaded tokenizer; `settings` must come from `Settings.with_context`.

    Raises:
        AnnotateError: as `survey`.
    """
    check_bos(settings, tokenizer, model)
    windowing, limit, positions = settings.windowing(tokenizer), settings.limit_tokens, 0
    special, documents = [np.empty(0, dtype=np.int64)], corpus.read()
    for document in documents:
        if limit and positions >= limit:
            break  # `documents.scan` below only hashes the remaining documents
        counted = tokenizer.count_special(document.text)
        special.append(positions + windowing.special(counted))
        positions += windowing.positions(counted.tokens, counted.begins_with_bos)
    scan = documents.scan()
    return Survey.of(scan, min(positions, limit or positions), np.concatenate(special))


def check_bos(settings: Settings, tokenizer: Tokenizer, model: str) -> None:
    """Raise SettingsError if the settings ask for a BOS and the tokenizer has none."""
    if settings.bos and tokenizer.bos_id is None:
        raise SettingsError(f"{model} has no BOS token: leave --bos out.")
