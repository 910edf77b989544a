"""Look-ups: from a token to its neurons, the prompts that fire them, the heads that do, and when those do."""

import math
from collections.abc import Callable
from shlex import quote
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import (
    answers,
    conditions,
    linked,
    links,
    markup,
    page_neuron,
    page_text,
    parts,
)
from annotate_transformer.app.tables import (
    counted,
    explained,
    give_or_take,
    of_classes,
    one_line,
    p_value,
    ranged,
    signed,
    visible,
)
from annotate_transformer.store.names import head_name, neuron_name, parse

HEADS = 24  # columns of prompts and heads; a wide model has hundreds of heads
END = 24  # characters of a prompt's end, where the whole of it stands elsewhere
CHANCE = "by chance"


class Neuron(NamedTuple):
    """A neuron that was looked up."""

    run: int
    layer: int
    neuron: int

    @property
    def name(self) -> str:
        return neuron_name(self.layer, self.neuron)

    def asked(self, query: str, **more: Any) -> pd.DataFrame:
        """A query of pages.sql about it."""
        return answers.asked(query, **self._asdict(), **more)

    def link(self, **chosen: Any) -> str:
        """The address of this page, with another prompt or head."""
        kept = {name: links.text(name) for name in ("prompt", "head")} | chosen
        return links.link("next_token", run=self.run, neuron=self.name, **kept)


def show() -> None:
    """The page."""
    parts.title("Look-ups")
    run = parts.run()
    parts.run_picker(run, lambda _: dict.fromkeys(("token", "neuron", "prompt", "head")))
    found = answers.asked("next_token_neurons", run=run)
    if found.empty:
        raise parts.NothingYet(
            f"No neuron of run {run} was looked up yet: {_command('next-token', run)} does it, "
            "for those neurons of its late layers that write clearest towards one token."
        )
    name = links.text("neuron")
    if name is None:
        _start(run, found)
    else:
        neuron = Neuron(run, *page_text.place("N", name, run))
        _about(neuron, _looked_up(neuron, found))
        _walk(neuron)


def _command(what: str, run: int) -> str:
    return f"`annotate {what} --run {run} --db {quote(str(answers.path()))}`"


# Which neuron -------------------------------------------------------------------------------------


def _start(run: int, found: pd.DataFrame) -> None:
    """The neurons by their next-tokens, and those drawn by chance; how well all are explained."""
    found = _with_scores(run, found)
    chosen, drawn = found[~found.is_baseline], found[found.is_baseline]
    tokens = ["", *map(conditions.quoted, sorted(chosen.next_token.dropna().unique()))]
    token = links.one_of("token", tokens)
    left, _ = st.columns([1, 3])
    with left:
        parts.choose(
            "Next-token",
            tokens,
            token,
            "token",
            lambda text: visible(conditions.unquoted(text)) if text else "all",
        )
    if token:
        chosen = chosen[chosen.next_token == conditions.unquoted(token)]
    columns = [
        markup.a_token("next-token", "next_token"),
        markup.words("neuron", _neuron, lambda row: links.link("next_token", run=run, neuron=_neuron(row))),
        markup.number("congruence", "congruence", 2, signs=True),
        markup.number("relevant heads", "relevant_heads", 0),
        markup.words("held out (active + inactive)", of_classes),
        markup.words("balanced accuracy (95 %)", lambda row: ranged(row, "balanced_accuracy")),
    ]
    left, right = st.columns(2)
    with left:
        parts.table("Next-token neurons", chosen, columns)
    with right:
        parts.table("Drawn by chance: the baseline", drawn, columns)
    left, _ = st.columns(2)
    with left:
        _scores(run)


def _with_scores(run: int, found: pd.DataFrame) -> pd.DataFrame:
    """Of each neuron the mean over its explained heads, and of the ends of their intervals.

    The heads share the neuron's prompts, so they are taken to err together.
    """
    told = answers.of_lookups(run, "explanations")
    scores = ["balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high"]
    scored = told[told.balanced_accuracy.notna()].groupby(["layer", "neuron"])
    of_neuron = scored[scores].mean().join(scored[["active_prompts", "inactive_prompts"]].sum())
    merged = found.merge(of_neuron.reset_index(), on=["layer", "neuron"], how="left")
    merged.attrs = found.attrs
    return merged


def _neuron(row: markup.Row) -> str:
    return neuron_name(int(row["layer"]), int(row["neuron"]))


