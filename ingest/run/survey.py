"""The first pass over a corpus: its identity, and the positions that a run of it will have."""

from dataclasses import dataclass

import numpy as np

from annotate_transformer.ingest.corpus.sources import Corpus, Scan
from annotate_transformer.ingest.corpus.tokens import Ints, Tokenizer
from annotate_transformer.ingest.errors import SettingsError, SourceError
from annotate_transformer.ingest.models.load import load_tokenizer
from annotate_transformer.ingest.models.names import Checkpoint
from annotate_transformer.ingest.run.settings import Settings


@dataclass(frozen=True)
class Survey:
    """What a whole pass over a corpus finds.

    positions: those that the run will store; special (n,): where special tokens are among them. So the
    sample is known before the first batch.
    """

    scan: Scan
    positions: int
    special: Ints


def survey(corpus: Corpus, checkpoint: Checkpoint, settings: Settings) -> Survey:
    """Read the whole corpus before the model is loaded, of which the tokenizer is enough.

    Raises:
        AnnotateError: a sentence about the first thing that is wrong with corpus, tokenizer or settings.
    """
    hf_tokenizer, n_ctx = load_tokenizer(checkpoint)
    tokenizer = Tokenizer(hf_tokenizer, parse_special=settings.parse_special)
    return survey_with(corpus, tokenizer, settings.with_context(n_ctx, checkpoint.name), checkpoint.name)


def survey_with(corpus: Corpus, tokenizer: Tokenizer, settings: Settings, model: str) -> Survey:
    """Read the whole corpus with a loaded tokenizer; settings: with a context (`Settings.with_context`).

    Raises:
        AnnotateError: as `survey`.
    """
    if settings.bos and tokenizer.bos_id is None:
        raise SettingsError(f"{model} has no BOS token: leave --bos out.")
    windowing, limit, positions = settings.windowing(tokenizer), settings.limit_tokens, 0
    special, documents = [np.empty(0, dtype=np.int64)], corpus.read()
    for document in documents:
        if limit and positions >= limit:
            break  # what follows is hashed alone
        counted = tokenizer.count_special(document.text)
        special.append(positions + windowing.special(counted))
        positions += windowing.positions(counted.tokens, counted.begins_with_bos)
    scan = documents.scan()
    positions = min(positions, limit or positions)
    if positions == 0:
        raise SourceError("The corpus has no tokens to annotate. Give one with text in it.")
    ordinals = np.concatenate(special)
    return Survey(scan, positions, ordinals[ordinals < positions])
