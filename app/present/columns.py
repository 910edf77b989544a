"""Columns of all displayed tables: each has a heading with its unit, and a function that formats values.

The terminal (present/printed.py), the pages (browser/markup.py) and notebooks (`as_text`) show these columns.
A page refers to a column by its name to add a link or a colour.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from annotate_transformer.app.present.words import (
    Row,
    baseline_of,
    chance,
    closeness,
    component_name,
    explained_by,
    explanation_of,
    give_or_take,
    next_in_text,
    of_classes,
    one_line,
    p_value,
    ranged,
    score_or_why,
    signed,
    visible,
    yes_or_no,
)
from annotate_transformer.store.names import head_name, neuron_name, source_name, unit_name

RULES = 36  # maximum number of characters per line when an explanation is printed in a terminal
END = 24  # number of characters at the end of a prompt that are shown


@dataclass(frozen=True)
class Column:
    """A column of a table for display: its heading, and the function that formats its cells.

    heading: includes the unit of the numbers, if they have one
    name: the name of the frame's column that is shown, to which links and colours refer
    write: returns the text of a row's cell
    is_number: whether the cells are aligned right, and sorted by the frame's value
    is_token: whether the cells are tokens, with visible spaces and control characters
    width: number of characters after which a terminal wraps the text
    """

    heading: str
    name: str
    write: Callable[[Row], str]
    is_number: bool = False
    is_token: bool = False
    width: int | None = None


Columns = tuple[Column, ...]


# Kinds of columns ---------------------------------------------------------------------------------


def formatted(heading: str, name: str, write: Callable[[Any], str]) -> Column:
    """Return a column of numbers: `write` formats a number, and a missing number is shown as a dash."""
    return Column(heading, name, lambda row: "—" if pd.isna(row[name]) else write(row[name]), is_number=True)


def number(heading: str, name: str, digits: int = 3) -> Column:
    return formatted(heading, name, lambda value: f"{value:,.{digits}f}")


def signed_number(heading: str, name: str, digits: int = 3) -> Column:
    return formatted(heading, name, lambda value: signed(value, digits))


def count(heading: str, name: str) -> Column:
    return formatted(heading, name, lambda value: f"{int(value):,}")


def identifier(heading: str, name: str) -> Column:
    return formatted(heading, name, lambda value: str(int(value)))


def percent(heading: str, name: str) -> Column:
    return formatted(heading, name, lambda value: f"{value:.1%}")


def probability(heading: str, name: str) -> Column:
    """Return a column of probabilities, computed from the natural log-probabilities in the frame."""
    return formatted(heading, name, lambda value: chance(math.exp(value)))


def loss(heading: str, name: str) -> Column:
    """Return a column of losses, computed from the natural log-probabilities in the frame."""
    return formatted(heading, name, lambda value: f"{-value:.3f}")


def tiny(heading: str, name: str) -> Column:
    return formatted(heading, name, closeness)


def token(heading: str, name: str) -> Column:
    return Column(heading, name, lambda row: visible(row[name]), is_token=True)


def text(heading: str, name: str) -> Column:
    return Column(heading, name, lambda row: "—" if pd.isna(row[name]) else str(row[name]))


def words(heading: str, name: str, write: Callable[[Row], str]) -> Column:
    return Column(heading, name, write)


def a_head(heading: str = "head", of: str = "") -> Column:
    """Return a column of head names such as L3H2; `of` is the prefix of the columns `layer` and `head`."""
    return words(heading, f"{of}head", lambda row: head_name(int(row[f"{of}layer"]), int(row[f"{of}head"])))


def a_neuron() -> Column:
    return words("neuron", "neuron", lambda row: neuron_name(int(row["layer"]), int(row["neuron"])))


def with_interval(heading: str, name: str) -> Column:
    return words(f"{heading} (95 % interval)", name, lambda row: ranged(row, name))


def without(columns: Columns, *names: str) -> Columns:
    """Return the columns except those with the given names."""
    return tuple(column for column in columns if column.name not in names)


def as_text(frame: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """Return the frame as text for notebooks: each cell is formatted, each column has its display heading."""
    rows = frame.to_dict("records")
    shown = pd.DataFrame({column.heading: [column.write(row) for row in rows] for column in columns})
    shown.attrs = frame.attrs
    return shown


def as_facts(row: Row, columns: Columns) -> dict[str, str]:
    """Return one row as a dictionary from each column's heading to the formatted value."""
    return {column.heading: column.write(row) for column in columns}


