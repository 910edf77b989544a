"""The commands `annotate ablate`, `patch` and `effects`, which run a model with changed activations."""

from pathlib import Path
from typing import Annotated, Any

import typer

from annotate_transformer.app.cli.ask.targets import Along, Minus, Toward, target_of
from annotate_transformer.app.cli.options import Db, Json, Limit, Quiet, Run, WrittenDb
from annotate_transformer.app.cli.progress import Watch
from annotate_transformer.app.present import columns, figures
from annotate_transformer.app.present.heat_maps import of_patches, shares
from annotate_transformer.app.present.printed import err, out, print_json, print_table
from annotate_transformer.store.question import largest_first

commands = typer.Typer(rich_markup_mode=None)


@commands.command(epilog="Example: annotate ablate 1234 heads --db demo.duckdb")
def ablate(
    number: Annotated[int, typer.Argument(help="The position_id whose prediction is measured.")],
    units: Annotated[
        list[str],
        typer.Argument(
            help="Units to ablate, each separately: a head (L3H2), a neuron (L3N7), attention (L3attn) or an "
            "MLP (L3mlp). Units joined by + are ablated together; `heads` stands for all heads."
        ),
    ],
    db: WrittenDb,
    by: Annotated[
        str,
        typer.Option(
            help="Replace outputs by zero, by their mean over random windows of the run, or by their values "
            "at random positions (resample).",
            metavar="zero|mean|resample",
        ),
    ] = "zero",
    at: Annotated[
        int | None,
        typer.Option(
            help="Replace the units' outputs only at this position_id [default: at all tokens of the window]."
        ),
    ] = None,
    toward: Toward = None,
    minus: Minus = None,
    direction: Along = None,
    draws: Annotated[
        int,
        typer.Option(help="Number of random draws for --by resample; the mean effect over them is shown."),
    ] = 10,
    seed: Annotated[
        int, typer.Option(help="Seed for drawing the positions that --by mean and --by resample use.")
    ] = 0,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Ablate components, show their total effects beside their direct effects, and store the effects."""
    from annotate_transformer import ingest

    target, other = target_of(toward, minus, direction)
    with ingest.open(db) as s:
        run = int(s.position(number).run_id)
        options: dict[str, Any] = {"by": by, "at": at, "toward": target, "minus": other}
        found = s.ablate(number, units, **options, draws=draws, seed=seed)
    if as_json:
        print_json({"ablations": found}, run)
        return
    shown = largest_first(found, found.total_effect).head(limit)
    where = "at all tokens" if at is None else f"at position {at}"
    title = f"Effects on {found.attrs['target']} at position {number}; outputs replaced by {by} {where}"
    print_table(title, shown, columns.total_effects(shown))


@commands.command(
    epilog="Example: annotate patch 'The people of' 'The city of' --toward ' the' --db demo.duckdb"
)
def patch(
    clean: Annotated[
        str, typer.Argument(help="The prompt after which the model shows the behaviour to explain.")
    ],
    corrupted: Annotated[
        str,
        typer.Argument(
            help="A prompt of as many tokens as CLEAN, after which the model does not show the behaviour."
        ),
    ],
    db: Db,
    toward: Toward = None,
    minus: Minus = None,
    direction: Along = None,
    kind: Annotated[
        str,
        typer.Option(
            help="What each patch replaces: a head's output at all tokens (head) or at one token "
            "(head_position), or, at one token, a layer's input (resid), the output of all its heads (attn) "
            "or of all its neurons (mlp).",
            metavar="head|head_position|resid|attn|mlp",
        ),
    ] = "head",
    noising: Annotated[
        bool,
        typer.Option(
            "--noising",
            help="Patch activations of the corrupted prompt into the forward pass of the clean prompt "
            "[default: the reverse].",
        ),
    ] = False,
    to: Annotated[
        str | None,
        typer.Option(
            help="Path patching: patch only the path from each earlier head to this receiver, which is the "
            "query, key or value input of a head (L3H2.q, L3H2.k, L3H2.v) or the logits (logits).",
            metavar="RECEIVER",
        ),
    ] = None,
    figure: Annotated[
        list[Path] | None,
        typer.Option(
            help="Draw all patches as a heat map in this .png or .svg file; may be repeated. Drawing needs "
            "matplotlib, which the extra `figures` installs.",
            metavar="FILE",
        ),
    ] = None,
    run: Run = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Patch activations between two prompts; show how much of the logit difference each patch recovers."""
    from annotate_transformer import ingest

    target, other = target_of(toward, minus, direction)
    figures.check(figure or [])
    how = "noising" if noising else "denoising"
    with ingest.open(db) as s:
        options: dict[str, Any] = {"toward": "top" if target is None else target, "minus": other}
        found = s.patch(clean, corrupted, **options, kind=kind, direction=how, to=to, run=run)
        chosen = s.run(run)
    for file in figure or []:
        figures.write(of_patches(found), file)
        err.print(f"The heat map of all {len(found):,} patches is in {file}.", markup=False, soft_wrap=True)
    if as_json:
        print_json({"patches": found}, chosen)
        return
    shown = largest_first(found, shares(found)).head(limit)
    out.print(
        f"{found.attrs['target']}: {found.attrs['clean']:+.3f} after the clean prompt, "
        f"{found.attrs['corrupted']:+.3f} after the corrupted one.",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    title = f"{how.capitalize()}; recovered: (logit - corrupted) / (clean - corrupted)"
    print_table(title, shown, columns.patches(shown))


@commands.command(epilog="Example: annotate effects --sample 100 --db demo.duckdb")
def effects(
    db: WrittenDb,
    run: Run = None,
    sample: Annotated[int, typer.Option(help="Number of positions, drawn at random.")] = 200,
    by: Annotated[
        str,
        typer.Option(
            help="Replace a unit's output by zero, or by its mean over the windows of the sampled positions.",
            metavar="zero|mean",
        ),
    ] = "mean",
    exact: Annotated[
        int,
        typer.Option(
            help="Number of units whose total effects are measured by ablation: this many with the largest "
            "estimated effects, and as many random units."
        ),
    ] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the sample.", min=0)] = 0,
    limit: Limit = 20,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Store direct and total effects of all heads and neurons on the next token, over a sample of positions.

    Attribution patching estimates the total effects of all units; the units with the largest estimates, and
    others at random, are ablated exactly. The same command resumes a command that was stopped.
    """
    from annotate_transformer import store
    from annotate_transformer.ingest.interventions.unit_effects import Plan, measure, windows_read
    from annotate_transformer.ingest.live.runner import ModelRunner

    plan, watch = Plan(sample, seed, by, exact), Watch(err, quiet)
    plan.check()
    with store.open(db) as s:
        number = s.run(run)
        about = s.about(number)
    watch.say(f"loading {about.model}")
    model = ModelRunner().model(about)
    watch.say(f"the model reads at most {windows_read(plan):,} windows")
    measure(model, str(db), number, plan, lambda what, done, of: _progress(watch, what, done, of))
    with store.open(db) as s:
        chosen: dict[str, Any] = {"run": number, "sample": sample, "seed": seed, "by": by}
        found = s.question("unit_effects_beside", **chosen).ask()
        trust = s.question("unit_effects_trust", **chosen).ask()
    if as_json:
        print_json({"effects": found, "estimates": trust}, number)
        return
    title = f"Units ablated exactly; {sample:,} positions, outputs replaced by {by} at all tokens"
    print_table(title, found.head(limit), columns.UNIT_EFFECTS)
    print_table("Accuracy of the estimates, compared with exact effects", trust, columns.ESTIMATES)


def _progress(watch: Watch, what: str, done: int, of: int) -> None:
    if done == of or done % 10 == 0:
        watch.say(f"{what} {done:,} of {of:,}")
