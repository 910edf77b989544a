"""Define the settings of a run, their defaults and their limits."""

from dataclasses import dataclass, replace

from annotate_transformer.ingest.attribution.codes import STRONGEST
from annotate_transformer.ingest.attribution.selection import Keep
from annotate_transformer.ingest.corpus.tokens import Tokenizer
from annotate_transformer.ingest.corpus.windows import Windowing
from annotate_transformer.ingest.errors import SettingsError
from annotate_transformer.ingest.models.model import Model

DEFAULT_CONTEXT = 256
BATCH_VALUES = 25_000_000  # a batch has at most about this many activations and attention probabilities
# LISTS, SAMPLES: the defaults of `top` and `samples` (`Settings.with_sizes`): the number for every d_mlp
# positions of the run, the smallest number and the largest.
LISTS, SAMPLES = (4, 20, 100), (16, 200, 1000)
SHARD_ROWS = 2_000_000  # a shard has about this many rows of neurons, in memory until the commit
MOST_CONTEXT = 2**16  # maximum length of a window; the store has two bytes for the distance of two tokens
LEAST = {"limit_tokens": 1, "keep_neurons": 0, "keep_sources": 0, "top": 1, "samples": 0}
LEAST |= {"batch_tokens": 1, "shard_tokens": 1}
MOST = {"top": 2**16 - 1, "samples": 2**31 - 1}  # maxima of settings: larger values do not fit into the store


