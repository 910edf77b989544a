"""The model: found by name, loaded through TransformerLens, run for what the decomposition reads.

The only file that knows TransformerLens, the hub and the architecture (GPT-NeoX; another one is
another `Architecture` here). Everything is processed as in "A Mathematical Framework for
Transformer Circuits": LayerNorm folded into the weights that read it, writing weights and `W_U`
centred, value biases folded into `b_O`; the flags are explicit and part of a run's identity.
Checked against Hugging Face's own forward pass in tests/test_exact.py.
"""

import difflib
import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from annotate_transformer.ingest.errors import ModelError, SettingsError
from annotate_transformer.ingest.models.checkpoint import FAMILY, check_finite, explained, load, silenced

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

EMBEDDED = Path(__file__).parent.parent / "embedded"
EMBEDDED_MODEL = "neox-2m"
EMBEDDED_STEPS = {"step512": 512, "step1000": 1000, "step2000": 2000, "main": 6110}

PYTHIA_SIZES = ("14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
PYTHIA_STEPS = (0, *(2**i for i in range(10)), *range(1000, 144_000, 1000))
PYTHIA_LAST_STEP = 143_000
PYTHIA = tuple(f"pythia-{size}" for size in PYTHIA_SIZES) + tuple(
    f"pythia-{size}-deduped" for size in PYTHIA_SIZES[2:]
)
NAMES = (EMBEDDED_MODEL, *PYTHIA)

SHAPE = ("n_layers", "n_heads", "d_model", "d_head", "d_mlp", "d_vocab", "n_ctx", "parallel_residual")
PROCESSING = {
    "fold_ln": True,
    "center_writing_weights": True,
    "center_unembed": True,
    "fold_value_biases": True,
}


@dataclass(frozen=True)
class Source:
    """Where a model's files are: a local folder or a hub id, with its revision and training step.

    A folder has no revision: its name is whatever somebody called it, and says nothing of what is in it.
    """

    name: str
    path: str
    revision: str | None
    step: int | None

    @property
    def is_local(self) -> bool:
        return Path(self.path).is_dir()

    @property
    def revision_on_hub(self) -> str | None:
        return None if self.is_local else self.revision

    @property
    def tokenizer_path(self) -> str:
        """The embedded model's steps share one tokenizer, in the folder above them."""
        here = Path(self.path)
        shared = self.is_local and not (here / "tokenizer.json").exists()
        return str(here.parent) if shared else self.path


# What a forward pass is read at: for the decomposition, for the logit lens, for what feeds a neuron.
FINAL = ("ln_final.hook_in", "ln_final.hook_scale")
OF_LAYERS = ("mlp.hook_post", "attn.hook_z", "attn.hook_v", "attn.hook_pattern")
LENS = ("hook_resid_post",)
BEFORE_NEURONS = ("ln2.hook_in", "mlp.hook_pre", "mlp.hook_post", "attn.hook_z")
HOOKS = tuple(dict.fromkeys((*FINAL, *OF_LAYERS, *LENS, *BEFORE_NEURONS)))


@dataclass(frozen=True)
class Forward:
    """What one forward pass leaves for the decomposition; per-layer lists are n_layers long.

    final (batch, position, d_model): the residual stream before the final LayerNorm;
    scale (batch, position): σ, `ln_final.hook_scale`;
    post [(batch, position, d_mlp)]: activations, `mlp.hook_post`;
    z, v [(batch, position, head, d_head)]: without the value bias, which is folded into b_O;
    pattern [(batch, head, position, source)]: attention probabilities;
    resid_post [(batch, position, d_model)]: empty unless asked for (the logit lens).
    """

    final: Tensor
    scale: Tensor
    post: list[Tensor]
    z: list[Tensor]
    v: list[Tensor]
    pattern: list[Tensor]
    resid_post: list[Tensor]

    def forget(self, layer: int) -> None:
        """Give a layer's memory back, all but what the lens reads."""
        for values in (self.post, self.z, self.v, self.pattern):
            values[layer] = values[layer].new_empty(0)


@dataclass(frozen=True)
class NeuronForward:
    """What a forward pass leaves that ended at one layer's neurons.

    residual (batch, position, d_model): what the layer's MLP reads, before its LayerNorm;
    pre, post (batch, position, d_mlp): the layer's neurons before and after GELU;
    earlier_z [(batch, position, head, d_head)], earlier_post [(batch, position, d_mlp)]: of the layers
    that write into `residual`; z without the value bias, as in `Forward`.
    """

    residual: Tensor
    pre: Tensor
    post: Tensor
    earlier_z: list[Tensor]
    earlier_post: list[Tensor]


@dataclass(frozen=True)
class AblatedForward:
    """What a forward pass leaves in which a head may have written nothing.

    post (batch, position, d_mlp): of one layer; final (batch, position, d_model), scale (batch,
    position): as in `Forward`.
    """

    post: Tensor
    final: Tensor
    scale: Tensor


class _Enough(Exception):
    """A forward pass has come to the last hook that is wanted of it."""


class Model:
    """A GPT-NeoX model with processed weights: `W_E`, `W_U`, … as TransformerLens names them."""

    def __init__(self, source: Source, *, device: str = "cpu", dtype: torch.dtype = torch.float32):
        """Load `source`.

        Raises:
            ModelError: not found, not reachable, not GPT-NeoX, not whole (`ingest.models.checkpoint`).
        """
        self.source, self.device, self.dtype = source, device, dtype
        with explained(source):
            loaded = load(source, dtype)
            hf_model, self.tokenizer, self.config = loaded.model, loaded.tokenizer, loaded.config
            self.weights_sha256 = _sha256_of_weights(hf_model)
            self._keep_offset(hf_model)
            self.bridge = self._processed(hf_model)
            check_finite(source, self.bridge.named_parameters())
        self.fused = device == "cpu" and dtype == torch.float32  # compiled loops will do
        self.blocks: Any = self.bridge.original_model.base_model  # all but the unembedding
        cfg = self.bridge.cfg
        self.n_layers, self.n_heads, self.d_model = cfg.n_layers, cfg.n_heads, cfg.d_model
        self.d_head, self.d_mlp, self.n_ctx = cfg.d_head, int(cfg.d_mlp or 0), cfg.n_ctx
        self.d_vocab = self.W_U.shape[1]
        self.n_tokens = min(len(self.tokenizer), self.d_vocab)  # ids beyond are padding rows
        self.parallel_residual = bool(hf_model.config.use_parallel_residual)
        self._here = threading.local()
        self._hook()

    def _keep_offset(self, hf_model: Any) -> None:
        """The vocabulary mean of the raw logits is ⟨LN(x), mean W_U⟩: what centring W_U takes away."""
        W_U_mean, norm = _unembedding(hf_model).weight.mean(0), hf_model.gpt_neox.final_layer_norm
        self.offset_direction = (norm.weight * W_U_mean).detach().clone().to(self.device)
        self.offset_bias = float((norm.bias * W_U_mean).sum().detach())

    def _processed(self, hf_model: Any) -> "TransformerBridge":
        """The bridge of TransformerLens, with its weights processed."""
        from transformer_lens.model_bridge import TransformerBridge

        with silenced(), _Float64Kept():
            bridge = TransformerBridge.boot_transformers(
                FAMILY, hf_model=hf_model, tokenizer=self.tokenizer, device=self.device, dtype=self.dtype
            )
            bridge.enable_compatibility_mode(disable_warnings=True, **PROCESSING)
        return bridge

    @property
    def provenance(self) -> dict[str, Any]:
        """Its name, and what tells it from others: hash of the weights, settings, shape (base.model)."""
        return {
            "model": self.source.name,
            "revision": self.source.revision,
            "step": self.source.step,
            "weights_sha256": self.weights_sha256,
            "config": self.config,
            **{name: getattr(self, name) for name in SHAPE},
        }

    def _hook(self) -> None:
        """What passes a hook point is kept, or changed, for the thread whose forward pass it is of."""

        def keep_as(name: str, kind: str) -> Callable[..., Tensor | None]:
            def keep(tensor: Tensor, hook: Any) -> Tensor | None:  # a hook may know itself by an alias
                if kind in getattr(self._here, "wanted", ()):
                    self._here.seen[name] = tensor
                    if name == self._here.last:
                        raise _Enough
                ablated, head = getattr(self._here, "ablated", None) or ("", 0)
                return _without(tensor, head) if name == ablated else None

            return keep

        for kind in HOOKS:
            places = [kind] if kind.startswith("ln_final") else self._at_layers(kind)
            for name in places:
                self.bridge.add_hook(name, keep_as(name, kind), is_permanent=True)
        for block in self.bridge.blocks:
            # Here no query is masked from every key; to look for such takes a tenth of a forward pass.
            block.attn.compatibility_mode = False

    def _at_layers(self, kind: str) -> list[str]:
        return [f"blocks.{i}.{kind}" for i in range(self.n_layers)]

    @cached_property
    def W_E(self) -> Tensor:
        """(d_vocab, d_model)"""
        return self.bridge.W_E.detach()

    @cached_property
    def W_U(self) -> Tensor:
        """(d_model, d_vocab), centred over the vocabulary"""
        return self.bridge.W_U.detach()

    @cached_property
    def b_U(self) -> Tensor:
        """(d_vocab,), the final LayerNorm's bias through W_U, centred over the vocabulary"""
        return self.bridge.b_U.detach()

    @cached_property
    def W_Q(self) -> Tensor:
        """(layer, head, d_model, d_head), as W_K and W_V: LayerNorm folded in"""
        return self.bridge.W_Q.detach()

    @cached_property
    def W_K(self) -> Tensor:
        return self.bridge.W_K.detach()

    @cached_property
    def W_V(self) -> Tensor:
        return self.bridge.W_V.detach()

    @cached_property
    def b_Q(self) -> Tensor:
        """(layer, head, d_head), as b_K"""
        return self.bridge.b_Q.detach()

    @cached_property
    def b_K(self) -> Tensor:
        return self.bridge.b_K.detach()

    @cached_property
    def W_O(self) -> Tensor:
        """(layer, head, d_head, d_model)"""
        return self.bridge.W_O.detach()

    @cached_property
    def b_O(self) -> Tensor:
        """(layer, d_model), the folded value biases included"""
        return self.bridge.b_O.detach()

    @cached_property
    def W_in(self) -> Tensor:
        """(layer, d_model, d_mlp), the MLP's LayerNorm folded in"""
        return self.bridge.W_in.detach()

    @cached_property
    def b_in(self) -> Tensor:
        """(layer, d_mlp)"""
        return self.bridge.b_in.detach()

    @cached_property
    def W_out(self) -> Tensor:
        """(layer, d_mlp, d_model)"""
        return self.bridge.W_out.detach()

    @cached_property
    def b_out(self) -> Tensor:
        """(layer, d_model)"""
        return self.bridge.b_out.detach()

    def writing(self, layer: int) -> tuple[Tensor, Tensor]:
        """One layer's W_O and W_out as they lie in the model; those of all layers are copies."""
        block = self.bridge.blocks[layer]
        return block.attn.W_O.detach(), block.mlp.W_out.detach()

    @cached_property
    def bias_toward(self) -> Tensor:
        """(attn or mlp, layer, d_vocab): ⟨b_O, u⟩, ⟨b_out, u⟩ for each token's u (`attribution.decompose`)"""
        biases = torch.stack([self.b_O, self.b_out])
        toward = (biases - biases.mean(-1, keepdim=True)) @ self.W_U
        check_finite(self.source, [("⟨b_O, u⟩, ⟨b_out, u⟩", toward)])
        return toward

    def rotated(self, queries: Tensor, distance: int) -> Tensor:
        """Queries (…, d_head) as rotary embeddings turn them toward keys `distance` positions before.

        GPT-NeoX pairs the first half of the dimensions that it turns with the second (Su et al. 2021).
        """
        rotary = self.blocks.rotary_emb
        angle, scale = distance * rotary.inv_freq.to(queries), rotary.attention_scaling**2
        low, high, rest = queries.split([len(angle), len(angle), self.d_head - 2 * len(angle)], dim=-1)
        cos, sin = scale * angle.cos(), scale * angle.sin()
        return torch.cat([low * cos - high * sin, high * cos + low * sin, rest], dim=-1)

    @torch.inference_mode()
    def forward(self, tokens: Tensor, *, resid_post: bool = False) -> Forward:
        """Run the blocks over `tokens` (batch, position) and keep what the decomposition reads.

        Rows are padded on the right, so causal attention alone keeps padding out of every real
        position and no mask is needed. The unembedding is left to `ingest.attribution.unembed`, in slices.
        """
        seen = self._seen(tokens, (*FINAL, *OF_LAYERS, *(LENS if resid_post else ())))

        def layers(kind: str) -> list[Tensor]:
            return [seen[name] for name in self._at_layers(kind)]

        return Forward(
            final=seen["ln_final.hook_in"],
            scale=seen["ln_final.hook_scale"].squeeze(-1),
            post=layers("mlp.hook_post"),
            z=layers("attn.hook_z"),
            v=layers("attn.hook_v"),
            pattern=layers("attn.hook_pattern"),
            resid_post=layers("hook_resid_post") if resid_post else [],
        )

    @torch.inference_mode()
    def forward_to(self, layer: int, tokens: Tensor) -> NeuronForward:
        """Run the blocks over `tokens` (batch, position), padded on the right, up to a layer's neurons."""
        last = f"blocks.{layer}.mlp.hook_post"
        seen = self._seen(tokens, BEFORE_NEURONS, last)
        heads_of = range(layer if self.parallel_residual else layer + 1)
        return NeuronForward(
            residual=seen[f"blocks.{layer}.ln2.hook_in"],
            pre=seen[f"blocks.{layer}.mlp.hook_pre"],
            post=seen[last],
            earlier_z=[seen[f"blocks.{i}.attn.hook_z"] for i in heads_of],
            earlier_post=[seen[f"blocks.{i}.mlp.hook_post"] for i in range(layer)],
        )

    @torch.inference_mode()
    def forward_without(self, head: tuple[int, int] | None, layer: int, tokens: Tensor) -> AblatedForward:
        """Run the blocks over `tokens`, as `forward`, with `head` (layer, head) writing nothing.

        Its z is 0 everywhere. Value biases are folded into b_O, and that stays.
        """
        post, (final, scale) = f"blocks.{layer}.mlp.hook_post", FINAL
        self._here.ablated = head and (f"blocks.{head[0]}.attn.hook_z", head[1])
        try:
            seen = self._seen(tokens, ("mlp.hook_post", *FINAL))
        finally:
            self._here.ablated = None
        return AblatedForward(seen[post], seen[final], seen[scale].squeeze(-1))

    def _seen(self, tokens: Tensor, wanted: Iterable[str], last: str | None = None) -> dict[str, Tensor]:
        """What passes the wanted hook points, by their names; the pass ends at `last`."""
        here = self._here
        here.seen, here.wanted, here.last = {}, set(wanted), last
        with suppress(_Enough):
            self.blocks(tokens.to(self.device), use_cache=False)
        seen: dict[str, Tensor] = here.seen
        here.seen = {}
        return seen


def _without(z: Tensor, head: int) -> Tensor:
    """z (batch, position, head, d_head) with one head's at 0."""
    changed = z.clone()
    changed[:, :, head] = 0
    return changed


def resolve(name: str, revision: str | None = None) -> Source:
    """The files behind a short name (`neox-2m`, `pythia-70m`), a hub id or a local folder.

    Raises:
        ModelError: no such name or revision; the sentence lists the nearest ones.
    """
    if name == EMBEDDED_MODEL:
        return _embedded(revision)
    if name in PYTHIA:
        return _pythia(name, revision)
    if Path(name).is_dir():
        return _folder(name, revision)
    if "/" in name and not name.startswith((".", "/", "~")):
        return Source(name, name, revision or "main", _step(revision or ""))
    raise ModelError(
        f"There is no model named {name!r}.{_nearest(name, NAMES)} Give {EMBEDDED_MODEL}, a Pythia such as "
        "pythia-70m, a hub id such as EleutherAI/pythia-70m, or a folder made by save_pretrained."
    )


def _embedded(revision: str | None) -> Source:
    asked = revision or "main"
    asked = f"step{asked}" if asked.isdigit() else asked
    asked = "main" if asked == f"step{EMBEDDED_STEPS['main']}" else asked
    if asked not in EMBEDDED_STEPS:
        raise ModelError(
            f"{EMBEDDED_MODEL} has no revision {revision!r}: it has {', '.join(EMBEDDED_STEPS)}."
        )
    step = EMBEDDED_STEPS[asked]
    return Source(EMBEDDED_MODEL, str(EMBEDDED / EMBEDDED_MODEL / f"step{step}"), asked, step)


def _pythia(name: str, revision: str | None) -> Source:
    asked = revision or "main"
    asked = f"step{asked}" if asked.isdigit() else asked
    steps = {"main": PYTHIA_LAST_STEP} | {f"step{step}": step for step in PYTHIA_STEPS}
    if asked not in steps:
        raise ModelError(
            f"{name} has no revision {revision!r}.{_nearest(asked, steps)} "
            "Pythia was saved at steps 0, 1, 2, 4, … 512 and every 1000 up to 143000."
        )
    return Source(name, f"EleutherAI/{name}", asked, steps[asked])


def _folder(name: str, revision: str | None) -> Source:
    if revision is not None:
        raise ModelError(f"{name} is a folder and has no revisions: leave --revision {revision} out.")
    if not (Path(name) / "config.json").is_file():
        raise ModelError(f"{name} holds no model: config.json is missing. Save it with save_pretrained.")
    plain = os.path.normpath(name)  # m, ./m and m/ are one name
    name = f"./{plain}" if plain in NAMES else plain
    return Source(name, name, None, _step(Path(name).resolve().name))


def _step(text: str) -> int | None:
    digits = text.removeprefix("step")
    return int(digits) if text.startswith("step") and digits.isdigit() else None


def _nearest(name: str, names: Any) -> str:
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f" The nearest: {', '.join(close)}." if close else ""


def _unembedding(hf_model: Any) -> torch.nn.Linear:
    """`lm_head`, which older transformers call `embed_out`."""
    linear: torch.nn.Linear = hf_model.get_output_embeddings()
    return linear


def _sha256_of_weights(hf_model: Any) -> str:
    """Over every parameter as float32, by name: the same however the files are cut or packed."""
    digest = hashlib.sha256()
    for name, tensor in sorted(hf_model.named_parameters()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to(torch.float32).contiguous().numpy())
    return digest.hexdigest()


class _Float64Kept(TorchFunctionMode):
    """Let TransformerLens process float64 weights in float64.

    TransformerLens 4.3 casts the weights that it processes to float32 (`v.float()`). In this block, and in
    this thread alone, that cast leaves a float64 tensor as it is.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.float and args[0].dtype == torch.float64:
            return args[0]
        return func(*args, **(kwargs or {}))


def check_device(name: str) -> str:
    """`auto` is the GPU where there is one.

    Raises:
        SettingsError: torch knows no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=name).sum().item()
    except (RuntimeError, AssertionError) as error:  # NotImplementedError is a RuntimeError
        raise SettingsError(f"Device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return name


def check_dtype(name: str) -> torch.dtype:
    """
    Raises:
        SettingsError: half precision overflows in Pythia (|b_K| near 300), so only two are allowed.
    """
    if name not in ("float32", "float64"):
        raise SettingsError(f"--dtype {name} is not offered: float32 or float64 (half precision is inexact).")
    return {"float32": torch.float32, "float64": torch.float64}[name]
