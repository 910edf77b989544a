"""How heads and neurons are written for people: L3H2, L3N1024. The only place that does it."""


def head_name(layer: int, head: int) -> str:
    """
    >>> head_name(3, 2)
    'L3H2'
    """
    return f"L{layer}H{head}"


def neuron_name(layer: int, neuron: int) -> str:
    """
    >>> neuron_name(3, 1024)
    'L3N1024'
    """
    return f"L{layer}N{neuron}"
