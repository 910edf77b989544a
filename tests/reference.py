"""The decomposition a second time, plainly: what tests hold the product against.

Nothing here comes from `ingest` or from TransformerLens: Hugging Face's own GPTNeoXForCausalLM on
its raw weights in float64, read through PyTorch's forward hooks, one unpadded window at a time.

1. With γ, β the final LayerNorm's weight and bias, σ² = var(x) + ε over the population and Ū the
   mean row of the unembedding, the centred logit of token t is
   ⟨(x − mean x) / σ ∘ γ + β, U[t] − Ū⟩, because the mean row makes the mean logit.
2. x is the sum of what the components wrote, so a component's term is
   ⟨(x_c − mean x_c) ∘ γ, U[t] − Ū⟩ / σ, and ⟨β, U[t] − Ū⟩ is a term of its own.
3. `attention.dense` reads the heads side by side. A head's value is W_V (x̂ ∘ γ₁ + β₁) + b_V with x̂
   of mean 0; the part W_V β₁ + b_V is the same everywhere and attention sums to 1, so it leaves the
   head and joins dense.bias as the layer's attention bias.
4. HF's attention weights are made again from query, key and rotary tables (its eager softmax runs
   in float32 whatever the model's dtype) and must give HF's own input of `attention.dense`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cut:
    """A window of a document: its ids, BOS included.

    tokens: each position's place in the document's tokens, -1 for a BOS; stored: False for context
    that an earlier window stores; cut: the document began before the window.
    """

    ids: list[int]
    tokens: list[int]
    stored: list[bool]
    cut: bool

    @property
    def next_ids(self) -> list[int]:
        return [*self.ids[1:], -1]


def cut(ids: list[int], context: int, stride: int | None = None, bos: int | None = None) -> Iterator[Cut]:
    """The first window holds `room` tokens; each further one brings up to `stride` after room − stride
    that an earlier window stores, so by default windows do not overlap."""
    room = context if bos is None else context - 1
    stride = stride or room
    end = 0
    while end < len(ids):
        begin, end = end, min(end + (stride if end else room), len(ids))  # tokens[begin:end] are new
        places = list(range(begin - (room - stride) if begin else 0, end))
        stored, read = [place >= begin for place in places], [ids[place] for place in places]
        if bos is not None:
            places, stored, read = [-1, *places], [True, *stored], [bos, *read]
        yield Cut(read, places, stored, begin > 0)


@dataclass(frozen=True)
class Effects:
    """Every component's term toward one target a position; T positions, float64."""

    embed: Tensor  # (T,)
    heads: Tensor  # (layer, T, head)
    attn_bias: Tensor  # (layer, T)
    neurons: Tensor  # (layer, T, neuron)
    mlp_bias: Tensor  # (layer, T)
    final_bias: Tensor  # (T,)
    sources: Tensor  # (layer, T, head, source): of each head's term

    @property
    def total(self) -> Tensor:
        layers = self.heads.sum(-1) + self.attn_bias + self.neurons.sum(-1) + self.mlp_bias
        return self.embed + layers.sum(0) + self.final_bias


@dataclass(frozen=True)
class Readout:
    """What a residual stream (T, d_model) predicts; softmax over all rows, choice among real ones."""

    logits: Tensor  # (T, d_vocab), Hugging Face's raw ones
    n_tokens: int

    @property
    def offset(self) -> Tensor:
        return self.logits.mean(-1)

    @property
    def centred(self) -> Tensor:
        return self.logits - self.offset[:, None]

    @property
    def logprobs(self) -> Tensor:
        return self.logits.log_softmax(-1)

    @property
    def entropy(self) -> Tensor:
        return -(self.logprobs.exp() * self.logprobs).sum(-1)

    @property
    def real(self) -> Tensor:
        return self.logits[:, : self.n_tokens]

    @property
    def top_ids(self) -> Tensor:
        return self.real.argmax(-1)

    @property
    def lead(self) -> Tensor:
        """How far the first choice is ahead of the second: small where it is a near tie."""
        two = self.real.topk(2).values
        return two[:, 0] - two[:, 1]

    def rank_between(self, next_ids: Tensor, tie: float) -> tuple[Tensor, Tensor]:
        """Lowest and highest rank that logits closer than `tie` leave open; the same nearly always."""
        logit = self.logits.gather(1, next_ids[:, None])
        others = self.real.scatter(1, next_ids[:, None], -torch.inf)
        return 1 + (others > logit + tie).sum(-1), 1 + (others > logit - tie).sum(-1)


