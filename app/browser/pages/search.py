"""The page Search: one box for a neuron or head, a text, a token, a regular expression or conditions.

    /search?run=1&q=L3N7
    /search?run=1&q=the capital of&filters=topic = "capitals"&from=50
    /search?run=1&as=conditions&q=L3N7 > 2 and next_rank <= 3

A filter is a condition, too (see conditions.py), so a filter can also be written by hand.
"""

from collections.abc import Callable
from html import escape
from typing import Any

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, conditions, linked, links, markup, parts
from annotate_transformer.app.browser.conditions import Condition
from annotate_transformer.app.browser.pages import neuron as page_neuron
from annotate_transformer.app.present import columns
from annotate_transformer.app.present.words import one_line, signed, visible
from annotate_transformer.store.names import parse

TITLE, ICON, PLACE = "Search", "search", 10
KEEPS = ("as", "q", "filters")

WAYS = ("text", "token", "regex", "conditions")
EXAMPLES = [
    ("text", "the", "a text, across the borders of tokens; quotes keep its spaces"),
    ("text", "L0N0", "a neuron or head by its name: its top contexts"),
    ("token", '" the"', "a token exactly: quotes keep its space"),
    ("regex", "^ [A-Z]", "the tokens that match a regular expression, with counts"),
    ("conditions", "next_rank > 10 and entropy < 1", "positions where the model was sure and wrong"),
    ("conditions", 'L0N0 > 0.5 and next_token = " the"', "positions where a neuron is active before a token"),
]
MOST = 1000  # maximum number of occurrences that a search lists; of a text, the facets count only these
LINES = 50  # number of occurrences on a page of results, unless the URL has ?limit=
VALUES = 12  # maximum number of values shown in a facet
SORTED = {"place": "place in the text", "value": "value, the largest first"}
A_UNIT = "L0N0 or L0H0"  # in the builder, stands for a neuron or head, whose name is typed instead
KEYS = 4  # maximum number of metadata keys for which a facet is shown


def show() -> None:
    """Show the page."""
    parts.title("Search")
    run = parts.run()
    parts.run_picker(run, lambda _: {"from_": None})
    way, written = _box()
    if written is None:
        _start(run)
    elif way == "text" and conditions.is_unit(written.strip()):
        _unit(run, written.strip())
    elif way == "regex":
        _regex(run, written)
    else:
        held = links.text("filters")
        filters = _read(run, held) if held else []
        ask = {"text": _text, "token": _token, "conditions": _conditions}[way]
        ask(run, written, filters)


def _box() -> tuple[str, str | None]:
    """Show the search box; return the chosen kind of search (one of WAYS) and the text in the box."""
    written = links.text("q")
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    with left:
        anew = parts.held("q", written or "", lambda _: {"from_": None, "filters": None})
        st.text_input("Search for", placeholder="the capital of", **anew)
    with right:
        names = {way: way for way in WAYS}
        way = parts.switch("Understood as", WAYS, "as", names, lambda _: {"from_": None})
    return way, written


def _start(run: int) -> None:
    """Show an example of each kind of search, and the names that conditions can use."""
    examples = pd.DataFrame(EXAMPLES, columns=["way", "example", "what"])
    page = {"example": lambda row: links.link("search", run=run, as_=row["way"], q=row["example"])}
    linked.show(markup.table(examples, columns.EXAMPLES, links=page), key="examples")
    keys = answers.asked("metadata_keys", run=run).key
    names = ", ".join((*conditions.NUMBERS, *conditions.TEXTS, *keys))
    linked.show(
        f"<p>Conditions are about a neuron's activation (L0N0), a head's direct effect on the next token in "
        f"logits (L0H0), or {escape(one_line(names))}; joined by <b>and</b>.</p>",
        key="names",
    )


# Kinds of questions -------------------------------------------------------------------------------


