"""The commands that make a store: `annotate ingest`, `weights` and `demo`."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from annotate_transformer.app.cli import check, stopping
from annotate_transformer.app.cli.jobs.local import LocalProcesses
from annotate_transformer.app.cli.jobs.parts import Parts, Starter
from annotate_transformer.app.cli.jobs.ray_tasks import OnRay
from annotate_transformer.app.cli.options import NewDb, Quiet
from annotate_transformer.app.cli.parts import annotated_in_parts, folder_of, options_of, tell_merged
from annotate_transformer.app.cli.progress import Watch
from annotate_transformer.app.present.console import Console
from annotate_transformer.app.present.words import closeness, counted

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from annotate_transformer.ingest.corpus.chosen import ChosenCorpus
    from annotate_transformer.ingest.live.contrasts import Columns
    from annotate_transformer.ingest.models.model import Model
    from annotate_transformer.ingest.models.names import Checkpoint
    from annotate_transformer.ingest.run.pipeline import RunReport
    from annotate_transformer.ingest.run.plan import PartOf
    from annotate_transformer.ingest.run.settings import Settings

commands = typer.Typer(rich_markup_mode=None)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def _count_or_all(value: str) -> int | None:
    """Parse an option's value: a whole number, or `all`, for which None is returned."""
    if value == "all":
        return None
    if not value.isdecimal():
        raise typer.BadParameter(f"{value!r} is neither a number nor 'all'")
    return int(value)


MODEL = (
    "neox-2m (embedded), pythia-14m … pythia-12b[-deduped], gpt2[-medium, -large, -xl], smollm2-135m, a hub "
    "id, a folder or a .gguf file, of a GPT, Llama, Mistral, Qwen, Gemma, Phi, OPT, BLOOM, Falcon or "
    "StarCoder2 model."
)
REVISION = "Training step, such as step1000 [default: the last one]."
Device = Annotated[str, typer.Option(help="cpu, cuda, mps, or auto.")]
Dtype = Annotated[str, typer.Option(help="float32 or float64.")]


