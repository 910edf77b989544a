"""The commands `annotate verify` and `annotate upgrade`.

A closure error is the sum of a position's terms minus the logit.
"""

from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from annotate_transformer.app.cli.options import File, WrittenFile
from annotate_transformer.app.present.console import Console
from annotate_transformer.app.present.printed import dump
from annotate_transformer.app.present.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from annotate_transformer.store import Finding
    from annotate_transformer.store.elsewhere.place import Place

commands = typer.Typer(rich_markup_mode=None)
out = Console(highlight=False)


@commands.command(epilog="Example: annotate verify demo.duckdb")
def verify(
    db: File,
    run: Annotated[int | None, typer.Option(help="Check only this run and its model.")] = None,
    deep: Annotated[
        int | None,
        typer.Option(
            help="Also run the model again on the windows of N random positions, and compare every stored "
            "value of these windows. Without --run, the positions are drawn from the last finished run.",
            metavar="N",
            min=1,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only what is wrong.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a store: recompute its closure errors, counts, top lists and checksums from the stored rows.

    Exit status: 0 if all checks pass, 1 if something stored is wrong, 2 if the file cannot be read.
    """
    from annotate_transformer.store import verify as checks
    from annotate_transformer.store.elsewhere.place import Elsewhere

    if isinstance(db, Elsewhere) and not db.can_be_verified:
        raise db.refusal()
    broken, findings = 0, []
    for finding in chain(checks(db, run), _deep(db, run, deep) if deep else ()):
        broken += finding.broken
        if as_json:
            findings.append(asdict(finding))
            continue
        if finding.broken or not quiet:
            verdict = f"{finding.broken} wrong" if finding.broken else "ok"
            out.print(f"{finding.of}  {finding.check:<30} {verdict}", markup=False)
        for example in finding.examples:
            out.print(f"    {example}", markup=False, soft_wrap=True)
    if as_json:
        dump({"broken": broken, "findings": findings})
    elif not quiet:
        out.print(f"{db}: {counted(broken, 'problem') if broken else 'all checks pass'}.", markup=False)
    if broken:
        raise typer.Exit(1)


def _deep(file: "Place", run: int | None, n: int) -> "Iterator[Finding]":
    from annotate_transformer.ingest.run.deep import verify_deep

    return verify_deep(file, run, n)


@commands.command(epilog="Example: annotate upgrade my.duckdb")
def upgrade(db: WrittenFile) -> None:
    """Convert a store of an older schema version; if that fails, the store stays as it was.

    The conversion needs as much free disk space as the store takes.
    """
    from annotate_transformer.store import upgrade as convert
    from annotate_transformer.store.database import SCHEMA_VERSION

    version = convert(db)
    if version == SCHEMA_VERSION:
        out.print(f"{db} has schema version {version} already: nothing was changed.", markup=False)
        return
    out.print(
        f"{db}: schema version {version} is now {SCHEMA_VERSION}, {db.stat().st_size / 1e6:,.1f} MB. "
        f"`annotate verify {db}` recomputes it.",
        markup=False,
        soft_wrap=True,
    )
