"""The page Compare: two runs over one corpus, usually two training steps of one model."""

from html import escape
from shlex import quote
from typing import Any

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, linked, links, markup, parts
from annotate_transformer.app.present import columns
from annotate_transformer.store import BadQuestion, NoSuchRun
from annotate_transformer.store.means import of_documents
from annotate_transformer.store.names import head_name, neuron_name, parse, unit_name

TITLE, ICON, PLACE = "Compare", "compare_arrows", 70

MOST = 100  # maximum number of rows in each table of the largest changes between two runs
TOWARD = {"next": "the next token", "top": "each run's own top prediction"}


def show() -> None:
    """Show the page."""
    parts.title("Compare")
    run = parts.run()
    other = _other(run)
    swapped = {"other": run}
    parts.run_picker(
        run, lambda chosen: (swapped if chosen == other else {"other": other}) | _kept(run, other, 1)
    )
    with st.sidebar:
        names = _names()
        names.pop(run)
        parts.choose("With", [*names], other, "other", names.__getitem__, lambda _: _kept(run, other, 0))
        unit = parts.asked_unit("unit", "L3N7 or L1H2")
    linked.show(markup.ways({"compare two prompts": links.link("patch", run=run)}), key="ways")
    weights = answers.runs().set_index("run_id").weights_sha256
    if weights.loc[run] == weights.loc[other]:
        st.info(f"Runs {run} and {other} are of the same weights.")
    _loss(run, other)
    if links.number("position") is not None:
        _position(run, other)
    if unit:
        _unit(run, other, unit)
    _positions(run, other)
    _units(run, other)


# Which runs ---------------------------------------------------------------------------------------


def _names() -> dict[int, str]:
    return {
        int(about.run_id): parts.run_name(int(about.run_id), about) for _, about in answers.runs().iterrows()
    }


def _other(run: int) -> int:
    """Return the id of the run to compare with `run`: the URL's `other` (or `with`), or the last other run.

    The default is a run over the same corpus, if there is one.
    """
    runs = answers.runs().set_index("run_id")
    wanted = links.number("with") if links.text("other") is None else links.number("other")
    if len(runs) < 2:
        raise parts.NothingYet(_how_to_make_another(runs.loc[run]))
    if wanted == run:
        raise links.BadLink(f"The address compares run {run} with itself: choose another as other.")
    if wanted is not None and wanted not in runs.index:
        raise NoSuchRun(f"There is no run {wanted}; the store has {', '.join(map(str, runs.index))}.")
    if wanted is not None:
        return wanted
    others = runs.drop(run)
    alike = others[others.corpus_id == runs.corpus_id.loc[run]]
    return int((alike if len(alike) else others).index[-1])


def _how_to_make_another(about: "pd.Series[Any]") -> str:
    words = [
        "annotate",
        "ingest",
        str(about.corpus),
        "--db",
        str(answers.path()),
        "--model",
        str(about.model),
    ]
    return (
        "This store has one run, but this page compares two. Annotate the same corpus with another training "
        f"step and otherwise the same settings: `{' '.join(map(quote, words))} --revision step1000`."
    )


# Loss ---------------------------------------------------------------------------------------------


def _loss(run: int, other: int) -> None:
    frame = answers.asked("loss_of_both", run=run, other=other)
    parts.heading("Loss", frame)
    both = frame.iloc[0]
    if not both.positions:
        st.caption("The runs predicted no token in common: their corpora or their windows differ.")
        return
    change = of_documents(answers.asked("change_by_document", run=run, other=other))
    known = both.to_dict() | {f"change_{name}": value for name, value in change.items()}
    linked.show(markup.facts(columns.as_facts(known, columns.compared_losses(run, other))))


def _positions(run: int, other: int) -> None:
    title = "Tokens with the largest change in loss"
    try:
        frame = answers.compare(run, other, "positions", MOST)
    except BadQuestion as error:
        parts.heading(title)
        st.caption(str(error))
        return
    pages = {
        "token": lambda row: _at(run, other, row["position_id_a"]),
        "top_token_a": _token(run, "position_id_a"),
        "top_token_b": _token(other, "position_id_b"),
    }
    tints = {"loss_change": markup.scale(frame.loss_change, "nats", signed=True, falls=True)}
    parts.table(title, frame, columns.compared("positions", run, other), links=pages, tints=tints)
    st.caption(
        "Blue means that the loss decreased. A token links to its decompositions in both runs. A top "
        "prediction links to the decomposition in the run that predicted it."
    )


def _at(run: int, other: int, position: int) -> str:
    return links.link("compare", run=run, other=other, position=position)


def _token(run: int, name: str) -> Any:
    return lambda row: links.link("token", run=run, position=row[name])


# Neurons and heads --------------------------------------------------------------------------------


def _units(run: int, other: int) -> None:
    try:
        neurons = answers.compare(run, other, "neurons", MOST)
        heads = answers.compare(run, other, "heads", MOST)
    except BadQuestion as error:
        parts.heading("Neurons and heads")
        st.caption(str(error))
        return
    left, right = st.columns(2)
    with left:
        _changes("Neurons with the largest changes", "neurons", run, other, neurons)
        st.caption("Each name links to the neuron's or head's statistics in both runs.")
    with right:
        _changes("Heads with the largest changes", "heads", run, other, heads)


