"""Read the parts of a run from their stores, and copy their rows into the store of the whole run.

A part is a range of whole shards that `annotate ingest --part` has stored in a file of its own (base.part).
Its rows have the ids that the run has in that file; the copied rows get the ids of the run in the new store.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from annotate_transformer.store.catalogue import Table, catalogue
from annotate_transformer.store.checksum import Change, CopiedChange, of_shard, recorded, whole
from annotate_transformer.store.database import READING, connection
from annotate_transformer.store.errors import DamagedStore, NoSuchRun, NotOneRun
from annotate_transformer.store.layout import DOCUMENTS_A_CORPUS, PASSAGES_A_DOCUMENT, POSITIONS_A_RUN
from annotate_transformer.store.location import located
from annotate_transformer.store.queries import literal, named
from annotate_transformer.store.writer import Begun, Provenance, Vocabulary

OF_POSITION = ("", "first_", "last_", "at_", "source_")  # prefixes of `position_id` in names of columns
# MOVED: column with an id → SQL expression of its id in the new store. $positions and $documents are the
# differences between an id in the new store and in the old one.
MOVED = {
    "run_id": "$run_id",
    "model_id": "$model_id",
    "corpus_id": "$corpus_id",
    "tokenizer_id": "$tokenizer_id",
    **{f"{name}position_id": f"{name}position_id + $positions" for name in OF_POSITION},
    "document_id": "document_id + $documents",
    "passage_id": "passage_id + $passages",
    "explanation_id": f"($run_id - 1) * {POSITIONS_A_RUN} + explanation_id % {POSITIONS_A_RUN}",
}
OF_POSITIONS = ("position", "contribution", "head", "head_source", "neuron", "neuron_code", "lens")
OF_SAMPLE = ("sample_position", "sample_row")
CANDIDATES = "top_candidate"  # each merged part adds rows to it, at its own positions
# ONCE: table → the key columns that tell whether the store has a row already.
ONCE = {
    "layer_bias": ("model_id",),
    "neuron_direction": ("model_id", "layer"),
    "token_direction": ("model_id", "token_id"),
    "document": ("document_id",),
    "passage": ("passage_id",),
}


@dataclass(frozen=True)
class StoredPart:
    """What a part's own store says about the part.

    `record`: its row of base.part; `ids`: the ids of its run, model, corpus and tokenizer in its store;
    `shards`: number, first and last position_id of each stored shard, in order;
    `documents`, `passages`: the smallest and largest document_id and passage_id.
    """

    path: Path
    record: dict[str, Any]
    ids: dict[str, int]
    provenance: Provenance
    shards: list[tuple[int, int, int]]
    documents: tuple[int, int]
    passages: tuple[int, int]

    @property
    def name(self) -> str:
        return f"part {self.record['part']} of {self.record['parts']}"

    @property
    def first_position_id(self) -> int:
        """The position_id that the run's first position has here, or would have if this part had it"""
        return (self.ids["run_id"] - 1) * POSITIONS_A_RUN

    @property
    def is_complete(self) -> bool:
        return bool(self.shards) and self.shards[-1][0] == self.record["last_shard"]

    @property
    def tokens(self) -> int:
        """The number of positions stored so far"""
        return sum(last - first + 1 for _, first, last in self.shards)

    def ordinals(self) -> list[tuple[int, int, int]]:
        """Return number, first and last ordinal of each stored shard."""
        origin = self.first_position_id
        return [(shard, first - origin, last - origin) for shard, first, last in self.shards]

    def fetcher(self, con: duckdb.DuckDBPyConnection) -> Callable[..., pa.Table]:
        """Return a function that runs a SELECT of write.sql in this part's store."""
        queries = named("write.sql")
        queries = queries | {"candidates": queries["candidates_of_part"]}
        return lambda query, **parameters: con.execute(queries[query], parameters).to_arrow_table()

    def vocabulary(self) -> Vocabulary:
        with connection(self.path, read_only=True) as con:
            [(spells,)] = con.execute(
                named("write.sql")["spells_of_tokenizer"], self._of("tokenizer")
            ).fetchall()
            tokens = con.execute(named("write.sql")["tokens_of_tokenizer"], self._of("tokenizer")).fetchall()
        special = {token_id for token_id, *_, is_special in tokens if is_special}
        return Vocabulary([(i, text, bytes(raw)) for i, text, raw, _ in tokens], special, spells)

    def _of(self, owner: str) -> dict[str, int]:
        return {f"{owner}_id": self.ids[f"{owner}_id"]}


