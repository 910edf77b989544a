"""The page Overview: the runs, the model's loss, and the neurons and heads with the largest effects."""

import json
from typing import Any

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, charts, linked, links, markup, parts
from annotate_transformer.app.present import columns
from annotate_transformer.app.present.words import architecture, closeness

TITLE, ICON, PLACE = "Overview", "home", 0


def show() -> None:
    """Show the page."""
    parts.title("Overview")
    run = parts.run()
    parts.run_picker(run)
    _numbers(run)
    left, right = st.columns(2)
    with left:
        _neurons(run)
    with right:
        _heads(run)
    loss = answers.asked("loss_by_position", run=run)
    parts.heading("Loss by position in the window", loss)
    charts.show(charts.loss_by_position(loss), "mean loss in nats by position in the window")
    _bigrams(run)
    _runs(run)


def _numbers(run: int) -> None:
    found = answers.stats(run)
    if found.empty:
        raise parts.NothingYet(f"Run {run} has committed nothing yet; it will be shown as soon as it has.")
    about = found.iloc[0]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(f"Run {run}", anchor=False, width="content")
        st.badge(parts.status_of(about), color="green" if about.status == "finished" else "orange")
        closure(float(about.worst_closure), float(about.worst_closure_ratio))
    linked.show(
        markup.facts(
            {"model": f"{about.model} {about.revision or ''}", "architecture": architecture(about)}
            | columns.as_facts(about, columns.without(columns.TOTALS, "worst_closure"))
        )
    )


def closure(worst: float, ratio: float) -> None:
    """Show a badge with `worst`, the largest closure error over all positions of the run, in logits.

    ratio: the largest closure error of a position, as a fraction of what rounding alone explains there
    """
    st.badge(
        f"terms sum to the logit within {closeness(worst)}",
        color="green" if ratio <= 1 else "red",
        help=f"Each closure error is at most {ratio:.0%} of what rounding alone can explain. The largest is "
        "shown: the difference, in logits, between a position's logit and the sum of its stored terms.",
    )


def _neurons(run: int) -> None:
    frame = answers.asked("strongest_neurons", run=run, limit=50)
    parts.table("Neurons with the largest effects", frame, columns.STRONGEST_NEURONS, links=markup.units(run))


def _heads(run: int) -> None:
    frame = answers.asked("strongest_heads", run=run, limit=50)
    parts.table("Heads with the largest effects", frame, columns.STRONGEST_HEADS, links=markup.units(run))
    st.caption(
        "These are means over all positions of this run, not over a sample. The page of a head shows a 95 % "
        "interval, which resamples documents; for neurons `annotate effects` measures such intervals."
    )


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


def _runs(current: int) -> None:
    frame = answers.runs()
    shown = frame.assign(status=[parts.status_of(row) for _, row in frame.iterrows()])
    shown.attrs = frame.attrs
    pages = {
        "run_id": lambda row: links.link("", run=row["run_id"]),
        "tokens": lambda row: links.link("text", run=row["run_id"]),
    }
    parts.table("Runs", shown, columns.RUNS, links=pages)
    with st.expander(f"Where run {current} comes from"):
        st.json(_provenance(frame.set_index("run_id").loc[current]))


def _provenance(about: "pd.Series[Any]") -> dict[str, Any]:
    plain = {
        name: str(about[name]) for name in ("model", "revision", "step", "corpus", "started", "finished")
    }
    hashes = {name: str(about[name]) for name in ("weights_sha256", "tokenizer_sha256", "corpus_sha256")}
    return (
        plain | hashes | {name: json.loads(about[name]) for name in ("settings", "processing", "libraries")}
    )
