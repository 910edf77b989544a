"""Build and parse names of heads (L3H2), neurons (L3N1024), layers (L3), attention (L3attn) and MLPs (L3mlp).

No other module builds or parses such names.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from annotate_transformer.store.errors import BadQuestion, NoSuchUnit

KINDS = {"N": "neuron", "H": "head"}  # letter in a name → kind of unit
LETTERS = {kind: letter for letter, kind in KINDS.items()}
WITHOUT_LAYER = ("embed", "pos_embed", "final_bias", "b_in", "b_gate", "b_Q", "b_K")


def unit_name(letter: str, layer: int, number: int) -> str:
    """Return the name of a neuron (letter `N`) or of a head (letter `H`).

    >>> unit_name("N", 3, 1024)
    'L3N1024'
    """
    return f"L{layer}{letter}{number}"


def head_name(layer: int, head: int) -> str:
    """Return the name of a head.

    >>> head_name(3, 2)
    'L3H2'
    """
    return unit_name("H", layer, head)


def neuron_name(layer: int, neuron: int) -> str:
    """Return the name of a neuron.

    >>> neuron_name(3, 1024)
    'L3N1024'
    """
    return unit_name("N", layer, neuron)


def source_name(row: Mapping[str, Any]) -> str:
    """Return the name of the component in a row of the view `neuron_reads` or `neuron_inputs`.

    >>> source_name({"component": "head", "source_layer": 2, "source_head": 1, "source_neuron": None})
    'L2H1'
    >>> [source_name({"component": c, "source_layer": 1}) for c in ("mlp", "mlp_bias", "b_in")]
    ['L1mlp', 'L1mlp_bias', 'b_in']
    """
    component = str(row["component"])
    if component in ("head", "neuron"):
        return unit_name(component[0].upper(), int(row["source_layer"]), int(row[f"source_{component}"]))
    return component_name(component, row["source_layer"])


def component_name(component: str, layer: float | None) -> str:
    """Return the name of a component, with the layer if the component has one.

    >>> component_name("mlp", 3), component_name("attn_bias", 2), component_name("embed", None)
    ('L3mlp', 'L2attn_bias', 'embed')
    """
    return component if component in WITHOUT_LAYER or layer is None else part_name(component, int(layer))


def parse(name: str) -> tuple[str, int, int]:
    """Parse the name of a neuron or head into its letter (`N` or `H`), layer and index in the layer.

    >>> parse("L3N1024"), parse("l3h2")
    (('N', 3, 1024), ('H', 3, 2))

    Raises:
        NoSuchUnit: the name has neither form.
    """
    found = re.fullmatch(r"\s*[Ll](\d+)([HhNn])(\d+)\s*", name, re.ASCII)
    if not found:
        raise NoSuchUnit(f"{name!r} names neither a neuron nor a head: write L3N7 or L1H2, counted from 0.")
    return found[2].upper(), int(found[1]), int(found[3])


def part_name(component: str, layer: int, head: int | None = None) -> str:
    """Return the name of a layer, of a layer's attention or MLP, or of a head.

    >>> part_name("layer", 3), part_name("attn", 3), part_name("head", 3, 2)
    ('L3', 'L3attn', 'L3H2')
    """
    return f"L{layer}" + {"layer": "", "head": f"H{head}"}.get(component, component)


def parse_ablated(name: str) -> list[tuple[str, int, int | None]]:
    """Parse names joined by +, such as L3H2+L0mlp, into (kind, layer, index); attn and mlp have index None.

    >>> parse_ablated("L3H2+l0mlp"), parse_ablated("L1N7")
    ([('head', 3, 2), ('mlp', 0, None)], [('neuron', 1, 7)])

    Raises:
        BadQuestion: a name has none of these forms.
    """
    found = []
    for part in name.split("+"):
        match = re.fullmatch(r"\s*L(\d+)(?:(attn|mlp)|([HN])(\d+))\s*", part, re.IGNORECASE | re.ASCII)
        if not match:
            raise BadQuestion(
                f"{part.strip()!r} cannot be ablated: write L3H2 for a head, L3N7 for a neuron, L3attn or "
                "L3mlp for all heads or neurons of a layer, and + between units that are ablated together."
            )
        layer, whole, letter, number = match.groups()
        kind = whole.lower() if whole else KINDS[letter.upper()]
        found.append((kind, int(layer), int(number) if number else None))
    return found


def ablated_name(parts: Iterable[tuple[str, int, int | None]]) -> str:
    """Return the name of units that are ablated together: their names, sorted and unique, joined by +.

    >>> ablated_name([("mlp", 3, None), ("head", 0, 2), ("head", 0, 2)])
    'L0H2+L3mlp'
    """
    ordered = sorted({*parts}, key=lambda part: (part[1], part[0], part[2] or 0))
    return "+".join(
        f"L{layer}{kind}" if number is None else unit_name(LETTERS[kind], layer, number)
        for kind, layer, number in ordered
    )


def parse_part(name: str) -> tuple[str, int, int | None]:
    """Parse the name of a layer, attention, MLP or head into (kind, layer, head or None).

    >>> parse_part("L3"), parse_part("l3mlp"), parse_part("L3H2")
    (('layer', 3, None), ('mlp', 3, None), ('head', 3, 2))

    Raises:
        BadQuestion: the name has none of these forms.
    """
    found = re.fullmatch(r"\s*L(\d+)(?:(attn|mlp)|H(\d+))?\s*", name, re.IGNORECASE | re.ASCII)
    if not found:
        raise BadQuestion(
            f"{name!r} cannot be expanded: write L3 for a layer, L3attn or L3mlp for its "
            "attention or MLP, L3H2 for a head, counted from 0."
        )
    layer, within, head = found.groups()
    component = within.lower() if within else "head" if head else "layer"
    return component, int(layer), int(head) if head else None
