"""A prediction as an expression: terms that sum to its logit, each opened on request.

>>> import annotate_transformer as at
>>> expression = at.open("demo.duckdb").expression(1234)  # doctest: +SKIP
>>> print(expression.expand("L3H2").drop_below(0.1))  # doctest: +SKIP

The decomposition is that of Elhage et al. (2021), "A Mathematical Framework for Transformer Circuits",
with the final LayerNorm's scale σ frozen (docs/concepts.md). The symbols are those of that
paper, the letters and their indices [layer, head or neuron] TransformerLens's, whose weights, processed
(LayerNorm folded, W_U centred), they are. u is W_U[:, t], the column of the token t whose logit it is;
p is the position, q one it attends to.

    term          text                                            what it is
    embedding     ⟨x[0], u⟩                                       the stream before the first layer
    layer         ⟨x[l+1] - x[l], u⟩                              what layer l adds: attention and MLP
    attention     ⟨attn[l], u⟩                                    its heads and b_O
    head          ⟨z[l,h] W_O[l,h], u⟩                            its sources
    source        A[l,h,p,q]⟨v[l,h,q] W_O[l,h], u⟩                from one position
    sources' rest Σ A[l,h,p,q]⟨v[l,h,q] W_O[l,h], u⟩              the sources that were not kept
    b_O           ⟨b_O[l], u⟩                                     attention bias, value biases folded in
    MLP           ⟨mlp[l], u⟩                                     its neurons and b_out
    neuron        a[l,n]⟨W_out[l,n], u⟩                           a: activation after GELU (hook_post)
    neurons' rest Σ a[l,n]⟨W_out[l,n], u⟩                         the neurons that were not kept
    b_out         ⟨b_out[l], u⟩                                   MLP bias
    b_U           b_U[t]                                          not divided by σ
    remainder     r                                               what `drop_below` gathered

All but the last two are within (1/σ)[…]; every value is in logits, its 1/σ included, and is a direct
effect. The values sum to the centred logit but for the stored closure error and the float32 of what is
stored (together within schema.sql's closure_bound), whatever was expanded or gathered. After a rest or
remainder stands how many terms are in it and what none of them exceeds in absolute value, as in "498
within ±1.38": of neurons their mlp_remainder_abs, of sources positions.source_bound, of a remainder the sum of
|value| (or bound, where that is larger) of what it gathered.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from string import Template
from typing import TYPE_CHECKING, Any, NamedTuple
from unicodedata import east_asian_width

import pandas as pd

from annotate_transformer.store.errors import BadQuestion, NoSuchUnit, one_of
from annotate_transformer.store.names import head_name, neuron_name, parse_part, part_name
from annotate_transformer.store.queries import statement

if TYPE_CHECKING:
    from annotate_transformer.store.reader import Store

WIDTH = 80  # characters of a line
LONGEST = 32  # of a token
TOWARD = ("next", "top")
PATHS = {  # what has terms of its own, and what is expanded on the way to it
    "layer": ("layer",),
    "attn": ("layer", "attn"),
    "mlp": ("layer", "mlp"),
    "head": ("layer", "attn", "head"),
}
SYMBOLS = {  # component: as text, as LaTeX; $i: layer and unit, $q: a source's place
    "embed": ("⟨x[0], u⟩", r"\langle x_0, u\rangle"),
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
UNSCALED = ("final_bias", "gathered")  # outside (1/σ)[…]
LEADS = {  # what stands before a term: as text, as LaTeX
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
class Term:
    """One summand of a logit; what is None says nothing about it.

    value: direct effect, logits
    distance: how many tokens before the position a head's source is; source_token: which token is there
    activation: a neuron's, after GELU; attention: a source's, a probability
    count: how many terms a remainder gathers; bound: none of them exceeds it in absolute value, logits
    terms: those that `drop_below` gathered in this one

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

    @property
    def symbol(self) -> str:
        """As text, on one line."""
        return self._indexed(SYMBOLS[self.component][0])

    @property
    def latex(self) -> str:
        """As LaTeX, for math mode."""
        return self._indexed(SYMBOLS[self.component][1])

    def _indexed(self, symbol: str) -> str:
        indices = (index for index in (self.layer, self.head, self.neuron) if index is not None)
        q = f"p-{self.distance}" if self.distance else "p"
        return Template(symbol).substitute(i=",".join(map(str, indices)), next=(self.layer or 0) + 1, q=q)

    @property
    def name(self) -> str:
        """What people call it; `Expression.expand` takes a layer's, attention's, MLP's or head's.

        >>> Term("attn", 0.2, layer=3).name, Term("neuron", 0.1, layer=3, neuron=7).name
        ('L3attn', 'L3N7')
        """
        layer, head = self.layer or 0, self.head or 0
        if self.component in PATHS:
            return part_name(self.component, layer, head)
        names = {
            "embed": "embedding",
            "source": f"{head_name(layer, head)} from p-{self.distance}".removesuffix("-0"),
            "source_remainder": f"{head_name(layer, head)} other sources",
            "attn_bias": f"L{layer} attention bias",
            "neuron": neuron_name(layer, self.neuron or 0),
            "mlp_remainder": f"L{layer} other neurons",
            "mlp_bias": f"L{layer} MLP bias",
            "final_bias": "bias",
            "gathered": "remainder",
        }
        return names[self.component]

    @property
    def note(self) -> str:
        """What else is known of it, for people.

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
            return "rounding of those kept"
        return f"{self.count:,} within ±{self.bound:.3g}"


def gathered(terms: list[Term]) -> Term:
    """Terms as one remainder: exactly their sum, and bounded by the sum of their absolute values."""
    largest = (max(abs(term.value), term.bound or 0) for term in terms)
    return Term(
        "gathered",
        math.fsum(term.value for term in terms),
        count=len(terms),
        bound=math.fsum(largest),
        terms=tuple(terms),
    )


@dataclass(eq=False)
class Prediction:
    """Whose logit it is, and its terms once fetched: what an expression and those made of it share."""

    store: "Store"
    position_id: int
    toward: str
    _kept: dict[Term, tuple[Term, ...]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        one_of("toward", self.toward, TOWARD)
        at = self.store.position(self.position_id)
        if pd.isna(at[f"{self.toward}_token_id"]):
            raise BadQuestion(
                f"Nothing follows position {self.position_id} in its window: "
                "ask for the terms toward 'top', the model's first choice."
            )
        self.token, self.token_id = str(at[f"{self.toward}_token"]), int(at[f"{self.toward}_token_id"])
        self.closure, self.scale = float(at[f"closure_{self.toward}"]), float(at.final_scale)
        self.whole = Term("logit", float(at[f"{self.toward}_logit"]))

    @property
    def label(self) -> str:
        """As it is written at the left."""
        return f"logit({quoted(self.token)})"

    def terms_of(self, term: Term) -> tuple[Term, ...]:
        """What a term is the sum of."""
        if term not in self._kept:
            with self.store._open() as con:
                found = con.execute(*self._question(term))
                names = [name for name, *_ in found.description or ()]
                rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
            self._kept[term] = tuple(Term(**row) for row in rows)
        return self._kept[term]

    def sql(self, term: Term) -> str:
        """The query that fetched them, to be run as it stands."""
        return statement(*self._question(term))

    def _question(self, term: Term) -> tuple[str, dict[str, Any]]:
        query = self.store.query(f"terms_of_{term.component}").replace("{toward}", f"toward_{self.toward}")
        values = {"position_id": self.position_id, **vars(term)}
        return query, {name: value for name, value in values.items() if f"${name}" in query}


class Written(NamedTuple):
    """A line: its term's label stands between what leads to it and its value; `term` is None at the ends."""

    before: str
    label: str
    after: str
    term: Term | None


