"""Compute the effects of ablating heads, neurons, attention or MLPs; reuse effects that are stored."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from annotate_transformer.store.computed import Reading, Target
from annotate_transformer.store.errors import BadQuestion, NoSuchUnit, StoreError
from annotate_transformer.store.names import ablated_name, head_name, parse_ablated
from annotate_transformer.store.question import describe, qualify
from annotate_transformer.store.running import Ablation, Outcome, Part
from annotate_transformer.store.units import Head, Neuron
from annotate_transformer.store.windows import contexts
from annotate_transformer.store.writer import Writer

REPLACEMENTS = ("zero", "mean", "resample")
HEADS = "heads"  # given instead of names of units, this text asks to ablate every head, one at a time
OTHERS = 16  # number of random windows; `mean` and `resample` replace an ablated output by values from them
OUTCOME = {"rank": "target_rank"}  # maps a field of `Outcome` to its column in the store, if the names differ


@dataclass(frozen=True, eq=False)
class Ablating:
    """Ablations whose effects are measured on one target logit at one position.

    replaced_by: a member of REPLACEMENTS; index: index in the window of the token where outputs are replaced,
    or None for all tokens; draws, seed: as in `Ablation`
    """

    reading: Reading
    target: Target
    replaced_by: str
    index: int | None
    draws: int
    seed: int

    def effects(self, units: Sequence[str], *, keep: bool) -> pd.DataFrame:
        """Return the effects of ablating each unit, one row per unit; store newly computed effects if `keep`.

        The columns are those of the view ablation_effects.
        """
        keys = {name: self._key(name) for name in units}
        known = self._known() if self.is_storable else {}
        missing, why_not = [name for name in keys if name not in known], ""
        if missing:
            made = [keys[name] | row for name, row in zip(missing, self._computed(missing), strict=True)]
            known |= {row["units"]: row for row in made}
            if keep and self.is_storable:
                why_not = self._store(made)
        found = pd.DataFrame([known[name] for name in keys]).astype({"at_position_id": "Int64"})
        after = found.columns.get_loc("ablated_logit")
        assert isinstance(after, int)
        found.insert(after + 1, "total_effect", found.logit - found.ablated_logit)
        describe(found, "" if missing and (why_not or not keep) else self._sql())
        if why_not:
            found.attrs["note"] = f"not stored: {why_not}"
        found.attrs["target"] = self.target.label
        if self.replaced_by != "zero":
            of = f"{OTHERS} random windows of the run"
            qualify(found, f"estimate: values are taken from positions of {of}; seed {self.seed}")
        return found

    @property
    def is_storable(self) -> bool:
        """Whether effects can be stored: only if the target is one token or the difference of two tokens."""
        direction = self.target.direction
        return len(direction.token_ids) == 1 and len(direction.minus_ids) <= 1

    def _key(self, name: str) -> dict[str, Any]:
        direction, window = self.target.direction, self.reading.window
        at = None if self.index is None else int(window.position_id.iloc[self.index])
        return {
            "run_id": self.reading.run,
            "position_id": int(self.reading.at.position_id),
            "units": name,
            "at_position_id": at,
            "replaced_by": self.replaced_by,
            "draws": self.draws,
            "seed": self.seed,
            "target_token_id": next(iter(direction.token_ids), None),
            "minus_token_id": next(iter(direction.minus_ids), None),
        }

    def _condition(self) -> str:
        key = self._key("")
        same = (f"{name} IS NOT DISTINCT FROM ${name}" for name in key if name != "units")
        return f"FROM base.ablation_effect WHERE {' AND '.join(same)}"

    def _known(self) -> dict[str, dict[str, Any]]:
        """Return the rows already stored for this `Ablating`, as a dictionary from unit name to row.

        These rows have the same position, target and other settings.
        """
        key = {name: value for name, value in self._key("").items() if name != "units"}
        rows = self.reading.session.sql(self._condition(), key).astype(object)
        return {row["units"]: row for row in rows.where(rows.notna(), None).to_dict("records")}

    def _sql(self) -> str:
        number = int(self.reading.at.position_id)
        return f"FROM ablation_effects WHERE position_id = {number}"

    def _computed(self, names: Sequence[str]) -> list[dict[str, Any]]:
        reading, others = self.reading, self._others() if self.replaced_by != "zero" else ()
        ablations = [
            Ablation(
                tuple(Part(*part) for part in parse_ablated(name)),
                self.replaced_by,
                self.index,
                others,
                self.draws,
                self.seed,
            )
            for name in names
        ]
        found = reading.runner.ablate(reading.about, reading.tokens, ablations, self.target.direction)
        return [_row(outcome) for outcome in found]

    def _others(self) -> tuple[tuple[int, ...], ...]:
        """Draw random positions; for each one, return the token ids of its window up to the position."""
        session, run = self.reading.session, self.reading.run
        with session.together():
            ids = "SELECT position_id FROM base.position WHERE run_id = $run ORDER BY position_id"
            every = session.sql(ids, {"run": run}).position_id.tolist()
            chosen = random.Random(self.seed).sample(every, min(OTHERS, len(every)))
            with session.connection() as con:
                return tuple(tuple(found.tokens) for found in contexts(con, chosen))

    def _store(self, rows: list[dict[str, Any]]) -> str:
        """Store the rows; if that fails, return the error message, otherwise an empty text."""
        try:
            with Writer(self.reading.session.path) as writer:
                writer.commit({"ablation_effect": pa.Table.from_pylist(rows)}, run_id=self.reading.run)
        except StoreError as error:
            return str(error)
        return ""


def _row(outcome: Outcome) -> dict[str, Any]:
    return {OUTCOME.get(name, name): value for name, value in asdict(outcome).items()}


def names_of(units: str | Sequence[str], model: "pd.Series[Any]") -> list[str]:
    """Return the names of units in canonical form, such as L3H2; `heads` becomes the names of all heads.

    Raises:
        BadQuestion: a name is not the name of a unit, or no name is given.
        NoSuchUnit: the model has no such unit.
    """
    given = [units] if isinstance(units, str) else [*units]
    if given == [HEADS]:
        return [head_name(i, h) for i in range(int(model.n_layers)) for h in range(int(model.n_heads))]
    if not given:
        raise BadQuestion("No unit is named: write L3H2, L3N7, L3attn or L3mlp, or `heads` for every head.")
    names = []
    for name in given:
        parts = parse_ablated(name)
        for kind, layer, number in parts:
            if number is not None:
                unit = Head if kind == "head" else Neuron
                unit.check(model, unit.letter, layer, number)
            elif layer >= int(model.n_layers):
                raise NoSuchUnit(
                    f"{model.model} has no layer {layer}: it has {model.n_layers} layers, from 0."
                )
        names.append(ablated_name(parts))
    return [*dict.fromkeys(names)]
