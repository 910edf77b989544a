"""A published store is the store, with a card that is true and checksums, and the hub gets all of it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from annotate_transformer import store
from annotate_transformer.store.database import connection
from hub import hub
from processes import annotate
from tools.range_server import served


@pytest.fixture
def db(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "x.duckdb"))


def _published(db: Path, tmp_path: Path, *options: object) -> Path:
    found = annotate("publish", tmp_path / "out", "--db", db, *options, folder=tmp_path)
    assert found.status == 0, found.err
    return tmp_path / "out"


def test_the_folder_has_the_store_a_card_and_true_checksums(db: Path, tmp_path: Path) -> None:
    folder = _published(db, tmp_path, "--title", 'Small "texts"', "--license", "cc-by-4.0")
    assert (folder / "store.duckdb").read_bytes() == db.read_bytes()
    sums = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert {*sums, "SHA256SUMS"} == {*os.listdir(folder)}
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    card = (folder / "README.md").read_text()
    head = dict(line.split(": ", 1) for line in card.split("---\n")[1].splitlines())
    assert json.loads(head["pretty_name"]) == 'Small "texts"'
    assert json.loads(head["license"]) == "cc-by-4.0"
    with store.open(db) as s:
        run = s.runs().iloc[0]
        views = s.sql("SELECT view_name FROM duckdb_views() WHERE NOT internal AND schema_name = 'main'")
    row = f"| 1 | tiny |  | small.jsonl | {run.tokens:,} | finished | {run.worst_closure:.1e} |"
    assert row.replace(" ", "") in card.replace(" ", "").replace("None", "").replace("nan", "")
    assert all(f"- `{view}`: " in card for view in views.view_name)
    assert str(tmp_path) not in card


def test_what_is_wrong_is_told_and_nothing_is_made(db: Path, tmp_path: Path) -> None:
    with connection(db, read_only=False) as con:
        con.execute("UPDATE base.contribution SET attn_next = attn_next + 8388608 WHERE position_id = 3")
    (tmp_path / "there").mkdir()
    (tmp_path / "there/x").touch()
    for folder, options, told in (
        ("out", ["--db", db], f"{db} is not sound"),
        ("there", ["--db", db], "exists already"),
        ("out", ["--db", tmp_path / "none.duckdb"], "There is no store at"),
        ("out", ["--db", "http://127.0.0.1:1/x.duckdb"], "needs a file on this machine"),
    ):
        found = annotate("publish", tmp_path / folder, *options, folder=tmp_path)
        assert found.status == 2
        assert told in found.err
    assert not (tmp_path / "out").exists()
    assert not [*tmp_path.glob("*.part")]


def _uploading(db: Path, tmp_path: Path, address: str, token: str) -> "subprocess.CompletedProcess[str]":
    command = ["publish", tmp_path / "out", "--db", db, "--upload", "someone/texts"]
    environment = {
        **os.environ, "HF_ENDPOINT": address, "HF_TOKEN": token, "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "annotate_transformer.app.cli", *map(str, command)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_hub_gets_the_folder_and_the_store_is_read_there(db: Path, tmp_path: Path) -> None:
    folder, taken = tmp_path / "out", tmp_path / "taken"
    taken.mkdir()
    with hub(taken, token="hf_right") as address:
        told = _uploading(db, tmp_path, address, "hf_right")
        assert told.returncode == 0, told.stderr
        assert f"Uploaded: {address}/datasets/someone/texts" in told.stdout
    assert f"{address}/datasets/someone/texts/resolve/main/store.duckdb" in (folder / "README.md").read_text()
    for file in folder.iterdir():
        assert (taken / file.name).read_bytes() == file.read_bytes()
    pytest.importorskip("duckdb_extension_httpfs")
    with served(taken) as web, store.open(f"{web.address}/store.duckdb") as far, store.open(db) as near:
        assert far.runs().equals(near.runs())


def test_what_the_hub_refuses_is_told_and_the_folder_stays(db: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    with hub(taken, token="hf_right") as address:
        told = _uploading(db, tmp_path, address, "hf_wrong")
    assert told.returncode == 2
    assert "the hub has not taken it" in told.stderr
    assert "Traceback" not in told.stderr
    assert "hf_wrong" not in told.stderr
    assert (tmp_path / "out/store.duckdb").exists()
    assert not [*taken.iterdir()]
