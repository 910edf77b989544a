"""A store on a web server answers as the file does, and reads little of it."""

import os
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import duckdb
import pytest

from annotate_transformer import store
from processes import annotate
from tools.range_server import Served, served

pytest.importorskip("duckdb_extension_httpfs")


@pytest.fixture(scope="module")
def folder(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    shutil.copy(made, folder / "a store.duckdb")
    (folder / "text.txt").write_text("Not a database. " * 300)
    duckdb.connect(str(folder / "other.duckdb")).execute("CREATE TABLE t AS SELECT 1 AS a").close()
    shutil.copy(made, folder / "old.duckdb")
    duckdb.connect(str(folder / "old.duckdb")).execute("UPDATE base.version SET version = 12").close()
    return folder


@pytest.fixture
def web(folder: Path) -> Iterator[Served]:
    with served(folder) as found:
        yield found


def _of(web: Served, name: str = "a%20store.duckdb") -> str:
    return f"{web.address}/{name}"


def test_every_view_has_the_same_rows(web: Served, made: Path) -> None:
    with store.open(_of(web)) as far, store.open(made) as near:
        views = "SELECT view_name FROM duckdb_views() WHERE NOT internal AND schema_name = 'main'"
        for view in near.sql(views).view_name:
            rows = f"SELECT count(*), sum(hash(v)) FROM {view} v"
            assert far.sql(rows).equals(near.sql(rows)), view
        assert far.decomposition(5).equals(near.decomposition(5))
        assert far.neuron("L0N1").contexts().equals(near.neuron("L0N1").contexts())


def test_a_question_reads_a_part_of_the_file_and_nothing_twice(two_steps: Path) -> None:
    size = two_steps.stat().st_size
    with served(two_steps.parent) as web, store.open(_of(web, two_steps.name)) as s:
        s.position(5)
        read = sum(web.sent)
        assert read < size / 2
        s.position(5)
        assert sum(web.sent) == read


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("none.duckdb", store.NotAStore, "answers 404 (Not Found). Correct the address"),
        ("text.txt", store.NotAStore, "is not a store: it is a text file. Give the address"),
        ("other.duckdb", store.NotAStore, "is a DuckDB database, but not a store"),
        ("old.duckdb", store.OtherSchemaVersion, "has schema version 12"),
    ],
)
def test_another_file_is_named(web: Served, name: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error) as raised:
        store.open(_of(web, name))
    assert told in str(raised.value)
    assert _of(web, name) in str(raised.value)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/x.duckdb", "http://", "https://[bad"])
def test_no_answer_is_a_sentence(address: str) -> None:
    with pytest.raises(store.Unreachable, match="Check the address and the network, and ask again"):
        store.open(address)


def test_a_server_without_ranges_is_refused_before_the_file_is_sent(folder: Path) -> None:
    with served(folder, has_ranges=False) as web, pytest.raises(store.Unreachable, match="no range requests"):
        store.open(_of(web))
    assert len(web.sent) == 1


def test_a_refusal_is_told_and_the_next_question_is_answered(web: Served) -> None:
    with store.open(_of(web)) as s:
        web.status = 503
        with pytest.raises(store.Unreachable, match="503"):
            s.sql("SELECT max(hash(t)) FROM base.head t")
        web.status = None
        assert len(s.sql("SELECT max(hash(t)) FROM base.head t"))


def test_a_file_that_was_replaced_is_read_anew(web: Served, folder: Path) -> None:
    with store.open(_of(web)) as s:
        os.utime(folder / "a store.duckdb", ns=(1, 1))
        with pytest.raises(store.Unreachable, match="has changed on the server since it was opened"):
            s.sql("SELECT max(hash(t)) FROM base.head t")
        assert len(s.sql("SELECT max(hash(t)) FROM base.head t"))


def test_the_commands_read_it_and_refuse_to_write(web: Served, made: Path, tmp_path: Path) -> None:
    for command in (["runs"], ["position", 5], ["sql", "FROM runs", "--format", "csv"]):
        far, near = (annotate(*command, "--db", db, folder=tmp_path) for db in (_of(web), made))
        assert far.status == 0, far.err
        assert far.out.replace(_of(web), str(made)) == near.out
    for command in (
        ["verify", _of(web)],
        ["ablate", 5, "L0H0", "--db", _of(web)],
        ["sql", "--restricted", "FROM runs", "--db", _of(web)],
    ):
        found = annotate(*command, folder=tmp_path)
        assert found.status == 2
        assert "file on this machine" in found.err
        assert "Traceback" not in found.err


def test_the_extension_is_named_if_it_is_not_there(web: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("annotate_transformer.store.elsewhere.extensions.files", none)
    with pytest.raises(store.StoreError, match=r"pip install 'annotate-transformer\[http\]'"):
        store.open(_of(web))
