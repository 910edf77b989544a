"""The device and the precision that a model runs with."""

import torch

from annotate_transformer.ingest.errors import SettingsError


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
