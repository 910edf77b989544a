"""`annotate doctor` says what is wrong and what to do, also where a library is missing."""

import json
import lzma
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from annotate_transformer.app.cli import doctor
from annotate_transformer.ingest.models import names
from asking import Asking

CHECKOUT = Path(__file__).parent.parent
RUN = """
import sys
for name in sys.argv[1].split():
    sys.modules[name] = None  # Python then says that the module is not there
sys.argv = ["annotate", "doctor", *sys.argv[2:]]
from annotate_transformer.app.cli.main import main
main()
"""


def found(ask: Asking, *words: object) -> dict[str, tuple[str, str]]:
    """Return the verdict and the sentence of each line, by its name; the exit status must fit them."""
    said = ask("doctor", "--json", *words)
    assert said.err == ""
    answer = json.loads(said.out)
    lines = {line["name"]: (line["verdict"], line["says"]) for line in answer["checks"]}
    assert answer["broken"] == sum(verdict == "broken" for verdict, _ in lines.values())
    assert said.status == (1 if answer["broken"] else 0)
    return lines


def of(lines: dict[str, tuple[str, str]], name: str) -> tuple[str, str]:
    """Return the only line whose name begins so."""
    [line] = [line for full, line in lines.items() if full.startswith(name)]
    return line


def test_nothing_is_broken_here(ask: Asking) -> None:
    lines = found(ask)
    assert {verdict for verdict, _ in lines.values()} <= {"ok", "note"}
    assert all(says.endswith(".") for _, says in lines.values())
    declared = re.search(
        r"^dependencies = \[\n(.*?)^\]", (CHECKOUT / "pyproject.toml").read_text(), re.M | re.S
    )
    assert declared and {*re.findall(r'"([\w-]+)', declared[1])} <= lines.keys()
    assert {f"extra {name}" for name in doctor.EXTRAS} <= lines.keys()
    assert of(lines, "store ")[1].startswith("schema version ")
    assert of(lines, "run 1") == ("ok", "finished, 4,000 tokens of neox-2m.")
    assert re.match(r"\d\d quick checks pass\.", of(lines, "rows")[1])
    shown = ask("doctor")
    assert shown.status == 0 and shown.out.endswith("Nothing is broken.\n")
    assert all(f"{verdict:<7} {name}: {says}" in shown.out for name, (verdict, says) in lines.items())


def run(missing: str, *words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `annotate doctor` in a process of its own in which modules are missing."""
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    command = [sys.executable, "-c", RUN, missing, *words]
    # In `path`: a checkout in which a wheel was built has metadata of the package, which would come first.
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=path)


@pytest.mark.parametrize(
    ("missing", "others"),
    [
        ("duckdb", ["DuckDB's extensions"]),
        ("torch", ["GPU", "threads"]),
        ("numpy pandas pyarrow numba safetensors packaging filelock", ["numba's cache", "embedded model"]),
    ],
)
def test_a_missing_library_is_a_line(missing: str, others: list[str]) -> None:
    ran = run(missing)
    assert (ran.returncode, "Traceback" in ran.stderr) == (1, False), ran.stderr
    for name in [*missing.split(), *others]:
        if name != "packaging":  # no library of ours
            [line] = [line for line in ran.stdout.splitlines() if re.match(rf"\w+ +{name}: ", line)]
            assert line.startswith("broken ")
            assert "cannot be imported" in line or "cannot be checked (" in line, line
    assert re.search(r"^ok +Python: ", ran.stdout, re.M) and re.search(r"^ok +rich: ", ran.stdout, re.M)
    assert re.search(r"^\d+ broken\.$", ran.stdout, re.M)


def test_versions_are_compared_with_the_declared_ones(tmp_path: Path) -> None:
    """The metadata of another release come first on the path."""
    other = tmp_path / "annotate_transformer-9.dist-info"
    other.mkdir()
    wanted = ("no-such-library>=1", "duckdb<1", "rich", 'no-such-extra>=2; extra == "figures"')
    lines = ["Metadata-Version: 2.4", "Name: annotate-transformer", "Version: 9"]
    lines += [f"Requires-Dist: {requirement}" for requirement in wanted]
    (other / "METADATA").write_text("\n".join(lines))
    ran = run("", path=tmp_path)
    assert ran.returncode == 1
    assert "broken  no-such-library: it is not installed. `pip install 'no-such-library>=1'`" in ran.stdout
    assert re.search(
        r"^note +duckdb: 1\.\S+, which was not tested\. `pip install 'duckdb<1'`", ran.stdout, re.M
    )
    assert re.search(r"^ok +rich: ", ran.stdout, re.M)
    assert (
        "note    extra figures: no-such-extra is not installed, which `annotate patch --figure`" in ran.stdout
    )


def test_a_store_with_a_missing_row_and_an_unfinished_run(
    two_steps: Path, tmp_path: Path, ask: Asking
) -> None:
    ask.db = shutil.copy(two_steps, tmp_path / "wrong.duckdb")
    with duckdb.connect(str(ask.db)) as con:
        con.execute(
            "DELETE FROM base.position WHERE position_id = (SELECT min(position_id) FROM base.position)"
        )
        con.execute("UPDATE base.run SET status = 'running' WHERE run_id = 2")
    lines = found(ask)
    verdict, says = of(lines, "rows")
    assert (verdict, "run 1, " in says) == ("broken", True)
    assert says.endswith(f"`annotate verify {ask.db}` shows all that is wrong.")
    assert (
        of(lines, "run 2")[0] == "note" and "The same `annotate ingest` resumes it" in of(lines, "run 2")[1]
    )


def test_what_is_no_store_of_this_version(tmp_path: Path, ask: Asking) -> None:
    ask.db = tmp_path / "none.duckdb"
    assert of(found(ask), "store")[1].startswith(f"There is no store at {ask.db}.")
    ask.db = tmp_path / "old.duckdb"
    ask.db.write_bytes(lzma.decompress((CHECKOUT / "tests" / "stores" / "14.duckdb.xz").read_bytes()))
    verdict, says = of(found(ask), "store")
    assert verdict == "broken" and f"`annotate upgrade {ask.db}` converts it" in says


def test_what_the_machine_lacks(ask: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = shutil.copytree(names.EMBEDDED, tmp_path / "embedded")
    (embedded / "neox-2m" / "step512" / "model.safetensors").write_bytes(b"cut")
    monkeypatch.setattr(names, "EMBEDDED", embedded)
    monkeypatch.setattr(doctor, "LEAST_FREE", 1e30)
    lines = found(ask)
    verdict, says = of(lines, "embedded model")
    assert verdict == "broken" and "cannot be read" in says and "`pip install --force-reinstall" in says
    assert {verdict for name, (verdict, _) in lines.items() if name.startswith("free disk")} == {"broken"}


def test_a_wrong_file_of_defaults_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".annotate.toml").write_text("x = 1")
    told: list[Any] = [line for line in doctor.lines(None) if line.name == "store"]
    assert [(line.verdict, "has the key 'x'" in line.says) for line in told] == [("broken", True)]