# Text and tokens ----------------------------------------------------------------------------------

TOKENS = (token("token", "token"), count("occurrences", "occurrences"), identifier("token id", "token_id"))
EXAMPLES = (text("for example", "example"), text("as", "way"), text("finds", "what"))
PLACE = (identifier("position", "position_id"), token("next token", "next_token"))
OCCURRENCES = (*PLACE, loss("loss (nats)", "next_logprob"))
PHRASES = (identifier("first position", "first_position_id"), identifier("last position", "last_position_id"))

# Neurons and heads in a run -----------------------------------------------------------------------


def statistics(unit: str) -> Columns:
    """Return the columns for statistics of a neuron or head; `unit` is the unit of the values."""
    return (
        count("positions (n)", "count"),
        signed_number(f"mean ({unit})", "mean"),
        number(f"std ({unit})", "std"),
        signed_number(f"min ({unit})", "min"),
        signed_number(f"max ({unit})", "max"),
        percent("fraction positive", "fraction_positive"),
        signed_number("mean effect (logits)", "mean_effect", 4),
        number("mean |effect| (logits)", "mean_abs_effect", 4),
    )


STATISTICS = {"neuron": statistics("activation"), "head": statistics("logits")}


def mean_with_interval(heading: str, unit: str = "") -> Columns:
    """Return the columns for a mean over positions (`Store.mean`); `unit` is the mean's unit, or empty."""
    of = f" ({unit})" if unit else ""
    return (
        signed_number(f"{heading}{of}", "mean", 4),
        words(f"95 % interval{of}", "low", lambda row: _between(row["low"], row["high"], 4)),
        count("positions (n)", "positions"),
        count("documents (resampled)", "documents"),
    )


def means_by(group: str, heading: str, unit: str, *of: Column) -> Columns:
    """Return the columns of a table of means by groups of documents. `group`: heading of the groups."""
    return (
        text(group, group),
        *of,
        number(f"{heading} ({unit})", "mean"),
        words(f"95 % interval ({unit})", "low", lambda row: _from_to(row["low"], row["high"])),
        count("positions (n)", "positions"),
        count("documents (resampled)", "documents"),
    )


MEAN_EFFECT = mean_with_interval("mean effect", "logits")
MEAN_ACTIVATION = mean_with_interval("mean activation")
ATTENTION = (
    number("previous-token attention", "attention_previous", 2),
    number("self-attention", "attention_self", 2),
    number("first-token attention", "attention_first", 2),
    number("duplicate-token attention", "attention_duplicate", 2),
    number("induction attention", "attention_induction", 2),
    number("entropy (nats)", "entropy", 2),
)
STRONGEST_NEURONS = (
    a_neuron(),
    number("mean |effect| (logits)", "mean_abs_effect"),
    signed_number("mean effect (logits)", "mean_effect"),
    percent("fraction positive", "fraction_positive"),
    signed_number("max activation", "max", 2),
)
STRONGEST_HEADS = (
    a_head(),
    count("positions (n)", "count"),
    number("mean |effect| (logits)", "mean_abs_effect"),
    signed_number("mean effect (logits)", "mean_effect"),
    number("previous-token attention", "attention_previous", 2),
    number("first-token attention", "attention_first", 2),
    number("induction attention", "attention_induction", 2),
)
NEURON_CONTEXTS = (signed_number("activation", "activation"), *PLACE)
NEURON_SAMPLE = (identifier("fifth", "bin"), signed_number("activation", "value"), *PLACE)
HEAD_CONTEXTS = (
    signed_number("effect (logits)", "toward_next"),
    identifier("position", "position_id"),
    token("token", "token"),
    token("next token", "next_token"),
    number("attention", "top_source_attention", 2),
)
NEURON_TOKENS = (
    token("token", "token"),
    count("stored at (positions)", "kept"),
    count("occurrences", "occurrences"),
    number("fraction stored", "fraction_kept", 2),
    signed_number("mean stored activation", "mean_kept_activation"),
    signed_number("max activation", "max_activation"),
)
NEURON_EFFECTS = (
    token("next token", "next_token"),
    count("stored at (positions)", "kept"),
    signed_number("mean effect (logits)", "mean_kept_effect"),
    signed_number("total effect (logits)", "total_effect"),
)
HEAD_EFFECTS = (
    token("next token", "next_token"),
    count("positions (n)", "positions"),
    signed_number("mean effect (logits)", "mean_effect"),
    signed_number("total effect (logits)", "total_effect"),
)
HEAD_TOKENS = (
    token("token", "token"),
    count("positions (n)", "positions"),
    number("mean attention", "mean_attention", 2),
    signed_number("mean effect (logits)", "mean_effect"),
)
HEAD_DESTINATIONS = (*HEAD_TOKENS, signed_number("total effect (logits)", "total_effect"))
HEAD_DISTANCES = (
    identifier("distance (tokens)", "distance"),
    count("positions (n)", "positions"),
    number("fraction of positions", "share"),
    number("mean attention", "mean_attention", 2),
    signed_number("mean effect (logits)", "mean_effect"),
)
CORRELATED = (
    text("neuron or head", "name"),
    signed_number("Pearson's r", "correlation"),
    count("positions (n)", "positions"),
)

