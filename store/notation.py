"""Show a prediction as an expression: a sum of terms that equals the logit. A term can be expanded further.

>>> import annotate_transformer as at
>>> expression = at.open("demo.duckdb").expression(1234)  # doctest: +SKIP
>>> print(expression.expand("L3H2").drop_below(0.1))  # doctest: +SKIP

The decomposition is that of Elhage et al. (2021), "A Mathematical Framework for Transformer Circuits", with
the scale σ of the final norm frozen (docs/concepts.md). The symbols are those of the paper; names and
indices [layer, head or neuron] are TransformerLens's, as are the processed weights (norms folded, W_U
centred). u is W_U[:, t], the column of the token t whose logit is decomposed; p is the position, and q is a
position to which p attends.

    term          text                                            meaning
    embedding     ⟨x[0], u⟩                                       the residual stream before the first layer
    embedding     ⟨W_E[s], u⟩                                     the same with position embeddings; s: token
    position      ⟨W_pos[p], u⟩                                   learned position embedding, if there is one
    layer         ⟨x[l+1] - x[l], u⟩                              the output of layer l: attention and MLP
    attention     ⟨attn[l], u⟩                                    the layer's heads and b_O
    head          ⟨z[l,h] W_O[l,h], u⟩                            the head's sources
    source        A[l,h,p,q]⟨v[l,h,q] W_O[l,h], u⟩                the term of a head from one position
    other sources Σ A[l,h,p,q]⟨v[l,h,q] W_O[l,h], u⟩              the sources that are not stored
    b_O           ⟨b_O[l], u⟩                                     attention bias, value biases folded in
    MLP           ⟨mlp[l], u⟩                                     the layer's neurons and b_out
    neuron        a[l,n]⟨W_out[l,n], u⟩                           a: activation (hook_post)
    other neurons Σ a[l,n]⟨W_out[l,n], u⟩                         the neurons that are not stored
    b_out         ⟨b_out[l], u⟩                                   MLP bias
    b_U           b_U[t]                                          not divided by σ
    remainder     r                                               the terms that `drop_below` combined

In a model with norms after attention and MLP (Gemma 2 and 3), the terms of heads, sources, neurons and
biases are divided by the frozen scale of such a norm, as in ⟨z[l,h] W_O[l,h], u⟩/σ_attn[l]; W_O and W_out
include the norm's weight. In a gated MLP, a is act(x W_gate) · (x W_in). If the model caps its logits, the
logit here is the one before the cap, and the equation is followed by the formula of the probabilities.

All terms but the last two are inside (1/σ)[…]. Every value is a direct effect in logits, the factor 1/σ
included. The values sum to the centred logit up to the stored closure error (sum of the terms minus the
logit) and the rounding to float32, whichever terms were expanded or combined; both errors are within
closure_bound of schema.sql. A remainder is followed by the number of its terms and an upper bound of the
terms' absolute values, as in "498 within ±1.38". The bound is mlp_remainder_abs for neurons and
positions.source_bound for sources. For terms that `drop_below` combined, the bound is the sum of the terms'
absolute values; a term with a larger bound of its own counts with that bound.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from string import Template
from typing import Any, NamedTuple

import pandas as pd
from rich.cells import cell_len

from annotate_transformer.store import display
from annotate_transformer.store.errors import BadQuestion, NoSuchUnit, one_of
from annotate_transformer.store.names import head_name, neuron_name, parse_part, part_name
from annotate_transformer.store.question import Question, describe
from annotate_transformer.store.session import Session

WIDTH = 80  # maximum number of characters on a line of the written decomposition
LONGEST = 32  # maximum number of characters of a token in a label
TOWARD = ("next", "top")
# PATHS maps each kind of term that can be expanded to the kinds of the terms that lead to it, from the
# outermost to the kind itself. For example, a head is reached through its layer and the layer's attention.
PATHS = {
    "layer": ("layer",),
    "attn": ("layer", "attn"),
    "mlp": ("layer", "mlp"),
    "head": ("layer", "attn", "head"),
}
# SYMBOLS maps a kind of term to its formula, as text and as LaTeX. In a formula, $i stands for the layer and
# index of the component, and $q for the source position.
SYMBOLS = {
    "embed": ("⟨x[0], u⟩", r"\langle x_0, u\rangle"),
    # If a model has learned position embeddings, `token_embed` and `pos_embed` are used instead of `embed`.
    "token_embed": ("⟨W_E[s], u⟩", r"\langle W_E^s, u\rangle"),
    "pos_embed": ("⟨W_pos[p], u⟩", r"\langle W_{\mathrm{pos}}^p, u\rangle"),
    "layer": ("⟨x[$next] - x[$i], u⟩", r"\langle x_{$next} - x_{$i}, u\rangle"),
    "attn": ("⟨attn[$i], u⟩", r"\langle \mathrm{attn}_{$i}, u\rangle"),
    "head": ("⟨z[$i] W_O[$i], u⟩", r"\langle z^{$i} W_O^{$i}, u\rangle"),
    "source": ("A[$i,p,$q]⟨v[$i,$q] W_O[$i], u⟩", r"A^{$i}_{p,$q} \langle v^{$i}_{$q} W_O^{$i}, u\rangle"),
    "source_remainder": (
        "Σ A[$i,p,q]⟨v[$i,q] W_O[$i], u⟩",
        r"\textstyle\sum_q A^{$i}_{p,q} \langle v^{$i}_q W_O^{$i}, u\rangle",
    ),
    "attn_bias": ("⟨b_O[$i], u⟩", r"\langle b_O^{$i}, u\rangle"),
    "mlp": ("⟨mlp[$i], u⟩", r"\langle \mathrm{mlp}_{$i}, u\rangle"),
    "neuron": ("a[$i]⟨W_out[$i], u⟩", r"a_{$i} \langle W_{\mathrm{out}}^{$i}, u\rangle"),
    "mlp_remainder": (
        "Σ a[$i,n]⟨W_out[$i,n], u⟩",
        r"\textstyle\sum_n a_{$i,n} \langle W_{\mathrm{out}}^{$i,n}, u\rangle",
    ),
    "mlp_bias": ("⟨b_out[$i], u⟩", r"\langle b_{\mathrm{out}}^{$i}, u\rangle"),
    "final_bias": ("b_U[t]", "b_U[t]"),
    "gathered": ("r", "r"),
}
# POST_SCALES: in some models a norm rescales the output of attention or of the MLP. For each kind of term in
# such an output, POST_SCALES has the division by the scale of this norm, as text and as LaTeX.
POST_SCALES = {
    **dict.fromkeys(
        ("head", "source", "source_remainder", "attn_bias"),
        ("/σ_attn[$layer]", r"/\sigma^{\mathrm{attn}}_{$layer}"),
    ),
    **dict.fromkeys(
        ("neuron", "mlp_remainder", "mlp_bias"),
        ("/σ_mlp[$layer]", r"/\sigma^{\mathrm{mlp}}_{$layer}"),
    ),
}
# UNSCALED: the kinds of terms that are written outside the brackets of (1/σ)[…].
UNSCALED = ("final_bias", "gathered")
# LEADS has the strings that are written before a term, as text and as LaTeX. The key says where the term is:
# `open` for the first term in the brackets of (1/σ)[…], `plus` for a further term, `close` for the first term
# after the brackets, `alone` for the first term if there are no brackets, `equals` for the sum.
LEADS = {
    "open": ("(1/σ) [ ", r"\frac{1}{\sigma}\Big["),
    "plus": ("      + ", "+ "),
    "close": ("    ] + ", r"\Big] + "),
    "alone": ("        ", ""),
    "equals": ("      = ", "={}"),
}
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "{}$&#%_"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
)


@dataclass(frozen=True)
class Architecture:
    """The properties of a model that change its terms' formulas; they are columns of the view `models`.

    gate: activation function of a gated MLP, else None; logit_cap: soft-cap of the logits, or None
    """

    has_position_embedding: bool = False
    has_post_norms: bool = False
    gate: str | None = None
    logit_cap: float | None = None

    @staticmethod
    def of(model: "pd.Series[Any]") -> "Architecture":
        return Architecture(
            str(model.position_embedding) == "learned",
            bool(model.has_post_norms),
            str(model.activation) if model.is_gated else None,
            None if pd.isna(model.logit_cap) else float(model.logit_cap),
        )

    def symbol(self, component: str) -> tuple[str, str]:
        """Return a component's formula as text and as LaTeX, with placeholders such as $i for indices."""
        named = "token_embed" if component == "embed" and self.has_position_embedding else component
        after = POST_SCALES.get(component, ("", "")) if self.has_post_norms else ("", "")
        text, latex = SYMBOLS[named]
        return text + after[0], latex + after[1]

    def definitions(self, components: set[str], offset: float) -> list[tuple[str, str]]:
        """Return definitions of model-specific symbols in the formulas of `components`, as text and LaTeX.

        offset: the mean logit at the position
        """
        found, gate = [], escaped(self.gate or "")
        if self.has_post_norms and components & {*POST_SCALES}:
            found.append(
                (
                    "σ_attn, σ_mlp: frozen scales of the norms after attention and MLP",
                    r"\sigma^{\mathrm{attn}}, \sigma^{\mathrm{mlp}}\text{: frozen scales of the norms after "
                    r"attention and MLP}",
                )
            )
        if self.gate and components & {"neuron", "mlp_remainder"}:
            found.append(
                (
                    f"a = {self.gate}(x W_gate) · (x W_in), x: the normalised input of the MLP",
                    rf"a = \mathrm{{{gate}}}(x W_{{\mathrm{{gate}}}}) \cdot (x W_{{\mathrm{{in}}}})",
                )
            )
        if self.logit_cap is not None:
            c, m = f"{self.logit_cap:g}", f"{offset:+.4g}"
            capped = rf"\text{{softmax of }} {c} \tanh((\mathrm{{logit}} + m) / {c}), m = {m}"
            found.append(
                (
                    f"probabilities: softmax of {c} tanh((logit + m)/{c}), m = {m}, the mean logit",
                    rf"\text{{probabilities: }} {capped}\text{{, the mean logit}}",
                )
            )
        return found


