"""The page Neuron: statistics, top activations and a random sample, direct effects, weights."""

from collections.abc import Callable
from html import escape
from shlex import quote

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, charts, linked, links, markup, parts, totals
from annotate_transformer.app.present import columns
from annotate_transformer.app.present.inputs import by_reading, readings, through
from annotate_transformer.app.present.words import closeness, correlated, counted, signed
from annotate_transformer.store.names import neuron_name, parse, source_name

TITLE, ICON, PLACE = "Neuron", "scatter_plot", 40
KEEPS = ("neuron",)

RANDOM = (
    "z: relative to random directions of the same norm; for next-tokens, relative to the largest congruence "
    "of such directions."
)


def show() -> None:
    """Show the page."""
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
    statistics("neuron", f"Activation in run {run}", found["stats"])
    place = {"run": run, "layer": int(about.layer), "neuron": int(about.neuron)}
    coloured("neuron", run, name, _prompts_of(place, name))
    parts.heading("Histogram of the activation", found["histogram"])
    charts.show(
        charts.histogram(found["histogram"], "activation after the nonlinearity"), "positions by activation"
    )
    interval(run, name, found["histogram"])
    if found["mean_activation"].positions.iloc[0]:
        parts.heading("Mean activation over the sample, with a 95 % interval", found["mean_activation"])
        facts = columns.as_facts(found["mean_activation"].iloc[0], columns.MEAN_ACTIVATION)
        linked.show(markup.facts(facts), key="mean activation")
    totals.over_sample(run, "neuron", name)
    _contexts(run, name, found)
    left, right = st.columns(2)
    with left:
        _tokens(found["tokens"])
    with right:
        effects(found["effects"], columns.NEURON_EFFECTS)
    _weights(run, name)
    left, right = st.columns(2)
    with left:
        _fed(place, name, found["high"])
    with right:
        companions(run, found["companions"])


def asked(kind: str, example: str) -> tuple[int, str | None]:
    """Show boxes in the sidebar to choose a run and a neuron or head; return the URL's run and name."""
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
    """Show a page from the weights alone, if the URL names a model or the store has weights but no run.

    Returns whether the page was shown.
    """
    there = answers.models()
    model = links.text("model") or (
        str(there.model_id.iloc[-1]) if len(there) and answers.runs().empty else ""
    )
    if not model:
        return False
    with st.sidebar:
        name = parts.asked_unit(kind, example)
    parts.title_of_unit(kind)
    linked.show(f"<p>By the weights of model {escape(model)}, without a corpus.</p>", key="model")
    with links.on_model(model):
        if name is None:
            start(None, model)
        else:
            weights(None, name, model)
    if name is None:
        models(kind)
    return True


def models(kind: str) -> None:
    """Show a table of the models whose weights were read, including models that have no run."""
    frame = answers.models()
    if len(frame):
        model = {"name": lambda row: links.link(kind, model=row["model_id"])}
        parts.table("Models by their weights alone", frame, columns.MODELS, links=model)


def coloured(kind: str, run: int, name: str, more: dict[str, str] | None = None) -> None:
    """Show a link to a text that is coloured by this neuron or head, and the links in `more`.

    more: maps the label of each link to its URL
    """
    ways = {f"colour a text by this {kind}": links.link("text", run=run, colour=kind, **{kind: name})}
    linked.show(markup.ways(ways | (more or {})), key="ways")


def _prompts_of(place: dict[str, int], name: str) -> dict[str, str]:
    """Return a link (label and URL) to the page of the neuron's prompts; {} if the neuron has no prompts."""
    if not answers.asked("is_looked_up", **place).is_looked_up[0]:
        return {}
    return {"prompts of this next-token neuron": links.link("next_token", run=place["run"], neuron=name)}


def _start(run: int) -> None:
    """Show a table of the neurons with the largest effects, to choose one."""
    st.caption("Write a neuron's name in the sidebar, or choose one with large effects.")
    frame = answers.asked("strongest_neurons", run=run, limit=50)
    parts.table(
        "Neurons with the largest direct effects", frame, columns.STRONGEST_NEURONS, links=markup.units(run)
    )
    _kinds(run, None)
    models("neuron")