@dataclass(frozen=True)
class Expression:
    """A logit as a sum of terms. Nothing changes it: what changes a term gives another expression."""

    prediction: Prediction
    opened: frozenset[Term] = frozenset()
    dropped: frozenset[Term] = frozenset()

    @property
    def logit(self) -> float:
        """The centred logit, as stored."""
        return self.prediction.whole.value

    @property
    def closure(self) -> float:
        """Sum of the stored components minus that logit, as stored."""
        return self.prediction.closure

    @property
    def terms(self) -> tuple[Term, ...]:
        """The summands; what was gathered is one of them, the last."""
        return tuple(self._gathering(self._leaves(self.prediction.whole)))

    def sum(self) -> float:
        """Of the terms' values, in float64."""
        return math.fsum(term.value for term in self.terms)

    @property
    def frame(self) -> pd.DataFrame:
        """The terms, a row each; `attrs["sql"]` is their query."""
        rows = [{"name": term.name, **asdict(term)} for term in self.terms]
        frame = pd.DataFrame(rows).drop(columns="terms").convert_dtypes()
        frame.attrs = {"exact": True, "sql": self.sql}
        return frame

    @property
    def sql(self) -> str:
        """One query for the terms, before any are gathered."""
        return "\nUNION ALL BY NAME\n".join(self._queries(self.prediction.whole))

    def expand(self, *parts: Term | str) -> "Expression":
        """Each of these as the sum of its own terms; what was gathered of them comes back.

        parts: terms, or names: a layer (`L3`), its attention (`L3attn`) or MLP (`L3mlp`), a head (`L3H2`).
        What they are within is expanded too.

        Raises:
            BadQuestion: it has no terms of its own, or is not named like this.
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
        """The part as one term again."""
        whole = self._path(part)[-1]
        return replace(self, opened=frozenset(term for term in self.opened if whole not in self._path(term)))

    def drop_below(self, smallest: float) -> "Expression":
        """Every term of less than so many logits, in absolute value, gathered into one remainder."""
        if not smallest >= 0:
            raise BadQuestion(f"Terms cannot be smaller than {smallest}: give a number of logits from 0 on.")
        small = {term for term in self.terms if abs(term.value) < smallest and not term.terms}
        return replace(self, dropped=self.dropped | small)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names that, expanded, give this expression again, but for what was gathered."""
        around = {outer for term in self.opened for outer in self._path(term)[:-1]}
        return tuple(sorted(term.name for term in self.opened - around))

    # How it is written

    def __str__(self) -> str:
        return self.text()

    def _repr_latex_(self) -> str:
        return self.latex()

    def text(self, width: int = WIDTH) -> str:
        """The equation, a term a line; what else is known of a term is cut at the width."""
        return _joined(self.text_lines(width))

    def tree(self, width: int = WIDTH) -> str:
        """Every part under what it is part of, as `tree` prints folders."""
        return _joined(self.tree_lines(width))

    def text_lines(self, width: int = WIDTH) -> list[Written]:
        """The lines of `text`."""
        p = self.prediction
        rows = [(LEADS[lead][0], term.symbol, _about(term), term) for lead, term in self._led()]
        *lines, last = _aligned([*rows, (LEADS["equals"][0], "", "", p.whole)], width)
        ends = [
            f"u = W_U[:, {p.token_id}], σ = {p.scale:.4g}; direct effects in logits, 1/σ in each value",
            self._closes(),
        ]
        return [_line(f"{p.label} ="), *lines, last._replace(term=None), *map(_line, ends)]

    def tree_lines(self, width: int = WIDTH) -> list[Written]:
        """The lines of `tree`."""
        whole = self.prediction.whole
        first, *lines = _aligned([("", self.prediction.label, "", whole), *self._branches(whole, "")], width)
        return [first._replace(term=None), *lines]

    def latex(self) -> str:
        """An `align*` (amsmath): symbol, value and name of each term.

        Tokens beyond ASCII need an engine that reads Unicode, such as lualatex.
        """
        rows = [_row(LEADS[lead][1] + term.latex, term.value, _about(term)) for lead, term in self._led()]
        rows[0] = rf"\operatorname{{logit}}(\text{{{escaped(quoted(self.prediction.token))}}}) ={{}}{rows[0]}"
        rows.append(LEADS["equals"][1] + _row("", self.logit, self._closes()))
        return "\\begin{align*}\n" + " \\\\\n".join(rows) + "\n\\end{align*}"

    def _led(self) -> list[tuple[str, Term]]:
        """The terms, and what stands before each: those within (1/σ)[…] come first."""
        terms = self.terms
        scaled = sum(term.component not in UNSCALED for term in terms)
        leads = {0: "open", scaled: "close"} if scaled else {0: "alone"}
        return [(leads.get(i, "plus"), term) for i, term in enumerate(terms)]

    def _closes(self) -> str:
        return f"sum - logit: {self.sum() - self.logit:+.0e} (closure as stored: {self.closure:+.0e})"

    # What is open

    def _gathering(self, terms: Iterable[Term]) -> Iterator[Term]:
        """The terms, those that were dropped as one, the last."""
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
        yield f"FROM (\n{self.prediction.sql(of)}\n)" + (f" WHERE {left_out}" if opened else "")
        for term in opened:
            yield from self._queries(term)

    def _named(self, part: Term | str) -> tuple[str, int | None, int | None]:
        if isinstance(part, str):
            return parse_part(part)
        if part.component not in PATHS:
            raise BadQuestion(f"{part.name} is not made of smaller terms: expand a layer or a head.")
        return part.component, part.layer, part.head

    def _path(self, part: Term | str) -> list[Term]:
        """What a part is within, from outside, and the part."""
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


