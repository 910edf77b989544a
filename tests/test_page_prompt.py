"""The Prompt page: it shows what the run's model makes of a prompt, and leaves the store as it is."""

import hashlib
import html as markup
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest

pytest.importorskip("streamlit.testing.v1")

from annotate_transformer import store
from annotate_transformer.app.browser import answers
from annotate_transformer.app.browser.pages import prompt as page_prompt
from annotate_transformer.app.browser.pages import token as page_token
from annotate_transformer.app.cli.main import main
from annotate_transformer.ingest.live import prompt as live
from pages import HOSTILE, MAIN, VARIABLE, Show, box, button, html, odd_store, titles

PROMPT = "Dublin is the capital of"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[pd.DataFrame, str, float]]:
    """What waterfalls were drawn of: the components, toward what, the logit."""
    seen: list[tuple[pd.DataFrame, str, float]] = []
    waterfall = page_token.charts.waterfall

    def noted(components: pd.DataFrame, toward: str, logit: float) -> Any:
        seen.append((components, toward, logit))
        return waterfall(components, toward, logit)

    monkeypatch.setattr(page_token.charts, "waterfall", noted)
    return seen


def about(db: Path, run: int) -> "pd.Series[Any]":
    return store.open(db).runs().set_index("run_id").loc[run]


def addresses(test: Any, page: str) -> list[dict[str, str]]:
    """The parameters of the links to a page."""
    found = (markup.unescape(href) for href in re.findall(r'href="([^"]*)"', html(test)))
    asked = (urlsplit(href) for href in found)
    return [{k: v[0] for k, v in parse_qs(link.query).items()} for link in asked if link.path == f"/{page}"]


# What it shows ------------------------------------------------------------------------------------