def _kinds(run: int | None, model: str | None) -> None:
    """Show a table of next-token neurons, and a table of erasing neurons, which remove what they read."""
    kinds = answers.weights(run, model, next_token_neurons={"k": 5}, erasing_neurons={"k": answers.TOKENS})
    if not kinds:
        return
    left, right = st.columns(2)
    with left:
        clearest, listed = kinds["next_token_neurons"], columns.NEXT_TOKEN_NEURONS
        parts.table("Next-token neurons, by the weights", clearest, listed, links=markup.units(run))
    with right:
        erasing, listed = kinds["erasing_neurons"], columns.ERASING_NEURONS
        parts.table("Erasing neurons: output opposed to input", erasing, listed, links=markup.units(run))
    st.caption(RANDOM)


def statistics(kind: str, title: str, stats: pd.DataFrame) -> None:
    """Show a neuron's or head's statistics over every position of the run."""
    parts.heading(title, stats)
    linked.show(markup.facts(columns.as_facts(stats.iloc[0], columns.STATISTICS[kind])))


def interval(run: int, name: str, histogram: pd.DataFrame) -> None:
    """Show a select box for a bin of the histogram, and contexts whose value lies in that bin."""
    filled = histogram[histogram.positions > 0].set_index("bin")
    chosen = links.one_of("bin", ["", *map(str, filled.index)])

    def words(option: str) -> str:
        if not option:
            return "choose an interval to see its contexts"
        row = filled.loc[int(option)]
        low, high = ("…" if pd.isna(edge) else signed(edge) for edge in (row.low, row.high))
        return f"{low} to {high}: {counted(int(row.positions), 'position')}"

    parts.choose("Interval of the histogram", ["", *map(str, filled.index)], chosen, "bin", words)
    if chosen:
        frame = answers.interval(name, run, int(chosen))
        parts.heading(f"Contexts from {words(chosen)}", frame)
        linked.show(
            markup.panels(
                [panel(run, frame, "value", "In this interval", "from the sample and the top lists", name)]
            ),
            key="interval",
        )


def _contexts(run: int, name: str, found: dict[str, pd.DataFrame]) -> None:
    """Show top activations beside a random sample, because top activations alone mislead."""
    shown = {
        "Top activations": (found["high"], "activation", "exact over the whole run"),
        "Lowest activations": (found["low"], "activation", "exact over the whole run"),
        "Random sample": (found["random"], "value", "uniform over the run's positions"),
        "By fifths": (found["quantiles"], "value", "three of each fifth of the sample, the highest first"),
    }
    frames = {title.lower(): frame for title, (frame, _, _) in shown.items()}
    parts.heading("Contexts", found["high"], **frames)
    sections = (panel(run, frame, value, title, note, name) for title, (frame, value, note) in shown.items())
    linked.show(markup.panels(sections), key="contexts")


def panel(run: int, frame: pd.DataFrame, value: str, title: str, note: str, unit: str | None = None) -> str:
    """Return a panel of contexts as HTML; each context links to the page of its token.

    value: the column of numbers; unit: a head or neuron whose total effect is offered at each context
    """
    beside = totals.beside(run, unit, frame) if unit else lambda row: None
    lines = [
        markup.context(
            row, signed(row[value]), links.link("token", run=run, position=row["position_id"]),
            beside=beside(row),
        )
        for row in frame.to_dict("records")
    ]  # fmt: skip
    return markup.panel(title, note, lines)


def _tokens(frame: pd.DataFrame) -> None:
    title = "Tokens at which the neuron is most often among the stored (strongest) ones"
    parts.table(title, frame, columns.NEURON_TOKENS)


def effects(frame: pd.DataFrame, listed: columns.Columns) -> None:
    """Show the next tokens on which a neuron or head has the largest direct effects."""
    tints = {"total_effect": markup.scale(frame.total_effect, "logits", signed=True)}
    parts.table("Next tokens with the largest direct effects", frame, listed, tints=tints)


