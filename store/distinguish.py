"""Find the neurons and heads whose values distinguish a group of positions from the other positions.

A position is in the group by its token, which is the last token that the model has read there, or by the
metadata of its document. A neuron's value is its activation, and a head's value is its direct effect on the
next token. The values come from one of three places, the keys of `SOURCES`:

    sample  the run's random sample, which has the value of every neuron and head
    rows    all positions of the run; only heads have a stored value at each of them
    model   the run's model reads positions again, which gives every value, not rounded
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from annotate_transformer.store.contrasts import discovery_rate
from annotate_transformer.store.errors import BadQuestion
from annotate_transformer.store.metadata import of_positions
from annotate_transformer.store.names import unit_name
from annotate_transformer.store.question import OneUnit, Question, add_note, describe, qualify, truncate
from annotate_transformer.store.ranks import Flags, compared, means_by
from annotate_transformer.store.rounding import half_step
from annotate_transformer.store.session import Session
from annotate_transformer.store.units import Head, Neuron
from annotate_transformer.store.windows import contexts

LEAST = 5  # minimum number of positions in the group, and of other positions
POSITIONS = 2000  # default maximum number of positions at which the model reads values
UNITS: dict[str, type[Neuron] | type[Head]] = {"neuron": Neuron, "head": Head}
KINDS = (*UNITS, "both")
NOT_INDEPENDENT = (
    "p: Mann-Whitney over positions; those of one document are not independent, so p and q are too small by "
    "an unknown amount"
)
BY_DOCUMENT = (
    "p: Mann-Whitney over documents, each with its mean value, because the group is of whole documents"
)
Values = NDArray[np.floating]
Source = Callable[["Asked", "Group"], Iterator[tuple[str, int, Values]]]


@dataclass(frozen=True)
class Asked:
    """A question for the neurons and heads that distinguish a group of positions.

    pattern: a regular expression over the token's text, or None; token_ids: the tokens of the group, or None
    where: a condition on the keys of the documents' metadata, or None
    over: a key of SOURCES; kinds: of UNITS; positions, seed: what the model reads, for `model` alone
    """

    session: Session
    run: int
    pattern: str | None
    token_ids: list[int] | None
    where: str | None
    over: str
    kinds: tuple[str, ...]
    positions: int = POSITIONS
    seed: int = 0

    @property
    def is_of_documents(self) -> bool:
        """Whether the group is of whole documents."""
        return self.pattern is None and self.token_ids is None

    @cached_property
    def _metadata(self) -> tuple[str, str]:
        """What `of_positions` returns; to find the types of the keys it reads all documents."""
        return of_positions(self.session, self.run)

    def question(self, over: str) -> Question:
        """Return the query for the positions, each with whether it is in the group.

        Raises:
            BadQuestion: the regular expression is wrong.
        """
        of_documents = "true"
        if self.where is not None:
            relation, _ = self._metadata
            of_documents = f"p.position_id IN (SELECT position_id FROM {relation} WHERE (\n{self.where}\n))"
        parameters = {"pattern": self.pattern, "token_ids": self.token_ids, "over": over}
        return Question(self.session, "in_group", self.run, parameters, pieces={"in_documents": of_documents})

    def found(self, over: str) -> pd.DataFrame:
        """Return the positions of the run or of its sample, each with whether it is in the group.

        Raises:
            BadQuestion: the regular expression or the condition is wrong.
        """
        try:
            return self.question(over).ask()
        except duckdb.InvalidInputException as error:
            raise BadQuestion(f"{self.pattern!r} is no regular expression: {error}.") from error
        except duckdb.Error as error:
            _, keys = self._metadata
            why = str(error).splitlines()[0]
            raise BadQuestion(
                f"DuckDB cannot evaluate the condition {self.where!r}: {why}. The metadata of the documents "
                f"has {keys}."
            ) from error


@dataclass(frozen=True)
class Group:
    """Positions in ascending order, and whether each is in the group; `total` is how many there are in all.

    frame: one row per position, with the columns of the query `in_group`
    """

    frame: pd.DataFrame
    total: int

    @property
    def inside(self) -> Flags:
        return np.asarray(self.frame.inside, bool)

    @property
    def documents(self) -> NDArray[np.int64]:
        return np.asarray(self.frame.document_id, np.int64)

    def counts(self) -> dict[str, int]:
        """Return the numbers of positions and documents in the group, and of the others."""
        n_in, documents = int(self.inside.sum()), self.documents
        return {
            "n_in": n_in,
            "n_out": len(self.frame) - n_in,
            "documents_in": len(np.unique(documents[self.inside])),
            "documents_out": len(np.unique(documents[~self.inside])),
        }


def distinguishing(asked: Asked, limit: int) -> pd.DataFrame:
    """Return what `Store.units` returns."""
    group = _group(asked)
    left_out, frames = _without_next(asked, group), list[pd.DataFrame]()
    kinds = tuple(kind for kind in asked.kinds if kind != "head" or not left_out)
    if not kinds:
        raise BadQuestion(f"{left_out} Give a wider condition.")
    asked = replace(asked, kinds=kinds)
    for kind, layer, values in SOURCES[asked.over](asked, group):
        frames.append(_of_layer(kind, layer, values, group, by_document=asked.is_of_documents))
    found = pd.concat(frames, ignore_index=True)
    found["q"] = discovery_rate(found.p)
    order = [(found.auroc - 0.5).abs(), found.cohens_d.abs().fillna(0)]
    by_size = np.lexsort([-order[1], -order[0]])
    answer = found.iloc[by_size].head(limit).reset_index(drop=True)
    describe(answer, asked.question("sample" if asked.over == "sample" else "rows").sql)
    _say_whether_exact(answer, asked, group)
    if left_out:
        add_note(answer, left_out.rstrip("."))
    if len(answer) < len(found):
        truncate(answer, len(found))
    return answer


def _group(asked: Asked) -> Group:
    """Return the positions whose values are compared.

    Raises:
        BadQuestion: there are fewer than LEAST positions in the group, or fewer than LEAST others.
    """
    found = asked.found("sample" if asked.over == "sample" else "rows")
    group = Group(found, len(found))
    if asked.over == "model":
        if asked.positions < 2 * LEAST:
            raise BadQuestion(f"positions is {asked.positions}; it must be {2 * LEAST} or more.")
        group = Group(_drawn(found, asked.positions, asked.seed), len(found))
    counts = group.counts()
    if min(counts["n_in"], counts["n_out"]) < LEAST:
        raise BadQuestion(_too_few(asked, counts))
    return group


def _without_next(asked: Asked, group: Group) -> str:
    """Return a sentence if too few positions have a next token, on which a head's effect is; else ""."""
    has_next = group.frame.next_token_id.notna().to_numpy(bool)
    n_in, n_out = (int((has_next & of).sum()) for of in (group.inside, ~group.inside))
    if "head" not in asked.kinds or min(n_in, n_out) >= LEAST:
        return ""
    return (
        f"Heads are left out: {n_in:,} positions in the group and {n_out:,} others have a next token, and at "
        f"least {LEAST} of each are needed."
    )


