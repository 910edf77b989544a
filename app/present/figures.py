"""Write figures as PNG, SVG and HTML files with matplotlib, which the extra `figures` installs."""

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from annotate_transformer.app.present.heat_maps import HeatMap
from annotate_transformer.store.errors import BadQuestion
from annotate_transformer.store.whole import whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".html")
PAGE = '<!doctype html>\n<meta charset="utf-8">\n<title>{title}</title>\n<img alt="{title}" src="{source}">\n'
LABEL = 0.03  # share of an axis that the label of a training step takes
LOWERS, NOTHING, RAISES = "#d95f0e", "#ffffff", "#2171b5"  # the same colours as in the app's charts
CELL = 0.24  # inches
SMALLEST = 3.4  # inches: minimum width of the grid of cells, and width of the colour bar
BAR, ABOVE = 0.12, 0.6  # inches: height of the colour bar, and of the gap between the bar and the cells
SHORT = 3  # if any column label has more characters, all labels are turned by 90° so as not to overlap
DPI = 200
# SETTINGS of matplotlib. With a fixed svg.hashsalt, matplotlib writes the same ids into an SVG file each
# time. Without text.parse_math, a $ in a token is shown as it is, and does not begin a formula.
SETTINGS: Any = {
    "svg.hashsalt": "annotate",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
}


def check(files: list[Path]) -> None:
    """Raise BadQuestion if one of the files cannot be written; call this before a long computation."""
    for file in files:
        if file.suffix.lower() not in FORMATS:
            raise BadQuestion(
                f"{file} is no name of a figure: let it end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}."
            )
        if not file.absolute().parent.is_dir():
            raise BadQuestion(f"{file} cannot be written: there is no folder {file.parent}.")
    if not files:
        return
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise BadQuestion(
            "Figures need matplotlib, which is not installed: run "
            "pip install 'annotate-transformer[figures]'."
        ) from error


@dataclass(frozen=True, eq=False)
class Line:
    """A value over training steps, to be drawn as a line with dots.

    values: one row per step: step, value, low, high (ends of the interval; NaN without one)
    title: what is drawn; value_title: title of the vertical axis, with the unit
    """

    values: "pd.DataFrame"
    title: str
    value_title: str


@dataclass(frozen=True, eq=False)
class Bars:
    """Numbers to be drawn as horizontal bars, the first one on top: blue if positive, orange if negative.

    title: what is drawn; value_title: title of the horizontal axis, with the unit
    """

    labels: list[str]
    values: list[float]
    title: str
    value_title: str


Shown = HeatMap | Line | Bars


def write_all(shown: Shown, files: list[Path]) -> None:
    """Write a figure to each of the files, and print the files' names to standard error."""
    from annotate_transformer.app.present.printed import err

    for file in files:
        write(shown, file)
        err.print(f"The figure is in {file}.", markup=False, soft_wrap=True)


def write(shown: Shown, file: Path) -> None:
    """Write a figure to a file, whole or not at all; the same figure gives the same bytes.

    An HTML file contains the figure as SVG, and needs no other file.
    """
    from matplotlib import rc_context

    kind = file.suffix.lower().removeprefix(".")
    of_file = "svg" if kind == "html" else kind
    with rc_context(SETTINGS), whole(file) as part:
        drawn, image = _drawn(shown), io.BytesIO()
        nothing_of_today = {"Date": None} if of_file == "svg" else {"Software": None}
        drawn.savefig(image, format=of_file, dpi=DPI, bbox_inches="tight", metadata=nothing_of_today)
        content = image.getvalue()
        part.write_bytes(_page(content, shown.title) if kind == "html" else content)


def _page(svg: bytes, title: str) -> bytes:
    import base64
    import html

    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    return PAGE.format(title=html.escape(title), source=source).encode()


def _drawn(shown: Shown) -> "Figure":
    if isinstance(shown, Line):
        return _line(shown)
    return _bars(shown) if isinstance(shown, Bars) else _heat_map(shown)