@commands.command(
    epilog="Example: annotate ingest speeches.jsonl.gz --db speeches.duckdb --limit-tokens 100000"
)
def ingest(
    ctx: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE…",
            help="Text to annotate: .txt, .jsonl, .json, .csv, .tsv or .parquet (also .gz, .zst), a folder "
            "of them, - for standard input, hf:NAME for a data set of the Hugging Face hub.",
        ),
    ],
    db: NewDb,
    model: Annotated[str, typer.Option(help=MODEL)] = "neox-2m",
    revision: Annotated[str | None, typer.Option(help=REVISION)] = None,
    context: Annotated[
        int | None,
        typer.Option(help="Max tokens in a window [default: 256, or fewer if the model reads fewer]."),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            help="Number of new tokens in each further window of a long document; if smaller than the "
            "window, windows overlap [default: no overlap]."
        ),
    ] = None,
    bos: Annotated[bool, typer.Option("--bos/--no-bos", help="Put a BOS before every window.")] = False,
    parse_special: Annotated[
        bool,
        typer.Option(
            "--parse-special",
            help="Read the name of a special token in the text, such as <|endoftext|>, as that token, not as "
            "ordinary text.",
        ),
    ] = False,
    limit_tokens: Annotated[int | None, typer.Option(help="Stop after this many tokens.")] = None,
    keep_neurons: Annotated[
        str,
        typer.Option(
            help="Number of neurons to store per position and layer, or all: this many with the largest "
            "|activation|, and as many with the largest |effect| on the next token and on the top "
            "prediction. With all, activations beyond the 8 strongest are rounded to 31 levels."
        ),
    ] = "8",
    keep_sources: Annotated[
        str, typer.Option(help="Number of (head, source) terms to store per position, or all.")
    ] = "24",
    top: Annotated[
        int | None,
        typer.Option(
            help="Number of entries in each neuron's and head's exact lists of largest and smallest values "
            "[default: 100, or fewer (at least 20) for a text that is short for the model's d_mlp]."
        ),
    ] = None,
    first_in_lists: Annotated[
        bool,
        typer.Option("--first-in-lists", help="Include the first position of each window in the top lists."),
    ] = False,
    special_in_lists: Annotated[
        bool,
        typer.Option(
            "--special-in-lists", help="Include special tokens in lists, statistics and the random sample."
        ),
    ] = False,
    samples: Annotated[
        int | None,
        typer.Option(
            help="Number of positions in the random sample, for which every activation and effect is stored "
            "[default: 1000, or fewer (at least 200) for a text that is short for the model's d_mlp]."
        ),
    ] = None,
    lens: Annotated[bool, typer.Option("--lens", help="Also store the logit lens (slow).")] = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_tokens: Annotated[
        int | None, typer.Option(help="Max tokens in a forward pass [default: 512; 256 for larger models].")
    ] = None,
    shard_tokens: Annotated[
        int | None,
        typer.Option(
            help="Approximate number of tokens in a shard (one transaction) [default: chosen to limit "
            "memory]."
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="CONDITION",
            help='Annotate only documents whose metadata fulfil this condition in SQL, such as "party = '
            "'Whig' AND year > 1840\".",
        ),
    ] = None,
    sample_documents: Annotated[
        int | None, typer.Option(help="Annotate only so many documents, drawn at random from all.")
    ] = None,
    tokens_per_document: Annotated[
        int | None, typer.Option(help="Cut every document after this many tokens.")
    ] = None,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Read the documents in a random order.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of --sample-documents and --shuffle.")] = 0,
    text_column: Annotated[str, typer.Option(help="Column or key with the text.")] = "text",
    encoding_errors: Annotated[
        str, typer.Option(help="strict, or replace: invalid UTF-8 becomes U+FFFD.")
    ] = "strict",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip rows without text, and count them.")
    ] = False,
    format: Annotated[
        str | None,
        typer.Option(help="Format of the sources (text, csv, …) [default: from the file names]."),
    ] = None,
    delimiter: Annotated[
        str | None, typer.Option(help="Delimiter of CSV columns [default: a comma; in .tsv a tab].")
    ] = None,
    encoding: Annotated[str, typer.Option(help="Encoding of the text, such as latin-1 or utf-16.")] = "utf-8",
    max_line: Annotated[float, typer.Option(help="Max MB in a line of .jsonl, .csv or .tsv.")] = 128,
    max_document: Annotated[float, typer.Option(help="Max MB in a text.")] = 128,
    max_temporary: Annotated[
        float,
        typer.Option(help="Max MB of a temporary file for a source that can be read only once (pipe, hub)."),
    ] = 20_000,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Start again and replace the run of the same text, model and settings; by default that run "
            "is resumed.",
        ),
    ] = False,
    skip_equal_weights: Annotated[
        bool,
        typer.Option(
            "--skip-equal-weights",
            help="Annotate nothing if the store has the run with equal weights under another revision.",
        ),
    ] = False,
    parts: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Annotate N parts of the run in processes of their own, in the folder DB.parts, and merge "
            "them.",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="M",
            min=1,
            help="Max number of processes at a time, with --parts [default: 1; with --ray as many as its "
            "machines have room for].",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Annotate the parts on a Ray cluster, one task for each: local (started for the command), "
            "auto (the one that runs on this machine), HOST:PORT or ray://HOST:PORT. DB must be on storage "
            "that all its machines share.",
        ),
    ] = None,
    cpus_per_part: Annotated[
        float | None,
        typer.Option(
            help="CPUs of a part, with --ray; 0.5 is half of one [default: those of a machine, divided by "
            "the parts that it has at a time]."
        ),
    ] = None,
    gpus_per_part: Annotated[
        float, typer.Option(help="GPUs of a part, with --ray; with 0.25 one GPU has four parts at a time.")
    ] = 0,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="K/N",
            help="Annotate only part K of N of the run, into a store of its own. `annotate merge` makes one "
            "run of all parts. Implies --no-weights.",
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The plan of the parts: read if the file exists, else made and written [default: each part "
            "makes its own].",
        ),
    ] = None,
    weights: Annotated[
        bool, typer.Option(help="Also analyse the model's weights, unless that was done already.")
    ] = True,
    answer_column: Annotated[
        str | None,
        typer.Option(
            help="Column with the right next token after each text. With --distractor-column, the direct "
            "effects on the logit of the answer minus that of the distractor are stored too."
        ),
    ] = None,
    distractor_column: Annotated[str | None, typer.Option(help="Column with the wrong next token.")] = None,
    answer_position: Annotated[
        str | None,
        typer.Option(
            help="Column with the number of characters before the answer [default: the answer follows the "
            "whole text]."
        ),
    ] = None,
    quiet: Quiet = False,
) -> int:
    """Annotate text with a model and store the result.

    The same command resumes a run that was stopped; for a finished run it adds nothing. Ctrl-C finishes and
    commits the shard that is being annotated.
    """
    from annotate_transformer.ingest.run.settings import Settings

    settings = Settings(
        context=context,
        stride=stride,
        bos=bos,
        parse_special=parse_special,
        limit_tokens=limit_tokens,
        keep_neurons=_count_or_all(keep_neurons),
        keep_sources=_count_or_all(keep_sources),
        top=top,
        first_in_lists=first_in_lists,
        special_in_lists=special_in_lists,
        samples=samples,
        lens=lens,
        batch_tokens=batch_tokens,
        shard_tokens=shard_tokens,
    )
    from annotate_transformer.ingest.corpus.chosen import Choice

    reading = {
        "choice": Choice(where, sample_documents, shuffle, seed, tokens_per_document),
        "text_column": text_column,
        "encoding_errors": encoding_errors,
        "skip_bad": skip_bad,
        "format": format,
        "delimiter": delimiter,
        "encoding": encoding,
        "max_line": max_line,
        "max_document": max_document,
        "max_temporary": max_temporary,
    }
    loading = {"name": model, "revision": revision, "device": device, "dtype": dtype}
    contrasts = _contrast_columns(answer_column, distractor_column, answer_position)
    asked = _part(part, plan, contrasts)
    on_ray = _on_ray(ray, jobs, cpus_per_part, gpus_per_part, parts)
    if parts:
        if asked or "-" in sources:
            raise typer.BadParameter("--parts goes neither with --part nor with standard input")
        options = options_of(ctx, on_ray.device(device) if on_ray else None)
        run = Parts(folder_of(db), parts, options, sources, Watch(err, quiet))
        return _ingest_in_parts(
            run, on_ray or jobs or 1, db, settings, reading, loading,
            fresh=fresh, any_revision=skip_equal_weights, weights=weights, contrasts=contrasts,
        )  # fmt: skip
    return _ingest(
        sources, db, settings, reading, loading,
        fresh=fresh, any_revision=skip_equal_weights, part=asked, weights=weights and not asked,
        contrasts=contrasts, quiet=quiet,
    ).run_id  # fmt: skip


