"""Fixtures that several files share."""

import os
from pathlib import Path

import pytest

import small

# Several processes share the cores here: idle OpenMP threads that spin would starve the others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a GPT-NeoX so small that it is loaded and run in a moment."""
    return small.model(tmp_path_factory.mktemp("model") / "tiny")
