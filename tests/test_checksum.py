"""Every changed cell changes a checksum, and whatever writes rows writes their checksum."""

import hashlib
import operator
import random
import shutil
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest

from annotate_transformer.store import checksum
from annotate_transformer.store.catalogue import Column, catalogue
from annotate_transformer.store.layout import members
from annotate_transformer.store.list_sums import list_sums

# A new value of each type of column, from the old one; the smallest change where a type has one.
OTHER = {
    "BOOLEAN": "NOT {0}",
    **dict.fromkeys(
        ("UTINYINT", "USMALLINT", "UINTEGER"), "CASE {0} WHEN 0 THEN {n} % 200 + 1 ELSE {0} - 1 END"
    ),
    **dict.fromkeys(("INTEGER", "BIGINT", "HUGEINT"), "{0} + {n}"),
    "FLOAT": "CASE {0} WHEN 0 THEN 1e-30 ELSE {0} * 1.000001 END",
    "DOUBLE": "CASE {0} WHEN 0 THEN 1e-300 ELSE {0} * (1 + 1e-15) END",
    **dict.fromkeys(
        ("DECIMAL(5, 4)", "DECIMAL(9, 4)", "DECIMAL(38, 4)"), "CASE {0} WHEN 0 THEN 1 ELSE {0} - 0.0001 END"
    ),
    "DECIMAL(9, 3)": "CASE {0} WHEN 0 THEN 1 ELSE {0} - 0.001 END",
    "TIMESTAMPTZ": "{0} + INTERVAL 1 MICROSECOND",
    "BLOB": "{0} || '\\x00'::BLOB",
    "VARCHAR": "{0} || ' '",
    "JSON": "json_merge_patch({0}, '{{\"other\": {n}}}')",
    "UTINYINT[]": "list_transform({0}, lambda x, i: CASE i WHEN 1 THEN (x + 1) % 32 ELSE x END)",
    "FLOAT[]": "list_transform({0}, lambda x, i: CASE i WHEN 2 THEN x + 1e-3 ELSE x END)",
    "DECIMAL(9, 3)[]": "list_transform({0}, lambda x, i: CASE i WHEN 2 THEN x + 0.001 ELSE x END)",
    "BIGINT[]": "list_reverse(list_concat({0}, [{n}]))",
    "VARCHAR[]": "list_concat({0}, ['other'])",
}

SOME = {
    "VARCHAR": "'x'",
    "JSON": "'{}'",
    "TIMESTAMPTZ": "now()",
    "BOOLEAN": "true",
}  # in place of NULL, else 1


