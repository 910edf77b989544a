"""Head: how it attends, what it does to predictions, and where."""

from typing import Any

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, charts, linked, links, markup, page_neuron, parts
from annotate_transformer.app.tables import beside_rotated, counted, expected, signed, visible
from annotate_transformer.store.names import head_name

BEHAVIOURS = {
    "attention_previous": "to the token before", "attention_self": "to the token itself",
    "attention_first": "to the window's first", "attention_duplicate": "to the same token earlier",
    "attention_induction": "to what followed (induction)",
}  # fmt: skip

SEEN = {name.removeprefix("attention_"): words for name, words in BEHAVIOURS.items()}
LISTED_BY_WEIGHTS = ("head_compositions", "head_vocabulary", "head_pairs", "skip_trigrams", "head_distances")
WHERE = {"corpus": "this run", "random": "random tokens, repeated", "weights": "the weights"}


def show() -> None:
    """The page."""
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
    page_neuron.statistics(f"Direct effect on the next token in run {run} (logits)", found["stats"])
    page_neuron.coloured("head", run, name)
    _behaviour(found["stats"])
    _charts(found)
    page_neuron.interval(run, name, found["histogram"])
    _contexts(run, found)
    left, right = st.columns(2)
    with left:
        _tokens("Sources: the tokens it looks at", found["tokens"])
    with right:
        _tokens("Destinations: the tokens where it acts", found["destinations"])
    left, _ = st.columns(2)
    with left:
        page_neuron.effects(found["effects"], "positions", "mean_effect")
    _weights(run, name)
    left, _ = st.columns(2)
    with left:
        page_neuron.companions(run, found["companions"])


def _start(run: int) -> None:
    st.caption("Write a head's name at the side, or begin with one of the strongest.")
    frame = answers.asked("strongest_heads", run=run, limit=200)
    columns = [markup.a_head(run), markup.number("mean |effect| (logits)", "mean_abs_effect")]
    parts.table("Heads with the largest direct effects", frame, columns)
    _kinds(run, None)
    page_neuron.models("head")


def _kinds(run: int | None, model: str | None) -> None:
    """What heads do, beside what their weights say; which read which."""
    kinds = answers.weights(run, model, behaviour={}, compositions={"k": answers.TOKENS})
    if not kinds:
        return
    columns = [markup.a_head(run)]
    columns += [
        markup.number(f"{what}, {where}", f"{where}_{what}")
        for what in ("induction", "previous", "duplicate")
        for where in WHERE
    ]
    columns.append(markup.number("copying", "copying", 2, signs=True))
    columns.append(markup.number("copying, z", "copying_z", 1, signs=True))
    parts.table("What they do, beside what their weights say", kinds["behaviour"], columns)
    columns = [
        markup.a_head(run), markup.a_head(run, "reads", "earlier_"),
        markup.words("kind", lambda row: str(row["kind"])), *_scores(),
    ]  # fmt: skip
    parts.table(
        "Composition: whose queries (Q), keys (K) or values (V) read whom", kinds["compositions"], columns
    )
    st.caption(beside_rotated(kinds["compositions"]))


def _scores(tint: markup.Scale | None = None) -> list[markup.Column]:
    """Of compositions, beside what randomly rotated weights have."""
    return [
        markup.number("score", "score"),
        markup.number("rotated", "baseline"),
        markup.number("z", "z", 1, signs=True, tint=tint),
        markup.words("pairs by chance", lambda row: expected(row["by_chance"])),
    ]


def _behaviour(stats: pd.DataFrame) -> None:
    about = stats.iloc[0]
    parts.heading("Mean attention")
    known = {words: column for column, words in BEHAVIOURS.items() if not pd.isna(about[column])}
    values = {words: f"{about[column]:.2f}" for words, column in known.items()}
    linked.show(markup.facts(values | {"entropy (nats)": f"{about.entropy:.2f}"}))


def _charts(found: dict[str, pd.DataFrame]) -> None:
    left, right = st.columns(2)
    with left:
        parts.heading("How far back it looks", found["distances"])
        words = "share of positions by distance to the strongest source"
        charts.show(charts.distances(found["distances"]), words)
    with right:
        parts.heading("Effects over all positions", found["histogram"])
        what = "direct effect on the next token (logits)"
        charts.show(charts.histogram(found["histogram"], what), "positions by effect")


def _contexts(run: int, found: dict[str, pd.DataFrame]) -> None:
    high, low, random, fifths = (found[name] for name in ("high", "low", "random", "quantiles"))
    parts.heading("Contexts", high, low=low, random=random, quantiles=fifths)
    st.caption("The token in blue; in orange the source that the head attends to most, for the extremes.")
    sections = [
        _panel(run, high, "Raises most", "the highest effects of the whole run"),
        _panel(run, low, "Lowers most", "the lowest effects of the whole run"),
        page_neuron.panel(run, random, "value", "Random", "positions drawn evenly"),
        page_neuron.panel(run, fifths, "value", "Quantiles", "three of each fifth, the highest first"),
    ]
    linked.show(markup.panels(sections), key="contexts")


