"""Make a table of the goals, and of the figures that were measured for them, from the blocks of RESULTS.md.

A block is the output of one benchmark. `python -m tools.docs` writes the table into docs/performance.md and
RESULTS.md; benchmarks/suite.py runs that at its end.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"
BLOCK = re.compile(r"^<!-- (\w+ \S.*) -->\n(.*?)^<!-- /\1 -->$", re.DOTALL | re.MULTILINE)
TAKEN = re.compile(r"^(.+?), \d+ cores, .*; (\d{4}-\d\d-\d\d)\.$", re.MULTILINE)  # measure.print_head
LABEL, VALUE = "label", "value"  # names of columns whose header is empty: the first column, and any other
PEAK = "peak memory above the loaded model"
INGESTS = [f"ingest pythia-{size} .*" for size in ("70m", "160m", "410m")]
Row = dict[str, str]  # cells by the column's header


@dataclass(frozen=True)
class Goal:
    """A limit that measured figures should meet.

    limit: such as "≤ 600 MB"
    key, row: regular expressions that match the whole name of a block, and the whole first cell of a row
    column: the header of the column with the figures
    over, beside: each figure is divided by the one in the column `over`, or in the same row of the block
    `beside`; a figure without such a divisor is left out
    """

    question: str
    limit: str
    key: str
    row: str
    column: str = VALUE
    over: str = ""
    beside: str = ""

    def figures(self, rows: list[Row], beside: list[Row]) -> list[float]:
        """Return the goal's figures in a block, in the order of the rows."""
        found = [row for row in rows if self.column in row and re.fullmatch(self.row, row[LABEL])]
        if not (self.over or self.beside):
            return [_number(row[self.column]) for row in found]
        column = self.over or self.column
        over = {row[LABEL]: row[column] for row in beside if column in row}
        return [_number(row[self.column]) / _number(over[row[LABEL]]) for row in found if row[LABEL] in over]

    def is_met(self, figure: float) -> bool:
        limit = _number(self.limit)
        return figure <= limit if self.limit.startswith("≤") else figure >= limit


def _goals() -> Iterator[Goal]:
    for key in INGESTS:
        yield Goal("ingest ÷ bare forward pass with logits", "≤ 1.3", key, "wall, .*")
    for many in (256, 32, 1):
        way = f"TransformerLens, {many} at once"
        for what, limit in (("time", "≥ 2"), ("memory", "≥ 4")):
            column = f"{what} ÷ ingest"
            yield Goal(f"{way}: {column}", limit, "transformer_lens pythia-70m", way, column)
    for key in INGESTS:
        yield Goal(PEAK, "≤ 600 MB", key, PEAK)
    yield Goal(f"{PEAK}, at 0.1, 1, 10 million tokens", "≤ 600 MB", "memory neox-2m .*", r"[\d,]+", PEAK)
    a_token, of_storage, mine = "bytes a token", "storage pythia-70m .*", "this store"
    yield Goal(f"{a_token}, default settings", "≤ 1,500", r"ingest pythia-70m 1\d{6}", a_token)
    yield Goal(
        f"{a_token}, rows alone ÷ in zstd Parquet", "≤ 1", of_storage, "rows alone", mine, "zstd Parquet"
    )
    yield Goal(f"{a_token}, `--keep-neurons all`", "≤ 10,000", of_storage, "rows alone, --keep.*", mine)
    lookups, at_10_million = "questions neox-2m 1000000", "grown neox-2m 1000000"
    for kind in ("position", "token", "neuron", "head"):
        asked = f"lookups by {kind}, warm, 95th percentile"
        yield Goal(asked, "≤ 10 ms", lookups, f"{kind}: .*", "warm p95")
        times = "the same at 10 million tokens, times as long"
        yield Goal(times, "≤ 2", at_10_million, f"{kind}: .*", "warm p95", beside=lookups)
    yield Goal("two workers of one thread ÷ one", "≤ 0.6", "parts .*", "2, .*", "÷ one worker")
    yield Goal("verify ÷ ingest", "≤ 0.2", "verify pythia-70m .*", "verify, .*", "÷ ingest")
    yield Goal("pages of the app, 95th percentile", "≤ 1,500 ms", "pages .*", "(?!step:).*", "p95")
    yield Goal("steps within one, 95th percentile", "≤ 300 ms", "pages .*", "step: .*", "p95")
    yield Goal("`annotate weights`", "≤ 60 s", "weights pythia-70m", "wall")
    yield Goal(f"`annotate weights`: {PEAK}", "≤ 2,000 MB", "weights pythia-70m", PEAK)


def table() -> str:
    """Return the table as Markdown, with one row for each goal and block that has figures for the goal."""
    lines = ["| | goal | measured | met | taken |", "| --- | --- | --- | --- | --- |"]
    blocks = dict(BLOCK.findall(RESULTS.read_text(encoding="utf-8")))
    rows = {key: [*_rows(block)] for key, block in blocks.items()}
    for goal in _goals():
        for key, block in blocks.items():
            if not re.fullmatch(goal.key, key):
                continue
            beside = rows.get(goal.beside, []) if goal.beside else rows[key]
            if figures := goal.figures(rows[key], beside):
                cells = goal.question, goal.limit, _span(figures), _met(goal, figures), _taken(key, block)
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _rows(block: str) -> Iterator[Row]:
    """Yield the rows of all tables in a block."""
    header: list[str] = []
    for line in block.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = [LABEL, *(cell or VALUE for cell in cells[1:])]
        elif not cells[0].startswith("---"):
            yield dict(zip(header, cells, strict=True))


def _number(cell: str) -> float:
    return float(re.sub(r"[^\d.]", "", cell))


def _span(figures: list[float]) -> str:
    ends = [f"{x:,.0f}" if x >= 100 else f"{x:.3g}" for x in (min(figures), max(figures))]
    return " to ".join(dict.fromkeys(ends))


def _met(goal: Goal, figures: list[float]) -> str:
    met = sum(goal.is_met(figure) for figure in figures)
    return ("no", "yes")[met] if len(figures) == 1 else f"{met} of {len(figures)}"


def _taken(key: str, block: str) -> str:
    """Return for which model and size, on which machine and when a block was measured."""
    _, subject = key.split(" ", 1)
    taken = TAKEN.search(block)
    return ", ".join((subject, *(taken.groups() if taken else ())))
