"""The commands `annotate position`, `expand`, `inputs` and `moved`, which split a value into its terms."""

import math
from typing import TYPE_CHECKING, Annotated

import typer

from annotate_transformer.app.cli.ask.targets import Along, Logprob, Minus, Toward, target_of
from annotate_transformer.app.cli.options import Db, Json, Limit, Plot, Run, WrittenDb
from annotate_transformer.app.present import columns, figures
from annotate_transformer.app.present.console import harmless
from annotate_transformer.app.present.inputs import by_reading
from annotate_transformer.app.present.printed import err, out, print_json, print_table
from annotate_transformer.app.present.tables import marked
from annotate_transformer.app.present.words import (
    before_cap,
    chance,
    closeness,
    component_name,
    next_in_text,
    visible,
)
from annotate_transformer.store.errors import BadQuestion, NoInputs, one_of
from annotate_transformer.store.question import largest_first

if TYPE_CHECKING:
    import pandas as pd

    from annotate_transformer.store.elsewhere.place import Place
    from annotate_transformer.store.notation import Expression

commands = typer.Typer(rich_markup_mode=None)
WAYS = ("component", "head", "neuron", "source")
EFFECTS = ("toward_next", "toward_top", "effect")
Notation = Annotated[
    str | None,
    typer.Option(help="Print only the logit's sum of terms, as FORM: text, tree or latex.", metavar="FORM"),
]
Expand = Annotated[
    list[str] | None,
    typer.Option(
        help="In the sum of terms, replace a layer (L3), attention (L3attn), MLP (L3mlp) or head (L3H2) by "
        "its own terms; may be repeated."
    ),
]
Drop = Annotated[
    float,
    typer.Option(
        help="In the sum of terms, add up the terms smaller than X logits into one remainder.", metavar="X"
    ),
]


