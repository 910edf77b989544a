"""Arrange the effects of activation patching as a heat map, for the app's charts and for files."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from annotate_transformer.app.present.words import visible
from annotate_transformer.store.names import head_name

PATCHED = {
    "head": "output of one head, at all tokens",
    "head_position": "output of one head, at one token",
    "resid": "input of a layer (residual stream), at one token",
    "attn": "attention output (all heads of a layer), at one token",
    "mlp": "MLP output (all neurons of a layer), at one token",
    "path": "path from one head to {}, at all tokens",
}
# SHARES: the titles of the colour scale. A colour shows a share: the change of the logit by a patch, divided
# by the difference between the logits after the two prompts. The share is 0 if the patch changes nothing.
SHARES = {
    "denoising": "recovered: (logit − corrupted) / (clean − corrupted)",
    "noising": "change: (logit − clean) / (clean − corrupted)",
}


@dataclass(frozen=True, eq=False)
class HeatMap:
    """A heat map with one cell per patch; the middle of the colour scale is 0.

    cells: one row per patch: the labels of its row and column, share (see SHARES), recovered, and logit, the
    logit with the patch
    rows, columns: all labels, from the top and from the left; row_title, column_title: titles of the axes
    patched: what is patched; title: the same, with the target; share: the title of the colours
    """

    cells: pd.DataFrame
    rows: list[str]
    columns: list[str]
    row_title: str
    column_title: str
    patched: str
    title: str
    share: str

    @property
    def largest(self) -> float:
        """The largest absolute value in the cells, for both ends of the colour scale; 1 if all are 0."""
        return float(self.cells.share.abs().max()) or 1.0


def of_patches(frame: pd.DataFrame) -> HeatMap:
    """Return the heat map of an answer of `Store.patch`: rows by layer, the last one on top."""
    about = frame.attrs
    at_token, of_head = "place" in frame, "head" in frame
    names = [head_name(row.layer, row.head) for row in frame.itertuples()] if of_head else []
    rows = names if at_token and of_head else [f"L{layer}" for layer in frame.layer]
    columns = (
        [_token(row) for row in frame.to_dict("records")] if at_token else [f"H{h}" for h in frame["head"]]
    )
    values = {"share": shares(frame), "recovered": frame.recovered, "logit": frame.logit}
    cells = pd.DataFrame({"row": rows, "column": columns} | values)
    patched = PATCHED[about["kind"]].format(about["to"])
    logits = f"{about['clean']:+.3f} clean, {about['corrupted']:+.3f} corrupted"
    return HeatMap(
        cells,
        rows=[*dict.fromkeys(reversed(rows))],
        columns=[*dict.fromkeys(columns)],
        row_title="head" if at_token and of_head else "layer",
        column_title="token (clean → corrupted)" if at_token else "head",
        patched=patched,
        title=f"{about['direction'].capitalize()}: {patched}\n{about['target']} (logits): {logits}",
        share=SHARES[about["direction"]],
    )


def shares(frame: pd.DataFrame) -> "pd.Series[Any]":
    """Return the logit's change by each patch, as a share of the difference between both prompts' logits."""
    # Without a patch, `recovered` is 1 in noising, which starts from the clean prompt, and 0 in denoising,
    # which starts from the corrupted prompt.
    unpatched = 1 if frame.attrs["direction"] == "noising" else 0
    return frame.recovered - unpatched


def _token(row: dict[str, Any]) -> str:
    """Return the label of a token: its index, and the tokens of both prompts if they differ."""
    clean, corrupted = visible(row["clean_token"]), visible(row["corrupted_token"])
    return f"{row['place']} {clean}" if clean == corrupted else f"{row['place']} {clean} → {corrupted}"
