"""The page Text: a document in which each token is coloured by a quantity and links to its own page."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, linked, links, markup, parts
from annotate_transformer.app.present.words import chance, in_text, one_line, visible
from annotate_transformer.store import BadQuestion
from annotate_transformer.store.names import parse, unit_name

TITLE, ICON, PLACE = "Text", "article", 20
KEEPS = ("document", "from", "position")

TOKENS = 1500  # maximum number of tokens on a page: a browser can draw this many quickly
BEFORE = 300  # number of tokens that are shown before the position that the URL names
DOCUMENTS = 200  # maximum number of documents in the box in which the user selects a document
COLOURS = {
    "loss": "loss of the token", "rank": "rank of the token", "entropy": "entropy of the next prediction",
    "neuron": "a neuron's activation", "head": "a head's direct effect",
    "attn": "the direct effect of a layer's attention", "mlp": "the direct effect of a layer's MLP",
    "lens": "lens agreement: the layer from which the lens gives the top prediction",
    "learned": "step at which the token is learned",
}  # fmt: skip
TOWARD = {"next": "on the next token", "top": "on the top prediction"}


@dataclass(frozen=True)
class Coloured:
    """Values that colour a text, by position_id. `without` returns the hover text for a missing value.

    of_prediction: each value is about how its token was predicted, from the position before; the token then
    links to that position
    """

    values: dict[int, float]
    scale: markup.Scale
    name: str
    frame: pd.DataFrame
    without: Callable[[int], str] = lambda position_id: "—"
    of_prediction: bool = False


def show() -> None:
    """Show the page."""
    parts.title("Text")
    run = parts.run()
    parts.run_picker(run, lambda other: {"document": _document(run), "from_": None, "position": None})
    document = _chosen(run)
    if not document["tokens"]:
        raise parts.NothingYet(f"Run {run} has not reached document {document['document_id']}.")
    first, last = _window(document)
    coloured = coloured_by([*COLOURS], run, first, last)
    tokens = _tokens(run, first, last)
    with st.container(horizontal=True, vertical_alignment="center"):
        linked.show(coloured.scale.legend(), key="legend")
        parts.data("values", {"values": coloured.frame})
        _hits(run, first)
    _pages(run, document, first, last)
    here = links.number("position")
    linked.show(running(run, tokens, coloured, here, first), key=f"text {run} {first}")
    _pages(run, document, first, last, below=True)


# Document and page --------------------------------------------------------------------------------


def _document(run: int) -> int | None:
    """Return the URL's document_id, or the document of the URL's position; None if the URL has neither."""
    number, position = links.number("document"), links.number("position")
    if number is None and position is not None:
        at = answers.position(position)
        if int(at.run_id) != run:
            raise links.BadLink(f"Position {position} belongs to run {at.run_id}, not to run {run}.")
        return int(at.document_id)
    return number


def _chosen(run: int) -> dict[str, Any]:
    numbers = answers.asked("numbers_of_documents", run=run).iloc[0]
    if pd.isna(numbers["first"]):
        raise parts.NothingYet(
            f"Run {run} has committed no document yet; it will be shown as soon as it has."
        )
    wanted = _document(run)
    current = int(numbers["first"]) if wanted is None else wanted
    found = answers.asked("document", run=run, document=current)
    if found.empty:
        known = f"{numbers['first']} to {numbers['last']}"
        raise BadQuestion(f"The corpus of run {run} has no document {current}; they are numbered {known}.")
    _choose(run, found)
    return {str(key): value for key, value in found.iloc[0].to_dict().items()}


def _choose(run: int, current: pd.DataFrame) -> None:
    """Show a search box for documents, and a select box of the matches and the current document."""
    find = links.text("find") or ""
    listed = answers.asked("documents", run=run, find=find, limit=DOCUMENTS)
    names = {int(row["document_id"]): name(row) for row in pd.concat([listed, current]).to_dict("records")}
    start = {"from_": None, "position": None}

    def first(find: str) -> dict[str, Any]:
        found = answers.asked("documents", run=run, find=find.strip(), limit=1).document_id
        return start | {"document": int(found.iloc[0])} if find.strip() and len(found) else {}

    left, right = st.columns([1, 2], vertical_alignment="bottom")
    with left:
        st.text_input(
            "Find a document", placeholder="its number, name or beginning", **parts.held("find", find, first)
        )
    with right:
        label = f"Document: {len(listed)} found" if find else "Document"
        if len(listed) == DOCUMENTS:
            label = f"Document: the first {DOCUMENTS}"
        number = int(current.document_id.iloc[0])
        parts.choose(label, [*names], number, "document", names.__getitem__, lambda _: start)


def name(row: dict[str, Any]) -> str:
    """Return a document's label: its document_id, the title from its metadata, if any, and its beginning."""
    metadata = json.loads(row["metadata"]) if row["metadata"] else {}
    title = next((one_line(str(metadata[key])) for key in ("title", "id", "name") if metadata.get(key)), "")
    return " · ".join(part for part in (str(row["document_id"]), title, one_line(row["beginning"])) if part)


