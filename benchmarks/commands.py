"""Measure the processor time of questions on the command line, each in a process of its own.

    python benchmarks/commands.py FILE.duckdb [--times 10]

Runs `annotate COMMAND … --db FILE.duckdb` as a person types it, in turns: every command once, then every
command again, so that what else runs on the machine meets all of them alike. Processor time is what the
process and its threads took in user and system mode (getrusage), from the start of Python to the end; the
first turn is not counted, because it may compile modules. A small store shows what a command takes at least.
The last rows are of Python alone and of imports alone, for comparison.
"""

import argparse
import resource
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from annotate_transformer import store
from benchmarks.measure import percentiles, print_head, print_table

RUN = ("-m", "annotate_transformer.app.cli")
IMPORTS = {"Python alone": "pass", "import pandas": "import pandas", "import typer": "import typer._adapters"}


def main() -> None:
    options = _options()
    commands = _commands(options.file)
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(options.times + 1):
        for name, arguments in commands.items():
            seconds = _seconds(arguments)
            if turn:
                taken[name].append(seconds)
    size = Path(options.file).stat().st_size / 1e6
    print_head(f"{Path(options.file).name}, {size:.0f} MB; n = {options.times}; seconds of processor time")
    rows = [(f"`{name}`", *(f"{x:.2f}" for x in percentiles(found))) for name, found in taken.items()]
    print_table(("command", "median", "p95"), rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--times", type=int, default=10)
    return parser.parse_args()


def _commands(file: str) -> dict[str, tuple[str, ...]]:
    """Return the arguments of Python for each command, by the name that the table shows."""
    with store.open(file) as s:
        position = s.sql("SELECT min(position_id) + 100 AS id FROM positions").id[0]
    asked = {
        "annotate --help": ("--help",),
        "annotate runs": ("runs",),
        "annotate stats": ("stats",),
        "annotate token ' the'": ("token", " the"),
        "annotate phrase 'of the'": ("phrase", "of the"),
        "annotate neuron L1N3": ("neuron", "L1N3"),
        "annotate head L1H2": ("head", "L1H2"),
        "annotate position ID": ("position", str(position)),
        "annotate sql 'FROM runs'": ("sql", "FROM runs"),
        "annotate schema": ("schema",),
    }
    commands = {
        name: (*RUN, *words, *(() if name.endswith("--help") else ("--db", file)))
        for name, words in asked.items()
    }
    return commands | {name: ("-c", code) for name, code in IMPORTS.items()}


def _seconds(arguments: tuple[str, ...]) -> float:
    """Run Python with these arguments; return the seconds of processor time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