def _panel(run: int, frame: pd.DataFrame, title: str, note: str) -> str:
    spans = _spans(run, frame)
    lines = [
        markup.context(
            row, signed(row["toward_next"]), links.link("token", run=run, position=row["position_id"]),
            markup.marked_source(row, spans),
        )
        for row in frame.to_dict("records")
    ]  # fmt: skip
    return markup.panel(title, note, lines)


def _spans(run: int, frame: pd.DataFrame) -> dict[int, tuple[Any, Any]]:
    """Where in their documents the strongest sources stand."""
    sources = sorted({int(position) for position in frame.top_source_position_id})
    found = answers.asked("spans", run=run, positions=sources)
    return {row["position_id"]: (row["char_start"], row["char_end"]) for row in found.to_dict("records")}


def _tokens(title: str, frame: pd.DataFrame) -> None:
    """How it looks at tokens, or acts at them; of the latter the total effect too."""
    columns = [
        markup.a_token("token", "token"),
        markup.number("positions", "positions", 0),
        markup.number("mean attention", "mean_attention", 2),
        markup.number("mean effect (logits)", "mean_effect", signs=True),
    ]
    if "total_effect" in frame:
        columns.append(markup.number("total effect (logits)", "total_effect", signs=True))
    parts.table(title, frame, columns)


def _weights(run: int | None, name: str, model: str | None = None) -> None:
    """What it writes and reads, whatever the corpus, beside what it was seen to do."""
    listed = {method: {"name": name, "k": answers.TOKENS} for method in LISTED_BY_WEIGHTS}
    found = answers.weights(run, model, head_behaviour={"name": name}, head_stats={"name": name}, **listed)
    if not found:
        st.caption("What its weights say is not in this store: `annotate weights` adds it.")
        return
    stats = found["head_stats"].iloc[0]
    parts.heading("By its weights", found["head_behaviour"], scores=found["head_stats"])
    columns = [markup.words("", lambda row: WHERE[row["seen_in"]])]
    columns += [markup.number(words, name) for name, words in SEEN.items()]
    columns.append(markup.number("entropy (nats)", "entropy", 2))
    linked.show(markup.table(found["head_behaviour"], columns))
    st.caption(
        "Attention, a share; of the weights: preference for one token back, eigenvalues of the QK circuit, "
        "K-composition (z) with a head that prefers that."
    )
    scores = {"copying (eigenvalues)": stats.copying, "matching (eigenvalues)": stats.matching}
    scores |= {"‖W_OV‖": stats.ov_norm, "‖W_QK‖": stats.qk_norm}
    rank = {"median rank of the token attended to": f"{stats.copying_rank:,.0f}"}
    linked.show(markup.facts({name: f"{value:.2f}" for name, value in scores.items()} | rank))
    st.caption(
        f"Beside n = {stats.draws:.0f} random rotations of what it reads: copying has z "
        f"{signed(stats.copying_z, 1)}, matching {signed(stats.matching_z, 1)}."
    )
    left, right = st.columns(2)
    with left:
        _compositions(run, found["head_compositions"])
        _pairs(found["head_pairs"])
        columns = [markup.number("tokens back", "distance", 0), markup.number("attention", "attention")]
        parts.table("How far back it prefers to look", found["head_distances"], columns)
    with right:
        _writes(found["head_vocabulary"])
        _skip_trigrams(found["skip_trigrams"])


def _compositions(run: int | None, frame: pd.DataFrame) -> None:
    tint = markup.scale(frame.z, "z", signed=True)
    columns = [
        markup.words("this head", lambda row: f"{row['how']} ({row['kind']})"),
        markup.a_head(run),
        *_scores(tint),
    ]
    parts.table("Composition", frame, columns)
    st.caption(beside_rotated(frame))


def _writes(frame: pd.DataFrame) -> None:
    columns = [
        markup.a_token("attending to", "source_token"),
        markup.words("raises", lambda row: " ".join(map(visible, row["tokens"]))),
        markup.number("effect (logits, σ = 1)", "effect", 2, signs=True),
    ]
    parts.table("What it would write (OV)", frame, columns)


def _pairs(frame: pd.DataFrame) -> None:
    columns = [
        markup.a_token("from", "destination_token"),
        markup.a_token("looks at", "source_token"),
        markup.number("attention", "attention"),
    ]
    parts.table(f"Where it would look, {counted(frame.distance[0], 'token')} back (QK)", frame, columns)


def _skip_trigrams(frame: pd.DataFrame) -> None:
    columns = [
        markup.a_token("source", "source_token"),
        markup.a_token("… destination", "destination_token"),
        markup.a_token("→ output", "output_token"),
        markup.number("strength (logits, σ = 1)", "strength", 2, signs=True),
        markup.number("× in the run", "places", 0),
        markup.number("mean effect there (logits)", "mean_toward_next", 2, signs=True),
    ]
    parts.table("Skip-trigrams", frame, columns)
    st.caption(
        "In the run: where the output follows the destination, and the source stood 2 to 16 tokens back."
    )
