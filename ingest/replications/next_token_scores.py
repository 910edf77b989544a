"""Replicate how well explanations predict when heads activate next-token neurons (Neo et al. 2024).

The embedded corpus is annotated into a temporary store, and the steps of `annotate next-token` are run with
its default settings: 20 neurons in each late layer, and as many random neurons. Explanations are by rules
over tokens, while those of Neo et al. are by a language model.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from annotate_transformer import store
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import EMBEDDED
from annotate_transformer.ingest.next_token.ablation import ablate
from annotate_transformer.ingest.next_token.explain import explain_by_rules
from annotate_transformer.ingest.next_token.prompts import PromptSettings, late, look_up
from annotate_transformer.ingest.replications.quantity import Quantity, Reference
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.weights.tables import annotate_weights

NEURONS = 20  # number of next-token neurons in each late layer

# SETTINGS: store as little as possible at each position. The prompts come from max-activating examples, which
# need neither the stored terms of positions nor a sample.
SETTINGS = Settings(keep_neurons=1, keep_sources=1, samples=0)
SCORE, BASELINE = "mean balanced accuracy, next-token neurons", "mean balanced accuracy, random neurons"
KINDS = {False: SCORE, True: BASELINE}

SOURCE = "Neo, Cohen and Barez 2024; their explanations are by a language model, ours by rules"
REFERENCES = (
    Reference("Pythia-160m", SOURCE, {SCORE: 0.621}),
    Reference("GPT-2 small", SOURCE, {SCORE: 0.650}),
)


def next_token_scores(model: Model, settings: Settings = SETTINGS, neurons: int = NEURONS) -> list[Quantity]:
    """Return mean balanced accuracy and number of explained heads, for next-token and for random neurons.

    The samples of an interval are neurons, because the heads of a neuron share its prompts. A mean is None if
    no explanation could be scored. `neurons`: number of next-token neurons in each late layer.

    Raises:
        AnnotateError: an error that a person can correct.
    """
    with TemporaryDirectory(prefix="annotate-replicate-") as folder:
        means = mean_scores(model, str(Path(folder) / "replication.duckdb"), settings, neurons)
    quantities = []
    for is_baseline, name in KINDS.items():
        row = means.get(is_baseline, {})
        interval = {name: row.get(name) for name in ("low", "high")}
        quantities += [
            Quantity(name, "fraction", row.get("mean"), row.get("neurons"), "neurons", **interval),
            Quantity(f"explained heads of this mean, {name.split(', ')[1]}", "heads", row.get("heads", 0)),
        ]
    return quantities


def mean_scores(model: Model, path: str, settings: Settings, neurons: int) -> dict[bool, dict[str, Any]]:
    """Make a store at `path`; return a dict of mean scores: False for next-token, True for baseline neurons.

    A score is a balanced accuracy. The values are rows of the view explanation_means.
    """
    with Corpus([str(EMBEDDED / "corpus.jsonl")]) as corpus:
        run = ingest(corpus, model, path, settings).run_id
    annotate_weights(model, path)
    with store.open(path) as s:
        found = s.weights(run).next_token_neurons(k=neurons)
    found = found[found.layer.isin(late(model.n_layers))]
    chosen = list(zip(found.layer.tolist(), found.neuron.tolist(), strict=True))
    look_up(model, path, run, chosen, PromptSettings())
    ablate(model, path, run)  # must be first: explain_by_rules explains the heads that `ablate` stores
    explain_by_rules(path, run)
    with store.open(path) as s:
        means = s.sql("FROM explanation_means WHERE figure = 'balanced_accuracy'")
    rows = means.astype(object).where(means.notna(), None).to_dict("records")
    return {bool(row["is_baseline"]): row for row in rows}
