"""Format tokens, numbers and scores as text, and write the sentences that accompany tables."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from annotate_transformer.store import names

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN, NaT or NA, without pandas, which takes long to import.

    A missing value differs from itself, and so does NA, whose comparison is NA.

    >>> [is_missing(value) for value in (None, float("nan"), 0.0, "", "nan")]
    [True, True, False, False, False]
    """
    return value is None or str(value != value) != "False"


def visible(token: Any) -> str:
    """Return a token with spaces, newlines and control characters replaced by visible symbols.

    >>> visible(" Ireland"), visible("\\n")
    ('·Ireland', '↵')
    """
    if is_missing(token):
        return "—"
    shown = str(token).replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in shown)


# PIECE matches the bytes of an incomplete character in a token's text, where each byte is written as \x80 to
# \xff.
PIECE = re.compile(r"(?:\\x[89a-f][0-9a-f])+")


def in_text(token: Any, characters: Any) -> str:
    """Return a token in visible form; if it is a part of a character, the whole character comes first.

    >>> in_text(" Ireland", " Ireland"), in_text("\\\\xce", "α"), in_text("\\\\xce", None)
    ('·Ireland', 'α‹\\\\xce›', '\\\\xce')
    """
    if is_missing(token) or is_missing(characters) or not characters or not PIECE.search(str(token)):
        return visible(token)
    return visible(token) if token == characters else f"{visible(characters)}‹{visible(token)}›"


def next_in_text(row: Row, prefix: str = "") -> str:
    """Return a row's visible next token; if it is a part of a character, the whole character comes first."""
    names = ("next_token", f"{prefix}text", f"{prefix}after")
    token, text, after = (row.get(name) for name in names)  # type: Any, Any, Any
    if is_missing(token) or is_missing(text) or is_missing(after) or not (piece := PIECE.search(str(token))):
        return visible(token)
    # A token that starts with a UTF-8 byte from 0x80 to 0xbf continues a character of the token before it.
    goes_on = piece.start() == 0 and str(token)[2] in "89ab"
    size = len(PIECE.sub("?", str(token)))
    return in_text(token, text[-1:] + after[: size - 1] if goes_on else after[:size])


def counted(number: int, thing: str) -> str:
    """Return a number with its noun, which is in the plural unless the number is 1.

    >>> counted(1, "bad row"), counted(2000, "token")
    ('1 bad row', '2,000 tokens')
    """
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def one_line(text: str | None) -> str:
    """Return a text on one line, without line breaks, tabs and control characters."""
    shown = " ".join((text or "").split("\n")).replace("\t", " ").replace("\r", " ")
    return "".join(c if c.isprintable() else "·" for c in shown)


def signed(value: float | None, digits: int = 3) -> str:
    """Return a number with its sign, or a dash if the number is missing."""
    return "—" if is_missing(value) else f"{value:+.{digits}f}"


def closeness(error: float) -> str:
    """Return the absolute value of a closure error as text, with one significant digit.

    >>> closeness(-2.4e-6), closeness(0.0)
    ('2e-06', '0')
    """
    return f"{abs(error):.0e}" if error else "0"


def chance(probability: float) -> str:
    """Return a probability as text: with three decimals, or in scientific notation if it is below 0.001.

    >>> chance(0.0604), chance(0.00012)
    ('0.060', '1.20e-04')
    """
    return f"{probability:.3f}" if probability >= 0.001 else f"{probability:.2e}"


def ranged(row: Row, name: str) -> str:
    """Return a score as text, followed by its confidence interval or by the words `no interval`.

    >>> ranged({"f1": 0.75, "f1_low": 0.412, "f1_high": 1.0}, "f1")
    '0.750 (0.41 to 1.00)'
    """
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if is_missing(value):
        return "—"
    interval = "no interval" if is_missing(low) else f"{low:.2f} to {high:.2f}"
    return f"{value:.3f} ({interval})"