# Weights ------------------------------------------------------------------------------------------

MODELS = (text("model", "name"),)
NEURON_WEIGHTS = (
    token("next-token", "next_token"),
    signed_number("congruence (z)", "congruence_z", 1),
    signed_number("cosine(W_in, W_out)", "cosine", 2),
    signed_number("cosine (z)", "cosine_z", 1),
    number("‖W_in‖", "in_norm", 2),
    number("‖W_out‖", "out_norm", 2),
    signed_number("bias", "bias"),
)
GATE_WEIGHTS = (
    number("‖W_gate‖", "gate_norm", 2),
    signed_number("cosine(W_gate, W_out)", "gate_cosine", 2),
    signed_number("gate bias", "gate_bias"),
)
CONGRUENCE = signed_number("congruence (logits, σ = 1)", "congruence")
NEURON_VOCABULARY = (token("token", "token"), CONGRUENCE)
PROMOTED_AND_SUPPRESSED = (
    token("promotes", "token"),
    CONGRUENCE,
    token("suppresses", "token_suppressed"),
    signed_number("its congruence (logits, σ = 1)", "congruence_suppressed"),
)


def weights_of(neuron: Row) -> Columns:
    """Return the columns for a neuron's weights, including those of its gate if the MLP is gated."""
    return NEURON_WEIGHTS if pd.isna(neuron["gate_norm"]) else (*NEURON_WEIGHTS, *GATE_WEIGHTS)


NEURON_READS = (
    words("component", "component", source_name),
    signed_number("virtual weight", "weight"),
    signed_number("z", "z", 1),
)
NEXT_TOKEN_NEURONS = (
    a_neuron(),
    token("next-token", "token"),
    CONGRUENCE,
    signed_number("z", "congruence_z", 1),
)
ERASING_NEURONS = (
    a_neuron(),
    signed_number("cosine(W_in, W_out)", "cosine"),
    signed_number("z", "cosine_z", 1),
    signed_number("bias", "bias"),
)
SEEN_IN = {"corpus": "corpus", "random": "random tokens", "weights": "weights"}
BEHAVIOURS = {
    "induction": "induction",
    "previous": "previous-token",
    "duplicate": "duplicate-token",
    "first": "first-token",
    "self": "self",
}
BEHAVIOUR = (
    a_head(),
    *(
        number(f"{BEHAVIOURS[behaviour]}, {SEEN_IN[on]}", f"{on}_{behaviour}")
        for behaviour in ("induction", "previous", "duplicate")
        for on in SEEN_IN
    ),
    signed_number("copying", "copying", 2),
    signed_number("copying (z)", "copying_z", 1),
)
HEAD_BEHAVIOUR = (
    words("measured on", "seen_in", lambda row: SEEN_IN[row["seen_in"]]),
    *(number(words, name) for name, words in BEHAVIOURS.items()),
    number("entropy (nats)", "entropy", 2),
)
HEAD_WEIGHTS = (
    signed_number("copying (eigenvalues)", "copying", 2),
    signed_number("copying (z)", "copying_z", 1),
    number("median rank of the attended token", "copying_rank", 0),
    signed_number("matching (eigenvalues)", "matching", 2),
    signed_number("matching (z)", "matching_z", 1),
    count("random rotations (n)", "draws"),
    number("‖W_OV‖", "ov_norm", 2),
    number("‖W_QK‖", "qk_norm", 2),
)
COMPOSITION_SCORES = (
    number("score", "score"),
    number("score of rotated weights", "baseline"),
    signed_number("z", "z", 1),
    formatted("pairs by chance", "by_chance", lambda value: f"{value:.2g}"),
)
COMPOSITIONS = (a_head(), a_head("reads", "earlier_"), text("kind", "kind"), *COMPOSITION_SCORES)
HEAD_COMPOSITIONS = (text("this head", "how"), a_head(), text("kind", "kind"), *COMPOSITION_SCORES)
PREFERRED_DISTANCES = (identifier("distance (tokens)", "distance"), number("attention", "attention"))
HEAD_VOCABULARY = (
    token("attends to", "source_token"),
    words("promotes", "tokens", lambda row: " ".join(map(visible, row["tokens"]))),
    signed_number("effect of the first (logits, σ = 1)", "effect", 2),
)
HEAD_PAIRS = (
    token("destination", "destination_token"),
    token("source", "source_token"),
    number("attention", "attention"),
)
SKIP_TRIGRAMS = (
    token("source", "source_token"),
    token("… destination", "destination_token"),
    token("→ output", "output_token"),
    signed_number("strength (logits, σ = 1)", "strength", 2),
    number("attention", "attention"),
    count("occurrences in the run", "places"),
    signed_number("mean effect there (logits)", "mean_toward_next", 2),
)
DIRECT_PATH = (
    token("next token", "next_token"),
    count("rank by W_E W_U", "rank"),
    probability("probability by W_E W_U", "logprob"),
    count("rank in the run", "corpus_rank"),
    count("occurrences", "count"),
    number("fraction", "share"),
)
AGREEMENT = (
    signed_number("rank correlation", "rank_correlation"),
    signed_number("rank correlation, shuffled", "shuffled_rank_correlation"),
    number("divergence (nats)", "divergence"),
    number("divergence, shuffled (nats)", "shuffled_divergence"),
    number("overlap of the top 10", "overlap"),
    number("overlap, shuffled", "shuffled_overlap"),
)
BIGRAM_SUMMARY = (count("tokens", "tokens"), count("positions (n)", "positions"), *AGREEMENT)
BIGRAM_AGREEMENT = (token("token", "token"), count("occurrences", "count"), *AGREEMENT)
BIGRAM_DISTANCES = (
    count("min occurrences", "min_count"),
    count("max occurrences", "max_count"),
    count("bigrams (n)", "bigrams"),
    signed_number("cosine", "cosine"),
    number("std of the cosine", "cosine_std"),
    signed_number("inner product (logits)", "inner_product", 2),
)