class ReferenceWindow:
    """One window's forward pass with all that was read on the way."""

    def __init__(self, reference: "Reference", ids: list[int]) -> None:
        self.reference, self.ids = reference, torch.tensor(ids)
        model = reference.model.gpt_neox
        seen: dict[Any, Tensor] = {}

        def output(key: Any) -> Callable[..., None]:
            return lambda module, inputs, out: seen.__setitem__(key, out)

        def reads(key: Any) -> Callable[..., None]:
            return lambda module, inputs, out: seen.__setitem__(key, inputs[0])

        hooks = [
            model.embed_in.register_forward_hook(output("embed")),
            model.rotary_emb.register_forward_hook(output("rotary")),
            model.final_layer_norm.register_forward_hook(reads("final")),
        ]
        for i, block in enumerate(model.layers):
            attention, mlp = block.attention, block.mlp
            hooks += [
                attention.query_key_value.register_forward_hook(output(("qkv", i))),
                attention.dense.register_forward_hook(reads(("z", i))),
                mlp.dense_4h_to_h.register_forward_hook(reads(("post", i))),
                block.register_forward_hook(output(("resid_post", i))),
            ]
        with torch.no_grad():
            logits = reference.model(self.ids[None], use_cache=False).logits[0]
        for hook in hooks:
            hook.remove()

        layers, heads, T = range(len(model.layers)), reference.n_heads, len(ids)
        self.readout = Readout(logits, reference.n_tokens)
        self.embed = seen["embed"][0]
        self.final = seen["final"][0]
        self.scale = reference.scale(self.final)
        self.post = torch.stack([seen["post", i][0] for i in layers])  # (layer, T, neuron)
        self.resid_post = torch.stack([seen["resid_post", i][0] for i in layers])
        # interleaved: each head's query, key and value stand together
        qkv = [seen["qkv", i][0].view(T, heads, 3, -1).unbind(2) for i in layers]
        cos, sin = (table[0] for table in seen["rotary"])
        self.pattern = torch.stack([_pattern(q, k, cos, sin) for q, k, _ in qkv])
        self.v = torch.stack([v for _, _, v in qkv])  # (layer, T, head, d_head), bias and all
        z = torch.stack([seen["z", i][0].view(T, heads, -1) for i in layers])
        made_again = torch.einsum("lhpq,lqhd->lphd", self.pattern, self.v)
        assert (z - made_again).abs().max() < 1e-10, "the attention weights are not HF's"
        # What each head wrote, its constant part taken off: (layer, T, head, d_model)
        self.heads = torch.stack([reference.through_dense(i, z[i]) for i in layers])
        self.heads = self.heads - reference.head_bias[:, None]

    @property
    def head_norm(self) -> Tensor:
        """|what the head wrote, its mean taken off|, (layer, T, head)"""
        return (self.heads - self.heads.mean(-1, keepdim=True)).norm(dim=-1)

    def lens(self, layer: int) -> Readout:
        """The stream after block `layer`, through HF's own final LayerNorm and unembedding."""
        model = self.reference.model
        with torch.no_grad():
            logits = model.lm_head(model.gpt_neox.final_layer_norm(self.resid_post[layer]))
        return Readout(logits, self.reference.n_tokens)

    def effects(self, targets: Tensor) -> Effects:
        """Every term toward `targets` (T,)."""
        r = self.reference
        unembedding = r.U[targets] - r.U_mean
        direction = unembedding * r.gamma  # (T, d_model)

        def toward(written: Tensor, where: str) -> Tensor:
            """⟨written − its mean, direction⟩/σ; `where` names written's axes, p and m included."""
            centred = written - written.mean(-1, keepdim=True)
            out = where.replace("m", "") if "p" in where else where.replace("m", "p")
            return torch.einsum(f"{where},pm,p->{out}", centred, direction, 1 / self.scale)

        n_layers = len(self.heads)
        sources = []
        for i in range(n_layers):
            written = r.through_dense(i, self.v[i]) - r.head_bias[i]  # (source, head, d_model)
            written = written - written.mean(-1, keepdim=True)
            share = torch.einsum("qhm,pm,p->phq", written, direction, 1 / self.scale)
            sources.append(self.pattern[i].transpose(0, 1) * share)
        columns = toward(r.W_out, "lnm")  # (layer, neuron, T)
        return Effects(
            embed=toward(self.embed, "pm"),
            heads=toward(self.heads, "lphm"),
            attn_bias=toward(r.attn_bias, "lm"),
            neurons=self.post * columns.transpose(1, 2),
            mlp_bias=toward(r.mlp_bias, "lm"),
            final_bias=(r.beta * unembedding).sum(-1),
            sources=torch.stack(sources),
        )


