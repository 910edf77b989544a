"""Select terms and compute predictions by compiled loops, with the same results as the torch versions."""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from annotate_transformer.ingest.attribution.behaviours import AttentionSums
from annotate_transformer.ingest.attribution.fast import attention as attention_loops
from annotate_transformer.ingest.attribution.fast import logits as logits_loops
from annotate_transformer.ingest.attribution.fast import neurons as neurons_loops
from annotate_transformer.ingest.attribution.selection import (
    SOURCE_DECIMALS,
    AttentionTerms,
    HeadSources,
    Keep,
    NeuronTerms,
    Selection,
    source_products,
)
from annotate_transformer.ingest.attribution.stored import Stored
from annotate_transformer.ingest.attribution.summaries import (
    HIGH,
    LOW,
    LOWEST_EXPONENT,
    MAGNITUDES,
    WINDOWS,
    Candidates,
    LayerThresholds,
    Sums,
    Thresholds,
    UnitSummary,
    eligible_for_lists,
    entry_threshold,
)
from annotate_transformer.ingest.attribution.unembed import RunningPrediction

# LOWEST: the exponent bits and the first mantissa bit of the float32 number 2 ** LOWEST_EXPONENT, read as one
# integer. This number is the smallest edge above 0 of the histograms.
LOWEST = 2 * (127 + LOWEST_EXPONENT)


class CompiledSelection(Selection):
    """A compiled `Selection`, whose loops replace a dozen passes of torch operations through memory."""

    def __init__(
        self, tokens: Tensor, stored: Stored, scale: Tensor, keep: Keep, thresholds: Thresholds
    ) -> None:
        super().__init__(tokens, stored, scale, keep, thresholds)
        self.places = _numpy(tokens), _numpy(stored.row), _numpy(stored.column)
        if keep.sources is not None:
            slots, P = keep.sources + 1, len(scale)
            self.keys = np.full((P, slots), -1, np.int32)
            self.slots = np.tile(np.arange(slots, dtype=np.int32), (P, 1))
            self.source_places = np.zeros((P, slots, 3), np.int32)
            self.source_values = np.zeros((P, slots, 3), np.float32)

    def neurons(self, layer: int, post: Tensor, W_out_u: Tensor, index: Tensor, scale: Tensor) -> NeuronTerms:
        k = post.shape[1] if self.keep.neurons is None else self.keep.neurons
        following = self.stored.has_next & self.stored.counted
        arrays = (_numpy(x) for x in (post, W_out_u, index, scale, following))
        total, total_abs, bounds, *kept, effect, effect_abs = _tensors(neurons_loops.neuron_terms(*arrays, k))
        at, neuron, activation, effects = kept
        thresholds = self.thresholds.layer(layer)
        return NeuronTerms.of(
            at, neuron.long(), activation, effects, total, total_abs, bounds,
            UnitSummary(self._sums(post, effect, effect_abs), self._lists(post, thresholds)),
        )  # fmt: skip

    def _sums(self, post: Tensor, effect: Tensor, effect_abs: Tensor) -> Sums:
        units = (post.shape[1],)
        post = self.stored.counted_rows(post)
        sums = neurons_loops.unit_sums(_numpy(post), LOWEST, MAGNITUDES)
        total, squares, minimum, maximum, positive, histogram = _tensors(sums)
        return Sums(
            count=torch.full(units, len(post)),
            total=total.long(),
            squares=squares.long(),
            minimum=minimum + 0.0,  # turns -0.0 into 0.0, so that the result equals that of `summaries`
            maximum=maximum + 0.0,
            positive=positive,
            histogram=histogram,
            effect_count=torch.full(units, int((self.stored.has_next & self.stored.counted).sum())),
            effect=effect.long(),
            effect_abs=effect_abs.long(),
        )

    def _lists(self, post: Tensor, thresholds: LayerThresholds) -> list[Candidates]:
        eligible = eligible_for_lists(self.stored, thresholds)
        high, low = (
            entry_threshold(post, sign, eligible, thresholds.neurons[kind], thresholds.k)
            for kind, sign in ((HIGH, 1), (LOW, -1))
        )
        values, may = _numpy(post), _numpy(eligible)
        kind, at, unit = _tensors(neurons_loops.reaching(values, may, _numpy(high), _numpy(low)))
        window = neurons_loops.window_maxima(values, self.places[1], may, _numpy(thresholds.neurons[WINDOWS]))
        parts = [(at[kind == HIGH], unit[kind == HIGH]), (at[kind == LOW], unit[kind == LOW])]
        return [
            Candidates.of(unit, post[at, unit] + 0.0, self.stored.position_ids[at])
            for at, unit in (*parts, _tensors(window))
        ]

    def attention(self, layer: int, pattern: Tensor, v: Tensor, read: Tensor) -> AttentionTerms:
        pattern = pattern.contiguous()
        products = source_products(self.stored, v, read)
        if self.keep.sources is None:
            self.offer(layer, self.stored.pick(pattern.transpose(1, 2)), products)
        else:
            attention_loops.strongest_sources(
                _numpy(pattern), _numpy(products), *self.places[1:], layer,
                self.keys, self.slots, self.source_places, self.source_values,
            )  # fmt: skip
        tops = _tensors(
            attention_loops.attention_sums(_numpy(pattern), *self.places, _numpy(self.stored.counted))
        )
        top_source, top_attention, total, count = tops
        return AttentionTerms(top_source, top_attention, AttentionSums(total.long(), count))

    def sources(self) -> tuple[HeadSources, Tensor]:
        if self.keep.sources is None:
            return super().sources()
        at, rank = (self.keys[:, :-1] >= 0).nonzero()
        slot = self.slots[at, rank]
        places, values = self.source_places[at, slot], torch.from_numpy(self.source_values[at, slot])
        layer, head, column = torch.from_numpy(places).long().unbind(1)
        effects = torch.round(values[:, 1:].T, decimals=SOURCE_DECIMALS)
        kept = HeadSources(torch.from_numpy(at), layer, head, column, values[:, 0], effects, True)
        return kept, torch.from_numpy(np.maximum(self.keys[:, -1], 0).view(np.float32))


class CompiledPrediction(RunningPrediction):
    """A compiled `RunningPrediction`: it does all steps on a row of logits while the row is in the cache."""

    def absorb(self, logits: Tensor, start: int, real: int) -> None:
        figures = (
            self.following, self.threshold, self.best, self.top_id, self.own, self.above,
            self.maximum, self.total, self.weighted,
        )  # fmt: skip
        logits_loops.absorb_logits(logits.numpy(), start, real, *(figure.numpy() for figure in figures))


def _numpy(tensor: Tensor) -> NDArray[np.generic]:
    return cast("NDArray[np.generic]", tensor.contiguous().numpy())


def _tensors(arrays: tuple[NDArray[np.generic], ...]) -> list[Tensor]:
    return [torch.from_numpy(array) for array in arrays]
