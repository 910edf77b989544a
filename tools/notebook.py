"""Execute examples/tutorial.ipynb, and write the notebook as the page docs/tutorial.md.

python -m tools.notebook    runs the cells in an empty folder, stores what they print, and writes the page

The cells are plain Python, without IPython's commands. They run in order in one namespace; the value of a
cell's last expression is its result, as in Jupyter.
"""

import ast
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from annotate_transformer.store.whole import whole

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "tutorial.ipynb"
PAGE = ROOT / "docs" / "tutorial.md"
WIDTH = ("display.width", 110, "display.max_columns", 20, "display.max_colwidth", 40)
ORIGIN = "This page is the notebook `examples/tutorial.ipynb`; `make notebook` runs it and writes both.\n"


def read() -> dict[str, Any]:
    """Return the notebook as it is in the checkout."""
    notebook: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return notebook


def executed(notebook: dict[str, Any]) -> list[str]:
    """Run the code cells in order, in the working directory; return each cell's printed text and result."""
    namespace: dict[str, Any] = {}
    with pd.option_context(*WIDTH):
        cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
        return [_run("".join(cell["source"]), namespace) for cell in cells]


def _run(source: str, namespace: dict[str, Any]) -> str:
    """Return what one cell prints, followed by its result."""
    tree, printed, result = ast.parse(source), io.StringIO(), None
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), namespace)
        if isinstance(last, ast.Expr):
            result = eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)
    return printed.getvalue() + ("" if result is None else f"{result!r}\n")


def with_outputs(notebook: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    """Return the notebook with `texts` as the outputs of its code cells."""
    waiting = iter(texts)
    cells = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            text = next(waiting)
            lines = text.splitlines(keepends=True)
            output = {"name": "stdout", "output_type": "stream", "text": lines}
            cell = cell | {"outputs": [output] if text else []}
        cells.append(cell)
    return notebook | {"cells": cells}


def outputs(notebook: dict[str, Any]) -> list[str]:
    """Return the stored outputs of the notebook's code cells."""
    cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    return ["".join(line for output in cell["outputs"] for line in output["text"]) for cell in cells]


def as_page(notebook: dict[str, Any]) -> str:
    """Return the notebook as Markdown: text, code and what each cell printed."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(f"{source}\n")
            continue
        parts.append(f"```python\n{source}\n```\n")
        if printed := "".join(line for output in cell["outputs"] for line in output["text"]):
            parts.append(f"```text\n{printed.rstrip()}\n```\n")
    first, *others = parts
    return "\n".join([first, ORIGIN, *others]).replace("](../docs/", "](")


def main() -> None:
    """Execute the notebook in an empty folder, and write it and its page."""
    notebook = read()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        notebook = with_outputs(notebook, executed(notebook))
    for file, text in {
        NOTEBOOK: json.dumps(notebook, indent=1, ensure_ascii=False) + "\n",
        PAGE: as_page(notebook),
    }.items():
        with whole(file) as part:
            part.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "110")  # the width of the commands' output, in characters
    main()