def give_or_take(value: float, margin: float, digits: int = 3) -> str:
    """Return a mean as text, followed by ± and half its interval's width, or a dash if it has no interval.

    >>> give_or_take(0.61234, 0.2), give_or_take(0.61234, float("nan"))
    ('+0.612 ± 0.200', '+0.612 ± —')
    """
    return f"{signed(value, digits)} ± {'—' if is_missing(margin) else f'{margin:.{digits}f}'}"


def p_value(value: float) -> str:
    """Return a p-value as text with three decimals, or `< 0.001`.

    >>> p_value(0.02857), p_value(0.00005)
    ('0.029', '< 0.001')
    """
    if is_missing(value):
        return "—"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def of_classes(row: Row) -> str:
    """Return a score's numbers of held-out prompts, such as `5 + 7`: 5 with the head active, 7 inactive."""
    counts = row["active_prompts"], row["inactive_prompts"]
    return "—" if any(map(is_missing, counts)) else " + ".join(str(int(count)) for count in counts)


def yes_or_no(value: Any) -> str:
    """Return yes or no for a truth value, or a dash if the value is missing.

    >>> yes_or_no(True), yes_or_no(None)
    ('yes', '—')
    """
    return "—" if is_missing(value) else "yes" if value else "no"


def architecture(row: Row) -> str:
    """Describe a model's architecture (family, norm, position embedding, …) from its row of `models`.

    >>> gpt2 = {"family": "gpt2", "norm": "LayerNorm", "activation": "GELU_NEW", "is_gated": False}
    >>> gpt2 |= {"position_embedding": "learned", "n_heads": 12, "n_kv_heads": 12}
    >>> architecture(gpt2 | {"has_post_norms": False, "logit_cap": None})
    'gpt2: LayerNorm, learned position embeddings, GELU_NEW'
    """
    heads, shared, order = row["n_heads"], row["n_kv_heads"], row["position_embedding"]
    found = [
        f"{row['norm']}{' (also after each sublayer)' if row['has_post_norms'] else ''}",
        order if order == "ALiBi" else f"{order} position embeddings",
        f"{heads} heads with {counted(shared, 'key-value head')}" if shared != heads else "",
        f"{row['activation']}{' with a gate' if row['is_gated'] else ''}",
        "" if is_missing(row["logit_cap"]) else f"logits capped at ±{row['logit_cap']:g}",
    ]
    return f"{row['family']}: {', '.join(filter(None, found))}"


def before_cap(cap: Any) -> str:
    """Return a sentence that describes a model's soft-cap of the logits, or an empty text without a soft-cap.

    >>> before_cap(30.0)
    'The model caps its logits at ±30: the terms sum to the logit before the cap, probabilities come after.'
    """
    if is_missing(cap):
        return ""
    return (
        f"The model caps its logits at ±{cap:g}: the terms sum to the logit before the cap, probabilities "
        "come after."
    )


def component_name(row: Row) -> str:
    """Return the name of a row's component, such as L3mlp or embed."""
    return names.component_name(str(row["component"]), None if is_missing(row["layer"]) else row["layer"])


# Explanations: rows of `Store.explanations` -------------------------------------------------------


def explained_by(row: Row) -> str:
    """Return the name of the language model that wrote the explanation, or `rules` if rules made it."""
    return "rules" if is_missing(row["language_model"]) else str(row["language_model"])


def explanation_of(row: Row) -> str:
    """Return the explanation on one line, or the reason why there is no explanation."""
    return one_line(f"none: {row['why_none']}" if is_missing(row["text"]) else str(row["text"]))


def score_or_why(row: Row) -> str:
    """Return the balanced accuracy with its interval or why it is missing; a dash if nothing is explained."""
    unscored = is_missing(row["balanced_accuracy"]) and not is_missing(row["text"])
    return "none: no answer for a class" if unscored else ranged(row, "balanced_accuracy")


