"""A store's file on a web server, read by range requests with DuckDB's extension httpfs.

DuckDB reads the blocks that a query needs, 256 KB each, and keeps them in memory.
"""

import urllib.error
import urllib.request

import duckdb

from annotate_transformer.store.database import NO_EXTENSIONS, READING, SETTINGS, check_version
from annotate_transformer.store.elsewhere.extensions import load
from annotate_transformer.store.elsewhere.place import Elsewhere
from annotate_transformer.store.errors import NotAStore, StoreError, Unreachable
from annotate_transformer.store.location import BEGINNING, kind_by
from annotate_transformer.store.queries import literal

ANSWER_SECONDS = 30  # maximum seconds until the server begins to answer
PARTIAL = 206  # the HTTP status of an answer to a range request


class Web(Elsewhere):
    """A store's file at an address that begins with http:// or https://."""

    what, database = "a file on a web server", "store"

    def connect(self) -> duckdb.DuckDBPyConnection:
        self._check_kind()
        con = duckdb.connect(config=NO_EXTENSIONS)
        try:
            load(con, "httpfs", "http")
            con.execute(f"SET http_timeout = {ANSWER_SECONDS}")
            con.execute(f"ATTACH {literal(self.address)} AS store ({READING})")
            for setting in ("USE store", *SETTINGS):
                con.execute(setting)
            check_version(con, self, read_only=True)
        except BaseException:
            con.close()
            raise
        return con

    def _check_kind(self) -> None:
        """Read the file's first bytes to raise a clear error; DuckDB's own errors do not say what is wrong.

        Raises:
            Unreachable: the server does not answer, refuses, or cannot send a range of a file.
            NotAStore: there is no such file, or no DuckDB database.
        """
        try:
            asked = urllib.request.Request(self.address, headers={"Range": f"bytes=0-{BEGINNING - 1}"})
            with urllib.request.urlopen(asked, timeout=ANSWER_SECONDS) as answer:
                status, begins = answer.status, answer.read(BEGINNING)
        except urllib.error.HTTPError as error:
            with error:
                told = f"{self.address} cannot be read: the server answers {error.code} ({error.reason})."
            if error.code in (404, 410):
                raise NotAStore(f"{told} Correct the address: it is that of the file itself.") from error
            raise Unreachable(f"{told} Try it in a browser, or download the file.") from error
        except (OSError, ValueError) as error:
            raise self._no_answer(getattr(error, "reason", error)) from error
        if (kind := kind_by(begins)) is not None:
            raise NotAStore(
                f"{self.address} is not a store: it is {kind}. Give the address of the store's file itself."
            )
        if status != PARTIAL:
            raise Unreachable(
                f"{self.address} is on a server that sends files as a whole only (no range requests). "
                "Download the file, and give its path."
            )

    def explained(self, error: BaseException) -> StoreError | None:
        # If the file's ETag has changed, DuckDB 1.5 raises an error whose message Python cannot decode.
        if isinstance(error, UnicodeError) or "ETag" in str(error):
            return Unreachable(f"{self.address} has changed on the server since it was opened. Ask again.")
        is_of_network = isinstance(error, duckdb.IOException) and "HTTP" in str(error)
        return self._no_answer(str(error).splitlines()[0]) if is_of_network else None

    def _no_answer(self, why: object) -> Unreachable:
        return Unreachable(
            f"{self.address} cannot be read ({why}). Check the address and the network, and ask again."
        )
