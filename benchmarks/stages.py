"""Measure the time of each stage of a batch, and of Hugging Face's forward pass over the same batches.

    python benchmarks/stages.py [CORPUS] [--model MODEL] [--tokens 32768]

Everything runs in one thread, as in each worker of an ingest. (In an ingest with two workers, two batches
share the processor's cache and clock, so each takes longer.) The time of a stage leaves out the stages that
it calls. The first half of the batches fills the top-k lists, as at the beginning of a run; the second half
is timed. The time of DuckDB is not included: benchmarks/ingest.py measures it. Prints a Markdown table.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer.ingest.attribution import decompose
from annotate_transformer.ingest.attribution.fast import attention, compiled, logits
from annotate_transformer.ingest.attribution.selection import Keep
from annotate_transformer.ingest.corpus.windows import Batch, batches
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.run import rows
from annotate_transformer.ingest.run.run_summary import RunSummary
from annotate_transformer.ingest.run.settings import Settings
from benchmarks.measure import (
    about,
    empty_summary,
    first_windows,
    gguf_file,
    parser_of,
    print_head,
    print_table,
    subject,
)

STAGES = {  # for each stage, in the order of a batch: the functions whose time is counted, with their owners
    "blocks": [(Model, "forward")],
    "unembedding: the product": [(decompose, "predict")],
    "unembedding: softmax, rank, first choice": [(logits, "absorb_logits")],
    "heads: W_O's products, effects, norms": [(decompose.BatchParts, "_heads")],
    "heads: sources' values toward the targets": [(compiled, "source_products")],
    "heads: strongest sources, behaviour": [(attention, "strongest_sources"), (attention, "attention_sums")],
    "neurons: W_out's products, biases": [(decompose.BatchParts, "layer")],
    "neurons: effects and the strongest": [(compiled.CompiledSelection, "neurons")],
    "neurons: statistics": [(compiled.CompiledSelection, "_sums")],
    "neurons: candidates for lists": [(compiled.CompiledSelection, "_lists")],
    "rows": [(rows, "rows_of")],
    "lists and totals": [(RunSummary, "absorb")],
    "the rest": [(decompose, "decompose")],
}
BLOCKS, BARE = "bare forward: its blocks", "bare forward, with logits"


class Stages:
    """The seconds of each stage, without the seconds of other stages that it calls."""

    def __init__(self) -> None:
        self.seconds = Counter[str]()
        self._inner = [0.0]  # for each running call: the seconds of the stages that it called
        for stage, called in STAGES.items():
            for owner, name in called:
                setattr(owner, name, self._timed(stage, getattr(owner, name)))

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                spent = time.perf_counter() - start
                self.seconds[stage] += spent - self._inner.pop()
                self._inner[-1] += spent

        return timed


def main() -> None:
    options = parser_of(__doc__, tokens=32_768).parse_args()
    torch.set_num_threads(1)
    with subject(options) as (model, _):
        settings = Settings(limit_tokens=options.tokens).resolved(model).with_sizes(options.tokens, model)
        assert settings.context and settings.batch_tokens
        windows = first_windows(options.corpus, model, options.tokens, settings.context)
        reading = list(batches(windows, settings.batch_tokens))
        first, timed = reading[: len(reading) // 2], reading[len(reading) // 2 :]
        stages = Stages()
        annotate = _annotating(model, settings)
        for batch in first:
            annotate(batch)
        stages.seconds.clear()
        for batch in timed:
            annotate(batch)
        bare = _bare_seconds(model, timed)
    print_head(
        f"{about(model)}; batches of {settings.batch_tokens} tokens of {Path(options.corpus).name}, 1 thread"
    )
    spent = {stage: stages.seconds[stage] for stage in STAGES}
    spent |= {"all": sum(spent.values())} | bare
    per_batch = {stage: 1000 * seconds / len(timed) for stage, seconds in spent.items()}
    table = [(stage, f"{ms:,.0f}", f"{ms / per_batch[BARE]:.2f}") for stage, ms in per_batch.items()]
    print_table(("stage", "ms a batch", "÷ bare forward"), table)


def _annotating(model: Model, settings: Settings) -> Callable[[Batch], None]:
    """Return a function that does what an ingest does with a batch, without the database."""
    summary = empty_summary(model, settings, settings.limit_tokens or 0)
    keep = Keep(settings.keep_neurons, settings.keep_sources)

    def annotate(batch: Batch) -> None:
        sampled = summary.sample.chosen(batch.positions[batch.stored])
        result = decompose.decompose(model, batch, keep, summary.thresholds(model.device), sampled)
        rows.rows_of(result, batch, sampled, rows.Identity(1, 0, 0))
        summary.absorb([layer.summary for layer in result.layers])

    return annotate


def _bare_seconds(model: Model, reading: list[Batch]) -> dict[str, float]:
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(
        model.checkpoint.folder, dtype=torch.float32, **gguf_file(model)
    ).eval()
    seconds = dict.fromkeys((BLOCKS, BARE), 0.0)
    with torch.inference_mode():
        hf(torch.from_numpy(reading[0].tokens), use_cache=False)
        for batch in reading:
            tokens = torch.from_numpy(batch.tokens)
            for name, forward in ((BLOCKS, hf.base_model), (BARE, hf)):
                start = time.perf_counter()
                forward(tokens, use_cache=False)
                seconds[name] += time.perf_counter() - start
    return seconds


if __name__ == "__main__":
    main()
