"""The app as Streamlit runs it: which pages there are, and what stands around each of them."""

from html import escape

import streamlit as st

from annotate_transformer.app.browser import (
    answers,
    linked,
    page_compare,
    page_head,
    page_lookups,
    page_neuron,
    page_overview,
    page_prompt,
    page_search,
    page_sql,
    page_text,
    page_token,
    parts,
)
from annotate_transformer.store import AnnotateError

PAGES = {
    "overview": st.Page(page_overview.show, title="Overview", default=True),
    "search": st.Page(page_search.show, title="Search", url_path="search"),
    "text": st.Page(page_text.show, title="Text", url_path="text"),
    "token": st.Page(page_token.show, title="Token", url_path="token"),
    "neuron": st.Page(page_neuron.show, title="Neuron", url_path="neuron"),
    "head": st.Page(page_head.show, title="Head", url_path="head"),
    "lookups": st.Page(page_lookups.show, title="Look-ups", url_path="lookups"),
    "compare": st.Page(page_compare.show, title="Compare", url_path="compare"),
    "sql": st.Page(page_sql.show, title="SQL", url_path="sql"),
    "prompt": st.Page(page_prompt.show, title="Prompt", url_path="prompt"),
}
# Not the pages' own: Streamlit would fetch a page's icon for the browser's tab from another host.
ICONS = {
    "overview": "home",
    "search": "search",
    "text": "article",
    "token": "target",
    "neuron": "scatter_plot",
    "head": "hub",
    "lookups": "account_tree",
    "compare": "compare_arrows",
    "sql": "database",
    "prompt": "edit_note",
}


def main() -> None:
    """One page, in its frame; what a person got wrong is a sentence in its place."""
    st.set_page_config(page_title="Annotate Transformer", layout="wide")
    page = st.navigation([*PAGES.values()], position="hidden")
    _navigation()
    try:
        page.run()
    except AnnotateError as error:
        parts.sentence(error)


def _navigation() -> None:
    """The pages, at the side: the run goes along from one to the next."""
    run = parts.known_run()
    with st.sidebar:
        st.subheader("Annotate Transformer", anchor=False)
        for name, page in PAGES.items():
            icon = f":material/{ICONS[name]}:"
            st.page_link(page, icon=icon, query_params=run, width="stretch")
        linked.show(f"<i>{escape(answers.path().name)}</i>", key="store")


main()