def quoted(token: str) -> str:
    """A token in quotes, its control characters written out; the end of a very long one is left out.

    >>> quoted(" Ireland"), quoted("a\\n\\u202e")
    ('" Ireland"', '"a\\\\n\\\\u202e"')
    """
    return f'"{_cut("".join(c if c.isprintable() else ascii(c)[1:-1] for c in token), LONGEST)}"'


def escaped(text: str) -> str:
    r"""Text for LaTeX's \text{…}.

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
    """A line of `align*`: its columns are aligned right, left, right, left."""
    return rf" & {formula} & {value:+.4f} & \quad\text{{{escaped(about)}}}"


def _line(text: str) -> Written:
    return Written(text, "", "", None)


def _aligned(rows: list[tuple[str, str, str, Term]], width: int) -> list[Written]:
    """(what leads to it, label, note, term) with the values under one another."""
    room = max(len(before) + len(label) for before, label, _, _ in rows)
    values = [f"{term.value:+.4f}" for *_, term in rows]
    digits = max(map(len, values))
    lines = []
    for (before, label, note, term), value in zip(rows, values, strict=True):
        after = f"{'':{room - len(before) - len(label)}}  {value:>{digits}}"
        left = width - room - digits - 4
        lines.append(Written(before, label, f"{after}  {_cut(note, left)}".rstrip(), term))
    return lines


def _cut(text: str, width: int) -> str:
    """As much of a text as is shown in so many columns, of which some characters take two."""
    if _columns(text) <= width:
        return text
    while text and _columns(text) >= width:
        text = text[:-1]
    return f"{text}…" if text else ""


def _columns(text: str) -> int:
    return sum(1 + (east_asian_width(character) in "WF") for character in text)


def _joined(lines: list[Written]) -> str:
    return "\n".join(f"{line.before}{line.label}{line.after}" for line in lines)