def _changes(title: str, what: str, run: int, other: int, frame: pd.DataFrame) -> None:
    kind, write = ("neuron", neuron_name) if what == "neurons" else ("head", head_name)

    def page(row: markup.Row) -> str:
        return links.link("compare", run=run, other=other, unit=write(int(row["layer"]), int(row[kind])))

    tints = {"change": markup.scale(frame.change, "logits", signed=True)}
    parts.table(title, frame, columns.compared(what, run, other), links={kind: page}, tints=tints)


def _unit(run: int, other: int, unit: str) -> None:
    """Show the statistics of a neuron or head in both runs."""
    name = unit_name(*parse(unit))
    kind = "neuron" if parse(unit)[0] == "N" else "head"
    frames = [answers.unit_stats(name, number) for number in (run, other)]
    a, b = (frame.iloc[0] for frame in frames)
    known = (*columns.STATISTICS[kind], *(columns.ATTENTION if kind == "head" else ()))
    rows = [{"statistic": column.heading, "a": a[column.name], "b": b[column.name]} for column in known]
    both = pd.DataFrame(rows).astype({"a": float, "b": float})
    parts.heading(f"{kind.capitalize()} {name}", frames[0], **{f"run {other}": frames[1]})
    table = markup.table(both.assign(change=both.b - both.a), columns.compared_statistics(run, other))
    linked.show(_pages(kind, {run: name, other: name}) + table, key="unit in both")


def _pages(page: str, wanted: dict[int, Any]) -> str:
    """Return links to the page of a position, neuron or head in each run.

    wanted: for each run, the position_id or name in the URL of the page
    """
    name = "position" if page == "token" else page
    parts_ = (
        f'<a class="more" href="{escape(links.link(page, run=run, **{name: value}))}">in run {run}</a>'
        for run, value in wanted.items()
    )
    return f"<p>The {page}'s own page: {' · '.join(parts_)}</p>"


# One position in both runs ------------------------------------------------------------------------


def _position(run: int, other: int) -> None:
    """Show the prediction at one token of the text in both runs."""
    a, b = _same_place(run, other)
    here, there = answers.position(a), answers.position(b)
    frame = answers.asked("components_of_both", position_a=a, position_b=b)
    parts.heading("One token in both runs", frame)
    before, after = markup.line(here.before), markup.line(here.after)
    text = f'<div class="text">{before}<mark>{markup.placed(here.to_dict())}</mark>{after}</div>'
    linked.show(text + _pages("token", {run: a, other: b}), key="token in both")
    toward = "top"
    if not pd.isna(here.next_token) and not pd.isna(there.next_token):
        toward = parts.switch("Effects on", ["next", "top"], "toward", TOWARD)
    left, right = st.columns([2, 3])
    with left:
        linked.show(_prediction(run, other, here, there), key="predictions")
    with right:
        linked.show(_components(run, other, frame, here, there, toward), key="components")


def _same_place(run: int, other: int) -> tuple[int, int]:
    """Find the token at the URL's position in both runs; return its position_ids in `run` and in `other`.

    Raises:
        NoSuchPosition: the store has no such position.
        BadLink: the position belongs to neither run, or only one of the runs has this token.
    """
    position = int(links.number("position") or 0)
    belongs = int(answers.position(position).run_id)
    if belongs not in (run, other):
        raise links.BadLink(f"Position {position} belongs to run {belongs}, not to run {run} or {other}.")
    found = answers.asked("same_place", position=position, run=other if belongs == run else run)
    if found.empty:
        raise links.BadLink(
            f"Position {position} of run {belongs} is not in the other run, whose windows differ."
        )
    elsewhere = int(found.position_id.iloc[0])
    return (position, elsewhere) if belongs == run else (elsewhere, position)


def _kept(run: int, other: int, which: int) -> dict[str, int]:
    """Return the URL parameter `position` that keeps the token when the user replaces one of the two runs.

    The parameter's value is the token's position_id in the run that stays. The result is empty if the URL has
    no position. which: 0 if `run` stays, 1 if `other` stays.
    """
    return {} if links.number("position") is None else {"position": _same_place(run, other)[which]}


def _prediction(run: int, other: int, a: "pd.Series[Any]", b: "pd.Series[Any]") -> str:
    """Return a table of the next token and the top prediction, with one column for each run."""
    facts = [columns.as_facts(at.to_dict(), columns.PREDICTION) for at in (a, b)]
    rows = [{"prediction": heading, "a": facts[0][heading], "b": facts[1][heading]} for heading in facts[0]]
    known = (
        columns.text("", "prediction"),
        columns.text(f"run {run}", "a"),
        columns.text(f"run {other}", "b"),
    )
    return markup.table(pd.DataFrame(rows), known)


def _components(
    run: int, other: int, frame: pd.DataFrame, a: "pd.Series[Any]", b: "pd.Series[Any]", toward: str
) -> str:
    """Return a table of the direct effects on a logit in both runs, with both logits in the last row."""
    terms = frame[["component", "layer", f"{toward}_a", f"{toward}_b", f"{toward}_change"]]
    terms.columns = pd.Index(["component", "layer", "a", "b", "change"])
    tint = markup.scale(pd.concat([terms.a, terms.b]), "logits", signed=True)
    name = f"{toward}_logit"
    logit = {"component": "= logit", "layer": None, "a": a[name], "b": b[name], "change": b[name] - a[name]}
    rows = pd.concat([terms, pd.DataFrame([logit])])
    tints = dict.fromkeys(("a", "b", "change"), tint)
    return markup.table(rows, columns.compared_components(run, other), tints=tints)
