"""Refuse numbers that a column of the store cannot hold."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from annotate_transformer.ingest.errors import ModelError


def check_storable(
    tables: Mapping[str, pa.Table], limits: Mapping[str, Mapping[str, float]], name: str
) -> None:
    """Check that all floating-point numbers are finite and fit into their columns.

    `limits`: by table and column, the limit for the absolute value of a number (store.writer.limits).

    Raises:
        ModelError: a number is not finite or does not fit; the message names the first one and its position.
    """
    for table, rows in tables.items():
        for column in rows.column_names:
            if not pa.types.is_floating(_leaf(rows[column].type)):
                continue
            limit, values = limits[table][column], _numbers(rows[column])
            # This refuses NaN, too: if a value is NaN, min and max are NaN, and both comparisons are false.
            if len(values) and not (-limit < values.min() and values.max() < limit):
                raise _not_storable(tables, table, column, limit, name)


def _leaf(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_list(kind) else kind


def _numbers(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return all numbers of a column, with 0 for NULL."""
    flat = column.combine_chunks().flatten() if pa.types.is_list(column.type) else column
    numbers: NDArray[Any] = (flat.fill_null(0) if flat.null_count else flat).to_numpy()
    return numbers


def _not_storable(
    tables: Mapping[str, pa.Table], table: str, column: str, limit: float, name: str
) -> ModelError:
    """Return the error for the first number that the column cannot hold."""
    rows, values = tables[table], _numbers(tables[table][column])
    first = int(np.argmin(np.abs(values) < limit))
    value = float(values[first])
    row = rows.slice(first // (len(values) // rows.num_rows), 1).to_pylist()[0]
    positions = tables["position"]
    at = positions.filter(pc.equal(positions["position_id"], row["position_id"])).to_pylist()[0]
    layer = f" of layer {row['layer']}" if "layer" in row else ""
    unit = next((f", {kind} {row[kind]}" for kind in ("head", "neuron") if kind in row), "")
    holds = "numbers, not NaN nor infinity" if np.isinf(limit) else f"numbers below {limit:,.0f}"
    return ModelError(
        f"{name} gives {value:.7g} for {table}.{column}{layer}{unit} at position {at['position']:,} of "
        f"window {at['window_id']:,}, and that column of the store holds {holds}. Its weights are broken, or "
        "too large: give another revision or model. Nothing of this shard was written."
    )
