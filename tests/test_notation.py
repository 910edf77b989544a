"""A prediction as an expression: its terms against plain SQL and against a run that keeps everything."""

import html
import json
import math
import random
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotate_transformer import store
from annotate_transformer.store import Store
from annotate_transformer.store.notation import PATHS, Expression, Term, escaped, gathered
from asking import Asking
from pages import Show
from pages import html as page

ALL, FEW, NONE = 1, 2, 3  # runs of `kept`, by what they keep
HOSTILE = 'a $x$ {b}_c^2 \\ 5% & #1 ~ <i>|j| 東京 \u202eback\u202c \x07 “q" שלום   three\n\n'
FLOAT32 = 1e-5  # logits: rounding of what is stored, summed


@pytest.fixture(scope="module")
def s(two_steps: Path) -> Store:
    return store.open(two_steps)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Store:
    """Runs over one hostile corpus with a BOS and strides, that keep all, some and no neurons and sources."""
    from annotate_transformer.ingest.corpus.sources import Corpus
    from annotate_transformer.ingest.models.model import Model
    from annotate_transformer.ingest.models.names import resolve
    from annotate_transformer.ingest.run.pipeline import ingest
    from annotate_transformer.ingest.run.settings import Settings

    folder = tmp_path_factory.mktemp("kept")
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": HOSTILE * n}) + "\n" for n in (1, 4)))
    model = Model(resolve(str(tiny_model)))
    cut: dict[str, Any] = {"context": 24, "stride": 12, "bos": True, "samples": 5, "top": 3}
    for neurons, sources in ((10**8, None), (2, 6), (0, 0)):  # each in a row, not in few bits
        with Corpus([str(folder / "corpus.jsonl")]) as corpus:
            ingest(
                corpus,
                model,
                str(folder / "kept.duckdb"),
                Settings(keep_neurons=neurons, keep_sources=sources, **cut),
            )
    return store.open(folder / "kept.duckdb")


def places(s: Store, run: int, n: int = 3) -> list[int]:
    """Positions spread over a run, each with something after it."""
    found = s.sql("FROM positions WHERE run_id = $run AND next_token IS NOT NULL", {"run": run})
    return sorted(found.position_id.sample(n, random_state=run).tolist())


def everything(expression: Expression, *but: str) -> Expression:
    """With all open that can be, but for some components."""
    while parts := [t for t in expression.terms if t.component in PATHS and t.component not in but]:
        expression = expression.expand(*parts)
    return expression


def identity(term: Term) -> tuple[Any, ...]:
    return term.component, term.layer, term.head, term.neuron


# Sums ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("toward", ["next", "top"])
def test_layers_are_plain_sums_and_close_as_stored(s: Store, toward: str) -> None:
    for number in places(s, 2):
        expression, at = s.expression(number, toward), s.position(number)
        rows = s.sql("FROM contributions WHERE position_id = $p", {"p": number})
        layers = rows[rows.layer.notna()].groupby("layer")[f"toward_{toward}"].sum()
        single = rows[rows.layer.isna()].set_index("component")[f"toward_{toward}"]
        assert [term.component for term in expression.terms] == ["embed", *["layer"] * 4, "final_bias"]
        values = [single["embed"], *layers.sort_index(), single["final_bias"]]
        assert [term.value for term in expression.terms] == pytest.approx(values, abs=1e-6)
        assert expression.logit == at[f"{toward}_logit"]
        assert expression.closure == at[f"closure_{toward}"]
        assert expression.sum() - expression.logit == pytest.approx(expression.closure, abs=1e-9)


@pytest.mark.parametrize("toward", ["next", "top"])
def test_down_to_heads_and_neurons_it_is_the_decomposition(s: Store, toward: str) -> None:
    for number in places(s, 2):
        found = everything(s.expression(number, toward), "head").terms
        rows = s.decomposition(number)
        expected = {
            tuple(None if pd.isna(x) else x for x in (row.component, row.layer, row.head, row.neuron)): value
            for row, value in zip(rows.itertuples(), rows[f"toward_{toward}"], strict=True)
        }
        assert {identity(term): term.value for term in found} == pytest.approx(expected, abs=1e-7)
        assert math.fsum(term.value for term in found) == pytest.approx(rows[f"toward_{toward}"].sum())