@pytest.mark.some(2)
@pytest.mark.parametrize("run", [1, 2])
def test_the_terms_of_the_last_token_are_those_of_expand(
    show: Show,
    two_steps: Path,
    run: int,
    drawn: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    test = show("prompt", run=run, text=PROMPT)
    assert "The logit as a sum of components" in titles(test)
    command = ["annotate", "expand", PROMPT, "--db", str(two_steps), "--run", str(run), "--json"]
    monkeypatch.setattr(sys, "argv", command)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main()
    told = json.loads(capsys.readouterr().out)
    components, toward, logit = drawn[-1]
    assert toward == "toward_top"  # nothing follows
    assert components.toward_top.sum() == pytest.approx(logit, abs=1e-4)
    assert logit == pytest.approx(told["position"]["rows"][0]["top_logit"], abs=1e-5)
    expanded = [row["toward_top"] for row in told["component"]["rows"]]
    assert components.toward_top.tolist() == pytest.approx(expanded, abs=1e-5)


@pytest.mark.some(2)
@pytest.mark.parametrize("toward", ["next", "top"])
def test_any_tokens_terms_sum_to_the_logit(
    show: Show,
    two_steps: Path,
    tmp_path: Path,
    toward: str,
    drawn: list[Any],
) -> None:
    show("prompt", run=1, text=PROMPT, at=2, toward=toward)
    components, shown, logit = drawn[-1]
    alone = store.open(
        live.annotated(PROMPT, about(two_steps, 1), live.load("neox-2m", "step1000"), tmp_path)
    )
    assert shown == f"toward_{toward}"
    assert components[shown].sum() == pytest.approx(logit, abs=1e-4)
    assert logit == pytest.approx(alone.position(2)[f"{toward}_logit"], abs=1e-5)
    terms = alone.decomposition(2, "component")[shown].tolist()
    assert components[shown].tolist() == pytest.approx(terms, abs=1e-5)


def test_its_links_stay_on_the_page_or_lead_to_the_run(show: Show) -> None:
    test = show("prompt", run=1, text=f" {PROMPT} ", at=2, toward="top", colour="entropy")
    assert addresses(test, "token") == []
    places = [place for place in addresses(test, "prompt") if "of" not in place]  # but for other targets
    kept = {"run": "1", "text": f" {PROMPT} ", "toward": "top", "colour": "entropy"}
    assert all(place.items() >= kept.items() for place in places)
    last = max(int(place["at"]) for place in places)
    assert {int(place["at"]) for place in places} == {*range(last + 1)}
    for unit in ("head", "neuron"):
        assert {place["run"] for place in addresses(test, unit)} == {"1"}
    assert f"token 2 of 0 to {last}" in html(test)


def test_what_is_written_in_the_box_comes_into_the_address(show: Show) -> None:
    test = show("prompt", run=1, text="Dublin", at=0)
    box(test, "A text for").input(f"{PROMPT} ")
    button(test, "Annotate").click().run()
    assert not test.exception
    assert test.query_params["text"] == f"{PROMPT} "  # the last space is a token
    assert "at" not in test.query_params
    assert "The logit as a sum of components" in titles(test)


@pytest.mark.parametrize("colour", page_prompt.COLOURS)
def test_its_tokens_are_coloured_as_a_texts(show: Show, colour: str) -> None:
    test = show("prompt", run=2, text=PROMPT, colour=colour)
    assert 'class="legend"' in html(test)
    assert "The logit as a sum of components" in titles(test)


@pytest.mark.soak
def test_the_runs_bos_is_put_before_it(show: Show, tmp_path: Path, tiny_model: Path) -> None:
    odd = odd_store(tmp_path, tiny_model)
    with_bos, without = (
        {place["at"] for place in addresses(show("prompt", odd, run=run, text="a b"), "prompt")}
        for run in (1, 2)
    )
    assert len(with_bos) == len(without) + 1


def test_a_hostile_prompt_is_text(show: Show) -> None:
    shown = html(show("prompt", run=1, text=HOSTILE))
    assert "<script>alert('x')</script>" in markup.unescape(re.sub("<[^>]*>", "", shown))
    assert not re.search("<(script|img|/a>&)|[\u202e\u202c\x07]", shown)


# What cannot be -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({}, "Write a few words and press Annotate"),
        ({"text": "  \n"}, "Write a few words and press Annotate"),
        ({"text": "x" * 2001}, "a prompt of 2,001 characters; at most 2,000 are allowed"),
        ({"text": "😀" * 600}, "neox-2m reads at most 512 at once"),
        ({"text": PROMPT, "run": 99}, "There is no run 99; the store has 1, 2."),
        ({"text": PROMPT, "at": 99}, "the prompt&#x27;s tokens are numbered 0 to"),
        ({"text": PROMPT, "at": "last"}, "at is a whole number from 0 on"),
        ({"text": PROMPT, "at": 10**30}, "at is a whole number from 0 on"),
        ({"text": PROMPT, "at": 0, "toward": "east"}, "toward is one of next, top"),
        ({"text": PROMPT, "colour": "head"}, "colour is one of loss, rank"),
        ({"text": PROMPT, "colour": "neuron", "neuron": "L9N9"}, "no neuron L9N9"),
        ({"text": PROMPT, "head": "L77H7"}, "Sources with the largest effects"),
    ],
)
def test_a_wrong_address_is_a_sentence(
    show: Show,
    parameters: dict[str, Any],
    sentence: str,
) -> None:
    test = show("prompt", **parameters)
    assert sentence in html(test) + " ".join(titles(test))


