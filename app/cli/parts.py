"""The command `annotate merge`, and the steps of `annotate ingest --parts`: annotate parts, then merge.

The stores of the parts of a store X are in the folder X.parts until they are merged.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from annotate_transformer.app.cli import stopping
from annotate_transformer.app.cli.jobs.parts import Parts, Starter
from annotate_transformer.app.cli.options import NewDb, Quiet
from annotate_transformer.app.cli.progress import Watch
from annotate_transformer.app.present.console import Console
from annotate_transformer.app.present.words import counted

if TYPE_CHECKING:
    from annotate_transformer.ingest.run.merge import MergeReport

commands = typer.Typer(rich_markup_mode=None)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

LOCK = "command.lock"  # the file in the folder of the parts that a running command locks
# OWN: parameters of the whole command, which are not passed on to the processes of the parts
OWN = {
    "sources", "db", "parts", "jobs", "ray", "cpus_per_part", "gpus_per_part", "part", "plan", "fresh",
    "weights", "quiet",
}  # fmt: skip
OF_WHOLE_RUN = {"answer_column", "distractor_column", "answer_position"}  # used after the merge only


@commands.command(epilog="Example: annotate merge part-*.duckdb --db whole.duckdb")
def merge(
    parts: Annotated[
        list[Path], typer.Argument(metavar="PART…", help="The stores of all parts, in any order.")
    ],
    db: NewDb,
    quiet: Quiet = False,
) -> None:
    """Make one finished run of the parts that `annotate ingest --part` stored.

    The result is the run that one process would have stored. The same command resumes a merge that was
    stopped. The parts stay as they are.
    """
    tell_merged(merged(parts, db, Watch(err, quiet)), db, quiet)


def merged(parts: Sequence[Path], db: Path, watch: Watch, *, fresh: bool = False) -> "MergeReport":
    """Merge the parts into the store, and print progress."""
    from annotate_transformer.ingest.run.merge import merge as run

    def progress(done: int, parts: int) -> None:
        watch.say(f"merging part {done + 1} of {parts}" if done < parts else "making the lists final")

    report = run(parts, db, fresh=fresh, watch=progress)
    for note in report.notes:
        err.print(f"Note: {note}.", soft_wrap=True, markup=False)
    return report


def tell_merged(report: "MergeReport", db: Path, quiet: bool) -> None:
    if quiet:
        return
    tokens = counted(report.tokens, "token")
    if report.status == "nothing to do":
        out.print(f"Run {report.run_id} is finished already ({tokens}): nothing was added.")
        return
    before = report.parts - report.merged
    resumed = f" ({before} of them before)" if before else ""
    out.print(
        f"Run {report.run_id}: {tokens} in {counted(report.parts, 'part')} merged{resumed}, "
        f"{db.stat().st_size / 1e6:,.1f} MB in {db}.",
        soft_wrap=True,
        markup=False,
    )


def folder_of(db: Path) -> Path:
    """Return the folder that holds the parts of a run until they are merged into the store."""
    return db.with_name(f"{db.name}.parts")


def options_of(ctx: typer.Context, device: str | None) -> list[str]:
    """Return the options that the user gave, as command-line arguments for the process of one part.

    `device`: replaces the one that was given.
    """
    words = ["--device", device] if device else list[str]()
    for parameter in ctx.command.params:
        name = parameter.name or ""
        source = ctx.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name in OWN | OF_WHOLE_RUN:
            continue
        if name == "device" and device:
            continue
        value = ctx.params[name]
        if isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            words += [parameter.opts[0], str(value)]
    return words


def annotated_in_parts(
    parts: Parts,
    starting: Callable[[], AbstractContextManager[Starter]],
    versions: Mapping[str, str],
    db: Path,
    *,
    fresh: bool,
) -> "MergeReport":
    """Annotate all parts, merge them into the store, and remove the folder of the parts.

    `starting`: gives what starts their processes; `versions`: those of libraries that identify the run.
    """
    parts.folder.mkdir(exist_ok=True)
    with _alone(parts.folder, fresh):
        with stopping.finishing(), starting() as starter:
            complete = parts.annotate(starter, versions)
        if not complete:
            out.print("Stopped as asked; the same command resumes from here.")
            raise typer.Exit(128 + stopping.asked())
        report = merged(parts.files, db, parts.watch, fresh=fresh)
        shutil.rmtree(parts.folder, ignore_errors=True)
    return report


@contextmanager
def _alone(folder: Path, fresh: bool) -> Iterator[None]:
    """Context manager: keep other commands out of the folder of the parts; `fresh`: empty it first.

    Raises:
        SettingsError: another command is at work on it.
    """
    from filelock import FileLock, Timeout

    from annotate_transformer.ingest.errors import SettingsError
    from annotate_transformer.store.whole import remove

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise SettingsError(
            f"Another command is annotating the parts in {folder}. Wait until it has ended, or give another "
            "--db."
        ) from error
    try:
        for file in folder.iterdir() if fresh else ():
            if file.name != LOCK:
                remove(file)
        yield
    finally:
        lock.release()