# One position -------------------------------------------------------------------------------------

BOTH = (
    signed_number("effect on next (logits)", "toward_next"),
    signed_number("effect on top (logits)", "toward_top"),
)
PREDICTION = (
    words("next token", "next_token", next_in_text),
    probability("its probability", "next_logprob"),
    count("its rank", "next_rank"),
    loss("loss (nats)", "next_logprob"),
    token("top prediction", "top_token"),
    probability("top probability", "top_logprob"),
    number("entropy (nats)", "entropy"),
)
COMPONENTS = (words("component", "component", component_name), *BOTH)
BOTH_PROMPTS = (
    words("component", "component", component_name),
    signed_number("after the clean prompt (logits)", "clean"),
    signed_number("after the corrupted prompt (logits)", "corrupted"),
    signed_number("difference (logits)", "difference"),
)
POSITION_HEADS = (
    a_head(),
    *BOTH,
    identifier("attends to (position)", "top_source_position_id"),
    number("attention", "top_source_attention", 2),
    number("output norm", "output_norm", 2),
)
POSITION_NEURONS = (a_neuron(), signed_number("activation", "activation"), *BOTH)
POSITION_SOURCES = (
    a_head(),
    token("source", "source_token"),
    identifier("distance (tokens)", "distance"),
    number("attention", "attention", 2),
    *BOTH,
)
# SENDS_TITLE names the targets, because they stay the same if the user chooses another target for the
# position that is shown: the effects are always on the next token and the top prediction of a later position.
SENDS_TITLE = "Effects of this position on next tokens and top predictions of later positions"
SENDS = (
    a_head(),
    token("destination", "token"),
    identifier("distance (tokens)", "distance"),
    token("its next token", "next_token"),
    number("attention", "attention", 2),
    *BOTH,
)


LIKELIEST = (
    identifier("rank", "rank"),
    token("token", "token"),
    signed_number("centred logit (logits)", "logit"),
    formatted("probability", "probability", chance),
)


