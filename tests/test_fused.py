"""The compiled loops against the torch operations they stand for, and against brute force."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.dispatcher import Dispatcher
from torch import Tensor

from annotate_transformer.ingest.attribution import decompose
from annotate_transformer.ingest.attribution.decompose import Decomposition
from annotate_transformer.ingest.attribution.fast import attention, lists, logits, neurons
from annotate_transformer.ingest.attribution.fast.bits import MachineCode, compiled
from annotate_transformer.ingest.attribution.loops import COMPILED, PLAIN, loops_for
from annotate_transformer.ingest.attribution.selection import Keep
from annotate_transformer.ingest.attribution.stored import Stored
from annotate_transformer.ingest.attribution.summaries import Candidates, Thresholds, UnitSummary
from annotate_transformer.ingest.corpus.tokens import Encoded, Tokenizer
from annotate_transformer.ingest.corpus.windows import Batch, Cursor, Window, Windowing
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.store.layout import STEPS_A_VALUE, STEPS_OF_ATTENTION

TEXT = "Tom met Mary in Dublin. Dublin is the capital of Ireland, and Tom wrote to Mary: 1, 2, 3, 1, 2, 3. "
FIELDS = (
    "heads",
    "top_attention",
    "norm",
    "mlp",
    "mlp_remainder",
    "mlp_remainder_abs",
    "activation_bound",
    "effect_bound",
)
FIGURES = ("top_logit", "next_logit", "top_logprob", "next_logprob", "entropy")


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(resolve("neox-2m"))


def batch(model: Model) -> Batch:
    """Windows of several lengths, overlapping: padding, positions not stored, repeated tokens."""
    pieces: list[Encoded] = list(Tokenizer(model.tokenizer).encode(5 * TEXT))
    windows = list(Windowing(64, 48, None).windows(iter(pieces), Cursor()))
    return Batch.of(sorted(windows, key=lambda window: -len(window.ids)))


def thresholds(model: Model, height: float) -> Thresholds:
    neurons = torch.full((3, model.n_layers, model.d_mlp), height)
    return Thresholds(neurons, torch.full((2, model.n_layers, model.n_heads), height), k=10)


@pytest.fixture(scope="module", params=[-np.inf, 0.5], ids=["empty lists", "full lists"])
def both(request: pytest.FixtureRequest, model: Model) -> tuple[Decomposition, Decomposition]:
    work, results = batch(model), []
    sampled = np.arange(int(work.stored.sum())) % 7 == 0
    assert loops_for(model) is COMPILED, "float32 on a CPU"
    for loops in (COMPILED, PLAIN):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decompose, "loops_for", lambda model, chosen=loops: chosen)
            height = thresholds(model, request.param)
            results.append(decompose.decompose(model, work, Keep(), height, sampled))
    return results[0], results[1]


def test_predictions(both: tuple[Decomposition, Decomposition]) -> None:
    fused, plain = (result.prediction for result in both)
    has_next = both[0].stored.has_next
    assert not has_next.all()
    for name in FIGURES:
        torch.testing.assert_close(
            getattr(fused, name)[has_next], getattr(plain, name)[has_next], atol=1e-5, rtol=1e-6
        )
    assert torch.equal(fused.top_id, plain.top_id)
    assert torch.equal(fused.next_rank[has_next], plain.next_rank[has_next])


def test_terms(both: tuple[Decomposition, Decomposition]) -> None:
    for fused, plain in zip(both[0].layers, both[1].layers, strict=True):
        for name in FIELDS:
            torch.testing.assert_close(getattr(fused, name), getattr(plain, name), atol=2e-3, rtol=0)
        assert torch.equal(fused.top_source, plain.top_source)
        torch.testing.assert_close(fused.mlp, plain.mlp, atol=1e-5, rtol=1e-5)


def test_the_same_neurons_and_sources_are_kept(both: tuple[Decomposition, Decomposition]) -> None:
    for fused, plain in zip(both[0].layers, both[1].layers, strict=True):
        keys = ("at", "neuron")
        same_rows(rows(fused.neurons, keys, ("activation",)), rows(plain.neurons, keys, ("activation",)))
    keys = ("at", "layer", "head", "column")
    same_rows(*(rows(result.sources, keys, ("attention",)) for result in both))
    torch.testing.assert_close(both[0].source_bound, both[1].source_bound, atol=1e-5, rtol=0)


def rows(kept: object, keys: tuple[str, ...], values: tuple[str, ...]) -> dict[tuple[int, ...], list[float]]:
    identity = zip(*(getattr(kept, key).tolist() for key in keys), strict=True)
    numbers = torch.stack([*(getattr(kept, name) for name in values), *kept.effects])  # type: ignore[attr-defined]
    return dict(zip(identity, numbers.T.tolist(), strict=True))


def same_rows(fused: dict[tuple[int, ...], list[float]], plain: dict[tuple[int, ...], list[float]]) -> None:
    assert len(fused) > 1000
    assert fused.keys() == plain.keys()
    for key, numbers in fused.items():
        assert numbers == pytest.approx(plain[key], abs=2e-3), key  # a rounding either way


def test_sums_and_candidates(both: tuple[Decomposition, Decomposition]) -> None:
    for fused, plain in zip(both[0].layers, both[1].layers, strict=True):
        for name in ("neurons", "heads"):
            mine, theirs = getattr(fused.summary, name), getattr(plain.summary, name)
            same_sums(mine, theirs)
            for a, b in zip(mine.lists, theirs.lists, strict=True):
                assert candidates(a) == pytest.approx(candidates(b), abs=1e-5)
        same_attention(fused.summary.heads, plain.summary.heads)


def same_sums(mine: UnitSummary, theirs: UnitSummary) -> None:
    for name, value in vars(mine.sums).items():
        other: Tensor = getattr(theirs.sums, name)
        if name in ("effect", "effect_abs"):  # the loops round an effect otherwise, in its last bits
            steps = (value / STEPS_A_VALUE, other / STEPS_A_VALUE)
            torch.testing.assert_close(*steps, atol=1e-5, rtol=1e-6, check_dtype=False)
        else:
            assert torch.equal(value.long(), other.long()), name


def same_attention(mine: UnitSummary, theirs: UnitSummary) -> None:
    assert mine.attention
    assert theirs.attention
    sums = (of.attention.total / STEPS_OF_ATTENTION for of in (mine, theirs))
    torch.testing.assert_close(*sums, atol=1e-4, rtol=1e-5)
    assert torch.equal(mine.attention.count, theirs.attention.count)


def candidates(found: Candidates) -> dict[tuple[int, int], float]:
    places = zip(found.unit.tolist(), found.position.tolist(), strict=True)
    return dict(zip(places, found.value.tolist(), strict=True))


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None)  # compiled at the first call
@given(st.lists(st.lists(FLOATS | st.sampled_from([0.0, -0.0, 1.0]), min_size=1, max_size=70), min_size=1))
def test_strongest_is_a_stable_sort(drawn: list[list[float]]) -> None:
    """Row after row with the same arrays, since each row's floor comes from the one before."""
    k = 3
    keys, ids = np.full(k, -1, np.int32), np.zeros(k, np.int32)
    for values in drawn:
        row = np.array([*values, *range(k)], dtype=np.float32)
        neurons.strongest_of_row(row.view(np.int32), keys, ids)
        order = np.argsort(-np.abs(row), kind="stable")[:k]
        assert ids.tolist() == order.tolist()
        assert keys.view(np.float32).tolist() == np.abs(row)[order].tolist()


