"""A text of several passages: whatever stands around a place is what the text has there."""

from pathlib import Path

import pytest

import small
from annotate_transformer import store
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.store import Store
from annotate_transformer.store.layout import PASSAGE, REACH
from annotate_transformer.store.reader import MOST_AROUND
from models import annotated

TEXT = small.text(1000, seed=3) + "\nThe end"


@pytest.fixture(scope="module")
def s(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("long") / "s"
    settings = {"context": 16, "keep_neurons": 1, "keep_sources": 1, "top": 50}
    return annotated(["A short one.", TEXT], Model(resolve(str(tiny_model))), folder, **settings)


def around(low: int, high: int, before: int, after: int) -> tuple[str, str, str]:
    return TEXT[max(0, low - before) : low], TEXT[low:high], TEXT[high : high + after]


def test_it_has_passages_and_their_borders_lie_within_it(s: Store) -> None:
    passages = s.sql("SELECT text FROM base.passage ORDER BY passage_id OFFSET 1").text.tolist()
    assert passages == [TEXT[i : i + PASSAGE + REACH] for i in range(0, len(TEXT), PASSAGE)]
    assert len(passages) == 3 and not TEXT.isascii()


def test_of_every_token_and_as_much_as_may_be_asked_for(s: Store) -> None:
    tokens = s.sql("SELECT DISTINCT token_id FROM positions WHERE document_id = 1").token_id
    places = 0
    for token_id in tokens:
        found = s.occurrences(int(token_id), limit=10**6, before=MOST_AROUND, after=MOST_AROUND)
        for row in found[found.document_id == 1].itertuples():
            expected = around(row.char_start, row.char_end, MOST_AROUND, MOST_AROUND)
            assert (row.before, row.text, row.after) == expected
            places += 1
    assert places == s.sql("SELECT count(*) FROM positions WHERE document_id = 1").iloc[0, 0] > PASSAGE
    with pytest.raises(store.StoreError, match="at most 1,000 characters: `documents` has the whole texts"):
        s.occurrences(int(tokens[0]), before=MOST_AROUND + 1)


@pytest.mark.parametrize("phrase", ["Zoë", "the cat. ", TEXT[100:9000], TEXT[-20:]])
def test_of_phrases_of_any_length(s: Store, phrase: str) -> None:
    found = s.phrase(phrase, limit=10**6, before=30, after=30)
    assert len(found) == TEXT.count(phrase) > 0
    for row in found.itertuples():
        assert (row.before, row.text, row.after) == around(row.char_start, row.char_end, 30, 30)


def test_at_each_place_near_a_border(s: Store) -> None:
    starts = s.sql("SELECT position_id, char_start FROM positions WHERE document_id = 1")
    near = starts[abs((starts.char_start + 200) % PASSAGE - 200) < 100].position_id
    assert len(near) > 50
    for position_id in near:
        row = s.position(position_id)
        assert (row.before, row.text, row.after) == around(row.char_start, row.char_end, 80, 40)


def test_at_every_place_in_one_query(s: Store) -> None:
    """As fast as a join of tables is: of a million tokens DuckDB must not compare each with each."""
    found = s.sql("""
        SELECT p.char_start, p.char_end, c.before, c.token, c.after,
               min(char_start) OVER around AS low, max(char_end) OVER around AS high
        FROM positions p, LATERAL (FROM context(p.position_id, 3, 5)) c WHERE document_id = 1
        WINDOW around AS (ORDER BY p.position_id ROWS BETWEEN 3 PRECEDING AND 5 FOLLOWING)
    """)
    assert len(found) > PASSAGE
    for row in found.itertuples():
        expected = (
            TEXT[row.low : row.char_start],
            TEXT[row.char_start : row.char_end],
            TEXT[row.char_end : row.high],
        )
        assert (row.before, row.token, row.after) == expected


def test_where_heads_look_and_what_is_searched_for(s: Store) -> None:
    contexts = s.head("L1H1").contexts("both", k=50)
    sources = s.sql("SELECT position_id, char_start, char_end FROM positions").set_index("position_id")
    for row in contexts[contexts.document_id == 1].itertuples():
        assert (row.before, row.text, row.after) == around(row.char_start, row.char_end, 80, 40)
        source = sources.loc[row.top_source_position_id]
        told = row.source_before, row.source_text, row.source_after
        assert told == around(source.char_start, source.char_end, 80, 40)
    found = s.search((store.position.document_id == 1) & (store.position.token == "."), limit=2000)
    assert len(found) > 500
    for row in found.itertuples():
        assert (row.before, row.text, row.after) == around(row.char_start, row.char_end, 80, 40)


def test_phrases_of_whole_tokens_in_sql(s: Store) -> None:
    whole = s.phrase(" the cat.", limit=10**6).query("whole_tokens")
    found = s.sql("FROM phrase(' the cat.') WHERE whole_tokens")
    assert found.first_position_id.tolist() == whole.first_position_id.tolist()
    assert len(found) > 20


def test_it_is_verified(s: Store) -> None:
    assert not [finding for finding in store.verify(s.path) if finding.broken]
