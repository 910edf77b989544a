"""The app's pages, without a browser: what each shows, whatever stands in the address or in the corpus."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from annotate_transformer import store

pytest.importorskip("streamlit.testing.v1")

from annotate_transformer.app.browser import answers, links, markup
from pages import HOSTILE, PAGES, Show, empty_store, html, position, titles


@pytest.mark.some(3)
@pytest.mark.parametrize(
    "name", ["base.duckdb", "~x.duckdb", "a?b=c#d 100%20\n'\".duckdb", "東京 😀", "md:x"]
)
def test_a_store_of_any_name(name: str, show: Show, two_steps: Path, tmp_path: Path) -> None:
    db = Path(shutil.copy(two_steps, tmp_path / name))
    assert titles(show("", db=db)) == titles(show(""))
    assert "4243" in html(show("sql", db=db, query="SELECT 4241 + max(run_id) AS answer FROM runs"))


# What each page shows -----------------------------------------------------------------------------


def test_overview(show: Show) -> None:
    test = show("", run=1)
    assert {
        "Overview",
        "Run 1",
        "Neurons with the largest effects",
        "Heads with the largest effects",
        "Runs",
    } <= {*titles(test)}
    assert 'href="/neuron?run=1&amp;neuron=L' in html(test)
    assert "weights_sha256" in str(show("model", run=1).json[0].value)


def test_the_overview_shows_three_findings(show: Show, two_steps: Path) -> None:
    shown = html(show("", run=1))
    s = store.open(two_steps)
    head, neuron, hardest = (
        s.sql(query).iloc[0]
        for query in (
            "SELECT * FROM head_stats WHERE run_id = 1 ORDER BY mean_abs_effect DESC LIMIT 1",
            "SELECT * FROM neuron_stats WHERE run_id = 1 ORDER BY mean_abs_effect DESC LIMIT 1",
            "SELECT * FROM positions WHERE run_id = 1 ORDER BY next_logprob LIMIT 1",
        )
    )
    for told in (
        f"head=L{head.layer}H{head['head']}",
        f"next token: {head.mean_abs_effect:.3f} logits, n = {head['count']:,} positions, exact.",
        f"neuron=L{neuron.layer}N{neuron.neuron}",
        f"next token: {neuron.mean_abs_effect:.3f} logits, exact.",
        f"position={hardest.position_id}",
        f"loss {-hardest.next_logprob:.2f} nats, exact.",
    ):
        assert told in shown


def test_text_has_a_link_for_every_token(show: Show, two_steps: Path) -> None:
    test = show("text", run=1, document=0)
    tokens = store.open(two_steps).sql(
        "FROM positions WHERE run_id = 1 AND document_id = 0 ORDER BY position_id"
    )
    found = re.findall(r'href="/token\?run=1&amp;position=(\d+)"', html(test))
    # Coloured by loss, a token leads to its prediction, from the position before; by entropy, to its own.
    predicted = tokens.next_logprob.shift().notna()
    assert [int(number) for number in found] == [*(tokens.position_id - predicted)]
    found = re.findall(
        r'href="/token\?run=1&amp;position=(\d+)"', html(show("text", run=1, colour="entropy"))
    )
    assert [int(number) for number in found] == [*tokens.position_id]


def test_a_neurons_page_says_what_its_weights_say(show: Show, two_steps: Path) -> None:
    vocabulary = store.open(two_steps).weights(2).neuron_vocabulary("L3N7")
    page = show("neuron", run=2, neuron="L3N7")
    assert {"Tokens it promotes", "Tokens it suppresses", "Earlier components it can read most"} <= {
        *titles(page)
    }
    shown = html(page)
    for row in vocabulary.itertuples():
        assert f'<span class="token">{markup.token(row.token)}</span>' in shown
        assert f"{row.congruence:+.3f}" in shown
    assert "Erasing neurons: output opposed to input" in titles(show("neuron", run=2))
    assert "Bigrams and the direct path W_E W_U" in titles(show("model", run=2))
    without = show("neuron", run=1, neuron="L3N7")
    assert "Tokens it promotes" not in titles(without)
    assert any("annotate weights" in caption.value for caption in without.caption)


def test_a_heads_page_says_what_its_weights_say(show: Show, two_steps: Path) -> None:
    weights = store.open(two_steps).weights(2)
    page = show("head", run=2, head="L3H2")
    assert {"By its weights", "Distances it prefers (QK)", "Skip-trigrams"} <= {*titles(page)}
    for row in weights.head_behaviour("L3H2").itertuples():
        assert f"{row.induction:,.3f}" in html(page)
    assert "Behaviour of heads on the corpus, on repeated random tokens, and by their weights" in titles(
        show("head", run=2)
    )


@pytest.mark.parametrize(("page", "name"), [("neuron", "L3N7"), ("head", "L3H2")])
def test_a_model_has_pages_of_its_weights_alone(show: Show, page: str, name: str) -> None:
    of_run, alone = show(page, run=2, **{page: name}), show(page, model=2, **{page: name})
    assert {*titles(alone)} < {*titles(of_run)} and "By its weights" in titles(alone)
    assert "run=" not in html(alone).replace("/sql?run=", "")
    assert f'href="/{page}?model=2"' in html(show(page, model=2))
    assert "has no model &#x27;7&#x27;" in html(show(page, model=7, **{page: name}))


def test_a_store_of_weights_alone_has_pages(show: Show, tiny_model: Path, tmp_path: Path) -> None:
    from annotate_transformer.ingest.models.model import Model
    from annotate_transformer.ingest.models.names import resolve
    from annotate_transformer.ingest.weights.tables import annotate_weights

    db = tmp_path / "x.duckdb"
    annotate_weights(Model(resolve(str(tiny_model))), str(db), top=3)
    assert "Erasing neurons: output opposed to input" in titles(show("neuron", db))
    assert "By its weights" in titles(show("head", db, head="L1H1"))


def test_a_tokens_page_has_its_direct_path(show: Show, two_steps: Path) -> None:
    s, number = store.open(two_steps), position(two_steps, 2)
    token = s.position(number).token
    shown = html(show("token", position=number))
    for row in s.weights(2).direct_path(token, k=3).itertuples():
        assert f'<span class="token">{markup.token(row.next_token)}</span>' in shown
    assert "rank correlation, shuffled" in shown


@pytest.mark.parametrize(
    ("parameters", "legend"),
    [
        ({"colour": "loss"}, "loss (nats)"),
        ({"colour": "rank"}, "rank of the token, 1 is the top prediction"),
        ({"colour": "entropy"}, "entropy (nats)"),
        ({"colour": "lens"}, "layer from which the lens gives the top prediction"),
        ({"colour": "neuron", "neuron": "l2n7"}, "activation of L2N7"),
        ({"colour": "head", "head": "L1H2"}, "direct effect of L1H2 on the next token (logits)"),
        ({"colour": "attn", "layer": 1}, "layer 1&#x27;s attention on the next token (logits)"),
        (
            {"colour": "mlp", "layer": 0, "toward": "top"},
            "layer 0&#x27;s MLP on the top prediction (logits)",
        ),
    ],
)
def test_text_is_coloured_by_what_the_address_says(
    show: Show, parameters: dict[str, Any], legend: str
) -> None:
    assert legend in html(show("text", run=2, **parameters))


def test_colouring_by_loss_marks_the_token_that_was_hard_to_predict(show: Show, two_steps: Path) -> None:
    rows = store.open(two_steps).sql(
        "SELECT position_id, next_logprob FROM positions WHERE run_id = 1 AND document_id = 1 ORDER BY 1"
    )
    hardest = rows.loc[rows.next_logprob.idxmin()]
    coloured = show("text", run=1, document=1, colour="loss", position=int(hardest.position_id) + 1)
    token = r'<a href="[^"]*position=(\d+)" class="(\w*)" style="([^"]*)" title="([^"]*)"'
    shown = re.findall(token, html(coloured))
    [(predicted_at, _, style, hover)] = [a for a in shown if a[1] == "here"]
    assert int(predicted_at) == hardest.position_id, "a click shows the prediction of the token"
    assert f"loss: {-hardest.next_logprob:.3f}" in hover
    assert style == max(
        (a[2] for a in shown), key=lambda style: float(re.findall(r"[\d.]+", style or "0")[-1])
    )
    assert shown[0][2] == "", "nothing predicted the first token"


@pytest.mark.parametrize(("colour", "name"), [("neuron", "L2N7"), ("head", "L1H2")])
def test_text_leads_to_the_hits_around(show: Show, two_steps: Path, colour: str, name: str) -> None:
    layer, number = int(name[1]), int(name[3:])
    tops = store.open(two_steps).sql(
        f"FROM {colour}_top WHERE run_id = 1 AND layer = {layer} AND {colour} = {number}"
    )
    middle = int(tops.position_id.median())
    shown = html(show("text", run=1, position=middle, colour=colour, **{colour: name}))
    found = re.search(r"position=(\d+)\">← previous hit.*position=(\d+)\">next hit", shown)
    assert found is not None
    assert int(found[1]) == tops.position_id[tops.position_id < middle].max()
    assert int(found[2]) == tops.position_id[tops.position_id > middle].min()


def test_agreement_of_the_lens_is_the_first_layer_that_keeps_the_choice(two_steps: Path) -> None:
    s = store.open(two_steps)
    lens = s.sql("FROM lens WHERE run_id = 1 ORDER BY position_id, layer")
    final = s.sql("FROM positions WHERE run_id = 1").set_index("position_id").top_token_id
    query = answers.queries()["settled"]
    found = s.sql(query, {"run": 1, "first": 0, "last": 10**9}).set_index("position_id").settled
    assert len(found) == len(final)
    assert found.nunique() > 2
    for position_id, layers in list(lens.groupby("position_id"))[::50]:
        agrees = (layers.top_token_id == final[position_id]).tolist()
        assert all(agrees[found[position_id] :])
        assert found[position_id] == 0 or not agrees[found[position_id] - 1]


def test_text_shows_a_part_of_a_long_document(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annotate_transformer.app.browser.pages.text.TOKENS", 50)
    first = html(show("text", run=1, document=0))
    assert first.count('href="/token?') == 50
    assert "later →" in first
    assert "← earlier" not in first
    (after,) = {*re.findall(r'href="(/text[^"]*from=\d+)"', first)}
    second = html(show("text", run=1, document=0, **{"from": after.split("from=")[1]}))
    assert "tokens 51 to 100 of" in second
    assert "← earlier" in second


def test_a_document_is_found_by_its_number_name_or_beginning(
    show: Show, two_steps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annotate_transformer.app.browser.pages.text.DOCUMENTS", 5)
    documents = store.open(two_steps).documents(1).set_index("document_id")
    last = int(documents.index[-1])
    begins = documents.text.str[:20][last]
    test = show("text", run=1)
    assert len(test.selectbox(key="document").options) == 5
    for asked in (str(last), json.loads(documents.metadata[last])["id"], begins.upper()):
        test.text_input(key="find").input(asked).run()
        assert not test.exception
        assert test.query_params["document"] == str(last)
        assert test.selectbox(key="document").options[0].startswith(f"{last} · ")
        test.query_params.pop("document")
    test.text_input(key="find").input("in none of them").run()
    assert test.selectbox(key="document").label == "Document: 0 found"
    assert "tokens 1 to" in html(test)


@pytest.mark.parametrize("toward", ["next", "top"])
def test_the_token_page_ends_at_the_logit(show: Show, two_steps: Path, toward: str) -> None:
    number = position(two_steps, 1)
    test = show("token", run=1, position=number, toward=toward)
    at = store.open(two_steps).position(number)
    chart = json.loads(test._tree.get("vega_lite_chart")[0].proto.spec)
    assert chart
    assert any("sums to the logit within" in badge.value for badge in test.markdown)
    assert 'href="/neuron?run=1&amp;neuron=L' in html(test)
    assert 'href="/head?run=1&amp;head=L' in html(test)
    assert f"{at.entropy:.3f}" in html(test)


def test_the_waterfall_ends_at_the_logit(two_steps: Path) -> None:
    from annotate_transformer.app.browser.charts import _steps

    number = position(two_steps, 1)
    s = store.open(two_steps)
    logit = float(s.position(number).top_logit)
    steps = _steps(s.decomposition(number, "component"), "toward_top", logit)
    assert steps.component.iloc[0] == "embed"
    assert steps.component.iloc[-1] == "= logit"
    assert abs(steps.end.iloc[-2] - logit) < 1e-4
    assert (steps.start[1:-1] == steps.end[:-2].to_numpy()).all()


def test_where_nothing_follows_the_first_choice_is_taken_apart(show: Show, two_steps: Path) -> None:
    query = "SELECT max(position_id) FROM positions WHERE run_id = 1 AND next_token IS NULL"
    test = show("token", position=int(store.open(two_steps).sql(query).iloc[0, 0]))
    assert any("No next token" in caption.value for caption in test.caption)


def test_neuron(show: Show, two_steps: Path) -> None:
    test = show("neuron", run=2, neuron="L3N7")
    assert "Neuron L3N7" in titles(test)
    best = store.open(two_steps).neuron("L3N7", 2).contexts("high", 1).iloc[0]
    assert f'href="/token?run=2&amp;position={best.position_id}"' in html(test)
    for panel in ("Top activations", "Lowest activations", "Random sample", "By fifths"):
        assert f"<h4>{panel} " in html(test)


def test_head_marks_the_source(show: Show) -> None:
    test = show("head", run=2, head="L1H2")
    assert "Head L1H2" in titles(test)
    assert html(test).count("<u>") >= 12


def test_head_by_its_weights(show: Show) -> None:
    """The induction head's page names the heads its keys read; where no weights were read it says nothing."""
    test = show("head", run=2, head="L3H2")
    assert {"By its weights", "Composition", "Skip-trigrams"} <= set(titles(test))
    assert 'reads</td><td><a href="/head?run=2&amp;head=L2H2">L2H2</a></td><td>K' in html(test)
    assert "By its weights" in titles(show("head", run=2, head="L0H0"))  # it can read no earlier head
    assert "By its weights" not in titles(show("head", run=1, head="L3H2"))


