"""Exceptions about corpora, models and settings; commands print their messages without a traceback.

AnnotateError (store.errors)
└── IngestError
    ├── SourceError      a file, line, column or encoding of the corpus
    ├── ModelError       a name, revision, family or the hub
    ├── SettingsError    options that contradict the model or each other
    └── EndpointError    a language model that is asked over the network
"""

from annotate_transformer.store.errors import AnnotateError


class IngestError(AnnotateError):
    """An ingest cannot start or continue."""


class SourceError(IngestError):
    """A source of the corpus cannot be read as text."""


class ModelError(IngestError):
    """The model cannot be found, downloaded, or used to annotate a corpus."""


class SettingsError(IngestError):
    """An option has an invalid value, or one that contradicts the model or another option."""


class EndpointError(IngestError):
    """The endpoint of a language model refuses a request, or does not answer."""