def _part(part: str | None, plan: Path | None, contrasts: "Columns | None") -> "PartOf | None":
    from annotate_transformer.ingest.run.plan import PartOf

    if part is None and plan is not None:
        raise typer.BadParameter("--plan belongs to --part")
    if part is not None and contrasts:
        raise typer.BadParameter(
            "--part stores no contrasts, because they need the whole run. Leave --answer-column and "
            "--distractor-column out; after the merge, the same ingest with them adds the contrasts"
        )
    return PartOf.parse(part, plan) if part is not None else None


def _on_ray(
    address: str | None, jobs: int | None, cpus: float | None, gpus: float, parts: int | None
) -> OnRay | None:
    """Return the options for a Ray cluster, or None without --ray."""
    if address is None:
        if cpus is not None or gpus:
            raise typer.BadParameter("--cpus-per-part and --gpus-per-part belong to --ray")
        return None
    if not parts:
        raise typer.BadParameter("--ray needs --parts N: each part is a task of its own")
    on_ray = OnRay(address, jobs, cpus, gpus)
    on_ray.check()
    return on_ray


def _ingest_in_parts(
    parts: Parts,
    where: OnRay | int,
    db: Path,
    settings: "Settings",
    reading: dict[str, Any],
    loading: dict[str, Any],
    *,
    fresh: bool,
    any_revision: bool,
    weights: bool,
    contrasts: "Columns | None",
) -> int:
    """Annotate the parts of a run and merge them; then store contrasts and analyse the weights if wanted.

    Returns the number of the run. `where`: a Ray cluster, or the number of local processes at a time.
    """
    from annotate_transformer.ingest.models.devices import check_device, check_dtype
    from annotate_transformer.ingest.models.names import resolve
    from annotate_transformer.ingest.run.provenance import libraries
    from annotate_transformer.store.writer import check

    settings.check()
    source, dtype = resolve(loading["name"], loading["revision"]), check_dtype(loading["dtype"])
    # With --ray the tasks run on other machines; this one may have no GPU.
    device = check_device("auto" if isinstance(where, OnRay) else loading["device"])
    check(db)
    watch, model, run_id = parts.watch, None, None
    if _may_be_finished(db, parts) and not fresh:
        model = _load(source, device, dtype, watch)
        of_parts = where.device(loading["device"]) if isinstance(where, OnRay) else device
        run_id = _finished_run(parts, db, settings, reading, model, of_parts, any_revision=any_revision)
    if run_id is None:
        model = None  # frees the memory while the processes run

        def starting() -> AbstractContextManager[Starter]:
            if isinstance(where, OnRay):
                return where.starter(parts, libraries())
            return nullcontext(LocalProcesses(min(where, parts.parts)))

        report = annotated_in_parts(parts, starting, libraries(), db, fresh=fresh)
        tell_merged(report, db, watch.quiet)
        run_id = report.run_id
    elif not watch.quiet:
        out.print(f"Run {run_id} is finished already: nothing was added.")
    if weights or contrasts:
        model = model or _load(source, device, dtype, watch)
        if contrasts:
            _contrast(model, db, run_id, contrasts, watch)
        if weights:
            read_weights(model, db, quiet=watch.quiet)
    return run_id