def baseline_of(row: Row) -> str:
    """Return the baseline neurons' mean score with its interval, and the numbers of heads and neurons."""
    if is_missing(row["baseline"]):
        return "—"
    heads = counted(int(row["baseline_heads"]), "head")
    neurons = counted(int(row["baseline_neurons"]), "neuron")
    return f"{ranged(row, 'baseline')} over {heads} of {neurons}"


# Sentences beside tables --------------------------------------------------------------------------


def beside_rotated(compositions: "pd.DataFrame") -> str:
    """Return a sentence about the randomly rotated weights with which head compositions are compared."""
    if compositions.empty:
        return "A model of one layer has no composition of heads."
    n = f"n = {compositions.pairs.iloc[0]:,} pairs and kinds"
    return (
        "The baseline is randomly rotated weights. The column `pairs by chance` has the expected number of "
        f"pairs with a |z| this large or larger in rotated weights, out of {n}."
    )


def correlated(companions: "pd.DataFrame") -> str:
    """Return a sentence that says how large |r| becomes by chance, to show with a table of correlations."""
    if companions.empty:
        return "No other neuron or head varies over the sample, or the run is not finished."
    random = companions.iloc[0]
    return (
        f"By chance, |r| reaches {random.largest_permuted:.2f}: the largest of {random.permutations} "
        f"permutations of this unit's values, with {random.candidates:,} other units."
    )


SHOWN_ROUNDED = 0.0005  # numbers are shown with three decimals, so they are rounded by at most this much


def status(attrs: Mapping[str, Any]) -> str:
    """Return an answer's status in a few words: `exact` if it is exact, and the label of each of its notes.

    >>> status({"exact": True}), status({"exact": True, "complete": False, "note": "truncated: 5 of 9"})
    ('exact', 'exact, truncated')
    """
    kinds = [note.partition(":")[0] for note in str(attrs.get("note", "")).split("; ") if ": " in note]
    return ", ".join((["exact"] if attrs.get("exact", True) else []) + kinds)


def limits(attrs: Mapping[str, Any]) -> str:
    """Return the reasons why an answer is not exact or complete, with its bounds and rounding errors."""
    known = {name.replace("_", " "): value for name, value in attrs.get("bound", {}).items()}
    bounds = ", ".join(f"{name} {value:.3g}" for name, value in known.items() if value is not None)
    told = [f"{attrs['note']}{f' ({bounds})' if bounds else ''}"] if attrs.get("note") else []
    rounded = {name: error for name, error in attrs.get("rounded", {}).items() if error > SHOWN_ROUNDED}
    if rounded:
        told.append("rounded: " + ", ".join(f"{name} ±{error:.3g}" for name, error in rounded.items()))
    return "; ".join(told)


def rise_in_words(rise: Row) -> str:
    """Return a sentence about an entry of `Store.rise`: where a curve has changed by half."""
    way = "risen" if rise["extreme"] > rise["first"] else "fallen"
    told = (
        f"It has {way} by half, from {rise['first']:.4g} to {rise['half']:.4g}, after step "
        f"{rise['after']:,.0f} and by step {rise['until']:,.0f}: at step {rise['step']:,.0f}, if the curve "
        "is a straight line over log(1 + step) between annotated steps"
    )
    if is_missing(rise["documents"]):
        return f"{told}; no interval, because this statistic is not a mean over stored rows."
    interval = f"95 % interval {rise['low']:,.0f} to {rise['high']:,.0f}"
    return f"{told} ({interval}, from resampling {rise['documents']:,.0f} documents)."


def filled(bins: "pd.DataFrame") -> "pd.DataFrame":
    """Drop empty bins at both ends of a histogram; name the range of each other bin in the column `range`."""
    used = bins.index[bins.positions > 0]
    shown = bins.loc[used.min() : used.max()] if len(used) else bins.head(0)
    edges = zip(shown.low, shown.high, strict=True)
    return shown.assign(range=[f"{_edge(low, '−∞')} … {_edge(high, '∞')}" for low, high in edges])


def _edge(value: float, otherwise: str) -> str:
    return otherwise if is_missing(value) else f"{value:.3g}".replace("-", "−")