def _scores(run: int) -> None:
    """All of the run's explanations, beside the published ones."""
    columns = [
        markup.words("explained by", lambda row: str(row["explained_by"])),
        markup.words("neurons", lambda row: CHANCE if row["is_baseline"] else "next-token"),
        markup.number("heads", "heads", 0),
        markup.number("of neurons", "neurons", 0),
        markup.words("held out (active + inactive)", of_classes),
        markup.words("balanced accuracy (95 %)", lambda row: ranged(row, "balanced_accuracy")),
        markup.words("F1 (95 %)", lambda row: ranged(row, "f1")),
    ]
    parts.table("How well explanations foretell", answers.asked("scores", run=run), columns)
    st.caption(
        "On prompts that they were not made from, the mean over heads: 0.5 is chance. In brackets its 95 % "
        "interval over neurons drawn anew. Published: language models' explanations, Neo, Cohen and Barez "
        "(2024)."
    )


def _looked_up(neuron: Neuron, found: pd.DataFrame) -> "pd.Series[Any]":
    """
    Raises:
        BadLink: it was not.
    """
    rows = found[(found.layer == neuron.layer) & (found.neuron == neuron.neuron)]
    if rows.empty:
        raise links.BadLink(
            f"{neuron.name} is none of the {counted(len(found), 'neuron')} of run {neuron.run} that were "
            f"looked up. {_command('next-token', neuron.run)} with more --neurons takes more."
        )
    return rows.iloc[0]


def _about(neuron: Neuron, about: "pd.Series[Any]") -> None:
    """What was looked up, and how."""
    steps = {
        "all look-ups": links.link("next_token", run=neuron.run),
        "the neuron's own page": links.link("neuron", run=neuron.run, neuron=neuron.name),
    }
    parts.heading(neuron.name)
    linked.show(markup.ways(steps), key="ways")
    chosen = CHANCE if about.is_baseline else "by congruence"
    values = {"next-token": visible(about.next_token), "chosen": chosen}
    values |= {"congruence (logits, σ = 1)": signed(about.congruence, 2)}
    values |= {"highest windows": str(about.windows), "share kept": f"{about.share:g}"}
    values |= {"longest (tokens)": str(about.longest), "active from": f"{about.std_threshold:g} σ"}
    linked.show(markup.facts(values), key="about")


# What fires it ------------------------------------------------------------------------------------


def _walk(neuron: Neuron) -> None:
    """Its prompts, the heads on them, what those react to, and what is lost without them."""
    prompts = neuron.asked("neuron_prompts")
    if prompts.empty:
        st.caption("None of its windows has a context short enough that fires it: it has no prompts.")
        return
    _prompts(neuron, prompts)
    shares = neuron.asked("head_shares")
    prompt, head = _chosen(neuron, prompts, shares)
    _matrix(neuron, prompts, shares, prompt, head)
    relevant = shares.active_fraction.notna().any()
    left, right = st.columns([2, 3])
    with left:
        _feeds(neuron, prompts.set_index("prompt").loc[prompt])
    if not relevant:
        st.caption(
            "No head is active on a quarter to three quarters of its prompts: none tells them apart, so none "
            "is explained or ablated."
        )
        return
    with right:
        _without(neuron, str(head))
    _explanations(neuron)
    _ablations(neuron)
    left, _ = st.columns(2)
    with left:
        _scores(neuron.run)


def _prompts(neuron: Neuron, prompts: pd.DataFrame) -> None:
    """Each with its tokens coloured by what is stored of the neuron's activation there."""
    tokens = neuron.asked("prompt_tokens")
    by_prompt = {prompt: rows.to_dict("records") for prompt, rows in tokens.groupby("prompt")}
    colours = markup.scale(tokens.value, "activation in the corpus; pale: not kept there")

    def hover(row: markup.Row) -> str:
        value, bound = row["value"], row["bound"]
        known = f"at most {bound:.3f} in size" if math.isnan(value) else f"{value:.3f}"
        return f"{neuron.name} in the corpus: {known}\nposition {row['position_id']}"

    def text(row: markup.Row) -> str:
        return markup.text(
            by_prompt[row["prompt"]], value=lambda token: token["value"], colours=colours, hover=hover,
            href=lambda token: links.link("token", run=neuron.run, position=token["position_id"]),
            here=row["position_id"],
        )  # fmt: skip

    columns = [
        markup.number("prompt", "prompt", 0),
        markup.Column("the shortest context that fires it", text),
        markup.number("activation, read alone", "activation", signs=True),
        markup.number("in its window", "window_activation", signs=True),
        markup.number("windows", "windows", 0),
    ]
    parts.heading("Prompts", prompts, tokens=tokens)
    linked.show(colours.legend() + markup.table(prompts, columns), key="prompts")
    st.caption(
        "Coloured by the activation in the corpus, where more stands before; of the prompt read alone only "
        "that at its last token is stored."
    )