def read_part(path: Path) -> StoredPart:
    """Read the description of the part that a store has.

    Raises:
        NoSuchRun: the store has no part of a run, or parts of several runs.
        DamagedStore: the record of the run contradicts its identity.
        StoreError: see `store.database.connection`.
    """
    queries = named("write.sql")
    with connection(path, read_only=True) as con:
        found = con.execute(queries["stored_parts"]).to_arrow_table().to_pylist()
        if len(found) != 1:
            has = f"parts of {len(found)} runs" if found else "no part of a run"
            raise NoSuchRun(
                f"{path} has {has}. Give files that `annotate ingest --part` made, each with one part."
            )
        record = found[0]
        ids = {name: record.pop(name) for name in ("model_id", "corpus_id", "tokenizer_id")}
        ids["run_id"] = record["run_id"]
        provenance = _provenance(con, ids, path)
        shards = con.execute(queries["shards_of_run"], {"run_id": ids["run_id"]}).fetchall()
        [texts] = con.execute(queries["texts_of_corpus"], {"corpus_id": ids["corpus_id"]}).fetchall()
    return StoredPart(path, record, ids, provenance, shards, texts[:2], texts[2:])


def _provenance(con: duckdb.DuckDBPyConnection, ids: dict[str, int], path: Path) -> Provenance:
    def row(table: str) -> dict[str, Any]:
        of = f"{table}_id"
        found: list[dict[str, Any]] = (
            con.execute(catalogue()[table].select, {"id": ids[of]}).to_arrow_table().to_pylist()
        )
        return {name: value for name, value in found[0].items() if name != of}

    run, model, tokenizer = row("run"), row("model"), row("tokenizer")
    del model["tokenizer_id"]
    read = {name: json.loads(run[name]) for name in ("settings", "libraries", "processing")}
    provenance = Provenance(
        model=model,
        tokenizer_sha256=tokenizer["sha256"],
        corpus=row("corpus"),
        hf_difference=run["hf_difference"],
        **read,
    )
    if provenance.identity != run["identity"]:
        raise DamagedStore(
            f"{path}: the record of run {ids['run_id']} contradicts its identity, so it was changed. "
            "Annotate this part again."
        )
    return provenance


def differences(one: Provenance, other: Provenance) -> list[str]:
    """Return what two runs were made from and what differs, with the values of both, `one` first."""
    told = list[str]()
    for field in fields(Provenance):
        here, there = getattr(one, field.name), getattr(other, field.name)
        if field.name in ("settings", "libraries", "processing"):
            names = sorted({*here, *there})
            told += [f"{n} {here.get(n)} and {there.get(n)}" for n in names if here.get(n) != there.get(n)]
    for what, name in (("model", "weights_sha256"), ("corpus", "sha256")):
        here, there = (getattr(run, what)[name] for run in (one, other))
        if here != there:
            told.append(f"the {what}'s hash {here[:12]}… and {there[:12]}…")
    if one.tokenizer_sha256 != other.tokenizer_sha256:
        told.append("the tokenizer")
    return told or ["the model's configuration"]


def distinct_files(files: Sequence[Path]) -> Sequence[Path]:
    """Return the files; raise NotOneRun if one is given twice, under whatever names."""
    seen = set[Path]()
    for file in files:
        if located(file) in seen:
            raise NotOneRun(f"{file} is given twice. Give each part once.")
        seen.add(located(file))
    return files