TOTAL_EFFECTS = (
    text("ablated", "units"),
    signed_number("direct effect (logits)", "direct_effect"),
    signed_number("total effect (logits)", "total_effect"),
    formatted("± standard error", "standard_error", lambda value: f"{value:.3f}"),
    signed_number("without ablation (logits)", "logit"),
    signed_number("with ablation (logits)", "ablated_logit"),
    formatted("probability", "logprob", lambda value: chance(math.exp(value))),
    formatted("ablated probability", "ablated_logprob", lambda value: chance(math.exp(value))),
    number("rank", "target_rank", 0),
    # With `--by resample` a rank is a mean over draws, so it may be a fraction.
    formatted("ablated rank", "ablated_rank", lambda rank: f"{rank:,.{0 if rank == int(rank) else 1}f}"),
    formatted("KL divergence (nats)", "kl", lambda value: f"{value:.3g}"),
)


STORED_EFFECTS = (
    token("logit of", "target_token"),
    token("minus logit of", "minus_token"),
    text("replaced by", "replaced_by"),
    identifier("only at position", "at_position_id"),
    *TOTAL_EFFECTS,
)


def total_effects(frame: pd.DataFrame) -> Columns:
    """Return the columns for total effects of ablations, without the columns that are empty in the frame."""
    return tuple(column for column in TOTAL_EFFECTS if frame[column.name].notna().any())


EFFECT_METHODS = {
    "ablation": "ablation (exact)",
    "attribution": "attribution patching (first-order estimate)",
}
UNIT_EFFECTS = (
    words("unit", "unit", lambda row: unit_name(row["kind"][0].upper(), row["layer"], row["unit"])),
    words("chosen", "is_random", lambda row: "at random" if row["is_random"] else "largest estimate"),
    signed_number("mean direct effect (logits)", "mean_direct"),
    signed_number("mean total effect (logits)", "mean_total"),
    words("95 % interval", "total_low", lambda row: _between(row["total_low"], row["total_high"])),
    signed_number("estimated by attribution patching", "estimate"),
    number("r, direct and total", "correlation", 2),
    percent("same sign", "same_sign"),
)


EFFECTS_OF_UNIT = (
    words("total effect by", "effect_method", lambda row: EFFECT_METHODS[row["effect_method"]]),
    text("replaced by", "replaced_by"),
    count("n (positions)", "positions"),
    count("documents", "documents"),
    signed_number("mean direct effect (logits)", "mean_direct"),
    signed_number("mean total effect (logits)", "mean_total"),
    words("95 % interval", "total_low", lambda row: _between(row["total_low"], row["total_high"])),
    number("r, direct and total", "correlation", 2),
    percent("same sign", "same_sign"),
    formatted("false discovery rate", "q", lambda value: f"{value:.2g}"),
)
ESTIMATES = (
    text("kind", "kind"),
    words("units", "is_random", lambda row: "drawn at random" if row["is_random"] else "largest estimates"),
    count("n", "units"),
    number("r, exact and estimated", "correlation", 3),
    percent("same sign", "same_sign"),
    number("mean |exact| (logits)", "exact", 4),
    number("mean |estimate| (logits)", "estimate", 4),
)


CONTRAST_ACCURACY = (
    text("group", "group_name"),
    count("documents (n)", "documents"),
    percent("answer preferred", "accuracy"),
    words("95 % interval", "accuracy_low", lambda row: _shares(row["accuracy_low"], row["accuracy_high"])),
    percent("answer is the top prediction", "answer_is_top"),
    signed_number("mean difference (logits)", "mean_difference"),
    formatted("± standard error (logits)", "standard_error", lambda value: f"{value:.3f}"),
)


def contrast_means(frame: pd.DataFrame) -> Columns:
    """Return the columns for mean effects; leave out the largest possible error if all errors are 0."""
    shown = (
        words("unit", "unit", unit_of_contrast),
        count("documents (n)", "documents"),
        signed_number("mean effect (logits)", "mean", 4),
        formatted("± standard error (logits)", "standard_error", lambda value: f"{value:.4f}"),
        words("95 % interval (logits)", "low", lambda row: _between(row["low"], row["high"])),
        formatted("false discovery rate", "q", lambda value: f"{value:.2g}"),
        number("largest possible error (logits)", "max_error", 4),
    )
    return shown if (frame.max_error > 0).any() else shown[:-1]


DISTINGUISHING = (
    text("unit", "name"),
    number("AUROC", "auroc"),
    formatted("Cohen's d", "cohens_d", lambda value: signed(value, 2)),
    signed_number("mean inside", "mean_in"),
    signed_number("mean outside", "mean_out"),
    count("n inside", "n_in"),
    count("n outside", "n_out"),
    formatted("p", "p", lambda value: f"{value:.2g}"),
    formatted("false discovery rate", "q", lambda value: f"{value:.2g}"),
)


