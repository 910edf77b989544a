"""Build the package `annotate_transformer` from the folders at the top of the checkout.

Each of app, ingest and store is a subpackage, and package/__init__.py is the package itself (`package_dir`).
schema.sql and the example queries are at the top of the checkout, where people see them first; a wheel holds
copies of them beside the modules that read them.
"""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

PACKAGE = "annotate_transformer"
FOLDERS = ("app", "ingest", "store")
COPIED = {"schema.sql": "store", "examples/queries": "app/queries"}


class BuildWithCopies(build_py):
    """A build step that copies the files in COPIED into a wheel; an editable install reads the originals."""

    def run(self) -> None:
        if not self.editable_mode:  # a file deleted since the last build must not stay in the wheel
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        if self.editable_mode:
            return
        for source, folder in COPIED.items():
            target = Path(self.build_lib) / PACKAGE / folder
            target.mkdir(parents=True, exist_ok=True)
            path = Path(source)
            for file in [path] if path.is_file() else sorted(path.glob("*.sql")):
                self.copy_file(str(file), str(target / file.name))


def subpackages() -> list[str]:
    """Return the dotted names of all folders with modules, such as `annotate_transformer.app.browser`."""
    return [
        f"{PACKAGE}.{name}" for top in FOLDERS for name in (top, *(f"{top}.{x}" for x in find_packages(top)))
    ]


setup(
    packages=[PACKAGE, *subpackages()],
    package_dir={PACKAGE: "package", **{f"{PACKAGE}.{folder}": folder for folder in FOLDERS}},
    cmdclass={"build_py": BuildWithCopies},
)
