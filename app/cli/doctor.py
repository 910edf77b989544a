"""The command `annotate doctor`: what is installed, what works, and whether a store is in order.

It must work where a library is missing or broken. So this module imports none, and neither does what is
imported before it; each check imports what it looks at, and a check that fails is a line like any other.
"""

import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from annotate_transformer.app.cli.defaults import FILE, VARIABLE, named_in_file
from annotate_transformer.app.present.console import Console, harmless

commands = typer.Typer(rich_markup_mode=None)

PACKAGE = "annotate-transformer"
OK, NOTE, BROKEN = "ok", "note", "broken"
MODULES = {"pillow": "PIL", "scikit-learn": "sklearn"}  # library → its module, if the names differ
# EXTRAS: the optional sets of libraries that a user may install, and the features that need them
EXTRAS = {
    "explain": "`annotate explain --llm`",
    "figures": "`annotate patch --figure`",
    "gguf": "`--model FILE.gguf`",
    "mcp": "`annotate mcp`",
    "smollm2": "`--model smollm2-135m`",
}
EXTENSIONS = ("icu", "json", "parquet")  # DuckDB's extensions that a store needs; never downloaded
LEAST_FREE = 1e9  # bytes of free disk below which to warn; an ingest may need more


class Line(NamedTuple):
    """The result of one check: a verdict, and a sentence that says what it means and what to do."""

    name: str
    verdict: str
    says: str