def unit_of_contrast(row: Row) -> str:
    """Return the name of the component, head or neuron of a row of `Store.contrast_means`."""
    if row["component"] in ("head", "neuron"):
        return unit_name(row["component"][0].upper(), int(row["layer"]), int(row["unit"]))
    return component_name(row)


def _shares(low: float, high: float) -> str:
    return f"{low:.1%} to {high:.1%}"


def _between(low: Any, high: Any, digits: int = 3) -> str:
    return "—" if pd.isna(low) else f"{signed(low, digits)} to {signed(high, digits)}"


def _from_to(low: Any, high: Any) -> str:
    return "—" if pd.isna(low) else f"{low:.3f} to {high:.3f}"


def _side(side: str) -> Column:
    def write(row: Row) -> str:
        named = {"component": "component", "layer": "source_layer", "head": "source_head"}
        return source_name({name: row[f"{side}_{part}"] for part, name in named.items()})

    return words(side, f"{side}_component", write)


MOVED = (
    words("component at the source", "component", source_name),
    signed_number("direct effect through the head (logits)", "effect"),
)
SCORE = signed_number("share of the score", "value")
SCORE_PAIRS = (_side("query"), _side("key"), SCORE)
SCORE_QUERIES, SCORE_KEYS = (_side("query"), SCORE), (_side("key"), SCORE)
SCORE_SOURCES = (
    identifier("source (position)", "position_id"),
    token("token", "token"),
    signed_number("score", "score"),
    number("attention", "attention", 3),
)


PATCHES = (
    identifier("layer", "layer"),
    identifier("head", "head"),
    identifier("token", "place"),
    token("clean", "clean_token"),
    token("corrupted", "corrupted_token"),
    signed_number("with the patch (logits)", "logit"),
    formatted("recovered", "recovered", lambda value: f"{value:+.1%}"),
)


def patches(frame: pd.DataFrame) -> Columns:
    """Return the columns for results of activation patching that the frame contains."""
    return tuple(column for column in PATCHES if column.name in frame)


def toward_one(columns: Columns, frame: pd.DataFrame) -> Columns:
    """Replace the two columns for next token and top prediction by one: the effect on a chosen target."""
    there = tuple(column for column in columns if column.name in frame and column not in BOTH)
    return (*there, signed_number("direct effect (logits)", "effect"))


def neuron_inputs(value: str) -> Columns:
    """Return the columns for the terms that sum to `value`, a neuron's pre-activation or linear input."""
    return (words("component", "component", source_name), signed_number(f"share of the {value}", "value"))


INPUTS_STORED = (
    token("token", "token"),
    signed_number("activation", "activation"),
    words("largest input from", "strongest", lambda row: source_name(row["strongest"])),
    signed_number("share of the pre-activation", "value"),
)

FINDINGS = (text("name", "name"), text("page", "page"), text("note", "note"), text("kept on", "kept"))

# Runs ---------------------------------------------------------------------------------------------

RUNS = (
    identifier("run", "run_id"),
    text("model", "model"),
    text("revision", "revision"),
    count("tokens", "tokens"),
    text("status", "status"),
    count("special tokens excluded", "special_excluded"),
    tiny("max closure error (logits)", "worst_closure"),
    words("corpus", "corpus", lambda row: Path(str(row["corpus"])).name),
    formatted("finished (UTC)", "finished", lambda time: f"{time:%Y-%m-%d %H:%M}"),
)
TOTALS = (
    count("positions (n)", "positions"),
    count("special tokens excluded", "special_excluded"),
    count("documents", "documents"),
    number("loss (nats)", "loss"),
    words(
        "95 % interval of the loss (nats)",
        "loss_low",
        lambda row: _from_to(row["loss_low"], row["loss_high"]),
    ),
    percent("top prediction correct", "top1"),
    number("entropy (nats)", "entropy"),
    tiny("max closure error (logits)", "worst_closure"),
    tiny("difference from Hugging Face (nats)", "hf_difference"),
)


def compared_losses(run: int, other: int) -> Columns:
    """Return the columns that compare the loss of two runs over the tokens that both predicted."""
    return (
        number(f"loss in run {run} (nats)", "loss_a"),
        number(f"loss in run {other} (nats)", "loss_b"),
        signed_number("change (nats)", "change"),
        words(
            "95 % interval of the change (nats)", "change_low",
            lambda row: _between(row["change_low"], row["change_high"]),
        ),
        percent(f"tokens predicted better in run {other}", "better"),
        percent(f"top prediction correct in run {run}", "right_a"),
        percent(f"top prediction correct in run {other}", "right_b"),
        count("tokens compared (n)", "positions"),
        count("documents (resampled)", "change_documents"),
    )  # fmt: skip


