"""The site's pages are about everything that is public."""

import re
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
