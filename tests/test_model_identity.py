"""A model is what its files hold: under another path it is the same, with another setting it is not."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from annotate_transformer import store
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.errors import ModelError
from annotate_transformer.ingest.live import prompt as live
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import Checkpoint, resolve
from annotate_transformer.ingest.next_token.prompts import PromptSettings, look_up
from annotate_transformer.ingest.run.pipeline import RunReport, ingest
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.weights.tables import annotate_weights
from answers import sql
from small import model as small_model

SMALL = Settings(context=16, batch_tokens=16, top=3, samples=10, limit_tokens=40)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with the model `m` and a store of one run of it."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(tiny_model, folder / "m")
    (folder / "text.txt").write_text("Tom saw Mary. Mary saw the cat, and the cat saw Tom.")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert annotated("m").status == "finished"
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to work in."""
    folder = Path(shutil.copytree(made, tmp_path / "here"))
    monkeypatch.chdir(folder)
    return folder


def annotated(model: str | Checkpoint, **settings: Any) -> RunReport:
    source = model if isinstance(model, Checkpoint) else resolve(model)
    with Corpus(["text.txt"]) as corpus:
        return ingest(corpus, Model(source), "x.duckdb", replace(SMALL, **settings))


def models() -> list[tuple[Any, ...]]:
    return sql(Path("x.duckdb"), "SELECT model, revision FROM models ORDER BY model_id")


SPELLINGS = [
    "./m",
    "m/",
    "m/.",
    "m//",
    "./m/../m",
    "a/../m",
    "absolute",
    "link",
    "link to a link",
    "hard links",
]
SPELLINGS += ["renamed", "copied", "M", "step1000", "neox-2m", "in several files", "as a pickle"]


@pytest.mark.some(5)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_same_model_under_another_path_is_the_same_run(spelling: str, here: Path) -> None:
    report = annotated(another_path(spelling, here))
    assert (report.run_id, report.status, report.new_tokens) == (1, "nothing to do", 0)
    assert models() == [("m", None)]


def another_path(spelling: str, here: Path) -> str:
    m, new = here / "m", here / "other"
    if spelling == "absolute":
        return str(m)
    if spelling == "a/../m":
        (here / "a").mkdir(exist_ok=True)
    if spelling.startswith("link"):
        new.exists() or new.symlink_to("m")
        further = here / "further"
        further.exists() or further.symlink_to("other")
        return "further" if spelling == "link to a link" else "other"
    if spelling == "hard links":
        new.exists() or shutil.copytree(m, new, copy_function=os.link)
        return "other"
    if spelling == "renamed":
        m.exists() and m.rename(new)
        return "other"
    if spelling in ("in several files", "as a pickle"):
        new.exists() or in_another_form(shutil.copytree(m, new), spelling)
        return "other"
    if spelling in ("copied", "M", "step1000", "neox-2m"):
        (here / spelling).exists() or shutil.copytree(m, here / spelling)
        return f"./{spelling}"
    return spelling