def compared_statistics(run: int, other: int) -> Columns:
    """Return the columns of a table that compares a neuron or head in two runs, with one statistic per row.

    The name of each statistic includes its unit.
    """
    return (
        text("over all positions", "statistic"),
        number(f"run {run}", "a", 4),
        number(f"run {other}", "b", 4),
        signed_number("change", "change", 4),
    )


def compared_components(run: int, other: int) -> Columns:
    """Return the columns that compare the direct effects of components on one prediction in two runs."""
    return (
        words("component", "component", component_name),
        signed_number(f"effect in run {run} (logits)", "a"),
        signed_number(f"effect in run {other} (logits)", "b"),
        signed_number("change (logits)", "change"),
    )


def compared(what: str, run: int, other: int) -> Columns:
    """Return the columns for an answer of `Store.compare`; `what` is positions, neurons or heads."""
    if what == "positions":
        return (
            token("token", "token"),
            token("next token", "next_token"),
            number(f"loss in run {run} (nats)", "loss_a"),
            number(f"loss in run {other} (nats)", "loss_b"),
            signed_number("change (nats)", "loss_change"),
            token(f"top prediction of run {run}", "top_token_a"),
            token(f"top prediction of run {other}", "top_token_b"),
        )
    effects = (
        number(f"mean |effect| in run {run} (logits)", "mean_abs_effect_a"),
        number(f"mean |effect| in run {other} (logits)", "mean_abs_effect_b"),
        signed_number("change (logits)", "change"),
    )
    if what == "neurons":
        return (a_neuron(), *effects)
    return (
        a_head(),
        *effects,
        number(f"induction attention in run {run}", "induction_a", 2),
        number(f"induction attention in run {other}", "induction_b", 2),
    )


# Next-token neurons -------------------------------------------------------------------------------

HELD_OUT = words("held-out prompts (active + inactive)", "held_out", of_classes)
BALANCED_ACCURACY = with_interval("balanced accuracy", "balanced_accuracy")
LOOKED_UP = (
    token("next-token", "next_token"),
    a_neuron(),
    signed_number("congruence (logits, σ = 1)", "congruence", 2),
    count("relevant heads", "relevant_heads"),
    HELD_OUT,
    BALANCED_ACCURACY,
)
SCORES = (
    text("explained by", "explained_by"),
    words("neurons", "is_baseline", lambda row: "random sample" if row["is_baseline"] else "next-token"),
    count("heads (n)", "heads"),
    count("neurons (n)", "neurons"),
    HELD_OUT,
    BALANCED_ACCURACY,
    with_interval("F1", "f1"),
)
EXPLAINED = (
    words("balanced accuracy (95 % interval)", "balanced_accuracy", score_or_why),
    words("baseline (95 % interval)", "baseline", baseline_of),
    with_interval("difference from the baseline", "difference"),
    words("beats it", "beats_baseline", lambda row: yes_or_no(row["beats_baseline"])),
)
EXPLANATIONS = (
    a_head(of="source_"),
    words("explained by", "language_model", explained_by),
    words("active when", "text", explanation_of),
    HELD_OUT,
    *EXPLAINED,
    with_interval("precision", "precision"),
    with_interval("NPV", "npv"),
    with_interval("F1", "f1"),
)
EXPLANATIONS_OF_RUN = (
    a_neuron(),
    a_head(of="source_"),
    token("next-token", "next_token"),
    replace(words("the head is active", "text", explanation_of), width=RULES),
    HELD_OUT,
    *without(EXPLAINED, "baseline"),
    with_interval("F1", "f1"),
)
PROMPTS = (
    identifier("prompt", "prompt"),
    words("shortest context that activates it", "text", lambda row: str(row["text"])),
    signed_number("activation, prompt alone", "activation"),
    signed_number("activation, in its window", "window_activation"),
    count("windows", "windows"),
)
PROMPT_END = words("prompt", "prompt", lambda row: f"{row['prompt']} … {one_line(row['text'])[-END:]}")
HEAD_PROMPTS = (
    PROMPT_END,
    words("head is", "is_active", lambda row: "active" if row["is_active"] else "inactive"),
    words("held out", "is_held_out", lambda row: yes_or_no(row["is_held_out"])),
    signed_number("activation", "activation"),
    signed_number("activation, head ablated", "ablated_activation"),
    signed_number("decrease in activation", "activation_fall"),
    signed_number("decrease in probability", "probability_fall", 5),
)


