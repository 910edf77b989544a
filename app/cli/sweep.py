"""The command `annotate sweep`: one run for each training step of a model, over the same text."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from annotate_transformer.app.cli import stopping
from annotate_transformer.app.cli.options import NewDb, Quiet
from annotate_transformer.app.present.console import Console

commands = typer.Typer(rich_markup_mode=None)
err = Console(stderr=True, highlight=False)


@commands.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example: annotate sweep speeches.jsonl.gz --db steps.duckdb --steps log --limit-tokens 60000",
)
def sweep(
    ctx: typer.Context,
    db: NewDb,
    model: Annotated[str, typer.Option(help="A model whose training steps can be had.")] = "neox-2m",
    steps: Annotated[
        str,
        typer.Option(help="log (the steps nearest to powers of two), all, or numbers with commas between."),
    ] = "log",
    revisions: Annotated[
        str | None,
        typer.Option(help="Revisions on the hub instead of steps, with commas between.", metavar="A,B,…"),
    ] = None,
    keep_downloads: Annotated[
        bool,
        typer.Option("--keep-downloads", help="Keep the weights of every step in the hub's cache."),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Annotate the same text at many training steps of a model, one run for each.

    SOURCE… and every other option are those of `annotate ingest`. The last step comes first, then the first,
    and each next one is in the middle of the largest gap on a logarithmic scale, so that a curve over the
    steps shows early. The same command resumes, and leaves out the steps that are finished. The text is
    stored once. Steps whose weights equal those of a finished one are named, and not annotated again. The
    weights of a step that were downloaded are removed after its run.
    """
    from annotate_transformer.ingest.errors import SettingsError

    if any(word.split("=")[0] == "--revision" for word in ctx.args):
        raise SettingsError("--revision is for one run. Give --steps or --revisions instead.")
    wanted = _named(revisions) if revisions is not None else in_order(_steps(model, steps))
    words = [*ctx.args, "--db", str(db), "--model", model, "--skip-equal-weights"]
    words += ["--quiet"] if quiet else []
    done = set[str]()
    for number, revision in enumerate(wanted, 1):
        if revision in done:
            continue
        if not quiet:
            err.print(f"{model} {revision} ({number} of {len(wanted)})", markup=False)
        run_id = _annotated(model, revision, words, keep_downloads)
        if "--fresh" not in ctx.args:
            done = done or _finished(db, run_id)


def _annotated(model: str, revision: str, words: list[str], keep_downloads: bool) -> int:
    """Run `annotate ingest` for one revision of the model, and return the run's number."""
    from annotate_transformer.app.cli.program import program
    from annotate_transformer.ingest.models.downloads import removed_after
    from annotate_transformer.ingest.models.names import resolve

    source = resolve(model, revision)
    command = typer.main.get_command(program("ingest"))
    with nullcontext() if keep_downloads else removed_after(source):
        run_id = command.main(["ingest", *words, "--revision", revision], standalone_mode=False)
    if stopping.asked():
        raise typer.Exit(128 + stopping.asked())
    assert isinstance(run_id, int)
    return run_id


def _finished(db: Path, run_id: int) -> set[str]:
    """Return the revisions with a finished run of the same model, text, settings and library versions."""
    from annotate_transformer import store

    with store.open(db) as s:
        runs = s.runs().set_index("run_id")
    like = runs.loc[run_id]
    same = runs.status == "finished"
    for name in ("model", "corpus_id", "settings", "libraries"):
        same &= runs[name] == like[name]
    return {str(revision) for revision in runs.revision[same]}


def _named(revisions: str) -> list[str]:
    """Return the revisions that --revisions names, each once.

    Raises:
        ModelError: no revision is named.
    """
    from annotate_transformer.ingest.errors import ModelError

    named = [*dict.fromkeys(word.strip() for word in revisions.split(",") if word.strip())]
    if not named:
        raise ModelError("--revisions names no revision. Give their names with commas between.")
    return named


def _steps(model: str, asked: str) -> dict[int, str]:
    """Return a dictionary from step to revision, for the training steps that --steps asks for.

    Raises:
        ModelError: the model has no such step, or its steps are not known.
    """
    from annotate_transformer.ingest.errors import ModelError
    from annotate_transformer.ingest.models.names import steps_of

    there = steps_of(model)
    if asked == "all":
        return there
    if asked == "log":
        return {step: there[step] for step in powers(there)}
    chosen = {}
    for word in asked.split(","):
        if not word.strip().isdecimal() or int(word) not in there:
            raise ModelError(
                f"{model} has no step {word.strip()!r}, but {len(there)} from {min(there)} to {max(there)}. "
                "--steps takes log, all, or numbers with commas between."
            )
        chosen[int(word)] = there[int(word)]
    return chosen


def powers(steps: Sequence[int] | dict[int, str]) -> list[int]:
    """Return those of `steps` that are nearest to 0 and to powers of two, and the last one.

    >>> powers([0, 1, 2, 4, 512, *range(1000, 144_000, 1000)])
    [0, 1, 2, 4, 512, 1000, 2000, 4000, 8000, 16000, 33000, 66000, 131000, 143000]
    """
    last = max(steps)
    wanted = [0, *(2**n for n in range(last.bit_length())), last]
    return sorted({min(steps, key=lambda step: abs(_log(step) - _log(at))) for at in wanted})


def in_order(steps: dict[int, str]) -> list[str]:
    """Return the revisions in the order in which `annotate sweep` annotates them.

    >>> in_order({0: "step0", 1: "step1", 30: "step30", 1000: "main"})
    ['main', 'step0', 'step30', 'step1']
    """
    left, chosen = sorted(steps), list[int]()
    for step in (left[-1], left[0]):
        if step in left:
            chosen.append(left.pop(left.index(step)))
    while left:
        ends = sorted(chosen)
        gaps = [(low, high) for low, high in pairwise(ends) if any(low < step < high for step in left)]
        low, high = max(gaps, key=lambda gap: _log(gap[1]) - _log(gap[0]))
        middle = (_log(low) + _log(high)) / 2
        inside = [step for step in left if low < step < high]
        chosen.append(left.pop(left.index(min(inside, key=lambda step: abs(_log(step) - middle)))))
    return [steps[step] for step in chosen]


def _log(step: int) -> float:
    return math.log2(step + 1)
