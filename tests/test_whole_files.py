"""Files and folders that a command writes for a person have their names once they are whole."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest

from annotate_transformer.store.whole import whole
from disks import mounted
from processes import Result, annotate, start, start_function, until

ENDLESS = "SELECT count(*) FROM range(100000000000) a, range(1000000) b"
EXPORTS = {format: ("export", "out", "--format", format) for format in ("parquet", "csv", "jsonl")}
FILES = {
    f"sql {ending}": ("sql", "FROM base.position", "--output", f"out.{ending}")
    for ending in ("csv", "json", "jsonl", "parquet", "md", "txt")
}
COMMANDS = EXPORTS | FILES
MORE = "SELECT random() AS x FROM range(20000)"


@pytest.fixture
def endless(made: Path, tmp_path: Path) -> Path:
    """The store, but that its positions are never all read."""
    db = Path(shutil.copy(made, tmp_path))
    with duckdb.connect(str(db)) as con:
        con.execute("CREATE TABLE base.real AS FROM base.position")
        con.execute("DROP TABLE base.position")
        con.execute(f"CREATE VIEW base.position AS SELECT r.* FROM base.real r, ({ENDLESS})")
    return db


def left(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("out*")}


def assert_refused(result: Result, *words: str) -> None:
    assert (result.status, "Traceback" in result.err) == (2, False), result
    lines = result.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("annotate: "), lines
    for word in words:
        assert word in lines[0], f"{word!r} is not in {lines[0]!r}"


@pytest.mark.some(2)
@pytest.mark.parametrize("command", ["parquet", "csv", "jsonl", "sql csv", "sql parquet"])
def test_a_killed_command_leaves_nothing_under_the_name(command: str, endless: Path) -> None:
    folder, words = endless.parent, (*COMMANDS[command], "--db", "x.duckdb")
    running = start(*words, folder=folder)
    until(lambda: left(folder) or not running.alive)
    running.send(signal.SIGKILL)
    assert running.wait().status == -signal.SIGKILL
    [part] = left(folder)
    assert part.endswith(".part")
    shutil.rmtree(folder / "x.duckdb.tmp", ignore_errors=True)
    again = ("sql", "SELECT 1", *words[2:]) if words[0] == "sql" else None
    if again is None:  # the next start of it removes what was left, before it is stopped itself
        running = start(*words, folder=folder)
        until(lambda: left(folder) - {part} or not running.alive)
        running.send(signal.SIGINT)
        assert running.wait().status == 130
        assert left(folder) == set()
        return
    assert annotate(*again, folder=folder).status == 0
    assert left(folder) == {words[3]}


@pytest.mark.some(3)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_may_not_grow(command: str, made: Path, tmp_path: Path) -> None:
    """As on a full disk: nothing is left, and the sentence is about that disk, not the store's."""
    words, size = [*COMMANDS[command]], 2000
    if words[0] == "sql":
        words, size = [*words, "--limit", 20_000], 100_000
        words[1] = MORE
    result = annotate(*words, "--db", made, folder=tmp_path, limits={resource.RLIMIT_FSIZE: size})
    assert_refused(result, "out", "store is as it was" if command.startswith("sql") else "store is unchanged")
    assert str(made) not in result.err
    assert left(tmp_path) == set()


def test_a_full_disk_of_the_export(made: Path, tmp_path: Path) -> None:
    """A disk of its own, mounted for this process alone, with the store on another one."""
    result = start_function(_on_small_disk, str(tmp_path), str(made), folder=tmp_path).wait()
    if "no disk of its own" in result.err:
        pytest.skip("this system gives a process no disk of its own")
    assert_refused(
        result, str(tmp_path / "disk" / "out"), "disk", "full", "another disk", "store is unchanged"
    )
    assert result.out == "[]"


def _on_small_disk(folder: str, db: str) -> None:
    from processes import run_command

    disk = Path(folder) / "disk"
    disk.mkdir()
    if not mounted(str(disk), 16_384):
        sys.exit("no disk of its own")
    try:
        run_command(["export", str(disk / "out"), "--db", db])
    finally:
        print([file.name for file in disk.iterdir()], end="", flush=True)


@pytest.mark.parametrize("to", ["/dev/full", "a full terminal"])
def test_standard_output_on_a_full_disk(to: str, made: Path, tmp_path: Path) -> None:
    words = ("runs", "--json") if to == "/dev/full" else ("sql", "FROM range(100000)", "--format", "csv")
    result = start_function(_into_full, str(made), *words, folder=tmp_path).wait()
    assert_refused(result, "No space left on device", "store")


def _into_full(db: str, *words: str) -> None:
    from processes import run_command

    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    run_command([*words, "--db", db])


# Targets of every kind


def _file(path: Path) -> None:
    path.write_text("mine")