@dataclass(frozen=True)
class Term:
    """One term of the sum that gives a logit; fields that do not apply to this kind of term are None.

    value: direct effect, in logits
    distance: number of tokens from a head's source to the position; source_token: the token at the source
    activation: activation of a neuron; attention: attention probability of a source
    count: number of terms in a remainder; bound: upper bound of their absolute values, in logits
    terms: the terms that `drop_below` combined into this remainder
    architecture: the model's properties on which the formula depends

    >>> Term("head", 1.5, layer=3, head=2).symbol
    '⟨z[3,2] W_O[3,2], u⟩'
    """

    component: str
    value: float
    layer: int | None = None
    head: int | None = None
    neuron: int | None = None
    source_position_id: int | None = None
    distance: int | None = None
    source_token: str | None = None
    attention: float | None = None
    activation: float | None = None
    count: int | None = None
    bound: float | None = None
    terms: tuple["Term", ...] = ()
    architecture: Architecture = field(default=Architecture(), repr=False, compare=False)

    @property
    def symbol(self) -> str:
        """The term's formula as text."""
        return self._indexed(self.architecture.symbol(self.component)[0])

    @property
    def latex(self) -> str:
        """The term's formula as LaTeX, for math mode."""
        return self._indexed(self.architecture.symbol(self.component)[1])

    def _indexed(self, symbol: str) -> str:
        indices = (index for index in (self.layer, self.head, self.neuron) if index is not None)
        q = f"p-{self.distance}" if self.distance else "p"
        layer = self.layer or 0
        return Template(symbol).substitute(i=",".join(map(str, indices)), layer=layer, next=layer + 1, q=q)

    @property
    def name(self) -> str:
        """The term's name. Names of layers, attention, MLPs and heads can be given to `Expression.expand`.

        >>> Term("attn", 0.2, layer=3).name, Term("neuron", 0.1, layer=3, neuron=7).name
        ('L3attn', 'L3N7')
        """
        layer, head = self.layer or 0, self.head or 0
        if self.component in PATHS:
            return part_name(self.component, layer, head)
        names = {
            "embed": "embedding",
            "pos_embed": "position embedding",
            "source": f"{head_name(layer, head)} from p-{self.distance}".removesuffix("-0"),
            "source_remainder": f"{head_name(layer, head)} other sources",
            "attn_bias": part_name("attn_bias", layer),
            "neuron": neuron_name(layer, self.neuron or 0),
            "mlp_remainder": f"L{layer} other neurons",
            "mlp_bias": part_name("mlp_bias", layer),
            "final_bias": "bias",
            "gathered": "remainder",
        }
        return names[self.component]

    @property
    def note(self) -> str:
        """A note on the term, such as the attention to a source or the upper bound of a remainder.

        >>> Term("source", 0.2, source_token=" Dublin", attention=0.31).note
        'attention 0.31 to " Dublin"'
        >>> Term("mlp_remainder", 0.2, count=500, bound=1.25).note
        '500 within ±1.25'
        """
        if self.component == "source":
            return f"attention {self.attention:.2f} to {quoted(self.source_token or '')}"
        if self.component == "neuron":
            return f"activation {self.activation:.3f}"
        if self.bound is None:
            return ""
        if not self.count:
            return "rounding of the stored terms"
        return f"{self.count:,} within ±{self.bound:.3g}"


