"""The commands `annotate next-token` and `annotate explain`, which explain next-token neurons."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from annotate_transformer.app.cli.options import Json, Limit, Quiet, Run, WrittenDb
from annotate_transformer.app.cli.progress import Watch
from annotate_transformer.app.present.columns import EXPLANATIONS_OF_RUN
from annotate_transformer.app.present.console import harmless
from annotate_transformer.app.present.printed import err, out, print_json, print_table
from annotate_transformer.app.present.words import baseline_of, counted
from annotate_transformer.store import BadQuestion
from annotate_transformer.store.names import head_name, neuron_name

if TYPE_CHECKING:
    import pandas as pd

    from annotate_transformer.ingest.next_token.language_model import Endpoint, LanguageModel

commands = typer.Typer(rich_markup_mode=None)

Llm = Annotated[
    str | None,
    typer.Option("--llm", help="Explain by this language model [default: by rules over tokens]."),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        envvar="OPENAI_BASE_URL",
        help="Base URL of the language model's OpenAI-compatible API, such as http://127.0.0.1:8000/v1. The "
        "environment variable OPENAI_API_KEY holds the key of the API.",
    ),
]


@commands.command(epilog="Example: annotate next-token --neurons 5 --db demo.duckdb")
def next_token(
    db: WrittenDb,
    run: Run = None,
    layers: Annotated[
        str, typer.Option(help="late (the last quarter), all, or numbers such as 3,4.")
    ] = "late",
    neurons: Annotated[
        int,
        typer.Option(
            help="Number of next-token neurons to choose in each layer, by highest congruence.", min=1
        ),
    ] = 20,
    windows: Annotated[
        int,
        typer.Option(help="Number of windows to make into prompts: those with a neuron's top activations."),
    ] = 20,
    max_tokens: Annotated[int, typer.Option(help="Max tokens of a prompt; longer prompts are dropped.")] = 64,
    share: Annotated[
        float,
        typer.Option(help="Min activation on a prompt, as a fraction of the activation in the whole window."),
    ] = 0.8,
    std_threshold: Annotated[
        float,
        typer.Option(
            help="A head is active on a prompt if its term in the neuron's pre-activation is more than this "
            "many standard deviations above the mean term of all heads before the neuron."
        ),
    ] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the random sample of neurons.", min=0)] = 0,
    llm: Llm = None,
    base_url: BaseUrl = None,
    limit: Limit = 20,
    quiet: Quiet = False,
) -> None:
    """Explain next-token neurons, and random neurons as a baseline: short prompts, relevant heads, ablations.

    Explanations of when each relevant head is active are made by rules, and with --llm also by a language
    model, as by `annotate explain`. The same command resumes a command that was stopped; after a finished
    command it adds nothing. Other settings replace a neuron's prompts and delete its explanations.
    """
    from annotate_transformer import store
    from annotate_transformer.ingest.live.prompt import load, revision
    from annotate_transformer.ingest.next_token.ablation import ablate
    from annotate_transformer.ingest.next_token.prompts import PromptSettings, look_up

    settings, watch = PromptSettings(windows, max_tokens, share, std_threshold), Watch(err, quiet)
    settings.check()
    endpoint = _endpoint(llm, base_url)
    # The `LanguageModel` is made before the long work, so that an error in its settings is raised at once.
    language_model = _language_model(endpoint)
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
    model = load(weights.model.model, revision(weights.model))
    added = look_up(model, str(db), number, chosen, settings, seed=seed, watch=tell("prompt"))
    ablated = ablate(model, str(db), number, tell("ablated head"))
    explained = _explain(db, number, None, watch)
    if language_model:
        explained += _explain(db, number, language_model, watch)
    if not quiet:
        new = f"prompts of {counted(added, 'neuron')} added" if added else "no neuron was new"
        if not (added or ablated or explained):
            new = "nothing was added"
        drawn = _drawn(db, number)
        out.print(
            f"Run {number}: {new}, {counted(len(chosen), 'next-token neuron')} in all; "
            f"{counted(drawn, 'neuron')} in the random sample."
        )
        _show(_explanations(db, number, llm), number, llm, limit)


@commands.command(epilog="Example: annotate explain --llm gpt-5-mini --dry-run --db demo.duckdb")
def explain(
    db: WrittenDb,
    run: Run = None,
    llm: Llm = None,
    base_url: BaseUrl = None,
    requests_per_minute: Annotated[
        float, typer.Option(help="Max requests per minute to the language model.")
    ] = 60,
    concurrency: Annotated[int, typer.Option(help="Max concurrent requests.", min=1)] = 4,
    price_in: Annotated[
        float | None, typer.Option(help="Price of a million input tokens, to store the cost.", min=0)
    ] = None,
    price_out: Annotated[float | None, typer.Option(help="Price of a million output tokens.", min=0)] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the requests and estimate their tokens; send nothing.")
    ] = False,
    limit: Limit = 20,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Explain when relevant heads are active, and score the explanations on held-out prompts.

    Run `annotate next-token` first. A command that was stopped is resumed, and no request is sent twice.
    """
    from annotate_transformer import store

    prices = None if price_in is None and price_out is None else (price_in or 0.0, price_out or 0.0)
    asking = {"requests_per_minute": requests_per_minute, "concurrency": concurrency, "prices": prices}
    endpoint = _endpoint(llm, base_url, **asking)
    with store.open(db) as s, s.together():
        number = s.run(run)
        if (
            s.sql("SELECT count(*) AS n FROM next_token_neurons WHERE run_id = $run", {"run": number}).n[0]
            == 0
        ):
            raise BadQuestion(
                f"Run {number} has no prompts of next-token neurons yet: `annotate next-token --db {db}` "
                "makes them."
            )
    if dry_run:
        _print_requests(db, number, endpoint)
        return
    _explain(db, number, _language_model(endpoint), Watch(err, quiet))
    if as_json:
        print_json({"explanations": _explanations(db, number, llm)}, number)
    elif not quiet:
        _show(_explanations(db, number, llm), number, llm, limit)