def _unit(run: int, written: str) -> None:
    """Show a link to the page of a neuron or head, and its top contexts."""
    kind, column = ("neuron", "activation") if parse(written)[0] == "N" else ("head", "toward_next")
    found = (answers.neuron if kind == "neuron" else answers.head)(written, run)["high"]
    name = written.upper()
    href = links.link(kind, run=run, **{kind: name})
    linked.show(f'<p><a class="more" href="{escape(href)}">{kind} {name}: its page</a></p>', key="unit")
    parts.heading("Top contexts", found)
    unit = "activation" if kind == "neuron" else "direct effect on the next token (logits)"
    linked.show(page_neuron.panel(run, found, column, name, unit), key="contexts")


def _text(run: int, written: str, filters: list[Condition]) -> None:
    text = conditions.unquoted(written)
    hits = answers.phrase(text, conditions.written(filters) or None, run, MOST)
    _places(
        run, hits, filters, _document, "first column: the document's id",
        f"The text {visible(text)} is not in what run {run} has read: case and spaces matter. "
        "Search for a shorter part.",
    )  # fmt: skip


def _token(run: int, written: str, filters: list[Condition]) -> None:
    token = conditions.unquoted(written)
    like = answers.tokens(token, "like", run)
    exact = like[like.token == token]
    if len(like) > len(exact):
        _tokens(run, "Tokens that differ only in spaces and case", like)
    if exact.empty:
        _nothing(
            f"No token is exactly {visible(token)}. A word may be several tokens: search for it as text."
        )
        return
    if filters or len(exact) > 1:  # tokens that are each a part of a character all have the text �
        where = conditions.written([Condition("token", "=", token), *filters])
        hits = answers.search(where, run, MOST)
    else:
        hits = answers.occurrences(int(exact.token_id.iloc[0]), run, limit=MOST)
        where = f"run_id = {run} AND token_id = {exact.token_id.iloc[0]}"
        hits.attrs["every_sql"] = f"SELECT position_id FROM base.position WHERE {where}"
    _places(
        run, hits, filters, _document,
        f"{exact.occurrences.sum():,} in the run; first column: the document's id",
        f"{visible(token)} is a token of the vocabulary, but run {run} has not read it anywhere.",
    )  # fmt: skip


def _regex(run: int, written: str) -> None:
    found = answers.tokens(conditions.unquoted(written), "regex", run)
    _tokens(run, "Tokens that match the expression", found)
    if found.empty:
        st.caption(
            "The expression must match within one token, whose leading space counts: ^ [A-Z] finds "
            "capitalised words."
        )


def _tokens(run: int, title: str, found: pd.DataFrame) -> None:
    """Show tokens with their counts; each token links to its occurrences."""
    page = {
        "token": lambda row: links.link("search", run=run, as_="token", q=conditions.quoted(row["token"]))
    }
    parts.table(title, found, columns.TOKENS, links=page)


def _conditions(run: int, written: str, filters: list[Condition]) -> None:
    asked = _read(run, written)
    _chips("Where", asked, lambda others: {"q": others, "from_": None})
    about = next((condition for condition in asked if condition.unit), None)
    by = parts.switch("Sorted by", [*SORTED], "sort", SORTED) if about else "place"
    _builder(run, written)
    hits = answers.search(conditions.written([*asked, *filters]), run, MOST, by == "value")
    _places(
        run, hits, filters, (lambda row: _amount(about, row)) if about else _document,
        f"first column: {about.unit}" if about else "first column: the document's id",
        "No position fulfils all conditions. A missing value (next token, metadata) fulfils no condition.",
    )  # fmt: skip


def _read(run: int, text: str) -> list[Condition]:
    return conditions.read(text, [*answers.asked("metadata_keys", run=run).key])


def _amount(about: Condition, row: markup.Row) -> str:
    number = about.number(row)
    return signed(number) if about.about_unit or pd.isna(number) else f"{number:.4g}"


def _document(row: markup.Row) -> str:
    return str(row["document_id"])


# Occurrences --------------------------------------------------------------------------------------


