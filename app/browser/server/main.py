"""The script that Streamlit runs: it shows the requested page, and the navigation beside it."""

from typing import Any

import streamlit as st

from annotate_transformer.app.browser import focus, linked, links, markup, pages, parts, readings
from annotate_transformer.store import AnnotateError


def main() -> None:
    """Show the requested page; if the user made a mistake, show the error message instead."""
    modules = pages.modules()
    first = next(iter(modules))
    shown = {name: st.Page(module.show, title=module.TITLE, url_path=name, default=name == first)
             for name, module in modules.items()}  # fmt: skip
    page = st.navigation([*shown.values()], position="hidden")
    name = page.url_path or first
    st.set_page_config(page_title=focus.title(name, modules[name]), layout="wide")
    # The run goes into the links to the other pages, so that they show the same run.
    run = parts.known_run()
    with st.sidebar:
        st.subheader("Annotate Transformer", anchor=False)
        find(shown)
        for other, module in modules.items():
            # Only the link gets the icon. If st.Page had it, Streamlit would fetch it from another host for
            # the browser's tab.
            icon = f":material/{module.ICON}:"
            st.page_link(shown[other], icon=icon, query_params=focus.kept(module, run), width="stretch")
        focus.show_recent()
    with st.container(horizontal=True, vertical_alignment="center"):
        linked.show(focus.path(name, modules[name]), key="path")
        star = st.container(width="content")
    try:
        page.run()
    except AnnotateError as error:
        parts.sentence(error)
    else:
        parts.sections()
        focus.remember(name, modules[name])
        with star:
            focus.star(name, modules[name])


def find(shown: dict[str, Any]) -> None:
    """Show the search box: a typed text opens the page of its first reading; the others are links."""

    # The text is kept apart from the box, because a change of the page empties the box.
    text = st.session_state["search box"] = st.session_state.get("searched", "")

    def changed() -> None:
        st.session_state["searched"] = st.session_state["search box"]
        st.session_state["is new"] = True

    st.text_input(
        "Search",
        key="search box",
        on_change=changed,
        max_chars=readings.LONGEST,
        placeholder="L3N7, L3H2 > 3, a token, a text, 3:812",
        help="A neuron or head, conditions, a token, a text, document:token, or a query in SQL.",
    )
    if not text.strip():
        return
    try:
        best, *others = readings.readings(text, parts.run())
    except AnnotateError as error:
        parts.sentence(error)
        return
    if st.session_state.pop("is new", False):
        st.switch_page(shown[best.page], query_params=best.parameters)
    opened, *rest = [
        markup.ways({one.what: links.link(one.page, **one.parameters)}) for one in (best, *others)
    ]
    more = f"<i>It can also mean:</i>{''.join(rest)}" if rest else ""
    linked.show(f"<i>Understood as:</i>{opened}{more}", key="readings")


main()
