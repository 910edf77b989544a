"""The page Next-token neurons: a neuron's prompts, and explanations of the heads that are active on them."""

import math
from collections.abc import Callable
from shlex import quote
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, conditions, linked, links, markup, parts
from annotate_transformer.app.browser.pages import neuron as page_neuron
from annotate_transformer.app.browser.pages import text as page_text
from annotate_transformer.app.present import columns
from annotate_transformer.app.present.words import (
    counted,
    signed,
    visible,
)
from annotate_transformer.store.names import head_name, neuron_name, parse

TITLE, ICON, PLACE = "Next-token neurons", "account_tree", 60
KEEPS = ("neuron",)

HEADS = 24  # maximum number of heads (columns) in the table of prompts; a large model has hundreds of heads
CHANCE = "random sample"


class Neuron(NamedTuple):
    """A next-token neuron or baseline neuron of a run, and the queries about its prompts."""

    run: int
    layer: int
    neuron: int

    @property
    def name(self) -> str:
        return neuron_name(self.layer, self.neuron)

    def asked(self, query: str, **more: Any) -> pd.DataFrame:
        """Run the query called `query` for this neuron, and return its rows."""
        return answers.asked(query, **self._asdict(), **more)

    def link(self, **chosen: Any) -> str:
        """Return this page's URL for this neuron, with the URL parameters in `chosen` changed."""
        kept = {name: links.text(name) for name in ("prompt", "head")} | chosen
        return links.link("next_token", run=self.run, neuron=self.name, **kept)


