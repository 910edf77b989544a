"""The page Head: a head's attention, its direct effects, and the contexts with the largest effects."""

from typing import Any

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, charts, linked, links, markup, parts, totals
from annotate_transformer.app.browser.pages import neuron as page_neuron
from annotate_transformer.app.present import columns
from annotate_transformer.app.present.words import beside_rotated, counted, signed
from annotate_transformer.store.names import head_name

TITLE, ICON, PLACE = "Head", "hub", 50
KEEPS = ("head",)

LISTED_BY_WEIGHTS = ("head_compositions", "head_vocabulary", "head_pairs", "skip_trigrams", "head_distances")


def show() -> None:
    """Show the page."""
    if page_neuron.by_weights_alone("head", "L1H2", _kinds, _weights):
        return
    parts.title_of_unit("head")
    run, name = page_neuron.asked("head", "L1H2")
    if name is None:
        _start(run)
        return
    found = answers.head(name, run)
    about = found["stats"].iloc[0]
    name = head_name(about.layer, about["head"])
    page_neuron.statistics("head", f"Direct effect on the next token in run {run}", found["stats"])
    page_neuron.coloured("head", run, name)
    _mean_effect(found["mean_effect"])
    _behaviour(found["stats"])
    _contexts(run, name, found)
    page_neuron.on_my_text(run, "head", name)
    _charts(run, name, found)
    totals.over_sample(run, "head", name)
    left, right = st.columns(2)
    with left:
        parts.table(
            "Tokens that the head most often attends to (sources)", found["tokens"], columns.HEAD_TOKENS
        )
    with right:
        destinations = found["destinations"]
        title = "Tokens at which the head's effects are largest (destinations)"
        parts.table(title, destinations, columns.HEAD_DESTINATIONS)
    left, _ = st.columns(2)
    with left:
        page_neuron.effects(found["effects"], columns.HEAD_EFFECTS)
    _weights(run, name)
    left, _ = st.columns(2)
    with left:
        page_neuron.companions(run, found["companions"])


def _start(run: int) -> None:
    st.caption("Write a head's name in the sidebar, or choose one with large effects.")
    frame = answers.asked("strongest_heads", run=run, limit=200)
    parts.table(
        "Heads with the largest direct effects", frame, columns.STRONGEST_HEADS, links=markup.units(run)
    )
    _kinds(run, None)
    page_neuron.models("head")


def _kinds(run: int | None, model: str | None) -> None:
    """Show a table of the attention behaviour of all heads, and a table of the composition between heads."""
    kinds = answers.weights(run, model, behaviour={}, compositions={"k": answers.TOKENS})
    if not kinds:
        return
    title = "Behaviour of heads on the corpus, on repeated random tokens, and by their weights"
    parts.table(title, kinds["behaviour"], columns.BEHAVIOUR, links=markup.units(run))
    title = "Composition of heads through queries (Q), keys (K) and values (V)"
    parts.table(title, kinds["compositions"], columns.COMPOSITIONS, links=markup.units(run))
    st.caption(beside_rotated(kinds["compositions"]))


def _mean_effect(frame: pd.DataFrame) -> None:
    parts.heading("Mean direct effect on the next token, with a 95 % interval", frame)
    linked.show(markup.facts(columns.as_facts(frame.iloc[0], columns.MEAN_EFFECT)), key="mean effect")


def _behaviour(stats: pd.DataFrame) -> None:
    parts.heading("Mean attention")
    linked.show(markup.facts(columns.as_facts(stats.iloc[0], columns.ATTENTION)))


def _charts(run: int, name: str, found: dict[str, pd.DataFrame]) -> None:
    left, right = st.columns(2)
    with left:
        parts.heading("Distance to the source of most attention", found["distances"])
        words = "fraction of positions by distance to the strongest source"
        charts.show(charts.distances(found["distances"]), words)
    with right:
        what = "direct effect on the next token (logits)"
        page_neuron.histogram(run, "head", name, found["histogram"], what, "logit")


