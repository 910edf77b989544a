"""The page Contrasts: mean direct effects on the logit of a right answer minus that of a wrong answer."""

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, links, markup, parts
from annotate_transformer.app.present import columns
from annotate_transformer.store import BadQuestion
from annotate_transformer.store.contrasts import KINDS, LEAST_ACCURACY

TITLE, ICON, PLACE = "Contrasts", "balance", 65
ROWS = 20  # number of heads, neurons or components shown for each group of documents
LEAST_PERCENT = round(100 * LEAST_ACCURACY)
# LIMITS: the user chooses one of these accuracies, in percent. Heads, neurons or components are ranked only
# in groups of documents in which the model has at least this accuracy.
LIMITS = (0, 50, 80, 90, 95, 100)


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
    percent = LEAST_PERCENT if (chosen := links.number("least")) is None else chosen
    if percent > 100:
        raise links.BadLink(f"The address says least={percent}: least is a percentage, at most 100.")
    with st.sidebar:
        parts.choose("Group by", [None, *keys], by if by in keys else None, "by", lambda key: key or "none")
        parts.choose("Effects of", [*KINDS], kind, "kind", lambda name: f"{name}s")
        limits = sorted({*LIMITS, percent})
        parts.choose("Rank from this accuracy on", limits, percent, "least", lambda limit: f"{limit} %")
    st.caption(
        "Each document has an answer and a distractor: a right and a wrong next token. The model prefers the "
        f"answer if the answer's logit is higher. {kind.capitalize()}s are ranked only in groups in which "
        f"the model prefers the answer in at least {percent} % of the documents: effects in a task that the "
        "model does not do say nothing about the task."
    )
    accuracy = answers.contrast_accuracy(by, run)
    parts.table("How often the model prefers the answer", accuracy, columns.CONTRAST_ACCURACY)
    try:
        means = answers.contrast_means(kind, by, run, percent / 100)
    except BadQuestion as error:
        parts.sentence(error)
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
