"""Evaluate a user's SQL condition on the metadata of documents, in a separate database in memory."""

import json

import duckdb
import pyarrow as pa

from annotate_transformer.ingest.errors import SettingsError
from annotate_transformer.store.metadata import columns_of, typed

BATCH = 10_000  # number of documents whose metadata DuckDB gets at a time
# The condition is the author's own SQL. It can still read nothing but the metadata: a condition may come with
# a command that was copied from elsewhere.
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "lock_configuration": True,
    "temp_directory": "",
}


class Condition:
    """A SQL condition on documents, such as `party = 'Whig'`; its columns are the keys of the metadata.

    The columns have the types of the JSON values; a column whose values have several types is JSON. If all
    texts of a column are numbers, as in CSV, it is a number, and empty texts are NULL.
    """

    def __init__(self, condition: str) -> None:
        self.condition = condition
        self._con = duckdb.connect(config=CONFIG)
        self._con.execute("CREATE TABLE document (number BIGINT, metadata JSON)")
        self._waiting: list[str] = []
        self._count = 0

    def add(self, metadata: dict[str, object]) -> None:
        """Add the metadata of the next document, for `numbers`."""
        self._waiting.append(json.dumps(metadata))
        if len(self._waiting) == BATCH:
            self._write()

    def _write(self) -> None:
        numbers = range(self._count, self._count + len(self._waiting))
        rows = pa.table(
            {"number": pa.array(numbers, pa.int64()), "metadata": pa.array(self._waiting, pa.string())}
        )
        self._con.register("rows", rows)
        self._con.execute("INSERT INTO document SELECT * FROM rows")
        self._con.unregister("rows")
        self._count, self._waiting = self._count + len(self._waiting), []

    def numbers(self) -> list[int]:
        """Return the numbers of the documents that fulfil the condition, from 0, ascending.

        Raises:
            SettingsError: the condition is wrong SQL, or names a column that no document has.
        """
        self._write()
        columns = columns_of(self._con, "document")
        rows = f'SELECT number AS "number of the document"{typed(columns)} FROM document'
        query = f'SELECT "number of the document" FROM ({rows}) WHERE (\n{self.condition}\n) ORDER BY ALL'
        try:
            if len(duckdb.extract_statements(query)) != 1:
                raise duckdb.ParserException("it is more than one condition")
            found = self._con.execute(query).fetchall()
        except duckdb.Error as error:
            raise self._wrong(error, columns) from error
        finally:
            self._con.close()
        return [number for (number,) in found]

    def _wrong(self, error: duckdb.Error, columns: dict[str, object]) -> SettingsError:
        named = (f"{name} ({kind})" if isinstance(kind, str) else name for name, kind in columns.items())
        has = f"the columns {', '.join(named)}" if columns else "no columns"
        why = str(error).splitlines()[0]
        return SettingsError(
            f"--where {self.condition!r} cannot be evaluated ({why}). The metadata has {has}."
        )
