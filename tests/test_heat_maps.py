"""Heat maps of patches: their cells and labels, and the PNG and SVG files."""

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from annotate_transformer.app.browser import charts
from annotate_transformer.app.present import figures
from annotate_transformer.app.present.heat_maps import HeatMap, of_patches
from annotate_transformer.store.errors import BadQuestion

LAYERS, HEADS = 3, 2
CLEAN = ["When", " Mary", " $x$", "\n", " 東京", " to"]
CORRUPTED = [CLEAN[0], " John", *CLEAN[2:]]
AXES = {
    "head": ("layer", "head"),
    "path": ("layer", "head"),
    "head_position": ("layer", "head", "place"),
    "resid": ("layer", "place"),
    "attn": ("layer", "place"),
    "mlp": ("layer", "place"),
}
SIZES = {"layer": LAYERS, "head": HEADS, "place": len(CLEAN)}


def patches(kind: str, direction: str = "denoising") -> pd.DataFrame:
    """Return what Store.patch returns, with a different logit in each row."""
    rows = itertools.product(*(range(SIZES[name]) for name in AXES[kind]))
    frame = pd.DataFrame(rows, columns=[*AXES[kind]])
    if "place" in frame:
        frame["clean_token"] = [CLEAN[i] for i in frame.place]
        frame["corrupted_token"] = [CORRUPTED[i] for i in frame.place]
    frame["logit"] = np.linspace(-2.0, 4.0, len(frame))
    frame["recovered"] = (frame.logit - 1) / 2
    frame.attrs = {"clean": 3.0, "corrupted": 1.0, "target": 'logit(" Mary")', "kind": kind}
    frame.attrs |= {"direction": direction, "to": "L2H1.k" if kind == "path" else None}
    return frame


@pytest.mark.parametrize("kind", AXES)
def test_each_patch_has_its_own_cell(kind: str) -> None:
    frame = patches(kind)
    shown = of_patches(frame)
    assert {*zip(shown.cells.row, shown.cells.column, strict=True)} == {
        *itertools.product(shown.rows, shown.columns)
    }
    assert len(shown.cells) == len(frame)
    assert shown.rows[0].startswith(f"L{LAYERS - 1}") and shown.rows[-1].startswith("L0")
    at = shown.cells.set_index(["row", "column"])
    last = frame.iloc[-1]
    row = f"L2H{HEADS - 1}" if kind == "head_position" else "L2"
    column = f"{len(CLEAN) - 1} ·to" if "place" in frame else f"H{HEADS - 1}"
    assert (at.logit[row, column], at.share[row, column]) == (last.logit, last.recovered)
    if "place" in frame:
        assert shown.columns[:4] == ["0 When", "1 ·Mary → ·John", "2 ·$x$", "3 ↵"]


def test_zero_is_what_no_patch_changes() -> None:
    noised, denoised = (of_patches(patches("mlp", way)) for way in ("noising", "denoising"))
    assert noised.cells.share.tolist() == (denoised.cells.recovered - 1).tolist()
    assert "clean) / (clean − corrupted)" in noised.share
    assert noised.largest == pytest.approx(2.5)  # (-2 - 3) / (3 - 1)
    for shown in (noised, denoised):
        colours = charts.heat_map(shown).spec["encoding"]["color"]["scale"]
        assert colours["domain"] == [-shown.largest, 0, shown.largest]
        assert colours["range"][1] == "#ffffff"


def pixels(file: Path) -> Any:
    """The colours of a picture, of shape (row, column, 3)."""
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def hexed(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour.removeprefix("#")))


def area(file: Path, colour: str) -> int:
    return int((abs(pixels(file) - hexed(colour)) <= 2).all(-1).sum())


def one_hot(share: float) -> HeatMap:
    """A heat map in which one patch has an effect."""
    frame = patches("resid")
    frame["recovered"] = 0.0
    frame.loc[4, "recovered"] = share
    return of_patches(frame)


@pytest.mark.parametrize(
    ("share", "has", "has_not"), [(0.7, "#2171b5", "#d95f0e"), (-0.7, "#d95f0e", "#2171b5")]
)
def test_the_cells_of_a_picture_are_coloured_by_sign(
    share: float, has: str, has_not: str, tmp_path: Path
) -> None:
    figures.write(of_patches(patches("resid").assign(recovered=0.0)), tmp_path / "0.png")
    figures.write(one_hot(share), tmp_path / "1.png")
    nothing, one = (tmp_path / f"{i}.png" for i in (0, 1))
    cell = (figures.CELL * figures.DPI) ** 2
    assert area(one, has) - area(nothing, has) > 0.5 * cell  # the scale's two ends are in both pictures
    assert area(one, has_not) - area(nothing, has_not) < 0.1 * cell


@pytest.mark.parametrize("kind", ["head", "head_position"])
def test_no_label_is_clipped(kind: str, tmp_path: Path) -> None:
    frame = patches(kind)
    if "place" in frame:
        frame.loc[frame.place == 2, "clean_token"] = " incomprehensibilities" * 3
    figures.write(of_patches(frame), tmp_path / "x.png")
    shown = pixels(tmp_path / "x.png")
    edges = (shown[:5], shown[-5:], shown[:, :5], shown[:, -5:])
    assert all((edge == 255).all() for edge in edges)


def test_the_same_patches_give_the_same_files(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "a.svg", "b.svg"):
        figures.write(of_patches(patches("attn")), tmp_path / name)
    for kind in ("png", "svg"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"a.png", "b.png", "a.svg", "b.svg"}


def test_figures_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures.check([tmp_path / "x.PNG", Path("x.svg")])
    with pytest.raises(BadQuestion, match=r"let it end in \.png, \.svg or \.html"):
        figures.check([tmp_path / "x.svg", tmp_path / "x.pdf"])
    with pytest.raises(BadQuestion, match="there is no folder"):
        figures.check([tmp_path / "none" / "x.svg"])
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    figures.check([])
    with pytest.raises(BadQuestion, match=r"annotate-transformer\[figures\]"):
        figures.check([tmp_path / "x.svg"])
