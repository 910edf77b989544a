"""The page Patch: activation patching between two prompts, and their direct effects side by side."""

from html import escape

import streamlit as st

from annotate_transformer.app.browser import answers, charts, linked, links, markup, parts
from annotate_transformer.app.present import columns
from annotate_transformer.app.present.heat_maps import of_patches, shares
from annotate_transformer.app.present.words import closeness, signed
from annotate_transformer.store.patches import DIRECTIONS
from annotate_transformer.store.question import largest_first

TITLE, ICON, PLACE = "Patch", "swap_horiz", 95

CHARACTERS = 400  # maximum number of characters of a prompt
PROMPTS = {
    "clean": "Clean prompt, which has the behaviour",
    "corrupted": "Corrupted prompt, of as many tokens",
}
TOKENS = {"of": "Logit of (spaces matter)", "minus": "minus logit of"}
SHORT_NAMES = {
    "resid": "layer × token",
    "attn": "attention × token",
    "mlp": "MLP × token",
    "head": "head",
    "head_position": "head × token",
    "path": "path from a head",
}
WAYS = {
    "denoising": "denoising: clean into corrupted",
    "noising": "noising: corrupted into clean",
}


def show() -> None:
    """Show the page."""
    parts.title("Patch")
    run = parts.run()
    parts.run_picker(run)
    _form()
    clean, corrupted = (links.text(name) for name in PROMPTS)
    if clean is None or corrupted is None:
        raise parts.NothingYet(
            "Write two prompts that differ in a few tokens, and the token whose logit is measured after "
            "each of them. The run's model then puts activations of one prompt into the other. Nothing "
            "is stored."
        )
    _check_length(clean, corrupted)
    kind = parts.switch("What is patched", [*SHORT_NAMES], "kind", SHORT_NAMES)
    how = parts.switch("Direction", DIRECTIONS, "way", WAYS)
    patching = {"to": _receiver()} if kind == "path" else {"kind": kind}
    _patches(run, clean, corrupted, patching | {"direction": how})
    _difference(run, clean, corrupted)


def _form() -> None:
    """Show text boxes for the prompts and the target in the URL."""
    keys = {name: f"{name} {hash(links.text(name))}" for name in (*PROMPTS, *TOKENS)}
    with st.form("prompts", border=False):
        for name, label in PROMPTS.items():
            _box(name, label, keys[name], CHARACTERS)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            for name, label in TOKENS.items():
                _box(name, label, keys[name], 100)
            st.form_submit_button("Patch", on_click=_put, args=(keys,))


def _box(name: str, label: str, key: str, longest: int) -> None:
    st.text_input(label, (links.text(name) or "")[:longest], key=key, max_chars=longest)


def _put(keys: dict[str, str]) -> None:
    for name, key in keys.items():
        links.put(**{name: None})
        if st.session_state[key]:
            links.put_text(name, st.session_state[key])


def _check_length(*prompts: str) -> None:
    if (longest := max(map(len, prompts))) > CHARACTERS:
        raise links.BadLink(
            f"The address holds a prompt of {longest:,} characters; this page takes at most {CHARACTERS:,}. "
            "`annotate patch` takes longer ones."
        )


def _receiver() -> str:
    """Show a text box for the receiver of path patching (the end of the path); return the URL's receiver."""
    receiver = links.text("to") or "logits"
    st.text_input("Path to L3H2.q, L3H2.k, L3H2.v or logits", max_chars=20, **parts.held("to", receiver))
    return receiver


def _patches(run: int, clean: str, corrupted: str, patching: dict[str, str]) -> None:
    of, minus = links.text("of") or "top", links.text("minus")
    with st.spinner(
        "The run's model computes the logit with each patch; the first time also loads the model …"
    ):
        found = answers.patch(clean, corrupted, toward=of, minus=minus, run=run, **patching)
    about, shown = found.attrs, of_patches(found)
    told = (
        f"{about['target']}: {signed(about['clean'])} logits after the clean prompt, "
        f"{signed(about['corrupted'])} after the corrupted one. Patched: {shown.patched}."
    )
    parts.heading("What each patch recovers", found)
    linked.show(f"<p>{escape(told)}</p>", key="told")
    charts.show(charts.heat_map(shown), f"heat map of patches: {shown.patched}")
    parts.table("Patches, the largest first", largest_first(found, shares(found)), columns.patches(found))


def _difference(run: int, clean: str, corrupted: str) -> None:
    """Show each component's direct effect on the target after both prompts, and the difference."""
    of: str | int = links.text("of") or "top"
    minus = links.text("minus")
    frames = []
    for prompt in (clean, corrupted):
        with answers.reading(answers.prompt(prompt, run)):
            last = int(answers.asked("last").position_id[0])
            # `top` is the top prediction after the clean prompt, for both prompts, as in Store.patch.
            of = int(answers.position(last).top_token_id) if of == "top" else of
            frames.append(answers.decomposition(last, "component", of, minus))
    before, after = frames
    found = before[["component", "layer"]].assign(clean=before.effect, corrupted=after.effect)
    found["difference"] = found.clean - found.corrupted
    found.attrs = before.attrs
    rows = largest_first(found, found.difference)
    scale = markup.scale(rows.difference, "logits", signed=True)
    tints = {"difference": scale}
    parts.table("Direct effects after both prompts, by component", rows, columns.BOTH_PROMPTS, tints=tints)
    total, closure = found.difference.sum(), max(abs(frame.attrs["closure"]) for frame in frames)
    st.caption(
        f"The differences sum to {signed(total)} logits, the difference between the two logits, within "
        f"{closeness(2 * closure)}. A direct effect leaves out the effects through later components."
    )
