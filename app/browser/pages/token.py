"""The page Token: one prediction's decomposition, and the effects of its position on later predictions."""

from html import escape
from typing import Any

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import (
    answers,
    charts,
    conditions,
    focus,
    grids,
    linked,
    links,
    markup,
    notation,
    parts,
    patterns,
    totals,
)
from annotate_transformer.app.browser import target as choice
from annotate_transformer.app.browser.pages import model as page_model
from annotate_transformer.app.browser.pages import neuron as page_neuron
from annotate_transformer.app.browser.target import Target
from annotate_transformer.app.browser.totals import Totals
from annotate_transformer.app.present import columns
from annotate_transformer.app.present.words import before_cap, closeness
from annotate_transformer.store import NoInputs
from annotate_transformer.store.names import head_name, neuron_name, parse, unit_name
from annotate_transformer.store.question import largest_first

TITLE, ICON, PLACE = "Token", "target", 30
KEEPS = ("position",)

WINDOW = 400  # maximum number of tokens before the position in the text coloured by the heads' sources
PLACES = 20  # number of positions that are offered to begin with
SENT = 100  # maximum number of rows in the table of effects on later positions
PAIRS = 20  # maximum number of pairs of components that are shown as parts of an attention score
FOLLOWERS = 10  # number of next tokens listed by the direct path; as many are listed by count in the run


def show() -> None:
    """Show the page."""
    parts.title("Token")
    number = links.number("position")
    if number is None:
        _start()
        return
    at = answers.position(number)
    run = int(at.run_id)
    _check_run(run, number)
    parts.run_picker(run, lambda other: {"position": _same_place(number, other)})
    _where(run, at)
    taken_apart(run, at)
    _feeds(run, number)


def taken_apart(run: int, at: "pd.Series[Any]") -> None:
    """Show a prediction, the terms of its logit, and the position's effects on later predictions."""
    number, target = int(at.position_id), choice.chosen(at)
    _prediction(at)
    likeliest = parts.later()  # filled last, because the model may have to be loaded
    _components(at, target)
    notation.show(run, number, target.name, target.minus)
    known = totals.of(at, target)
    strongest = _heads(run, at, target, known)
    totals.show(known)
    _neurons(run, number, target, known)
    _sources(run, at, target)
    _why(run, number)
    here = {"run": run, "position": number} | kept()
    patterns.attention(at, here, strongest)
    patterns.lens(at, here)
    _sends(run, number, "toward_next" if target.column == "toward_next" else "toward_top")
    _direct_path(run, at)
    with likeliest():
        choice.likeliest(at, target)


def _start() -> None:
    """Show positions to begin with: those whose next token the model predicted worst."""
    run = parts.run()
    parts.run_picker(run)
    frame = answers.hardest(run, PLACES)
    if frame.empty:
        raise parts.NothingYet(
            f"Run {run} has committed no position yet; this page shows it as soon as it has."
        )
    st.caption("Open a text and click on a token, write document:token in the search box, or begin here.")
    parts.heading("Next tokens that were hardest to predict", frame)
    about = "loss (nats) of the next token; each pair of token and next token once"
    linked.show(page_neuron.panel(run, frame, "loss", "Largest loss", about), key="hardest")


def _check_run(run: int, number: int) -> None:
    wanted = links.number("run")
    if wanted is not None and wanted != run:
        # `parts.run` raises NoSuchRun if the run in the URL does not exist. If it exists, the position
        # belongs to another run, and BadLink is raised.
        parts.run()
        raise links.BadLink(f"Position {number} belongs to run {run}, not to run {wanted}.")


def _same_place(number: int, other: int) -> int:
    """Return the position_id that the same token of the text has in another run."""
    found = answers.asked("same_place", position=number, run=other)
    if found.empty:
        raise links.BadLink(
            f"Run {other} has no position at the same place: it read another text, or its windows differ."
        )
    return int(found.position_id.iloc[0])


# The position and its prediction ------------------------------------------------------------------


def _where(run: int, at: "pd.Series[Any]") -> None:
    number = int(at.position_id)
    near = answers.asked("neighbours", run=run, document=int(at.document_id), position=number).iloc[0]
    steps = [
        step("← token before", "token", run, near.before, "ArrowLeft"),
        step("in its text", "text", run, number),
        step("token after →", "token", run, near.after, "ArrowRight"),
    ]
    before, after = markup.line(at.before), markup.line(at.after)
    text = f'<div class="text">{before}<mark>{markup.placed(at.to_dict())}</mark>{after}</div>'
    name = focus.place_name(number)
    about = f"{name} (document:token) · position {number} · token {at.position} of window {at.window_id}"
    linked.show(f"{text}<p>{' · '.join(filter(None, steps))} · {about}</p>", key="where")


def step(label: str, page: str, run: int, position: Any, key: str = "") -> str:
    """Return a link to a position; an empty string if the position is missing.

    key: the key that follows the link while nothing else has the focus
    """
    if pd.isna(position):
        return ""
    href = links.link(page, run=run, position=int(position), **(kept() if page == "token" else {}))
    pressed = f' data-key="{key}" aria-keyshortcuts="{key}"' if key else ""
    return f'<a class="more" href="{escape(href)}"{pressed}>{label}</a>'