class Reference:
    """Hugging Face's model in float64 with the raw weights that the terms are made of."""

    def __init__(self, path: str | Path, n_tokens: int) -> None:
        from transformers import GPTNeoXForCausalLM

        self.model = GPTNeoXForCausalLM.from_pretrained(
            path, dtype=torch.float64, attn_implementation="sdpa"
        ).eval()
        self.model.requires_grad_(False)
        config, inner = self.model.config, self.model.gpt_neox
        self.n_heads, self.eps, self.n_tokens = config.num_attention_heads, config.layer_norm_eps, n_tokens
        self.U = self.model.lm_head.weight  # (d_vocab, d_model)
        self.U_mean = self.U.mean(0)
        self.gamma, self.beta = inner.final_layer_norm.weight, inner.final_layer_norm.bias
        self.W_out = torch.stack([x.mlp.dense_4h_to_h.weight.T for x in inner.layers])
        self.mlp_bias = torch.stack([x.mlp.dense_4h_to_h.bias for x in inner.layers])
        self.head_bias = torch.stack([self._head_bias(i) for i in range(len(inner.layers))])
        dense_bias = torch.stack([x.attention.dense.bias for x in inner.layers])
        self.attn_bias = dense_bias + self.head_bias.sum(1)  # (layer, d_model)

    def _head_bias(self, layer: int) -> Tensor:
        """(W_V β₁ + b_V) W_O of each head: (head, d_model)"""
        block = self.model.gpt_neox.layers[layer]
        qkv = block.attention.query_key_value
        W_V = qkv.weight.view(self.n_heads, 3, -1, qkv.in_features)[:, 2]
        b_V = qkv.bias.view(self.n_heads, 3, -1)[:, 2]
        return self.through_dense(layer, W_V @ block.input_layernorm.bias + b_V)

    def through_dense(self, layer: int, z: Tensor) -> Tensor:
        """(…, head, d_head) → (…, head, d_model): `attention.dense` head by head, without its bias."""
        weight = self.model.gpt_neox.layers[layer].attention.dense.weight
        by_head = weight.view(weight.shape[0], self.n_heads, -1)  # (d_model, head, d_head)
        return torch.einsum("...hd,mhd->...hm", z, by_head)

    def scale(self, x: Tensor) -> Tensor:
        return (((x - x.mean(-1, keepdim=True)) ** 2).mean(-1) + self.eps).sqrt()

    def window(self, ids: list[int]) -> ReferenceWindow:
        return ReferenceWindow(self, ids)


