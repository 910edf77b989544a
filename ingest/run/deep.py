"""Verify a run by running its model again: `annotate verify --deep N`.

The windows of N random positions are divided and annotated as in the ingest, and every stored value of these
windows is compared with the new one. A batch has other windows this time, so float32 arithmetic rounds in
another way: TOLERANCE allows for that.
"""

import json
import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import torch

from annotate_transformer.ingest.attribution.decompose import decompose
from annotate_transformer.ingest.attribution.summaries import Thresholds
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.corpus.windows import Batch, Cursor, Window, batches, cut_to
from annotate_transformer.ingest.errors import ModelError, SettingsError
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.run.rows import Identity, rows_of
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.store.arrow import quoted
from annotate_transformer.store.catalogue import Table, catalogue
from annotate_transformer.store.database import create
from annotate_transformer.store.elsewhere.place import Address
from annotate_transformer.store.layout import DOCUMENTS_A_CORPUS, POSITIONS_A_RUN, STEPS_A_LOGIT
from annotate_transformer.store.queries import named
from annotate_transformer.store.session import Session
from annotate_transformer.store.verify import SHOWN, Finding

# A stored number may differ by TOLERANCE · (1 + |number|) from the number that this check computes again.
# Float32 arithmetic rounds differently when a window is in another batch.
TOLERANCE = 2e-4
# KEPT: tables that hold only the strongest terms. Of two nearly equal terms, the ingest may have selected
# one, and this check may select the other.
KEPT = ("neuron", "head_source")
# SWAPPED: the neurons that only one of the two has at a position. Their effects are in the other's remainder.
SWAPPED = """
    SELECT position_id, layer,
           sum((toward_next * {steps})::BIGINT) AS next, sum((toward_top * {steps})::BIGINT) AS top
    FROM {one} ANTI JOIN {other} USING (position_id, layer, neuron) GROUP BY ALL"""


@dataclass(frozen=True)
class Wanted:
    """A window to annotate again.

    `first_position_id`, `first_window_id`: the first position and the first window of its document;
    `stored`: number of the window's stored positions.
    """

    document_id: int
    window_id: int
    first_position_id: int
    first_window_id: int
    stored: int


def verify_deep(path: Address, run_id: int | None, n: int, seed: int = 0) -> Iterator[Finding]:
    """Annotate the windows of `n` random positions again; yield one `Finding` of differences per table.

    Raises:
        NoSuchRun: there is no such run.
        ModelError: the run's model is gone, or has other weights now.
        SettingsError: the store has only a part of the run.
    """
    with Session(path) as session:
        run = session.run(run_id)
        if len(session.sql("FROM parts WHERE run_id = $run", {"run": run})):
            raise SettingsError(
                f"{path} has only a part of run {run}, and some of its windows begin in another part. Merge "
                "the parts (`annotate merge`), and verify the merged store with --deep."
            )
        about = session.about(run)
        recorded = json.loads(about.settings)
        model = _model(about, recorded)
        settings = Settings(**{f.name: recorded[f.name] for f in fields(Settings) if f.name in recorded})
        settings = settings.resolved(model)
        wanted = _wanted(session, run, n, seed)
        identity = Identity(run, (run - 1) * POSITIONS_A_RUN, (int(about.corpus_id) - 1) * DOCUMENTS_A_CORPUS)
        with closing(duckdb.connect()) as again:
            create(again)
            tokenizer = Tokenizer(model.tokenizer, parse_special=settings.parse_special)
            windows = list(_windows(session, wanted, tokenizer, settings, identity))
            for batch in batches(windows, settings.batch_tokens or 1):
                _insert(again, _rows(model, batch, settings, identity), run)
            yield from _compared(session, again, run, wanted)


def _model(about: Any, recorded: dict[str, Any]) -> Model:
    """Load the run's model at the run's revision and precision; raise ModelError if its weights changed."""
    revision = about.revision if isinstance(about.revision, str) else None
    dtype = getattr(torch, recorded.get("dtype", "float32"))
    model = Model(resolve(about.model, revision), dtype=dtype)
    if model.weights_sha256 != about.weights_sha256:
        raise ModelError(
            f"{model.checkpoint.name} has other weights now than when run {about.run_id} was made with it: "
            "restore the run's model. Without --deep, the stored rows are verified by themselves."
        )
    return model


