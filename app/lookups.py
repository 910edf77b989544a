"""Context look-ups: what fires next-token neurons, when the heads that do are active, and is it so."""

import os
from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

import typer

from annotate_transformer.app.ask import Db, Json, Limit, Run
from annotate_transformer.app.console import harmless
from annotate_transformer.app.printed import Columns, err, out, print_json, print_table
from annotate_transformer.app.progress import Watch
from annotate_transformer.app.tables import counted, explained, ranged, visible
from annotate_transformer.store import BadQuestion
from annotate_transformer.store.names import head_name, neuron_name

if TYPE_CHECKING:
    import pandas as pd

    from annotate_transformer.ingest.language_model import Endpoint, LanguageModel

RULES = 36  # characters of a line of an explanation, so that its scores stand beside it

commands = typer.Typer(rich_markup_mode=None)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Llm = Annotated[
    str | None,
    typer.Option("--llm", help="By this language model [default: by rules over tokens, without one]."),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        envvar="OPENAI_BASE_URL",
        help="Where it is served, up to /v1, as OpenAI's protocol has it; OPENAI_API_KEY is its key.",
    ),
]


@commands.command(epilog="Example: annotate next-token --neurons 5 --db demo.duckdb")
def lookups(
    db: Db,
    run: Run = None,
    layers: Annotated[
        str, typer.Option(help="late (the last quarter), all, or numbers such as 3,4.")
    ] = "late",
    neurons: Annotated[
        int, typer.Option(help="Next-token neurons of each of them, by congruence.", min=1)
    ] = 20,
    windows: Annotated[int, typer.Option(help="Of a neuron's highest, made prompts of.")] = 20,
    longest: Annotated[int, typer.Option(help="Tokens of a prompt; longer ones are dropped.")] = 64,
    share: Annotated[float, typer.Option(help="Of the activation that a prompt keeps at least.")] = 0.8,
    std_threshold: Annotated[
        float, typer.Option(help="Standard std_threshold above all heads' mean, from which one is active.")
    ] = 2,
    seed: Annotated[int, typer.Option(help="Of the neurons drawn by chance.", min=0)] = 0,
    llm: Llm = None,
    base_url: BaseUrl = None,
    limit: Limit = 20,
    quiet: Quiet = False,
) -> None:
    """What fires next-token neurons, and others by chance: short prompts, heads, what these react to.

    What a neuron loses without a head, and explanations of when it is active, are stored too; with --llm
    also a language model's, as by `annotate explain`. It goes on where it was stopped; the same command
    again adds nothing. With other settings a neuron is made anew, and its explanations are forgotten.
    """
    from annotate_transformer import store
    from annotate_transformer.app import live
    from annotate_transformer.ingest.ablation import ablate
    from annotate_transformer.ingest.lookups import Settings, look_up

    settings, watch = Settings(windows, longest, share, std_threshold), Watch(err, quiet)
    settings.check()
    endpoint = _endpoint(llm, base_url)
    language_model = _language_model(endpoint)  # or what is wrong with it, at once
    with store.open(db) as s, s.together():
        number = s.run(run)
        weights = s.weights(number)
        found, asked = weights.next_token_neurons(k=neurons), _layers(layers, int(weights.model.n_layers))
    found = found[found.layer.isin(asked)]
    chosen = list(zip(found.layer.tolist(), found.neuron.tolist(), strict=True))

    def tell(of_neuron: str) -> Callable[[int, int, tuple[int, int], int], None]:
        return lambda done, of, neuron, things: watch.say(
            f"{done} of {of}: {neuron_name(*neuron)}, {counted(things, of_neuron)}"
        )

    watch.say(f"loading {weights.model.model}")
    model = live.load(weights.model.model, live.revision(weights.model))
    added = look_up(model, str(db), number, chosen, settings, seed=seed, watch=tell("prompt"))
    ablated = ablate(model, str(db), number, tell("ablated head"))
    explained = _explain(db, number, None, watch)
    if language_model:
        explained += _explain(db, number, language_model, watch)
    if not quiet:
        new = counted(added, "neuron") + " looked up" if added else "no neuron was new"
        if not (added or ablated or explained):
            new = "nothing was added"
        drawn = _drawn(db, number)
        out.print(
            f"Run {number}: {new}, {counted(len(chosen), 'next-token neuron')} in all; "
            f"{counted(drawn, 'neuron')} drawn by chance."
        )
        _show(_explanations(db, number, llm), number, llm, limit)