def _full_folder(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("mine")


def _link(to: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        (path.parent / "elsewhere").mkdir()
        path.symlink_to(path.parent / "elsewhere" / to if to else path)

    return make


def test_an_export_takes_no_name_that_is_taken(made: Path, tmp_path: Path) -> None:
    for name, make in {"file": _file, "folder": _full_folder}.items():
        make(tmp_path / f"out-{name}")
        result = annotate("export", f"out-{name}", "--db", made, folder=tmp_path)
        assert_refused(result, f"out-{name}", "exists already")
    assert (tmp_path / "out-file").read_text() == "mine"
    assert left(tmp_path) == {"out-file", "out-folder"}


@pytest.mark.some(3)
@pytest.mark.parametrize("target", ["nothing", "empty", "link", "dangling", "deep"])
def test_an_export_into_a_new_folder(target: str, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    makers: dict[str, Callable[[Path], object]] = {
        "empty": Path.mkdir, "link": _link("."), "dangling": _link("not-there"),
    }  # fmt: skip
    makers.get(target, lambda _: None)(out)
    out = out / "a" / "b" if target == "deep" else out
    result = annotate("export", out, "--db", made, "--format", "store", folder=tmp_path)
    assert result.status == 0, result.err
    assert out.is_symlink() == (target in ("link", "dangling"))
    with duckdb.connect() as con:
        con.execute(f"IMPORT DATABASE '{out}'")
        assert con.execute("SELECT count(*) > 0 FROM positions").fetchall() == [(True,)]
    assert not [*tmp_path.glob("**/*.part")]
    umask = os.umask(0)
    os.umask(umask)
    assert out.stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.some(3)
@pytest.mark.parametrize("target", ["file", "link", "dangling", "loop", "read-only", "folder"])
def test_a_file_for_an_answer(target: str, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    makers: dict[str, Callable[[Path], object]] = {
        "file": _file, "link": _link("there.csv"), "dangling": _link("not-there.csv"), "loop": _link(""),
        "read-only": lambda path: path.touch(mode=0o400), "folder": Path.mkdir,
    }  # fmt: skip
    makers[target](out)
    with suppress(FileNotFoundError):
        (tmp_path / "elsewhere").exists() and (tmp_path / "elsewhere" / "there.csv").write_text("old")
    result = annotate("sql", "SELECT 1 AS x", "--output", "out.csv", "--db", made, folder=tmp_path)
    if target == "folder" or (target == "read-only" and os.geteuid()):
        assert_refused(result, "out.csv", "cannot be written")
    else:
        assert result.status == 0, result.err
        assert out.read_text() == '"x"\n1\n'
        assert out.is_symlink() == (target in ("link", "dangling"))
    assert not [*tmp_path.glob("**/*.part")]


@pytest.mark.parametrize("command", ["parquet", "sql csv"])
def test_a_folder_that_may_not_be_written(command: str, made: Path, tmp_path: Path) -> None:
    words = [f"/proc/{word}" if word.startswith("out") else word for word in COMMANDS[command]]
    assert_refused(annotate(*words, "--db", made, folder=tmp_path), "/proc/out")


# whole() itself


def test_only_what_nobody_writes_is_removed(tmp_path: Path) -> None:
    """Two at once each write their own; what a killed one left goes; other files stay."""
    target = tmp_path / "a.txt"
    others = [tmp_path / name for name in ("a.txt.part", "a.txt.mine.part", "b.txt.0123abcd.part")]
    for file in (*others, tmp_path / "a.txt.0123abcd.part"):
        file.write_text("x")
    with whole(target) as one, whole(target) as two:
        one.write_text("one")
        two.write_text("two")
        assert one != two and one.exists() and not target.exists()
    assert target.read_text() == "one"
    assert {*tmp_path.iterdir()} == {target, *others}


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail() -> None:
        with whole(target) as part:
            part.write_text("ne")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert target.read_text() == "old"
    assert [*tmp_path.iterdir()] == [target]


def test_names_as_long_as_they_may_be(tmp_path: Path) -> None:
    for name in ("n" * 255, "é" * 127):
        with whole(tmp_path / name) as part:
            part.write_text("x")
        assert (tmp_path / name).read_text() == "x"


def test_the_readme_is_written_whole(tmp_path: Path) -> None:
    """A process killed while it writes leaves the old text."""
    target = tmp_path / "README.md"
    target.write_text("old")
    program = (
        "import sys, time; from pathlib import Path; from store.whole import whole\n"
        "with whole(Path(sys.argv[1])) as part: part.write_text('ne'); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(target)])
    until(lambda: any(part.read_text() for part in tmp_path.glob("*.part")))
    process.kill()
    process.wait()
    assert target.read_text() == "old"
