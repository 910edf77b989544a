"""All that a command imports, and what Numba sets up at its first compiled function; see processes.py."""
# ruff: noqa: F401

import pyarrow.parquet
import transformer_lens.model_bridge
import transformers.models.gpt_neox.modeling_gpt_neox
import typer._adapters  # with pydantic
from numba.core.registry import cpu_target

import annotate_transformer.app.cli.commands
import annotate_transformer.app.cli.progress
import annotate_transformer.ingest.run.pipeline

cpu_target.typing_context.refresh()
cpu_target.target_context.refresh()
