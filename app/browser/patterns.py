"""Sections of the pages Token and Prompt over a stretch of text: the logit lens, and attention patterns.

URL parameters: `five`, which is 1 for the five most likely tokens of each layer; `pattern`, the head whose
attention is shown; `weight`, which is attention or effect. The model computes them after a click.
"""

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, grids, linked, links, markup, parts
from annotate_transformer.store.names import head_name, parse, unit_name

STATE = ("five", "pattern", "weight")
LENS, PATTERN = 12, 48  # maximum number of tokens that are shown, up to the position
THUMBNAILS = 128  # a model with more heads shows small patterns of one layer's heads alone
WEIGHTS = {"attention": "attention", "effect": "direct effect on the next token"}
COMPUTING = "The run's model reads the window again; the first time also loads the model …"
COSTS = ": the run's model reads the window again, and is loaded the first time"


def lens(at: "pd.Series[Any]", here: dict[str, Any]) -> None:
    """Show the logit lens at a position and the tokens before it.

    here: the parameters of this page's URL, which its links keep
    """
    position = int(at.position_id)
    if links.is_on_prompt() or links.text("five"):
        with st.spinner(COMPUTING):
            frame = answers.lens(position, 5, LENS)
    else:
        frame = answers.asked("lens_window", run=int(at.run_id), position=position, tokens=LENS)
    parts.heading("Logit lens", frame)
    if frame.empty:
        st.caption("The logit lens is not stored in this run: `annotate ingest … --lens` stores it.")
    else:
        read = answers.asked("texts", positions=sorted({*map(int, frame.position_id)})).set_index(
            "position_id"
        )
        shown = frame.assign(read=frame.position_id.map(read.token))
        linked.show(
            grids.lens(shown, position, lambda place: links.link("token", **here | {"position": place})),
            "lens",
        )
    if not (links.is_on_prompt() or links.text("five")):
        way = {"Show the five most likely tokens of each layer": links.link("token", **here | {"five": 1})}
        linked.show(markup.ways(way, COSTS), key="five")


def attention(at: "pd.Series[Any]", here: dict[str, Any], strongest: str) -> None:
    """Show a head's attention pattern over the tokens up to a position, and small ones of all heads.

    strongest: the head that a link offers
    """
    name = links.text("pattern")
    if name is None:
        parts.subheading("Attention patterns")
        way = {
            f"Show the attention of {strongest} and all heads": links.link(
                "token", **here | {"pattern": strongest}
            )
        }
        linked.show(markup.ways(way, COSTS), key="patterns")
        return
    run, position = int(at.run_id), int(at.position_id)
    layer, head = _checked(name, run)
    with st.spinner(COMPUTING):
        frame = answers.attention(position, None, PATTERN)
    parts.heading("Attention patterns", frame)
    weight = parts.switch("Weighted by", [*WEIGHTS], "weight", WEIGHTS)
    column = {"attention": "attention", "effect": "toward_next"}[weight]
    matrices = _matrices(frame, column)
    texts = frame.drop_duplicates("position_id")
    hrefs = [links.link("token", **here | {"position": place}) for place in texts.position_id]
    unit = f"{head_name(layer, head)}: " + (f"{WEIGHTS[weight]} (logits)" if weight == "effect" else weight)
    shown = grids.pattern(matrices[layer, head], [*texts.token], unit, hrefs, signed=weight == "effect")
    linked.show(shown, key="pattern")
    small = {
        head_name(*place): matrix
        for place, matrix in matrices.items()
        if len(matrices) <= THUMBNAILS or place[0] == layer
    }
    linked.show(
        grids.thumbnails(
            small,
            head_name(layer, head),
            lambda other: links.link("token", **here | {"pattern": other}),
            signed=weight == "effect",
        ),
        key="thumbnails",
    )


def _checked(name: str, run: int) -> tuple[int, int]:
    letter, layer, head = parse(name)
    if letter != "H":
        raise links.BadLink(
            f"The address says pattern={unit_name(letter, layer, head)}: pattern names a head, such as L1H2."
        )
    answers.exists(name, run)
    return layer, head


def _matrices(frame: pd.DataFrame, column: str) -> dict[tuple[int, int], grids.Matrix]:
    """Return each head's values as a matrix of destinations by sources."""
    # The order is that of the window: a BOS or a stride makes position_ids that do not grow.
    places = {place: i for i, place in enumerate(frame.position_id.unique())}
    found = {}
    for (layer, head), of in frame.groupby(["layer", "head"]):
        matrix = np.zeros((len(places), len(places)))
        matrix[of.position_id.map(places), of.source_position_id.map(places)] = of[column]
        found[int(layer), int(head)] = matrix
    return found
