"""The script that Streamlit runs: it shows the requested page, and the navigation beside it."""

from html import escape

import streamlit as st

from annotate_transformer.app.browser import answers, linked, pages, parts
from annotate_transformer.store import AnnotateError


def main() -> None:
    """Show the requested page; if the user made a mistake, show the error message instead."""
    st.set_page_config(page_title="Annotate Transformer", layout="wide")
    modules = pages.modules()
    first = next(iter(modules))
    shown = {name: st.Page(module.show, title=module.TITLE, url_path=name, default=name == first)
             for name, module in modules.items()}  # fmt: skip
    page = st.navigation([*shown.values()], position="hidden")
    # The run goes into the links to the other pages, so that they show the same run.
    run = parts.known_run()
    with st.sidebar:
        st.subheader("Annotate Transformer", anchor=False)
        for name, module in modules.items():
            # Only the link gets the icon. If st.Page had it, Streamlit would fetch it from another host for
            # the browser's tab.
            icon = f":material/{module.ICON}:"
            st.page_link(shown[name], icon=icon, query_params=run, width="stretch")
        linked.show(f"<i>{escape(answers.path().name)}</i>", key="store")
    try:
        page.run()
    except AnnotateError as error:
        parts.sentence(error)


main()