def _may_be_finished(db: Path, parts: Parts) -> bool:
    """Return whether a model must be loaded to know if the store has the run.

    While the folder of the parts is there, a store without any finished run has not got it.
    """
    from annotate_transformer import store

    if not db.exists():
        return False
    if not parts.folder.exists():
        return True
    try:
        with store.open(db) as opened:
            return bool((opened.runs()["status"] == "finished").any())
    except store.NotAStore:  # an empty file; any other file that is not a store was refused before
        return False


def _finished_run(
    parts: Parts,
    db: Path,
    settings: "Settings",
    reading: dict[str, Any],
    model: "Model",
    device: str,
    *,
    any_revision: bool,
) -> int | None:
    """Return the number of the run that a command asks for if the store has it finished, else None.

    Raises:
        SettingsError: the store has the run unfinished, and it was not begun in parts.
    """
    from annotate_transformer.ingest.errors import SettingsError
    from annotate_transformer.ingest.run.pipeline import stored

    with _corpus(parts.sources, reading, model.checkpoint, settings) as corpus:
        begun = stored(corpus, model, str(db), settings, device, any_revision=any_revision)
    if begun.status == "running" and not parts.folder.exists():
        raise SettingsError(
            f"{db} has run {begun.run_id} of the same text, model and settings, unfinished and not in parts. "
            "The same command without --parts resumes it; --fresh starts again."
        )
    return begun.run_id if begun.status == "finished" else None


def _corpus(
    sources: list[str], reading: dict[str, Any], source: "Checkpoint", settings: "Settings", **options: Any
) -> "ChosenCorpus":
    """Return the corpus of the documents that the user's options choose. `reading`: the options' values."""
    from annotate_transformer.ingest.corpus.chosen import ChosenCorpus
    from annotate_transformer.ingest.run.survey import beginning

    cut = beginning(source, settings, reading["choice"].tokens)
    return ChosenCorpus(sources, beginning=cut, **reading, **options)


def _contrast_columns(answer: str | None, distractor: str | None, position: str | None) -> "Columns | None":
    from annotate_transformer.ingest.live.contrasts import Columns

    if answer and distractor:
        return Columns(answer, distractor, position)
    if answer or distractor or position:
        raise typer.BadParameter(
            "--answer-column and --distractor-column belong together; --answer-position needs both"
        )
    return None


