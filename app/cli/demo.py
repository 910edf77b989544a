"""Print the output of `annotate demo`: one example of each kind of answer from the demo's store."""

import math
import shlex
import shutil
import sys
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape

from annotate_transformer import store
from annotate_transformer.app.present.tables import marked, table
from annotate_transformer.app.present.words import signed, visible
from annotate_transformer.store.names import head_name, neuron_name

PHRASE = " Dublin is the capital of"
TERMS = 12  # maximum number of terms printed for a decomposition; the smaller terms are summed in one line


def show(db: Path, run_id: int, console: Console) -> None:
    """Print the store's size, a decomposition, a neuron's and a head's contexts, and commands to try."""
    with store.open(db) as s:
        run = s.about(run_id)
        size, tokens = db.stat().st_size, int(s.runs().tokens.sum())
        console.print(
            f"\n[bold]{escape(str(db))}[/]: {size / 1e6:.1f} MB for {tokens:,} tokens "
            f"({size / tokens / 1e3:.1f} KB a token).\n"
            f"Run {run_id}: {run.tokens:,} tokens of {run.model} ({run.revision}).\n"
            f"Worst closure error, |sum of terms − logit|, over all positions and both targets: "
            f"[bold]{run.worst_closure:.1e}[/] logits.\n"
            f"{_checked(db, run_id)}\n",
            soft_wrap=True,
        )
        found = s.sql("FROM phrase($text, run := $run)", {"text": PHRASE, "run": run_id})
        position = int(found.last_position_id.iloc[0])
        _decomposition(s, position, console)
        _neuron(s, run_id, position, console)
        _head(s, run_id, console)
    _next(db, console)


def _checked(db: Path, run_id: int) -> str:
    """Return a line of text with the result of `annotate verify`."""
    findings = list(store.verify(db, run_id))
    wrong = [finding.check for finding in findings if finding.broken]
    told = f"failed: {', '.join(wrong)}" if wrong else "all pass"
    return f"Recomputed from the stored rows: {len(findings)} checks, {told}."


def _decomposition(s: store.Store, position: int, console: Console) -> None:
    p = s.sql("FROM positions WHERE position_id = $p", {"p": position}).iloc[0]
    terms = s.decomposition(position)
    terms = terms.reindex(terms.toward_next.abs().sort_values(ascending=False).index)
    rows = [
        [_term(term), signed(term.toward_next), signed(term.toward_top)]
        for term in terms.head(TERMS).itertuples()
    ]
    rest = terms.iloc[TERMS:]
    rows += [
        [
            f"{len(rest)} smaller terms",
            signed(rest.toward_next.sum()),
            signed(rest.toward_top.sum()),
        ],
        ["sum", signed(terms.toward_next.sum()), signed(terms.toward_top.sum())],
        ["the model's logit, centred", signed(p.next_logit), signed(p.top_logit)],
    ]
    title = (
        f"Direct effects on {visible(p.next_token)} after “…{PHRASE.strip()}”, in logits, "
        f"position {position}\n"
        f"(next token {visible(p.next_token)}: rank {p.next_rank}, p = {math.exp(p.next_logprob):.2f}; "
        f"top prediction {visible(p.top_token)}, p = {math.exp(p.top_logprob):.2f})"
    )
    columns = {
        "term": "left",
        f"next {visible(p.next_token)}": "right",
        f"top {visible(p.top_token)}": "right",
    }
    table(console, title, columns, rows)


def _term(term: object) -> str:
    component, layer = term.component, term.layer  # type: ignore[attr-defined]
    if component == "head":
        return f"head {head_name(layer, term.head)}"  # type: ignore[attr-defined]
    if component == "neuron":
        return f"neuron {neuron_name(layer, term.neuron)}"  # type: ignore[attr-defined]
    names = {
        "embed": "embedding",
        "final_bias": "final bias b_U",
        "attn_bias": "attention bias of layer",
        "mlp_bias": "MLP bias of layer",
        "mlp_remainder": "remaining neurons of layer",
    }
    return names[component] + ("" if pd.isna(layer) else f" {layer}")


def _neuron(s: store.Store, run_id: int, position: int, console: Console) -> None:
    """Print the top activations of the neuron with the largest effect on the next token at `position`."""
    found = s.sql(
        "FROM neurons WHERE position_id = $p ORDER BY toward_next DESC LIMIT 1", {"p": position}
    ).iloc[0]
    contexts = s.neuron_contexts(int(found.layer), int(found.neuron), run_id)
    high = contexts[contexts.side == "high"].drop_duplicates("document_id").head(6)
    rows = [
        [
            signed(row.activation, 2),
            visible(row.next_token),
            marked(console, row.before, row.text, row.after),
        ]
        for row in high.itertuples()
    ]
    name = neuron_name(int(found.layer), int(found.neuron))
    title = f"Top activations of neuron {name} in the corpus, one per document"
    columns = {"activation": "right", "next token": "left", "context, token marked": "left"}
    table(console, title, columns, rows)


def _head(s: store.Store, run_id: int, console: Console) -> None:
    """Print contexts in which the head with the most induction attention has its largest effects."""
    best = "FROM head_stats WHERE run_id = $run ORDER BY attention_induction DESC LIMIT 1"
    head = s.sql(best, {"run": run_id}).iloc[0]
    layer, number = int(head.layer), int(head["head"])
    name, contexts = head_name(layer, number), s.head_contexts(layer, number, run_id)
    high = contexts[contexts.side == "high"].drop_duplicates("next_token").head(6)
    rows = [
        [
            signed(row.toward_next, 2),
            visible(row.token),
            visible(row.next_token),
            f"{row.top_source_attention:.2f}",
            marked(console, row.source_before, row.source_text, row.source_after, width=40),
        ]
        for row in high.itertuples()
    ]
    title = (
        f"Head {name} where its effect on the next token is largest. Induction: where the token occurred\n"
        f"before, {head.attention_induction:.0%} of its attention is on the token after that occurrence."
    )
    columns = {
        "effect (logits)": "right",
        "token": "left",
        "next token": "left",
        "attention": "right",
        "context, source marked": "left",
    }
    table(console, title, columns, rows)


def _next(db: Path, console: Console) -> None:
    console.print("[bold]Try next[/]")
    quoted, annotate = shlex.quote(str(db)), _command()
    for line in (
        f"{annotate} app --db {quoted}",
        f"{annotate} verify {quoted}",
        f"""{annotate} sql "FROM head_stats" --db {quoted}""",
        f"{annotate} heads --db {quoted}  # their behaviour on text and by their weights",
        f"""{annotate} neurons --token " the" --db {quoted}""",
        f"{annotate} ingest my.txt --db my.duckdb                         # your own text, the same model",
        f"{annotate} ingest my.txt --model pythia-70m --db pythia.duckdb  # Pythia's weights from the hub",
    ):
        console.print(f"  {line}", markup=False, soft_wrap=True)


def _command() -> str:
    """Return `annotate` if it is on the PATH, else the path of `annotate` beside the Python interpreter."""
    if shutil.which("annotate"):
        return "annotate"
    beside = Path(sys.executable).with_name("annotate")
    inside = beside.is_relative_to(Path.cwd())
    return shlex.quote(str(beside.relative_to(Path.cwd()) if inside else beside))