def test_a_head_is_its_sources(s: Store) -> None:
    for number in places(s, 2):
        expression = everything(s.expression(number))
        rows = s.decomposition(number, "source")
        sources = [term for term in expression.terms if term.component == "source"]
        found = {
            (t.layer, t.head, t.source_position_id): (t.value, t.distance, t.source_token) for t in sources
        }
        assert len(found) == len(rows)
        for row in rows.itertuples():
            value, distance, token = found[row.layer, row.head, row.source_position_id]
            assert (distance, token) == (row.distance, row.source_token)
            assert value == pytest.approx(row.toward_next, abs=1e-7)
        for head in s.decomposition(number, "head").itertuples():
            parts = [t for t in expression.terms if (t.layer, t.head) == (head.layer, head.head)]
            assert math.fsum(t.value for t in parts) == pytest.approx(head.toward_next, abs=1e-7)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), toward=st.sampled_from(["next", "top"]))
def test_whatever_is_expanded_collapsed_and_gathered_the_sum_stays(s: Store, seed: int, toward: str) -> None:
    draw = random.Random(seed)
    with s.together():
        expression = s.expression(draw.choice(places(s, 2)), toward)
        logit, before = expression.logit, expression
        for _ in range(draw.randint(1, 12)):
            was = expression.terms
            step, before = draw.choice(["expand", "expand", "collapse", "drop"]), expression
            open_ones = [term for term in was if term.component in PATHS or term.terms]
            if step == "drop":
                smallest = draw.choice([0.0, 0.01, 0.1, 1.0, 100.0])
                expression = expression.drop_below(smallest)
                assert all(abs(t.value) >= smallest for t in expression.terms if not t.terms)
            elif step == "collapse" and expression.opened:
                part = draw.choice(sorted(expression.opened, key=lambda term: term.name))
                expression = expression.collapse(part)
                assert part not in expression.opened
            elif open_ones:
                part = draw.choice(open_ones)
                expression = expression.expand(part)
                assert part not in expression.terms
            assert before.terms == was  # nothing changes it
            assert sum(term.component == "gathered" for term in expression.terms) <= 1
            assert expression.sum() == pytest.approx(logit, abs=FLOAT32)
            assert math.fsum(_tree_leaves(expression)) == pytest.approx(logit, abs=FLOAT32)


def _tree_leaves(expression: Expression) -> list[float]:
    lines = expression.tree_lines()
    return [line.term.value for line in lines if line.term and line.term not in expression.opened]


def test_every_branch_of_a_tree_is_the_sum_of_its_own(s: Store) -> None:
    expression = everything(s.expression(places(s, 2)[0])).drop_below(0.05)
    stack: list[tuple[int, Term, float]] = []
    sums = []
    for line in expression.tree_lines()[1:]:
        assert line.term is not None
        depth = len(line.before) // 4
        while stack and stack[-1][0] >= depth:
            sums.append(stack.pop())
        if stack:
            stack[-1] = (*stack[-1][:2], stack[-1][2] + line.term.value)
        stack.append((depth, line.term, 0.0))
    opened = [(term, total) for _, term, total in [*sums, *stack] if term in expression.opened]
    assert len(opened) == len(expression.opened) == 4 * 3 + 16
    for term, total in opened:
        assert total == pytest.approx(term.value, abs=FLOAT32)


# Remainders ---------------------------------------------------------------------------------------


def test_a_remainder_is_exact_and_gives_back_what_it_gathered(s: Store) -> None:
    expression = s.expression(places(s, 2)[1]).expand("L0attn", "L3attn")
    dropped = expression.drop_below(0.3)
    *_, remainder = dropped.terms
    small = [term for term in expression.terms if abs(term.value) < 0.3]
    assert len(small) > 1
    assert remainder.terms == tuple(small)
    assert remainder.count == len(small)
    assert remainder.value == math.fsum(term.value for term in small)
    assert remainder.bound == math.fsum(abs(term.value) for term in small)
    assert dropped.expand(remainder) == expression
    again = dropped.expand(small[0]) if small[0].component in PATHS else dropped.expand("L0H0")
    assert len(again.terms) > len(dropped.terms)


