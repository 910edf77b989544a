"""Charts as Vega-Lite specifications, in the same colours as the HTML of markup.py.

Data and specification are separate: when only the data change, the browser updates the existing chart, which
is faster than drawing a new one.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from annotate_transformer.app.present.heat_maps import HeatMap
from annotate_transformer.app.present.words import component_name, filled

BLUE, ORANGE, PURPLE, GREY = "#2171b5", "#d95f0e", "#755bb1", "#888888"
WHITE = "#ffffff"
SHORT = 3  # if all column labels have at most this many characters (H11), they are horizontal, else vertical
Spec = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """A chart: the rows to draw, and a Vega-Lite specification without data."""

    rows: pd.DataFrame
    spec: Spec


def show(chart: Chart, alt_text: str) -> None:
    """Show a chart in the full available width. `alt_text` describes the chart in words."""
    st.vega_lite_chart(chart.rows, chart.spec, width="stretch", alt=alt_text)


def _number(field: str, title: str | None, **more: Any) -> Spec:
    return {"field": field, "type": "quantitative", "title": title, **more}


def _name(field: str, title: str | None, **more: Any) -> Spec:
    """Return the specification of a nominal axis whose categories keep the order of the data's rows."""
    return {"field": field, "type": "nominal", "title": title, "sort": None, **more}


def loss_by_position(frame: pd.DataFrame) -> Chart:
    """Return a line chart of the mean loss against the position in the window."""
    x = _number("position", "position in its window (tokens)")
    y = _number("loss", "mean loss (nats)", scale={"zero": False})
    tooltip = [_number("position", "position"), _number("loss", "loss", format=".3f")]
    tooltip += [_number("positions", "positions", format=",")]
    mark = {"type": "line", "color": BLUE, "interpolate": "monotone"}
    return Chart(frame, {"mark": mark, "encoding": {"x": x, "y": y, "tooltip": tooltip}, "height": 220})


def waterfall(components: pd.DataFrame, toward: str, logit: float) -> Chart:
    """Return a waterfall chart of the components' effects: each bar begins where the previous bar ends."""
    steps = _steps(components, toward, logit)
    y = _name("component", None, axis={"labelLimit": 200, "labelOverlap": False})
    tooltip = [_name("component", "component"), _number("effect", "effect", format="+.4f")]
    tooltip += [_number("end", "sum so far", format="+.4f")]
    kinds = {"domain": ["raises", "lowers", "logit"], "range": [BLUE, ORANGE, GREY]}
    title = "centred logit, summed from left to right (logits)"
    bars = {
        "mark": {"type": "bar", "height": {"band": 0.75}},
        "encoding": {
            # The padding keeps the numbers beside the bars within the chart.
            "x": _number("start", title, scale={"padding": 45, "nice": False}),
            "x2": {"field": "end"},
            "color": {"field": "kind", "type": "nominal", "scale": kinds, "legend": None},
        },
    }
    numbers = {
        "mark": {"type": "text", "align": "left", "dx": 4, "color": GREY},
        "encoding": {"x": _number("right", title), "text": _number("effect", None, format="+.2f")},
    }
    spec = {"encoding": {"y": y, "tooltip": tooltip}, "layer": [bars, numbers]}
    return Chart(steps, spec | {"height": 22 * len(steps) + 80})


def _steps(components: pd.DataFrame, toward: str, logit: float) -> pd.DataFrame:
    """Return a row per bar of the waterfall: embeddings, attention and MLP by layer, final bias, logit."""
    order = {"embed": -2, "pos_embed": -1, "final_bias": 10**6}
    place = [order.get(c, la) for c, la in zip(components.component, components.layer, strict=True)]
    rows = components.assign(place=place).sort_values(["place", "component"], kind="stable")
    names = [component_name(row) for row in rows.to_dict("records")]
    effect = rows[toward].astype(float).tolist()
    end = pd.Series(effect).cumsum().tolist()
    start = [0.0, *end[:-1]]
    kinds = ["raises" if value >= 0 else "lowers" for value in effect]
    frame = pd.DataFrame(
        {
            "component": [*names, "= logit"],
            "effect": [*effect, logit],
            "start": [*start, 0.0],
            "end": [*end, logit],
            "kind": [*kinds, "logit"],
        }
    )
    return frame.assign(right=frame[["start", "end"]].max(axis=1))