def show() -> None:
    """Show the page."""
    parts.title(TITLE)
    run = parts.run()
    parts.run_picker(run, lambda _: dict.fromkeys(("token", "neuron", "prompt", "head")))
    found = answers.asked("next_token_neurons", run=run)
    if found.empty:
        raise parts.NothingYet(
            f"Run {run} has no next-token neurons with prompts yet: {_command('next-token', run)} makes "
            "them, for the neurons of its late layers with the highest congruence."
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


# The neuron ---------------------------------------------------------------------------------------


def _start(run: int, found: pd.DataFrame) -> None:
    """Show a table of next-token neurons, a table of baseline neurons, and the scores of explanations."""
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
    page = {"neuron": lambda row: links.link("next_token", run=run, neuron=_neuron(row))}
    left, right = st.columns(2)
    with left:
        parts.table("Next-token neurons", chosen, columns.LOOKED_UP, links=page)
    with right:
        parts.table("Random sample: the baseline", drawn, columns.LOOKED_UP, links=page)
    left, _ = st.columns(2)
    with left:
        _scores(run)


def _with_scores(run: int, found: pd.DataFrame) -> pd.DataFrame:
    """Add columns to each neuron's row: the scores of the neuron's explanations, averaged over heads.

    The ends of the intervals are averaged too: the heads share the neuron's prompts, so their errors are
    treated as fully correlated.
    """
    told = answers.explanations(run)
    scores = ["balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high"]
    scored = told[told.balanced_accuracy.notna()].groupby(["layer", "neuron"])
    of_neuron = scored[scores].mean().join(scored[["active_prompts", "inactive_prompts"]].sum())
    merged = found.merge(of_neuron.reset_index(), on=["layer", "neuron"], how="left")
    merged.attrs = found.attrs
    return merged


def _neuron(row: markup.Row) -> str:
    return neuron_name(int(row["layer"]), int(row["neuron"]))


def _scores(run: int) -> None:
    """Show the mean scores of the run's explanations, beside published scores."""
    parts.table("Scores of the explanations", answers.asked("scores", run=run), columns.SCORES)
    st.caption(
        "Means over heads, on held-out prompts; the chance level of the balanced accuracy is 0.5. In "
        "brackets: the 95 % interval of the mean, with the number of neurons as its sample size. The "
        "published scores are of explanations by language models (Neo, Cohen and Barez 2024)."
    )


def _looked_up(neuron: Neuron, found: pd.DataFrame) -> "pd.Series[Any]":
    """Return the neuron's row of the view `next_token_neurons`.

    Raises:
        BadLink: the view has no row for the neuron, because no prompts were made for it.
    """
    rows = found[(found.layer == neuron.layer) & (found.neuron == neuron.neuron)]
    if rows.empty:
        raise links.BadLink(
            f"{neuron.name} is not among the {counted(len(found), 'neuron')} of run {neuron.run} that have "
            f"prompts. {_command('next-token', neuron.run)} with a larger --neurons adds more."
        )
    return rows.iloc[0]


def _about(neuron: Neuron, about: "pd.Series[Any]") -> None:
    """Show facts about the neuron, and the settings with which its prompts were made."""
    steps = {
        "all neurons": links.link("next_token", run=neuron.run),
        "the neuron's own page": links.link("neuron", run=neuron.run, neuron=neuron.name),
    }
    parts.heading(neuron.name)
    linked.show(markup.ways(steps), key="ways")
    chosen = CHANCE if about.is_baseline else "by congruence"
    values = {"next-token": visible(about.next_token), "chosen": chosen}
    values |= {"congruence (logits, σ = 1)": signed(about.congruence, 2)}
    values |= {
        "windows with top activations": str(about.windows),
        "min activation (fraction)": f"{about.share:g}",
    }
    values |= {
        "longest (tokens)": str(about.max_tokens),
        "a head is active from": f"{about.std_threshold:g} σ",
    }
    linked.show(markup.facts(values), key="about")


# Its prompts --------------------------------------------------------------------------------------


def _walk(neuron: Neuron) -> None:
    """Show the neuron's prompts, the heads active on them, and these heads' explanations and ablations."""
    prompts = neuron.asked("neuron_prompts")
    if prompts.empty:
        st.caption("The neuron has no prompts: no context within the allowed length activates it.")
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
            "No head is relevant: none is active on a quarter to three quarters of the prompts, so none is "
            "explained or ablated."
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
    """Show the prompts, with each token coloured by the neuron's activation at that token."""
    tokens = neuron.asked("prompt_tokens")
    by_prompt = {prompt: rows.to_dict("records") for prompt, rows in tokens.groupby("prompt")}
    colours = markup.scale(tokens.value, "activation in the corpus; pale: not stored")

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

    parts.heading("Prompts", prompts, tokens=tokens)
    table = markup.table(prompts, columns.PROMPTS, cells={"text": text})
    linked.show(colours.legend() + table, key="prompts")
    st.caption(
        "The colours show the activations in the corpus, where more text of the window precedes the prompt. "
        "For the prompt read alone, only the activation at its last token is stored."
    )


def _chosen(neuron: Neuron, prompts: pd.DataFrame, shares: pd.DataFrame) -> tuple[int, str | None]:
    """Show boxes to choose a prompt and a head; return the prompt's number and the head's name in the URL.

    By default, they are the first prompt and the first head. The head is None if no head precedes the neuron.
    """
    numbers, prompt = [int(number) for number in prompts.prompt], links.number("prompt")
    prompt = numbers[0] if prompt is None else prompt
    if prompt not in numbers:
        raise links.BadLink(
            f"{neuron.name} has no prompt {prompt}; its distinct prompts are {', '.join(map(str, numbers))}."
        )
    names = [head_name(*head) for head in dict.fromkeys(zip(shares.layer, shares["head"], strict=True))]
    head = (links.text("head") or "").upper() or next(iter(names), None)
    if head is not None and head not in names:
        before = sorted(names, key=parse)
        known = f"{before[0]} to {before[-1]}" if before else "none"
        raise links.BadLink(f"{head!r} is not a head before {neuron.name}; the heads before it are {known}.")
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
    """Show a table with a row per prompt: each head's share of the neuron's pre-activation on that prompt."""
    parts.heading("Heads active and inactive on each prompt", shares)
    if head is None:
        st.caption(
            "No head precedes the neuron: it is in the first layer, whose attention and MLP run in parallel."
        )
        return
    colours = markup.scale(shares.value, "share of the pre-activation; bold and ●: active", signed=True)
    here = (prompt, head) if links.text("prompt") or links.text("head") else None
    heads = [of_head for _, of_head in shares.groupby(["layer", "head"], sort=False)]
    shown = {_name(of_head): of_head.set_index("prompt") for of_head in heads[:HEADS]}
    frame = prompts.assign(**{name: prompts.prompt.map(of_head.value) for name, of_head in shown.items()})
    known = [columns.signed_number(_heading(name, of_head), name, 2) for name, of_head in shown.items()]
    cells = {name: _of_head(neuron, name, of_head, here) for name, of_head in shown.items()}
    tints = dict.fromkeys(shown, colours)
    table = markup.table(frame, (columns.PROMPT_END, *known), cells=cells, tints=tints)
    linked.show(colours.legend() + table, key="heads")
    more = f" The first {HEADS} of {len(heads)} heads." if len(heads) > HEADS else ""
    st.caption(
        "First come the relevant heads, which are active on a quarter to three quarters of the prompts. The "
        "heading of a relevant head gives the percentage of prompts on which it is active." + more
    )


def _name(shares: pd.DataFrame) -> str:
    return head_name(shares.layer.iloc[0], shares["head"].iloc[0])


def _heading(name: str, shares: pd.DataFrame) -> str:
    first = shares.iloc[0]
    return (
        name if pd.isna(first.active_fraction) else f"{name} {first.active_fraction:.0%} of {first.prompts}"
    )


def _of_head(
    neuron: Neuron, name: str, shares: pd.DataFrame, here: tuple[int, str] | None
) -> Callable[[markup.Row], str]:
    """Return a function that writes a head's table cell: bold if the head is active, framed if chosen."""

    def cell(row: markup.Row) -> str:
        prompt = row["prompt"]
        href, bold = neuron.link(prompt=prompt, head=name), bool(shares.is_active[prompt])
        return markup.marked(signed(shares.value[prompt], 2), href, bold=bold, here=(prompt, name) == here)

    return cell


def _feeds(neuron: Neuron, prompt: "pd.Series[Any]") -> None:
    """Show the neuron's inputs at the last token of a prompt."""
    frame = neuron.asked("prompt_inputs", prompt=int(prompt.name))
    of = {name: float(prompt[name]) for name in ("pre_activation", "activation", "closure")}
    of |= {name: float(frame[name].iloc[0]) for name in ("pre_linear", "linear_closure")}
    page_neuron.sources(f"Inputs on prompt {prompt.name}", neuron.run, frame, of)


# Explanations and ablations -----------------------------------------------------------------------


def _of_neuron(neuron: Neuron, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows about this neuron from a frame of the run's explanations or ablations."""
    found = frame[(frame.layer == neuron.layer) & (frame.neuron == neuron.neuron)]
    where = f"WHERE layer = {neuron.layer} AND neuron = {neuron.neuron}"
    found.attrs["sql"] = f"FROM (\n{frame.attrs['sql']}\n)\n{where}"
    return found


def _to_head(neuron: Neuron) -> markup.Links:
    """Return the links of the column `source_head`: a click on a head chooses it on this page."""

    def page(row: markup.Row) -> str:
        return neuron.link(head=head_name(int(row["source_layer"]), int(row["source_head"])))

    return {"source_head": page}


def _explanations(neuron: Neuron) -> None:
    frame = _of_neuron(neuron, answers.explanations(neuron.run))
    title = "Explanations of when the heads are active"
    parts.table(title, frame, columns.EXPLANATIONS, links=_to_head(neuron))
    if frame.empty:
        linked.show(f"<p>{markup.line(_command('explain', neuron.run) + ' makes explanations.')}</p>")
    else:
        st.caption(
            "Scores are on held-out prompts. An explanation beats the baseline if the interval of the "
            "difference is above 0. By chance, this happens to 1 in 40 explanations that are not better."
        )


def _ablations(neuron: Neuron) -> None:
    frame = _of_neuron(neuron, answers.ablations(neuron.run))
    parts.table("Ablation of each relevant head", frame, columns.ABLATIONS, links=_to_head(neuron))
    if frame.empty:
        linked.show(f"<p>{markup.line(_command('next-token', neuron.run) + ' computes ablations.')}</p>")
    else:
        st.caption(
            "The head's output is set to zero. The table has the mean decreases of the neuron's activation "
            "and of the probability of its next-token. p is the p-value of an exact permutation test: its "
            "statistic is the Kolmogorov-Smirnov distance between the decreases on the prompts where the "
            "head is active and the decreases on the other prompts."
        )


def _without(neuron: Neuron, name: str) -> None:
    """Show the neuron's activation on each prompt, with a head intact and with that head ablated."""
    _, layer, head = parse(name)
    frame = neuron.asked("head_prompts", source_layer=layer, source_head=head)
    tints = {"activation_fall": markup.scale(frame.activation_fall, "activation", signed=True)}
    page = {"prompt": lambda row: neuron.link(prompt=row["prompt"])}
    parts.table(f"Prompts with and without {name}", frame, columns.HEAD_PROMPTS, links=page, tints=tints)
    if frame.empty:
        st.caption(f"{name} is active on too few or too many of the prompts: it was not ablated.")
