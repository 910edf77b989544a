"""The page Prompt: a text annotated at once by the run's model; the run's store is only read."""

from typing import Any

import streamlit as st

from annotate_transformer.app import live
from annotate_transformer.app.browser import answers, linked, links, notation, parts
from annotate_transformer.app.browser.pages import text as page_text
from annotate_transformer.app.browser.pages import token as page_token

TITLE, ICON, PLACE = "Prompt", "edit_note", 90

CHARACTERS = 2000  # characters of a prompt: it is in the address, and so in the link of every token
COLOURS = (
    "loss",
    "rank",
    "entropy",
    "neuron",
    "lens",
)  # the quantities that need no choice of the Token page
RUN, LAST = 1, links.LARGEST  # a prompt's store has one run; its positions are numbered from 0


def show() -> None:
    """Show the page."""
    parts.title("Prompt")
    run = parts.run()
    parts.run_picker(run)
    about = answers.runs().set_index("run_id").loc[run]
    prompt = _asked()
    with st.spinner("Annotating the prompt; a model's first prompt waits until the model is loaded …"):
        file = _prompts().annotated(prompt, about)
    kept = {name: links.text(name) for name in ("toward", "colour", "neuron", *notation.STATE)}
    with answers.reading(file), links.on_prompt(run=run, text=prompt, **kept):
        _annotated()


@st.cache_resource(max_entries=2, show_spinner=False)
def _model(name: str, revision: str | None) -> Any:
    return live.load(name, revision)


@st.cache_resource(show_spinner=False)
def _prompts() -> live.Prompts:
    return live.Prompts(_model)


def _asked() -> str:
    """Return the prompt in the address, shown in a box in which another can be written."""
    prompt = links.text("text") or ""
    key = f"prompt {hash(prompt)}"  # the typed text stays until the address has another prompt
    with st.form("ask", border=False):
        st.text_area(
            "A text for the run's model", prompt[:CHARACTERS], key=key, height=80, max_chars=CHARACTERS,
            placeholder="Dublin is the capital of",
        )  # fmt: skip
        st.form_submit_button("Annotate", on_click=_put, args=(key,))
    if not prompt.strip():
        raise parts.NothingYet(
            "Write a few words and press Annotate: the run's model reads them, and the prediction after each "
            "token is taken apart. Nothing is stored."
        )
    if len(prompt) > CHARACTERS:
        raise links.BadLink(
            f"The address holds a prompt of {len(prompt):,} characters; {CHARACTERS:,} are the most. "
            "The box has the first of them."
        )
    return prompt


def _put(key: str) -> None:
    links.put_text("text", st.session_state[key])
    links.put(at=None)


def _annotated() -> None:
    """Show the prompt's tokens, and the prediction at the chosen one."""
    tokens = answers.asked("tokens", run=RUN, first=0, last=LAST)
    last = int(tokens.position_id.max())
    here = links.number("at")
    here = last if here is None else here
    if here > last:
        raise links.BadLink(f"The address says at={here}: the prompt's tokens are numbered 0 to {last}.")
    coloured = page_text.coloured_by(COLOURS, RUN, 0, last)
    with st.container(horizontal=True, vertical_alignment="center"):
        linked.show(coloured.scale.legend(), key="legend")
        parts.data("values", {"values": coloured.frame})
    linked.show(page_text.running(RUN, tokens, coloured, here), key="prompt tokens")
    steps = [
        page_token.step("← token before", "token", RUN, here - 1 if here else None),
        f"token {here} of 0 to {last}",
        page_token.step("token after →", "token", RUN, here + 1 if here < last else None),
    ]
    linked.show(f"<p>{' · '.join(filter(None, steps))}</p>", key="where")
    page_token.taken_apart(RUN, answers.position(here))