def _ingest(
    sources: list[str],
    db: Path,
    settings: "Settings",
    reading: dict[str, Any],
    loading: dict[str, Any],
    *,
    fresh: bool = False,
    any_revision: bool = False,
    part: "PartOf | None" = None,
    weights: bool = True,
    contrasts: "Columns | None" = None,
    quiet: bool = False,
) -> "RunReport":
    """Ingest the sources; if wanted, also store contrasts and analyse the weights. Print a report of each."""
    from annotate_transformer.ingest.live.contrasts import check as check_columns
    from annotate_transformer.ingest.models.devices import check_device, check_dtype
    from annotate_transformer.ingest.models.names import resolve
    from annotate_transformer.ingest.run.pipeline import ingest as run
    from annotate_transformer.ingest.run.survey import survey
    from annotate_transformer.store.writer import check

    settings.check()
    source = resolve(loading["name"], loading["revision"])
    device, dtype = check_device(loading["device"]), check_dtype(loading["dtype"])
    check(db)
    watch = Watch(err, quiet)
    with _corpus(sources, reading, source, settings, notice=watch.say) as corpus, watch:
        watch.say(f"reading {', '.join(sources)}")
        if contrasts:
            check_columns(contrasts, corpus)
        surveyed = None if part else survey(corpus, source, settings)  # a part's plan has the survey
        model = _load(source, device, dtype, watch)
        with stopping.finishing():
            report = run(
                corpus,
                model,
                str(db),
                settings,
                survey=surveyed,
                part=part,
                fresh=fresh,
                any_revision=any_revision,
                watch=watch.update,
                stop=lambda: bool(stopping.asked()),
            )
    if not quiet:
        _tell(report, db)
    if stopping.asked():
        raise typer.Exit(128 + stopping.asked())
    if contrasts:
        _contrast(model, db, report.run_id, contrasts, watch)
    if weights:
        read_weights(model, db, quiet=quiet)
    return report


def _contrast(model: "Model", db: Path, run_id: int, columns: "Columns", watch: "Watch") -> None:
    """Store a contrast (effects on answer − distractor) for each document; print how many were stored."""
    from annotate_transformer.ingest.live.contrasts import contrast

    def progress(done: int, total: int) -> None:
        watch.say(f"contrasts of {done:,} of {total:,} documents")

    report = contrast(model, str(db), run_id, columns, progress)
    for why in report.why.values():
        err.print(f"Skipped, for example: {why}.", soft_wrap=True, markup=False)
    if not watch.quiet:
        of = f", {report.there:,} were stored before" if report.there else ""
        lost = f", {report.skipped:,} skipped" if report.skipped else ""
        lost += f", {report.without:,} without answer or distractor" if report.without else ""
        told = f"Contrasts of run {run_id}: {counted(report.stored, 'document')} added{of}{lost}."
        out.print(told, soft_wrap=True, markup=False)


def _load(source: "Checkpoint", device: str, dtype: "torch.dtype", watch: "Watch") -> "Model":
    """Load a model; print its name, and what is unusual about its weights or its architecture."""
    from annotate_transformer.ingest.models.families.other import Other
    from annotate_transformer.ingest.models.model import Model

    watch.say(f"loading {source.name}")
    model = Model(source, device=device, dtype=dtype)
    if model.dequantised_from:
        watch.say(f"weights of {source.name} are dequantised from {model.dequantised_from}")
    if isinstance(model.family, Other):
        watch.say(
            f"{source.name} is {model.family.architecture}, which has no class of its own here; its "
            f"log-probabilities of a test text differ by at most {closeness(model.hf_difference)} nats from "
            "Hugging Face's"
        )
    return model


def _tell(report: "RunReport", db: Path) -> None:
    """Print the result of an ingest: notices, skipped rows, numbers of tokens, and the store's size."""
    if report.differs:
        err.print(f"{report.differs}. A new run was made.", soft_wrap=True, markup=False)
    if report.equal_weights:
        err.print(f"{report.equal_weights}.", soft_wrap=True, markup=False)
    if report.scan.skipped:
        err.print(f"{counted(report.scan.skipped, 'bad row')} skipped.")
    part = f", part {report.part.number} of {report.part.parts}" if report.part else ""
    if report.status == "nothing to do":
        tokens, whole = counted(report.tokens, "token"), "complete" if part else "finished"
        out.print(f"Run {report.run_id}{part} is {whole} already ({tokens}): nothing was added.")
        return
    resumed = " (resumed)" if report.resumed else ""
    out.print(
        f"Run {report.run_id}{part}{resumed}: {counted(report.new_tokens, 'token')} annotated, "
        f"{report.tokens:,} in all, {db.stat().st_size / 1e6:,.1f} MB in {db}.",
        soft_wrap=True,
        markup=False,
    )
    if stopping.asked():
        out.print("Stopped as asked; the same command resumes from here.")


