"""The page Findings: what a person has kept, by list, with downloads as Markdown and JSON."""

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, findings, linked, markup, parts
from annotate_transformer.app.browser.findings import Finding
from annotate_transformer.app.present import columns

TITLE, ICON, PLACE = "Findings", "star", 85


def show() -> None:
    """Show the page."""
    parts.title(TITLE)
    answers.runs()  # says what is wrong if the store cannot be read
    found = findings.kept()
    if not found:
        raise parts.NothingYet(
            "Nothing is kept yet. Every page of a token, neuron, head, text, search, prompt or query has the "
            f"button “keep”; what you keep is in {findings.file().name}, beside the store."
        )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"In {findings.file()}", width="content")
        for kind, write in (("md", _markdown), ("json", findings.as_json)):
            name = f"{findings.file().stem}.{kind}"
            st.download_button(
                {"md": "Markdown", "json": "JSON"}[kind], write(found), name, on_click="ignore"
            )
    for title in dict.fromkeys(finding.list for finding in found):
        rows = [finding for finding in found if finding.list == title]
        # A heading of Streamlit's is Markdown, which a list's name must not become.
        linked.show(markup.title(title or "Kept"))
        _table(rows)


def _markdown(found: list[Finding]) -> str:
    return findings.as_markdown(found, st.context.url.partition("/findings")[0] if st.context.url else "")


def _table(rows: list[Finding]) -> None:
    frame = pd.DataFrame(
        {
            "name": [finding.name for finding in rows],
            "page": [finding.page for finding in rows],
            "note": [finding.note for finding in rows],
            "kept": [finding.kept[:10] for finding in rows],
            "href": [finding.href for finding in rows],
        }
    )
    linked.show(markup.table(frame, columns.FINDINGS, links={"name": lambda row: str(row["href"])}))
