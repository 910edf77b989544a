"""Write grids as HTML: heads by layer, the logit lens by layer and token, attention by token and token."""

import base64
import json
import math
from collections.abc import Callable
from html import escape
from io import BytesIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from annotate_transformer.app.browser import markup
from annotate_transformer.app.present.words import chance, visible
from annotate_transformer.store.display import AMOUNT, LOWERS, RAISES

Matrix = NDArray[np.float64]


def heat_map(frame: pd.DataFrame, value: str, unit: str, href: Callable[[markup.Row], str]) -> str:
    """Return a heat map as HTML: rows are layers, the last one on top; columns are heads; cells are links."""
    colours = markup.scale(frame[value], unit, signed=True)
    heads = sorted(frame["head"].unique())
    corner = "".join(f"<th>H{head}</th>" for head in heads)
    lines = []
    for layer, of_layer in sorted(frame.groupby("layer"), key=lambda group: -int(group[0])):
        cells = "".join(_heat(row, value, colours, href(row)) for row in of_layer.to_dict("records"))
        lines.append(f"<tr><th>L{layer}</th>{cells}</tr>")
    grid = f'<table class="grid"><tbody>{"".join(lines)}<tr><th></th>{corner}</tr></tbody></table>'
    return f"{grid}<p></p>{colours.legend()}"


def _heat(row: markup.Row, value: str, colours: markup.Scale, href: str) -> str:
    title = escape(f"{markup.head_of(row)}: {row[value]:+.4f} logits")
    inner = f'<a href="{escape(href)}" title="{title}">{row[value]:+.2f}</a>'
    return f'<td style="{colours.colour(row[value])}">{inner}</td>'


# The logit lens -----------------------------------------------------------------------------------


def lens(frame: pd.DataFrame, here: int, href: Callable[[int], str]) -> str:
    """Return the logit lens as HTML: rows are layers, the last one on top; columns are tokens.

    frame: a row per layer, position_id and rank, with token, logprob (nats) and read, the token at the
    position; here: the position_id whose column has a frame; href: returns the URL of a position
    """
    colours = markup.Scale(1.0, "probability of the top prediction")
    read = frame.drop_duplicates("position_id").set_index("position_id")["read"]
    cells = {key: of.to_dict("records") for key, of in frame.groupby(["layer", "position_id"])}
    head = "".join(
        f'<th scope="col"{" class=here" * (place == here)}>{markup.token(token)}</th>'
        for place, token in read.items()
    )
    lines = [
        f'<tr><th scope="row">L{layer}</th>'
        + "".join(_lens_cell(cells[layer, place], colours, href(place)) for place in read.index)
        + "</tr>"
        for layer in sorted(frame.layer.unique(), reverse=True)
    ]
    grid = f"<thead><tr><th>after</th>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'{colours.legend()}<div class="table" tabindex="0"><table class="grid lens">{grid}</table></div>'


def _lens_cell(top: list[markup.Row], colours: markup.Scale, href: str) -> str:
    first = top[0]
    told = [f"{row['rank']}  {visible(row['token'])}  {chance(math.exp(row['logprob']))}" for row in top]
    if not pd.isna(first.get("next_logprob")):
        told.append(
            f"next token: p {chance(math.exp(first['next_logprob']))}, rank {int(first['next_rank'])}"
        )
    style, hover = colours.colour(math.exp(first["logprob"])), escape("\n".join(told))
    inner = f'<a href="{escape(href)}" title="{hover}">{markup.token(first["token"])}</a>'
    return f'<td style="{style}">{inner}</td>'


# Attention ----------------------------------------------------------------------------------------


def pattern(matrix: Matrix, tokens: list[str], unit: str, hrefs: list[str], *, signed: bool) -> str:
    """Return a head's attention pattern as HTML: the tokens, and a picture with a cell for each pair.

    The pointer or the focus on a token colours the tokens that it attends to, which come before it, and those
    that attend to it, which come after it (linked.py).

    matrix: the value by destination and source, NaN if unknown; hrefs: the URL of each token
    """
    rows = [
        [None if math.isnan(value) else round(value, 4) for value in row[: i + 1]]
        for i, row in enumerate(matrix)
    ]
    largest = float(np.nanmax(np.abs(np.tril(matrix)), initial=0.0))
    scale = markup.Scale(largest, unit, signed=signed)
    text = "".join(
        f'<a href="{escape(href)}">{markup.running(token)}</a>'
        for token, href in zip(tokens, hrefs, strict=True)
    )
    hues = json.dumps(["--raises", "--lowers"] if signed else ["--amount", "--amount"])
    return (
        f'{scale.legend()}<div class="pattern" data-rows="{escape(json.dumps(rows))}" '
        f'data-hues="{escape(hues)}" data-largest="{largest}"><div class="text">{text}</div>'
        f'<p><output></output></p><img alt="{escape(unit)} by destination (row) and source (column)" '
        f'src="{_picture(matrix, largest, signed)}"></div>'
    )


def thumbnails(matrices: dict[str, Matrix], chosen: str, href: Callable[[str], str], *, signed: bool) -> str:
    """Return small attention patterns of several heads as HTML, each a link; the chosen one has a frame."""
    largest = max((float(np.nanmax(np.abs(np.tril(m)), initial=0.0)) for m in matrices.values()), default=0.0)
    shown = "".join(
        f'<li><a href="{escape(href(name))}"{" class=here" * (name == chosen)}>'
        f'<img alt="" src="{_picture(matrix, largest, signed)}"><br>{name}</a></li>'
        for name, matrix in matrices.items()
    )
    return f'<ul class="thumbnails">{shown}</ul>'


def _picture(matrix: Matrix, largest: float, signed: bool) -> str:
    """Return a matrix as the URL of a PNG picture; a cell's opacity is the share of `largest`."""
    values = np.nan_to_num(np.tril(matrix))
    hues = [[int(part) for part in hue.split(",")] for hue in (RAISES if signed else AMOUNT, LOWERS)]
    pixels = np.empty((*values.shape, 4), np.uint8)
    pixels[..., :3] = np.where(values[..., None] >= 0, *hues)
    pixels[..., 3] = np.round(255 * np.abs(values) / (largest or 1.0))
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
