"""Choose the logit whose terms a page shows: a section of the pages Token and Prompt.

URL parameters: `toward`, which is next, top, or other; for other, `of` and `minus`, the texts of tokens;
`likely`, which is 1 if the page shows the most likely next tokens.
"""

from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, linked, links, markup, parts
from annotate_transformer.app.present import columns

NAMES = {
    "next": "the next token",
    "top": "the model's top prediction",
    "other": "another token, or a difference",
}
STATE = ("toward", "of", "minus", "likely")


@dataclass(frozen=True)
class Target:
    """The target of a decomposition: a logit or a difference of logits.

    column: the column with the effects; words: the target's name in a sentence; of, minus: tokens, as in
    `Store.decomposition` (toward, minus), or None for a stored column
    """

    column: str
    words: str
    of: str | None = None
    minus: str | None = None

    @property
    def name(self) -> str:
        """The argument `toward` of `Store.decomposition`: the text of a token, `next` or `top`."""
        return self.of or self.column.removeprefix("toward_")

    @property
    def computed(self) -> bool:
        """Whether the run's model must compute the terms now; if not, they are read from the store."""
        return self.of is not None

    def decomposition(self, position: int, by: str) -> pd.DataFrame:
        """Return the terms of a prediction; `self.column` names the column with the effects."""
        return answers.decomposition(position, by, self.of, self.minus)

    def shown(self, known: columns.Columns, frame: pd.DataFrame) -> columns.Columns:
        """Return the columns of a table, without those that show the effects on another target."""
        if self.computed:
            return columns.toward_one(known, frame)
        return columns.without(known, "toward_next" if self.column == "toward_top" else "toward_top")


def chosen(at: "pd.Series[Any]") -> Target:
    """Show the control that chooses a target, and return the target in the URL.

    The default is the next token, or the top prediction at positions without a next token.
    """
    has_next = not (at.next_token is None or pd.isna(at.next_token))
    options = ["next", "top", "other"] if has_next else ["top", "other"]
    if not has_next and links.text("toward") in (None, "next"):
        links.put(toward=None)
        st.caption("No next token in this window: the page shows the effects on the top prediction.")
    toward = parts.switch("Effects on", options, "toward", NAMES)
    if toward != "other":
        words = {"next": "the next token", "top": "the top prediction"}[toward]
        return Target(f"toward_{toward}", words)
    _form()
    of, minus = links.text("of"), links.text("minus")
    if of is None:
        of = "top"
    with st.spinner("The run's model reads the window again; the first time also loads the model …"):
        logit = answers.expression(int(at.position_id), of, [], 0, minus).prediction
    told = f"The terms are those of {logit.label}. {logit.hint}"
    linked.show(f'<p class="about">{escape(told)}</p>', key="target")
    return Target("effect", logit.label, of, minus)


def _form() -> None:
    """Show text boxes for the token whose logit is decomposed and the token whose logit is subtracted."""
    with st.form("target", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        for name, label in (("of", "Logit of (spaces matter)"), ("minus", "minus logit of")):
            # Streamlit keeps what the user typed into a box as long as the box has the same key. The key
            # contains a hash of the text in the URL, so a new text in the URL makes a new box, which shows
            # the new text.
            key = f"{name} {hash(links.text(name))}"
            st.text_input(label, links.text(name) or "", key=key, max_chars=100)
        keys = [f"{name} {hash(links.text(name))}" for name in ("of", "minus")]
        st.form_submit_button("Take apart", on_click=_put, args=keys)


def _put(of: str, minus: str) -> None:
    for name, key in (("of", of), ("minus", minus)):
        if st.session_state[key]:
            links.put_text(name, st.session_state[key])
        else:
            links.put(**{name: None})


def likeliest(at: "pd.Series[Any]", target: Target) -> None:
    """Show the most likely next tokens, if the model runs anyway or the URL asks for them; else offer them.

    A click on a token makes it the target; a click on the minus beside it subtracts the token's logit.
    """
    run, position = int(at.run_id), int(at.position_id)
    here = {"run": run, "position": position} | {name: links.text(name) for name in STATE}
    if not (target.computed or links.is_on_prompt() or links.text("likely")):
        way = {"Show the most likely next tokens": links.link("token", **here | {"likely": 1})}
        linked.show(
            markup.ways(way, ": the run's model reads the window again, and is loaded the first time"),
            key="likely",
        )
        return
    with st.spinner("The run's model reads the window again; the first time also loads the model …"):
        frame = answers.likeliest(position)

    def of(row: markup.Row) -> str:
        return links.link("token", **here | {"toward": "other", "of": row["token"], "minus": None})

    def minus(row: markup.Row) -> str:
        return links.link("token", **here | {"toward": "other", "of": target.name, "minus": row["token"]})

    parts.heading("Most likely next tokens", frame)
    linked.show(markup.choices(frame, of, minus), key="likely")
