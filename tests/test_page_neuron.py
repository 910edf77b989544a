"""The pages Neuron and Head: coloured examples, a histogram of equal areas, and a text of one's own."""

import html as markup
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("streamlit.testing.v1")

from annotate_transformer import ingest, store
from annotate_transformer.app.browser import charts
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.store import Store
from models import TEXTS, annotated
from pages import Show, html, titles

TEXT = "The Congress of the city met."


@pytest.fixture(scope="module")
def s(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run over equal documents, with a BOS and windows that overlap; most neurons are rows."""
    made = annotated(
        [" ".join(TEXTS)] * 4, Model(resolve("neox-2m")), tmp_path_factory.mktemp("neuron") / "made",
        context=24, stride=12, bos=True, samples=60, top=20, keep_neurons=300,
    )  # fmt: skip
    return ingest.open(made.path)


def test_values_around_positions_are_those_of_the_rows(s: Store) -> None:
    positions = [int(p) for p in s.sql("SELECT position_id FROM positions ORDER BY position_id").position_id]
    examples = [positions[i] for i in (0, 1, 13, 30, len(positions) - 1)]
    heads = s.sql("FROM heads WHERE layer = 2 AND head = 3").set_index("position_id").toward_next
    found = s.around("L2H3", examples, before=5, after=4)
    assert {*found.example} == {*examples}
    assert np.abs(found.value - heads.reindex(found.position_id).to_numpy(float)).max() < 1e-4
    no_next = heads[heads.isna()].index
    assert found.value.isna().tolist() == found.position_id.isin(no_next).tolist()
    neurons = s.sql("FROM neurons WHERE layer = 3 AND neuron = 7").set_index("position_id").activation
    found = s.around("L3N7", examples, before=5, after=4)
    known = found[found.position_id.isin(neurons.index)]
    assert len(known) > 10
    assert np.abs(known.value.to_numpy() - neurons.reindex(known.position_id).to_numpy(float)).max() < 0.02
    windows = s.sql("SELECT position_id, window_id, document_id FROM positions").set_index("position_id")
    for example, of in found.groupby("example"):
        assert of.position_id.between(example - 5, example + 4).all()
        assert (windows.document_id[of.position_id] == windows.document_id[example]).all()
        assert example in set(of.position_id)
    assert "read 5 windows again" in found.attrs["note"]
    with pytest.raises(store.NoModel):
        store.open(s.path).around("L3N7", examples)


def test_examples_are_coloured_and_equal_ones_are_counted(s: Store, show: Show) -> None:
    plain = html(show("neuron", s.path, run=1, neuron="L3N7"))
    assert "Colour every token</a>: the run&#x27;s model reads" in plain
    top = s.neuron("L3N7").contexts("high", 12)
    equal = top.groupby(["before", "text", "after"], dropna=False, sort=False).size()
    assert equal.max() > 1
    [panel] = re.findall("<h4>Top activations .*?</section>", plain, re.DOTALL)
    assert panel.count('class="example"') == len(equal)
    assert [int(n) for n in re.findall('title="equal contexts">×([0-9]+)<', panel)] == [
        n for n in equal if n > 1
    ]
    shown = html(show("neuron", s.path, run=1, neuron="L3N7", every=1))
    [panel] = re.findall("<h4>Top activations .*?</section>", shown, re.DOTALL)
    first = panel.split('class="example"')[1]
    number = int(top.position_id[0])
    around = s.around("L3N7", [number], 12, 8)
    told = [float(value) for value in re.findall('title="([+-][0-9.]+)"', first.partition("</a>")[0])]
    assert len(told) > 5
    assert {*told} <= {round(value, 3) for value in around.value}
    assert titles(show("neuron", s.path, run=1, neuron="L3N7")).index("Examples") == 2  # title, statistics


@pytest.mark.parametrize(("page", "name"), [("neuron", "L3N7"), ("head", "L2H3")])
def test_areas_of_the_histogram_are_positions(
    s: Store, show: Show, page: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, histogram = list[Any](), charts.histogram

    def noted(*asked: Any) -> Any:
        drawn.append(histogram(*asked))
        return drawn[-1]

    monkeypatch.setattr(charts, "histogram", noted)
    for scale, vega in (("linear", "linear"), ("log", "symlog")):
        show(page, s.path, run=1, **{page: name}, scale=scale)
        rows, encoding = drawn[-1].rows, drawn[-1].spec["encoding"]
        assert encoding["y"]["scale"] == {"type": vega}
        bins = s.unit(name).histogram()
        used = bins[bins.positions > 0]
        assert (rows.density * (rows.high - rows.low)).sum() == pytest.approx(used.positions.sum())
        assert rows.low.tolist()[1:] == rows.high.tolist()[:-1], "the bars lie side by side on one axis"
        for row in rows.itertuples():
            asked = dict(parse_qsl(urlsplit(row.page).query))
            assert asked == {"run": "1", page: name, "bin": str(row.bin), "scale": scale}


def test_an_open_interval_is_as_wide_as_its_neighbour() -> None:
    edges = [np.nan, -4.0, -2.0, 1.0, np.nan]
    bins = pd.DataFrame(
        {"bin": [1, 2, 3, 4], "low": edges[:-1], "high": edges[1:], "positions": [2, 4, 3, 6]}
    )
    rows = charts.histogram(bins, "what", "unit", {}, "linear").rows
    assert rows.low.tolist() == [-6.0, -4.0, -2.0, 1.0]
    assert rows.high.tolist() == [-4.0, -2.0, 1.0, 4.0]
    assert rows.density.tolist() == [1.0, 2.0, 1.0, 2.0]


@pytest.mark.parametrize(("page", "name"), [("neuron", "L3N7"), ("head", "L2H3")])
def test_a_text_of_ones_own_is_coloured_in_place(s: Store, show: Show, page: str, name: str) -> None:
    shown = html(show(page, s.path, run=1, **{page: name}, **{"try": TEXT}))
    with s.prompt(TEXT) as alone:
        values = alone.around(name, [alone.last], before=50, after=0).value
    [text] = re.findall(r'<div class="legend">(?:(?!<div class="legend">).)*?<div class="text">(.*?)</div>',
        shown[shown.index("</section>") :], re.DOTALL)[-1:]  # fmt: skip
    told = [markup.unescape(title) for title in re.findall('title="([^"]*)"', text)]
    assert len(told) == len(values)
    for title, value in zip(told, values, strict=True):
        assert title == "no next token" if pd.isna(value) else title.endswith(f": {value:+.3f}")
    assert all(link["text"] == TEXT for link in prompts(text))
    wrong = html(show(page, s.path, run=1, **{page: name}, **{"try": "x" * 401}))
    assert "a text of 401 characters; at most 400 are allowed" in wrong


def prompts(text: str) -> list[dict[str, str]]:
    """The parameters of the links to the page Prompt."""
    hrefs = [urlsplit(markup.unescape(href)) for href in re.findall('href="([^"]*)"', text)]
    assert {href.path for href in hrefs} == {"/prompt"}
    return [dict(parse_qsl(href.query)) for href in hrefs]


def test_a_far_source_says_how_far(two_steps: Path, show: Show) -> None:
    shown = html(show("head", two_steps, run=2, head="L3H2"))
    rows = store.open(two_steps).head("L3H2", 2).contexts("high", 12)
    back = (rows.position_id - rows.top_source_position_id).max()
    assert back > 12
    assert f"</u> … {back} tokens later … " in shown