@pytest.mark.parametrize("page", ["neuron", "head", "token"])
def test_without_a_name_there_is_where_to_start(show: Show, page: str) -> None:
    assert f"/{page}?run=2" in html(show(page))


@pytest.mark.parametrize(("page", "name"), [("neuron", "L2N7"), ("head", "L1H2")])
def test_an_interval_of_the_histogram_shows_its_contexts(
    show: Show, two_steps: Path, page: str, name: str
) -> None:
    unit = getattr(store.open(two_steps), page)(name, 1)
    fullest = int(unit.histogram().set_index("bin").positions.idxmax())
    shown = html(show(page, run=1, bin=fullest, **{page: name}))
    assert "In this interval" in shown
    for position_id in unit.interval(fullest, 12).position_id:
        assert f'position={position_id}"' in shown


def test_another_run_keeps_the_place(show: Show, two_steps: Path) -> None:
    number = position(two_steps, 1)
    test = show("token", run=1, position=number)
    test.selectbox(key="run").select(2).run()
    assert not test.exception
    assert test.query_params["run"] == "2"
    other = int(test.query_params["position"])
    s = store.open(two_steps)
    same = ["document_id", "window_id", "position", "token_id"]
    assert s.position(other)[same].tolist() == s.position(number)[same].tolist()


