"""Attention patterns and the logit lens over a stretch of text: against Hugging Face and stored rows."""

import base64
import html
import json
import re
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from annotate_transformer import ingest, store
from annotate_transformer.ingest.attribution.patterns import lens, patterns
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.store import Store
from families import CONTEXT, LAYERS, Read, in_float64, tiny
from models import TEXTS, annotated, token_ids
from pages import Show
from pages import html as page

IDS = token_ids("The Congress of the United States met in the city; the Congress met again.")[:CONTEXT]
LAST = 7
EXACT = 1e-9
FLOAT32 = 2e-5  # logits: terms computed twice in float32, in other batches


@pytest.mark.some(2)
@pytest.mark.parametrize("family", ["gpt_neox", "gemma2", "llama", "gpt2"])
def test_patterns_and_lens_are_hugging_faces(family: str, tmp_path: Path) -> None:
    with in_float64():
        read = Read(family, tiny(family, tmp_path / family), IDS)
        model = Model(resolve(str(tmp_path / family)), dtype=torch.float64)
        seen = read.model(read.ids[None], output_attentions=True, output_hidden_states=True, use_cache=False)
        found = patterns(model, IDS, LAST, [*IDS[1 - LAST :], None])
        whole = patterns(model, IDS, len(IDS), [*IDS[1:], 77])
        tops = lens(model, IDS, LAST, 5)
        written = read.written(model.n_heads)
        targets = torch.tensor([*IDS[1:], 77])
        effects = [read.toward(written[f"heads {i}"], targets) for i in range(LAYERS)]
        for i in range(LAYERS):
            attention = seen.attentions[i][0, :, -LAST:, -LAST:]
            np.testing.assert_allclose(found.attention[i], attention, atol=EXACT)
            np.testing.assert_allclose(whole.toward_next[i].sum(-1), effects[i], atol=EXACT)
            within = whole.toward_next[i][:, -LAST:-1, -LAST:]
            np.testing.assert_allclose(found.toward_next[i][:, :-1], within, atol=EXACT)
            assert np.isnan(found.toward_next[i][:, -1]).all(), "the last token has no next token"
            cap = getattr(read.model.config, "final_logit_softcapping", None)
            if i < LAYERS - 1:
                logits = read.model.get_output_embeddings()(
                    read.final_norm(seen.hidden_states[i + 1][0, -LAST:])
                )
                logits = logits if cap is None else cap * (logits / cap).tanh()
            else:
                logits = seen.logits[0, -LAST:]
            expected = logits.log_softmax(-1).topk(5)
            assert tops.ids[i].tolist() == expected.indices.tolist()
            np.testing.assert_allclose(tops.logprobs[i], expected.values, atol=EXACT)


# Against stored rows ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run with a BOS, windows that overlap, the logit lens and all sources."""
    made = annotated(
        [" ".join(TEXTS * 3)], Model(resolve("neox-2m")), tmp_path_factory.mktemp("patterns") / "made",
        context=24, stride=12, bos=True, samples=0, top=1, lens=True, keep_sources=None,
    )  # fmt: skip
    return ingest.open(made.path)


def middle(s: Store) -> int:
    found = s.sql("SELECT position_id FROM positions WHERE next_token IS NOT NULL ORDER BY position_id")
    return int(found.position_id[30])


def test_a_pattern_has_the_stored_attention_and_effects(s: Store) -> None:
    number = middle(s)
    found = s.attention(number, "L3H2", tokens=512)
    assert (len(found), found.position_id.max()) == (np.tri(found.position_id.nunique()).sum(), number)
    here = found[found.position_id == number].set_index("source_position_id")
    rows = s.decomposition(number, "source")
    stored = rows[(rows.layer == 3) & (rows["head"] == 2)].set_index("source_position_id")
    assert len(stored) == len(here) > 3
    for name, error in (("attention", 1e-3), ("toward_next", 1e-3)):
        assert np.abs(here[name] - stored[name].reindex(here.index)).max() < error, name
    assert here.attention.sum() == pytest.approx(1, abs=1e-5)
    assert "computed" in found.attrs["note"] and "earlier" not in found.attrs["note"]
    every = s.attention(number, tokens=5)
    assert len(every) == 16 * 15
    assert re.search(r"without the \d+ earlier tokens of the window", every.attrs["note"])
    one = every[(every.layer == 3) & (every["head"] == 2)].reset_index(drop=True)
    pd.testing.assert_frame_equal(one, s.attention(number, "L3H2", tokens=5), check_exact=True)


