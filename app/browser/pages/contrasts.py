"""The page Contrasts: mean direct effects on answer − distractor over the documents of a data set."""

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, links, markup, parts
from annotate_transformer.app.present import columns
from annotate_transformer.store import BadQuestion
from annotate_transformer.store.contrasts import KINDS

TITLE, ICON, PLACE = "Contrasts", "balance", 65
ROWS = 20  # number of units shown for each group


def show() -> None:
    """Show the page."""
    parts.title(TITLE)
    run = parts.run()
    parts.run_picker(run, lambda _: {"by": None})
    if not answers.asked("contrasts_there", run=run).n.iloc[0]:
        raise parts.NothingYet(
            f"Run {run} has no contrasts yet, which show what each head does for a right next token rather "
            "than a wrong one. If both are columns of the documents, `annotate ingest TEXT --db "
            f"{answers.path()} --answer-column A --distractor-column B` adds them to the run."
        )
    keys = answers.asked("contrast_keys", run=run).key.to_list()
    by, kind = links.text("by"), links.text("kind") or "head"
    with st.sidebar:
        parts.choose("Group by", [None, *keys], by if by in keys else None, "by", lambda key: key or "none")
        parts.choose("Effects of", [*KINDS], kind, "kind", lambda name: f"{name}s")
    accuracy = answers.contrast_accuracy(by, run)
    parts.table("How often the model prefers the answer", accuracy, columns.CONTRAST_ACCURACY)
    try:
        means = answers.contrast_means(kind, by, run)
    except BadQuestion as error:
        st.info(str(error))
        return
    st.caption(
        "Direct effect on the answer minus direct effect on the distractor, a mean over documents. A direct "
        "effect leaves out every effect through later layers."
    )
    for group, rows in means.groupby("group_name", sort=False):
        rows.attrs = means.attrs
        _means(f"Mean effects of {kind}s" + (f": {by} {group}" if by else ""), rows, kind, run)


def _means(title: str, rows: pd.DataFrame, kind: str, run: int) -> None:
    def page(row: markup.Row) -> str | None:
        name = columns.unit_of_contrast(row)
        return None if kind == "component" else links.link(kind, run=run, **{kind: name})

    tints = {"mean": markup.scale(rows["mean"].head(ROWS), "logits", signed=True)}
    parts.table(title, rows, columns.contrast_means(rows), ROWS, links={"unit": page}, tints=tints)
