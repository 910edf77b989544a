"""Neuron: what it does over the whole run: the extremes, and what they do not show."""

from collections.abc import Callable
from html import escape
from shlex import quote

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, charts, linked, links, markup, parts
from annotate_transformer.app.tables import correlated, counted, signed, visible
from annotate_transformer.store.names import neuron_name, source_name

RANDOM = "z: beside random directions of the same length, of a next-token the largest congruence of each."


def show() -> None:
    """The page."""
    if by_weights_alone("neuron", "L3N7", _kinds, _weights):
        return
    parts.title_of_unit("neuron")
    run, name = asked("neuron", "L3N7")
    if name is None:
        _start(run)
        return
    found = answers.neuron(name, run)
    about = found["stats"].iloc[0]
    name = neuron_name(about.layer, about.neuron)
    statistics(f"Activation in run {run}", found["stats"])
    place = {"run": run, "layer": int(about.layer), "neuron": int(about.neuron)}
    coloured("neuron", run, name, _lookups(place, name))
    parts.heading("Histogram of the activation", found["histogram"])
    charts.show(charts.histogram(found["histogram"], "activation after GELU"), "positions by activation")
    interval(run, name, found["histogram"])
    _contexts(run, found)
    left, right = st.columns(2)
    with left:
        _tokens(found["tokens"])
    with right:
        effects(found["effects"], "kept", "mean_kept_effect")
    _weights(run, name)
    left, right = st.columns(2)
    with left:
        _fed(place, name, found["high"])
    with right:
        companions(run, found["companions"])


def asked(kind: str, example: str) -> tuple[int, str | None]:
    """The run and the neuron or head that the address names, with boxes at the side to choose others."""
    run = parts.run()
    parts.run_picker(run, lambda other: {"bin": None})
    with st.sidebar:
        return run, parts.asked_unit(kind, example)


def by_weights_alone(
    kind: str,
    example: str,
    start: Callable[[int | None, str | None], None],
    weights: Callable[[int | None, str, str | None], None],
) -> bool:
    """Where the address names a model instead of a run, or there is none: what weights say needs no run."""
    there = answers.models()
    model = links.text("model") or (
        str(there.model_id.iloc[-1]) if len(there) and answers.runs().empty else ""
    )
    if not model:
        return False
    with st.sidebar:
        name = parts.asked_unit(kind, example)
    parts.title_of_unit(kind)
    linked.show(f"<p>By the weights of model {escape(model)}, whatever the corpus.</p>", key="model")
    with links.on_model(model):
        if name is None:
            start(None, model)
        else:
            weights(None, name, model)
    if name is None:
        models(kind)
    return True


def models(kind: str) -> None:
    """The models whose weights are there, each with its own pages: it may have no run."""
    frame = answers.models()
    if len(frame):
        of = markup.words(
            "model", lambda row: str(row["name"]), lambda row: links.link(kind, model=row["model_id"])
        )
        parts.table("Models by their weights alone", frame, [of])


def coloured(kind: str, run: int, name: str, more: dict[str, str] | None = None) -> None:
    """The way to a text coloured by it, and others."""
    ways = {"colour a text by it": links.link("text", run=run, colour=kind, **{kind: name})}
    linked.show(markup.ways(ways | (more or {})), key="ways")


def _lookups(place: dict[str, int], name: str) -> dict[str, str]:
    """The way to its look-ups, if there are any."""
    if not answers.asked("is_looked_up", **place).is_looked_up[0]:
        return {}
    return {"what fires it: its look-ups": links.link("next_token", run=place["run"], neuron=name)}


def _start(run: int) -> None:
    """Without a name: the strongest, to choose from."""
    st.caption("Write a neuron's name at the side, or begin with one of the strongest.")
    frame = answers.asked("strongest_neurons", run=run, limit=50)
    columns = [markup.a_neuron(run), markup.number("mean |effect| (logits)", "mean_abs_effect")]
    parts.table("Neurons with the largest direct effects", frame, columns)
    _kinds(run, None)
    models("neuron")


