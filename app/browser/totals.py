"""Show total effects beside direct effects. A total effect that is not known is computed after a click.

URL parameter: `ablate`, units separated by commas, such as `heads,L3N7`. The page Token or Prompt
zero-ablates each of them by itself, at all tokens; `heads` stands for every head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd
import streamlit as st

from annotate_transformer.app.browser import answers, linked, links, markup, parts
from annotate_transformer.app.browser.target import STATE, Target
from annotate_transformer.app.present import columns
from annotate_transformer.app.present.words import Row, signed
from annotate_transformer.store.ablations import HEADS
from annotate_transformer.store.names import head_name, neuron_name, parse
from annotate_transformer.store.question import describe, largest_first

NAME = {"head": head_name, "neuron": neuron_name}


@dataclass(frozen=True, eq=False)
class Totals:
    """The total effects of units, such as heads and neurons, on one target at a position.

    Each unit is zero-ablated by itself, at all tokens.

    known: total effects that are stored or were computed, in logits, by the unit's name
    computed: the rows of Store.ablate for the units in the URL; stored: the position's rows of
    ablation_effects
    """

    run: int
    position: int
    known: dict[str, float]
    computed: pd.DataFrame
    stored: pd.DataFrame

    @property
    def asked(self) -> list[str]:
        """The units that the URL parameter `ablate` names."""
        return _asked()

    def href(self, unit: str) -> str:
        """Return the URL of this page, with `unit` added to the units to ablate."""
        kept = {name: links.text(name) for name in (*STATE, "head")}
        units = ",".join(dict.fromkeys([*self.asked, unit]))
        return links.link("token", run=self.run, position=self.position, **kept, ablate=units)

    def column(self, kind: str) -> columns.Columns:
        """Return the column of total effects for a table of heads or neurons."""

        def write(row: Row) -> str:
            name = _name(kind, row)
            return signed(self.known[name]) if name in self.known else "ablate"

        return (columns.words("total effect (logits)", "total_effect", write),)

    def links(self, kind: str) -> dict[str, Callable[[Row], str | None]]:
        """Return the links of the column of total effects: a click on an unknown effect computes it."""

        def link(row: Row) -> str | None:
            name = _name(kind, row)
            return None if name in self.known else self.href(name)

        return {"total_effect": link}


def of(at: "pd.Series[Any]", target: Target) -> Totals:
    """Compute the total effects of the units in the URL's `ablate`; return them and the stored ones."""
    number = int(at.position_id)
    stored = answers.asked("stored_ablations", position=number)
    known = stored[_is_toward(stored, at, target)]
    frames = []
    for units in _asked():
        with st.spinner(
            "The run's model runs once for each ablated unit; the first time also loads the model …"
        ):
            frames.append(
                answers.ablate(number, units, toward=target.name, minus=target.minus, keep=False)
            )  # fmt: skip
    computed = pd.concat(frames, ignore_index=True) if frames else stored.head(0)
    computed = computed.drop_duplicates("units")
    describe(computed, "")
    both = (dict(zip(frame.units, frame.total_effect, strict=True)) for frame in (known, computed))
    return Totals(int(at.run_id), number, next(both) | next(both), computed, stored)


def _asked() -> list[str]:
    return [*dict.fromkeys(unit for unit in (links.text("ablate") or "").split(",") if unit)]


def _name(kind: str, row: Row) -> str:
    return NAME[kind](int(row["layer"]), int(row[kind]))


def _is_toward(stored: pd.DataFrame, at: "pd.Series[Any]", target: Target) -> "pd.Series[bool]":
    """Return a mask of the rows in `stored` that have this target and are of zero-ablation at all tokens."""
    texts: dict[str | None, Any] = {"next": at.next_token, "top": at.top_token}
    of, minus = (texts.get(token, token) for token in (target.name, target.minus))
    is_minus = stored.minus_token.isna() if minus is None else stored.minus_token == minus
    is_all = stored.at_position_id.isna() & (stored.replaced_by.astype(str) == "zero")
    return (stored.target_token == of) & is_minus & is_all


def show(totals: Totals) -> None:
    """Show the total effects of ablated units beside their direct effects, and offer to ablate each head."""
    if HEADS not in totals.asked:
        model = answers.model_of(totals.run)
        passes = int(model.n_layers) * int(model.n_heads)
        parts.heading("Total effects")
        linked.show(
            f'<p>A direct effect leaves out the effects through later components. <a class="more" '
            f'href="{escape(totals.href(HEADS))}">Ablate each head</a>: the model runs {passes:,} times. '
            "In the tables, a click on “ablate” ablates one head or neuron.</p>",
            key="ablate",
        )
    if totals.asked:
        # The browser scrolls to the paragraph with `data-scroll`, and so to the table below it.
        linked.show("<p data-scroll></p>", key=f"ablated {links.text('ablate')}")
        rows = largest_first(totals.computed, totals.computed.total_effect)
        pages = {"units": lambda row: _page(totals.run, row["units"])}
        title = "Total effects of units, whose outputs are zero at all tokens"
        parts.table(title, rows, columns.total_effects(rows), links=pages)
    if len(totals.stored):
        parts.table("Total effects that are stored", totals.stored, columns.STORED_EFFECTS)


def _page(run: int, units: str) -> str | None:
    """Return the URL of a head's or neuron's page; None for other units, such as an MLP or several heads."""
    if "+" in units or not units[-1].isdigit():
        return None
    kind = "head" if parse(units)[0] == "H" else "neuron"
    return links.link(kind, run=run, **{kind: units})


# On the pages of a head or neuron -----------------------------------------------------------------


def over_sample(run: int, kind: str, name: str) -> None:
    """Show the direct and total effects of a head or neuron over a sample, if they are stored."""
    _, layer, unit = parse(name)
    frame = answers.asked("effects_of_unit", run=run, kind=kind, layer=layer, unit=unit)
    if frame.empty:
        parts.heading("Total effects")
        st.caption(
            "The effects on this page are direct: they leave out the effects through later components. "
            "`annotate effects` measures total effects over a sample of the run; this page then shows them. "
            "A click on “ablate” beside a context measures the total effect there."
        )
        return
    title = "Direct and total effect on the next token, over a sample"
    parts.table(title, frame, columns.EFFECTS_OF_UNIT)


def beside(run: int, name: str, frame: pd.DataFrame) -> Callable[[Row], markup.Beside]:
    """Return a function from a context to a second link, which shows the total effect or computes it."""
    found = answers.asked("stored_ablations_of_unit", run=run, unit=name, positions=sorted(frame.position_id))
    known = dict(zip(found.position_id, found.total_effect, strict=True))

    def of_row(row: Row) -> markup.Beside:
        number = row["position_id"]
        href = links.link("token", run=run, position=number, ablate=name)
        if number in known:
            return markup.Beside(
                f"total {signed(known[number])}", href, "total effect on the next token (logits)"
            )
        return markup.Beside("ablate", href, f"ablate {name} here: its total effect on the prediction")

    return of_row
