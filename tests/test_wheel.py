"""The wheel carries all that a run needs, and nothing else; the sdist makes the same wheel."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools import release

pytest.importorskip("setuptools", reason="the build backend, setuptools, is not installed")

CHECKOUT = Path(__file__).parent.parent
PACKAGE = "annotate_transformer"
FOLDERS = ("app", "ingest", "store")
SHIPPED = (".py", ".sql", ".json", ".jsonl", ".safetensors", ".md")  # a new kind is named here
MODEL = f"{PACKAGE}/ingest/embedded/neox-2m"
STEPS = (512, 1000, 2000, 6110)
EXAMPLES = {
    f"{PACKAGE}/app/queries/{path.name}" for path in (CHECKOUT / "examples" / "queries").glob("*.sql")
}
SCHEMA = f"{PACKAGE}/store/schema.sql"


def built(target: str, source: Path, folder: Path) -> Path:
    """What setuptools makes of `source`; pip and the network have no part in it."""
    folder.mkdir()
    build = f"import sys, setuptools.build_meta as backend; backend.build_{target}(sys.argv[1])"
    command = [sys.executable, "-c", build, str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, text=True, timeout=120)
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files in git: what is built beside them, or was before, is not the checkout's."""
    copy = tmp_path_factory.mktemp("source") / "checkout"
    names = ("package", *FOLDERS, "tests", "examples")
    for name in names:
        shutil.copytree(CHECKOUT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in CHECKOUT.iterdir():
        if path.is_file() and path.suffix != ".duckdb":
            shutil.copy(path, copy / path.name)
    compiled = copy / "ingest" / "__pycache__"  # what runs of the checkout leave there, Numba's loops too
    compiled.mkdir()
    for suffix in ("pyc", "nbi", "nbc"):
        (compiled / f"kernels.{suffix}").write_bytes(b"compiled")
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", source, tmp_path_factory.mktemp("built") / "wheel")


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def installed_in(wheel: Path) -> set[str]:
    return {name for name in names_in(wheel) if ".dist-info/" not in name}


def test_what_a_run_reads_is_inside(wheel: Path) -> None:
    queries = {f"{PACKAGE}/store/{path.name}" for path in (CHECKOUT / "store").glob("*.sql")}
    steps = {f"{MODEL}/step{step}/{file}" for step in STEPS for file in ("config.json", "model.safetensors")}
    tokenizer = {f"{MODEL}/tokenizer.json", f"{MODEL}/tokenizer_config.json"}
    embedded = f"{PACKAGE}/ingest/embedded"
    texts = {f"{embedded}/corpus.jsonl", f"{embedded}/README.md", f"{MODEL}/README.md"}
    wanted = {SCHEMA} | EXAMPLES | queries | steps | tokenizer | texts
    assert wanted - installed_in(wheel) == set()


def test_the_examples_are_read_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "from annotate_transformer.app import example_queries as e; print(e.__file__, len(e.examples()))"
    command = [sys.executable, "-c", code]
    ran = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == [f"{tmp_path}/{PACKAGE}/app/example_queries.py", str(len(EXAMPLES))]


def test_the_schema_is_the_checkouts(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(SCHEMA) == (CHECKOUT / "schema.sql").read_bytes()


def test_nothing_else_is_inside(wheel: Path) -> None:
    files = (path for folder in FOLDERS for path in (CHECKOUT / folder).rglob("*"))
    shipped = {f"{PACKAGE}/{path.relative_to(CHECKOUT)}" for path in files if path.suffix in SHIPPED}
    assert installed_in(wheel) == shipped | EXAMPLES | {SCHEMA, f"{PACKAGE}/__init__.py"}


def test_the_command_and_both_licences_are_declared(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (about,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        scripts = archive.read(f"{about}/entry_points.txt").decode()
        assert f"annotate = {PACKAGE}.app.cli.main:main" in scripts
        metadata = archive.read(f"{about}/METADATA").decode()
    assert "License-Expression: MIT AND CC-BY-SA-4.0" in metadata
    licences = {f"{about}/licenses/LICENSE", f"{about}/licenses/ingest/embedded/neox-2m/README.md"}
    assert licences <= names_in(wheel)


def test_a_package_index_would_take_the_metadata(wheel: Path, tmp_path: Path) -> None:
    release.check_metadata(wheel)
    bad = Path(shutil.copy(wheel, tmp_path))
    about = next(name for name in names_in(wheel) if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive, zipfile.ZipFile(bad, "w") as copy:
        text = archive.read(about).decode()
        copy.writestr(about, text.replace("Requires-Python: >=3.11", "Requires-Python: new"))
    with pytest.raises(release.NotReady, match="requires-python"):
        release.check_metadata(bad)


def test_the_sdist_makes_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    sdist = built("sdist", source, tmp_path / "sdist")
    release.check_metadata(sdist)
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    again = built("wheel", unpacked, tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert {i.filename: i.CRC for i in one.infolist()} == {i.filename: i.CRC for i in other.infolist()}