class ReferenceRun:
    """A corpus through the reference: P stored positions in the store's order, both targets each.

    Sources are padded to the context's width with zeros; source_at[p, column] is the ordinal of
    the stored position that holds that column's token, -1 beyond p.
    """

    def __init__(
        self,
        reference: Reference,
        documents: list[list[int]],
        context: int,
        stride: int | None = None,
        bos: int | None = None,
    ) -> None:
        self.context = context
        self.cuts = [
            (document, part)
            for document, ids in enumerate(documents)
            for part in cut(ids, context, stride, bos)
        ]
        self.windows = [reference.window(part.ids) for _, part in self.cuts]
        places = [
            (window, column)
            for window, (_, part) in enumerate(self.cuts)
            for column, stored in enumerate(part.stored)
            if stored
        ]
        self.window = torch.tensor([window for window, _ in places])
        self.column = torch.tensor([column for _, column in places])
        self.document = torch.tensor([self.cuts[window][0] for window, _ in places])
        self.context_cut = torch.tensor([self.cuts[window][1].cut for window, _ in places])
        self.ids = torch.tensor([self.cuts[w][1].ids[c] for w, c in places])
        self.next_ids = torch.tensor([self.cuts[w][1].next_ids[c] for w, c in places])
        self.has_next = self.next_ids >= 0
        self.readout = self._readout([window.readout for window in self.windows])
        self.top_ids = self.readout.top_ids
        self.scale = self._at([window.scale for window in self.windows], 0)
        self.post = self._at([window.post for window in self.windows], 1)  # (layer, P, neuron)
        self.head_norm = self._at([window.head_norm for window in self.windows], 1)
        self.pattern = self._at(
            [self._wide(window.pattern.transpose(1, 2)) for window in self.windows], 1
        )  # (layer, P, head, source)
        self.next, self.top = (self._effects(side) for side in ("next", "top"))
        self.source_at = self._source_at(places)

    @property
    def sides(self) -> tuple[Effects, Effects]:
        """(toward the next token, toward the first choice); where nothing follows both are the latter"""
        return self.next, self.top

    @property
    def targets(self) -> Tensor:
        """(2, P)"""
        return torch.stack([torch.where(self.has_next, self.next_ids, self.top_ids), self.top_ids])

    @property
    def logits(self) -> Tensor:
        """Centred, of both targets (2, P)"""
        return torch.stack([self.readout.centred.gather(1, t[:, None])[:, 0] for t in self.targets])

    def lens(self, layer: int) -> Readout:
        return self._readout([window.lens(layer) for window in self.windows])

    def _at(self, of_windows: list[Tensor], dim: int) -> Tensor:
        """The stored positions of every window's tensor, which lie along `dim`, one after another."""
        kept = [self.column[self.window == w] for w in range(len(self.windows))]
        parts = zip(of_windows, kept, strict=True)
        return torch.cat([values.index_select(dim, columns) for values, columns in parts], dim)

    def _readout(self, of_windows: list[Readout]) -> Readout:
        return Readout(self._at([x.logits for x in of_windows], 0), of_windows[0].n_tokens)

    def _wide(self, sources: Tensor) -> Tensor:
        return torch.nn.functional.pad(sources, (0, self.context - sources.shape[-1]))

    def _effects(self, side: str) -> Effects:
        parts = []
        for window, (_, part) in zip(self.windows, self.cuts, strict=True):
            top, following = window.readout.top_ids, torch.tensor(part.next_ids)
            targets = top if side == "top" else torch.where(following >= 0, following, top)
            parts.append(window.effects(targets))
        return Effects(
            embed=self._at([x.embed for x in parts], 0),
            heads=self._at([x.heads for x in parts], 1),
            attn_bias=self._at([x.attn_bias for x in parts], 1),
            neurons=self._at([x.neurons for x in parts], 1),
            mlp_bias=self._at([x.mlp_bias for x in parts], 1),
            final_bias=self._at([x.final_bias for x in parts], 0),
            sources=self._at([self._wide(x.sources) for x in parts], 1),
        )

    def _source_at(self, places: list[tuple[int, int]]) -> Tensor:
        def token(window: int, column: int) -> tuple[int, ...]:
            document, part = self.cuts[window]
            place = part.tokens[column]
            return (document, place) if place >= 0 else (document, place, window)

        ordinal = {token(*place): i for i, place in enumerate(places)}
        assert len(ordinal) == len(places), "a token is stored twice"
        table = torch.full((len(places), self.context), -1)
        for i, (window, column) in enumerate(places):
            for source in range(column + 1):
                table[i, source] = ordinal[token(window, source)]
        return table


def _pattern(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Attention weights (head, T, source) of queries and keys (T, head, d_head); causal."""
    turned = cos.shape[-1]  # rotary embeddings turn these dimensions alone

    def rotate(x: Tensor) -> Tensor:
        part, rest = x[..., :turned], x[..., turned:]
        low, high = part.chunk(2, -1)
        part = part * cos[:, None] + torch.cat([-high, low], -1) * sin[:, None]
        return torch.cat([part, rest], -1)

    scores = torch.einsum("phd,qhd->hpq", rotate(q), rotate(k)) / q.shape[-1] ** 0.5
    future = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1)