def test_the_sql_shown_gives_the_rows_shown(show: Show, two_steps: Path) -> None:
    s = store.open(two_steps)
    test = show("head", run=1, head="L1H2")
    for code in test.code:
        assert "$" not in code.value
        assert len(s.sql(code.value)), code.value


# What cannot be -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "parameters", "sentence"),
    [
        ("", {"run": 99}, "There is no run 99; the store has 1, 2."),
        ("neuron", {"run": "<b>"}, "run is a whole number from 0 on"),
        ("token", {"position": "abc"}, "position is a whole number from 0 on"),
        ("token", {"position": 10**30}, "position is a whole number from 0 on"),
        ("token", {"position": 10**17}, "has no position 100000000000000000"),
        ("token", {"position": 5, "run": 2}, "belongs to run 1, not to run 2"),
        ("token", {"position": 5, "toward": "east"}, "toward is one of next, top"),
        ("token", {"position": 5, "head": "L77H7"}, "Sources with the largest effects"),
        ("token", {"position": 5, "neuron": "L99N0"}, "no neuron L99N0, only L0N0 to L3N511"),
        ("token", {"position": 5, "neuron": "<script>"}, "names neither a neuron nor a head"),
        ("neuron", {"neuron": "L99N0"}, "no neuron L99N0, only L0N0 to L3N511"),
        ("neuron", {"neuron": "<script>"}, "names neither a neuron nor a head"),
        ("neuron", {"neuron": "L1H2"}, "L1H2 is not a neuron"),
        ("head", {"head": "L0H99"}, "no head L0H99, only L0H0 to L3H3"),
        ("text", {"document": -1}, "document is a whole number from 0 on"),
        ("text", {"document": 10**6}, "has no document 1000000"),
        ("text", {"position": 5, "run": 2}, "belongs to run 1, not to run 2"),
        ("text", {"colour": "mauve"}, "colour is one of loss, rank"),
        ("neuron", {"neuron": "L2N7", "bin": 99}, "bin is one of"),
        ("text", {"colour": "neuron", "neuron": "L1H2"}, "L1H2 is not a neuron"),
        ("text", {"colour": "mlp", "layer": 99}, "layer is one of"),
        ("text", {"from": 2**63 - 1}, "tokens"),
    ],
)
def test_a_wrong_address_is_a_sentence(
    show: Show, page: str, parameters: dict[str, Any], sentence: str
) -> None:
    test = show(page, **parameters)
    assert sentence in html(test) + " ".join(titles(test))
    assert "<script>" not in html(test)


