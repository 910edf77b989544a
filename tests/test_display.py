"""What a notebook shows: HTML that stands alone, with the numbers of the store, whatever the texts hold."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from annotate_transformer import store
from answers import sql
from processes import annotate
from small import SETTINGS

HOSTILE = (
    '<script>alert("a")</script> & <img src=http://x.test/y onerror=z> Tom met\n\tMary.\u202e Zoë 東京 😀 '
)
TAGS = {"div", "span", "p", "small", "pre", "table", "thead", "tbody", "tr", "td", "th", "b", "style"}
ATTRIBUTES = {"style", "title", "border", "class"}


class Parsed(HTMLParser):
    """The tags, attributes and text of HTML; every tag that opens must close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.text, self.titles = list[str](), "", list[str]()
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        assert {name for name, _ in attrs} <= ATTRIBUTES, attrs
        assert "url" not in (dict(attrs).get("style") or "")
        self.titles += [value or "" for name, value in attrs if name == "title"]
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def db(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a hostile text; its file's name is hostile, too."""
    folder = tmp_path_factory.mktemp("shown")
    corpus = folder / "<b>.jsonl"
    corpus.write_text(json.dumps({"text": HOSTILE * 3}) + "\n")
    made = annotate("ingest", corpus, "--db", "<b>.duckdb", "--model", tiny_model, *SETTINGS, folder=folder)
    assert made.status == 0, made.err
    return folder / "<b>.duckdb"


def test_everything_shown_stands_alone_and_is_escaped(db: Path) -> None:
    with store.open(db) as s:
        position_id = int(s.phrase("met").first_position_id.iloc[0])
        expression = s.expression(position_id, "top").expand("L1H1", "L1mlp")
        shown: list[Any] = [s, s.neuron("L1N7"), s.head("L1H1"), expression, s.question("runs")]
        shown += [s.text(position_id, by) for by in ("loss", "L1N7", "L0H1")]
        htmls = [item._repr_html_() for item in shown]
    for html in htmls:
        Parsed(html)
        assert not re.search("<script|<img|\u202e", html)
        assert html.count("http") == Parsed(html).text.count("http"), "only the text of the corpus has one"
    assert "&lt;b&gt;" in htmls[0]
    assert any("&lt;script" in html for html in htmls)


def test_a_text_is_that_of_the_window_with_the_values_of_the_store(db: Path) -> None:
    with store.open(db) as s:
        position_id = int(s.phrase("Mary").first_position_id.iloc[-1])
        texts = {by: s.text(position_id, by) for by in ("loss", "L1N7", "L0H1")}
        near = f"window_id = (SELECT window_id FROM positions WHERE position_id = {position_id})"
        columns = "position_id, char_start, char_end"
        rows = sql(db, f"SELECT {columns}, next_logprob FROM positions WHERE {near} ORDER BY 1")
        whole = sql(db, "SELECT text FROM documents")[0][0]
        one = "WHERE layer = {} AND {} = {}"
        neurons = dict(sql(db, f"SELECT position_id, activation FROM neurons {one.format(1, 'neuron', 7)}"))
        heads = dict(sql(db, f"SELECT position_id, toward_next FROM heads {one.format(0, 'head', 1)}"))
    values = {
        "loss": {rows[0][0]: None} | {after[0]: -before[3] for before, after in pairwise(rows)},
        "L1N7": {row[0]: neurons.get(row[0]) for row in rows},
        "L0H1": {row[0]: heads.get(row[0]) for row in rows},
    }
    read = whole[rows[0][1] : rows[-1][2]].replace("\u202e", "\\u202e")
    for by, text in texts.items():
        parsed = Parsed(text._repr_html_())
        assert parsed.text.startswith(read)
        told = [re.fullmatch(r"position (\d+), (.*)", title) for title in parsed.titles]
        known = {int(found[1]): found[2] for found in told if found}
        assert known
        for place, value in known.items():
            expected = values[by][place]
            if expected is None:
                assert value == "not known"
            else:
                assert float(value) == pytest.approx(expected, abs=1e-4)
        assert text._repr_html_().count("underline") == 1
    unknown = sum(value is None for value in values["L1N7"].values())
    about = texts["L1N7"].frame.attrs
    assert unknown > 0
    assert about["exact"] is False
    assert f"at {unknown} of {len(rows)} tokens" in about["note"]
    assert texts["L0H1"].frame.attrs["exact"] is True


def test_a_unit_shows_its_top_contexts_with_the_token_marked(db: Path) -> None:
    with store.open(db) as s:
        for unit, column in ((s.neuron("L1N7"), "activation"), (s.head("L1H1"), "toward_next")):
            html, top = unit._repr_html_(), unit.contexts("high", 5)
            for row in top.to_dict("records"):
                assert f"<td>{row['position_id']}</td>" in html
                assert f"{row[column]:+.3f}</td>" in html
            assert html.count("<b>") == len(top)


def test_an_expression_shows_its_tree(db: Path) -> None:
    with store.open(db) as s:
        expression = s.expression(int(s.phrase("met").first_position_id.iloc[0]), "top").expand("L1attn")
        shown = Parsed(expression._repr_html_())
        assert shown.text == expression.tree()


def test_a_question_gives_pandas_arrow_and_polars(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.open(db) as s:
        question = s.question("by_head", 1, position_id=3)
        frame, table, of_polars = question.ask(), question.arrow(), question.polars()
        assert isinstance(of_polars, pl.DataFrame)
        assert table.to_pylist() == of_polars.to_dicts()
        assert [*frame.columns] == table.column_names
        assert frame.to_dict("records") == table.to_pylist()
        monkeypatch.setitem(__import__("sys").modules, "polars", None)
        with pytest.raises(store.BadQuestion, match="pip install polars"):
            question.polars()
