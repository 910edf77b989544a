"""Decompose each document's logit difference, answer − distractor (`annotate ingest --answer-column`).

The columns of a document are its metadata, so the corpus is not read again. Each document's last
prediction is decomposed (`attribution.toward`), and every few documents are stored in one transaction, so a
stopped command can be resumed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.nn.utils.rnn import pad_sequence

from annotate_transformer.ingest.attribution.toward import predicted, ranks, toward
from annotate_transformer.ingest.corpus.row import NAMES_LISTED, listed
from annotate_transformer.ingest.corpus.sources import Document
from annotate_transformer.ingest.errors import SettingsError
from annotate_transformer.ingest.models.hooks import Forward
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.store.running import Direction, Terms
from annotate_transformer.store.writer import Writer

# For each document, the store holds the NEURONS neurons of each layer with the largest |effect|, and the
# SOURCES pairs of a head and a source with the largest |effect|.
NEURONS, SOURCES = 8, 24
DOCUMENTS = 256  # number of documents whose rows are written in one transaction
BATCH_TOKENS = 512  # maximum number of tokens in a forward pass, unless one document has more
Rows = dict[str, list[dict[str, Any]]]
Watch = Callable[[int, int], None]


@dataclass(frozen=True)
class Columns:
    """The columns of a document that hold the answer, the distractor and the place of the prediction.

    `answer`, `distractor`: texts of one token each;
    `position`: number of characters before the place where the model predicts; without this column, the
    model predicts after the end of the document.
    """

    answer: str
    distractor: str
    position: str | None = None


@dataclass
class ContrastReport:
    """Numbers of stored and skipped documents, and one example, in words, of each reason for skipping.

    `without`: documents that lack an answer or a distractor.
    """

    stored: int = 0
    there: int = 0
    skipped: int = 0
    without: int = 0
    why: dict[str, str] = field(default_factory=dict)


def check(columns: Columns, documents: Iterable[Document]) -> None:
    """Raise SettingsError if no document has both an answer and a distractor; call this before an ingest.

    Documents are read up to the first that has both.
    """
    names, document = dict[str, None](), None
    for document in documents:
        if all(document.metadata.get(name) is not None for name in (columns.answer, columns.distractor)):
            return
        if len(names) <= NAMES_LISTED:
            names |= dict.fromkeys(document.metadata)
    if document is not None:  # None if the corpus is empty, which the survey reports
        raise SettingsError(_no_columns([*names], columns, "the corpus"))


def contrast(
    model: Model, path: str, run_id: int, columns: Columns, watch: Watch = lambda *told: None
) -> ContrastReport:
    """Store the contrasts (answer − distractor) of a run's documents, except those that are already stored.

    `watch`: called as watch(done, total) after each transaction, with numbers of documents.

    Raises:
        SettingsError: no document of the run has the columns.
    """
    report = ContrastReport()
    with Writer(path) as writer:
        rows = writer.fetch("contrast_documents", run_id=run_id, **vars(columns)).to_pylist()
        asked = [row for row in rows if row["answer"] is not None and row["distractor"] is not None]
        if not asked:
            names = list(dict.fromkeys(name for row in rows for name in row["columns"]))
            raise SettingsError(_no_columns(names, columns, "the run"))
        report.without = len(rows) - len(asked)
        report.there = sum(row["is_there"] for row in asked)
        wanted = [row for row in asked if not row["is_there"]]
        chosen = [row | tokens for row in wanted if (tokens := _tokens(model, row, report))]
        for start in range(0, len(chosen), DOCUMENTS):
            group = chosen[start : start + DOCUMENTS]
            made = _made(model, run_id, _with_contexts(writer, group))
            writer.commit({name: pa.Table.from_pylist(part) for name, part in made.items()}, run_id=run_id)
            report.stored += len(group)
            watch(report.stored, len(chosen))
    return report


def _no_columns(names: list[str], columns: Columns, corpus: str) -> str:
    there = f"The columns are {listed(names)}." if names else "The documents have no column but their text."
    return (
        f"No document of {corpus} has both columns {columns.answer!r} and {columns.distractor!r} "
        f"(--answer-column, --distractor-column). {there}"
    )


def _tokens(model: Model, row: dict[str, Any], report: ContrastReport) -> dict[str, int]:
    """Return the token ids of the row's answer and distractor; {} if the document has to be skipped."""
    if row["position_id"] is None:
        told = f"document {row['document_id']} has no token before its place of prediction"
        return _skip(report, "place", told)
    found = dict[str, int]()
    for name in ("answer", "distractor"):
        ids = model.tokenizer.encode(row[name], add_special_tokens=False)
        if len(ids) != 1:
            pieces = ", ".join(repr(model.tokenizer.decode([token])) for token in ids)
            return _skip(report, "tokens", f"the {name} {row[name]!r} is not one token, but: {pieces}")
        found[f"{name}_token_id"] = ids[0]
    if len({*found.values()}) == 1:
        return _skip(report, "equal", f"answer and distractor are both {row['answer']!r}")
    return found


