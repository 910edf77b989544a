"""Draw sentences of the code at random, for a reader who does not know it.

python -m tools.sentences SEED    prints 24 docstrings, 14 comments, 10 messages and 12 comments of SQL

A comment is drawn whole, with the line of code that it ends; headings of sections are left out.

The reader says of each whether it is clear, needed a second reading, or was not understood.
"""

import ast
import io
import random
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FOLDERS = ("ingest", "store", "app")
DRAWN = {"docstring": 24, "comment": 14, "message": 10, "sql": 12}
SHORTEST = {"comment": 26, "message": 41, "sql": 25}  # characters; shorter ones are labels


class Sentence(NamedTuple):
    """A text of the code, with its kind and its place (file, line and name)."""

    kind: str
    place: str
    text: str


def docstrings(file: str, tree: ast.Module) -> Iterator[Sentence]:
    """Yield the first paragraph of every docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module) and (
            text := ast.get_docstring(node)
        ):
            place = f"{file}:{getattr(node, 'lineno', 1)} {getattr(node, 'name', 'module')}"
            yield Sentence("docstring", place, text.split("\n\n")[0])


def messages(file: str, tree: ast.Module) -> Iterator[Sentence]:
    """Yield the strings that look like a message: long, on one line, beginning with a capital letter."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if len(text) >= SHORTEST["message"] and " " in text and "\n" not in text and text[0].isupper():
                yield Sentence("message", f"{file}:{node.lineno}", text)


def comments(file: str, source: str) -> Iterator[Sentence]:
    """Yield the comments of a Python file; comments on consecutive lines are joined into one."""
    lines = source.splitlines()
    whole, last = "", -1
    for token in [*tokenize.generate_tokens(io.StringIO(source).readline), None]:
        if token and token.type != tokenize.COMMENT:
            continue
        is_next = token and token.start[0] == last + 1 and lines[last].lstrip().startswith("#")
        if whole and not is_next:
            if len(whole) >= SHORTEST["comment"] and not whole.endswith("---"):
                yield Sentence("comment", f"{file}:{last}", whole)
            whole = ""
        if token:
            whole, last = f"{whole} {token.string.lstrip('# ')}".strip(), token.start[0]
            if token.start[1] and not lines[last - 1].lstrip().startswith("#"):
                whole = lines[last - 1].strip()


def sql_comments(file: str, source: str) -> Iterator[Sentence]:
    """Yield the comments of an SQL file: those of COMMENT ON, with the name of the object, and others."""
    whole = ""
    for number, line in enumerate([*source.splitlines(), ""], 1):
        if line.startswith("--"):
            whole = f"{whole} {line.lstrip('- ')}".strip()
            continue
        if len(whole) >= SHORTEST["sql"]:
            yield Sentence("sql", f"{file}:{number - 1}", whole)
        whole = ""
        if found := re.search(r"COMMENT ON (?:MACRO TABLE|\w+) ([\w.]+).* IS '(.*)'", line):
            yield Sentence("sql", f"{file}:{number} {found[1]}", found[2].replace("''", "'"))


def sentences(root: Path = ROOT) -> Iterator[Sentence]:
    """Yield every sentence of the code and of its SQL."""
    for path in (path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))):
        file, source = str(path.relative_to(root)), path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        yield from docstrings(file, tree)
        yield from messages(file, tree)
        yield from comments(file, source)
    for path in [root / "schema.sql", *sorted((root / "store").rglob("*.sql"))]:
        yield from sql_comments(str(path.relative_to(root)), path.read_text(encoding="utf-8"))


def draw(seed: int, root: Path = ROOT) -> list[Sentence]:
    """Return a sample of every kind of sentence; the same seed and code give the same sentences."""
    chance, found = random.Random(seed), list(sentences(root))
    return [
        sentence
        for kind, n in DRAWN.items()
        for sentence in chance.sample([s for s in found if s.kind == kind], n)
    ]


if __name__ == "__main__":
    for sentence in draw(int(sys.argv[1])):
        print("---", *sentence, sep="\n")
