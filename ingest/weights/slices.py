"""Split large matrix products into slices of rows that fit into memory; find each row's largest values."""

from collections.abc import Iterator

from torch import Tensor

CELLS = 2**24  # maximum number of cells of a matrix product in memory; in float32 they take 64 MB


def slices(rows: int, columns: int) -> Iterator[slice]:
    """Yield slices that together cover `rows` rows of `columns` cells; each slice has about CELLS cells."""
    step = max(1, CELLS // max(1, columns))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest values of each row, descending, and their columns; ties are ordered by column.

    `values` has the shape (row, column), and both results the shape (row, k); `k` must not exceed the number
    of columns.
    """
    columns = values.shape[1]
    top = values.topk(min(k + 1, columns))
    index = top.indices[:, :k].sort(1).values
    tied = (top.values[:, -2] == top.values[:, -1]) if columns > k else top.values.new_zeros(0).bool()
    if tied.any():  # topk may return any of several equal values; the stable sort takes the first
        index[tied] = values[tied].sort(dim=1, descending=True, stable=True).indices[:, :k].sort(1).values
    order = values.gather(1, index).sort(dim=1, descending=True, stable=True)
    return order.values, index.gather(1, order.indices)