def _weights(run: int | None, name: str, model: str | None = None) -> None:
    """Show what the neuron's weights alone say about the neuron, without a corpus."""
    asked = ("neuron_stats", "neuron_vocabulary", "neuron_reads")
    found = answers.weights(run, model, **{method: {"name": name} for method in asked})
    if not found:
        st.caption("The model's weights were not read into this store: `annotate weights` reads them.")
        return
    about, vocabulary = found["neuron_stats"].iloc[0], found["neuron_vocabulary"]
    parts.heading("By its weights", found["neuron_stats"])
    linked.show(markup.facts(columns.as_facts(about, columns.weights_of(about))))
    promoted, suppressed, sources = st.columns(3)
    for column, direction in ((promoted, "promotes"), (suppressed, "suppresses")):
        with column:
            rows = vocabulary[vocabulary.direction == direction]
            parts.table(f"Tokens it {direction}", rows, columns.NEURON_VOCABULARY)
    with sources:
        _reads(run, found["neuron_reads"], is_gated=not pd.isna(about.gate_norm))
    st.caption(f"{RANDOM} n = {about.draws} directions.")


def _reads(run: int | None, frame: pd.DataFrame, is_gated: bool) -> None:
    """Show the earlier components from which the neuron can read most; a gated neuron gets two tables."""
    for reading, rows in readings(frame) or [("pre", frame)]:
        title = f"Earlier components it can read most{through(reading, is_gated)}"
        parts.table(title, rows, columns.NEURON_READS, links=_source(run))


def _source(run: int | None) -> markup.Links:
    """Return the links of the column `component`: a head or neuron in this column links to its page."""

    def page(row: markup.Row) -> str | None:
        kind = str(row["component"])
        return links.link(kind, run=run, **{kind: source_name(row)}) if kind in ("head", "neuron") else None

    return {"component": page}


def _fed(place: dict[str, int], name: str, high: pd.DataFrame) -> None:
    """Show where the neuron's inputs are stored or, if they are stored nowhere, how to compute them."""

    def page(row: markup.Row) -> str:
        return links.link("token", run=place["run"], position=row["position_id"], neuron=name)

    frame = answers.asked("fed_positions", **place)
    if len(frame):
        parts.table("Its inputs", frame, columns.INPUTS_STORED, links={"token": page})
    elif len(high):
        parts.heading("Its inputs")
        linked.show(f"<p>{compute_inputs(int(high.position_id.iloc[0]), name)}</p>", key="compute")


def compute_inputs(position: int, name: str) -> str:
    """Return a sentence as HTML with the command that computes a neuron's inputs at a position."""
    command = f"`annotate inputs {position} {name} --db {quote(str(answers.path()))}`"
    return markup.line(
        f"{command} computes the inputs of {name} at position {position}; then they are shown here."
    )


def sources(title: str, run: int, frame: pd.DataFrame, of: dict[str, float]) -> None:
    """Show a neuron's inputs: a table for the pre-activation and, in a gated MLP, one for the linear input.

    `of` has the activation, the values to which the inputs sum, and their closure errors, which are the sum
    of the inputs minus the value (attributes of Store.neuron_inputs).
    """
    split = by_reading(frame, of)
    for inputs in split:
        tints = {"value": markup.scale(inputs.frame.value, f"share of the {inputs.value}", signed=True)}
        named = title if len(split) == 1 else f"{title}: {inputs.value}"
        known = columns.neuron_inputs(inputs.value)
        parts.table(named, inputs.frame, known, links=_source(run), tints=tints)
        st.caption(
            f"They sum to the {inputs.value} {signed(inputs.total)} within {closeness(inputs.closure)}, at "
            f"the frozen scale of the norm; the activation is {signed(of['activation'])}."
        )


def companions(run: int, frame: pd.DataFrame) -> None:
    """Show the neurons and heads that are correlated with this neuron or head."""

    def page(row: markup.Row) -> str:
        kind = "head" if parse(row["name"])[0] == "H" else "neuron"
        return links.link(kind, run=run, **{kind: row["name"]})

    tints = {"correlation": markup.scale(frame.correlation, "Pearson's r", signed=True)}
    title = "Correlated neurons and heads, over the run's random sample"
    parts.table(title, frame, columns.CORRELATED, links={"name": page}, tints=tints)
    st.caption(correlated(frame))