def _kinds(run: int | None, model: str | None) -> None:
    """Those that stand out by their weights."""
    kinds = answers.kinds_of_neurons(run, model)
    if not kinds:
        return
    congruence, cosine = (markup.number(name, name, signs=True) for name in ("congruence", "cosine"))
    congruence_z, cosine_z = (
        markup.number("z", f"{name}_z", 1, signs=True) for name in ("congruence", "cosine")
    )
    left, right = st.columns(2)
    with left:
        columns = [markup.a_neuron(run), markup.a_token("next-token", "token"), congruence, congruence_z]
        parts.table("The clearest next-tokens, by the weights", kinds["next_token_neurons"], columns)
    with right:
        columns = [markup.a_neuron(run), cosine, cosine_z]
        parts.table("Those that write against what they read", kinds["erasing_neurons"], columns)
    st.caption(RANDOM)


def statistics(title: str, stats: pd.DataFrame) -> None:
    """A neuron's or head's numbers over every position of the run."""
    about = stats.iloc[0]
    parts.heading(title, stats)
    linked.show(
        markup.facts(
            {
                "mean": signed(about["mean"]),
                "deviation": f"{about['std']:.3f}",
                "least": signed(about["min"]),
                "most": signed(about["max"]),
                "share above 0": f"{about.fraction_positive:.1%}",
                "mean effect (logits)": signed(about.mean_effect, 4),
                "mean |effect| (logits)": f"{about.mean_abs_effect:.4f}",
                "positions": f"{about['count']:,}",
            }
        )
    )


def interval(run: int, name: str, histogram: pd.DataFrame) -> None:
    """Contexts of the histogram's interval that is chosen."""
    filled = histogram[histogram.positions > 0].set_index("bin")
    chosen = links.one_of("bin", ["", *map(str, filled.index)])

    def words(option: str) -> str:
        if not option:
            return "choose one to see its contexts"
        row = filled.loc[int(option)]
        low, high = ("…" if pd.isna(edge) else signed(edge) for edge in (row.low, row.high))
        return f"{low} to {high}: {counted(int(row.positions), 'position')}"

    parts.choose("Interval of the histogram", ["", *map(str, filled.index)], chosen, "bin", words)
    if chosen:
        frame = answers.interval(name, run, int(chosen))
        parts.heading(f"Contexts from {words(chosen)}", frame)
        linked.show(
            markup.panels(
                [panel(run, frame, "value", "In this interval", "of the sample and of the extremes")]
            ),
            key="interval",
        )


def _contexts(run: int, found: dict[str, pd.DataFrame]) -> None:
    """Top, bottom, random and quantiles side by side: nobody should be fooled by maxima."""
    shown = {
        "Top": (found["high"], "activation", "the highest of the whole run"),
        "Bottom": (found["low"], "activation", "the lowest of the whole run"),
        "Random": (found["random"], "value", "positions drawn evenly"),
        "Quantiles": (found["quantiles"], "value", "three of each fifth, the highest first"),
    }
    frames = {title.lower(): frame for title, (frame, _, _) in shown.items()}
    parts.heading("Contexts", found["high"], **frames)
    sections = (panel(run, frame, value, title, note) for title, (frame, value, note) in shown.items())
    linked.show(markup.panels(sections), key="contexts")


def panel(run: int, frame: pd.DataFrame, value: str, title: str, note: str) -> str:
    """Contexts of one kind, each a link to its token."""
    lines = [
        markup.context(row, signed(row[value]), links.link("token", run=run, position=row["position_id"]))
        for row in frame.to_dict("records")
    ]
    return markup.panel(title, note, lines)


def _tokens(frame: pd.DataFrame) -> None:
    columns = [
        markup.a_token("token", "token"),
        markup.number("kept", "kept", 0),
        markup.number("of", "occurrences", 0),
        markup.number("share", "fraction_kept", 2),
        markup.number("mean kept activation", "mean_kept_activation", signs=True),
        markup.number("most", "max_activation", signs=True),
    ]
    parts.table("Tokens it fires on", frame, columns)


def effects(frame: pd.DataFrame, count: str, mean: str) -> None:
    """The next tokens a neuron or head does most for and against."""
    tint = markup.scale(frame.total_effect, "logits", signed=True)
    columns = [
        markup.a_token("next token", "next_token"),
        markup.number(count, count, 0),
        markup.number("mean effect", mean, signs=True),
        markup.number("total effect (logits)", "total_effect", signs=True, tint=tint),
    ]
    parts.table("Next tokens it raises and lowers", frame, columns)


