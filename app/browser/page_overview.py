"""Overview: what is in the store, how well the model does, and where to start."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, charts, linked, links, markup, parts

FIGURES = {
    "rank_correlation": "rank correlation",
    "divergence": "divergence (nats)",
    "overlap": "overlap of the first ten",
}


def show() -> None:
    """The page."""
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
        st.badge(parts.status(about), color="green" if about.status == "finished" else "orange")
        closure(float(about.worst_closure), float(about.worst_closure_ratio))
    linked.show(
        markup.facts(
            {
                "model": f"{about.model} {about.revision or ''}",
                "tokens": f"{about.positions:,}",
                "special tokens in no list": f"{int(about.special_excluded):,}",
                "documents": f"{about.documents:,}",
                "loss (nats)": f"{about.loss:.3f}",
                "first choice right": f"{about.top1:.1%}",
                "entropy (nats)": f"{about.entropy:.3f}",
            }
        )
    )


def closure(worst: float, ratio: float) -> None:
    """Show how far the terms of a prediction are from its logit, at worst."""
    st.badge(
        f"terms sum to the logit within {worst:.0e}",
        color="green" if ratio <= 1 else "red",
        help="The largest difference, in logits, between a position's logit and the sum of its stored terms; "
        f"at most {ratio:.0%} of what rounding alone may make it.",
    )


def _neurons(run: int) -> None:
    frame = answers.asked("strongest_neurons", run=run, limit=50)
    columns = [
        markup.a_neuron(run),
        markup.number("mean |effect|", "mean_abs_effect"),
        markup.number("mean effect", "mean_effect", signs=True),
        markup.number("share > 0", "fraction_positive", 2),
        markup.number("max activation", "max", 2),
    ]
    parts.table("Strongest neurons (logits)", frame, columns)


def _heads(run: int) -> None:
    frame = answers.asked("strongest_heads", run=run, limit=50)
    columns = [
        markup.a_head(run),
        markup.number("mean |effect|", "mean_abs_effect"),
        markup.number("mean effect", "mean_effect", signs=True),
        markup.number("previous", "attention_previous", 2),
        markup.number("first", "attention_first", 2),
        markup.number("induction", "attention_induction", 2),
    ]
    parts.table("Strongest heads (logits)", frame, columns)


def _bigrams(run: int) -> None:
    """The corpus's bigrams beside what the embeddings alone give, if that was compared."""
    found = answers.bigrams(run)
    if not found:
        return
    parts.heading("Bigrams and the direct path W_E W_U", found["bigram_summary"])
    agreement(found["bigram_summary"])
    left, right = st.columns(2)
    with left:
        columns = [
            markup.a_token("token", "token"),
            markup.number("×", "count", 0),
            markup.number("rank correlation", "rank_correlation", 2, signs=True),
            markup.number("divergence (nats)", "divergence", 2),
            markup.number("overlap", "overlap", 2),
        ]
        parts.table("The most frequent tokens", found["bigram_agreement"], columns)
    with right:
        columns = [
            markup.number("occur from", "min_count", 0),
            markup.number("to", "max_count", 0),
            markup.number("bigrams", "bigrams", 0),
            markup.number("cosine", "cosine", signs=True),
            markup.number("inner product (logits)", "inner_product", 2, signs=True),
        ]
        parts.table("How near input and output vectors are", found["bigram_distances"], columns)


def agreement(frame: pd.DataFrame) -> None:
    """How far bigrams and the direct path agree, beside the shuffled baseline: of one row."""
    about = frame.iloc[0]
    linked.show(
        markup.facts(
            {
                f"{words}{note}": f"{about[f'{shuffled}{figure}']:.3f}"
                for shuffled, note in (("", ""), ("shuffled_", ", shuffled"))
                for figure, words in FIGURES.items()
            }
        )
    )


def _runs(current: int) -> None:
    frame = answers.runs()
    columns = [
        markup.words("run", lambda row: str(row["run_id"]), lambda row: links.link("", run=row["run_id"])),
        markup.words("model", lambda row: str(row["model"])),
        markup.words("revision", lambda row: _known(row["revision"])),
        markup.number("tokens", "tokens", 0),
        markup.words("status", parts.status),
        markup.words("worst closure (logits)", lambda row: _small(row["worst_closure"])),
        markup.words("corpus", lambda row: Path(str(row["corpus"])).name),
        markup.words("finished", lambda row: _time(row["finished"])),
        markup.words("text", lambda row: "read", lambda row: links.link("text", run=row["run_id"])),
    ]
    parts.table("Runs", frame, columns)
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


def _known(value: Any) -> str:
    return "—" if value is None or pd.isna(value) else str(value)


def _small(value: Any) -> str:
    return "—" if pd.isna(value) else f"{value:.0e}"


def _time(value: Any) -> str:
    return "—" if pd.isna(value) else f"{value:%Y-%m-%d %H:%M} UTC"
