"""A section of the pages Token and Prompt: the logit of the prediction, written as a sum of terms.

URL parameters: `notation`, the form (tree, text or latex); `expand`, the names of the components that are
expanded into their terms, separated by commas; `below`, a threshold in logits: smaller terms are summed into
one remainder.
"""

from typing import Any

import streamlit as st

from annotate_transformer.app.browser import answers, linked, links, markup, parts, target
from annotate_transformer.store.notation import PATHS, Expression, Term

FORMS = {"tree": "tree", "text": "equation", "latex": "LaTeX"}
# BELOW: the thresholds from which the user can choose, in logits. Terms whose absolute value is below the
# chosen threshold are shown as one sum. The first threshold is the default. It is not 0, because a prompt's
# store has a term for every neuron, and these are too many to show.
BELOW = ("0.01", "0", "0.03", "0.1", "0.3", "1")
STATE = ("notation", "expand", "below")
WIDTH = 120
HELP = {
    "tree": "A click on a layer, attention, MLP or head shows its terms; another click hides them.",
    "text": "A click on a layer, attention, MLP or head replaces it by its terms.",
    "latex": "The equation in LaTeX (align*, of the package amsmath), expanded as in the tree.",
}


def show(run: int, position: int, toward: str, minus: str | None = None) -> None:
    """Show the section with the logit's terms. It is open if the URL has one of the parameters in STATE.

    A closed section runs no query.
    """
    st.session_state["expression open"] = any(map(links.text, STATE))
    section = st.expander(
        "The logit as an expression, term by term", key="expression open", on_change=_open_or_close
    )
    if not section.open:
        return
    with section:
        opened = [name for name in (links.text("expand") or "").split(",") if name]
        below = links.one_of("below", BELOW)
        expression = answers.expression(position, toward, opened, float(below), minus)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            form = parts.switch("Written as", [*FORMS], "notation", FORMS)
            parts.choose("Gather terms below (logits)", sorted(BELOW, key=float), below, "below")
            parts.data("terms", {"terms": expression.frame})
        st.caption(HELP[form])
        if form == "latex":
            st.latex(expression.latex())
            st.code(expression.latex(), language="latex")
            return
        lines = expression.tree_lines(WIDTH) if form == "tree" else expression.text_lines(WIDTH)
        linked.show(
            markup.written(lines, lambda term: _link(expression, run, position, term)), key="expression"
        )


def _open_or_close() -> None:
    first = next(iter(FORMS))
    links.put(**dict.fromkeys(STATE) | ({"notation": first} if st.session_state["expression open"] else {}))


def _link(expression: Expression, run: int, position: int, term: Term) -> str | None:
    """Return the URL that a click on a term opens; None for a term without a link.

    A neuron and a source link to their own pages. Any other term that has terms of its own links to this page
    with the term expanded, or collapsed if it was expanded.
    """
    if term.component == "neuron":
        return links.link("neuron", run=run, neuron=term.name)
    kept: dict[str, Any] = {name: links.text(name) for name in (*target.STATE, *STATE)}
    # The section for the decomposition is open on the linked page if its URL has `notation`, even if no term
    # is expanded there.
    kept["notation"] = kept["notation"] or "tree"
    if term.component == "source":
        return links.link("token", run=run, position=term.source_position_id, **kept)
    if term.terms:
        kept["below"] = "0"
    elif term.component not in PATHS:
        return None
    else:
        change = expression.collapse if term in expression.opened else expression.expand
        kept["expand"] = ",".join(change(term).parts) or None
    return links.link("token", run=run, position=position, head=links.text("head"), **kept)