def _places(
    run: int,
    hits: pd.DataFrame,
    filters: list[Condition],
    value: Callable[[markup.Row], str],
    note: str,
    why_none: str,
) -> None:
    """Show the occurrences in their contexts, the filters, and the facets to filter by."""
    _chips("Only where", filters, lambda others: {"filters": others})
    if hits.empty:
        more = " Remove a filter." if filters else ""
        unknown = f" {hits.attrs['note']}." if hits.attrs.get("note") else ""
        _nothing(why_none + more + unknown)
        return
    # The rows of Store.phrase have no columns `token` and `position_id`: their `text` and `first_position_id`
    # are shown instead.
    shown = {"token": hits["text"]} | dict(hits.rename(columns={"first_position_id": "position_id"}).items())
    positions = [int(number) for number in shown["position_id"]]
    every = hits.attrs.get("every_sql") or f"SELECT unnest({positions}) AS position_id"
    facets = answers.facets(run, every)
    facets.attrs |= {name: hits.attrs.get(name) for name in ("exact", "total", "bound", "note")}
    facets.attrs["complete"] = "every_sql" in hits.attrs or hits.attrs["complete"]
    left, right = st.columns([5, 2])
    with left:
        parts.heading("Occurrences", hits, facets=facets)
        first, last = _page(len(hits))
        lines = [
            markup.context(row, value(row), links.link("token", run=run, position=row["position_id"]))
            for row in pd.DataFrame(shown).iloc[first:last].to_dict("records")
        ]
        linked.show(markup.panel(_turn(first, last, hits), note, lines), key="places")
        linked.show(f"<p>{_turns(first, last, len(hits))}</p>", key="turns")
    with right:
        _facets(run, facets, filters, hits.attrs["total"] if facets.attrs["complete"] else len(hits))


def _nothing(why: str) -> None:
    parts.sentence(parts.NothingYet(why))


def _page(found: int) -> tuple[int, int]:
    """Return the start and end (exclusive) of the rows on the page of results that begins at ?from=.

    If ?from= is past the last row, the page is the last one.
    """
    start, lines = links.number("from") or 0, links.number("limit") or LINES
    first = start if start < found else (found - 1) // lines * lines
    return first, min(first + lines, found)


def _turn(first: int, last: int, hits: pd.DataFrame) -> str:
    whole, total = hits.attrs["complete"] and hits.attrs["exact"], hits.attrs["total"]
    in_all = f", of {total:,} in all" if not hits.attrs["complete"] and total else ""
    all_of_them = f"{len(hits):,}" if whole else f"{len(hits):,} found{in_all}"
    return f"{first + 1:,} to {last:,} of {all_of_them}"


def _turns(first: int, last: int, found: int) -> str:
    """Return links to the previous and the next page of results."""
    lines = links.number("limit") or LINES
    turns = [("← earlier", max(0, first - lines) or None)] if first else []
    turns += [("later →", last)] if last < found else []
    return " · ".join(
        f'<a class="more" href="{escape(_here(from_=start))}">{word}</a>' for word, start in turns
    )


def _here(**change: Any) -> str:
    """Return this page's URL with some parameters changed."""
    names = ("run", "as", "q", "filters", "limit")
    return links.link("search", **{name: links.text(name) for name in names} | change)


# Facets -------------------------------------------------------------------------------------------


def _chips(title: str, asked: list[Condition], change: Callable[[str | None], dict[str, Any]]) -> None:
    """Show conditions, each with a link that removes it; `change` returns what the URL of the others has."""
    shown = []
    for subject in dict.fromkeys(condition.subject for condition in asked):
        own = conditions.written([condition for condition in asked if condition.subject == subject])
        href = escape(_here(**change(_others(asked, subject))))
        what = escape(one_line(own))
        shown.append(f'<li>{what} <a class="more" href="{href}" aria-label="remove {what}">remove</a></li>')
    if shown:
        linked.show(f'<p>{title}</p><ul class="chips">{"".join(shown)}</ul>', key=title)