def test_what_was_not_kept_is_counted_bounded_and_exact(kept: Store) -> None:
    """Against the run that kept every neuron and source."""
    pairs = kept.sql(
        """SELECT a.position_id AS whole, b.position_id AS part, b.run_id AS run
           FROM positions a JOIN positions b USING (document_id, window_id, position)
           WHERE a.run_id = 1 AND b.run_id > 1 AND a.next_token IS NOT NULL"""
    ).sample(8, random_state=0)
    for row in pairs.itertuples():
        whole = {_of(term): term.value for term in everything(kept.expression(row.whole)).terms}
        part = everything(kept.expression(row.part))
        there = {_of(term) for term in part.terms}
        for rest in (term for term in part.terms if term.component in ("mlp_remainder", "source_remainder")):
            kind = {"mlp_remainder": "neuron", "source_remainder": "source"}[rest.component]
            mine = [key for key in whole if key[:3] == (kind, rest.layer, rest.head)]
            left_out = [whole[key] for key in mine if key not in there]
            assert rest.count == len(left_out)
            assert rest.bound is not None
            assert all(abs(value) <= rest.bound + 0.0006 for value in left_out)  # those kept are rounded
            assert rest.value == pytest.approx(math.fsum(left_out), abs=0.0006 * len(mine))
        if row.run == NONE:
            assert not {"neuron", "source"} & {term.component for term in part.terms}
        assert part.sum() == pytest.approx(part.logit, abs=FLOAT32)


def _of(term: Term) -> tuple[Any, ...]:
    return term.component, term.layer, term.head, term.neuron, term.distance


def test_where_all_was_kept_no_term_is_left(kept: Store) -> None:
    for number in places(kept, ALL):
        for term in everything(kept.expression(number)).terms:
            if term.component in ("mlp_remainder", "source_remainder"):
                assert (term.count, term.note) == (0, "rounding of the stored terms")
                assert abs(term.value) < 0.02


def test_a_gathered_remainder_keeps_its_bound() -> None:
    rest = Term("mlp_remainder", 0.01, layer=0, count=9, bound=2.0)
    assert gathered([rest, Term("embed", -0.5)]).bound == 2.5


# SQL ----------------------------------------------------------------------------------------------


def test_its_sql_gives_its_terms(s: Store) -> None:
    expression = s.expression(places(s, 1)[0], "top").expand("L3H2", "L1mlp", "L0")
    rows = s.sql(expression.sql)
    assert "$" not in expression.sql
    assert sorted(rows.value) == sorted(term.value for term in expression.terms)
    assert sorted(rows.component) == sorted(term.component for term in expression.terms)
    frame = expression.drop_below(0.1).frame
    assert frame.attrs["sql"] == expression.sql
    assert frame.value.sum() == pytest.approx(rows.value.sum())


# How it is written --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(s: Store, kept: Store) -> list[Expression]:
    """Expressions with hostile tokens, and one with every kind of term."""
    last = kept.sql("SELECT max(position_id) FROM positions WHERE run_id = 1 AND position = 22").iloc[0, 0]
    with s.together(), kept.together():
        found = [everything(kept.expression(last, "top"), "mlp"), everything(s.expression(places(s, 2)[0]))]
        return [*found, s.expression(places(s, 1)[0]).drop_below(0.5)]


@pytest.mark.parametrize("width", [80, 120])
def test_text_and_tree_fit_and_show_every_value(written: list[Expression], width: int) -> None:
    for expression in written:
        for shown in (expression.text(width), expression.tree(width)):
            assert all(c.isprintable() or c == "\n" for c in shown)
        lines = expression.text(width).splitlines()[1:-3]
        assert all(len(line) <= width for line in lines)
        for line, term in zip(lines, expression.terms, strict=True):
            assert f"{term.symbol} " in line
            assert f" {term.value:+.4f}  {term.name[:10]}" in line
        ends = {
            line.index(f"{t.value:+.4f}") + len(f"{t.value:+.4f}")
            for line, t in zip(lines, expression.terms, strict=True)
        }
        assert len(ends) == 1
        assert f"{expression.logit:+.4f}" in expression.text(width).splitlines()[-3]
        assert len(expression.tree(width).splitlines()) == 1 + len(expression.terms) + len(expression.opened)


