"""The command `annotate emergence`: how a model, a head or a neuron changes over training steps."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from annotate_transformer.app.cli.options import Db, Json, Limit, Plot, Run
from annotate_transformer.app.present import columns, figures
from annotate_transformer.app.present.printed import out, print_json, print_table
from annotate_transformer.app.present.words import rise_in_words
from annotate_transformer.store.errors import BadQuestion

if TYPE_CHECKING:
    from annotate_transformer.store import Store

commands = typer.Typer(rich_markup_mode=None)


@commands.command(
    epilog="Example: annotate emergence --head L2H1 --statistic corpus_induction --db steps.duckdb"
)
def emergence(
    db: Db,
    head: Annotated[str | None, typer.Option(help="A head, such as L2H1.", metavar="HEAD")] = None,
    neuron: Annotated[str | None, typer.Option(help="A neuron, such as L3N7.", metavar="NEURON")] = None,
    statistic: Annotated[
        str | None,
        typer.Option(
            help="A statistic of the view `emergence` [default: loss; of a head or neuron mean_abs_effect]."
        ),
    ] = None,
    changes: Annotated[
        str | None,
        typer.Option(help="Two steps with a comma between: list the units that change most.", metavar="A,B"),
    ] = None,
    kind: Annotated[str, typer.Option(help="The units of --changes.", metavar="head|neuron")] = "head",
    position: Annotated[
        int | None, typer.Option(help="Show the prediction at this position at every step.", metavar="ID")
    ] = None,
    plot: Plot = None,
    run: Run = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Show a statistic over the training steps that `annotate sweep` annotated, and where it rises.

    A curve has risen (or fallen) by half at the first step at which it is half-way between its value at the
    first step and its most distant value.
    """
    from annotate_transformer import store

    _check_one_question(head, neuron, changes, position, plot)
    figures.check(plot or [])
    with store.open(db) as s, s.together():
        if position is not None:
            _position(s, position, as_json)
        elif changes is not None:
            _changes(s, changes, kind, statistic, limit, run, as_json)
        else:
            _curve(s, head or neuron, statistic, run, plot or [], as_json)


def _check_one_question(
    head: str | None, neuron: str | None, changes: str | None, position: int | None, plot: list[Path] | None
) -> None:
    asked = {"--head": head, "--neuron": neuron, "--changes": changes, "--position": position}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) > 1:
        raise BadQuestion(f"{given[0]} and {given[1]} are two questions: give one of them.")
    if plot and (changes is not None or position is not None):
        raise BadQuestion(f"--plot draws a curve over the steps, not {given[0]}: leave one of them out.")


def _curve(
    s: "Store", unit: str | None, statistic: str | None, run: int | None, files: list[Path], as_json: bool
) -> None:
    curve = s.curve(unit, statistic, run)
    number, name, values = curve.run, curve.name, curve.values()
    rise = curve.rise() if values.value.count() > 1 else None
    title = f"{unit or s.model_of(number).model}: {name} over training"
    drawn = figures.Line(values.dropna(subset="value"), title, columns.statistic_with_unit(name))
    figures.write_all(drawn, files)
    if as_json:
        print_json({name: values} | ({} if rise is None else {"rise": rise.to_frame().T}), number)
        return
    print_table(title, values, columns.emergence(values, name))
    if rise is not None:
        out.print(rise_in_words(rise), markup=False, soft_wrap=not out.is_terminal)


def _changes(
    s: "Store", asked: str, kind: str, statistic: str | None, limit: int, run: int | None, as_json: bool
) -> None:
    from annotate_transformer.store.emergence import chosen_statistic

    words = asked.split(",")
    if len(words) != 2 or not all(word.strip().isdecimal() for word in words):
        raise BadQuestion(f"--changes takes two steps with a comma between, such as 512,4000, not {asked!r}.")
    first, second = int(words[0]), int(words[1])
    found = s.emergence_changes(first, second, kind, statistic, limit, run)
    if as_json:
        print_json({"changes": found}, run)
        return
    name = chosen_statistic(kind, statistic)
    title = f"{kind.capitalize()}s whose {name} changes most from step {first:,} to step {second:,}"
    print_table(title, found, columns.emergence_changes(found, kind, name, (first, second)))


def _position(s: "Store", position: int, as_json: bool) -> None:
    found = s.position_at_steps(position)
    if as_json:
        print_json({"steps": found}, None)
        return
    row = found.iloc[0]
    title = f"Predictions after the token {row.token!r}, followed by {row.next_token!r}, at every step"
    print_table(title, found, columns.POSITION_AT_STEPS)
