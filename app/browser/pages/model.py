"""The page Model: the run's model and where the run comes from, and what the weights say about bigrams."""

import json
from typing import Any

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, linked, markup, parts
from annotate_transformer.app.present import columns
from annotate_transformer.app.present.words import architecture

TITLE, ICON, PLACE = "Model", "memory", 97


def show() -> None:
    """Show the page."""
    parts.title(TITLE)
    run = parts.run()
    parts.run_picker(run)
    about = answers.runs().set_index("run_id").loc[run]
    facts = {"model": f"{about.model} {about.revision or ''}"}
    if len(found := answers.stats(run)):
        facts["architecture"] = architecture(found.iloc[0])
    linked.show(markup.facts(facts), key="model")
    _bigrams(run)
    parts.heading(f"Where run {run} comes from")
    st.json(_provenance(about))


def _bigrams(run: int) -> None:
    """Show how well the direct path W_E W_U predicts the corpus's bigrams, if the store has the scores."""
    found = answers.weights(
        run, None, bigram_summary={}, bigram_agreement={"k": answers.TOKENS}, bigram_distances={}
    )
    if not found:
        return
    parts.heading("Bigrams and the direct path W_E W_U", found["bigram_summary"])
    agreement(found["bigram_summary"])
    left, right = st.columns(2)
    with left:
        parts.table("The most frequent tokens", found["bigram_agreement"], columns.BIGRAM_AGREEMENT)
    with right:
        near = found["bigram_distances"]
        parts.table("Similarity of input and output embeddings", near, columns.BIGRAM_DISTANCES)


def agreement(frame: pd.DataFrame) -> None:
    """Show how well a token's direct path predicts bigrams; the baseline is another, random token's path."""
    linked.show(markup.facts(columns.as_facts(frame.iloc[0], columns.AGREEMENT)))


def _provenance(about: "pd.Series[Any]") -> dict[str, Any]:
    plain = {
        name: str(about[name]) for name in ("model", "revision", "step", "corpus", "started", "finished")
    }
    hashes = {name: str(about[name]) for name in ("weights_sha256", "tokenizer_sha256", "corpus_sha256")}
    return (
        plain | hashes | {name: json.loads(about[name]) for name in ("settings", "processing", "libraries")}
    )