def _contexts(run: int, name: str, found: dict[str, pd.DataFrame]) -> None:
    high, low, random, fifths = (found[name] for name in ("high", "low", "random", "quantiles"))
    parts.heading("Contexts", high, low=low, random=random, quantiles=fifths)
    st.caption("The token is blue. In the first two lists, the source with the most attention is orange.")
    sections = [
        _panel(run, high, "Largest effects", "exact over the whole run", name),
        _panel(run, low, "Smallest effects", "exact over the whole run", name),
        page_neuron.panel(run, random, "value", "Random sample", "uniform over the run's positions", name),
        page_neuron.panel(
            run, fifths, "value", "By fifths", "three of each fifth of the sample, the highest first", name
        ),
    ]
    linked.show(markup.panels(sections), key="contexts")


def _panel(run: int, frame: pd.DataFrame, title: str, note: str, name: str) -> str:
    spans, beside = _spans(run, frame), totals.beside(run, name, frame)
    lines = [
        markup.context(
            row, signed(row["toward_next"]), links.link("token", run=run, position=row["position_id"]),
            markup.marked_source(row, spans), beside(row),
        )
        for row in frame.to_dict("records")
    ]  # fmt: skip
    return markup.panel(title, note, lines)


def _spans(run: int, frame: pd.DataFrame) -> dict[int, tuple[Any, Any]]:
    """Return the character span of each row's most attended token; the keys are these tokens' position_ids.

    A span is the start and end (exclusive) in the document.
    """
    sources = sorted({int(position) for position in frame.top_source_position_id})
    found = answers.asked("spans", run=run, positions=sources)
    return {row["position_id"]: (row["char_start"], row["char_end"]) for row in found.to_dict("records")}


def _weights(run: int | None, name: str, model: str | None = None) -> None:
    """Show what the head's weights alone say about the head, without a corpus."""
    listed = {method: {"name": name, "k": answers.TOKENS} for method in LISTED_BY_WEIGHTS}
    found = answers.weights(run, model, head_behaviour={"name": name}, head_stats={"name": name}, **listed)
    if not found:
        st.caption("The model's weights were not read into this store: `annotate weights` reads them.")
        return
    stats = found["head_stats"].iloc[0]
    parts.heading("By its weights", found["head_behaviour"], scores=found["head_stats"])
    linked.show(markup.table(found["head_behaviour"], columns.HEAD_BEHAVIOUR))
    st.caption(
        "The values are attention, except in the row of the weights. There, previous-token is the preference "
        "for a distance of one token, duplicate-token is the score from the eigenvalues of the QK circuit, "
        "and induction is the K-composition (z) with a previous-token head."
    )
    linked.show(markup.facts(columns.as_facts(stats, columns.HEAD_WEIGHTS)))
    st.caption("z: relative to random rotations of the head's input.")
    left, right = st.columns(2)
    with left:
        _compositions(run, found["head_compositions"])
        back = counted(found["head_pairs"].distance[0], "token")
        parts.table(f"Tokens it attends to, {back} back (QK)", found["head_pairs"], columns.HEAD_PAIRS)
        parts.table("Distances it prefers (QK)", found["head_distances"], columns.PREFERRED_DISTANCES)
    with right:
        parts.table("Tokens it promotes (OV)", found["head_vocabulary"], columns.HEAD_VOCABULARY)
        parts.table("Skip-trigrams", found["skip_trigrams"], columns.SKIP_TRIGRAMS)
        st.caption(
            "Occurrences: positions where the output follows the destination, and the source is 2 to 16 "
            "tokens before the destination."
        )


def _compositions(run: int | None, frame: pd.DataFrame) -> None:
    tints = {"z": markup.scale(frame.z, "z", signed=True)}
    parts.table("Composition", frame, columns.HEAD_COMPOSITIONS, links=markup.units(run), tints=tints)
    st.caption(beside_rotated(frame))
