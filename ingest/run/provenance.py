"""Record the inputs, settings and versions that identify a run: equal records mean the same run."""

import importlib.metadata
import json
import platform
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch

from annotate_transformer.ingest.corpus.sources import Corpus, Scan
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.store.writer import Provenance, Vocabulary, Writer

LIBRARIES = ("torch", "transformer-lens", "transformers", "tokenizers", "numpy", "duckdb")


def provenance_of(
    corpus: Corpus,
    scan: Scan,
    model: Model,
    tokenizer: Tokenizer,
    settings: Settings,
    device: str | None = None,
) -> Provenance:
    """Return the record of a run; `device`: the device that computes it, if it is not the model's."""
    changes_values = {k: v for k, v in asdict(settings).items() if k != "shard_tokens"}
    device = torch.device(device or model.device).type
    return Provenance(
        model=model.provenance,
        tokenizer_sha256=tokenizer.sha256,
        corpus={
            "sha256": scan.sha256,
            "documents": scan.documents,
            "characters": scan.characters,
            "sources": corpus.described(),
        },
        settings=changes_values | {"dtype": str(model.dtype).removeprefix("torch."), "device": device},
        libraries=libraries(),
        processing=model.processing,
        hf_difference=model.hf_difference,
    )


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer.vocabulary(), tokenizer.special_ids.tolist(), tokenizer.spells)


@cache
def libraries() -> dict[str, str]:
    """Return the versions of Python and the libraries; cached, because reading them takes 0.1 s."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return versions | {"python": platform.python_version()}


def processor(device: str) -> str:
    """Return the name of the processor that computes the values, or its architecture if it has no name."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    named = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in named if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def difference(writer: Writer, provenance: Provenance) -> str | None:
    """Describe how an unfinished run of the same model and corpus differs from this run, or return None."""
    for run in writer.unfinished():
        same = run["corpus_sha256"] == provenance.corpus["sha256"]
        of_model = any(run[name] == provenance.model[name] for name in ("model", "weights_sha256"))
        if not (same and of_model):
            continue
        then = json.loads(run["settings"]) | json.loads(run["libraries"])
        now = provenance.settings | provenance.libraries
        changed = [f"{k} {then.get(k)} → {v}" for k, v in now.items() if then.get(k) != v]
        if run["weights_sha256"] != provenance.model["weights_sha256"]:
            changed.append(f"revision {run['revision']} → {provenance.model['revision']}")
        return f"run {run['run_id']} is unfinished but differs: {', '.join(changed)}"
    return None