def _chosen(neuron: Neuron, prompts: pd.DataFrame, shares: pd.DataFrame) -> tuple[int, str | None]:
    """The prompt and head of the address, or the first ones; None: no head comes before the neuron."""
    numbers, prompt = [int(number) for number in prompts.prompt], links.number("prompt")
    prompt = numbers[0] if prompt is None else prompt
    if prompt not in numbers:
        raise links.BadLink(
            f"{neuron.name} has no prompt {prompt}; its different ones are {', '.join(map(str, numbers))}."
        )
    names = [head_name(*head) for head in dict.fromkeys(zip(shares.layer, shares["head"], strict=True))]
    head = (links.text("head") or "").upper() or next(iter(names), None)
    if head is not None and head not in names:
        before = sorted(names, key=parse)
        known = f"{before[0]} to {before[-1]}" if before else "none"
        raise links.BadLink(f"{head!r} is no head before {neuron.name}: those are {known}.")
    left, right, _ = st.columns([1, 1, 2])
    with left:
        parts.choose("Prompt", numbers, prompt, "prompt")
    with right:
        if head is not None:
            parts.choose("Head", names, head, "head")
    return prompt, head


def _matrix(
    neuron: Neuron, prompts: pd.DataFrame, shares: pd.DataFrame, prompt: int, head: str | None
) -> None:
    """What each head feeds the neuron on each prompt."""
    parts.heading("Heads active and inactive on each prompt", shares)
    if head is None:
        st.caption("No head comes before it: blocks are parallel, and it is in the first.")
        return
    colours = markup.scale(shares.value, "share of the pre-activation; bold and ●: active", signed=True)
    here = (prompt, head) if links.text("prompt") or links.text("head") else None
    heads = [of_head for _, of_head in shares.groupby(["layer", "head"], sort=False)]
    columns = [_of_head(neuron, of_head, colours, here) for of_head in heads[:HEADS]]
    shown = markup.table(prompts, [markup.words("prompt", _end), *columns])
    linked.show(colours.legend() + shown, key="heads")
    more = f" The first {HEADS} of {len(heads)} heads." if len(heads) > HEADS else ""
    st.caption("First, with the share of prompts on which they are active, the relevant heads." + more)


def _end(row: markup.Row) -> str:
    return f"{row['prompt']} … {one_line(row['text'])[-END:]}"


def _of_head(
    neuron: Neuron, shares: pd.DataFrame, colours: markup.Scale, here: tuple[int, str] | None
) -> markup.Column:
    """A column of the matrix: bold where the head is active, framed where prompt and head are chosen."""
    of_prompt = {row["prompt"]: row for row in shares.to_dict("records")}
    first = shares.iloc[0]
    name = head_name(first.layer, first["head"])

    def value(row: markup.Row) -> float:
        return float(of_prompt[row["prompt"]]["value"])

    def cell(row: markup.Row) -> str:
        prompt = row["prompt"]
        href, bold = neuron.link(prompt=prompt, head=name), of_prompt[prompt]["is_active"]
        return markup.marked(signed(value(row), 2), href, bold=bold, here=(prompt, name) == here)

    relevant = "" if pd.isna(first.active_fraction) else f" {first.active_fraction:.0%} of {first.prompts}"
    return markup.Column(name + relevant, cell, value, lambda row: colours.colour(value(row)))


def _feeds(neuron: Neuron, prompt: "pd.Series[Any]") -> None:
    """One prompt's shares."""
    frame = neuron.asked("prompt_inputs", prompt=int(prompt.name))
    of = {name: float(prompt[name]) for name in ("pre_activation", "activation", "closure")}
    page_neuron.sources(f"Shares on prompt {prompt.name}", neuron.run, frame, of)


# What a head reacts to, and what is lost without it -------------------------------------------------


def _of_neuron(neuron: Neuron, what: str) -> pd.DataFrame:
    """Its rows of the run's explanations or ablations."""
    frame = answers.of_lookups(neuron.run, what)
    found = frame[(frame.layer == neuron.layer) & (frame.neuron == neuron.neuron)]
    where = f"WHERE layer = {neuron.layer} AND neuron = {neuron.neuron}"
    found.attrs["sql"] = f"FROM (\n{frame.attrs['sql']}\n)\n{where}"
    return found


