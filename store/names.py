"""How heads and neurons are written for people: L3H2, L3N1024. The only place that does it."""

import re

from store.errors import NoSuchUnit


def unit_name(letter: str, layer: int, number: int) -> str:
    """
    >>> unit_name("N", 3, 1024)
    'L3N1024'
    """
    return f"L{layer}{letter}{number}"


def head_name(layer: int, head: int) -> str:
    """
    >>> head_name(3, 2)
    'L3H2'
    """
    return unit_name("H", layer, head)


def neuron_name(layer: int, neuron: int) -> str:
    """
    >>> neuron_name(3, 1024)
    'L3N1024'
    """
    return unit_name("N", layer, neuron)


def parse(name: str) -> tuple[str, int, int]:
    """(`N` or `H`, layer, unit).

    >>> parse("L3N1024"), parse("l3h2")
    (('N', 3, 1024), ('H', 3, 2))

    Raises:
        NoSuchUnit: the name is of neither form.
    """
    found = re.fullmatch(r"\s*[Ll](\d+)([HhNn])(\d+)\s*", name)
    if not found:
        raise NoSuchUnit(f"{name!r} names neither a neuron nor a head: write L3N7 or L1H2, counted from 0.")
    return found[2].upper(), int(found[1]), int(found[3])
