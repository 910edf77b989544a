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

EXAMPLE = 12, 8  # number of tokens before and after the token of an example
FEW = 8  # number of tokens and components in the lines of what a neuron reads and promotes
LONGEST = 400  # maximum number of characters of a text to try a neuron or head on
SCALES = {"linear": "linear", "log": "symlog"}
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
    _reads_and_promotes(run, name)
    _contexts(run, name, found)
    on_my_text(run, "neuron", name)
    histogram(
        run, "neuron", name, found["histogram"], "activation after the nonlinearity", "unit of activation"
    )
    if found["mean_activation"].positions.iloc[0]:
        parts.heading("Mean activation over the sample, with a 95 % interval", found["mean_activation"])
        facts = columns.as_facts(found["mean_activation"].iloc[0], columns.MEAN_ACTIVATION)
        linked.show(markup.facts(facts), key="mean activation")
    totals.over_sample(run, "neuron", name)
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


def _reads_and_promotes(run: int, name: str) -> None:
    """Show in three lines what the neuron reads and promotes by its weights; the tables are further below."""
    found = answers.weights(run, None, neuron_vocabulary={"name": name}, neuron_reads={"name": name})
    if not found:
        return
    vocabulary, reads = found["neuron_vocabulary"], found["neuron_reads"]
    tokens = {
        f"it {direction}": [
            f'<span class="token">{markup.token(token)}</span>' for token in of.token.head(FEW)
        ]
        for direction, of in vocabulary.groupby("direction", sort=False)
    }
    known = {
        "it can read most": [markup.line(source_name(row)) for row in reads.head(FEW).to_dict("records")]
    }
    shown = "".join(f"<p><i>{words}</i> {' · '.join(of)}</p>" for words, of in (known | tokens).items() if of)
    linked.show(shown, key="reads and promotes")


