"""A question imports only what its answer needs: importing takes most of its time.

`benchmarks/commands.py` measures the time, and these tests the reason for it.
"""

import subprocess
import sys
from pathlib import Path

import pytest

MODELS = {"torch", "transformers", "transformer_lens", "tokenizers", "datasets", "safetensors", "numba"}
NEVER = MODELS | {"streamlit", "matplotlib", "sqlalchemy", "duckdb_sqlalchemy", "sklearn", "scipy", "openai"}
RUN = """
import sys
from annotate_transformer.app.cli.main import main
try:
    main()
finally:
    sys.stderr.write("\\n" + " ".join(sys.modules))
"""


def imported_by(*words: object) -> set[str]:
    """Run `annotate` in a process of its own; return the modules that are loaded at its end."""
    command = [sys.executable, "-c", RUN, *map(str, words)]
    ran = subprocess.run(command, capture_output=True, text=True)
    told, _, modules = ran.stderr.rpartition("\n")
    assert (ran.returncode, told) == (0, ""), told
    return {*modules.split()}


@pytest.mark.parametrize(
    "words",
    [
        ("runs",),
        ("stats",),
        ("token", " the"),
        ("phrase", "of the"),
        ("neuron", "L1N7"),
        ("head", "L3H2"),
        ("neurons",),
        ("heads",),
        ("bigrams", " the"),
        ("position", 1_000_000_000_777),
        ("compare", 1, 2, "--what", "heads"),
    ],
    ids=lambda words: words[0],
)
def test_a_question_needs_no_model_and_no_server(words: tuple[object, ...], two_steps: Path) -> None:
    modules = imported_by(*words, "--db", two_steps)
    assert not modules & NEVER
    others = {name for name in modules if name.startswith("annotate_transformer.app.cli.ask.")}
    assert len(others - {"annotate_transformer.app.cli.ask.targets"}) == 1, "only the command's own module"


@pytest.mark.parametrize("words", [("FROM runs",), ("FROM runs", "--json")])
def test_sql_needs_no_pandas(words: tuple[str, ...], two_steps: Path) -> None:
    assert not imported_by("sql", *words, "--db", two_steps) & (NEVER | {"pandas"})