def _explanations(db: Path, run: int, llm: str | None) -> "pd.DataFrame":
    """Return the explanations by `llm`, or by rules if it is None, with the next-token of each neuron."""
    from annotate_transformer import store

    with store.open(db) as s, s.together():
        found = s.explanations(run)
        tokens = s.sql(
            "SELECT layer, neuron, next_token FROM next_token_neurons WHERE run_id = $run", {"run": run}
        )
    by_llm = found.language_model.isna() if llm is None else found.language_model == llm
    merged = found[by_llm].merge(tokens, on=["layer", "neuron"], how="left")
    merged.attrs = found.attrs
    return merged


def _drawn(db: Path, run: int) -> int:
    """Return the number of baseline neurons (drawn at random) that have prompts."""
    from annotate_transformer import store

    with store.open(db) as s:
        return int(
            s.sql(
                "SELECT count(*) AS n FROM next_token_neurons WHERE run_id = $r AND is_baseline", {"r": run}
            ).n[0]
        )


def _endpoint(llm: str | None, base_url: str | None, **asking: Any) -> "Endpoint | None":
    """Return the endpoint of the language model `llm`, or None if no language model is given.

    Raises:
        SettingsError: a value is not allowed.
    """
    from annotate_transformer.ingest.next_token.language_model import Endpoint

    if llm is None:
        return None
    endpoint = Endpoint(llm, base_url, **asking)
    endpoint.check()
    return endpoint


def _language_model(endpoint: "Endpoint | None") -> "LanguageModel | None":
    from annotate_transformer.ingest.next_token.language_model import LanguageModel

    if endpoint is None:
        return None
    key = os.environ.get("OPENAI_API_KEY") or "none"  # a local server needs no key
    return LanguageModel(endpoint, key)


def _explain(db: Path, run: int, language_model: "LanguageModel | None", watch: Watch) -> int:
    """Explain heads by `language_model`, or by rules if it is None; return the number of new explanations."""
    from annotate_transformer.ingest.next_token.explain import explain_by_language_model, explain_by_rules

    def tell(done: int, of: int, key: dict[str, Any], text: str) -> None:
        watch.say(f"{done} of {of}: {_whose(key)}: {text}")

    if language_model is None:
        return explain_by_rules(str(db), run, tell)
    return explain_by_language_model(str(db), run, language_model, tell)


def _print_requests(db: Path, run: int, endpoint: "Endpoint | None") -> None:
    from annotate_transformer.ingest.next_token.explain import requests

    if endpoint is None:
        raise BadQuestion("--dry-run prints the requests to a language model: name one with --llm.")
    read, written, number = 0, 0, 0
    for key, prompt, tokens_in, tokens_out in requests(str(db), run, endpoint):
        print(harmless(f"--- {_whose(key)}, about {tokens_in} tokens\n{prompt}\n"))
        read, written, number = read + tokens_in, written + tokens_out, number + 1
    cost = endpoint.cost(read, written)
    price = "" if cost is None else f", which costs about {cost:,.2f}"
    err.print(
        f"{counted(number, 'request')}: about {read:,} tokens to read (characters / 4) and {written:,} to "
        f"write{price}. Nothing was sent.",
        soft_wrap=True,
    )


def _show(found: "pd.DataFrame", run: int, llm: str | None, limit: int) -> None:
    """Print the explanations of next-token neurons, the best first, and the mean score of the baseline."""
    chosen = found[~found.is_baseline].sort_values("balanced_accuracy", ascending=False, kind="stable")
    by = "rules over tokens" if llm is None else llm
    title = f"Run {run}: explanations of heads by {by}, scored on held-out prompts"
    title += f"; baseline (heads of a random sample of neurons): {_baseline(found)}"
    print_table(title, chosen.head(limit), EXPLANATIONS_OF_RUN)


def _baseline(found: "pd.DataFrame") -> str:
    """Return the mean balanced accuracy of the baseline neurons' explanations, as text."""
    scored = found[found.baseline.notna()].to_dict("records")
    return baseline_of(scored[0]) if scored else "none scored"


def _whose(key: dict[str, Any]) -> str:
    """Return the names of the neuron and head that an explanation is about, as `L3N7 by L1H2`."""
    head = head_name(int(key["source_layer"]), int(key["source_head"]))
    return f"{neuron_name(int(key['layer']), int(key['neuron']))} by {head}"


def _layers(text: str, n_layers: int) -> list[int]:
    """Parse the value of --layers: return the layers' numbers.

    Raises:
        BadQuestion: the value does not name layers of the model.
    """
    from annotate_transformer.ingest.next_token.prompts import late

    if text in ("late", "all"):
        return late(n_layers) if text == "late" else list(range(n_layers))
    numbers = text.split(",")
    if not all(number.isdecimal() and int(number) < n_layers for number in numbers):
        raise BadQuestion(
            f"--layers {text} must be late, all, or numbers from 0 to {n_layers - 1} such as 0,1."
        )
    return [int(number) for number in numbers]
