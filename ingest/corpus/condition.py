"""Evaluate a condition in SQL on the metadata of documents, in a database of its own in memory."""

import json
import re

import duckdb
import pyarrow as pa

from annotate_transformer.ingest.errors import SettingsError

BATCH = 10_000  # number of documents whose metadata DuckDB gets at a time
# The condition is the author's own SQL. It can still read nothing but the metadata: a condition may come with
# a command that was copied from elsewhere.
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "lock_configuration": True,
    "temp_directory": "",
}
KINDS = INTEGER, NUMBER, TEXT = "BIGINT", "DOUBLE", "VARCHAR"


def kind_of(text: str) -> str:
    """Return the type that a text has; a number with zeros before it is a text, such as a postcode.

    >>> kind_of("1998"), kind_of("-0.5"), kind_of("007"), kind_of("nan")
    ('BIGINT', 'DOUBLE', 'VARCHAR', 'VARCHAR')
    """
    if not re.fullmatch(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?", text):
        return TEXT
    return NUMBER if "." in text else INTEGER


class Condition:
    """A condition such as `party = 'Whig'`; the keys of the metadata are its columns.

    The columns have the types of the JSON values; a column whose values have several types is JSON. If all
    texts of a column are numbers, as in CSV, it is a number, and empty texts are NULL.
    """

    def __init__(self, condition: str) -> None:
        self.condition = condition
        self._con = duckdb.connect(config=CONFIG)
        self._con.execute("CREATE TABLE document (number BIGINT, metadata JSON)")
        self._waiting: list[str] = []
        self._count = 0
        self._kinds: dict[str, str] = {}  # key → the type of its texts

    def add(self, metadata: dict[str, object]) -> None:
        """Take the metadata of the next document."""
        for key, value in metadata.items():
            if isinstance(value, str) and value and self._kinds.get(key) != TEXT:
                self._kinds[key] = max(self._kinds.get(key, INTEGER), kind_of(value), key=KINDS.index)
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
        columns = self._columns()
        unnested = ", unnest(from_json(metadata, $structure))" if columns else ""
        rows = f'SELECT number AS "number of the document"{unnested} FROM document'
        query = f'SELECT "number of the document" FROM ({rows}) WHERE (\n{self.condition}\n) ORDER BY ALL'
        try:
            if len(duckdb.extract_statements(query)) != 1:
                raise duckdb.ParserException("it is more than one condition")
            found = self._con.execute(
                query, {"structure": json.dumps(columns)} if columns else None
            ).fetchall()
        except duckdb.Error as error:
            raise self._wrong(error, columns) from error
        finally:
            self._con.close()
        return [number for (number,) in found]

    def _columns(self) -> dict[str, object]:
        """Return the type of each key of the metadata, as DuckDB's `from_json` takes them."""
        [(found,)] = self._con.execute("SELECT json_group_structure(metadata) FROM document").fetchall()
        columns = json.loads(found or "{}")
        if not isinstance(columns, dict):  # "JSON" if no document has a key
            return {}
        of_texts = {name for name, kind in columns.items() if kind == TEXT}
        return columns | {name: self._kinds.get(name, TEXT) for name in of_texts}

    def _wrong(self, error: duckdb.Error, columns: dict[str, object]) -> SettingsError:
        named = (f"{name} ({kind})" if isinstance(kind, str) else name for name, kind in columns.items())
        has = f"the columns {', '.join(named)}" if columns else "no columns"
        why = str(error).splitlines()[0]
        return SettingsError(
            f"--where {self.condition!r} cannot be evaluated ({why}). The metadata has {has}."
        )
