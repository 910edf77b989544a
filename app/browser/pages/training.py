"""The page Training: how a statistic of the model, a head or a neuron changes over training steps."""

import streamlit as st

from annotate_transformer.app.browser import answers, charts, linked, links, markup, parts
from annotate_transformer.app.present import columns
from annotate_transformer.app.present.words import rise_in_words
from annotate_transformer.store import BadQuestion
from annotate_transformer.store.emergence import STATISTICS
from annotate_transformer.store.names import KINDS, parse

TITLE, ICON, PLACE = "Training", "show_chart", 75
ROWS = 20  # number of heads or neurons shown in a table of changes


def show() -> None:
    """Show the page."""
    parts.title(TITLE)
    run = parts.run()
    parts.run_picker(run)
    with st.sidebar:
        unit = parts.asked_unit("unit", "L3N7 or L1H2")
    if unit:
        answers.exists(unit, run)
    kind = KINDS[parse(unit)[0]] if unit else "model"
    steps = _curve(run, unit, kind)
    _text(run)
    if len(steps) > 1:
        _changes(run, "head" if kind == "model" else kind, steps)


def _curve(run: int, unit: str | None, kind: str) -> list[int]:
    """Show a statistic over the steps; return the steps."""
    asked = links.text("statistic")
    statistic = asked if asked in STATISTICS[kind] else STATISTICS[kind][0]
    parts.choose("Statistic", [*STATISTICS[kind]], statistic, "statistic", columns.statistic_with_unit)
    try:
        values = answers.emergence(unit, statistic, run)
    except BadQuestion as error:
        raise parts.NothingYet(str(error)) from error
    name = columns.statistic_with_unit(statistic)
    known = values.dropna(subset="value")
    if len(known) > 1:
        pages = [_page(unit, int(there)) for there in known.run_id]
        charts.show(charts.emergence(known, name, pages), f"{name} over {len(known)} training steps")
        _rise(run, unit, statistic)
    open_run = {"step": lambda row: _page(unit, int(row["run_id"]))}
    parts.table(
        f"{unit or 'The model'} at every step", values, columns.emergence(values, statistic), links=open_run
    )
    return [int(step) for step in values.step]


def _rise(run: int, unit: str | None, statistic: str) -> None:
    try:
        st.caption(rise_in_words(answers.rise(unit, statistic, run).to_dict()))
    except BadQuestion as error:
        st.caption(str(error))


def _page(unit: str | None, run: int) -> str:
    """Return the address of a unit's page in a run, or of the run's overview."""
    if unit is None:
        return links.link("", run=run)
    kind = KINDS[parse(unit)[0]]
    return links.link(kind, run=run, **{kind: unit})


def _text(run: int) -> None:
    where = links.link("text", run=run, colour="learned")
    linked.show(
        f'<p><a class="more" href="{where}">When was each token of a text learned? →</a></p>', key="learned"
    )


def _changes(run: int, kind: str, steps: list[int]) -> None:
    """Show the heads or neurons that change most between two steps."""
    first = _step("first", steps, steps[0])
    second = _step("second", steps, steps[-1])
    with st.container(horizontal=True):
        parts.choose("From step", steps, first, "first", lambda step: f"{step:,}")
        parts.choose("To step", steps, second, "second", lambda step: f"{step:,}")
    statistic = STATISTICS[kind][0]
    found = answers.emergence_changes(first, second, kind, statistic, ROWS, run)
    shown = columns.emergence_changes(found, kind, statistic, (first, second))

    def page(row: markup.Row) -> str:
        return links.link("training", run=run, unit=row[kind])

    tints = {"change": markup.scale(found.change, "logits", signed=True)}
    parts.table(f"{kind.capitalize()}s that change most", found, shown, ROWS, links={kind: page}, tints=tints)


def _step(name: str, steps: list[int], otherwise: int) -> int:
    chosen = links.number(name)
    if chosen is not None and chosen not in steps:
        there = ", ".join(f"{step:,}" for step in steps)
        raise links.BadLink(f"The address says {name}={chosen}: the annotated steps are {there}.")
    return otherwise if chosen is None else chosen
