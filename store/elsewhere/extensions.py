"""Load an extension of DuckDB from the Python package that contains it, so that nothing is downloaded.

The packages `duckdb-extension-NAME` have the very file that DuckDB would download, for one version of DuckDB.
"""

from importlib.metadata import PackageNotFoundError, files, version

import duckdb

from annotate_transformer.store.errors import StoreError
from annotate_transformer.store.queries import literal


class NoExtension(StoreError):
    """An extension of DuckDB is not installed, or is for another version of DuckDB."""


def load(con: duckdb.DuckDBPyConnection, name: str, extra: str) -> None:
    """Load an extension into the database of `con`.

    name: of the extension, such as httpfs; extra: of this package, which installs the extension's package

    Raises:
        NoExtension: the extension's package is not there, or is for another version of DuckDB.
    """
    package = f"duckdb-extension-{name.replace('_', '-')}"
    install = f"`pip install 'annotate-transformer[{extra}]'`"
    try:
        found = [file for file in files(package) or () if file.name == f"{name}.duckdb_extension"]
    except PackageNotFoundError as error:
        raise NoExtension(f"This needs DuckDB's extension {name}, which {install} installs.") from error
    if version(package) != duckdb.__version__ or not found:
        raise NoExtension(
            f"{package} {version(package)} is for another version of DuckDB than {duckdb.__version__}: "
            f"{install} installs those that fit."
        )
    con.execute(f"LOAD {literal(str(found[0].locate()))}")
