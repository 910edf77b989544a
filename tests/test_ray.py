"""Parts of a run on a Ray cluster: the run that one process makes, whatever happens to the workers."""

import fcntl
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from annotate_transformer.app.cli.jobs.worker import Busy, Claim
from answers import table_differences
from disks import mounted
from processes import Result, Running, annotate, start, start_function, until
from small import SETTINGS, committed, corpus, until_committed

ray = pytest.mark.skipif(
    not (Path(sys.prefix) / "bin" / "ray").exists(), reason="Ray is not installed: pip install 'ray'"
)
ON_TWO = ("--ray", "local", "--cpus-per-part", 0.5, "--jobs", 2)
LOCALLY = ("--jobs", 2)
SLOW = 400.0  # seconds that a command with Ray may take where other processes share the cores


@dataclass(frozen=True)
class Run:
    """A run, and the store that one process makes of it."""

    words: tuple[object, ...]
    whole: Path

    def command(self, *options: object) -> tuple[object, ...]:
        return (*self.words, "--db", "x.duckdb", *options)

    def assert_made_in(self, folder: Path) -> None:
        assert table_differences(self.whole, folder / "x.duckdb") == {}


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Its third document spans two parts."""
    folder = tmp_path_factory.mktemp("whole")
    text = corpus(folder / "small.jsonl", (9, 1, 70, 2, 5))
    made = Run(("ingest", text, "--model", tiny_model, *SETTINGS), folder / "x.duckdb")
    result = annotate(*made.command(), folder=folder)
    assert result.status == 0, result.err
    return made


def of_parts(running: Running) -> dict[int, psutil.Process]:
    """The processes below another one that annotate parts, by the part's number."""
    found = dict[int, psutil.Process]()
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(running.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                words = process.cmdline()
                if "--part" in words:
                    found[int(words[words.index("--part") + 1].partition("/")[0])] = process
    return found


def is_gone(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


@ray
def test_a_worker_killed_in_the_middle_of_a_part(run: Run, tmp_path: Path) -> None:
    """Its process dies with it, and the part is resumed by another worker."""
    running = start(*run.command("--parts", 2, *ON_TWO), folder=tmp_path)
    until_committed(tmp_path / "x.duckdb.parts" / "part-1.duckdb", 1, lambda: not running.alive)
    child = of_parts(running)[1]
    worker = child.parent()
    assert worker and worker.name().startswith("ray::"), worker
    worker.kill()
    until(lambda: is_gone(child))
    result = running.wait(SLOW)
    assert (result.status, "Traceback" in result.err) == (0, False), result.err
    assert "part 1 of 2 ended with status -9 and is started again" in result.err
    assert re.fullmatch(r"Run 1: [\d,]+ tokens in 2 parts merged, [\d.]+ MB in x\.duckdb\.\n", result.out)
    run.assert_made_in(tmp_path)
    assert not (tmp_path / "x.duckdb.parts").exists()


@ray
@pytest.mark.soak
def test_ctrl_c_lets_every_part_finish_its_shard(run: Run, tmp_path: Path) -> None:
    command = run.command("--parts", 3, *ON_TWO)
    running = start(*command, folder=tmp_path)
    until_committed(tmp_path / "x.duckdb.parts" / "part-1.duckdb", 1, lambda: not running.alive)
    mine = psutil.Process(running.process.pid).children(recursive=True)
    running.send(signal.SIGINT)
    result = running.wait(SLOW)
    assert (result.status, "Traceback" in result.err) == (130, False), result.err
    assert result.out == "Stopped as asked; the same command resumes from here.\n"
    until(lambda: all(map(is_gone, mine)))
    result = start(*command, folder=tmp_path).wait(SLOW)
    assert result.status == 0, result.err
    run.assert_made_in(tmp_path)


# Bad input


def refused(result: Result) -> str:
    """Return the sentence with which a command ends; nothing else is printed."""
    assert (result.status, "Traceback" in result.err, result.out) == (2, False, ""), result
    return re.sub(r"[\s│]+", " ", result.err)


@ray
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ray", "local"), "--ray needs --parts N"),
        (("--parts", 2, "--gpus-per-part", 1), "--gpus-per-part belong to --ray"),
        (("--parts", 2, "--ray", "local", "--gpus-per-part", 1.5), "1.5 must be 0, a fraction of 1"),
        (("--parts", 2, "--ray", "local", "--cpus-per-part", 0), "0 must be a number above 0"),
        (("--parts", 2, "--ray", "local", "--device", "cuda"), "--device cuda needs --gpus-per-part"),
        (("--parts", 2, "--ray", "nowhere"), "There is no Ray cluster at nowhere"),
        (("--parts", 2, "--ray", "127.0.0.1:1"), "at 127.0.0.1:1 that this machine can join: Connection ref"),
        (("--parts", 2, "--ray", "ray://127.0.0.1:1"), "There is no Ray cluster at ray://127.0.0.1:1 that"),
    ],
)
def test_what_ray_cannot_do_is_refused(
    options: tuple[object, ...], words: str, run: Run, tmp_path: Path
) -> None:
    assert words in refused(annotate(*run.command(*options), folder=tmp_path))
    assert not (tmp_path / "x.duckdb").exists()