def _window(document: dict[str, Any]) -> tuple[int, int]:
    """Return the first and last position_id on the page; the position_ids of a document are consecutive."""
    low, high = int(document["first"]), int(document["last"])
    start, position = links.number("from"), links.number("position")
    if start is None:
        start = low if position is None or position - low < TOKENS else position - BEFORE
    start = min(max(start, low), high)
    return start, min(start + TOKENS - 1, high)


def _pages(run: int, document: dict[str, Any], first: int, last: int, *, below: bool = False) -> None:
    """Show links to the previous and next page of the document, and which tokens this page shows."""
    low, high = int(document["first"]), int(document["last"])
    kept = {name: links.text(name) for name in ("find", "colour", "layer", "neuron", "head", "toward")}
    place = {"run": run, "document": document["document_id"]} | kept
    parts_ = []
    if first > low:
        parts_.append(f'<a class="more" href="{_at(place, max(low, first - TOKENS))}">← earlier</a>')
    parts_.append(f"tokens {first - low + 1:,} to {last - low + 1:,} of {high - low + 1:,}")
    if last < high:
        parts_.append(f'<a class="more" href="{_at(place, last + 1)}">later →</a>')
    if not below or len(parts_) > 1:
        linked.show(f"<p>{' · '.join(parts_)}</p>", key=f"pages {below}")


def _at(place: dict[str, Any], start: int) -> str:
    return escape(links.link("text", **place, from_=start))


def _hits(run: int, first: int) -> None:
    """Show links to the nearest positions before and after with extreme values of the neuron or head.

    The extreme values are those in the stored lists of largest and smallest values, in any document.
    """
    colour = links.text("colour")
    if colour not in ("neuron", "head"):
        return
    layer, unit = place("N" if colour == "neuron" else "H", links.text(colour) or "", run)
    here = links.number("position") or first
    near = answers.asked(f"{colour}_hits", run=run, layer=layer, unit=unit, position=here).iloc[0]
    kept = {name: links.text(name) for name in (colour, "toward")} | {"run": run, "colour": colour}
    steps = [
        f'<a class="more" href="{escape(links.link("text", **kept, position=int(hit)))}">{words}</a>'
        for words, hit in (("← previous hit", near.before), ("next hit →", near.after))
        if not pd.isna(hit)
    ]
    linked.show(f"<p>{' · '.join(steps)}</p>", key="hits")


# The quantity -------------------------------------------------------------------------------------


def coloured_by(quantities: Sequence[str], run: int, first: int, last: int) -> Coloured:
    """Show boxes to choose the quantity that colours the text, and return the quantity's values."""
    colour = links.one_of("colour", quantities)
    left, middle, right = st.columns([3, 2, 4], vertical_alignment="bottom")
    with left:
        parts.choose("Colour by", quantities, colour, "colour", lambda key: COLOURS[key])
    if colour in ("loss", "rank", "entropy"):
        return _prediction(run, colour, first, last)
    if colour == "lens":
        return _settled(run, first, last)
    if colour == "learned":
        return _learned(run, first, last)
    with middle:
        which = _which(run, colour)
    if colour == "neuron":
        return _neuron(run, which, first, last)
    with right:
        toward = parts.switch("Direct effect", ["next", "top"], "toward", TOWARD)
    return _effect(run, colour, which, toward, first, last)


def _which(run: int, colour: str) -> str:
    """Show a box to choose a neuron, head or layer, and return the choice.

    The default is the neuron or head with the largest effects, or the last layer.
    """
    if colour in ("attn", "mlp"):
        layers = [str(layer) for layer in range(int(answers.model_of(run).n_layers))]
        current = links.one_of("layer", layers[::-1])
        parts.choose("Layer", layers, current, "layer")
        return current
    strongest = answers.asked(f"strongest_{colour}s", run=run, limit=1)
    if links.text(colour) is None:
        letter = "N" if colour == "neuron" else "H"
        start = unit_name(letter, strongest.layer.iloc[0], strongest[colour].iloc[0])
        links.put(**{colour: start})
        st.rerun()
    return str(parts.asked_unit(colour, "L1H2" if colour == "head" else "L3N7"))


def _prediction(run: int, colour: str, first: int, last: int) -> Coloured:
    """Colour each token by its loss or rank, or by the entropy of the prediction after it."""
    frame = _tokens(run, first, last)
    values = _by_position(frame, colour)
    if colour == "entropy":
        scale = markup.scale(frame.entropy, "entropy (nats) of the prediction after the token")
        return Coloured(values, scale, "entropy", frame)
    unit = {"loss": "loss (nats) of the token", "rank": "rank of the token, 1 is the top prediction"}[colour]
    scale = markup.scale(frame[colour], unit, log=colour == "rank")
    return Coloured(_of_token(values), scale, colour, frame, of_prediction=True)


def _settled(run: int, first: int, last: int) -> Coloured:
    frame = answers.asked("settled", run=run, first=first, last=last)
    if frame.empty:
        raise parts.NothingYet(f"Run {run} has no logit lens: choose another colour, or ingest with --lens.")
    unit = "layer from which the lens gives the top prediction; 0: from the first layer"
    scale = markup.scale(frame.settled, unit)
    return Coloured(_by_position(frame, "settled"), scale, "lens agrees from layer", frame)


