"""Run all benchmarks, each in a process of its own, and write their output into benchmarks/RESULTS.md.

    make bench [CORPUS=…] [MODEL=…] [TOKENIZER=…] [TOKENS=…] [PARTS="ingest storage"]

The output of a benchmark stands between the markers `<!-- part model tokens -->` and
`<!-- /part model tokens -->`: the command, then what the benchmark printed (machine, versions, date, table).
New output replaces the old output with the same markers, or follows the last output of the same part. The
rest of the file stays as it is. If the machine lacks a GPU or a browser, a line says so, but never replaces
old output.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.measure import CORPUS, NOT_HERE, parser_of, with_weights

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
GROWN = 10  # the store of the part `grown` has this many times the tokens of the store
INGESTED = ("{corpus}", "--model", "{model}")
PARTS = {
    "ingest": ("ingest.py", *INGESTED, "--tokens", "{tokens}"),
    "stages": ("stages.py", *INGESTED),
    "gpu": ("ingest.py", *INGESTED, "--tokens", "{tokens}", "--device", "cuda"),
    "transformer_lens": ("against_transformer_lens.py", *INGESTED),
    "writing": ("writing.py", *INGESTED),
    "parts": ("parts.py", *INGESTED, "--tokens", "{tokens}"),
    "memory": ("memory.py", *INGESTED, "--tokens", "{tokens}"),
    "storage": ("storage.py", *INGESTED, "--tokens", "{tokens}", "--plot", "{plot}"),
    "exactness": ("exactness.py", *INGESTED, "--plot", "{plot}"),
    "parts_together": ("parts_together.py", *INGESTED),
    "verify": ("verify.py", *INGESTED, "--tokens", "{tokens}"),
    "weights": ("weights.py", "{model}"),
    "total_effect": ("total_effect.py", *INGESTED),
    "lens": ("lens.py", *INGESTED),
    "layout": ("layout.py", "{store}"),
    "questions": ("questions.py", "{store}", "--times", "20"),
    "grown": ("questions.py", "{grown}", "--times", "20", "--no-others"),
    "web": ("web.py", "{store}"),
    "commands": ("commands.py", "{store}"),
    "lake": ("lake.py", "{store}"),
    "pages": ("pages.py", "{store}", "--times", "6"),
}
SIZED = ("{tokens}", "{store}", "{grown}")


def main() -> None:
    options, not_taken = _options(), []
    with tempfile.TemporaryDirectory() as folder:
        suite = Suite(options, Path(folder))
        for part in options.parts or PARTS:
            print(f"{part} …", flush=True)
            try:
                figure = suite.figure(part)
                print(figure)
                _write(suite.key(part), figure)
            except subprocess.CalledProcessError as error:
                print(error.stdout + error.stderr)
                if error.returncode == NOT_HERE:
                    _write(suite.key(part), error.stdout.strip(), instead=False)
                else:
                    not_taken.append(part)
    _run("-m", "tools.docs")  # writes the table of goals from the new output
    if not_taken:
        sys.exit(f"These parts failed (see above), and their old output stays: {', '.join(not_taken)}.")


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__, tokens=30_000)
    parser.add_argument("--parts", nargs="*", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    return parser.parse_args()


class Suite:
    """A model and a corpus, with the files that benchmarks need; each file is made when first needed."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.name = Path(options.model).name
        self.of: dict[str, Callable[[], str]] = {
            "corpus": lambda: options.corpus,
            "model": cache(lambda: with_weights(Path(options.model), options.tokenizer, folder)),
            "tokens": lambda: str(options.tokens),
            "store": cache(self._store),
            "grown": cache(self._grown),
        }

    def key(self, part: str) -> str:
        """Return the text of the markers: part, model and, if the size matters, number of tokens."""
        sized = any(argument in SIZED for argument in PARTS[part])
        return f"{part} {self.name}" + (f" {self.options.tokens}" if sized else "")

    def figure(self, part: str) -> str:
        """Run a benchmark; return its command, what it printed, and its plot if it draws one.

        Raises:
            CalledProcessError: the benchmark failed.
        """
        plot = HERE / f"{self.key(part).replace(' ', '-')}.svg"
        script, *arguments = (self._filled(argument, plot) for argument in PARTS[part])
        said = _run(str(HERE / script), *arguments).strip()
        picture = f"\n\n![{self.key(part)}]({plot.name})" if "{plot}" in PARTS[part] else ""
        return f"```sh\n{self._command(part)}\n```\n\n{said}{picture}"

    def _filled(self, argument: str, plot: Path) -> str:
        name = argument.strip("{}")
        if not argument.startswith("{"):
            return argument
        return str(plot) if name == "plot" else self.of[name]()

    def _command(self, part: str) -> str:
        corpus, tokenizer = Path(self.options.corpus), self.options.tokenizer
        given = {
            "PARTS": part,
            "CORPUS": "" if corpus.resolve() == CORPUS else corpus.name,
            "MODEL": self.name,
            "TOKENIZER": tokenizer and Path(tokenizer).name,
            "TOKENS": self.options.tokens,
        }
        return "make bench " + " ".join(f"{name}={value}" for name, value in given.items() if value)

    def _store(self) -> str:
        file, asked = str(self.folder / "store.duckdb"), ("--no-weights", "--quiet", "--limit-tokens")
        options = ("--model", self.of["model"](), "--db", file, *asked, str(self.options.tokens))
        _run("-m", "annotate_transformer.app.cli", "ingest", self.options.corpus, *options)
        return file

    def _grown(self) -> str:
        file = str(self.folder / "grown.duckdb")
        _run(str(HERE / "grow.py"), self.of["store"](), file, "--times", str(GROWN))
        return file


def _run(*arguments: str) -> str:
    """Run Python with these arguments, and return what it prints."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _write(key: str, figure: str, instead: bool = True) -> None:
    """Write the output of a benchmark into RESULTS.md. instead: whether it may replace old output."""
    text = RESULTS.read_text(encoding="utf-8")
    if instead or f"<!-- {key} -->" not in text:
        RESULTS.write_text(fresh(text, key, figure), encoding="utf-8")


def fresh(text: str, key: str, figure: str) -> str:
    """Return `text` with this output in place of the old output, or after the last output of its part."""
    block = f"<!-- {key} -->\n{figure}\n<!-- /{key} -->\n"
    old = re.compile(rf"<!-- {re.escape(key)} -->\n.*?<!-- /{re.escape(key)} -->\n", re.DOTALL)
    if old.search(text):
        return old.sub(lambda _: block, text)
    *_, last = re.finditer(rf"<!-- /{key.split()[0]}\b.*? -->\n", text)
    return f"{text[: last.end()]}\n{block}{text[last.end() :]}"


if __name__ == "__main__":
    main()