def _a_head(neuron: Neuron) -> markup.Column:
    """A relevant head, leading to what it does on each prompt."""

    def name(row: markup.Row) -> str:
        return head_name(int(row["source_layer"]), int(row["source_head"]))

    return markup.words("head", name, lambda row: neuron.link(head=name(row)))


def _explanations(neuron: Neuron) -> None:
    frame = _of_neuron(neuron, "explanations")
    columns = [
        _a_head(neuron),
        markup.words("explained by", lambda row: row["by"]),
        markup.words("when it is active", lambda row: one_line(row["told"])),
        markup.words("held out (active + inactive)", lambda row: row["held_out"]),
        markup.words("balanced accuracy (95 %)", lambda row: row["score_told"]),
        markup.words("baseline (95 %)", _baseline),
        markup.words("above it (95 %)", lambda row: row["difference_told"]),
        markup.words("beats it", lambda row: row["beats"]),
        markup.words("precision (95 %)", lambda row: row["precision_told"]),
        markup.words("NPV (95 %)", lambda row: row["npv_told"]),
        markup.words("F1 (95 %)", lambda row: row["f1_told"]),
    ]
    parts.table("When its relevant heads are active, explained", explained(frame), columns)
    if frame.empty:
        linked.show(f"<p>{markup.line(_command('explain', neuron.run) + ' makes them.')}</p>")
    else:
        st.caption(
            "Of the prompts held out. An explanation beats the baseline if the interval of the difference is "
            "above 0; of 40 that are no better, one does by chance."
        )


def _baseline(row: markup.Row) -> str:
    """With n."""
    if pd.isna(row["baseline"]):
        return "—"
    heads, neurons = (
        counted(int(row["baseline_heads"]), "head"),
        counted(int(row["baseline_neurons"]), "neuron"),
    )
    return f"{ranged(row, 'baseline')}, {heads} of {neurons}"


def _ablations(neuron: Neuron) -> None:
    frame = _of_neuron(neuron, "ablations")
    columns = [
        _a_head(neuron),
        markup.number("active prompts", "active_prompts", 0),
        markup.number("inactive ones", "inactive_prompts", 0),
        *_falls("activation", 3),
        *_falls("probability", 5),
    ]
    parts.table("Without each of them", frame, columns)
    if frame.empty:
        linked.show(f"<p>{markup.line(_command('next-token', neuron.run) + ' goes on with them.')}</p>")
    else:
        st.caption(
            "Its output at zero: the mean falls of the neuron's activation and of the probability of its "
            "next-token, ± half of the mean's 95 % interval; distance: Kolmogorov-Smirnov's, of the falls on "
            "active and inactive prompts; p: how often labels dealt out by chance give that distance or more."
        )


def _falls(of: str, digits: int) -> list[markup.Column]:
    """The mean falls on active and on inactive prompts, and how far apart they are."""

    def mean(kind: str) -> Callable[[markup.Row], str]:
        return lambda row: give_or_take(row[f"{of}_fall_{kind}"], row[f"{of}_margin_{kind}"], digits)

    return [
        markup.words(f"{of} falls there", mean("active")),
        markup.words("on inactive ones", mean("inactive")),
        markup.number("distance", f"{of}_distance", 2),
        markup.words("p", lambda row: p_value(row[f"{of}_p"])),
    ]


def _without(neuron: Neuron, name: str) -> None:
    """A head's prompts, one by one."""
    _, layer, head = parse(name)
    frame = neuron.asked("head_prompts", source_layer=layer, source_head=head)
    falls = markup.scale(frame.activation_fall, "activation", signed=True)
    columns = [
        markup.words("prompt", _end, lambda row: neuron.link(prompt=row["prompt"])),
        markup.words("head is", lambda row: "active" if row["is_active"] else "inactive"),
        markup.words("held out", lambda row: "yes" if row["is_held_out"] else "no"),
        markup.number("activation", "activation", signs=True),
        markup.number("without", "ablated_activation", signs=True),
        markup.number("falls", "activation_fall", signs=True, tint=falls),
        markup.number("probability falls", "probability_fall", 5, signs=True),
    ]
    parts.table(f"With and without {name}", frame, columns)
    if frame.empty:
        st.caption(f"{name} is active on too few or too many of the prompts: it was not ablated.")