@settings(deadline=None)  # compiled at the first call
@given(
    st.lists(st.tuples(st.integers(0, 2), FLOATS | st.sampled_from([1.0, 2.0])), max_size=60), st.randoms()
)
def test_lists_are_a_sort_whatever_the_order(offers: list[tuple[int, float]], draw: object) -> None:
    k, brute = 4, defaultdict(list)
    count, value, position = np.zeros(3, np.int64), np.empty((3, k), np.float32), np.empty((3, k), np.int64)
    threshold = np.full(3, -np.inf, np.float32)
    entries = [(unit, np.float32(x), at) for at, (unit, x) in enumerate(offers)]
    draw.shuffle(entries)  # type: ignore[attr-defined]
    if entries:
        arrays = [np.array(column) for column in zip(*entries, strict=True)]
        lists.insert_into_lists(*arrays, count, value, position, threshold)
    for unit, x, at in entries:
        brute[unit].append((-x, at))
    for unit in range(3):
        expected = sorted(brute[unit])[:k]
        n = int(count[unit])
        assert list(zip((-value[unit, :n]).tolist(), position[unit, :n].tolist(), strict=True)) == expected
        assert threshold[unit] == (-expected[-1][0] if n == k else -np.inf)


def test_zeros_have_one_bin() -> None:
    values = np.array([[0.0], [-0.0], [1e-9], [-1e-9], [1.0], [-1.0]], dtype=np.float32)
    histogram = neurons.unit_sums(values, 244, 22)[-1][0]
    assert histogram.sum() == 6
    assert histogram[23] == 3, "0, -0 and what is a little above"
    assert histogram[22] == 1