def test_only_what_is_within_the_brackets_is_divided_by_sigma(s: Store) -> None:
    expression = s.expression(places(s, 2)[0])
    lines = expression.drop_below(0.2).text().splitlines()
    closing = next(i for i, line in enumerate(lines) if line.startswith("    ] +"))
    assert lines[1].startswith("(1/σ) [ ")
    assert not any(" b_U" in line or " r " in line for line in lines[:closing])
    nothing = expression.drop_below(100).text()
    assert "σ) [" not in nothing and "]" not in nothing.splitlines()[1]


def test_latex_is_rows_of_an_align(written: list[Expression]) -> None:
    for expression in written:
        first, *rows, last = expression.latex().split("\n")
        assert (first, last) == (r"\begin{align*}", r"\end{align*}")
        assert len(rows) == len(expression.terms) + 1
        for row in rows:
            assert row.endswith(r" \\") == (row is not rows[-1])
            bare = re.sub(r"\\[\\{}$&#%_]", "", row)
            assert bare.count("&") == 3
            assert bare.count("{") == bare.count("}")
            assert not set(bare) & {"$", "#", "%", "~"}
            assert all(c.isprintable() for c in row)


NAMED = {"backslash": "\\", "asciicircum": "^", "asciitilde": "~", "less": "<", "greater": ">", "bar": "|"}


@given(st.text(alphabet=st.sampled_from('a\\{}$&#%_^~<>|" é東'), max_size=12))
def test_an_escaped_text_is_read_back(text: str) -> None:
    written = escaped(text)
    assert not re.search(r"(?<!\\)[$&#%_^~<>|]|  ", written)
    read = re.sub(
        r"\\(?:text(\w+)\{\}|(.))", lambda found: NAMED[found[1]] if found[1] else found[2], written
    )
    assert read == text


# What cannot be -----------------------------------------------------------------------------------


def test_at_the_end_of_a_window_there_is_only_the_first_choice(s: Store) -> None:
    last = int(s.sql("SELECT max(position_id) FROM positions WHERE next_token IS NULL").iloc[0, 0])
    with pytest.raises(store.BadQuestion, match="has no next token in its window"):
        s.expression(last)
    expression = s.expression(last, "top").expand("L0H0")
    assert expression.sum() == pytest.approx(s.position(last).top_logit, abs=FLOAT32)


@pytest.mark.parametrize(
    ("parts", "error", "told"),
    [
        (["L9"], store.NoSuchUnit, "no L9 here, only L0 to L3"),
        (["L2H7"], store.NoSuchUnit, "no L2H7 here, only L2H0 to L2H3"),
        (["L2N7"], store.BadQuestion, "L3H2 for a head"),
        (["attention"], store.BadQuestion, "'attention' cannot be expanded"),
        ([Term("embed", 1.0)], store.BadQuestion, "embedding has no smaller terms"),
    ],
)
def test_what_cannot_be_expanded_is_a_sentence(s: Store, parts: list[Any], error: type, told: str) -> None:
    with pytest.raises(error, match=told):
        s.expression(places(s, 2)[0]).expand(*parts)


def test_other_bad_questions_are_sentences(s: Store) -> None:
    number = places(s, 2)[0]
    with pytest.raises(store.NoModel, match=r"ingest\.open"):
        s.expression(number, "east")  # only next and top are stored
    with pytest.raises(store.NoSuchPosition):
        s.expression(5 * 10**9)
    for smallest in (-1.0, math.nan):
        with pytest.raises(store.BadQuestion, match="0 or more"):
            s.expression(number).drop_below(smallest)


# On the command line ------------------------------------------------------------------------------


