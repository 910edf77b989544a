"""A store's file on a web server, read by range requests with DuckDB's extension httpfs."""

import duckdb

from annotate_transformer.store.database import NO_EXTENSIONS, READING, SETTINGS
from annotate_transformer.store.elsewhere.extensions import load
from annotate_transformer.store.elsewhere.place import Elsewhere
from annotate_transformer.store.queries import literal


class Web(Elsewhere):
    """A store's file at an address that begins with http:// or https://."""

    what, database = "a file on a web server", "store"

    def connect(self) -> duckdb.DuckDBPyConnection:
        con = duckdb.connect(config=NO_EXTENSIONS)
        load(con, "httpfs", "http")
        con.execute(f"ATTACH {literal(self.address)} AS store ({READING})")
        for setting in ("USE store", *SETTINGS):
            con.execute(setting)
        return con
