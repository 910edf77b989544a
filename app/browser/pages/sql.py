"""The page SQL: run a user's query within limits that the operating system enforces (store/restricted.py)."""

import re
from collections.abc import Callable
from html import escape
from typing import Any

import pandas as pd
import streamlit as st
from pandas.api import types

from annotate_transformer.app.browser import answers, charts, limited, linked, links, markup, parts
from annotate_transformer.app.example_queries import defaults, examples
from annotate_transformer.app.present import columns
from annotate_transformer.app.present.words import counted, one_line, visible
from annotate_transformer.store.restricted import RefusedQuery

TITLE, ICON, PLACE = "SQL", "database", 80
KEEPS = ("query",)

LONGEST_QUERY = 20_000  # maximum number of characters of a query, because the URL contains the query
SHOWN = 200  # maximum number of rows of an answer that are shown on the page
LONGEST_CELL = 200
MOST_BARS = 60
CODE = "<style>.stTextArea textarea { font-family: var(--st-code-font, monospace); }</style>"
LIMITS = (
    f"One SELECT, for reading only: at most {limited.ROWS:,} rows, {limited.SECONDS:g} seconds and "
    f"{limited.MEMORY.removesuffix('MB')} MB of memory; {limited.AT_ONCE} queries run at once."
)


def show() -> None:
    """Show the page."""
    parts.title("SQL")
    st.html(CODE)
    run, query = parts.run(), _asked()
    left, right = st.columns([3, 2])
    with left:
        _editor(query)
    with right:
        views, queries = st.tabs(["Views and macros", "Example queries"])
        with views:
            linked.show(_views(run), key="views")
        with queries:
            linked.show(_examples(run), key="examples")
    if query:
        _answer(query)


# The query ----------------------------------------------------------------------------------------


def _asked() -> str:
    query = links.text("query") or ""
    if len(query) > LONGEST_QUERY:
        raise links.BadLink(f"The query of the address is longer than {LONGEST_QUERY:,} characters.")
    return query


def _editor(query: str) -> None:
    """Show the SQL editor; when the query in the URL changes, the editor shows the new query."""
    if st.session_state.get("of the address") != query or "query box" not in st.session_state:
        st.session_state["of the address"] = st.session_state["query box"] = query

    def changed() -> None:
        links.put(query=st.session_state["query box"], x=None, y=None)

    with st.form("editor", border=False):
        st.text_area(
            "SQL", height=330, max_chars=LONGEST_QUERY, key="query box", label_visibility="collapsed",
            placeholder="SELECT token, count(*) AS n FROM positions GROUP BY token ORDER BY n DESC",
        )  # fmt: skip
        with st.container(horizontal=True, vertical_alignment="center"):
            st.form_submit_button("Run", icon=":material/play_arrow:", type="primary", on_click=changed)
            st.caption(LIMITS)


# Views and examples -------------------------------------------------------------------------------


def _views(run: int) -> str:
    """Return a list of all views and macros with their comments; a click on a view shows its columns."""
    columns = {str(view): of for view, of in answers.asked("columns").groupby("view")}
    listed = (_view(run, row, columns.get(row["name"])) for row in answers.views().to_dict("records"))
    return f'<div class="table">{"".join(listed)}</div>'


def _view(run: int, row: markup.Row, columns: pd.DataFrame | None) -> str:
    about = f"<b>{escape(row['name'])}</b> {escape(row['comment'] or '')}"
    if columns is None:
        return f"<p>{about}</p>"
    href = links.link("sql", run=run, query=f"FROM {row['name']} LIMIT 100")
    lines = "".join(
        f"<tr><td>{escape(column['column'])}</td><td>{escape(column['comment'])}</td></tr>"
        for column in columns.to_dict("records")
    )
    rows = f'<a class="more" href="{escape(href)}">first rows</a>'
    return f"<details><summary>{about}</summary>{rows}<table>{lines}</table></details>"


def _examples(run: int) -> str:
    """Return a list of the example queries: each has its question, its purpose, and a link to the editor."""
    listed = "".join(_example(run, text) for text in examples())
    return f'<div class="table">{listed}</div>'


