"""Compare: two runs over one corpus, usually two training steps of one model."""

import math
from html import escape
from shlex import quote
from typing import Any

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, linked, links, markup, parts
from annotate_transformer.app.tables import signed, visible
from annotate_transformer.store import BadQuestion, NoSuchRun
from annotate_transformer.store.names import head_name, neuron_name, parse, unit_name

MOST = 100  # positions, neurons and heads: those that changed most
TOWARD = {"next": "the token that follows", "top": "each run's own first choice"}
STATISTICS = {
    "mean": "mean", "std": "deviation", "min": "least", "max": "most", "fraction_positive": "share above 0",
    "mean_effect": "mean effect (logits)", "mean_abs_effect": "mean |effect| (logits)",
    "attention_previous": "attention to the token before", "attention_self": "attention to the token itself",
    "attention_first": "attention to the window's first",
    "attention_duplicate": "attention to the same token earlier",
    "attention_induction": "attention to what followed (induction)", "entropy": "entropy (nats)",
}  # fmt: skip


def show() -> None:
    """The page."""
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
    """The run of the address; else the last one over the same corpus, else the last one."""
    runs = answers.runs().set_index("run_id")
    wanted = links.number("other")
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
        "This store has one run, and two are needed. Another training step over the same corpus, with the "
        f"same settings otherwise, is one command: `{' '.join(map(quote, words))} --revision step1000`."
    )


# Their losses -------------------------------------------------------------------------------------


def _loss(run: int, other: int) -> None:
    frame = answers.asked("loss_of_both", run=run, other=other)
    parts.heading("Loss", frame)
    both = frame.iloc[0]
    if not both.positions:
        st.caption(
            "The two runs have no token in common that both predicted: another corpus, or cut otherwise."
        )
        return
    linked.show(
        markup.facts(
            {
                f"run {run} (nats)": f"{both.loss_a:.3f}",
                f"run {other} (nats)": f"{both.loss_b:.3f}",
                "change (nats)": signed(both.change),
                f"better in run {other}": f"{both.better:.1%}",
                f"first choice right in run {run}": f"{both.right_a:.1%}",
                f"in run {other}": f"{both.right_b:.1%}",
                "tokens compared": f"{int(both.positions):,}",
            }
        )
    )


