"""Findings: neurons, heads, positions, searches and queries that a person has kept, with a name and a note.

They are in a JSON file beside the store, so neither an ingest nor a new store touches them:

    demo.duckdb          the store
    demo.findings.json   [{"page": "head", "parameters": {"run": "1", "head": "L3H2"}, "name": "L3H2", …}]
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from annotate_transformer.app.browser import answers, links
from annotate_transformer.store import AnnotateError

LONGEST = 2000  # maximum number of characters of a name, a note or the name of a list
WAIT = 5.0  # maximum seconds for which a change waits for the change of another page


class NotKept(AnnotateError):
    """The file of findings cannot be read or written."""


@dataclass(frozen=True)
class Finding:
    """An object that a person has kept.

    page, parameters: the page that shows it, and the parameters of its URL; name: its name, such as L3N7, or
    the person's own; note: what the person wrote about it; list: the list that it is in; kept: when it was
    last kept or changed
    """

    page: str
    parameters: dict[str, str]
    name: str
    note: str = ""
    list: str = ""
    kept: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def href(self) -> str:
        """The URL of the page that shows the object."""
        return links.link(self.page, **self.parameters)


def file() -> Path:
    """Return the path of the file of findings.

    Raises:
        NotKept: the store is not a file or folder of this machine.
    """
    store = answers.path()
    if not isinstance(store, Path):
        raise NotKept(
            f"Findings are kept in a file beside the store, and {store} is not on this machine. Copy the "
            "store here to keep findings."
        )
    return store.with_name(f"{store.stem}.findings.json")


def kept() -> list[Finding]:
    """Return the findings, in the order in which they were first kept.

    Raises:
        NotKept: the file cannot be read, or is no list of findings.
    """
    path = file()
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        return [_finding(row) for row in found]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise NotKept(
            f"{path} holds no findings that this program can read ({error}). Mend the file, or move it away "
            "to begin anew; it is not changed."
        ) from error


def _finding(row: dict[str, Any]) -> Finding:
    parameters = {str(name): str(value) for name, value in row["parameters"].items()}
    texts = {name: str(row[name]) for name in ("page", "name", "note", "list", "kept")}
    return Finding(parameters=parameters, **texts)


def keep(finding: Finding) -> None:
    """Add a finding, or change the one about the same object."""

    def change(found: list[Finding]) -> list[Finding]:
        same = [i for i, one in enumerate(found) if is_same(one, finding)]
        return [*found[: same[0]], finding, *found[same[0] + 1 :]] if same else [*found, finding]

    _change(change)


def remove(finding: Finding) -> None:
    """Remove the finding about the same object, if there is one."""
    _change(lambda found: [one for one in found if not is_same(one, finding)])


def is_same(one: Finding, other: Finding) -> bool:
    """Return whether two findings are about the same object."""
    return (one.page, one.parameters) == (other.page, other.parameters)


def _change(change: Callable[[list[Finding]], list[Finding]]) -> None:
    """Replace the file by a changed one, at once and as a whole; two pages wait for each other."""
    path = file()
    new = path.with_name(f".{path.name}.new")
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=WAIT):
            rows = [asdict(finding) for finding in change(kept())]
            with new.open("w", encoding="utf-8") as written:
                written.write(as_json(rows))
                written.flush()
                os.fsync(written.fileno())
            new.replace(path)
    except (OSError, Timeout) as error:
        raise NotKept(
            f"{path} cannot be written ({error}). Make its folder writable, then keep it again."
        ) from error


def as_json(rows: list[Any]) -> str:
    """Return findings as JSON, one field per line."""
    return json.dumps(
        [row if isinstance(row, dict) else asdict(row) for row in rows], indent=2, ensure_ascii=False
    )


def as_markdown(found: list[Finding], address: str) -> str:
    """Return findings as Markdown, a section per list; `address` is the beginning of their links."""
    lines = [f"# Findings in {answers.path()}", ""]
    for title in dict.fromkeys(finding.list for finding in found):
        lines += [f"## {_plain(title)}", ""] if title else []
        for finding in found:
            if finding.list == title:
                note = f": {_plain(finding.note)}" if finding.note else ""
                lines.append(f"- [{_plain(finding.name)}](<{address}{finding.href}>) ({finding.page}){note}")
        lines.append("")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Return a text in one line in which no character is markup of Markdown.

    >>> _plain("*a*\\n[b](c)")
    '\\\\*a\\\\* \\\\[b\\\\](c)'
    """
    escaped = "".join(f"\\{c}" if c in "\\`*_[]<>#|!&" else c for c in text)
    return " ".join(escaped.split())
