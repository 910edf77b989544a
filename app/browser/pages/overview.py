"""The page Overview: what can be done here, three findings of the run, its strongest units, and all runs."""

from html import escape
from typing import Any

import streamlit as st

from annotate_transformer.app.browser import answers, charts, linked, links, markup, parts
from annotate_transformer.app.present import columns
from annotate_transformer.app.present.words import closeness, visible
from annotate_transformer.store.names import head_name, neuron_name

TITLE, ICON, PLACE = "Overview", "home", 0
REFRESH = 5  # seconds between two looks at a running ingest


def show() -> None:
    """Show the page."""
    parts.title("Overview")
    run = parts.run()
    parts.run_picker(run)
    _numbers(run)
    _begin(run)
    _findings(run)
    left, right = st.columns(2)
    with left:
        _neurons(run)
    with right:
        _heads(run)
    loss = answers.asked("loss_by_position", run=run)
    parts.heading("Loss by position in the window", loss)
    charts.show(charts.loss_by_position(loss), "mean loss in nats by position in the window")
    _runs()


def _numbers(run: int) -> None:
    found = answers.stats(run)
    if found.empty:
        raise parts.NothingYet(f"Run {run} has committed nothing yet; it will be shown as soon as it has.")
    about = found.iloc[0]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(f"Run {run}", anchor=False, width="content")
        st.badge(parts.status_of(about), color="green" if about.status == "finished" else "orange")
        closure(float(about.worst_closure), float(about.worst_closure_ratio))
    facts = {"model": f"{about.model} {about.revision or ''}"}
    linked.show(
        markup.facts(facts | columns.as_facts(about, columns.without(columns.TOTALS, "worst_closure"))),
        key="facts",
    )
    if parts.status_of(about) == "running":
        _watch(run, int(answers.runs().set_index("run_id").tokens[run]))


@st.fragment(run_every=REFRESH)
def _watch(run: int, shown: int) -> None:
    """Say how far a running ingest is, and show the page again when it has committed more.

    shown: the number of tokens that the page shows
    """
    now = answers.runs().set_index("run_id").loc[run]
    if parts.status_of(now) != "running" or int(now.tokens) > shown:
        st.rerun()
    st.caption(
        f"The ingest is still running: {shown:,} tokens are stored so far, and every answer about them is "
        f"exact. This page follows every {REFRESH} seconds."
    )


def _begin(run: int) -> None:
    """Show links to what can be done with the run."""
    ways = {
        "read a text, coloured by loss": links.link("text", run=run),
        "take a prediction apart": links.link("token", run=run),
        "find positions by text, token, neuron or metadata": links.link("search", run=run),
        "annotate a prompt of your own": links.link("prompt", run=run),
        "ask in SQL": links.link("sql", run=run),
    }
    linked.show(markup.ways(ways), key="begin")


def _findings(run: int) -> None:
    """Show three findings of the run, each with a link to what it is about."""
    found = []
    for row in answers.asked("strongest_heads", run=run, limit=1).itertuples():
        name = head_name(row.layer, row.head)
        found.append((
            "head", {"head": name}, name, "has the largest mean |direct effect| of all heads on the next "
            f"token: {row.mean_abs_effect:.3f} logits, n = {row.count:,} positions, exact.",
        ))  # fmt: skip
    for row in answers.asked("strongest_neurons", run=run, limit=1).itertuples():
        name = neuron_name(row.layer, row.neuron)
        found.append((
            "neuron", {"neuron": name}, name, "has the largest mean |direct effect| of all neurons on the "
            f"next token: {row.mean_abs_effect:.3f} logits, exact.",
        ))  # fmt: skip
    for row in answers.hardest(run, 1).itertuples():
        found.append((
            "token", {"position": row.position_id}, f"“{visible(row.next_token)}”", "was the hardest next "
            f"token to predict, after “{visible(row.token)}”: loss {row.loss:.2f} nats, exact.",
        ))  # fmt: skip
    lines = "".join(_finding(run, *one) for one in found)
    parts.heading("Three findings of this run")
    linked.show(f"<ul>{lines}</ul>", key="findings")


def _finding(run: int, page: str, what: dict[str, Any], name: str, told: str) -> str:
    href = escape(links.link(page, run=run, **what))
    return f'<li><a class="more" href="{href}">{markup.line(name)}</a> {escape(told)}</li>'


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


def _runs() -> None:
    frame = answers.runs()
    shown = frame.assign(status=[parts.status_of(row) for _, row in frame.iterrows()])
    shown.attrs = frame.attrs
    pages = {
        "run_id": lambda row: links.link("", run=row["run_id"]),
        "tokens": lambda row: links.link("text", run=row["run_id"]),
    }
    parts.table("Runs", shown, columns.RUNS, links=pages)
