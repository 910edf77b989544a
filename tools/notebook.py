"""Execute examples/tutorial.ipynb, and write the notebook as the page docs/tutorial.md.

python -m tools.notebook    runs the cells in an empty folder, stores what they print, and writes the page

The cells are plain Python, without IPython's commands. They run in order in one namespace; the value of a
cell's last expression is its result, as in Jupyter. If that is an object of this package with HTML of its
own, the notebook and the page hold its HTML, too.
"""

import ast
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from annotate_transformer.store.whole import whole

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "tutorial.ipynb"
PAGE = ROOT / "docs" / "tutorial.md"
WIDTH = ("display.width", 110, "display.max_columns", 20, "display.max_colwidth", 40)
ORIGIN = "This page is the notebook `examples/tutorial.ipynb`; `make notebook` runs it and writes both.\n"


class Output(NamedTuple):
    """What a cell prints, followed by its result as text; and its result as HTML, if it has its own."""

    text: str
    html: str


def read() -> dict[str, Any]:
    """Return the notebook as it is in the checkout."""
    notebook: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return notebook


def executed(notebook: dict[str, Any]) -> list[Output]:
    """Run the code cells in order, in the working directory; return what each cell shows."""
    namespace: dict[str, Any] = {}
    with pd.option_context(*WIDTH):
        cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
        return [_run("".join(cell["source"]), namespace) for cell in cells]


def _run(source: str, namespace: dict[str, Any]) -> Output:
    """Return what one cell shows."""
    tree, printed, result = ast.parse(source), io.StringIO(), None
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), namespace)
        if isinstance(last, ast.Expr):
            result = eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)
    ours = type(result).__module__.startswith("annotate_transformer") and hasattr(result, "_repr_html_")
    text = printed.getvalue() + ("" if result is None else f"{result!r}\n")
    return Output(text, result._repr_html_() if ours else "")


def with_outputs(notebook: dict[str, Any], shown: list[Output]) -> dict[str, Any]:
    """Return the notebook with `shown` as the outputs of its code cells."""
    waiting = iter(shown)
    cells = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            text, html = next(waiting)
            lines = text.splitlines(keepends=True)
            printed = {"name": "stdout", "output_type": "stream", "text": lines}
            data = {"text/html": html.splitlines(keepends=True)}
            result = {"data": data, "metadata": {}, "output_type": "display_data"}
            cell = cell | {"outputs": [printed] * bool(text) + [result] * bool(html)}
        cells.append(cell)
    return notebook | {"cells": cells}


def outputs(notebook: dict[str, Any]) -> list[str]:
    """Return the stored texts of the notebook's code cells."""
    return [_text(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _text(cell: dict[str, Any]) -> str:
    return "".join(line for output in cell["outputs"] for line in output.get("text", ()))


def _html(cell: dict[str, Any]) -> str:
    found = (output["data"]["text/html"] for output in cell["outputs"] if "data" in output)
    return "".join(line for lines in found for line in lines)


def as_page(notebook: dict[str, Any]) -> str:
    """Return the notebook as Markdown: text, code and what each cell printed."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(f"{source}\n")
            continue
        parts.append(f"```python\n{source}\n```\n")
        if printed := _text(cell):
            parts.append(f"```text\n{printed.rstrip()}\n```\n")
        if html := _html(cell):
            parts.append(f"{html}\n")
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
