"""The wheel carries all that a run needs, and nothing else; the sdist makes the same wheel."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="the build backend, hatchling, is not installed")

CHECKOUT = Path(__file__).parent.parent
PACKAGES = ("app", "ingest", "store")
SHIPPED = (".py", ".sql", ".json", ".jsonl", ".safetensors", ".md")  # a new kind is named here
MODEL = "ingest/embedded/neox-2m"
STEPS = (512, 1000, 2000, 6110)
EXAMPLES = {f"app/queries/{path.name}" for path in (CHECKOUT / "examples" / "queries").glob("*.sql")}


def built(target: str, source: Path, folder: Path) -> Path:
    """What hatchling makes of `source`; pip and the network have no part in it."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, text=True, timeout=120)
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", CHECKOUT, tmp_path_factory.mktemp("wheel"))


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def installed_in(wheel: Path) -> set[str]:
    return {name for name in names_in(wheel) if ".dist-info/" not in name}


def test_what_a_run_reads_is_inside(wheel: Path) -> None:
    queries = {f"store/{path.name}" for path in (CHECKOUT / "store").glob("*.sql")}
    steps = {f"{MODEL}/step{step}/{file}" for step in STEPS for file in ("config.json", "model.safetensors")}
    tokenizer = {f"{MODEL}/tokenizer.json", f"{MODEL}/tokenizer_config.json"}
    texts = {"ingest/embedded/corpus.jsonl", "ingest/embedded/README.md", f"{MODEL}/README.md"}
    wanted = {"store/schema.sql"} | EXAMPLES | queries | steps | tokenizer | texts
    assert wanted - installed_in(wheel) == set()


def test_the_schema_is_the_checkouts(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("store/schema.sql") == (CHECKOUT / "schema.sql").read_bytes()


def test_nothing_else_is_inside(wheel: Path) -> None:
    files = (path for package in PACKAGES for path in (CHECKOUT / package).rglob("*"))
    shipped = {str(path.relative_to(CHECKOUT)) for path in files if path.suffix in SHIPPED}
    assert installed_in(wheel) == shipped | EXAMPLES | {"store/schema.sql"}


def test_the_command_and_both_licences_are_declared(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (about,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        assert "annotate = app.main:main" in archive.read(f"{about}/entry_points.txt").decode()
        metadata = archive.read(f"{about}/METADATA").decode()
    assert "License-Expression: MIT AND CC-BY-SA-4.0" in metadata
    assert {f"{about}/licenses/LICENSE", f"{about}/licenses/{MODEL}/README.md"} <= names_in(wheel)


def test_the_sdist_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sdist = built("sdist", CHECKOUT, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    again = built("wheel", source, tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert {i.filename: i.CRC for i in one.infolist()} == {i.filename: i.CRC for i in other.infolist()}