def gathered(terms: list[Term]) -> Term:
    """Combine terms into a single term, the remainder.

    The remainder's value is the sum of the terms' values. Its bound is the sum of the terms' absolute values;
    a term with a larger bound of its own counts with that bound.
    """
    largest = (max(abs(term.value), term.bound or 0) for term in terms)
    return Term(
        "gathered",
        math.fsum(term.value for term in terms),
        count=len(terms),
        bound=math.fsum(largest),
        terms=tuple(terms),
    )


class Logit(ABC):
    """A logit or difference of logits to decompose; the method `terms_of` returns its terms.

    toward: what the terms are directed at;
    label, latex: the left side of the equation, as in logit(" Dublin");
    formula: the direction u in the model's weights; whole: the logit itself; closure: the closure error;
    scale: σ; offset: the mean logit over the vocabulary; hint: a sentence about another token that may be
    meant
    """

    position_id: int
    toward: str
    label: str
    latex: str
    formula: str
    whole: Term
    closure: float
    scale: float
    offset: float
    architecture: Architecture
    hint: str = ""

    @abstractmethod
    def terms_of(self, term: Term) -> tuple[Term, ...]:
        """Return the terms whose sum is the given term."""

    @abstractmethod
    def sql(self, term: Term) -> str:
        """Return the SQL query for the terms that sum to `term`; an empty text if they are not stored."""


