"""A version is released only once the changelog and the citation are about it."""

import shutil
from pathlib import Path

import pytest

from tools import release


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The checkout's own files that name the version, with a dated section for it."""
    for name in ("pyproject.toml", "CITATION.cff"):
        shutil.copy(release.ROOT / name, tmp_path)
    changelog = f"# Changelog\n\n## [Unreleased]\n\n## [{release.version()}] - 2026-11-30\n"
    (tmp_path / "CHANGELOG.md").write_text(changelog)
    return tmp_path


def test_texts_about_the_version_are_ready(checkout: Path) -> None:
    release.check_texts(checkout)


@pytest.mark.parametrize(
    "heading", ["## [Unreleased]", "## [{}]", "## [{}0] - 2026-11-30", "[{}] - 2026-11-30"]
)
def test_a_changelog_without_a_dated_section_is_refused(checkout: Path, heading: str) -> None:
    (checkout / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading.format(release.version())}\n")
    with pytest.raises(release.NotReady, match=r"CHANGELOG\.md has no section"):
        release.check_texts(checkout)


def test_a_citation_of_another_version_is_refused(checkout: Path) -> None:
    file = checkout / "CITATION.cff"
    file.write_text(file.read_text().replace(f"version: {release.version()}\n", "version: 0.0.9\n"))
    with pytest.raises(release.NotReady, match=r"CITATION\.cff"):
        release.check_texts(checkout)


def test_files_are_listed_with_size_and_hash(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert release.listed([tmp_path / "a.whl"]).split() == [digest, "3", str(tmp_path / "a.whl")]
