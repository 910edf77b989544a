"""Five predictions, the induction heads and the next-token neurons of SmolLM2, and two ablations.

    python examples/study_smollm2.py [--model smollm2-135m] [--tokens 6000] [--folder study]

Prints every number of docs/study-smollm2.md as Markdown. The folder keeps the stores, so a second run does
not annotate again. Intervals are 95 % percentile bootstraps (10,000 resamples) of documents or sequences.
"""

import argparse
import json
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import annotate_transformer as at
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import EMBEDDED, resolve
from annotate_transformer.ingest.replications.induction_heads import doubled_tokens, induction_scores
from annotate_transformer.ingest.replications.quantity import mean
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.weights.tables import annotate_weights
from annotate_transformer.store.names import head_name, neuron_name

PROMPTS = {
    "a fact": "The capital of France is Paris. The capital of Germany is Berlin. The capital of Italy is "
    "Rome. Paris is the capital of France. Rome is the capital of Italy. Berlin is the capital of",
    "a repeated name": "Marek Tollivan sold lamps. In winter the lamps of Marek Toll",
    "agreement in number": "The keys to the old wooden cabinet in the kitchen",
    "a series of dates": "The letters are dated 1 March, 2 April, 3 May, 4",
    "the indirect object": "When Mary and John went to the store, John gave a drink to",
}
INDUCTION = 0.5  # an induction head has at least this score on random tokens
CONTROLS = 10  # number of control sets
OCCURRENCES = 200  # min number of occurrences of a token whose neuron is ablated
RESAMPLES, BATCH = 10_000, 8

# Each head at the positions whose token occurred earlier in the window. attends: the source that it attends
# to most is directly after an earlier occurrence; repeats: the next token followed the last occurrence too.
REPEATS = """
WITH earlier AS (
    SELECT p.position_id, max(e.position_id) AS last FROM positions p JOIN positions e
    ON e.window_id = p.window_id AND e.token_id = p.token_id AND e.position_id < p.position_id
    WHERE p.next_token_id IS NOT NULL GROUP BY p.position_id
)
SELECT p.document_id, h.layer, h.head, h.toward_next, l.next_token_id = p.next_token_id AS repeats,
       coalesce(b.window_id = p.window_id AND b.token_id = p.token_id, false) AS attends
FROM earlier JOIN positions p USING (position_id) JOIN positions l ON l.position_id = earlier.last
JOIN heads h ON h.position_id = p.position_id
LEFT JOIN positions b ON b.position_id = h.top_source_position_id - 1
ORDER BY p.position_id
"""
Head, Unit = tuple[int, int], tuple[str, int, int]  # layer, head; z or post, layer, head or neuron


def annotated(model: Model, texts: Sequence[str], path: Path, tokens: int | None = None) -> at.Store:
    """Return the store of some texts, up to a number of tokens."""
    source = path.with_suffix(".jsonl")
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    with Corpus([str(source)]) as corpus:
        ingest(corpus, model, str(path), Settings(limit_tokens=tokens))
    return at.open(path)