def _weights(run: int | None, name: str, model: str | None = None) -> None:
    """What it writes and reads, whatever the corpus."""
    found = answers.neuron_weights(name, run, model)
    if not found:
        st.caption("What its weights say is not in this store: `annotate weights` adds it.")
        return
    about, vocabulary = found["neuron_stats"].iloc[0], found["neuron_vocabulary"]
    parts.heading("By its weights", found["neuron_stats"])
    linked.show(
        markup.facts(
            {
                "next-token": visible(about.next_token),
                "z of its congruence": signed(about.congruence_z, 1),
                "cosine with what it reads": signed(about.cosine, 2),
                "z of that": signed(about.cosine_z, 1),
                "norm read": f"{about.in_norm:.2f}",
                "norm written": f"{about.out_norm:.2f}",
                "bias": signed(about.bias),
            }
        )
    )
    towards, against, sources = st.columns(3)
    congruence = markup.number("congruence (logits, σ = 1)", "congruence", signs=True)
    for column, title, direction in (
        (towards, "Writes towards", "promotes"),
        (against, "Writes against", "suppresses"),
    ):
        with column:
            rows = vocabulary[vocabulary.direction == direction]
            parts.table(title, rows, [markup.a_token("token", "token"), congruence])
    with sources:
        weight = markup.number("virtual weight", "weight", signs=True)
        z = markup.number("z", "z", 1, signs=True)
        parts.table("Reads", found["neuron_reads"], [_source(run), weight, z])
    st.caption(f"{RANDOM} n = {about.draws} of them.")


def _source(run: int | None) -> markup.Column:
    """What a row of `neuron_reads` or `neuron_inputs` is about; a head or neuron leads to its page."""

    def page(row: markup.Row) -> str | None:
        kind = str(row["component"])
        return links.link(kind, run=run, **{kind: source_name(row)}) if kind in ("head", "neuron") else None

    return markup.words("from", source_name, page)


def _fed(place: dict[str, int], name: str, high: pd.DataFrame) -> None:
    """Where it was asked what feeds it."""

    def page(row: markup.Row) -> str:
        return links.link("token", run=place["run"], position=row["position_id"], neuron=name)

    frame = answers.asked("fed_positions", **place)
    columns = [
        markup.a_token("at", "token", page),
        markup.number("activation", "activation", signs=True),
        markup.words("most from", lambda row: source_name(row["strongest"])),
        markup.number("share of the pre-activation", "value", signs=True),
    ]
    if len(frame):
        parts.table("What feeds it", frame, columns)
    elif len(high):
        parts.heading("What feeds it")
        linked.show(f"<p>{compute_inputs(int(high.position_id.iloc[0]), name)}</p>", key="compute")


def compute_inputs(position: int, name: str) -> str:
    """How to have it computed what feeds a neuron somewhere, as HTML."""
    command = f"`annotate inputs {position} {name} --db {quote(str(answers.path()))}`"
    return markup.line(
        f"{command} computes what feeds {name} at position {position}, and it is shown here then."
    )


def sources(title: str, run: int, frame: pd.DataFrame, of: dict[str, float]) -> None:
    """What feeds a neuron somewhere; `of` is its pre_activation, activation and closure there."""
    tint = markup.scale(frame.value, "share of the pre-activation", signed=True)
    share = markup.number("share of the pre-activation", "value", signs=True, tint=tint)
    parts.table(title, frame, [_source(run), share])
    st.caption(
        f"They sum to {signed(of['pre_activation'])} within {abs(of['closure']):.0e}, at frozen LayerNorm "
        f"scale; GELU makes {signed(of['activation'])} of it."
    )


def companions(run: int, frame: pd.DataFrame) -> None:
    """The neurons and heads that rise and fall with this one."""

    def page(row: markup.Row) -> str:
        kind = str(row["kind"])
        return links.link(kind, run=run, **{kind: row["name"]})

    tint = markup.scale(frame.correlation, "Pearson's r", signed=True)
    columns = [
        markup.words("neuron or head", lambda row: str(row["name"]), page),
        markup.number("correlation", "correlation", 2, signs=True, tint=tint),
        markup.number("positions", "positions", 0),
    ]
    parts.table("Correlated neurons and heads, over the run's sample", frame, columns)
    st.caption(correlated(frame))
