"""What a person is looking at: the sidebar's links to pages, the objects seen last, and the path to a page.

A page's KEEPS names the URL parameters that say what the page shows: a position, a neuron, a head, a prompt,
a search or a query. They are kept for the session, so that the sidebar's link to a page opens it with the
object that it showed last, and so that Text opens at the position of Token.
"""

from collections.abc import Callable
from dataclasses import replace
from html import escape
from typing import Any, NamedTuple

import streamlit as st

from annotate_transformer.app.browser import answers, conditions, findings, linked, links, markup
from annotate_transformer.app.browser.findings import Finding
from annotate_transformer.app.browser.parts import sentence
from annotate_transformer.app.present.words import one_line, visible
from annotate_transformer.store import AnnotateError
from annotate_transformer.store.ids import run_of
from annotate_transformer.store.names import parse, unit_name

# PLACE: the parameters that name a place in a text. A new position replaces the document that was kept.
PLACE = ("document", "from", "position")
RECENT = 8  # number of objects in the list of objects seen last
LONGEST = 30  # maximum number of characters of an object's name


class Seen(NamedTuple):
    """An object that was shown: its name, and the URL of the page that showed it."""

    name: str
    href: str


def keeps(module: Any) -> tuple[str, ...]:
    """Return the names of the URL parameters that say what a page shows."""
    return getattr(module, "KEEPS", ())


def kept(module: Any, run: dict[str, str]) -> dict[str, str]:
    """Return the URL parameters of the sidebar's link to a page: the run, and the object that is kept.

    run: the URL parameter `run`, or {} for the default run
    """
    known = _kept()
    return run | {name: known[name] for name in keeps(module) if _fits(name, known.get(name), run)}


def remember(page: str, module: Any) -> None:
    """Keep the object that a page shows now; a page without an object changes nothing."""
    shown = _shown(module)
    if not shown:
        return
    known = _kept()
    for name in (*keeps(module), *(PLACE if "position" in keeps(module) else ())):
        known.pop(name, None)
    known.update(shown)
    name = object_of(page)
    if name:
        seen = Seen(name, links.link(page, **_run(), **shown))
        st.session_state["seen"] = [seen, *(one for one in recent() if one.name != name)][:RECENT]


def recent() -> list[Seen]:
    """Return the objects that were shown in this session, the last one first."""
    seen: list[Seen] = st.session_state.setdefault("seen", [])
    return seen


def object_of(page: str) -> str | None:
    """Return the name of the object in the URL, such as L3N7 or ` the` 3:812; None if the page shows none."""
    try:
        position, unit = links.number("position"), links.text(page)
        if page in ("neuron", "head"):
            return unit_name(*parse(unit)) if unit and conditions.is_unit(unit) else None
        if page == "token" and position is not None:
            return f"{visible(answers.position(position).token)} {place_name(position)}"
        if page == "text":
            document = links.number("document")
            return None if document is None else f"document {document}"
    except AnnotateError:  # the page itself says what is wrong with the URL
        return None
    written = links.text({"prompt": "text", "search": "q", "sql": "query"}.get(page, ""))
    return short(written) if written else None


def place_name(position: int) -> str:
    """Return the name of a position that a person can type: its document, and its number there, from 1 on."""
    at = answers.position(position)
    place = {"run": int(at.run_id), "document": int(at.document_id), "position": position}
    return f"{at.document_id}:{answers.asked('place', **place).number.iloc[0]}"


def title(page: str, module: Any) -> str:
    """Return the title of the browser's tab, such as `L3H2 · run 1`."""
    return " · ".join([object_of(page) or module.TITLE, *(f"run {number}" for number in _run().values())])


def path(page: str, module: Any) -> str:
    """Return links, as HTML, to what contains the object in the URL: the store, the run and the document."""
    steps = [Seen(answers.path().name, links.link(""))]
    steps += [Seen(f"run {number}", links.link("", run=number)) for number in _run().values()]
    if page == "token" and object_of(page):
        position = links.number("position")
        assert position is not None
        document = place_name(position).partition(":")[0]
        steps.append(Seen(f"document {document}", links.link("text", **_run(), position=position)))
    elif page != "overview":
        steps.append(Seen(module.TITLE, links.link(page, **_run())))
    last = object_of(page)
    shown = [_link(step) for step in steps] + ([f"<span>{escape(last)}</span>"] if last else [])
    return f'<nav aria-label="Path" class="path">{" › ".join(shown)}</nav>'


def show_recent() -> None:
    """Show links to the objects seen last, in the sidebar."""
    if seen := recent():
        lines = "".join(f"<li>{_link(one)}</li>" for one in seen)
        linked.show(f'<nav aria-label="Seen last"><i>Seen last</i><ul>{lines}</ul></nav>', key="seen last")


def star(page: str, module: Any) -> None:
    """Show a button with a form that keeps the object of the page, and changes or removes what is kept."""
    name = object_of(page)
    if name is None:
        return
    about = Finding(page, {key: str(value) for key, value in (_run() | _shown(module)).items()}, name)
    try:
        known = next((one for one in findings.kept() if findings.is_same(one, about)), None)
    except findings.NotKept:  # the page Findings says why
        return
    shown = known or about
    key = f"{page} {sorted(about.parameters.items())}"
    with st.popover("★ kept" if known else "☆ keep", type="tertiary"), st.form(f"keep {key}", border=False):
        for label, value in (("name", shown.name), ("list", shown.list), ("note", shown.note)):
            write = st.text_area if label == "note" else st.text_input
            write(label.capitalize(), value, key=f"{label} {key}", max_chars=findings.LONGEST)
        st.form_submit_button("Keep", on_click=_keep, args=(about, key))
        if known:
            st.form_submit_button("Remove", on_click=_changed, args=(findings.remove, about))


def _shown(module: Any) -> dict[str, str]:
    """Return the URL parameters that say which object the page shows now."""
    return {name: value for name in keeps(module) if (value := links.text(name))}


def _keep(about: Finding, key: str) -> None:
    written = {label: st.session_state[f"{label} {key}"].strip() for label in ("name", "list", "note")}
    _changed(findings.keep, replace(about, **written | {"name": written["name"] or about.name}))


def _changed(change: Callable[[Finding], None], about: Finding) -> None:
    try:
        change(about)
    except AnnotateError as error:
        sentence(error)  # above the page, which is shown as before


def _kept() -> dict[str, str]:
    known: dict[str, str] = st.session_state.setdefault("kept", {})
    return known


def _fits(name: str, value: str | None, run: dict[str, str]) -> bool:
    """Return whether a kept parameter is known and exists in the run."""
    if value is None:
        return False
    if not run or name not in ("position", "neuron", "head"):
        return True
    number = int(run["run"])
    try:
        return run_of(int(value)) == number if name == "position" else bool(answers.exists(value, number))
    except (AnnotateError, ValueError):
        return False


def _run() -> dict[str, int]:
    """Return the URL parameter `run`; without it, the run of the position in the URL."""
    try:
        run, position = links.number("run"), links.number("position")
    except AnnotateError:
        return {}
    if run is None and position is not None:
        run = run_of(position)
    return {} if run is None else {"run": run}


def _link(seen: Seen) -> str:
    return f'<a class="more" href="{escape(seen.href)}">{markup.line(seen.name)}</a>'


def short(text: str) -> str:
    """Return the beginning of a text, in one line, as the name of an object."""
    line = one_line(text)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