def _builder(run: int, written: str) -> None:
    """Show a form that adds a condition to those that are asked."""
    names = [
        A_UNIT,
        *conditions.NUMBERS,
        *conditions.TEXTS,
        *map(_subject, answers.asked("metadata_keys", run=run).key),
    ]
    form = st.expander("Add a condition").form("builder", border=False)
    with form, st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox("Name, or type one such as L3N7", names, key="builder name", accept_new_options=True)
        st.selectbox("Comparison", [*conditions.COMPARE], index=4, key="builder operator")
        st.text_input("Number or text (spaces matter)", key="builder value", max_chars=200)
        st.form_submit_button("Add", on_click=_add, args=(written,))


def _subject(key: str) -> str:
    return Condition(key, "=", "", metadata=True).subject


def _add(written: str) -> None:
    """Add the condition in the builder's boxes to the URL; what is wrong with it, the page then says."""
    name, compare, value = (st.session_state[f"builder {part}"] for part in ("name", "operator", "value"))
    is_number = name in conditions.NUMBERS or conditions.is_unit(name)
    added = f"{name} {compare} {value.strip() if is_number else conditions.quoted(value)}"
    links.put(q=f"{written} and {added}", from_=None)


def _others(filters: list[Condition], subject: str, *more: Condition) -> str | None:
    """Replace the filters about `subject` by `more`; return all filters as text, or None if none is left."""
    others = [condition for condition in filters if condition.subject != subject]
    return conditions.written([*others, *more]) or None


def _facets(run: int, facets: pd.DataFrame, filters: list[Condition], found: int) -> None:
    """Show the facets of the occurrences; each value is a link that filters by it."""
    st.subheader("Filter by", anchor=False)
    whole = "all" if facets.attrs["exact"] and facets.attrs["complete"] else "the"
    tables = [f"<p><i>counted over {whole} {found:,} occurrences found</i></p>"]
    facets = facets.dropna(subset="value")
    keys = answers.asked("metadata_keys", run=run)
    fields = facets[facets.key.isin(keys[keys.shared].key)]
    fewest = fields.groupby("key").value.nunique().sort_values(kind="stable").index[:KEYS]
    chosen = [fields[fields.key == key] for key in fewest]
    chosen += [facets[facets.facet == name] for name in ("document", "token", "position")]
    for facet in chosen:
        if len(facet) > 1:
            tables.append(_facet(facet, filters))
    if len(tables) == 1:
        tables.append("<p>All occurrences have the same values.</p>")
    linked.show("<p></p>".join(tables), key="facets")


def _facet(facet: pd.DataFrame, filters: list[Condition]) -> str:
    kind, key = facet.facet.iloc[0], facet.key.iloc[0]

    def href(row: markup.Row) -> str:
        added = _filter(kind, row)
        return _here(filters=_others(filters, added[0].subject, *added))

    titles = {"position": "position in the window", "metadata": key}
    heading = titles.get(kind, kind)
    if kind != "position" and len(facet) > VALUES:
        heading = f"{heading} ({VALUES} of {len(facet)})"
        facet = facet.head(VALUES)
    value = columns.words(heading, "value", lambda row: _value(kind, row))
    if kind == "token":
        value = columns.token(heading, "value")
    return markup.table(facet, (value, columns.count("occurrences", "found")), links={"value": href})


def _filter(kind: str, row: markup.Row) -> list[Condition]:
    """Return the conditions that filter by a facet's value."""
    if kind == "position":
        low = int(row["value"])
        return [Condition("position", ">=", low), Condition("position", "<", low + 10)]
    if kind == "document":
        return [Condition("document", "=", int(row["value"]))]
    if kind == "token":
        return [Condition("token", "=", row["value"])]
    return [Condition(row["key"], "=", row["value"], metadata=True)]


def _value(kind: str, row: markup.Row) -> str:
    if kind == "position":
        return f"{row['value']} to {int(row['value']) + 9}"
    if kind == "document":
        return f"{row['value']} · {one_line(row['beginning'])[:30]}"
    return one_line(row["value"])