def _bars(shown: Bars) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, CELL * len(shown.labels) + ABOVE))
    axes, places = figure.add_subplot(), range(len(shown.labels))
    axes.barh(places, shown.values, color=[RAISES if value >= 0 else LOWERS for value in shown.values])
    axes.set_yticks(places, [_drawable(label) for label in shown.labels])
    axes.invert_yaxis()
    axes.set_ylim(len(shown.labels) - 0.5, -0.5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(_drawable(shown.value_title))
    axes.set_title(_drawable(shown.title), fontsize=9, loc="left")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figure


def _line(shown: Line) -> "Figure":
    """Draw the values over log(1 + step), and their intervals as vertical lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6))
    axes, rows = figure.add_subplot(), shown.values
    errors = [(rows.value - rows.low).to_numpy(), (rows.high - rows.value).to_numpy()]
    has_interval = bool(rows.low.notna().any())
    axes.errorbar(rows.step, rows.value, yerr=errors if has_interval else None, color=RAISES, marker="o")
    axes.set_xscale("function", functions=(np.log1p, np.expm1))
    labelled = labelled_steps([*map(int, rows.step)])
    axes.set_xticks(labelled, [f"{step:,}" for step in labelled], rotation=90)
    axes.minorticks_off()
    axes.set_xlabel("training step")
    axes.set_ylabel(_drawable(shown.value_title))
    axes.set_title(_drawable(shown.title), fontsize=9, loc="left")
    axes.grid(alpha=0.3)
    return figure


def labelled_steps(steps: list[int]) -> list[int]:
    """Return the steps that an axis over log(1 + step) has room to label: the last one, and others before it.

    >>> labelled_steps([0, 1, 2, 140_000, 142_000, 143_000])
    [0, 1, 2, 143000]
    """
    places = np.log1p(sorted(steps))
    room, found = LABEL * (places[-1] - places[0]), list[int]()
    for step, place in zip(sorted(steps)[::-1], places[::-1], strict=True):
        if not found or np.log1p(found[-1]) - place >= room:
            found.append(step)
    return found[::-1]


def _heat_map(shown: HeatMap) -> "Figure":
    """Draw the grid of cells, with a colour bar above it and labels around it.

    The labels lie outside of the figure's size, and `write` saves the figure with them.
    """
    from matplotlib.figure import Figure

    width, height = max(CELL * len(shown.columns), SMALLEST), CELL * len(shown.rows)
    whole_height = height + ABOVE + BAR
    figure = Figure(figsize=(width, whole_height))
    axes = figure.add_axes((0, 0, 1, height / whole_height))
    bar = figure.add_axes((0, (height + ABOVE) / whole_height, SMALLEST / width, BAR / whole_height))
    figure.colorbar(_cells(axes, shown), cax=bar, label=shown.share, orientation="horizontal")
    bar.set_title(_drawable(shown.title), fontsize=9, loc="left")
    axes.set_xlabel(shown.column_title)
    axes.set_ylabel(shown.row_title)
    turned = 90 if max(map(len, shown.columns)) > SHORT else 0
    axes.set_xticks(range(len(shown.columns)), map(_drawable, shown.columns), rotation=turned)
    axes.set_yticks(range(len(shown.rows)), shown.rows)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    return figure


def _cells(axes: "Axes", shown: HeatMap) -> "QuadMesh":
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("signed", [LOWERS, NOTHING, RAISES])
    grid = shown.cells.pivot(index="row", columns="column", values="share")
    values = grid.loc[shown.rows, shown.columns].to_numpy()
    edges = ([i - 0.5 for i in range(size + 1)] for size in reversed(values.shape))
    drawn = axes.pcolormesh(*edges, values, cmap=colours, edgecolors="#dddddd", linewidth=0.5)
    drawn.set_clim(-shown.largest, shown.largest)
    return drawn


def _drawable(text: str) -> str:
    r"""Return a text in which characters that the font does not have are written as \uXXXX."""
    has = _characters()
    return "".join(c if c == "\n" or ord(c) in has else f"\\u{ord(c):04x}" for c in text)


@cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont("DejaVu Sans")).get_charmap())