@ray
@pytest.mark.soak
def test_an_address_that_only_listens(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        told = refused(annotate(*run.command("--parts", 2, "--ray", address), folder=tmp_path))
    assert "it did not answer in 20 s" in told


@pytest.fixture
def other_machine(tmp_path: Path) -> Iterator[str]:
    """The address of a cluster that has another version of a library and does not see the folder `hidden`."""
    folder = tmp_path / "of ray"
    for name in ("other/tokenizers-0.0.1.dist-info", "hidden"):
        (folder / name).mkdir(parents=True)
    about = "Metadata-Version: 2.1\nName: tokenizers\nVersion: 0.0.1\n"
    (folder / "other" / "tokenizers-0.0.1.dist-info" / "METADATA").write_text(about)
    with cluster(folder, _machine_of_its_own) as (address, _):
        yield address


@contextmanager
def cluster(folder: Path, function: Callable[[str, int], None]) -> Iterator[tuple[str, Running]]:
    """A cluster of one machine, by its address and its first process; the function starts it, in a child."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    running = start_function(function, str(folder), port, folder=folder)
    try:
        until(lambda: "--block" in running.printed() or not running.alive)
        assert running.alive, running.said()
        yield f"127.0.0.1:{port}", running
    finally:
        for process in [*psutil.Process(running.process.pid).children(recursive=True), running.process]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        running.wait()


def _machine_of_its_own(folder: str, port: int) -> None:
    if not mounted(f"{folder}/hidden", 2**20):
        print("no disk of its own", file=sys.stderr, flush=True)
    os.environ["PYTHONPATH"] = f"{folder}/other"
    _cluster(folder, port)


def _cluster(folder: str, port: int) -> None:
    # Without RAY_AUTH_MODE it depends on whether there is a token in the home folder
    os.environ |= {"RAY_raylet_start_wait_time_s": "240", "RAY_AUTH_MODE": "disabled"}
    options = f"--head --block --port={port} --num-cpus=1 --include-dashboard=false --disable-usage-stats"
    script = str(Path(sys.prefix) / "bin" / "ray")
    os.execv(script, [script, "start", *options.split(), f"--object-store-memory={80 * 2**20}"])


@ray
def test_a_machine_that_is_not_like_this_one(other_machine: str, run: Run, tmp_path: Path) -> None:
    options = ("--parts", 2, "--ray", other_machine)
    told = refused(start(*run.command(*options), folder=tmp_path).wait(SLOW))
    assert re.search(r"the machine \S+ has other versions: tokenizers is [\d.]+ here and 0\.0\.1 there", told)
    assert not (tmp_path / "x.duckdb").exists()
    told = refused(annotate(*run.command(*options, "--gpus-per-part", 1), folder=tmp_path))
    assert "No machine of the Ray cluster has the CPUs and GPUs of a part (1 and 1): they have 1 CPUs" in told
    hidden = tmp_path / "of ray" / "hidden"
    if "no disk of its own" in "".join(file.read_text() for file in hidden.parent.glob("process-*.err")):
        pytest.skip("this system gives a process no disk of its own")
    told = refused(annotate(*run.words, *options, "--db", hidden / "x.duckdb", folder=tmp_path))
    assert f"does not see the folder {hidden}/x.duckdb.parts" in told


@ray
@pytest.mark.soak
def test_a_killed_command_leaves_no_process_on_its_cluster(run: Run, tmp_path: Path) -> None:
    """The cluster stays, and runs the same command again."""
    (folder := tmp_path / "of ray").mkdir()
    with cluster(folder, _cluster) as (address, machine):
        command = run.command("--parts", 2, "--ray", address, "--cpus-per-part", 0.5)
        running = start(*command, folder=tmp_path)
        until_committed(tmp_path / "x.duckdb.parts" / "part-1.duckdb", 1, lambda: not running.alive)
        there = [*of_parts(machine).values()]
        running.send(signal.SIGKILL)
        assert running.wait().status == -signal.SIGKILL
        assert there
        until(lambda: all(map(is_gone, there)))
        result = start(*command, folder=tmp_path).wait(SLOW)
        assert result.status == 0, result.err
    run.assert_made_in(tmp_path)


def test_without_ray_a_sentence_says_how_to_install_it(run: Run, tmp_path: Path) -> None:
    running = start_function(_without_ray, [str(word) for word in run.command()], folder=tmp_path)
    assert "pip install 'annotate-transformer[ray]'" in refused(running.wait())


def _without_ray(words: list[str]) -> None:
    from processes import run_command

    sys.modules["ray"] = None  # type: ignore[assignment]
    run_command([*words, "--parts", "2", "--ray", "local"])


# One writer at a time


def test_a_part_is_not_written_while_its_last_process_lives(tmp_path: Path) -> None:
    """The worker that had the claim is gone already."""
    claim = tmp_path / "part-1.claim"
    with Claim.taken(claim) as mine:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[mine.file])
    with pytest.raises(Busy, match="another process is annotating it"), Claim.taken(claim, wait=0.3):
        pass
    child.kill()
    child.wait()
    with Claim.taken(claim, wait=0.3):
        pass


def test_on_storage_without_locks_another_machine_waits_until_nothing_is_heard(tmp_path: Path) -> None:
    claim = tmp_path / "part-1.claim"
    with Claim.taken(claim, kernel="another") as theirs:
        fcntl.flock(theirs.file, fcntl.LOCK_UN)
        lives = threading.Event()

        def renewing() -> None:
            while not lives.wait(0.05):
                theirs.next = 0
                assert theirs.renew()

        thread = threading.Thread(target=renewing)
        thread.start()
        with pytest.raises(Busy, match="another process on "), Claim.taken(claim, wait=1, stale=0.5):
            pass
        lives.set()
        thread.join()
        began = time.monotonic()
        with Claim.taken(claim, wait=5, stale=0.5) as mine:
            assert time.monotonic() - began >= 0.5
            theirs.next = 0
            assert not theirs.renew() and mine.is_mine()
    with Claim.taken(claim, wait=0.3, kernel="a third"):  # was given back
        pass


# Killed at any moment


@pytest.mark.soak
@pytest.mark.parametrize(
    "way", [pytest.param(ON_TWO, marks=ray, id="ray"), pytest.param(LOCALLY, id="local")]
)
def test_twenty_five_kills_of_workers_processes_and_merges(
    way: tuple[object, ...], run: Run, tmp_path: Path
) -> None:
    seed = int(os.environ.get("ANNOTATE_SEED") or time.time())
    print(f"ANNOTATE_SEED={seed}")
    draw, kills, finished = random.Random(seed), 0, 0
    command = run.command("--parts", 4, *way)
    while kills < 25:
        running = start(*command, folder=tmp_path)
        while running.alive and kills < 25:
            kills += _killed_one(running, draw)
        finished += _is_sound(running.wait(SLOW), run, tmp_path)
    result = start(*command, folder=tmp_path).wait(SLOW)
    assert result.status == 0, result.err
    run.assert_made_in(tmp_path)
    print(f"{kills} kills, and {finished} finished runs meanwhile")


def _killed_one(running: Running, draw: random.Random) -> bool:
    """Wait a moment, which is short while the parts are merged, and kill something of the command."""
    deadline = time.monotonic() + draw.uniform(0, 15)
    until(lambda: time.monotonic() > deadline or "merging" in running.said() or not running.alive)
    if "merging" in running.said():
        time.sleep(draw.uniform(0, 0.3))
        running.send(signal.SIGKILL)
        return True
    victims = [psutil.Process(running.process.pid)] if draw.random() < 0.2 and running.alive else []
    for child in of_parts(running).values():
        with suppress(psutil.NoSuchProcess):
            victims += [child, *([parent] if (parent := child.parent()) else [])]
    victims = [
        victim for victim in victims if victim.pid not in (running.process.pid, os.getpid())
    ] or victims
    if not victims:
        return False
    with suppress(psutil.NoSuchProcess):
        draw.choice(victims).kill()
    return True


def _is_sound(result: Result, run: Run, folder: Path) -> bool:
    """Whether a command has finished the run, which is then compared and removed."""
    assert result.status in (0, 2, -signal.SIGKILL) and "Traceback" not in result.err, result.err
    if result.status:
        return False
    run.assert_made_in(folder)
    for file in folder.glob("x.duckdb*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    return True


# A full disk


@pytest.mark.soak
def test_a_full_disk_of_one_part_and_complete_parts_that_start_no_process(run: Run, tmp_path: Path) -> None:
    command = run.command("--parts", 3)
    words = [str(word) for word in command]
    result = start_function(_second_part_on_small_disk, str(tmp_path), words, folder=tmp_path).wait()
    if "no disk of its own" in result.err:
        pytest.skip("this system gives a process no disk of its own")
    told, folder = refused(result), tmp_path / "x.duckdb.parts"
    assert "Part 2 of 3 has failed: " in told and "disk" in told and "the same command resumes" in told
    before = (folder / "part-1.log").stat().st_mtime_ns
    assert committed(folder / "part-1.duckdb") >= 2
    running = start(*command, folder=tmp_path)
    until(lambda: (folder / "part-3.log").exists() or not running.alive)
    assert running.alive and (folder / "part-1.log").stat().st_mtime_ns == before
    assert running.wait(SLOW).status == 0
    run.assert_made_in(tmp_path)


def _second_part_on_small_disk(folder: str, words: list[str]) -> None:
    from processes import run_command

    disk, parts = Path(folder) / "disk", Path(folder) / "x.duckdb.parts"
    disk.mkdir()
    if not mounted(str(disk), 2**20):
        sys.exit("no disk of its own")
    parts.mkdir()
    (parts / "part-2.duckdb").symlink_to(disk / "part-2.duckdb")
    try:
        run_command(words)
    finally:
        (parts / "part-2.duckdb").unlink()
        for file in disk.glob("part-2.duckdb*"):
            shutil.copy(file, parts)


# The share of a machine that a part gets


def test_a_gpu_that_feeds_several_parts() -> None:
    from annotate_transformer.app.cli.jobs.ray_tasks import OnRay

    machines = [{"CPU": 64.0, "GPU": 8.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 4.0}]
    cases: list[tuple[float, float | None, int | None, float]] = [
        (1, None, None, 8), (0.5, None, None, 4), (0.25, 2.5, None, 2.5), (0, None, None, 4),
        (0, None, 6, 2), (4, None, None, 32),
    ]  # fmt: skip
    for gpus, cpus, jobs, expected in cases:
        assert OnRay("auto", jobs, cpus, gpus).cpus_of(machines, 16) == expected
    assert OnRay("auto", 8, None, 0).cpus_of([{"CPU": 4.0}], 16) == 0.5
    assert [OnRay("auto", None, None, gpus).device("auto") for gpus in (0, 0.5)] == ["cpu", "cuda"]
