"""Patch activations between two prompts with the run's model."""

import re
from typing import Any

import pandas as pd

from annotate_transformer.store.computed import Reading
from annotate_transformer.store.errors import BadQuestion, one_of
from annotate_transformer.store.names import head_name
from annotate_transformer.store.notation import quoted
from annotate_transformer.store.question import add_note, describe
from annotate_transformer.store.running import Patching
from annotate_transformer.store.units import Head

KINDS = ("head", "head_position", "resid", "attn", "mlp")
DIRECTIONS = ("denoising", "noising")


def patched(
    clean: Reading, corrupted: Reading, toward: Any, minus: Any, kind: str, direction: str, to: str | None
) -> pd.DataFrame:
    """Patch activations between two prompts; return one row per patch.

    `attrs` has both unpatched logits, and which activations are patched.

    clean, corrupted: the last position of each prompt; the other parameters are those of `Store.patch`.

    Raises:
        BadQuestion: the prompts do not align token by token, or have the same logit; or an option is invalid.
    """
    one_of("kind", kind, KINDS)
    one_of("direction", direction, DIRECTIONS)
    _check_aligned(clean, corrupted)
    target = clean.target(toward, minus)
    patching = Patching(kind, direction == "noising", _receiver(clean, to))
    whole, other, *found = clean.runner.patch(
        clean.about, clean.tokens, corrupted.tokens, target.direction, patching
    )
    if whole.logit == other.logit:
        raise BadQuestion(
            "Both prompts have the same logit, so there is no difference to recover: name another target."
        )
    rows = pd.DataFrame(found, columns=["layer", "head", "place", "logit"])
    rows["recovered"] = (rows.logit - other.logit) / (whole.logit - other.logit)
    places = {
        i: (a, b) for i, (a, b) in enumerate(zip(clean.window.token, corrupted.window.token, strict=True))
    }
    rows.insert(3, "clean_token", [places.get(place, (None, None))[0] for place in rows.place])
    rows.insert(4, "corrupted_token", [places.get(place, (None, None))[1] for place in rows.place])
    kept = [name for name in rows if rows[name].notna().any()]
    rows = rows[kept].astype({name: int for name in ("layer", "head", "place") if name in kept})
    describe(rows, "")
    rows.attrs |= {"clean": whole.logit, "corrupted": other.logit, "target": target.label}
    rows.attrs |= {"kind": kind if to is None else "path", "direction": direction, "to": to}
    add_note(rows, "computed: the run's model ran with each patch")
    if whole.logit < other.logit:
        add_note(rows, "the clean prompt has the lower logit, so a patch that recovers something lowers it")
    return rows


def _check_aligned(clean: Reading, corrupted: Reading) -> None:
    first, second = clean.window.token.tolist(), corrupted.window.token.tolist()
    if len(first) != len(second):
        raise BadQuestion(
            f"The prompts have {len(first)} and {len(second)} tokens; they must have equally many, so that "
            f"each token has a counterpart. Clean: {_shown(first)}. Corrupted: {_shown(second)}."
        )
    if first == second:
        raise BadQuestion("Both prompts have the same tokens: change at least one in the corrupted prompt.")


def _shown(tokens: list[str]) -> str:
    return " ".join(map(quoted, tokens))


def _receiver(reading: Reading, to: str | None) -> tuple[str, int, int] | None:
    """Parse the receiver of path patching, such as `L3H2.k` or `logits`; return None if none is given."""
    if to is None:
        return None
    model = reading.session.model_of(reading.run)
    if to == "logits":
        return "logits", int(model.n_layers), 0
    found = re.fullmatch(r"L(\d+)H(\d+)\.([qkv])", to, re.IGNORECASE | re.ASCII)
    if not found:
        raise BadQuestion(f"to is {to!r}; write L3H2.q, L3H2.k or L3H2.v for an input of a head, or logits.")
    layer, head, kind = int(found[1]), int(found[2]), found[3].lower()
    Head.check(model, "H", layer, head)
    if layer == 0:
        raise BadQuestion(f"No head is before {head_name(layer, head)}: name a receiver in a later layer.")
    return kind, layer, head