def _too_few(asked: Asked, counts: dict[str, int]) -> str:
    of = "sampled positions" if asked.over == "sample" else "positions"
    told = (
        f"{counts['n_in']:,} {of} are in the group and {counts['n_out']:,} are not; at least {LEAST} of each "
        "are needed."
    )
    if asked.over != "sample":
        return f"{told} Give a wider condition, or one that leaves other positions."
    inside = asked.found("rows").inside
    told += f" In the whole run {inside.sum():,} of {len(inside):,} are in the group"
    if min(inside.sum(), (~inside).sum()) < LEAST:
        return f"{told}: give another condition."
    return (
        f"{told}: ask over them (--over model, or for heads --over rows), or annotate the corpus with a "
        "larger sample (--samples)."
    )


def _drawn(found: pd.DataFrame, positions: int, seed: int) -> pd.DataFrame:
    """Draw at most `positions` positions: up to half of them in the group, and else all of the group."""
    if len(found) <= positions:
        return found
    drawn, inside = np.random.default_rng(seed), found.inside.to_numpy(bool)
    groups = np.flatnonzero(inside), np.flatnonzero(~inside)
    n_in = min(len(groups[0]), max(positions // 2, positions - len(groups[1])))
    chosen = [
        drawn.choice(of, n, replace=False) for of, n in zip(groups, (n_in, positions - n_in), strict=True)
    ]
    return found.iloc[np.sort(np.concatenate(chosen))]


def _of_layer(kind: str, layer: int, values: Values, group: Group, by_document: bool) -> pd.DataFrame:
    """Return a row for each unit of a layer; positions at which the layer has no values are left out.

    values: of shape (unit, position); NaN at the last position of a window, where a head has no effect
    """
    known = ~np.isnan(values[0])
    of = Group(group.frame[known], int(known.sum()))
    values, inside = values[:, known], of.inside
    columns = compared(values, inside)
    if by_document:
        _, first = np.unique(of.documents, return_index=True)
        columns["p"] = compared(means_by(values, of.documents), inside[first])["p"]
    units = np.arange(len(values))
    names = [unit_name(UNITS[kind].letter, layer, int(unit)) for unit in units]
    return pd.DataFrame({"name": names, "kind": kind, "layer": layer, "unit": units} | columns | of.counts())


def _say_whether_exact(answer: pd.DataFrame, asked: Asked, group: Group) -> None:
    """Set in `attrs` the numbers of positions, what the values are from, and whether they are exact."""
    taken = len(group.frame)
    answer.attrs |= {"over": asked.over, "group": group.counts()}
    if asked.over == "sample":
        qualify(answer, f"sample: the run's random sample of {taken:,} positions")
        error = half_step("sample_unit", "values")
        answer.attrs["rounded"] = {"mean_in": error, "mean_out": error}
    elif taken < group.total:
        drawn = f"drawn at random (seed {asked.seed}), half of them in the group if it has so many"
        qualify(answer, f"sample: {taken:,} of {group.total:,} positions, {drawn}")
    else:
        add_note(answer, f"exact: over all {taken:,} positions of the run")
    if not asked.session.is_finished(asked.run):
        add_note(answer, "unfinished: only the positions that the run has reached so far")
    add_note(answer, BY_DOCUMENT if asked.is_of_documents else NOT_INDEPENDENT)


# The sources of the values: each yields for each kind and layer the values, of shape (unit, position) -------


def _of_sample(asked: Asked, group: Group) -> Iterator[tuple[str, int, Values]]:
    for kind, layer, _ in _layers(asked):
        question = Question(asked.session, "sample_of_layer", asked.run, {"kind": kind, "layer": layer})
        yield kind, layer, question.ask().value.to_numpy(np.float32).reshape(-1, len(group.frame))


def _of_rows(asked: Asked, group: Group) -> Iterator[tuple[str, int, Values]]:
    if asked.kinds != ("head",):
        raise BadQuestion(
            "Over the rows, only heads can be compared: at a position most neurons have no row, or one in "
            "few bits. Ask for heads (--kind head), or over the sample or the model (--over)."
        )
    positions = group.frame.position_id.to_numpy()
    for kind, layer, heads in _layers(asked):
        of_layer = np.empty((heads, len(positions)))
        for number in range(heads):
            unit = OneUnit(kind, layer, number, Head.sql_type)
            rows = Question(asked.session, "head_rows", asked.run, unit=unit).ask()
            of_layer[number] = rows.value.to_numpy()[np.searchsorted(rows.position_id, positions)]
        yield kind, layer, of_layer


def _of_model(asked: Asked, group: Group) -> Iterator[tuple[str, int, Values]]:
    session, frame = asked.session, group.frame
    model, about = session.model_of(asked.run), session.about(asked.run)
    layers = int(model.n_layers)
    values = {
        kind: np.empty((layers, len(frame), int(model[UNITS[kind].per_layer])), np.float32) for kind in UNITS
    }
    place_of = np.arange(len(frame))
    last = frame.groupby("window_id").position_id.last()
    with session.connection() as con:
        read = dict(zip(last.index, contexts(con, last.tolist()), strict=True))
    for window, rows in frame.assign(place=place_of).groupby("window_id"):
        index = {position: i for i, position in enumerate(read[window].places)}
        at = [index[position] for position in rows.position_id]
        next_ids = [None if pd.isna(token) else int(token) for token in rows.next_token_id]
        of_window = session.runner.unit_values(about, read[window].tokens, at, next_ids)
        for kind in UNITS:
            values[kind][:, rows.place.to_numpy()] = of_window[kind]
    for kind, layer, _ in _layers(asked):
        yield kind, layer, values[kind][layer].T


def _layers(asked: Asked) -> Iterator[tuple[str, int, int]]:
    """Yield each kind of unit and layer that was asked for, with its number of units."""
    model = asked.session.model_of(asked.run)
    for kind in asked.kinds:
        for layer in range(int(model.n_layers)):
            yield kind, layer, int(model[UNITS[kind].per_layer])


SOURCES: dict[str, Source] = {"sample": _of_sample, "rows": _of_rows, "model": _of_model}


def kinds_of(kind: str | None, over: str) -> tuple[str, ...]:
    """Return the kinds of units that are asked for; None stands for all whose values the source has."""
    if kind is None:
        return ("head",) if over == "rows" else tuple(UNITS)
    return tuple(UNITS) if kind == "both" else (kind,)
