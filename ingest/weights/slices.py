"""Products too large for memory are made in slices of rows; of each row the largest are kept."""

from collections.abc import Iterator

from torch import Tensor

CELLS = 2**24  # of a product at once: 64 MB in float32


def slices(rows: int, columns: int) -> Iterator[slice]:
    """Cuts through `rows` so that a slice of that many columns has about CELLS."""
    step = max(1, CELLS // max(1, columns))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row with their columns, in order; equal ones by column, lowest first.

    values (row, column) → values and columns (row, k), k at most the number of columns.
    """
    columns = values.shape[1]
    top = values.topk(min(k + 1, columns))
    index = top.indices[:, :k].sort(1).values
    tied = (top.values[:, -2] == top.values[:, -1]) if columns > k else top.values.new_zeros(0).bool()
    if tied.any():  # which of the equal ones is among the k is left open
        index[tied] = values[tied].sort(dim=1, descending=True, stable=True).indices[:, :k].sort(1).values
    order = values.gather(1, index).sort(dim=1, descending=True, stable=True)
    return order.values, index.gather(1, order.indices)
