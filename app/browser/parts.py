"""Elements that several pages share: the run picker, choices kept in the URL, tables, badges."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, conditions, linked, links, markup
from annotate_transformer.app.present.columns import Columns
from annotate_transformer.app.present.formats import defused
from annotate_transformer.app.present.words import limits, status
from annotate_transformer.store import AnnotateError, NoSuchRun, writer
from annotate_transformer.store.display import AMOUNT, LOWERS
from annotate_transformer.store.names import parse, unit_name

OBJECT = ("run", "document", "position", "neuron", "head")  # URL parameters that name a download
LONGEST_NAME = 120  # maximum number of characters of a download's name
SECTIONS = 5  # a page with as many sections has an index of them
# COMPACT: CSS that makes margins smaller, because Streamlit's own margins take a third of a small screen.
COMPACT = """<style>
.stMainBlockContainer { padding: 3.5rem 2rem 4rem; }
.stMainBlockContainer h1 { font-size: 1.6rem; padding: 0; }
.stMainBlockContainer h3 { font-size: 1.1rem; padding: 0; scroll-margin-top: 6rem; }
:has(> .st-key-sections) { position: sticky; top: 3.3rem; z-index: 99; }
[data-testid="stSidebarHeader"] { height: 2.5rem; }
[data-testid="stCaptionContainer"], [data-testid="stCaptionContainer"] * { opacity: 1; }
[data-testid="stCaptionContainer"] code { color: inherit; }
</style>"""


class Page(NamedTuple):
    """What the page that is shown has so far: the place of its index, and the headings of its sections.

    A list among the headings holds those of a place that is filled later.
    """

    index: Any
    headings: list[Any]


_page: ContextVar[Page | None] = ContextVar("_page", default=None)


class NothingYet(AnnotateError):
    """The store has nothing to show on this page yet; the message says what to do."""


# Which run ----------------------------------------------------------------------------------------


def run() -> int:
    """Return the id of the run in the URL, or the id of a default run if the URL has none.

    The default is the run that finished last or, if no run is finished, the last run.

    Raises:
        NoSuchRun: the store has no run with the id in the URL.
        NothingYet: the store has no run at all.
    """
    runs, wanted = answers.runs(), links.number("run")
    if runs.empty:
        raise NothingYet(
            f"{answers.path()} has no run yet. `annotate ingest TEXT --db {answers.path()}` makes one; "
            "this page shows it as soon as its first part is committed."
        )
    ids = [int(run_id) for run_id in runs.run_id]
    if wanted is None:
        finished = runs[runs.finished.notna()].sort_values("finished")
        return int(finished.run_id.iloc[-1]) if len(finished) else ids[-1]
    if wanted not in ids:
        raise NoSuchRun(f"There is no run {wanted}; the store has {', '.join(map(str, ids))}.")
    return wanted


def known_run() -> dict[str, str]:
    """Return the URL parameter `run`, for links to other pages; empty if the URL names no existing run."""
    with suppress(AnnotateError):
        if links.number("run") is not None:
            return {"run": str(run())}
    return {}


def run_picker(current: int, change: Callable[[int], dict[str, Any]] | None = None) -> None:
    """Show a select box of the runs in the sidebar.

    change: returns, for the chosen run, the other URL parameters to set
    """
    runs = answers.runs().set_index("run_id")
    if current not in runs.index:  # the run was committed after the list of runs was read
        return
    ids = [int(run_id) for run_id in runs.index]
    with st.sidebar:
        choose("Run", ids, current, "run", lambda run_id: run_name(run_id, runs.loc[run_id]), change)
        found = status_of(runs.loc[current])
        if found != "finished":
            told = "still going on" if found == "running" else found
            st.badge(told, icon=":material/pending:", color="orange")


def status_of(about: "pd.Series[Any]") -> str:
    """Return a run's current status, which differs from the stored status if the ingest was killed."""
    return writer.status(answers.path(), str(about["status"]))


def run_name(number: int, about: "pd.Series[Any]") -> str:
    """Return a run's id, model and revision (training step), as one label."""
    revision = f" {about.revision}" if about.revision and not pd.isna(about.revision) else ""
    return f"{number} · {Path(str(about.model)).name}{revision}"


# Choices ------------------------------------------------------------------------------------------


def choose(
    label: str,
    options: Sequence[Any],
    current: Any,
    name: str,
    write: Callable[[Any], str] = str,
    change: Callable[[Any], dict[str, Any]] | None = None,
) -> None:
    """Show a select box whose value is the URL parameter `name`.

    write: returns the label of an option
    change: returns, for the chosen option, the other URL parameters to set
    """
    st.selectbox(label, options, format_func=write, **held(name, current, change))


def switch(
    label: str,
    options: Sequence[str],
    name: str,
    names: dict[str, str],
    change: Callable[[Any], dict[str, Any]] | None = None,
) -> str:
    """Show a few options side by side, and return the chosen one, which the URL parameter `name` holds.

    names: the label of each option
    change: returns, for the chosen option, the other URL parameters to set
    """
    current = links.one_of(name, options)
    st.segmented_control(
        label, options, format_func=lambda option: names[option], required=True, **held(name, current, change)
    )
    return current


def asked_unit(kind: str, example: str) -> str | None:
    """Show a text box for the name of a neuron or head; return the name in the URL, None if there is none."""
    current = links.text(kind)
    st.text_input(
        kind.capitalize(),
        placeholder=example,
        max_chars=20,
        **held(kind, current or "", lambda _: {"bin": None}),
    )
    return current


