"""No prompt that is held out has a near-duplicate among those read, and the baseline is a fair one."""

import shutil
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from annotate_transformer import store
from annotate_transformer.ingest.next_token.held_out import groups_of, held_out
from annotate_transformer.ingest.next_token.prompts import NEAREST, baseline
from annotate_transformer.store.queries import named
from answers import sql

Prompt = list[int]
HEAD = ["layer", "neuron", "source_layer", "source_head"]


def shared_end(one: Prompt, other: Prompt) -> int:
    """How many last tokens are the same, counted one by one."""
    same = 0
    while same < min(len(one), len(other)) and one[-1 - same] == other[-1 - same]:
        same += 1
    return same


def are_near(one: Prompt, other: Prompt) -> bool:
    shorter, same = min(len(one), len(other)), shared_end(one, other)
    return same == shorter or same >= shorter / 2


def crossing(prompts: list[Prompt], held: list[bool]) -> list[tuple[int, int]]:
    """Pairs of near-duplicates on both sides."""
    return [(i, j) for i, j in combinations(range(len(held)), 2)
            if held[i] != held[j] and are_near(prompts[i], prompts[j])]  # fmt: skip


def ways(prompts: list[Prompt]) -> Iterator[list[bool]]:
    """Every way to hold prompts out that no pair of near-duplicates crosses."""
    for held in product([False, True], repeat=len(prompts)):
        if not crossing(prompts, list(held)):
            yield list(held)


def both_on_both(kinds: list[bool], held: list[bool]) -> bool:
    return {*zip(kinds, held, strict=True)} == {*product([False, True], repeat=2)}


def check(prompts: list[Prompt], kinds: list[bool]) -> list[bool]:
    """The split of these prompts, held against every one that there could be."""
    held = held_out(kinds, groups_of(prompts), [3, 7, 0, 1])
    assert held == held_out(kinds, groups_of(prompts), [3, 7, 0, 1])
    assert not crossing(prompts, held) and 2 * sum(held) <= len(held)
    every = [way for way in ways(prompts) if 2 * sum(way) <= len(way)]
    assert both_on_both(kinds, held) == any(both_on_both(kinds, way) for way in every)
    if both_on_both(kinds, held):
        fits = [way for way in every if both_on_both(kinds, way)]
        assert far(kinds, held) == min(far(kinds, way) for way in fits)
    return held