@commands.command(epilog="Example: annotate explain --llm gpt-5-mini --dry-run --db demo.duckdb")
def explain(
    db: Db,
    run: Run = None,
    llm: Llm = None,
    base_url: BaseUrl = None,
    requests_per_minute: Annotated[float, typer.Option(help="To the language model, at most.")] = 60,
    concurrency: Annotated[int, typer.Option(help="Requests under way at once, at most.", min=1)] = 4,
    price_in: Annotated[
        float | None, typer.Option(help="Of a million tokens read, to store the cost.", min=0)
    ] = None,
    price_out: Annotated[float | None, typer.Option(help="Of a million tokens written.", min=0)] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the prompts and estimated tokens; ask nothing.")
    ] = False,
    limit: Limit = 20,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """When the heads are active that fire looked-up neurons, and whether that foretells other prompts.

    `annotate next-token` comes before it. It goes on where it was stopped, and asks for nothing twice.
    """
    from annotate_transformer import store

    prices = None if price_in is None and price_out is None else (price_in or 0.0, price_out or 0.0)
    asking = {"requests_per_minute": requests_per_minute, "concurrency": concurrency, "prices": prices}
    endpoint = _endpoint(llm, base_url, **asking)
    with store.open(db) as s, s.together():
        number = s.run(run)
        if s.sql("SELECT count(*) AS n FROM next_token_neurons WHERE run_id = $run", {"run": number}).n[0] == 0:
            raise BadQuestion(f"Run {number} has no neuron looked up: `annotate next-token --db {db}` does it.")
    if dry_run:
        _print_requests(db, number, endpoint)
        return
    _explain(db, number, _language_model(endpoint), Watch(err, quiet))
    if as_json:
        print_json({"explanations": _explanations(db, number, llm)}, number)
    elif not quiet:
        _show(_explanations(db, number, llm), number, llm, limit)


def _explanations(db: Path, run: int, llm: str | None) -> "pd.DataFrame":
    """Of one language model, or by rules; with each neuron's next-token."""
    from annotate_transformer import store

    with store.open(db) as s, s.together():
        found = s.explanations(run)
        tokens = s.sql("SELECT layer, neuron, next_token FROM next_token_neurons WHERE run_id = $run", {"run": run})
    by_llm = found.language_model.isna() if llm is None else found.language_model == llm
    merged = found[by_llm].merge(tokens, on=["layer", "neuron"], how="left")
    merged.attrs = found.attrs
    return merged


def _drawn(db: Path, run: int) -> int:
    """How many neurons drawn by chance were looked up."""
    from annotate_transformer import store

    with store.open(db) as s:
        return int(
            s.sql("SELECT count(*) AS n FROM next_token_neurons WHERE run_id = $r AND is_baseline", {"r": run}).n[0]
        )


def _endpoint(llm: str | None, base_url: str | None, **asking: Any) -> "Endpoint | None":
    """
    Raises:
        SettingsError: a value without meaning.
    """
    from annotate_transformer.ingest.language_model import Endpoint

    if llm is None:
        return None
    endpoint = Endpoint(llm, base_url, **asking)
    endpoint.check()
    return endpoint


def _language_model(endpoint: "Endpoint | None") -> "LanguageModel | None":
    from annotate_transformer.ingest.language_model import LanguageModel

    if endpoint is None:
        return None
    key = os.environ.get("OPENAI_API_KEY") or "none"  # a server of one's own asks for none
    return LanguageModel(endpoint, key)