@pytest.mark.parametrize("page", PAGES)
def test_without_a_store_there_is_a_sentence(show: Show, tmp_path: Path, page: str) -> None:
    assert "There is no store at" in html(show(page, tmp_path / "none.duckdb", position=1))


@pytest.mark.some(4)
@pytest.mark.parametrize("page", PAGES)
def test_an_empty_store_says_what_to_do(show: Show, tmp_path: Path, page: str) -> None:
    shown = html(show(page, empty_store(tmp_path)))
    assert "has no run yet" in shown
    assert "annotate ingest" in shown


@pytest.mark.parametrize("page", PAGES)
def test_a_file_that_is_no_store_is_a_sentence(show: Show, tmp_path: Path, page: str) -> None:
    db = tmp_path / "text.duckdb"
    db.write_text("no database")
    assert "cannot be opened as a DuckDB database" in html(show(page, db, position=1))


@pytest.mark.some(3)
@pytest.mark.parametrize("run", [1, 2])
@pytest.mark.parametrize("page", PAGES)
def test_an_odd_corpus_and_an_unfinished_run_are_shown(show: Show, odd: Path, page: str, run: int) -> None:
    given = {
        "search": {"q": "<script>"}, "token": {"position": position(odd, run) - 40},
        "neuron": {"neuron": "L1N3"}, "head": {"head": "L1H1"}, "prompt": {"text": HOSTILE[:45]},
        "sql": {"query": "FROM positions JOIN documents USING (document_id)"},
    }  # fmt: skip
    test = show(page, odd, run=run, **given.get(page, {}))
    shown = html(test)
    assert len(shown) > 200
    assert not re.search(r"<(script|img|/a>&|b>odd|i>corpus)", shown)
    unfinished = [badge.value for badge in test.sidebar.markdown if "unfinished" in badge.value]
    assert len(unfinished) == (run == 2 and page != "sql")  # that asks of all runs
    assert not re.search("[\u202e\u202c\x07\x00]", shown)
    for text in (*test.markdown, *test.caption, *test.title, *test.subheader):
        assert "onerror" not in text.value