def test_the_lens_begins_with_the_stored_top_predictions(s: Store) -> None:
    number = middle(s)
    found = s.lens(number, k=5, tokens=6)
    assert len(found) == 4 * 6 * 5
    top = found[found["rank"] == 1]
    rows = s.sql("FROM lens").set_index(["layer", "position_id"])
    for row in top.itertuples():
        stored = rows.loc[(row.layer, row.position_id)]
        assert row.token == stored.top_token
        assert row.logprob == pytest.approx(stored.top_logprob, abs=FLOAT32)
    assert (found.groupby(["layer", "position_id"]).logprob.diff().dropna() <= 0).all()
    assert found.attrs["exact"]


def test_what_cannot_be_is_a_sentence(s: Store) -> None:
    number = middle(s)
    with pytest.raises(store.BadQuestion, match="from 1 to 512"):
        s.attention(number, tokens=0)
    with pytest.raises(store.BadQuestion, match="from 1 to 512"):
        s.lens(number, tokens=513)
    with pytest.raises(store.NoSuchUnit, match="no head L9H0"):
        s.attention(number, "L9H0")
    with pytest.raises(store.NoModel):
        store.open(s.path).attention(number)


# In the browser's pages ---------------------------------------------------------------------------


def test_the_token_page_draws_the_attention_of_a_head(s: Store, show: Show) -> None:
    number = middle(s)
    before = page(show("token", s.path, position=number))
    assert "and all heads</a>: the run&#x27;s model reads the window again" in before
    for weight, column in (("attention", "attention"), ("effect", "toward_next")):
        shown = page(show("token", s.path, position=number, pattern="l3h2", weight=weight))
        rows = s.attention(number, "L3H2")
        [data] = re.findall('<div class="pattern" data-rows="([^"]*)"', shown)
        matrix = json.loads(html.unescape(data))
        assert [value for row in matrix for value in row] == pytest.approx([*rows[column]], abs=6e-5)
        pictures = re.findall('<img alt="([^"]*)" src="data:image/png;base64,([^"]*)"', shown)
        assert len(pictures) == 1 + 16
        alpha = np.asarray(Image.open(BytesIO(base64.b64decode(pictures[0][1]))))[..., 3] / 255
        size = np.array([[abs(row[j]) if j < len(row) else 0 for j in range(len(matrix))] for row in matrix])
        np.testing.assert_allclose(alpha, size / size.max(), atol=0.003)
    wrong = page(show("token", s.path, position=number, pattern="L3N2"))
    assert "pattern names a head, such as L1H2" in wrong


def test_the_lens_is_a_grid_of_stored_rows_or_of_the_five_likeliest(s: Store, show: Show) -> None:
    number = middle(s)
    test = show("token", s.path, position=number)
    [grid] = re.findall('<table class="grid lens">.*?</table>', page(test), re.DOTALL)
    cells = re.findall('<td style="[^"]*"><a href="([^"]*)" title="([^"]*)">', grid)
    rows = s.sql("FROM lens ORDER BY layer DESC, position_id")
    window = s.position(number).window_id
    of = s.sql(f"SELECT position_id FROM positions WHERE window_id = {window}").position_id
    rows = rows[rows.position_id.isin(of) & rows.position_id.between(number - 11, number)]
    assert len(cells) == len(rows) > 4
    for (href, hover), row in zip(cells, rows.itertuples(), strict=True):
        assert dict(parse_qsl(urlsplit(html.unescape(href)).query))["position"] == str(row.position_id)
        assert f"rank {row.next_rank}" in hover and hover.startswith("1  ")
    five = page(show("token", s.path, position=number, five=1))
    [grid] = re.findall('<table class="grid lens">.*?</table>', five, re.DOTALL)
    likeliest = s.likeliest(number, 5)
    last = re.findall(r'title="(1  [^"]*)"', grid[: grid.index("L2")])[-1]
    assert [line.split()[0] for line in last.split("\n")] == ["1", "2", "3", "4", "5"]
    shown = [float(line.split()[-1]) for line in last.split("\n")]
    assert shown == pytest.approx(likeliest.probability.tolist(), abs=6e-4)
