"""The tools that measure the code count what they say, here and in modules made for the purpose."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tools import figures, mutants, sentences

ROOT = Path(__file__).parent.parent


def module(name: str, text: str) -> figures.Module:
    return figures.Module(name, text)


def test_a_body_is_without_signature_and_docstring() -> None:
    text = 'def f(\n    x,\n):\n    """Say\n    what."""\n    y = x\n\n    return y\n\ndef g(): ...\n'
    assert [figures.body_lines(function) for function in module("m", text).functions] == [3, 1]


def test_complexity_counts_each_division_of_the_path() -> None:
    text = "def f(x):\n    if x and x > 1:\n        return [y for y in x if y]\n    assert x\n"
    assert [figures.complexity(function) for function in module("m", text).functions] == [1 + 1 + 1 + 2 + 1]


def test_a_cycle_is_found_through_others_and_inside_functions() -> None:
    a = module("store.a", "from annotate_transformer.store.b import x\n")
    b = module("store.b", "def f():\n    from annotate_transformer.store import c\n")
    c = module("store.c", "import annotate_transformer.store.a\n")
    d = module("app.d", "from annotate_transformer.store import a\n")
    assert figures.cycles([a, b, c, d]) == [["store.a", "store.b", "store.c"]]
    assert figures.cycles([a, c, d]) == []


def test_a_private_name_is_used_elsewhere() -> None:
    one = module("store.one", "def _open(): ...\nclass A:\n    def _b(self): self._c = self._b()\n")
    two = module("store.two", "from store.one import _open, A\nimport os\nA()._b()\nA().name\nos._exit(1)\n")
    assert figures.private_uses([one, two]) == ["store.two: _b", "store.two: _open"]


def test_the_checkout_is_measured() -> None:
    measured = figures.modules(ROOT)
    found = figures.figures(measured)
    assert int(found["files"]) > 50 and int(found["lines"].replace(",", "")) > 10_000
    assert float(found["bodies of at most 30 lines"].split()[0]) >= 99
    assert figures.table({"some": measured[:9]}).count("\n") == len(found) + 1


@pytest.mark.skipif(not shutil.which("git"), reason="git applies the patches")
def test_every_wrong_change_still_applies_and_its_tests_are_there() -> None:
    """Whether they fail is seen by `make mutants`, which takes long."""
    patches = sorted((ROOT / "tests" / "mutants").glob("*.patch"))
    assert len(patches) > 40
    for patch in patches:
        applied = subprocess.run(["git", "apply", "--check", patch], cwd=ROOT, capture_output=True, text=True)
        assert applied.returncode == 0, applied.stderr
        for test in mutants.Mutant.of(patch).tests:
            file, _, name = test.partition("::")
            assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), (patch, test)


@pytest.mark.soak
def test_a_seed_draws_the_same_sentences_of_every_kind() -> None:
    drawn = sentences.draw(1)
    assert drawn == sentences.draw(1) != sentences.draw(2)
    assert {kind: sum(s.kind == kind for s in drawn) for kind in sentences.DRAWN} == sentences.DRAWN
    for _, place, _ in drawn:
        assert (ROOT / place.split(":")[0]).is_file()