def replication(model: str) -> Columns:
    """Return the columns that compare a replication's results with the reference values for `model`."""

    def reference(row: Row) -> str:
        claim = "—" if pd.isna(row["claim"]) else str(row["claim"])
        return claim if pd.isna(row["reference"]) else f"{row['reference']:.4g}"

    def interval(row: Row) -> str:
        return "—" if pd.isna(row["low"]) else f"{row['low']:.4g} to {row['high']:.4g}"

    return (
        text("quantity", "name"),
        text("unit", "unit"),
        words(f"reference, {model}", "reference", reference),
        formatted("ours", "value", lambda value: f"{value:.4g}"),
        formatted("difference", "difference", lambda value: f"{value:+.4f}"),
        words("95 % interval", "low", interval),
        count("n", "n"),
        text("samples", "of"),
    )


def falls(of: str, digits: int) -> Columns:
    """Return the columns that show how much `of`, an activation or probability, falls when a head is ablated.

    They are the mean decreases on prompts where the head is active and on the others, the Kolmogorov-Smirnov
    distance between the two samples, and its p-value.
    """

    def mean(kind: str) -> Column:
        heading = f"mean decrease in {of}, {kind} prompts (± half of the 95 % interval)"
        fall, margin = f"{of}_fall_{kind}", f"{of}_margin_{kind}"
        return words(heading, fall, lambda row: give_or_take(row[fall], row[margin], digits))

    distance = number(f"Kolmogorov-Smirnov distance in {of}", f"{of}_distance", 2)
    return (mean("active"), mean("inactive"), distance, formatted(f"p, {of}", f"{of}_p", p_value))


ABLATIONS = (
    a_head(of="source_"),
    count("active prompts (n)", "active_prompts"),
    count("inactive prompts (n)", "inactive_prompts"),
    *falls("activation", 3),
    *falls("probability", 5),
)


def statistic_with_unit(statistic: str) -> str:
    """Return the name of a statistic of the view `emergence` with its unit.

    >>> statistic_with_unit("loss"), statistic_with_unit("corpus_induction")
    ('loss (nats)', 'corpus_induction (mean attention)')
    """
    if statistic in ("mean_effect", "mean_abs_effect"):
        unit = "logits"
    elif statistic == "loss" or statistic.endswith(("_entropy", "_divergence")):
        unit = "nats"
    elif statistic == "congruence":
        unit = "logits, σ = 1"
    elif statistic.startswith(("corpus_", "random_")):
        unit = "mean attention"
    else:
        unit = "largest z" if statistic.startswith("composition_") else ""
    return f"{statistic} ({unit})" if unit else statistic


def emergence(frame: pd.DataFrame, statistic: str) -> Columns:
    """Return the columns of a statistic over training steps; `frame` is an answer of `Store.emergence`."""
    interval = words("95 % interval", "low", lambda row: _from_to(row["low"], row["high"]))
    promoted = (token("promotes most", "token"),) if frame.token.notna().any() else ()
    value = number(statistic_with_unit(statistic), "value", 4)
    shown = (count("step", "step"), identifier("run", "run_id"), value)
    return (
        *shown,
        *((interval,) if frame.low.notna().any() else ()),
        *((count("positions (n)", "count"),) if frame["count"].notna().any() else ()),
        *promoted,
    )


def emergence_changes(frame: pd.DataFrame, kind: str, statistic: str, steps: tuple[int, int]) -> Columns:
    """Return the columns of an answer of `Store.emergence_changes` between two steps."""
    first, second = steps
    shown = (
        text(kind, kind),
        number(f"{statistic_with_unit(statistic)} at step {first:,}", "value_a", 4),
        number(f"at step {second:,}", "value_b", 4),
        signed_number("change", "change", 4),
    )
    promoted = (
        token(f"promotes at step {first:,}", "token_a"),
        token(f"promotes at step {second:,}", "token_b"),
    )
    return (*shown, *(promoted if "token_a" in frame and frame.token_a.notna().any() else ()))


POSITION_AT_STEPS = (
    count("step", "step"),
    identifier("run", "run_id"),
    identifier("position", "position_id"),
    number("loss (nats)", "loss"),
    formatted("probability", "probability", chance),
    count("rank", "next_rank"),
    token("top prediction", "top_token"),
)
