"""Build and check a release, and list the files to publish: `make release`.

python -m tools.release           checks the texts that name the version
python -m tools.release FOLDER    also builds the sdist and the wheel into FOLDER, which must not exist yet

A release is refused if CHANGELOG.md has no dated section for the version, if CITATION.cff has another
version, or if a package index would refuse the metadata.
"""

import hashlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

from markdown_it import MarkdownIt
from packaging.metadata import Metadata

ROOT = Path(__file__).parent.parent
BUILD = "import sys, setuptools.build_meta as backend; backend.build_{}(sys.argv[1])"


class NotReady(Exception):
    """Something that has to be done before this can be released; the message says what."""


def version(root: Path = ROOT) -> str:
    """Return the version in pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def check_texts(root: Path = ROOT) -> None:
    """Check that the changelog and the citation are about the version of pyproject.toml.

    Raises:
        NotReady: the changelog or the citation is about another version.
    """
    this = version(root)
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## \[{re.escape(this)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        raise NotReady(
            f"CHANGELOG.md has no section for version {this}. Rename `## [Unreleased]` to "
            f"`## [{this}] - YEAR-MONTH-DAY`, and begin a new, empty `## [Unreleased]` above it."
        )
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    if f"\nversion: {this}\n" not in citation:
        raise NotReady(f"CITATION.cff is not about version {this}. Set its `version` to {this}.")


def built(folder: Path) -> list[Path]:
    """Build the sdist and the wheel into a new folder; return both."""
    folder.mkdir(parents=True)
    for target in ("sdist", "wheel"):
        command = [sys.executable, "-c", BUILD.format(target), str(folder.resolve())]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return sorted(folder.iterdir())


def metadata(file: Path) -> bytes:
    """Return the metadata of an sdist or a wheel."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
            return wheel.read(name)
    with tarfile.open(file) as sdist:
        (member,) = (member for member in sdist if re.fullmatch(r"[^/]+/PKG-INFO", member.name))
        found = sdist.extractfile(member)
        assert found is not None
        return found.read()


def check_metadata(file: Path) -> None:
    """Check the metadata as a package index does, and that its description is Markdown with a title.

    Raises:
        NotReady: an index would refuse the metadata, or would show no description.
    """
    try:
        about = Metadata.from_email(metadata(file), validate=True)
    except ExceptionGroup as errors:
        raise NotReady(f"{file.name}: {'; '.join(map(str, errors.exceptions))}") from errors
    shown = MarkdownIt().render(about.description or "")
    if about.description_content_type != "text/markdown" or "<h1>" not in shown:
        raise NotReady(f"{file.name} has no description in Markdown. Name README.md in pyproject.toml.")


def listed(files: list[Path]) -> str:
    """Return the files as lines of SHA-256, size in bytes and name."""
    rows = ((hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_size, file) for file in files)
    return "\n".join(f"{digest}  {size:>10,}  {file}" for digest, size, file in rows)


def publish(folder: Path) -> None:
    """Build, check what was built, and print what to publish."""
    files = built(folder)
    for file in files:
        check_metadata(file)
    print(f"Version {version()} is ready. Publish these files (SHA-256, bytes, name):\n{listed(files)}")


if __name__ == "__main__":
    try:
        check_texts()
        if sys.argv[1:]:
            publish(Path(sys.argv[1]))
    except NotReady as reason:
        sys.exit(f"No release: {reason}")