def _skip(report: ContrastReport, kind: str, why: str) -> dict[str, int]:
    report.skipped += 1
    report.why.setdefault(kind, why)
    return {}


def _with_contexts(writer: Writer, group: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row the window's token ids up to the row's position, and these tokens' position ids."""
    contexts = writer.contexts([row["position_id"] for row in group])
    return [
        row | {"tokens": context.tokens, "places": context.places}
        for row, context in zip(group, contexts, strict=True)
    ]


@torch.inference_mode()
def _made(model: Model, run_id: int, group: Sequence[dict[str, Any]]) -> Rows:
    """Decompose a group of documents; return rows for the tables `contrast`, `contrast_layer` and so on."""
    rows: Rows = {f"contrast{part}": [] for part in ("", "_layer", "_head", "_neuron", "_source")}
    for row, forward in _forwards(model, group):
        answer, distractor = row["answer_token_id"], row["distractor_token_id"]
        terms = toward(model, row["tokens"], Direction((answer,), (distractor,)), forward)
        logits, logprobs = predicted(model, row["tokens"], forward)
        key = {"run_id": run_id, "document_id": row["document_id"]}
        rows["contrast"].append(
            key
            | {name: row[name] for name in ("position_id", "answer_token_id", "distractor_token_id")}
            | {
                "logit_difference": terms.total,
                "answer_logprob": float(logprobs[answer]),
                "distractor_logprob": float(logprobs[distractor]),
                "answer_rank": int(ranks(model, logits, answer)),
                "embed": terms.embedding["embed"],
                "pos_embed": terms.embedding.get("pos_embed"),
                "final_bias": terms.final_bias,
                "size": _size(terms),
            }
        )
        for name, made in _units(terms, row["places"]).items():
            rows[name] += [key | unit for unit in made]
    return rows


def _forwards(model: Model, group: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Forward]]:
    """Yield each row with the activations of its window; short windows share a forward pass."""
    waiting = sorted(group, key=lambda row: len(row["tokens"]))
    while waiting:
        longest = len(waiting[-1]["tokens"])
        batch = waiting[-max(1, BATCH_TOKENS // longest) :]
        del waiting[-len(batch) :]
        windows = [torch.tensor(row["tokens"], device=model.device) for row in batch]
        forward = model.forward(pad_sequence(windows, batch_first=True))
        for i, row in enumerate(batch):
            yield row, forward.window(i, len(row["tokens"]))


def _size(terms: Terms) -> float:
    """Return Σ |term| over the embeddings, biases, heads and neurons, in logits."""
    arrays = (terms.heads, terms.neurons, terms.attn_bias, terms.mlp_bias)
    outer = sum(map(abs, terms.embedding.values())) + abs(terms.final_bias)
    return outer + float(sum(np.abs(array).sum() for array in arrays))


def _units(terms: Terms, places: Sequence[int]) -> Rows:
    """Return each table's rows: all layers and heads, and neurons and sources with the largest |effect|."""
    rows: Rows = {"contrast_layer": [], "contrast_neuron": []}
    attn, mlp = terms.attn, terms.mlp
    for layer, effects in enumerate(terms.neurons):
        order = np.argsort(-np.abs(effects), kind="stable")
        kept, others = order[:NEURONS], order[NEURONS:]
        rows["contrast_neuron"] += [
            {
                "layer": layer,
                "neuron": int(n),
                "activation": float(terms.activations[layer, n]),
                "effect": float(effects[n]),
            }
            for n in kept
        ]
        rows["contrast_layer"].append(
            {
                "layer": layer,
                "attn": float(attn[layer]),
                "mlp": float(mlp[layer]),
                "attn_bias": float(terms.attn_bias[layer]),
                "mlp_bias": float(terms.mlp_bias[layer]),
                "mlp_remainder": float(effects[others].sum()),
                "neuron_limit": float(abs(effects[others[0]])) if len(others) else 0.0,
            }
        )
    rows["contrast_head"] = [
        {"layer": layer, "head": head, "effect": float(effect)}
        for (layer, head), effect in np.ndenumerate(terms.heads)
    ]
    strongest = np.argsort(-np.abs(terms.sources), axis=None, kind="stable")[:SOURCES]
    rows["contrast_source"] = [
        {
            "layer": int(layer),
            "head": int(head),
            "source_position_id": places[source],
            "attention": float(terms.attention[layer, head, source]),
            "effect": float(terms.sources[layer, head, source]),
        }
        for layer, head, source in zip(*np.unravel_index(strongest, terms.sources.shape), strict=True)
    ]
    return rows
