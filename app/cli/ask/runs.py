"""The commands about whole runs: `annotate runs`, `stats`, `compare` and `export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from annotate_transformer.app.cli.options import By, Db, Json, Limit, Plot, Run
from annotate_transformer.app.present import columns, figures
from annotate_transformer.app.present.printed import (
    dump,
    err,
    out,
    print_contexts,
    print_json,
    print_table,
    records,
)
from annotate_transformer.app.present.words import architecture, visible
from annotate_transformer.store.names import LETTERS, unit_name

if TYPE_CHECKING:
    import pandas as pd

    from annotate_transformer.store.elsewhere.place import Place

commands = typer.Typer(rich_markup_mode=None)
LOSS = "-next_logprob"
STRONGEST = "FROM {} WHERE run_id = $run ORDER BY mean_abs_effect DESC LIMIT $k"


@commands.command(epilog="Example: annotate runs --db demo.duckdb")
def runs(db: Db, as_json: Json = False) -> None:
    """List the runs in the store."""
    found = current_runs(db)
    if as_json:
        dump(records(found))
    elif found.empty:
        err.print(f"No rows: {db} has no run yet. `annotate ingest … --db {db}` makes one.", markup=False)
    else:
        title = f"Runs of {db}; special tokens (BOS …) are left out of lists and statistics"
        print_table(title, found, columns.RUNS)


def current_runs(db: "Place") -> "pd.DataFrame":
    """Return the view `runs` with the current `status` of each run, such as `part 1 of 4, running`."""
    from annotate_transformer import store
    from annotate_transformer.store.writer import status

    with store.open(db) as s, s.together():
        found, parts = s.runs(), s.sql("FROM parts")
    found["status"] = [status(db, str(recorded)) for recorded in found.status]
    for part in parts.itertuples():
        left = "" if part.is_complete else ", " + found.status[found.run_id == part.run_id].iloc[0]
        found.loc[found.run_id == part.run_id, "status"] = f"part {part.part} of {part.parts}{left}"
    return found


@commands.command(epilog="Example: annotate stats --db demo.duckdb")
def stats(db: Db, run: Run = None, by: By = None, limit: Limit = 10, as_json: Json = False) -> None:
    """Show a run in numbers: loss, correct top predictions, heads and neurons with the largest effects."""
    from annotate_transformer import store

    with store.open(db) as s, s.together():
        number = s.run(run)
        if by is not None:
            found = s.mean(LOSS, by=by, metadata=True, run=number)
            if as_json:
                print_json({"loss": found}, number)
                return
            print_table(f"Run {number}: loss by {by}", found, columns.means_by(by, "loss", "nats"))
            return
        frames = {
            "totals": s.stats(number),
            "heads": s.question(STRONGEST.format("head_stats"), number, k=limit).ask(),
            "neurons": s.question(STRONGEST.format("neuron_stats"), number, k=limit).ask(),
        }
    if as_json:
        print_json(frames, number)
        return
    about = frames["totals"].iloc[0]
    title = f"Run {number}: {' '.join(filter(None, (about.model, about.revision)))} ({architecture(about)})"
    print_table(title, frames["totals"], columns.TOTALS)
    title = "with the largest mean |direct effect| on the next token"
    print_table(f"Heads {title}", frames["heads"], columns.STRONGEST_HEADS)
    print_table(f"Neurons {title}", frames["neurons"], columns.STRONGEST_NEURONS)


@commands.command(epilog="Example: annotate compare 1 2 --what heads --db demo.duckdb")
def compare(
    run: Annotated[int, typer.Argument(help="One run (a).")],
    other: Annotated[int, typer.Argument(help="The other run (b).")],
    db: Db,
    what: Annotated[str, typer.Option(help="positions, heads, or neurons.")] = "positions",
    plot: Plot = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """List the largest changes between two runs over one corpus, such as two training steps."""
    from annotate_transformer import store

    figures.check(plot or [])
    with store.open(db) as s, s.together():
        found = s.compare(run, other, what, limit)
    if plot and not found.empty:
        figures.write_all(_changes(found, what, run, other), plot)
    if as_json:
        print_json({what: found}, run)
    elif found.empty:
        err.print("No rows: the runs have no window in common. Did both ingests have the same --context?")
    else:
        title = f"Largest changes from run {run} to run {other}: {what}"
        show = print_contexts if what == "positions" else print_table
        show(title, found, columns.compared(what, run, other))
    if "note" in found.attrs and not as_json:
        err.print(f"Note: {found.attrs['note']}.", soft_wrap=True)


def _changes(found: "pd.DataFrame", what: str, run: int, other: int) -> figures.Bars:
    """Return the figure of an answer of `Store.compare`: the change in each row."""
    if what == "positions":
        names = [f"{visible(row.token)} → {visible(row.next_token)}" for row in found.itertuples()]
        values, unit = found.loss_change.tolist(), "change of the loss (nats)"
    else:
        kind = what.removesuffix("s")
        names = [unit_name(LETTERS[kind], *unit) for unit in zip(found.layer, found[kind], strict=True)]
        values, unit = found.change.tolist(), "change of the mean |direct effect| (logits)"
    return figures.Bars(names, values, f"Largest changes from run {run} to run {other}: {what}", unit)


@commands.command(epilog="Example: annotate export demo-parquet --db demo.duckdb")
def export(
    db: Db,
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="A new folder for the files.", show_default=False)
    ] = None,
    run: Run = None,
    format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="parquet, csv, jsonl, or store.")
    ] = "parquet",
    to: Annotated[
        str | None,
        typer.Option(
            metavar="LAKE",
            help="Instead of a folder, a lake to which the run is added: ducklake:FILE, or "
            "'ducklake:postgres:dbname=NAME host=HOST'. It is made if it does not exist.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where a new lake in PostgreSQL has its data files."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: the files' names, or the run's number in the lake.")
    ] = False,
) -> None:
    """Export a run as one file for each view, as files that DuckDB can make a store again, or into a lake.

    parquet, csv and jsonl hold the views (`annotate schema`) with the rows of the run, of its model and of
    its corpus. store holds the store's own tables as Parquet, and `IMPORT DATABASE 'FOLDER'` in DuckDB makes
    them a store again. A lake (--to) holds the runs of many stores, and every command that reads a store
    reads it (--db LAKE). For the answer to one query use `annotate sql "…" --format parquet --output FILE`.
    """
    from annotate_transformer import store
    from annotate_transformer.store.errors import BadQuestion
    from annotate_transformer.store.export import export_run

    if (folder is None) == (to is None):
        raise BadQuestion("Give either a new FOLDER, or a lake with --to.")
    with store.open(db) as s, s.together():
        number = s.run(run)
    if to is not None:
        _export_to_lake(db, number, to, data, as_json)
        return
    assert folder is not None
    files = export_run(db, number, folder, format)
    if as_json:
        dump({"run": number, "files": [str(file) for file in files]})
        return
    size = sum(file.stat().st_size for file in files)
    out.print(
        f"Run {number}: {len(files)} files, {size / 1e6:,.1f} MB in {folder}.", soft_wrap=True, markup=False
    )


def _export_to_lake(db: "Place", run: int, lake: str, data: Path | None, as_json: bool) -> None:
    from annotate_transformer.store.share import share_run

    shared = share_run(db, run, lake, data, tell=lambda told: err.print(told, soft_wrap=True, markup=False))
    if as_json:
        dump({"run": run, "run_in_lake": shared.run_id, "rows": shared.rows})
        return
    out.print(
        f"Run {run} is run {shared.run_id} of {lake}: {shared.rows:,} rows were added.",
        soft_wrap=True,
        markup=False,
    )