def _positions(run: int, other: int) -> None:
    title = "Tokens whose loss changed most"
    try:
        frame = answers.compare(run, other, "positions", MOST)
    except BadQuestion as error:
        parts.heading(title)
        st.caption(str(error))
        return
    tint = markup.scale(-frame.loss_change, "nats", signed=True)
    columns = [
        markup.a_token("token", "token", lambda row: _at(run, other, row["position_id_a"])),
        markup.a_token("next token", "next_token"),
        markup.number(f"loss in run {run} (nats)", "loss_a"),
        markup.number(f"loss in run {other} (nats)", "loss_b"),
        markup.Column(
            "change (nats)",
            lambda row: signed(row["loss_change"]),
            lambda row: row["loss_change"],
            lambda row: tint.colour(-row["loss_change"]),
        ),
        markup.a_token(f"first choice of run {run}", "top_token_a", _token(run, "position_id_a")),
        markup.a_token(f"first choice of run {other}", "top_token_b", _token(other, "position_id_b")),
    ]
    parts.table(title, frame, columns)
    st.caption(
        "Blue: the loss fell. A token leads to both decompositions side by side, a first choice to its run's."
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
        parts.table("Neurons that changed most", neurons, _unit_columns("neuron", run, other, neurons))
        st.caption("Mean |direct effect|, in logits; each name leads to both runs' statistics.")
    with right:
        attention = [
            markup.number(f"induction in {run}", "induction_a", 2),
            markup.number(f"in {other}", "induction_b", 2),
        ]
        parts.table("Heads that changed most", heads, _unit_columns("head", run, other, heads) + attention)


def _unit_columns(kind: str, run: int, other: int, frame: pd.DataFrame) -> list[markup.Column]:
    def name(row: markup.Row) -> str:
        write = neuron_name if kind == "neuron" else head_name
        return write(int(row["layer"]), int(row[kind]))

    return [
        markup.words(kind, name, lambda row: links.link("compare", run=run, other=other, unit=name(row))),
        markup.number(f"run {run}", "mean_abs_effect_a"),
        markup.number(f"run {other}", "mean_abs_effect_b"),
        _change("change", "change", frame),
    ]


def _change(heading: str, column: str, frame: pd.DataFrame) -> markup.Column:
    tint = markup.scale(frame[column], "logits", signed=True)
    return markup.number(heading, column, signs=True, tint=tint)


def _unit(run: int, other: int, unit: str) -> None:
    """One neuron's or head's statistics in both runs."""
    name = unit_name(*parse(unit))
    kind = "neuron" if parse(unit)[0] == "N" else "head"
    frames = [answers.unit_stats(name, number) for number in (run, other)]
    a, b = (frame.iloc[0] for frame in frames)
    rows = [
        {"statistic": words, "a": a[column], "b": b[column], "change": b[column] - a[column]}
        for column, words in STATISTICS.items()
        if column in a.index
    ]
    parts.heading(f"{kind.capitalize()} {name}", frames[0], **{f"run {other}": frames[1]})
    both = pd.DataFrame(rows).astype({"a": float, "b": float, "change": float})
    columns = [
        markup.words("over all positions", lambda row: row["statistic"]),
        markup.number(f"run {run}", "a", 4),
        markup.number(f"run {other}", "b", 4),
        markup.number("change", "change", 4, signs=True),
    ]
    linked.show(_pages(kind, {run: name, other: name}) + markup.table(both, columns), key="unit in both")


def _pages(page: str, wanted: dict[int, Any]) -> str:
    """Links to a page of each run."""
    name = "position" if page == "token" else page
    parts_ = (
        f'<a class="more" href="{escape(links.link(page, run=run, **{name: value}))}">in run {run}</a>'
        for run, value in wanted.items()
    )
    return f"<p>The {page}'s own page: {' · '.join(parts_)}</p>"


# One position in both -----------------------------------------------------------------------------


def _position(run: int, other: int) -> None:
    """One prediction as each of the runs made it."""
    a, b = _same_place(run, other)
    here, there = answers.position(a).iloc[0], answers.position(b).iloc[0]
    frame = answers.asked("components_of_both", position_a=a, position_b=b)
    parts.heading("One token in both runs", frame)
    before, after = markup.line(here.before), markup.line(here.after)
    text = f'<div class="text">{before}<mark>{markup.placed(here.to_dict())}</mark>{after}</div>'
    linked.show(text + _pages("token", {run: a, other: b}), key="token in both")
    toward = "top"
    if not pd.isna(here.next_token) and not pd.isna(there.next_token):
        toward = parts.switch("Effects toward", ["next", "top"], "toward", TOWARD)
    left, right = st.columns([2, 3])
    with left:
        linked.show(_prediction(run, other, here, there), key="predictions")
    with right:
        linked.show(_components(run, other, frame, here, there, toward), key="components")


def _same_place(run: int, other: int) -> tuple[int, int]:
    """The address's position in both runs; it may be either's.

    Raises:
        NoSuchPosition, BadLink: there is none, or it stands in one of the runs only.
    """
    position = int(links.number("position") or 0)
    belongs = int(answers.position(position).run_id.iloc[0])
    if belongs not in (run, other):
        raise links.BadLink(f"Position {position} belongs to run {belongs}, not to run {run} or {other}.")
    found = answers.asked("same_place", position=position, run=other if belongs == run else run)
    if found.empty:
        raise links.BadLink(f"Position {position} of run {belongs} is not in the other: it is cut otherwise.")
    elsewhere = int(found.position_id.iloc[0])
    return (position, elsewhere) if belongs == run else (elsewhere, position)


def _kept(run: int, other: int, which: int) -> dict[str, int]:
    """The address's position as the run that stays has it: the first or the second."""
    return {} if links.number("position") is None else {"position": _same_place(run, other)[which]}


def _prediction(run: int, other: int, a: "pd.Series[Any]", b: "pd.Series[Any]") -> str:
    """What followed and what was expected, a column a run."""
    rows = [
        {"what": "next token", "a": visible(a.next_token), "b": visible(b.next_token)},
        {"what": "its probability", "a": _probability(a.next_logprob), "b": _probability(b.next_logprob)},
        {"what": "its rank", "a": _whole(a.next_rank), "b": _whole(b.next_rank)},
        {"what": "loss (nats)", "a": _loss_of(a), "b": _loss_of(b)},
        {"what": "first choice", "a": visible(a.top_token), "b": visible(b.top_token)},
        {"what": "its probability", "a": _probability(a.top_logprob), "b": _probability(b.top_logprob)},
        {"what": "entropy (nats)", "a": f"{a.entropy:.3f}", "b": f"{b.entropy:.3f}"},
    ]
    columns = [
        markup.words("prediction", lambda row: row["what"]),
        markup.words(f"run {run}", lambda row: row["a"]),
        markup.words(f"run {other}", lambda row: row["b"]),
    ]
    return markup.table(pd.DataFrame(rows), columns)


def _probability(logprob: Any) -> str:
    return "—" if pd.isna(logprob) else f"{math.exp(logprob):.4f}"


def _whole(value: Any) -> str:
    return "—" if pd.isna(value) else f"{int(value):,}"


def _loss_of(at: "pd.Series[Any]") -> str:
    return "—" if pd.isna(at.next_logprob) else f"{-at.next_logprob:.3f}"


def _components(
    run: int, other: int, frame: pd.DataFrame, a: "pd.Series[Any]", b: "pd.Series[Any]", toward: str
) -> str:
    """Direct effects on a logit, their difference, and in the last row the logits themselves."""
    terms = frame[["component", "layer", f"{toward}_a", f"{toward}_b", f"{toward}_change"]]
    terms.columns = pd.Index(["component", "layer", "a", "b", "change"])
    tint = markup.scale(pd.concat([terms.a, terms.b]), "logits", signed=True)
    name = f"{toward}_logit"
    logit = {"component": "= logit", "layer": None, "a": a[name], "b": b[name], "change": b[name] - a[name]}
    columns = [
        markup.words("component (logits)", _component),
        markup.number(f"run {run}", "a", signs=True, tint=tint),
        markup.number(f"run {other}", "b", signs=True, tint=tint),
        markup.number("difference", "change", signs=True, tint=tint),
    ]
    return markup.table(pd.concat([terms, pd.DataFrame([logit])]), columns)


def _component(row: markup.Row) -> str:
    name = str(row["component"]).replace("_", " ")
    return name if pd.isna(row["layer"]) else f"{name} {int(row['layer'])}"