@commands.command(epilog="Example: annotate doctor --db demo.duckdb")
def doctor(
    file: Annotated[
        Path | None,
        typer.Option("--db", help=f"Also check this store [default: db in {FILE}].", envvar=VARIABLE),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the installation: libraries, GPU, threads, embedded model, disk; and a store, if one is named.

    Exit status: 0 if nothing is broken, 1 if something is.
    """
    out, found = Console(highlight=False, soft_wrap=True), list[Line]()
    for line in lines(file):
        found.append(line)
        if not as_json:
            out.print(f"{line.verdict:<7} {line.name}: {line.says}", markup=False)
    broken = sum(line.verdict == BROKEN for line in found)
    if as_json:
        print(json.dumps({"broken": broken, "checks": [line._asdict() for line in found]}, indent=1))
    else:
        out.print(f"{broken} broken." if broken else "Nothing is broken.")
    if broken:
        raise typer.Exit(1)


def lines(file: Path | None) -> Iterator[Line]:
    """Yield the results of all checks; if a check raises an error, its last result is the error."""
    checks: dict[str, Callable[[], Iterator[Line]]] = {
        "Python": _python,
        "libraries": _libraries,
        "extras": _extras,
        "DuckDB's extensions": _extensions,
        "GPU": _gpu,
        "threads": _threads,
        "embedded model": _embedded_model,
        "numba's cache": _numba_cache,
        "free disk space": partial(_disk, file),
        "store": partial(_store, file),
    }
    for name, check in checks.items():
        try:
            yield from check()
        except Exception as error:  # a broken library may raise any error
            yield Line(name, BROKEN, _sentence(error))


def _sentence(error: Exception) -> str:
    """Return the message of an error of this program; for any other error, its class and first line."""
    told = harmless(str(error)).strip()
    if hasattr(sys.modules.get("annotate_transformer.store.errors"), "AnnotateError"):
        from annotate_transformer.store.errors import AnnotateError

        if isinstance(error, AnnotateError):
            return told
    return f"this cannot be checked ({type(error).__name__}: {told.partition(chr(10))[0]}). {_AGAIN}"


_AGAIN = "Install the libraries named as broken above, and run `annotate doctor` again."


# The installation ---------------------------------------------------------------------------------


def _python() -> Iterator[Line]:
    system = f"{platform.system()} {platform.machine()}"
    yield Line("Python", OK, f"{platform.python_version()} on {system}, {sys.executable}.")
    try:
        yield Line(PACKAGE, OK, f"{metadata.version(PACKAGE)}.")
    except metadata.PackageNotFoundError:
        told = f"it is not installed, so its libraries are unknown. `pip install {PACKAGE}` installs it."
        yield Line(PACKAGE, BROKEN, told)


def _requirements(extra: str = "") -> Iterator[tuple[str, str]]:
    """Yield the name and the whole requirement of each library, such as ("torch", "torch<3,>=2.13")."""
    for requirement in metadata.requires(PACKAGE) or ():
        wanted, _, condition = requirement.partition(";")
        name = re.split(r"[^\w.-]", wanted.strip(), maxsplit=1)[0]
        if name != PACKAGE and (f'extra == "{extra}"' in condition if extra else "extra" not in condition):
            yield name, wanted.strip()


def _libraries() -> Iterator[Line]:
    for name, wanted in _requirements():
        again = f"`pip install --force-reinstall '{wanted}'` installs it again."
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Line(name, BROKEN, f"it is not installed. `pip install '{wanted}'` installs it.")
            continue
        try:
            import_module(MODULES.get(name, name.replace("-", "_")))
        except Exception as error:  # an incomplete library may raise any error
            why = harmless(str(error)).partition("\n")[0]
            yield Line(name, BROKEN, f"{found}, but it cannot be imported ({why}). {again}")
            continue
        if _suits(wanted, found):
            yield Line(name, OK, f"{found}.")
        else:
            told = f"{found}, which was not tested. `pip install '{wanted}'` installs a version that was."
            yield Line(name, NOTE, told)


def _suits(wanted: str, found: str) -> bool:
    """Return whether a requirement such as `torch>=2.13` allows the version `found`."""
    try:
        from packaging.requirements import Requirement
    except ImportError:  # the library comes with transformers, which may be missing
        return True
    return Requirement(wanted).specifier.contains(found, prereleases=True)


def _extras() -> Iterator[Line]:
    for extra, needs in EXTRAS.items():
        missing = [name for name, _ in _requirements(extra) if not _is_installed(name)]
        if missing:
            told = f"{', '.join(missing)} is not installed, which {needs} needs. "
            yield Line(f"extra {extra}", NOTE, f"{told}`pip install '{PACKAGE}[{extra}]'` installs it.")
        else:
            yield Line(f"extra {extra}", OK, f"installed, for {needs}.")


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _extensions() -> Iterator[Line]:
    import duckdb

    with duckdb.connect() as con:
        query = "SELECT extension_name FROM duckdb_extensions() WHERE loaded"
        loaded = {name for (name,) in con.execute(query).fetchall()}
    missing = [name for name in EXTENSIONS if name not in loaded]
    if missing:
        told = f"{', '.join(missing)} is not built into this duckdb. Install duckdb from its wheel on PyPI."
        yield Line("DuckDB's extensions", BROKEN, told)
    else:
        yield Line("DuckDB's extensions", OK, f"{', '.join(EXTENSIONS)} are built in.")


# The machine --------------------------------------------------------------------------------------


def _gpu() -> Iterator[Line]:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield Line("GPU", OK, f"{', '.join(names)}; `--device auto` uses the first one.")
    elif torch.backends.mps.is_available():
        yield Line("GPU", OK, "Apple's; `--device mps` uses it.")
    elif torch.version.cuda is None:
        yield Line("GPU", OK, "none: this PyTorch is built for the CPU, on which models run.")
    else:
        told = f"none is found, so models run on the CPU, but PyTorch is built for CUDA {torch.version.cuda}."
        yield Line("GPU", NOTE, f"{told} If there is a GPU, see whether `nvidia-smi` lists it.")


def _threads() -> Iterator[Line]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    told = f"{threads} for models, {cores} cores may be used."
    if threads < cores:
        why = " OMP_NUM_THREADS sets the number." if "OMP_NUM_THREADS" in os.environ else ""
        yield Line("threads", NOTE, f"{told} An ingest with more threads is faster.{why}")
    else:
        yield Line("threads", OK, told)


def _embedded_model() -> Iterator[Line]:
    from safetensors import safe_open
    from tokenizers import Tokenizer

    from annotate_transformer.ingest.models.names import EMBEDDED, EMBEDDED_MODEL, EMBEDDED_STEPS

    folder, parameters = EMBEDDED / EMBEDDED_MODEL, 0
    try:
        for step in EMBEDDED_STEPS.values():
            of_step = folder / f"step{step}"
            json.loads((of_step / "config.json").read_text(encoding="utf-8"))
            with safe_open(of_step / "model.safetensors", "np") as tensors:
                parameters = sum(tensors.get_tensor(name).size for name in tensors.keys())  # noqa: SIM118
        Tokenizer.from_file(str(folder / "tokenizer.json"))
        (EMBEDDED / "corpus.jsonl").read_text(encoding="utf-8")
    except Exception as error:  # safetensors and tokenizers raise errors of their own
        again = f"`pip install --force-reinstall --no-deps {PACKAGE}` installs it again."
        yield Line("embedded model", BROKEN, f"a file of it cannot be read ({error}). {again}")
        return
    told = f"{EMBEDDED_MODEL}, {len(EMBEDDED_STEPS)} training steps of {parameters:,} parameters can be read."
    yield Line("embedded model", OK, told)


def _numba_cache() -> Iterator[Line]:
    from annotate_transformer.ingest.attribution.fast import lists

    functions = [item for item in vars(lists).values() if hasattr(item, "stats")]
    folder = functions[0].stats.cache_path if functions else None
    if folder is None:
        told = "there is none that can be written, so each ingest compiles its loops for some seconds. Set "
        yield Line("numba's cache", NOTE, f"{told}NUMBA_CACHE_DIR to a folder that you may write to.")
    else:
        yield Line("numba's cache", OK, f"{folder} can be written.")


def _disk(file: Path | None) -> Iterator[Line]:
    there = Path.cwd() if file is None else file.resolve().parent
    for folder in dict.fromkeys((there, Path(tempfile.gettempdir()))):
        name, free = f"free disk space of {folder}", shutil.disk_usage(folder).free
        if free < LEAST_FREE:
            told = f"{free / 1e9:.1f} GB. Make room, or an ingest may stop; what it has committed is safe."
            yield Line(name, BROKEN, told)
        else:
            yield Line(name, OK, f"{free / 1e9:,.1f} GB.")


# The store ----------------------------------------------------------------------------------------


def _store(file: Path | None) -> Iterator[Line]:
    if file is None and (file := _named()) is None:
        yield Line("store", OK, f"none was checked, because neither --db, {VARIABLE} nor {FILE} names one.")
        return
    from annotate_transformer.app.cli.ask.runs import current_runs
    from annotate_transformer.app.present.words import counted
    from annotate_transformer.store.database import SCHEMA_VERSION

    runs = current_runs(file).to_dict("records")
    size = file.stat().st_size / 1e6
    yield Line(
        f"store {file}", OK, f"schema version {SCHEMA_VERSION}, {size:,.1f} MB, {counted(len(runs), 'run')}."
    )
    for run in runs:
        name, of = f"run {run['run_id']}", f"{run['tokens']:,} tokens of {run['model']}"
        yield Line(name, *_of_status(run["status"], of))
    yield _verified(file)


def _named() -> Path | None:
    db = named_in_file().db
    return None if db is None else Path(db)


def _of_status(status: str, of: str) -> tuple[str, str]:
    if status == "finished":
        return OK, f"finished, {of}."
    if status.startswith("part ") and "," not in status:
        return OK, f"{status}, {of}. `annotate merge` makes one run of all parts."
    if status == "running":
        return NOTE, f"an ingest is at work, {of} so far."
    return NOTE, f"{status}, {of}. The same `annotate ingest` resumes it."


def _verified(file: Path) -> Line:
    from annotate_transformer.store import verify

    findings = list(verify(file, quick=True))
    broken = [finding for finding in findings if finding.broken]
    if broken:
        examples = "; ".join(f"{finding.of}, {finding.check}: {finding.examples[0]}" for finding in broken)
        return Line("rows", BROKEN, f"{examples}. `annotate verify {file}` shows all that is wrong.")
    told = f"{len(findings)} quick checks pass. `annotate verify {file}` recomputes everything."
    return Line("rows", OK, told)