def _wanted(session: Session, run: int, n: int, seed: int) -> list[Wanted]:
    """Return the windows of `n` random positions of the run, without duplicates."""
    origin = (run - 1) * POSITIONS_A_RUN
    [count] = session.sql("SELECT count(*) AS n FROM base.position WHERE run_id = $run", {"run": run}).n
    chosen = random.Random(seed).sample(range(int(count)), min(n, int(count)))
    ids = [origin + ordinal for ordinal in sorted(chosen)]
    rows = session.sql(named("write.sql")["windows_of_positions"], {"run_id": run, "position_ids": ids})
    return [Wanted(*map(int, row)) for row in rows.itertuples(index=False)]


def _windows(
    session: Session, wanted: list[Wanted], tokenizer: Tokenizer, settings: Settings, identity: Identity
) -> Iterator[Window]:
    """Divide the documents into windows as the ingest did, and yield the wanted windows."""
    windowing = settings.windowing(tokenizer)
    for document in sorted({window.document_id for window in wanted}):
        of_document = {window.window_id: window for window in wanted if window.document_id == document}
        first = next(iter(of_document.values()))
        text = "SELECT text FROM base.document WHERE document_id = $document"
        [text] = session.sql(text, {"document": document}).text
        at = Cursor(
            document - identity.document_id,
            first.first_position_id - identity.position_id,
            first.first_window_id,
        )
        last = max(of_document)
        for window in windowing.windows(tokenizer.encode(text), at):
            if window.window in of_document:
                yield cut_to(window, of_document[window.window].stored)
            if window.window == last:
                break


def _rows(model: Model, batch: Batch, settings: Settings, identity: Identity) -> dict[str, pa.Table]:
    neurons = torch.full((3, model.n_layers, model.d_mlp), torch.inf, device=model.device)
    heads = torch.full((2, model.n_layers, model.n_heads), torch.inf, device=model.device)
    nothing = Thresholds(neurons, heads, k=1)
    unsampled = np.zeros(int(batch.stored.sum()), dtype=np.bool_)
    return rows_of(decompose(model, batch, settings.keep, nothing, unsampled), batch, unsampled, identity)


def _insert(again: duckdb.DuckDBPyConnection, rows: dict[str, pa.Table], run: int) -> None:
    """Insert recomputed rows with the SQL statements of an ingest, because these also round the values."""
    made = named("write.sql")
    for name, table in rows.items():
        if not catalogue()[name].is_sharded:
            continue
        with_run = table.append_column("run_id", pa.array(np.full(len(table), run, dtype=np.int32)))
        again.register("rows", with_run)
        again.execute(made.get(f"insert_{name}", catalogue()[name].insert))
        again.unregister("rows")


def _compared(
    session: Session, again: duckdb.DuckDBPyConnection, run: int, wanted: list[Wanted]
) -> Iterator[Finding]:
    """Compare the stored rows of the wanted windows with the rows computed again, table by table."""
    windows = (
        "SELECT position_id FROM base.position WHERE run_id = $run AND list_contains($windows, window_id)"
    )
    parameters = {"run": run, "windows": [window.window_id for window in wanted]}
    ids = [int(number) for number in session.sql(windows, parameters).position_id]
    for table in catalogue().values():
        if not table.is_sharded:
            continue
        query = f"FROM base.{table.name} WHERE run_id = {run} AND position_id IN (SELECT unnest($ids))"
        again.register("read", session.arrow(query, {"ids": ids}))
        again.execute("CREATE OR REPLACE TEMP TABLE stored AS FROM read")
        again.unregister("read")
        if table.name == "position":
            ids = sorted({*ids} - _near_ties(again))
        if table.name == "contribution":
            _allow_for_swapped_neurons(session, again, run, ids)
        told = again.execute(f"{_difference(table)} ORDER BY problem", {"ids": ids}).fetchall()
        yield Finding(f"computed again: {table.name}", len(told), [row[0] for row in told[:SHOWN]], run)


def _near_ties(again: duckdb.DuckDBPyConnection) -> set[int]:
    """Return the positions whose stored and new top predictions differ but have nearly equal logits.

    At these positions, the new effects on the top prediction are effects on another token.
    """
    query = f"""SELECT position_id FROM stored s JOIN base.position a USING (position_id)
                WHERE s.top_token_id <> a.top_token_id AND NOT {_differs("top_logit", "FLOAT")}"""
    return {number for (number,) in again.execute(query).fetchall()}