def test_what_an_ingest_commits_is_seen(show: Show, odd: Path, tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    from annotate_transformer.ingest.corpus.sources import Corpus
    from annotate_transformer.ingest.models.model import Model
    from annotate_transformer.ingest.models.names import resolve
    from annotate_transformer.ingest.run.pipeline import ingest
    from annotate_transformer.ingest.run.settings import Settings

    db, corpus = tmp_path / "growing.duckdb", tmp_path / "more.txt"
    shutil.copy(odd, db)
    corpus.write_text("some more words")
    assert len(show("", db, run=1).selectbox(key="run").options) == 2
    with Corpus([str(corpus)]) as documents:
        ingest(documents, Model(resolve(str(tiny_model))), str(db), Settings(context=32, top=5))
    assert len(show("", db, run=1).selectbox(key="run").options) == 3


def test_every_position_of_an_odd_corpus_has_a_page(show: Show, odd: Path) -> None:
    ids = store.open(odd).sql("SELECT position_id FROM positions WHERE run_id = 1 ORDER BY position_id")
    for number in ids.position_id[:: max(1, len(ids) // 12)]:
        show("token", odd, position=number)


# Pieces -------------------------------------------------------------------------------------------


def test_links_are_read_as_they_are_written() -> None:
    assert links.link("text", run=1, from_=7, colour="a&b", head=None) == "/text?run=1&from=7&colour=a%26b"


def test_colours_are_told_apart_by_hue_and_strength() -> None:
    signed = markup.Scale(2.0, "logits", signed=True)
    assert signed.colour(2.0) == "background:rgba(var(--raises), 0.650)"
    assert signed.colour(-1.0) == "background:rgba(var(--lowers), 0.325)"
    assert markup.Scale(2.0, "activation").colour(-0.17).endswith("0.000)")
    assert markup.scale(pd.Series([-0.17, 0.1]), "activation").largest == 0.1
    assert signed.colour(None) == signed.colour(float("nan")) == ""
    assert markup.Scale(100.0, "rank", log=True).colour(1.0).endswith("0.000)")


def test_tokens_are_escaped_and_seen() -> None:
    assert markup.token(" <a>\n\u202e") == "<i>·</i>&lt;a&gt;<i>↵</i><i>\\x202e</i>"
    assert markup.running(" a\n") == " a<i>↵</i>\n"


def test_outliers_do_not_make_the_others_pale() -> None:
    values = pd.Series([*range(-98, 0), *range(1, 99), 4000.0, -9000.0], dtype=float)
    scale = markup.scale(values, "logits", signed=True)
    assert scale.largest == pytest.approx(values.abs().quantile(0.98))
    assert 90 < scale.largest < 99
    assert scale.colour(4000.0) == scale.colour(scale.largest) == "background:rgba(var(--raises), 0.650)"
    assert "0 in the middle · 2 % have the strongest colour, up to 9,000" in scale.legend()
    few = markup.scale(values.tail(49), "logits", signed=True)
    assert few.largest == 9000 and "strongest" not in few.legend()


def test_what_hovering_tells_is_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    whole = {"position_id": 1, "token": evil, "text": evil, "char_start": 0, "char_end": len(evil)}
    halves = [
        {"position_id": n, "token": f"\\x{byte}", "text": "é", "char_start": 27, "char_end": 28}
        for n, byte in ((2, "c3"), (3, "a9"))
    ]
    told = {"value": lambda row: 1.0, "colours": markup.Scale(1.0, "nats"), "href": lambda row: "/token"}
    shown = markup.text([whole, *halves], hover=lambda row: f"after {evil}", **told)
    assert "<script" not in shown
    assert shown.count('title="') == shown.count(f"after {markup.escape(evil)}") == 3
    row = whole | {"document_id": 1, "before": evil, "after": evil}
    assert "<script" not in markup.context(row, evil, f"/{evil}") + markup.panel(evil, evil, [])


def test_every_query_of_the_pages_can_be_planned() -> None:
    from annotate_transformer.store.database import create

    odd = {"positions": [1], "component": "mlp", "find": "a"}
    with duckdb.connect() as con:
        create(con)
        for name, query in answers.queries().items():
            values: dict[str, Any] = dict.fromkeys(re.findall(r"\$(\w+)", query), 1)
            values |= {name: value for name, value in odd.items() if f"${name}" in query}
            query = query.replace("{every}", "SELECT 1 AS position_id")  # answers.facets
            assert con.execute(f"EXPLAIN {query}", values).fetchall(), name


def test_a_missing_store_ends_the_command_with_a_sentence(tmp_path: Path, capsys: Any) -> None:
    from annotate_transformer.app.browser.server.start import start

    with pytest.raises(store.NotAStore, match="There is no store at"):
        start(tmp_path / "none.duckdb", 8599, open_browser=False)


def test_the_overview_follows_a_running_ingest(show: Show, odd: Path) -> None:
    from annotate_transformer.store.writer import Writer

    tokens = store.open(odd).runs().set_index("run_id").tokens[2]
    told = f"The ingest is still running: {tokens:,} tokens are stored so far, and every answer about them"
    with Writer(odd):  # holds the store as an ingest does
        test = show("", odd, run=2)
        assert any(caption.value.startswith(told) for caption in test.caption)
        assert "still going on" in " ".join(badge.value for badge in test.markdown)
    test.run()
    assert not test.exception
    assert not any(caption.value.startswith("The ingest") for caption in test.caption)
    assert "unfinished" in " ".join(badge.value for badge in test.markdown)


def test_a_downloads_name_tells_what_it_has(two_steps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from annotate_transformer.app.browser import VARIABLE, links, parts

    monkeypatch.setenv(VARIABLE, str(two_steps))
    monkeypatch.setattr(links, "text", {"run": "2", "head": "L3H2"}.get)
    assert (
        parts.file_name("Largest effects (logits)")
        == f"{two_steps.stem}-run-2-head-L3H2-Largest-effects-logits"
    )
    monkeypatch.setattr(links, "text", {"run": "../" * 99}.get)
    assert re.fullmatch(r"[A-Za-z0-9-]{1,120}", parts.file_name("x"))
