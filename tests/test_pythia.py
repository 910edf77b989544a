"""Pythia's own weights against the values known for them; skipped where the hub is out of reach."""

from pathlib import Path

import pytest

from annotate_transformer import store
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.settings import Settings
from models import of_the_hub


@pytest.fixture(scope="module")
def pythia() -> Model:
    return of_the_hub("pythia-70m-deduped")


def annotate(text: str, model: Model, folder: Path, *, bos: bool) -> store.Store:
    (folder / "prompt.txt").write_text(text, encoding="utf-8")
    with Corpus([str(folder / "prompt.txt")]) as corpus:
        ingest(corpus, model, str(folder / "prompt.duckdb"), Settings(bos=bos, samples=0, top=1))
    return store.open(folder / "prompt.duckdb")


@pytest.mark.parametrize(
    ("bos", "the", "the_probability", "ireland", "ireland_probability"),
    [(True, 23.82, 0.4222, 22.67, 0.1333), (False, 24.09, 0.3946, 23.27, 0.1731)],
)
def test_dublin_is_the_capital_of(
    pythia: Model,
    tmp_path: Path,
    bos: bool,
    the: float,
    the_probability: float,
    ireland: float,
    ireland_probability: float,
) -> None:
    s = annotate("Dublin is the capital of Ireland", pythia, tmp_path, bos=bos)
    row = s.sql("FROM positions WHERE next_token = ' Ireland'").iloc[0]
    assert row.top_token == " the"
    assert row.top_logit == pytest.approx(the, abs=0.01)
    assert row.next_logit == pytest.approx(ireland, abs=0.01)
    assert 2.718281828**row.top_logprob == pytest.approx(the_probability, abs=1e-4)
    assert 2.718281828**row.next_logprob == pytest.approx(ireland_probability, abs=1e-4)
    assert s.runs().worst_closure.max() < 1e-4


def test_counting(pythia: Model, tmp_path: Path) -> None:
    s = annotate("1, 2, 3, 4, 5", pythia, tmp_path, bos=True)
    row = s.sql("FROM positions WHERE next_token = ' 5'").iloc[0]
    assert 2.718281828**row.next_logprob > 0.25
