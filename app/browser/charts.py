"""Charts, in the colours of markup.py."""

from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

COUNTS = alt.Axis(values=[0, *(10**n for n in range(10))], format=",.0f")
BLUE, ORANGE, PURPLE, GREY = "#2171b5", "#d95f0e", "#755bb1", "#888888"


def show(chart: alt.Chart | alt.LayerChart, alt_text: str) -> None:
    """A chart as wide as its place; `alt_text` says in words what it shows."""
    st.altair_chart(chart, width="stretch", alt=alt_text)


def loss_by_position(frame: pd.DataFrame) -> alt.Chart:
    """Mean loss over the window."""
    chart: alt.Chart = (
        alt.Chart(frame)
        .mark_line(color=BLUE, interpolate="monotone")
        .encode(
            x=alt.X("position:Q", title="position in its window (tokens)"),
            y=alt.Y("loss:Q", title="mean loss (nats)", scale=alt.Scale(zero=False)),
            tooltip=["position", alt.Tooltip("loss", format=".3f"), "positions"],
        )
        .properties(height=220)
    )
    return chart


def waterfall(components: pd.DataFrame, toward: str, logit: float) -> alt.LayerChart:
    """Components one after the other, each from where the one before ended, to the logit."""
    steps = _steps(components, toward, logit)
    base = alt.Chart(steps).encode(
        y=alt.Y("component:N", sort=None, title=None, axis=alt.Axis(labelLimit=200, labelOverlap=False)),
        tooltip=[
            "component",
            alt.Tooltip("effect", format="+.4f"),
            alt.Tooltip("end", format="+.4f", title="sum so far"),
        ],
    )
    kinds = alt.Scale(domain=["raises", "lowers", "logit"], range=[BLUE, ORANGE, GREY])
    title = "centred logit, summed from left to right (logits)"
    bars = base.mark_bar(height={"band": 0.75}).encode(
        x=alt.X("start:Q", title=title), x2="end:Q", color=alt.Color("kind:N", scale=kinds, legend=None)
    )
    numbers = base.mark_text(align="left", dx=4, color=GREY).encode(
        x="right:Q", text=alt.Text("effect:Q", format="+.2f")
    )
    chart: alt.LayerChart = (bars + numbers).properties(height=max(160, 22 * len(steps) + 40))
    return chart


def _steps(components: pd.DataFrame, toward: str, logit: float) -> pd.DataFrame:
    """embed, each layer's attention and MLP, the bias; then the logit they end at."""
    order = {"embed": -1, "final_bias": 10**6}
    place = [order.get(c, la) for c, la in zip(components.component, components.layer, strict=True)]
    rows = components.assign(place=place).sort_values(["place", "component"], kind="stable")
    names = [c if pd.isna(la) else f"{c} {int(la)}" for c, la in zip(rows.component, rows.layer, strict=True)]
    effect = rows[toward].astype(float).tolist()
    end = pd.Series(effect).cumsum().tolist()
    start = [0.0, *end[:-1]]
    kinds = ["raises" if value >= 0 else "lowers" for value in effect]
    frame = pd.DataFrame(
        {
            "component": [*(name.replace("_", " ") for name in names), "= logit"],
            "effect": [*effect, logit],
            "start": [*start, 0.0],
            "end": [*end, logit],
            "kind": [*kinds, "logit"],
        }
    )
    return frame.assign(right=frame[["start", "end"]].max(axis=1))


def histogram(bins: pd.DataFrame, what: str) -> alt.Chart:
    """Positions by value: bins as wide as they are, counts on a scale that shows the rare ones too."""
    shown = _filled(bins)
    chart: alt.Chart = (
        alt.Chart(shown)
        .mark_bar(color=PURPLE)
        .encode(
            x=alt.X("range:N", sort=None, title=what, axis=alt.Axis(labelAngle=-45)),
            y=alt.Y("positions:Q", title="positions (symlog)", scale=alt.Scale(type="symlog"), axis=COUNTS),
            tooltip=["range", alt.Tooltip("positions", format=",")],
        )
        .properties(height=240)
    )
    return chart


def _filled(bins: pd.DataFrame) -> pd.DataFrame:
    """From the first bin that has something to the last."""
    used = bins.index[bins.positions > 0]
    shown = bins.loc[used.min() : used.max()] if len(used) else bins.head(0)
    ranges = [
        f"{_edge(low, '−∞')} … {_edge(high, '∞')}" for low, high in zip(shown.low, shown.high, strict=True)
    ]
    return shown.assign(range=ranges)


def _edge(value: Any, otherwise: str) -> str:
    return otherwise if pd.isna(value) else f"{value:.3g}".replace("-", "−")


def distances(frame: pd.DataFrame) -> alt.Chart:
    """How far back a head's strongest source is."""
    chart: alt.Chart = (
        alt.Chart(frame)
        .mark_bar(color=PURPLE)
        .encode(
            x=alt.X("distance:Q", title="tokens back to the strongest source"),
            y=alt.Y("share:Q", title="share of positions", axis=alt.Axis(format="%")),
            tooltip=[
                "distance",
                alt.Tooltip("share", format=".2%"),
                alt.Tooltip("mean_attention", format=".3f", title="mean attention"),
                alt.Tooltip("mean_effect", format="+.3f", title="mean effect (logits)"),
            ],
        )
        .properties(height=240)
    )
    return chart


def of_columns(points: pd.DataFrame, x: str, y: str) -> alt.Chart:
    """y over x: a line where x is a number, bars where it is text, points where an x comes again.

    points: columns `x` and `y`; a column of any other name might be one that Altair reads as more.
    """
    number = pd.api.types.is_numeric_dtype(points.x)
    across = alt.X("x:Q", scale=alt.Scale(zero=False)) if number else alt.X("x:N", sort=None)
    base = alt.Chart(points).encode(
        x=across.title(x),
        y=alt.Y("y:Q", title=y),
        tooltip=[alt.Tooltip("x", title=x), alt.Tooltip("y:Q", title=y)],
    )
    if points.x.duplicated().any():
        marked = base.mark_point(color=BLUE, size=20)
    else:
        marked = base.mark_line(color=BLUE) if number else base.mark_bar(color=BLUE)
    chart: alt.Chart = marked.properties(height=300)
    return chart
