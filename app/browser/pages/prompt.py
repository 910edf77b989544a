"""The page Prompt: annotate a typed text with the run's model, without writing to the run's store."""

import streamlit as st

from annotate_transformer.app.browser import answers, linked, links, markup, parts
from annotate_transformer.app.browser.pages import text as page_text
from annotate_transformer.app.browser.pages import token as page_token

TITLE, ICON, PLACE = "Prompt", "edit_note", 90
KEEPS = ("text", "at")

CHARACTERS = 2000  # maximum number of characters of a prompt, because every token's URL contains the prompt

# COLOURS: the quantities by which the tokens of a prompt can be coloured. Direct effects are not among them,
# because choosing a colour would set the URL parameters `head` and `toward`, which the decomposition below
# the prompt uses, too.
COLOURS = (
    "loss",
    "rank",
    "entropy",
    "neuron",
    "lens",
)

# In the store of a prompt, RUN is the id of the only run, and no position_id is greater than LAST.
RUN, LAST = 1, links.LARGEST


def show() -> None:
    """Show the page."""
    parts.title("Prompt")
    run = parts.run()
    parts.run_picker(run)
    prompt = _asked()
    ways = {"patch activations between this prompt and another": links.link("patch", run=run, clean=prompt)}
    linked.show(markup.ways(ways), key="ways")
    with st.spinner("Annotating the prompt; the first prompt also loads the model …"):
        file = answers.prompt(prompt, run)
    kept = page_token.kept() | {name: links.text(name) for name in ("colour", "neuron")}
    with answers.reading(file), links.on_prompt(run=run, text=prompt, **kept):
        _annotated()


def _asked() -> str:
    """Show a text box for the prompt, and return the prompt in the URL."""
    prompt = links.text("text") or ""
    # Streamlit keeps what the user typed into a box as long as the box has the same key. The key contains a
    # hash of the prompt in the URL, so a new prompt in the URL makes a new box, which shows the new prompt.
    key = f"prompt {hash(prompt)}"
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
            f"The address holds a prompt of {len(prompt):,} characters; at most {CHARACTERS:,} are allowed. "
            "The box has the first characters."
        )
    return prompt


def _put(key: str) -> None:
    links.put_text("text", st.session_state[key])
    links.put(at=None)


def _annotated() -> None:
    """Show the prompt's tokens, and the decomposition of the prediction at the chosen token."""
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