def _explain(db: Path, run: int, language_model: "LanguageModel | None", watch: Watch) -> int:
    """By a language model or, without one, by rules; how many heads were new."""
    from annotate_transformer.ingest.explain import explain_by_language_model, explain_by_rules

    def tell(done: int, of: int, key: dict[str, Any], text: str) -> None:
        watch.say(f"{done} of {of}: {_whose(key)}: {text}")

    if language_model is None:
        return explain_by_rules(str(db), run, tell)
    return explain_by_language_model(str(db), run, language_model, tell)


def _print_requests(db: Path, run: int, endpoint: "Endpoint | None") -> None:
    from annotate_transformer.ingest.explain import requests

    if endpoint is None:
        raise BadQuestion("--dry-run is about a language model: name one with --llm.")
    read, written, number = 0, 0, 0
    for key, prompt, tokens_in, tokens_out in requests(str(db), run, endpoint):
        print(harmless(f"--- {_whose(key)}, about {tokens_in} tokens\n{prompt}\n"))
        read, written, number = read + tokens_in, written + tokens_out, number + 1
    cost = endpoint.cost(read, written)
    price = "" if cost is None else f", which costs about {cost:,.2f}"
    err.print(
        f"{counted(number, 'request')}: about {read:,} tokens to read (characters / 4) and {written:,} to "
        f"write{price}. Nothing was asked.",
        soft_wrap=True,
    )


def _show(found: "pd.DataFrame", run: int, llm: str | None, limit: int) -> None:
    """The explanations of next-token neurons, the best first, beside the others' mean."""
    chosen = found[~found.is_baseline].sort_values("balanced_accuracy", ascending=False, kind="stable")
    shown = explained(chosen.head(limit))
    shown["told"] = [fill(told, RULES) for told in shown.told]
    shown["whose"] = [_whose(row) for row in shown.to_dict("records")]
    columns: Columns = {
        "neuron and head": ("whose", str), "next-token": ("next_token", visible),
        "the head is": ("told", str),
        "active + inactive held out": ("held_out", str),
        "balanced accuracy (95 %)": ("score_told", str),
        "above baseline (95 %)": ("difference_told", str),
        "beats it": ("beats", str),
        "F1 (95 %)": ("f1_told", str),
    }  # fmt: skip
    by = "rules over tokens" if llm is None else llm
    title = f"Run {run}: heads explained by {by}, and scored on prompts held out"
    print_table(f"{title}; baseline (heads of neurons drawn by chance): {_baseline(found)}", shown, columns)


def _baseline(found: "pd.DataFrame") -> str:
    """The mean balanced accuracy of explanations of neurons drawn by chance, its interval and n."""
    scored = found[found.baseline.notna()].to_dict("records")
    if not scored:
        return "none scored"
    n = (
        counted(int(scored[0]["baseline_heads"]), "head"),
        counted(int(scored[0]["baseline_neurons"]), "neuron"),
    )
    return f"{ranged(scored[0], 'baseline')} over {n[0]} of {n[1]}"


def _whose(key: dict[str, Any]) -> str:
    """The neuron and the head."""
    head = head_name(int(key["source_layer"]), int(key["source_head"]))
    return f"{neuron_name(int(key['layer']), int(key['neuron']))} by {head}"


def _layers(text: str, n_layers: int) -> list[int]:
    """
    Raises:
        BadQuestion: it names no layers of the model.
    """
    from annotate_transformer.ingest.lookups import late

    if text in ("late", "all"):
        return late(n_layers) if text == "late" else list(range(n_layers))
    numbers = text.split(",")
    if not all(number.isdecimal() and int(number) < n_layers for number in numbers):
        raise BadQuestion(
            f"--layers {text} must be late, all, or numbers from 0 to {n_layers - 1} such as 0,1."
        )
    return [int(number) for number in numbers]