def in_another_form(folder: Path, form: str) -> None:
    import torch

    held = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if form == "as a pickle":
        torch.save(held, folder / "pytorch_model.bin")
        return
    for i, (name, tensor) in enumerate(held.items()):
        save_file({name: tensor}, folder / f"{i}.safetensors")
    weight_map = {name: f"{i}.safetensors" for i, name in enumerate(held)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_another_name_is_told(here: Path) -> None:
    shutil.copytree(here / "m", here / "copy")
    assert annotated("./m/").equal_weights is None
    assert annotated("copy", top=2).equal_weights == "The weights of copy equal those of m (run 1)"
    assert models() == [("m", None)]  # of which there is a second run


def test_weights_alone_are_told_to_be_another_names(here: Path) -> None:
    for name in ("copy", "again"):
        shutil.copytree(here / "m", here / name)
    of_run = annotate_weights(Model(resolve("copy")), "x.duckdb", top=3)
    assert of_run.equal_weights == "The weights of copy equal those of m (run 1)"
    told = [annotate_weights(Model(resolve(name)), "y.duckdb", top=3) for name in ("m", "again")]
    assert told[0].equal_weights is None
    assert told[1].equal_weights == "The weights of again equal those of m (its weights alone)"


def test_a_prompt_is_not_read_by_another_model_of_the_runs_name(here: Path) -> None:
    with store.open("x.duckdb") as s:
        run = s.runs().iloc[0]
    assert live.annotated("the cat", run, Model(resolve("m")), here).exists()
    small_model(here / "m", initializer_range=0.4)
    with pytest.raises(ModelError, match="m has other weights now than when run 1 was made"):
        live.annotated("the cat", run, Model(resolve("m")), here / "other")


DIFFERENT: dict[str, dict[str, Any]] = {
    "heads": {"num_attention_heads": 4},
    "activation": {"hidden_act": "relu"},
    "epsilon": {"layer_norm_eps": 1e-3},
    "residual": {"use_parallel_residual": False},
    "context": {"max_position_embeddings": 32},
    "rotary share": {
        "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5, "rope_theta": 1e4}
    },
    "rotary base": {
        "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25, "rope_theta": 99}
    },
}


@pytest.mark.some(3)
@pytest.mark.parametrize("name", DIFFERENT)
def test_the_same_path_with_another_setting_is_another_model(name: str, here: Path) -> None:
    path = here / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | DIFFERENT[name]))
    assert annotated("m").run_id == 2
    assert models() == [("m", None), ("m", None)]


def test_other_weights_or_tokens_are_another_model(here: Path) -> None:
    small_model(here / "m", initializer_range=0.4)
    assert annotated("m").run_id == 2
    path = here / "m" / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec["model"]["merges"] = spec["model"]["merges"][:-1]
    path.write_text(json.dumps(spec))
    assert annotated("m").run_id == 3
    assert len(models()) == 3


def test_a_runs_neurons_are_not_read_with_another_setting(here: Path) -> None:
    path = here / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layer_norm_eps": 1e-3}))
    with pytest.raises(ModelError, match="than run 1 was made with"):
        look_up(Model(resolve("m")), "x.duckdb", 1, [(0, 1)], PromptSettings())


@pytest.mark.soak
def test_two_revisions_with_equal_weights_stay_two_and_are_told(here: Path) -> None:
    """As on the hub, where several steps of Pythia hold another step's weights."""
    named = {step: Checkpoint("pythia-x", "m", f"step{step}", step) for step in (1, 2)}
    first = annotated(named[1], limit_tokens=30)
    second = annotated(named[2], limit_tokens=30)
    assert (first.run_id, second.run_id) == (2, 3)
    assert second.status == "finished"
    assert second.equal_weights == "The weights of pythia-x step2 equal those of pythia-x step1 (run 1)"
    assert models() == [("pythia-x", "step1"), ("pythia-x", "step2")]  # the first one was m
    assert [annotated(named[step], limit_tokens=30).run_id for step in (1, 2)] == [2, 3]
    assert annotated("m", limit_tokens=30).status == "nothing to do"  # whichever of them
    with store.open("x.duckdb") as s:
        for what in ("positions", "neurons", "heads"):
            assert s.compare(2, 3, what).attrs["note"] == "runs 2 and 3 are of the same weights"


def test_a_folders_model_takes_the_name_that_it_is_asked_for_by(here: Path) -> None:
    report = annotated(Checkpoint("pythia-x", "m", "step7", 7))
    assert (report.run_id, report.status) == (1, "nothing to do")
    assert report.equal_weights == "The weights of pythia-x step7 equal those of m (run 1)"
    assert sql(Path("x.duckdb"), "SELECT model, revision, step FROM models") == [("pythia-x", "step7", 7)]
    assert annotated("m").run_id == 1


def test_two_names_of_one_training_step_are_one(here: Path) -> None:
    runs = [
        annotated(Checkpoint(name, "m", revision, 143_000), limit_tokens=20).run_id
        for name, revision in [("pythia-x", "main"), ("pythia-x", "step143000"), ("E/pythia-x", "main")]
    ]
    assert runs == [2, 2, 2]


def test_a_hub_id_without_a_revision_is_its_main_one() -> None:
    assert resolve("someone/model") == resolve("someone/model", "main")
