"""The logit lens, attention patterns and a unit's values over a stretch of text, by the run's model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from annotate_transformer.store.computed import READ_AGAIN, Reading, texts
from annotate_transformer.store.errors import BadQuestion
from annotate_transformer.store.question import Question, add_note, describe
from annotate_transformer.store.running import Values
from annotate_transformer.store.session import Session
from annotate_transformer.store.units import Head, Unit
from annotate_transformer.store.windows import contexts

MOST = 512  # maximum number of tokens of an answer: a pattern has the square of their number


def lens(reading: Reading, k: int, tokens: int) -> pd.DataFrame:
    """Return the k most likely next tokens by each layer at the last tokens of a window, one row each."""
    shown = _shown(reading, tokens)
    found = reading.runner.lens(reading.about, reading.tokens, len(shown), k)
    layers, places, ranks = (found.ids >= 0).nonzero()
    ids: list[int] = found.ids.ravel().tolist()
    known = texts(reading.session, reading.run, ids)
    answer = pd.DataFrame(
        {
            "layer": layers,
            "position_id": shown.position_id.to_numpy()[places],
            "rank": ranks + 1,
            "token_id": ids,
            "token": [known[token_id] for token_id in ids],
            "logprob": found.logprobs.ravel(),
        }
    )
    return _described(answer, reading, shown)


def attention(reading: Reading, head: Head | None, tokens: int) -> pd.DataFrame:
    """Return the attention of one head, or of all, between the last tokens of a window; a row per pair."""
    shown = _shown(reading, tokens)
    next_ids = [*map(int, shown.token_id[1:]), _next(reading.at)]
    found = reading.runner.patterns(reading.about, reading.tokens, len(shown), next_ids)
    is_causal = np.broadcast_to(np.tri(len(shown), dtype=bool), found.attention.shape)
    layers, heads, to, source = is_causal.nonzero()
    places, names = shown.position_id.to_numpy(), shown.token.to_numpy()
    answer = pd.DataFrame(
        {
            "layer": layers,
            "head": heads,
            "position_id": places[to],
            "token": names[to],
            "source_position_id": places[source],
            "source_token": names[source],
            "attention": _float32(found.attention[is_causal]),
            "toward_next": _float32(found.toward_next[is_causal]),
        }
    )
    if head is not None:
        answer = answer[(layers == head.layer) & (heads == head.number)].reset_index(drop=True)
    return _described(answer, reading, shown)


def around(session: Session, unit: Unit, positions: Sequence[int], before: int, after: int) -> pd.DataFrame:
    """Return a neuron's or head's values at some positions and the tokens around them, a row per token."""
    ends = Question(session, "window_ends", unit.run, {"position_ids": [*positions], "after": after}).ask()
    about, rows = session.about(unit.run), list[dict[str, Any]]()
    with session.connection() as con:
        read = contexts(con, [int(last) for last in ends["last"]])
    for end, context in zip(ends.itertuples(), read, strict=True):
        known = {position: i for i, position in enumerate(context.places)}
        here = [p for p in range(int(end.position_id) - before, int(end.last) + 1) if p in known]
        at = [known[position] for position in here]
        next_ids = [context.tokens[i + 1] if i + 1 < len(context.tokens) else None for i in at]
        next_ids[-1] = next_ids[-1] if pd.isna(end.next_token_id) else int(end.next_token_id)
        values = session.runner.unit_values(about, context.tokens, at, next_ids)
        of_unit = values[unit.kind][unit.layer, :, unit.number].tolist()
        rows += [
            {"example": int(end.position_id), "position_id": position, "value": value}
            for position, value in zip(here, of_unit, strict=True)
        ]
    answer = pd.DataFrame(rows, columns=["example", "position_id", "value"])
    describe(answer, "")
    answer.attrs["note"] = f"computed: the run's model read {len(ends):,} windows again"
    return answer


def _shown(reading: Reading, tokens: int) -> pd.DataFrame:
    """Return the last tokens of a window up to the position, at most `tokens` of them."""
    if not 0 < tokens <= MOST:
        raise BadQuestion(f"The number of tokens is {tokens}: give a number from 1 to {MOST}.")
    return reading.window.tail(tokens)


def _next(at: "pd.Series[Any]") -> int | None:
    return None if pd.isna(at.next_token_id) else int(at.next_token_id)


def _float32(values: Values) -> Values:
    return values.astype(np.float32)


def _described(answer: pd.DataFrame, reading: Reading, shown: pd.DataFrame) -> pd.DataFrame:
    describe(answer, "")
    answer.attrs["note"] = READ_AGAIN
    if earlier := len(reading.window) - len(shown):
        add_note(answer, f"without the {earlier:,} earlier tokens of the window")
    return answer