@commands.command(epilog="Example: annotate weights --db my.duckdb")
def weights(
    db: NewDb,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model as in `annotate ingest` [default: that of the last run, or neox-2m if there is no "
            "run]."
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help=REVISION)] = None,
    top: Annotated[int, typer.Option(help="Length of each list.")] = 20,
    distance: Annotated[
        int, typer.Option(help="Distance in tokens at which heads' QK circuits are evaluated.")
    ] = 4,
    device: Device = "auto",
    dtype: Dtype = "float32",
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute it again even if it is stored.")] = False,
    quiet: Quiet = False,
) -> None:
    """Analyse a model's weights and store the results; `annotate ingest` does so too.

    For weights that were read already it adds nothing.
    """
    from annotate_transformer.ingest.live.prompt import check_weights
    from annotate_transformer.ingest.live.prompt import revision as of_run
    from annotate_transformer.ingest.models.devices import check_device, check_dtype
    from annotate_transformer.ingest.models.names import EMBEDDED_MODEL, resolve
    from annotate_transformer.store.writer import check

    about = _last_run(db) if model is None else None
    named = (model or EMBEDDED_MODEL, revision) if about is None else (about.model, revision or of_run(about))
    source = resolve(*named)
    where, precision = check_device(device), check_dtype(dtype)
    check(db)
    loaded = _load(source, where, precision, Watch(err, quiet))
    if about is not None and not revision:
        check_weights(loaded, about)
    read_weights(loaded, db, quiet=quiet, always=True, top=top, distance=distance, fresh=fresh)


def _last_run(db: Path) -> "pd.Series[Any] | None":
    """Return the row of the run that finished last or, if none has, of the last run; None without runs."""
    from annotate_transformer import store

    try:
        with store.open(db) as s:
            runs = s.runs()
    except store.NotAStore:  # no file or an empty one; `check` refuses other files
        return None
    by_end = runs.sort_values("finished", na_position="first", kind="stable")
    return None if runs.empty else by_end.iloc[-1]


def read_weights(
    model: "Model", db: Path, *, quiet: bool = False, always: bool = False, **options: Any
) -> None:
    """Analyse a model's weights and print what was added; if nothing was, say so only if `always` is set."""
    from annotate_transformer.ingest.weights.tables import annotate_weights

    Watch(err, quiet).say(f"reading the weights of {model.checkpoint.name}")
    report = annotate_weights(model, str(db), **options)
    name, added = model.checkpoint.name, report.annotated or report.runs
    if quiet or not (added or always):
        return
    # If `always` is not set, an ingest came before, and `_tell` has printed this notice with its result.
    if report.equal_weights and always:
        err.print(f"{report.equal_weights}.", soft_wrap=True, markup=False)
    if added:
        of_runs = f", bigrams of run {', '.join(map(str, report.runs))}" if report.runs else ""
        told = f"Weights of {name}{of_runs}: {sum(report.seconds.values()):,.1f} s, "
        told += f"{db.stat().st_size / 1e6:,.1f} MB in {db}."
    else:
        told = f"The weights of {name} were read already (lists of {report.top}): nothing was added."
    if report.unasked:
        revision = f" --revision {model.checkpoint.revision}" if model.checkpoint.revision else ""
        told += (
            " The circuits of heads were computed for the tokens that were most frequent at that time; "
            f"{report.unasked} of today's are missing. `annotate weights --model {name}{revision} --db {db} "
            "--fresh` computes them."
        )
    out.print(told, soft_wrap=True, markup=False)


@commands.command(epilog="Example: annotate demo --db demo.duckdb")
def demo(db: NewDb = Path("demo.duckdb")) -> None:
    """Annotate the embedded corpus with the embedded model, verify the store and show answers from it."""
    from annotate_transformer.app.cli.demo import show
    from annotate_transformer.ingest.corpus.chosen import Choice
    from annotate_transformer.ingest.models.names import EMBEDDED, EMBEDDED_MODEL
    from annotate_transformer.ingest.run.settings import Settings

    corpus = str(EMBEDDED / "corpus.jsonl")
    loading = {"name": EMBEDDED_MODEL, "revision": None, "device": "cpu", "dtype": "float32"}
    report = _ingest([corpus], db, Settings(lens=True), {"choice": Choice()}, loading)
    check.verify(db, report.run_id, quiet=True)
    show(db, report.run_id, out)
