"""Effects on answer − distractor over a data set: against Hugging Face's model, and in every answer."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from annotate_transformer import ingest as of_ingest
from annotate_transformer import store
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.errors import SettingsError
from annotate_transformer.ingest.live import contrasts as live
from annotate_transformer.ingest.live.contrasts import NEURONS, SOURCES, Columns, ContrastReport, contrast
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.store.verify import verify
from asking import Asking
from families import LAYERS, Read, in_float64, tiny
from models import EMBEDDED_PATH, token_ids
from pages import Show, html, titles

PROMPTS = [
    ("When David and John went to the city, John gave a book to", " David", " John", "first"),
    ("When John and David went to the city, John gave a book to", " David", " John", "second"),
    ("The Congress of the United States met in the", " city", " book", "first"),
    ("The", " Congress", " city", "second"),
]
COLUMNS = Columns("answer", "distractor")


def file_of(folder: Path, prompts: list[tuple[str, ...]] = PROMPTS) -> Path:
    names = ("text", "answer", "distractor", "template")
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(dict(zip(names, prompt, strict=True))) + "\n" for prompt in prompts))
    return path


def contrasted(
    model: Model, folder: Path, columns: Columns = COLUMNS, prompts: Any = PROMPTS, **settings: Any
) -> tuple[Path, ContrastReport]:
    """A store of these prompts, with their contrasts."""
    db = folder / "prompts.duckdb"
    with Corpus([str(file_of(folder, prompts))]) as corpus:
        run = ingest(corpus, model, str(db), Settings(**settings))
    return db, contrast(model, str(db), run.run_id, columns)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(resolve(str(EMBEDDED_PATH)))


@pytest.fixture(scope="module")
def path(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return contrasted(model, tmp_path_factory.mktemp("contrasts"))[0]


@pytest.fixture
def ask(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Asking:
    return Asking(capsys, monkeypatch, path)


@pytest.mark.some(2)
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2", "llama"])
def test_every_effect_is_that_of_hugging_face(family: str, tmp_path: Path) -> None:
    with in_float64():
        folder = tiny(family, tmp_path / family)
        model = Model(resolve(str(folder)), dtype=torch.float64)
        db, report = contrasted(model, tmp_path, context=32)
        assert report == ContrastReport(stored=len(PROMPTS))
        s = store.open(db)
        for number, (text, answer, distractor, _) in enumerate(PROMPTS):
            read = Read(family, folder, token_ids(text))
            _compare(s, number, read, model, token_ids(answer)[0], token_ids(distractor)[0])


def _compare(s: store.Store, document: int, read: Read, model: Model, answer: int, other: int) -> None:
    def effect(written: torch.Tensor) -> Any:
        a, b = (read.toward(written, torch.full_like(read.ids, t))[..., -1] for t in (answer, other))
        return (a - b).numpy()

    def rows(view: str, *order: str) -> pd.DataFrame:
        return s.sql(f"FROM {view} WHERE document_id = {document}").sort_values([*order])

    expected = {name: effect(vectors) for name, vectors in read.written(model.n_heads).items()}
    heads = rows("contrast_heads", "layer", "head").effect.to_numpy().reshape(LAYERS, -1)
    np.testing.assert_allclose(heads, [expected[f"heads {i}"] for i in range(LAYERS)], atol=1e-9)
    neurons, details = rows("contrast_neurons", "layer", "neuron"), rows("contrast_details", "layer")
    for i in range(LAYERS):
        of_layer, every = neurons[neurons.layer == i], expected[f"neurons {i}"]
        strongest = np.sort(np.argsort(-np.abs(every))[:NEURONS])
        assert of_layer.neuron.tolist() == strongest.tolist()
        np.testing.assert_allclose(of_layer.effect, every[strongest], atol=1e-9)
        others = np.delete(every, strongest)
        assert details.mlp_remainder.iloc[i] == pytest.approx(others.sum(), abs=1e-9)
        assert details.neuron_limit.iloc[i] == pytest.approx(np.abs(others).max(), abs=1e-9)
    parts = rows("contrast_components", "layer", "component").set_index(["component", "layer"]).effect
    for i in range(LAYERS):
        attn = expected[f"heads {i}"].sum() + expected[f"attn_bias {i}"]
        assert parts["attn", i] == pytest.approx(attn, abs=1e-9)
    logits, [row] = read.raw_logits[-1], rows("contrasts").to_dict("records")
    assert row["logit_difference"] == pytest.approx(float(logits[answer] - logits[other]), abs=1e-9)
    assert parts.sum() == pytest.approx(row["logit_difference"], abs=1e-9)
    logprobs = read.seen["logits"][-1].log_softmax(-1)
    assert row["answer_logprob"] == pytest.approx(float(logprobs[answer]), abs=1e-9)
    assert row["answer_rank"] == int((logits > logits[answer]).sum()) + 1
    sources = rows("contrast_sources", "layer", "head", "source_position_id")
    assert len(sources) == min(SOURCES, LAYERS * model.n_heads * len(read.ids))


def test_the_same_effects_as_for_one_position(path: Path) -> None:
    """Also the sources, of which plain hooks show only the sum."""
    s = of_ingest.open(path)
    for row in s.sql("FROM contrasts").itertuples():
        asked = s.decomposition(row.position_id, "source", toward=row.answer, minus=row.distractor)
        found = s.sql(f"FROM contrast_sources WHERE document_id = {row.document_id}")
        place = ["layer", "head", "source_position_id"]
        both = found.merge(asked, on=place, suffixes=("", "_asked"))
        assert len(both) == len(found)
        np.testing.assert_allclose(both.effect, both.effect_asked, atol=2e-5)
        assert found.effect.abs().min() >= np.sort(asked.effect.abs())[-len(found)] - 2e-5
        assert both.source_token.tolist() == both.source_token_asked.tolist()


def test_a_stopped_command_goes_on(
    path: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "DOCUMENTS", 32)
    many = [(f"{text} {number}", *others) for number in range(12) for text, *others in PROMPTS]
    db = tmp_path / "stopped.duckdb"
    with Corpus([str(file_of(tmp_path, many))]) as corpus:
        ingest(corpus, model, str(db), Settings())

    class Killed(Exception):
        pass

    def stop(done: int, total: int) -> None:
        assert (done, total) == (32, 48)
        raise Killed

    with pytest.raises(Killed):
        contrast(model, str(db), 1, COLUMNS, stop)
    report = contrast(model, str(db), 1, COLUMNS)
    assert report == ContrastReport(stored=16, there=32)
    rows = store.open(db).sql("SELECT count(*) AS n, count(DISTINCT document_id) AS documents FROM contrasts")
    assert rows.iloc[0].to_list() == [48, 48]
    assert [finding for finding in verify(db) if finding.broken] == []


def test_windows_with_a_bos_and_an_answer_inside_the_text(model: Model, tmp_path: Path) -> None:
    text = "The Congress of the United States met in the city of Dublin and went home again."
    place = text.index(" city")
    prompts = [(text, " city", " book", str(place)), ("a", " city", " book", "-1")]
    columns = Columns("answer", "distractor", "template")
    db, report = contrasted(model, tmp_path, columns, prompts, context=8, stride=4, bos=True)
    assert (report.stored, report.skipped) == (1, 1)
    assert "document 1 has no token before its place" in report.why["place"]
    s = store.open(db)
    [row] = s.sql("FROM contrasts JOIN positions USING (run_id, position_id)").to_dict("records")
    assert (row["char_end"], row["next_token"]) == (place, " city")
    assert row["answer_logprob"] == pytest.approx(row["next_logprob"], abs=1e-5)
    assert [finding for finding in verify(db) if finding.broken] == []


def test_what_cannot_be_contrasted_is_counted(model: Model, tmp_path: Path) -> None:
    prompts = [*PROMPTS[:1], ("The", " Venticasse", " city", ""), ("A", " city", " city", "")]
    file = file_of(tmp_path, prompts)
    file.write_text(file.read_text() + '{"text": "no answer"}\n')
    with Corpus([str(file)]) as corpus:
        run = ingest(corpus, model, str(tmp_path / "prompts.duckdb"), Settings())
    report = contrast(model, str(tmp_path / "prompts.duckdb"), run.run_id, COLUMNS)
    assert (report.stored, report.skipped, report.without) == (1, 2, 1)
    assert "the answer ' Venticasse' is not one token, but: ' V'" in report.why["tokens"]
    assert report.why["equal"] == "answer and distractor are both ' city'"
    with pytest.raises(SettingsError, match=r"both columns 'right' and 'wrong' .*columns are answer, distr"):
        contrast(model, str(tmp_path / "prompts.duckdb"), 1, Columns("right", "wrong"))


def test_means_are_those_of_the_rows(path: Path) -> None:
    s = store.open(path)
    rows = s.sql("FROM contrasts JOIN contrast_heads USING (run_id, document_id)")
    found = s.contrast_means("head", "template", least_accuracy=0)
    groups = rows.metadata.map(lambda text: json.loads(text)["template"])
    for mean in found.itertuples():
        of = rows[(groups == mean.group_name) & (rows.layer == mean.layer) & (rows["head"] == mean.unit)]
        assert mean.documents == len(of) == 2
        assert mean.mean == pytest.approx(of.effect.mean(), abs=1e-12)
        ends = stats.t.interval(0.95, 1, of.effect.mean(), stats.sem(of.effect))
        np.testing.assert_allclose([mean.low, mean.high], ends, rtol=1e-9)
    assert set(found.group_name) == {"first", "second"}
    of_first = found[found.group_name == "first"]["mean"].abs()
    assert of_first.is_monotonic_decreasing and len(of_first) == 16
    assert found.attrs["exact"] and found.max_error.max() == 0


def test_means_of_neurons_have_a_bound_that_holds(path: Path) -> None:
    s = of_ingest.open(path)
    effects = [
        s.decomposition(row.position_id, "neuron", toward=row.answer, minus=row.distractor)
        for row in s.sql("FROM contrasts").itertuples()
    ]
    exact = pd.concat(effects).groupby(["layer", "neuron"]).effect.mean()
    found = s.contrast_means("neuron", least_accuracy=0).set_index(["layer", "unit"])
    assert not found.attrs["exact"]
    gap = (found["mean"] - exact.loc[found.index].to_numpy()).abs()
    assert (gap <= found.max_error + 2e-5).all()
    assert (gap > 1e-3).any()  # some means do lack rows
    assert found[found.max_error > 0].standard_error.isna().all()


def test_heads_are_ranked_only_for_a_task_that_the_model_does(ask: Asking, path: Path) -> None:
    rows = store.open(path).sql("FROM contrasts")
    accuracy = (rows.logit_difference > 0).mean()
    assert 0 < accuracy < 0.8
    said = ask("contrasts")
    assert said.status == 2
    assert f"{accuracy:.1%}" in said.out  # the accuracy comes first
    assert f"prefers the answer too rarely: 'all' ({accuracy:.1%} of 4 documents)" in said.err
    refused = ask("contrasts", "--json")
    assert refused.status == 2 and [*json.loads(refused.out)] == ["run", "accuracy"]
    ends = stats.binomtest(round(accuracy * 4), 4).proportion_ci(method="wilson")
    assert f"{ends.low:.1%} to {ends.high:.1%}" in said.out
    said = ask("contrasts", "--least-accuracy", 0, "--by", "template", "--json")
    told = json.loads(said.out)
    assert said.status == 0
    assert len(told["means"]["rows"]) == 2 * 16 and len(told["accuracy"]["rows"]) == 2
    said = ask("contrasts", "--least-accuracy", 0, "--limit", 3, "--json")
    told = json.loads(said.out)["means"]
    assert (len(told["rows"]), told["total"], told["complete"]) == (3, 16, False)
    assert told["note"] == "truncated: the first 3 of each group, 3 of 16"
    assert "needed" in ask("contrasts", "--least-accuracy", 1, "--kind", "neuron").err
    assert "must be one of component, head, neuron" in ask("contrasts", "--kind", "layer").err
    assert "must be a fraction from 0 to 1" in ask("contrasts", "--least-accuracy", 80).err
    assert ask("contrasts", "--kind", "layer", "--json").out == ""
    assert "has the column 'templat'" in ask("contrasts", "--by", "templat").err


def test_a_group_in_which_the_model_fails_is_left_out(model: Model, tmp_path: Path) -> None:
    s = store.open(contrasted(model, tmp_path)[0])
    is_right = s.sql("FROM contrasts ORDER BY document_id").is_right.tolist()
    prompts = [(*prompt[:3], str(right)) for prompt, right in zip(PROMPTS, is_right, strict=True)]
    (tmp_path / "again").mkdir()
    s = store.open(contrasted(model, tmp_path / "again", prompts=prompts)[0])
    found, whole = s.contrast_means("head", "template"), s.contrast_means("head", "template", None, 0)
    assert set(found.group_name) == {"True"} and set(whole.group_name) == {"True", "False"}
    assert found["mean"].tolist() == whole[whole.group_name == "True"]["mean"].tolist()
    assert found.attrs["note"] == "groups left out: accuracy below 80% in 1 of 2 groups"
    assert found.attrs["left_out"] == ["False"]
    assert "note" not in whole.attrs and whole.attrs["left_out"] == []


def test_wrong_columns_are_noticed_before_the_ingest(tmp_path: Path, ask: Asking) -> None:
    db = tmp_path / "new.duckdb"
    words = ("ingest", file_of(tmp_path), "--answer-column", "right", "--distractor-column", "distractor")
    said = Asking(ask.capsys, ask.patch, db)(*words)
    assert said.status == 2 and not db.exists()
    assert "both columns 'right' and 'distractor'" in said.err
    assert "The columns are answer, distractor, template." in said.err
    (tmp_path / "empty.jsonl").write_text("")
    said = Asking(ask.capsys, ask.patch, db)("ingest", tmp_path / "empty.jsonl", *words[2:])
    assert said.status == 2 and "The corpus is empty" in said.err


def test_the_command_stores_them(model: Model, tmp_path: Path, ask: Asking) -> None:
    text, db = file_of(tmp_path), tmp_path / "new.duckdb"
    asking = Asking(ask.capsys, ask.patch, db)
    words = ("ingest", text, "--no-weights", "--answer-column", "answer")
    said = asking(*words)
    assert said.status == 2 and "--answer-column and --distractor-column belong together" in said.err
    words = (*words, "--distractor-column", "distractor")
    assert "Contrasts of run 1: 4 documents added." in asking(*words).out
    assert "0 documents added, 4 were stored before" in asking(*words).out


def test_the_page(show: Show, path: Path, two_steps: Path, model: Model, tmp_path: Path) -> None:
    test = show("contrasts", path)
    assert "How often the model prefers the answer" in titles(test)
    assert not [title for title in titles(test) if "effects" in title]  # the accuracy is below 80 %
    assert "To rank heads, 80% are needed" in html(test)
    assert "(--least-accuracy)" in html(test)
    assert "Mean effects of heads" in titles(show("contrasts", path, least="0"))
    assert "has no contrasts yet" in html(show("contrasts", two_steps))
    rows = store.open(path).sql("FROM contrasts ORDER BY document_id")
    preferred = [
        (text, answer, other, label) if is_right else (text, other, answer, label)
        for (text, answer, other, label), is_right in zip(PROMPTS, rows.is_right, strict=True)
    ]
    db, _ = contrasted(model, tmp_path, prompts=preferred)
    test = show("contrasts", db, by="template")
    assert {"Mean effects of heads: template first", "Mean effects of heads: template second"} < {
        *titles(test)
    }
    largest = store.open(db).contrast_means("head", "template").iloc[0]
    assert f"head=L{largest.layer}H{largest.unit}" in html(test)


@pytest.mark.parametrize("task", ["ioi", "greater-than", "agreement"])
def test_the_prompts_of_the_example(task: str, model: Model) -> None:
    place = Path(__file__).parent.parent / "examples" / "contrast_prompts.py"
    spec = importlib.util.spec_from_file_location("contrast_prompts", place)
    assert spec and spec.loader
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    made = [*example.prompts(task, model.tokenizer, 200)]
    assert made == [*example.prompts(task, model.tokenizer, 200)]
    assert made != [*example.prompts(task, model.tokenizer, 200, seed=1)]
    for prompt in made:
        assert len(token_ids(prompt["answer"])) == len(token_ids(prompt["distractor"])) == 1
        words = prompt["text"].replace(".", "").replace(",", "").split()
        if task == "ioi":
            assert [words.count(prompt[name].strip()) for name in ("answer", "distractor")] == [1, 2]
        elif task == "greater-than":
            [year] = [word for word in words if len(word) == 4 and word.isdecimal()]
            first = int(year[2 : 2 + len(prompt["answer"])])
            assert int(prompt["distractor"]) < first < int(prompt["answer"])
        else:
            plural = words[1].endswith("s")
            assert (prompt["answer"] in example.VERBS.values()) == plural
            assert words[-1].endswith("s") != plural
