"""The site's pages are about everything that is public."""

import re
import shlex
from pathlib import Path

from annotate_transformer import store

DOCS = Path(__file__).parent.parent / "docs"


def test_the_python_reference_has_every_public_name() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\.\. auto\w+:: (\w+)$", page, re.MULTILINE)) == sorted(store.__all__)


def test_the_index_and_the_readme_link_to_every_page() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    pages = {path.stem for path in DOCS.glob("*.md")} - {"index"}
    assert set(re.findall(r"^([a-z0-9-]+)$", index, re.MULTILINE)) == pages
    assert set(re.findall(r"\]\(docs/([a-z0-9-]+)\.md\)", readme)) == pages


def test_the_commands_of_the_pages_about_parts_have_the_options_they_use() -> None:
    """And the manifest for Kubernetes is YAML, with such a command."""
    import typer
    import yaml

    from annotate_transformer.app.cli.program import program

    known = typer.main.get_command(program())
    blocks, manifests = [
        re.findall(rf"```{language}\n(.*?)```", "".join(map(_text, ("parts", "ray"))), re.DOTALL)
        for language in ("sh", "yaml")
    ]
    blocks += [yaml.safe_load(text)["spec"]["entrypoint"] for text in manifests]
    commands = re.findall(r"annotate (ingest|merge) (.*)", "\n".join(blocks).replace("\\\n", " "))
    assert len(commands) >= 9
    for name, words in commands:
        words = words.removesuffix('"') if words.count('"') % 2 else words  # of --wrap "annotate …"
        known.commands[name].make_context(name, shlex.split(words, comments=True))  # type: ignore[attr-defined]


def _text(page: str) -> str:
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")