def on_my_text(run: int, kind: str, name: str) -> None:
    """Show a box for a text, and the text coloured by a neuron's activation or a head's direct effect.

    The URL parameter `try` holds the text.
    """
    written = links.text("try") or ""
    parts.subheading("Try it on your text")
    key = f"try {hash(written)}"
    with st.form("try", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        st.text_input(f"A text for {name}", written[:LONGEST], key=key, max_chars=LONGEST)
        st.form_submit_button("Read", on_click=lambda: links.put_text("try", st.session_state[key]))
    if not written.strip():
        return
    if len(written) > LONGEST:
        raise links.BadLink(
            f"The address holds a text of {len(written):,} characters; at most {LONGEST:,} are allowed."
        )
    with st.spinner("The run's model reads the text; the first time also loads the model …"):
        tokens, frame = answers.on_text(written, name, run)
    values = dict(zip(frame.position_id, frame.value, strict=True))
    unit = "activation" if kind == "neuron" else "direct effect on the next token (logits)"
    colours = markup.scale(frame.value, f"{name}: {unit}", signed=True)

    def hover(row: markup.Row) -> str:
        known = values.get(row["position_id"])
        return "no next token" if known is None or pd.isna(known) else f"{unit}: {signed(known)}"

    shown = markup.text(
        tokens.to_dict("records"),
        value=lambda row: values.get(row["position_id"]),
        colours=colours,
        hover=hover,
        href=lambda row: links.link("prompt", run=run, text=written, at=row["position_id"]),
    )
    linked.show(colours.legend() + shown, key="on my text")


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


def histogram(run: int, kind: str, name: str, frame: pd.DataFrame, what: str, unit: str) -> None:
    """Show a histogram, and the contexts of the interval that a click on a bar or the box chooses."""
    parts.heading("Histogram over all positions", frame)
    scale = parts.switch("Vertical scale", [*SCALES], "scale", {"linear": "linear", "log": "logarithmic"})
    pages = {
        row.bin: links.link(kind, run=run, **{kind: name}, bin=row.bin, scale=scale)
        for row in frame.itertuples()
    }
    charts.show(charts.histogram(frame, what, unit, pages, SCALES[scale]), f"positions by {what}")
    filled = frame[frame.positions > 0].set_index("bin")
    chosen = links.one_of("bin", ["", *map(str, filled.index)])

    def words(option: str) -> str:
        if not option:
            return "click a bar, or choose an interval here, to see its contexts"
        row = filled.loc[int(option)]
        low, high = ("…" if pd.isna(edge) else signed(edge) for edge in (row.low, row.high))
        return f"{low} to {high}: {counted(int(row.positions), 'position')}"

    parts.choose("Interval of the histogram", ["", *map(str, filled.index)], chosen, "bin", words)
    if chosen:
        found = answers.interval(name, run, int(chosen))
        parts.heading(f"Contexts from {words(chosen)}", found)
        section = panel(run, found, "value", "In this interval", "from the sample and the top lists", name)
        linked.show(f"<p data-scroll></p>{markup.panels([section])}", key="interval")


def _contexts(run: int, name: str, found: dict[str, pd.DataFrame]) -> None:
    """Show top activations beside a random sample, because top activations alone mislead."""
    shown = {
        "Top activations": (found["high"], "activation", "exact over the whole run"),
        "Random sample": (found["random"], "value", "uniform over the run's positions"),
        "By fifths": (found["quantiles"], "value", "three of each fifth of the sample, the highest first"),
        "Lowest activations": (found["low"], "activation", "exact over the whole run"),
    }
    frames = {title.lower(): frame for title, (frame, _, _) in shown.items()}
    parts.heading("Examples", found["high"], **frames)
    every = sorted({int(position) for frame in frames.values() for position in frame.position_id})
    tokens = answers.asked("around", run=run, positions=every, before=EXAMPLE[0], after=EXAMPLE[1])
    values, note = _known(run, name, every, pd.concat([f.assign(value=f[v]) for f, v, _ in shown.values()]))
    by_example = {
        int(example): of.assign(value=[values.get((int(example), int(p))) for p in of.position_id]).to_dict(
            "records"
        )
        for example, of in tokens.groupby("example")
    }
    colours = markup.scale(
        pd.Series([*values.values()], dtype=float), f"activation of {name}; {note}", signed=True
    )
    sections = (
        examples(run, frame, value, title, note, name, by_example, colours)
        for title, (frame, value, note) in shown.items()
    )
    linked.show(colours.legend() + markup.panels(sections), key="contexts")


def _known(
    run: int, name: str, every: list[int], rows: pd.DataFrame
) -> tuple[dict[tuple[int, int], float], str]:
    """Return the known values around the examples by example and position_id, and which they are.

    Without the URL parameter `every` they are those of the examples themselves.
    """
    if links.text("every"):
        with st.spinner(
            f"The run's model reads {counted(len(every), 'window')}; the first time also loads it …"
        ):
            found = answers.around(name, every, *EXAMPLE, run)
        return dict(
            zip(zip(found.example, found.position_id, strict=True), found.value, strict=True)
        ), "of every token"
    here = {name: links.text(name) for name in ("bin", "scale", "try")}
    way = {"Colour every token": links.link("neuron", run=run, neuron=name, **here, every=1)}
    linked.show(
        markup.ways(way, f": the run's model reads {counted(len(every), 'window')} again"), key="every"
    )
    own = {(int(p), int(p)): float(v) for p, v in zip(rows.position_id, rows.value, strict=True)}
    return own, "of the examples alone"


def examples(
    run: int, frame: pd.DataFrame, value: str, title: str, note: str, unit: str,
    tokens: dict[int, list[markup.Row]], colours: markup.Scale,
) -> str:  # fmt: skip
    """Return a panel of coloured examples as HTML, one for each distinct text with its count.

    tokens: the tokens around each example, with their values
    """
    beside, lines = totals.beside(run, unit, frame), []
    for _, equal in frame.groupby(["before", "text", "after"], sort=False, dropna=False):
        row = {str(key): cell for key, cell in equal.iloc[0].to_dict().items()}
        number = int(row["position_id"])
        href = links.link("token", run=run, position=number)
        lines.append(
            markup.example(row, signed(row[value]), href, tokens[number], colours, len(equal), beside(row))
        )
    return markup.panel(title, note, lines)


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
