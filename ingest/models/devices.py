"""Check the device and the precision with which a model runs."""

import torch

from annotate_transformer.ingest.errors import SettingsError


def check_device(name: str) -> str:
    """Check that a device can be used, and return its name; `auto` is the GPU if there is one, else the CPU.

    Raises:
        SettingsError: torch cannot use this device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=name).sum().item()
    except (RuntimeError, AssertionError) as error:  # also NotImplementedError, a kind of RuntimeError
        raise SettingsError(f"Device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return name


def check_dtype(name: str) -> torch.dtype:
    """Check that the dtype with this name is supported, and return it.

    Raises:
        SettingsError: the name is neither float32 nor float64; half precision overflows in Pythia, where
            |b_K| is near 300.
    """
    if name not in ("float32", "float64"):
        raise SettingsError(
            f"--dtype {name} is not supported. Give float32 or float64 (half precision is too inexact)."
        )
    return {"float32": torch.float32, "float64": torch.float64}[name]
