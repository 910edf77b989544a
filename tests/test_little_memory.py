"""Too little memory: one sentence whose advice fits the command, exit status 2, and nothing is lost."""

import errno
import hashlib
import resource
import shutil
from pathlib import Path

import duckdb
import pytest

from annotate_transformer.app.cli.main import LESS, sentence_of
from annotate_transformer.ingest.errors import ModelError, SettingsError
from annotate_transformer.store.errors import BadQuestion, OutOfMemory
from annotate_transformer.store.restricted import RefusedQuery
from processes import Result, annotate

LINUX = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="RLIMIT_AS needs Linux")
MB = 2**20
SORTED = "FROM range(6000000) ORDER BY random()"


# command: its words, and one of its options that takes less
COMMANDS = {
    "verify": (("verify", "x.duckdb"), "--run"),
    "export": (("export", "out", "--db", "x.duckdb"), "parquet"),
    "neuron": (("neuron", "L1N2", "--db", "x.duckdb"), "--limit"),
    "head": (("head", "L1H0", "--db", "x.duckdb"), "--limit"),
    "phrase": (("phrase", "the cat", "--db", "x.duckdb"), "--limit"),
    "sql": (("sql", SORTED, "--output", "out.csv", "--db", "x.duckdb"), "WHERE"),
    "restricted": (("sql", "--restricted", "FROM runs", "--db", "x.duckdb"), "sk for less at once"),
    "expand": (("expand", "The cat", "--db", "x.duckdb"), "shorter prompt"),
    "weights": (("weights", "--fresh", "--db", "x.duckdb", "--model", "MODEL"), "--top"),
    "ingest": (("ingest", "SOURCE", "--db", "x.duckdb", "--model", "MODEL", "--top", 3), "--shard-tokens"),
}  # fmt: skip


LIMITS = [(command, megabytes) for command in COMMANDS for megabytes in (12, 60)]
LIMITS.remove(("restricted", 12))  # DuckDB may wait for ever for a thread that could not start


@pytest.mark.some(3)
@LINUX
@pytest.mark.parametrize(("command", "megabytes"), LIMITS)
def test_a_limit_on_memory(
    command: str, megabytes: int, made: Path, source: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """With some it works, with less it says so; the store is what it was, or what it was to become."""
    db = Path(shutil.copy(made, tmp_path))
    before, (words, advice) = digest(db), COMMANDS[command]
    meant = {"SOURCE": source, "MODEL": tiny_model}
    asked = [meant.get(str(word), word) for word in words]
    result = annotate(*asked, folder=tmp_path, limits={resource.RLIMIT_AS: megabytes * MB})
    if result.status == 0:
        return
    assert_told(result, advice)
    if command not in ("weights", "ingest"):
        assert digest(db) == before
    assert not [*tmp_path.glob("out*")]
    assert annotate("verify", db, folder=tmp_path).status == 0


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def assert_told(result: Result, advice: str) -> None:
    assert (result.status, "Traceback" in result.err) == (2, False), result
    last = result.err.strip().splitlines()[-1]
    assert last.startswith("annotate: ") and "memory" in last, last
    assert advice in last


def _from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


ERRORS: dict[str, Exception] = {
    "Python": MemoryError(),
    "DuckDB": duckdb.OutOfMemoryException("could not allocate block of size 256.0 KiB"),
    "the store": OutOfMemory("DuckDB found too little memory for x.duckdb."),
    "PyTorch": RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    "oneDNN": RuntimeError("could not create a primitive"),
    "a map": RuntimeError("unable to mmap 1024 bytes from file <m>: Cannot allocate memory (12)"),
    "the system": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "a thread": RuntimeError("can't start new thread"),
    "a library": ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    "C++": RuntimeError("std::bad_alloc"),
    "CUDA": RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    "a model": _from(ModelError("m cannot be loaded"), RuntimeError("can't allocate memory")),
    "a context": _from(BadQuestion("no"), MemoryError()),
}  # fmt: skip
OTHERS: dict[str, Exception] = {
    "has better advice": _from(SettingsError("It does not fit into memory: --context"), MemoryError()),
    "was refused": RefusedQuery("The query needed more than 512MB of memory and was stopped."),
    "quotes a person": _from(
        RefusedQuery('column "out of memory" is not there'), duckdb.BinderException("out of memory")
    ),
    "is none": BadQuestion("k is -1; it must be 0 or more."),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_whoever_says_so_the_advice_fits_the_command(name: str) -> None:
    told = {command: sentence_of(ERRORS[name], command, "SAFE") or "" for command in (*LESS, "neuron")}
    assert all("memory" in sentence and "SAFE" in sentence for sentence in told.values())
    assert len({*told.values()}) == len(told)
    assert [command for command, sentence in told.items() if "--shard-tokens" in sentence] == ["ingest"]


@pytest.mark.parametrize("name", OTHERS)
def test_other_errors_keep_their_sentence(name: str) -> None:
    assert sentence_of(OTHERS[name], "ingest", "SAFE") == str(OTHERS[name])


def test_a_fault_of_the_program_is_no_sentence() -> None:
    assert sentence_of(KeyError("x"), "ingest", "SAFE") is None