def far(kinds: list[bool], held: list[bool]) -> int:
    """How far the held-out prompts of each kind are from half of them."""
    return sum(
        abs(sum(out for out, of in zip(held, kinds, strict=True) if of == kind) - kinds.count(kind) // 2)
        for kind in (True, False)
    )


PLANTED = {
    "one is the end of the other": [[1, 2], [9, 1, 2], [3, 4], [5, 6]],
    "a chain of ends": [[2], [1, 2], [9, 1, 2], [3], [4, 3], [5]],
    "half of the tokens are a shared end": [[1, 2, 3, 4], [9, 8, 3, 4], [5, 6, 7, 7], [6, 6, 6, 6]],
    "half of the shorter one's": [[1, 2], [9, 8, 7, 2], [5, 6], [3, 4]],
    "connected by a third": [[1, 2, 3, 4], [9, 9, 3, 4], [3, 4], [7, 6], [8, 5]],
    "a single token": [[1], [2], [3], [4]],
    "the same token ends all": [[i, 5] for i in range(4)],
    "less than half is shared": [[1, 2, 3, 9], [4, 5, 6, 9], [7, 8, 1, 9], [2, 4, 6, 9]],
    "shared beginnings": [[1, 2, 3], [1, 2, 4], [1, 2, 5], [1, 2, 6]],
    "odd lengths": [[1, 2, 3], [4, 2, 3], [4, 5, 3], [6, 5, 4, 7, 3], [8, 8, 8]],
    "two groups": [[1, 9], [2, 9], [3, 9], [4, 8], [5, 8], [6, 8], [7, 8]],
    "one prompt": [[1, 2]],
    "none": [],
}


@pytest.mark.parametrize("name", PLANTED)
def test_near_duplicates_are_on_one_side(name: str) -> None:
    prompts = PLANTED[name]
    for kinds in product([False, True], repeat=len(prompts)):
        check(prompts, list(kinds))


def test_prompts_of_few_tokens_by_chance() -> None:
    draw, possible = np.random.default_rng(0), 0
    for _ in range(60):
        prompts = [draw.integers(0, 4, draw.integers(1, 6)).tolist() for _ in range(draw.integers(1, 9))]
        kinds = (draw.random(len(prompts)) < 0.5).tolist()
        possible += both_on_both(kinds, check(prompts, kinds))
    assert 5 < possible < 55


def prompts_of(s: store.Store) -> dict[tuple[int, int, int], Prompt]:
    """By layer, neuron and prompt its token ids."""
    positions = s.sql("SELECT position_id, token_id FROM positions WHERE run_id = 2")
    positions = positions.set_index("position_id").sort_index()
    found = s.sql("SELECT DISTINCT layer, neuron, prompt FROM head_prompts").merge(s.sql("FROM prompts"))
    return {
        (row.layer, row.neuron, row.prompt): positions.token_id.loc[
            row.first_position_id : row.position_id
        ].tolist()
        for row in found.itertuples()
    }


def test_stored_look_ups_have_no_near_duplicates_across(two_steps: Path) -> None:
    s, heads = store.open(two_steps), 0
    ids = prompts_of(s)
    for head, rows in s.sql("FROM head_prompts ORDER BY prompt").groupby(HEAD):
        prompts = [ids[head[0], head[1], prompt] for prompt in rows.prompt]
        kinds, held = rows.is_active.tolist(), rows.is_held_out.tolist()
        assert not crossing(prompts, held) and sum(held) == sum(check(prompts, kinds))
        assert both_on_both(kinds, held) == both_on_both(kinds, check(prompts, kinds))
        heads += 1
    assert heads > 2


def test_verify_finds_a_near_duplicate_across(two_steps: Path, tmp_path: Path) -> None:
    db = Path(shutil.copy(two_steps, tmp_path / "x.duckdb"))
    check_of = named("verify.sql")["near-duplicates among prompts"].replace("$run_id", "2")
    assert not sql(db, check_of)
    with duckdb.connect(str(db)) as con:  # all prompts of a neuron end in one token, and one is nothing else
        con.execute(
            """UPDATE base.neuron_occurrence SET first_position_id = position_id, tokens = 1
               WHERE prompt IS NOT NULL AND layer = 3 AND neuron = 359"""
        )
        con.execute(
            """UPDATE base.position SET token_id = 5 WHERE run_id = 2 AND position_id IN (
               SELECT position_id FROM base.neuron_occurrence WHERE layer = 3 AND neuron = 359)"""
        )
    [first, *_] = sql(db, check_of)
    assert "of neuron L3N359 are near-duplicates" in first[0]


# Neurons drawn by chance


def of_run(db: Path) -> pd.DataFrame:
    """The neurons of layer 3 of run 2, with their mean activation and next-token."""
    query = """SELECT s.layer, s.neuron, s.mean, v.token AS next_token, l.is_baseline
               FROM neuron_stats s JOIN neuron_vocabulary v ON (v.layer, v.neuron) = (s.layer, s.neuron)
               LEFT JOIN next_token_neurons l
                 ON l.run_id = s.run_id AND (l.layer, l.neuron) = (s.layer, s.neuron)
               WHERE s.run_id = 2 AND s.layer = 3 AND v.direction = 'promotes' AND v.rank = 1"""
    return store.open(db).sql(query)


def test_neurons_drawn_by_chance_are_no_next_token_neurons_and_as_active(two_steps: Path) -> None:
    found = of_run(two_steps)
    eligible = found.next_token.str.match(r" .{2,}", flags=16)
    assert 5 < eligible.sum() < len(found) / 2
    chosen, drawn = found[found.is_baseline == False], found[found.is_baseline == True]  # noqa: E712
    assert len(chosen) == len(drawn) == 2 and not eligible[drawn.index].any()
    others = found[~eligible & ~found.neuron.isin(chosen.neuron)]
    for of in chosen.itertuples():
        apart = (others["mean"] - of.mean).abs().sort_values()
        nearest = set(others.neuron[apart.index[: NEAREST + 1]])  # the other one may have taken one of them
        assert nearest & set(drawn.neuron)


@pytest.mark.parametrize("seed", range(3))
def test_the_baseline_is_matched_by_layer_and_mean(seed: int) -> None:
    """By chance among the nearest that are left; each once, and no more than there are."""
    draw = np.random.default_rng(seed)
    of = {(layer, neuron): float(draw.normal()) for layer in (2, 3) for neuron in range(100)}
    chosen = {neuron: mean for neuron, mean in of.items() if neuron[1] < 12}
    others = {neuron: mean for neuron, mean in of.items() if neuron[1] >= 12}
    drawn = baseline(others, chosen, seed)
    assert drawn == baseline(others, chosen, seed) != baseline(others, chosen, seed + 1)
    assert len(set(drawn)) == len(drawn) == len(chosen) and not set(drawn) & set(chosen)
    left = dict(others)
    for neuron, other in zip(chosen, drawn, strict=True):
        apart = sorted(abs(mean - chosen[neuron]) for of, mean in left.items() if of[0] == neuron[0])
        assert other[0] == neuron[0] and abs(left.pop(other) - chosen[neuron]) in apart[:NEAREST]
    fewer = dict(list(chosen.items())[:5])
    assert baseline(others, fewer, seed) == drawn[:5], "more neurons leave those that were drawn"


@pytest.mark.parametrize("left", [0, 1, 3])
def test_where_a_layer_has_too_few_all_are_drawn(left: int) -> None:
    others = {(5, neuron): 0.0 for neuron in range(left)} | {(4, 9): 0.0}
    drawn = baseline(others, {(5, 100 + neuron): 0.0 for neuron in range(6)}, 0)
    assert sorted(drawn) == [(5, neuron) for neuron in range(left)]