@pytest.mark.soak
def test_a_model_that_is_gone_is_a_sentence(show: Show, tmp_path: Path, tiny_model: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    odd = odd_store(tmp_path, model)
    assert "The logit as a sum of components" in titles(show("prompt", odd, run=1, text="a b"))
    shutil.rmtree(model)
    answers.runner.clear()
    assert "There is no model named" in html(show("prompt", odd, run=1, text="a b c"))
    assert "The logit as a sum of components" in titles(show("prompt", odd, run=1, text="a b"))  # kept


def test_a_hub_out_of_reach_is_a_sentence(
    show: Show,
    two_steps: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    db = shutil.copy(two_steps, tmp_path / "hub.duckdb")
    with store.database.connection(db, read_only=False) as con:
        con.execute("UPDATE base.model SET model = 'nobody/here', revision = NULL")
    assert "the Hugging Face hub cannot be reached" in html(show("prompt", db, run=1, text=PROMPT))


# What it leaves alone -----------------------------------------------------------------------------


def test_the_store_is_not_changed(show: Show, two_steps: Path, tmp_path: Path) -> None:
    db = shutil.copy(two_steps, tmp_path / "store.duckdb")
    before = hashlib.sha256(db.read_bytes()).hexdigest()
    for text in (PROMPT, "another prompt"):
        assert "The logit as a sum of components" in titles(show("prompt", db, run=2, text=text))
    assert hashlib.sha256(db.read_bytes()).hexdigest() == before
    assert [file.name for file in tmp_path.iterdir()] == [db.name]


NO_TORCH = """
import os, sys
from streamlit.testing.v1 import AppTest
test = AppTest.from_file(sys.argv[1], default_timeout=60)
test.run()
test._page_hash = next(k for k, v in test._registered_pages.items() if v["url_pathname"] == "prompt")
test.run()
assert [title.value for title in test.title] == ["Prompt"], test.title
assert not test.exception
assert "torch" not in sys.modules and "ingest" not in sys.modules
test.query_params["text"] = "a b"
test.run()
assert not test.exception
assert "torch" in sys.modules
print(sys.modules["annotate_transformer.app.browser.pages.prompt"]._prompts()._folder)
"""


@pytest.mark.soak
def test_torch_comes_with_the_first_prompt_and_the_prompts_go_with_the_process(two_steps: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", NO_TORCH, str(MAIN)]
    ended = subprocess.run(
        command, env=os.environ | {VARIABLE: str(two_steps)}, cwd=MAIN.parents[2], timeout=200,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    folder = Path(ended.stdout.strip())
    assert folder.name.startswith("annotate-prompts-")
    assert not folder.exists()


def test_of_a_prompt_too_long_to_keep_all_the_strongest_are_kept(
    two_steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, run = live.load("neox-2m", "step1000"), about(two_steps, 1)
    (tmp_path / "some").mkdir()
    everything = store.open(live.annotated(PROMPT, run, model, tmp_path)).decomposition(2, "neuron")
    assert (len(everything), everything.attrs["exact"]) == (model.n_layers * model.d_mlp, True)
    monkeypatch.setattr(live, "ROWS", 100)
    some = store.open(live.annotated(PROMPT, run, model, tmp_path / "some")).decomposition(2, "neuron")
    assert len(some) < len(everything)
    assert not some.attrs["exact"]


@pytest.mark.soak
def test_the_last_prompts_are_kept(two_steps: Path) -> None:
    loaded = live.load("neox-2m", "step1000")
    prompts, run = live.Prompts(lambda name, revision: loaded), about(two_steps, 1)
    files = [prompts.annotated(f"word {number}", run) for number in range(live.KEPT)]
    assert prompts.annotated("word 0", run) == files[0]
    prompts.annotated("one more", run)
    assert [file.exists() for file in files] == [True, False] + [True] * (live.KEPT - 2)


def test_one_prompt_is_annotated_at_a_time(two_steps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, most = [], []

    def annotated(prompt: str, about: object, model: object, folder: Path) -> Path:
        at_work.append(prompt)
        most.append(len(at_work))
        time.sleep(0.05)
        at_work.remove(prompt)
        return folder / "prompt.duckdb"

    monkeypatch.setattr(live, "annotated", annotated)
    prompts, run = live.Prompts(lambda name, revision: None), about(two_steps, 1)  # type: ignore[arg-type,return-value]
    sessions = [threading.Thread(target=prompts.annotated, args=(f"{n % 3}", run)) for n in range(6)]
    for session in sessions:
        session.start()
    for session in sessions:
        session.join()
    assert most == [1, 1, 1]


def test_a_prompt_is_annotated_anew_for_a_run_with_other_special_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "annotated", lambda prompt, about, model, folder: folder / "prompt.duckdb")
    prompts = live.Prompts(lambda name, revision: None)  # type: ignore[arg-type,return-value]
    settings = [{"bos": bos, "parse_special": parse} for bos in (False, True) for parse in (False, True)]
    runs = [pd.Series({"model": "m", "revision": None, "settings": json.dumps(of)}) for of in settings]
    files = [prompts.annotated("a", run) for run in runs]
    assert len({*files}) == len(runs)
    assert [prompts.annotated("a", run) for run in runs] == files


@pytest.mark.parametrize("bos", [False, True])
def test_a_prompt_may_fill_the_whole_context(
    bos: bool, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("annotate_transformer.ingest.live.prompt.ingest", lambda *more: asked.append(more))
    model = live.load(str(tiny_model), None)
    run = pd.Series(
        {
            "run_id": 1,
            "model": "m",
            "weights_sha256": model.weights_sha256,
            "settings": json.dumps({"bos": bos}),
        }
    )
    most = model.n_ctx - bos
    live.annotated("a" + " a" * (most - 1), run, model, tmp_path)
    assert len(asked) == 1
    with pytest.raises(store.BadQuestion, match=f"has {most + 1} tokens; m reads at most {most} at once"):
        live.annotated("a" + " a" * most, run, model, tmp_path)


# By the mouse -------------------------------------------------------------------------------------


@pytest.mark.soak
def test_a_prompt_in_the_browser(two_steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import browsing as browser  # skips where there is no playwright

    if browser.CHROMIUM is None:
        pytest.skip("there is no chromium")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    expect = browser.playwright.expect
    with browser.serving(two_steps) as address, browser.playwright.sync_playwright() as started:
        monkeypatch.delenv("TMPDIR")  # Chromium puts a socket there, whose path must be short
        chromium = started.chromium.launch(
            executable_path=browser.CHROMIUM, args=browser.QUIET, env=dict(os.environ)
        )
        page = chromium.new_page(base_url=address)
        page.set_default_timeout(60_000)
        page.goto("/prompt?run=2")
        browser.title(page, "Prompt")
        page.get_by_role("textbox").fill(f"{PROMPT} <b>")
        page.get_by_role("button", name="Annotate").click()
        page.wait_for_url("**text=Dublin**")
        page.wait_for_selector(".text a.here")
        browser.quiet(page)
        assert page.locator(".text").first.inner_text() == f"{PROMPT} <b>"
        expect(page.locator("text=No next token")).to_be_visible()
        page.locator(".text a").nth(2).click()
        page.wait_for_url("**at=2**")
        expect(page.locator("text=token 2 of 0 to")).to_be_visible()
        page.get_by_text("the model's top prediction", exact=True).click()
        page.wait_for_url("**toward=top**")
        page.locator('.more[href*="toward=top"]', has_text="token after").click()  # drawn anew
        page.wait_for_url("**at=3**")
        assert browser.parameters(page)["toward"] == "top"
        expect(page.locator("text=token 3 of 0 to")).to_be_visible()
        page.go_back()
        page.wait_for_url("**at=2**")
        expect(page.locator("text=token 2 of 0 to")).to_be_visible()
        browser.quiet(page)
        page.locator('td a[href^="/head"]').first.click()
        browser.title(page, "Head")
        assert browser.parameters(page)["run"] == "2"
        assert [*tmp_path.glob("annotate-prompts-*")]
        chromium.close()
    assert not [*tmp_path.glob("annotate-prompts-*")]