def _learned(run: int, first: int, last: int) -> Coloured:
    frame = answers.learned(int(_tokens(run, first, last).position_id.iloc[0]), last)
    unit = "step by which the loss of the token has fallen by half; pale text: it falls by less than 1 nat"
    scale = markup.scale(frame.step, unit, log=True)
    values = _of_token(_by_position(frame, "step"))
    return Coloured(
        values, scale, "learned at step", frame, lambda _: "not learned", of_prediction=True
    )  # fmt: skip


def _of_token(values: dict[int, float]) -> dict[int, float]:
    """Return values about next tokens by the position_id of those tokens, without missing values.

    A next token is the next position of the same document.
    """
    return {position + 1: value for position, value in values.items() if not math.isnan(value)}


def _neuron(run: int, which: str, first: int, last: int) -> Coloured:
    layer, number = place("N", which, run)
    frame = answers.asked("neuron_values", run=run, layer=layer, neuron=number, first=first, last=last)
    scale = markup.scale(frame.value, f"activation of {parsed(which)}; pale text: not stored")
    bounds = _by_position(frame, "bound")
    return Coloured(
        _by_position(frame, "value"), scale, f"activation of {parsed(which)}", frame,
        lambda position_id: f"not stored; at most {bounds.get(position_id, math.nan):.3f} in size",
    )  # fmt: skip


def _effect(run: int, colour: str, which: str, toward: str, first: int, last: int) -> Coloured:
    if colour == "head":
        layer, number = place("H", which, run)
        frame = answers.asked("head_values", run=run, layer=layer, head=number, first=first, last=last)
        name = f"direct effect of {parsed(which)}"
    else:
        frame = answers.asked(
            "layer_values", run=run, layer=int(which), component=colour, first=first, last=last
        )
        name = f"direct effect of layer {which}'s {'attention' if colour == 'attn' else 'MLP'}"
    column = f"toward_{toward}"
    scale = markup.scale(frame[column], f"{name} {TOWARD[toward]} (logits)", signed=True)
    return Coloured(_by_position(frame, column), scale, f"{name} (logits)", frame)


def place(letter: str, which: str, run: int) -> tuple[int, int]:
    """Return the layer and number of a neuron (letter N) or head (letter H) of the run's model."""
    found, layer, number = answers.exists(which, run)
    if found != letter:
        raise BadQuestion(
            f"{parsed(which)} is not a {'neuron' if letter == 'N' else 'head'}: write L3N7 or L1H2."
        )
    return layer, number


def parsed(which: str) -> str:
    """Return the name of a neuron or head in its standard form, such as L3N7 for l3n7."""
    return unit_name(*parse(which))


def _by_position(frame: pd.DataFrame, column: str) -> dict[int, float]:
    values = pd.to_numeric(frame[column]).astype("float64")
    return {int(p): float(v) for p, v in zip(frame.position_id, values, strict=True)}


# The text -----------------------------------------------------------------------------------------


def _tokens(run: int, first: int, last: int) -> pd.DataFrame:
    """Return the tokens of a page and the one before it, whose row has the prediction of the first token."""
    return answers.asked("tokens", run=run, first=max(0, first - 1), last=last)


def running(
    run: int, tokens: pd.DataFrame, coloured: Coloured, here: int | None, first: int | None = None
) -> str:
    """Return a text as HTML: coloured tokens, each a link to the prediction after it, or of it.

    first: the first position_id that is drawn; the page then scrolls to the position `here`
    """
    rows = {int(row["position_id"]): row for row in tokens.to_dict("records")}

    def value(row: markup.Row) -> float | None:
        return coloured.values.get(row["position_id"])

    def of(row: markup.Row) -> int:
        """Return the position whose prediction a token shows."""
        number = int(row["position_id"])
        return number - 1 if coloured.of_prediction and number in coloured.values else number

    def hover(row: markup.Row) -> str:
        known, number = value(row), of(row)
        missing = known is None or math.isnan(known)
        amount = coloured.without(row["position_id"]) if missing else f"{known:.3f}"
        predicted = prediction(rows[number], rows.get(number + 1, {}).get("text"))
        return f"{coloured.name}: {amount}\n{predicted}\nposition {number}"

    return markup.text(
        [row for number, row in rows.items() if number >= (first or 0)], value=value, colours=coloured.scale,
        hover=hover, href=lambda row: links.link("token", run=run, position=of(row)), here=here,
        scroll=first is not None,
    )  # fmt: skip


def prediction(row: markup.Row, next_text: str | None = None) -> str:
    """Describe the next token and the top prediction. `next_text`: the next token's text in the document."""
    first = f"top prediction {visible(row['top_token'])} (p {chance(math.exp(row['top_logprob']))})"
    if pd.isna(row["next_logprob"]):
        return f"no next token; {first}"
    shown = f"p {chance(math.exp(row['next_logprob']))}, rank {int(row['rank'])}"
    return f"next {in_text(row['next_token'], next_text)} ({shown}); {first}"
