"""Which build of PyTorch `make` installs; Python and uv are stand-ins that write down how they are called."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
PYTHON = """#!/bin/sh
case "$1 $2" in
    "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    *importlib.metadata*) test -e torch_is_there ;;
    "-c "*) ;;
    *) echo "python $*" >> called ;;
esac
"""
UV = '#!/bin/sh\necho "uv $*" >> called\n'

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, tmp_path)
    shutil.copytree(CHECKOUT / "requirements", tmp_path / "requirements")
    for name, text in {"python": PYTHON, "uv": UV}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def make(checkout: Path, *options: str) -> tuple[int, str, list[str]]:
    """Return the exit status, what is told, and the calls by which PyTorch is installed."""
    command = ["make", ".venv/installed", "PYTHON=./python", "UV=./uv", *options]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=60)
    called = checkout / "called"
    calls = called.read_text().splitlines() if called.exists() else []
    return done.returncode, done.stdout, [call for call in calls if "torch.txt" in call]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the default is the CPU build")
def test_the_default_is_pips_and_its_size_is_told(checkout: Path) -> None:
    status, told, [call] = make(checkout)
    assert status == 0 and call.startswith("python -m pip ")
    assert "about 6 GB" in told and "TORCH=cpu" in told


def test_the_cpu_build_comes_by_uv(checkout: Path) -> None:
    status, told, [call] = make(checkout, "TORCH=cpu")
    assert status == 0 and call.startswith("uv pip install ") and "--torch-backend cpu" in call
    assert "about 200 MB" in told and "6 GB" not in told


def test_a_build_that_is_there_is_kept(checkout: Path) -> None:
    (checkout / "torch_is_there").touch()
    status, told, [call] = make(checkout, "TORCH=cpu")
    assert status == 0 and call.startswith("python -m pip ") and "--torch-backend" not in call
    assert "is kept" in told and "GB" not in told


def test_options_of_ones_own_need_no_uv(checkout: Path) -> None:
    status, _, [call] = make(checkout, "TORCH=cpu", "UV=missing", "TORCH_OPTIONS=--index-url ADDRESS")
    assert status == 0 and "--index-url ADDRESS" in call


@pytest.mark.parametrize(
    ("options", "told"),
    [(("TORCH=cpu", "UV=missing"), "TORCH=cpu needs uv"), (("TORCH=cuda",), "only cpu can be chosen")],
)
def test_what_cannot_be_chosen_is_told_before_a_download(
    checkout: Path, options: tuple[str, ...], told: str
) -> None:
    status, said, calls = make(checkout, *options)
    assert status != 0 and told in said and not calls and not (checkout / "called").exists()