def test_position_prints_it(s: Store, ask: Asking) -> None:
    number = places(s, 2)[0]
    expression = s.expression(number, "top").expand("L3H2").drop_below(0.05)
    words = ("position", number, "--toward", "top", "--expand", "L3H2", "--drop", 0.05)
    assert ask(*words).out == f"{expression.text(160)}\n"
    assert ask(*words, "--notation", "tree").out == f"{expression.tree(160)}\n"
    assert ask(*words, "--notation", "latex").out == f"{expression.latex()}\n"
    terms = json.loads(ask(*words, "--json").out)["terms"]
    assert [row["value"] for row in terms["rows"]] == [term.value for term in expression.terms]
    assert terms["sql"] == expression.sql
    refused = ask("position", number, "--notation", "html")
    assert (refused.status, "text, tree, latex" in refused.err) == (2, True)


def test_expand_writes_a_prompts_prediction(ask: Asking) -> None:
    shown = ask.example("expand").out
    assert 'logit(" the") =' in shown
    assert "⟨attn[3], u⟩" in shown
    only = ask.example("expand", "--expand", "L3H2", "--drop", 0.2, "--notation", "tree").out
    assert only.startswith('logit(" the")')
    assert "L3H2" in only and "Heads with the largest effects" not in only


# In the browser's pages ---------------------------------------------------------------------------


def links(shown: str) -> dict[str, dict[str, str]]:
    """The expression's labels that lead somewhere, and the parameters of where."""
    (written,) = re.findall(r'<div class="written"[^>]*>(.*?)</div>', shown, re.DOTALL)
    found = re.findall(r'href="([^"]*)">([^<]*)</a>', written)
    return {label: dict(parse_qsl(urlsplit(html.unescape(href)).query)) for href, label in found}


def test_the_token_page_shows_it_and_a_click_opens_a_part(s: Store, show: Show) -> None:
    number = places(s, 2)[0]
    test = show("token", run=2, position=number, expand="L3H2", below=0, toward="top")
    expression = s.expression(number, "top").expand("L3H2")
    assert html.escape(expression.tree(120).splitlines()[-1]) in page(test)
    led = links(page(test))
    assert led["L0"]["expand"] == "L0,L3H2"
    assert led["L3H2"]["expand"] == "L3attn"  # open: a click closes it
    assert "expand" not in led["L3"]
    assert all(to["position"] == str(number) and to["below"] == "0" for to in (led["L0"], led["L3"]))
    sql = next(code.value for code in test.code if "UNION ALL BY NAME" in code.value)
    assert s.sql(sql).value.sum() == pytest.approx(expression.sum())
    opened = show("token", **led["L0"])
    assert {"L0attn", "L0mlp", "L3H2"} <= {*links(page(opened))}


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"expand": "L9"}, "no L9 here, only L0 to L3"),
        ({"expand": "<b>"}, "cannot be expanded"),
        ({"below": "some"}, "below is one of 0.01, 0, 0.03"),
        ({"notation": "html"}, "notation is one of tree, text, latex"),
    ],
)
def test_a_wrong_address_is_a_sentence(
    s: Store, show: Show, parameters: dict[str, str], sentence: str
) -> None:
    assert sentence in page(show("token", position=places(s, 2)[0], **parameters))


def test_hostile_tokens_are_text_on_the_page(kept: Store, show: Show) -> None:
    number = int(
        kept.sql("SELECT max(position_id) FROM positions WHERE run_id = 1 AND position = 22").iloc[0, 0]
    )
    where = {"db": kept.path, "position": number, "expand": "L0H0,L1H1", "below": 0}
    shown = page(show("token", **where, notation="text"))
    assert "⟨v[0,0,p-3] W_O[0,0], u⟩" in shown
    assert not re.search("<(i>\\||script|/a>&)|[\u202e\u202c\x07]", shown)
    latex = show("token", **where, notation="latex").latex
    assert latex[0].value.strip("$\n") == kept.expression(number).expand("L0H0", "L1H1").latex()


def test_the_prompt_page_keeps_what_is_open(show: Show) -> None:
    test = show("prompt", run=2, text="Dublin is the capital of", at=2, expand="L1attn", toward="top")
    led = links(page(test))
    assert led["L1H0"]["expand"] == "L1H0"
    assert (led["L1H0"]["text"], led["L1H0"]["at"]) == ("Dublin is the capital of", "2")
    assert "L1H0" in links(page(show("prompt", **led["L1H0"])))