def shuffled_corpus() -> list[str]:
    """Return the texts of the embedded corpus, which is sorted by topic, in a random order."""
    lines = (EMBEDDED / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    random.Random(0).shuffle(lines)
    return [json.loads(line)["text"] for line in lines]


def estimate(values: np.ndarray, groups: np.ndarray, digits: int = 3) -> str:
    """Return the mean of values, with its interval from resampling groups (documents, sequences)."""
    _, group = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(group, values), np.bincount(group)
    even = np.full(len(sums), 1 / len(sums))
    drawn = np.random.default_rng(0).multinomial(len(sums), even, RESAMPLES)
    low, high = np.quantile((drawn @ sums) / (drawn @ counts), (0.025, 0.975))
    return f"{values.mean():.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def show(title: str, rows: pd.DataFrame | list[dict[str, object]]) -> None:
    """Print a Markdown table."""
    frame = pd.DataFrame(rows)
    print(f"\n### {title}\n\n| {' | '.join(frame.columns)} |\n|{'---|' * len(frame.columns)}")
    for row in frame.astype(str).to_numpy():
        print(f"| {' | '.join(row)} |", flush=True)


def strongest(s: at.Store, position_id: int, by: str) -> str:
    """Return the three terms (component, head, neuron) with the largest |effect| on the top prediction."""
    rows = s.decomposition(position_id, by=by)
    rows = rows.loc[rows.toward_top.abs().nlargest(3).index]
    named = {"head": head_name, "neuron": neuron_name}.get(by, _component_name)
    names = [named(layer, number) for layer, number in zip(rows.layer, rows[by], strict=True)]
    if by == "head":  # the token that the head attends to most, and the attention probability
        sources = [s.position(source).token for source in rows.top_source_position_id]
        of_heads = zip(names, sources, rows.top_source_attention, strict=True)
        names = [f"{name} (`{source}` {attention:.2f})" for name, source, attention in of_heads]
    return ", ".join(f"{name} {x:+.2f}" for name, x in zip(names, rows.toward_top, strict=True))


def _component_name(layer: float, component: str) -> str:
    return component if pd.isna(layer) else f"L{layer:.0f}{component}"


def predictions(s: at.Store) -> list[dict[str, object]]:
    """Return the prediction at the end of each prompt with its strongest terms, in logits."""
    ends = s.sql("FROM positions WHERE next_token_id IS NULL ORDER BY document_id")
    made = []
    for prompt, row in zip(PROMPTS, ends.itertuples(), strict=True):
        of_row = {
            "prompt": prompt,
            "top": f"`{row.top_token}`",
            "probability": f"{np.exp(row.top_logprob):.3f}",
        }
        of_row |= {"logit": f"{row.top_logit:.2f}", "closure error": f"{abs(row.closure_top):.1e}"}
        made.append(
            of_row | {by: strongest(s, row.position_id, by) for by in ("component", "head", "neuron")}
        )
    return made


def induction_heads(s: at.Store, scores: torch.Tensor) -> list[dict[str, object]]:
    """Return the induction heads by random tokens, beside the same heads on the corpus."""
    seen, stats, made = s.sql(REPEATS), s.sql("FROM head_stats").set_index(["layer", "head"]), []
    for layer, head in found(scores):
        here = seen[(seen.layer == layer) & (seen["head"] == head)]
        score, stat = mean("", "", scores[:, layer, head], ""), stats.loc[layer, head]
        row = {"head": head_name(layer, head)}
        row |= {"score": f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"}
        row |= {f"attention (n = {stat.attention_induction_count:.0f})": f"{stat.attention_induction:.3f}"}
        row |= {f"attends (n = {len(here)})": estimate(here.attends.to_numpy(float), here.document_id)}
        for title, part in (("repeats", here[here.repeats]), ("does not repeat", here[~here.repeats])):
            effect = estimate(part.toward_next.to_numpy(float), part.document_id)
            row |= {f"effect, {title} (n = {len(part)}, {part.document_id.nunique()} documents)": effect}
        made.append(row)
    return made


def beside_the_highest(s: at.Store, heads: list[Head]) -> list[dict[str, object]]:
    """Return how much more often than the first head the others attend most to induction positions."""
    seen = s.sql(REPEATS)
    of = {head: seen[(seen.layer == head[0]) & (seen["head"] == head[1])] for head in heads}
    first, made = of[heads[0]].attends.to_numpy(float), []
    for head in heads[1:]:
        more = of[head].attends.to_numpy(float) - first
        made.append(
            {"head": head_name(*head), f"difference (n = {len(more)})": estimate(more, of[head].document_id)}
        )
    return made


def found(scores: torch.Tensor) -> list[Head]:
    """Return the heads with an induction score of at least INDUCTION, the highest first."""
    means = scores.mean(0)
    heads = [(layer, head) for layer, head in (means >= INDUCTION).nonzero().tolist()]
    return sorted(heads, key=lambda head: -float(means[head]))


@torch.inference_mode()
def logprobs(model: Model, tokens: torch.Tensor, ablated: Sequence[Unit] = ()) -> torch.Tensor:
    """Return the log-probability of each next token, of shape (sequence, position − 1), in nats.

    The z of ablated heads and the activations of ablated neurons are 0 at every position.
    """
    points = {"z": "attn.hook_z", "post": "mlp.hook_post"}
    hooks = [(f"blocks.{layer}.{points[what]}", partial(zero, n=n)) for what, layer, n in ablated]
    made = []
    with model.bridge.hooks(fwd_hooks=hooks):
        for some in tokens.split(BATCH):
            run = model.forward_without(None, 0, some)
            read = model.normalized(run.final, run.scale)[:, :-1]
            logits = model.capped(read @ model.W_U + model.b_U, model.mean_logit(read)[..., None])
            made.append(logits.gather(-1, some[:, 1:, None])[..., 0] - logits.logsumexp(-1))
    return torch.cat(made)


def zero(values: torch.Tensor, hook: object, n: int) -> torch.Tensor:
    """Return activations of shape (sequence, position, head or neuron, …) with 0 for the n-th."""
    values = values.clone()
    values[:, :, n] = 0
    return values


def of_corpus(model: Model, s: at.Store, ablated: Sequence[Unit] = ()) -> np.ndarray:
    """Return the log-probability of the next token at each of a run's positions that have one."""
    rows = s.sql("SELECT window_id, token_id FROM positions ORDER BY position_id")
    windows = [torch.tensor(ids.to_numpy()) for _, ids in rows.groupby("window_id").token_id]
    return np.concatenate([logprobs(model, ids[None], ablated)[0].numpy() for ids in windows]).astype(float)


def repeated_tokens(model: Model, heads: list[Head]) -> list[dict[str, object]]:
    """Ablate the induction heads together, and CONTROLS times as many other heads of the same layers."""
    tokens, draw = doubled_tokens(model, seed=1), random.Random(0)
    block, whole, made = tokens.shape[1] // 2, logprobs(model, tokens), []

    def loss(chosen: list[Head]) -> np.ndarray:
        return (whole - logprobs(model, tokens, [("z", *head) for head in chosen])).numpy().astype(float)

    ablated, control = loss(heads), np.mean([loss(others(model, heads, draw)) for _ in range(CONTROLS)], 0)
    sequence = np.repeat(np.arange(len(tokens)), block - 1)
    losses = {"induction heads": ablated, "other heads": control, "difference": ablated - control}
    for half, part in (("first", slice(-2 * block + 1, -block)), ("second", slice(1 - block, None))):
        row = {"half": half, "n": f"{len(sequence)} tokens of {len(tokens)} sequences"}
        row |= {"log-probability": f"{whole[:, part].mean():.2f}"}
        made.append(row | {name: estimate(x[:, part].ravel(), sequence) for name, x in losses.items()})
    return made


def others(model: Model, heads: list[Head], draw: random.Random) -> list[Head]:
    """Return as many other heads of the same layers, drawn at random."""
    chosen: list[Head] = []
    for layer, _ in heads:
        left = [(layer, head) for head in range(model.n_heads) if (layer, head) not in (*heads, *chosen)]
        chosen.append(draw.choice(left))
    return chosen


def neurons_of_tokens(
    model: Model, s: at.Store, whole: np.ndarray, rows: pd.DataFrame
) -> list[dict[str, object]]:
    """Ablate the neuron with the highest congruence for each frequent token, where the token comes next."""
    counts, made = rows.next_token.value_counts(), []
    for token in counts[counts >= OCCURRENCES].index:
        here = (rows.next_token == token).to_numpy()
        for row in s.weights().next_token_neurons(token, k=1).itertuples():
            lost = whole - of_corpus(model, s, [("post", row.layer, row.neuron)])
            of_row = {"token": f"`{token}`", "neuron": neuron_name(row.layer, row.neuron)}
            of_row |= {"congruence": f"{row.congruence:.2f}"}
            of_row |= {"loss": estimate(lost[here], rows.document_id[here], 4)}
            made.append(of_row | {"n": f"{here.sum()} in {rows.document_id[here].nunique()} documents"})
    return made


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=6000)
    parser.add_argument("--folder", type=Path, default=Path("study"))
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    model = Model(resolve(options.model))
    prompts = annotated(model, list(PROMPTS.values()), options.folder / "prompts.duckdb")
    show("Five predictions", predictions(prompts))
    s = annotated(model, shuffled_corpus(), options.folder / "corpus.duckdb", options.tokens)
    rows = s.sql("FROM positions WHERE next_token_id IS NOT NULL ORDER BY position_id")
    about = {"predictions": len(rows), "documents": rows.document_id.nunique()}
    about |= {"mean loss": estimate(-rows.next_logprob.to_numpy(float), rows.document_id)}
    show("The corpus", [about | {"closure error": f"{s.sql('FROM closure').worst[0]:.1e}"}])
    scores = induction_scores(model, doubled_tokens(model))
    show("Induction heads", induction_heads(s, scores))
    show("Their difference from the first", beside_the_highest(s, found(scores)))
    show("Repeated random tokens", repeated_tokens(model, found(scores)))
    whole = rows.next_logprob.to_numpy(float)
    annotate_weights(model, str(s.path))
    show("Next-token neurons", s.weights().next_token_neurons(k=10).nlargest(10, "congruence").round(2))
    show("Neurons of frequent tokens", neurons_of_tokens(model, s, whole, rows))


if __name__ == "__main__":
    main()
