"""Turn the keys of the documents' metadata into typed columns of a query."""

import json

import duckdb

from annotate_transformer.store.queries import literal
from annotate_transformer.store.session import Session

# KINDS: type → regular expression of the texts that have it. All values of CSV are texts, also numbers. A
# number with zeros before it is a text, such as a postcode.
KINDS = {"BIGINT": "-?(0|[1-9][0-9]{0,17})", "DOUBLE": r"-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?"}


def columns_of(con: duckdb.DuckDBPyConnection, documents: str) -> dict[str, object]:
    """Return the SQL type of each key of the documents' metadata, in the form that `from_json` reads.

    A key whose texts are all numbers is a number, and its empty texts are NULL; a key whose values have
    several types is JSON. The type of a nested object is a dictionary.

    documents: a relation in SQL with the column metadata, in JSON
    """
    [(found,)] = con.execute(f"SELECT json_group_structure(metadata) FROM {documents}").fetchall()
    columns = json.loads(found or "{}")
    if not isinstance(columns, dict):  # json_group_structure returns "JSON" if no document has a key
        return {}
    for name in [name for name, kind in columns.items() if kind == "VARCHAR"]:
        text = f"nullif(metadata->>{literal('$.' + json.dumps(name, ensure_ascii=False))}, '')"
        matches = ", ".join(f"bool_and(regexp_full_match({text}, {literal(x)}))" for x in KINDS.values())
        [are] = con.execute(f"SELECT {matches} FROM {documents}").fetchall()
        columns[name] = next((kind for kind, all_are in zip(KINDS, are, strict=True) if all_are), "VARCHAR")
    return columns


def typed(columns: dict[str, object]) -> str:
    """Return the part of a SELECT list that makes each metadata key a column; it follows another column."""
    return f", unnest(from_json(metadata, {literal(json.dumps(columns))}))" if columns else ""


def of_positions(session: Session, run: int) -> tuple[str, str]:
    """Return a relation in SQL with one row per position of a run: position_id and the metadata's keys.

    The second text names the keys, for a message.
    """
    of_run = f"(FROM documents WHERE corpus_id = (SELECT corpus_id FROM base.run WHERE run_id = {run}))"
    with session.connection() as con:
        columns = columns_of(con, of_run)
    keys = typed(columns)
    relation = (
        f"(SELECT p_.position_id, d_.* EXCLUDE (document_id) FROM base.position p_ "
        f"JOIN (SELECT document_id{keys} FROM {of_run}) d_ USING (document_id) WHERE p_.run_id = {run})"
    )
    return relation, f"the keys {', '.join(columns)}" if columns else "no keys"
