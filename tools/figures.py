"""Measure the style of Python code: files, functions, docstrings, import cycles, private names.

python -m tools.figures                               prints a table of this checkout
python -m tools.figures --root BEFORE --root AFTER    prints a column for each of two checkouts
python -m tools.figures --longest 10                  also lists the longest bodies and files, cycles ...

The folders ingest, store and app are measured, or the folders named; tests are left out. A body is a function
without its signature and docstring. A cycle is a group of modules that import each other; imports inside
functions and imports for type checkers count.
"""

import argparse
import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FOLDERS = ("ingest", "store", "app")
LONGEST_BODY = 30  # lines
PACKAGE = "annotate_transformer"
Function = ast.FunctionDef | ast.AsyncFunctionDef
BRANCHES = (
    ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.Assert, ast.match_case,
)  # fmt: skip


@dataclass(frozen=True)
class Module:
    """A Python file, and the name by which other modules import it."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node of the tree."""
        return list(ast.walk(self.tree))

    @cached_property
    def functions(self) -> list[Function]:
        """Every function and method, nested ones too."""
        return [node for node in self.nodes if isinstance(node, Function)]

    @cached_property
    def public(self) -> list[Function | ast.ClassDef]:
        """The public functions and classes of the module, and the public methods of those classes."""
        return list(_public(self.tree.body))

    @cached_property
    def lines(self) -> int:
        return len(self.text.splitlines())

    @cached_property
    def comments(self) -> int:
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return sum(token.type == tokenize.COMMENT for token in tokens)


def _public(body: Iterable[ast.stmt]) -> Iterator[Function | ast.ClassDef]:
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from _public(node.body)


def modules(root: Path, folders: Iterable[str] = FOLDERS) -> list[Module]:
    """Return the modules in some folders of a repository, without its tests."""
    files = [file for folder in folders for file in sorted((root / folder).rglob("*.py"))]
    kept = [file for file in files if not file.name.startswith("test_") and "tests" not in file.parts]
    return [Module(_module_name(file.relative_to(root)), file.read_text(encoding="utf-8")) for file in kept]


def _module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def body_lines(function: Function) -> int:
    """Return the number of lines of a function's body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def complexity(function: Function) -> int:
    """Return the cyclomatic complexity: 1 plus the number of places where the control flow branches."""
    total = 1
    for node in ast.walk(function):
        if isinstance(node, BRANCHES):
            total += 1
        elif isinstance(node, ast.comprehension):
            total += 1 + len(node.ifs)
        elif isinstance(node, ast.BoolOp):
            total += len(node.values) - 1
    return total


def imported(module: Module, known: set[str]) -> set[str]:
    """Return the modules among `known` that `module` imports anywhere."""
    found = {name for node in module.nodes for name in _names(node)}
    return (found & known) - {module.name}


def _names(node: ast.AST) -> set[str]:
    """Return the dotted names of modules, or of names in modules, that an import statement may import."""
    names: set[str] = set()
    if isinstance(node, ast.Import):
        names = {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix(f"{PACKAGE}.") for name in names}


def cycles(measured: list[Module]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others."""
    known = {module.name for module in measured}
    graph = {module.name: imported(module, known) for module in measured}
    reached = {name: _reached(name, graph) for name in graph}
    groups = {tuple(sorted(n for n in reached[name] if name in reached[n])) for name in graph}
    return [list(group) for group in sorted(groups) if group]