def _allow_for_swapped_neurons(
    session: Session, again: duckdb.DuckDBPyConnection, run: int, ids: list[int]
) -> None:
    """Add the effects of neurons that only one of the two has to its remainder, in both tables.

    The sums of absolute effects become 0 there: they are of unrounded effects, and the rows are rounded.
    """
    query = f"FROM base.neuron WHERE run_id = {run} AND position_id IN (SELECT unnest($ids))"
    again.register("read", session.arrow(query, {"ids": ids}))
    again.execute("CREATE OR REPLACE TEMP TABLE stored_neuron AS FROM read")
    again.unregister("read")
    both = ("stored_neuron", "base.neuron")
    for number, (one, other) in enumerate((both, both[::-1])):
        swapped = SWAPPED.format(one=one, other=other, steps=STEPS_A_LOGIT)
        again.execute(f"CREATE OR REPLACE TEMP TABLE swapped_{number} AS {swapped}")
    for number, table in enumerate(("stored", "base.contribution")):
        again.execute(f"""
            UPDATE {table} c SET
                mlp_remainder_next = c.mlp_remainder_next + coalesce(w.next, 0),
                mlp_remainder_top = c.mlp_remainder_top + coalesce(w.top, 0),
                mlp_remainder_abs_next = 0, mlp_remainder_abs_top = 0
            FROM (SELECT position_id, layer, w.next, w.top
                  FROM (SELECT DISTINCT position_id, layer FROM (FROM swapped_0 UNION ALL FROM swapped_1))
                  LEFT JOIN swapped_{number} w USING (position_id, layer)) w
            WHERE c.position_id = w.position_id AND c.layer = w.layer""")


def _difference(table: Table) -> str:
    """Return the SQL query that describes each row of `stored` that differs from the row computed again."""
    compared = [column for column in table.columns if column.name not in ("run_id", *table.key)]
    on = " AND ".join(f"a.{name} = s.{name}" for name in table.key)
    where = ", ' ', ".join(f"'{name} ', coalesce(s.{name}, a.{name})" for name in table.key)
    told = ", ".join(
        f"CASE WHEN {_differs(column.name, column.type)} THEN concat('{column.name} ', "
        f"s.{quoted(column.name)}::VARCHAR, ', computed again ', a.{quoted(column.name)}::VARCHAR) END"
        for column in compared
    )
    missing = "NULL" if table.name in KEPT else "'one of the two has no such row'"
    return f"""
        SELECT concat({where}, ': ', told) AS problem
        FROM (SELECT s, a, CASE WHEN s.position_id IS NULL OR a.position_id IS NULL THEN {missing}
                                ELSE nullif(concat_ws(', ', {told}), '') END AS told
              FROM stored s FULL JOIN base.{table.name} a ON {on}
              WHERE list_contains($ids, coalesce(s.position_id, a.position_id)))
        WHERE told IS NOT NULL"""


def _differs(name: str, kind: str) -> str:
    """Return the SQL condition that a stored value `s` differs from the value computed again, `a`."""
    stored, again = f"s.{quoted(name)}", f"a.{quoted(name)}"
    other_null = f"({stored} IS NULL) <> ({again} IS NULL)"
    if name == "next_rank":  # tokens with nearly equal logits may swap ranks
        return f"({other_null} OR abs({stored} - {again}) > 1 + 0.01 * {again})"
    if name == "source_offset":  # if two sources have nearly equal attention, either may be the top one
        return f"({stored} <> {again} AND {_differs('attention', 'DECIMAL(5, 4)')})"
    if kind == "UTINYINT[]":
        apart = f"list_transform(list_zip({stored}, {again}), lambda x: abs(x[1]::INTEGER - x[2]::INTEGER))"
        return f"list_max({apart}) > 1"
    if name.endswith(("_next", "_top")) and kind == "BIGINT":
        return f"({other_null} OR abs({stored} - {again}) > {TOLERANCE} * ({STEPS_A_LOGIT} + abs({again})))"
    if kind == "FLOAT" or kind.startswith("DECIMAL"):
        step = 10.0 ** -int(kind[-2]) if kind != "FLOAT" else 0
        return (
            f"({other_null} OR abs({stored}::DOUBLE - {again}::DOUBLE) > "
            f"{TOLERANCE} * (1 + abs({again}::DOUBLE)) + {step})"
        )
    return f"{stored} IS DISTINCT FROM {again}"