def checked(parts: Sequence[StoredPart]) -> list[StoredPart]:
    """Return the parts in the order of their positions, after checking that they make one whole run.

    Raises:
        NotOneRun: parts of different runs, with different shards, incomplete, twice or missing.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.provenance.identity != first.provenance.identity:
            differ = ", ".join(differences(first.provenance, part.provenance))
            raise NotOneRun(
                f"{first.path} and {part.path} are parts of different runs: {differ}. Annotate the second "
                "one again with the settings and versions of the first, or leave it out."
            )
        if part.record["plan_sha256"] != first.record["plan_sha256"]:
            raise NotOneRun(
                f"{first.path} and {part.path} are cut into other shards: --shard-tokens was another. "
                "Annotate the second one again with the --shard-tokens or the --plan of the first."
            )
    for part in parts:
        if not part.is_complete:
            raise NotOneRun(
                f"{part.path} has {part.name} only to shard {part.shards[-1][0]} of {_range(part)}. The same "
                "`annotate ingest` completes it."
            )
    ordered = sorted(parts, key=lambda part: (part.record["first_shard"], str(part.path)))
    _check_ranges(ordered)
    return ordered


def _check_ranges(ordered: Sequence[StoredPart]) -> None:
    shards, reached, before = ordered[0].record["shards"], 0, None
    missing = list[str]()
    for part in ordered:
        first = part.record["first_shard"]
        if before is not None and first < reached:
            raise NotOneRun(
                f"{before.path} ({before.name}, {_range(before)}) and {part.path} ({part.name}, "
                f"{_range(part)}) have the same shards. Leave one of them out."
            )
        if first > reached:
            missing.append(_shards(reached, first - 1))
        reached, before = part.record["last_shard"] + 1, part
    if reached < shards:
        missing.append(_shards(reached, shards - 1))
    if missing:
        there = {part.record["part"] for part in ordered}
        parts = ordered[0].record["parts"]
        same = all(part.record["parts"] == parts for part in ordered)
        lacking = [f"{n}/{parts}" for n in range(1, parts + 1) if same and n not in there]
        named = f" ({', '.join(lacking)})" if lacking else ""
        raise NotOneRun(
            f"A part is missing{named}: {' and '.join(missing)} of {shards} shards are in none of the files. "
            "Give all parts of the run."
        )


def _shards(first: int, last: int) -> str:
    return f"shard {first}" if first == last else f"shards {first} to {last}"


def _range(part: StoredPart) -> str:
    return _shards(part.record["first_shard"], part.record["last_shard"])


class Copy:
    """The rows of a part, to be copied into another store within the transaction of a `Writer`.

    `changes`: the rows that the transaction adds, for their checksums; `covers`: names of tables for which
    these are all rows that the transaction adds.
    """

    covers = frozenset({CANDIDATES})

    def __init__(self, part: StoredPart, begun: Begun, *, is_first: bool) -> None:
        """`is_first`: whether to copy the model's rows too that each part has (biases, W_out)."""
        self.part, self.is_first = part, is_first
        documents = begun.first_document_id - (part.ids["corpus_id"] - 1) * DOCUMENTS_A_CORPUS
        self.moved = {
            "run_id": begun.run_id,
            "model_id": begun.model_id,
            "corpus_id": begun.corpus_id,
            "positions": begun.first_position_id - part.first_position_id,
            "documents": documents,
            "passages": documents * PASSAGES_A_DOCUMENT,
        }

    def tables(self) -> list[str]:
        """Return the tables whose rows are copied, in order."""
        of_model = ("layer_bias", "neuron_direction") if self.is_first else ()
        return [*OF_POSITIONS, *OF_SAMPLE, *of_model, "token_direction", "document", "passage", "shard"]

    def write(self, con: duckdb.DuckDBPyConnection) -> None:
        """Copy the part's rows into the new store, in the transaction that `con` has begun."""
        con.execute(f"ATTACH {literal(str(located(self.part.path)))} AS part ({READING})")
        owners = {f"part_{name}": value for name, value in self.part.ids.items()}
        for name in self.tables():
            query = copying(catalogue()[name])
            parameters = {n: v for n, v in (self.moved | owners).items() if f"${n}" in query}
            con.execute(query, parameters)

    def check(self) -> None:
        """Check the part's rows against their checksums, except those copied together with their checksums.

        Raises:
            DamagedStore: rows were changed since they were written.
        """
        with connection(self.part.path, read_only=True) as con:
            for rows in self._rows_of_part(con):
                is_copied = self._keeps_ids and rows.table.name in OF_POSITIONS
                if not is_copied and rows.sums(con) != recorded(con, rows):
                    where = f"base.{rows.table.name}" + (f" in shard {rows.shard}" * rows.table.is_sharded)
                    raise DamagedStore(
                        f"{self.part.path} is damaged: the rows of {where} are not what was written "
                        f"(`annotate verify {self.part.path}`). Nothing of it was merged. Annotate this part "
                        "again; the same command then resumes the merge."
                    )

    def _rows_of_part(self, con: duckdb.DuckDBPyConnection) -> Iterator[Change]:
        for owner in ("run", "corpus", *(("model",) if self.is_first else ())):
            yield from whole(con, owner, self.part.ids[f"{owner}_id"])

    @property
    def _keeps_ids(self) -> bool:
        """Whether the run, its positions and its documents have the same ids in both stores"""
        moved = self.moved
        return moved["run_id"] == self.part.ids["run_id"] and not moved["positions"] | moved["documents"]

    def changes(self) -> Iterator[Change]:
        """Yield the sets of rows that the copy adds to the new store, for their checksums."""
        run_id, moved = self.moved["run_id"], self.moved
        yield from self._of_shards()
        first, last = (
            self.part.record[f"{end}_position_id"] + moved["positions"] for end in ("first", "last")
        )
        for name in (*OF_SAMPLE, CANDIDATES):
            yield Change(catalogue()[name], run_id, where=f"position_id BETWEEN {first} AND {last}")
        shards = f"first_position_id BETWEEN {first} AND {last}"
        yield Change(catalogue()["shard"], run_id, where=shards)
        for name in ("layer_bias", "neuron_direction") if self.is_first else ():
            yield Change(catalogue()[name], moved["model_id"])
        yield self._tokens()
        for name, ids in (("document", self.part.documents), ("passage", self.part.passages)):
            low, high = (value + moved[f"{name}s"] for value in ids)
            yield Change(catalogue()[name], moved["corpus_id"], where=f"{name}_id BETWEEN {low} AND {high}")

    def _of_shards(self) -> Iterator[Change]:
        """Yield, for each shard and each table of positions, the rows that are copied into the new store.

        If the rows keep their ids, their recorded checksums are copied and not computed again.
        """
        run_id, moved = self.moved["run_id"], self.moved
        with connection(self.part.path, read_only=True) as con:
            for shard, first, last in self.part.shards:
                for name in OF_POSITIONS:
                    rows = of_shard(catalogue()[name], run_id, shard, first, last)
                    if self._keeps_ids:
                        yield CopiedChange(**vars(rows) | {"is_new": True}, copied=recorded(con, rows))
                        continue
                    ends = first + moved["positions"], last + moved["positions"]
                    yield replace(of_shard(catalogue()[name], run_id, shard, *ends), is_new=True)

    def _tokens(self) -> Change:
        with connection(self.part.path, read_only=True) as con:
            query = named("write.sql")["tokens_with_direction"]
            found = con.execute(query, {"model_id": self.part.ids["model_id"]}).fetchall()
        written = {"written": [token for (token,) in found]}
        where = "token_id IN (SELECT unnest($written::INTEGER[]))"
        return Change(catalogue()["token_direction"], self.moved["model_id"], where=where, parameters=written)


def moving(table: Table, moved: Mapping[str, str] = MOVED) -> str:
    """Return the query for one owner's rows in a table, with ids converted to those of another store.

    Its parameters are those of `MOVED`, and the owner's id in this store, such as $part_run_id.
    `moved`: column with an id → SQL expression of the id in the other store; empty if the ids stay.
    """
    owned = table.owned.replace("$id", f"$part_{table.owner}_id")
    columns = {column.name for column in table.columns}
    changed = ", ".join(f"{value} AS {name}" for name, value in moved.items() if name in columns)
    replaced = f" REPLACE ({changed})" if changed else ""
    return f"SELECT *{replaced} FROM base.{table.name} WHERE {owned}"


def copying(table: Table, part: str = "part", moved: Mapping[str, str] = MOVED) -> str:
    """Return the INSERT that copies one owner's rows in a table from the attached database `part`."""
    rows = moving(table, moved).replace(" base.", f" {part}.base.")
    if table.name in ONCE:
        rows = f"SELECT * FROM ({rows}) ANTI JOIN base.{table.name} USING ({', '.join(ONCE[table.name])})"
        rows += f" ORDER BY {', '.join(table.ordered_by)}"
    return f"INSERT INTO base.{table.name} BY NAME {rows}"