def _reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    """Return the modules that `start` imports, directly or through others."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting.extend(new)
    return found


def private_uses(measured: list[Module]) -> list[str]:
    """Return the uses of private names outside the module that defines them, as `module: name`.

    A use is an import of `_name`, or `x._name`, where another module defines `_name` and this one does not.
    """
    defined = {module.name: _defined(module.nodes) for module in measured}
    anywhere = set().union(*defined.values())
    return [
        f"{module.name}: {name}"
        for module in measured
        for name in sorted((_private(module) & anywhere) - defined[module.name])
    ]


def _private(module: Module) -> set[str]:
    """Return the private names that a module imports or reads as an attribute."""
    names: set[str] = set()
    for node in module.nodes:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
    return {name for name in names if re.fullmatch(r"_[a-zA-Z]\w*", name)}


def _defined(nodes: list[ast.AST]) -> set[str]:
    """Return the names that a module defines: functions, classes, variables, and attributes of self."""
    found = {node.name for node in nodes if isinstance(node, Function | ast.ClassDef)}
    for node in nodes:
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return found


def at(values: Iterable[int], fraction: float) -> int:
    """Return the value below which a fraction of the values lies; 0 if there are no values.

    >>> at([3, 1, 2, 10], 0.5)
    3
    """
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] if ordered else 0


def percent(part: int, whole: int) -> str:
    """Return a share as a percentage.

    >>> percent(1, 8)
    '12.5 %'
    """
    return f"{100 * part / max(whole, 1):.1f} %"


def spread(values: Iterable[int]) -> str:
    """Return median, 90th percentile and maximum."""
    ordered = list(values)
    return " / ".join(str(at(ordered, fraction)) for fraction in (0.5, 0.9, 1))


def figures(measured: list[Module]) -> dict[str, str]:
    """Return the value of every measure, by the measure's name."""
    bodies = [body_lines(function) for module in measured for function in module.functions]
    public = [node for module in measured for node in module.public]
    filled = sum(bool(line.strip()) for module in measured for line in module.text.splitlines())
    return {
        "files": str(len(measured)),
        "lines": f"{sum(module.lines for module in measured):,}",
        "lines of a file, median / p90 / max": spread(module.lines for module in measured),
        "functions": f"{len(bodies):,}",
        "lines of a body, median / p90 / max": spread(bodies),
        f"bodies of at most {LONGEST_BODY} lines": percent(
            sum(lines <= LONGEST_BODY for lines in bodies), len(bodies)
        ),
        "cyclomatic complexity, median / p90 / max": spread(
            complexity(function) for module in measured for function in module.functions
        ),
        "public names with a docstring": percent(
            sum(ast.get_docstring(node) is not None for node in public), len(public)
        ),
        "public names of a module, median / p90 / max": spread(
            sum(node in module.tree.body for node in module.public) for module in measured
        ),
        "comments in 100 lines": f"{100 * sum(module.comments for module in measured) / max(filled, 1):.1f}",
        "import cycles": str(len(cycles(measured))),
        "private names used across modules": str(len(private_uses(measured))),
    }


def longest(measured: list[Module], n: int) -> Iterator[str]:
    """Return lines that name the n longest bodies and files, the cycles, and the private names."""
    bodies = [(body_lines(f), f"{m.name}.{f.name}") for m in measured for f in m.functions]
    files = [(module.lines, module.name) for module in measured]
    for kind, found in (("body", bodies), ("file", files)):
        yield from (f"{kind} {lines} {name}" for lines, name in sorted(found, reverse=True)[:n])
    yield from (f"cycle {' '.join(group)}" for group in cycles(measured))
    yield from (f"private {use}" for use in private_uses(measured))


def table(columns: dict[str, list[Module]]) -> str:
    """Return the figures as a table in Markdown, with a column for each list of modules."""
    values = [figures(measured) for measured in columns.values()]
    rows = [["figure", *columns], ["---"] * (1 + len(columns))]
    rows += [[name, *(column[name] for column in values)] for name in values[0]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Print the figures of one or more checkouts."""
    parser = argparse.ArgumentParser(description="Measure the style of Python code.")
    parser.add_argument("folders", nargs="*", default=FOLDERS)
    parser.add_argument("--root", type=Path, action="append", help="a checkout; may be repeated")
    parser.add_argument("--longest", type=int, default=0, metavar="N")
    given = parser.parse_args()
    columns = {str(root): modules(root, given.folders) for root in given.root or [Path()]}
    print(table(columns))
    if given.longest:
        for measured in columns.values():
            print(*longest(measured, given.longest), sep="\n")


if __name__ == "__main__":
    main()