# Each loop at several shapes -------------------------------------------------------------------------

SHAPES = {  # windows, positions, heads, d_head, neurons
    "one position": (1, 1, 1, 4, 3),
    "no padding": (1, 33, 3, 4, 64),
    "several windows": (4, 17, 2, 8, 130),
    "more neurons than a block": (2, 40, 5, 4, 1025),
}
KEPT = {"few": Keep(2, 3), "nothing": Keep(0, 0), "all": Keep(None, None)}


def drawn_batch(shape: tuple[int, ...]) -> tuple[Batch, torch.Generator]:
    """Windows of several lengths over few tokens, so that they repeat; overlap is not stored."""
    windows, positions = shape[:2]
    generator = torch.Generator().manual_seed(sum(shape))
    found = []
    for number in range(windows):
        n = max(1, positions - 3 * number)
        ids = torch.randint(0, 5, (n,), generator=generator).numpy()
        at = np.arange(n) + number * positions
        found.append(Window(number, 0, False, ids, at, at, at + 1, np.arange(n) >= min(number, n - 1)))
    return Batch.of(found), generator


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("shape", SHAPES)
def test_selections_at_several_shapes(shape: str, kept: str) -> None:
    """neuron_terms, unit_sums, reaching, window_maxima, strongest_sources and attention_sums."""
    b, positions, heads, d_head, units = SHAPES[shape]
    work, generator = drawn_batch(SHAPES[shape])

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    stored = Stored.of(work, "cpu", np.array([4]))
    P, tokens = len(stored.row), torch.from_numpy(work.tokens)
    post, read, scale = normal(P, units), normal(2, P, heads, d_head), normal(P).abs() + 1
    pattern = normal(b, heads, positions, positions).exp().tril()
    pattern /= pattern.sum(-1, keepdim=True)
    v, W_out_u = normal(b, positions, heads, d_head), normal(6, units)
    index = (torch.arange(2 * P) % 6).view(2, P)
    half = Thresholds(
        torch.full((3, 1, units), 0.5), torch.full((2, 1, heads), 0.5), 10, False, np.array([4])
    )
    found = []
    for loops in (COMPILED, PLAIN):
        selection = loops.selection(tokens, stored, scale, KEPT[kept], half)
        terms = selection.neurons(0, post, W_out_u, index, scale)
        found.append((terms, selection.attention(0, pattern, v, read), selection.sources()))
    (mine, looked, sources), (theirs, plain_looked, plain_sources) = found
    for name in ("total", "rest", "rest_abs", "bounds"):
        torch.testing.assert_close(getattr(mine, name), getattr(theirs, name), atol=2e-3, rtol=1e-5)
    assert torch.equal(mine.kept.neuron, theirs.kept.neuron)
    torch.testing.assert_close(mine.kept.effects, theirs.kept.effects, atol=2e-3, rtol=0)
    same_sums(mine.summary, theirs.summary)
    for listed, plain_listed in zip(mine.summary.lists, theirs.summary.lists, strict=True):
        assert candidates(listed) == pytest.approx(candidates(plain_listed), abs=1e-5)
    assert torch.equal(looked.top_source, plain_looked.top_source)
    torch.testing.assert_close(looked.sums.total, plain_looked.sums.total, atol=1e-4, rtol=1e-5)
    assert torch.equal(looked.sums.count, plain_looked.sums.count)
    keys = ("at", "layer", "head", "column")
    expected = rows(plain_sources[0], keys, ("attention",))
    assert rows(sources[0], keys, ("attention",)).keys() == expected.keys()
    for key, numbers in rows(sources[0], keys, ("attention",)).items():
        assert numbers == pytest.approx(expected[key], abs=2e-4), key
    torch.testing.assert_close(sources[1], plain_sources[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("positions", "vocabulary", "real", "step"), [
    (1, 1, 1, 1), (5, 70, 70, 32), (9, 1000, 900, 768), (3, 100, 40, 33),
])  # fmt: skip
def test_predictions_at_several_shapes(positions: int, vocabulary: int, real: int, step: int) -> None:
    """absorb_logits; with padding rows beyond the `real` tokens, and slices that hold only padding."""
    generator = torch.Generator().manual_seed(vocabulary)
    values = 5 * torch.randn(positions, vocabulary, generator=generator)
    following = torch.randint(0, real, (positions,), generator=generator)
    threshold = values.gather(1, following[:, None]).squeeze(1)
    found = []
    for loops in (COMPILED, PLAIN):
        running = loops.prediction(following, threshold.clone())
        for start in range(0, vocabulary, step):
            part = values[:, start : start + step].contiguous()
            running.absorb(part, start, real=min(max(0, real - start), part.shape[1]))
        found.append(running.prediction())
    for name, value in vars(found[0]).items():
        torch.testing.assert_close(value, getattr(found[1], name), atol=1e-5, rtol=1e-5)
    normalizer = found[0].next_logit - found[0].next_logprob
    torch.testing.assert_close(normalizer, values.logsumexp(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("positions", "vocabulary", "real"), [(1, 1, 1), (4, 33, 20), (7, 500, 500)])
def test_ranks_at_several_shapes(positions: int, vocabulary: int, real: int) -> None:
    generator = np.random.default_rng(vocabulary)
    values = generator.normal(size=(positions, vocabulary)).astype(np.float32)
    at, column = generator.integers(positions, size=50), generator.integers(real, size=50)
    expected = (values[at, :real] > values[at, column][:, None]).sum(1)
    assert logits.above(values, real, at, column).tolist() == expected.tolist()


def test_every_compiled_loop_is_compared() -> None:
    """Each loop that is called from outside its file stands in a test above."""
    found = {
        name
        for module in (attention, lists, logits, neurons)
        for name, loop in vars(module).items()
        if isinstance(loop, Dispatcher) and loop.py_func.__module__ == module.__name__ and name[0] != "_"
    }
    own = Path(__file__).read_text(encoding="utf-8")
    assert len(found) >= 10
    assert [name for name in found if name not in own] == []


# The cache of machine code


def total(values: np.ndarray) -> float:
    found = 0.0
    for value in values:
        found += value
    return found


def cache_file(folder: Path) -> MachineCode:
    """The cache of one process for a function, whose source has the stamp 1."""
    return MachineCode(str(folder), "total", 1)


def test_compiled_functions_use_it() -> None:
    loop = compiled(total)
    assert type(loop._cache._cache_file) is MachineCode
    assert loop(np.arange(4.0)) == 6 and loop(np.arange(4)) == 6
    again = compiled(total)
    assert again(np.arange(4.0)) == 6 and sum(again.stats.cache_hits.values()) == 1


@pytest.mark.parametrize("has_read", [False, True], ids=["", "after it has read the index"])
@pytest.mark.parametrize("step", ["_load_index", "_save_data", "_save_index"])
def test_processes_that_save_at_once_never_take_the_code_of_other_types(
    step: str, has_read: bool, tmp_path: Path
) -> None:
    """The other one saves just before or after this step of the first one."""
    for before in (True, False):
        folder = tmp_path / str(before)
        folder.mkdir()
        one, other = cache_file(folder), cache_file(folder)
        if has_read:
            other._load_index = dict  # type: ignore[method-assign]
        done = getattr(one, step)

        def interrupted(
            *arguments: Any, one: Any = one, other: Any = other, done: Any = done, before: bool = before
        ) -> Any:
            setattr(one, step, done)
            found = None if before else done(*arguments)
            other.save("float64", "code for float64")
            return done(*arguments) if before else found

        setattr(one, step, interrupted)
        one.save("float32", "code for float32")
        later = cache_file(folder)
        found = {key: later.load(key) for key in ("float32", "float64")}
        assert all(code in (None, f"code for {key}") for key, code in found.items()), (before, found)
        later.save("float32", "code for float32")  # as a process does that found none
        assert later.load("float32") == "code for float32"


@pytest.mark.parametrize("step", ["_load_index", "_save_data", "_save_index"])
def test_a_killed_process_leaves_no_code_of_an_earlier_version(step: str, tmp_path: Path) -> None:
    earlier, later, again = (cache_file(tmp_path) for _ in range(3))
    later._source_stamp = again._source_stamp = 2

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    neighbour = MachineCode(str(tmp_path), "total_of_rows", 1)
    neighbour.save("float32", "code of another function")
    earlier.save("float32", "old code")
    setattr(later, step, killed)
    with pytest.raises(KeyboardInterrupt):
        later.save("float32", "new code")
    assert again.load("float32") is None
    again.save("float32", "new code")
    assert again.load("float32") == "new code"
    assert earlier.load("float32") is None
    assert neighbour.load("float32") == "code of another function"
    assert len([*tmp_path.glob("total.*.nbc")]) == 1  # the earlier version's file is removed
