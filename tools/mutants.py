"""Check that the tests notice wrong changes to the code: `make mutants`.

python -m tools.mutants                       tries every change in tests/mutants
python -m tools.mutants share_of_all_runs     tries those named

tests/mutants/NAME.patch is a wrong change of one to three lines, as a person could make it. The lines above
the diff say what is wrong then (`what: …`) and which tests must fail (`tests: …`). Each change is made in a
copy of the checkout's tracked files, its tests are run there, and the change is undone. The tests first run
without any change. The exit status is 0 only if every change was noticed by a failing test.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGE = "annotate_transformer"
LINKED = ("app", "ingest", "store", "examples", "schema.sql", "package/__init__.py")
FAILED = 1  # pytest's exit status if tests ran and at least one of them failed
LONGEST = 900  # seconds for the tests of one change; after that, the change counts as not noticed
# Files that affect the store of two training steps in tests/conftest.py; other changes share one such store.
WRITING = ("ingest/", "schema.sql", "store/write", "store/checksum.py", "store/catalogue.py")
CHECK = f"""
import sys, pathlib, {PACKAGE}.app, {PACKAGE}.ingest, {PACKAGE}.store
files = [module.__file__ for name, module in sys.modules.items() if name.startswith("{PACKAGE}")]
assert all(pathlib.Path(file).resolve().is_relative_to(sys.argv[1]) for file in files), files
"""


@dataclass(frozen=True)
class Mutant:
    """A wrong change: its patch, what is wrong then, the tests that must fail, and the files it changes."""

    patch: Path
    what: str
    tests: list[str]
    files: list[str]

    @staticmethod
    def of(patch: Path) -> "Mutant":
        """Read a patch and the two lines above its diff."""
        text = patch.read_text(encoding="utf-8")
        found = re.match(r"what: (.+)\ntests: (.+)\n+diff --git ", text)
        assert found, f"{patch} must begin with `what: …`, `tests: …` and a diff"
        return Mutant(patch, found[1], found[2].split(), re.findall(r"^\+\+\+ b/(.+)$", text, re.MULTILINE))


class Copy:
    """A copy of the checkout's tracked files, which Python imports instead of the checkout."""

    def __init__(self, folder: Path) -> None:
        self.checkout, package = folder / "checkout", folder / "links" / PACKAGE
        for name in (
            subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).strip("\0").split("\0")
        ):
            (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.checkout / name)
        package.mkdir(parents=True)
        for name in LINKED:
            (package / Path(name).name).symlink_to(self.checkout / name)
        # Folders in PYTHONPATH come before the finder of the editable install, which leads to the checkout.
        self.environment = os.environ | {"PYTHONPATH": str(package.parent)}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # without bytecode each run would compile anew
        self.steps = {"ANNOTATE_STEPS": str(folder / "steps.duckdb")}
        self._python("-c", CHECK, str(self.checkout), check=True)

    def apply(self, mutant: Mutant, *options: str) -> bool:
        """Apply a patch; return whether it fits. Bytecode beside its files goes: it could look current."""
        command = ["git", "apply", *options, str(mutant.patch.resolve())]
        fits = subprocess.run(command, cwd=self.checkout, capture_output=True).returncode == 0
        for name in mutant.files:
            shutil.rmtree((self.checkout / name).parent / "__pycache__", ignore_errors=True)
        return fits

    def test(self, tests: Iterable[str], own_store: bool = False) -> tuple[int | None, str]:
        """Run tests; return pytest's exit status, None if they took too long, and what it printed."""
        environment = self.environment | ({} if own_store else self.steps)
        command = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests)
        try:
            done = self._python(*command, env=environment, timeout=LONGEST)
            return done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            return None, ""

    def _python(self, *command: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        usual = {"env": self.environment, "cwd": self.checkout, "capture_output": True, "text": True}
        return subprocess.run([sys.executable, *command], **usual | options)


def result(copy: Copy, mutant: Mutant) -> str:
    """Make a change, run its tests and undo the change; return the result in words."""
    if not copy.apply(mutant):
        return "patch no longer applies"
    status, _ = copy.test(mutant.tests, any(name.startswith(WRITING) for name in mutant.files))
    assert copy.apply(mutant, "--reverse"), f"{mutant.patch.name} cannot be undone"
    return "caught" if status == FAILED else "NOT CAUGHT"


def main(names: list[str]) -> None:
    """Try the changes; print a line about each, and how many were noticed."""
    mutants = [Mutant.of(patch) for patch in sorted((ROOT / "tests" / "mutants").glob("*.patch"))]
    if unknown := {*names} - {mutant.patch.stem for mutant in mutants}:
        sys.exit(f"tests/mutants has no {', '.join(sorted(unknown))}.")
    mutants, results = [each for each in mutants if not names or each.patch.stem in names], list[str]()
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder).resolve())
        status, printed = copy.test(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
        if status != 0:
            sys.exit(f"The tests fail without any change:\n{printed}")
        for mutant in mutants:
            began = time.monotonic()
            results.append(result(copy, mutant))
            line = f"{results[-1]}: {mutant.patch.stem} ({time.monotonic() - began:.0f} s): {mutant.what}"
            print(line, flush=True)
    print(f"{results.count('caught')} of {len(mutants)} caught")
    sys.exit(results.count("caught") < len(mutants))


if __name__ == "__main__":
    main(sys.argv[1:])
