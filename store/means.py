"""Means over positions, with 95 % bootstrap intervals and the numbers of positions and documents.

Positions of one document are not independent. So the documents of a run are drawn with replacement, as many
as there are, and the mean is taken over all positions of the drawn documents (a cluster bootstrap). The ends
of the interval are quantiles of these means.
"""

from collections.abc import Sequence

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from annotate_transformer.store.errors import BadQuestion
from annotate_transformer.store.question import Question, describe
from annotate_transformer.store.session import Session

RESAMPLES = 1000  # number of bootstrap samples of the documents
LEVEL = 0.95  # confidence level of the intervals
SEED = 0
UNITS = 4096  # number of means for which an interval is computed at once, to save memory
CELLS = 2**22  # maximum size of an array of counts (bootstrap samples × documents), to save memory

# GROUPS: if there are more documents than this, the documents are put into this many random groups, and
# groups are resampled instead of documents. This is faster and as accurate.
GROUPS = 5000
# COUNTED: the SQL condition for a position to count in the statistics of neurons and heads. Positions of
# special tokens, which are in base.left_out, do not count.
COUNTED = "position_id NOT IN (SELECT position_id FROM base.left_out)"
NOTE = f"interval: 95 %, of {RESAMPLES:,} bootstrap samples of the documents"
Floats = NDArray[np.float64]


def intervals(sums: Floats, sizes: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """Return the low and high end of each mean's 95 % interval, and its standard error.

    All are NaN unless there are at least two documents.

    sums: of the values at each document's positions, of shape (document, unit)
    sizes: number of positions of each document, of shape (document,)
    """
    documents, units = sums.shape
    ends = np.full((3, units), np.nan)
    if documents > 1:
        for start in range(0, units, UNITS):
            means = resampled(sums[:, start : start + UNITS], sizes)
            tails = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
            ends[:, start : start + UNITS] = [*tails, means.std(0, ddof=1)]
    return ends[0], ends[1], ends[2]


def _grouped(sums: Floats, sizes: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    """Put documents into GROUPS random groups; return each group's summed values and number of positions."""
    group = np.random.default_rng(SEED).permutation(len(sizes)) % GROUPS
    of_groups = np.zeros((GROUPS, sums.shape[1]))
    np.add.at(of_groups, group, sums)
    return of_groups, np.bincount(group, sizes).astype(np.int64)


def resampled(sums: Floats, sizes: NDArray[np.int64]) -> Floats:
    """Return each unit's mean in each bootstrap sample; the shape is (bootstrap sample, unit).

    All units have the same documents in the same bootstrap sample. The arguments are those of `intervals`.
    """
    if len(sizes) > GROUPS:
        sums, sizes = _grouped(sums, sizes)
    drawn, (documents, units) = np.random.default_rng(SEED), sums.shape
    means, block = np.empty((RESAMPLES, units)), max(1, CELLS // documents)
    for start in range(0, RESAMPLES, block):
        draws = min(block, RESAMPLES - start)
        chosen = drawn.integers(documents, size=(draws, documents))
        cells = chosen + documents * np.arange(draws)[:, None]
        counts = (
            np.bincount(cells.ravel(), minlength=draws * documents).reshape(draws, documents).astype(float)
        )
        means[start : start + draws] = (counts @ sums) / (counts @ sizes)[:, None]
    return means


def mean_over_positions(
    session: Session, run: int, value: str, view: str, where: str, by: Sequence[str]
) -> pd.DataFrame:
    """Compute what `Store.mean` returns: one row per group, with a mean and its interval.

    Raises:
        BadQuestion: the SQL texts do not form a query that DuckDB can answer.
    """
    groups = "".join(f", {expression} AS {_quoted(expression)}" for expression in by)
    pieces = {"value": value, "rows_of": view, "condition": where, "groups": groups}
    question = Question(session, "sums_by_document", run, pieces=pieces)
    try:
        sums = question.ask()
    except duckdb.Error as error:
        raise BadQuestion(f"DuckDB cannot answer this: {str(error).splitlines()[0]}.") from error
    if by:
        groups_of = sums.groupby([*by], dropna=False, sort=True)
        rows = [dict(zip(by, key, strict=True)) | of_documents(of_group) for key, of_group in groups_of]
    else:
        rows = [of_documents(sums)]
    found = pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "positions", "documents"])
    describe(found, question.sql)
    found.attrs["note"] = NOTE
    return found


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def of_documents(sums: pd.DataFrame) -> dict[str, float]:
    """Return a value's mean over all positions, its interval, and the numbers of positions and documents.

    sums: one row per document: total, the sum of the values at its positions, and positions, their number
    """
    positions, total = int(sums.positions.sum()), sums.total.to_numpy(float)
    low, high, _ = intervals(total[:, None], sums.positions.to_numpy(int))
    mean = float(total.sum()) / positions if positions else float("nan")
    ends = {"mean": mean, "low": float(low[0]), "high": float(high[0])}
    return ends | {"positions": positions, "documents": len(sums)}