def histogram(bins: pd.DataFrame, what: str, unit: str, pages: dict[int, str], scale: str) -> Chart:
    """Return a histogram: equal widths are equal intervals, and equal areas are equally many positions.

    what: the quantity; unit: its unit; pages: the URL that a click on a bin's bar opens, by bin; scale: the
    vertical scale, `linear`, or `symlog`, which keeps small counts visible
    """
    rows = filled(bins)
    # The outermost bins have no outer edge: they are drawn as wide as their neighbours.
    low, high = (
        rows.low.fillna(2 * rows.high - rows.high.shift(-1)),
        rows.high.fillna(2 * rows.low - rows.low.shift(1)),
    )
    rows = rows.assign(low=low, high=high, density=rows.positions / (high - low), page=rows.bin.map(pages))
    tooltip = [_name("range", "range"), _number("positions", "positions", format=",")]
    axis = {"format": "~s"} | (
        {"values": [0, *(10**n for n in range(12))]} if scale == "symlog" else {"tickCount": 5}
    )
    density = _number("density", f"positions per {unit}", scale={"type": scale}, axis=axis)
    encoding = {
        "x": _number("low", what, scale={"nice": False}),
        "x2": {"field": "high"},
        "y": density,
        "y2": {"datum": 0},
        "tooltip": tooltip,
        "href": {"field": "page", "type": "nominal"},
    }
    mark = {"type": "bar", "color": PURPLE, "cursor": "pointer", "stroke": WHITE, "strokeWidth": 0.5}
    return Chart(rows, {"mark": mark, "encoding": encoding, "height": 280})


def _bars(rows: pd.DataFrame, x: Spec, y: Spec, tooltip: list[Spec]) -> Chart:
    encoding = {"x": x, "y": y, "tooltip": tooltip}
    return Chart(rows, {"mark": {"type": "bar", "color": PURPLE}, "encoding": encoding, "height": 280})


def distances(frame: pd.DataFrame) -> Chart:
    """Return a bar chart of the distance from a position to the head's most attended token, in tokens."""
    x = _number("distance", "tokens back to the strongest source", scale={"nice": False})
    y = _number("share", "share of positions", axis={"format": "%"})
    tooltip = [_number("distance", "distance"), _number("share", "share", format=".2%")]
    tooltip += [_number("mean_attention", "mean attention", format=".3f")]
    tooltip += [_number("mean_effect", "mean effect (logits)", format="+.3f")]
    return _bars(frame, x, y, tooltip)


def heat_map(shown: HeatMap) -> Chart:
    """Return a heat map of activation patches: white means 0, and hovering shows the exact numbers."""
    whole: Spec = {"labelLimit": 0, "labelOverlap": False, "labelPadding": 4, "ticks": False}
    turned = {"labelAngle": -90 if max(map(len, shown.columns)) > SHORT else 0}
    x = _name("column", shown.column_title, axis=whole | turned, scale={"domain": shown.columns})
    y = _name("row", shown.row_title, axis=whole, scale={"domain": shown.rows})
    ends = [-shown.largest, 0, shown.largest]
    scale = {"domain": ends, "range": [ORANGE, WHITE, BLUE], "interpolate": "rgb", "nice": False}
    legend = {"orient": "bottom", "titleLimit": 0, "gradientLength": 300, "format": "+.2f", "tickCount": 5}
    tooltip = [_name("row", shown.row_title), _name("column", shown.column_title)]
    tooltip += [_number("recovered", "recovered", format="+.2%")]
    tooltip += [_number("logit", "with the patch (logits)", format="+.4f")]
    colour = _number("share", shown.share, scale=scale, legend=legend)
    encoding = {"x": x, "y": y, "color": colour, "tooltip": tooltip}
    mark = {"type": "rect", "stroke": "#dddddd", "strokeWidth": 1}
    return Chart(shown.cells, {"mark": mark, "encoding": encoding, "height": {"step": 24}})


def of_columns(points: pd.DataFrame, x: str, y: str) -> Chart:
    """Return a chart of y against x: points if an x value repeats, else a line if x is numeric, else bars.

    points: the two columns, renamed `x` and `y` because Vega-Lite interprets some characters in names.
    """
    number = pd.api.types.is_numeric_dtype(points.x)
    across = _number("x", x, scale={"zero": False}) if number else _name("x", x)
    if points.x.duplicated().any():
        mark = {"type": "point", "color": BLUE, "size": 20}
    else:
        mark = {"type": "line" if number else "bar", "color": BLUE}
    encoding = {"x": across, "y": _number("y", y), "tooltip": [across, _number("y", y)]}
    return Chart(points, {"mark": mark, "encoding": encoding, "height": 300})


def emergence(frame: pd.DataFrame, title: str, pages: list[str]) -> Chart:
    """Return a line chart of a statistic over training steps; a click on a point opens its page."""
    rows = frame.assign(page=pages)
    x = _number("step", "training step (symlog)", scale={"type": "symlog"}, axis={"values": [*frame.step]})
    y = _number("value", title, scale={"zero": False})
    tooltip = [_number("step", "step", format=","), _number("value", title, format=".4f")]
    line = {"mark": {"type": "line", "color": BLUE}, "encoding": {"y": y}}
    ends = {"y": _number("low", title), "y2": {"field": "high"}}
    interval = {"mark": {"type": "rule", "color": BLUE}, "encoding": ends}
    points = {
        "mark": {"type": "point", "filled": True, "size": 90, "color": BLUE, "cursor": "pointer"},
        "encoding": {"y": y, "tooltip": tooltip, "href": {"field": "page", "type": "nominal"}},
    }
    layers = [line, *([interval] if frame.low.notna().any() else []), points]
    return Chart(rows, {"encoding": {"x": x}, "layer": layers, "height": 300})