def _prediction(at: "pd.Series[Any]") -> None:
    known: columns.Columns = columns.PREDICTION
    if pd.isna(at.next_logprob):
        known = columns.without(known, "next_token", "next_logprob", "next_rank")
    linked.show(markup.facts(columns.as_facts(at.to_dict(), known)), key="prediction")


def kept() -> dict[str, str | None]:
    """Return the URL parameters that links from one token to another keep: what is shown, and how."""
    return {name: links.text(name) for name in (*choice.STATE, *notation.STATE, *patterns.STATE)}


# Terms of the logit -------------------------------------------------------------------------------


def _components(at: "pd.Series[Any]", target: Target) -> None:
    frame = target.decomposition(int(at.position_id), "component")
    if target.computed:
        logit, closure = float(frame.attrs["logit"]), float(frame.attrs["closure"])
    else:
        logit, closure = float(at[f"{target.name}_logit"]), float(at[f"closure_{target.name}"])
    with st.container(horizontal=True, vertical_alignment="center"):
        parts.subheading("The logit as a sum of components")
        st.badge(
            f"sums to the logit within {closeness(closure)}", color="green",
            help="Closure error: sum of the terms minus the logit, in logits. An ingest stops if this "
            "error exceeds what rounding can explain. The terms are direct effects at the frozen scale of "
            "the final norm.",
        )  # fmt: skip
        parts.data("components", {"components": frame})
    if cap := before_cap(answers.model_of(int(at.run_id)).logit_cap):
        st.caption(cap)
    charts.show(
        charts.waterfall(frame, target.column, logit),
        "direct effects of the embeddings, each layer's attention and MLP and the bias, summed to the logit",
    )


def _heads(run: int, at: "pd.Series[Any]", target: Target, known: Totals) -> str:
    """Show the heads' direct effects, and return the name of the head with the largest one."""
    frame = target.decomposition(int(at.position_id), "head")
    left, right = st.columns(2)
    with left:
        parts.heading("Heads: direct effect (logits)", frame)
        linked.show(
            grids.heat_map(
                frame, target.column, "direct effect (logits)",
                lambda row: links.link("head", run=run, head=head_name(row["layer"], row["head"])),
            ),
            key="heat map",
        )  # fmt: skip
    with right:
        pages = markup.units(run) | {"top_source_position_id": _at(run, "top_source_position_id")}
        pages |= known.links("head")
        title, listed = "Heads with the largest effects", columns.POSITION_HEADS
        _table(title, frame, target, listed, pages, known.column("head"))
    return markup.head_of(largest_first(frame, frame[target.column]).iloc[0].to_dict())


def _table(
    title: str, frame: pd.DataFrame, target: Target, known: columns.Columns, pages: markup.Links,
    more: columns.Columns = (),
) -> None:  # fmt: skip
    """Show a table of terms, sorted by the absolute value of their effect on one target, largest first.

    more: columns that the frame does not have
    """
    tints = {target.column: markup.scale(frame[target.column], "logits", signed=True)}
    rows = largest_first(frame, frame[target.column])
    parts.table(title, rows, (*target.shown(known, frame), *more), links=pages, tints=tints)


def _at(run: int, name: str = "position_id") -> Any:
    """Return a function that takes a row and returns the URL of the position in the column `name`."""
    return lambda row: links.link("token", run=run, position=row[name])


def _neurons(run: int, number: int, target: Target, known: Totals) -> None:
    frame = target.decomposition(number, "neuron")
    tints = {
        name: markup.scale(frame[name], "logits", signed=True)
        for name in ("toward_next", "toward_top", "effect")
        if name in frame
    }
    listed: columns.Columns = columns.POSITION_NEURONS
    if target.computed:
        listed = columns.toward_one(listed, frame)
    parts.table(
        "Neurons with the largest effects", largest_first(frame, frame[target.column]),
        (*listed, *known.column("neuron")), links=markup.units(run) | known.links("neuron"), tints=tints,
    )  # fmt: skip


# Sources ------------------------------------------------------------------------------------------


def _sources(run: int, at: "pd.Series[Any]", target: Target) -> None:
    frame, toward = target.decomposition(int(at.position_id), "source"), target.column
    parts.heading("Sources of the heads", frame)
    chosen = _of_head(frame)
    here = int(at.position_id)
    first = here - min(int(at.position), WINDOW)
    document = int(at.document_id)
    window = answers.asked("read", run=run, document=document, first=first, position=here)
    sums = chosen.groupby("source_position_id")[toward].sum()
    scale = markup.scale(sums, f"direct effect on {target.words} through the token (logits)", signed=True)
    linked.show(
        scale.legend() + _drawn(run, window, chosen, toward, scale, int(at.position_id)), key="sources"
    )
    pages = markup.units(run) | {"source_token": _at(run, "source_position_id")}
    _table("Sources with the largest effects", chosen, target, columns.POSITION_SOURCES, pages)