@commands.command(epilog="Example: annotate position 1234 --db demo.duckdb")
def position(
    number: Annotated[int, typer.Argument(help="The position_id.")],
    db: Db,
    limit: Limit = 10,
    notation: Notation = None,
    toward: Toward = None,
    minus: Minus = None,
    direction: Along = None,
    logprob: Logprob = False,
    expand: Expand = None,
    drop: Drop = 0,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Take one prediction apart: direct effects of components, heads, neurons and sources.

    Terms toward the next token and the top prediction are stored. For other targets the run's model reads the
    position's window again.
    """
    import pandas as pd

    from annotate_transformer import ingest
    from annotate_transformer.store.computed import is_stored

    target, other = target_of(toward, minus, direction)
    figures.check(plot or [])
    with ingest.open(db) as s, s.together():
        at = s.position(number)
        whose = "top" if pd.isna(at.next_token_id) else "next"
        expression = s.expression(number, whose if target is None else target, other, logprob=logprob)
        expression = expression.expand(*expand or ()).drop_below(drop)
        asked = notation or target is not None or expand or drop
        equation = _written(expression, notation or "text") if asked else None
        cap = before_cap(s.model_of(int(at.run_id)).logit_cap)
        target = whose if logprob and target is None else target
        frames = {way: s.decomposition(number, way, target, other, logprob=logprob) for way in WAYS}
        frames |= {"sends": s.sends(number, limit), "terms": expression.frame}
        if logprob or not (target is None or is_stored(target, other)):
            frames["likeliest"] = s.likeliest(number)
    if plot:
        figures.write_all(_as_bars(frames["component"], number, whose), plot)
    _tell(expression.prediction.hint)
    if as_json:
        print_json({"position": at.to_frame().T, **frames}, int(at.run_id))
    elif equation is not None and ("likeliest" not in frames or notation):
        print(harmless(str(equation)))
    else:
        _show_position(at, frames, limit, cap, equation)


def _as_bars(found: "pd.DataFrame", position: int, whose: str) -> figures.Bars:
    """Return the figure of a decomposition by component; `whose`: the stored target, next or top."""
    effect = found["effect"] if "effect" in found else found[f"toward_{whose}"]
    names = [component_name(row) for row in found.to_dict("records")]
    title = f"Direct effects of components on the prediction at position {position}"
    return figures.Bars(names, effect.tolist(), title, "direct effect (logits)")


@commands.command(epilog='Example: annotate expand "Dublin is the capital of" --db demo.duckdb')
def expand(
    prompt: Annotated[str, typer.Argument(help="The text whose next-token prediction is taken apart.")],
    db: Db,
    run: Run = None,
    limit: Limit = 10,
    notation: Notation = None,
    toward: Toward = None,
    minus: Minus = None,
    direction: Along = None,
    logprob: Logprob = False,
    expand: Expand = None,
    drop: Drop = 0,
    as_json: Json = False,
) -> None:
    """Annotate a prompt with a run's model and take its last prediction apart; nothing is stored."""
    from annotate_transformer import ingest

    target, other = target_of(toward, minus, direction)
    with ingest.open(db) as s:
        chosen = s.run(run)
        with s.prompt(prompt, chosen) as alone:
            last = alone.last
            at = alone.position(last)
            cap = before_cap(alone.model_of(int(at.run_id)).logit_cap)
            at["source"] = "prompt"  # hides the name of the temporary file to which the prompt was written
            target = "top" if logprob and target is None else target
            frames = {way: alone.decomposition(last, way, target, other, logprob=logprob) for way in WAYS}
            expression = alone.expression(last, "top" if target is None else target, other, logprob=logprob)
            layers = [term for term in expression.terms if term.component == "layer"]
            expression = expression.expand(*expand or layers).drop_below(drop)
            frames["terms"], equation = expression.frame, _written(expression, notation or "text")
            frames["likeliest"] = alone.likeliest(last)
    _tell(expression.prediction.hint)
    if as_json:
        print_json({"position": at.to_frame().T, **frames}, chosen)
    elif notation:
        print(harmless(str(equation)))
    else:
        _show_position(at, frames, limit, cap, equation)


@commands.command(epilog="Example: annotate inputs 1234 L3N7 --db demo.duckdb")
def inputs(
    position_id: Annotated[int, typer.Argument(help="The position_id, as the other commands print it.")],
    name: Annotated[str, typer.Argument(help="A neuron such as L3N7, or a head such as L3H2.")],
    db: WrittenDb,
    source: Annotated[
        int | None,
        typer.Option(
            help="For a head, the position_id of the source whose attention score is explained [default: the "
            "source with the most attention]."
        ),
    ] = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Show the inputs of a neuron at a position, or why a head attends to a source.

    The run's model computes the inputs of a neuron once, then they are stored. A head's attention score
    before the softmax is a sum over pairs of components, one read by the query and one by the key; it is not
    stored.
    """
    from annotate_transformer import store
    from annotate_transformer.store.names import parse

    if parse(name)[0] == "H":
        _show_score(db, position_id, name, source, limit, as_json)
        return
    if source is not None:
        raise BadQuestion(f"--source is for a head; {name} is a neuron.")
    with store.open(db) as s, s.together():
        unit = s.neuron(name, int(s.position(position_id).run_id))
        try:
            found = s.neuron_inputs(position_id, name)
        except NoInputs:
            found = None
    if found is None:
        found = _computed_inputs(db, unit.run, position_id, name, (unit.layer, unit.number))
    if as_json:
        print_json({"inputs": found}, unit.run)
        return
    title = f"Inputs of {unit.name} at position {position_id} (activation {found.attrs['activation']:+.3f})"
    for of in by_reading(found, found.attrs):
        title_of = (
            f"{title}, largest first: they sum to the {of.value} {of.total:+.3f} within "
            f"{closeness(of.closure)}"
        )
        print_table(title_of, of.frame.head(limit), columns.neuron_inputs(of.value))


@commands.command(epilog="Example: annotate moved 1234 L3H2 --db demo.duckdb")
def moved(
    position_id: Annotated[int, typer.Argument(help="The position_id of the prediction.")],
    name: Annotated[str, typer.Argument(help="A head such as L3H2.")],
    db: Db,
    source: Annotated[
        int | None,
        typer.Option(help="The position_id of the source [default: the one with the most attention]."),
    ] = None,
    toward: Toward = None,
    minus: Minus = None,
    direction: Along = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Split a head's effect through one source token by the components that wrote at that token."""
    from annotate_transformer import ingest

    target, other = target_of(toward, minus, direction)
    with ingest.open(db) as s:
        run = int(s.position(position_id).run_id)
        found = s.moved(position_id, name, source, "top" if target is None else target, other)
    if as_json:
        print_json({"moved": found}, run)
        return
    of = found.attrs
    out.print(
        f"{name.upper()} moves {of['term']:+.3f} logits of {of['target']} from position "
        f"{of['source_position_id']} ({visible(of['source_token'])}, attention {of['attention']:.3f}) to "
        f"position {position_id}; the terms sum to this within {closeness(of['closure'])}.\n",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    print_table("Effects of components at the source, largest first", found.head(limit), columns.MOVED)


def _show_score(
    db: "Place", position_id: int, name: str, source: int | None, limit: int, as_json: bool
) -> None:
    """Print the terms of an attention score, and the scores of the sources that compete in the softmax.

    The terms are listed by pair of components, by the component that the query reads, and by that of the key.
    """
    from annotate_transformer import ingest

    with ingest.open(db) as s:
        run = int(s.position(position_id).run_id)
        ways = ("pair", "query", "key", "source")
        frames = {by: s.head_inputs(position_id, name, source, by) for by in ways}
    if as_json:
        print_json(frames, run)
        return
    of = frames["pair"].attrs
    told = (
        f"{name.upper()} at position {position_id} attends to position {of['source_position_id']} with "
        f"probability {of['attention']:.3f}. Its score before the softmax is {of['score']:+.3f}; the pairs "
        f"sum to it within {closeness(of['closure'])}"
    )
    told += f", with {of['distance_bias']:+.3f} for the distance." if of["distance_bias"] else "."
    told += f" The score is capped at ±{of['cap']:g}." if of["cap"] else ""
    out.print(f"{told}\n", markup=False, soft_wrap=True)
    titles = {
        "pair": ("Pairs of components with the largest shares of the score", columns.SCORE_PAIRS),
        "query": ("By what the query reads", columns.SCORE_QUERIES),
        "key": ("By what the key reads", columns.SCORE_KEYS),
        "source": ("Sources that compete in the softmax", columns.SCORE_SOURCES),
    }
    for by, (title, listed) in titles.items():
        print_table(title, frames[by].head(limit), listed)


def _computed_inputs(
    db: "Place", run: int, position_id: int, name: str, neuron: tuple[int, int]
) -> "pd.DataFrame":
    """Compute a neuron's inputs with the run's model, store them, and return them."""
    from annotate_transformer import store
    from annotate_transformer.ingest.live.prompt import load, revision
    from annotate_transformer.ingest.next_token.prompts import annotate_inputs
    from annotate_transformer.store.location import located

    path = located(db)  # before a model is loaded
    with store.open(db) as s:
        about = s.about(run)
    model = load(about.model, revision(about))
    annotate_inputs(model, str(path), run, position_id, neuron)
    with store.open(db) as s:
        return s.neuron_inputs(position_id, name)


def _tell(hint: str) -> None:
    """Print a hint about the chosen target to standard error, unless the hint is empty."""
    if hint:
        err.print(hint, markup=False, soft_wrap=True)


def _written(expression: "Expression", form: str) -> str:
    """Return a logit's sum of terms as a string, in the form that --notation names: text, tree or latex."""
    one_of("--notation", form, ("text", "tree", "latex"))
    if form == "latex":
        return expression.latex()
    return expression.text(out.width) if form == "text" else expression.tree(out.width)


def _show_position(
    at: "pd.Series",
    frames: "dict[str, pd.DataFrame]",
    limit: int,
    cap: str,
    equation: str | None = None,
) -> None:
    """Print a prediction and its terms.

    cap: a sentence about the soft-cap of the logits, or empty;
    equation: text that replaces the table of components
    """
    out.print(f"[bold]Position {at.position_id}[/], run {at.run_id}, document {at.document_id}")
    out.print(marked(out, at.before or "", at.text or "", at.after or "", width=100))
    out.print(f"{_prediction(at)}\n", markup=False, soft_wrap=True)
    if cap:
        out.print(f"{cap}\n", markup=False, soft_wrap=True)
    if equation is None:
        _components(at, frames["component"])
    else:
        print(harmless(f"{equation}\n"))
    if "likeliest" in frames:
        print_table("Most likely next tokens", frames["likeliest"], columns.LIKELIEST)
    shown = {
        "head": ("Heads with the largest effects", columns.POSITION_HEADS),
        "neuron": ("Neurons with the largest effects", columns.POSITION_NEURONS),
        "source": ("Heads and sources with the largest effects", columns.POSITION_SOURCES),
        "sends": (columns.SENDS_TITLE, columns.SENDS),
    }
    for way, (title, listed) in shown.items():
        if way in frames:
            rows = _strongest(frames[way], limit)
            print_table(title, rows, columns.toward_one(listed, rows) if "effect" in rows else listed)


def _prediction(at: "pd.Series") -> str:
    """Return one line of text with the next token, the top prediction and their probabilities."""
    import pandas as pd

    following = "no next token"
    if not pd.isna(at.next_logprob):
        loss, rank = -at.next_logprob, int(at.next_rank)
        following = f"next token {next_in_text(at.to_dict())}: p {chance(math.exp(-loss))}, rank {rank}, "
        following += f"loss {loss:.3f} nats"
    top = f"top prediction {visible(at.top_token)}: p {chance(math.exp(at.top_logprob))}"
    return f"{following}; {top}; entropy {at.entropy:.2f} nats"


def _components(at: "pd.Series", components: "pd.DataFrame") -> None:
    import pandas as pd

    logit = {"component": "= logit", "toward_next": at.next_logit, "toward_top": at.top_logit}
    rows = pd.concat([components, pd.DataFrame([logit])], ignore_index=True)
    title = f"Components: their sum is within {closeness(at.closure_top)} logits of the centred logit"
    print_table(title, rows, columns.COMPONENTS)


def _strongest(frame: "pd.DataFrame", limit: int) -> "pd.DataFrame":
    """Return the `limit` rows with the largest absolute effect on a target."""
    size = frame[[name for name in EFFECTS if name in frame]].abs().max(axis=1)
    return largest_first(frame, size).head(limit)
