"""Fixtures that several files share."""

from pathlib import Path

import pytest

import small


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a GPT-NeoX so small that it is loaded and run in a moment."""
    return small.model(tmp_path_factory.mktemp("model") / "tiny")