def _why(run: int, number: int) -> None:
    """Show the terms of the attention score of the head in the URL; the model computes them after a click."""
    head = links.text("head")
    if head is None or not conditions.is_unit(head) or parse(head)[0] != "H":
        return
    name = unit_name(*parse(head))
    title = f"The attention score of {name} before the softmax"
    if links.text("why") is None:
        kept = {key: links.text(key) for key in choice.STATE}
        href = escape(links.link("token", run=run, position=number, head=name, why=1, **kept))
        parts.heading(title)
        linked.show(
            "<p>It is a sum over pairs of components, one at this token and one at the source. "
            f'<a class="more" href="{href}">Take it apart</a>: the model reads the window again.</p>',
            key="why",
        )
        return
    with st.spinner("The run's model reads the window again; the first time also loads the model …"):
        pairs, sources = (answers.head_inputs(number, name, None, by) for by in ("pair", "source"))
    about = pairs.attrs
    parts.heading(title, pairs)
    told = (
        f"Score {about['score']:+.3f} to position {about['source_position_id']}, attention "
        f"{about['attention']:.3f}; the pairs sum to the score within {closeness(about['closure'])}."
    )
    linked.show(f"<p>{escape(told)}</p>", key="score")
    left, right = st.columns(2)
    with left:
        parts.table("Pairs with the largest shares", pairs, columns.SCORE_PAIRS, PAIRS)
    with right:
        pages = {"position_id": _at(run)}
        parts.table("Sources that compete in the softmax", sources, columns.SCORE_SOURCES, links=pages)


def _of_head(frame: pd.DataFrame) -> pd.DataFrame:
    """Show a box to choose one head or all heads; return the rows of the sources of the chosen heads."""
    names = [head_name(la, h) for la, h in zip(frame.layer, frame["head"], strict=True)]
    options = ["all", *sorted(set(names))]
    current = links.text("head") or "all"
    if current not in options:
        options.append(current)  # the head has no stored source here, so no token will be coloured
    parts.choose("Heads", options, current, "head", lambda head: "all heads" if head == "all" else head)
    found = frame if current == "all" else frame[[name == current for name in names]]
    found.attrs = frame.attrs
    return found


def _drawn(
    run: int, window: pd.DataFrame, sources: pd.DataFrame, toward: str, scale: markup.Scale, here: int
) -> str:
    by_source: dict[int, list[markup.Row]] = {}
    for term in largest_first(sources, sources[toward]).to_dict("records"):
        by_source.setdefault(term["source_position_id"], []).append(term)

    def value(row: markup.Row) -> float | None:
        of = by_source.get(row["position_id"])
        return None if of is None else sum(term[toward] for term in of)

    def hover(row: markup.Row) -> str:
        of = by_source.get(row["position_id"])
        if of is None:
            return "no source stored"
        lines = [
            f"{head_name(t['layer'], t['head'])}: {t[toward]:+.3f} logits, attention {t['attention']:.2f}"
            for t in of[:6]
        ]
        return "\n".join([f"{value(row):+.3f} logits", *lines])

    return markup.text(
        window.to_dict("records"), value=value, colours=scale, hover=hover, here=here,
        href=lambda row: links.link("token", run=run, position=row["position_id"]),
    )  # fmt: skip


# Logit lens, later positions, direct path, inputs -------------------------------------------------


def _sends(run: int, number: int, toward: str) -> None:
    frame = answers.sends(number, SENT)
    pages = markup.units(run) | {"token": _at(run)}
    _table(columns.SENDS_TITLE, frame, Target(toward, ""), columns.SENDS, pages)


def _direct_path(run: int, at: "pd.Series[Any]") -> None:
    """Show the next tokens that the token's embedding alone predicts, if the model's weights were read."""
    token = str(at.token)
    found = answers.weights(
        run, None, direct_path={"token": token, "k": FOLLOWERS}, bigram_agreement={"token": token}
    )
    if not found:
        return
    path, agreement = found["direct_path"], found["bigram_agreement"]
    title = "Next tokens after this token: by the direct path W_E W_U, and in the run"
    parts.table(title, path, columns.DIRECT_PATH)
    if len(agreement):
        page_model.agreement(agreement)


def _feeds(run: int, number: int) -> None:
    """Show the inputs of the neuron in the URL, by default of the first neuron with stored inputs."""
    parts.heading("Inputs of a neuron")
    stored = answers.asked("fed_neurons", run=run, position=number)
    kept = answers.decomposition(number, "neuron")
    names = [neuron_name(row.layer, row.neuron) for row in (*stored.itertuples(), *kept.itertuples())]
    left, _ = st.columns(2)
    with left:
        name = unit_name(*parse(parts.asked_unit("neuron", "L3N7") or next(iter(names), "L0N0")))
        try:
            frame = answers.neuron_inputs(number, name)
        except NoInputs:
            linked.show(f"<p>{page_neuron.compute_inputs(number, name)}</p>", key="compute")
        else:
            page_neuron.sources(f"Inputs of {name}", run, frame, frame.attrs)