@dataclass(eq=False)
class StoredLogit(Logit):
    """A stored logit or a difference of two stored logits; terms are read from the store and cached.

    at: the position's row, as `Store.position` returns it; toward, minus: `next` or `top`; minus may be None
    """

    session: Session
    at: pd.Series
    toward: str
    minus: str | None = None
    _fetched: dict[Term, tuple[Term, ...]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        at, self.position_id = self.at, int(self.at.position_id)
        self.sides = [self.toward, *([] if self.minus is None else [self.minus])]
        for side in self.sides:
            one_of("toward", side, TOWARD)
            if pd.isna(at[f"{side}_token_id"]):
                raise BadQuestion(
                    f"Position {self.position_id} has no next token in its window: "
                    "ask for the terms toward 'top', the model's top prediction."
                )
        ids = [int(at[f"{side}_token_id"]) for side in self.sides]
        self.label, self.latex = logit_of(*([str(at[f"{side}_token"])] for side in self.sides))
        self.formula = " - ".join(f"W_U[:, {token_id}]" for token_id in ids)
        if self.minus is not None:
            self.formula += f", b_U[t] = {' - '.join(f'b_U[{token_id}]' for token_id in ids)}"
        self.closure, self.scale = self._difference("closure_{}"), float(at.final_scale)
        self.offset = float(at.logit_offset)
        self.architecture = Architecture.of(self.session.model_of(int(at.run_id)))
        self.whole = Term("logit", self._difference("{}_logit"))

    def _difference(self, column: str) -> float:
        plus, *minus = (float(self.at[column.format(side)]) for side in self.sides)
        return plus - sum(minus)

    def terms_of(self, term: Term) -> tuple[Term, ...]:
        if term not in self._fetched:
            self._fetched[term] = tuple(
                Term(**row, architecture=self.architecture) for row in self.question(term).rows()
            )
        return self._fetched[term]

    def sql(self, term: Term) -> str:
        return self.question(term).sql

    def question(self, term: Term) -> Question:
        """Return the query (`Question`) for the terms that sum to the given term."""
        values = {"position_id": self.position_id, **vars(term)}
        columns = [f"toward_{side}" for side in self.sides]
        # If a difference of two logits is decomposed, the bound of a term is the sum of its bounds for both
        # logits.
        pieces = {"toward": f"({' - '.join(columns)})", "bound": f"({' + '.join(columns)})"}
        pieces["sides"] = str(len(columns))
        return Question(self.session, f"terms_of_{term.component}", parameters=values, pieces=pieces)


class Written(NamedTuple):
    """A line of output: a term's label, and the text before and after the label. Some lines have no term."""

    before: str
    label: str
    after: str
    term: Term | None


@dataclass(frozen=True)
class Expression:
    """A logit as a sum of terms. It is immutable: methods that change its terms return a new expression."""

    prediction: Logit
    opened: frozenset[Term] = frozenset()
    dropped: frozenset[Term] = frozenset()

    @property
    def logit(self) -> float:
        """The centred logit (or difference of logits) that is decomposed."""
        return self.prediction.whole.value

    @property
    def closure(self) -> float:
        """The closure error: the sum of all components minus the logit."""
        return self.prediction.closure

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms of the sum; the remainder from `drop_below`, if there is one, is the last."""
        return tuple(self._gathering(self._leaves(self.prediction.whole)))

    def sum(self) -> float:
        """Return the sum of the terms' values in float64."""
        return math.fsum(term.value for term in self.terms)

    @property
    def frame(self) -> pd.DataFrame:
        """A DataFrame with one row per term; `attrs["sql"]` is the query that returns the terms."""
        rows = [{"name": term.name, **asdict(term)} for term in self.terms]
        frame = pd.DataFrame(rows).drop(columns=["terms", "architecture"]).convert_dtypes()
        describe(frame, self.sql)
        return frame

    @property
    def sql(self) -> str:
        """One SQL query for all terms, regardless of `drop_below`; empty if a model computed the terms."""
        return "\nUNION ALL BY NAME\n".join(self._queries(self.prediction.whole))

    def expand(self, *parts: Term | str) -> "Expression":
        """Return a new expression in which each of the given parts is replaced by its own terms.

        parts: terms, or the names of layers (`L3`), attention (`L3attn`), MLPs (`L3mlp`) or heads (`L3H2`).
        The terms that contain a part are expanded, too. If `drop_below` had combined one of these terms into
        a remainder, the term is separate again. A given remainder is replaced by the terms that it combines.

        Raises:
            BadQuestion: a part has no terms of its own, or its name is not valid.
            NoSuchUnit: the model has no such layer or head.
        """
        opened, dropped = self.opened, self.dropped
        for part in parts:
            if isinstance(part, Term) and part.terms:
                dropped -= {*part.terms}
            else:
                path = {*self._path(part)}
                opened, dropped = opened | path, dropped - path
        return replace(self, opened=opened, dropped=dropped)

    def collapse(self, part: Term | str) -> "Expression":
        """Return a new expression in which this layer, attention, MLP or head is a single term again."""
        whole = self._path(part)[-1]
        return replace(self, opened=frozenset(term for term in self.opened if whole not in self._path(term)))

    def drop_below(self, smallest: float) -> "Expression":
        """Return a new expression with the terms of |value| < `smallest` logits combined into a remainder."""
        if not smallest >= 0:
            raise BadQuestion(
                f"Terms cannot be smaller than {smallest}: give a number of logits that is 0 or more."
            )
        small = {term for term in self.terms if abs(term.value) < smallest and not term.terms}
        return replace(self, dropped=self.dropped | small)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the innermost expanded terms, which contain no other expanded term."""
        around = {outer for term in self.opened for outer in self._path(term)[:-1]}
        return tuple(sorted(term.name for term in self.opened - around))

    # Output

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        p, n = self.prediction, len(self.terms)
        return f"<logit {self.logit:+.3f} toward {p.toward} at position {p.position_id}: a sum of {n} terms>"

    def _repr_html_(self) -> str:
        lines = self.tree_lines()
        return display.tree((x.before, x.label + x.after, x.term.value if x.term else None) for x in lines)

    def _repr_latex_(self) -> str:
        return self.latex()

    def text(self, width: int = WIDTH) -> str:
        """Return the equation as text, one term per line; notes are cut so that no line exceeds `width`."""
        return _joined(self.text_lines(width))

    def tree(self, width: int = WIDTH) -> str:
        """Return the terms as a tree, drawn as the command `tree` draws folders."""
        return _joined(self.tree_lines(width))

    def text_lines(self, width: int = WIDTH) -> list[Written]:
        """Return the lines of the equation, which the method `text` joins into one text."""
        p = self.prediction
        rows = [(LEADS[lead][0], term.symbol, _about(term), term) for lead, term in self._led()]
        *lines, last = _aligned([*rows, (LEADS["equals"][0], "", "", p.whole)], width)
        ends = [
            f"u = {p.formula}, σ = {p.scale:.4g}; direct effects in logits, 1/σ in each value",
            *(text for text, _ in self._definitions()),
            self._closes(),
        ]
        return [_line(f"{p.label} ="), *lines, last._replace(term=None), *map(_line, ends)]

    def tree_lines(self, width: int = WIDTH) -> list[Written]:
        """Return the lines of the tree, which the method `tree` joins into one text."""
        whole = self.prediction.whole
        first, *lines = _aligned([("", self.prediction.label, "", whole), *self._branches(whole, "")], width)
        return [first._replace(term=None), *lines]

    def latex(self) -> str:
        """Return a LaTeX environment `align*` (amsmath) with the formula, value and name of each term.

        Tokens with characters beyond ASCII need a TeX engine that reads Unicode, such as lualatex.
        """
        rows = [_row(LEADS[lead][1] + term.latex, term.value, _about(term)) for lead, term in self._led()]
        rows[0] = f"{self.prediction.latex} ={{}}{rows[0]}"
        rows.append(LEADS["equals"][1] + _row("", self.logit, self._closes()))
        rows += [rf" & {latex} & &" for _, latex in self._definitions()]
        return "\\begin{align*}\n" + " \\\\\n".join(rows) + "\n\\end{align*}"

    def _definitions(self) -> list[tuple[str, str]]:
        """Return definitions of model-specific symbols in the terms' formulas, each as text and as LaTeX."""
        components = {term.component for term in self.terms}
        return self.prediction.architecture.definitions(components, self.prediction.offset)

    def _led(self) -> list[tuple[str, Term]]:
        """Return (key, term) pairs; LEADS[key] is the string that is printed before the term."""
        terms = self.terms
        scaled = sum(term.component not in UNSCALED for term in terms)
        leads = {0: "open", scaled: "close"} if scaled else {0: "alone"}
        return [(leads.get(i, "plus"), term) for i, term in enumerate(terms)]

    def _closes(self) -> str:
        return f"sum - logit: {self.sum() - self.logit:+.0e} (closure as stored: {self.closure:+.0e})"

    # Expanded terms

    def _gathering(self, terms: Iterable[Term]) -> Iterator[Term]:
        """Yield the terms that were not dropped, and then one remainder that combines the dropped terms."""
        small = []
        for term in terms:
            if term in self.dropped:
                small.append(term)
            else:
                yield term
        if small:
            yield gathered(small)

    def _leaves(self, of: Term) -> Iterator[Term]:
        for term in self.prediction.terms_of(of):
            if term in self.opened:
                yield from self._leaves(term)
            else:
                yield term

    def _branches(self, of: Term, lead: str) -> Iterator[tuple[str, str, str, Term]]:
        terms = [*self._gathering(self.prediction.terms_of(of))]
        for term in terms:
            last = term is terms[-1]
            yield lead + ("└── " if last else "├── "), term.name, term.note, term
            if term in self.opened:
                yield from self._branches(term, lead + ("    " if last else "│   "))

    def _queries(self, of: Term) -> Iterator[str]:
        opened = [term for term in self.prediction.terms_of(of) if term in self.opened]
        left_out = " AND ".join(f"NOT ({_condition(term)})" for term in opened)
        if query := self.prediction.sql(of):
            yield f"FROM (\n{query}\n)" + (f" WHERE {left_out}" if opened else "")
        for term in opened:
            yield from self._queries(term)

    def _named(self, part: Term | str) -> tuple[str, int | None, int | None]:
        if isinstance(part, str):
            return parse_part(part)
        if part.component not in PATHS:
            raise BadQuestion(f"{part.name} has no smaller terms: expand a layer or a head.")
        return part.component, part.layer, part.head

    def _path(self, part: Term | str) -> list[Term]:
        """Return the chain of terms from the outermost to `part`, such as L3, L3attn and L3H2 for L3H2."""
        component, layer, head = self._named(part)
        path, term = [], self.prediction.whole
        for step in PATHS[component]:
            there = [other for other in self.prediction.terms_of(term) if other.component == step]
            found = [other for other in there if other.layer == layer and other.head in (None, head)]
            if not found:
                names = f"{there[0].name} to {there[-1].name}"
                raise NoSuchUnit(f"There is no {part_name(step, layer or 0, head)} here, only {names}.")
            (term,) = found
            path.append(term)
        return path


def logit_of(*sides: Sequence[str]) -> tuple[str, str]:
    r"""Return the name of a logit or of a difference of logits, as text and as LaTeX.

    A side with several tokens is the mean of their logits.

    >>> print(*logit_of([" Mary"], [" he", " she"]), sep="\n")
    logit(" Mary") - mean logit(" he", " she")
    \operatorname{logit}(\text{" Mary"}) - \operatorname{mean\,logit}(\text{" he", " she"})
    """
    texts, formulas = [], []
    for tokens in sides:
        name = ", ".join(map(quoted, tokens))
        mean, mean_latex = ("mean ", r"mean\,") if len(tokens) > 1 else ("", "")
        texts.append(f"{mean}logit({name})")
        formulas.append(rf"\operatorname{{{mean_latex}logit}}(\text{{{escaped(name)}}})")
    return " - ".join(texts), " - ".join(formulas)


def quoted(token: str) -> str:
    """Return a token in quotes; control characters are escaped, and a very long token is cut.

    >>> quoted(" Ireland"), quoted("a\\n\\u202e")
    ('" Ireland"', '"a\\\\n\\\\u202e"')
    """
    return f'"{_cut("".join(c if c.isprintable() else ascii(c)[1:-1] for c in token), LONGEST)}"'


def escaped(text: str) -> str:
    r"""Return text escaped for LaTeX's \text{…}.

    >>> escaped("$5_a")
    '\\$5\\_a'
    """
    return re.sub(" {2,}", lambda spaces: r"\ " * len(spaces[0]), text.translate(LATEX))


def _about(term: Term) -> str:
    return ", ".join(filter(None, (term.name, term.note)))


def _condition(term: Term) -> str:
    values = {"layer": term.layer, "head": term.head}
    given = [f"{name} = {value}" for name, value in values.items() if value is not None]
    return " AND ".join([f"component = '{term.component}'", *given])


def _row(formula: str, value: float, about: str) -> str:
    """Return one row of a LaTeX `align*` environment, whose columns are aligned right, left, right, left."""
    return rf" & {formula} & {value:+.4f} & \quad\text{{{escaped(about)}}}"


def _line(text: str) -> Written:
    return Written(text, "", "", None)


def _aligned(rows: list[tuple[str, str, str, Term]], width: int) -> list[Written]:
    """Format rows (text before the label, label, note, term) as lines in which the values are aligned."""
    room = max(len(before) + cell_len(label) for before, label, _, _ in rows)
    values = [f"{term.value:+.4f}" for *_, term in rows]
    digits = max(map(len, values))
    lines = []
    for (before, label, note, term), value in zip(rows, values, strict=True):
        after = f"{'':{room - len(before) - cell_len(label)}}  {value:>{digits}}"
        left = width - room - digits - 4
        lines.append(Written(before, label, f"{after}  {_cut(note, left)}".rstrip(), term))
    return lines


def _cut(text: str, width: int) -> str:
    """Return the text, cut at the end if it is wider than `width` columns of a terminal."""
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) >= width:
        text = text[:-1]
    return f"{text}…" if text else ""


def _joined(lines: list[Written]) -> str:
    return "\n".join(f"{line.before}{line.label}{line.after}" for line in lines)