def _example(run: int, text: str) -> str:
    """Return an example query as HTML. `text` is the content of its file: four header lines, then SQL."""
    *header, statement = text.split("\n", 4)
    title, question, why, _ = (line.partition(": ")[2] for line in header)
    query = f"-- {title}\n-- {question}\n{_filled(statement, defaults(text), run)}"
    href = escape(links.link("sql", run=run, query=query))
    return (
        f'<p><a class="more" href="{href}">{escape(title)}</a><br>{escape(question)} '
        f"<i>{escape(why)}</i></p><br>"
    )


def _filled(statement: str, given: dict[str, str], run: int) -> str:
    """Return a statement in which $run is replaced by `run`, and other parameters by their default values."""
    given = given | {"run": str(run)}
    return re.sub(r"\$(\w+)", lambda name: given[name[1]], statement).strip()


# The answer ---------------------------------------------------------------------------------------


def _answer(query: str) -> None:
    try:
        with st.spinner("Running …"):
            frame = limited.ask(query)
    except RefusedQuery as error:
        told, _, where = str(error).partition("\n")
        parts.sentence(RefusedQuery(told))
        if where.strip():
            st.code(where.strip("\n"), language=None)
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader("Result", anchor=False, width="content")
        if frame.attrs["truncated"]:
            st.badge(f"cut at {counted(len(frame), 'row')}", color="orange")
        parts.data("Result", {"Result": frame})
    shown = tuple(_column(frame, name) for name in frame.columns)
    linked.show(markup.table(frame.head(SHOWN), shown, links=_positions(frame)))
    st.caption(_how_many(frame))
    _chart(frame)


def _how_many(frame: pd.DataFrame) -> str:
    told = f"{counted(len(frame), 'row')} in {frame.attrs['seconds']:.2f} s."
    if len(frame) > SHOWN:
        told += f" The first {SHOWN} are shown; the download has all {len(frame):,}."
    if frame.attrs["truncated"]:
        told += " The query has more rows than these: the download and the chart have only these."
    return told


def _column(frame: pd.DataFrame, name: str) -> columns.Column:
    """Return how a column is shown: aligned numbers, tokens with visible spaces, other values on one line."""
    if _is_number(frame[name]):
        return columns.formatted(name, name, _number)
    if _is_token(frame, name):
        return columns.token(name, name)
    return columns.words(name, name, lambda row: _line(row[name]))


def _positions(frame: pd.DataFrame) -> markup.Links:
    """Return the links of the columns that contain position_ids: an id links to the page of the position."""

    def to(name: str) -> Callable[[markup.Row], str | None]:
        return lambda row: None if pd.isna(row[name]) else links.link("token", position=row[name])

    ids = (name for name in frame if name.endswith("position_id") and types.is_integer_dtype(frame[name]))
    return {name: to(name) for name in ids}


def _number(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _line(value: Any) -> str:
    if types.is_scalar(value) and pd.isna(value):
        return "—"
    text = one_line(str(value))
    return text if len(text) <= LONGEST_CELL else text[:LONGEST_CELL] + "…"


def _is_token(frame: pd.DataFrame, name: str) -> bool:
    return name.endswith("token") and types.is_string_dtype(frame[name])


def _is_number(of: "pd.Series[Any]") -> bool:
    return types.is_numeric_dtype(of) and not types.is_bool_dtype(of)


def _chart(frame: pd.DataFrame) -> None:
    """Show boxes to choose two columns, and a chart of one against the other (see `charts.of_columns`)."""
    numbers = [name for name in frame.columns if _is_number(frame[name])]
    if not numbers or len(frame.columns) < 2 or len(frame) < 2:
        st.caption("A chart needs at least two rows and two columns, one of them with numbers.")
        return
    parts.heading("Chart")
    left, right = st.columns(2)
    x = links.one_of("x", list(frame.columns))
    y = links.one_of("y", sorted(numbers, key=lambda name: name == x))
    with left:
        parts.choose("Across", list(frame.columns), x, "x")
    with right:
        parts.choose("Upwards", numbers, y, "y")
    across = frame[x] if _is_number(frame[x]) else frame[x].map(visible if _is_token(frame, x) else _line)
    points = pd.DataFrame({"x": across, "y": frame[y].astype(float)})
    shown = points if _is_number(across) else points.head(MOST_BARS)
    charts.show(charts.of_columns(shown, x, y), "the column chosen for upwards by the one chosen for across")
    if len(shown) < len(points):
        st.caption(f"The first {MOST_BARS} of {len(points):,} rows.")