def held(name: str, current: Any, change: Callable[[Any], dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return arguments for a Streamlit widget that shows the URL parameter `name` and changes it.

    A choice is stored only in the URL: the widget's own state is overwritten, so the back button works.
    """
    st.session_state[name] = current

    def changed() -> None:
        chosen = st.session_state[name]
        try:
            links.put(**({name: chosen} | (change(chosen) if change else {})))
        except AnnotateError as error:
            sentence(error)  # the message is shown above the page, and the page itself is not changed

    return {"key": name, "on_change": changed}


# Elements -----------------------------------------------------------------------------------------


def title(text: str) -> None:
    """Show a page's title. `text` is rendered as Markdown, so it must not come from a corpus."""
    st.html(COMPACT)
    st.title(text, anchor=False)
    _page.set(Page(st.container(key="sections"), []))


def sections() -> None:
    """Show the index of the page's sections below its title, where it stays in view."""
    page = _page.get()
    if page is None:
        return
    headings = [text for each in page.headings for text in ([each] if isinstance(each, str) else each)]
    if len(headings) >= SECTIONS:
        with page.index:
            linked.show(markup.sections(headings), key="section index")


def later() -> Callable[[], AbstractContextManager[None]]:
    """Reserve a place on the page, and return a context manager in which elements go there."""
    place, page, headings = st.container(), _page.get(), list[Any]()
    if page is not None:
        page.headings.append(headings)

    @contextmanager
    def filling() -> Iterator[None]:
        token = _page.set(page and Page(page.index, headings))
        try:
            with place:
                yield
        finally:
            _page.reset(token)

    return filling


def title_of_unit(kind: str) -> None:
    """Show `Neuron` or `Head` as the page's title, followed by the name in the URL if that name is valid."""
    name = links.text(kind)
    known = f" {unit_name(*parse(name))}" if name and conditions.is_unit(name) else ""
    title(kind.capitalize() + known)


def heading(text: str, frame: pd.DataFrame | None = None, **more: pd.DataFrame) -> None:
    """Show a heading. For a frame, also show whether it is exact, and a button with downloads and SQL."""
    with st.container(horizontal=True, vertical_alignment="center"):
        subheading(text)
        if frame is not None:
            badge(frame)
            data(text, {text: frame} | more)


def subheading(text: str) -> None:
    """Show the heading of a section by itself, and list it in the index of the page's sections."""
    st.subheader(text, anchor=False, width="content")
    if (page := _page.get()) is not None:
        page.headings.append(text)


def badge(frame: pd.DataFrame) -> None:
    """Show a badge that says whether an answer is exact and, if it is not, why."""
    about = frame.attrs
    is_whole = about.get("exact", True) and about.get("complete", True)
    st.badge(status(about), color="green" if is_whole else "orange", help=limits(about) or None)


def table(title: str, frame: pd.DataFrame, columns: Columns, limit: int = 200, **how: Any) -> None:
    """Show a heading and a table of the first `limit` rows.

    how: links, tints and cells for `markup.table`
    """
    heading(title, frame)
    if frame.empty:
        st.caption("None.")
        return
    linked.show(markup.table(frame.head(limit), columns, **how), key=title)
    if len(frame) > limit:
        st.caption(f"The first {limit} of {len(frame):,} rows; the download has all.")


def data(title: str, frames: dict[str, pd.DataFrame]) -> None:
    """Show a button that opens, for each frame, its downloads (CSV and Parquet) and its SQL."""
    with st.popover("data, SQL", type="tertiary"):
        for name, frame in frames.items():
            _data(f"{title} {name}" if len(frames) > 1 else name, frame)


def file_name(title: str) -> str:
    """Return the name of a download without its ending: the store, the object in the URL, and the heading."""
    object_ = [f"{kind} {value}" for kind in OBJECT if (value := links.text(kind))]
    whole = " ".join([Path(answers.path().name).stem, *object_, title])
    return re.sub(r"[^A-Za-z0-9]+", "-", whole).strip("-")[:LONGEST_NAME]


def _data(title: str, frame: pd.DataFrame) -> None:
    name = file_name(title)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(title, width="content")
        for kind, write in (("csv", _csv), ("parquet", _parquet)):
            key = f"{kind} {title}"
            st.download_button(
                kind.upper(), partial(write, frame), f"{name}.{kind}", key=key, on_click="ignore"
            )
    if sql := frame.attrs.get("sql", ""):
        st.code(sql, language="sql", wrap_lines=True)
    else:
        st.caption("The run's model computed this; no SQL query returns it.")


def _csv(frame: pd.DataFrame) -> bytes:
    """Return a frame as CSV, changed so that a spreadsheet reads no cell and no column name as a formula."""
    safe = frame.map(lambda value: defused(value) if isinstance(value, str) else value)
    names = [defused(str(name)) for name in frame.columns]
    # With lineterminator="\r\n", pandas puts quotes around cells that contain a carriage return. Without the
    # quotes, a spreadsheet would begin a new row at the carriage return.
    return str(safe.to_csv(index=False, header=names, lineterminator="\r\n")).encode()


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = BytesIO()
    plain = frame.copy()
    plain.attrs = {}
    plain.convert_dtypes().to_parquet(buffer, index=False)
    return buffer.getvalue()


def sentence(error: AnnotateError) -> None:
    """Show an error's message as plain text, not as Markdown; the parts between backticks are code."""
    hue = AMOUNT if isinstance(error, NothingYet) else LOWERS
    linked.show(
        f'<p style="padding:0.8rem 1rem;border-left:4px solid rgb({hue})">{markup.message(str(error))}</p>',
        key="sentence",
    )