@pytest.fixture
def con(every_table: Path, tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(str(shutil.copy(every_table, tmp_path))) as con:
        yield con


@pytest.fixture(scope="module")
def every_table(made: Path, tiny_model: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which every table was written, by everything that writes."""
    from annotate_transformer.ingest.corpus.sources import Corpus
    from annotate_transformer.ingest.interventions.unit_effects import Plan, measure
    from annotate_transformer.ingest.live.contrasts import Columns, contrast
    from annotate_transformer.ingest.live.runner import ModelRunner
    from annotate_transformer.ingest.models.model import Model
    from annotate_transformer.ingest.models.names import resolve
    from annotate_transformer.ingest.next_token.ablation import ablate
    from annotate_transformer.ingest.next_token.explain import explain_by_rules
    from annotate_transformer.ingest.next_token.prompts import PromptSettings, annotate_inputs, look_up
    from annotate_transformer.ingest.run.pipeline import ingest
    from annotate_transformer.ingest.run.plan import PartOf
    from annotate_transformer.ingest.run.settings import Settings
    from annotate_transformer.ingest.weights.tables import annotate_weights
    from annotate_transformer.store.reader import Store

    db = shutil.copy(made, tmp_path_factory.mktemp("every") / "x.duckdb")
    model, path = Model(resolve(str(tiny_model))), str(db)
    annotate_weights(model, path, top=3)
    look_up(model, path, 1, [(1, 7), (1, 9)], PromptSettings(windows=12, std_threshold=0.9))
    ablate(model, path, 1)
    explain_by_rules(path, 1)
    annotate_inputs(model, path, 1, 137, (1, 7))
    Store(path, runner=lambda: ModelRunner(model)).ablate(137, ["L1H1", "L0mlp"])
    measure(model, path, 1, Plan(sample=4, seed=0, replaced_by="mean", exact=2))
    contrast(model, path, 1, Columns("number", "next"))
    settings = Settings(context=16, batch_tokens=16, shard_tokens=80, samples=10, lens=True)
    everything = replace(settings, keep_neurons=None, keep_sources=None)
    for kept in (everything, replace(settings, seed=1)):
        stopping = iter([False, True])
        with Corpus([str(source)]) as documents:
            stop = partial(next, stopping, False)
            assert ingest(documents, model, path, kept, stop=stop).status == "stopped"
            if kept == everything:
                assert ingest(documents, model, path, kept).status == "finished"
    with Corpus([str(source)]) as documents:
        part = replace(settings, seed=2)
        assert ingest(documents, model, path, part, part=PartOf(2, 2)).status == "finished"
    return Path(db)


def differing(con: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    return [found for owner in checksum.owners(con) for found in checksum.differing(con, *owner)]


def test_every_command_writes_checksums(con: duckdb.DuckDBPyConnection) -> None:
    assert differing(con) == []
    [(shards,)] = con.execute("SELECT count(*) FROM base.shard WHERE run_id = 2").fetchall()
    recorded = "SELECT count(*) FROM base.checksum WHERE name = 'position' AND owner_id = 2"
    assert shards > 2 and con.execute(recorded).fetchall() == [(shards,)]
    filled = [name for name in catalogue() if con.execute(f"SELECT 1 FROM base.{name} LIMIT 1").fetchone()]
    [(names,)] = con.execute("SELECT list(DISTINCT name) FROM base.checksum").fetchall()
    assert {*names} | {"checksum"} == {*filled}


def test_no_single_changed_cell_is_missed(con: duckdb.DuckDBPyConnection) -> None:
    chance, missed, changed = random.Random(5), list[str](), 0
    owners = checksum.owners(con)
    tables = [table for table in catalogue().values() if con.execute(f"FROM base.{table.name}").fetchone()]
    while changed < 300:
        table = chance.choice(tables)
        [rowids] = con.execute(f"SELECT list(rowid) FROM base.{table.name}").fetchall()
        column, row = chance.choice(table.columns), chance.choice(rowids[0])
        statement = (
            f'UPDATE base.{table.name} SET "{column.name}" = {_other(column, chance)} WHERE rowid = {row}'
        )
        con.execute("BEGIN")
        with suppress(duckdb.ConstraintException):  # a change that DuckDB itself does not allow
            con.execute(statement)
            changed += 1
            if table.name == "checksum":
                found = bool(differing(con))
            else:
                parts = (
                    rows
                    for owner in owners
                    if owner[0] == table.owner
                    for rows in checksum.whole(con, *owner)
                )
                found = any(
                    checksum.recorded(con, rows) != rows.sums(con) for rows in parts if rows.table == table
                )
            if not found:
                missed.append(statement)
        con.execute("ROLLBACK")
    assert missed == []


def _other(column: Column, chance: random.Random) -> str:
    """Return an expression for another value of the column."""
    quoted = f'"{column.name}"'
    if column.type in OTHER:
        other = OTHER[column.type].format(quoted, n=chance.randint(1, 99))
        return f"coalesce({other}, {SOME.get(column.type, 1)})" if column.is_nullable else other
    names = members(column.type)
    cases = " ".join(f"WHEN '{a}' THEN '{b}'" for a, b in zip(names, [*names[1:], names[0]], strict=True))
    return f"CASE {quoted} {cases} ELSE '{names[0]}' END"


def test_values_that_change_places_are_noticed(con: duckdb.DuckDBPyConnection) -> None:
    rows = (
        "(SELECT position_id, attn_top FROM base.contribution WHERE layer = 1 AND position_id IN (100, 101))"
    )
    con.execute(
        f"UPDATE base.contribution c SET attn_top = r.attn_top FROM {rows} r "
        "WHERE c.layer = 1 AND c.position_id = 201 - r.position_id"
    )
    assert [found[0] for found in differing(con)] == ["contribution"]


def test_the_order_of_rows_does_not_matter(con: duckdb.DuckDBPyConnection) -> None:
    before = differing(con)
    for name in ("position", "head", "neuron_code", "top_entry", "unit_stat"):
        con.execute(
            f"CREATE TABLE kept AS FROM base.{name} ORDER BY hash({catalogue()[name].key[0]}), random()"
        )
        con.execute(f"DELETE FROM base.{name}; INSERT INTO base.{name} FROM kept; DROP TABLE kept")
    assert differing(con) == before == []


def test_sums_of_parts_add_up_to_the_sum(con: duckdb.DuckDBPyConnection) -> None:
    head = catalogue()["head"]
    parts = [checksum.Change(head, 1, where=f"position_id % 3 = {part}").sums(con) for part in range(3)]
    assert tuple(map(sum, zip(*parts, strict=True))) == checksum.Change(head, 1).sums(con)


def test_the_arithmetic_is_that_of_whole_numbers(con: duckdb.DuckDBPyConnection) -> None:
    """Compute the checksum of a table with every kind of number in plain Python."""
    table = catalogue()["unit_stat"]
    rows, squares = con.execute("FROM base.unit_stat WHERE run_id = 1").fetchall(), 0
    for row in rows:
        values = [_plain(value, column.type) for value, column in zip(row, table.columns, strict=True)]
        factors = [_factor(f"unit_stat.{column.name}") for column in table.columns]
        squares += fmod(sum(map(operator.mul, values, factors)), checksum.PRIME) ** 2
    assert checksum.Change(table, 1).sums(con) == (len(rows), squares)


LISTS = {
    "UTINYINT[]": ("range % 32", "x::BIGINT"),
    "FLOAT[]": (
        "CASE range % 3 WHEN 0 THEN -0.0 ELSE tan(range) * -1e30 END",
        "if(x = 0, 0, x::BIT::INTEGER::BIGINT)",
    ),
    "DECIMAL(9, 3)[]": ("nullif((range - 3) % 5, 0) * -249999.999", "(x * 1000)::BIGINT"),
    "BIGINT[]": ("(range ** 4 * (range % 7 - 4))::BIGINT", "x % 2147483647"),
}


@pytest.mark.parametrize("version", ["1.0", "1.5"])
@pytest.mark.parametrize("kind", LISTS)
def test_lists_are_summed_as_in_sql(kind: str, version: str) -> None:
    """Compare lists of several lengths, of which one needs more than 64 bits, with SQL's whole numbers."""
    element, integer = LISTS[kind]
    con = duckdb.connect(config={"arrow_output_version": version})
    lengths = "(VALUES (0, 3), (1, 3), (2, 0), (3, 8), (4, 9000)) l(i, length)"
    elements = f"coalesce((SELECT list({element} ORDER BY range) FROM range(length)), [])"
    con.execute(f"CREATE TABLE lists AS SELECT i, {elements}::{kind} AS list FROM {lengths}")
    weighted = f"list_transform(list, lambda x, i: ({integer}) * (i * 7919 % 1000003))"
    query = f"SELECT coalesce(list_sum({weighted}), 0) % 2147483647 + len(list) FROM lists ORDER BY i"
    found = con.execute("SELECT list FROM lists ORDER BY i").to_arrow_table()["list"].chunk(0)
    assert list_sums(found).tolist() == [number for (number,) in con.execute(query).fetchall()]


def fmod(number: int, divisor: int) -> int:
    """Return the remainder with the sign of the number, as SQL defines it."""
    return abs(number) % divisor * (1 if number >= 0 else -1)


def _factor(name: str) -> int:
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:3], "big") | 1


def _plain(value: Any, kind: str) -> int:
    if kind == "FLOAT":
        return int(struct.unpack(">i", struct.pack(">f", value + 0.0))[0])
    if kind == "BIGINT[]":
        weighted = (fmod(x, checksum.PRIME) * (i * 7919 % 1000003) for i, x in enumerate(value, 1))
        return fmod(sum(weighted), checksum.PRIME) + len(value)
    if kind in ("BIGINT", "HUGEINT"):
        return fmod(value, checksum.PRIME)
    return members(kind).index(value) if isinstance(value, str) else int(value)