@dataclass(frozen=True)
class Settings:
    """The settings of a run; every setting except shard_tokens changes stored values.

    `context`: maximum number of tokens in a window (None: 256, or the model's limit if that is smaller);
    `stride`: number of new tokens in each further window (None: all tokens of the window are new);
    `parse_special`: read special tokens written out in a document as special tokens;
    `keep_neurons`, `keep_sources`: number of terms stored per position (None: all terms; most neurons are
    then stored in few bits, see `attribution.codes`);
    `top`: length of each top list (None: see `with_sizes`);
    `first_in_lists`: let a window's first position into lists;
    `special_in_lists`: let special tokens into lists, statistics and sample;
    `samples`: number of positions for which all activations are stored (None: see `with_sizes`);
    `batch_tokens`: maximum number of tokens in a forward pass (None: chosen to limit memory);
    `shard_tokens`: approximate number of positions in a transaction (None: chosen to limit memory).
    """

    context: int | None = None
    stride: int | None = None
    bos: bool = False
    parse_special: bool = False
    limit_tokens: int | None = None
    keep_neurons: int | None = 8
    keep_sources: int | None = 24
    top: int | None = None
    first_in_lists: bool = False
    special_in_lists: bool = False
    samples: int | None = None
    seed: int = 0
    lens: bool = False
    batch_tokens: int | None = None
    shard_tokens: int | None = None

    def check(self) -> None:
        """Check the settings as far as possible without a model.

        Raises:
            SettingsError: a value that no model allows, or that contradicts another option.
        """
        context = DEFAULT_CONTEXT if self.context is None else self.context
        if context < 2:
            raise SettingsError(f"--context {context} leaves nothing to predict. Give 2 or more.")
        if context > MOST_CONTEXT:
            raise SettingsError(
                f"--context {context} is more than the {MOST_CONTEXT:,} positions whose distances the store "
                f"can hold. Give {MOST_CONTEXT} or less."
            )
        new_tokens = context - (1 if self.bos else 0)
        if self.stride is not None and not 1 <= self.stride <= new_tokens:
            raise SettingsError(
                f"--stride {self.stride} must lie between 1 and {new_tokens}, a window's tokens."
            )
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= MOST.get(name, value):
                most = f" and {MOST[name]} or less" if name in MOST else ""
                raise SettingsError(f"--{name.replace('_', '-')} {value} must be {least} or more{most}.")

    def with_context(self, n_ctx: int, model: str) -> "Settings":
        """Return the settings with context and stride filled in, for a model that reads `n_ctx` positions.

        Raises:
            SettingsError: a value that the model does not allow, or that contradicts another option.
        """
        context = min(DEFAULT_CONTEXT, n_ctx) if self.context is None else self.context
        if context > n_ctx:
            raise SettingsError(
                f"--context {context} is more than the {n_ctx} positions that {model} can read. "
                f"Give {n_ctx} or less."
            )
        replace(self, context=context).check()
        return replace(self, context=context, stride=self.stride or context - (1 if self.bos else 0))

    def resolved(self, model: Model) -> "Settings":
        """Return the settings with all defaults filled in, after checking them against the model.

        `keep_sources` becomes None if it is at least the number of sources. `keep_neurons` never becomes
        None, because a number means that the kept neurons are stored as rows, even if all are kept.

        Raises:
            SettingsError: a value that the model or another option does not allow.
        """
        settings = self.with_context(model.n_ctx, model.checkpoint.name)
        assert settings.context
        return replace(
            settings,
            batch_tokens=self.batch_tokens or _batch_tokens(model, settings.context),
            keep_neurons=self.keep_neurons and min(self.keep_neurons, model.d_mlp),
            keep_sources=_fewer(self.keep_sources, model.n_layers * model.n_heads * settings.context),
        )

    def with_sizes(self, positions: int, model: Model) -> "Settings":
        """Return the settings with `top` and `samples` filled in, for a run of `positions` positions.

        By default a list has 4 entries for every d_mlp positions, at least 20 and at most 100, and the random
        sample has 16 positions for every d_mlp positions, at least 200 and at most 1,000. So above these
        minima the three lists of every neuron, and the sample's values, are each fewer than the run's rows
        of neurons, of which a position has some 17 in each layer; fixed sizes would outweigh a short text.
        """

        def size(asked: int | None, per_d_mlp: int, least: int, most: int) -> int:
            by_default = min(most, max(least, per_d_mlp * positions // model.d_mlp))
            return by_default if asked is None else asked

        return replace(self, top=size(self.top, *LISTS), samples=size(self.samples, *SAMPLES))

    @property
    def keep(self) -> Keep:
        """What is stored per position, such as the number of neurons and sources."""
        coded = self.keep_neurons is None
        neurons = STRONGEST if self.keep_neurons is None else self.keep_neurons
        return Keep(neurons, self.keep_sources, self.lens, coded)

    def windowing(self, tokenizer: Tokenizer) -> Windowing:
        """Return how documents are divided into windows; the settings must come from `resolved`."""
        assert self.context and self.stride, "resolved settings"
        return Windowing(self.context, self.stride, tokenizer.bos_id if self.bos else None)

    def positions_a_shard(self, model: Model) -> int:
        """Return the number of positions after which a shard is written."""
        return self.shard_tokens or _shard_tokens(model, self.keep)


def _fewer(kept: int | None, there_are: int) -> int | None:
    return None if kept is None or kept >= there_are else kept


def _batch_tokens(model: Model, context: int) -> int:
    """Return the number of tokens per batch: 512, or 256 for a large model on a CPU.

    For a large model, 256 tokens per batch are as fast and need half the memory.
    """
    values = model.n_layers * (model.d_mlp + model.n_heads * context)
    return 512 if 512 * values <= BATCH_VALUES or model.device != "cpu" else 256


def _shard_tokens(model: Model, keep: Keep) -> int:
    """Return a power of two; a shard with so many positions has about SHARD_ROWS rows of neurons."""
    kept = model.d_mlp if keep.neurons is None else min(model.d_mlp, 2 * keep.neurons + 1)
    kept += model.d_mlp // 19 if keep.coded else 0  # a row takes as much memory as the codes of 19 neurons
    tokens = SHARD_ROWS // (model.n_layers * kept)
    return int(min(65_536, max(1024, 2 ** (max(tokens, 1).bit_length() - 1))))
